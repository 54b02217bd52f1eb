"""The pictures show what the model did, the right way round, and their numbers are correct."""

import itertools
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
import torch
from conftest import (
    ROOT,
    TINY,
    assert_readable,
    call_main,
    names_of,
    numbers_of,
    outlined,
    title_of,
)
from torch.nn import functional

import data
import lab.ablation
import lab.evidence
import support.config
import support.figure
import train
import transformer
import visualize
from data import ARCHITECTURES, TASKS, Task
from lab import maps
from lab.ablation import NOTHING
from lab.heads import list_heads, list_parts
from lab.maps import format_weight
from lab.side_by_side import draw_comparison
from lab.view import format_cost, make_view
from lab.what_matters import draw_influence, draw_lengths
from support import files
from support.config import default_config
from support.console import run_script
from support.figure import picture_style
from support.record import append_epoch, recorded_questions
from support.runs import Run, run_folder
from train import load_run
from visualize import draw_head, draw_layer, draw_model

NAMES = [
    "attention_head", "attention_layer", "attention_model", "influence", "ablation", "layers", "training",
]
TABLES = ["heads.csv", "mistakes.csv", "film.gif", "explorer.html"]


def test_model_picture_frames_heads_that_matter(view):
    evidence, heads = view.evidence, list_heads(view.run.model)
    evidence.logit_margins |= {head: evidence.logit_margins[NOTHING] for head in heads[1:]}
    figure = draw_model(view)
    axes, = figure.axes
    count, name = f"Heads that matter on their own: 1 of {len(heads)}", view.describe_part(heads[0])
    assert title_of(figure).startswith(f"{count}; without {name}: accuracy 100% → ")
    lost = 100 * (evidence.logit_margins[heads[0]] < 0)[:, 0].double().mean().item()
    assert [text.get_text() for text in axes.texts if "−" in text.get_text()] == [f"−{math.ceil(lost)}"]
    veils = [patch for patch in axes.patches if patch.get_alpha() == 0.6]
    assert len(veils) == len(heads) - 1


def test_heads_that_matter_are_never_pale(few_sequences, few_lengths):
    view = untrained_view("reverse", "encoder", **SIZES["32 heads"])
    right = torch.ones(30, 3)
    view.evidence.logit_margins = {part: right for part in [NOTHING, *list_parts(view.run.model)]}
    view.evidence.logit_margins[list_heads(view.run.model)[5]] = -right
    with picture_style():
        axes, = draw_model(view).axes
    assert sum(patch.get_alpha() == 0.6 for patch in axes.patches) == 31
    assert not any("−" in text.get_text() for text in axes.texts)


