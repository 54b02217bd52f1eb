"""Pictures of several runs claim only what all of them show."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import MODELS, TINY, assert_readable, call_main, title_of
from PIL import Image

import train
from lab.ablation import NOTHING
from lab.heads import list_heads
from lab.side_by_side import (
    draw_comparison,
    draw_heads,
    draw_training_curves,
    read_curves,
    read_views,
)
from lab.view import make_view
from support.config import default_config
from support.figure import percent, picture_style, save_picture
from support.runs import run_folder
from train import load_run, save_weights
from visualize import draw_kinds


def test_comparison_ablates_each_kind(models_dir):
    view = make_view(load_run(models_dir, "reverse", "encoder-decoder"))
    count = len(view.evidence.source)
    view.evidence.logit_margins[NOTHING] = torch.ones(count, 3)
    for cost, kind in (count, "encoder"), (count // 2, "decoder"), (1, "cross"):
        view.evidence.logit_margins[kind,] = torch.cat([-torch.ones(cost, 3), torch.ones(count - cost, 3)])
    figure = draw_kinds(view)
    titles = [axes.get_title(loc="left").split("\n")[:2] for axes in figure.axes[:3]]
    assert titles == [
        ["the encoder's self-attention", "without it: 0% correct"],
        ["the decoder's self-attention", "without it: 50% correct"],
        ["cross-attention", "without it: 99% correct"],
    ]
    only = "Only the encoder's self-attention is indispensable: without it, no answer is correct"
    assert title_of(figure) == only
    margins = view.evidence.logit_margins
    margins["cross",] = margins["encoder",]
    assert title_of(draw_kinds(view)) == (
        "No answer is correct without the encoder's self-attention or without cross-attention"
    )
    margins["cross",] = margins["encoder",] = margins[NOTHING]
    assert title_of(draw_kinds(view)) == (
        "The decoder's self-attention matters most: without it, 50% of the answers are correct"
    )


def test_comparison_lines_are_as_wide_as_the_weights(view):
    figure = draw_comparison([[view]])
    (kind, layer, head), (axes,) = view.top_head, figure.axes
    view.run.model(*view.attention.inputs)
    weights = view.run.model.attention_layers()[kind][layer].attention_weights[0, head]
    first = {"encoder": 1, "decoder": 4, "cross": 0}[kind]      # the query that predicts symbol 0
    tokens = {text.get_text(): text.get_bbox_patch().get_facecolor() for text in axes.texts[:5]}
    assert len({*tokens.values()} - {tokens["START"]}) == 3 and tokens["START"] == tokens["END"]
    for lines, outlined in zip(axes.collections, (False, True), strict=True):
        ends = zip(lines.get_segments(), lines.get_linewidths(), lines.get_colors(), strict=True)
        for (below, above), width, colour in ends:
            answer, key = int(below[0] - 1.5), int(above[0] - 0.5)
            assert (below[1], above[1]) == (0, 1) and outlined == (answer + key == 3 and answer < 3)
            assert width == pytest.approx(5.5 * weights[first + answer, key].item(), abs=1e-5)
            if outlined:                                        # the colour of the token that it leads to
                assert tuple(colour) == tokens[["START", "5", "9", "12"][key]]
    texts = [text.get_text() for text in axes.texts[-2:]]
    assert axes.get_title(loc="left") == f"This {MODELS[view.run.architecture]} was trained to reverse:"
    assert texts == [percent(view.evidence.accuracy_without(())), "correct without any attention"]


def test_comparison_of_models_that_fail_gives_their_accuracy(view):
    """Whoever is never correct does not need attention."""
    view.evidence.logit_margins |= {"nothing": -view.evidence.logit_margins["nothing"].abs()}
    axes, = draw_comparison([[view]]).axes
    assert axes.texts[-1].get_text() == "correct without any attention\n(0% with it)"


def test_comparison_of_two_is_as_large_as_a_link_preview(view, tmp_path):
    with picture_style():
        save_picture(draw_comparison([[view, view]]), tmp_path / "two.png")
    with Image.open(tmp_path / "two.png") as picture:
        assert picture.size == (1200, 630)


def test_training_curves_are_labelled_by_folder_and_settings(models_dir, tmp_path, monkeypatch, capsys):
    """A folder of runs next to a single run, whose model need not be a current one."""
    narrow, changed = tmp_path / "narrow", tmp_path / "changed"
    config = default_config("reverse", "encoder", **TINY | {"d_model": 8, "seed": 3})
    folder = run_folder(narrow, "reverse", "encoder")
    folder.mkdir(parents=True)
    *_, (_, checkpoint) = train.train(config, torch.device("cpu"))
    checkpoint["history"][1]["solved"] = True
    save_weights(checkpoint, folder)
    shutil.copytree(run_folder(models_dir, "reverse", "encoder"), changed)
    other = torch.load(changed / "checkpoint.pt", weights_only=True)
    other["model"]["gate"] = torch.ones(1)
    save_weights(other, changed)
    call_main(monkeypatch, "--compare", narrow, changed, "--models-dir", tmp_path)
    shown = capsys.readouterr()
    drawn, _, _, gallery = shown.out.splitlines()
    assert shown.err.startswith("skipped: ") and str(changed) in shown.err      # it has curves, but no heads
    path, title = drawn.split(": ", 1)
    assert Path(path) == tmp_path / "training_narrow_vs_changed.png"
    assert Path(gallery) == tmp_path / "index.html"
    assert Path(path).read_bytes()[1:4] == b"PNG"
    assert title == "1 of 2 runs solved the task, the earliest at step 6"
    figure = draw_training_curves(read_curves([narrow, changed]))
    assert_readable(figure)
    loss_axes, accuracy_axes = figure.axes
    for axes, key, factor in (loss_axes, "loss", 1), (accuracy_axes, "exact_match", 100):
        for line, run in zip(axes.get_lines(), (checkpoint, other), strict=True):
            assert list(line.get_xdata()) == [3, 6]
            assert list(line.get_ydata()) == pytest.approx([factor * row[key] for row in run["history"]])
    labels = [" ".join(line.get_label().split()) for line in loss_axes.get_lines()]
    for label, shown_folder in zip(labels, (folder, changed), strict=True):     # a long path may be wrapped
        assert label.replace(" ", "").startswith(f"{shown_folder}(")
    assert "d_model 8" in labels[0] and "seed 3" in labels[0]
    assert "d_model 16" in labels[1] and "seed" not in labels[1]
    assert [label.split(": ")[-1] for label in labels] == ["solved at step 6", "not solved"]
    assert draw_training_curves(read_curves([changed])).get_suptitle() == "0 of 1 runs solved the task"
    assert (tmp_path / "heads_narrow_vs_changed.png").is_file()
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--compare", narrow, tmp_path / "nothing", "--output-dir", tmp_path)
    assert stopped.value.code == 2
    assert f"no run found in {tmp_path / 'nothing'}" in capsys.readouterr().err


def test_heads_of_two_runs_are_drawn_with_their_costs(models_dir):
    folders = [run_folder(models_dir, "reverse", name) for name in ("encoder", "encoder-decoder")]
    views, errors = read_views(read_curves(folders))
    assert [*views] == folders and errors == []
    figure = draw_heads(views)
    assert_readable(figure)
    worst = []
    for axes, (folder, view) in zip(figure.axes, views.items(), strict=True):
        assert axes.get_title(loc="left").replace("\n", "") == str(folder)
        costs = [view.evidence.ablation_cost(head) for head in list_heads(view.run.model)]
        bars = [patch for patch in axes.patches if patch.get_hatch() is None]
        pairs = zip(bars[::2], bars[1::2], strict=True)
        drawn = [bar.get_width() / track.get_width() for track, bar in pairs]
        assert drawn == pytest.approx(list(map(abs, costs)), abs=0.01)
        worst.append(percent(view.evidence.accuracy - max(costs)))
    assert title_of(figure) == f"Accuracy without the most important head: {', '.join(worst)}"


def test_read_views_warns_of_changed_code(finished, tmp_path, capsys):
    folder = tmp_path / "changed"
    shutil.copytree(finished, folder)
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    checkpoint["model"]["output_projection.bias"][5] += 1
    torch.save(checkpoint, folder / "checkpoint.pt")
    views, errors = read_views(read_curves([folder]))
    assert [*views] == [folder] and errors == []
    assert capsys.readouterr().err.startswith(f"{folder}: code and weights no longer belong together: ")


def test_comparison_of_twelve_runs_fits_into_a_file_name(models_dir, tmp_path, monkeypatch, few_sequences):
    source = run_folder(models_dir, "reverse", "encoder")
    folders = [tmp_path / f"folder_with_a_long_name_{number}" for number in range(12)]
    for folder in folders:
        shutil.copytree(source, folder / "reverse_task" / "encoder")
    call_main(monkeypatch, "--compare", *folders, "--output-dir", tmp_path)
    pictures = [path.name for path in tmp_path.glob("*.png")]
    assert len(pictures) == 2 and max(map(len, pictures)) < 120
