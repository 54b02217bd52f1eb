"""Draw and describe the kinds of questions that a model answers incorrectly: benchmark.py --mistakes."""

import inspect
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data import TASKS
from lab.mistakes import by_kind, mistakes_of
from support.config import Config
from support.figure import new_figure, percent, picture_style, save_picture
from support.report import Answers
from support.runs import read_run, task_of

SMALLEST_EXCESS = 0.05                                      # excess fraction of mistakes worth reporting


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
    numbers = f"{config.name}; {wrong:,} of {asked:,} test sequences wrong"
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


def hardest_kinds(table: list[dict]) -> list[dict]:
    """Return the rows of by_kind with the largest excess: one for length, one per other property."""
    hardest = {}
    for row in table:
        hardest[row["kind"]] = max(hardest.get(row["kind"], row), row, key=excess)
    return list(hardest.values())


def mistakes_text(answers: Answers) -> str:
    """Describe which kinds of questions the model gets wrong, with three examples; at most 12 lines."""
    count, distinct = int(answers.wrong.sum()), len(answers.different_mistakes())
    rows = hardest_kinds(by_kind(answers))
    lines = {
        f"{answers.config.name}: {count:,} of {len(answers.wrong):,} wrong":
            [f"{row['kind']} {row['value']}" for row in rows],
        "    % of questions": [percent(row["share_of_questions"], 1) for row in rows],
        f"    % of mistakes ({distinct:,} distinct questions)":
            [percent(row["share_of_mistakes"], 1) for row in rows],
    }
    table = [f"{name:<44}" + "".join(f"{cell:>12}" for cell in cells) for name, cells in lines.items()]
    return "\n".join(table + answers.examples())


def draw_mistakes(folders: list[Path]) -> None:
    """Save mistakes.png in each of these runs' folders, unless the run made no mistakes in the test."""
    for folder in folders:
        run = read_run(folder, task_of(folder), folder.name)
        if answers := mistakes_of(run):
            print(mistakes_text(answers))
            with picture_style():
                save_picture(mistakes_picture(run.config, by_kind(answers)), folder / "mistakes.png")
        else:
            print(f"{run.config.name}: no mistakes")
