"""The pictures show what the model did, the right way round, and their numbers are correct."""

import itertools
import math
from pathlib import Path

import numpy
import pytest
import torch
from conftest import (
    TINY,
    assert_readable,
    names_of,
    outlined,
    texts_of,
    title_of,
)
from torch.nn import functional

import data
import transformer
import visualize
from data import ARCHITECTURES, TASKS, Task
from lab import maps
from lab.ablation import NOTHING
from lab.heads import list_heads
from lab.maps import format_weight
from lab.side_by_side import draw_comparison
from lab.view import make_view
from lab.what_matters import draw_influence, draw_lengths
from support.config import default_config
from support.figure import picture_style
from support.record import append_epoch, recorded_questions
from support.runs import Run
from visualize import draw_head, draw_layer


def test_head_picture_shows_the_softmax_of_a_row(view):
    figure, (kind, layer, head) = draw_head(view), view.top_head
    shown, table = figure.axes[:2]
    assert names_of(table.get_yticklabels())[1] == "x = q·k / √8"
    texts = [text.get_text().replace("−", "-").replace("≈ ", "") for text in table.texts]
    scores, scaled, powers, weights = numpy.array(list(map(float, texts))).reshape(4, -1)
    numpy.testing.assert_allclose(scaled, scores / 8**0.5, atol=0.01)
    numpy.testing.assert_allclose(powers, numpy.exp(scaled - scaled.max()), atol=0.02)
    numpy.testing.assert_allclose(weights, powers / powers.sum(), atol=0.002)
    query = maps.pick_query(view)
    assert view.attention.answer_sources[0][query].any()
    row = view.attention.maps[kind][layer, head, query]
    numpy.testing.assert_allclose(weights, row[: len(weights)], atol=0.0006)
    assert row[len(weights) :].sum() == 0
    cells = [key for key, _ in outlined(table)]                 # the correct keys are marked
    assert cells == view.attention.answer_sources[0][query].nonzero().flatten().tolist()
    inputs = view.attention.inputs[0 if kind == "encoder" else -1][0].tolist()
    outputs = view.attention.targets[0].tolist()
    first = {"encoder": 1, "decoder": 4, "cross": 0}[kind]      # the query that predicts symbol 0
    for index, name in enumerate(names_of(shown.get_yticklabels())[:first + 3]):
        says = f" → {data.token_name(outputs[index])}" if index >= first else ""
        assert name == data.token_name(inputs[index]) + says
    neighbour, = [axes for axes in figure.axes if axes.get_xlabel() == f"head {2 - head}"]
    drawn = neighbour.collections[0].get_array().filled(0)
    numpy.testing.assert_allclose(drawn, view.attention.maps[kind][layer, 1 - head], atol=1e-6)


def test_head_picture_shows_no_arithmetic_that_contradicts_its_weights(view, monkeypatch):
    """As after the exercise that leaves out √Dh, the model's scores are not divided by √Dh."""
    def undivided(query, key, value, mask=None, dropout=0.0):
        weights = (query @ key.transpose(-2, -1)).masked_fill(~mask, -torch.inf).softmax(dim=-1)
        return weights @ value, weights

    monkeypatch.setattr(transformer, "scaled_dot_product_attention", undivided)
    view = make_view(view.run, ["5", "9", "12"])
    figure = draw_head(view)
    _, table, *_ = figure.axes
    assert names_of(table.get_yticklabels()) == ["weight"]
    words = " ".join(text for text, _ in texts_of(figure)).split()
    assert "not worked out: this model's weights are not softmax(q·k / √8)." in " ".join(words)



def test_titles_compare_with_chance(view):
    """85% against 80% for uniform attention; heads that all look; an irreplaceable symbol."""
    evidence, (kind, layer, head) = view.evidence, view.top_head
    name = view.describe_part((kind, layer))
    view.attention.mass[layer], view.attention.chance = 0.85, 0.8
    view.attention.mass[layer, head] = 0.86
    assert title_of(draw_head(view)) == (
        f"No head looks at the answer: even {view.describe_part(view.top_head)} spends only 86% there "
        "(chance: 80%)"
    )
    assert title_of(draw_layer(view)) == f"No head of {name} looks at the answer"
    assert "(chance: 80%)" in draw_layer(view).get_supxlabel()
    view.attention.mass[layer, head] = 0.9375
    assert visualize.head_title(view).endswith(
        " looks at the answer: 94% of its attention is there (chance: 80%)"
    )
    assert title_of(draw_layer(view)) == f"One head of {name} looks at the answer"
    view.attention.mass[layer] = 0.9375
    heads = list_heads(view.run.model, (kind, layer))
    evidence.logit_margins |= {head: evidence.logit_margins[NOTHING] for head in heads}
    title = f"both heads of {name} look at the answer"
    assert visualize.layer_title(view, (kind, layer)) == f"{title}, so the model can spare any one of them"
    evidence.logit_margins |= {heads[0]: -evidence.logit_margins[NOTHING]}
    assert visualize.layer_title(view, (kind, layer)) == title
    evidence.attention.mass, evidence.attention.chance = evidence.attention.mass * 0 + 0.1355, 0.1
    assert title_of(draw_influence(view)).endswith(" – yet no head looks at them")
    assert draw_influence(view).axes[0].get_title(loc="left").endswith("14% on the answer (chance: 10%)")
    evidence.influence = evidence.influence * math.nan
    assert title_of(draw_influence(view)).startswith("No symbol could be replaced, so what the answers")


