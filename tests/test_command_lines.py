"""Bad input to any option of any script gives one line and exit status 2, and writes nothing."""

import importlib
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NOTEBOOK, ROOT, TINY_OPTIONS, files_in

import support.config
import train
import visualize
from support import distributed
from support.console import run_script
from support.runs import run_folder

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
NUMBERS = {                                                 # options of train.py, out of range
    "--epochs": "0", "--steps-per-epoch": "-1", "--batch-size": "100000000", "--seq-len": "99999999",
    "--vocab-size": "2000000000", "--d-model": "1000000", "--num-heads": "7", "--num-layers": "1000000000",
    "--d-ff": "0", "--seed": "-1", "--threads": "9999999", "--jobs": "0", "--accumulate": "33",
    "--learning-rate": "2", "--constant-fraction": "2", "--oversample": "-0.1", "--dropout": "1",
    "--position-base": "0.5", "--embedding-std": "-1", "--weight-decay": "-1",
}
WHOLE = [name for name in NUMBERS if name not in list(NUMBERS)[-7:]]
CHOICES = ["--task", "--architecture", "--positional", "--norm", "--activation", "--device"]

TRAIN = [[option, value] for option, value in NUMBERS.items()]
TRAIN += [[option, value] for option in NUMBERS for value in ("", "½")]
TRAIN += [[option, "9" * 40] for option in WHOLE]
TRAIN += [[option, "1.5"] for option in WHOLE]
TRAIN += [[option, value] for option in NUMBERS if option not in WHOLE for value in ("nan", "inf", "1e999")]
TRAIN += [[option, value] for option in CHOICES for value in ("", "Copy", "копия", "x" * 10_000)]
TRAIN += [[option] for option in [*NUMBERS, *CHOICES, "--output-dir"]]      # without a value
TRAIN += [
    ["--output-dir", ""], ["--output-dir", " "], ["--output-dir", "x" * 5_000],
    ["--fixed-length=yes"], ["--amp=1"], ["--compile", "models"], ["--resume", "models"],
    ["--quiet=1"], ["--Epochs", "3"],
    ["--epochs=3=4"], ["--", "--epochs"],
    ["copy"], ["-e", "3"], ["-"],
    ["--vocab-size", "5", "--seq-len", "2"], ["--seq-len", "1", "--fixed-length", "--task", "add"],
    ["--d-model", "0"], ["--vocab-size", "4"], ["--task", "add", "--vocab-size", "10"],
]
VISUALIZE = [[option] for option in ("--task", "--architecture", "--sequence", "--compare",
                                     "--models-dir", "--output-dir", "--format")]
VISUALIZE += [
    ["--jobs", "0"],
    ["--task", "paint"], ["--architecture", "gpt"], ["--task", "sort"], ["--format", "gif"], ["--format", ""],
    ["--models-dir", ""], ["--models-dir", "nowhere"], ["--output-dir", ""], ["--dark=1"], ["--darker"],
    ["--sequence", ""], ["--sequence", "ten"], ["--sequence", "5", "99"], ["--sequence", "-5"],
    ["--sequence", "🙂"], ["--sequence", "<b>5</b>"], ["--sequence", *["5"] * 10_000], ["--sequence", "3.0"],
    ["--task", "copy", "--sequence", "5", "PAD"], ["--compare", "nowhere"], ["--compare", ""],
    ["--compare", ".", "--sequence", "5"], ["--compare", ".", "--task", "copy"], ["models"],
]
OTHERS = [
    ("data.py", ["--task"]), ("data.py", ["--task", "paint"]), ("data.py", ["--task", ""]),
    ("data.py", ["copy"]), ("data.py", ["--tasks", "copy"]), ("data.py", ["--tasks"]),
    *(("train.py", ["--tasks", name]) for name in ("", "nowhere.py", "models", "x" * 5_000)),
    ("visualize.py", ["--tasks", "nowhere.py"]),
    ("transformer.py", ["5"]), ("transformer.py", ["--d-model", "3"]), ("transformer.py", [""]),
    ("handmade.py", ["--output-dir", "x"]), ("handmade.py", ["copy"]), ("handmade.py", ["--help=1"]),
    ("tests/benchmark.py", ["--seeds", "0"]), ("tests/benchmark.py", ["--seeds", "two"]),
    ("tests/benchmark.py", ["--by-hand", "--pattern"]), ("tests/benchmark.py", ["--first-seed", "-1"]),
    ("tests/benchmark.py", ["--threads", "0"]), ("tests/benchmark.py", ["--max-steps", "-8"]),
    ("tests/benchmark.py", ["--task", "paint"]), ("tests/benchmark.py", ["--seed", "3"]),
]
CASES = [("train.py", case) for case in TRAIN] + [("visualize.py", case) for case in VISUALIZE] + OTHERS


