"""Pictures of many sequences: influence, ablation, lengths beyond training, and what each layer adds."""

import itertools
import math
import re

import matplotlib
import numpy
import seaborn
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from data import END, format_tokens, loss_mask
from lab import maps
from lab import view as wording
from lab.ablation import correct_by_margin
from lab.evidence import LengthResult
from lab.heads import (
    ALL_ATTENTION,
    SEQUENCES_PER_LENGTH,
    Part,
    attention_modules,
    list_heads,
    list_parts,
)
from lab.view import View
from support.figure import SEQUENCES, TOKENS, at_most, label_lines, new_figure, percent
from support.puzzles import count_symbols

EXPLAIN_BARS = (
    "The bar below each mean map shows what removing that head costs (orange) or gains (blue). A full bar "
    "would be 100 points of accuracy."
)
MAX_HEADS = 6                                               # in the table by length


def influence_title(view: View, influence: Tensor) -> str:
    """Say what changes if a symbol is replaced, and whether a head looks at that symbol.

    influence (queries, keys) is the mean over all sequences.
    """
    if influence.isnan().all():
        return "no symbol could be replaced, so what the answers depend on is unknown"
    if not influence.nansum():
        return "no symbol of the question affects the answers"
    if not view.has_outline:
        return wording.explain_no_outline(view)
    *others, largest = influence[:, 1 : view.attention.length + 1].nan_to_num().sort(dim=0)[0]
    of_all, sources = view.evidence.influence, view.attention.answer_sources
    finding, them = "replace a symbol, and exactly one symbol of the answer changes", "it"
    if largest.min() < 0.9 or max(map(Tensor.max, others), default=0) > 0.1:
        fraction = percent((of_all[sources].nansum() / of_all.nansum()).item())
        finding, them = f"{fraction} of the influence comes from the symbols the answer depends on", "them"
    looks = view.looks_at_answer(view.top_head)
    who = f"and {view.describe_part(view.top_head)}" if looks else "yet no head"
    return f"{finding} – {who} looks at {them}"


