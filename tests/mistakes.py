"""Draw and describe the categories of questions that a model answers incorrectly: benchmark.py --mistakes."""

import inspect
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data import TASKS
from lab.mistakes import find_mistakes, mistakes_by_category
from support.config import Config
from support.figure import new_figure, percent, picture_style, save_picture
from support.report import TestResults
from support.runs import read_run, task_from_folder

MIN_EXCESS = 0.05                                           # worth reporting


def mistake_excess(row: dict) -> float:
    """Return a category's fraction of the mistakes minus its fraction of the questions."""
    return row["fraction_of_mistakes"] - row["fraction_of_questions"]


def mistakes_title(table: list[dict]) -> str:
    """Name the category with the largest excess of mistakes, if any is notable."""
    row = max(table, key=mistake_excess)
    mistakes = sum(row["mistakes"] for row in table if row["category"] == "length")
    if mistake_excess(row) < MIN_EXCESS:
        return f"{mistakes:,} mistakes, spread over all categories of questions"
    of_questions = percent(row["fraction_of_questions"], 1)
    of_mistakes = percent(row["fraction_of_mistakes"], 1)
    whole = f"the {mistakes:,} mistakes" if mistakes > 1 else "the only mistake"
    return f"{row['category']} {row['value']}: {of_questions} of the questions, but {of_mistakes} of {whole}"


def draw_mistakes(config: Config, table: list[dict]) -> Figure:
    """Plot each category's fraction of the questions and of the mistakes; see mistakes_by_category."""
    rows_of = {row["category"]: [] for row in table}
    for row in table:
        rows_of[row["category"]].append(row)
    wrong, asked = (sum(row[name] for row in rows_of["length"]) for name in ("mistakes", "questions"))
    subtitle = f"{config.name}; {wrong:,} of {asked:,} test sequences wrong"
    caption = "Grey bars: percentage of questions. Blue bars: percentage of mistakes."
    if categories := TASKS[config.task].categories:
        caption += "\n" + (inspect.getdoc(categories) or "").split("\n")[0]
    figure = new_figure(2.5, mistakes_title(table), subtitle, caption)
    width_ratios = list(map(len, rows_of.values()))
    panels = figure.subplots(1, len(rows_of), sharey=True, squeeze=False, width_ratios=width_ratios).flat
    for axes, (category, rows) in zip(panels, rows_of.items(), strict=True):
        for name, side, colour in ("questions", -0.2, "grid.color"), ("mistakes", 0.2, "lines.color"):
            heights = [100 * row[f"fraction_of_{name}"] for row in rows]
            axes.bar([row["value"] + side for row in rows], heights, 0.4, color=matplotlib.rcParams[colour])
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.set(xlabel=category)
    figure.axes[0].set_ylabel("%")
    return figure


def worst_categories(table: list[dict]) -> list[dict]:
    """Return the row with the largest excess of mistakes for each category."""
    worst = {}
    for row in table:
        worst[row["category"]] = max(worst.get(row["category"], row), row, key=mistake_excess)
    return list(worst.values())


def format_mistake_report(answers: TestResults) -> str:
    """Describe which categories the model gets wrong most often, with three examples; at most 12 lines."""
    count, distinct = int(answers.wrong.sum()), len(answers.distinct_mistakes())
    rows = worst_categories(mistakes_by_category(answers))
    lines = {
        f"{answers.config.name}: {count:,} of {len(answers.wrong):,} wrong":
            [f"{row['category']} {row['value']}" for row in rows],
        "    % of questions": [percent(row["fraction_of_questions"], 1) for row in rows],
        f"    % of mistakes ({distinct:,} distinct questions)":
            [percent(row["fraction_of_mistakes"], 1) for row in rows],
    }
    table = [f"{name:<44}" + "".join(f"{cell:>12}" for cell in cells) for name, cells in lines.items()]
    return "\n".join(table + answers.format_examples())


def save_mistake_pictures(folders: list[Path]) -> None:
    """Save mistakes.png in each of these runs' folders, unless the run made no mistakes in the test."""
    for folder in folders:
        run = read_run(folder, task_from_folder(folder), folder.name)
        if answers := find_mistakes(run):
            print(format_mistake_report(answers))
            with picture_style():
                figure = draw_mistakes(run.config, mistakes_by_category(answers))
                save_picture(figure, folder / "mistakes.png")
        else:
            print(f"{run.config.name}: no mistakes")
