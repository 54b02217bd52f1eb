"""The pictures show what the model did, the right way round, and the numbers beside them are true."""

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from conftest import KINDS, TINY
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch.nn import functional

import data
import train
import visualize
from analysis import head_table, rollout
from data import ARCHITECTURES, TASKS, Task, to_text
from train import load_run, run_folder, save_checkpoint
from transformer import generate
from visualize import (
    draw_map,
    head_picture,
    heads_picture,
    influence_picture,
    knock_out_picture,
    layers_picture,
    lengths_picture,
    look_at,
    query_picture,
    runs_in,
    training_curves_picture,
)

NAMES = [
    "attention_head", "attention_layer", "attention_model", "influence", "knock_out", "heads", "lengths",
    "layers", "query",
]


@pytest.fixture(scope="session")
def measured(run):
    """One question to a tiny run of each architecture, and what is measured of it; leave it as it is."""
    return look_at(run, ["5", "9", "12"])


def test_the_best_head_has_the_largest_share_and_its_number_is_in_the_title(measured):
    view = measured
    (kind, layer, head), shares = view.best, view.evidence.reading.shares
    assert kind == view.kind and shares[layer, head] == shares.max()
    title = head_picture(view).get_suptitle()
    assert f"layer {layer + 1} of 2, head {head + 1} of 2" in title
    assert f"{shares.max():.1%} on the anti-diagonal" in title


def test_a_map_has_query_down_key_across_and_row_0_on_top(run, measured):
    """Each kind of attention, on what the untrained model itself wrote."""
    view = measured
    source = torch.tensor([[1, 5, 9, 12, 2]])
    prompt = ["0:START", "1:5", "2:9", "3:12", "4:END"]
    if run.architecture == "encoder":
        given, expected = (source,), {"encoder": (prompt, prompt)}
    else:
        answer = generate(run.model, source, 4)
        names = [to_text(token) for token in answer[0].split(1)]
        if run.architecture == "decoder":
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
    run.model(*given)
    assert list(expected) == KINDS[run.architecture]
    for kind, (queries, keys) in expected.items():
        axes = Figure().subplots()
        draw_map(axes, view, (kind, 1, 0), ticks=True)
        weights = run.model.attention_layers()[kind][1].attention_weights[0, 0]
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


@pytest.fixture
def view(measured):
    """One question to a tiny run of each architecture, with evidence that is not the same everywhere."""
    view = copy.deepcopy(measured)
    for scores in view.evidence.zero_ablation, view.evidence.mean_ablation:
        scores |= {part: 1 - place / 50 for place, part in enumerate(scores)}
    view.evidence.lens = [(0.1, 0.0), (0.3, 0.25), (1.0, 0.875)]
    for row in view.evidence.lengths:
        row["exact_match"] = 1 / row["length"]
    return view


def names(labels):
    return [label.get_text() for label in labels]


def test_the_influence_picture_shows_attention_rollout_and_influence_on_one_scale(view):
    figure, evidence = influence_picture(view), view.evidence
    kind, layer, head = view.best
    first = 9 if kind == "decoder" else 1 if kind == "encoder" else 0       # the query that says symbol 0
    maps = evidence.reading.maps[kind][layer, :, head], rollout(evidence.reading.maps), evidence.influence
    for axes, expected in zip(figure.axes[:3], maps, strict=True):
        drawn = axes.collections[0].get_array()
        numpy.testing.assert_allclose(drawn.filled(numpy.nan), expected.nanmean(dim=0)[first:], atol=1e-6)
        assert axes.collections[0].get_clim() == (0, 1) and names(axes.get_yticklabels())[0] == "→ 1"
        assert names(axes.get_xticklabels())[:10] == ["START", *"12345678", "END"]
        assert [cell.get_xy() for cell in axes.patches] == [(8 - i, i) for i in range(8)]       # key, query
    shares = [axes.get_title().split(": ")[1] for axes in figure.axes[:3]]
    on_answers = sum(evidence.influence[:, first + i, 8 - i].sum() for i in range(8))
    first_share, last_share = float(shares[0][:-1]), float(shares[2][:-1])
    assert first_share == pytest.approx(100 * evidence.reading.shares.max().item(), abs=0.051)
    assert last_share == pytest.approx(100 * (on_answers / evidence.influence.nansum()).item(), abs=0.051)
    assert f"{shares[2]} of the influence on the answers comes from the anti" in figure.get_suptitle()


