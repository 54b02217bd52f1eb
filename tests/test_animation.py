"""The animation shows the record of training from the first epoch to the last."""

import re
from dataclasses import replace

import numpy
import pytest
import torch
from conftest import assert_readable
from PIL import Image, ImageSequence

from data import loss_mask, make_inputs_and_targets, token_name
from lab.animation import animation_title, draw_animation, draw_training_with_maps, save_animation
from lab.heads import measure_attention
from support.figure import picture_style


def test_animation_shows_every_recorded_epoch(run, measured, tmp_path):
    recorded, history, kind = measured.attention_history, run.history, measured.kind
    figure, show, count = draw_animation(measured)
    map_axes, curve_axes, _ = figure.axes
    source, target = (torch.from_numpy(recorded[name])[None] for name in ("source", "target"))
    inputs, targets = make_inputs_and_targets(run.architecture, source, target)
    scored = loss_mask(targets)[0].nonzero().flatten().tolist()
    assert count == len(history) == 2
    for epoch in 0, 1:
        show(epoch)
        name, step = map_axes.get_title(loc="left").strip().rsplit(", step ", 1)
        assert step == str(history[epoch]["step"])
        layer, head = (int(word) - 1 for word in re.findall(r"(?:layer|head) (\d+)", name))
        drawn = map_axes.collections[0].get_array()
        expected = numpy.ma.masked_array(recorded[kind][epoch, layer, head], numpy.ma.getmaskarray(drawn))
        numpy.testing.assert_allclose(drawn.filled(0), expected.filled(0))
        answer = [text.get_text() for text in map_axes.texts]
        predicted = [int(recorded["prediction"][epoch, query]) for query in scored]
        marked = ["[%s]" if targets[0, query] != symbol else "%s"
                  for query, symbol in zip(scored, predicted, strict=True)]
        names = (token_name(symbol) for symbol in predicted)
        assert answer == [mark % name for mark, name in zip(marked, names, strict=True)]
        dots = curve_axes.collections[0].get_offsets().tolist()
        ends = [[history[epoch]["step"], line.get_ydata()[epoch]] for line in curve_axes.get_lines()]
        assert dots == ends
    right, fraction = (list(line.get_ydata()) for line in curve_axes.get_lines())
    assert right == pytest.approx([100 * fraction for fraction in recorded["accuracy"]])
    assert run.model(*inputs).argmax(dim=-1)[0].tolist() == recorded["prediction"][-1].tolist()
    most = measure_attention(run, source, inputs, targets).mass.max().item()
    assert fraction[-1] == pytest.approx(100 * most, abs=0.1)
    assert {text.get_text() for text in curve_axes.texts} == {"symbols correct", "attention on the answer"}
    path = tmp_path / "film.gif"
    with picture_style(dark=True):
        save_animation(measured, path)
    with Image.open(path) as film:
        assert film.n_frames == 2 and "loop" not in film.info   # it plays once
        assert film.n_frames * film.info["duration"] <= 5000 and film.size[0] == 800
        first, second = (numpy.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(film))
    assert first[0, 0].tolist() == [0x0D, 0x11, 0x17] and (first != second).any()


def test_training_picture_has_a_map_of_the_first_and_the_last_step(run, measured):
    with picture_style():
        figure = draw_training_with_maps(measured)
    assert_readable(figure)
    strip, recorded = figure.axes[:2], measured.attention_history
    assert [axes.get_title() for axes in strip] == [f"step {row['step']}" for row in run.history]
    layer, head = (int(word) - 1 for word in re.findall(r"(?:layer|head) (\d+)", strip[0].get_ylabel()))
    for axes, expected in zip(strip, recorded[measured.kind][:, layer, head], strict=True):
        drawn = axes.collections[0].get_array()
        expected = numpy.ma.masked_array(expected, numpy.ma.getmaskarray(drawn))
        numpy.testing.assert_allclose(drawn.filled(0), expected.filled(0))
    assert len(draw_training_with_maps(replace(measured, attention_history=None)).axes) == 2


@pytest.mark.parametrize(
    ("right", "fraction", "looks", "sentence"),
    [
        ([0, 0.6, 1], [0, 0.2, 1], True,
         "the correct symbols emerge at step 16, the attention pattern at step 24"),
        ([0, 0.2, 1], [0, 0.6, 1], True,
         "the correct symbols emerge at step 24, the attention pattern at step 16"),
        ([0, 1, 1], [0, 0.2, 0.2], False,
         "the correct symbols emerge at step 16; no head ever looks at the answer"),
        ([0, 0.1, 0.4], [0, 0.5, 1], True, "most symbols are still incorrect at step 24"),
        ([1, 1, 1], None, False, "the correct symbols emerge at step 8"),
    ],
)
def test_animation_title_says_what_comes_first(right, fraction, looks, sentence):
    assert animation_title([8, 16, 24], right, fraction, looks) == sentence
