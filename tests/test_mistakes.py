"""Mistakes are counted by category, next to the questions, and are those of the test that training took."""

import csv
import itertools
import json
import re
import shutil

import benchmark
import pytest
import torch
from conftest import names_of, title_of
from mistakes import draw_mistakes, format_mistake_report, per_thousand

import lab.mistakes
from data import format_tokens
from lab.mistakes import find_mistakes, make_mistake_table, mistakes_by_category
from lab.outputs import Output
from support import report
from support.runs import run_folder
from train import load_run


def test_mistakes_by_category_counts_mistakes_and_questions(answers):
    assert answers.wrong.tolist() == [True, False, True, False, True, False]
    assert answers.distinct_mistakes() == [0, 4]
    counted = [tuple(row.values()) for row in mistakes_by_category(answers)]
    expected = [                                            # questions, mistakes, distinct ones
        ("length", 1, 1, 0, 0), ("length", 2, 2, 1, 1), ("length", 3, 3, 2, 1),
        ("repeats", 0, 3, 0, 0), ("repeats", 1, 3, 3, 2), ("copies", 1, 3, 0, 0), ("copies", 2, 3, 3, 2),
    ]
    assert counted == [(*row, pytest.approx(row[2] / 6), pytest.approx(row[3] / 3)) for row in expected]


def test_mistake_report_has_at_most_twelve_lines(answers):
    first, *lines = format_mistake_report(answers).splitlines()
    assert re.split("  +", first) == ["sort, encoder: 3 of 6 wrong", "length 3", "repeats 1", "copies 2"]
    assert [line.split()[-2:] for line in lines[:2]] == [["50%", "50%"], ["100%", "100%"]]
    assert "2 distinct" in lines[1] and len(lines) == 8
    assert lines[2].split() == ["input", "9", "5", "9", "END"]
    assert lines[4].split() == ["prediction", "5", "[5]", "9", "END", "1", "wrong"]
    source, target = (tokens.repeat(9, 1) for tokens in (answers.source, answers.target))
    many = report.TestResults(answers.config, source, target, torch.full_like(target, 7))
    assert len(format_mistake_report(many).splitlines()) == 12


def test_mistakes_picture_shows_the_worst_category(answers):
    figure = draw_mistakes(answers)
    assert title_of(figure) == (
        "Of 1,000 questions with repeats 1, 1,000 are answered incorrectly; of the others, 0"
    )
    assert "3 of 6 test sequences wrong" in " ".join(text.get_text() for text in figure.texts)
    mistake, definition = figure.get_supxlabel().splitlines()
    assert mistake == "One mistake: 9 5 9 was answered 5 5 9; correct is 5 9 9."
    assert "9 5 5 7 9 5 has 3 repeats" in definition
    axes, = figure.axes
    assert axes.get_xlabel() == "repeats" and names_of(axes.get_xticklabels()) == ["0", "1"]
    assert [bar.get_height() for bar in axes.patches] == [0, 1000]
    assert [text.get_text() for text in axes.texts] == ["0", "1,000"]
    all_wrong = report.TestResults(answers.config, answers.source, answers.target, answers.target + 1)
    title = draw_mistakes(all_wrong).get_suptitle()
    assert title == "The 6 mistakes are spread over all categories of questions"


def test_rates_below_ten_have_a_decimal():
    counts = (0, 1000), (1, 20_000), (3, 1000), (29, 1000)
    rates = [per_thousand([{"mistakes": mistakes, "questions": count}]) for mistakes, count in counts]
    assert rates == ["0", "<0.1", "3.0", "29"]


def test_find_mistakes_agrees_with_the_metrics(models_dir, tmp_path):
    run = load_run(models_dir, "reverse", "encoder")
    metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    answers = find_mistakes(run)
    assert len(answers.wrong) == metrics["test_sequences"] == 500
    assert int(answers.wrong.sum()) == pytest.approx(500 * (1 - metrics["test_exact_match"]))
    lengths = [row for row in mistakes_by_category(answers) if row["category"] == "length"]
    assert [row["value"] for row in lengths] == list(range(1, 9))
    assert sum(row["questions"] for row in lengths) == 500
    assert sum(row["mistakes"] for row in lengths) == int(answers.wrong.sum())

    folder = run_folder(tmp_path, "reverse", "encoder")
    shutil.copytree(run.folder, folder)
    (folder / "metrics.json").write_text(json.dumps(metrics | {"test_exact_match": 1.0}), encoding="utf-8")
    perfect = load_run(tmp_path, "reverse", "encoder")
    assert find_mistakes(perfect) is None and make_mistake_table(perfect) == []


def test_mistake_table_is_saved(answers, tmp_path, monkeypatch):
    path = tmp_path / "mistakes.csv"
    monkeypatch.setattr(lab.mistakes, "find_mistakes", lambda run: answers)
    assert Output(path, [], lambda: make_mistake_table(None)).save() == ""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [[row["category"], int(row["value"]), int(row["mistakes"])] for row in rows] == [
        [row["category"], row["value"], row["mistakes"]] for row in mistakes_by_category(answers)
    ]


@pytest.mark.parametrize("digits", [1, 2])
def test_hardest_sums_carry_through_every_digit(digits):
    largest = 10**digits - 1
    expected = {f"{0:0{digits}}+{0:0{digits}}", f"{largest}+{largest}"}
    for first, second in itertools.product(range(10**digits), repeat=2):
        columns = zip(f"{first:0{digits}}", f"{second:0{digits}}", strict=True)
        *rest, ones = (int(a) + int(b) for a, b in columns)
        if ones > 9 and set(rest) <= {9}:
            expected.add(f"{first:0{digits}}+{second:0{digits}}")
    found = [format_tokens(row, "add").replace(" ", "") for row in benchmark.hardest_sums(digits)]
    assert set(found) == expected and len(found) == len(expected)
