"""The commands and points in teaching/README.md and quiz.md are what they say."""

import re
import shlex

import pytest
import torch
from conftest import ROOT

from teaching import blank_tests
from teaching.blank import BLANKS

README = (ROOT / "teaching" / "README.md").read_text(encoding="utf-8")
QUIZ = (ROOT / "teaching" / "quiz.md").read_text(encoding="utf-8")
QUESTIONS = re.findall(r"^## (\d+)\. (.*?)\n(.*?)(?=^## |\Z)", QUIZ, re.DOTALL | re.MULTILINE)


def test_quiz_has_ten_questions_with_one_answer_each():
    assert [int(number) for number, *_ in QUESTIONS] == list(range(1, 11))
    for _, title, text in QUESTIONS:
        question, answer = text.split("<details><summary>Answer</summary>")
        options = re.findall(r"^- \*\*(\w)\*\* ", question, re.MULTILINE)
        correct, = re.findall(r"^\*\*(\w)\.\*\* ", answer, re.MULTILINE)
        explained = re.findall(r"^\*\*(\w)\*\* ", answer, re.MULTILINE)
        assert options == ["a", "b", "c"] == sorted([correct, *explained]), title
        assert question.count("Check") == 1


@pytest.mark.parametrize("text", [text for *_, text in QUESTIONS if "python -c" in text])
def test_quiz_commands_print_their_answers(text, capsys):
    torch.manual_seed(0)
    command, answer = re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    *_, code = shlex.split(command)
    exec(code, {})
    assert capsys.readouterr().out == answer


def count_points(name):
    """Return the number of tests of a blank."""
    tests = [test for found, test in vars(blank_tests).items() if found.startswith(f"test_{name}_")]
    cases = [mark.args[1] for test in tests for mark in getattr(test, "pytestmark", ())]
    return len(tests) + sum(len(values) - 1 for values in cases)


def test_homework_has_the_points_that_are_graded():
    rows = re.findall(r"^\| (\w+) \| .* \| (\d+) \| (\d+) \|$", README, re.MULTILINE)
    assert {name: int(points) for name, points, _ in rows} == {name: count_points(name) for name in BLANKS}
    only, = re.findall(r"`python -m teaching.blank --only (.*?)`", README)
    assert f"0 of {sum(map(count_points, only.split()))} points" in README


def test_teaching_plan_is_short():
    assert len(README.splitlines()) <= 150
