"""Pictures of where a trained model's heads read, each beside the evidence of whether that matters.

`python visualize.py` reads the checkpoints that `python train.py` wrote and saves PICTURES for each run, and
all runs side by side. A map shows where a head reads; only an intervention shows whether the answer depends
on it. So each title has the finding with its number, which analysis.py measured.

Shapes: N sequences, H heads, T queries, S keys.
A map is (T, S): row = query (who reads), column = key (what is read).
"""

import argparse
import math
import os
import sys
import textwrap
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote
from zlib import crc32

import matplotlib
import numpy
import seaborn
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from tqdm import tqdm

from analysis import (
    ALL_ATTENTION,
    NOTHING,
    SEQUENCES,
    SEQUENCES_EACH,
    Evidence,
    Head,
    Part,
    Reading,
    answering_kind,
    answers,
    diagonals,
    first_symbol,
    head_table,
    heads_of,
    influence_on,
    longest,
    measure,
    read,
    rollout,
    scores_of_query,
    share_on,
    unseen_sequences,
)
from data import (
    ARCHITECTURES,
    PAD,
    TASKS,
    add_start_end,
    arrange,
    exact_match,
    is_scored,
    parse_options,
    task_names,
    to_content,
    to_text,
)
from train import (
    DEFAULT_ARCHITECTURES,
    DEFAULT_FOLDER,
    DEFAULT_TASKS,
    EVALUATION_BATCH,
    Config,
    Run,
    command_line,
    first_solved,
    load_run,
    name_loss_axes,
    open_checkpoint,
    replacing,
    runs_below,
    save_table,
    setting_text,
    task_of,
)
from transformer import fail, generate, run_script

RULE = "Attention shows where a head reads; only an intervention shows whether it matters."
MOST_KEYS = 20                                              # whose numbers fit beside one another
MOST_NAMES = 40                                             # of more tokens, every second or third is named
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
    reading: Reading                                        # of this one question
    own_question: bool                                      # whether the reader has chosen it
    labels: dict[str, tuple[list[str], list[str]]]          # of each kind: queries (T) and keys (S)
    answer: str                                             # the model's, as text, and ✓ or ✗
    best: Head                                              # the one that attends most to the cells
    evidence: Evidence                                      # of many questions

    @cached_property
    def maps(self) -> dict[str, Tensor]:
        """The attention of each kind, (layers, H, T, S)."""
        return {kind: weights[:, 0] for kind, weights in self.reading.maps.items()}

    @cached_property
    def cells(self) -> list[list[int]]:
        """Where the answers come from: query, key."""
        return self.reading.cells[0].nonzero().tolist()

    @property
    def kind(self) -> str:
        """The kind of attention that can find the answers; cells and shares are of this kind."""
        return self.best[0]

    @property
    def shares(self) -> Tensor:
        """What share of its reading each head spends on the answers, (layers, H)."""
        return self.evidence.reading.shares

    @cached_property
    def pattern(self) -> str | None:
        """What a map has outlined for the longest questions; None where the answer depends on nothing."""
        cells = self.evidence.reading.cells
        if not cells.any():
            return None
        both = diagonals(self.run.architecture, self.kind, self.length, *cells.shape[1:])
        for name, diagonal in zip(("the diagonal", "the anti-diagonal"), both, strict=True):
            if (cells == diagonal).all():
                return name
        return "the needed symbols"

    @property
    def length(self) -> int:
        """How many symbols the questions of evidence.reading have: the most in training."""
        return self.evidence.reading.length


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


def shorten(text: str) -> str:
    """So many words as fit into a line of a caption beside as many others."""
    return textwrap.shorten(text, 40, placeholder=" …")


def ask(run: Run, words: list[str] | None = None) -> tuple[Tensor, tuple[Tensor, ...], Tensor, str]:
    """Ask the model one question, as data.to_text writes it, by default a clear example.

    Returns the source, what the model was given and said at each query, and both as text. ValueError for what
    the task cannot be asked, and for too many symbols.
    """
    architecture, task = run.architecture, run.config.task
    content = to_content(words, task, run.config.vocab_size) if words else clearest_example(run)
    answer = TASKS[task].answer(content[None])
    source, target = add_start_end(content[None], len(content) + 2), add_start_end(answer, answer.size(1) + 2)
    if architecture == "encoder":
        given, _ = arrange(architecture, source, target)
        said = answers(run.model, given)
        written = said[:, : target.size(1)]
    else:
        written = torch.cat([source[:, :1], generate(run.model, source, target.size(1) - 1)], dim=1)
        given, said = arrange(architecture, source, written)
    mark = "✓" if written.shape == target.shape and exact_match(written, target) == 1 else "✗"
    said_text = to_text(written[0, 1:], task).removesuffix(" END")
    text = f"{shorten(to_text(content, task))} → {shorten(said_text)} {mark}"
    return source, given, said, text


def best_head(kind: str, scores: Tensor) -> Head:
    """The head with the highest score, of (layers, H)."""
    return kind, *divmod(int(scores.argmax()), scores.size(1))


