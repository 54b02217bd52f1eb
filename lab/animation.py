"""Pictures of how one head's attention forms during training: a strip of maps, and an animation."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from data import format_tokens, loss_mask, make_inputs_and_targets, token_name
from lab.evidence import mass_during_training
from lab.heads import measure_attention
from lab.maps import Map, add_colour_bar, draw_named_map, make_map
from lab.view import View
from support.figure import TOKENS, fix_layout, label_lines, new_figure, one_line_title
from support.files import atomic_write
from support.puzzles import strip_special_tokens
from support.record import NUM_RECORDED
from support.runs import first_solved
from support.training_plot import draw_training

MAX_FRAMES = 50                                             # one per epoch by default


def half_rise_index(values: list[float]) -> int:
    """Return the index at which rising values first reach half-way from the first to the last."""
    middle = (values[0] + values[-1]) / 2
    return next((position for position, value in enumerate(values) if value >= middle), 0)


def animation_title(
    steps: list[int], accuracy: list[float], mass: list[float] | None = None, looks: bool = True
) -> str:
    """State when the correct symbols and the attention pattern emerge, if any head looks at the answer."""
    symbols = steps[half_rise_index(accuracy)]
    if accuracy[-1] < 0.5:
        return f"most symbols are still incorrect at step {steps[-1]}"
    text = f"the correct symbols emerge at step {symbols}"
    if mass is None:
        return text
    if not looks:
        return f"{text}; no head ever looks at the answer"
    return f"{text}, the attention pattern at step {steps[half_rise_index(mass)]}"


def view_recorded_question(view: View) -> View:
    """Return the view of the question that was recorded during training, with the correct answer."""
    source, target = (torch.from_numpy(view.attention_history[name])[None] for name in ("source", "target"))
    inputs, targets = make_inputs_and_targets(view.run.architecture, source, target)
    return replace(view, attention=measure_attention(view.run, source, inputs, targets))


def make_recorded_map(view: View, epoch: int) -> Map:
    """Return the map of the head that looks most at the recorded answer, after this epoch (from 0)."""
    shown, (kind, layer, head) = make_map(view, view.top_head), view.top_head
    weights = torch.from_numpy(view.attention_history[kind][epoch, layer, head]).float()
    return replace(shown, weights=weights.masked_fill(shown.weights.isnan(), torch.nan))


def draw_training_with_maps(view: View) -> Figure:
    """Draw the training curves below five maps of one head."""
    config, history = view.run.config, view.run.history
    if view.attention_history is None:
        return draw_training(config, history)
    view, last = view_recorded_question(view), len(history) - 1
    solved = history.index(first_solved(history) or history[-1])
    epochs = sorted({*numpy.linspace(0, solved, 4).round().astype(int).tolist(), last})
    figure = draw_training(config, history, [history[epoch]["step"] for epoch in epochs])
    for axes, epoch in zip(figure.axes, epochs, strict=False):
        draw_named_map(axes, make_recorded_map(view, epoch))
        axes.set(aspect="equal", xticks=[], yticks=[])
    figure.axes[0].set_ylabel(view.part_name(view.top_head).replace(", ", ",\n"))
    return figure


def measure_curves(view: View, epochs: list[int]) -> tuple[dict[str, list[float]], bool]:
    """Return the curves to draw, by their labels, and whether any head ever looks at the recorded answer."""
    recorded = view.attention_history
    curves, looks = {"symbols correct": recorded["accuracy"][epochs].tolist()}, False
    if view.has_outline:
        mass, (_, layer, head) = mass_during_training(view.run, recorded)[epochs], view.top_head
        curves["attention on the answer"] = mass[:, layer, head].tolist()
        looks = bool((mass > view.attention.threshold).any())
    return curves, looks


def draw_curves(axes: Axes, steps: list[int], curves: dict[str, list[float]]) -> PathCollection:
    """Draw the curves over the steps; return the dots that move along them."""
    axes.set(xlabel="training step", ylabel="%", ylim=(-3, 103), xlim=(0, 1.02 * steps[-1]))
    for label, style in zip(curves, (TOKENS, {"color": "tab:green"}), strict=False):
        axes.plot(steps, [100 * value for value in curves[label]], **style | {"label": label})
    label_lines(axes)
    return axes.scatter([steps[0]] * len(curves), [0] * len(curves), zorder=3)


def show_answer(texts: list[Text], view: View, epoch: int) -> None:
    """Let each text show a symbol of the answer to the recorded question, with incorrect ones in brackets."""
    targets = view.attention.targets[0]
    scored = loss_mask(targets).nonzero().flatten().tolist()
    for text, query in zip(texts, scored, strict=True):
        predicted = int(view.attention_history["prediction"][epoch, query])
        is_correct, symbol = predicted == targets[query], token_name(predicted, view.run.config.task)
        colour = matplotlib.rcParams["text.color"] if is_correct else "tab:red"
        text.set(text=symbol if is_correct else f"[{symbol}]", color=colour)


def draw_animation(view: View) -> tuple[Figure, Callable[[int], list[Artist]], int]:
    """Return a figure of a recorded run, a function that shows one of its frames, and their number.

    The function returns what changes from one frame to the next, and what is drawn on top of that.
    """
    view = view_recorded_question(view)
    epochs = sorted({round(epoch) for epoch in numpy.linspace(0, len(view.run.history) - 1, MAX_FRAMES)})
    steps, (curves, looks) = view.attention_history["step"][epochs].tolist(), measure_curves(view, epochs)
    question = format_tokens(strip_special_tokens(view.attention.source)[0], view.run.config.task)
    caption = "Above the map: the model's answer, with incorrect symbols in brackets. Dashed: "
    caption += f"{NUM_RECORDED} questions of this length. What a curve shows emerges when it is half-way up."
    title = animation_title(steps, *curves.values(), looks=looks)
    figure = new_figure(4.2, title, f"{view}, seed {view.run.config.seed}, asked {question}.", caption)
    map_axes, curve_axes = figure.subplots(1, 2, width_ratios=(1.6, 1))
    mesh = draw_named_map(map_axes, make_recorded_map(view, epochs[0]))
    map_axes.set_aspect("equal")
    add_colour_bar(mesh, [map_axes])
    heading, dots = map_axes.set_title(" \n ", loc="left"), draw_curves(curve_axes, steps, curves)
    symbols = int(loss_mask(view.attention.targets).sum())
    answer = [
        map_axes.text(position, 1.03, "", transform=map_axes.transAxes, ha="center", size=7)
        for position in (numpy.arange(symbols) + 0.5) / symbols
    ]

    def show(frame: int) -> list[Artist]:
        mesh.set_array(make_recorded_map(view, epochs[frame]).weights.numpy())
        heading.set_text(f"{view.part_name(view.top_head)}, step {steps[frame]}\n ")
        show_answer(answer, view, epochs[frame])
        dots.set_offsets([(steps[frame], 100 * values[frame]) for values in curves.values()])
        return [*map_axes.collections, *map_axes.spines.values(), heading, *answer, dots]

    return figure, show, len(epochs)


def paint_frames(figure: Figure, show: Callable[[int], list[Artist]], count: int) -> Iterator[Image.Image]:
    """Yield the figure as it shows each frame; what does not change is painted only once.

    FuncAnimation repaints everything, which takes seven times as long; its files are five times as large.
    """
    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    changing = show(0)
    fix_layout(figure)                                      # once, for all frames
    for artist in changing:
        artist.set_animated(True)                           # not drawn by canvas.draw()
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    for frame in range(count):
        canvas.restore_region(background)
        for artist in show(frame):
            figure.draw_artist(artist)
        yield Image.fromarray(numpy.array(canvas.buffer_rgba())).convert("RGB")


def save_animation(view: View, path: Path) -> str:
    """Write the animation, 5 seconds long, if training was recorded, and by the current code."""
    if view.attention_history is None or view.run.code_change:
        return ""
    figure, show, count = draw_animation(view)
    frames = paint_frames(figure, show, count)
    first = next(frames)
    palette = first.quantize(method=Image.Quantize.MAXCOVERAGE)         # the colour bar has all colours
    colours, background = palette.getpalette(), palette.getpixel((0, 0))
    colours[3 * background : 3 * background + 3] = first.getpixel((0, 0))               # exactly the page's
    palette.putpalette(colours)
    frames = itertools.chain([first], frames)
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    with atomic_write(path) as unfinished:
        duration = 5000 // count // 10 * 10                 # of a frame, in milliseconds
        first.save(unfinished, save_all=True, append_images=others, duration=duration)
    return one_line_title(figure)
