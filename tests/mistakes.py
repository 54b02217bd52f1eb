"""Draw and describe the categories of questions that a model answers incorrectly: benchmark.py --mistakes."""

import inspect
from pathlib import Path

from matplotlib.figure import Figure

from data import TASKS, format_tokens
from lab.mistakes import find_mistakes, mistakes_by_category
from support.figure import new_figure, percent, picture_style, save_picture
from support.report import TestResults
from support.runs import read_run, task_from_folder

MIN_EXCESS = 0.05                                           # worth reporting


def mistake_excess(row: dict) -> float:
    """Return a category's fraction of the mistakes minus its fraction of the questions."""
    return row["fraction_of_mistakes"] - row["fraction_of_questions"]


def per_thousand(rows: list[dict]) -> str:
    """Return how many of 1,000 questions in these categories are answered incorrectly."""
    rate = 1000 * sum(row["mistakes"] for row in rows) / max(1, sum(row["questions"] for row in rows))
    if 0 < rate < 10:
        return f"{rate:.1f}" if rate >= 0.1 else "<0.1"
    return f"{rate:,.0f}"


def mistakes_title(table: list[dict]) -> str:
    """Compare the worst category with the others of the same kind, if it is notably worse."""
    worst = max(table, key=mistake_excess)
    others = [row for row in table if row["category"] == worst["category"] and row != worst]
    if mistake_excess(worst) < MIN_EXCESS:
        mistakes = sum(row["mistakes"] for row in table if row["category"] == "length")
        return f"the {mistakes:,} mistakes are spread over all categories of questions"
    asked = f"of 1,000 questions with {worst['category']} {worst['value']}"
    return f"{asked}, {per_thousand([worst])} are answered incorrectly; of the others, {per_thousand(others)}"


def draw_mistakes(results: TestResults) -> Figure:
    """Plot the mistakes per 1,000 questions in each category of the worst kind, with one mistake in full."""
    config, table = results.config, mistakes_by_category(results)
    category = max(table, key=mistake_excess)["category"]
    rows = [row for row in table if row["category"] == category]
    wrong = results.distinct_mistakes()[0]
    question, correct, answer = (
        format_tokens(tokens[wrong, 1:], config.task).replace(" END", "")
        for tokens in (results.source, results.target, results.prediction)
    )
    subtitle = f"{config.name}: {int(results.wrong.sum()):,} of {len(results.wrong):,} test sequences wrong."
    caption = f"One mistake: {question} was answered {answer}; correct is {correct}."
    if categories := TASKS[config.task].categories:
        caption += "\n" + (inspect.getdoc(categories) or "").split("\n")[0]
    figure = new_figure(2.5, mistakes_title(table), subtitle, caption)
    axes = figure.subplots()
    rates = [1000 * row["mistakes"] / row["questions"] for row in rows]
    bars = axes.bar([str(row["value"]) for row in rows], rates)
    axes.bar_label(bars, [per_thousand([row]) for row in rows])
    axes.set(xlabel=category, ylabel="mistakes per 1,000 questions")
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
                figure = draw_mistakes(answers)
                save_picture(figure, folder / "mistakes.png")
        else:
            print(f"{run.config.name}: no mistakes")