def most_focused(kind: str, maps: Tensor) -> Head:
    """The head whose queries come closest to attending to a single key each; maps (layers, H, T, S)."""
    return best_head(kind, maps.amax(dim=-1).mean(dim=-1))


def look_at(run: Run, words: list[str] | None = None) -> View:
    """Ask the model one question, and measure it. ValueError as ask."""
    source, given, said, text = ask(run, words)
    reading, evidence = read(run, source, given, said), measure(run)
    kind, shares = answering_kind(run.architecture), evidence.reading.shares
    best = most_focused(kind, reading.maps[kind][:, 0]) if shares.isnan().any() else best_head(kind, shares)
    return View(
        run=run, reading=reading, own_question=bool(words), answer=text, best=best, evidence=evidence,
        labels=labels_of(run.architecture, run.config.task, given, said),
    )


def effect_of_cutting(view: View, part: Part) -> str:
    left = view.evidence.zero_ablation
    return f"exact match {percent(left[NOTHING])} → {percent(left[part])}"


# ---------------------------------------------------------------- pictures


def draw_matrix(
    axes: Axes, weights: Tensor, queries: list[str] | None, keys: list[str] | None,
    cells: list[tuple[int, int]] | tuple[()] = (),
) -> None:
    """A map (T, S), grey where it is nan, with cells outlined; without names, no ticks either."""
    seaborn.heatmap(
        weights.numpy(), mask=weights.isnan().numpy(), ax=axes, vmin=0, vmax=1, cmap="viridis", square=True,
        cbar=False, xticklabels=False, yticklabels=False,
    )
    axes.collections[0].set(edgecolor="face", linewidth=0.4)    # else viewers show seams in svg and pdf
    axes.set_facecolor("silver")
    for query, key in cells:
        width = 1.8 if queries and len(queries) < MOST_NAMES else 0.6
        axes.add_patch(Rectangle((key, query), 1, 1, fill=False, edgecolor="tomato", linewidth=width))
    for axis, names in (axes.xaxis, keys), (axes.yaxis, queries):
        if names is not None:
            places = range(0, len(names), len(names) // MOST_NAMES + 1)
            axis.set_ticks([place + 0.5 for place in places], [names[place] for place in places])
    axes.tick_params("x", rotation=90)
    axes.tick_params("y", rotation=0)


def draw_map(axes: Axes, view: View, head: Head, ticks: bool) -> None:
    """One head's map of the view's sequence, grey where the causal mask forbids reading."""
    kind, layer, index = head
    weights = view.maps[kind][layer, index]
    if kind == "decoder":
        weights = weights.masked_fill(torch.ones_like(weights).triu(1).bool(), torch.nan)
    queries, keys = view.labels[kind] if ticks else (None, None)
    draw_matrix(axes, weights, queries, keys, view.cells if kind == view.kind else ())
    if ticks:
        writes = any("→" in name for name in queries)
        axes.set(xlabel="key: what is read", ylabel="query: who reads" + " → writes next" * writes)


def name_of(view: View) -> str:
    return f"{view.run.config.task}, {view.run.architecture}"


def of_this_sequence(view: View, which: str = "") -> list[str]:
    """What a title says of a sequence of one's own, since its other numbers are means over many sequences."""
    if not view.own_question:
        return []
    lines = [f"this sequence: {view.answer[-1]}"]
    if view.cells:
        lines[0] += f", {percent(view.reading.shares[view.best[1:]].item())} on {view.pattern}{which}"
    if view.reading.length > view.length:
        symbols = f"{view.reading.length} symbols instead of at most {view.length}"
        lines.append(f"longer than in training: {symbols}")
    return lines


def head_name(head: Head) -> str:
    _, layer, index = head
    return f"layer {layer + 1}, head {index + 1}"


def layers_of(view: View) -> list[Part]:
    return [(kind, layer) for kind, maps in view.maps.items() for layer in range(len(maps))]


def finish(figure: Figure, title: str, lines: list[str], bar: str = "") -> Figure:
    """What all pictures share: the finding as title, a colour bar for all maps, how to read it, the rule."""
    figure.suptitle(title)
    if bar:
        shown = figure.colorbar(figure.axes[0].collections[0], ax=figure.axes, label=bar, shrink=0.8)
        shown.solids.set(rasterized=False, edgecolor="face")    # else it would be pixels in svg and pdf
    width = int(13.5 * figure.get_figwidth())               # characters of this size in a line
    figure.supxlabel("\n".join(textwrap.fill(line, width) for line in [*lines, RULE]), fontsize="small")
    return figure


def finish_maps(figure: Figure, title: str, *views: View) -> Figure:
    """finish for maps of one sequence: one view, or several side by side."""
    gaps = any(":_" in name for view in views for names in view.labels.values() for name in names[1])
    causal = any(numpy.ma.is_masked(axes.collections[0].get_array()) for axes in figure.axes)
    lengths = " or ".join(dict.fromkeys(str(view.length) for view in views))
    chances = dict.fromkeys(percent(view.evidence.reading.chance) for view in views if view.pattern)
    rows = "Row: query, who reads. Column: key, what is read."
    if any(view.cells for view in views):
        rows += " Outlined: where the answer comes from, the needed symbols."
    if causal:
        rows += " Grey: not allowed to read."
    if gaps:
        rows += " _: to be filled in."
    lines = [*(f"{name_of(view)}: {view.answer}" for view in views), rows]
    if len(views) == 1:
        title = "\n".join([title, *of_this_sequence(views[0], f" ({head_name(views[0].best)})")])
    if chances:
        lines.append(
            f"Shares: means over {SEQUENCES} unseen sequences of {lengths} symbols; "
            f"uniform attention would have {' or '.join(chances)}."
        )
    return finish(figure, title, lines, "attention weight")


def on_pattern(view: View, share: float | None = None) -> str:
    """The share, by default that of the best head, in words."""
    if view.pattern is None and view.evidence.reading.depends.isnan().any():
        return "what the answer depends on cannot be measured"
    if view.pattern is None:
        return "the answer depends on nothing"
    share = view.shares[view.best[1:]].item() if share is None else share
    return f"{percent(share)} on {view.pattern}"


def place_of(view: View, head: Head) -> str:
    kind, layer, index = head
    layers, heads = view.maps[kind].shape[:2]
    return f"{KINDS[kind]}, layer {layer + 1} of {layers}, head {index + 1} of {heads}"


def head_picture(view: View) -> Figure:
    """The head that reads the answers most."""
    figure = Figure(figsize=(7.5, 7.2), layout="constrained")
    draw_map(figure.subplots(), view, view.best, ticks=True)
    return finish_maps(figure, (
        f"{name_of(view)}: {place_of(view, view.best)}\n{on_pattern(view)}; "
        f"{effect_of_cutting(view, view.best)} without this head"
    ), view)


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
        share = f": {percent(view.shares[layer, head].item())}" if view.pattern else ""
        axes.set_title(f"head {head + 1}{share}", fontsize="medium")
        axes.tick_params(labelsize="x-small")
    for unused in grid:
        unused.remove()
    return finish_maps(figure, (
        f"{name_of(view)}: {KINDS[kind]}, layer {layer + 1} of {len(view.shares)}, "
        f"{on_pattern(view, view.shares[layer].mean().item())}\n"
        f"{effect_of_cutting(view, (kind, layer))} without these heads"
    ), view)


def model_picture(view: View) -> Figure:
    """All layers of all kinds (rows) and heads (columns)."""
    rows = layers_of(view)
    heads = view.run.config.num_heads
    figure = Figure(figsize=(1.35 * heads + 1.5, 1.35 * len(rows) + 1.8), layout="constrained")
    grid = figure.subplots(len(rows), heads, squeeze=False)
    for (kind, layer), axes_of_row in zip(rows, grid, strict=True):
        for head, axes in enumerate(axes_of_row):
            draw_map(axes, view, (kind, layer, head), ticks=False)
            axes.set_title(f"head {head + 1}" if axes in grid[0] else "", fontsize="medium")
            axes.set_ylabel(f"{kind} {layer + 1}" if head == 0 else "")
    finding, readers = on_pattern(view), int((view.shares > 0.5).sum())
    if view.pattern:
        finding = f"{readers} of {view.shares.numel()} heads of {KINDS[view.kind]} read mostly {view.pattern}"
    return finish_maps(figure, (
        f"{name_of(view)}: {finding}\n"
        f"{effect_of_cutting(view, ALL_ATTENTION)} without any attention"
    ), view)


def kinds_picture(view: View) -> Figure:
    """One head of each kind of attention, and what is left without all of that kind."""
    figure = Figure(figsize=(5.5 * len(view.maps) + 1, 6.8), layout="constrained")
    for kind, axes in zip(view.maps, figure.subplots(1, len(view.maps)), strict=True):
        head = view.best if kind == view.kind else most_focused(kind, view.maps[kind])
        draw_map(axes, view, head, ticks=True)
        cut = effect_of_cutting(view, (kind,))
        side = "encoder" if kind == "encoder" else "decoder"
        axes.set_title(f"{side}: {place_of(view, head)}\n{cut} without {KINDS[kind]}", fontsize="medium")
    return finish_maps(figure, f"{name_of(view)}: {on_pattern(view)} in a head of {KINDS[view.kind]}", view)


def comparison_picture(views: list[list[View]]) -> Figure:
    """Of each run the head that reads the answers most: architectures are rows, tasks columns."""
    rows, columns = len(views), len(views[0])
    figure = Figure(figsize=(4.8 * columns + 1, 4.9 * rows + 1.4), layout="constrained")
    findings = ["Without the kind of attention shown"]
    for row, axes_of_row in zip(views, figure.subplots(rows, columns, squeeze=False), strict=True):
        tasks = []
        for view, axes in zip(row, axes_of_row, strict=True):
            share_right = percent(view.evidence.zero_ablation[view.kind,])
            draw_map(axes, view, view.best, ticks=True)
            lines = [
                f"{name_of(view)}: exact match {percent(view.evidence.zero_ablation[NOTHING])}",
                f"{on_pattern(view)} ({head_name(view.best)})", *of_this_sequence(view),
            ]
            axes.set_title("\n".join(lines), fontsize="medium")
            axes.set_xlabel(f"key: what is read\nexact match without any {KINDS[view.kind]}: {share_right}")
            tasks.append(f"{view.run.config.task} is {share_right} right")
        findings.append(f"{row[0].run.architecture}: {' and '.join(tasks)}")
    finish_maps(figure, "\n".join(findings), *sum(views, []))
    figure.draw_without_rendering()                         # a second pass of the layout, else titles collide
    return figure


def labels_of_means(view: View) -> tuple[list[str], list[str]]:
    """Names of the queries that answer and of all keys, for means over sequences of the longest length."""
    length, reading = view.length, view.evidence.reading
    queries = [f"→ {place}" for place in [*range(1, int(is_scored(reading.to_say[0]).sum())), "END"]]
    behind = "_" if view.run.architecture == "encoder" else "→ {}"
    places = range(1, reading.given[0].size(1) - length - 1)
    return queries, ["START", *map(str, range(1, length + 1)), "END", *map(behind.format, places)]


def influence_picture(view: View) -> Figure:
    """Where the best head reads, and all layers together, beside what the answers depend on."""
    reading, moved = view.evidence.reading, view.evidence.influence
    (kind, layer, head), (queries, keys) = view.best, labels_of_means(view)
    rolled = rollout(reading.maps)
    share, own, other = influence_on(reading.cells[: len(moved)], moved)
    panels = {
        f"looks at\n{head_name(view.best)}": (
            reading.maps[kind][layer, :, head], view.shares[layer, head].item()
        ),
        "looks at, by rollout\nall layers": (rolled, share_on(reading.cells, rolled[:, None]).item()),
        "depends on\ninfluence": (moved, share),
    }
    asked = is_scored(reading.to_say[0])                       # of the queries, only those that answer
    always = reading.cells.all(dim=0)[asked].nonzero().tolist()     # the same cells in all sequences
    figure = Figure(figsize=(10.5, 2.8 + 2.6 * len(queries) / len(keys)), layout="constrained")
    for axes, (name, (maps, on_answers)) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        draw_matrix(axes, maps.nanmean(dim=0)[asked], queries, keys, always)
        title = f"{name}: {percent(on_answers)}" if view.pattern else name
        axes.set(title=title, xlabel="key: symbol of the source", ylabel="")
        axes.tick_params(labelsize="medium" if len(keys) < 12 else "xx-small")
    figure.axes[0].set_ylabel("query: symbol it says")
    averages = f"Means over {SEQUENCES} unseen sequences (influence: {SEQUENCES_EACH})."
    if always:
        averages += " Outlined: where the answer comes from."
    finding = on_pattern(view)
    if not math.isnan(other):                               # it is where there is no other symbol
        finding += f"\nreplacing a symbol moves it by {other:.2f}"
    moves = "Influence: how far the answer moves (total variation) when a symbol is replaced"
    if view.pattern:
        finding = (
            f"{percent(share)} of the influence on the answers comes from {view.pattern}\n"
            f"the most attention that any head has there is {percent(view.shares.max().item())}"
        )
        moves += f"; where the answer comes from {own:.2f}, elsewhere {other:.2f}"
    return finish(figure, f"{name_of(view)}: {finding}", [
        averages, moves + ".",
        "Rollout multiplies all layers' maps, blind to what they carry. Grey: nothing was replaced.",
    ], "attention or influence")


def knock_out_picture(view: View) -> Figure:
    """Exact match without each head, and without each layer, each kind and all attention."""
    left, by_mean = view.evidence.zero_ablation, view.evidence.mean_ablation
    layers = layers_of(view)
    grid = torch.tensor([[left[head] for head in heads_of(view.run.model, layer)] for layer in layers])
    names = {(kind, layer): f"{kind} {layer + 1}" for kind, layer in layers}
    if len(view.maps) > 1:
        names |= {(kind,): f"all {kind}" for kind in view.maps}
    names[ALL_ATTENTION] = "all attention"
    figure = Figure(figsize=(10.5, 1.9 + 0.42 * len(names)), layout="constrained")
    map_axes, bar_axes = figure.subplots(1, 2, width_ratios=[1.6, 1])
    seaborn.heatmap(
        100 * grid.numpy(), ax=map_axes, vmin=0, vmax=100, cmap="viridis", annot=True, fmt=".0f", cbar=False,
        xticklabels=range(1, grid.size(1) + 1), yticklabels=[names[layer] for layer in layers],
    )
    map_axes.tick_params("y", rotation=0)
    map_axes.set(xlabel="head that is ablated", ylabel="layer", title="exact match without one head, %")
    for offset, scores, label in (-0.2, left, "zero ablation"), (0.2, by_mean, "mean ablation"):
        shares = [100 * scores[part] for part in names]
        bars = bar_axes.barh([place + offset for place in range(len(names))], shares, 0.38, label=label)
        bar_axes.bar_label(bars, fmt="%.0f", padding=2, fontsize="small")
    bar_axes.set(yticks=range(len(names)), yticklabels=names.values(), xlim=(0, 119), ylim=(len(names), -0.6),
                 xticks=range(0, 101, 25), title="without a layer or more, %")
    bar_axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35 / figure.get_figheight()), ncols=2,
                    fontsize="small")
    return finish(figure, (
        f"{name_of(view)}: {effect_of_cutting(view, ALL_ATTENTION)} without any attention\n"
        f"worst layer to lose: {percent(min(left[layer] for layer in layers))} still right; "
        f"worst head: {percent(grid.min())}"
    ), [f"On {SEQUENCES} unseen sequences of all lengths. A head's output is set to zero, or to its mean."])


