"""Several runs at once end like runs one after another: with their results, their lines and their errors."""

import os
import signal
import sys
import time

import pytest
import torch
from processes import CONTEXT

from support import parallel
from support.console import exit_with_error, run_script


@pytest.fixture(autouse=True)
def start_at_once(monkeypatch):
    """Start copies of a process that has imported torch; test_train.py starts new ones, as train.py does."""
    monkeypatch.setattr(parallel.multiprocessing, "get_context", lambda method: CONTEXT)


def square(number, folder, ending="", show=None):
    """Return the square of a number; or else fail, be killed, or wait until this process is stopped."""
    try:
        show(f"first line of {number}", done=0, total=2)
        show(f"second line of {number}", done=1)
        (folder / str(number)).touch()
        while not (folder / "0").exists() or not (folder / "1").exists():
            time.sleep(0.01)                                # until both have shown their lines
        if ending == "fail":
            exit_with_error("this run failed")
        if ending == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if ending == "wait":
            time.sleep(100)
    except SystemExit as error:
        if error.code == 128 + signal.SIGTERM:
            print(f"interrupted: {number} is saved", file=sys.stderr)
        raise
    return number**2


def lines_of(*numbers):
    return "".join(f"first line of {number}\nsecond line of {number}\n" for number in numbers)


def test_run_all_returns_results_and_prints_lines_in_order(tmp_path, capsys):
    runs = {str(number): (number, tmp_path) for number in (1, 0, 2)}
    assert parallel.run_all(square, runs, 2, "step") == [1, 0, 4]
    assert capsys.readouterr() == (lines_of(1, 0, 2), "")


@pytest.mark.parametrize(
    ("ending", "error"), [("fail", "error: this run failed"), ("die", "error: one: killed by signal 9; if m")]
)
def test_run_all_stops_all_runs_when_one_fails(ending, error, tmp_path, capsys):
    runs = {"none": (0, tmp_path, "wait"), "one": (1, tmp_path, ending), "two": (2, tmp_path)}
    with pytest.raises(SystemExit) as stopped:
        parallel.run_all(square, runs, 2, "step")
    printed, errors = capsys.readouterr()
    assert stopped.value.code == 2 and printed == lines_of(0, 1) and not (tmp_path / "2").exists()
    first, second = sorted(errors.splitlines())
    assert first.startswith(error) and second == "interrupted: 0 is saved"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_run_all_stops_all_runs_on_a_signal(number, status, tmp_path, capsys, monkeypatch):
    show = parallel.Progress.show

    def interrupt(progress, run, *lines, **values):
        show(progress, run, *lines, **values)
        if values.get("done") == 1 and len(progress.bars) == 2:
            monkeypatch.undo()                              # once
            signal.raise_signal(number)

    monkeypatch.setattr(parallel.Progress, "show", interrupt)
    runs = {"none": (0, tmp_path, "wait"), "one": (1, tmp_path, "wait")}
    with pytest.raises(SystemExit) as stopped:
        run_script(lambda: parallel.run_all(square, runs, 2, "step"))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert stopped.value.code == status
    assert capsys.readouterr().err == "interrupted: 0 is saved\ninterrupted: 1 is saved\n"


def test_progress_holds_lines_until_earlier_runs_have_ended(capsys):
    progress = parallel.Progress(["a", "b", "c"], "step")
    progress.show(1, "b")
    progress.show(2, "c")
    progress.show(0, "a")
    assert capsys.readouterr().out == "a\n"
    progress.end(1)
    assert capsys.readouterr().out == ""
    progress.end(0)
    assert capsys.readouterr().out == "b\nc\n"


def test_choose_jobs_fills_the_cores_of_a_cpu(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert parallel.choose_jobs(None, cpu) == 2 and parallel.choose_jobs(None, torch.device("cuda")) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 9)
    assert parallel.choose_jobs(None, cpu) == 1 and parallel.choose_jobs(5, cpu) == 5
    with pytest.raises(ValueError, match="jobs=0 is out of range; choose 1 … 1024"):
        parallel.choose_jobs(0, cpu)
    monkeypatch.setattr(parallel, "WORLD_SIZE", 2)
    assert parallel.choose_jobs(4, cpu) == 1                # torchrun has started several processes already
