"""Plot where a trained model's heads attend, each time with evidence of whether it matters.

`python visualize.py` reads the checkpoints that `python train.py` wrote. It saves PICTURES and a live page
for each run, and comparisons of all runs. A map shows where a head attends; only an intervention shows
whether the answer depends on it. Each picture's title states its finding, with the numbers measured by
analysis.py.

Shapes: N sequences, H heads, T queries, S keys.
A map is (T, S): row = query (attends), column = key (attended to).
"""

import argparse
import errno
import itertools
import json
import math
import os
import shlex
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from unicodedata import east_asian_width
from urllib.parse import quote
from zlib import crc32

import matplotlib
import numpy
import seaborn
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from analysis import (
    ALL_ATTENTION,
    SEQUENCES_EACH,
    AtLength,
    Evidence,
    Head,
    Part,
    Reading,
    answering_kind,
    attention_at,
    clearest_example,
    first_symbol,
    half_way,
    head_table,
    heads_of,
    influence_on,
    is_right,
    longest,
    loudness,
    parts_of,
    probe_length,
    read,
    scores_of_query,
    shares_in_training,
    unseen_sequences,
    untrained,
)
from data import (
    ARCHITECTURES,
    MODELS,
    TASKS,
    add_start_end,
    arrange,
    exact_match,
    is_scored,
    letters_in_names,
    task_names,
    to_content,
    to_text,
    usable_lengths,
)
from explorer import save_gallery, save_page
from lab.mistakes import by_kind, mistakes_of, mistakes_picture, save_mistakes
from support.config import EVALUATION_BATCH, Config, setting_text, title_of
from support.console import add_choice, fail, folder_name, new_parser, parse_options, run_script, set_threads
from support.figure import (
    MARGIN,
    SMALL,
    WIDTH,
    at_most,
    name_lines,
    new_picture,
    panel,
    percent,
    picture_style,
    save_picture,
    two_decimals,
)
from support.files import first_line, only_writer, replacing
from support.puzzles import MASK
from support.record import PROBES, Record, read_record
from support.runs import (
    DEFAULT_ARCHITECTURES,
    DEFAULT_FOLDER,
    DEFAULT_TASKS,
    Run,
    command_line,
    first_solved,
    open_checkpoint,
    remove_stale,
    runs_below,
    save_table,
    task_of,
)
from support.training_plot import name_loss_axes, training_picture
from train import Answers, load_run, read_run
from transformer import END, PAD, TransformerBlock, evaluating, generate

NEVER_RIGHT = "the model is never correct, so no ablation can make it worse"
MOST_KEYS = 16                                              # columns of numbers that fit side by side
SEAMLESS = {"edgecolors": "face", "linewidth": 0.3, "antialiased": True}    # in svg and pdf also
FRAME = {"fill": False, "edgecolor": "tab:orange", "linewidth": 2}
MOST_BALANCED = 4                                           # runs that fit side by side
MOST_HEADS = 6                                              # shown by length in the ablation picture
KINDS = {
    "encoder": "the encoder's self-attention", "decoder": "the decoder's self-attention",
    "cross": "cross-attention",
}


def most_focused(kind: str, maps: Tensor) -> Head:
    """Return the head with the most concentrated attention, on average; maps (layers, H, T, S)."""
    return kind, *divmod(int(maps.amax(dim=-1).mean(dim=-1).argmax()), maps.size(1))


@dataclass(eq=False)                                        # compare by identity: film_of caches one
class View:
    """The data shown in the pictures of one run and one sequence."""

    run: Run
    reading: Reading                                        # of this one question
    answer: str                                             # the model's answer as text, with ✓ or ✗
    evidence: Evidence                                      # of many questions
    record: Record | None                                   # of how attention formed

    def __str__(self) -> str:
        return title_of(self.run.config.task, self.run.architecture)

    @property
    def model(self) -> str:
        """The model's name in a sentence."""
        return MODELS[self.run.architecture]

    @property
    def kind(self) -> str:
        """The kind of attention that can find the answers; cells and shares refer to this kind."""
        return answering_kind(self.run.architecture)

    @cached_property
    def best(self) -> Head:
        """The head that attends most to the answers or, if nothing is outlined, the most focused one."""
        return self.evidence.brightest or most_focused(self.kind, self.reading.maps[self.kind])

    @property
    def costly(self) -> list[Head]:
        """The heads whose removal costs anything, most costly first."""
        heads = [head for head in heads_of(self.run.model) if self.evidence.cost(head) > 0]
        return sorted(heads, key=self.evidence.left)

    @cached_property
    def mistakes(self) -> Answers | None:
        """The answers to the test sequences; None if all are correct."""
        return mistakes_of(self.run)

    @cached_property
    def cells(self) -> Tensor:
        """The cells that the answers come from, (T, S) boolean."""
        return self.reading.cells[0]

    @property
    def outlined(self) -> bool:
        """True if there is anything to outline, in this sequence and in the test sequences."""
        return bool(self.cells.any()) and not self.evidence.reading.shares.isnan().any()

    def share(self, head: Head) -> float:
        """Return the fraction of the head's attention on this sequence's outlined cells."""
        return self.reading.shares[head[1:]].item()

    def name(self, part: Part) -> str:
        """Return a part's display name, with its purpose if known: layer 1, head 1 (finds END)."""
        place = self.place(part)
        purpose = self.run.purposes.get(place)
        return f"{place} ({purpose})" if purpose else place

    def place(self, part: Part) -> str:
        """Return a part's location, e.g. layer 1, head 6, with its kind if the model has several."""
        place, several = part[1:], len(self.reading.maps) > 1
        if not place:
            return KINDS[part[0]] if part and several else "any attention"
        words = [f"{word} {number + 1}" for word, number in zip(("layer", "head"), place, strict=False)]
        if several:
            words[0] = f"{'cross-attention' if part[0] == 'cross' else part[0]} {words[0]}"
        return ", ".join(words)


def ask(run: Run, words: list[str] | None = None) -> tuple[Tensor, tuple[Tensor, ...], Tensor, str]:
    """Run the model on one question in data.to_text's format, by default a clear example.

    Returns the source, the model's inputs, its prediction at each query, and question and answer as text.
    Raises ValueError if the question is invalid for the task or too long.
    """
    architecture, task = run.architecture, run.config.task
    content = to_content(words, task, run.config.vocab_size) if words else clearest_example(run)
    answer = TASKS[task].answer(content[None])
    source, target = add_start_end(content[None], len(content) + 2), add_start_end(answer, answer.size(1) + 2)
    if architecture == "encoder":
        given, _ = arrange(architecture, source, target)
        with evaluating(run.model) as model:
            said = model(*given).argmax(dim=-1)
        written = said[:, : target.size(1)]
    else:
        written = torch.cat([source[:, :1], generate(run.model, source, target.size(1) - 1)], dim=1)
        given, said = arrange(architecture, source, written)
    mark = "✓" if written.shape == target.shape and exact_match(written, target) == 1 else "✗"
    texts = to_text(content, task), to_text(written[0, 1:], task).removesuffix(" END")
    text = " → ".join(textwrap.shorten(text, 40, placeholder=" …") for text in texts)
    return source, given, said, f"{text} {mark}"


def look_at(run: Run, words: list[str] | None = None) -> View:
    """Run the model on one question and measure it. Raises ValueError like ask."""
    source, given, said, text = ask(run, words)
    reading, record = read(run, source, given, said), read_record(run.folder, run.history)
    return View(run=run, reading=reading, answer=text, evidence=Evidence(run), record=record)


# ---------------------------------------------------------------- helpers for all pictures


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


def run_text(view: View) -> str:
    """Return the grey line of a picture of one sequence."""
    text = f"{view}: {view.answer}"
    if view.reading.length > (most := longest(view.run)):
        text += f" ({view.reading.length} symbols; training had at most {most})"
    return f"{text}."


def how_to_read(view: View, kinds: Iterable[str]) -> str:
    """Explain how to read maps of these kinds of attention."""
    text = "Rows: queries (attending). Columns: keys (attended to)."
    if view.outlined:
        text += " Outlined: the symbols the answer depends on."
    if "decoder" in kinds:
        text += " Hatched: masked (future tokens)."
    if any((tokens == MASK).any() for tokens in view.reading.given):
        text += " _: a gap to fill in."
    return text


def nothing_outlined(view: View) -> str:
    if view.evidence.reading.depends.isnan().any() or view.reading.depends.isnan().any():
        return "what the answer depends on cannot be measured"
    return "the answer depends on no symbol"


def lengths_of(source: Tensor) -> Tensor:
    """Return the number of symbols in each question, without START and END, (N,)."""
    return (source != PAD).sum(dim=1) - 2


def sample(source: Tensor) -> str:
    """Describe the sequences a number is based on, and how many of them are distinct."""
    lengths = lengths_of(source)
    shortest, most, different = int(lengths.min()), int(lengths.max()), len(source.unique(dim=0))
    count = f"{len(source)} unseen sequences"
    if different < len(source):
        count += f" ({different} distinct)"
    return f"{count} of length {most}" if shortest == most else f"{count} of lengths {shortest} to {most}"


def change(view: View, part: Part) -> str:
    return f"{percent(view.evidence.left())} → {percent(view.evidence.left(part))}"


def points_lost(view: View, part: Part) -> int:
    """Return the points of exact match lost without a part, negative if it improves; at least 1 if any."""
    cost = round(100 * view.evidence.cost(part), 6)
    return math.ceil(cost) if cost > 0 else math.floor(cost)


def price(view: View, part: Part) -> str:
    """Return the cost of removing a part, worded as the end of a sentence."""
    points = points_lost(view, part)
    count = f"{abs(points)} point{'s' if abs(points) != 1 else ''}"
    if points < 0:
        return f"costs nothing (accuracy rises by {count})"
    return f"costs {count}" if points else "costs nothing"


# ---------------------------------------------------------------- pictures of one sequence


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


