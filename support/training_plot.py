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


def draw_training(config: Config, history: list[dict]) -> Figure:
    """Plot loss and accuracies over the steps, with the step at which the task was solved."""
    steps, solved = [row["step"] for row in history], first_solved(history)
    last = percent(history[-1]["exact_match"])
    title = f"not solved in {steps[-1]} steps: {last} of the sequences correct at the end"
    caption = f"Accuracy after each epoch, on the same {EVALUATION_BATCH} validation sequences."
    if solved:
        title = f"solved at step {solved['step']}"
        caption += f" Dotted line: solved (all {VALIDATION_SEQUENCES:,} validation sequences correct)."
    differing = non_default_settings(config)
    subtitle = f"{config.name}; non-default settings: {differing}" if differing else config.name
    figure = new_figure(3.0, title, subtitle, caption)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    loss_axes.plot(steps, [row["loss"] for row in history])
    guessing = math.log(config.vocab_size)
    loss_axes.axhline(guessing, color="grey", linestyle="--", linewidth=1)
    text = f"guessing: ln {config.vocab_size} = {guessing:.1f}"
    loss_axes.text(steps[-1], 1.05 * guessing, text, ha="right", va="bottom", color="grey")
    label_loss_axes(loss_axes)
    for key, style in ("exact_match", SEQUENCES), ("token_accuracy", TOKENS):
        accuracy_axes.plot(steps, [100 * row[key] for row in history], **style)
    accuracy_axes.set(xlabel="training step", ylabel="%", ylim=(-3, 103))
    label_lines(accuracy_axes)
    if solved:
        for axes in loss_axes, accuracy_axes:
            axes.axvline(solved["step"], color="grey", linestyle=":")
    return figure
