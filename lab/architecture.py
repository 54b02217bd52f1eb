"""The drawing of what transformer.py builds: `python -m lab.architecture` saves it to assets/.

Boxes bear the names of the code; a test compares the names and shapes with those of the models.
"""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from support.console import new_parser, run_script
from support.figure import new_figure, picture_style, save_picture

BOTTOM = 2.6                                                # of the blocks
ASSETS = Path(__file__).parents[1] / "assets"
FILLS = {"norm": "#fff8c5", "attention": "#ddf4ff", "feed_forward": "#dafbe1"}          # by the end of a name
WIDTH, HEIGHT, PITCH = 2.7, 0.68, 2.6                       # of a box, and of a branch


def draw_box(axes: Axes, x: float, y: float, name: str, shape: str) -> None:
    """Draw a box with a name and, below it, the shape of what it returns."""
    fill = next((colour for ending, colour in FILLS.items() if name.endswith(ending)), "#eaeef2")
    style = {"boxstyle": "round,pad=0,rounding_size=0.1", "facecolor": fill, "edgecolor": "#59636e"}
    axes.add_patch(FancyBboxPatch((x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, zorder=3, **style))
    centred = {"ha": "center", "va": "center", "zorder": 4}
    axes.text(x, y + 0.15, name, size=7, family="monospace", color="black", **centred)
    axes.text(x, y - 0.17, shape, size=6.5, color="#59636e", **centred)


def draw_arrow(axes: Axes, *corners: tuple[float, float]) -> None:
    """Draw an arrow along these corners."""
    grey = matplotlib.rcParams["grid.color"]
    axes.plot(*zip(*corners[:-1], strict=True), color=grey, linewidth=1.2, zorder=2)
    style = {"arrowstyle": "-|>", "color": grey, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.2}
    axes.annotate("", corners[-1], corners[-2], arrowprops=style)


def draw_plus(axes: Axes, x: float, y: float) -> None:
    style = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": "#59636e"}
    axes.text(x, y, "+", ha="center", va="center", size=8, color="black", bbox=style, zorder=5)


def draw_stack(axes: Axes, x: float, tokens: str, length: str, blocks: str, sublayers: list[str]) -> float:
    """Draw a residual stream from its tokens up through its blocks, and return its height there.

    Each sublayer is a branch: a norm, then the sublayer, whose output is added to the stream.
    """
    grey, branch, shape = matplotlib.rcParams["grid.color"], x + 2.0, f"(B, {length}, D)"
    axes.text(x, 0, f"{tokens} (B, {length})", ha="center", va="center", size=8)
    draw_arrow(axes, (x, 0.25), (x, 0.76))
    draw_box(axes, x, 1.1, "embedding", shape)
    draw_box(axes, branch, 2.0, "positional_encoding", shape)
    draw_arrow(axes, (branch - WIDTH / 2, 2.0), (x + 0.2, 2.0))
    draw_plus(axes, x, 2.0)
    top, left, right = BOTTOM + PITCH * len(sublayers), x - 0.4, branch + WIDTH / 2 + 0.2
    axes.plot([x, x], [1.44, top + 0.4], color="tab:blue", linewidth=4, alpha=0.6)
    frame = {"boxstyle": "round,pad=0,rounding_size=0.15", "facecolor": "none", "edgecolor": grey}
    axes.add_patch(FancyBboxPatch((left, BOTTOM), right - left, top - BOTTOM, linestyle="--", **frame))
    axes.text(right, top + 0.1, blocks, ha="right", size=8, color=grey)
    for number, name in enumerate(sublayers):
        start = BOTTOM + PITCH * number + 0.2
        draw_arrow(axes, (x, start), (branch, start), (branch, start + 0.26))
        draw_box(axes, branch, start + 0.6, f"{name}_norm", shape)
        draw_arrow(axes, (branch, start + 0.94), (branch, start + 1.16))
        draw_box(axes, branch, start + 1.5, name, shape)
        draw_arrow(axes, (branch, start + 1.84), (branch, start + 2.15), (x + 0.2, start + 2.15))
        draw_plus(axes, x, start + 2.15)
    return top + 0.4


def draw_head(axes: Axes, x: float, y: float, names: dict[str, str], result: str) -> float:
    """Draw the boxes above the blocks, and what comes out; return its height."""
    for name, shape in names.items():
        draw_box(axes, x, y + HEIGHT / 2, name, shape)
        draw_arrow(axes, (x, y + HEIGHT), (x, y + HEIGHT + 0.35))
        y += HEIGHT + 0.35
    axes.text(x, y + 0.15, result, ha="center", va="center", size=8)
    return y


def draw_architecture() -> Figure:
    """Draw MiniTransformer, and next to it EncoderDecoder."""
    caption = "Blue: the residual stream. B batch, S source length, T target length, D d_model, V vocabulary."
    caption += "\nThe dashed blocks are repeated, by default as often as shown. Dropout is left out."
    subtitle = "The names are those of transformer.py."
    figure = new_figure(6.5, "each block reads the stream, and adds what it found", subtitle, caption)
    axes = figure.subplots()
    axes.axis("off")
    axes.set(xlim=(-1.4, 15.4), ylim=(-0.3, 13.6), aspect="equal")
    own, across = ["attention", "feed_forward"], ["attention", "cross_attention", "feed_forward"]
    for x, name in (0, "MiniTransformer"), (5.9, "EncoderDecoder"):
        axes.text(x - WIDTH / 2, 13.3, name, size=10, weight="bold", family="monospace")
    top = draw_stack(axes, 0, "tokens", "S", "blocks × 4", own)
    shapes = {"final_norm": "(B, S, D)", "output_projection": "(B, S, V)"}
    draw_head(axes, 0, top, shapes, "logits")
    top = draw_stack(axes, 5.9, "source", "S", "encoder_blocks × 2", own)
    memory = draw_head(axes, 5.9, top, {"encoder_norm": "(B, S, D)"}, "memory")
    top = draw_stack(axes, 11.8, "target", "T", "decoder_blocks × 2", across)
    shapes = {"decoder_norm": "(B, T, D)", "output_projection": "(B, T, V)"}
    draw_head(axes, 11.8, top, shapes, "logits")
    side, height = 10.5, BOTTOM + PITCH + 0.2 + 1.5
    corners = (6.6, memory + 0.15), (side, memory + 0.15), (side, height), (13.8 - WIDTH / 2, height)
    draw_arrow(axes, *corners)
    return figure


def main() -> None:
    new_parser("Draw the architecture, light and dark.", "python -m lab.architecture").parse_args()
    for dark in False, True:
        path = ASSETS / f"architecture{'_dark' if dark else ''}.png"
        with picture_style(dark):
            save_picture(draw_architecture(), path)
        print(f"saved {path}")


if __name__ == "__main__":
    run_script(main)
