"""A hand-built model next to its trained counterpart: their most important maps."""

import textwrap

from matplotlib.figure import Figure

from lab.heads import list_heads
from lab.maps import draw_grid, make_map
from lab.view import View, describe_run, explain_marks, format_cost


def draw_next_to_trained(built: View, trained: View) -> Figure:
    """Draw the most important heads of a hand-built model (top) and of a trained one (bottom)."""
    counts, rows = [], []
    for label, view in ("hand-built", built), ("trained", trained):
        counts.append(f"{len(view.important_heads) or 'none'} of {len(list_heads(view.run.model))} {label}")
        heads = dict.fromkeys([*view.important_heads[:1], view.top_head])
        purposes = [view.run.purposes.get(view.part_name(head)) or format_cost(view, head) for head in heads]
        rows.append([
            make_map(view, head, "\n".join([label, *textwrap.wrap(view.part_name(head), 24), purpose]))
            for head, purpose in zip(heads, purposes, strict=True)
        ])
    caption = f"{explain_marks(trained, [trained.kind])} Maps: the head that matters most, and the one that "
    caption += "attends most to the answers."
    title = f"heads that matter on their own: {', '.join(counts)}"
    return draw_grid(title, describe_run(trained), caption, rows)
