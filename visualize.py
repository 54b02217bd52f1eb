"""Pictures of where a trained model's heads read, each beside the evidence of whether that matters.

`python visualize.py` reads the checkpoints that `python train.py` wrote and saves, for each task, one head,
one layer and all layers × heads, and copy against reverse. A map shows where a head reads; only an
intervention shows whether the answer depends on it. So each title says what is left without those heads.

Shapes: N sequences, L symbols of content, S = L + 2 tokens, H heads.
A map is (S, S): row = query (who reads), column = key (what is read).
"""

import argparse
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import seaborn
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from data import FIRST_SYMBOL, TASKS, exact_match, frame, to_text
from train import Run, load_run
from transformer import MiniTransformer

SEQUENCES = 500                                             # test sequences behind each number
PATTERN = {"copy": "diagonal", "reverse": "anti-diagonal"}  # where the answers stand in a map

Head = tuple[int, int]                                      # layer and head, counted from 0


@contextmanager
def without_heads(model: MiniTransformer, heads: list[Head]) -> Iterator[None]:
    """Cut heads out: what they read becomes zero just before the output projection mixes the heads."""
    def cut(layer: int):
        attention = model.blocks[layer].attention

        def silence(module, inputs):
            by_head = inputs[0].unflatten(-1, (attention.num_heads, -1)).clone()        # (B, S, H, Dh)
            by_head[:, :, [head for where, head in heads if where == layer]] = 0.0
            return by_head.flatten(2)

        return attention.output_projection.register_forward_pre_hook(silence)

    handles = [cut(layer) for layer in {layer for layer, _ in heads}]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def answer_keys(task: str, length: int) -> Tensor:
    """Which key holds the answer of each content query 1 … L: the task, done to the positions themselves."""
    return TASKS[task](torch.arange(1, length + 1)[None])[0]


def unseen_sequences(run: Run, full_length: bool = False) -> tuple[Tensor, Tensor]:
    """Source and target (N, S) that training never saw, of all lengths or only of seq_len symbols."""
    config = replace(run.config, fixed_length=run.config.fixed_length or full_length)
    return config.draw(SEQUENCES, torch.Generator().manual_seed(4), "test")


@torch.no_grad()
def shares_on_answers(run: Run) -> Tensor:
    """The share of a content query's reading that falls on its answer, a mean for each head: (layers, H)."""
    source, _ = unseen_sequences(run, full_length=True)
    _, attention = run.model(source, return_attention=True)                         # a layer: (N, H, S, S)
    length = run.config.seq_len
    queries, keys = torch.arange(1, length + 1), answer_keys(run.config.task, length)
    return torch.stack([weights[:, :, queries, keys].mean(dim=(0, 2)) for weights in attention])


@torch.no_grad()
def exact_match_without(run: Run, heads: list[Head]) -> float:
    """Exact match on test sequences of all lengths when these heads are cut out."""
    source, target = unseen_sequences(run)
    with without_heads(run.model, heads):
        return exact_match(run.model(source).argmax(dim=-1), target)


def percent(share: float) -> str:
    return f"{share:.1%}".replace(".0%", "%")


@dataclass
class View:
    """What the pictures of one run and one sequence are drawn from."""

    run: Run
    tokens: Tensor                                          # (S,)
    maps: Tensor                                            # (layers, H, S, S)
    answer: str                                             # the model's, as text
    shares: Tensor                                          # (layers, H), see shares_on_answers
    best: Head                                              # the head with the largest share
    exact_match: float                                      # of the whole model, on test sequences


@torch.no_grad()
def look_at(run: Run, content: list[int]) -> View:
    """Run content symbols through the model. ValueError for symbols that are none, or too many of them."""
    largest = run.config.vocab_size - 1
    for symbol in content:
        if not FIRST_SYMBOL <= symbol <= largest:
            raise ValueError(f"symbol {symbol} is not content; choose from {FIRST_SYMBOL} … {largest}")
    symbols, width = torch.tensor([content]), len(content) + 2
    source, target = frame(symbols, width), frame(TASKS[run.config.task](symbols), width)
    logits, attention = run.model(source, return_attention=True)
    prediction = logits.argmax(dim=-1)
    mark = "✓" if exact_match(prediction, target) == 1 else "✗"
    answer = f"{to_text(symbols[0])} → {to_text(prediction[0, 1:-1])} {mark}"
    shares = shares_on_answers(run)
    best = divmod(int(shares.argmax()), run.config.num_heads)
    return View(run, source[0], torch.cat(attention), answer, shares, best, exact_match_without(run, []))


