"""The blanks of teaching/blank.py: ours in them get all points, and each typical mistake loses its own."""

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT, TINY_OPTIONS

from teaching.blank import BLANKS, FILES, find_functions, make_student_files, remove_answers, write_folder
from teaching.grading import assemble

FUSED = "F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)"
WRITTEN_OUT = """\
(x - x.mean(dim=-1, keepdim=True)) / (x.var(dim=-1, correction=0, keepdim=True) + self.epsilon).sqrt() \
* self.weight + self.bias"""
ENDS = "(next_tokens == END) | (next_tokens == PAD)"
MISTAKES = {                                                # the blank, what is correct, what is wrong
    "mask inverted": ("softmax", "masked_fill(~(mask | empty), -math.inf)", "masked_fill(mask, -math.inf)"),
    "mask after softmax": ("softmax", "scores = scores.masked_fill(", "return scores.softmax(-1) * mask # ("),
    "no √Dh": ("attention", "query / math.sqrt(query.size(-1)) @", "query @"),
    "heads not transposed back": ("heads", "mixture.transpose(1, 2).flatten(2)", "mixture.reshape(x.shape)"),
    "view without transpose": ("heads", "x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)",
                               "x.reshape(x.size(0), self.num_heads, x.size(1), -1)"),
    "dropout at evaluation": ("heads", "self.dropout if self.training else 0.0", "self.dropout"),
    "exponent halved": ("sinusoids", "(0, d_model, 2, dtype=torch.float64) / d_model",
                        "(0, d_model, 2, dtype=torch.float64) / 2 / d_model"),
    "norm over the wrong axis": ("norm", WRITTEN_OUT, WRITTEN_OUT.replace("dim=-1", "dim=1")),
    "missing bias": ("norm", " * self.weight + self.bias", " * self.weight"),
    "unbiased variance": ("norm", "correction=0", "correction=1"),
    "no activation": ("feedforward", "self.activation(self.expand(x))", "self.expand(x)"),
    "no residual": ("residual", "x + self.dropout(sublayer(norm(x)", "self.dropout(sublayer(norm(x)"),
    "padding of the memory": ("block", '"mask": memory_mask', '"mask": None'),
    "causal mask off by one": ("mask", ".tril()", ".tril(-1)"),
    "no final norm": ("encoder", "self.output_projection(self.final_norm(x))", "self.output_projection(x)"),
    "reading ahead": ("decode", "attention_mask(target, causal=True)", "attention_mask(target)"),
    "END not respected": ("generate", ENDS, "next_tokens == PAD"),
    "loss that counts PAD": ("loss", "~data.loss_mask(targets)", "targets == 1"),
    "rate 0 in the first step": ("schedule", "(step + 1) / WARM_UP_STEPS", "step / WARM_UP_STEPS"),
    "gradients that add up": ("step", "    state.optimizer.zero_grad()\n", ""),
}


README = (ROOT / "teaching" / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\w+) \| .* \| (\d+) \| \d+ \|$", README, re.MULTILINE)
POINTS = {name: int(points) for name, points in ROWS}
FOLDER = Path("homework")
ERASED, OURS = (make_student_files(FOLDER, blanks, 0) for blanks in (BLANKS, []))
SOLVED = ERASED | {file: OURS[file].replace(FUSED, WRITTEN_OUT) for file in FILES}


@pytest.fixture
def grade(tmp_path, start):
    """Grade files in a folder: return the exit status, the report, and the score, if all were graded."""
    def grade_files(files, *options):
        folder = tmp_path / FOLDER
        write_folder(folder, files)
        status, printed, _ = start(pytest.__file__.replace("__init__", "__main__"), folder, *options).finish()
        score = folder / "score.json"
        return status, printed, json.loads(score.read_text(encoding="utf-8")) if score.exists() else None

    return grade_files


@pytest.mark.parametrize("file", FILES)
def test_blanks_differ_from_ours_only_in_their_bodies(file):
    erased, ours = (find_functions(ast.parse(files[file])) for files in (ERASED, OURS))
    for name, function in ours.items():
        assert ast.dump(erased[name].args) == ast.dump(function.args)
        assert ast.get_docstring(erased[name]) == ast.get_docstring(function)
    assert ast.dump(assemble(ERASED[file], file, keep="")) == ast.dump(ast.parse(OURS[file]))


def test_blanks_filled_with_ours_get_all_points(grade):
    status, printed, score = grade(SOLVED)
    assert status == 0 and score["points"] == score["of"] > 60 and score["seed"] == 0
    assert list(score["blanks"]) == list(BLANKS) and all(3 <= x["of"] <= 6 for x in score["blanks"].values())
    assert {name: x["of"] for name, x in score["blanks"].items()} == POINTS
    assert re.search(r"Train it: python .*homework/train\.py\n", printed)


