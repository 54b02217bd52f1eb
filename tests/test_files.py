"""Files are complete or absent, each folder has one writer, and damaged checkpoints are refused."""

import errno
import io
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import zipfile
from pathlib import Path
from unittest.mock import patch

import numpy
import pytest
import torch
from conftest import TINY, TINY_OPTIONS, files_in
from processes import CONTEXT

import support.config
import train
from data import ARCHITECTURES
from support.config import Config
from support.files import atomic_write, folder_lock
from support.record import append_epoch, read_attention_history, recorded_questions
from support.runs import run_folder
from train import load_run, save_weights

ENCODER = ["--task", "reverse", "--architecture", "encoder"]
posix = pytest.mark.skipif(os.name != "posix", reason="limits of a process are POSIX")


def test_atomic_write_keeps_the_old_file_on_failure(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old", encoding="utf-8")
    no_space = pytest.raises(OSError, match="No space left on device: '.*metrics.json'")
    with no_space, atomic_write(path) as half:
        half.write_text("half", encoding="utf-8")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert files_in(tmp_path) == {"metrics.json": b"old"}
    with atomic_write(path) as unfinished:
        unfinished.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
    assert files_in(tmp_path) == {"metrics.json": b"new"}


def hold_lock(folder, locked):
    with folder_lock(folder):
        locked.set()
        time.sleep(100)


def test_folder_lock_admits_one_process_and_survives_a_kill(tmp_path):
    folder, locked = tmp_path / "copy_task" / "encoder", CONTEXT.Event()
    first = CONTEXT.Process(target=hold_lock, args=(folder, locked), daemon=True)
    first.start()
    assert locked.wait(timeout=60)
    with pytest.raises(OSError, match="another process is already writing") as refused, folder_lock(folder):
        pass
    assert refused.value.filename == str(folder)
    first.kill()
    first.join()
    with folder_lock(folder):
        pass


def test_folder_lock_refuses_a_second_training(tmp_path, start):
    command = ["train.py", "--quiet", *ENCODER, *TINY_OPTIONS, "--output-dir", tmp_path]
    first = start(*command, "--epochs=100000")
    folder = run_folder(tmp_path, "reverse", "encoder")
    while not (folder / "checkpoint.pt").exists():
        assert first.is_alive()
        time.sleep(0.01)
    status, printed, errors = start(*command).finish()
    assert (status, printed, errors.count("\n")) == (2, "", 1)
    assert f"{folder}: another process is already writing there" in errors
    first.terminate()
    assert first.finish()[0] == 143
    assert len(load_run(tmp_path, "reverse").history) >= 1
    assert not list(folder.glob("*.writing*"))


@posix
def test_full_disk_is_one_line_and_keeps_the_earlier_run(models_dir, tmp_path, start):
    """A file-size limit, less than a checkpoint, simulates a full disk: it fails at the same calls."""
    folder = run_folder(tmp_path, "reverse", "encoder")
    shutil.copytree(run_folder(models_dir, "reverse", "encoder"), folder)
    before = files_in(tmp_path)
    command = ["train.py", "--quiet", *ENCODER, *TINY_OPTIONS, "--output-dir", tmp_path]
    status, _, errors = start(*command, max_file_size=40_000).finish()
    assert status == 2 and errors.count("\n") == 1 and "Traceback" not in errors
    assert "File too large; nothing new was saved for reverse, encoder;" in errors
    assert files_in(tmp_path) == before


def test_checkpoint_stays_loadable_when_the_next_save_fails(tmp_path, monkeypatch):
    save_weights({"epoch": 1}, tmp_path, {"loss": torch.zeros(1).numpy()})
    before = files_in(tmp_path)

    def full(path, **arrays):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(train.numpy, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights({"epoch": 2}, tmp_path, {"loss": torch.zeros(1).numpy()})
    assert files_in(tmp_path) == before and set(before) == {"checkpoint.pt", "attention.npz"}


# ---------------------------------------------------------------- kills


def killed(owner, name, count, options):
    """Train in a process that kills itself as the function owner.name is called for the count-th time."""
    def train_until_then():
        function, calls = getattr(owner, name), itertools.count(1)

        def counted(*arguments):
            if next(calls) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        sys.argv = ["train.py", *options]
        with patch.object(owner, name, counted):
            train.main()

    process = multiprocessing.get_context("fork").Process(target=train_until_then)
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


def same(first, second):
    """Return whether two checkpoints or records are equal, bit for bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    if isinstance(first, (torch.Tensor, numpy.ndarray)):
        return bool((first == second).all())
    return first == second


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that is a copy of this one")
@pytest.mark.parametrize(
    ("architecture", "dropout"), [("encoder", 0.0), *((each, 0.1) for each in ARCHITECTURES)]
)
def test_killed_run_resumes_bit_for_bit(architecture, dropout, tmp_path, monkeypatch):
    """Kill it before anything is saved, during a save and in a later step, with and without dropout."""
    config = Config(**TINY | {"epochs": 5, "dropout": dropout}, architecture=architecture)
    options = [f"--{name.replace('_', '-')}={getattr(config, name)}" for name in [*TINY, "dropout"]]
    options += ["--task=reverse", f"--architecture={architecture}", "--quiet", "--resume", "--device=cpu"]
    options += ["--output-dir", str(tmp_path)]
    monkeypatch.setattr(support.config, "VALIDATION_SEQUENCES", 200)
    monkeypatch.setattr(support.config, "TEST_SEQUENCES", 200)
    monkeypatch.setattr(train, "SAVE_EVERY", 0)
    monkeypatch.setattr(train, "save_picture", lambda figure, path: None)
    train.TrainingState(config, torch.device("cpu"))        # imports here what each process would import
    folder, moment = run_folder(tmp_path, "reverse", architecture), random.Random(f"{architecture} {dropout}")
    assert killed(train, "lr_multiplier", 3, options)
    assert not (folder / "checkpoint.pt").exists()
    assert killed(os, "fsync", moment.randrange(3, 7), options)         # 2 of them make a save
    saved = len(load_run(tmp_path, "reverse", architecture).history)
    assert 1 <= saved <= 3 and (folder / ".lock").exists()
    assert killed(train, "lr_multiplier", moment.randrange(2, 7), options)
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    train.main()

    record, probe = None, recorded_questions(config)
    for model, expected in train.train(config, torch.device("cpu")):
        record = append_epoch(record, model, probe, expected["history"][-1])
    resumed = torch.load(folder / "checkpoint.pt", weights_only=True)
    for checkpoint in resumed, expected:
        for row in checkpoint["history"]:
            del row["train_seconds"]
    assert same(resumed, expected) and same(read_attention_history(folder, expected["history"]), record)
    assert not list(folder.glob("*.writing*"))


# ---------------------------------------------------------------- checkpoints of strangers


def damages(whole, count):
    """Yield this many broken versions of a zip archive: bits, blocks, ends and the zip's own headers."""
    chance = random.Random(0)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entries, directory = archive.infolist(), archive.start_dir
    size = len(whole)
    for number in range(count):
        broken, position, length = bytearray(whole), chance.randrange(size), chance.choice([1, 8, 512])
        kind = number % 10
        if kind <= 2:
            broken[position] ^= 1 << chance.randrange(8)
        elif kind == 3:
            del broken[position:]
        elif kind == 4:
            broken[position : position + length] = bytes(length)
        elif kind == 5:
            other = chance.randrange(size - length)
            position = min(position, size - length)
            first, second = whole[position : position + length], whole[other : other + length]
            broken[position : position + length], broken[other : other + length] = second, first
        elif kind == 6:
            broken[chance.choice(entries).header_offset + chance.randrange(30)] = chance.randrange(256)
        elif kind == 7:
            broken[chance.randrange(directory, size)] ^= 1 << chance.randrange(8)
        elif kind == 8:
            broken[position:position] = chance.randbytes(length)
        else:
            broken += broken[position:]
        yield bytes(broken)


def test_read_run_rejects_a_broken_checkpoint(models_dir, tmp_path):
    whole = (run_folder(models_dir, "reverse", "decoder") / "checkpoint.pt").read_bytes()
    good, outcomes = load_run(models_dir, "reverse", "decoder"), []
    path = run_folder(tmp_path, "reverse", "decoder") / "checkpoint.pt"
    path.parent.mkdir(parents=True)
    for broken in damages(whole, 200):
        path.write_bytes(broken)
        try:
            run = load_run(tmp_path, "reverse", "decoder")
        except ValueError as error:
            outcomes.append("refused")
            assert "\n" not in str(error) and str(error).startswith(str(path))
        else:
            outcomes.append("harmless")
            assert run.config == good.config and run.history == good.history
            weights, expected = run.model.state_dict(), good.model.state_dict()
            assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert outcomes.count("refused") > 130


@pytest.fixture
def checkpoint_at(models_dir, tmp_path):
    """The path of a copy of a tiny run's checkpoint."""
    folder = run_folder(tmp_path, "reverse", "encoder")
    shutil.copytree(run_folder(models_dir, "reverse", "encoder"), folder)
    return folder / "checkpoint.pt"


class TouchesAFile:
    """An object that runs code when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch owned",)


def test_checkpoint_code_never_runs(checkpoint_at, monkeypatch):
    monkeypatch.chdir(checkpoint_at.parent)
    torch.save({"config": TouchesAFile()}, checkpoint_at)
    with pytest.raises(ValueError, match="is damaged.*; train it: ") as refused:
        load_run(checkpoint_at.parents[2], "reverse")
    assert "\n" not in str(refused.value) and not Path("owned").exists()


def setting(**settings):
    return lambda checkpoint: checkpoint["config"].update(settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting(rotary=True), "different version of the code: .* unexpected keyword .*'rotary'; undo"),
        (setting(d_model=10**6), "different version of the code: d_model=1000000 is out of range"),
        (setting(task="paint"), "different version of the code: task='paint' is not a valid choice"),
        (setting(task="copy"), "holds task copy, architecture encoder; move it to .*copy_task"),
        (setting(architecture="decoder"), "holds task reverse, architecture decoder; move it"),
        (setting(vocab_size=30), r"size mismatch for embedding.weight: .*\[20, 16\].*; undo"),
        (lambda whole: whole.pop("config"), "different version of the code: 'config'"),
        (lambda whole: whole["model"].pop("final_norm.weight"), "Missing key.*final_norm.weight.*; undo"),
        (lambda whole: whole["model"].update(gate=torch.ones(1)), "Unexpected key.* \"gate\".*; undo"),
    ],
)
def test_read_run_says_how_a_checkpoint_of_other_code_differs(change, message, checkpoint_at):
    checkpoint = torch.load(checkpoint_at, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, checkpoint_at)
    with pytest.raises(ValueError, match=f"^{checkpoint_at}.*{message}") as refused:
        load_run(checkpoint_at.parents[2], "reverse")
    assert "\n" not in str(refused.value)
