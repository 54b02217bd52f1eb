"""Hand-built models are drawn part by part, next to a trained one."""

import pytest
from conftest import assert_readable, names_of, title_of
from test_pictures import pictures_of_view

import visualize
from lab.view import make_view
from lab.weights import draw_next_to_trained
from support.figure import picture_style
from train import load_run


@pytest.mark.parametrize("architecture", ["encoder", "encoder-decoder"])
@pytest.mark.parametrize("task", ["copy", "reverse"])
def test_hand_built_pictures_name_the_parts(task, architecture, built, models_dir, few_sequences):
    view = make_view(load_run(built, task, architecture), ["5", "7", "9"])
    pictures = pictures_of_view(view)
    assert not visualize.PICTURES["training"](view)
    with picture_style():
        trained = make_view(load_run(models_dir, task, architecture), ["5", "7", "9"])
        pictures["beside"] = draw_next_to_trained(view, trained)
    for figure in pictures.values():
        if task == "reverse":                               # these have more heads
            assert_readable(figure)
    counts = {"copy": {"encoder": "none of 1", "encoder-decoder": "1 of 3"},
              "reverse": {"encoder": "2 of 2", "encoder-decoder": "2 of 3"}}[task][architecture]
    assert f"Heads that matter on their own: {counts} hand-built, " in title_of(pictures["beside"])
    labels = names_of(pictures["ablation"].axes[1].get_yticklabels())
    for head in view.important_heads:
        name = view.part_name(head)
        assert f"{name} ({view.run.purposes[name]})" in labels