def test_the_knock_out_picture_shows_what_is_left_without_each_part(view):
    map_axes, bar_axes = knock_out_picture(view).axes
    left, by_mean = view.evidence.zero_ablation, view.evidence.mean_ablation
    drawn = map_axes.collections[0].get_array()
    layers = [name.rsplit(" ", 1) for name in names(map_axes.get_yticklabels())]
    for (kind, layer), row in zip(layers, drawn, strict=True):
        numpy.testing.assert_allclose(row, [100 * left[kind, int(layer) - 1, head] for head in range(2)])
    assert [text.get_text() for text in map_axes.texts] == [f"{share:.0f}" for share in drawn.flat]
    bars = dict(zip(names(bar_axes.get_yticklabels()), zip(*bar_axes.containers, strict=True), strict=True))
    assert bars["all attention"][0].get_width() == 100 * left[visualize.ALL_ATTENTION]
    assert bars["all attention"][1].get_width() == 100 * by_mean[visualize.ALL_ATTENTION]
    if len(view.maps) > 1:
        assert bars["all cross"][1].get_width() == 100 * by_mean["cross",]
    last = view.kind, 1
    assert bars[f"{view.kind} 2"][0].get_width() == 100 * left[last]


def test_the_cards_are_those_of_the_table_of_heads_in_its_order(view):
    figure, table = heads_picture(view), head_table(view.run, view.evidence)
    cards = [axes.texts[0].get_text().split("\n") for axes in figure.axes if axes.texts]
    maps = [axes.collections[0].get_array() for axes in figure.axes if axes.collections]
    assert len(cards) == len(maps) == len(table)
    for card, drawn, row in zip(cards, maps, table, strict=True):
        assert card[0] == f"{row['kind']} {row['layer']}, head {row['head']}"
        assert card[1] == f"costs {row['cost']:.1%}".replace(".0%", "%")
        expected = view.evidence.reading.maps[row["kind"]][row["layer"] - 1, :, row["head"] - 1].mean(dim=0)
        numpy.testing.assert_allclose(drawn, expected, atol=1e-6)
    assert f"{cards[0][0]} {cards[0][1].replace('costs', 'costs most,')} of exact" in figure.get_suptitle()
    view.evidence.zero_ablation |= dict.fromkeys(view.evidence.zero_ablation, 1.0)
    assert "no head alone costs exact match" in heads_picture(view).get_suptitle()


def test_lengths_and_layers_are_drawn_as_measured(view):
    axes = lengths_picture(view).axes[0]
    exact_match, shares, _ = axes.get_lines()
    assert list(exact_match.get_xdata()) == list(range(1, 17))
    assert list(exact_match.get_ydata()) == pytest.approx([100 / length for length in range(1, 17)])
    expected = [100 * row["shares"][view.best[1:]].item() for row in view.evidence.lengths]
    assert list(shares.get_ydata()) == pytest.approx(expected)
    shaded = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (shaded.x0, shaded.x1) == (pytest.approx(0.5), pytest.approx(8.5))           # trained on 1 … 8
    picture = layers_picture(view)
    scores = next(axes for axes in picture.axes if axes.get_lines())
    assert [list(line.get_ydata()) for line in scores.get_lines()] == [[0, 25, 87.5], [10, 30, 100]]
    assert "first appear in " in (title := picture.get_suptitle())
    assert "layer 2, tokens right 30% → 100%\n" in title
    view.evidence.lens[2] = (0.5, 0.25)
    assert "in no layer; tokens right at the end 50%" in layers_picture(view).get_suptitle()