def call(script, options, monkeypatch):
    """Run a script in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", [script, *options])
    with pytest.raises(SystemExit) as stopped:
        run_script(importlib.import_module(Path(script).stem).main)
    return stopped.value.code


@pytest.fixture
def in_a_folder(models_dir, tmp_path, monkeypatch):
    """A working directory with a tiny run, so that a mistake could spoil something."""
    folder = run_folder(Path("models"), "copy", "encoder")
    shutil.copytree(run_folder(models_dir, "copy", "encoder"), tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_command_cases_cover_each_script_and_option(capsys, monkeypatch):
    assert len(CASES) >= 100
    assert {script for script, _ in CASES} == {*SCRIPTS, "tests/benchmark.py"}
    for script in "train.py", "visualize.py":
        assert call(script, ["--help"], monkeypatch) == 0
        flags = {word.strip("[],") for word in capsys.readouterr().out.split() if word.startswith("[--")}
        tried = {word.split("=")[0] for name, case in CASES if name == script for word in case}
        assert flags - tried == set()


@pytest.mark.parametrize(("script", "options"), CASES, ids=lambda value: str(value)[:60])
def test_scripts_reject_bad_commands_in_one_line(script, options, in_a_folder, monkeypatch, capsys):
    before = files_in(in_a_folder)
    assert call(script, options, monkeypatch) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert len(printed.err) < 1_000
    assert files_in(in_a_folder) == before


@pytest.fixture
def elsewhere(tmp_path):
    """Run a script in another working directory, with next to no environment, as a shell would."""
    def run(script, *options, after="", **environment):
        return subprocess.run(
            shlex.join([sys.executable, str(ROOT / script), *options]) + after, shell=True,
            capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, timeout=100,
            env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"} | environment,
        )

    return run


STARTED_ELSEWHERE = {"data.py", "train.py", "visualize.py", "transformer.py"}       # by other tests


@pytest.mark.parametrize("script", sorted({*SCRIPTS} - STARTED_ELSEWHERE) + ["tests/benchmark.py"])
def test_scripts_start_from_any_folder(script, elsewhere):
    result = elsewhere(script, "--help")
    assert (result.returncode, result.stderr) == (0, "") and "python" in result.stdout


@pytest.mark.skipif(os.name != "posix", reason="a shell's redirections")
@pytest.mark.parametrize(
    ("after", "status", "message"),
    [(" >/dev/full", 2, "error: cannot read or write the output: No space left on device\n")],
)
def test_scripts_report_closed_or_full_output_without_a_traceback(after, status, message, elsewhere):
    result = elsewhere("data.py", "--task", "copy", after=after)
    assert (result.returncode, result.stderr) == (status, message)


@pytest.mark.parametrize("name", ["-models", "it's my Übung 模型 🙂"])
def test_scripts_accept_any_folder_name(name, models_dir, tmp_path, monkeypatch, capsys):
    encoding = sys.getfilesystemencoding()                  # of the locale, which may be ASCII
    name = name.encode(encoding, "ignore").decode(encoding)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(support.config, "TEST_SEQUENCES", 200)
    tiny = [*TINY_OPTIONS, "--task", "copy", "--architecture", "encoder", "--seq-len", "2", "--quiet"]
    monkeypatch.setattr(sys, "argv", ["train.py", *tiny, f"--output-dir={name}"])
    train.main()
    capsys.readouterr()
    assert (tmp_path / name / "copy_task" / "encoder" / "metrics.json").is_file()
    monkeypatch.setattr(sys, "argv", ["visualize.py", f"--compare={name}", f"--output-dir={name}"])
    visualize.main()
    assert [path.suffix for path in (tmp_path / name).glob("training_*")] == [".png"]


@pytest.mark.parametrize(("exported", "place"), [
    ({}, (0, 1)), ({"RANK": "2"}, (0, 1)), ({"RANK": "", "WORLD_SIZE": ""}, (0, 1)),
    ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
])
def test_rank_needs_a_world_size(exported, place, monkeypatch):
    for name in "RANK", "WORLD_SIZE":
        monkeypatch.delenv(name, raising=False)
    for name, value in exported.items():
        monkeypatch.setenv(name, value)
    module = runpy.run_path(distributed.__file__)
    assert (module["RANK"], module["WORLD_SIZE"]) == place


def test_training_runs_without_home_in_an_ascii_locale(elsewhere, tmp_path):
    """And ignores what a notebook exports."""
    tiny = [*TINY_OPTIONS, "--task", "copy", "--architecture", "encoder", "--seq-len", "2"]
    result = elsewhere("train.py", *tiny, "--output-dir", "my models", LANG="C", PYTHONUTF8="0", **NOTEBOOK)
    assert result.returncode == 0 and "Traceback" not in result.stderr
    assert (tmp_path / "my models" / "copy_task" / "encoder" / "training.png").is_file()
