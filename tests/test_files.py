"""Files are complete or absent, each folder has one writer, and signals are deferred."""

import errno
import io
import itertools
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from unittest.mock import patch

import numpy
import pytest
import torch
from conftest import ROOT, TINY, TINY_OPTIONS, files_in

import train
from data import ARCHITECTURES
from support.config import Config
from support.files import only_writer, replacing, uninterrupted
from support.record import extended, probe_of, read_record
from support.runs import run_folder
from train import load_run, save_checkpoint

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
    holds = "import sys, time; from support.files import only_writer; from pathlib import Path\n"
    holds += "with only_writer(Path(sys.argv[1])):\n    print('locked', flush=True); time.sleep(100)"
    first = subprocess.Popen(
        [sys.executable, "-c", holds, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "locked\n"
    (folder / ".checkpoint.writing.pt").write_bytes(b"half")
    with pytest.raises(OSError, match=f"{first.pid} is already writing") as refused, only_writer(folder):
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
    tiny = [option for option in TINY_OPTIONS if "epochs" not in option]
    options = [sys.executable, "train.py", "--quiet", *ENCODER, *tiny, "--output-dir", str(tmp_path)]
    first = subprocess.Popen([*options, "--epochs", "100000"], cwd=ROOT)
    folder = run_folder(tmp_path, "reverse", "encoder")
    try:
        while not (folder / "checkpoint.pt").exists():
            assert first.poll() is None
            time.sleep(0.01)
        second = subprocess.run(options, cwd=ROOT, capture_output=True, text=True)
        assert second.returncode == 2 and second.stderr.count("\n") == 1 and second.stdout == ""
        assert f"{folder}: process {first.pid} is already writing there" in second.stderr
        first.terminate()
        assert first.wait(timeout=20) == 143
    finally:
        first.kill()
    assert len(load_run(tmp_path, "reverse").history) >= 1
    assert not list(folder.glob(".*"))


@posix
def test_a_full_disk_is_one_line_and_the_earlier_run_is_as_it_was(models_dir, tmp_path):
    """A file-size limit simulates a full disk: it fails at the same calls."""
    import resource

    folder = run_folder(tmp_path, "reverse", "encoder")
    shutil.copytree(run_folder(models_dir, "reverse", "encoder"), folder)
    before = files_in(tmp_path)
    limit = 40_000, 40_000                                  # less than a checkpoint
    result = subprocess.run(
        [sys.executable, "train.py", "--quiet", *ENCODER, *TINY_OPTIONS, "--output-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert "File too large; nothing new was saved for reverse, encoder; the earlier" in result.stderr
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
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_run_that_is_killed_three_times_ends_bit_for_bit_like_one_that_is_not(
    architecture, dropout, tmp_path, monkeypatch
):
    """Kill it before anything is saved, during a save and in a later step, with and without dropout."""
    config = Config(**TINY | {"epochs": 5, "dropout": dropout}, architecture=architecture)
    options = [f"--{name.replace('_', '-')}={getattr(config, name)}" for name in [*TINY, "dropout"]]
    options += ["--task=reverse", f"--architecture={architecture}", "--quiet", "--resume", "--device=cpu"]
    options += ["--output-dir", str(tmp_path)]
    monkeypatch.setattr(train, "VALIDATION_SEQUENCES", 200)
    monkeypatch.setattr(train, "TEST_SEQUENCES", 200)
    folder, moment = run_folder(tmp_path, "reverse", architecture), random.Random(f"{architecture} {dropout}")
    assert killed(train, "learning_rate_share", 3, options)
    assert not (folder / "checkpoint.pt").exists()
    assert killed(os, "fsync", moment.randrange(5, 13), options)        # 4 of them make a save
    saved = len(load_run(tmp_path, "reverse", architecture).history)
    assert 1 <= saved <= 3 and (folder / ".lock").exists()
    assert killed(train, "learning_rate_share", moment.randrange(2, 7), options)
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    train.main()

    record, probe = None, probe_of(config)
    for model, expected in train.train(config, torch.device("cpu")):
        record = extended(record, model, probe, expected["history"][-1])
    resumed = torch.load(folder / "checkpoint.pt", weights_only=True)
    for checkpoint in resumed, expected:
        del checkpoint["seal"]                              # including the seconds
        for row in checkpoint["history"]:
            del row["train_seconds"]
    assert same(resumed, expected) and same(read_record(folder, expected["history"]), record)
    assert not list(folder.glob(".*"))


# ---------------------------------------------------------------- checkpoints of strangers


def damages(whole, count):
    """Yield this many broken versions of a zip archive: bits, blocks, ends and the zip's own headers."""
    chance = random.Random(0)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entries, directory = archive.infolist(), archive.start_dir
    size = len(whole)
    for number in range(count):
        broken, place, length = bytearray(whole), chance.randrange(size), chance.choice([1, 8, 512])
        kind = number % 10
        if kind <= 2:
            broken[place] ^= 1 << chance.randrange(8)
        elif kind == 3:
            del broken[place:]
        elif kind == 4:
            broken[place : place + length] = bytes(length)
        elif kind == 5:
            other = chance.randrange(size - length)
            place = min(place, size - length)
            first, second = whole[place : place + length], whole[other : other + length]
            broken[place : place + length], broken[other : other + length] = second, first
        elif kind == 6:
            broken[chance.choice(entries).header_offset + chance.randrange(30)] = chance.randrange(256)
        elif kind == 7:
            broken[chance.randrange(directory, size)] ^= 1 << chance.randrange(8)
        elif kind == 8:
            broken[place:place] = chance.randbytes(length)
        else:
            broken += broken[place:]
        yield bytes(broken)


def test_a_broken_checkpoint_is_refused_in_one_line_or_harmless_and_never_another_model(models_dir, tmp_path):
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


def zipped_again(whole, change, compression=zipfile.ZIP_STORED):
    """The file with its entries changed and correct checksums."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return changed.getvalue()


def largest(entries):
    return max(entries, key=lambda name: len(entries[name]) * ("/data/" in name))


def flip_a_weight(entries):
    name = largest(entries)
    entries[name] = entries[name][:99] + bytes([entries[name][99] ^ 1]) + entries[name][100:]


def cut_a_weight(entries):
    name = largest(entries)
    entries[name] = entries[name][:-4]


def add_zeros(entries):
    entries["zeros"] = bytes(100_000)


def call_code(entries):
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    entries[pickled] = b"\x80\x02cos\nsystem\n(X\x0b\x00\x00\x00touch owneddtR."


def number_a_value_two_billion(entries):
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    entries[pickled] = b"\x80\x02]r\xff\xff\xff\x7f."       # LONG_BINPUT


@pytest.fixture
def checkpoint_at(models_dir, tmp_path):
    """The path of a copy of a tiny run's checkpoint."""
    folder = run_folder(tmp_path, "reverse", "encoder")
    shutil.copytree(run_folder(models_dir, "reverse", "encoder"), folder)
    return folder / "checkpoint.pt"


@pytest.mark.parametrize(
    ("change", "compression", "said"),
    [
        (flip_a_weight, zipfile.ZIP_STORED, "its parts do not belong to the same run"),
        (cut_a_weight, zipfile.ZIP_STORED, "storage '.*' is missing or has the wrong size"),
        (add_zeros, zipfile.ZIP_DEFLATED, "it would expand when unpacked"),
        (call_code, zipfile.ZIP_STORED, "it would run code .os.system., so it was not written by train.py"),
        (dict.clear, zipfile.ZIP_STORED, "it was not written by torch.save"),
        (number_a_value_two_billion, zipfile.ZIP_STORED, "it is a list, not a dict"),
    ],
)
def test_a_checkpoint_that_was_zipped_again_is_refused(change, compression, said, checkpoint_at, monkeypatch):
    monkeypatch.chdir(checkpoint_at.parent)
    checkpoint_at.write_bytes(zipped_again(checkpoint_at.read_bytes(), change, compression))
    with pytest.raises(ValueError, match=f"is damaged.*{said}.*train it: ") as refused:
        load_run(checkpoint_at.parents[2], "reverse")
    assert "\n" not in str(refused.value) and not Path("owned").exists()


def setting(**settings):
    return lambda checkpoint: checkpoint["config"].update(settings)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda whole: whole.pop("optimizer"), "damaged .optimizer is missing"),
        (lambda whole: whole.update(extra=1), "damaged .extra is unexpected"),
        (lambda whole: whole.update(model=[]), "damaged .model is a list, not a dict"),
        (lambda whole: whole.update(config=3), "damaged .config is a int, not a dict"),
        (lambda whole: whole["history"].clear(), "the history does not list consecutive epochs from the"),
        (lambda whole: whole["history"].reverse(), "the history does not list consecutive epochs from the"),
        (lambda whole: whole["history"][1].update(loss=math.nan), "loss is nan"),
        (lambda whole: whole["history"].__setitem__(0, "epoch 1"), "history is a str, not a dict"),
        (lambda whole: whole["config"].pop("seed"), "different version of train.py: the setting seed is"),
        (setting(rotary=True), "different version of train.py: the setting rotary is unexpected; undo the"),
        (setting(d_model=10**6), "damaged .its settings imply .* TB of weights, but it holds"),
        (setting(num_layers=10**9), "damaged .its settings imply "),
        (setting(d_ff=10**40), "damaged .its settings imply "),
        (setting(max_len=10**9), "damaged .its settings imply "),
        (setting(seq_len=10**9), "damaged|cannot be carried out: seq_len=1000000000 is too large"),
        (setting(d_model="16"), "does not support: d_model='16' has type str, not int"),
        (setting(dropout=2.0), "invalid settings: dropout probability has to be "),
        (setting(task="paint"), "does not support: task='paint' is not a valid choice"),
        (setting(task="copy"), "holds task copy, architecture encoder; move it to .*copy_task"),
        (setting(architecture="decoder"), "holds task reverse, architecture decoder; move it"),
        (setting(vocab_size=30), r"embedding.weight has shape \(20, 16\), not \(30, 16\); undo"),
        (setting(num_heads=4), "damaged .its parts do not belong to the same run"),
        (setting(activation="relu"), "damaged .its parts do not belong to the same run"),
        (lambda whole: whole["model"].pop("final_norm.weight"), "final_norm.weight is missing; undo"),
        (lambda whole: whole["model"].update(gate=torch.ones(1)), "gate is unexpected; undo the change"),
        (
            lambda whole: whole["model"].update({"final_norm.bias": torch.ones(3)}),
            r"final_norm.bias has shape \(3,\), not \(16,\); undo",
        ),
        (
            lambda whole: whole["model"].update({"final_norm.bias": torch.ones(16).double()}),
            "final_norm.bias has dtype torch.float64, not torch.float32",
        ),
        (lambda whole: whole["model"]["final_norm.bias"].fill_(math.nan), "contains infinite or NaN values"),
        (lambda whole: whole["model"].update({"final_norm.bias": "?"}), "bias is a str, not a Tensor"),
        (lambda whole: whole["model"]["final_norm.bias"].add_(1e-6), "damaged .its parts do not belong to"),
        (lambda whole: whole["trained_weights"]["final_norm.bias"].add_(1), "its parts do not belong to the"),
        (lambda whole: whole["optimizer"]["state"].clear(), "damaged .its parts do not belong to the same"),
        (lambda whole: whole.update(known={"purposes": {"layer 1": 3}}), "have the wrong types"),
        (lambda whole: whole.update(known={"title": {}}), "damaged .*title"),
    ],
)
def test_a_changed_checkpoint_is_refused_and_the_line_says_which(change, said, checkpoint_at):
    checkpoint = torch.load(checkpoint_at, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, checkpoint_at)
    with pytest.raises(ValueError, match=f"^{checkpoint_at}.*{said}") as refused:
        load_run(checkpoint_at.parents[2], "reverse")
    assert "\n" not in str(refused.value)
