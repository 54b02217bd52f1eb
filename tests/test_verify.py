"""lab.verify finds each number of a text, measures it, and reports what has moved or is not covered."""

import subprocess
import sys

import pytest

from lab import claims, reader, verify
from lab.claims import Claim
from lab.reader import Reader, Section, parse_diff

TEXT = """# Numbers
Percentages may differ: percentages by up to 3 points and steps by up to 16. It gets 26.75% of rows, solved
at step 64, and 100% of columns. See [page 7](page_8.html), `--seed 9` and seed 4.
```
python -c "print('loss 0.5'); print('loss 0.25, 12 symbols')"
```
```
loss 0.25, 13 symbols
```
1. Of 10,000 there are −3 left. Nobody measures 77.
"""


@pytest.fixture
def section():
    return Section("README.md", TEXT, 1)


@pytest.fixture
def list_numbers(section, monkeypatch):
    """Return a function that lists the numbers and jobs of the text, with these claims alone."""
    def list_them(*of):
        monkeypatch.setattr(claims, "CLAIMS", list(of))
        return verify.list_jobs([section])
    return list_them


def test_find_numbers_skips_code_links_and_list_numbers(section):
    found = verify.find_numbers(section, {})
    expected = ["3", "16", "26.75", "64", "100", "7", "4", "0.25", "13", "10,000", "−3", "77"]
    assert [number.digits for number in found.values()] == expected
    assert all(TEXT[start:].startswith(number.digits) for start, number in found.items())
    by_digits = {number.digits: number for number in found.values()}
    assert by_digits["10,000"].value == 10_000 and by_digits["−3"].value == -3
    assert [by_digits[digits].line for digits in ("3", "64", "13")] == [2, 3, 8]


@pytest.mark.parametrize("text, matches", [
    ("It gets 5%\nof 20, then", True), ("It gets 5% of 20, well, then", True),
    ("It gets five% of 20, then", False), ("It gets 5% of 20\n\nand then", False),
])
def test_patterns_match_across_lines_not_paragraphs(text, matches):
    assert bool(verify.compile_pattern("gets {a}% of {b}… then").search(text)) == matches


@pytest.mark.parametrize("digits, after, before, measured, verdict, shown", [
    ("26.75", "% of", "gets ", 0.26751, "exact", "26.75"), ("26.75", "% of", "gets ", 0.29, "within", "29"),
    ("26.75", "% of", "gets ", 0.30, "moved", "30"), ("100", "% of", "gets ", 0.9999, "moved", "99"),
    ("0", "% of", "gets ", 0.001, "moved", "<1"), ("64", ", and", "at step ", 80, "within", "80"),
    ("64", ", and", "at step ", 88, "moved", "88"), ("64", ", and", "at step ", None, "moved", "None"),
    ("1,000", " cases", "in ", "1,000", "exact", "1,000"), ("1,000", " cases", "in ", 1001, "moved", "1,001"),
    ("44", " points", "costs ", 46.9, "within", "47"),
    ("1.50", ", at", "loss ", 1.54, "within", "1.54"),
    ("1.50", ", at", "loss ", 1.56, "moved", "1.56"), ("4.10", "", "ln ", 4.096, "exact", "4.10"),
])
def test_numbers_are_compared_to_the_last_digit_or_their_spread(
    section, digits, after, before, measured, verdict, shown
):
    spread = {"percentages": 3, "steps": 16, "decimals": 0.05}
    number = verify.Number(section, 0, digits, before, after, spread)
    number.compare(measured)
    assert (number.verdict, number.measured) == (verdict, shown)


def test_numbers_of_our_machine_are_not_judged():
    number = verify.Number(Section("README.md", "It takes 5 ms on our machine.", 1), 9, "5", "", " ms", {})
    number.compare(7)
    assert number.verdict == "here"


def test_numbers_without_a_measure_are_uncovered(list_numbers):
    pattern = "gets {some}% of rows, solved at step 64, and"
    numbers, jobs = list_numbers(Claim((pattern,), dict, False))
    verdicts = [(number.digits, number.verdict) for number in numbers]
    assert [digits for digits, verdict in verdicts if verdict == "skipped"] == ["26.75", "0.25", "13"]
    uncovered = [digits for digits, verdict in verdicts if verdict == "uncovered"]
    assert uncovered == ["100", "7", "10,000", "−3", "77"]
    assert [job.name for job in jobs] == ["dict", "output of Numbers"]


def test_claims_that_no_text_makes_are_refused(list_numbers):
    with pytest.raises(ValueError, match="no text has 'It gets {all}% of none'"):
        list_numbers(Claim(("It gets {all}% of none",), lambda _: {}, False))


