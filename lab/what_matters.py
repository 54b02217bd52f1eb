"""Pictures of many sequences: influence, ablation, lengths beyond training, and what each layer adds."""

import itertools
import math

import matplotlib
import numpy
import seaborn
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from data import END, format_tokens, loss_mask
from lab import maps
from lab import view as wording
from lab.ablation import is_right
from lab.evidence import AtLength
from lab.heads import ALL_ATTENTION, SEQUENCES_EACH, Part, heads_of, longest, parts_of
from lab.view import View
from support.figure import at_most, label_lines, new_figure, percent

MOST_HEADS = 6                                              # shown by length in the ablation picture


def influence_title(view: View) -> str:
    reading, moved = view.evidence.reading, view.evidence.influence
    share = (moved[reading.cells].nansum() / moved.nansum()).item()
    if moved.isnan().all():
        return "no symbol could be replaced, so what the answers depend on is unknown"
    if math.isnan(share):
        return "no symbol of the question affects the answers"
    if not view.outlined:
        return wording.explain_no_outline(view)
    seen, chance = reading.shares[view.best[1:]].item(), f"uniform: {percent(reading.chance)}"
    there = f"and {view.name(view.best)} attends to them ({percent(seen)} of its attention, {chance})"
    if seen <= reading.enough:
        there = f"but no head attends to them much: {at_most(seen)} at most ({chance})"
    return f"{percent(share)} of the influence comes from the needed symbols, {there}"


def draw_influence(view: View) -> Figure:
    """Draw the best head's attention next to what the answers depend on, in the same sequences."""
    reading, (kind, layer, head) = view.evidence.reading, view.best
    asked = loss_mask(reading.targets[0])                   # only the queries that answer
    always = reading.cells.all(dim=0)[asked]                # the same cells in all sequences
    written = range(1, reading.inputs[0].size(1) - reading.length - 1)      # after the question
    queries = [*map(str, range(1, int(asked.sum()))), "END"]
    keys = ["START", *map(str, range(1, reading.length + 1)), "END", *map("a{}".format, written)]
    caption = "Influence: how far the outputs move (total variation, 0 to 1) when a symbol is replaced."
    if always.any():
        caption += " Outlined: the needed symbols."
    caption += " Hatched: masked, or not replaced."
    if written:
        caption += " a1, a2, …: the positions of the answer."
    looks, depends = (maps.Map(weights[asked], always, queries, keys, title) for weights, title in (
        (reading.maps[kind][layer, head], f"attention of\n{view.place(view.best)}"),
        (view.evidence.influence.nanmean(dim=0), "influence on\nthe answers"),
    ))
    subtitle = f"{view}: means over {wording.describe_sample(reading.source)}."
    return maps.draw_grid(
        influence_title(view), subtitle, caption, [[looks, depends]],
        shared=True, quantity="weight, influence", query="query: answer symbol it predicts",
        key="key: question symbol",
    )


def rows_of_ablation(view: View) -> list[Part]:
    """List the most important heads and the one attending most to the answers, then layers and kinds.

    If several parts contain the same heads, such as a layer and its only head, only the first is kept.
    """
    heads, different = [head for head in view.costly[:MOST_HEADS] if head != view.best], {}
    layers = [part for part in parts_of(view.run.model) if len(part) == 2]
    kinds = [(kind,) for kind in view.reading.maps if len(view.reading.maps) > 1]
    for part in [*heads, view.best, *layers, *kinds, ALL_ATTENTION]:
        different.setdefault(tuple(heads_of(view.run.model, part)), part)
    return list(different.values())


def ablation_title(view: View) -> str:
    evidence = view.evidence
    if evidence.left() == 0:
        return wording.NEVER_CORRECT
    if wording.needs_no_attention(view):
        left = percent(evidence.left(ALL_ATTENTION))
        needs_none = f"this {view.model} needs no attention for the task {view.run.config.task}"
        return f"{needs_none}: {left} correct without any"
    if not view.costly:
        left = wording.format_change(view, ALL_ATTENTION)
        return f"no single head is needed, but attention is: without any, accuracy {left}"
    costly = view.costly[0]
    most = f"{view.name(costly)} matters most: without it, accuracy {wording.format_change(view, costly)}"
    if costly == view.best or not view.outlined:
        return most
    reader, cost = view.name(view.best), wording.format_cost(view, view.best)
    return f"{most}; removing {reader}, which attends most to the answers, {cost}"


def draw_ablation(view: View) -> Figure:
    """Draw accuracy without heads, layers and kinds: one column per question length, and one for all."""
    evidence, rows = view.evidence, rows_of_ablation(view)
    of_length = wording.lengths_of(evidence.source)
    lengths = of_length.unique().tolist()
    columns = [*(of_length == length for length in lengths), of_length > 0]
    right = torch.stack([is_right(evidence.margins[row]) for row in rows]).double()
    right = torch.stack([right[:, column].mean(dim=1) for column in columns], dim=1)        # (rows, columns)
    caption = "Each row: the percentage correct without that part, by the number of symbols in the question."
    if evidence.pair:
        *pair, both = evidence.pair
        either = " and ".join(view.name(head) for head in sorted(pair))
        caption += f"\nRedundant pair: {either}; without both, accuracy is {percent(both)}."
    subtitle = f"{view}: zero ablation on {wording.describe_sample(evidence.source)}."
    figure = new_figure(0.24 * len(rows) + 0.5, ablation_title(view), subtitle, caption)
    axes, paper = figure.subplots(), matplotlib.rcParams["axes.facecolor"]
    names = [f"without {view.name(row)}" for row in rows]
    texts = [[percent(share).removesuffix("%") for share in row] for row in right.tolist()]
    seaborn.heatmap(
        right.numpy(), vmin=0, vmax=1, cmap=LinearSegmentedColormap.from_list("", ["firebrick", paper]),
        cbar=False, annot=numpy.array(texts) if len(columns) < 20 else None, fmt="", annot_kws={"size": 7},
        xticklabels=[*map(str, lengths), "all"], yticklabels=names, ax=axes,
    )
    axes.axvline(len(lengths), color=matplotlib.rcParams["text.color"], linewidth=0.8)
    axes.tick_params(length=0, labelsize=8, rotation=0)
    return figure


