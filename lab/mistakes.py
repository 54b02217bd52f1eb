"""Categories of questions that a model answers incorrectly, counted."""

from data import TASKS
from support.puzzles import question_categories
from support.report import TestResults
from support.runs import Run, read_metrics
from train import run_test


def find_mistakes(run: Run) -> TestResults | None:
    """Return a run's answers to the test; None if they are known to be correct, or its code has changed."""
    metrics = read_metrics(run.folder)
    if run.code_change or not metrics or metrics["test_exact_match"] == 1:
        return None
    results = run_test(run.config, run.model, metrics["test_sequences"])
    return results if results.wrong.any() else None


def mistakes_by_category(results: TestResults) -> list[dict]:
    """Count each category among the questions and the mistakes, in numbers and fractions."""
    rows, wrong, distinct = [], results.wrong, results.distinct_mistakes()
    counted = TASKS[results.config.task].categories
    for category, values in question_categories(counted, results.source).items():
        for value in values.unique().tolist():
            belongs = values == value
            mistakes = int(belongs[wrong].sum())
            rows.append({
                "category": category, "value": value, "questions": int(belongs.sum()), "mistakes": mistakes,
                "distinct_mistakes": int(belongs[distinct].sum()),
                "fraction_of_questions": belongs.double().mean().item(),
                "fraction_of_mistakes": mistakes / max(1, int(wrong.sum())),
            })
    return rows


def make_mistake_table(run: Run) -> list[dict]:
    """Return mistakes_by_category of a run's mistakes, if there are any."""
    results = find_mistakes(run)
    return mistakes_by_category(results) if results else []