def test_a_query_can_be_redone_from_the_numbers_shown(view):
    axes = query_picture(view).axes[0]
    assert names(axes.get_yticklabels())[1] == "x = q·k / √8"
    columns = len(axes.get_xticklabels())
    numbers = numpy.array([float(text.get_text()) for text in axes.texts])
    scores, scaled, powers, weights = numbers.reshape(4, columns)
    numpy.testing.assert_allclose(scaled, scores / 8**0.5, atol=0.01)
    numpy.testing.assert_allclose(powers, numpy.exp(scaled - scaled.max()), atol=0.02)
    numpy.testing.assert_allclose(weights, powers / powers.sum(), atol=0.002)
    kind, layer, head = view.best
    query = view.cells[len(view.cells) // 2][0]
    numpy.testing.assert_allclose(weights, view.maps[kind][layer, head, query, :columns], atol=0.0006)
    assert view.maps[kind][layer, head, query, columns:].sum() == 0


def rank_of_each_symbol(content):
    """How many symbols of the question are smaller; one_hot fails without a row or with other tokens."""
    counts = functional.one_hot(content - 4, 16).sum(dim=1)
    return 4 + (counts.cumsum(dim=1) - counts).gather(1, content - 4)


OWN = {
    "shift": (Task(lambda content: content.roll(1, dims=1)), "on the needed symbols"),
    "next": (Task(lambda content: 4 + (content - 3) % 16), "on the diagonal"),
    "parity": (Task(lambda content: 4 + content.sum(dim=1, keepdim=True) % 2), "on the needed symbols"),
    "different": (
        Task(lambda content: 4 + (functional.one_hot(content - 4).amax(dim=1).sum(dim=1, keepdim=True) - 1)),
        "on the needed symbols",
    ),
    "triple": (Task(lambda content: content.repeat(1, 3), settings={"seq_len": 14}), "on the needed symbols"),
    "constant": (Task(lambda content: torch.full((len(content), 1), 7)), "on nothing"),
    "palindrome": (
        Task(lambda content: content[:, :1], is_valid=lambda content: (content == content.flip(1)).all(dim=1),
             settings={"seq_len": 2}), "cannot be measured",
    ),
    "rank": (Task(rank_of_each_symbol), "on the needed symbols"),
    "letters": (
        Task(data.reverse, symbols=range(4, 7), names={4: "a", 5: "b", 6: "c"}), "on the anti-diagonal"
    ),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("task", OWN)
def test_every_picture_of_a_task_of_ones_own_is_drawn_and_claims_nothing_false(
    task, architecture, tmp_path, monkeypatch, few_sequences
):
    monkeypatch.setitem(TASKS, task, OWN[task][0])
    config = train.recipe(task, architecture, **TINY | {"epochs": 1})
    train.check_config(config)
    (_, checkpoint), = train.train(config, torch.device("cpu"))
    folder = run_folder(tmp_path, task, architecture)
    folder.mkdir(parents=True)
    save_checkpoint(checkpoint, folder)
    view = look_at(load_run(tmp_path, task, architecture), ["cab"] if task == "letters" else None)
    if task == "letters":
        assert view.answer.startswith("c a b → ")
    for name, picture in visualize.PICTURES.items():
        if name != "attention_kinds" or len(view.maps) > 1:
            figure = picture(view)
            figure.draw_without_rendering()
            words = figure.findobj(Text)
            assert not any("nan" in text.get_text() for text in words), name
            if name in ("attention_head", "attention_layer", "attention_kinds"):
                assert OWN[task][1] in figure.get_suptitle()
            if OWN[task][1] in ("on nothing", "cannot be measured"):
                assert not any("% on" in text.get_text() for text in words), name
                assert "utlined" not in figure.get_supxlabel()
    assert bool(view.cells) == OWN[task][1].startswith("on the")


def call_main(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["visualize.py", *map(str, options)])
    visualize.main()


def pictures_of(tasks, architectures, suffix):
    """The files that a run of visualize.py writes for these, besides the comparison."""
    expected = {
        Path(f"{task}_task", architecture, name) for task in tasks for architecture in architectures
        for name in ["heads.csv", *(f"{name}.{suffix}" for name in NAMES)]
    }
    if "encoder-decoder" in architectures:
        expected |= {Path(f"{task}_task/encoder-decoder/attention_kinds.{suffix}") for task in tasks}
    return expected


def test_without_options_the_runs_that_are_found_are_drawn_and_named(
    models_dir, tmp_path, monkeypatch, capsys
):
    models, output = tmp_path / "models", tmp_path / "out"
    for task, architecture in ("copy", "encoder"), ("reverse", "encoder"), ("add", "encoder"):
        shutil.copytree(run_folder(models_dir, task, architecture), run_folder(models, task, architecture))
    shutil.copytree(run_folder(models, "copy", "encoder"), run_folder(models, "mine", "encoder"))
    call_main(monkeypatch, "--models-dir", models, "--output-dir", output)
    written = {path.relative_to(output) for path in output.rglob("*.*")}
    assert written == pictures_of(["copy", "reverse", "add"], ["encoder"], "png") | {
        Path("copy_vs_reverse_encoder.png")
    }
    printed = capsys.readouterr()
    assert printed.out.startswith("drawing copy, encoder; reverse, encoder; add, encoder\n")
    assert printed.err == "not drawn: mine, encoder, which data.py does not know\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--task", "add"], [("encoder", "add"), ("encoder-decoder", "add")]),
        (["--task", "complete", "sort"], [("encoder", "complete"), ("encoder", "sort")]),
        (["--architecture", "decoder"], [("decoder", "copy"), ("decoder", "reverse")]),
        (["--task", "sort", "--architecture", "decoder"], [("decoder", "sort")]),
        ([], [
            ("encoder", "copy"), ("encoder", "reverse"), ("encoder", "add"), ("encoder", "complete"),
            ("decoder", "copy"), ("decoder", "reverse"),
            ("encoder-decoder", "copy"), ("encoder-decoder", "reverse"), ("encoder-decoder", "add"),
        ]),
    ],
)
def test_naming_runs_asks_for_just_those(options, expected, models_dir, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["visualize.py", "--models-dir", str(models_dir), *options])
    assert visualize.wanted_runs(visualize.parse()) == expected


