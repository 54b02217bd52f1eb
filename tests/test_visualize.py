"""The pictures show what the model did, the right way round, and the numbers beside them are true."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from matplotlib.figure import Figure

import visualize
from analysis import attention_layers
from data import to_text
from train import load_run
from transformer import generate
from visualize import draw_map, head_picture, look_at

NAMES = ["attention_head", "attention_layer", "attention_model"]
KINDS = {"encoder": ["encoder"], "decoder": ["decoder"], "encoder-decoder": ["encoder", "decoder", "cross"]}


def test_the_best_head_has_the_largest_share_and_its_number_is_in_the_title(run):
    view = look_at(run, ["5", "9", "12"])
    (kind, layer, head), shares = view.best, view.evidence.reading.shares
    assert kind == view.kind and shares[layer, head] == shares.max()
    title = head_picture(view).get_suptitle()
    assert f"layer {layer + 1} of 2, head {head + 1} of 2" in title
    assert f"{shares.max():.1%} on the anti-diagonal" in title


def test_a_map_has_query_down_key_across_and_row_0_on_top(run):
    """Each kind of attention, on what the untrained model itself wrote."""
    view = look_at(run, ["5", "9", "12"])
    source = torch.tensor([[1, 5, 9, 12, 2]])
    prompt = ["0:START", "1:5", "2:9", "3:12", "4:END"]
    if run.config.architecture == "encoder":
        given, expected = (source,), {"encoder": (prompt, prompt)}
    else:
        answer = generate(run.model, source, 4)
        names = [to_text(token) for token in answer[0].split(1)]
        if run.config.architecture == "decoder":
            given = (torch.cat([source, answer[:, :-1]], dim=1),)
            keys = prompt + [f"{5 + i}:{name}" for i, name in enumerate(names[:-1])]
            writing = [f"{key} → {name}" for key, name in zip(keys[4:], names, strict=True)]
            expected = {"decoder": (prompt[:4] + writing, keys)}
        else:
            given = (source, torch.cat([source[:, :1], answer[:, :-1]], dim=1))
            keys = ["0:START"] + [f"{1 + i}:{name}" for i, name in enumerate(names[:-1])]
            writing = [f"{key} → {name}" for key, name in zip(keys, names, strict=True)]
            expected = {"encoder": (prompt, prompt), "decoder": (writing, keys)}
            expected["cross"] = writing, prompt
    run.model(*given, return_attention=True)
    assert list(expected) == KINDS[run.config.architecture]
    for kind, (queries, keys) in expected.items():
        axes = Figure().subplots()
        draw_map(axes, view, (kind, 1, 0), ticks=True)
        weights = attention_layers(run.model)[kind][1].attention_weights[0, 0]
        drawn = axes.collections[0].get_array().reshape(len(queries), len(keys))
        numpy.testing.assert_allclose(drawn.filled(0), weights.numpy(), atol=1e-6)
        forbidden = numpy.triu(numpy.ones(weights.shape), 1) * (kind == "decoder")
        assert (numpy.ma.getmaskarray(drawn) == forbidden).all()
        bottom, top = axes.get_ylim()
        left, right = axes.get_xlim()
        assert bottom > top and left < right                    # row 0 on top, key 0 on the left
        assert [label.get_text() for label in axes.get_yticklabels()] == queries
        assert [label.get_text() for label in axes.get_xticklabels()] == keys
        assert axes.get_ylabel().startswith("query") and axes.get_xlabel().startswith("key")
        assert axes.collections[0].get_clim() == (0, 1)
        first = {"encoder": 1, "decoder": 4, "cross": 0}[kind]
        cells = [(3 - i, first + i) for i in range(3) if first + i < len(queries)]          # key, query
        assert [cell.get_xy() for cell in axes.patches] == (cells if kind == view.kind else [])


@pytest.mark.parametrize(
    ("task", "question", "ticks"),
    [
        ("add", "4 2 + 1 9", ["0:START", "1:4", "2:2", "3:+", "4:1", "5:9", "6:END"]),
        ("complete", "5 _ 5 7", ["0:START", "1:5", "2:_", "3:5", "4:7", "5:END"]),
    ],
)
def test_digits_and_gaps_are_shown_as_a_person_writes_them(task, question, ticks, models_dir):
    view = look_at(load_run(models_dir, task, "encoder"), question.split())
    picture = head_picture(view)
    assert [label.get_text() for label in picture.axes[0].get_xticklabels()] == ticks
    caption = picture.get_supxlabel()
    assert f"{task}, encoder: {question} → " in caption
    assert ("to be filled in" in caption) == (task == "complete")
    length = 7 if task == "add" else 8                      # of seq_len 8, the longest sum has 7
    assert f"sequences of {length} symbols" in caption


def call_main(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["visualize.py", *map(str, options)])
    visualize.main()


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_all_pictures_are_written_and_the_same_input_gives_the_same_bytes(
    suffix, models_dir, tmp_path, monkeypatch
):
    written = []
    for output in (tmp_path / "first", tmp_path / "second"):
        options = "--models-dir", models_dir, "--output-dir", output, "--format", suffix
        call_main(monkeypatch, *options, "--sequence", 5, 9, 12, 14)
        written.append({path.relative_to(output): path.read_bytes() for path in output.rglob("*.*")})
    expected = {
        Path(f"{task}_task", architecture, f"{name}.{suffix}")
        for task in ("copy", "reverse") for architecture in ("encoder", "encoder-decoder")
        for name in [*NAMES, "attention_kinds"][: 4 if architecture == "encoder-decoder" else 3]
    }
    assert set(written[0]) == expected | {Path(f"copy_vs_reverse.{suffix}")}
    assert written[0] == written[1]
    if suffix == "svg":
        assert not any(b"<image" in picture for picture in written[0].values())     # vectors, no pixels


def test_pictures_land_beside_the_run_without_a_display(models_dir, tmp_path):
    shutil.copytree(models_dir, tmp_path / "models")
    result = subprocess.run(
        [sys.executable, "visualize.py", "--task=copy", "--architecture=decoder", "--dark",
         f"--models-dir={tmp_path / 'models'}"],
        capture_output=True, text=True, cwd=Path(visualize.__file__).parent, timeout=100,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    for name in NAMES:
        assert (tmp_path / "models" / "copy_task" / "decoder" / f"{name}.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sequence", "5", "2", "7"], "symbol 2 is not content of copy; choose from 4 … 19"),
        (["--task", "add", "--sequence", *"421"], "4 2 1 is nothing to add; write two numbers of as"),
        (["--task", "add", "--sequence", *"4+x"], "symbol x is not content of add; choose from 0 … 9 and"),
        (["--task=complete", "--architecture=encoder", "--sequence", *"5___57"], "nothing to complete"),
        (["--task", "reverse", "--sequence", *"5_"], "symbol _ is not content of reverse; choose"),
        (["--sequence", "20"], "symbol 20 is not content of copy; choose from 4 … 19"),
        (["--sequence", "five"], "symbol five is not content of copy; choose from 4 … 19"),
        (["--sequence", *["5"] * 63], "65 tokens are more than max_len=64"),
        (["--task", "revers"], "invalid choice: 'revers'"),
        (["--architecture", "gpt"], "invalid choice: 'gpt'"),
        (["--models-dir", "nowhere"], "train it first: python train.py --task copy"),
        (["--format", "gif"], "invalid choice: 'gif'"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    options, message, models_dir, tmp_path, monkeypatch, capsys
):
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--models-dir", models_dir, "--output-dir", tmp_path / "out", *options)
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and not (tmp_path / "out").exists() and printed.out == ""
    assert printed.err.startswith("error: ") and message in printed.err and printed.err.count("\n") == 1
