"""A command line answers bad input in one line, and runs in notebooks and other encodings."""

import ast
import io
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from packaging.requirements import Requirement

import train
from support.console import choose_device, run_script


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["--epoch", "3"], "--epochs"), (["--learning_rate=1"], "--learning-rate"),
        (["--task", "revers"], "reverse"), (["--architecture", "encode"], "encoder"),
    ],
)
def test_parser_suggests_the_nearest_option_or_choice(typed, meant, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", *typed])
    with pytest.raises(SystemExit) as stopped:
        train.parse_options()
    printed = capsys.readouterr().err
    assert stopped.value.code == 2 and printed.startswith("error: ") and printed.count("\n") == 1
    assert printed.endswith(f"; did you mean {meant}?\n")


def test_parser_suggests_nothing_for_an_option_like_no_other(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "1"])
    with pytest.raises(SystemExit):
        train.parse_options()
    assert capsys.readouterr().err == "error: unrecognized arguments: --lr 1\n"


def test_choose_device_rejects_an_unavailable_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device 'cuda' is not available on this machine; use --device cpu"):
        choose_device("cuda")


def test_scripts_survive_a_closed_pipe_and_ascii_output():
    process = subprocess.Popen(
        [sys.executable, "-u", "data.py"], cwd=ROOT, encoding="cp1252",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONIOENCODING": "cp1252"},
    )
    process.stdout.readline()
    process.stdout.close()                                  # as `| head -1` does
    assert process.stderr.read() == "" and process.wait(timeout=100) == 130
    process.stderr.close()


def test_run_script_works_in_a_notebook(monkeypatch):
    notebook = io.StringIO()
    monkeypatch.setattr("sys.stdout", notebook)
    run_script(lambda: print("5 → 7"))
    assert notebook.getvalue() == "5 → 7\n"


@pytest.mark.parametrize("script", ["train.py", "visualize.py", "data.py"])
def test_script_ends_in_one_line_if_python_is_too_old(script):
    """Before it imports torch, and in a syntax that an old Python understands."""
    for path in ROOT / script, ROOT / "support" / "console.py", ROOT / "support" / "__init__.py":
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    code = "import sys, runpy; sys.version_info = (3, 9, 1); sys.modules['torch'] = None; "
    code += f"runpy.run_path({script!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=100
    )
    assert done.returncode and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: Python 3.10 or newer is needed; this is 3.")


def test_requirements_download_no_torch_for_an_old_python():
    torch_line, *_ = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    requirement = Requirement(torch_line)
    assert requirement.name == "torch" and requirement.marker.evaluate()
    assert not requirement.marker.evaluate({"python_version": "3.9"})