def head_sentence(view: View) -> str:
    name, share = view.name(view.best), view.share(view.best)
    if not view.outlined:
        return f"{name} is the most focused head; {nothing_outlined(view)}"
    needed, chance = "the symbols the answer needs", f"(uniform: {percent(view.reading.chance)})"
    if share <= view.reading.enough:
        return f"no head attends mainly to {needed}: {name} comes closest, at {percent(share)} {chance}"
    return f"{name} spends {percent(share)} of its attention on {needed} {chance}"


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


def head_picture(view: View) -> Figure:
    """Draw the head that attends most to the answers, with one row in numbers to check on paper."""
    shown, query = map_of(view, view.best), instructive_query(view)
    rows, total = softmax_of_row(view, query)
    keys = list(range(len(rows["weight"])))                 # that the query can attend to
    below = len(shown.keys) <= MOST_KEYS                    # numbers line up with their key's column
    if not below:
        keys = shown.weights[query, keys].topk(min(MOST_KEYS, len(keys))).indices.sort().values.tolist()
    columns = shown.keys if below else [shown.keys[key] for key in keys]
    how = f" The framed row in numbers: each weight is its exponential divided by their sum, {total:.3f}."
    left = max(1.35, 0.5 + inches(shown.queries))
    across = WIDTH - left - 0.95
    width, height = min(0.62 * len(shown.keys), across), min(0.3 * len(shown.queries), 4.6)
    table_width = width if below else across
    gap = room_below(shown.keys, width) + (0 if below else 0.1 + room_below(columns, table_width))
    figure, top = new_picture(
        height + gap + 1.4, head_sentence(view), run_text(view), how_to_read(view, [view.kind]) + how
    )
    axes = panel(figure, left, top, width, height)
    draw_map(axes, shown)
    name_ticks(axes, shown.queries, shown.keys)
    name_axes(axes, key="")
    axes.add_patch(Rectangle((0, query), len(shown.keys), 1, **FRAME))
    colour_bar(figure, left + width + 0.2, top, height)
    table = panel(figure, left, top + height + gap, table_width, 1.08)
    row = Map(shown.weights[query, keys][None], shown.cells[query, keys][None], [], [])
    draw_table(table, {name: [texts[key] for key in keys] for name, texts in rows.items()}, row, len(columns))
    name_ticks(table, list(rows), [] if below else columns)
    table.xaxis.tick_top()
    table.set_xlabel("key (attended to)")
    return figure


def layer_picture(view: View) -> Figure:
    """Draw all heads of the layer that contains the head attending most to the answers."""
    kind, layer, _ = view.best
    heads = heads_of(view.run.model, (kind, layer))
    name, titles = view.name((kind, layer)), [f"head {index + 1}" for _, _, index in heads]
    sentence = f"{name}: {nothing_outlined(view)}"
    if view.outlined:
        chance = percent(view.reading.chance)
        readers = int((view.reading.shares[layer] > view.reading.enough).sum())
        if len(heads) == 1:
            sentence = f"the only head in {name} spends {percent(view.share(view.best))} of its attention"
        elif readers < 2:
            sentence = f"{'one' if readers else 'no'} head in {name} spends most of its attention"
        else:
            sentence = f"{readers} of {len(heads)} heads in {name} spend most of their attention"
        sentence += f" on the symbols the answer needs (uniform: {chance})"
        titles = [f"{title}: {percent(view.share(head))}" for title, head in zip(titles, heads, strict=True)]
    maps = [map_of(view, head, title) for head, title in zip(heads, titles, strict=True)]
    numbers = f"{run_text(view)} Accuracy without this layer: {percent(view.evidence.left((kind, layer)))}."
    how = f"{how_to_read(view, [kind])} Accuracy: exact match on {sample(view.evidence.source)}."
    rows = [maps[first : first + 4] for first in range(0, len(maps), 4)]
    return grid_picture(sentence, numbers, how, rows, shared=True)


def model_picture(view: View) -> Figure:
    """Draw all layers of all kinds (rows) and heads (columns), each with the cost of removing it."""
    layers = [(kind, layer) for kind, maps in view.reading.maps.items() for layer in range(len(maps))]
    heads = view.run.config.num_heads
    lost = {head: points_lost(view, head) for head in heads_of(view.run.model)}
    sentence = f"any one of the {len(lost)} heads can be removed at no cost"
    if view.evidence.left() == 0:
        sentence = NEVER_RIGHT
    elif len(lost) == 1:
        (only,) = lost
        sentence = f"without its only head, {view.name(only)}: accuracy {change(view, only)}"
    elif view.costly:
        most = view.costly[0]
        matter = "matters on its own" if len(view.costly) == 1 else "matter on their own"
        sentence = (
            f"{len(view.costly)} of {len(lost)} heads {matter}; without {view.name(most)}: "
            f"accuracy {change(view, most)}"
        )
    left = 0.3 + inches([view.name(layer) for layer in layers], 9)
    width = min((WIDTH - left - 0.1) / heads, 1.6)
    size = 0.88 * width
    shapes = [view.reading.maps[kind].shape[2:] for kind, _ in layers]
    shapes = [size * queries / keys for queries, keys in shapes]
    figure, top = new_picture(sum(shapes) + 0.28 * len(layers) + 0.25, sentence, run_text(view), (
        "Framed: removing the head costs the number of exact-match points shown. Pale: it costs nothing. "
        f"Measured by zero ablation on {sample(view.evidence.source)}."
    ))
    height = figure.get_figheight() - top
    axes = panel(figure, 0, top, WIDTH, height)             # one for all maps, in inches
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    paper, bottom = matplotlib.rcParams["axes.facecolor"], 0
    for place, shape in zip(layers, shapes, strict=True):
        at, bottom = bottom + 0.28, bottom + 0.28 + shape
        axes.text(left - 0.1, at + shape / 2, view.name(place), ha="right", va="center")
        for head in range(heads):
            box = left + head * width, at, size, shape
            draw_map(axes, map_of(view, (*place, head)), box)
            points = lost[(*place, head)]
            if points and size > 0.25:                      # else there is no room for a number
                change_there = f"{-points:+}".replace("-", "−")
                axes.text(box[0] + size / 2, at - 0.05, change_there, ha="center", va="bottom", weight="bold")
            if not points:
                axes.add_patch(Rectangle(box[:2], *box[2:], color=paper, alpha=0.6, linewidth=0, zorder=3))
            edge = {"edgecolor": "tab:orange", "linewidth": 2.5}
            if points <= 0:
                edge = {"edgecolor": "grey", "linewidth": 0.5}
            axes.add_patch(Rectangle(box[:2], *box[2:], fill=False, zorder=4, **edge))
    for head in range(0, heads, math.ceil(0.2 / width)):
        text = f"head {head + 1}" if heads <= 10 else head + 1
        axes.text(left + head * width + size / 2, bottom + 0.06, text, ha="center", va="top")
    return figure


def kinds_picture(view: View) -> Figure:
    """Draw one head of each kind of attention, with the accuracy left without that kind."""
    maps, evidence, row = view.reading.maps, view.evidence, []
    for kind in maps:
        head = view.best if kind == view.kind else most_focused(kind, maps[kind])
        row.append(map_of(view, head, f"{KINDS[kind]}\nlayer {head[1] + 1}, head {head[2] + 1}"))
    left = ", ".join(f"{percent(evidence.left((kind,)))} without {view.name((kind,))}" for kind in maps)
    by_mean = ", ".join(percent(evidence.mean_ablation[kind,]) for kind in maps)
    return grid_picture(f"accuracy: {left}", run_text(view), (
        f"{how_to_read(view, maps)} Accuracy: exact match after zero ablation on {sample(evidence.source)}. "
        f"After mean ablation: {by_mean}."
    ), [row])


def needs_no_attention(view: View) -> bool:
    return view.evidence.left(ALL_ATTENTION) > 0.99 * view.evidence.left()


def doing(task: str) -> str:
    """Return the gerund of a task's name: copying, reversing."""
    return f"{task.removesuffix('e')}ing" if task.isalpha() else task


def with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def is_learned(view: View) -> bool:
    return view.evidence.left() >= 0.5


def comparison_sentence(views: list[list[View]]) -> str:
    """State which tasks need no attention in the first architecture with such tasks, and which do.

    Models that have not learned their task are left out.
    """
    views = [learned for row in views if (learned := [view for view in row if is_learned(view)])]
    if not views:
        return "none of these models has learned its task, so it is unknown what they need"
    for number, row in enumerate(views):
        names = [doing(view.run.config.task) for view in row]
        needless = [name for name, view in zip(names, row, strict=True) if needs_no_attention(view)]
        if not needless:
            continue
        one, where = len(needless) == 1, with_article(row[0].model)
        text = f"{' and '.join(needless)} in {where} {'needs' if one else 'need'} no attention"
        if others := [name for name in names if name not in needless]:
            return f"{text}; {' and '.join(others)} {'does' if len(others) == 1 else 'do'}"
        others = [
            with_article(other[0].model) for other in views[number + 1 :]
            if not any(map(needs_no_attention, other))
        ]
        return f"{text}; in {' and '.join(others)} {'it does' if one else 'they do'}" if others else text
    most = max(view.evidence.left((view.kind,)) for row in views for view in row)
    return f"none of these models works without attention: at most {at_most(most)} correct"


def answer_of(view: View) -> tuple[list[str], int, int]:
    """Return the model's answer up to END, and the query and key of its symbol 0 in an answering map."""
    query, key = first_symbol(view.run.architecture, view.kind, view.reading.length)
    said = view.reading.said[0, query:].tolist()
    said = said[: said.index(END) + 1] if END in said else said
    return [to_text(token, view.run.config.task) for token in torch.tensor(said).split(1)], query, key