def name_of_head(row: dict) -> str:
    return f"{row['kind']} {row['layer']}, head {row['head']}"


def heads_picture(view: View) -> Figure:
    """A card for each head: its mean map and its scores, from the one that costs most to lose."""
    table, columns = head_table(view.run, view.evidence), 4
    rows = math.ceil(len(table) / columns)
    figure = Figure(figsize=(10.5, 1.25 * rows + 1.6))
    margin = 0.8 / figure.get_figheight()
    figure.subplots_adjust(0.01, margin, 0.99, 1 - margin, wspace=0.05, hspace=0.12)
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, (picture, text) in zip(table, grid.reshape(-1, 2), strict=False):
        maps = view.evidence.reading.maps[row["kind"]][row["layer"] - 1, :, row["head"] - 1]
        draw_matrix(picture, maps.mean(dim=0), None, None)
        lines = [name_of_head(row), f"costs {percent(row['cost'])}"]
        for score in "answer", "diagonal", "anti_diagonal":
            if row[score] is not None:
                lines.append(f"{score.replace('_', '-')} {row[score]:.0%}")
        if row["relative_entropy"] is not None:
            lines.append(f"entropy {row['relative_entropy']:.2f}")
        lines.append(f"distance {row['mean_distance']:.1f}")
        text.text(0, 0.5, "\n".join(lines), va="center", fontsize="small")
    costly, best = table[0], max(table, key=lambda row: row["answer"] or 0)
    finding = "no head alone costs exact match"
    if costly["cost"] > 0:
        finding = f"{name_of_head(costly)} costs most, {percent(costly['cost'])} of exact match"
    if view.pattern:
        finding += f"\n{name_of_head(best)} reads {view.pattern} most and costs {percent(best['cost'])}"
    return finish(figure, f"{name_of(view)}: {finding}", [
        f"Means over {SEQUENCES} unseen sequences; dark is 0, bright 1. Entropy: 0 one key, 1 uniform. "
        "Distance: in tokens."
    ])


