"""The pictures of many sequences show what was measured."""

import copy
from types import SimpleNamespace

import numpy
import pytest
import torch
from conftest import MODELS, names_of, numbers_of, outlined, title_of

from data import format_tokens
from lab.ablation import NOTHING
from lab.heads import ALL_ATTENTION, list_heads
from lab.what_matters import (
    ablation_title,
    describe_longer_answer,
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
    kind, layer, head = evidence.top_head
    first = 9 if kind == "decoder" else 1 if kind == "encoder" else 0       # the query that predicts symbol 0
    view.run.model(*evidence.attention.inputs)
    weights = view.run.model.attention_layers()[kind][layer].attention_weights[:, head].mean(dim=0)
    for axes, expected in zip(figure.axes, (weights, evidence.influence.nanmean(dim=0)), strict=False):
        drawn = axes.collections[0].get_array()
        numpy.testing.assert_allclose(drawn.filled(0), expected[first:].nan_to_num(), atol=1e-6)
        assert axes.collections[0].get_clim() == (0, 1)
        assert names_of(axes.get_xticklabels())[:10] == ["START", *"12345678", "END"]
        assert outlined(axes) == sorted((8 - i, i) for i in range(8))       # key, query
    assert [axes.get_ylabel() for axes in figure.axes[2:]] == ["attention weight", "influence"]
    on_answers = sum(evidence.influence[:, first + i, 8 - i].sum() for i in range(8))
    fraction = int(100 * on_answers / evidence.influence.nansum() + 0.5)
    assert title_of(figure).startswith(f"{fraction}% of the influence comes from the symbols the answer")
    evidence.influence = evidence.influence * 0             # still NaN if it was not measured
    assert title_of(draw_influence(view)) == "No symbol of the question affects the answers"
    for symbol in range(8):
        evidence.influence[:, first + symbol, 8 - symbol] = 0.95
    evidence.attention.mass[layer, head] = 0.7
    assert title_of(draw_influence(view)) == (
        "Replace a symbol, and exactly one symbol of the answer changes – and "
        f"{view.describe_part(evidence.top_head)} looks at it"
    )
    evidence.influence[:, first, 7] = 0.2                   # another symbol changes as well
    assert title_of(draw_influence(view)).startswith("97% of the influence comes from the symbols")


def test_ablation_picture_shows_accuracy_by_length(view):
    figure, evidence = draw_ablation(view), view.evidence
    axes = figure.axes[1]
    lengths = (evidence.source > 3).sum(dim=1)
    names, columns = names_of(axes.get_yticklabels()), names_of(axes.get_xticklabels())
    assert columns == [*"12345678", "all"] and names[-1] == "any attention"
    every = [part for part in [*evidence.logit_margins, ALL_ATTENTION] if part != NOTHING]
    parts = {view.describe_part(part): part for part in every}
    drawn = axes.collections[0].get_array()
    texts = numpy.array([int(text.get_text()) for text in axes.texts]).reshape(drawn.shape)
    for name, row, shown in zip(names, drawn, texts, strict=True):
        right = evidence.logit_margins[parts[name]][:, 0] > 0
        expected = [right[lengths == length].double().mean() for length in range(1, 9)]
        expected.append(right.double().mean())
        numpy.testing.assert_allclose(row, expected)
        numpy.testing.assert_array_equal(shown, [
            min(int(100 * fraction + 0.5 + 1e-9), 100 if fraction == 1 else 99) for fraction in expected
        ])


def test_ablation_bars_are_as_long_as_the_costs(view):
    evidence, heads = view.evidence, list_heads(view.run.model)
    count, harmful = len(evidence.source), heads[1]
    half, gain = torch.ones(count, 3), torch.ones(count, 3)
    half[: count // 2], gain[: count // 4] = -1, -1
    costs = {NOTHING: half, heads[0]: -torch.ones(count, 3), harmful: gain}
    evidence.logit_margins |= dict.fromkeys(heads, half) | costs
    axes = draw_ablation(view).axes[0]
    maps_drawn = [collection for collection in axes.collections if collection.get_array() is not None]
    assert [text.get_text() for text in axes.texts] == ["−50", "+25"]
    bars = [patch for patch in axes.patches if patch.get_hatch() is None]
    tracks, costs = bars[::2], bars[1::2]
    assert len(tracks) == len(costs) == len(maps_drawn) == len(heads)
    fractions = [bar.get_width() / track.get_width() for track, bar in zip(tracks, costs, strict=True)]
    assert fractions == pytest.approx([0.5, 0.25, *[0] * (len(heads) - 2)])
    assert costs[0].get_facecolor() != costs[1].get_facecolor()
    for head, drawn in zip(heads, maps_drawn, strict=True):
        expected = evidence.attention.maps[head[0]][head[1:]]
        numpy.testing.assert_allclose(drawn.get_array().filled(0), expected, atol=1e-6)


def test_ablation_title_names_the_most_important_head(view):
    evidence, count = view.evidence, len(view.evidence.source)
    right, top_head = torch.ones(count, 3), evidence.top_head
    important = next(head for head in list_heads(view.run.model) if head != top_head)

    def title(**costs):
        parts = {"important": important, "top": top_head, "all": ALL_ATTENTION}
        evidence.logit_margins = {part: right for part in evidence.logit_margins} | {
            parts[name]: torch.cat([-right[:cost], right[cost:]]) for name, cost in costs.items()
        }
        return ablation_title(view)

    evidence.attention.mass[top_head[1:]] = 0.9
    assert title() == "nothing breaks: without any attention, 100% are still correct"
    assert names_of(draw_ablation(view).axes[1].get_yticklabels()) == ["any attention"]
    assert title(all=count) == "no single head is needed, but attention is: without any, 0% are correct"
    fall = f"without {view.describe_part(important)}, accuracy falls from 100% to 99%"
    assert title(all=count, important=1) == f"the head that matters most does not look at the answer: {fall}"
    fall = f"without {view.describe_part(top_head)}, accuracy falls from 100% to 50%"
    assert title(all=count, top=count // 2) == f"the head that matters most looks at the answer: {fall}"
    evidence.logit_margins = {part: -right for part in evidence.logit_margins}
    assert ablation_title(view) == "the model is never correct, so no ablation can make it worse"


def test_lengths_and_layers_are_drawn_as_measured(view):
    picture = draw_lengths([view])
    axes, = picture.axes
    exact_match, = axes.get_lines()
    assert list(exact_match.get_xdata()) == list(range(1, 17))
    assert list(exact_match.get_ydata()) == pytest.approx([min(100, 8 * length) for length in range(1, 17)])
    few = max(each.length for each in view.evidence.length_results if len(each.source.unique(dim=0)) < 100)
    assert numbers_of(picture) == (
        f"reverse: 100 unseen sequences of each length (fewer distinct ones up to length {few})."
    )
    shaded = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (shaded.x0, shaded.x1) == (pytest.approx(0.5), pytest.approx(8.5))           # trained on 1 … 8
    picture = draw_layers(view)
    tokens, sequences = picture.axes[0].get_lines()
    assert list(tokens.get_ydata())[-2:] == [10, 100] and list(sequences.get_ydata())[-2:] == [0, 87.5]
    labels = [" ".join(name.split()) for name in names_of(picture.axes[0].get_xticklabels())]
    assert labels[0] == "embedding" and labels[-1].replace("- ", "-") == "layer 2 feed-forward"


def test_lengths_caption_tells_what_became_of_a_longer_question(view):
    beyond, name = view.evidence.length_results[8], MODELS[view.run.architecture]
    question = format_tokens(beyond.source[0, 1:-1])

    def outcome(position=None, symbol=None):
        beyond.answers = beyond.target.clone()
        if position:
            beyond.answers[0, position:] = torch.tensor([symbol, *[PAD] * (10 - position)])
        start = f"Asked {question}, the {name} answered "
        assert describe_longer_answer(view).startswith(start)
        assert describe_longer_answer(view) in " ".join(draw_lengths([view]).get_supxlabel().split())
        return describe_longer_answer(view).removeprefix(start)

    answer = format_tokens(beyond.target[0, 1:-1])
    assert outcome() == f"{answer}: all correct."
    assert outcome(9, END) == f"{answer[:answer.rindex(' ')]}: 8 correct, then END."
    assert outcome(8, 3).endswith(": 2 of 9 symbols are wrong.")


def test_lengths_title_says_which_models_can(view):
    evidence, name = copy.deepcopy(view.evidence), MODELS[view.run.architecture]
    other = SimpleNamespace(model_name="other", run=view.run, evidence=evidence)
    worse, trained = other.evidence.length_results[8], "trained on up to 8 symbols,"
    assert lengths_title([view]) == f"{trained} the {name} can reverse 9"
    worse.answers = worse.target.clone()
    worse.answers[1:, 9] = END
    assert lengths_title([other]) == f"{trained} no model can reverse 9: at most 1% correct"
    assert lengths_title([view, other]) == f"{trained} the {name} can reverse 9; the other cannot"
    other.evidence.length_results = other.evidence.length_results[:8]
    assert lengths_title([other]) == "reverse: no question beyond the training lengths fits the model"


@pytest.mark.parametrize(
    ("values", "title"),
    [
        ([0.2, 0.23, 0.89, 0.91, 1],
         "layer 1's attention finds the answer: 23% → 89% of the symbols can be read off"),
        ([0.1, 0.3, 0.509, 0.7, 0.9],
         "the answer builds up gradually, most of all in layer 1's attention: 30% → 51% of the symbols can "
         "be read off"),
        ([0.92, 0.95, 1],
         "the answer is there before the first layer: 92% of the symbols can be read off"),
        ([0.1, 0.2, 0.3], "the answer never appears: only 30% of the symbols are correct at the end"),
    ],
)
def test_layers_title_names_the_largest_step(values, title):
    names = ["embedding", "layer 0 feed-forward", "layer 1 attention", "layer 1 feed-forward", "layer 2"]
    assert layers_title(dict(zip(names, values, strict=False))) == title