def draw_lines(axes: Axes, shown: Map, view: View, columns: int) -> None:
    """Draw lines from each answer symbol (bottom) to the tokens it attends to (top)."""
    answer, query, key = answer_of(view)
    weights, cells = (x[query : query + len(answer)] for x in (shown.weights.nan_to_num(), shown.cells))
    width, _ = axes.figure.get_size_inches() * axes.get_position().size
    thickest = min(4.5, 14 * width / columns)               # in points, for a weight of 1
    faint = {"color": matplotlib.rcParams["grid.color"], "alpha": 0.4}
    for chosen, style in (~cells, faint), (cells, {"color": matplotlib.rcParams["lines.color"]}):
        lines = [[(symbol + key + 0.5, 0), (read + 0.5, 1)] for symbol, read in chosen.nonzero().tolist()]
        axes.add_collection(LineCollection(lines, linewidths=thickest * weights[chosen].numpy(), **style))
    axes.set(xlim=(0, columns), ylim=(0, 1), yticks=[])
    axes.spines[:].set_visible(False)
    above = axes.secondary_xaxis("top")
    above.spines[:].set_visible(False)
    for axis, row in (axes.xaxis, [""] * key + answer), (above.xaxis, shown.keys):
        name_places(axis, row, width * len(row) / columns)


def lines_picture(views: list[list[View]]) -> Figure:
    """Draw lines from answers to what they attend to: one row per architecture, one column per task.

    Lines show the head that attends most to the answers.
    """
    shown = [[map_of(view, view.best) for view in row] for row in views]
    answers = [answer_of(view) for row in views for view in row]
    rows = [[""] * key + answer for answer, _, key in answers] + [each.keys for row in shown for each in row]
    columns = max(map(len, rows))
    slot, height = (WIDTH - 0.65) / len(views[0]), 0.9
    names = max(room_below(row, (slot - 0.1) * len(row) / columns) for row in rows)
    above, below = 0.45 + names, 0.1 + names
    numbers = f"Accuracy: exact match after zero ablation on {sample(views[0][0].evidence.source)}."
    how = "Line width: the attention an answer symbol pays to a token, in the head that attends most to the "
    how += "needed symbols."
    if any(view.outlined for row in views for view in row):
        how += " Blue: the symbols the answer depends on."
    figure, top = new_picture((above + height + below) * len(views), comparison_sentence(views), numbers, how)
    for number, row in enumerate(views):
        at = top + above + number * (above + height + below)
        for place, view in enumerate(row):
            axes = panel(figure, 0.65 + place * slot, at, slot - 0.1, height)
            draw_lines(axes, shown[number][place], view, columns)
            left = percent(view.evidence.left((view.kind,)))
            text = f"{view}\nwithout {view.name((view.kind,))}: {left} correct"
            axes.set_title(text[:1].upper() + text[1:], loc="left", y=1, pad=72 * (0.05 + names))
            if place == 0:
                for y, name in (0, "answer"), (1, "question"):
                    axes.text(-0.05, y, name, ha="right", va="center", color="grey", size=8)
    return figure


def comparison_picture(views: list[list[View]]) -> Figure:
    """Draw the head of each run that attends most to the answers: rows are architectures, columns tasks."""
    findings, rows = [], []
    for row in views:
        right = [f"{view.run.config.task} {percent(view.evidence.left((view.kind,)))}" for view in row]
        kind = "cross-attention" if row[0].kind == "cross" else "attention"
        findings.append(f"{row[0].model} without {kind}: {', '.join(right)} correct")
        rows.append([map_of(view, view.best, f"{view}\n{view.name(view.best)}") for view in row])
    how = how_to_read(views[-1][-1], [row[0].kind for row in views])
    numbers = "For each model, the head that attends most to the needed symbols."
    return grid_picture("; ".join(findings), numbers, (
        f"{how} Accuracy: exact match after zero ablation on {sample(views[0][0].evidence.source)}."
    ), rows)


# ---------------------------------------------------------------- pictures of many sequences


def labels_of_means(view: View) -> tuple[list[str], list[str]]:
    """Return labels for the answering queries and all keys, for means over sequences of one length."""
    reading = view.evidence.reading
    queries = [*range(1, int(is_scored(reading.to_say[0]).sum())), "END"]
    behind = "_" if view.run.architecture == "encoder" else "a{}"
    places = range(1, reading.given[0].size(1) - reading.length - 1)
    keys = ["START", *range(1, reading.length + 1), "END", *map(behind.format, places)]
    return list(map(str, queries)), list(map(str, keys))


def influence_picture(view: View) -> Figure:
    """Draw the best head's attention next to the answers' dependence, on the same sequences."""
    reading, moved = view.evidence.reading, view.evidence.influence
    (kind, layer, head), (queries, keys) = view.best, labels_of_means(view)
    share, own, other = influence_on(reading.cells, moved)
    asked = is_scored(reading.to_say[0])                    # only the queries that answer
    always = reading.cells.all(dim=0)[asked]                # the same cells in all sequences
    name, sentence = view.name(view.best), nothing_outlined(view)
    numbers = f"{view}: means over {sample(reading.source)}."
    how = "Influence: how far the outputs move (total variation, 0 to 1) when a symbol is replaced."
    if moved.isnan().all():
        sentence = "no symbol could be replaced, so what the answers depend on is unknown"
    elif math.isnan(share):
        sentence = "no symbol of the question affects the answers"
    elif view.outlined:
        seen = reading.shares[layer, head].item()
        chance = f"uniform: {percent(reading.chance)}"
        there = f"and {name} attends to them ({percent(seen)} of its attention, {chance})"
        if seen <= reading.enough:
            there = f"but no head attends to them much: {at_most(seen)} at most ({chance})"
        sentence = f"{percent(share)} of the influence comes from the needed symbols, {there}"
        how += f" Needed symbols: {own:.2f}"
        how += "." if math.isnan(other) else f", others: {other:.2f}."
    if always.any():
        how += " Outlined: the needed symbols."
    how += " Hatched: masked, or not replaced."
    if view.run.architecture == "decoder":
        how += " a1, a2, …: answer symbols already generated."
    title = f"attention of\n{view.place(view.best)}"
    looks = Map(reading.maps[kind][layer, head][asked], always, queries, keys, title)
    depends = Map(moved.nanmean(dim=0)[asked], always, queries, keys, "influence on\nthe answers")
    return grid_picture(
        sentence, numbers, how, [[looks, depends]], shared=True, quantity="weight, influence",
        query="query: answer symbol it predicts", key="key: question symbol",
    )


def rows_of_ablation(view: View, most_heads: int = MOST_HEADS) -> list[Part]:
    """List the most important heads and the one attending most to the answers, then layers and kinds.

    If several parts contain the same heads, such as a layer and its only head, only the first is kept.
    """
    heads, different = [head for head in view.costly[:most_heads] if head != view.best], {}
    layers = [part for part in parts_of(view.run.model) if len(part) == 2]
    kinds = [(kind,) for kind in view.reading.maps if len(view.reading.maps) > 1]
    for part in [*heads, view.best, *layers, *kinds, ALL_ATTENTION]:
        different.setdefault(tuple(heads_of(view.run.model, part)), part)
    return list(different.values())


def ablation_sentence(view: View) -> str:
    evidence = view.evidence
    if evidence.left() == 0:
        return NEVER_RIGHT
    if needs_no_attention(view):
        left = percent(evidence.left(ALL_ATTENTION))
        needs_none = f"this {view.model} needs no attention for the task {view.run.config.task}"
        return f"{needs_none}: {left} correct without any"
    if not view.costly:
        left = change(view, ALL_ATTENTION)
        return f"no single head is needed, but attention is: without any, accuracy {left}"
    costly = view.costly[0]
    costs = f"matters most: without it, accuracy {change(view, costly)}"
    if not view.outlined:
        return f"{view.name(costly)} {costs}"
    if costly == view.best:
        return f"{view.name(costly)} attends most to the answers and {costs}"
    brightest = f"{view.name(view.best)}, which attends most to the answers, {price(view, view.best)}"
    return f"{view.name(costly)} {costs}; removing {brightest}"


def loss_colours() -> LinearSegmentedColormap:
    """Return a colour map from the background colour (nothing lost) to dark red."""
    return LinearSegmentedColormap.from_list("loss", [matplotlib.rcParams["axes.facecolor"], "firebrick"])


def draw_ablation(axes: Axes, view: View, rows: list[Part], names: list[str]) -> None:
    """Draw accuracy without each of these parts: one column per question length, and one for all."""
    of_length = lengths_of(view.evidence.source)
    lengths = of_length.unique().tolist()
    columns = [*(of_length == length for length in lengths), of_length > 0]
    right = torch.stack([is_right(view.evidence.margins[row]) for row in rows]).double()
    right = torch.stack([right[:, column].mean(dim=1) for column in columns], dim=1)        # (rows, columns)
    axes.pcolormesh(1 - right.numpy(), cmap=loss_colours(), vmin=0, vmax=1, **SEAMLESS)
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0), xlabel="symbols in the question")
    axes.spines[:].set_visible(True)
    axes.axvline(len(lengths), color=matplotlib.rcParams["text.color"], linewidth=0.8)
    name_ticks(axes, names, [*map(str, lengths), "all"])
    axes.set_title("% correct without …", loc="left")
    if axes.figure.get_figwidth() * axes.get_position().width / len(columns) > 0.25:
        for (row, column), share in numpy.ndenumerate(right.numpy()):
            colour = matplotlib.rcParams["text.color"] if share > 0.4 else "white"
            text = percent(share).removesuffix("%")
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", size=7, color=colour)


def draw_scatter(axes: Axes, view: View) -> None:
    """Plot each head's attention to the answers against the cost of removing it."""
    heads = heads_of(view.run.model, (view.kind,))
    shares = {head: 100 * view.evidence.reading.shares[head[1:]].item() for head in heads}
    costs = {head: 100 * view.evidence.cost(head) for head in heads}
    seaborn.scatterplot(x=shares.values(), y=costs.values(), ax=axes, alpha=0.7)
    axes.set(xlim=(-4, 104), xlabel="% of attention\non the needed symbols", ylabel="points lost without it")
    low, high = min(0, *costs.values()), max(10, *costs.values())
    axes.set_ylim(low - 0.25 * (high - low), high + 0.25 * (high - low))
    costly = max(heads, key=costs.get)
    below = view.best if costs[costly] - costs[view.best] < 0.3 * (high - low) else None
    for head in {costly, view.best}:
        if costs[head] > 0 or head == view.best:
            name = view.place(head).replace("cross-attention ", "cross-attention\n")
            axes.annotate(
                name, (shares[head], costs[head]),
                xytext=(0, -6 if head == below else 6), textcoords="offset points", size=8,
                va="top" if head == below else "bottom", ha="left" if shares[head] < 50 else "right",
            )


