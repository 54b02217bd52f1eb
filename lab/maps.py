"""Attention maps, one or many on a grid, with the cells outlined from which the answers come."""

import itertools
import math
from dataclasses import dataclass

import matplotlib
import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PatchCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from data import format_tokens
from lab.heads import Head, compute_query_scores, first_symbol_cell
from lab.view import View
from support.figure import format_two_decimals, new_figure

MAX_KEYS = 16                                               # columns of numbers that fit side by side
SEAMLESS = {"edgecolors": "face", "linewidth": 0.3, "antialiased": True}    # in svg and pdf also
FRAME = {"fill": False, "edgecolor": "tab:orange", "linewidth": 2}


@dataclass
class Map:
    """Weights (T, S), outlined cells (T, S), and names of queries (rows) and keys; NaN is hatched."""

    weights: Tensor
    outlined: Tensor
    queries: list[str]
    keys: list[str]
    title: str = ""


def make_map(view: View, head: Head, title: str = "") -> Map:
    """Return one head's map of the view's sequence, or its mean; the names are those of the first."""
    kind, layer, index = head
    weights, inputs = view.attention.maps[kind][layer, index], view.attention.inputs
    if kind == "decoder":
        weights = weights.masked_fill(torch.ones_like(weights).triu(1).bool(), torch.nan)
    outlined = torch.zeros_like(weights, dtype=torch.bool)
    if kind == view.kind and view.has_outline:
        outlined = view.attention.answer_sources.all(dim=0)             # in all sequences, if there are many
    task = view.run.config.task
    names = [[format_tokens(token, task) for token in tokens[0].split(1)] for tokens in inputs]
    queries = names[0] if kind == "encoder" else names[-1]
    keys = names[-1] if kind == "decoder" else names[0]
    return Map(weights, outlined, [*queries], keys, title)


def count_cells_across(axes: Axes) -> float:
    """Return how many cells of this width the picture has room for side by side."""
    columns = axes.get_gridspec().ncols / len(axes.get_subplotspec().colspan)
    return columns * abs(numpy.ptp(axes.get_xlim()))


def label_unit_ticks(axis: Axis, names: list[str], across: float) -> None:
    """Label the unit steps of an axis, or every second, third, … if the picture has too many across."""
    step = 1 + int(across) // 45                            # as many as fit at 8 points
    axis.set_ticks([tick + 0.5 for tick in range(0, len(names), step)], names[::step])
    longest = max((len(left + right) for left, right in itertools.pairwise(names)), default=0)
    rotated = axis.axis_name == "x" and longest * across > 135 * step       # else neighbours would touch
    axis.set_tick_params(length=0, pad=3, labelsize=8, rotation=90 if rotated else 0)


def label_ticks(axes: Axes, queries: list[str], keys: list[str]) -> None:
    """Label a map's rows and columns; without names, no ticks are drawn."""
    for axis, names in (axes.xaxis, keys), (axes.yaxis, queries):
        label_unit_ticks(axis, names, count_cells_across(axes))


def prepare_axes(axes: Axes, columns: float, rows: float) -> None:
    """Prepare axes for this many columns and rows of unit size, row 0 on top."""
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.spines[:].set_visible(True)


def draw_map(
    axes: Axes, shown: Map, left: float = 0, top: float = 0, colours: str = "viridis"
) -> QuadMesh:
    """Draw a map with one unit per row and column, from this corner of the axes."""
    rows, columns = shown.weights.shape
    if shown.weights.isnan().any():                         # hatched wherever nothing is drawn
        style = {"hatch": "////", "edgecolor": matplotlib.rcParams["grid.color"], "linewidth": 0, "zorder": 0}
        axes.add_patch(Rectangle((left, top), columns, rows, facecolor="none", **style))
    line = min(1.2, 37 / count_cells_across(axes))
    corners = [(left + key, top + query) for query, key in shown.outlined.nonzero().tolist()]
    mesh = axes.pcolormesh(
        left + numpy.arange(columns + 1), top + numpy.arange(rows + 1), shown.weights.numpy(),
        vmin=0, vmax=1, cmap=colours, **SEAMLESS,
    )
    axes.add_collection(PatchCollection(
        [Rectangle(corner, 1, 1) for corner in corners], facecolor="none", edgecolor="white", linewidth=line,
        path_effects=[withStroke(linewidth=2.5 * line, foreground="black")],
    ))
    return mesh


def draw_named_map(axes: Axes, shown: Map, colours: str = "viridis") -> QuadMesh:
    """Draw a map that fills its axes, with the names of its rows and columns."""
    prepare_axes(axes, len(shown.keys), len(shown.queries))
    label_ticks(axes, shown.queries, shown.keys)
    return draw_map(axes, shown, colours=colours)


def add_colour_bar(mesh: QuadMesh, axes: list[Axes], quantity: str = "attention weight") -> None:
    """Add the maps' colour bar to the right of these axes."""
    shrink = min(1, 4 / mesh.figure.get_figheight())
    bar = mesh.figure.colorbar(mesh, ax=axes, label=quantity, ticks=[0, 1], shrink=shrink)
    bar.solids.set(rasterized=False, edgecolor="face")      # real vectors in svg and pdf


