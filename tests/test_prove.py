"""Each verdict on a model that deserves it and on one that does not, and each step of the arguments."""

import copy
import re
from collections import deque
from itertools import combinations_with_replacement
from pathlib import Path

import pytest
import torch
from conftest import CPU, as_run, resize_handmade

import data
import handmade
import train
from handmade import (
    copying_encoder,
    copying_encoder_decoder,
    doubling_encoder,
    reversing_encoder,
    reversing_encoder_decoder,
    sorting_encoder,
)
from lab import prove, rounding
from lab.ablation import ablate
from lab.dependencies import (
    find_dependencies,
    ignores_order,
    make_questions,
    moves_symbols,
    tokens_stay_apart,
)
from lab.heads import ALL_ATTENTION
from lab.prove import judge, sample_questions
from support.config import Config
from support.puzzles import ZERO
from support.runs import Run
from transformer import FeedForward

MOVERS = (
    copying_encoder, reversing_encoder, doubling_encoder, copying_encoder_decoder, reversing_encoder_decoder,
)

def build_small(name, vocab_size, max_length):
    return as_run(resize_handmade(vocab_size, max_length)[name])


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(prove, "SAMPLED", 1_000)
    monkeypatch.setattr(prove, "MAX_QUESTIONS", 20_000)


def check_counterexample(run, reason):
    """Assert that the model fails on a question as reported."""
    question, answers = reason.split(" → ")
    predicted, correct = answers.split(", not ")
    source, target = data.make_source_and_target(
        run.config.task, data.parse_content([question], run.config.task, run.config.vocab_size)[None]
    )
    assert data.format_tokens(target[0, 1:], run.config.task) == f"{correct} END"
    answer = train.predict(run.model, source, target)
    assert not data.is_correct(answer, target).any()
    assert data.format_tokens(answer[0, 1:], run.config.task).startswith(predicted)


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize("build", MOVERS)
def test_hand_built_models_are_proved(build):
    verdict = judge(as_run(build, seq_len=5))
    lengths = range(1, 6)
    cases = {                                               # assignments to what each output reads; END: one
        copying_encoder: sum(16 * length + 1 for length in lengths),
        doubling_encoder: sum(16 * 2 * length + 1 for length in lengths),
        reversing_encoder: sum(256 * length - 240 * (length % 2) + 1 for length in lengths),
    }
    generating = sum(256 * (length - 1) + 32 for length in lengths)
    cases |= {copying_encoder_decoder: generating, reversing_encoder_decoder: generating}
    assert verdict.word == "PROVED" and verdict.cases == cases[build]
    assert verdict.margin > 19.9 and 0 < verdict.rounding < 0.01


@pytest.mark.parametrize("build", MOVERS)
def test_only_the_copying_encoder_needs_no_attention(build):
    run = as_run(build)
    verdict = judge(run, without_attention=True)
    assert verdict.word == ("PROVED" if build is copying_encoder else "REFUTED")


def test_one_changed_weight_is_refuted_by_a_question_that_fails():
    run = as_run(copying_encoder)
    run.model.positional_encoding.encoding[8, 9] = 2.0      # at position 8, each symbol becomes a 9
    verdict = judge(run)
    assert verdict.word == "REFUTED" and len(verdict.reason.split(" → ")[0].split()) == 8
    check_counterexample(run, verdict.reason)


def test_error_that_sampling_overlooks_is_found(monkeypatch):
    run = as_run(copying_encoder)
    run.model.blocks[0].feed_forward.expand.weight[0, [9, 20 + 8]] = 2      # an AND gate: a 9 at position 8 …
    run.model.blocks[0].feed_forward.expand.bias[0] = -3
    run.model.blocks[0].feed_forward.contract.weight[[5, 9], 0] = torch.tensor([1.0, -1.0])     # becomes a 5
    monkeypatch.setattr(prove, "sample_questions", lambda config: pytest.fail("no need to sample"))
    verdict = judge(run)
    assert verdict.word == "REFUTED"
    check_counterexample(run, verdict.reason)


@pytest.fixture(scope="module")
def trained():
    config = Config(task="reverse", epochs=16)
    model, _ = deque(train.train(config, CPU), maxlen=1).pop()
    return Run(model, config, [], Path())