def ablation_picture(view: View) -> Figure:
    """Draw accuracy by length without heads, layers and kinds, next to each head's attention and cost."""
    evidence, rows = view.evidence, rows_of_ablation(view)
    names = [view.name(row) for row in rows]
    how = ""
    if view.outlined:
        how += f"Attention measured on {sample(evidence.reading.source)}; each dot is a head."
    if evidence.pair:
        *pair, both = evidence.pair
        either = " and ".join(view.name(head) for head in sorted(pair))
        how += f"\nRedundant pair: {either}; without both, accuracy is {percent(both)}."
    left = 0.2 + inches(names) * 0.9
    lengths = len(lengths_of(evidence.source).unique())
    width, height = min(2.9, max(1.7, 0.4 * (lengths + 1))), 0.24 * len(rows)
    figure, top = new_picture(max(height, 2.2) + 0.75, ablation_sentence(view), (
        f"{view}: zero ablation on {sample(evidence.source)}."
    ), how)
    draw_ablation(panel(figure, left, top + 0.25, width, height), view, rows, names)
    if view.outlined and (room := WIDTH - left - width - 1.0) > 1.2:
        draw_scatter(panel(figure, left + width + 0.75, top + 0.25, room, 2.0), view)
    return figure


def beyond_training(view: View) -> AtLength | None:
    """Return the results at the first length beyond the training lengths."""
    return next((each for each in view.evidence.lengths if each.length > view.run.config.seq_len), None)


def stops(view: View) -> tuple[int, int] | None:
    """Return after how many symbols the model stops beyond the training lengths, and in how many answers.

    None unless it stops exactly where the longest training answers did, and is correct until then.
    """
    at, beyond = {each.length: each for each in view.evidence.lengths}, beyond_training(view)
    if beyond:
        symbols = at[longest(view.run)].target.size(1) - 2
        count, most = beyond.stops_after(symbols), len(beyond.answers)
        if symbols < beyond.target.size(1) - 2 and min(beyond.right[:symbols].min(), count / most) >= 0.9:
            return symbols, count
    return None


def lengths_sentence(views: list[View]) -> str:
    """Describe what happens at the first length beyond those of training."""
    task, beyond = views[0].run.config.task, {view.model: beyond_training(view) for view in views}
    stopping = [view for view in views if stops(view)]
    if stopping:
        names = " and ".join(view.model for view in stopping)
        return f"the {names} learned to {task}, and to stop after {stops(stopping[0])[0]} symbols"
    right = {name: each.exact_match for name, each in beyond.items() if each}
    if not right:
        config = views[0].run.config
        known = usable_lengths(task, "test", 2 * config.seq_len, config.vocab_size)
        if known[-1] <= config.seq_len:
            return f"{task}: there are no questions beyond the training lengths"
        return f"{task}: the model has no positions for questions longer than those in training"
    best = max(right, key=right.get)
    length = beyond[best].length
    if right[best] >= 0.5:
        there = f"{percent(right[best])} correct at length {length}"
        return f"the {best} generalises beyond the training lengths: {there}"
    there = f"at most {at_most(right[best])} correct at length {length}"
    return f"no model generalises beyond the training lengths: {there}"


def draw_places(axes: Axes, view: View) -> None:
    """Draw how often each answer position is correct (columns), by question length (rows)."""
    lengths, name = view.evidence.lengths, view.model
    places = max(len(each.right) for each in lengths)
    wrong = torch.full((len(lengths), places), torch.nan)
    for row, each in enumerate(lengths):
        wrong[row, : len(each.right)] = 1 - each.right
        axes.add_patch(Rectangle((len(each.right) - 1, row), 1, 1, fill=False, linewidth=0.6, zorder=3))
    hatch(axes, 0, 0, places, len(lengths))
    axes.pcolormesh(wrong.numpy(), cmap=loss_colours(), vmin=0, vmax=1, **SEAMLESS)
    axes.set(xlim=(0, places), ylim=(len(lengths), 0))
    axes.spines[:].set_visible(True)
    trained = sum(each.length <= view.run.config.seq_len for each in lengths)
    axes.axhline(trained, color=matplotlib.rcParams["text.color"], linewidth=1.2)
    name_ticks(axes, [str(each.length) for each in lengths], [str(place + 1) for place in range(places)], 7)
    if beyond := beyond_training(view):
        name += f"\nlength {beyond.length}: {percent(beyond.exact_match)} correct"
        if found := stops(view):
            name += f"\nEND after {found[0]} symbols: {found[1]} of {len(beyond.answers)}"
        if view.outlined:
            share = beyond.reading.shares[view.best[1:]].item()
            name += f"\nbest head: {percent(share)} of its attention on the answer"
    axes.set_title(name, loc="left", size=8)


def lengths_picture(views: list[View]) -> Figure:
    """Draw the accuracy of all runs of a task on questions within and beyond the training lengths."""
    most = max((view.evidence.lengths for view in views), key=len)
    how = (
        "Shaded: training lengths. Distinct: how many of the sequences of that length are distinct.\n"
        "Tables: red is wrong, outlined cells are END, and lengths below the line are beyond training."
    )
    numbers = f"{views[0].run.config.task}: {SEQUENCES_EACH} unseen sequences of each length."
    rows, slot = len(most), (WIDTH - 0.45) / len(views)
    height = min(2.0, max(0.5, 0.16 * rows))
    figure, top = new_picture(height + 3.25, lengths_sentence(views), numbers, how)
    axes = panel(figure, 0.75, top + 0.1, 5.6, 1.5)
    for shortest, seq_len in {
        (view.run.config.seq_len if view.run.config.fixed_length else 1, view.run.config.seq_len)
        for view in views
    }:
        axes.axvspan(shortest - 0.5, seq_len + 0.5, color="grey", alpha=0.2)
    for view, style in zip(views, ("o-", "s--", "^:"), strict=False):
        lengths = view.evidence.lengths
        right = [100 * each.exact_match for each in lengths]
        axes.plot([each.length for each in lengths], right, style, label=view.model)
    axes.set(ylabel="% correct", ylim=(-3, 103), xlim=(most[0].length - 0.5, most[-1].length + 0.5))
    room, named = 5.6 / (most[-1].length - most[0].length + 1), most[:1]
    for each in most:
        if (each.length - named[-1].length) * room > 0.25:
            named.append(each)
    names = [f"{each.length}\n{len(each.reading.source.unique(dim=0))}" for each in named]
    axes.set_xticks([each.length for each in named], names)
    axes.text(-0.02, -0.07, "length\ndistinct", ha="right", va="top", transform=axes.transAxes)
    name_lines(axes)
    for place, view in enumerate(views):
        axes = panel(figure, 0.45 + place * slot, top + 2.65, slot - 0.35, height)
        draw_places(axes, view)
        axes.set_xlabel("position in the answer")
        if place == 0:
            axes.set_ylabel("symbols in the question" if height > 1.7 else "length")
    return figure


def largest_step(scores: dict[str, float]) -> tuple[str, str]:
    """Return the sublayer that adds most to the score, preceded by the one before it."""
    return max(itertools.pairwise(scores), key=lambda step: scores[step[1]] - scores[step[0]])


def layers_sentence(scores: dict[str, float]) -> str:
    """State after which sublayer the answer appears: the first to reach 90% of the final score."""
    embedding, *_, final = scores.values()
    if final < 0.5:
        return f"the answers never appear: only {percent(final)} of the tokens are correct at the end"
    if embedding >= 0.9 * final:
        return f"the answers are present before the first layer: {percent(embedding)} of the tokens correct"
    before, after = largest_step(scores)
    if scores[after] - scores[before] < final / 2:
        return f"the answers build up gradually, to {percent(final)} of the tokens"
    first = next(name for name, score in scores.items() if score >= 0.9 * final)
    there = f"{first}: {percent(scores[first])} of the tokens"
    return f"accuracy first reaches 90% of its final value after {there}"


def layers_picture(view: View) -> Figure:
    """Draw what the model would predict after each sublayer, and how much its heads attend to the answers."""
    lens, shares = view.evidence.lens, view.evidence.reading.shares
    names, places = list(lens), range(len(lens))
    tokens = {name: score for name, (score, _) in lens.items()}
    before, after = largest_step(tokens)
    change_there = f"{percent(tokens[before])} → {percent(tokens[after])}"
    numbers = f"{view}."
    if tokens[after] > tokens[before]:
        numbers = f"{view}. The largest gain is at {after}: {change_there}."
    how = (
        "Accuracy by logit lens: the final norm and output projection applied to the residual stream, "
        f"on {sample(view.evidence.source)}."
    )
    if view.outlined:
        how += f" Each dot is a head, measured on {sample(view.evidence.reading.source)}."
    spacing, below = 5.8 / len(names), 0.55
    labels = ["\n".join(name.rsplit(" ", 1)).replace("-", "-\n") for name in names]
    if turned := spacing < 0.6:
        labels, below = names, 0.1 + inches(names, 7)
    height = 2.2 + below + (1.1 if view.outlined else 0)
    figure, top = new_picture(height, layers_sentence(tokens), numbers, how)
    axes = panel(figure, 0.9, top + 0.1, 5.8, 2.0)
    axes.plot(places, [100 * score for score in tokens.values()], "s--", label="token accuracy")
    axes.plot(places, [100 * whole for _, whole in lens.values()], "o-", label="exact match")
    limits = -0.5, len(names) - 0.5
    axes.set(ylabel="%", ylim=(-3, 103), xlim=limits)
    if view.outlined:
        dots = panel(figure, 0.9, top + 2.3, 5.8, 0.9)
        sublayer = "cross-attention" if view.kind == "cross" else " attention"
        at = [place for place, name in enumerate(names) if name.endswith(sublayer)]
        for place, of_layer in zip(at, 100 * shares, strict=True):
            dots.plot([place] * len(of_layer), of_layer, "o", color="grey", alpha=0.6)
        dots.set(ylabel="% of attention\non the answers", ylim=(-6, 106), xlim=limits)
        axes.set_xticks(places, [])
    step = math.ceil(0.13 / spacing)
    figure.axes[-1].set_xticks(places[::step], labels[::step], rotation=90 * turned, size=7)
    name_lines(axes)
    return figure