def lengths_picture(view: View) -> Figure:
    """Exact match, and what the best head reads, on sequences shorter and longer than those of training."""
    rows, (_, layer, head) = view.evidence.lengths, view.best
    lengths, seq_len = [row["length"] for row in rows], view.run.config.seq_len
    shortest = seq_len if view.run.config.fixed_length else 1
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(shortest - 0.5, seq_len + 0.5, color="grey", alpha=0.2, label="lengths of training")
    axes.plot(lengths, [100 * row["exact_match"] for row in rows], "o-", label="exact match")
    if view.pattern:
        shares = [100 * row["shares"][layer, head].item() for row in rows]
        axes.plot(lengths, shares, "s--", label=f"{head_name(view.best)} on {view.pattern}")
        chances = [100 * row["chance"] for row in rows]
        axes.plot(lengths, chances, ":", color="grey", label="uniform attention")
    axes.set(xlabel="symbols in the question", ylabel="%", ylim=(-3, 103), xticks=lengths)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    right = {row["length"]: percent(row["exact_match"]) for row in rows}
    finding = f"{name_of(view)}: {right[view.length]} right at length {view.length}, the longest in training"
    beyond = [length for length in lengths if length > seq_len]
    if beyond:
        ends = dict.fromkeys([beyond[0], beyond[-1]])       # a single length once
        finding += "\n" + ", ".join(f"{right[length]} at length {length}" for length in ends)
    return finish(figure, finding, [f"{SEQUENCES_EACH} unseen sequences of each length."])


