"""A hand-built model next to its trained counterpart: their most important maps."""

import textwrap

from matplotlib.figure import Figure

from lab.heads import heads_of
from lab.maps import grid_picture, map_of
from lab.view import View, how_to_read, price, run_text


def beside_picture(built: View, trained: View) -> Figure:
    """Draw the most important heads of a hand-built model (top) and of a trained one (bottom)."""
    counts, rows = [], []
    for label, view in ("hand-built", built), ("trained", trained):
        counts.append(f"{len(view.costly) or 'none'} of {len(heads_of(view.run.model))} {label}")
        heads = dict.fromkeys([*view.costly[:1], view.best])
        purposes = [view.run.purposes.get(view.place(head)) or price(view, head) for head in heads]
        rows.append([
            map_of(view, head, "\n".join([label, *textwrap.wrap(view.place(head), 24), purpose]))
            for head, purpose in zip(heads, purposes, strict=True)
        ])
    return grid_picture(f"heads that matter on their own: {', '.join(counts)}", run_text(trained), (
        f"{how_to_read(trained, [trained.kind])} Maps: the head that matters most, and the one that attends "
        "most to the answers."
    ), rows)
