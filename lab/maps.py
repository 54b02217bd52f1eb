"""Attention maps, one or many on a grid, with the cells outlined from which the answers come.

A map is (T, S): row = query (attends), column = key (attended to).
"""

import itertools
import math
from dataclasses import dataclass
from unicodedata import east_asian_width

import matplotlib
import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from data import to_text
from lab.heads import Head, first_symbol, scores_of_query
from lab.view import View
from support.figure import WIDTH, new_picture, panel, two_decimals

MOST_KEYS = 16                                              # columns of numbers that fit side by side
SEAMLESS = {"edgecolors": "face", "linewidth": 0.3, "antialiased": True}    # in svg and pdf also
FRAME = {"fill": False, "edgecolor": "tab:orange", "linewidth": 2}


@dataclass
class Map:
    """Weights (T, S) with row and column names; NaN is hatched, and cells (T, S) are outlined."""

    weights: Tensor
    cells: Tensor
    queries: list[str]
    keys: list[str]
    title: str = ""


def map_of(view: View, head: Head, title: str = "") -> Map:
    """Return one head's map of the view's sequence."""
    kind, layer, index = head
    weights, given = view.reading.maps[kind][layer, index], view.reading.given
    if kind == "decoder":
        weights = weights.masked_fill(torch.ones_like(weights).triu(1).bool(), torch.nan)
    outlined = kind == view.kind and view.outlined
    cells = view.cells if outlined else torch.zeros_like(weights, dtype=torch.bool)
    names = [[to_text(token, view.run.config.task) for token in tokens[0].split(1)] for tokens in given]
    queries, keys = names[0 if kind == "encoder" else -1], names[-1 if kind == "decoder" else 0]
    return Map(weights, cells, queries, keys, title)


def inches(names: list[str], size: float = 8) -> float:
    """Estimate the width of the longest name at this point size, erring on the wide side."""
    wide = [sum(1 + (east_asian_width(letter) in "WF") / 2 for letter in name) for name in names]
    return max(wide) * 0.68 * size / 72


def is_turned(keys: list[str], width: float, size: float = 8) -> bool:
    """Return whether column names must be rotated to avoid touching their neighbours."""
    wide = [inches([key], size) for key in keys]
    most = max(wide[0] - 0.1, wide[-1] - 0.1, *(sum(pair) / 2 for pair in itertools.pairwise(wide)))
    return most + 0.04 > width / len(keys)


def name_places(axis: Axis, names: list[str], room: float, size: float = 8) -> None:
    """Label the unit steps of an axis with this much room in inches, rotated if necessary."""
    step = math.ceil(1.25 * size / 72 * len(names) / room) or 1
    places = range(0, len(names), step)
    axis.set_ticks([place + 0.5 for place in places], [names[place] for place in places])
    upright = axis.axis_name == "x" and names and is_turned(names, room, size)
    axis.set_tick_params(length=0, pad=3, labelsize=size, rotation=90 if upright else 0)


def name_ticks(axes: Axes, queries: list[str], keys: list[str], size: float = 8) -> None:
    """Label a map's rows and columns, or only every second, third, … if not all fit.

    Without names, no ticks are drawn.
    """
    width, height = axes.figure.get_size_inches() * axes.get_position().size
    for axis, names, room in (axes.xaxis, keys, width), (axes.yaxis, queries, height):
        name_places(axis, names, room, size)


def name_axes(axes: Axes, query: str = "query (attends)", key: str = "key (attended to)") -> None:
    """Label the axes; a small map has room for only one word."""
    low = axes.figure.get_figheight() * axes.get_position().height < 1.7
    axes.set(xlabel=key, ylabel="query" if low else query)


def room_below(keys: list[str], width: float, size: float = 8) -> float:
    """Return the room these names need below a map of this width, in inches."""
    return 0.08 + (inches(keys, size) if is_turned(keys, width, size) else 1.25 * size / 72)


def hatch(axes: Axes, left: float, top: float, width: float, height: float) -> None:
    """Hatch the background, to be seen wherever nothing is drawn."""
    style = {"hatch": "////", "edgecolor": matplotlib.rcParams["grid.color"], "linewidth": 0, "zorder": 0}
    axes.add_patch(Rectangle((left, top), width, height, facecolor="none", **style))


def draw_map(axes: Axes, shown: Map, box: tuple[float, ...] | None = None) -> None:
    """Draw a map with one unit per row and column, or inside a box (left, top, width, height)."""
    rows, columns = shown.weights.shape
    if box is None:
        axes.set(xlim=(0, columns), ylim=(rows, 0))         # row 0 on top
        axes.spines[:].set_visible(True)
    left, top, width, height = box or (0, 0, columns, rows)
    across, down = width / columns, height / rows
    if shown.weights.isnan().any():
        hatch(axes, left, top, width, height)
    axes.pcolormesh(
        left + across * numpy.arange(columns + 1), top + down * numpy.arange(rows + 1), shown.weights.numpy(),
        vmin=0, vmax=1, cmap="viridis", **SEAMLESS,
    )
    points = 72 * axes.figure.get_figwidth() * axes.get_position().width / abs(numpy.ptp(axes.get_xlim()))
    line = min(1.2, 0.08 * across * points)
    places = [(left + key * across, top + query * down) for query, key in shown.cells.nonzero().tolist()]
    axes.add_collection(PatchCollection(
        [Rectangle(place, across, down) for place in places], facecolor="none", edgecolor="white",
        linewidth=line, path_effects=[withStroke(linewidth=2.5 * line, foreground="black")],
    ))