def layers_picture(view: View) -> Figure:
    """Each layer's attention, above what the model would say if it stopped there."""
    lens, shares, maps = view.evidence.lens, view.shares, view.evidence.reading.maps[view.kind]
    layers = range(1, len(lens))
    figure = Figure(figsize=(10.5, 6), layout="constrained")
    grid = figure.subplot_mosaic([["names", *layers], ["scores"] * len(lens)], height_ratios=[1, 1.6])
    for layer in layers:
        draw_matrix(grid[layer], maps[layer - 1].mean(dim=(0, 1)), None, None)
        grid[layer].set_title(f"layer {layer}")
    axes = grid["scores"]
    axes.plot([100 * whole for _, whole in lens], "o-", label="exact match")
    axes.plot([100 * tokens for tokens, _ in lens], "s--", label="tokens right")
    if view.pattern:
        axes.bar(layers, 100 * shares.amax(dim=1).numpy(), 0.5, color="silver", label="best head on answers")
        axes.bar(layers, 100 * shares.mean(dim=1).numpy(), 0.3, color="grey", label="mean of its heads")
    side = "decoder " * (len(view.maps) > 1)
    axes.set(
        xticks=[0, *layers], xticklabels=["embedding", *(f"after {side}layer {layer}" for layer in layers)],
        xlim=(-0.5, len(layers) + 0.5), ylabel="%", ylim=(-3, 103),
    )
    grid["names"].legend(*axes.get_legend_handles_labels(), loc="center", fontsize="small")
    grid["names"].set_axis_off()
    first = next((layer for layer in layers if lens[layer][0] > 0.5), None)
    finding = f"the answers appear in no layer; tokens right at the end {percent(lens[-1][0])}"
    if first:
        before, after, share = lens[first - 1][0], lens[first][0], shares[first - 1].mean().item()
        finding = (
            f"the answers first appear in {side}layer {first}, "
            f"tokens right {percent(before)} → {percent(after)}"
        )
        if view.pattern:
            finding += f"\nits heads spend {percent(share)} of their attention on {view.pattern}"
    return finish(figure, f"{name_of(view)}: {finding}", [
        f"Maps: mean of a layer's heads over {SEQUENCES} unseen sequences. Right, by logit lens: what final",
        "norm and output projection would make of each layer's state. First: more than half of the tokens.",
    ])