def draw_grid(
    title: str, subtitle: str, caption: str, rows: list[list[Map]], shared: bool = False
) -> Figure:
    """Draw a grid of maps with equal cells; if shared, all have the same queries and keys."""
    every, columns = list(itertools.chain(*rows)), max(map(len, rows))
    cell = min(0.36, 5.2 / columns / max(len(shown.keys) for shown in every))
    height = sum(cell * max(len(shown.queries) for shown in row) for row in rows)
    figure = new_figure(height + 0.8 + (0.5 if shared else 1.1) * len(rows), title, subtitle, caption)
    grid = figure.subplots(len(rows), columns, squeeze=False, sharex=shared, sharey=shared)
    for axes, shown in itertools.chain(*map(itertools.zip_longest, grid, rows)):
        if shown is None:
            axes.remove()
            continue
        mesh = draw_named_map(axes, shown)
        axes.set_aspect("equal")
        axes.set_title(shown.title, loc="left")
        axes.set(xlabel="key (attended to)")
        axes.set(ylabel="query (attends)" if cell * len(shown.queries) > 1.5 else "query")
        if shared and len(every) == grid.size:
            axes.label_outer(remove_inner_ticks=True)
    add_colour_bar(mesh, figure.axes)
    return figure


def pick_query(view: View) -> int:
    """Pick the query of the best head to show in numbers: neither uniform nor all on one key."""
    kind, layer, index = view.top_head
    weights, sources = view.attention.maps[kind][layer, index], view.attention.answer_sources[0]
    first, _ = first_symbol_cell(view.run.architecture, kind, view.attention.source.size(1))
    queries = sources.any(dim=1).nonzero().flatten().tolist() or range(len(weights))[first:] or [0]
    reading = [query for query in queries if sources[query, weights[query].argmax()]]
    return min(reading or queries, key=lambda query: abs(weights[query].max().item() - 0.75))


def format_weight(value: float) -> str:
    return "≈ 0" if value < 0.001 else f"{value:.3f}"


def list_softmax_steps(view: View, query: int) -> tuple[dict[str, list[str]], str]:
    """Return the steps from scores to weights for one row of the best head, and a sentence on the last one.

    If the model does not use the function or the formula of transformer.py, the weights are the only step.
    """
    kind, layer, index = view.top_head
    weights = view.attention.maps[kind][layer, index, query]
    weights = weights[: query + 1] if kind == "decoder" else weights        # it can attend to no others
    last = {"weight": list(map(format_weight, weights.tolist()))}
    unknown = "The framed row is not worked out:"
    computed = compute_query_scores(view.run.model, view.attention.inputs, view.top_head, query)
    if computed is None:
        return last, f"{unknown} this model does not call scaled_dot_product_attention."
    scores, size = computed[0][: len(weights)], computed[1]
    scaled = scores / math.sqrt(size)
    powers = (scaled - scaled.max()).exp()
    if not torch.allclose(powers / powers.sum(), weights, rtol=0, atol=1e-3):
        return last, f"{unknown} this model's weights are not softmax(q·k / √{size})."
    return {
        "q·k": list(map(format_two_decimals, scores.tolist())),
        f"x = q·k / √{size}": list(map(format_two_decimals, scaled.tolist())),
        "e^(x − largest x)": list(map(format_weight, powers.tolist())), **last,
    }, f"In the framed row, each weight is its exponential divided by their sum, {powers.sum().item():.3f}."


def draw_table(table: Axes, steps: dict[str, list[str]], shown: Map, query: int) -> None:
    """Draw the steps from scores to weights as rows of numbers, below the map's keys if they all fit.

    The last row is coloured like the map.
    """
    weights, aligned = shown.weights[query, : len(steps["weight"])], len(shown.keys) <= MAX_KEYS
    keys = range(len(weights))
    if not aligned:
        keys = weights.topk(min(MAX_KEYS, len(keys))).indices.sort().values.tolist()
    row = Map(weights[None, keys], shown.outlined[None, query, keys], [], [])
    prepare_axes(table, len(shown.keys) if aligned else len(keys), len(steps))
    draw_map(table, row, top=len(steps) - 1)
    for height, texts in enumerate(steps.values()):
        for column, key in enumerate(keys):
            colour = None if height < len(steps) - 1 else "white" if weights[key] < 0.6 else "black"
            style = {"ha": "center", "va": "center", "size": 7, "color": colour, "in_layout": False}
            table.text(column + 0.5, height + 0.5, texts[key], **style)
    table.add_patch(Rectangle((0, 0), table.get_xlim()[1], len(steps), **FRAME))
    label_ticks(table, list(steps), [] if aligned else [shown.keys[key] for key in keys])
    table.xaxis.tick_top()
    table.set_xlabel("key (attended to)")