def test_blanks_that_are_not_written_get_no_points(grade):
    only = ["attention", "heads", "loss"]
    status, printed, score = grade(make_student_files(FOLDER, only, 7))
    assert status == 1 and score["points"] == 0 and score["seed"] == 7 and list(score["blanks"]) == only
    for name in "scaled_dot_product_attention", "MultiHeadAttention.split_heads", "masked_cross_entropy":
        assert re.search(rf"\.py, line \d+: {name} is not written yet", printed)


def make_mistakes(mistakes):
    """Return the solved files with these mistakes."""
    files = dict(SOLVED)
    for name, correct, wrong in mistakes:
        file = BLANKS[name].file
        assert files[file].count(correct) == 1
        files[file] = files[file].replace(correct, wrong)
    return files


def test_grading_reports_files_that_cannot_be_read(grade):
    text = SOLVED["transformer.py"].replace("def generate(", "def generates(")
    broken = {"transformer.py": text}
    broken["train.py"] = SOLVED["train.py"].replace("return loss\n", "return loss)\n")
    status, printed, score = grade(SOLVED | broken)
    line = 1 + SOLVED["train.py"].split("    return loss\n")[0].count("\n")
    assert status == 1 and score["points"] == 0
    assert "transformer.py has no generate; its name must stay as it was" in printed
    assert f"train.py, line {line}: unmatched ')'" in printed


def graded_code(text, file, blank):
    """Return a file as it is graded for a blank, in a form that can be compared."""
    return ast.dump(assemble(text, file, blank))


@cache
def solved_code(file, blank):
    return graded_code(SOLVED[file], file, blank)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_change_only_what_is_graded_for_their_blank(mistake):
    name, *_ = MISTAKES[mistake]
    file, files = BLANKS[name].file, make_mistakes([MISTAKES[mistake]])
    for blank in BLANKS:
        if BLANKS[blank].file == file:
            assert (graded_code(files[file], file, blank) != solved_code(file, blank)) == (blank == name)


@pytest.mark.parametrize("number", range(3))
def test_mistakes_lose_points_of_their_blank(grade, number):
    """Each blank with one mistake, then those that have a second or third one."""
    mistakes = []
    for blank in BLANKS:
        mistakes += [mistake for mistake in MISTAKES.values() if mistake[0] == blank][number : number + 1]
    files, names = make_mistakes(mistakes), [name for name, *_ in mistakes]
    status, printed, _ = grade(files, "-k", " or ".join(f"test_{name}_" for name in names))
    rows = re.findall(r"  (\w+) .* (\d+) of (\d+)\n      (.*)", printed)
    assert status == 1 and [name for name, *_ in rows] == names
    for name, points, total, message in rows:
        assert 0 <= int(points) < int(total) and re.search("expected|Error", message), (name, message)


def test_blank_writes_a_folder_only_once(start, tmp_path):
    command = "teaching/blank.py", "--only", "mask", "loss", "--folder", tmp_path / "homework"
    assert start(*command).finish()[0] == 0
    before = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "homework").iterdir()}
    assert before == make_student_files(tmp_path / "homework", ["mask", "loss"], 0)
    assert [before[file].count("NotImplementedError(") for file in FILES] == [1, 1]
    status, _, errors = start(*command).finish()
    assert status == 2 and "homework exists; choose another --folder" in errors and errors.count("\n") == 1


def test_blank_trains_the_model_of_the_student(tmp_path):
    folder = tmp_path / FOLDER
    files = make_student_files(folder, ["norm"], 7)
    files["transformer.py"] = SOLVED["transformer.py"] + "print('the transformer of the student')\n"
    write_folder(folder, files)
    command = [sys.executable, folder / "train.py", "--quiet", *TINY_OPTIONS]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    printed = subprocess.check_output(command, env=environment, encoding="utf-8", timeout=100)
    assert "the transformer of the student" in printed and f"--models-dir {folder}/models" in printed
    metrics = json.loads((folder / "models/reverse_task/encoder/metrics.json").read_text(encoding="utf-8"))
    assert metrics["seed"] == 7 and metrics["steps"] == 6


def test_plan_of_hour_three_names_its_points():
    only, = re.findall(r"`python -m teaching.blank --only (.*?)`", README)
    assert f"0 of {sum(POINTS[name] for name in only.split())} points" in README


def test_exercises_for_handing_out_have_no_answers():
    exercises = (ROOT / "EXERCISES.md").read_text(encoding="utf-8")
    handout = remove_answers(exercises)
    assert "<details>" not in handout and "open the answer" not in handout
    for pattern in r"^##.*", r"^●.*", r"^\d+\. \[.*":
        assert re.findall(pattern, handout, re.MULTILINE) == re.findall(pattern, exercises, re.MULTILINE)
    text = re.sub("```.*?```", "code", handout, flags=re.DOTALL)
    assert "```" not in text and "\n\n\n" not in text
