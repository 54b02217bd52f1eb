"""The plot of a training run names what differs from the defaults."""

import pytest
from conftest import assert_readable

from support.config import default_config
from support.figure import picture_style
from support.training_plot import draw_training


def test_training_picture_names_settings_and_sample_size():
    config = default_config("add", "encoder", num_layers=1, fixed_length=True)
    history = [
        {"epoch": 1, "step": 8, "loss": 2.0, "token_accuracy": 0.5, "exact_match": 0.25, "solved": False},
        {"epoch": 2, "step": 16, "loss": 1.0, "token_accuracy": 1.0, "exact_match": 1.0, "solved": True},
    ]
    with picture_style():
        figure = draw_training(config, history)
    assert_readable(figure)
    assert figure.get_suptitle() == "After 16 steps, all 2,000 validation sequences are correct"
    numbers = figure.texts[1].get_text()                        # not what add trains best with
    assert numbers == "add, encoder; non-default settings: fixed_length, num_layers 1"
    assert "on the same 100 validation sequences" in figure.get_supxlabel()
    assert "Dotted: the step" in figure.get_supxlabel()
    loss_axes, accuracy_axes = figure.axes
    guessing, = [line for line in loss_axes.get_lines() if line.get_linestyle() == "--"]
    assert guessing.get_ydata()[0] == pytest.approx(2.9957, abs=1e-4)       # ln 20
    assert [text.get_text() for text in loss_axes.texts] == ["guessing: ln 20 = 3.0"]
    assert [list(line.get_ydata()) for line in accuracy_axes.get_lines()[:2]] == [[25, 100], [50, 100]]
    assert [text.get_text() for text in accuracy_axes.texts] == ["exact match", "token accuracy"]
    with picture_style():
        plain = draw_training(default_config("add", "encoder"), history[:1])
    assert_readable(plain)
    assert plain.get_suptitle() == "After 8 steps, 25% of the sequences are correct"
    assert plain.texts[1].get_text() == "add, encoder"
    assert all(axes.get_lines()[0].get_marker() == "." for axes in plain.axes)     # not an invisible line
