"""The frame of every picture: its style, fonts and size, its title and captions, and how it is saved."""

import math
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.style
import numpy
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from support.files import atomic_write

WIDTH, MARGIN = 8.0, 0.15                                   # of all pictures, in inches
TITLE_WIDTH, TEXT_WIDTH = 73, 105                           # characters per line
STYLE = {                                                   # the same input gives the same bytes, …
    "svg.hashsalt": "attention", "svg.fonttype": "none", "pdf.fonttype": 42,    # … text stays text, …
    "text.parse_math": False,                               # … and a $ in a token's name is no formula
    "font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False,
}
TOKENS = {"color": "tab:orange", "linestyle": "--", "label": "token accuracy"}          # of all curves
SEQUENCES = {"color": "tab:blue", "linestyle": "-", "label": "exact match"}
FALLBACK_FONTS = ["Noto Sans CJK SC", "Microsoft YaHei", "Arial Unicode MS"]    # for 中文, …
LIGHT = {"text.color": "#1f2328", "grid.color": "#59636e", "lines.color": "#0969da"}
DARK = {"text.color": "#f0f6fc", "grid.color": "#9198a1", "lines.color": "#58a6ff"}
DARK |= dict.fromkeys(["figure.facecolor", "axes.facecolor", "savefig.facecolor"], "#0d1117")     # GitHub's


def percent(fraction: float, decimals: int = 0) -> str:
    """Format as a percentage, rounded to the nearest; 100% means all and 0% means none."""
    factor = 10**decimals
    rounded = math.floor(round(100 * factor * fraction, 6) + 0.5) / factor
    if rounded == 0 < fraction:
        return f"<{1 / factor:g}%"
    if rounded == 100 and fraction < 1:
        rounded -= 1 / factor
    return f"{rounded:.{decimals}f}".removesuffix("." + "0" * decimals) + "%"


def to_points(difference: float) -> int:
    """Return a difference in percentage points, rounded to the nearest; 0 means none."""
    points = round(100 * difference, 6)
    size = max(1, math.floor(abs(points) + 0.5)) if points else 0
    return size if points > 0 else -size


def format_points(difference: float) -> str:
    points = to_points(difference)
    return f"{points} point{'s' if abs(points) != 1 else ''}"


def at_most(fraction: float) -> str:
    """Format an upper bound as a percentage, rounded up."""
    return f"{math.ceil(round(100 * fraction, 6))}%"


@contextmanager
def picture_style(dark: bool = False) -> Iterator[None]:
    """Apply our style to all pictures, overriding the user's matplotlibrc."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        matplotlib.rcdefaults()
        if dark:
            matplotlib.style.use("dark_background")
        matplotlib.rcParams.update(STYLE | (DARK if dark else LIGHT))
        installed = set(font_manager.get_font_names())      # matplotlib would look for the others each time
        matplotlib.rcParams["font.family"] = ["sans-serif", *filter(installed.__contains__, FALLBACK_FONTS)]
        yield


def capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def new_figure(height: float, title: str, subtitle: str = "", caption: str = "") -> Figure:
    """Return an empty figure with room of this height, in inches, in which matplotlib arranges the axes.

    Above it come the title and, in grey, the subtitle; below it, a caption on how to read the picture.
    """
    title = textwrap.fill(capitalise(title), TITLE_WIDTH, break_on_hyphens=False)
    subtitle, caption = (
        "\n".join(textwrap.fill(line.strip(), TEXT_WIDTH) for line in text.splitlines())
        for text in (subtitle, caption)
    )
    title_height = MARGIN + 0.22 * (title.count("\n") + 1)
    above = title_height + 0.17 * (subtitle.count("\n") + 1)
    below = MARGIN + 0.17 * (caption.count("\n") + 1)
    total = above + height + below
    figure = Figure(figsize=(WIDTH, total), layout="constrained")
    left = MARGIN / WIDTH
    figure.get_layout_engine().set(rect=(left, below / total, 1 - 2 * left, height / total), w_pad=0.06)
    figure.suptitle(title, x=left, y=1 - MARGIN / total, ha="left", va="top", size=12, weight="bold")
    grey = {"x": left, "color": matplotlib.rcParams["grid.color"], "ha": "left", "va": "top", "size": 9}
    figure.text(y=1 - title_height / total, s=subtitle, linespacing=1.25, **grey)
    figure.supxlabel(caption, y=(below - 0.05) / total, linespacing=1.25, **grey)
    return figure


def label_lines(axes: Axes, gap: float = 0.08) -> None:
    """Label each line at its end, in its colour, at least this fraction of the height apart."""
    height = -math.inf
    into_axes = axes.transData + axes.transAxes.inverted()
    ends = {line: into_axes.transform(line.get_xydata()[-1])[1] for line in axes.get_lines()}
    for line in sorted(ends, key=ends.get):
        height = max(height + gap, ends[line])
        style = {"color": line.get_color(), "va": "center", "transform": axes.transAxes}
        axes.text(1.02, height, line.get_label(), **style)


def fix_layout(figure: Figure) -> None:
    """Lay out the axes for good; the first pass does not yet know the size of rotated names."""
    for _ in range(2):
        figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")
    for axes in figure.axes:                                # the last digits depend on the solver
        axes.set_position(numpy.round(axes.get_position(original=True).bounds, 6))


def one_line_title(figure: Figure) -> str:
    return " ".join(figure.get_suptitle().split())


def save_picture(figure: Figure, path: Path) -> None:
    """Save the picture in the format of its suffix, with its title, but without a date."""
    title = {"Title": one_line_title(figure)}
    no_date = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    fix_layout(figure)
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, dpi=150, metadata=title | no_date.get(path.suffix, {}))


def format_two_decimals(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")             # + 0.0: not −0.00