Curves = dict[Path, tuple[Config, list[dict]]]              # of each run's folder: settings and history


def runs_in(folders: list[Path]) -> Curves:
    """Settings and history of each run in these folders. ValueError for a folder without a run.

    The weights are not looked at: they may be those of a changed transformer.py.
    """
    runs = {}
    for folder in folders:
        there = [folder, *runs_below(folder)] if (folder / "checkpoint.pt").is_file() else runs_below(folder)
        if not there:
            raise ValueError(f"there is no run in {folder}; give a folder that python train.py wrote")
        for path in there:
            checkpoint, config = open_checkpoint(path, "train it again")
            runs[path] = config, checkpoint["history"]
    return runs


def labels_by_difference(configs: dict[Path, Config]) -> dict[Path, str]:
    """What sets each run apart from the others: the settings that differ, or else its folder."""
    settings = {path: asdict(config) for path, config in configs.items()}
    every = list(settings.values())
    differing = [name for name in every[0] if any(one[name] != every[0][name] for one in every)]
    labels = {
        path: ", ".join(setting_text(name, one[name]) for name in differing) for path, one in settings.items()
    }
    if len(set(labels.values())) < len(labels):             # runs of other code, with the same settings
        labels = {path: ", ".join(filter(None, [str(path), label])) for path, label in labels.items()}
    return labels


def training_curves_picture(runs: Curves) -> Figure:
    """Loss and exact match of several runs over their steps, labelled by what differs."""
    labels = labels_by_difference({path: config for path, (config, _) in runs.items()})
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    solved = {path: first_solved(history) for path, (_, history) in runs.items()}
    solved = {path: row["step"] for path, row in solved.items() if row}
    for path, (_, history) in runs.items():
        outcome = f"solved at step {solved[path]}" if path in solved else "not solved"
        steps, label = [row["step"] for row in history], f"{labels[path]}: {outcome}"
        loss_axes.plot(steps, [row["loss"] for row in history], label=label)
        accuracy_axes.plot(steps, [100 * row["exact_match"] for row in history], label=label)
    name_loss_axes(loss_axes)
    ylabel = f"% of {EVALUATION_BATCH} validation sequences right"
    accuracy_axes.set(xlabel="training step", ylabel=ylabel, ylim=(-3, 103))
    figure.legend(*loss_axes.get_legend_handles_labels(), loc="outside lower left", frameon=False)
    finding = f"none of {len(runs)} runs solved it"
    if solved:
        first = min(solved, key=solved.get)
        count = f"{len(solved)} of {len(runs)} runs solved it"
        finding = f"{count}, the first at step {solved[first]}: {labels[first]}"
    tasks = dict.fromkeys(f"{config.task}, {config.architecture}" for config, _ in runs.values())
    figure.suptitle(textwrap.fill(f"{' and '.join(tasks)}: {finding}", 90))
    return figure


