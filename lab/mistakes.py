"""Kinds of questions that a model answers incorrectly, counted."""

from data import TASKS
from support.puzzles import kinds_of
from support.report import Answers
from support.runs import Run, read_metrics
from train import take_test


def mistakes_of(run: Run) -> Answers | None:
    """Return a run's answers to the test; None if they are known to be correct, or its code has changed."""
    metrics = read_metrics(run.folder)
    if run.changed or not metrics or metrics["test_exact_match"] == 1:
        return None
    answers = take_test(run.config, run.model, metrics["test_sequences"])
    return answers if answers.wrong.any() else None


def by_kind(answers: Answers) -> list[dict]:
    """Count how often each kind occurs among the questions and the mistakes, in numbers and fractions."""
    rows, wrong, different = [], answers.wrong, answers.different_mistakes()
    for kind, values in kinds_of(TASKS[answers.config.task].kinds, answers.source).items():
        for value in values.unique().tolist():
            is_kind = values == value
            mistakes = int(is_kind[wrong].sum())
            rows.append({
                "kind": kind, "value": value, "questions": int(is_kind.sum()), "mistakes": mistakes,
                "different_mistakes": int(is_kind[different].sum()),
                "share_of_questions": is_kind.double().mean().item(),
                "share_of_mistakes": mistakes / max(1, int(wrong.sum())),
            })
    return rows


def table_of(run: Run) -> list[dict]:
    """Return by_kind of a run's mistakes, if there are any."""
    answers = mistakes_of(run)
    return by_kind(answers) if answers else []