@pytest.mark.parametrize(
    ("suffix", "task", "architecture"),
    [("png", "complete", "encoder"), ("svg", "reverse", "encoder-decoder"), ("pdf", "copy", "encoder")],
)
def test_the_same_input_gives_the_same_bytes_and_vectors_are_vectors(
    suffix, task, architecture, models_dir, tmp_path, monkeypatch
):
    written = []
    for output in (tmp_path / "first", tmp_path / "second"):
        options = ["--task", task, "--architecture", architecture, "--format", suffix]
        call_main(monkeypatch, "--models-dir", models_dir, "--output-dir", output, *options)
        written.append({path.relative_to(output): path.read_bytes() for path in output.rglob("*.*")})
    assert set(written[0]) == pictures_of([task], [architecture], suffix) and written[0] == written[1]
    marks = {"svg": (b"<image", b"</text>"), "pdf": (b"/Subtype /Image", b"/ToUnicode")}
    for path, picture in written[0].items():
        if path.suffix[1:] in marks:                            # vectors, no pixels, and text stays text
            bitmap, text = marks[path.suffix[1:]]
            assert bitmap not in picture and text in picture, path


def test_a_sequence_of_ones_own_replaces_no_picture_and_its_title_tells_of_it(
    models_dir, tmp_path, monkeypatch, capsys
):
    """Longer than in training, in one pair of quotes; of the runs found, a sum cannot be asked."""
    models, question = tmp_path / "models", "5 9 12 14 7 8 4 10 11"
    for task in "copy", "add":
        shutil.copytree(run_folder(models_dir, task, "encoder"), run_folder(models, task, "encoder"))
    kept = run_folder(models, "copy", "encoder") / "attention_head.png"
    kept.write_text("of the default command")
    call_main(monkeypatch, "--models-dir", models, "--sequence", question)
    printed = capsys.readouterr()
    assert kept.read_text() == "of the default command"
    assert "not drawn: add, encoder: 5 9 1 2 1 4 7 8 4 1 0 1 1 is not a valid question" in printed.err
    drawn = {path.name for path in kept.parent.glob("*_5-9-12-14-7-8-4-10-11.png")}
    assert drawn == {
        f"{name}_5-9-12-14-7-8-4-10-11.png"
        for name in ("attention_head", "attention_layer", "attention_model", "query")
    }
    view = look_at(load_run(models, "copy"), [question])
    share = view.maps["encoder"][view.best[1:]].diagonal()[1:10].mean()
    for picture in head_picture, query_picture:
        *_, first, second = picture(view).get_suptitle().split("\n")
        assert first.startswith(f"this sequence: {view.answer[-1]}, {share:.1%} on the diagonal")
        assert second == "longer than in training: 9 symbols instead of at most 8"
    short = head_picture(look_at(view.run, ["5 9"])).get_suptitle()
    assert "this sequence: " in short and "longer" not in short
    assert "this sequence" not in head_picture(look_at(view.run)).get_suptitle()


