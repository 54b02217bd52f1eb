"""A map has the query down, the key across, and row 0 on top."""

import numpy
import pytest
import torch
from conftest import KINDS, names_of, numbers_of, outlined
from matplotlib.figure import Figure

from data import format_tokens
from lab.maps import draw_named_map, make_map
from lab.view import make_view
from train import load_run
from transformer import generate
from visualize import draw_head


def test_maps_have_queries_down_and_keys_across(run, measured):
    """Each kind of attention, on the untrained model's own output."""
    view = measured
    source = torch.tensor([[1, 5, 9, 12, 2]])
    prompt = ["START", "5", "9", "12", "END"]
    if run.architecture == "encoder":
        inputs, expected = (source,), {"encoder": (prompt, prompt)}
    else:
        answer = generate(run.model, source, 4)
        names = [format_tokens(token) for token in answer[0].split(1)]
        if run.architecture == "decoder":
            inputs = (torch.cat([source, answer[:, :-1]], dim=1),)
            tokens = prompt + names[:-1]
            expected = {"decoder": (tokens, tokens)}
        else:
            inputs = (source, torch.cat([source[:, :1], answer[:, :-1]], dim=1))
            tokens = ["START", *names[:-1]]
            expected = {"encoder": (prompt, prompt), "decoder": (tokens, tokens), "cross": (tokens, prompt)}
    assert list(expected) == KINDS[run.architecture]
    for kind, (queries, keys) in expected.items():
        axes = Figure(figsize=(8, 8)).subplots()
        shown = make_map(view, (kind, 1, 0))
        run.model(*inputs)                                      # after what make_map may have to measure
        draw_named_map(axes, shown)
        weights = run.model.attention_layers()[kind][1].attention_weights[0, 0]
        drawn = axes.collections[0].get_array().reshape(len(queries), len(keys))
        forbidden = numpy.triu(numpy.ones(weights.shape), 1) * (kind == "decoder")
        assert (numpy.ma.getmaskarray(drawn) == forbidden).all()
        numpy.testing.assert_allclose(drawn.filled(0), weights.numpy(), atol=1e-6)
        assert bool(axes.patches) == (kind == "decoder")        # the hatching where nothing is drawn
        bottom, top = axes.get_ylim()
        left, correct = axes.get_xlim()
        assert bottom > top and left < correct                  # row 0 on top, key 0 on the left
        assert names_of(axes.get_yticklabels()) == queries and names_of(axes.get_xticklabels()) == keys
        assert axes.collections[0].get_clim() == (0, 1)
        first = {"encoder": 1, "decoder": 4, "cross": 0}[kind]
        cells = [(3 - i, first + i) for i in range(3) if first + i < len(queries)]          # key, query
        assert outlined(axes) == (sorted(cells) if kind == view.kind else [])
    figure = draw_head(view)
    assert figure.axes[0].get_ylabel().startswith("query") and figure.axes[1].get_xlabel().startswith("key")


@pytest.mark.parametrize(
    ("task", "question", "ticks"),
    [
        ("add", "4 2 + 1 9", ["START", "4", "2", "+", "1", "9", "END"]),
        ("complete", "5 _ 5 7", ["START", "5", "_", "5", "7", "END"]),
    ],
)
def test_maps_name_digits_and_gaps_as_a_person_would(task, question, ticks, models_dir):
    picture = draw_head(make_view(load_run(models_dir, task, "encoder"), question.split()))
    assert names_of(picture.axes[0].get_xticklabels()) == ticks
    assert numbers_of(picture).startswith(f"{task}, encoder: {question} → ")
    assert ("_: a" in picture.get_supxlabel()) == (task == "complete")
