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
from lab.ablation import correct_by_margin
from lab.evidence import LengthResult
from lab.heads import ALL_ATTENTION, SEQUENCES_PER_LENGTH, Part, list_heads, list_parts, max_test_length
from lab.view import View
from support.figure import at_most, label_lines, new_figure, percent
from support.puzzles import count_symbols

MAX_HEADS = 6                                               # shown by length in the ablation picture


def influence_title(view: View) -> str:
    attention, influence = view.evidence.attention, view.evidence.influence
    fraction = (influence[attention.answer_sources].nansum() / influence.nansum()).item()
    if influence.isnan().all():
        return "no symbol could be replaced, so what the answers depend on is unknown"
    if math.isnan(fraction):
        return "no symbol of the question affects the answers"
    if not view.has_outline:
        return wording.explain_no_outline(view)
    mass, chance = attention.mass[view.top_head[1:]].item(), f"uniform: {percent(attention.chance)}"
    reader = view.describe_part(view.top_head)
    there = f"and {reader} attends to them ({percent(mass)} of its attention, {chance})"
    if mass <= attention.threshold:
        there = f"but no head attends to them much: {at_most(mass)} at most ({chance})"
    return f"{percent(fraction)} of the influence comes from the needed symbols, {there}"


def draw_influence(view: View) -> Figure:
    """Draw the top head's attention next to what the answers depend on, in the same sequences."""
    attention, (kind, layer, head) = view.evidence.attention, view.top_head
    answering = loss_mask(attention.targets[0])             # the queries that predict the answer
    always = attention.answer_sources.all(dim=0)[answering]             # in all sequences
    generated = range(1, attention.inputs[0].size(1) - attention.length - 1)            # after the question
    queries = [*map(str, range(1, int(answering.sum()))), "END"]
    keys = ["START", *map(str, range(1, attention.length + 1)), "END", *map("a{}".format, generated)]
    caption = "Influence: how far the outputs move (total variation, 0 to 1) when a symbol is replaced."
    if always.any():
        caption += " Outlined: the needed symbols."
    caption += " Hatched: masked, or not replaced."
    if generated:
        caption += " a1, a2, …: the positions of the answer."
    panels = {
        f"attention of\n{view.part_name(view.top_head)}": attention.maps[kind][layer, head],
        "influence on\nthe answers": view.evidence.influence.nanmean(dim=0),
    }
    row = [maps.Map(panels[title][answering], always, queries, keys, title) for title in panels]
    subtitle = f"{view}: means over {wording.describe_sample(attention.source)}."
    return maps.draw_grid(
        influence_title(view), subtitle, caption, [row],
        shared=True, quantity="weight, influence", query="query: answer symbol it predicts",
        key="key: question symbol",
    )


def list_ablation_rows(view: View) -> list[Part]:
    """List the most important heads and the one attending most to the answers, then layers and kinds.

    If several parts contain the same heads, such as a layer and its only head, only the first is kept.
    """
    heads, distinct = [head for head in view.important_heads[:MAX_HEADS] if head != view.top_head], {}
    layers = [part for part in list_parts(view.run.model) if len(part) == 2]
    kinds = [(kind,) for kind in view.attention.maps if len(view.attention.maps) > 1]
    for part in [*heads, view.top_head, *layers, *kinds, ALL_ATTENTION]:
        distinct.setdefault(tuple(list_heads(view.run.model, part)), part)
    return list(distinct.values())


def ablation_title(view: View) -> str:
    evidence = view.evidence
    if evidence.accuracy == 0:
        return wording.NEVER_CORRECT
    if wording.needs_no_attention(view):
        accuracy = percent(evidence.accuracy_without(ALL_ATTENTION))
        needs_none = f"this {view.model_name} needs no attention for the task {view.run.config.task}"
        return f"{needs_none}: {accuracy} correct without any"
    if not view.important_heads:
        change = wording.format_change(view, ALL_ATTENTION)
        return f"no single head is needed, but attention is: without any, accuracy {change}"
    important = view.important_heads[0]
    change = wording.format_change(view, important)
    finding = f"{view.describe_part(important)} matters most: without it, accuracy {change}"
    if important == view.top_head or not view.has_outline:
        return finding
    reader, cost = view.describe_part(view.top_head), wording.format_cost(view, view.top_head)
    return f"{finding}; removing {reader}, which attends most to the answers, {cost}"


def draw_ablation(view: View) -> Figure:
    """Draw accuracy without heads, layers and kinds: one column per question length, and one for all."""
    evidence, rows = view.evidence, list_ablation_rows(view)
    of_length = count_symbols(evidence.source)
    lengths = of_length.unique().tolist()
    columns = [*(of_length == length for length in lengths), of_length > 0]
    correct = torch.stack([correct_by_margin(evidence.logit_margins[row]) for row in rows]).double()
    accuracy = torch.stack([correct[:, column].mean(dim=1) for column in columns], dim=1)   # (rows, columns)
    caption = "Each row: the percentage correct without that part, by the number of symbols in the question."
    if evidence.redundant_pair:
        *pair, both = evidence.redundant_pair
        either = " and ".join(view.describe_part(head) for head in sorted(pair))
        caption += f"\nRedundant pair: {either}; without both, accuracy is {percent(both)}."
    subtitle = f"{view}: zero ablation on {wording.describe_sample(evidence.source)}."
    figure = new_figure(0.24 * len(rows) + 0.5, ablation_title(view), subtitle, caption)
    axes, paper = figure.subplots(), matplotlib.rcParams["axes.facecolor"]
    names = [f"without {view.describe_part(row)}" for row in rows]
    texts = [[percent(value).removesuffix("%") for value in row] for row in accuracy.tolist()]
    seaborn.heatmap(
        accuracy.numpy(), vmin=0, vmax=1, cmap=LinearSegmentedColormap.from_list("", ["firebrick", paper]),
        cbar=False, annot=numpy.array(texts) if len(columns) < 20 else None, fmt="", annot_kws={"size": 7},
        xticklabels=[*map(str, lengths), "all"], yticklabels=names, ax=axes,
    )
    axes.axvline(len(lengths), color=matplotlib.rcParams["text.color"], linewidth=0.8)
    axes.tick_params(length=0, labelsize=8, rotation=0)
    return figure


