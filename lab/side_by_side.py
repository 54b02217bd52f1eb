"""Several runs in one picture: what they attend to, and their training curves."""

import textwrap
from itertools import chain
from pathlib import Path

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from lab import heads, maps
from lab.view import View, cost_in_points, describe_sample, format_change, locate_answer, make_view
from support.config import EVALUATION_BATCH, Config, non_default_settings
from support.figure import TEXT_WIDTH, new_figure, percent
from support.runs import find_runs, first_solved, read_checkpoint, read_run
from support.training_plot import label_loss_axes

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
    across, grey = maps.count_cells_across(axes), matplotlib.rcParams["grid.color"]
    for chosen in ~sources, sources:
        ends = chosen.nonzero().tolist()
        names = [shown.keys[read] if chosen is sources else "" for _, read in ends]
        axes.add_collection(LineCollection(
            [[(symbol + key + 0.5, 0), (read + 0.5, 1)] for symbol, read in ends],
            linewidths=min(5.5, 110 / across) * weights[chosen].numpy(),
            colors=[colours.get(name, (*to_rgb(grey), 0.5)) for name in names],
        ))
    for height, first, tokens in (1, 0, shown.keys), (0, key, answer):
        for position, token in enumerate(tokens, start=first):
            colour, size = colours.get(token, "lightgrey"), min(9, 650 / across / max(3, len(token)))
            axes.text(
                position + 0.5, height, token, size=size, color="black", ha="center", va="center",
                bbox={"boxstyle": "round,pad=0.25", "linewidth": 0, "facecolor": colour},
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
    figure = new_figure(3.17 * len(views), "Does a Transformer need attention?", subtitle, caption)
    panels = figure.subplots(len(views), len(views[0]), squeeze=False)
    for axes, view, drawn, answer in zip(panels.flat, chain(*views), chain(*shown), answers, strict=True):
        draw_lines(axes, drawn, *answer, columns)
        axes.set_title(f"This {view.model_name} was trained to {view.run.config.task}:", loc="left", size=11)
        accuracy = view.evidence.accuracy_without(heads.ALL_ATTENTION)
        number = axes.text(0, -0.4, percent(accuracy), size=26, weight="bold")
        intact = "" if view.evidence.accuracy == 1 else f"\n ({percent(view.evidence.accuracy)} with it)"
        axes.annotate(f" correct without any attention{intact}", (1, 0.25), xycoords=number, size=11)
    return figure


def read_curves(folders: list[Path]) -> Curves:
    """Return settings and history of each run in these folders. Raises ValueError for a folder without a run.

    The weights are not checked: they may come from a modified transformer.py.
    """
    runs = {}
    for folder in folders:
        there = [folder] if (folder / "checkpoint.pt").is_file() else find_runs(folder)
        if not there:
            raise ValueError(f"no run found in {folder}; pass a folder written by python train.py")
        for path in there:
            checkpoint, config = read_checkpoint(path)
            runs[path] = config, checkpoint["history"]
    return runs


def draw_training_curves(runs: Curves) -> Figure:
    """Plot loss and exact match of several runs over their steps, labelled by folder and settings."""
    solved = [row["step"] for _, history in runs.values() if (row := first_solved(history))]
    title = f"{len(solved)} of {len(runs)} runs solved the task"
    if solved:
        title += f", the earliest at step {min(solved)}"
    subtitle = f"Exact match after each epoch, on the same {EVALUATION_BATCH} validation sequences."
    figure = new_figure(2.8 + 0.2 * len(runs), title, subtitle)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for path, (config, history) in runs.items():
        row, steps = first_solved(history), [row["step"] for row in history]
        outcome = f"solved at step {row['step']}" if row else "not solved"
        label = f"{path} ({non_default_settings(config) or 'default settings'}): {outcome}"
        label = textwrap.fill(label, TEXT_WIDTH - 6, break_on_hyphens=False)
        loss_axes.plot(steps, [row["loss"] for row in history], label=label)
        accuracy_axes.plot(steps, [100 * row["exact_match"] for row in history])
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


def draw_head_costs(axes: Axes, view: View) -> None:
    """Draw the cost of removing each head, in points of exact match: one row per layer."""
    model = view.run.model
    layers = list(heads.attention_modules(model))
    costs = [[cost_in_points(view, head) for head in heads.list_heads(model, layer)] for layer in layers]
    colours = LinearSegmentedColormap.from_list("", [matplotlib.rcParams["axes.facecolor"], "firebrick"])
    seaborn.heatmap(
        costs, vmin=0, vmax=100, cmap=colours, cbar=False, annot=len(costs[0]) <= 16, fmt="d", ax=axes,
        annot_kws={"size": 8}, xticklabels=[*range(1, len(costs[0]) + 1)],
        yticklabels=[*map(view.describe_part, layers)],
    )
    axes.tick_params(length=0, labelsize=8, rotation=0)
    axes.set_xlabel("head")


def draw_heads(views: dict[Path, View]) -> Figure:
    """Draw for each run the head that looks most at the answer, and the cost of removing each head."""
    changes = [
        format_change(view, min(heads.list_heads(view.run.model), key=view.evidence.accuracy_without))
        for view in views.values()
    ]
    title = f"accuracy without the most important head: {', '.join(changes)}"
    sample = describe_sample(next(iter(views.values())).evidence.source)
    caption = "Maps: the head that looks most at the answer. Numbers: points of exact match lost "
    caption += f"without each head, on {sample}."
    figure = new_figure(2.6 * len(views), title, "", caption)
    rows = figure.subplots(len(views), 2, squeeze=False, width_ratios=(2, 3))
    for (map_axes, cost_axes), (folder, view) in zip(rows, views.items(), strict=True):
        maps.draw_named_map(map_axes, maps.make_map(view, view.top_head))
        names = str(folder), view.describe_part(view.top_head)
        map_axes.set_title("\n".join(textwrap.fill(name, TEXT_WIDTH // 2) for name in names), loc="left")
        map_axes.set_aspect("equal")
        draw_head_costs(cost_axes, view)
    return figure