def test_format_weight_shows_no_powers_of_ten():
    written = [format_weight(value) for value in (1.0, 0.0123, 0.001, 0.00099, 2e-12)]
    assert written == ["1.000", "0.012", "0.001", "≈ 0", "≈ 0"]


def rank_of_each_symbol(content):
    """Count the smaller symbols in the question; one_hot fails without a row or with other tokens."""
    counts = functional.one_hot(content - 4, 16).sum(dim=1)
    return 4 + (counts.cumsum(dim=1) - counts).gather(1, content - 4)


MARKS = ["$x$", "$", "a^_", "\\frac", "%s", "{0}", "<b>", "五"]
OWN = {                                                     # a task, and what it has outlined
    "shift": (Task(lambda content: content.roll(1, dims=1)), True),
    "next": (Task(lambda content: 4 + (content - 3) % 16), True),
    "parity": (Task(lambda content: 4 + content.sum(dim=1, keepdim=True) % 2), True),
    "different": (
        Task(lambda content: 3 + functional.one_hot(content - 4).amax(dim=1).sum(dim=1, keepdim=True)), True
    ),
    "triple": (Task(lambda content: content.repeat(1, 3), settings={"seq_len": 14}), True),
    "constant": (Task(lambda content: torch.full((len(content), 1), 7)), "the answer depends on no symbol"),
    "palindrome": (
        Task(lambda content: content[:, :1], is_valid=lambda content: (content == content.flip(1)).all(dim=1),
             settings={"seq_len": 2}), "what the answer depends on cannot be measured",
    ),
    "rank": (Task(rank_of_each_symbol), True),
    "letters": (Task(data.reverse, symbols=range(4, 7), token_names={4: "a", 5: "b", 6: "c"}), True),
    "marks": (Task(data.reverse, symbols=range(4, 12), token_names=dict(enumerate(MARKS, 4))), True),
}


def pictures_of_view(view, several=1):
    """All pictures of a model, and comparisons as if there were several such runs."""
    pictures = {name: draw for name, draw in visualize.PICTURES.items() if name != "training"}
    with picture_style():
        return {name: figure for name, draw in pictures.items() if (figure := draw(view))} | {
            "lengths": draw_lengths([view] * several),
            "lines": draw_comparison([[view] * several] * several),
        }


def untrained_view(task, architecture, words=None, **sizes):
    """For a model that answers nonsense, as if trained for one epoch."""
    config = default_config(task, architecture, **TINY | sizes)
    config.check()
    torch.manual_seed(0)
    row = {"step": 8, "loss": 1.0, "token_accuracy": 0.2, "exact_match": 0.1, "seconds": 1.0, "solved": False}
    view = make_view(Run(config.build_model().eval(), config, [row], Path()), words)
    view.attention_history = append_epoch(None, view.run.model, recorded_questions(config), row)
    return view


LAID_OUT = [*zip(OWN, itertools.cycle(ARCHITECTURES), strict=False)]        # laying out is slow
WITHOUT_OUTLINE = [*itertools.product(("constant", "palindrome"), ARCHITECTURES)]


@pytest.mark.parametrize(("task", "architecture"), dict.fromkeys([*LAID_OUT, *WITHOUT_OUTLINE]))
def test_pictures_of_custom_tasks_claim_nothing_false(
    task, architecture, monkeypatch, few_sequences, few_lengths
):
    monkeypatch.setitem(TASKS, task, OWN[task][0])
    view = untrained_view(task, architecture, ["cab"] if task == "letters" else None)
    if task == "letters":
        assert view.answer.startswith("c a b → ")
    if task == "marks":
        names = [tick.get_text() for tick in draw_head(view).axes[0].get_xticklabels()]
        assert {*names[1:9]} <= {*MARKS} and names[9] == "END"
    outlines = OWN[task][1]
    for name, figure in pictures_of_view(view).items():
        if (task, architecture) in LAID_OUT:
            assert_readable(figure)
        assert not figure.get_supxlabel().startswith(" ")
        if outlines is not True:
            assert not any(word in figure.get_supxlabel() for word in ("utlined:", "coloured"))
            assert "needed sy" not in title_of(figure)
            if name in ("attention_head", "attention_layer"):
                assert outlines in title_of(figure)
    assert view.has_outline == (outlines is True)


SIZES = {
    "62 symbols": {"seq_len": 62, "d_model": 8, "num_layers": 1},
    "one layer, one head": {"num_layers": 1, "num_heads": 1},
    "two symbols, odd width": {"vocab_size": 6, "d_model": 9, "num_heads": 1},
    "length 1, width 1": {"seq_len": 1, "d_model": 1, "num_heads": 1},
    "five digits": {"vocab_size": 20_000, "d_model": 2, "num_layers": 1, "seq_len": 14},
    "many heads": {"num_heads": 16, "num_layers": 6, "seq_len": 3},
    "32 heads": {"num_heads": 32, "d_model": 32, "num_layers": 1, "seq_len": 3},
}


@pytest.mark.parametrize(("size", "architecture"), [
    ("62 symbols", "encoder"), ("one layer, one head", "decoder"), ("two symbols, odd width", "decoder"),
    ("two symbols, odd width", "encoder-decoder"), ("length 1, width 1", "encoder"),
    ("length 1, width 1", "encoder-decoder"), ("five digits", "encoder"), ("many heads", "decoder"),
    ("32 heads", "encoder"),
])
def test_texts_never_collide_or_leave_the_picture(size, architecture, few_sequences, few_lengths):
    view = untrained_view("reverse", architecture, **SIZES[size])
    for figure in pictures_of_view(view, several=2).values():
        assert_readable(figure)
