"""A hand-built model: the steps by which it finds the answer, and its maps next to those of a trained one."""

import textwrap

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab import maps
from lab.heads import list_heads
from lab.view import View, describe_run, explain_marks, format_cost, spell
from support.figure import new_figure, percent

WRITES = {                                                  # of handmade.py: a purpose, and what it fills in
    "finds END": "LAST", "looks up the mirror position": "MIRROR", "looks up the answer position": "MIRROR",
    "fetches the symbol": "ANSWER",
    "looks up the columns": "COLUMN", "sums the columns": "AVERAGE", "rounds down": "ANSWER",
    "averages": "AVERAGE", "compares counts": "ANSWER",
}


def built_title(built: View, trained: View) -> str:
    """Say how many heads are enough, and how many matter in the trained model."""
    if built.evidence.accuracy < 1:
        return f"the hand-built model answers {percent(built.evidence.accuracy)} of the questions correctly"
    count, important = len(built.important_heads), len(trained.important_heads)
    enough = f"{spell(count)} head{'s' * (count != 1)} {'is' if count == 1 else 'are'} enough"
    every, matter = len(list_heads(trained.run.model)), f"{spell(important)} matter on their own"
    if important <= 1:
        matter = f"{'one' if important else 'none'} matters on its own"
    return f"{enough} to {built.run.config.task}; of the trained model's {every}, {matter}"


def draw_steps(axes: Axes, purposes: dict[str, str]) -> None:
    """Draw the parts of the residual stream as boxes, with arrows for what fills them in: WHERE → LAST → …"""
    steps = [(name, purpose, WRITES[purpose]) for name, purpose in purposes.items() if purpose in WRITES]
    axes.set(xlim=(-0.3, len(steps) + 0.3), ylim=(-1, 1))
    axes.axis("off")
    text, grey = matplotlib.rcParams["text.color"], matplotlib.rcParams["grid.color"]
    first = "WHAT" if steps[0][1] == "averages" else "WHERE"
    for position, part in enumerate([first, *(part for *_, part in steps)]):
        box = {"boxstyle": "round,pad=0.5", "facecolor": "none", "edgecolor": text}
        axes.text(position, 0, part, ha="center", va="center", weight="bold", bbox=box)
    for position, (name, purpose, _) in enumerate(steps):
        arrow = {"arrowstyle": "-|>", "color": grey}
        axes.annotate("", (position + 0.72, 0), (position + 0.28, 0), arrowprops=arrow)
        axes.text(position + 0.5, 0.3, purpose, ha="center", size=8)
        axes.text(position + 0.5, -0.6, name, ha="center", size=8, color=grey)


def draw_next_to_trained(built: View, trained: View) -> Figure | None:
    """Draw the steps of a hand-built model, and its heads next to those of a trained one."""
    purposes = built.run.purposes
    ours = [head for head in list_heads(built.run.model) if purposes.get(built.part_name(head)) in WRITES]
    theirs = [*dict.fromkeys([*trained.important_heads[:1], trained.top_head])]
    if not ours:
        return None
    drawn = [("hand-built", built, head, purposes[built.part_name(head)]) for head in ours]
    drawn += [("trained", trained, head, format_cost(trained, head)) for head in theirs]
    shown = "Of the trained model: the head that matters most, and the one that looks most at the answer."
    caption = f"{explain_marks(trained, [trained.kind])} {shown}"
    figure = new_figure(4.2, built_title(built, trained), describe_run(trained), caption)
    names = [f"map {number}" for number in range(len(drawn))]
    axes = figure.subplot_mosaic([["steps"] * len(drawn), names], height_ratios=(1, 2.4))
    draw_steps(axes["steps"], purposes)
    for name, (label, view, head, note) in zip(names, drawn, strict=True):
        maps.draw_named_map(axes[name], maps.make_map(view, head))
        lines = [label, *textwrap.wrap(view.part_name(head), 22), note]
        axes[name].set_title("\n".join(lines), loc="left", size=8)
        axes[name].set_aspect("equal")
    return figure
