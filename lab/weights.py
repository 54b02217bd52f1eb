"""A hand-built model next to its trained counterpart: their most important maps, and what cuts cost."""

import textwrap

from matplotlib.figure import Figure

from lab.heads import Part, heads_of
from lab.maps import draw_map, inches, map_of, name_ticks
from lab.view import View, how_to_read, price, run_text, sample
from lab.what_matters import draw_ablation, rows_of_ablation
from support.figure import MARGIN, WIDTH, new_picture, panel


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
