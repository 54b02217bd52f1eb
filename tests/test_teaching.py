"""The answers in teaching/quiz.md are what its commands print."""

import re
import shlex

import pytest
import torch
from conftest import ROOT

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


def test_teaching_plan_is_short():
    assert len(README.splitlines()) <= 150