def query_picture(view: View) -> Figure:
    """One row of the best head's map in numbers, from the scores to the weights, to be redone on paper."""
    kind, layer, head = view.best
    queries, keys = view.labels[kind]
    query, _ = first_symbol(view.run.architecture, kind, view.reading.length)
    if view.cells:
        query, _ = view.cells[len(view.cells) // 2]         # one that says a symbol from the middle
    keys = keys[: query + 1] if kind == "decoder" else keys     # causal: it may read no more than these
    scores = scores_of_query(view.run.model, view.reading.given, view.best, query)[: len(keys)]
    size = view.run.config.d_model // view.run.config.num_heads
    scaled, weights = scores / math.sqrt(size), view.maps[kind][layer, head, query, : len(keys)]
    powers = (scaled - scaled.max()).exp()
    shown_keys = weights.topk(min(len(keys), MOST_KEYS)).indices.sort().values
    rows = {
        "q·k": scores, f"x = q·k / √{size}": scaled, "e^(x − largest x)": powers, "weight": weights,
    }
    rows = {name: numbers[shown_keys] for name, numbers in rows.items()}
    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    axes = figure.subplots()
    shown = torch.full((len(rows), len(shown_keys)), torch.nan)
    shown[-1] = rows["weight"]
    draw_matrix(axes, shown, list(rows), [keys[key] for key in shown_keys])
    axes.set(aspect="auto", facecolor="none", xlabel="key: what is read")
    for row, numbers in enumerate(rows.values()):
        for key, number in enumerate(numbers.tolist()):
            color = None if row < len(rows) - 1 else "white" if number < 0.6 else "black"
            text = f"{number:.3f}" if row > 1 else f"{number:.2f}"
            axes.text(key + 0.5, row + 0.5, text, ha="center", va="center", fontsize="small", color=color)
    best, total = int(weights.argmax()), powers.sum()
    lines = [
        f"{view.answer}. Softmax divides the third line by its sum, {total:.3f}; {powers[best]:.3f} / "
        f"{total:.3f} = {weights[best]:.3f}."
    ]
    if len(shown_keys) < len(keys):
        lines.append(f"The {len(shown_keys)} largest weights of {len(keys)}; the sum is that of all.")
    return finish(figure, "\n".join([
        f"{name_of(view)}: query {queries[query]} reads {keys[best]} with weight {weights[best]:.3f}",
        place_of(view, view.best), *of_this_sequence(view),
    ]), lines)


# ---------------------------------------------------------------- command line


OF_ONE_SEQUENCE = {                                         # these show one sequence, …
    "attention_head": head_picture, "attention_layer": layer_picture, "attention_model": model_picture,
    "attention_kinds": kinds_picture, "query": query_picture,
}
PICTURES = OF_ONE_SEQUENCE | {                              # … the others means over many
    "influence": influence_picture, "knock_out": knock_out_picture, "heads": heads_picture,
    "lengths": lengths_picture, "layers": layers_picture,
}
FIXED = {                                                   # the same input gives the same bytes, …
    "svg.hashsalt": "attention", "svg.fonttype": "none", "pdf.fonttype": 42,    # … text stays text, …
    "font.size": 11,                                        # … and can be read at the README's width
}


def save(figure: Figure, path: Path) -> None:
    """Write the picture as its suffix says, without the date."""
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(path.suffix[1:])
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=130, metadata=undated)
    tqdm.write(f"{path}: " + figure.get_suptitle().replace("\n", "; "), file=sys.stdout)


def save_all(view: View, folder: Path, suffix: str, sequence: str, bar: tqdm) -> None:
    """All pictures of a run and the table of its heads, or those that show a sequence of one's own."""
    pictures = OF_ONE_SEQUENCE if sequence else PICTURES
    for name, picture in pictures.items():
        if name != "attention_kinds" or len(view.maps) > 1:
            save(picture(view), folder / f"{'_'.join(filter(None, [name, sequence]))}.{suffix}")
        bar.update()
    if not sequence:
        save_table([
            {name: round(x, 4) if isinstance(x, float) else x for name, x in row.items()}
            for row in head_table(view.run, view.evidence)
        ], folder / "heads.csv")


def name_in_file(text: str) -> str:
    """Words as a part of a file's name: 5 9 12 is 5-9-12. What does not fit there is encoded or cut."""
    name = quote("-".join(text.split()), safe="+")
    return name if len(name) <= 80 else f"{name[:70]}-{crc32(name.encode()):08x}"


def draw_training_curves(options: argparse.Namespace, curves: Curves) -> None:
    """The training curves of several runs in one picture, in a file named after their folders."""
    output = options.output_dir or options.models_dir
    output.mkdir(parents=True, exist_ok=True)
    names = [
        " ".join(part for part in Path(os.path.relpath(folder, options.models_dir)).parts if part != "..")
        for folder in options.compare
    ]
    name = "_vs_".join(name_in_file(name) or options.models_dir.name for name in names)
    save(training_curves_picture(curves), output / f"training_{name}.{options.format}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Draw where the heads of trained models read, and what is left without them. Without "
        "options, all runs that are found are drawn.", allow_abbrev=False,
    )
    option = parser.add_argument
    option("--task", nargs="+", choices=task_names(), help="only runs of these")
    option("--architecture", nargs="+", choices=ARCHITECTURES, help="only runs of these")
    option("--sequence", nargs="+", help="a question as data.py prints it: 5 7 9, 4 2 + 1 9 or 5 _ 5 7")
    option("--compare", nargs="+", type=Path, metavar="FOLDER",
           help="only draw the training curves of the runs in these folders, in one picture")
    option("--models-dir", type=Path, default=DEFAULT_FOLDER,
           help="where python train.py wrote the runs (default: models)")
    option("--output-dir", type=Path, help="where to write the pictures (default: beside the runs)")
    option("--format", choices=["png", "svg", "pdf"], default="png", help="of the pictures (default: png)")
    option("--dark", action="store_true", help="on a dark background")
    return parse_options(parser)


def found_in(models_dir: Path) -> list[tuple[str, str]]:
    """Architecture and task of each run in a models folder, whatever they are."""
    return [(folder.name, task_of(folder)) for folder in runs_below(models_dir)]