def colour_bar(
    figure: Figure, left: float, top: float, height: float, quantity: str = "attention weight"
) -> None:
    """Draw a map's colour bar in its own axes."""
    axes = panel(figure, left, top, 0.13, height)
    axes.pcolormesh(numpy.linspace(0, 1, 64)[:, None], cmap="viridis", **SEAMLESS)
    axes.set(xticks=[], yticks=[0, 64], yticklabels=["0", "1"])
    axes.yaxis.set(ticks_position="right", label_position="right")
    axes.set_ylabel(quantity if inches([quantity]) < height else "")
    axes.tick_params(length=0)


def grid_picture(
    sentence: str, numbers: str, how: str, rows: list[list[Map]], shared: bool = False,
    quantity: str = "attention weight", **names: str
) -> Figure:
    """Draw a grid of maps with equal cell sizes; if shared, keys and queries are labelled only once."""
    beside = 0.4 + max(inches(shown.queries) for row in rows for shown in row)
    margin, inner = (beside, 0) if shared else (0, beside)
    slot = (WIDTH - 0.95 - margin) / len(rows[0])
    keys = max(len(shown.keys) for row in rows for shown in row)
    cell = min(0.36, (slot - inner - 0.1) / keys)
    heights = [cell * max(len(shown.queries) for shown in row) for row in rows]
    below = max(room_below(shown.keys, cell * len(shown.keys)) for row in rows for shown in row)
    above = 0.1 + 0.16 * (rows[0][0].title.count("\n") + 1)
    gap = above + (0 if shared else below + 0.3)
    room = sum(heights) + len(rows) * gap + (below + 0.3 if shared else 0)
    figure, top = new_picture(room, sentence, numbers, how)
    at = top + above
    for row, height in zip(rows, heights, strict=True):
        for place, shown in enumerate(row):
            left = margin + place * slot + inner
            axes = panel(figure, left, at, cell * len(shown.keys), cell * len(shown.queries))
            draw_map(axes, shown)
            names_keys = not shared or row is rows[-1] or place >= len(rows[-1])
            queries = shown.queries if place == 0 or not shared else []
            name_ticks(axes, queries, shown.keys if names_keys else [])
            axes.set_title(shown.title, loc="left")
            if place == 0:
                name_axes(axes, **names)
                if not names_keys:
                    axes.set_xlabel("")
        at += height + gap
    colour_bar(figure, WIDTH - 0.7, top + above, heights[0], quantity)
    return figure


# ---------------------------------------------------------------- one row in numbers


def instructive_query(view: View) -> int:
    """Pick the query of the best head to show in numbers: neither uniform nor all on one key."""
    kind, layer, index = view.best
    weights, cells = view.reading.maps[kind][layer, index], view.cells
    first, _ = first_symbol(view.run.architecture, kind, view.reading.length)
    queries = cells.any(dim=1).nonzero().flatten().tolist()
    return min(queries or range(min(first, len(weights) - 1), len(weights)), key=lambda query: (
        view.outlined and not cells[query, weights[query].argmax()], abs(weights[query].max().item() - 0.75)
    ))


def number(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-") if 0 < value < 0.001 else f"{value:.3f}"


def softmax_of_row(view: View, query: int) -> tuple[dict[str, list[str]], float]:
    """Return the steps from scores to weights for one row of the best head, and the softmax denominator."""
    kind, layer, index = view.best
    weights = view.reading.maps[kind][layer, index, query]
    weights = weights[: query + 1] if kind == "decoder" else weights        # it can attend to no others
    size = view.run.config.d_model // view.run.config.num_heads
    scores = scores_of_query(view.run.model, view.reading.given, view.best, query)[: len(weights)]
    scaled = scores / math.sqrt(size)
    powers = (scaled - scaled.max()).exp()
    return {
        "q·k": list(map(two_decimals, scores.tolist())),
        f"x = q·k / √{size}": list(map(two_decimals, scaled.tolist())),
        "e^(x − largest x)": [number(power) for power in powers.tolist()],
        "weight": [number(weight) for weight in weights.tolist()],
    }, powers.sum().item()


def draw_table(table: Axes, rows: dict[str, list[str]], shown: Map, columns: int) -> None:
    """Draw the steps from scores to weights as rows of numbers; the last row is coloured like the map."""
    _, keys = shown.weights.shape
    table.set(xlim=(0, columns), ylim=(len(rows), 0))
    draw_map(table, shown, (0, len(rows) - 1, keys, 1))
    for row, texts in enumerate(rows.values()):
        for key, weight in enumerate(shown.weights[0]):
            colour = None if row < len(rows) - 1 else "white" if weight < 0.6 else "black"
            table.text(key + 0.5, row + 0.5, texts[key], ha="center", va="center", size=7, color=colour)
    table.add_patch(Rectangle((0, 0), columns, len(rows), **FRAME))
