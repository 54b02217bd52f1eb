"""The pictures of many sequences show what was measured."""

import numpy
import pytest
import torch
from conftest import MODELS, names_of, outlined, title_of

from data import format_tokens
from lab.ablation import NOTHING
from lab.heads import ALL_ATTENTION, list_heads
from lab.what_matters import (
    ablation_title,
    draw_ablation,
    draw_influence,
    draw_layers,
    draw_lengths,
    layers_title,
    lengths_title,
)
from transformer import END, PAD


def test_influence_picture_uses_the_same_sequences(view):
    figure, evidence = draw_influence(view), view.evidence
    kind, layer, head = view.top_head
    first = 9 if kind == "decoder" else 1 if kind == "encoder" else 0       # the query that predicts symbol 0
    view.run.model(*evidence.attention.inputs)
    weights = view.run.model.attention_layers()[kind][layer].attention_weights[:, head].mean(dim=0)
    for axes, expected in zip(figure.axes, (weights, evidence.influence.nanmean(dim=0)), strict=False):
        drawn = axes.collections[0].get_array()
        numpy.testing.assert_allclose(drawn.filled(numpy.nan), expected[first:], atol=1e-6)
        assert axes.collections[0].get_clim() == (0, 1)
        assert names_of(axes.get_xticklabels())[:10] == ["START", *"12345678", "END"]
        assert outlined(axes) == sorted((8 - i, i) for i in range(8))       # key, query
    assert figure.axes[-1].get_ylabel() == "weight, influence"              # what the colours mean
    on_answers = sum(evidence.influence[:, first + i, 8 - i].sum() for i in range(8))
    fraction = int(100 * on_answers / evidence.influence.nansum() + 0.5)
    assert title_of(figure).startswith(f"{fraction}% of the influence comes from the needed symbols")


def test_ablation_picture_shows_accuracy_by_length(view):
    figure, evidence = draw_ablation(view), view.evidence
    axes = figure.axes[0]
    lengths = (evidence.source > 3).sum(dim=1)
    names, columns = names_of(axes.get_yticklabels()), names_of(axes.get_xticklabels())
    assert columns == [*"12345678", "all"] and names[-1] == "without any attention"
    either, other = list_heads(view.run.model)[:2]
    evidence.redundant_pair = other, either, 0.5
    pair = f"{view.describe_part(either)} and {view.describe_part(other)}"
    assert f"Redundant pair: {pair}; without both, accuracy is 50%." in draw_ablation(view).get_supxlabel()
    every = [part for part in [*evidence.logit_margins, ALL_ATTENTION] if part != NOTHING]
    parts = {view.describe_part(part): part for part in every}
    drawn = axes.collections[0].get_array()
    texts = numpy.array([int(text.get_text()) for text in axes.texts]).reshape(drawn.shape)
    for name, row, shown in zip(names, drawn, texts, strict=True):
        right = evidence.logit_margins[parts[name.removeprefix("without ")]][:, 0] > 0
        expected = [right[lengths == length].double().mean() for length in range(1, 9)]
        expected.append(right.double().mean())
        numpy.testing.assert_allclose(row, expected)
        numpy.testing.assert_array_equal(shown, [
            min(int(100 * fraction + 0.5 + 1e-9), 100 if fraction == 1 else 99) for fraction in expected
        ])


def test_ablation_title_names_the_most_important_head(view):
    evidence, count = view.evidence, len(view.evidence.source)
    right = torch.ones(count, 3)
    important = next(head for head in list_heads(view.run.model) if head != view.top_head)

    def title(**costs):
        parts = {"important": important, "best": view.top_head, "all": ALL_ATTENTION}
        evidence.logit_margins = {part: right for part in evidence.logit_margins} | {
            parts[name]: torch.cat([-right[:cost], right[cost:]]) for name, cost in costs.items()
        }
        return ablation_title(view)

    model = MODELS[view.run.architecture]
    assert title() == f"this {model} needs no attention for the task reverse: 100% correct without any"
    assert title(all=count) == (
        "no single head is needed, but attention is: without any, accuracy 100% → 0%"
    )
    text = title(all=count, important=1)
    assert text.startswith(f"{view.describe_part(important)} matters most: without it, accuracy 100% → 99%; ")
    assert text.endswith("costs nothing")
    text = title(all=count, best=count // 2)
    assert text.startswith(f"{view.describe_part(view.top_head)} matters most: without it")
    evidence.logit_margins = {part: -right for part in evidence.logit_margins}
    assert ablation_title(view) == "the model is never correct, so no ablation can make it worse"


def test_lengths_and_layers_are_drawn_as_measured(view):
    picture = draw_lengths([view])
    axes, = picture.axes
    exact_match, = axes.get_lines()
    assert list(exact_match.get_xdata()) == list(range(1, 17))
    assert list(exact_match.get_ydata()) == pytest.approx([min(100, 8 * length) for length in range(1, 17)])
    distinct = [len(each.source.unique(dim=0)) for each in view.evidence.length_results]
    assert names_of(axes.get_xticklabels()) == [f"{row + 1}\n{count}" for row, count in enumerate(distinct)]
    beyond = view.evidence.length_results[8]
    question, answer = (format_tokens(row[0, 1:]) for row in (beyond.source, beyond.answers))
    asked = f"{MODELS[view.run.architecture]}, asked {question.removesuffix(' END')}: {answer}"
    assert asked in picture.get_supxlabel().splitlines()
    shaded = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (shaded.x0, shaded.x1) == (pytest.approx(0.5), pytest.approx(8.5))           # trained on 1 … 8
    picture = draw_layers(view)
    tokens, sequences = picture.axes[0].get_lines()
    assert list(tokens.get_ydata())[-2:] == [10, 100] and list(sequences.get_ydata())[-2:] == [0, 87.5]
    labels = [" ".join(name.split()) for name in names_of(picture.axes[0].get_xticklabels())]
    assert labels[0] == "embedding" and labels[-1].replace("- ", "-") == "layer 2 feed-forward"


def test_lengths_title_says_which_model_stops(view):
    def title():
        return lengths_title([view])

    name, beyond = MODELS[view.run.architecture], view.evidence.length_results[8]
    assert title() == f"the {name} generalises beyond the training lengths: 72% correct at length 9"
    beyond.answers = beyond.target.clone()
    beyond.answers[1:, 9], beyond.answers[1:, 10] = END, PAD
    assert title() == f"the {name} learned to reverse, and to stop after 8 symbols"
    beyond.answers[:80, 3] = 0                                  # it is not correct until there
    assert title() == "no model generalises beyond the training lengths: at most 0% correct at length 9"
    view.evidence.length_results = view.evidence.length_results[:8]
    assert title() == "reverse: no question beyond the training lengths fits the model"


@pytest.mark.parametrize(
    ("values", "title"),
    [
        ([0.2, 0.23, 0.89, 0.91, 1], "2 finds the answers: token accuracy 23% → 89%"),
        ([0.1, 0.3, 0.509, 0.7, 0.9],
         "the answers build up gradually, most of all at 2: token accuracy 30% → 51%"),
        ([0.92, 0.95, 1], "the answers are present before the first layer: 92% of the tokens correct"),
        ([0.1, 0.2, 0.3], "the answers never appear: only 30% of the tokens are correct at the end"),
    ],
)
def test_layers_title_names_the_largest_step(values, title):
    assert layers_title({str(position): value for position, value in enumerate(values)}) == title
