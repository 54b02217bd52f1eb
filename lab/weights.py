"""Pictures of hand-built models: their weight matrices, and the trained counterpart next to them."""

import textwrap

import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from torch import Tensor, nn

from lab.heads import Part, attention_at, heads_of
from lab.maps import draw_map, inches, map_of, name_ticks
from lab.view import View, how_to_read, price, run_text, sample
from lab.what_matters import draw_ablation, rows_of_ablation
from support.figure import MARGIN, WIDTH, new_picture, panel
from transformer import TransformerBlock

READS_AND_WRITES = {                                        # the matrices of attention and feed-forward
    "query_projection": ("stream", "head"), "key_projection": ("stream", "head"),
    "value_projection": ("stream", "head"), "output_projection": ("head", "stream"),
    "expand": ("stream", "hidden unit"), "contract": ("hidden unit", "stream"),
}
Matrix = tuple[Tensor, str, str]                            # (outputs, inputs), names of inputs and outputs


def with_bias(layer: nn.Linear, read: str, written: str) -> Matrix:
    """Return the weights of a layer, with its bias as one more column."""
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach(), read, written


def weight_matrices(view: View) -> dict[str, dict[str, Matrix]]:
    """Return the matrices outside the layers and of every non-zero sublayer, without norms."""
    model = view.run.model
    names = {attention: view.place((*place, 0)) for place, attention in attention_at(model).items()}
    for block in model.modules():
        if isinstance(block, TransformerBlock):
            names[block.feed_forward] = names[block.attention].replace("head 1", "feed-forward")
    groups = {"outside the layers": {
        "token embedding": (model.embedding.weight.detach().T, "token", "stream"),
        "positional encoding": (model.positional_encoding.table.detach().T, "place", "stream"),
        "output projection": with_bias(model.output_projection, "stream", "token"),
    }}
    for sublayer in [module for module in model.modules() if module in names]:     # in their order
        matrices = {
            part.removesuffix("_projection"): with_bias(getattr(sublayer, part), *ends)
            for part, ends in READS_AND_WRITES.items() if hasattr(sublayer, part)
        }
        if any(matrix.any() for matrix, _, _ in matrices.values()):
            name = names[sublayer]
            groups[f"{name}: {view.run.purposes.get(name, '')}"] = matrices
    return groups


def name_parts(axis: Axis, size: int, what: str, stream: dict[str, tuple[int, int]]) -> None:
    """Name the parts of the residual stream along an axis, or else what its rows or columns are."""
    parts = stream if what == "stream" else {what: (0, size)}
    axis.set_ticks([sum(edges) / 2 for edges in parts.values()], list(parts), size=7)
    axis.set_ticks(sorted({edge for edges in parts.values() for edge in edges}), minor=True)
    axis.set_tick_params(which="both", length=0, pad=3)
    axis.grid(which="minor", linewidth=0.4)
    upright = (axis.axis_name == "x") == (what == "stream")
    axis.set_tick_params(rotation=90 if upright else 0)


def draw_matrix(axes: Axes, matrix: Matrix, stream: dict[str, tuple[int, int]]) -> None:
    """Draw a square for each non-zero weight."""
    weights, read, written = matrix
    rows, columns = weights.shape
    style = {"s": 7, "marker": "s", "linewidth": 0, "clip_on": False, "zorder": 3}
    for sign, colour in (weights > 0, "tab:blue"), (weights < 0, "tab:orange"):
        down, across = sign.nonzero().T.numpy()
        axes.scatter(across + 0.5, down + 0.5, color=colour, **style)
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.spines[:].set_visible(True)
    name_parts(axes.xaxis, columns, read, stream)
    name_parts(axes.yaxis, rows, written, stream)


def weights_picture(view: View) -> Figure:
    """Draw every weight matrix of a hand-built model, with the parts of the residual stream labelled."""
    groups, size, across, down = weight_matrices(view), 1.3, 1.95, 2.15
    count = sum(int(matrix.count_nonzero()) for group in groups.values() for matrix, _, _ in group.values())
    figure, top = new_picture(down * len(groups), f"only {count} weights are non-zero", f"{view}.", (
        "Rows: outputs. Columns: inputs, then the bias. Blue: positive, orange: negative.\n"
        "Not shown: all-zero sublayers, and the norms, which return their input unchanged."
    ))
    for row, (group, matrices) in enumerate(groups.items()):
        y = top + 0.4 + down * row
        figure.text(0.7 / WIDTH, 1 - (y - 0.22) / figure.get_figheight(), group, weight="bold", va="bottom")
        for column, (name, matrix) in enumerate(matrices.items()):
            axes = panel(figure, 0.7 + across * column, y, size, size)
            draw_matrix(axes, matrix, view.run.stream)
            axes.set_title(name, loc="left")
    return figure


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