def clearest_example(run: Run) -> list[int]:
    """The unseen content in which the fewest symbols occur twice."""
    examples = unseen_sequences(run, full_length=True)[0][:, 1:-1].tolist()
    return max(examples, key=lambda content: len(set(content)))


def effect_of_cutting(view: View, heads: list[Head]) -> str:
    return f"exact match {percent(view.exact_match)} → {percent(exact_match_without(view.run, heads))}"


# ---------------------------------------------------------------- pictures


def draw_map(axes: Axes, view: View, head: Head, ticks: bool) -> None:
    """One head's map with the cells outlined where content queries have their answer."""
    labels = [f"{i}:{name}" for i, name in enumerate(to_text(view.tokens).split())] if ticks else False
    seaborn.heatmap(
        view.maps[head].numpy(), ax=axes, vmin=0, vmax=1, cmap="viridis", square=True, cbar=False,
        xticklabels=labels, yticklabels=labels,
    )
    for query, key in enumerate(answer_keys(view.run.config.task, len(view.tokens) - 2).tolist(), start=1):
        cell = Rectangle((key, query), 1, 1, fill=False, edgecolor="tomato", linewidth=1.8 if ticks else 0.6)
        axes.add_patch(cell)
    if ticks:
        axes.set(xlabel="key: what is read", ylabel="query: who reads")
        axes.tick_params("x", rotation=90)
        axes.tick_params("y", rotation=0)


def finish(figure: Figure, views: list[View], title: str) -> Figure:
    """What all pictures share: title, one colour bar for all maps, and how to read them."""
    figure.suptitle(title)
    bar = figure.colorbar(figure.axes[0].collections[0], ax=figure.axes, label="attention weight", shrink=0.8)
    bar.solids.set(rasterized=False, edgecolor="face")      # else the bar would be pixels in svg and pdf
    lines = [f"{view.run.config.task}: {view.answer}" for view in views]
    length = views[0].run.config.seq_len
    lines.append("Row: query, who reads. Column: key, what is read. Outlined: where the answer stands.")
    lines.append(f"Shares: means over {SEQUENCES} unseen sequences of {length} symbols; "
                 f"all tokens alike would be {percent(1 / (length + 2))}.")
    figure.supxlabel("\n".join(lines), fontsize="small")
    return figure


def head_picture(view: View) -> Figure:
    """The head that reads the answers most."""
    layer, head = view.best
    figure = Figure(figsize=(7.5, 7), layout="constrained")
    draw_map(figure.subplots(), view, view.best, ticks=True)
    heads, layers = view.run.config.num_heads, view.run.config.num_layers
    return finish(figure, [view], (
        f"{view.run.config.task}, layer {layer + 1} of {layers}, head {head + 1} of {heads}: "
        f"{percent(view.shares[view.best])} on the {PATTERN[view.run.config.task]}\n"
        f"{effect_of_cutting(view, [view.best])} without this head"
    ))


