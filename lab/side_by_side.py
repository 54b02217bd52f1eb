"""Several runs in one picture: what they attend to, and their training curves."""

import textwrap
from itertools import chain
from pathlib import Path

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from lab import heads, maps
from lab.view import View, describe_sample, locate_answer, make_view
from lab.what_matters import EXPLAIN_BARS, draw_costs
from support.config import EVALUATION_BATCH, Config, non_default_settings
from support.figure import TEXT_WIDTH, new_figure, percent
from support.runs import find_runs, first_solved, read_checkpoint, read_run
from support.training_plot import label_loss_axes

QUESTION = "Does a Transformer need attention?"             # the comparison's title
Curves = dict[Path, tuple[Config, list[dict]]]              # of each run's folder: settings and history


def colour_tokens(tokens: list[str]) -> dict[str, tuple]:
    """Return a colour for each distinct symbol, in the order of the rainbow; the others stay grey."""
    symbols = [token for token in dict.fromkeys(tokens) if token not in ("START", "END", "_")]
    return dict(zip(symbols, seaborn.husl_palette(len(symbols) + 1, h=0.03, s=0.95, l=0.62), strict=False))


def draw_lines(axes: Axes, shown: maps.Map, answer: list[str], query: int, key: int, columns: int) -> None:
    """Draw lines from each answer symbol (bottom) to the tokens it attends to (top); see locate_answer."""
    rows, colours = slice(query, query + len(answer)), colour_tokens(shown.keys)
    weights, sources = shown.weights[rows].nan_to_num(), shown.outlined[rows]
    axes.set(xlim=(0, columns), ylim=(-0.1, 1.1))
    axes.axis("off")
    across, faint = maps.count_cells_across(axes), to_rgba(matplotlib.rcParams["grid.color"], 0.5)
    for chosen, colour_of in (~sources, {}), (sources, colours):
        ends = chosen.nonzero().tolist()
        axes.add_collection(LineCollection(
            [[(symbol + key + 0.5, 0), (read + 0.5, 1)] for symbol, read in ends],
            linewidths=min(5.5, 110 / across) * weights[chosen].numpy(),
            colors=[colour_of.get(shown.keys[read], faint) for _, read in ends],
        ))
    for height, first, tokens in (1, 0, shown.keys), (0, key, answer):
        for position, token in enumerate(tokens, start=first):
            colour, size = colours.get(token, "lightgrey"), min(9, 650 / across / max(3, len(token)))
            axes.text(
                position + 0.5, height, token, size=size, color="black", ha="center", va="center",
                in_layout=False, bbox={"boxstyle": "round,pad=0.25", "linewidth": 0, "facecolor": colour},
            )


def draw_comparison(views: list[list[View]]) -> Figure:
    """Draw lines from answers to what they attend to: one row per architecture, one column per task."""
    shown = [[maps.make_map(view, view.top_head) for view in row] for row in views]
    answers = [locate_answer(view) for view in chain(*views)]
    below = [key + len(answer) for answer, _, key in answers]
    columns = max([*below, *(len(drawn.keys) for drawn in chain(*shown))])
    subtitle = f"Measured by zero ablation on {describe_sample(views[0][0].evidence.source)}."
    caption = "Lines lead from each symbol of the answer (bottom) to what it attends to (top), in one head."
    if any(view.has_outline for view in chain(*views)):
        caption += " Coloured lines lead to the symbols the answer depends on; no head looks at them more."
    figure = new_figure(3.17 * len(views), QUESTION, subtitle, caption)
    panels = figure.subplots(len(views), len(views[0]), squeeze=False)
    for axes, view, drawn, answer in zip(panels.flat, chain(*views), chain(*shown), answers, strict=True):
        draw_lines(axes, drawn, *answer, columns)
        axes.set_title(f"This {view.model_name} was trained to {view.run.config.task}:", loc="left", size=11)
        accuracy = view.evidence.accuracy_without(heads.ALL_ATTENTION)
        number = axes.text(0, -0.4, percent(accuracy), size=26, weight="bold")
        intact = "" if view.evidence.accuracy == 1 else f"\n({percent(view.evidence.accuracy)} with it)"
        next_to = {"xycoords": number, "xytext": (5, 0), "textcoords": "offset points"}
        axes.annotate(f"correct without any attention{intact}", (1, 0.25), **next_to, size=11)
    return figure