def wanted_runs(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Architecture and task of the runs to draw: those that are named, or else found.

    What is named and not found is among them, so that reading it says how to train it. ValueError where
    nothing is named and nothing found.
    """
    found, all_named = found_in(options.models_dir), options.task and options.architecture
    wanted = [
        (name, task) for name in options.architecture or ARCHITECTURES for task in options.task or TASKS
        if all_named or (name, task) in found
    ]
    wanted += [
        (DEFAULT_ARCHITECTURES[0], task) for task in options.task or []
        if task not in [there for _, there in wanted]
    ]
    wanted += [
        (name, DEFAULT_TASKS[0]) for name in options.architecture or []
        if name not in [there for there, _ in wanted]
    ]
    if not wanted:
        command = command_line("train.py", DEFAULT_TASKS, DEFAULT_ARCHITECTURES, options.models_dir)
        raise ValueError(f"there is no run in {options.models_dir}; train first: {command}")
    return list(dict.fromkeys(wanted))


def load_runs(options: argparse.Namespace) -> tuple[dict[tuple[str, str], Run], list[str]]:
    """The runs that can be read, by architecture and task, and what is wrong with the others.

    ValueError where none can be read, or none of a task that was named can be asked the given sequence.
    """
    runs, problems, unnamed = {}, [], not options.task and not options.architecture
    for architecture, task in found_in(options.models_dir):
        if unnamed and (task not in TASKS or architecture not in ARCHITECTURES):
            print(f"not drawn: {task}, {architecture}, which data.py does not know", file=sys.stderr)
    for architecture, task in wanted_runs(options):
        try:
            runs[architecture, task] = load_run(options.models_dir, task, architecture)
        except ValueError as error:
            problems.append(str(error))
    if not runs:
        raise ValueError(problems[0])
    if not options.sequence:
        return runs, problems
    refused = {}
    for key, run in runs.items():
        try:
            ask(run, options.sequence)                      # so that nothing is measured for nothing
        except ValueError as error:
            refused[key] = error
    if refused and (options.task or len(refused) == len(runs)):
        raise next(iter(refused.values()))
    for (architecture, task), error in refused.items():
        print(f"not drawn: {task}, {architecture}: {error}", file=sys.stderr)
        del runs[architecture, task]
    return runs, problems


def compared_runs(options: argparse.Namespace, views: dict[tuple[str, str], View]) -> list[list[View]]:
    """The runs to show side by side, those named or else copy and reverse: one row for each architecture.

    An architecture that lacks a task is left out.
    """
    tasks = list(dict.fromkeys(options.task or DEFAULT_TASKS))
    architectures = options.architecture or (ARCHITECTURES if options.task else DEFAULT_ARCHITECTURES)
    return [
        [views[architecture, task] for task in tasks] for architecture in dict.fromkeys(architectures)
        if all((architecture, task) in views for task in tasks)
    ]


def comparison_name(views: list[list[View]], sequence: str) -> str:
    """copy_vs_reverse for the runs of python train.py; others have a name of their own."""
    tasks = [view.run.config.task for view in views[0]]
    architectures = [row[0].run.architecture for row in views]
    parts = ["_vs_".join(tasks)]
    if len(tasks) == 1 or architectures != DEFAULT_ARCHITECTURES:
        parts.append("_vs_".join(architectures))
    return "_".join(filter(None, [*parts, sequence]))


def draw_all(options: argparse.Namespace, runs: dict[tuple[str, str], Run]) -> None:
    """Measure and draw one run after the other, then those with all tasks side by side."""
    output = options.output_dir or options.models_dir
    sequence = name_in_file(" ".join(options.sequence or []))
    folders = {key: output / run.folder.relative_to(options.models_dir) for key, run in runs.items()}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    print("drawing " + "; ".join(f"{task}, {architecture}" for architecture, task in runs))
    views, count = {}, len(OF_ONE_SEQUENCE if sequence else PICTURES)
    with tqdm(total=len(runs) * count, unit="picture", disable=None) as bar:
        for key, run in runs.items():
            bar.set_description(", ".join(reversed(key)))
            views[key] = look_at(run, options.sequence)
            save_all(views[key], folders[key], options.format, sequence, bar)
        compared = compared_runs(options, views)
        if len(sum(compared, [])) > 1:
            name = comparison_name(compared, sequence)
            save(comparison_picture(compared), output / f"{name}.{options.format}")


def read_and_draw(options: argparse.Namespace) -> None:
    """Read everything first, then draw; what could not be read is told at the end."""
    try:
        if options.compare:
            curves, problems = runs_in(options.compare), []
        else:
            runs, problems = load_runs(options)
    except ValueError as error:
        fail(str(error))
    style = "dark_background" if options.dark else "default"
    with matplotlib.style.context(style), matplotlib.rc_context(FIXED):
        if options.compare:
            draw_training_curves(options, curves)
        else:
            draw_all(options, runs)
    if problems:
        fail(*problems)


def main() -> None:
    options = parse()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)                            # as in training
    try:
        read_and_draw(options)
    except BrokenPipeError:                                 # run_script ends it quietly
        raise
    except OSError as error:
        fail(f"cannot write the pictures: {error}")
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    run_script(main, status_if_left=130)                    # interrupted