# ---------------------------------------------------------------- how attention forms during training


@dataclass
class Film:
    """The contents of a run's animation; moments are epochs, numbered from 0."""

    view: View                                              # of the question whose attention was recorded
    heads: list[Head]                                       # one of each layer
    curves: dict[str, list[float]]                          # fractions after each epoch, by name

    @property
    def steps(self) -> list[int]:
        """The step at which each epoch ended."""
        return self.view.record["step"].tolist()

    @property
    def best(self) -> Head:
        """The head that attends most to the answer at the end of training."""
        return max((head for head in self.heads if head[0] == self.view.kind), key=self.view.share)

    def map(self, head: Head, epoch: int) -> Map:
        """Return a head's attention after an epoch."""
        shown, (kind, layer, index) = map_of(self.view, head), head
        weights = torch.from_numpy(self.view.record[kind][epoch, layer, index]).float()
        return replace(shown, weights=weights.masked_fill(shown.weights.isnan(), torch.nan))

    def moments(self, early: int, late: int) -> list[int]:
        """Return this many epochs from the learning phase, then this many up to the last."""
        last = len(self.steps) - 1
        learned = min(last, 2 * max(map(half_way, self.curves.values())))
        places = [*numpy.linspace(0, learned, early), *numpy.linspace(learned, last, late)]
        return sorted({round(place) for place in places})


@lru_cache(maxsize=1)                                       # used for both film.png and film.gif
def film_of(view: View) -> Film:
    """Return the animation of a run that has a record.

    For each layer, it shows the head that attends most to the answer at the end, or else the most focused
    one. Its curves are the symbol accuracy and, if there is an answer to attend to, the best head's attention
    to it.
    """
    run, record = view.run, view.record
    source, target = (torch.from_numpy(record[name])[None] for name in ("source", "target"))
    view = replace(view, reading=read(run, source, *arrange(run.architecture, source, target)))
    heads = []
    for kind, maps in view.reading.maps.items():
        for layer, of_layer in enumerate(maps):
            if kind == view.kind and view.outlined:
                head = int(view.reading.shares[layer].argmax())
            else:
                *_, head = most_focused(kind, of_layer[None])
            heads.append((kind, layer, head))
    film = Film(view, heads, {"symbols correct": record["right"].tolist()})
    if view.outlined:
        _, layer, head = film.best
        film.curves["attention on the answer"] = shares_in_training(run, record)[:, layer, head].tolist()
    return film


def film_sentence(
    steps: list[int], right: list[float], share: list[float] | None = None, enough: float = 0.5
) -> str:
    """State whether the correct symbols or the attention pattern emerge first."""
    symbols = steps[half_way(right)]
    if right[-1] < 0.5:
        return f"most symbols are still incorrect at step {steps[-1]}"
    text = f"the correct symbols emerge at step {symbols}"
    if share is None:
        return text
    if share[-1] <= enough:
        return f"{text}; no head ever attends mainly to the symbols they need"
    pattern = steps[half_way(share)]
    if symbols == pattern:
        return f"the correct symbols and the attention pattern emerge together, at step {symbols}"
    if symbols < pattern:
        return f"{text}, the attention pattern at step {pattern}"
    return f"the attention pattern emerges at step {pattern}, the correct symbols at step {symbols}"


def film_texts(film: Film) -> tuple[str, str, str]:
    """Return the title, the details and the caption."""
    view, config = film.view, film.view.run.config
    question = to_text(view.reading.source[0, 1:-1], config.task)
    how = "Maps: in each layer, the head that finally attends most to the answer, or else the most focused.\n"
    how += f"Solid: accuracy on {PROBES} questions of this length."
    if view.outlined:
        how += f" Dashed: {view.place(film.best)}, on this question."
    sentence = film_sentence(film.steps, *film.curves.values(), enough=view.reading.enough)
    numbers = f"{view}, seed {config.seed}, on {question}. Each is dated by when its curve is half-way up."
    return sentence, numbers, how


def draw_film_curves(axes: Axes, film: Film) -> None:
    """Draw the rise in accuracy and in attention to the answers."""
    for (name, values), style in zip(film.curves.items(), ("-", "--"), strict=False):
        axes.plot(film.steps, [100 * value for value in values], style, label=name)
    axes.set(xlabel="training step", ylabel="%", ylim=(-3, 103), xlim=(0, 1.02 * film.steps[-1]))
    name_lines(axes)


def draw_film(film: Film, moments: list[int]) -> Figure:
    """Draw a row of maps for each moment, at most six layers side by side, then the curves."""
    maps = [map_of(film.view, head) for head in film.heads]
    rows = [film.heads[first : first + 6] for first in range(0, len(maps), 6)]
    slot, beside = (WIDTH - 0.55) / len(rows[0]), 0.1 + max(inches(shown.queries, 7) for shown in maps)
    queries, keys = (max(len(getattr(shown, name)) for shown in maps) for name in ("queries", "keys"))
    cell = min(min(1.4, slot - beside - 0.1) / keys, 1.4 / queries)
    below = max(room_below(shown.keys, cell * len(shown.keys), 7) for shown in maps)
    tall = 0.08 + cell * queries
    block = 0.45 + tall * len(moments) + below
    sentence, numbers, how = film_texts(film)
    figure, top = new_picture(block * len(rows) + 2.1, sentence, numbers, how)
    for (number, row), (moment, epoch) in itertools.product(enumerate(rows), enumerate(moments)):
        at = top + number * block + 0.4 + moment * tall
        for place, head in enumerate(row):
            shown, left = film.map(head, epoch), 0.4 + place * slot + beside
            axes = panel(figure, left, at, cell * len(shown.keys), cell * len(shown.queries))
            draw_map(axes, shown)
            name_ticks(axes, shown.queries, shown.keys if epoch == moments[-1] else [], 7)
            if moment == 0:
                axes.set_title(textwrap.fill(film.view.place(head), 18), loc="left", size=8)
            if place == 0:
                x, text = -beside / cell / len(shown.keys), f"step {film.steps[epoch]}"
                style = {"rotation": 90, "ha": "right", "va": "center", "transform": axes.transAxes}
                axes.text(x, 0.5, text, **style)
    draw_film_curves(panel(figure, 0.75, top + block * len(rows) + 0.1, 5.2, 1.5), film)
    return figure


def film_picture(view: View) -> Figure:
    """Draw four moments of training."""
    film = film_of(view)
    return draw_film(film, film.moments(early=3, late=2))


def film_palette() -> Image.Image:
    """Return a GIF palette of 256 colours: the map colours, and ramps from background to text and lines."""
    style = matplotlib.rcParams
    inks = [style[name] for name in ("text.color", "grid.color", "axes.edgecolor")] + ["C0", "C1"]
    ramps = [LinearSegmentedColormap.from_list("ramp", [style["figure.facecolor"], ink]) for ink in inks]
    colours = numpy.concatenate([
        colours(numpy.linspace(0, 1, count))[:, :3]
        for colours, count in [(matplotlib.colormaps["viridis"], 196), *((ramp, 12) for ramp in ramps)]
    ])
    palette = Image.new("P", (1, 1))
    palette.putpalette((255 * colours).round().astype("uint8").tobytes())
    return palette


def film_frames(film: Film) -> list[Image.Image]:
    """Render the frames in order, drawing anything that does not change only once."""
    figure = draw_film(film, [len(film.steps) - 1])
    figure.set_dpi(100)
    canvas, (*maps, axes) = FigureCanvasAgg(figure), figure.axes
    (step,), lines = maps[0].texts, axes.get_lines()
    curves, moving = [line.get_data() for line in lines], [*lines, step]
    for axes in maps:
        moving += [*axes.collections, *axes.spines.values()]
    for artist in moving:
        artist.set_animated(True)
    canvas.draw()                                           # everything that does not change
    still, frames = canvas.copy_from_bbox(figure.bbox), []
    for epoch in film.moments(early=36, late=12):
        canvas.restore_region(still)
        step.set_text(f"step {film.steps[epoch]}")
        for axes, head in zip(maps, film.heads, strict=True):
            axes.collections[0].set_array(film.map(head, epoch).weights.numpy())
        for line, (steps, values) in zip(lines, curves, strict=True):
            line.set_data(steps[: epoch + 1], values[: epoch + 1])
        for artist in moving:
            artist.draw(canvas.get_renderer())
        frames.append(Image.fromarray(numpy.array(canvas.buffer_rgba())).convert("RGB"))
    return frames


def save_film(view: View, command: str, path: Path) -> str:
    """Write how attention forms, as an animation that plays once and takes at most 5 seconds."""
    film, palette = film_of(view), film_palette()
    frames = film_frames(film)
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    duration = 5000 // len(frames) // 10 * 10               # of a frame, in milliseconds
    sentence = film_texts(film)[0]
    texts = json.dumps({"Title": sentence[0].upper() + sentence[1:], "Source": command})
    with replacing(path) as unfinished:
        first.save(unfinished, save_all=True, append_images=others, duration=duration, comment=texts)
    return f"the same as an animation of {len(frames)} frames"


# ---------------------------------------------------------------- pictures of weights that were set by hand


READS_AND_WRITES = {                                        # the matrices of attention and feed-forward
    "query_projection": ("stream", "head"), "key_projection": ("stream", "head"),
    "value_projection": ("stream", "head"), "output_projection": ("head", "stream"),
    "expand": ("stream", "hidden unit"), "contract": ("hidden unit", "stream"),
}
Matrix = tuple[Tensor, str, str]                            # (outputs, inputs), names of inputs and outputs


def with_bias(layer: nn.Linear, read: str, written: str) -> Matrix:
    """Return the weights of a layer, with its bias as one more column."""
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach(), read, written