def test_training_again_removes_the_pictures_of_the_older_weights_and_nothing_else(
    models_dir, tmp_path, monkeypatch
):
    folder = run_folder(tmp_path, "copy", "encoder")
    shutil.copytree(run_folder(models_dir, "copy", "encoder"), folder)
    trained = {path.name for path in folder.iterdir()}
    call_main(monkeypatch, "--models-dir", tmp_path)
    call_main(monkeypatch, "--models-dir", tmp_path, "--sequence", "5 9", "--format", "svg")
    assert len(list(folder.iterdir())) > 3 * len(trained)
    stale = tmp_path / "copy_vs_reverse_encoder.png", tmp_path / "sort_vs_copy_5-9.svg"
    kept = (
        folder / "my_notes.png", tmp_path / "reverse_vs_photocopy.png", tmp_path / "training_copy_vs_b.png"
    )
    for path in *stale, *kept:
        path.write_text("something")
    train.train_and_save(load_run(tmp_path, "copy").config, torch.device("cpu"), folder, quiet=True)
    assert {path.name for path in folder.iterdir()} == trained | {"my_notes.png"}
    assert all(path.exists() for path in kept) and not any(path.exists() for path in stale)


def test_training_curves_of_several_runs_are_labelled_by_what_differs(
    models_dir, tmp_path, monkeypatch, capsys
):
    """A folder of runs beside a single run, of which the model need not be one of today's."""
    narrow, changed = tmp_path / "narrow", tmp_path / "changed"
    config = train.recipe("reverse", "encoder", **TINY | {"d_model": 8, "seed": 3})
    folder = run_folder(narrow, "reverse", "encoder")
    folder.mkdir(parents=True)
    *_, (_, checkpoint) = train.train(config, torch.device("cpu"))
    checkpoint["history"][1]["solved"] = True
    save_checkpoint(checkpoint, folder)
    shutil.copytree(run_folder(models_dir, "reverse", "encoder"), changed)
    other = torch.load(changed / "checkpoint.pt", weights_only=True)
    other["model"]["gate"] = torch.ones(1)
    save_checkpoint(other, changed)
    call_main(monkeypatch, "--compare", narrow, changed, "--models-dir", tmp_path)
    path, title = capsys.readouterr().out.strip().split(": ", 1)
    assert Path(path) == tmp_path / "training_narrow_vs_changed.png"
    assert Path(path).read_bytes()[1:4] == b"PNG"
    assert title == "reverse, encoder: 1 of 2 runs solved it, the first at step 6: d_model 8, seed 3"
    loss_axes, accuracy_axes = training_curves_picture(runs_in([narrow, changed])).axes
    curves = dict(zip(["d_model 8, seed 3", "d_model 16, seed 0"], (checkpoint, other), strict=True))
    for axes, key, factor in (loss_axes, "loss", 1), (accuracy_axes, "exact_match", 100):
        for line, (label, run) in zip(axes.get_lines(), curves.items(), strict=False):
            assert line.get_label().startswith(label)
            assert list(line.get_xdata()) == [3, 6]
            assert list(line.get_ydata()) == pytest.approx([factor * row[key] for row in run["history"]])
    shutil.copytree(changed, tmp_path / "same")
    axes = training_curves_picture(runs_in([changed, tmp_path / "same"])).axes[0]
    labels = [line.get_label() for line in axes.get_lines()]
    assert labels == [f"{changed}: not solved", f"{tmp_path / 'same'}: not solved"]
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--compare", narrow, tmp_path / "nothing", "--output-dir", tmp_path)
    assert stopped.value.code == 2
    assert f"there is no run in {tmp_path / 'nothing'}" in capsys.readouterr().err


