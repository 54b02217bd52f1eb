"""Pictures of where a trained model's heads read, each beside the evidence of whether that matters.

`python visualize.py` reads the checkpoints that `python train.py` wrote and saves, for each run, one head,
one layer, all layers × heads and, of an encoder–decoder, the three kinds of attention; and all runs side by
side. A map shows where a head reads; only an intervention shows whether the answer depends on it. So each
title says what is left without those heads.

Shapes: N sequences, L symbols of content, H heads, T queries, S keys.
A map is (T, S): row = query (who reads), column = key (what is read).
"""

import argparse
import math
import os
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy
import seaborn
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from analysis import (
    SEQUENCES,
    Evidence,
    Head,
    Part,
    answering_kind,
    longest,
    measure,
    read,
    unseen_sequences,
)
from data import ARCHITECTURES, PAD, TASKS, arrange, exact_match, fail, frame, to_content, to_text
from train import Run, load_run
from transformer import generate

PATTERN = {                                                 # where the answers stand in a map
    "copy": "the diagonal", "reverse": "the anti-diagonal", "double": "the two diagonals",
    "add": "the column's two digits",
}
KINDS = {"encoder": "self-attention", "decoder": "causal self-attention", "cross": "cross-attention"}


def percent(share: float) -> str:
    return f"{share:.1%}".replace(".0%", "%")


def clearest_example(run: Run) -> Tensor:
    """The unseen content (L,) in which the fewest symbols occur twice."""
    source, _, _ = unseen_sequences(run, longest(run))
    return max(source[:, 1:-1], key=lambda content: len(content.unique()))


@dataclass
class View:
    """What the pictures of one run and one sequence are drawn from."""

    run: Run
    maps: dict[str, Tensor]                                 # of each kind of attention: (layers, H, T, S)
    labels: dict[str, tuple[list[str], list[str]]]          # of each kind: queries (T) and keys (S)
    answer: str                                             # the model's, as text
    cells: list[tuple[int, int]]                            # where the answers stand: query, key
    best: Head                                              # the one that reads the answers most
    evidence: Evidence

    @property
    def kind(self) -> str:
        """The kind of attention that can find the answers; cells and shares are of this kind."""
        return self.best[0]

    @property
    def shares(self) -> Tensor:
        """What share of its reading each head spends on the answers, (layers, H)."""
        return self.evidence.reading.shares


def labels_of(architecture: str, task: str, given: tuple[Tensor, ...], said: Tensor) -> dict:
    """Each kind's names of queries and keys, "index:token", and "→ next" for a query that writes."""
    tokens = [[f"{i}:{to_text(token, task)}" for i, token in enumerate(row[0].split(1))] for row in given]
    if architecture == "encoder":
        return {"encoder": (tokens[0], tokens[0])}
    writing = [
        f"{name} → {to_text(token, task)}" if token != PAD else name
        for name, token in zip(tokens[-1], said[0].split(1), strict=True)
    ]
    if architecture == "decoder":
        return {"decoder": (writing, tokens[0])}
    return {
        "encoder": (tokens[0], tokens[0]), "decoder": (writing, tokens[1]), "cross": (writing, tokens[0])
    }


@torch.no_grad()
def look_at(run: Run, words: list[str] | None = None) -> View:
    """Ask the model one question, as data.to_text writes it, by default a clear example.

    ValueError for what the task cannot be asked, and for too many symbols.
    """
    architecture, task = run.config.architecture, run.config.task
    content = to_content(words, task, run.config.vocab_size) if words else clearest_example(run)
    answer = TASKS[task](content[None])
    source, target = frame(content[None], len(content) + 2), frame(answer, answer.size(1) + 2)
    if architecture == "encoder":
        given, _ = arrange(architecture, source, target)
        said = run.model(*given).argmax(dim=-1)
        written = said[:, : target.size(1)]
    else:
        written = torch.cat([source[:, :1], generate(run.model, source, target.size(1) - 1)], dim=1)
        given, said = arrange(architecture, source, written)
    mark = "✓" if written.shape == target.shape and exact_match(written, target) == 1 else "✗"
    reading = read(run, source, given, said)
    maps = {kind: weights[:, 0] for kind, weights in reading.maps.items()}
    evidence = measure(run)
    best = int(evidence.reading.shares.argmax())
    return View(
        run, maps, labels_of(architecture, task, given, said),
        f"{to_text(content, task)} → {to_text(written[0, 1:], task).removesuffix(' END')} {mark}",
        reading.cells[0].nonzero().tolist(),
        (answering_kind(architecture), *divmod(best, run.config.num_heads)), evidence,
    )


def effect_of_cutting(view: View, part: Part) -> str:
    left = view.evidence.exact_match
    return f"exact match {percent(left[None])} → {percent(left[part])}"


def most_focused(view: View, kind: str) -> Head:
    """On this sequence, the head whose queries come closest to reading a single key each."""
    focus = view.maps[kind].amax(dim=-1).mean(dim=-1)                               # (layers, H)
    return kind, *divmod(int(focus.argmax()), focus.size(1))


# ---------------------------------------------------------------- pictures


