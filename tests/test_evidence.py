"""The measurements of a run agree with what its model does, by length and by head."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from conftest import KINDS, TINY, attentions, zero
from torch import nn
from torch.optim.swa_utils import AveragedModel

import lab.ablation
from data import TASKS, Task
from lab.ablation import NOTHING
from lab.evidence import MAX_PAIRS, Evidence, find_answer_lengths, make_head_table
from lab.heads import compute_query_scores, list_heads, list_parts, source_attention_kind
from support.config import Config, default_config
from support.runs import Run
from train import load_run
from transformer import FeedForward, generate


def in_training_mode(model):
    model.train()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5
    return model


@pytest.mark.parametrize(
    ("change", "digits"),
    [
        (AveragedModel, 6), (lambda model: torch.compile(model, backend="eager"), 6), (in_training_mode, 6),
        (lambda model: model.double(), 4), (lambda model: model.half(), 1),
        (lambda model: model.bfloat16(), 1),
    ],
    ids=["AveragedModel", "compiled", "training mode", "float64", "float16", "bfloat16"],
)
def test_evidence_ignores_wrappers_and_precision(run, change, digits, few_sequences):
    expected = Evidence(run)
    other = replace(run, model=change(copy.deepcopy(run.model)))
    modes = [part.training for part in other.model.modules()]
    evidence = Evidence(other)
    rows = make_head_table(evidence)
    assert [part.training for part in other.model.modules()] == modes
    tolerance = 10**-digits
    torch.testing.assert_close(
        evidence.influence, expected.influence, atol=tolerance, rtol=0, equal_nan=True, check_dtype=False
    )
    for kind, maps in expected.attention.maps.items():
        torch.testing.assert_close(evidence.attention.maps[kind], maps, atol=tolerance, rtol=0)
    assert evidence.logit_margins.keys() == expected.logit_margins.keys()
    if digits > 1:
        for part in expected.logit_margins:
            assert evidence.accuracy_without(part) == expected.accuracy_without(part)
        assert evidence.lens == expected.lens
    assert len(rows) == len(make_head_table(expected)) and all(math.isfinite(row["cost"]) for row in rows)
    head = KINDS[run.architecture][0], 1, 1
    scores, _ = compute_query_scores(other.model, evidence.attention.inputs, head, 3)
    assert scores.isfinite().all()


def test_evidence_leaves_the_model_as_it_was(run, few_sequences):
    """A user's own hook acts once, on a projection of each kind; a replaced forward stays replaced."""
    model = copy.deepcopy(run.model)
    expected = copy.deepcopy(run.model)
    attention = attentions(model, source_attention_kind(run.architecture))[-1]
    other = attentions(expected, source_attention_kind(run.architecture))[-1]
    for projection in "key_projection", "output_projection":
        getattr(attention, projection).register_forward_hook(lambda part, arguments, output: 2 * output)
        for weights in getattr(other, projection).parameters():
            weights.data.mul_(2)
    mine, theirs = (
        next(part for part in each.modules() if isinstance(part, FeedForward)) for each in (model, expected)
    )
    replaced = mine.forward = lambda x: 3 * FeedForward.forward(mine, x)
    for weights in theirs.contract.parameters():
        weights.data.mul_(3)
    measured, right = (Evidence(replace(run, model=each)) for each in (model, expected))
    assert [*measured.logit_margins] == [*right.logit_margins]
    for part, ahead in measured.logit_margins.items():
        torch.testing.assert_close(ahead, right.logit_margins[part], atol=1e-4, rtol=1e-4)
    assert mine.forward is replaced and len(attention.key_projection._forward_hooks) == 1


def test_redundant_pair_is_found(run, monkeypatch):
    """Each of two heads takes 3 of a lead of 5; a third takes 1."""
    evidence, (first, second, third, *others) = Evidence(run), list_heads(run.model)
    taken = {first: 3.0, second: 3.0, third: 1.0} | dict.fromkeys(others, 0.0)
    evidence.logit_margins = {NOTHING: torch.full((10, 4), 5.0)} | {
        head: torch.full((10, 4), 5.0 - much) for head, much in taken.items()
    }
    asked = []

    def without(run, pairs, **_):
        asked.extend(pairs)
        return torch.stack([torch.full((10, 4), 5 - sum(taken[head] for head in pair)) for pair in pairs])

    monkeypatch.setattr(lab.ablation, "logit_margins_without", without)
    assert evidence.redundant_pair == (first, second, 0.0) and len(asked) == MAX_PAIRS
    harmless = Evidence(run)
    harmless.logit_margins = evidence.logit_margins | {first: torch.full((10, 4), 5.0)}
    taken[first] = 0.0
    assert harmless.redundant_pair is None


