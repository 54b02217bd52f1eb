"""The pictures show what the model did, the right way round, and the numbers beside them are true."""

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from matplotlib.figure import Figure

import visualize
from data import exact_match
from train import load_run
from visualize import (
    answer_keys,
    draw_map,
    exact_match_without,
    head_picture,
    look_at,
    shares_on_answers,
    unseen_sequences,
    without_heads,
)

NAMES = ["attention_head", "attention_layer", "attention_model"]


@pytest.fixture(scope="module")
def run(models_dir):
    return load_run(models_dir, "reverse")


def without_columns(model, heads):
    """The model with the heads' columns of the output projection set to zero: another way to cut them."""
    model = copy.deepcopy(model)
    for layer, head in heads:
        attention = model.blocks[layer].attention
        size = attention.output_projection.in_features // attention.num_heads
        attention.output_projection.weight.data[:, head * size : (head + 1) * size] = 0
    return model


@pytest.mark.parametrize("heads", [[(0, 1)], [(0, 0), (1, 1)], [(0, 0), (0, 1), (1, 0), (1, 1)]])
def test_cutting_heads_equals_zeroing_their_output_columns_and_leaves_no_trace(run, heads):
    source, target = unseen_sequences(run)
    before = run.model(source)
    expected = without_columns(run.model, heads)(source)
    with without_heads(run.model, heads):
        torch.testing.assert_close(run.model(source), expected, atol=1e-5, rtol=0)
    assert torch.equal(run.model(source), before) and not torch.allclose(before, expected, atol=1e-3)
    assert exact_match_without(run, heads) == exact_match(expected.argmax(dim=-1), target)


def test_answers_stand_on_the_diagonal_for_copy_and_on_the_other_for_reverse():
    assert answer_keys("copy", 4).tolist() == [1, 2, 3, 4]
    assert answer_keys("reverse", 4).tolist() == [4, 3, 2, 1]


def test_shares_are_those_of_a_loop(run):
    source, _ = unseen_sequences(run, full_length=True)
    assert source.shape == (500, 10) and (source != 0).all()
    _, attention = run.model(source, return_attention=True)
    for layer in range(2):
        for head in range(2):
            cells = [attention[layer][:, head, 1 + i, 8 - i].mean().item() for i in range(8)]
            assert shares_on_answers(run)[layer, head].item() == pytest.approx(sum(cells) / 8, abs=1e-6)


def test_the_best_head_has_the_largest_share_and_its_number_is_in_the_title(run):
    view = look_at(run, [5, 9, 12])
    assert view.shares[view.best] == view.shares.max()
    title = head_picture(view).get_suptitle()
    assert f"layer {view.best[0] + 1} of 2, head {view.best[1] + 1} of 2" in title
    assert f"{view.shares.max():.1%} on the anti-diagonal" in title


def test_a_map_has_query_down_key_across_and_row_0_on_top(run):
    view = look_at(run, [5, 9, 12])
    axes = Figure().subplots()
    draw_map(axes, view, (1, 0), ticks=True)
    _, attention = run.model(torch.tensor([[1, 5, 9, 12, 2]]), return_attention=True)
    drawn = axes.collections[0].get_array().reshape(5, 5)
    numpy.testing.assert_allclose(drawn, attention[1][0, 0].detach().numpy(), atol=1e-6)
    bottom, top = axes.get_ylim()
    left, right = axes.get_xlim()
    assert bottom > top and left < right                    # row 0 on top, key 0 on the left
    for labels in axes.get_yticklabels(), axes.get_xticklabels():
        assert [label.get_text() for label in labels] == ["0:START", "1:5", "2:9", "3:12", "4:END"]
    assert axes.get_ylabel().startswith("query") and axes.get_xlabel().startswith("key")
    assert [cell.get_xy() for cell in axes.patches] == [(3, 1), (2, 2), (1, 3)]     # key, query
    assert axes.collections[0].get_clim() == (0, 1)


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
    folders = "copy_task/encoder", "reverse_task/encoder"
    expected = {Path(folder, f"{name}.{suffix}") for folder in folders for name in NAMES}
    assert set(written[0]) == expected | {Path(f"copy_vs_reverse.{suffix}")}
    assert written[0] == written[1]
    if suffix == "svg":
        assert not any(b"<image" in picture for picture in written[0].values())     # vectors, no pixels


def test_pictures_land_beside_the_run_without_a_display(models_dir, tmp_path):
    shutil.copytree(models_dir, tmp_path / "models")
    result = subprocess.run(
        [sys.executable, "visualize.py", "--task=copy", f"--models-dir={tmp_path / 'models'}", "--dark"],
        capture_output=True, text=True, cwd=Path(visualize.__file__).parent, timeout=100,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    for name in NAMES:
        assert (tmp_path / "models" / "copy_task" / "encoder" / f"{name}.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sequence", "5", "2", "7"], "symbol 2 is not content; choose from 4 … 19"),
        (["--sequence", "20"], "symbol 20 is not content; choose from 4 … 19"),
        (["--sequence", "five"], "invalid int value: 'five'"),
        (["--sequence", *["5"] * 63], "65 tokens are more than max_len=64"),
        (["--task", "revers"], "invalid choice: 'revers'"),
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
