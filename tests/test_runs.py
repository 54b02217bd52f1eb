"""Runs are found by name; what cannot be read is refused in one line, and stale files are removed."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, call_main

import data
import train
from data import TASKS, Task
from support.config import default_config
from support.runs import (
    DEFAULT_ARCHITECTURES,
    DEFAULT_TASKS,
    format_command,
    run_folder,
)
from train import load_run

OF_THE_READER = [                                           # next to a run of copy with an encoder
    *map("copy_task/encoder/{}".format, [
        "my_notes.png", "attention_notes.pdf", "weights_after_pruning.png", "attention_head_notes.png",
        "attention.png", "attention_head_7.png", "film_2.gif", "ablation_5-9.png", "layers.jpg",
        "training copy.png", "lengths.png", "explorer_old.html", "heads2.csv", "mistakes.txt",
    ]),
    "copy_task/training_notes.pdf", "copy_task/lengths_decoder.png", "copy_task/metrics.json",
    "my_add_vs_theirs.png", "copy_vs_reverse.png", "copy_vs_reverse_notes.png", "training_copy_vs_b.png",
    "copy.png", "attention_head.png", "notes/pictures.json",
]


def test_load_run_names_the_command_for_a_missing_run(tmp_path):
    with pytest.raises(ValueError, match="checkpoint.pt does not exist; train it: .* --architecture encoder"):
        load_run(tmp_path, "reverse")


def test_load_run_rejects_another_architecture(finished, tmp_path, start):
    folder = run_folder(tmp_path, "reverse", "decoder")
    shutil.copytree(finished, folder)
    with pytest.raises(ValueError, match="holds task reverse, architecture encoder; move it to .*/encoder$"):
        load_run(tmp_path, "reverse", "decoder")
    before = (folder / "checkpoint.pt").read_bytes()
    options = "--task=reverse", "--architecture=decoder", "--resume", "--output-dir", tmp_path
    status, _, errors = start("train.py", *options).finish()
    assert status == 2 and errors.count("\n") == 1
    assert "architecture encoder" in errors and (folder / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("tasks", "architectures", "folder", "expected"),
    [
        (DEFAULT_TASKS, DEFAULT_ARCHITECTURES, "models", "python visualize.py"),
        (["add"], ["decoder"], "models", "python visualize.py --task add --architecture decoder"),
        (DEFAULT_TASKS, DEFAULT_ARCHITECTURES, "my models/a", "--models-dir 'my models/a'"),
    ],
)
def test_format_command_has_every_option_needed(tasks, architectures, folder, expected, monkeypatch):
    monkeypatch.chdir(ROOT)
    printed = format_command("visualize.py", tasks, architectures, Path(folder))
    assert printed.startswith("python visualize.py") and printed.endswith(expected)
    monkeypatch.chdir("/")
    elsewhere = format_command("visualize.py", tasks, architectures, Path(folder))
    assert Path(shlex.split(elsewhere)[1]) == Path(train.__file__).with_name("visualize.py")


def test_suggested_command_trains_the_missing_run(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError) as missing:
        load_run(tmp_path / "my models", "sort", "decoder")
    remedy = str(missing.value).split("; train it: ")[1]
    monkeypatch.setattr(sys, "argv", shlex.split(remedy)[1:])
    options = train.parse_options()
    assert (options.task, options.architecture) == (["sort"], ["decoder"])
    assert options.output_dir == tmp_path / "my models"


def test_default_config_rejects_an_unknown_setting(monkeypatch):
    monkeypatch.setitem(TASKS, "reverse", Task(data.reverse, settings={"epoch": 3}))
    with pytest.raises(ValueError, match="setting='epoch' is not a valid choice; choose from 'task', "):
        default_config("reverse", "encoder")


def test_remove_stale_removes_only_pictures_of_older_weights(
    models_dir, tmp_path, monkeypatch, few_sequences, few_lengths, unpainted
):
    """Of two runs, one is trained again; pictures of the other stay, those of both do not."""
    folder, other = (run_folder(tmp_path, "copy", name) for name in ("encoder", "decoder"))
    for run in folder, other:
        shutil.copytree(run_folder(models_dir, "copy", run.name), run)
    trained = {path.name for path in folder.iterdir()}
    assert len(OF_THE_READER) >= 20
    for path in map(tmp_path.joinpath, OF_THE_READER):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of the reader", encoding="utf-8")
    call_main(monkeypatch, "--models-dir", tmp_path)
    call_main(monkeypatch, "--models-dir", tmp_path, "--task", "copy")
    call_main(monkeypatch, "--models-dir", tmp_path, "--sequence", "5 9", "--format", "svg")
    both = tmp_path / "copy_encoder_vs_decoder.png"
    assert len(list(folder.iterdir())) > 2 * len(trained) and both.exists()
    kept = {path.name for path in other.iterdir()}
    train.train_and_save(load_run(tmp_path, "copy").config, torch.device("cpu"), folder, quiet=True)
    own = {Path(name).name for name in OF_THE_READER if name.startswith("copy_task/encoder/")}
    assert {path.name for path in folder.iterdir()} == trained | own | {"training.png"}
    assert {path.name for path in other.iterdir()} == kept and not both.exists()
    assert {(tmp_path / name).read_text(encoding="utf-8") for name in OF_THE_READER} == {"of the reader"}
    assert not (tmp_path / "index.html").exists()               # it showed removed weights
