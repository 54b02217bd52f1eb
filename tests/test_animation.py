"""The animation shows the record of training from the first epoch to the last."""

from types import SimpleNamespace

import numpy
import pytest
from conftest import KINDS
from PIL import Image, ImageSequence

from lab.animation import Film, film_of, film_picture, film_sentence, save_film
from support.figure import picture_style


def test_the_film_shows_the_record_from_the_first_epoch_to_the_last(run, measured, tmp_path):
    record, history, kind = measured.record, run.history, measured.kind
    figure = film_picture(measured)
    *maps, curves = figure.axes
    layers = 2 * len(KINDS[run.architecture])
    assert len(maps) == 2 * layers                              # at each of two moments
    head = int(maps[layers - 1].get_title(loc="left").split("head")[1]) - 1
    for epoch in 0, 1:
        step, = maps[epoch * layers].texts
        assert step.get_text() == f"step {history[epoch]['step']}"
        drawn = maps[(epoch + 1) * layers - 1].collections[0].get_array()          # of the last layer
        expected = numpy.ma.masked_array(record[kind][epoch, 1, head], numpy.ma.getmaskarray(drawn))
        numpy.testing.assert_allclose(drawn.filled(0), expected.filled(0))
    right, share = (list(line.get_ydata()) for line in curves.get_lines())
    assert right == pytest.approx([100 * share for share in record["right"]])
    most = film_of(measured).view.reading.shares.max().item()
    assert share[-1] == pytest.approx(100 * most, abs=0.1)
    path = tmp_path / "film.gif"
    with picture_style(dark=True):
        save_film(measured, path)
    with Image.open(path) as film:
        assert film.n_frames == 2 and "loop" not in film.info   # it plays once
        assert film.n_frames * film.info["duration"] <= 5000 and film.size[0] == 800
        first, second = (numpy.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(film))
    assert first[0, 0].tolist() == [0x0D, 0x11, 0x17] and (first != second).any()


@pytest.mark.parametrize(
    ("right", "share", "sentence"),
    [
        ([0, 0.6, 1], [0, 0.2, 1], "the correct symbols emerge at step 16, the attention pattern at step 24"),
        ([0, 0.2, 1], [0, 0.6, 1],
         "the attention pattern emerges at step 16, the correct symbols at step 24"),
        ([0, 0, 1], [0, 0, 1], "the correct symbols and the attention pattern emerge together, at step 24"),
        ([0, 1, 1], [0, 0.2, 0.2],
         "the correct symbols emerge at step 16; no head ever attends mainly to the symbols they need"),
        ([0, 0.1, 0.4], [0, 0.5, 1], "most symbols are still incorrect at step 24"),
        ([1, 1, 1], None, "the correct symbols emerge at step 8"),
    ],
)
def test_the_sentence_of_the_film_says_what_comes_first(right, share, sentence):
    assert film_sentence([8, 16, 24], right, share) == sentence


def test_the_film_spends_its_time_where_the_model_learns_and_has_at_most_48_frames():
    def moments(right, *others, early, late):
        view = SimpleNamespace(record={"step": numpy.arange(len(right))})
        return Film(view, [], dict(enumerate([right, *others]))).moments(early, late)

    epochs = moments([0] * 9 + [1] * 41, [0] * 5 + [1] * 45, early=36, late=12)
    assert epochs[:19] == list(range(19)) and epochs[-1] == 49 and len(epochs) == 30
    assert len(moments([0] * 300 + [1] * 200, early=36, late=12)) <= 48
    assert moments([0] * 9 + [1] * 41, early=3, late=2) == [0, 9, 18, 49]
    assert moments([1], early=3, late=2) == [0]
