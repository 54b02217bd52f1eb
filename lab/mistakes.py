"""Kinds of questions that a model answers incorrectly, as a table, a text and a picture."""

import inspect

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data import TASKS
from support.config import Config, title_of
from support.figure import new_figure, percent
from support.puzzles import kinds_of
from support.report import Answers
from support.runs import Run, read_metrics
from train import take_test

SMALLEST_EXCESS = 0.05                                      # excess fraction of mistakes worth reporting


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


def excess(row: dict) -> float:
    """Return by how much a kind's share of the mistakes exceeds its share of the questions."""
    return row["share_of_mistakes"] - row["share_of_questions"]


def mistakes_sentence(table: list[dict]) -> str:
    """Name the kind with the largest excess of mistakes, if any is notable."""
    row, mistakes = max(table, key=excess), sum(row["mistakes"] for row in table if row["kind"] == "length")
    if excess(row) < SMALLEST_EXCESS:
        return f"{mistakes:,} mistakes, spread over all kinds of questions"
    of_questions, of_mistakes = percent(row["share_of_questions"], 1), percent(row["share_of_mistakes"], 1)
    whole = f"the {mistakes:,} mistakes" if mistakes > 1 else "the only mistake"
    return f"{row['kind']} {row['value']}: {of_questions} of the questions, but {of_mistakes} of {whole}"


def mistakes_picture(config: Config, table: list[dict]) -> Figure:
    """Plot which kinds of questions have more than their share of the mistakes; table comes from by_kind."""
    rows_of = {row["kind"]: [] for row in table}
    for row in table:
        rows_of[row["kind"]].append(row)
    wrong, asked = (sum(row[name] for row in rows_of["length"]) for name in ("mistakes", "questions"))
    numbers = f"{title_of(config.task, config.architecture)}; {wrong:,} of {asked:,} test sequences wrong"
    how = "Grey bars: percentage of questions. Blue bars: percentage of mistakes."
    if kinds := TASKS[config.task].kinds:
        how += "\n" + (inspect.getdoc(kinds) or "").split("\n")[0]
    figure = new_figure(2.5, mistakes_sentence(table), numbers, how)
    width_ratios = list(map(len, rows_of.values()))
    panels = figure.subplots(1, len(rows_of), sharey=True, squeeze=False, width_ratios=width_ratios).flat
    for axes, (kind, rows) in zip(panels, rows_of.items(), strict=True):
        for share, side, colour in ("questions", -0.2, "grid.color"), ("mistakes", 0.2, "lines.color"):
            heights = [100 * row[f"share_of_{share}"] for row in rows]
            axes.bar([row["value"] + side for row in rows], heights, 0.4, color=matplotlib.rcParams[colour])
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.set(xlabel=kind)
    figure.axes[0].set_ylabel("%")
    return figure
