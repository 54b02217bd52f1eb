"""Sums and patterns are what plain Python says."""

import itertools
import re

import pytest
import torch
from conftest import patterns_that_fit, to_digits, to_ids

from data import TASKS, sample_batch
from support import puzzles
from support.puzzles import MASK, PLUS, ZERO
from transformer import END, START


def categories_in_plain_python(task, content):
    if task == "sort":
        return {"repeats": len(content) - len(set(content)), "copies": max(map(content.count, content))}
    if task == "add":
        half = len(content) // 2
        first, second = ([digit - ZERO for digit in part] for part in (content[:half], content[half + 1 :]))
        pairs = [a + b for a, b in zip(first, second, strict=True)]
        runs = re.findall("9*c", "".join("c" if pair > 9 else str(pair) for pair in pairs))
        ripple = max((len(run) - 1 for run in runs), default=0)
        return {"carries": sum(map(len, runs)), "nines": pairs.count(9), "ripple": ripple}
    against = {period: sum(
        content[i] != content[j] and MASK not in (content[i], content[j])
        for i in range(len(content)) for j in range(i + period, len(content), period)
    ) for period in range(1, len(content) // 2 + 1)}
    period = min(period for period in against if not against[period])
    pattern = [max(content[position::period]) for position in range(period)]
    return {
        "period": period, "gaps": content.count(MASK), "clues": min([3, *filter(None, against.values())]),
        "repeats": period - len(set(pattern)),
    }


@pytest.mark.parametrize("task", ["sort", "add", "complete"])
def test_question_categories_equal_plain_python(task):
    source, _ = sample_batch(task, 500, torch.Generator().manual_seed(0))
    categories = puzzles.question_categories(TASKS[task].categories, source)
    for row, sequence in enumerate(source.tolist()):
        content = sequence[1 : sequence.index(END)]
        expected = {"length": len(content)} | categories_in_plain_python(task, content)
        assert {name: int(values[row]) for name, values in categories.items()} == expected


@pytest.mark.parametrize(
    ("task", "content", "target"),
    [
        ("sort", to_ids("9 5 9 4 5 5"), to_ids("4 5 5 5 9 9")),
        ("double", to_ids("7"), to_ids("7 7")),
        ("add", to_digits("0+0"), to_digits("00")),
        ("add", to_digits("999+001"), to_digits("1000")),
        ("add", to_digits("999+999"), to_digits("1998")),
        ("add", to_digits("9" * 40 + "+" + "0" * 39 + "1"), to_digits("1" + "0" * 40)),
        ("complete", to_ids("5 _ 9 5 7 _"), to_ids("5 7 9 5 7 9")),
        ("complete", to_ids("5 _ _ _ 5 7"), to_ids("5 7 5 7 5 7")),         # period 3 fits too: 5 5 7 5 5 7
        ("complete", to_ids("_ 5 7 5 _"), to_ids("7 5 7 5 7")),
        ("complete", to_ids("5 _ 7 8"), to_ids("5 _ 7 8")),                 # no pattern
    ],
)
def test_answers_are_correct_in_boundary_cases(task, content, target):
    assert torch.equal(TASKS[task].answer(content), target)


def test_has_one_completion_rejects_two_answers():
    """Against all ways to fill all gaps of all sequences of up to seven symbols, of which there are two."""
    for length in range(1, 8):
        contents = torch.cartesian_prod(*[torch.tensor([MASK, 4, 5])] * length).reshape(-1, length)
        rows = contents.tolist()
        good = [MASK in row and len(list(patterns_that_fit(row, (4, 5)))) == 1 for row in rows]
        assert TASKS["complete"].is_valid(contents).tolist() == good
    assert sum(good) > 100
    assert not TASKS["complete"].is_valid(to_ids("5 _ _ _ 5 7"))


def test_is_sum_needs_two_numbers_of_equal_length():
    names = {START: "S", MASK: "_", ZERO: "0", ZERO + 9: "9", PLUS: "+", PLUS + 1: "x"}
    for length in range(1, 6):
        contents = list(itertools.product(names, repeat=length))
        numbers = ["".join(names[token] for token in content).split("+") for content in contents]
        good = [
            [part.isdigit() for part in row] == [True, True] and len(row[0]) == len(row[1]) for row in numbers
        ]
        assert TASKS["add"].is_valid(torch.tensor(contents)).tolist() == good
        assert any(good) == (length in (3, 5))
