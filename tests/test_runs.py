"""Runs are found by name; what cannot be read is refused in one line, and stale files are removed."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, call_main, command

import data
import train
import visualize
from data import TASKS, Task
from support.config import recipe
from support.runs import (
    DEFAULT_ARCHITECTURES,
    DEFAULT_TASKS,
    OF_ONE_QUESTION,
    OF_RUN,
    command_line,
    is_question,
    remove_stale,
    run_folder,
)
from train import load_run, save_checkpoint

SHOW_THE_RUN = [                                            # of copy with an encoder
    "copy_vs_reverse.png", "copy_vs_reverse_maps.pdf", "copy_vs_reverse_encoder.png", "sort_vs_copy_5-9.svg",
    "copy_encoder_vs_decoder.png", "reverse_vs_copy_encoder_vs_decoder_maps_5-9.png",
    "balance_copy_task-encoder_vs_narrow.png", "copy_task/lengths.png", "copy_task/lengths_encoder.svg",
    "copy_task/lengths_encoder_decoder.png", "copy_task/encoder/attention_head_19.png",
    f"copy_task/encoder/attention_layer_{'5-9-' * 17}5--0123abcd.png",
    "handmade/copy_task/encoder/beside_trained.png",
]
SHOW_ANOTHER_RUN_OR_NONE = [
    *map("copy_task/encoder/{}".format, [
        "my_notes.png", "weights_after_pruning.png", "attention_head_notes.png", "attention.png",
        "film_2.gif", "ablation_5-9.png", "layers.jpg", "training copy.png", "lengths.png",
        "explorer_old.html", "heads2.csv",
    ]),
    *map("copy_task/{}".format, [
        "training_notes.pdf", "lengths_decoder.png", "lengths_of_my_run.png", "metrics.json", "influence.png",
    ]),
    "reverse_vs_photocopy.png", "training_copy_vs_b.png", "nanoGPT_vs_copy.png", "copy_vs_reverse_notes.png",
    "copy_vs_reverse_decoder.png", "copy_from_paper_vs_reverse.png", "copy.png", "attention_head.png",
    "balance_copy_task-decoder_vs_narrow.png", "handmade/copy_task/encoder/ablation.png",
    "handmade/copy_task/decoder/beside_trained.png", "copy_from_paper_task/encoder/layers.png",
]


def test_a_missing_checkpoint_is_reported_with_the_command_that_trains_it(tmp_path):
    with pytest.raises(ValueError, match="checkpoint.pt does not exist; train it: .* --architecture encoder"):
        load_run(tmp_path, "reverse")


def test_a_checkpoint_of_another_architecture_is_reported_in_one_line(finished, tmp_path):
    folder = run_folder(tmp_path, "reverse", "decoder")
    shutil.copytree(finished, folder)
    with pytest.raises(ValueError, match="holds task reverse, architecture encoder; move it to .*/encoder$"):
        load_run(tmp_path, "reverse", "decoder")
    before = (folder / "checkpoint.pt").read_bytes()
    result = command("--task=reverse", "--architecture=decoder", "--resume", folder=tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "architecture encoder" in result.stderr and (folder / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("tasks", "architectures", "folder", "expected"),
    [
        (DEFAULT_TASKS, DEFAULT_ARCHITECTURES, "models", "python visualize.py"),
        (["add"], ["decoder"], "models", "python visualize.py --task add --architecture decoder"),
        (DEFAULT_TASKS, DEFAULT_ARCHITECTURES, "my models/a", "--models-dir 'my models/a'"),
    ],
)
def test_the_next_command_has_the_options_that_it_needs(tasks, architectures, folder, expected, monkeypatch):
    monkeypatch.chdir(ROOT)
    printed = command_line("visualize.py", tasks, architectures, Path(folder))
    assert printed.startswith("python visualize.py") and printed.endswith(expected)
    monkeypatch.chdir("/")
    elsewhere = command_line("visualize.py", tasks, architectures, Path(folder))
    assert Path(shlex.split(elsewhere)[1]) == Path(train.__file__).with_name("visualize.py")


def test_the_remedy_for_a_missing_run_trains_just_that_run_where_it_was_missed(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError) as missing:
        load_run(tmp_path / "my models", "sort", "decoder")
    remedy = str(missing.value).split("; train it: ")[1]
    monkeypatch.setattr(sys, "argv", shlex.split(remedy)[1:])
    options = train.parse()
    assert (options.task, options.architecture) == (["sort"], ["decoder"])
    assert options.output_dir == tmp_path / "my models"


def test_a_setting_that_is_gone_or_a_wrong_task_is_refused_in_one_line(finished, tmp_path, monkeypatch):
    folder = run_folder(tmp_path, "reverse", "encoder")
    folder.mkdir(parents=True)
    checkpoint = torch.load(finished / "checkpoint.pt", weights_only=True)
    save_checkpoint(checkpoint, folder)
    monkeypatch.setitem(TASKS, "reverse", Task(lambda content: content.roll(1)))
    with pytest.raises(ValueError, match="task reverse answers .* differently"):
        load_run(tmp_path, "reverse")
    checkpoint["config"]["gated"] = True
    save_checkpoint(checkpoint, folder)
    with pytest.raises(ValueError, match="different version of train.py: the setting gated is unexpected;"):
        load_run(tmp_path, "reverse")
    monkeypatch.setitem(TASKS, "reverse", Task(data.reverse, settings={"epoch": 3}))
    with pytest.raises(ValueError, match="task reverse has an unknown setting epoch; choose from task, "):
        recipe("reverse", "encoder")


def test_training_again_removes_the_pictures_of_the_older_weights_and_nothing_else(
    models_dir, tmp_path, monkeypatch
):
    folder = run_folder(tmp_path, "copy", "encoder")
    shutil.copytree(run_folder(models_dir, "copy", "encoder"), folder)
    trained = {path.name for path in folder.iterdir()}
    call_main(monkeypatch, "--models-dir", tmp_path)
    call_main(monkeypatch, "--models-dir", tmp_path, "--sequence", "5 9", "--format", "svg")
    assert len(list(folder.iterdir())) > 2 * len(trained)
    assert (folder.parent / "lengths.png").exists()
    stale, kept = ([tmp_path / name for name in names] for names in (SHOW_THE_RUN, SHOW_ANOTHER_RUN_OR_NONE))
    assert len(kept) >= 20
    for path in *stale, *kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("something")
    train.train_and_save(load_run(tmp_path, "copy").config, torch.device("cpu"), folder, quiet=True)
    assert [path for path in kept if not path.exists()] == [path for path in stale if path.exists()] == []
    own = {path.name for path in kept if path.parent == folder}
    assert {path.name for path in folder.iterdir()} == trained | own
    assert not (tmp_path / "index.html").exists()               # it showed removed weights
    (tmp_path / "index.html").write_text("a page of my own")
    (folder / "ablation.png").write_text("something")
    assert remove_stale(folder) and (tmp_path / "index.html").exists()


def test_the_names_that_are_recognised_are_those_that_are_written():
    assert {*visualize.PICTURES, "beside_trained"} == {*OF_RUN}
    assert {*visualize.OF_ONE_SEQUENCE, "beside_trained"} == {*OF_ONE_QUESTION}
    for words in "5 9 12", "4 2 + 1 9", "42+19", "5 _ 5 7", " ".join(["17"] * 60):
        assert is_question(visualize.name_in_file(words), "add")