def test_trained_reverser_is_only_sampled(trained):
    verdict = judge(trained)
    assert verdict.word == "SAMPLED"
    assert verdict.reason.startswith("no error in 1,000 of 4,581,298,448, sampled evenly")
    refuted = judge(trained, without_attention=True)
    assert refuted.word == "REFUTED"
    with ablate(trained.model, ALL_ATTENTION):
        check_counterexample(trained, refuted.reason)


def test_soft_attention_is_correct_but_not_proved(monkeypatch):
    monkeypatch.setattr(handmade, "ATTENTION_SHARPNESS", 125.0)
    assert judge(as_run(reversing_encoder)).word == "SAMPLED"


def test_sorting_is_proved_by_one_case_per_multiset():
    run = build_small("sorting_encoder", 20, 4)             # 16⁴ questions are more than MAX_QUESTIONS
    verdict = judge(run)
    assert verdict.word == "PROVED" and "order" in verdict.reason
    multisets = (set(combinations_with_replacement(range(16), length)) for length in range(1, 5))
    assert verdict.cases == sum(map(len, multisets))
    run.model.blocks[0].feed_forward.expand.bias[:] -= 0.2  # the units demand too much
    refuted = judge(run)
    assert refuted.word == "REFUTED"
    check_counterexample(run, refuted.reason)


def test_adding_is_proved_by_asking_every_sum():
    run = build_small("adding_encoder", 20, 5)
    verdict = judge(run)
    assert verdict.word == "PROVED" and verdict.cases == 10**2 + 10**4
    assert verdict.margin > 19 and verdict.rounding < 10
    run.model.blocks[1].feed_forward.contract.weight[-22 + ZERO + 9] = 0    # nothing writes a 9
    refuted = judge(run)
    assert refuted.word == "REFUTED"
    check_counterexample(run, refuted.reason)


def test_verdict_is_withheld_if_rounding_could_decide(monkeypatch):
    monkeypatch.setattr(rounding, "UNIT_ROUNDOFF", 1.0)
    verdict = judge(as_run(copying_encoder))
    assert verdict.word == "SAMPLED" and "rounding" in verdict.reason


def test_bound_of_the_error_rate_has_the_confidence_that_it_claims():
    assert (1 - prove.bound_error_rate(30_000)) ** 30_000 == pytest.approx(0.05)
    assert prove.bound_error_rate(30_000) == pytest.approx(3 / 30_000, rel=0.01)       # the rule of three


def test_samples_come_evenly_from_all_questions(monkeypatch):
    monkeypatch.setattr(prove, "SAMPLED", 20_000)
    drawing, contents = sample_questions(Config(task="copy"))
    counts = {content.size(1): len(content) for content in contents}
    assert drawing == "of 4,581,298,448, sampled evenly" and sum(counts.values()) == 20_000
    assert counts[8] / 20_000 == pytest.approx(15 / 16, abs=0.01)
    assert counts[7] / 20_000 == pytest.approx(15 / 256, abs=0.01)
    drawing, contents = sample_questions(Config(task="complete"))
    assert drawing == "sampled as in training"
    assert all(data.TASKS["complete"].is_valid(content).all() for content in contents)


# ---------------------------------------------------------------- dependencies


@pytest.mark.parametrize("build", MOVERS)
def test_dependencies_are_those_found_by_trying(build):
    run, length = as_run(build), 4
    found = find_dependencies(run.model, run.config, length)
    content = torch.randint(4, 20, (50, length), generator=torch.Generator().manual_seed(0))
    inputs, targets = make_questions(run.config, content)
    logits = run.model(*inputs)
    for position in range(length):
        changed = content.clone()
        changed[:, position] = (changed[:, position] - 3) % 16 + 4          # the next symbol
        effect = (run.model(*make_questions(run.config, changed)[0]) - logits).abs().amax(dim=(0, 2))
        reached = {output for output in range(targets.size(1)) if effect[output] > 1e-3}
        assert reached <= {output for output, group in enumerate(found) if position in group}


def test_few_symbols_in_long_questions_are_enough(monkeypatch):
    run = build_small("reversing_encoder", 6, 8)            # more positions than symbols
    assert judge(run).reason == "every question was asked"
    monkeypatch.setattr(prove, "MAX_QUESTIONS", 100)
    assert judge(run).reason == "each output depends on at most 2 symbols"
    assert find_dependencies(run.model, run.config, 8)[1] == {0, 7}


def test_dependencies_of_random_models_are_too_many():
    for architecture in data.ARCHITECTURES:
        config = Config(task="copy", architecture=architecture, num_layers=1)
        assert find_dependencies(config.build_model(), config, 5) is None