def weight_matrices(view: View) -> dict[str, dict[str, Matrix]]:
    """Return the matrices outside the layers and of every non-zero sublayer, without norms."""
    model = view.run.model
    names = {attention: view.place((*place, 0)) for place, attention in attention_at(model).items()}
    for block in model.modules():
        if isinstance(block, TransformerBlock):
            names[block.feed_forward] = names[block.attention].replace("head 1", "feed-forward")
    groups = {"outside the layers": {
        "token embedding": (model.embedding.weight.detach().T, "token", "stream"),
        "positional encoding": (model.positional_encoding.table.detach().T, "place", "stream"),
        "output projection": with_bias(model.output_projection, "stream", "token"),
    }}
    for sublayer in [module for module in model.modules() if module in names]:     # in their order
        matrices = {
            part.removesuffix("_projection"): with_bias(getattr(sublayer, part), *ends)
            for part, ends in READS_AND_WRITES.items() if hasattr(sublayer, part)
        }
        if any(matrix.any() for matrix, _, _ in matrices.values()):
            name = names[sublayer]
            groups[f"{name}: {view.run.purposes.get(name, '')}"] = matrices
    return groups


def name_parts(axis: Axis, size: int, what: str, stream: dict[str, tuple[int, int]]) -> None:
    """Name the parts of the residual stream along an axis, or else what its rows or columns are."""
    parts = stream if what == "stream" else {what: (0, size)}
    axis.set_ticks([sum(edges) / 2 for edges in parts.values()], list(parts), size=7)
    axis.set_ticks(sorted({edge for edges in parts.values() for edge in edges}), minor=True)
    axis.set_tick_params(which="both", length=0, pad=3)
    axis.grid(which="minor", linewidth=0.4)
    upright = (axis.axis_name == "x") == (what == "stream")
    axis.set_tick_params(rotation=90 if upright else 0)


def draw_matrix(axes: Axes, matrix: Matrix, stream: dict[str, tuple[int, int]]) -> None:
    """Draw a square for each non-zero weight."""
    weights, read, written = matrix
    rows, columns = weights.shape
    style = {"s": 7, "marker": "s", "linewidth": 0, "clip_on": False, "zorder": 3}
    for sign, colour in (weights > 0, "tab:blue"), (weights < 0, "tab:orange"):
        down, across = sign.nonzero().T.numpy()
        axes.scatter(across + 0.5, down + 0.5, color=colour, **style)
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.spines[:].set_visible(True)
    name_parts(axes.xaxis, columns, read, stream)
    name_parts(axes.yaxis, rows, written, stream)


def weights_picture(view: View) -> Figure:
    """Draw every weight matrix of a hand-built model, with the parts of the residual stream labelled."""
    groups, size, across, down = weight_matrices(view), 1.3, 1.95, 2.15
    count = sum(int(matrix.count_nonzero()) for group in groups.values() for matrix, _, _ in group.values())
    figure, top = new_picture(down * len(groups), f"only {count} weights are non-zero", f"{view}.", (
        "Rows: outputs. Columns: inputs, then the bias. Blue: positive, orange: negative.\n"
        "Not shown: all-zero sublayers, and the norms, which return their input unchanged."
    ))
    for row, (group, matrices) in enumerate(groups.items()):
        y = top + 0.4 + down * row
        figure.text(0.7 / WIDTH, 1 - (y - 0.22) / figure.get_figheight(), group, weight="bold", va="bottom")
        for column, (name, matrix) in enumerate(matrices.items()):
            axes = panel(figure, 0.7 + across * column, y, size, size)
            draw_matrix(axes, matrix, view.run.stream)
            axes.set_title(name, loc="left")
    return figure


def draw_half(
    figure: Figure, view: View, rows: list[Part], label: str, left: float, top: float, width: float
) -> None:
    """Draw the most important head and the one attending most to the answers, above an ablation table."""
    figure.text(left / WIDTH, 1 - top / figure.get_figheight(), label, weight="bold", va="top", size=10)
    for place, head in enumerate(dict.fromkeys([*view.costly[:1], view.best])):
        purpose = view.run.purposes.get(view.place(head)) or price(view, head)
        shown = map_of(view, head)
        names = 0.15 + inches(shown.queries)
        size = width / 2 - 0.05 - names
        height = size * len(shown.queries) / len(shown.keys)
        axes = panel(figure, left + names + place * width / 2, top + 0.75, size, height)
        draw_map(axes, shown)
        name_ticks(axes, shown.queries, shown.keys, 7)
        axes.set_title(f"{textwrap.fill(view.place(head), 24)}\n{purpose}", loc="left")
    names = [view.place(row) for row in rows]
    beside = 0.1 + 0.9 * inches(names)
    table = panel(figure, left + beside, top + 1.5 + size, width - beside - 0.1, 0.24 * len(rows))
    draw_ablation(table, view, rows, names)


def beside_picture(built: View, trained: View) -> Figure:
    """Draw a hand-built model next to a trained one, on the same sequence and the same tests."""
    halves = {"hand-built": built, "trained": trained}
    counts = [
        f"{len(view.costly) or 'none'} of {len(heads_of(view.run.model))} {label}"
        for label, view in halves.items()
    ]
    rows = [rows_of_ablation(view, most_heads=3) for view in halves.values()]
    height = 3.35 + 0.24 * max(map(len, rows))
    sentence = f"heads that matter on their own: {', '.join(counts)}"
    figure, top = new_picture(height, sentence, run_text(trained), (
        f"{how_to_read(trained, [trained.kind])} Maps: the head that matters most, and the one that "
        f"attends most to the answers. Tables: zero ablation on {sample(trained.evidence.source)}."
    ))
    for left, label, shown in zip((MARGIN, MARGIN + 3.9), halves, rows, strict=True):
        draw_half(figure, halves[label], shown, label, left, top, 3.85)
    return figure


# ---------------------------------------------------------------- pictures of several runs


Curves = dict[Path, tuple[Config, list[dict]]]              # of each run's folder: settings and history


def runs_in(folders: list[Path]) -> Curves:
    """Return settings and history of each run in these folders. Raises ValueError for a folder without a run.

    The weights are not checked: they may come from a modified transformer.py.
    """
    runs = {}
    for folder in folders:
        there = [folder, *runs_below(folder)] if (folder / "checkpoint.pt").is_file() else runs_below(folder)
        if not there:
            raise ValueError(f"no run found in {folder}; pass a folder written by python train.py")
        for path in there:
            checkpoint, config = open_checkpoint(path, "train it again")
            runs[path] = config, checkpoint["history"]
    return runs


def labels_by_difference(configs: dict[Path, Config]) -> dict[Path, str]:
    """Label each run by the settings that distinguish it from the others, or else by its folder."""
    settings = {path: asdict(config) for path, config in configs.items()}
    every = list(settings.values())
    differing = [name for name in every[0] if any(one[name] != every[0][name] for one in every)]
    labels = {
        path: ", ".join(setting_text(name, one[name]) for name in differing) for path, one in settings.items()
    }
    if len(set(labels.values())) < len(labels):             # same settings, but different code
        labels = {path: ", ".join(filter(None, [str(path), label])) for path, label in labels.items()}
    return labels


def training_curves_picture(runs: Curves) -> Figure:
    """Plot loss and exact match of several runs over their steps, labelled by what differs."""
    labels = labels_by_difference({path: config for path, (config, _) in runs.items()})
    solved = {path: row["step"] for path, (_, history) in runs.items() if (row := first_solved(history))}
    sentence = f"none of the {len(runs)} runs solved the task"
    if solved:
        first = min(solved, key=solved.get)
        sentence = (
            f"{len(solved)} of {len(runs)} runs solved the task, the earliest at step {solved[first]}: "
            f"{labels[first]}"
        )
    if len(runs) == 1:
        sentence = f"solved at step {solved[first]}" if solved else "not solved"
        labels = dict.fromkeys(runs, "this run")
    names = ["\n".join(textwrap.wrap(label, SMALL - 20)) for label in labels.values()]
    below = 0.17 * sum(name.count("\n") + 1 for name in names) + 0.15
    tasks = dict.fromkeys(config.name for config, _ in runs.values())
    figure, top = new_picture(3.1 + below, sentence, " and ".join(tasks))
    loss_axes, accuracy_axes = (panel(figure, left, top + 0.1, 3.1, 2.4) for left in (0.75, 4.65))
    for name, (path, (_, history)) in zip(names, runs.items(), strict=True):
        outcome = f"solved at step {solved[path]}" if path in solved else "not solved"
        steps, label = [row["step"] for row in history], f"{name}: {outcome}"
        loss_axes.plot(steps, [row["loss"] for row in history], label=label)
        accuracy_axes.plot(steps, [100 * row["exact_match"] for row in history], label=label)
    name_loss_axes(loss_axes)
    ylabel = f"exact match on {EVALUATION_BATCH} validation sequences, %"
    accuracy_axes.set(xlabel="training step", ylabel=ylabel, ylim=(-3, 103))
    figure.legend(*loss_axes.get_legend_handles_labels(), loc="lower left", frameon=False)
    return figure


def evidence_in(folders: list[Path]) -> dict[str, Evidence]:
    """Return the runs in these folders, by distinct label.

    Raises ValueError if one is missing or too many.
    """
    configs = {path: config for path, (config, _) in runs_in(folders).items()}
    labels = labels_by_difference(configs)
    if len(labels) > MOST_BALANCED:
        raise ValueError(
            f"--balance shows at most {MOST_BALANCED} runs, and these folders hold {len(labels)}"
        )
    return {
        label or path.name: Evidence(read_run(path, configs[path].task, configs[path].architecture))
        for path, label in labels.items()
    }


def balance_sentence(runs: dict[str, Evidence], loud: dict[str, list[dict[str, float]]]) -> str:
    """State whether the task is learned exactly where positions outweigh symbols."""
    task = next(iter(runs.values())).run.config.task
    learned = {label for label, evidence in runs.items() if evidence.left() > 0.99}
    positions_lead = {label for label, (_, after) in loud.items() if after["positions"] > after["symbols"]}
    if learned == positions_lead and 0 < len(learned) < len(runs):
        return f"{task} is learned only where positions come to outweigh symbols"
    return "how strongly positions and symbols drive the scores of layer 1"