def test_jobs_compare_what_is_measured_and_printed(list_numbers, tmp_path, monkeypatch):
    measured = {"some": 0.25, "all": 10_000}
    claim = Claim(("gets {some}% of", "Of {all} there"), lambda _: measured, False)
    numbers, jobs = list_numbers(claim)
    its_reader = Reader(tmp_path, 1)
    monkeypatch.setattr(Reader, "copy_for", lambda self, section: tmp_path)
    for job in jobs:
        verify.run_job(job, its_reader)
    verdicts = {number.digits: (number.measured, number.verdict) for number in numbers if number.measured}
    assert verdicts == {"26.75": ("25", "within"), "10,000": ("10,000", "exact"), "0.25": ("0.25", "exact"),
                        "13": ("12", "moved")}


def test_errors_of_a_measure_are_reported_where_they_count(list_numbers, tmp_path):
    def fail(of):
        raise ValueError("no such run")
    numbers, (job, _) = list_numbers(Claim(("gets {some}% of",), fail, False))
    verify.run_job(job, Reader(tmp_path, 1))
    (number,) = job.numbers
    assert (number.measured, number.verdict) == ("ValueError: no such run", "moved")


def test_texts_have_no_uncovered_numbers(tmp_path):
    """Every claim is in a text as well; list_jobs would raise otherwise."""
    numbers, _ = verify.list_jobs(Reader(tmp_path, 1).sections)
    assert [(x.section.file, x.line, x.digits) for x in numbers if x.verdict == "uncovered"] == []
    assert len(numbers) > 300


@pytest.mark.parametrize("some, status", [("0.2675", 0), ("0.5", 1)])
def test_main_fails_if_a_number_has_moved(some, status, call_lab, monkeypatch):
    text = "# Title\nIt gets 26.75% of rows.\n"
    monkeypatch.setattr(reader, "TEXTS", ["README.md"])
    monkeypatch.setattr(reader, "read_sections", lambda file: [Section(file, text, 1)])
    claim = Claim(("gets {some}% of",), lambda _: {"some": float(some)}, False)
    monkeypatch.setattr(claims, "CLAIMS", [claim])
    assert ("1 numbers: 1 exact" in call_lab(verify)) == (status == 0)
    assert not status or call_lab(verify) == (1, "")


# ---------------------------------------------------------------- the reader


def test_readers_change_their_copy_and_save_their_file(tmp_path):
    its_reader = Reader(tmp_path, 1)
    section = its_reader.find("Rotary positions")
    copy = its_reader.copy_for(section)
    assert "def rotate(" in (copy / "transformer.py").read_text(encoding="utf-8")
    assert not (copy / "models").exists() and not (copy / ".git").exists()
    shift = its_reader.copy_for(its_reader.find("Proof or counterexample"))
    assert 'TASKS = {"shift"' in (shift / "my_tasks.py").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="does not have exactly one 'no such line'"):
        its_reader.make_copy("other", (("no such line", "x"),))


def test_readers_run_a_command_once(tmp_path, monkeypatch):
    its_reader, runs, run = Reader(tmp_path, 2), [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *of, **settings: runs.append(of[0]) or run(*of, **settings))
    code = "import os; print(os.environ['OMP_NUM_THREADS'])"
    call = its_reader.call_python, tmp_path, "-c", code
    printed = its_reader.each(lambda _: its_reader.once(*call), range(3))
    assert printed == ["1\n"] * 3 and runs == [[sys.executable, "-c", code]]
    with pytest.raises(RuntimeError, match="no such thing"):
        its_reader.call_python(tmp_path, "-c", "raise SystemExit('no such thing')")


def test_readers_start_nothing_after_ctrl_c(tmp_path):
    def interrupt(value):
        raise KeyboardInterrupt

    its_reader = Reader(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt):
        its_reader.each(interrupt, [1])
    with pytest.raises(RuntimeError, match="print.*not started"):
        its_reader.call_python(tmp_path, "-c", "print(1)")


def test_training_commands_are_found_by_their_words(tmp_path, monkeypatch):
    its_reader, commands = Reader(tmp_path, 1), []
    monkeypatch.setattr(Reader, "call_python", lambda self, copy, *of: commands.append((copy.name, of)))
    its_reader.result("models/one_layer ", "--seed", "3")
    options = "--task", "reverse", "--architecture", "encoder", "--num-layers", "1", "--output-dir"
    folder = "models/one_layer--seed_3"
    assert commands == [("unchanged", ("train.py", *options, "models/one_layer", "--jobs", "1", "--seed", "3",
                                       "--output-dir", folder))]
    result = its_reader.result("--task add_modulo")
    assert [of[-1] for _, of in commands[1:]] == ["1", "1"]                # the second one resumes
    copy = "14_Memorise_first_understand_later"
    assert result.folder == tmp_path / copy / "models" / "add_modulo_task" / "encoder"


def test_diffs_give_the_old_and_the_new_text():
    assert parse_diff(" kept\n-old\n+new\n") == ("kept\nold\n", "kept\nnew\n")
