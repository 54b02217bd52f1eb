"""The animation of how attention forms during training: a GIF, and moments of it in one picture."""

import itertools
import textwrap
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from data import arrange, to_text
from lab.evidence import half_way, shares_in_training
from lab.heads import Head, read
from lab.maps import Map, draw_map, inches, map_of, name_ticks, room_below
from lab.view import View, most_focused
from support.figure import WIDTH, name_lines, new_picture, panel
from support.files import replacing
from support.record import PROBES


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


def has_film(view: View) -> bool:
    """Return whether training was recorded, by the current code."""
    return view.record is not None and not view.run.changed


def film_picture(view: View) -> Figure | None:
    """Draw four moments of training, if it was recorded."""
    if not has_film(view):
        return None
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


def save_film(view: View, path: Path) -> str:
    """Write how attention forms, if recorded, as an animation that plays once and takes at most 5 seconds."""
    if not has_film(view):
        return ""
    film, palette = film_of(view), film_palette()
    frames = film_frames(film)
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    duration = 5000 // len(frames) // 10 * 10               # of a frame, in milliseconds
    with replacing(path) as unfinished:
        first.save(unfinished, save_all=True, append_images=others, duration=duration)
    sentence, _, _ = film_texts(film)
    return sentence[0].upper() + sentence[1:]