def layer_picture(view: View) -> Figure:
    """All heads of the layer with that head."""
    layer, heads = view.best[0], range(view.run.config.num_heads)
    columns = min(4, len(heads))
    rows = math.ceil(len(heads) / columns)
    figure = Figure(figsize=(3.4 * columns + 1, 3.4 * rows + 1.2), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for head, axes in zip(heads, grid, strict=False):
        draw_map(axes, view, (layer, head), ticks=True)
        axes.set_title(f"head {head + 1}: {percent(view.shares[layer, head])}", fontsize="medium")
        axes.tick_params(labelsize="x-small")
    for unused in grid:
        unused.remove()
    return finish(figure, [view], (
        f"{view.run.config.task}, layer {layer + 1} of {view.run.config.num_layers}: its heads put "
        f"{percent(view.shares[layer].mean())} on the {PATTERN[view.run.config.task]}\n"
        f"{effect_of_cutting(view, [(layer, head) for head in heads])} without this layer's attention"
    ))


def every_head(run: Run) -> list[Head]:
    return [(layer, head) for layer in range(run.config.num_layers) for head in range(run.config.num_heads)]


def model_picture(view: View) -> Figure:
    """All layers (rows) and heads (columns)."""
    layers, heads = view.shares.shape
    figure = Figure(figsize=(1.35 * heads + 1.5, 1.35 * layers + 1.8), layout="constrained")
    grid = figure.subplots(layers, heads, squeeze=False)
    for layer, head in every_head(view.run):
        axes = grid[layer, head]
        draw_map(axes, view, (layer, head), ticks=False)
        axes.set_title(f"head {head + 1}" if layer == 0 else "", fontsize="medium")
        axes.set_ylabel(f"layer {layer + 1}" if head == 0 else "")
    task, readers = view.run.config.task, int((view.shares > 0.5).sum())
    return finish(figure, [view], (
        f"{task}: {readers} of {layers * heads} heads read mostly the {PATTERN[task]}\n"
        f"{effect_of_cutting(view, every_head(view.run))} without any attention"
    ))


def comparison_picture(views: list[View]) -> Figure:
    """The head of each task that reads the answers most, side by side."""
    figure, findings = Figure(figsize=(5.5 * len(views) + 1, 6.6), layout="constrained"), []
    for view, axes in zip(views, figure.subplots(1, len(views)), strict=True):
        draw_map(axes, view, view.best, ticks=True)
        task, (layer, head) = view.run.config.task, view.best
        share = f"{percent(view.shares[view.best])} on the {PATTERN[task]}"
        axes.set_title(f"{task}, layer {layer + 1}, head {head + 1}: {share}", fontsize="medium")
        left = percent(exact_match_without(view.run, every_head(view.run)))
        findings.append(f"{task} is {left} right")
    return finish(figure, views, "Without any attention, " + " and ".join(findings))


# ---------------------------------------------------------------- command line


def save(figure: Figure, path: Path) -> None:
    """Write the picture as its suffix says, without the date, so that the same input gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(path.suffix[1:])
    figure.savefig(path, dpi=130, metadata=undated)
    print(f"{path}: " + figure.get_suptitle().replace("\n", "; "))


def fail(message: str) -> None:
    """One line on stderr, exit status 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Draw where the heads of trained models read, and what is left without them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False,
    )
    parser.error = fail
    option = parser.add_argument
    option("--task", nargs="+", choices=list(TASKS), default=["copy", "reverse"], help="one or more tasks")
    option("--sequence", nargs="+", type=int, help="symbols to show; by default a test sequence")
    option("--models-dir", type=Path, default=Path("models"), help="where python train.py wrote the runs")
    option("--output-dir", type=Path, help="where to write the pictures; by default beside the runs")
    option("--format", choices=["png", "svg", "pdf"], default="png", help="file format of the pictures")
    option("--dark", action="store_true", help="on a dark background")
    return parser.parse_args()


def main() -> None:
    options = parse()
    output = options.output_dir or options.models_dir
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)                            # as in training
    try:
        runs = [load_run(options.models_dir, task) for task in dict.fromkeys(options.task)]
        views = [look_at(run, options.sequence or clearest_example(run)) for run in runs]
    except ValueError as error:
        fail(str(error))
    style = "dark_background" if options.dark else "default"
    with matplotlib.style.context(style), matplotlib.rc_context({"svg.hashsalt": "attention"}):
        pictures = {}
        for view in views:
            folder = output / view.run.folder.relative_to(options.models_dir)
            pictures[folder / "attention_head"] = head_picture(view)
            pictures[folder / "attention_layer"] = layer_picture(view)
            pictures[folder / "attention_model"] = model_picture(view)
        if len(views) > 1:
            pictures[output / "_vs_".join(view.run.config.task for view in views)] = comparison_picture(views)
        try:
            for path, figure in pictures.items():
                save(figure, path.with_suffix(f".{options.format}"))
        except OSError as error:
            fail(f"cannot write the pictures: {error}")


if __name__ == "__main__":
    main()