def balance_picture(runs: dict[str, Evidence]) -> Figure:
    """Draw how strongly positions and symbols drive the first attention, before and after training."""
    loud = {}
    for label, evidence in runs.items():
        run = evidence.run
        source, _, _ = unseen_sequences(run, longest(run), SEQUENCES_EACH)
        loud[label] = [loudness(model, source) for model in (untrained(run.config), run.model)]
    how = (
        "Loudness: the standard deviation, over the keys, of one part of layer 1's scores q·k / √Dh.\n"
        "Positions: the part due to positional encodings alone. Symbols: the part due to token embeddings."
    )
    slot = (WIDTH - 0.6) / len(runs)
    names = {label: textwrap.fill(label, int(12 * slot) - 4) for label in runs}
    above = 0.3 + 0.15 * max(name.count("\n") + 1 for name in names.values())
    numbers = f"Means over {sample(source)}."
    figure, top = new_picture(above + 2.3, balance_sentence(runs, loud), numbers, how)
    most = max(max(one.values()) for both in loud.values() for one in both)
    for place, (label, evidence) in enumerate(runs.items()):
        axes = panel(figure, 0.6 + place * slot, top + above, slot - 0.25, 1.8)
        for offset, name, pattern in (-0.2, "positions", ""), (0.2, "symbols", "///"):
            heights = [one[name] for one in loud[label]]
            style = {"hatch": pattern, "edgecolor": matplotlib.rcParams["axes.facecolor"], "label": name}
            bars = axes.bar([offset, 1 + offset], heights, 0.36, **style)
            axes.bar_label(bars, [f"{height:.2g}" for height in heights], padding=1, size=8)
        axes.set_xticks([0, 1], ["before", "after"])
        axes.set(ylim=(0, 1.1 * most), xlim=(-0.5, 1.5), xlabel="training")
        axes.set_title(f"{names[label]}\n{percent(evidence.left())} correct", loc="left")
        if place:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel("loudness")
            axes.legend(frameon=False)
    return figure


# ---------------------------------------------------------------- command line


def training_view(view: View) -> Figure:
    """Draw the training curves exactly as train.py does."""
    return training_picture(view.run.config, view.run.history)


def mistakes_view(view: View) -> Figure:
    """Draw which kinds of questions are answered incorrectly."""
    return mistakes_picture(view.run.config, by_kind(view.mistakes))


OF_ONE_SEQUENCE = {                                         # these show one sequence, …
    "attention_head": head_picture, "attention_layer": layer_picture, "attention_model": model_picture,
    "attention_kinds": kinds_picture,
}
PICTURES = OF_ONE_SEQUENCE | {                              # … the others what was measured on many
    "influence": influence_picture, "ablation": ablation_picture, "layers": layers_picture,
    "training": training_view, "mistakes": mistakes_view, "film": film_picture, "weights": weights_picture,
}


Files = Iterator[tuple[Path | str, Callable[[Path], str]]]  # with what writes each and returns its sentence


def save(draw: Callable[[], Figure], command: str, path: Path) -> str:
    """Draw a picture and save it with the command that made it; return its title."""
    figure = draw()
    save_picture(figure, path, command)
    return figure.get_suptitle().replace("\n", " ")


@contextmanager
def reported(what: object, failed: list[object]) -> Iterator[None]:
    """Report an error within the block in one line and note what failed, so that the rest is still drawn."""
    try:
        yield
    except OSError:                                         # a full disk would spoil all the others as well
        raise
    except Exception as error:                              # a bug of ours, or of the reader's own code
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}, line {frame.lineno}"
        tqdm.write(f"error: {what} is missing: {type(error).__name__}: {first_line(error)} ({place})",
                   file=sys.stderr)
        failed.append(what)


def write_all(files: Files, failed: list[object]) -> None:
    """Write these files one after the other and print what each shows; note those that failed."""
    for path, write in files:
        with reported(path, failed):
            if said := write(path):
                tqdm.write(f"{path}: {said}", file=sys.stdout)


def is_trained(view: View) -> bool:
    """Return True if the weights come from training and were not set by hand."""
    return view.run.history[-1]["step"] > 0


def says_nothing(name: str, view: View) -> bool:
    """Return whether this picture would be uninformative for the run."""
    if name in ("training", "mistakes", "film") and view.run.changed:       # stored when the code was another
        return True
    if name == "training":
        return not is_trained(view)
    if name == "mistakes":
        return view.mistakes is None
    if name == "film":
        return not is_trained(view) or view.record is None
    if name == "weights":
        return not view.run.stream                          # the parts of a learned stream have no names
    return name == "attention_kinds" and len(view.reading.maps) == 1


def save_live_page(view: View, path: Path) -> str:
    try:
        save_page(view.run, path)
    except ValueError as error:
        print(f"no live page for {view.run.config.name}: {error}", file=sys.stderr)
        return ""
    return "an interactive page: question this model, cut its heads and see what breaks"


def save_heads(view: View, path: Path) -> str:
    save_table([
        {name: round(x, 4) if isinstance(x, float) else x for name, x in row.items()}
        for row in head_table(view.evidence)
    ], path)
    return ""


def probe_text(view: View) -> str:
    """Report how well a linear probe decodes the sequence length before and after layer 1's attention, or "".

    The untrained model is included for comparison: untrained attention averages the positions, and their mean
    depends on the length.
    """
    run = view.run
    if run.architecture != "encoder" or sum(length > 1 for length in run.config.lengths("test")) < 2:
        return ""
    before, after = probe_length(run)
    _, control = probe_length(replace(run, model=untrained(run.config)))
    return (
        "a linear probe on a symbol's residual stream decodes the sequence length with "
        f"{percent(before)} accuracy before layer 1, {percent(after)} after its attention "
        f"(untrained model: {percent(control)})"
    )


def files_of_run(
    view: View, folder: Path, ending: str, pictures: dict[str, Callable[[View], Figure]], command: str
) -> Files:
    """Yield these pictures of a run; with those of many sequences also its live page and a table of heads."""
    for name, picture in pictures.items():
        if not says_nothing(name, view):
            yield folder / f"{name}{ending}", partial(save, partial(picture, view), command)
    if pictures is PICTURES:
        if not says_nothing("film", view):
            yield folder / "film.gif", partial(save_film, view, command)
        elif is_trained(view) and not view.run.changed:
            path = view.run.folder / "attention.npz"
            reason = "does not cover the whole run" if path.exists() else "does not exist"
            reason = f"{path} {reason}; train again to record it"
            print(f"no animation for {view.run.config.name}: {reason}", file=sys.stderr)
        yield folder / "explorer.html", partial(save_live_page, view)
        yield folder / "heads.csv", partial(save_heads, view)
        if not says_nothing("mistakes", view):
            yield folder / "mistakes.csv", partial(save_mistakes, view.mistakes)
        yield f"{view}", lambda _: probe_text(view)


def name_in_file(text: str) -> str:
    """Turn words into part of a file name: 5 9 12 becomes 5-9-12. Encode or cut whatever does not fit."""
    name = quote("-".join(text.split()), safe="+")
    return name if len(name) <= 80 else f"{name[:70]}-{crc32(name.encode()):08x}"


def command_of(options: argparse.Namespace) -> str:
    """Return the command for these options, without the folders that are read and written."""
    words = ["python", "visualize.py"]
    for name in "task", "architecture", "sequence", "compare", "balance":
        if given := getattr(options, name):
            words += [f"--{name}", *map(str, given)]
    if options.format != "png":
        words += ["--format", options.format]
    return shlex.join(words + ["--dark"] * options.dark)


def changes(options: argparse.Namespace, read: Iterable[Run]) -> dict[Path, str]:
    """Describe for each run how the current code differs; "" if it does not. Some are already loaded."""
    found = {run.folder: run.changed for run in read}
    for folder in runs_below(options.models_dir):
        if folder in found:
            continue
        with suppress(ValueError):                          # it cannot be read, which was reported
            found[folder] = read_run(folder, task_of(folder), folder.name, quiet=True).changed
    return found


def save_gallery_of(options: argparse.Namespace, runs: Iterable[Run]) -> None:
    """Save a gallery of everything in the picture folder; its path is the last line printed.

    runs are those already loaded.
    """
    words = []
    if options.models_dir != DEFAULT_FOLDER:
        words += ["--models-dir", str(options.models_dir)]
    if options.output_dir != options.models_dir:
        words += ["--output-dir", str(options.output_dir)]
    try:
        folders = f" {shlex.join(words)}" if words else ""
        path = save_gallery(options.output_dir, options.models_dir, folders, changes(options, runs))
        print(f"To browse all pictures, animations and live pages, open:\n{path}")
    except ValueError as error:
        print(f"no gallery: {error}", file=sys.stderr)


def file_of_folders(
    draw: Callable[[], Figure], what: str, folders: list[Path], options: argparse.Namespace
) -> Files:
    """Yield a picture of the runs in several folders, in a file named after them."""
    names = [
        " ".join(part for part in Path(os.path.relpath(folder, options.models_dir)).parts if part != "..")
        for folder in folders
    ]
    name = "_vs_".join(name_in_file(name) or options.models_dir.name for name in names)
    yield options.output_dir / f"{what}_{name}.{options.format}", partial(save, draw, command_of(options))