def read_curves(folders: list[Path]) -> Curves:
    """Return settings and history of each run in these folders. Raises ValueError for a folder without a run.

    The weights are not checked: they may come from a modified transformer.py.
    """
    runs = {}
    for folder in folders:
        there = find_runs(folder)
        if not there:
            raise ValueError(f"no run found in {folder}; pass a folder written by python train.py")
        for path in there:
            checkpoint, config = read_checkpoint(path)
            runs[path] = config, checkpoint["history"]
    return runs


def describe_outcome(path: Path, config: Config, history: list[dict]) -> str:
    """Return a run's folder, settings and the step at which it solved its task, wrapped to the picture."""
    outcome = f"solved at step {row['step']}" if (row := first_solved(history)) else "not solved"
    label = f"{path} ({non_default_settings(config) or 'default settings'}): {outcome}"
    return textwrap.fill(label, TEXT_WIDTH - 6, break_on_hyphens=False)


def draw_training_curves(runs: Curves) -> Figure:
    """Plot loss and exact match of several runs over their steps, labelled by folder and settings."""
    solved = [row["step"] for _, history in runs.values() if (row := first_solved(history))]
    title = f"{len(solved)} of {len(runs)} runs solved the task"
    if solved:
        title += f", the earliest at step {min(solved)}"
    subtitle = f"Exact match after each epoch, on the same {EVALUATION_BATCH} validation sequences."
    labels = [describe_outcome(path, *run) for path, run in runs.items()]
    figure = new_figure(2.8 + 0.2 * len("\n".join(labels).splitlines()), title, subtitle)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for label, (_, history), colour in zip(
        labels, runs.values(), seaborn.color_palette("tab20" if len(runs) > 10 else "tab10", len(runs)),
        strict=True,
    ):
        steps = [row["step"] for row in history]
        loss_axes.plot(steps, [row["loss"] for row in history], label=label, color=colour)
        accuracy_axes.plot(steps, [100 * row["exact_match"] for row in history], color=colour)
    label_loss_axes(loss_axes)
    accuracy_axes.set(xlabel="training step", ylabel="exact match, %", ylim=(-3, 103))
    figure.legend(loc="outside lower left")
    return figure


def read_views(runs: Curves) -> tuple[dict[Path, View], list[str]]:
    """Return a view of each run, and the errors of those that the current code cannot run."""
    views, errors = {}, []
    for folder, (config, _) in runs.items():
        try:
            views[folder] = make_view(read_run(folder, config.task, config.architecture))
        except ValueError as error:
            errors.append(str(error))
    return views, errors


def draw_heads(views: dict[Path, View]) -> Figure:
    """Draw for each run where its heads attend, and the cost of removing each."""
    accuracies = [
        min(map(view.evidence.accuracy_without, heads.list_heads(view.run.model))) for view in views.values()
    ]
    texts = ", ".join(map(percent, accuracies))
    if len(accuracies) > 3:
        texts = f"{percent(min(accuracies))} to {percent(max(accuracies))}"
    title = f"accuracy without the most important head: {texts}"
    sample = describe_sample(next(iter(views.values())).evidence.source)
    layers = [len(heads.attention_modules(view.run.model)) for view in views.values()]
    height = 0.7 * sum(layers) + 0.5 * len(views)
    figure = new_figure(height, title, f"Zero ablation on {sample}.", EXPLAIN_BARS)
    rows = figure.subplots(len(views), 1, squeeze=False, height_ratios=layers)
    for axes, (folder, view) in zip(rows.flat, views.items(), strict=True):
        draw_costs(axes, view.average())
        axes.set_anchor("NW")
        axes.set_title(textwrap.fill(str(folder), TEXT_WIDTH - 20), loc="left")
    return figure