def first_beyond_training(view: View) -> LengthResult | None:
    """Return the results at the first length beyond the training lengths."""
    results, trained = view.evidence.length_results, view.run.config.seq_len
    return next((each for each in results if each.length > trained), None)


def find_stop_length(view: View) -> int | None:
    """Return after how many correct symbols at least 90% of the answers end beyond the training lengths.

    None unless that is where the longest training answers end, and too early.
    """
    results, longest = view.evidence.length_results, max_test_length(view.run)
    trained = [each.target.size(1) - 2 for each in results if each.length <= longest]
    symbols, beyond = max(trained, default=0), first_beyond_training(view)
    if beyond is None or symbols >= beyond.target.size(1) - 2:
        return None
    expected = beyond.target[:, 1 : symbols + 2].clone()
    expected[:, symbols] = END
    stopping = (beyond.answers[:, 1 : symbols + 2] == expected).all(dim=1).double().mean()
    return symbols if stopping >= 0.9 else None


def lengths_title(views: list[View]) -> str:
    """Describe what happens at the first length beyond those of training."""
    task, beyond = views[0].run.config.task, {view.model_name: first_beyond_training(view) for view in views}
    stopping = {view.model_name: symbols for view in views if (symbols := find_stop_length(view))}
    if stopping:
        symbols = next(iter(stopping.values()))
        return f"the {' and '.join(stopping)} learned to {task}, and to stop after {symbols} symbols"
    accuracy = {name: result.exact_match for name, result in beyond.items() if result}
    if not accuracy:
        return f"{task}: no question beyond the training lengths fits the model"
    best = max(accuracy, key=accuracy.get)
    length = beyond[best].length
    if accuracy[best] >= 0.5:
        there = f"{percent(accuracy[best])} correct at length {length}"
        return f"the {best} generalises beyond the training lengths: {there}"
    there = f"at most {at_most(accuracy[best])} correct at length {length}"
    return f"no model generalises beyond the training lengths: {there}"


def draw_lengths(views: list[View]) -> Figure:
    """Draw the accuracy of all runs of a task on questions within and beyond the training lengths."""
    results = {result.length: result for view in views for result in view.evidence.length_results}
    task = views[0].run.config.task
    caption = "Shaded: training lengths. Below each length: how many of its sequences are distinct."
    for view in views:
        if beyond := first_beyond_training(view):
            question, answer = (format_tokens(row[0, 1:], task) for row in (beyond.source, beyond.answers))
            caption += f"\n{view.model_name}, asked {question.removesuffix(' END')}: {answer}"
    subtitle = f"{task}: {SEQUENCES_PER_LENGTH} unseen sequences of each length."
    figure = new_figure(2.7, lengths_title(views), subtitle, caption)
    axes = figure.subplots()
    configs = [view.run.config for view in views]
    for shortest, longest in {(each.seq_len if each.fixed_length else 1, each.seq_len) for each in configs}:
        axes.axvspan(shortest - 0.5, longest + 0.5, color="grey", alpha=0.2)
    for view, style in zip(views, itertools.cycle(("o-", "s--", "^:")), strict=False):
        accuracy = {each.length: 100 * each.exact_match for each in view.evidence.length_results}
        axes.plot(accuracy.keys(), accuracy.values(), style, label=view.model_name)
    axes.set(ylabel="% correct", ylim=(-3, 103), xlim=(min(results) - 0.5, max(results) + 0.5))
    labelled = [min(results)]
    for length in sorted(results):
        if length - labelled[-1] > (max(results) - min(results)) / 24:
            labelled.append(length)
    distinct = [len(results[length].source.unique(dim=0)) for length in labelled]
    axes.set_xticks(labelled, map("{}\n{}".format, labelled, distinct))
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
    change = f"token accuracy {percent(scores[before])} → {percent(scores[after])}"
    if scores[after] - scores[before] < final / 2:
        return f"the answers build up gradually, most of all at {after}: {change}"
    return f"{after} finds the answers: {change}"


def draw_layers(view: View) -> Figure:
    """Draw what the model would predict after each sublayer."""
    lens = view.evidence.lens
    tokens = {name: score for name, (score, _) in lens.items()}
    caption = "Accuracy by logit lens: the final norm and output projection applied to the residual stream."
    subtitle = f"{view}: measured on {wording.describe_sample(view.evidence.source)}."
    figure = new_figure(3.2, layers_title(tokens), subtitle, caption)
    axes = figure.subplots()
    axes.plot([100 * score for score in tokens.values()], "s--", label="token accuracy")
    axes.plot([100 * score for _, score in lens.values()], "o-", label="exact match")
    axes.set(ylabel="%", ylim=(-3, 103))
    step, rotated = 1 + len(lens) // 40, len(lens) > 9
    names = [name if rotated else "\n".join(name.rsplit(" ", 1)).replace("-", "-\n") for name in lens]
    axes.set_xticks(range(0, len(lens), step), names[::step], rotation=90 if rotated else 0, size=7)
    label_lines(axes)
    return figure