def copying_by_hand(config):
    """A copying encoder in which each embedding is its own output and all heads attend uniformly."""
    model = config.build_model().eval()
    zero(model, "query_projection", "contract", "output_projection")
    model.positional_encoding.encoding.zero_()
    model.embedding.weight.data = torch.eye(20, 32)
    model.output_projection.weight.data = torch.eye(20, 32)
    return Run(model, config, [], Path())


def test_length_results_equal_a_closed_form():
    run = copying_by_hand(Config(task="copy", d_model=32, num_heads=2, num_layers=2))
    lengths = Evidence(run).length_results
    assert [each.length for each in lengths] == list(range(1, 17))
    for each in lengths:
        assert each.exact_match == 1 and each.answers.equal(each.target)
    uniform, attention = 1 / 10, Evidence(run).attention
    assert attention.chance == pytest.approx(uniform)
    torch.testing.assert_close(attention.mass, torch.full((2, 2), uniform))
    run.config.task = "reverse"                                 # correct exactly on palindromes
    one, two, three, *_ = Evidence(run).length_results
    assert one.exact_match == 1 and 0 < two.exact_match < 0.5
    edge, middle, other_edge, end = (three.answers == three.target)[:, 1:].double().mean(dim=0)
    assert edge == other_edge < 0.5 and middle == end == 1


def test_length_results_show_what_the_model_generates(models_dir):
    """Not what it would have predicted after a correct prefix."""
    run = load_run(models_dir, "copy", "encoder-decoder")
    each = Evidence(run).length_results[4]
    written = generate(run.model, each.source, each.target.size(1) - 1)
    assert each.answers[:, 1 : 1 + written.size(1)].equal(written)


def test_length_results_leave_out_impossible_lengths(models_dir):
    run = load_run(models_dir, "add", "encoder")
    assert [each.length for each in Evidence(run).length_results] == [3, 5, 7, 9, 11, 13, 15]
    run.model.positional_encoding.encoding = run.model.positional_encoding.encoding[:12]
    assert [each.length for each in Evidence(run).length_results] == [3, 5, 7, 9]


def test_head_table_lists_each_head_once_most_costly_first(run):
    evidence = Evidence(run)
    wrong = {part: cost for cost, part in enumerate(list_parts(run.model))} | {NOTHING: 0}
    evidence.logit_margins = {                              # the tiny model itself may get none right
        part: torch.cat([-torch.ones(cost, 3), torch.ones(100 - cost, 3)]) for part, cost in wrong.items()
    }
    rows, kinds = make_head_table(evidence), KINDS[run.architecture]
    assert {(row["kind"], row["layer"], row["head"]) for row in rows} == {
        (kind, layer, head) for kind in kinds for layer in (1, 2) for head in (1, 2)
    }
    assert len(rows) == 4 * len(kinds) and rows == sorted(rows, key=lambda row: -row["cost"])
    for row in rows:
        position = row["layer"] - 1, row["head"] - 1
        assert row["exact_match_without"] == pytest.approx(1 - wrong[(row["kind"], *position)] / 100)
        assert row["cost"] == pytest.approx(1 - row["exact_match_without"])
        assert row["token_accuracy_without"] == pytest.approx(row["exact_match_without"])   # all or none
        run.model(*evidence.attention.inputs)
        weights = attentions(run.model, row["kind"])[position[0]].attention_weights[:, position[1]]
        if row["kind"] != kinds[-1]:                            # it cannot find the answer
            assert row["attention_on_answer_sources"] is None
            continue
        query = {"encoder": 1, "cross": 0, "decoder": 9}[row["kind"]]
        mirrored = [weights[:, query + i, 8 - i].mean().item() for i in range(8)]
        assert row["attention_on_answer_sources"] == pytest.approx(sum(mirrored) / 8, abs=1e-6)


def test_length_results_leave_out_lengths_without_an_answer():
    """It swaps the halves of eight symbols; sixteen would give two answers, and other lengths none."""
    def swap_halves(content):
        return content.reshape(-1, 2, 4).flip(1).flatten(1)

    halves = Task(swap_halves, settings={"fixed_length": True})
    with patch.dict(TASKS, {"halves": halves}):
        config = default_config("halves", "encoder", **TINY)
        run = Run(config.build_model().eval(), config, [], Path("nowhere"))
        assert find_answer_lengths(run, 62) == {8: 8}
        assert [at.length for at in Evidence(run).length_results] == [8]
