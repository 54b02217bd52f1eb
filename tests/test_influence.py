"""An answer depends on the symbols that a plain loop finds, for the task and for a model."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import IN_PLAIN_PYTHON, KINDS, TINY, generator, to_digits, to_ids
from torch import nn
from torch.nn import functional

import data
from data import TASKS, Task, sample_batch
from lab.heads import max_test_length, sample_unseen
from lab.influence import answer_sensitivity, measure_influence
from support.config import Config
from support.puzzles import PLUS
from support.runs import Run
from train import load_run


class Mirror(nn.Module):
    """Predicts at each position, almost certainly, the symbol at its mirror position."""

    architecture = "encoder"

    def forward(self, tokens):
        return 100 * functional.one_hot(tokens.flip(1), 20).float()


def test_influence_on_a_perfect_mirror_is_its_anti_diagonal(models_dir):
    run = load_run(models_dir, "reverse", "encoder")
    source, inputs, targets = sample_unseen(run, max_test_length(run))
    expected = torch.eye(10).flip(1)
    expected[[0, 9]] = 0                                        # START and END are not replaced, …
    moved = measure_influence(replace(run, model=Mirror()), source, inputs, targets)
    assert moved[:, 0].isnan().all() and moved[:, :, [0, 9]].isnan().all()      # … START is not scored
    torch.testing.assert_close(moved[:, 1:, 1:9], expected[1:, 1:9].expand(320, -1, -1))


@pytest.mark.parametrize("architecture", KINDS)
def test_influence_equals_a_loop_over_keys(architecture):
    """With two symbols, there is only one replacement for each."""
    config = Config(**TINY, architecture=architecture, vocab_size=6)
    run = Run(config.build_model().eval(), config, [], Path())
    source, inputs, targets = sample_unseen(run, 5, count=8)
    moved, before = measure_influence(run, source, inputs, targets), run.model(*inputs).softmax(dim=-1)
    for row, query, key in itertools.product(range(8), range(targets.size(1)), range(inputs[0].size(1))):
        other = inputs[0][row : row + 1].clone()
        symbol = int(other[0, key])
        if symbol < 4 or targets[row, query] in (0, 1):
            assert moved[row, query, key].isnan()
            continue
        other[0, key] = 9 - symbol
        after = run.model(other, *(tokens[row : row + 1] for tokens in inputs[1:])).softmax(dim=-1)
        distance = (after[0, query] - before[row, query]).clamp(min=0).sum()
        torch.testing.assert_close(moved[row, query, key], distance, atol=1e-5, rtol=0)
        assert not (architecture == "decoder" and key > query) or moved[row, query, key] == 0


def test_perturb_question_replaces_digits_with_digits(models_dir):
    run = load_run(models_dir, "add", "encoder")
    source, inputs, targets = sample_unseen(run, max_test_length(run), count=50)
    seen = []
    run.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    measure_influence(run, source, inputs, targets)
    changed = torch.stack(seen[1:]) != inputs[0]                # (S, N, S)
    for key, tokens in enumerate(seen[1:]):
        was_digit = (inputs[0][:, key] >= 4) & (inputs[0][:, key] < 14)
        assert ((tokens >= 4) & (tokens < 14)).equal((inputs[0] >= 4) & (inputs[0] < 14))
        assert changed[key, :, key].equal(was_digit) and changed[key].sum() == was_digit.sum()


def next_symbol(content):
    return 4 + (content - 3) % 16


def parity(content):
    return 4 + content.sum(dim=1, keepdim=True) % 2


def constant(content):
    return torch.full((len(content), 1), 7)


def diagonal(length):
    return torch.eye(length).expand(20, -1, -1)


@pytest.mark.parametrize(
    ("answer", "cells"),
    [
        (data.copy, diagonal(6)),
        (next_symbol, diagonal(6)),
        (data.reverse, diagonal(6).flip(1)),
        (data.double, diagonal(6).repeat(1, 2, 1)),
        (parity, torch.full((20, 1, 6), 8 / 15)),               # of the 15 other symbols, 8 are odd or even
        (constant, torch.zeros(20, 1, 6)),
    ],
)
def test_answer_sensitivity_finds_the_sources(answer, cells, monkeypatch):
    monkeypatch.setitem(TASKS, "own", Task(answer))
    content = torch.randint(4, 20, (20, 6), generator=generator())
    torch.testing.assert_close(answer_sensitivity("own", content, 20), cells.double())


@pytest.mark.parametrize("task", ["copy", "reverse", "sort", "double", "add"])
def test_answer_sensitivity_equals_a_loop_in_plain_python(task):
    source, _ = sample_batch(task, 12, generator(), seq_len=5, fixed_length=True)
    content, answer = source[:, 1:-1], IN_PLAIN_PYTHON[task]
    measured, symbols = answer_sensitivity(task, content, 20), range(4, 15) if task == "add" else range(4, 20)
    for row, question in enumerate(content.tolist()):
        for position, symbol in enumerate(question):
            before, after = question[:position], question[position + 1 :]
            others = [[*before, other, *after] for other in symbols if other != symbol]
            if task == "add":                                   # digits replace digits, and PLUS stays
                others = [other for other in others if other.count(PLUS) == 1 and other[2] == PLUS]
            correct = answer(question)
            for i in range(len(correct)):
                changes = [answer(other)[i] != correct[i] for other in others]
                expected = sum(changes) / len(changes) if changes else math.nan
                assert measured[row, i, position].item() == pytest.approx(expected, nan_ok=True)


def test_sums_depend_on_their_column_and_weakly_on_the_carry():
    of_sum = answer_sensitivity("add", to_digits("42+19"), 20)[0]
    assert of_sum[2, [0, 1, 3, 4]].tolist() == [0, 1, 0, 1] and of_sum[1, [0, 3]].tolist() == [1, 1]
    assert 0.5 < of_sum[1, 4] < 1 and of_sum[:, 2].isnan().all()    # the 9 makes the carry
    leading = answer_sensitivity("add", to_digits("99+01"), 20)[0, 0]
    assert leading[:2].tolist() == [1, 1]


def test_completions_depend_on_visible_copies():
    cells = answer_sensitivity("complete", to_ids("5 _ 9 5 7 _"), 20)[0]
    assert [row.nonzero().flatten().tolist() for row in cells] == [[0, 3], [4], [2], [0, 3], [4], [2]]
