"""Ablating a part does what editing the weights does, and nothing else."""

import copy
import math

import pytest
import torch
from conftest import KINDS, as_run, attentions, set_everywhere

import lab.heads
from handmade import copying_encoder, reversing_encoder
from lab import ablation
from lab.ablation import (
    HYPOTHESES,
    ablate,
    logit_margins,
    logit_margins_without,
    mean_head_outputs,
    pick_others,
    scrub,
)
from lab.heads import ALL_ATTENTION, list_heads, list_parts, sample_unseen
from train import load_run


def with_edited_weights(model, heads, outputs=None):
    """The model with what the heads give set to zero, or to constants, in the output projection's weights."""
    model = copy.deepcopy(model)
    for kind, layer, head in heads:
        attention = attentions(model, kind)[layer]
        size = attention.output_projection.in_features // attention.num_heads
        columns = attention.output_projection.weight.data[:, head * size : (head + 1) * size]
        if outputs:
            attention.output_projection.bias.data += columns @ outputs[kind, layer, head]
        columns.zero_()
    return model


@pytest.mark.parametrize("by_mean", [False, True])
def test_ablate_equals_editing_the_weights_and_leaves_no_trace(run, by_mean, monkeypatch):
    source, inputs, targets = sample_unseen(run, count=50)
    before = run.model(*inputs)
    set_everywhere(monkeypatch, lab.heads, "sample_unseen", lambda run, **_: (source, inputs, targets))
    expected_margins = {}
    kinds, indices = KINDS[run.architecture], [(0, 0), (0, 1), (1, 0), (1, 1)]
    heads_in = {(kind, *index): [(kind, *index)] for kind in kinds for index in indices}
    heads_in |= {(kind, layer): [(kind, layer, 0), (kind, layer, 1)] for kind in kinds for layer in (0, 1)}
    heads_in |= {(kind,): [(kind, *index) for index in indices] for kind in kinds}
    heads_in[ALL_ATTENTION] = [(kind, *index) for kind in kinds for index in indices]
    assert set(list_parts(run.model)) == set(heads_in)
    outputs = mean_head_outputs(run) if by_mean else None
    for part, heads in heads_in.items():
        expected = with_edited_weights(run.model, heads, outputs)(*inputs)
        with ablate(run.model, part, replacement=outputs):
            torch.testing.assert_close(run.model(*inputs), expected, atol=1e-5, rtol=0)
        assert torch.equal(run.model(*inputs), before) and not torch.allclose(before, expected, atol=1e-4)
        expected_margins[part] = logit_margins(expected, targets)
    first, second = (kinds[0], 0, 1), (kinds[-1], 1, 0)         # a pair of heads, in two layers
    cuts = [(), *((part,) for part in expected_margins), (first, second)]
    pair = with_edited_weights(run.model, [first, second], outputs)(*inputs)
    every = [logit_margins(before, targets), *expected_margins.values(), logit_margins(pair, targets)]
    for ahead, expected in zip(logit_margins_without(run, cuts, outputs), every, strict=True):
        torch.testing.assert_close(ahead, expected, atol=1e-4, rtol=0)
    assert torch.equal(run.model(*inputs), before)


@pytest.mark.parametrize("part", [("encoder", 4), ("cross",), ("Encoder", 0), ("encoder", 0, 2), "all"])
def test_list_heads_rejects_a_missing_part(part, models_dir):
    run = load_run(models_dir, "reverse", "encoder")
    for refuse in (
        lambda: ablate(run.model, part).__enter__(), lambda: list_heads(run.model, part),
        lambda: logit_margins_without(run, [(part,)]),
    ):
        with pytest.raises(ValueError, match=r"its last \('encoder', 1, 1\)"):
            refuse()


def test_mean_head_outputs_equal_a_loop_over_tokens(run):
    _, inputs, _ = sample_unseen(run)
    kind = KINDS[run.architecture][-1]
    attention, is_token, memory = attentions(run.model, kind)[1], inputs[-1] != 0, {}
    hook = attention.value_projection.register_forward_pre_hook(lambda _, inputs: memory.update(x=inputs[0]))
    run.model(*inputs)
    hook.remove()
    values = attention.value_projection(memory["x"]).unflatten(-1, (2, 8))
    reads = [attention.attention_weights[:, head] @ values[:, :, head] for head in range(2)]
    outputs = mean_head_outputs(run)
    for head, values in enumerate(reads):
        mean = (values * is_token[:, :, None]).sum(dim=(0, 1)) / is_token.sum()
        torch.testing.assert_close(outputs[kind, 1, head], mean)


def test_logit_margins_are_the_lead_over_the_best_other_symbol():
    logits = torch.tensor([[[1.0, 5, 2, 3], [4, 1, 0, 2], [9, 9, 9, 9]]])
    ahead = logit_margins(logits, torch.tensor([[3, 2, 0]]))
    assert ahead.tolist() == [[-2, -4, math.inf]]               # PAD is not scored


@pytest.fixture(scope="module")
def reverser():
    return as_run(reversing_encoder)


@pytest.mark.parametrize(("hypothesis", "own", "other"), [*zip(
    HYPOTHESES, [1.0, 0.06, 1.0, 0.06, 0.0], [0.06, 1.0, 1.0, 1.0, 1.0], strict=True
)], ids=[hypothesis.text for hypothesis in HYPOTHESES])
def test_scrub_confirms_what_a_hand_built_model_does_and_nothing_else(hypothesis, own, other, reverser):
    scores = scrub(reverser, hypothesis, 8)
    assert scores == pytest.approx((own, other), abs=0.01 if {own, other} <= {0.0, 1.0} else 0.03)


def test_scrub_refutes_explanations_of_a_model_that_does_not_reverse():
    assert scrub(as_run(copying_encoder, task="reverse"), HYPOTHESES[2], 8)[0] < 0.1


@pytest.mark.parametrize("differs", [False, True])
def test_pick_others_finds_another_question_that_suits(differs):
    generator = torch.Generator().manual_seed(0)
    matters = torch.randint(0, 3, (30, 4), generator=generator)
    others = pick_others(matters, differs, generator)
    assert (others != torch.arange(30)[:, None]).all()
    assert ((matters.gather(0, others) == matters) != differs).all()
    alone = torch.tensor([[5], [6], [6]])
    assert pick_others(alone, False, generator).tolist() == [[0], [2], [1]]


def test_ablation_command_reports_each_hypothesis(built, call_lab):
    lines = call_lab(ablation, built)[-len(HYPOTHESES):]
    for line, hypothesis, own in zip(lines, HYPOTHESES, ["100%", "6%", "100%", "15%", "0%"], strict=True):
        assert line.startswith(hypothesis.text) and line.split()[-2] == own
