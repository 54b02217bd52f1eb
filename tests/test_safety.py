"""Files that are whole or not there, one process a folder, and signals that wait."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY_OPTIONS, files_in

import train
from safety import only_writer, replacing, uninterrupted
from train import load_run, run_folder, save_checkpoint

HERE = Path(train.__file__).parent
ENCODER = ["--task", "reverse", "--architecture", "encoder"]
posix = pytest.mark.skipif(os.name != "posix", reason="limits of a process are POSIX")


def test_a_file_that_is_not_written_whole_leaves_the_old_one_and_names_it(tmp_path):
    path = tmp_path / "figures.json"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left on device: '.*figures.json'"), replacing(path) as half:
        half.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert files_in(tmp_path) == {"figures.json": b"old"}
    with replacing(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert files_in(tmp_path) == {"figures.json": b"new"}


def test_signals_within_the_block_take_effect_at_its_end():
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("saved")
    assert done == ["saved"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_only_one_process_writes_into_a_folder_and_a_kill_frees_it(tmp_path):
    folder = tmp_path / "copy_task" / "encoder"
    holds = "import sys, time; from safety import only_writer; from pathlib import Path\n"
    holds += "with only_writer(Path(sys.argv[1])):\n    print('locked', flush=True); time.sleep(100)"
    first = subprocess.Popen(
        [sys.executable, "-c", holds, str(folder)], cwd=HERE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "locked\n"
    (folder / ".checkpoint.writing.pt").write_bytes(b"half")
    with pytest.raises(OSError, match=f"process {first.pid} is writing") as refused, only_writer(folder):
        pass
    assert refused.value.filename == str(folder)
    first.kill()
    first.wait()
    with only_writer(folder):
        assert (folder / ".lock").read_text() == str(os.getpid())
        assert not (folder / ".checkpoint.writing.pt").exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "copy_task"] and list(folder.iterdir()) == []


def test_a_folder_is_made_and_removed_again_if_it_stays_empty(tmp_path):
    with only_writer(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a").exists()
    with only_writer(tmp_path / "a" / "b"):
        (tmp_path / "a" / "file").write_text("kept")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


def test_the_second_of_two_trainings_into_one_folder_is_refused(tmp_path):
    options = [sys.executable, "train.py", "--quiet", *ENCODER, *TINY_OPTIONS, "--output-dir", str(tmp_path)]
    first = subprocess.Popen([*options, "--epochs", "100000"], cwd=HERE)
    folder = run_folder(tmp_path, "reverse", "encoder")
    try:
        while not (folder / "checkpoint.pt").exists():
            assert first.poll() is None
            time.sleep(0.01)
        second = subprocess.run(options, cwd=HERE, capture_output=True, text=True)
        assert second.returncode == 2 and second.stderr.count("\n") == 1 and second.stdout == ""
        assert f"{folder}: process {first.pid} is writing there" in second.stderr
        first.terminate()
        assert first.wait(timeout=20) == 143
    finally:
        first.kill()
    assert len(load_run(tmp_path, "reverse").history) >= 1
    assert not list(folder.glob(".*"))


@posix
@pytest.mark.parametrize("kilobytes", [4, 40])
def test_a_full_disk_is_one_line_and_the_earlier_run_is_as_it_was(kilobytes, models_dir, tmp_path):
    """A limit on the size of files stands for the disk: it strikes at the same calls."""
    import resource
    import shutil

    folder = run_folder(tmp_path, "reverse", "encoder")
    shutil.copytree(run_folder(models_dir, "reverse", "encoder"), folder)
    before = files_in(tmp_path)
    limit = (1024 * kilobytes,) * 2
    result = subprocess.run(
        [sys.executable, "train.py", "--quiet", *ENCODER, *TINY_OPTIONS, "--output-dir", str(tmp_path)],
        cwd=HERE, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert "File too large; nothing new of reverse, encoder is saved, and the earlier" in result.stderr
    assert files_in(tmp_path) == before


def test_what_is_saved_stays_loadable_when_the_next_save_fails(tmp_path, monkeypatch):
    save_checkpoint({"epoch": 1}, tmp_path, {"loss": torch.zeros(1).numpy()})
    before = files_in(tmp_path)

    def full(path, **arrays):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(train.numpy, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint({"epoch": 2}, tmp_path, {"loss": torch.zeros(1).numpy()})
    assert files_in(tmp_path) == before and set(before) == {"checkpoint.pt", "attention.npz"}