def draw_influence(view: View) -> Figure:
    """Draw where the head that looks most at the answers attends, next to what they depend on."""
    view, looks = view.average(), "where it attends"
    attention, shown = view.attention, maps.make_map(view, view.top_head)
    answering = loss_mask(attention.targets[0])             # the queries that predict the answer
    influence = view.evidence.influence.nanmean(dim=0)[answering]
    source = attention.source
    generated = range(1, attention.inputs[0].size(1) - source.size(1) + 1)  # after the question
    queries = [*map(str, range(1, int(answering.sum()))), "END"]
    keys = ["START", *map(str, range(1, attention.length + 1)), "END"][: source.size(1)]
    keys += map("a{}".format, generated)
    caption = "Influence is how much probability moves to other symbols when a symbol is replaced. Hatched: "
    caption += "masked, or not replaced."
    if generated:
        caption += " a1, a2, …: the positions of the answer."
    if view.has_outline:
        looks = f"{percent(view.mass(view.top_head))} on the answer (chance: {percent(attention.chance)})"
        caption += " Outlined: what the answer depends on."
    subtitle = f"{view}: means over {wording.describe_sample(source)}."
    figure = new_figure(3.4, influence_title(view, influence), subtitle, caption)
    panels = {
        f"{view.part_name(view.top_head)}:\n{looks}":
            (shown.weights[answering], "attention weight", "viridis"),
        "all layers together:\nwhat the answers depend on": (influence, "influence", "inferno"),
    }
    for axes, (title, (values, quantity, colours)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        drawn = maps.Map(values, shown.outlined[answering], queries, keys)
        maps.add_colour_bar(maps.draw_named_map(axes, drawn, colours), [axes], quantity)
        axes.set_title(title, loc="left")
        axes.set(aspect="equal", xlabel="symbol of the question", ylabel="symbol of the answer")
    return figure


def list_ablation_rows(view: View) -> list[Part]:
    """List the heads that matter, then layers and kinds; only all attention, if nothing matters.

    If several parts contain the same heads, such as a layer and its only head, only the first is kept.
    """
    if not view.important_heads and wording.needs_no_attention(view):
        return [ALL_ATTENTION]
    layers, kinds = ([part for part in list_parts(view.run.model) if len(part) == size] for size in (2, 1))
    distinct = {}
    kinds = kinds if len(kinds) > 1 else []
    for part in [*view.important_heads[:MAX_HEADS], *layers, *kinds, ALL_ATTENTION]:
        distinct.setdefault(tuple(list_heads(view.run.model, part)), part)
    return list(distinct.values())


def ablation_title(view: View) -> str:
    """Say which head matters most, and whether it looks at the answer."""
    evidence, accuracy = view.evidence, percent(view.evidence.accuracy_without(ALL_ATTENTION))
    if not evidence.accuracy:
        return wording.NEVER_CORRECT
    if wording.needs_no_attention(view):
        return f"nothing breaks: without any attention, {accuracy} are still correct"
    if not view.important_heads:
        return f"no single head is needed, but attention is: without any, {accuracy} are correct"
    name, view = view.describe_part(view.important_heads[0]), view.average()
    without = evidence.accuracy_without(view.important_heads[0])
    fall = f"accuracy falls from {percent(evidence.accuracy)} to {percent(without)}"
    if not view.has_outline:
        return f"{name} matters most: without it, {fall}"
    looks = "looks" if view.looks_at_answer(view.important_heads[0]) else "does not look"
    return f"the head that matters most {looks} at the answer: without {name}, {fall}"


def draw_costs(axes: Axes, view: View) -> None:
    """Draw the mean map of each head of each layer, with a bar below it: the cost of removing the head."""
    layers = attention_modules(view.run.model)
    heads, layers = max(attention.num_heads for attention in layers.values()), list(layers)
    shown = {head: maps.make_map(view, head) for head in list_heads(view.run.model)}
    rows, columns = (max(drawn.weights.size(side) for drawn in shown.values()) for side in (0, 1))
    width, height = 1.12 * columns, 1.75 * rows             # of a map with its bar, in cells
    maps.prepare_axes(axes, heads * width, len(layers) * height)
    axes.set(aspect="equal", frame_on=False, anchor="N")
    for head, drawn in shown.items():
        left, top = head[2] * width, layers.index(head[:2]) * height
        maps.draw_map(axes, drawn, left, top)
        points, bar = wording.cost_in_points(view, head), (left, top + 1.08 * rows)
        colour, grey = "tab:orange" if points > 0 else "tab:blue", matplotlib.rcParams["grid.color"]
        axes.add_patch(Rectangle(bar, columns, 0.14 * rows, color=grey, alpha=0.25, linewidth=0))
        axes.add_patch(Rectangle(bar, columns * abs(points) / 100, 0.14 * rows, color=colour, linewidth=0))
        if points and heads <= 20:                          # else there is no room for a number
            text, middle = f"{-points:+}".replace("-", "−"), left + columns / 2
            axes.text(middle, bar[1] + 0.36 * rows, text, ha="center", va="center", size=7, weight="bold")
    labelled = range(0, heads, math.ceil(heads / 12))
    axes.set_xticks([head * width + columns / 2 for head in labelled], [head + 1 for head in labelled])
    middles = [row * height + rows / 2 for row in range(len(layers))]
    axes.set_yticks(middles, [view.describe_part(layer).replace(" layer", "\nlayer") for layer in layers])
    axes.tick_params(length=0, labelsize=8, top=True, bottom=False, labeltop=True, labelbottom=False)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("head", size=8)


def draw_ablation(view: View) -> Figure:
    """Draw the cost of removing each head, and the accuracy without heads, layers and kinds by length."""
    evidence, rows, view = view.evidence, list_ablation_rows(view), view.average()
    of_length = count_symbols(evidence.source)
    lengths = of_length.unique().tolist()
    columns = [*(of_length == length for length in lengths), of_length > 0]
    correct = torch.stack([correct_by_margin(evidence.logit_margins[row]) for row in rows]).double()
    accuracy = torch.stack([correct[:, column].mean(dim=1) for column in columns], dim=1)   # (rows, columns)
    subtitle = f"{view}: zero ablation on {wording.describe_sample(evidence.source)}."
    height = max(0.66 * len(attention_modules(view.run.model)), 0.2 * len(rows)) + 0.6
    figure = new_figure(height, ablation_title(view), subtitle, EXPLAIN_BARS)
    map_axes, axes = figure.subplots(1, 2, width_ratios=(1.5, 1))
    draw_costs(map_axes, view)
    texts = [[percent(value).removesuffix("%") for value in row] for row in accuracy.tolist()]
    paper = matplotlib.rcParams["axes.facecolor"]
    seaborn.heatmap(
        accuracy.numpy(), vmin=0, vmax=1, cmap=LinearSegmentedColormap.from_list("", ["firebrick", paper]),
        cbar=False, annot=numpy.array(texts) if len(columns) < 20 else None, fmt="",
        annot_kws={"size": 7, "in_layout": False},
        yticklabels=list(map(view.describe_part, rows)), ax=axes,
    )
    step = 1 + len(lengths) // 20
    labelled = [*range(0, len(lengths) - step // 2, step), len(lengths)]
    axes.set_xticks([column + 0.5 for column in labelled], [[*lengths, "all"][column] for column in labelled])
    axes.axvline(len(lengths), color=matplotlib.rcParams["text.color"], linewidth=0.8)
    axes.tick_params(length=0, labelsize=8, rotation=0)
    axes.set_title("% correct without", loc="left", size=8)
    axes.set_xlabel("symbols in the question", size=8)
    if len(columns) < 20:
        axes.set(aspect="equal", anchor="N")
    return figure


def first_beyond_training(view: View) -> LengthResult | None:
    """Return the results at the first length beyond the training lengths."""
    results, trained = view.evidence.length_results, view.run.config.seq_len
    return next((each for each in results if each.length > trained), None)


def lengths_title(views: list[View]) -> str:
    """Say which models answer most questions correctly at the first length beyond those of training."""
    config, beyond = views[0].run.config, [first_beyond_training(view) for view in views]
    if not all(beyond):
        return f"{config.task}: no question beyond the training lengths fits the model"
    can = {view.model_name: result.exact_match >= 0.5 for view, result in zip(views, beyond, strict=True)}
    able, unable = ([name for name in can if can[name] == is_able] for is_able in (True, False))
    title = f"trained on up to {config.seq_len} symbols,"
    if not able:
        best = at_most(max(result.exact_match for result in beyond))
        return f"{title} no model can {config.task} {beyond[0].length}: at most {best} correct"
    title += f" the {' and '.join(able)} can {config.task} {beyond[0].length}"
    return f"{title}; the {' and '.join(unable)} cannot" if unable else title


def describe_longer_answer(view: View) -> str:
    """Return the model's answer to one question beyond the training lengths, and how correct it is."""
    if not (beyond := first_beyond_training(view)):
        return ""
    rows, task = (beyond.source[0, 1:], beyond.answers[0, 1:]), view.run.config.task
    question, answer = (format_tokens(row, task).removesuffix(" END") for row in rows)
    symbols, correct = int(count_symbols(beyond.target)[0]), beyond.answers[0, 1:] == beyond.target[0, 1:]
    outcome = f"{int((~correct[:symbols]).sum())} of {symbols} symbols are wrong"
    if correct.all():
        outcome = "all correct"
    elif beyond.answers[0, 1 + (first := int(correct.int().argmin()))] == END:
        outcome = f"{first} correct, then END"
    return f"Asked {question}, the {view.model_name} answered {answer}: {outcome}."


def draw_lengths(views: list[View]) -> Figure:
    """Draw the accuracy of all runs of a task on questions within and beyond the training lengths."""
    results = {result.length: result for view in views for result in view.evidence.length_results}
    configs = [view.run.config for view in views]
    few = [length for length in results if len(results[length].source.unique(dim=0)) < SEQUENCES_PER_LENGTH]
    subtitle = f"{configs[0].task}: {SEQUENCES_PER_LENGTH} unseen sequences of each length"
    subtitle += f" (fewer distinct ones up to length {max(few)})." if few else "."
    caption = f"Shaded: training lengths. {describe_longer_answer(views[-1])}"
    figure = new_figure(2.7, lengths_title(views), subtitle, caption)
    axes = figure.subplots()
    for shortest, longest in {(each.seq_len if each.fixed_length else 1, each.seq_len) for each in configs}:
        axes.axvspan(shortest - 0.5, longest + 0.5, color="grey", alpha=0.2)
    for view, style in zip(views, itertools.cycle(("o-", "s--", "^:")), strict=False):
        accuracy = {each.length: 100 * each.exact_match for each in view.evidence.length_results}
        axes.plot(accuracy.keys(), accuracy.values(), style, label=view.model_name)
    axes.set(xlabel="symbols in the question", ylabel="% correct", ylim=(-3, 103))
    axes.set(xlim=(min(results) - 0.5, max(results) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(20, integer=True))
    label_lines(axes)
    return figure


def layers_title(scores: dict[str, float]) -> str:
    """Name the sublayer that finds the answers: the one after which most of them can be read off."""
    embedding, *_, final = scores.values()
    if final < 0.5:
        return f"the answer never appears: only {percent(final)} of the symbols are correct at the end"
    if embedding >= 0.9 * final:
        there = f"{percent(embedding)} of the symbols can be read off"
        return f"the answer is there before the first layer: {there}"
    before, after = max(itertools.pairwise(scores), key=lambda step: scores[step[1]] - scores[step[0]])
    change = f"{percent(scores[before])} → {percent(scores[after])} of the symbols can be read off"
    owner = re.sub(r"(layer \d+) ", r"\1's ", after)
    if scores[after] - scores[before] < final / 2:
        return f"the answer builds up gradually, most of all in {owner}: {change}"
    return f"{owner} finds the answer: {change}"


def draw_layers(view: View) -> Figure:
    """Draw what the model would predict after each sublayer."""
    lens = view.evidence.lens
    tokens = {name: score for name, (score, _) in lens.items()}
    caption = "Accuracy by logit lens: the final norm and output projection applied to the residual stream."
    subtitle = f"{view}: measured on {wording.describe_sample(view.evidence.source)}."
    figure = new_figure(3.2, layers_title(tokens), subtitle, caption)
    axes = figure.subplots()
    axes.plot([100 * score for score in tokens.values()], marker="s", **TOKENS)
    axes.plot([100 * score for _, score in lens.values()], marker="o", **SEQUENCES)
    axes.set(ylabel="%", ylim=(-3, 103))
    step, rotated = 1 + len(lens) // 40, len(lens) > 9
    names = [name if rotated else "\n".join(name.rsplit(" ", 1)).replace("-", "-\n") for name in lens]
    axes.set_xticks(range(0, len(lens), step), names[::step], rotation=90 if rotated else 0, size=7)
    label_lines(axes)
    return figure