def draw_map(axes: Axes, view: View, head: Head, ticks: bool) -> None:
    """One head's map, with the cells outlined where queries have their answer."""
    kind, layer, index = head
    queries, keys = view.labels[kind] if ticks else (False, False)
    weights = view.maps[kind][layer, index].numpy()
    seaborn.heatmap(
        weights, mask=numpy.triu(numpy.ones_like(weights), 1) if kind == "decoder" else None,
        ax=axes, vmin=0, vmax=1, cmap="viridis", square=True, cbar=False,
        xticklabels=keys, yticklabels=queries,
    )
    axes.set_facecolor("silver")                            # shows where the causal mask forbids to read
    for query, key in view.cells if kind == view.kind else []:
        cell = Rectangle((key, query), 1, 1, fill=False, edgecolor="tomato", linewidth=1.8 if ticks else 0.6)
        axes.add_patch(cell)
    if ticks:
        writes = any("→" in name for name in queries)
        axes.set(xlabel="key: what is read", ylabel="query: who reads" + " → writes next" * writes)
        axes.tick_params("x", rotation=90)
        axes.tick_params("y", rotation=0)


def name_of(view: View) -> str:
    return f"{view.run.config.task}, {view.run.config.architecture}"


def finish(figure: Figure, views: list[View], title: str) -> Figure:
    """What all pictures share: title, one colour bar for all maps, and how to read them."""
    figure.suptitle(title)
    gaps = any(":_" in name for view in views for names in view.labels.values() for name in names[1])
    causal = any(numpy.ma.is_masked(axes.collections[0].get_array()) for axes in figure.axes)
    bar = figure.colorbar(figure.axes[0].collections[0], ax=figure.axes, label="attention weight", shrink=0.8)
    bar.solids.set(rasterized=False, edgecolor="face")      # else the bar would be pixels in svg and pdf
    lines = [f"{name_of(view)}: {view.answer}" for view in views]
    lengths = " or ".join(dict.fromkeys(str(longest(view.run)) for view in views))
    chance = " or ".join(dict.fromkeys(percent(view.evidence.reading.chance) for view in views))
    lines.append("Row: query, who reads. Column: key, what is read. Outlined: where the answer stands."
                 + " Grey: not allowed to read." * causal + " _: to be filled in." * gaps)
    lines.append(f"Shares: means over {SEQUENCES} unseen sequences of {lengths} symbols; "
                 f"all tokens alike would be {chance}.")
    figure.supxlabel("\n".join(lines), fontsize="small")
    return figure


def pattern_of(view: View) -> str:
    return PATTERN.get(view.run.config.task, "the answer's symbol")


def on_pattern(view: View, share: float | None = None) -> str:
    """The share, by default that of the best head, in words."""
    share = view.shares[view.best[1:]].item() if share is None else share
    return f"{percent(share)} on {pattern_of(view)}"


def place_of(view: View, head: Head) -> str:
    kind, layer, index = head
    layers, heads = view.maps[kind].shape[:2]
    return f"{KINDS[kind]}, layer {layer + 1} of {layers}, head {index + 1} of {heads}"


def head_picture(view: View) -> Figure:
    """The head that reads the answers most."""
    figure = Figure(figsize=(7.5, 7.2), layout="constrained")
    draw_map(figure.subplots(), view, view.best, ticks=True)
    return finish(figure, [view], (
        f"{name_of(view)}: {place_of(view, view.best)}\n{on_pattern(view)}; "
        f"{effect_of_cutting(view, view.best)} without this head"
    ))


