"""The plot of a run's loss and accuracy."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from support.config import EVALUATION_BATCH, VALIDATION_SEQUENCES, Config, non_default_settings
from support.figure import SEQUENCES, TOKENS, label_lines, new_figure, percent
from support.runs import first_solved


def label_loss_axes(axes: Axes) -> None:
    axes.set(yscale="log", xlabel="training step", ylabel="loss, nats per token")
    axes.yaxis.set_major_formatter("{x:g}")                 # 0.1, not 10⁻¹
    axes.yaxis.set_minor_formatter(LogFormatter())


def draw_training(config: Config, history: list[dict], marked: list[int] | None = None) -> Figure:
    """Plot loss and accuracies over the steps, with the step at which the task was solved.

    If some steps are marked, there is an empty axes for each of them above the curves.
    """
    steps, solved, marked = [row["step"] for row in history], first_solved(history), marked or []
    title = f"after {steps[-1]} steps, {percent(history[-1]['exact_match'])} of the sequences are correct"
    caption = f"Accuracy after each epoch, on the same {EVALUATION_BATCH} validation sequences."
    if solved:
        title = f"after {solved['step']} steps, all {VALIDATION_SEQUENCES:,} validation sequences are correct"
        caption += " Dotted: the step in the title."
    differing = non_default_settings(config)
    subtitle = f"{config.name}; non-default settings: {differing}" if differing else config.name
    figure = new_figure(3.0 + 1.4 * bool(marked), title, subtitle, caption)
    count = max(1, len(marked))
    rows = [["loss"] * count + ["accuracy"] * count]
    if marked:
        rows.insert(0, [f"step {step}" for step in marked for _ in range(2)])
    axes = figure.subplot_mosaic(rows, height_ratios=[1, 2.5][-len(rows):])
    for step in marked:
        axes[f"step {step}"].set_title(f"step {step}", size=8)
    loss_axes, accuracy_axes = axes["loss"], axes["accuracy"]
    marker = "." if len(history) == 1 else ""               # a line needs two points
    loss_axes.plot(steps, [row["loss"] for row in history], marker=marker)
    guessing = math.log(config.vocab_size)
    loss_axes.axhline(guessing, color="grey", linestyle="--", linewidth=1)
    text = f"guessing: ln {config.vocab_size} = {guessing:.1f}"
    above = {"xytext": (0, 2), "textcoords": "offset points", "ha": "right", "va": "bottom"}
    loss_axes.annotate(text, (steps[-1], guessing), color="grey", **above)
    label_loss_axes(loss_axes)
    for key, style in ("exact_match", SEQUENCES), ("token_accuracy", TOKENS):
        accuracy_axes.plot(steps, [100 * row[key] for row in history], marker=marker, **style)
    accuracy_axes.set(xlabel="training step", ylabel="%", ylim=(-3, 103))
    label_lines(accuracy_axes)
    if solved:
        for drawn in loss_axes, accuracy_axes:
            drawn.axvline(solved["step"], color="grey", linestyle=":")
    return figure