def test_pictures_land_beside_the_run_without_a_display(models_dir, tmp_path):
    shutil.copytree(models_dir, tmp_path / "models")
    result = subprocess.run(
        [sys.executable, "visualize.py", "--task=copy", "--architecture=decoder", "--dark",
         f"--models-dir={tmp_path / 'models'}"],
        capture_output=True, text=True, cwd=Path(visualize.__file__).parent, timeout=100,
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
        (["--task", "copy", "--sequence", *["5"] * 63], "65 tokens are more than max_len=64"),
        (["--task", "revers"], "invalid choice: 'revers'"),
        (["--architecture", "gpt"], "invalid choice: 'gpt'"),
        (["--models-dir", "nowhere"], "there is no run in nowhere; train first: python train.py"),
        (["--task", "sort"], "train it: python train.py --task sort --architecture encoder --output-dir "),
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


def test_runs_that_cannot_be_read_are_named_and_the_others_are_drawn(
    models_dir, tmp_path, monkeypatch, capsys
):
    """Of four runs one is another architecture's, and one is damaged."""
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
    reasons = {foreign: "of task copy, architecture encoder", damaged: "damaged (wrong checksum"}
    for line, (folder, reason) in zip(errors, reasons.items(), strict=True):
        assert line.startswith(f"error: {folder / 'checkpoint.pt'} is {reason}")
    drawn = {path.relative_to(output).parent.as_posix() for path in output.rglob("query.png")}
    assert drawn == {"copy_task/encoder", "reverse_task/encoder"}
    assert (output / "copy_vs_reverse_encoder.png").exists()    # the architecture with both


def test_a_folder_that_cannot_be_written_is_one_line_before_any_measuring(
    models_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(visualize, "measure", lambda run: pytest.fail("measured for nothing"))
    (tmp_path / "file").write_text("kept")
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--models-dir", models_dir, "--output-dir", tmp_path / "file")
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and (tmp_path / "file").read_text() == "kept"
    assert printed.err.startswith("error: cannot write the pictures: ") and printed.err.count("\n") == 1


def test_an_interrupted_run_ends_quietly_with_130(models_dir, tmp_path, monkeypatch):
    def interrupt(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(visualize, "measure", interrupt)
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--models-dir", models_dir, "--output-dir", tmp_path)
    assert stopped.value.code == 130
