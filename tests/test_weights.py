"""Hand-built models are drawn part by part, next to a trained one."""

import pytest
import torch
from conftest import assert_readable, names_of, title_of
from test_pictures import pictures_of_view

import visualize
from lab.ablation import NOTHING
from lab.view import format_cost, make_view
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
        if task == "reverse" and figure:                    # these have more heads
            assert_readable(figure)
    if task == "copy" and architecture == "encoder":
        assert pictures["beside"] is None                   # its only head does nothing
    else:
        steps, *shown = pictures["beside"].axes
        enough = {"copy": "One head is enough to copy", "reverse": "Two heads are enough to reverse"}[task]
        every = {"encoder": 4, "encoder-decoder": 12}[architecture]
        assert title_of(pictures["beside"]).startswith(f"{enough}; of the trained model's {every}, ")
        boxes = [text.get_text() for text in steps.texts if text.get_bbox_patch()]
        assert boxes == ["WHERE", *{"copy": [], "reverse": ["LAST", "MIRROR"]}[task], "ANSWER"]
        found = [text.get_text() for text in steps.texts if text.get_text() in view.run.purposes]
        assert found == [*view.run.purposes]
        notes = [axes.get_title(loc="left").splitlines() for axes in shown]
        built_by_hand = [note for label, *_, note in notes if label == "hand-built"]
        assert built_by_hand == ["finds END", "fetches the symbol"][-len(built_by_hand):]
    labels = names_of(pictures["ablation"].axes[1].get_yticklabels())
    for head in view.important_heads:
        name = view.part_name(head)
        assert f"{name} ({view.run.purposes[name]})" in labels


def test_format_cost_words_a_gain_as_a_gain(view):
    """A head without which a quarter of the answers become correct."""
    evidence, head = view.evidence, view.top_head
    margins = torch.ones_like(evidence.logit_margins[NOTHING])
    worse = margins.clone()
    worse[: len(worse) // 4] = -1
    evidence.logit_margins |= {NOTHING: worse, head: margins}
    assert format_cost(view, head) == "removing it helps: +25 points"
    evidence.logit_margins |= {NOTHING: margins, head: worse}
    assert format_cost(view, head) == "costs 25 points"