def parse() -> argparse.Namespace:
    parser = new_parser(
        "Draw where the heads of trained models attend, and how accurate the models are without them.\n"
        "Without options, every run found is drawn.",
        "python visualize.py", "python visualize.py --sequence 5 9 12 14",
        "python visualize.py --task add --architecture encoder --sequence 4 2 + 1 9",
        "python visualize.py --format svg --dark --output-dir slides",
    )
    add_choice(parser, "--task", task_names())
    add_choice(parser, "--architecture", ARCHITECTURES)
    option = parser.add_argument
    option("--sequence", nargs="+", metavar="SYMBOL",
           help="a question in the notation of data.py, e.g. 5 7 9, 4 2 + 1 9 or 5 _ 5 7")
    only = parser.add_mutually_exclusive_group().add_argument
    only("--compare", nargs="+", type=folder_name, metavar="FOLDER",
         help="draw only the training curves of all runs in these folders, in one picture")
    only("--balance", nargs="+", type=folder_name, metavar="FOLDER",
         help="draw only how strongly positions and symbols drive the layer 1 scores of these runs")
    option("--models-dir", type=folder_name, default=DEFAULT_FOLDER, metavar="FOLDER",
           help="folder in which train.py saved the runs (default: models)")
    option("--output-dir", type=folder_name, metavar="FOLDER",
           help="folder in which to save the pictures (default: next to each run)")
    option("--format", choices=["png", "svg", "pdf"], default="png",
           help="format of the pictures (default: png)")
    option("--dark", action="store_true", help="draw on a dark background")
    options = parse_options(parser)
    if options.compare or options.balance:
        for name in "task", "architecture", "sequence":
            if getattr(options, name):
                fail(f"--compare and --balance draw all runs in their folders; drop --{name}")
    options.output_dir = options.output_dir or options.models_dir
    return options


def wanted_runs(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Return architecture and task of the runs to draw: all that are found, or those named.

    Runs named but not found are included, so that loading them reports how to train them. Raises ValueError
    if nothing is named and nothing found.
    """
    found = [(folder.name, task_of(folder)) for folder in runs_below(options.models_dir)]
    wanted = [
        (architecture, task) for architecture in options.architecture or ARCHITECTURES
        for task in options.task or TASKS if (architecture, task) in found
    ]
    if not options.task and not options.architecture:
        for architecture, task in found:
            if (architecture, task) not in wanted:
                print(f"skipped: {task}, {architecture}: data.py defines no such task", file=sys.stderr)
        if not wanted:
            command = command_line("train.py", DEFAULT_TASKS, DEFAULT_ARCHITECTURES, options.models_dir)
            raise ValueError(f"no run found in {options.models_dir}; train one first: {command}")
    for architecture, task in itertools.product(options.architecture or [""], options.task or [""]):
        if not any(architecture in ("", one) and task in ("", other) for one, other in wanted):
            wanted.append((architecture or DEFAULT_ARCHITECTURES[0], task or DEFAULT_TASKS[0]))
    return list(dict.fromkeys(wanted))


def load_runs(options: argparse.Namespace) -> tuple[dict[tuple[str, str], Run], list[str]]:
    """Return the runs that can be drawn, by architecture and task, and the problems with the others.

    Runs that cannot take the given sequence are merely reported, unless their task was named. Raises
    ValueError if no run is left.
    """
    runs, problems, refused = {}, [], {}
    for architecture, task in wanted_runs(options):
        try:
            run = load_run(options.models_dir, task, architecture)
        except ValueError as error:
            problems.append(str(error))
            continue
        try:
            ask(run, options.sequence)                      # fail before measuring anything
            runs[architecture, task] = run
        except ValueError as error:
            if options.task:
                problems.append(str(error))
            else:
                refused[f"{task}, {architecture}"] = error
    if not runs:
        raise ValueError([*problems, *refused.values()][0])
    for name, error in refused.items():
        print(f"skipped: {name}: {error}", file=sys.stderr)
    return runs, problems


def files_of_comparison(
    views: dict[tuple[str, str], View], options: argparse.Namespace, output: Path, ending: str
) -> Files:
    """Yield comparisons of the named runs, or else of copy and reverse, with one row per architecture.

    An architecture that lacks a task is left out. The runs of python train.py give copy_vs_reverse.
    """
    tasks = list(dict.fromkeys(options.task or DEFAULT_TASKS))
    architectures = options.architecture or (ARCHITECTURES if options.task else DEFAULT_ARCHITECTURES)
    rows = {
        architecture: [views[architecture, task] for task in tasks] for architecture in architectures
        if all((architecture, task) in views for task in tasks)
    }
    if len(rows) * len(tasks) > 1:
        name = "_vs_".join(tasks)
        if len(tasks) == 1 or [*rows] != DEFAULT_ARCHITECTURES:
            name += f"_{'_vs_'.join(rows)}"
        for picture, what in (lines_picture, ""), (comparison_picture, "_maps"):
            draw = partial(picture, [*rows.values()])
            yield output / f"{name}{what}{ending}", partial(save, draw, command_of(options))


def files_of_lengths(
    views: dict[tuple[str, str], View], options: argparse.Namespace, output: Path, ending: str
) -> Files:
    """Yield for each task the picture of its runs on longer questions, in the task's folder.

    If not all of its runs are drawn, the file name lists those that are.
    """
    for task in dict.fromkeys(task for _, task in views):
        drawn = [view for (_, other), view in views.items() if other == task]
        drawn = [view for view in drawn if is_trained(view)]
        names = [view.run.architecture for view in drawn]
        found = [folder.name for folder in runs_below(options.models_dir) if task_of(folder) == task]
        name = "lengths" if set(names) == set(found) else f"lengths_{'_'.join(names)}"
        if drawn:
            draw = partial(lengths_picture, drawn)
            yield output / f"{task}_task" / f"{name}{ending}", partial(save, draw, command_of(options))


def trained_beside(view: View, models_dir: Path) -> View | None:
    """Return the trained counterpart of a hand-built model: same task, parent folder."""
    run, question = view.run, to_text(view.reading.source[0, 1:-1], view.run.config.task)
    try:
        trained = load_run(models_dir.resolve().parent, run.config.task, run.architecture)
        return look_at(trained, question.split())
    except ValueError:                                      # it does not exist, or lacks these symbols
        return None


def drawn_into(run: Run, options: argparse.Namespace) -> Path:
    """Return the folder of a run's pictures."""
    return options.output_dir / run.folder.relative_to(options.models_dir)


def draw_all(options: argparse.Namespace, runs: dict[tuple[str, str], Run]) -> list[object]:
    """Measure and draw each run, then the runs side by side; return what failed."""
    output, ending, pictures = options.output_dir, f".{options.format}", PICTURES
    if options.sequence:
        pictures, ending = OF_ONE_SEQUENCE, f"_{name_in_file(' '.join(options.sequence))}{ending}"
    print("drawing " + "; ".join(f"{task}, {architecture}" for architecture, task in runs))
    views, failed, command = {}, [], command_of(options)
    for key, run in tqdm(runs.items(), unit="run", disable=None):
        with reported(run.config.name, failed):
            view, folder = look_at(run, options.sequence), drawn_into(run, options)
            views[key] = view
            write_all(files_of_run(view, folder, ending, pictures, command), failed)
            if run.stream and (trained := trained_beside(view, options.models_dir)):
                draw = partial(save, partial(beside_picture, view, trained), command)
                write_all([(folder / f"beside_trained{ending}", draw)], failed)
    if not options.sequence:
        write_all(files_of_lengths(views, options, output, ending), failed)
    write_all(files_of_comparison(views, options, output, ending), failed)
    return failed


def is_of_another(folder: Path, options: argparse.Namespace) -> bool:
    """Return True if a separate picture folder contains a run other than the one shown."""
    elsewhere = options.output_dir.resolve() != options.models_dir.resolve()
    return elsewhere and (folder / "checkpoint.pt").exists()


def check_output(folders: Iterable[Path], options: argparse.Namespace) -> None:
    """Raise ValueError if pictures would be saved next to a run that they do not show."""
    for folder in folders:
        if is_of_another(folder, options):
            raise ValueError(f"{folder} holds another run; choose another --output-dir")


def remove_older_pictures(options: argparse.Namespace) -> None:
    """Remove pictures of changed weights from a separate picture folder; see train.remove_stale."""
    if options.output_dir.resolve() == options.models_dir.resolve():
        return                                              # train.py has removed them
    removed = 0
    for folder in runs_below(options.models_dir):
        output = options.output_dir / folder.relative_to(options.models_dir)
        if not is_of_another(output, options):
            removed += remove_stale(output, (folder / "checkpoint.pt").stat().st_mtime)
    if removed:
        print(f"{options.output_dir}: {removed} files based on earlier weights removed")


def lock(runs: dict[tuple[str, str], Run], options: argparse.Namespace, locks: ExitStack) -> list[str]:
    """Lock the picture folders, and drop the runs that are being trained.

    Return the problems with those among them that were named; report the others.
    """
    folders = {options.output_dir, *(drawn_into(run, options).parent for run in runs.values())}
    for folder in sorted(folders):
        locks.enter_context(only_writer(folder))
    problems = []
    for key, run in list(runs.items()):
        try:
            locks.enter_context(only_writer(drawn_into(run, options)))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            del runs[key]
            busy = f"{error.filename}: {error.strerror}"
            problems += [busy] if options.task or not runs else []
            if not problems:
                print(f"skipped: {busy}", file=sys.stderr)
    return problems


def read_and_draw(options: argparse.Namespace) -> None:
    """Read everything first, then draw; report at the end what could not be read.

    Exit status 2 if a run could not be read, or else 1 if a picture could not be drawn.
    """
    with ExitStack() as locks, picture_style(options.dark, letters_in_names()):
        try:
            runs, problems, failed = {}, [], []
            if options.compare:
                curves = runs_in(options.compare)
            elif options.balance:
                balanced = evidence_in(options.balance)
            else:
                runs, problems = load_runs(options)
            check_output((drawn_into(run, options) for run in runs.values()), options)
        except ValueError as error:
            fail(str(error))
        problems += lock(runs, options, locks)
        if problems and not runs:
            fail(*problems)
        remove_older_pictures(options)
        if options.compare:
            draw = partial(training_curves_picture, curves)
            write_all(file_of_folders(draw, "training", options.compare, options), failed)
        elif options.balance:
            draw = partial(balance_picture, balanced)
            write_all(file_of_folders(draw, "balance", options.balance, options), failed)
        else:
            failed = draw_all(options, runs)
        save_gallery_of(options, runs.values())
    if problems:
        fail(*problems)
    if failed:
        raise SystemExit(1)


def main() -> None:
    options = parse()
    set_threads(None)                                       # as for training
    read_and_draw(options)


if __name__ == "__main__":
    run_script(main, status_if_left=130)                    # interrupted