def test_moves_symbols_recognises_functions_that_compute():
    moving = data.copy, data.reverse, data.double, lambda x: x.roll(1, dims=1), lambda x: x[:, :1]
    computing = (
        data.sort, lambda x: x + 1, lambda x: x.where(x > 5, 6), lambda x: x.gather(1, x % 3),
        lambda x: torch.tensor([sorted(row) for row in x.tolist()]), lambda x: x if x[0, 0] else -x,
    )
    assert all(moves_symbols(function, 6) for function in moving)
    assert not any(moves_symbols(function, 6) for function in computing)


def test_tokens_stay_apart_notices_another_way_between_them(monkeypatch):
    for architecture in data.ARCHITECTURES:
        config = Config(task="reverse", architecture=architecture)
        inputs, _ = make_questions(config, torch.tensor([[5, 7, 9]]))
        assert tokens_stay_apart(config.build_model(), inputs)
    forward = FeedForward.forward
    monkeypatch.setattr(FeedForward, "forward", lambda self, x: forward(self, x + 0 * x.mean(1)[:, None]))
    assert not tokens_stay_apart(config.build_model(), inputs)


def test_order_is_ignored_only_without_positions_and_own_symbols():
    config, model, _ = sorting_encoder()
    assert ignores_order(model, config)
    block = model.blocks[0]
    for weights, entry in (
        (block.attention.value_projection.weight, (30, 25)),            # a value that depends on a position
        (block.attention.key_projection.weight, (0, 9)),                # a key that depends on a symbol
        (block.feed_forward.expand.weight, (0, 9)), (model.output_projection.weight, (3, 9)),
        (block.attention.output_projection.weight, (9, 30)), (model.embedding.weight, (9, 50)),
    ):
        before = weights[entry].item()
        weights[entry] += 0.5
        assert not ignores_order(model, config)
        weights[entry] = before
    assert ignores_order(model, config)
    assert not ignores_order(reversing_encoder()[1], reversing_encoder()[0])


# ---------------------------------------------------------------- rounding


@pytest.mark.parametrize("architecture", data.ARCHITECTURES)
@pytest.mark.parametrize("norm_first", [True, False])
def test_rounding_stays_below_its_bound(architecture, norm_first):
    config = Config(task="reverse", architecture=architecture, num_layers=2, norm_first=norm_first)
    model = config.build_model()
    content = torch.randint(4, 20, (40, 6), generator=torch.Generator().manual_seed(0))
    inputs, _ = make_questions(config, content)
    bound = rounding.bound_rounding(model, inputs, lambda logits: logits[:, -1, 7])
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(*inputs)[:, -1, 7]
        single, order = model(*inputs)[:, -1, 7], torch.randperm(config.d_ff)
        for module in model.modules():
            if isinstance(module, FeedForward):             # the same function, summed in another order
                for parameter in (module.expand.weight, module.expand.bias):
                    parameter.data = parameter[order]
                module.contract.weight.data = module.contract.weight[:, order]
        shuffled = model(*inputs)[:, -1, 7]
    error = (single.double() - exact).abs().maximum((shuffled.double() - exact).abs())
    assert (error <= bound).all() and (bound < 0.1).all()
    assert error.max() > bound.max() / 100_000              # a bound of any size would be useless


def test_rounding_of_an_unknown_operation_raises(monkeypatch):
    config, model, _ = copying_encoder()
    monkeypatch.setattr(FeedForward, "forward", lambda self, x: x.sin())
    inputs, _ = make_questions(config, torch.tensor([[5]]))
    with pytest.raises(ValueError, match="no bound is known for the rounding of sin"):
        rounding.bound_rounding(model, inputs, lambda logits: logits[:, 0, 0])


def test_prove_command_prints_a_line_per_claim(built, call_lab, tmp_path):
    title, *lines = call_lab(prove, built / "copy_task" / "encoder")
    assert title == f"{built}/copy_task/encoder: copy, encoder"
    for line, claim in zip(lines, ["always correct", "without attention"], strict=True):
        proof = r"each output depends on at most 1 symbol; 584 cases, margin 19\.99, rounding \d\.\de-05"
        assert re.fullmatch(rf"  {claim} +PROVED   {proof}", line)
    status, error = call_lab(prove, tmp_path / "missing")
    assert status == 2 and "missing" in error
