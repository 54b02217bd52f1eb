"""The animation of how attention forms during training, a GIF that plays once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import torch
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from data import format_tokens, make_inputs_and_targets
from lab.evidence import mass_during_training
from lab.heads import list_heads, measure_attention
from lab.maps import add_colour_bar, draw_named_map, make_map
from lab.view import View
from support.figure import fix_layout, label_lines, new_figure, one_line_title
from support.files import atomic_write
from support.record import NUM_RECORDED


def half_rise_index(values: list[float]) -> int:
    """Return the index at which rising values first reach half-way from the first to the last."""
    middle = (values[0] + values[-1]) / 2
    return next((position for position, value in enumerate(values) if value >= middle), 0)


def animation_title(
    steps: list[int], accuracy: list[float], mass: list[float] | None = None, threshold: float = 0.5
) -> str:
    """State when the correct symbols and the attention pattern emerge."""
    symbols = steps[half_rise_index(accuracy)]
    if accuracy[-1] < 0.5:
        return f"most symbols are still incorrect at step {steps[-1]}"
    text = f"the correct symbols emerge at step {symbols}"
    if mass is None:
        return text
    if mass[-1] <= threshold:
        return f"{text}; no head ever attends mainly to the symbols they need"
    return f"{text}, the attention pattern at step {steps[half_rise_index(mass)]}"


def draw_animation(view: View) -> tuple[Figure, Callable[[int], list[Artist]]]:
    """Return a figure of a recorded run, and a function that shows one of its epochs (from 0) in it.

    The function returns what changes from one epoch to the next, and what is drawn on top of that.
    """
    run, recorded = view.run, view.attention_history
    source, target = (torch.from_numpy(recorded[name])[None] for name in ("source", "target"))
    inputs, targets = make_inputs_and_targets(run.architecture, source, target)
    view = replace(view, attention=measure_attention(run, source, inputs, targets))
    curves, steps = {"symbols correct": recorded["accuracy"].tolist()}, recorded["step"].tolist()
    question = format_tokens(source[0, 1:-1], run.config.task)
    subtitle = f"{view}, seed {run.config.seed}, on {question}. A step is that of a curve half-way up."
    caption, head = f"Solid: accuracy on {NUM_RECORDED} questions of this length.", view.top_head
    if view.has_outline:
        head = max(list_heads(run.model, (view.kind,)), key=view.mass)
        mass = mass_during_training(run, recorded)
        curves["attention on the answer"] = mass[:, head[1], head[2]].tolist()
        caption += f" Dashed: {view.part_name(head)}, on this question."
    title = animation_title(steps, *curves.values(), threshold=view.attention.threshold)
    figure, shown = new_figure(3.9, title, subtitle, caption), make_map(view, head)
    map_axes, curve_axes = figure.subplots(1, 2, width_ratios=(1.6, 1))
    mesh = draw_named_map(map_axes, shown)
    map_axes.set_aspect("equal")
    for (name, values), style in zip(curves.items(), ("-", "--"), strict=False):
        curve_axes.plot(steps, [100 * value for value in values], style, label=name)
    curve_axes.set(xlabel="training step", ylabel="%", ylim=(-3, 103), xlim=(0, 1.02 * steps[-1]))
    label_lines(curve_axes)
    add_colour_bar(mesh, [map_axes])

    def show(epoch: int) -> list[Artist]:
        kind, layer, index = head
        weights = torch.from_numpy(recorded[kind][epoch, layer, index]).float()
        mesh.set_array(weights.masked_fill(shown.weights.isnan(), torch.nan).numpy())
        heading = map_axes.set_title(f"{view.part_name(head)}, step {steps[epoch]}", loc="left")
        for line, values in zip(curve_axes.get_lines(), curves.values(), strict=True):
            line.set_data(steps[: epoch + 1], [100 * value for value in values[: epoch + 1]])
        return [*map_axes.collections, *map_axes.spines.values(), heading, *curve_axes.get_lines()]

    return figure, show


def paint_frames(figure: Figure, show: Callable[[int], list[Artist]], epochs: list[int]) -> list[Image.Image]:
    """Return the figure as it shows each epoch; what does not change is painted only once."""
    figure.set_dpi(100)
    canvas, frames = FigureCanvasAgg(figure), []
    changing = show(0)
    fix_layout(figure)                                      # once, for all frames
    for artist in changing:
        artist.set_animated(True)                           # not drawn by canvas.draw()
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    for epoch in epochs:
        canvas.restore_region(background)
        for artist in show(epoch):
            figure.draw_artist(artist)
        frames.append(Image.fromarray(numpy.array(canvas.buffer_rgba())).convert("RGB"))
    return frames


def save_animation(view: View, path: Path) -> str:
    """Write the animation, at most 5 seconds long, if training was recorded, and by the current code."""
    if view.attention_history is None or view.run.code_change:
        return ""
    figure, show = draw_animation(view)
    last = len(view.run.history) - 1
    epochs = sorted({round(epoch) for epoch in numpy.linspace(0, last, 50)})
    frames = paint_frames(figure, show, epochs)
    palette = frames[-1].quantize()                         # the colour bar contains every colour
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    with atomic_write(path) as unfinished:
        duration = 5000 // len(frames) // 10 * 10           # of a frame, in milliseconds
        first.save(unfinished, save_all=True, append_images=others, duration=duration)
    return one_line_title(figure)