def test_run_without_attention_history_has_no_animation(
    models_dir, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    folder = run_folder(tmp_path, "copy", "encoder")
    shutil.copytree(run_folder(models_dir, "copy", "encoder"), folder)
    (folder / "attention.npz").write_text("no record")
    call_main(monkeypatch, "--models-dir", tmp_path)
    assert capsys.readouterr().err == "" and not list(folder.glob("film*"))
    assert (folder / "layers.png").exists()


def test_head_picture_shows_the_softmax_of_a_row(view):
    table = draw_head(view).axes[1]
    assert names_of(table.get_yticklabels())[1] == "x = q·k / √8"
    numbers = numpy.array([float(text.get_text().replace("−", "-")) for text in table.texts])
    scores, scaled, powers, weights = numbers.reshape(4, -1)
    numpy.testing.assert_allclose(scaled, scores / 8**0.5, atol=0.01)
    numpy.testing.assert_allclose(powers, numpy.exp(scaled - scaled.max()), atol=0.02)
    numpy.testing.assert_allclose(weights, powers / powers.sum(), atol=0.002)
    kind, layer, head = view.top_head
    query = maps.pick_query(view)
    assert view.attention.answer_sources[0][query].any()
    row = view.attention.maps[kind][layer, head, query]
    numpy.testing.assert_allclose(weights, row[: len(weights)], atol=0.0006)
    assert row[len(weights) :].sum() == 0
    cells = [key for key, _ in outlined(table)]                 # the correct keys are marked
    assert cells == view.attention.answer_sources[0][query].nonzero().flatten().tolist()


def test_titles_compare_with_chance(view):
    """85% against 80% for uniform attention; an irreplaceable symbol; a harmful head."""
    evidence, (_, layer, head) = view.evidence, view.top_head
    view.attention.mass[layer, head], view.attention.chance = 0.85, 0.8
    assert title_of(draw_head(view)).startswith("No head ")
    assert "(uniform: 80%)" in title_of(draw_head(view))
    assert title_of(draw_layer(view)).endswith("attending mainly to the needed symbols: 0 of 2")
    assert "(uniform: 80%)" in draw_layer(view).get_supxlabel()
    view.attention.mass[layer, head] = 0.9375
    assert visualize.head_title(view).endswith(
        " spends 93% of its attention on the symbols the answer needs (uniform: 80%)"
    )
    evidence.attention.mass, evidence.attention.chance = evidence.attention.mass * 0 + 0.1355, 0.1
    assert "no head attends to them much: 14% at most (uniform: 10%)" in title_of(draw_influence(view))
    evidence.influence = evidence.influence * math.nan
    assert title_of(draw_influence(view)).startswith("No symbol could be replaced, so what the answers")
    harmful, count = list_heads(view.run.model)[0], len(evidence.source)
    evidence.logit_margins |= {
        NOTHING: torch.cat([-torch.ones(count // 4, 3), torch.ones(count - count // 4, 3)]),
        harmful: torch.ones(count, 3),
    }
    assert format_cost(view, harmful) == "costs nothing (accuracy rises by 25 points)"
    assert "+25" in [text.get_text() for text in draw_model(view).axes[0].texts]
    evidence.logit_margins = {part: -torch.ones(count, 3) for part in evidence.logit_margins}
    assert title_of(draw_model(view)) == "The model is never correct, so no ablation can make it worse"


def test_format_weight_uses_powers_of_ten():
    written = [format_weight(value) for value in (1.0, 0.0123, 0.001, 0.00031, 2e-12, 0.0)]
    assert written == ["1.000", "0.012", "0.001", "3e-4", "2e-12", "0.000"]


def rank_of_each_symbol(content):
    """Count the smaller symbols in the question; one_hot fails without a row or with other tokens."""
    counts = functional.one_hot(content - 4, 16).sum(dim=1)
    return 4 + (counts.cumsum(dim=1) - counts).gather(1, content - 4)


MARKS = ["$x$", "$", "a^_", "\\frac", "%s", "{0}", "<b>", "五"]
OWN = {                                                     # a task, and what it has outlined
    "shift": (Task(lambda content: content.roll(1, dims=1)), True),
    "next": (Task(lambda content: 4 + (content - 3) % 16), True),
    "parity": (Task(lambda content: 4 + content.sum(dim=1, keepdim=True) % 2), True),
    "different": (
        Task(lambda content: 3 + functional.one_hot(content - 4).amax(dim=1).sum(dim=1, keepdim=True)), True
    ),
    "triple": (Task(lambda content: content.repeat(1, 3), settings={"seq_len": 14}), True),
    "constant": (Task(lambda content: torch.full((len(content), 1), 7)), "the answer depends on no symbol"),
    "palindrome": (
        Task(lambda content: content[:, :1], is_valid=lambda content: (content == content.flip(1)).all(dim=1),
             settings={"seq_len": 2}), "what the answer depends on cannot be measured",
    ),
    "rank": (Task(rank_of_each_symbol), True),
    "letters": (Task(data.reverse, symbols=range(4, 7), token_names={4: "a", 5: "b", 6: "c"}), True),
    "marks": (Task(data.reverse, symbols=range(4, 12), token_names=dict(enumerate(MARKS, 4))), True),
}


def pictures_of_view(view, several=1):
    """All pictures of one run, and comparisons as if there were several such runs."""
    with picture_style():
        return {
            name: figure for name, picture in visualize.PICTURES.items() if (figure := picture(view))
        } | {
            "lengths": draw_lengths([view] * several),
            "lines": draw_comparison([[view] * several] * several),
        }


def untrained_view(task, architecture, words=None, **sizes):
    """For a model that answers nonsense, as if trained for one epoch."""
    config = default_config(task, architecture, **TINY | sizes)
    config.check()
    torch.manual_seed(0)
    row = {"step": 8, "loss": 1.0, "token_accuracy": 0.2, "exact_match": 0.1, "seconds": 1.0, "solved": False}
    view = make_view(Run(config.build_model().eval(), config, [row], Path()), words)
    view.attention_history = append_epoch(None, view.run.model, recorded_questions(config), row)
    return view


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("task", OWN)
def test_pictures_of_custom_tasks_claim_nothing_false(
    task, architecture, monkeypatch, few_sequences, few_lengths
):
    monkeypatch.setitem(TASKS, task, OWN[task][0])
    view = untrained_view(task, architecture, ["cab"] if task == "letters" else None)
    if task == "letters":
        assert view.answer.startswith("c a b → ")
    if task == "marks":
        names = [tick.get_text() for tick in draw_head(view).axes[0].get_xticklabels()]
        assert {*names[1:9]} <= {*MARKS} and names[9] == "END"
    outlines = OWN[task][1]
    laid_out = architecture == ARCHITECTURES[[*OWN].index(task) % 3]        # it takes most of the time
    for name, figure in pictures_of_view(view).items():
        if laid_out:
            assert_readable(figure)
        assert not figure.get_supxlabel().startswith(" ")
        if outlines is not True:
            assert not any(word in figure.get_supxlabel() for word in ("utlined:", "Blue"))
            assert "needed sy" not in title_of(figure)
            if name in ("attention_head", "attention_layer"):
                assert outlines in title_of(figure)
    assert view.has_outline == (outlines is True)


SIZES = {
    "62 symbols": {"seq_len": 62, "d_model": 8, "num_layers": 1},
    "one layer, one head": {"num_layers": 1, "num_heads": 1},
    "odd width": {"d_model": 9, "num_heads": 1},
    "width 1": {"d_model": 1, "num_heads": 1},
    "two symbols": {"vocab_size": 6},
    "length 1": {"seq_len": 1},
    "five digits": {"vocab_size": 20_000, "d_model": 2, "num_layers": 1, "seq_len": 14},
    "many heads": {"num_heads": 16, "num_layers": 6, "seq_len": 3},
    "32 heads": {"num_heads": 32, "d_model": 32, "num_layers": 1, "seq_len": 3},
}


@pytest.mark.parametrize(("size", "architecture"), [
    *zip(SIZES, itertools.cycle(ARCHITECTURES), strict=False), ("length 1", "encoder"),
    ("two symbols", "encoder-decoder"),
])
def test_texts_never_collide_or_leave_the_picture(size, architecture, few_sequences, few_lengths):
    view = untrained_view("reverse", architecture, **SIZES[size])
    for figure in pictures_of_view(view, several=2).values():
        assert_readable(figure)


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
    call_main(monkeypatch, "--models-dir", models, "--output-dir", output)
    written = {path.relative_to(output) for path in output.rglob("*.*")}
    assert written == pictures_of(["copy", "reverse"], ["encoder"], "png") | {
        Path("copy_vs_reverse_encoder.png")
    }
    printed = capsys.readouterr()
    assert printed.out.startswith("drawing copy, encoder; reverse, encoder\n")
    assert printed.err == ""                                # data.py defines no task called mine


ANSWERS = {                                                 # own tasks, by how long their answers are
    "shorter": Task(lambda content: content[:, : (content.size(1) + 1) // 2]),
    "equal": Task(lambda content: 4 + (content - 3) % 16),
    "longer": Task(lambda content: content.repeat(1, 3)),
    "constant": Task(lambda content: torch.full((len(content), 1), 7)),
}


@pytest.mark.parametrize(
    ("task", "architecture"),
    [*itertools.product(TASKS, ARCHITECTURES), *((task, "encoder") for task in ANSWERS)],
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


@pytest.mark.parametrize(
    ("suffix", "task", "architecture", "lengths"),
    [
        ("png", "complete", "encoder", "lengths_encoder"), ("pdf", "copy", "encoder", "lengths_encoder"),
        ("svg", "reverse", "encoder-decoder", "lengths_encoder-decoder"),
    ],
)
def test_pictures_are_reproducible_and_vectors_are_vectors(
    suffix, task, architecture, lengths, models_dir, tmp_path, monkeypatch, few_sequences, few_lengths
):
    written = []
    for output in (tmp_path / "first", tmp_path / "second"):
        options = ["--task", task, "--architecture", architecture, "--format", suffix]
        call_main(monkeypatch, "--models-dir", models_dir, "--output-dir", output, *options)
        written.append({path.relative_to(output): path.read_bytes() for path in output.rglob("*.*")})
        if suffix != "png":                                 # once more, but not all of them
            monkeypatch.setattr(visualize, "PICTURES", {"influence": draw_influence})
    assert set(written[0]) == pictures_of([task], [architecture], suffix, lengths)
    if suffix == "png":
        assert set(written[1]) == set(written[0])
        for name in "index.html", "pictures.json":
            first, second = (saved.pop(Path(name)).decode() for saved in written)
            assert first.replace("/first", "/second") == second             # the folder in the command
    for path in written[1].keys() - {Path("index.html"), Path("pictures.json")}:
        assert written[0][path] == written[1][path]
    marks = {"svg": (b"<image", b"</text>"), "pdf": (b"/Subtype /Image", b"/ToUnicode")}
    for path, picture in written[0].items():
        if path.suffix[1:] in marks:                            # vectors, no pixels, and text stays text
            bitmap, text = marks[path.suffix[1:]]
            assert bitmap not in picture and text in picture, path


def test_custom_sequence_replaces_no_picture(models_dir, tmp_path, monkeypatch, capsys):
    """Beyond the training lengths, in one pair of quotes; among the runs found, the sum is skipped."""
    models, question = tmp_path / "models", "5 9 12 14 7 8 4 10 11"
    for task in "copy", "add":
        shutil.copytree(run_folder(models_dir, task, "encoder"), run_folder(models, task, "encoder"))
    kept = run_folder(models, "copy", "encoder") / "attention_head.png"
    kept.write_text("of the default command")
    call_main(monkeypatch, "--models-dir", models, "--sequence", question)
    printed = capsys.readouterr()
    assert kept.read_text() == "of the default command"
    assert "skipped: 5 9 1 2 1 4 7 8 4 1 0 1 1 is not a valid question" in printed.err
    drawn = {path.name for path in kept.parent.glob("*_5-9-12-14-7-8-4-10-11.png")}
    assert drawn == {
        f"{name}_5-9-12-14-7-8-4-10-11.png"
        for name in ("attention_head", "attention_layer", "attention_model")
    }
    view = make_view(load_run(models, "copy"), [question])
    fraction = view.attention.maps["encoder"][view.top_head[1:]].diagonal()[1:10].mean()
    for picture in draw_head, draw_layer:
        assert "(9 symbols; training had at most 8)" in numbers_of(picture(view))
    assert f"at {int(100 * fraction)}%" in title_of(draw_head(view))
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
    (drawn / "weights_of_mine.png").write_text("mine")
    capsys.readouterr()
    call_main(monkeypatch, *options, "--sequence", "5 9")       # of the same weights, so the others stay
    assert "removed" not in capsys.readouterr().out and (drawn / "ablation.svg").exists()
    later = time.time() + 10
    os.utime(folder / "checkpoint.pt", (later, later))
    call_main(monkeypatch, *options, "--sequence", "7")
    assert f"\n{output}: 16 files based on earlier weights removed\n" in "\n" + capsys.readouterr().out
    assert {path.name for path in drawn.iterdir()} == {"weights_of_mine.png"} | {
        f"{name}_7.png" for name in ("attention_head", "attention_layer", "attention_model")
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
    assert capsys.readouterr().err == "" and "of 500 test sequences (" in page.read_text()
    if part == "task":
        monkeypatch.setitem(TASKS, "reverse", Task(data.copy))
    else:
        monkeypatch.setattr(transformer, "scaled_dot_product_attention", lambda query, *more: attention(
            query.size(-1) ** 0.5 * query, *more
        ))
    (folder / "training.png").write_text("of train.py")
    call_main(monkeypatch, "--models-dir", tmp_path)
    assert (folder / "training.png").read_text() == "of train.py"           # nothing stored is drawn again
    line = rf"{folder}: code and weights no longer belong together: {message}; undo the change, or train .*\n"
    assert re.fullmatch(line, capsys.readouterr().err)
    assert re.search(f"Code and weights no longer belong together: {message}", page.read_text())
    assert "500 test sequences" not in page.read_text()         # it was tested again
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


def test_pictures_need_no_display(models_dir, tmp_path):
    shutil.copytree(models_dir, tmp_path / "models")
    result = subprocess.run(
        [sys.executable, "visualize.py", "--task=copy", "--architecture=decoder", "--dark",
         f"--models-dir={tmp_path / 'models'}"],
        capture_output=True, text=True, cwd=ROOT, timeout=100,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONIOENCODING": "cp1252"},  # as on Windows
    )
    assert result.returncode == 0, result.stderr
    for name in NAMES:
        assert (tmp_path / "models" / "copy_task" / "decoder" / f"{name}.png").read_bytes()[1:4] == b"PNG"


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
    (tmp_path / "file").write_text("kept")
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--models-dir", models_dir, "--output-dir", tmp_path / "file")
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and (tmp_path / "file").read_text() == "kept"
    assert printed.err.startswith("error: cannot read or write ") and printed.err.count("\n") == 1


def test_interrupt_ends_quietly_with_130(models_dir, tmp_path, monkeypatch):
    def interrupt(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(lab.view, "Evidence", interrupt)
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--models-dir", models_dir, "--output-dir", tmp_path)
    assert stopped.value.code == 130