def beyond_training(view: View) -> AtLength | None:
    """Return the results at the first length beyond the training lengths."""
    return next((each for each in view.evidence.lengths if each.length > view.run.config.seq_len), None)


def stops_after(view: View) -> int | None:
    """Return after how many correct symbols at least 90% of the answers end beyond the training lengths.

    None unless that is where the longest training answers end, and too early.
    """
    trained = [each.target.size(1) - 2 for each in view.evidence.lengths if each.length <= longest(view.run)]
    symbols, beyond = max(trained, default=0), beyond_training(view)
    if beyond is None or symbols >= beyond.target.size(1) - 2:
        return None
    expected = beyond.target[:, 1 : symbols + 2].clone()
    expected[:, symbols] = END
    stopping = (beyond.answers[:, 1 : symbols + 2] == expected).all(dim=1).double().mean()
    return symbols if stopping >= 0.9 else None


def lengths_title(views: list[View]) -> str:
    """Describe what happens at the first length beyond those of training."""
    task, beyond = views[0].run.config.task, {view.model: beyond_training(view) for view in views}
    stopping = {view.model: symbols for view in views if (symbols := stops_after(view))}
    if stopping:
        symbols = next(iter(stopping.values()))
        return f"the {' and '.join(stopping)} learned to {task}, and to stop after {symbols} symbols"
    right = {name: each.exact_match for name, each in beyond.items() if each}
    if not right:
        return f"{task}: no question beyond the training lengths fits the model"
    best = max(right, key=right.get)
    length = beyond[best].length
    if right[best] >= 0.5:
        there = f"{percent(right[best])} correct at length {length}"
        return f"the {best} generalises beyond the training lengths: {there}"
    there = f"at most {at_most(right[best])} correct at length {length}"
    return f"no model generalises beyond the training lengths: {there}"


def draw_lengths(views: list[View]) -> Figure:
    """Draw the accuracy of all runs of a task on questions within and beyond the training lengths."""
    every = {each.length: each for view in views for each in view.evidence.lengths}
    task = views[0].run.config.task
    caption = "Shaded: training lengths. Below each length: how many of its sequences are distinct."
    for view in views:
        if beyond := beyond_training(view):
            question, answer = (format_tokens(row[0, 1:], task) for row in (beyond.source, beyond.answers))
            caption += f"\n{view.model}, asked {question.removesuffix(' END')}: {answer}"
    subtitle = f"{task}: {SEQUENCES_EACH} unseen sequences of each length."
    figure = new_figure(2.7, lengths_title(views), subtitle, caption)
    axes = figure.subplots()
    configs = [view.run.config for view in views]
    for shortest, most in {(each.seq_len if each.fixed_length else 1, each.seq_len) for each in configs}:
        axes.axvspan(shortest - 0.5, most + 0.5, color="grey", alpha=0.2)
    for view, style in zip(views, itertools.cycle(("o-", "s--", "^:")), strict=False):
        right = {each.length: 100 * each.exact_match for each in view.evidence.lengths}
        axes.plot(right.keys(), right.values(), style, label=view.model)
    axes.set(ylabel="% correct", ylim=(-3, 103), xlim=(min(every) - 0.5, max(every) + 0.5))
    named = [min(every)]
    for length in sorted(every):
        if length - named[-1] > (max(every) - min(every)) / 24:
            named.append(length)
    axes.set_xticks(named, [f"{length}\n{len(every[length].source.unique(dim=0))}" for length in named])
    label_lines(axes)
    return figure


def layers_title(scores: dict[str, float]) -> str:
    """Name the sublayer that finds the answers: the one after which most of them can be read off."""
    embedding, *_, final = scores.values()
    if final < 0.5:
        return f"the answers never appear: only {percent(final)} of the tokens are correct at the end"
    if embedding >= 0.9 * final:
        return f"the answers are present before the first layer: {percent(embedding)} of the tokens correct"
    before, after = max(itertools.pairwise(scores), key=lambda step: scores[step[1]] - scores[step[0]])
    change_there = f"token accuracy {percent(scores[before])} → {percent(scores[after])}"
    if scores[after] - scores[before] < final / 2:
        return f"the answers build up gradually, most of all at {after}: {change_there}"
    return f"{after} finds the answers: {change_there}"


def draw_layers(view: View) -> Figure:
    """Draw what the model would predict after each sublayer."""
    lens = view.evidence.lens
    tokens = {name: score for name, (score, _) in lens.items()}
    caption = "Accuracy by logit lens: the final norm and output projection applied to the residual stream."
    subtitle = f"{view}: measured on {wording.describe_sample(view.evidence.source)}."
    figure = new_figure(3.2, layers_title(tokens), subtitle, caption)
    axes = figure.subplots()
    axes.plot([100 * score for score in tokens.values()], "s--", label="token accuracy")
    axes.plot([100 * whole for _, whole in lens.values()], "o-", label="exact match")
    axes.set(ylabel="%", ylim=(-3, 103))
    step, upright = 1 + len(lens) // 40, len(lens) > 9
    names = [name if upright else "\n".join(name.rsplit(" ", 1)).replace("-", "-\n") for name in lens]
    axes.set_xticks(range(0, len(lens), step), names[::step], rotation=90 if upright else 0, size=7)
    label_lines(axes)
    return figure
