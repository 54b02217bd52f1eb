"""visualize.py draws what it was asked to draw, and nothing that was saved before is lost."""

import itertools
import os
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import (
    TINY,
    call_main,
    files_in,
    numbers_of,
    title_of,
)

import data
import lab.ablation
import lab.evidence
import support.config
import support.figure
import train
import transformer
import visualize
from data import ARCHITECTURES, TASKS, Task
from lab.view import make_view
from support import files
from support.config import default_config
from support.console import run_script
from support.figure import picture_style, save_picture
from support.runs import run_folder
from train import load_run
from visualize import draw_head, draw_layer

NAMES = [
    "attention_head", "attention_layer", "influence", "ablation", "layers", "training",
]
TABLES = ["heads.csv", "mistakes.csv", "film.gif", "explorer.html"]


def test_run_without_attention_history_has_no_animation(
    models_dir, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    folder = run_folder(tmp_path, "copy", "encoder")
    shutil.copytree(run_folder(models_dir, "copy", "encoder"), folder)
    (folder / "attention.npz").write_text("no record", encoding="utf-8")
    call_main(monkeypatch, "--models-dir", tmp_path)
    assert capsys.readouterr().err == "" and not list(folder.glob("film*"))
    assert (folder / "layers.png").exists()


def pictures_of(tasks, architectures, suffix, lengths="lengths"):
    """The files that visualize.py writes for these, apart from the comparison."""
    expected = {
        Path(f"{task}_task", architecture, name) for task in tasks for architecture in architectures
        for name in [*TABLES, *(f"{name}.{suffix}" for name in NAMES)]
    }
    expected |= {Path(f"{task}_task/{lengths}.{suffix}") for task in tasks}
    expected |= {Path("index.html"), Path("pictures.json")}
    if "encoder-decoder" in architectures:
        expected |= {Path(f"{task}_task/encoder-decoder/attention_kinds.{suffix}") for task in tasks}
    return expected


def test_main_draws_every_run_found(
    models_dir, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    models, output = tmp_path / "models", tmp_path / "out"
    for task, architecture in ("copy", "encoder"), ("reverse", "encoder"):
        shutil.copytree(run_folder(models_dir, task, architecture), run_folder(models, task, architecture))
    shutil.copytree(run_folder(models, "copy", "encoder"), run_folder(models, "mine", "encoder"))
    with pytest.raises(SystemExit):                         # as there is a run that cannot be drawn, …
        call_main(monkeypatch, "--models-dir", models, "--output-dir", output)
    written = {path.relative_to(output) for path in output.rglob("*.*")}        # … but the others are
    assert written == pictures_of(["copy", "reverse"], ["encoder"], "png") | {
        Path("copy_vs_reverse_encoder.png")
    }
    printed = capsys.readouterr()
    assert printed.out.startswith("drawing copy, encoder; reverse, encoder\n")
    assert printed.err.count("\n") == 1 and "holds task copy, architecture encoder; move it" in printed.err


ANSWERS = {                                                 # own tasks, by how long their answers are
    "shorter": Task(lambda content: content[:, : (content.size(1) + 1) // 2]),
    "equal": Task(lambda content: 4 + (content - 3) % 16),
    "longer": Task(lambda content: content.repeat(1, 3)),
    "constant": Task(lambda content: torch.full((len(content), 1), 7)),
    "next": Task(data.reverse, next_token=True),
}


@pytest.mark.parametrize(
    ("task", "architecture"),
    [
        *itertools.product(TASKS, ARCHITECTURES),
        *((task, "decoder" if ANSWERS[task].next_token else "encoder") for task in ANSWERS),
    ],
)
def test_tasks_are_drawn_with_each_architecture(
    task, architecture, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    if task in ANSWERS:
        monkeypatch.setitem(TASKS, task, ANSWERS[task])
    monkeypatch.setattr(support.config, "TEST_SEQUENCES", 100)
    folder = run_folder(tmp_path, task, architecture)
    folder.mkdir(parents=True)
    small = TINY | {"num_layers": 1, "epochs": 1, "seq_len": 4, "oversample": 0.0}
    config = default_config(task, architecture, **small)
    train.train_and_save(config, torch.device("cpu"), folder, quiet=True)
    call_main(monkeypatch, "--models-dir", tmp_path)
    assert capsys.readouterr().err == ""
    written = {path.relative_to(tmp_path) for path in folder.parent.rglob("*.*")}
    gallery = {Path("index.html"), Path("pictures.json")}
    assert pictures_of([task], [architecture], "png") - gallery <= written


def test_failed_picture_is_one_line_and_the_rest_is_drawn(
    models_dir, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    def fails(view):
        raise RuntimeError("shapes differ\nby a lot")

    shutil.copytree(run_folder(models_dir, "copy", "encoder"), run_folder(tmp_path, "copy", "encoder"))
    monkeypatch.setitem(visualize.PICTURES, "layers", fails)
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--models-dir", tmp_path)
    picture, = capsys.readouterr().err.splitlines()
    path = tmp_path / "copy_task" / "encoder" / "layers.png"
    reason = "is missing: RuntimeError: shapes differ (test_visualize.py, line "
    assert picture.startswith(f"error: {path} {reason}")
    assert stopped.value.code == 1
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")}
    assert pictures_of(["copy"], ["encoder"], "png") - written == {Path("copy_task/encoder/layers.png")}


@pytest.mark.parametrize(
    ("options", "expected", "missing"),
    [
        (["--task", "add"], [("encoder", "add"), ("encoder-decoder", "add")], []),
        (["--task", "complete", "sort"], [("encoder", "complete")], ["sort"]),
        (["--architecture", "decoder"], [("decoder", "copy"), ("decoder", "reverse")], []),
        ([], [
            ("encoder", "copy"), ("encoder", "reverse"), ("encoder", "add"), ("encoder", "complete"),
            ("decoder", "copy"), ("decoder", "reverse"),
            ("encoder-decoder", "copy"), ("encoder-decoder", "reverse"), ("encoder-decoder", "add"),
        ], []),
    ],
)
def test_options_select_runs(options, expected, missing, models_dir, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["visualize.py", "--models-dir", str(models_dir), *options])
    views, problems = visualize.select_runs(visualize.parse_options())
    assert [(view.run.architecture, view.run.config.task) for view in views] == expected
    assert [problem.split(" found")[0] for problem in problems] == [f"no run of {task}" for task in missing]


def drawn(folder, models_dir, monkeypatch, task, architecture, *options):
    """Draw this run into the folder and return all files written there."""
    options = "--task", task, "--architecture", architecture, *options
    call_main(monkeypatch, "--models-dir", models_dir, "--output-dir", folder, *options)
    return {Path(name): content for name, content in files_in(folder).items()}


def test_main_writes_the_same_files_twice(models_dir, tmp_path, monkeypatch, few_sequences, few_lengths):
    first, second = (
        drawn(tmp_path / name, models_dir, monkeypatch, "complete", "encoder", "--dark")
        for name in ("first", "second")
    )
    assert set(first) == set(second) == pictures_of(["complete"], ["encoder"], "png", "lengths_encoder")
    for path, before in first.items():
        assert before.replace(b"/first", b"/second") == second[path]        # the folder, in commands


def test_svg_has_vectors_and_text(models_dir, tmp_path, monkeypatch, few_sequences, few_lengths):
    written = drawn(tmp_path, models_dir, monkeypatch, "reverse", "encoder-decoder", "--format", "svg")
    lengths = "lengths_encoder-decoder"
    assert set(written) == pictures_of(["reverse"], ["encoder-decoder"], "svg", lengths)
    for path, picture in written.items():
        if path.suffix == ".svg":
            assert b"<image" not in picture and b"</text>" in picture, path


@pytest.mark.parametrize(("suffix", "date", "text", "pixels"), [
    ("svg", b"<dc:date>", b"</text>", b"<image"),
    ("pdf", b"/CreationDate", b"/ToUnicode", b"/Subtype /Image"),
])
def test_vectors_are_reproducible(suffix, date, text, pixels, models_dir, tmp_path):
    view = make_view(load_run(models_dir, "copy"), ["5", "9"])
    for name in "first", "second":
        with picture_style():
            save_picture(draw_layer(view), tmp_path / f"{name}.{suffix}")
    first, second = files_in(tmp_path).values()
    assert first == second and text in first and pixels not in first and date not in first


def test_custom_sequence_replaces_no_picture(models_dir, tmp_path, monkeypatch, capsys):
    """Beyond the training lengths, in one pair of quotes; among the runs found, the sum is skipped."""
    models, question = tmp_path / "models", "5 9 12 14 7 8 4 10 11"
    for task in "copy", "add":
        shutil.copytree(run_folder(models_dir, task, "encoder"), run_folder(models, task, "encoder"))
    kept = run_folder(models, "copy", "encoder") / "attention_head.png"
    kept.write_text("of the default command", encoding="utf-8")
    call_main(monkeypatch, "--models-dir", models, "--sequence", question)
    printed = capsys.readouterr()
    assert kept.read_text(encoding="utf-8") == "of the default command"
    assert "skipped: 5 9 1 2 1 4 7 8 4 1 0 1 1 is not a valid question" in printed.err
    drawn = {path.name for path in kept.parent.glob("*_5-9-12-14-7-8-4-10-11.png")}
    assert drawn == {
        f"{name}_5-9-12-14-7-8-4-10-11.png"
        for name in ("attention_head", "attention_layer")
    }
    view = make_view(load_run(models, "copy"), [question])
    fraction = view.attention.maps["encoder"][view.top_head[1:]].diagonal()[1:10].mean()
    for picture in draw_head, draw_layer:
        assert "(9 symbols; training had at most 8)" in numbers_of(picture(view))
    assert f"only {int(100 * fraction + 0.5)}% there" in title_of(draw_head(view))
    assert "training had" not in numbers_of(draw_head(make_view(view.run, ["5 9"])))
    with pytest.raises(SystemExit):                             # a task that is named must take the question
        call_main(monkeypatch, "--models-dir", models, "--task", "copy", "add", "--sequence", "5 9")
    assert capsys.readouterr().err.startswith("error: 5 9 is not a valid question for add;")
    assert (kept.parent / "attention_head_5-9.png").exists()


def test_output_dir_never_mixes_pictures_of_other_weights(
    models_dir, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    models, output = tmp_path / "models", tmp_path / "slides"
    folder, drawn = (run_folder(parent, "copy", "encoder") for parent in (models, output))
    shutil.copytree(run_folder(models_dir, "copy", "encoder"), folder)
    options = "--models-dir", models, "--output-dir", output
    call_main(monkeypatch, *options, "--format", "svg")
    (drawn / "weights_of_mine.png").write_text("mine", encoding="utf-8")
    capsys.readouterr()
    call_main(monkeypatch, *options, "--sequence", "5 9")       # of the same weights, so the others stay
    assert "removed" not in capsys.readouterr().out and (drawn / "ablation.svg").exists()
    later = time.time() + 10
    os.utime(folder / "checkpoint.pt", (later, later))
    call_main(monkeypatch, *options, "--sequence", "7")
    assert f"\n{output}: 14 files based on earlier weights removed\n" in "\n" + capsys.readouterr().out
    assert {path.name for path in drawn.iterdir()} == {"weights_of_mine.png"} | {
        f"{name}_7.png" for name in ("attention_head", "attention_layer")
    }
    shutil.copy(folder / "checkpoint.pt", drawn)
    with pytest.raises(SystemExit):
        call_main(monkeypatch, *options)
    assert capsys.readouterr().err == f"error: {drawn} holds another run; choose another --output-dir\n"


@pytest.mark.parametrize(("part", "message"), [
    ("model", "transformer.py has changed since: the same weights give other logits"),
    ("task", r"the task has changed since: ([\d ]+) gave (?!\1)[\d ]+, and now gives \1"),
])
def test_code_change_is_reported(
    part, message, models_dir, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    folder, attention = run_folder(tmp_path, "reverse", "encoder"), transformer.scaled_dot_product_attention
    shutil.copytree(run_folder(models_dir, "reverse", "encoder"), folder)
    call_main(monkeypatch, "--models-dir", tmp_path)
    page = folder / "explorer.html"
    assert capsys.readouterr().err == "" and "of 500 test sequences (" in page.read_text(encoding="utf-8")
    if part == "task":
        monkeypatch.setitem(TASKS, "reverse", Task(data.copy))
    else:
        monkeypatch.setattr(transformer, "scaled_dot_product_attention", lambda query, *more: attention(
            query.size(-1) ** 0.5 * query, *more
        ))
    (folder / "training.png").write_text("of train.py", encoding="utf-8")
    call_main(monkeypatch, "--models-dir", tmp_path)
    stored = (folder / "training.png").read_text(encoding="utf-8")
    assert stored == "of train.py"                          # nothing that was stored is drawn again
    line = rf"{folder}: code and weights no longer belong together: {message}; undo the change, or train .*\n"
    assert re.fullmatch(line, capsys.readouterr().err)
    warning = f"Code and weights no longer belong together: {message}"
    assert re.search(warning, page.read_text(encoding="utf-8"))
    assert "500 test sequences" not in page.read_text(encoding="utf-8")         # it was tested again
    monkeypatch.setattr(sys, "argv", ["train.py", "--task", "reverse", "--architecture", "encoder",
                                      "--output-dir", str(tmp_path), "--resume"])
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        run_script(train.main)
    assert stopped.value.code == 2 and (folder / "checkpoint.pt").read_bytes() == before
    errors = capsys.readouterr().err
    assert re.fullmatch(f"error: cannot resume the run in {folder}: {message}; undo .*\n", errors)


def test_finished_run_is_drawn_while_another_trains(
    models_dir, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    finished, busy = (run_folder(tmp_path, "copy", architecture) for architecture in ("encoder", "decoder"))
    for folder in finished, busy:
        shutil.copytree(run_folder(models_dir, "copy", folder.name), folder)
    with files.folder_lock(busy):
        call_main(monkeypatch, "--models-dir", tmp_path)
    assert capsys.readouterr().err.startswith(f"skipped: {busy}: another process is already writing there;")
    assert (finished / "layers.png").exists() and not (busy / "layers.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "copy", "--sequence", "5", "2", "7"], "2 is not a symbol of copy; choose from 4 … 19"),
        (["--task", "add", "--sequence", *"421"], "4 2 1 is not a valid question for add; write two"),
        (["--task", "add", "--sequence", *"4+x"], "x is not a symbol of add; choose from 0 1 2"),
        (["--task=complete", "--architecture=encoder", "--sequence", *"5___57"],
         "5 _ _ _ 5 7 is not a valid"),
        (["--task", "reverse", "--sequence", *"5_"], "_ is not a symbol of reverse; choose"),
        (["--task", "copy", "--sequence", "20"], "20 is not a symbol of copy; choose from 4 … 19"),
        (["--task", "copy", "--sequence", "five"], "five is not a symbol of copy; choose from 4 … 19"),
        (["--task", "copy", "--sequence", *["5"] * 63], "65 tokens exceed max_len=64"),
        (["--task", "revers"], "invalid choice: 'revers'"),
        (["--architecture", "gpt"], "invalid choice: 'gpt'"),
        (["--models-dir", "nowhere"], "no run of copy or reverse found in nowhere; train it: python"),
        (["--task", "sort"], "train it: python train.py --task sort --architecture encoder encoder-decoder "),
        (["--format", "gif"], "invalid choice: 'gif'"),
        (["--compare", "a", "--task", "copy"], "--compare draws all runs in its folders; drop --task"),
    ],
)
def test_bad_input_is_rejected_in_one_line(options, message, models_dir, tmp_path, monkeypatch, capsys):
    if "--models-dir" not in options:
        options = ["--models-dir", models_dir, *options]
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--output-dir", tmp_path / "out", *options)
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and not (tmp_path / "out").exists() and printed.out == ""
    assert printed.err.startswith("error: ") and message in printed.err and printed.err.count("\n") == 1


def test_unreadable_runs_are_named_and_the_rest_is_drawn(
    models_dir, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    """Of four runs, one belongs to another architecture and one is damaged."""
    models, output = tmp_path / "models", tmp_path / "out"
    for task in "copy", "reverse":
        shutil.copytree(models_dir / f"{task}_task", models / f"{task}_task")
    foreign, damaged = models / "copy_task" / "encoder-decoder", models / "reverse_task" / "encoder-decoder"
    shutil.copy(models / "copy_task" / "encoder" / "checkpoint.pt", foreign)
    content = bytearray((damaged / "checkpoint.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "checkpoint.pt").write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        options = ["--architecture", "encoder", "encoder-decoder", "--output-dir", output]
        call_main(monkeypatch, "--models-dir", models, *options)
    errors = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(errors) == 2
    reasons = {foreign: "holds task copy, architecture encoder", damaged: "is damaged (the checksum of"}
    for line, (folder, reason) in zip(errors, reasons.items(), strict=True):
        assert line.startswith(f"error: {folder / 'checkpoint.pt'} {reason}")
    drawn = {path.relative_to(output).parent.as_posix() for path in output.rglob("layers.png")}
    assert drawn == {"copy_task/encoder", "reverse_task/encoder"}
    assert (output / "copy_vs_reverse_encoder.png").exists()    # the architecture with both


def test_unwritable_folder_is_reported_before_measuring(models_dir, tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        pytest.fail("measured for nothing")

    monkeypatch.setattr(lab.ablation, "logit_margins_without", refuse)
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--models-dir", models_dir, "--output-dir", tmp_path / "file")
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and (tmp_path / "file").read_text(encoding="utf-8") == "kept"
    assert printed.err.startswith("error: cannot read or write ") and printed.err.count("\n") == 1


def test_interrupt_ends_quietly_with_130(models_dir, tmp_path, monkeypatch):
    def interrupt(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(lab.view, "Evidence", interrupt)
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--models-dir", models_dir, "--output-dir", tmp_path)
    assert stopped.value.code == 130