def layer_picture(view: View) -> Figure:
    """All heads of the layer with that head."""
    kind, layer, _ = view.best
    heads = range(view.run.config.num_heads)
    columns = min(4, len(heads))
    rows = math.ceil(len(heads) / columns)
    figure = Figure(figsize=(3.4 * columns + 1, 3.4 * rows + 1.2), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for head, axes in zip(heads, grid, strict=False):
        draw_map(axes, view, (kind, layer, head), ticks=True)
        if head % columns:                                  # the axes' names once for each row and column
            axes.set_ylabel("")
        if head + columns < len(heads):
            axes.set_xlabel("")
        axes.set_title(f"head {head + 1}: {percent(view.shares[layer, head].item())}", fontsize="medium")
        axes.tick_params(labelsize="x-small")
    for unused in grid:
        unused.remove()
    return finish(figure, [view], (
        f"{name_of(view)}: {KINDS[kind]}, layer {layer + 1} of {len(view.shares)}, "
        f"{on_pattern(view, view.shares[layer].mean().item())}\n"
        f"{effect_of_cutting(view, (kind, layer))} without these heads"
    ))


def model_picture(view: View) -> Figure:
    """All layers of all kinds (rows) and heads (columns)."""
    kinds = list(view.maps)
    rows = [(kind, layer) for kind in kinds for layer in range(len(view.maps[kind]))]
    heads = view.run.config.num_heads
    figure = Figure(figsize=(1.35 * heads + 1.5, 1.35 * len(rows) + 1.8), layout="constrained")
    grid = figure.subplots(len(rows), heads, squeeze=False)
    for (kind, layer), axes_of_row in zip(rows, grid, strict=True):
        for head, axes in enumerate(axes_of_row):
            draw_map(axes, view, (kind, layer, head), ticks=False)
            axes.set_title(f"head {head + 1}" if axes in grid[0] else "", fontsize="medium")
            axes.set_ylabel(f"{kind} {layer + 1}" if head == 0 else "")
    readers = int((view.shares > 0.5).sum())
    return finish(figure, [view], (
        f"{name_of(view)}: {readers} of {view.shares.numel()} heads of {KINDS[view.kind]} read mostly "
        f"{pattern_of(view)}\n"
        f"{effect_of_cutting(view, ())} without any attention"
    ))


def kinds_picture(view: View) -> Figure:
    """One head of each kind of attention, and what is left without all of that kind."""
    figure = Figure(figsize=(5.5 * len(view.maps) + 1, 6.8), layout="constrained")
    for kind, axes in zip(view.maps, figure.subplots(1, len(view.maps)), strict=True):
        head = view.best if kind == view.kind else most_focused(view, kind)
        draw_map(axes, view, head, ticks=True)
        cut = effect_of_cutting(view, (kind,))
        side = "encoder" if kind == "encoder" else "decoder"
        axes.set_title(f"{side}: {place_of(view, head)}\n{cut} without {KINDS[kind]}", fontsize="medium")
    return finish(figure, [view], f"{name_of(view)}: {on_pattern(view)} in a head of {KINDS[view.kind]}")


def comparison_picture(views: list[list[View]]) -> Figure:
    """Of each run the head that reads the answers most: architectures are rows, tasks columns."""
    rows, columns = len(views), len(views[0])
    figure = Figure(figsize=(5.6 * columns + 1, 5.6 * rows + 1.2), layout="constrained")
    findings = ["Without the kind of attention shown"]
    for row, axes_of_row in zip(views, figure.subplots(rows, columns, squeeze=False), strict=True):
        tasks = []
        for view, axes in zip(row, axes_of_row, strict=True):
            share_right = percent(view.evidence.exact_match[view.kind,])
            draw_map(axes, view, view.best, ticks=True)
            _, layer, head = view.best
            axes.set_title(
                f"{name_of(view)}: exact match {percent(view.evidence.exact_match[None])}\n"
                f"{on_pattern(view)} (layer {layer + 1}, head {head + 1})", fontsize="medium",
            )
            axes.set_xlabel(f"key: what is read\nexact match without any {KINDS[view.kind]}: {share_right}")
            tasks.append(f"{view.run.config.task} is {share_right} right")
        findings.append(f"{row[0].run.config.architecture}: {' and '.join(tasks)}")
    return finish(figure, sum(views, []), "\n".join(findings))


# ---------------------------------------------------------------- command line


def save(figure: Figure, path: Path) -> None:
    """Write the picture as its suffix says, without the date, so that the same input gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(path.suffix[1:])
    figure.savefig(path, dpi=130, metadata=undated)
    print(f"{path}: " + figure.get_suptitle().replace("\n", "; "))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Draw where the heads of trained models read, and what is left without them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False,
    )
    parser.error = fail
    option = parser.add_argument
    option("--task", nargs="+", choices=list(TASKS), default=["copy", "reverse"], help="one or more tasks")
    option("--architecture", nargs="+", choices=ARCHITECTURES, default=["encoder", "encoder-decoder"],
           help="one or more architectures")
    option("--sequence", nargs="+", help="a question as data.py prints it: 5 7 9, 4 2 + 1 9 or 5 _ 5 7")
    option("--models-dir", type=Path, default=Path("models"), help="where python train.py wrote the runs")
    option("--output-dir", type=Path, help="where to write the pictures; by default beside the runs")
    option("--format", choices=["png", "svg", "pdf"], default="png", help="file format of the pictures")
    option("--dark", action="store_true", help="on a dark background")
    return parser.parse_args()


def main() -> None:
    options = parse()
    output, tasks = options.output_dir or options.models_dir, list(dict.fromkeys(options.task))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)                            # as in training
    try:
        views = [
            [look_at(load_run(options.models_dir, task, architecture), options.sequence) for task in tasks]
            for architecture in dict.fromkeys(options.architecture)
        ]
    except ValueError as error:
        fail(str(error))
    style = "dark_background" if options.dark else "default"
    with matplotlib.style.context(style), matplotlib.rc_context({"svg.hashsalt": "attention"}):
        pictures = {}
        for view in sum(views, []):
            folder = output / view.run.folder.relative_to(options.models_dir)
            pictures[folder / "attention_head"] = head_picture(view)
            pictures[folder / "attention_layer"] = layer_picture(view)
            pictures[folder / "attention_model"] = model_picture(view)
            if len(view.maps) > 1:
                pictures[folder / "attention_kinds"] = kinds_picture(view)
        if len(sum(views, [])) > 1:
            pictures[output / "_vs_".join(tasks)] = comparison_picture(views)
        try:
            for path, figure in pictures.items():
                save(figure, path.with_suffix(f".{options.format}"))
        except OSError as error:
            fail(f"cannot write the pictures: {error}")


if __name__ == "__main__":
    main()
