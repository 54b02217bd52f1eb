"""The pictures show what the model did, the right way round, and their numbers are correct."""

import copy
import itertools
import math
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from conftest import KINDS, TINY, set_everywhere
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from PIL import Image, ImageSequence
from torch.nn import functional

import data
import lab.evidence
import lab.probes
import lab.view
import support.figure
import train
import transformer
import visualize
from data import ARCHITECTURES, TASKS, Task, to_text
from lab.ablation import NOTHING
from lab.animation import Film, film_of, film_picture, film_sentence, save_film
from lab.heads import ALL_ATTENTION, heads_of, parts_of, unseen_sequences
from lab.maps import draw_map, map_of, name_ticks
from lab.probes import loudness, untrained
from lab.side_by_side import (
    balance_picture,
    balance_sentence,
    comparison_sentence,
    evidence_in,
    lines_picture,
    runs_in,
    training_curves_picture,
)
from lab.view import look_at, price
from lab.what_matters import (
    ablation_picture,
    ablation_sentence,
    influence_picture,
    layers_picture,
    layers_sentence,
    lengths_picture,
    lengths_sentence,
)
from support import files
from support.config import check_config, recipe
from support.console import run_script
from support.figure import families, picture_style
from support.record import extended, probe_of
from support.runs import OF_ONE_QUESTION, OF_RUN, Run, is_question, remove_stale, run_folder
from train import load_run, save_checkpoint
from transformer import END, PAD, generate
from visualize import head_picture, kinds_picture, layer_picture, model_picture, number

NAMES = [
    "attention_head", "attention_layer", "attention_model", "influence", "ablation", "layers", "training",
    "mistakes", "film",
]
TABLES = ["heads.csv", "mistakes.csv", "film.gif", "explorer.html"]
MODELS = {"encoder": "encoder", "decoder": "decoder-only model", "encoder-decoder": "encoder–decoder"}


@pytest.fixture(scope="session")
def measured(run):
    """A tiny run of each architecture on one question, with its measurements; do not modify it."""
    view = look_at(run, ["5", "9", "12"])
    for measure in "reading", "influence", "lengths", "source", "lens", "margins":
        getattr(view.evidence, measure)                         # once, not in each copy of it
    return view


def test_the_best_head_has_the_largest_share_and_its_title_the_number_of_the_sequence_shown(measured):
    view = measured
    (kind, layer, head), shares = view.best, view.evidence.reading.shares
    assert kind == view.kind and shares[layer, head] == shares.max()
    first = {"encoder": 1, "decoder": 4, "cross": 0}[kind]      # the query that predicts symbol 0
    weights = view.reading.maps[kind][layer, head]
    there = [weights[first + i, 3 - i] for i in range(3) if first + i < len(weights)]
    sentence, share = sentence_of(head_picture(view)), int(100 * sum(there) / len(there))
    assert f"layer {layer + 1}, head {head + 1} comes closest, at {share}%" in sentence


def test_a_map_has_query_down_key_across_and_row_0_on_top(run, measured):
    """Each kind of attention, on the untrained model's own output."""
    view = measured
    source = torch.tensor([[1, 5, 9, 12, 2]])
    prompt = ["START", "5", "9", "12", "END"]
    if run.architecture == "encoder":
        given, expected = (source,), {"encoder": (prompt, prompt)}
    else:
        answer = generate(run.model, source, 4)
        names = [to_text(token) for token in answer[0].split(1)]
        if run.architecture == "decoder":
            given = (torch.cat([source, answer[:, :-1]], dim=1),)
            tokens = prompt + names[:-1]
            expected = {"decoder": (tokens, tokens)}
        else:
            given = (source, torch.cat([source[:, :1], answer[:, :-1]], dim=1))
            tokens = ["START", *names[:-1]]
            expected = {"encoder": (prompt, prompt), "decoder": (tokens, tokens), "cross": (tokens, prompt)}
    assert list(expected) == KINDS[run.architecture]
    for kind, (queries, keys) in expected.items():
        axes = Figure(figsize=(8, 8)).subplots()
        shown = map_of(view, (kind, 1, 0))
        run.model(*given)                                       # after what map_of may have to measure
        draw_map(axes, shown)
        name_ticks(axes, shown.queries, shown.keys)
        weights = run.model.attention_layers()[kind][1].attention_weights[0, 0]
        drawn = axes.collections[0].get_array().reshape(len(queries), len(keys))
        forbidden = numpy.triu(numpy.ones(weights.shape), 1) * (kind == "decoder")
        assert (numpy.ma.getmaskarray(drawn) == forbidden).all()
        numpy.testing.assert_allclose(drawn.filled(0), weights.numpy(), atol=1e-6)
        assert bool(axes.patches) == (kind == "decoder")        # the hatching where nothing is drawn
        bottom, top = axes.get_ylim()
        left, right = axes.get_xlim()
        assert bottom > top and left < right                    # row 0 on top, key 0 on the left
        assert names_of(axes.get_yticklabels()) == queries and names_of(axes.get_xticklabels()) == keys
        assert axes.collections[0].get_clim() == (0, 1)
        first = {"encoder": 1, "decoder": 4, "cross": 0}[kind]
        cells = [(3 - i, first + i) for i in range(3) if first + i < len(queries)]          # key, query
        assert outlined(axes) == (sorted(cells) if kind == view.kind else [])
    draw = head_picture(view)
    assert draw.axes[0].get_ylabel().startswith("query") and draw.axes[-1].get_xlabel().startswith("key")


def sentence_of(figure):
    """Return a picture's title, in one line."""
    return figure.get_suptitle().replace("\n", " ")


def numbers_of(figure):
    """Return the grey line below the title."""
    return figure.texts[1].get_text().replace("\n", " ")


def names_of(labels):
    return [label.get_text() for label in labels]


def outlined(axes):
    """Key and query of each outlined cell."""
    paths = axes.collections[1].get_paths() if len(axes.collections) > 1 else []
    return sorted(tuple(path.vertices.min(axis=0).round().astype(int).tolist()) for path in paths)


@pytest.mark.parametrize(
    ("task", "question", "ticks"),
    [
        ("add", "4 2 + 1 9", ["START", "4", "2", "+", "1", "9", "END"]),
        ("complete", "5 _ 5 7", ["START", "5", "_", "5", "7", "END"]),
    ],
)
def test_digits_and_gaps_are_shown_as_a_person_writes_them(task, question, ticks, models_dir):
    picture = head_picture(look_at(load_run(models_dir, task, "encoder"), question.split()))
    assert names_of(picture.axes[0].get_xticklabels()) == ticks
    assert numbers_of(picture).startswith(f"{task}, encoder: {question} → ")
    assert ("_: a" in picture.get_supxlabel()) == (task == "complete")


@pytest.fixture
def view(measured):
    """A tiny run of each architecture on one question; each further part removed costs one more sequence."""
    view = copy.deepcopy(measured)
    evidence, count = view.evidence, len(view.evidence.source)
    evidence.margins = {
        part: torch.cat([-torch.ones(cost, 3), torch.ones(count - cost, 3)])
        for cost, part in enumerate(evidence.margins)
    }
    *early, last = evidence.lens
    evidence.lens = dict.fromkeys(early, (0.1, 0.0)) | {last: (1.0, 0.875)}
    for each in evidence.lengths:                               # 8 more of 100 correct with each symbol
        each.answers = each.target.clone()
        each.answers[8 * each.length :] = 0
    return view


def test_the_influence_picture_shows_attention_and_influence_in_the_same_sequences(view):
    figure, evidence = influence_picture(view), view.evidence
    kind, layer, head = view.best
    first = 9 if kind == "decoder" else 1 if kind == "encoder" else 0       # the query that predicts symbol 0
    view.run.model(*evidence.reading.given)
    weights = view.run.model.attention_layers()[kind][layer].attention_weights[:, head].mean(dim=0)
    for axes, expected in zip(figure.axes, (weights, evidence.influence.nanmean(dim=0)), strict=False):
        drawn = axes.collections[0].get_array()
        numpy.testing.assert_allclose(drawn.filled(numpy.nan), expected[first:], atol=1e-6)
        assert axes.collections[0].get_clim() == (0, 1)
        assert names_of(axes.get_xticklabels())[:10] == ["START", *"12345678", "END"]
        assert outlined(axes) == sorted((8 - i, i) for i in range(8))       # key, query
    assert figure.axes[-1].get_ylabel() == "weight, influence"              # what the colours mean
    on_answers = sum(evidence.influence[:, first + i, 8 - i].sum() for i in range(8))
    share = int(100 * on_answers / evidence.influence.nansum())
    assert sentence_of(figure).startswith(f"{share}% of the influence comes from the needed symbols")


def test_the_ablation_picture_shows_what_is_left_by_length(view):
    figure, evidence = ablation_picture(view), view.evidence
    axes = figure.axes[0]
    lengths = (evidence.source > 3).sum(dim=1)
    names, columns = names_of(axes.get_yticklabels()), names_of(axes.get_xticklabels())
    assert columns == [*"12345678", "all"] and names[-1] == "any attention"
    either, other = heads_of(view.run.model)[:2]
    evidence.pair = other, either, 0.5
    pair = f"{view.name(either)} and {view.name(other)}"
    assert f"Redundant pair: {pair}; without both, accuracy is 50%." in ablation_picture(view).get_supxlabel()
    parts = {view.name(part): part for part in [*evidence.margins, ALL_ATTENTION] if part != NOTHING}
    drawn = axes.collections[0].get_array()
    texts = numpy.array([int(text.get_text()) for text in axes.texts]).reshape(drawn.shape)
    for name, row, shown in zip(names, drawn, texts, strict=True):
        right = evidence.margins[parts[name]][:, 0] > 0
        expected = [right[lengths == length].double().mean() for length in range(1, 9)]
        expected.append(right.double().mean())
        numpy.testing.assert_allclose(1 - row, expected)
        numpy.testing.assert_array_equal(shown, [int(100 * share + 1e-9) for share in expected])
    scatter = figure.axes[1].collections[0].get_offsets()
    heads = heads_of(view.run.model, (view.kind,))
    costs = [100 * (evidence.margins[head][:, 0] < 0).double().mean() for head in heads]
    numpy.testing.assert_allclose(scatter[:, 1], costs)
    numpy.testing.assert_allclose(scatter[:, 0], 100 * evidence.reading.shares.flatten())


def test_the_sentence_of_ablation_names_the_costliest_head_and_the_one_that_reads_the_answers_most(view):
    evidence, count = view.evidence, len(view.evidence.source)
    right = torch.ones(count, 3)
    costly = next(head for head in heads_of(view.run.model) if head != view.best)

    def sentence(**costs):
        parts = {"costly": costly, "best": view.best, "all": ALL_ATTENTION}
        evidence.margins = {part: right for part in evidence.margins} | {
            parts[name]: torch.cat([-right[:cost], right[cost:]]) for name, cost in costs.items()
        }
        return ablation_sentence(view)

    model = MODELS[view.run.architecture]
    assert sentence() == f"this {model} needs no attention for the task reverse: 100% correct without any"
    assert sentence(all=count) == (
        "no single head is needed, but attention is: without any, accuracy 100% → 0%"
    )
    text = sentence(all=count, costly=1)
    assert text.startswith(f"{view.name(costly)} matters most: without it, accuracy 100% → 99%; ")
    assert text.endswith("costs nothing")
    assert "attends most to the answers and matters most" in sentence(all=count, best=count // 2)
    evidence.margins = {part: -right for part in evidence.margins}
    assert ablation_sentence(view) == "the model is never correct, so no ablation can make it worse"


def test_the_model_picture_frames_what_costs_and_pales_the_rest(view):
    evidence, heads = view.evidence, heads_of(view.run.model)
    evidence.margins |= {head: evidence.margins[NOTHING] for head in heads[1:]}
    figure = model_picture(view)
    axes, = figure.axes
    assert f"1 of {len(heads)} heads matters on its own; without {view.name(heads[0])}" in (
        sentence_of(figure)
    )
    lost = 100 * (evidence.margins[heads[0]] < 0)[:, 0].double().mean().item()
    assert [text.get_text() for text in axes.texts if "−" in text.get_text()] == [f"−{math.ceil(lost)}"]
    veils = [patch for patch in axes.patches if patch.get_alpha() == 0.6]
    assert len(veils) == len(heads) - 1


def test_a_head_that_costs_is_never_pale_even_where_no_number_fits(few_sequences, few_lengths):
    view = untrained_view("reverse", "encoder", **SIZES["64 heads"])
    right = torch.ones(30, 3)
    view.evidence.margins = {part: right for part in [NOTHING, *parts_of(view.run.model)]}
    view.evidence.margins[heads_of(view.run.model)[5]] = -right
    with picture_style(letters=data.letters_in_names()):
        axes, = model_picture(view).axes
    assert sum(patch.get_alpha() == 0.6 for patch in axes.patches) == 63
    assert not any("−" in text.get_text() for text in axes.texts)


def test_lengths_and_layers_are_drawn_as_measured(view):
    axes, places = lengths_picture([view]).axes
    exact_match, = axes.get_lines()
    assert list(exact_match.get_xdata()) == list(range(1, 17))
    assert list(exact_match.get_ydata()) == pytest.approx([min(100, 8 * length) for length in range(1, 17)])
    different = [len(each.reading.source.unique(dim=0)) for each in view.evidence.lengths]
    assert names_of(axes.get_xticklabels()) == [f"{row + 1}\n{count}" for row, count in enumerate(different)]
    wrong = places.collections[0].get_array()
    for row, of_length in enumerate(wrong):                     # each symbol and END, and nothing more
        assert of_length.compressed() == pytest.approx([1 - min(100, 8 * (row + 1)) / 100] * (row + 2))
    share = int(100 * view.evidence.lengths[8].reading.shares[view.best[1:]] + 1e-6)
    title = f"{MODELS[view.run.architecture]}\nlength 9: 72% correct\n"
    title += f"best head: {share}% of its attention on the answer"
    assert places.get_title(loc="left") == title
    shaded = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (shaded.x0, shaded.x1) == (pytest.approx(0.5), pytest.approx(8.5))           # trained on 1 … 8
    picture = layers_picture(view)
    tokens, sequences = picture.axes[0].get_lines()
    assert list(tokens.get_ydata())[-2:] == [10, 100] and list(sequences.get_ydata())[-2:] == [0, 87.5]
    labels = [" ".join(name.get_text().split()) for name in picture.axes[-1].get_xticklabels()]
    assert labels[0] == "embedding" and labels[-1].replace("- ", "-") == "layer 2 feed-forward"
    dots = [line.get_ydata() for line in picture.axes[1].get_lines()]
    numpy.testing.assert_allclose(dots, 100 * view.evidence.reading.shares)


def test_the_film_shows_the_record_from_the_first_epoch_to_the_last(run, measured, tmp_path):
    record, history, kind = measured.record, run.history, measured.kind
    figure = film_picture(measured)
    *maps, curves = figure.axes
    layers = 2 * len(KINDS[run.architecture])
    assert len(maps) == 2 * layers                              # at each of two moments
    head = int(maps[layers - 1].get_title(loc="left").split("head")[1]) - 1
    for epoch in 0, 1:
        step, = maps[epoch * layers].texts
        assert step.get_text() == f"step {history[epoch]['step']}"
        drawn = maps[(epoch + 1) * layers - 1].collections[0].get_array()          # of the last layer
        expected = numpy.ma.masked_array(record[kind][epoch, 1, head], numpy.ma.getmaskarray(drawn))
        numpy.testing.assert_allclose(drawn.filled(0), expected.filled(0))
    right, share = (list(line.get_ydata()) for line in curves.get_lines())
    assert right == pytest.approx([100 * share for share in record["right"]])
    most = film_of(measured).view.reading.shares.max().item()
    assert share[-1] == pytest.approx(100 * most, abs=0.1)
    path = tmp_path / "film.gif"
    with picture_style(dark=True, letters=data.letters_in_names()):
        save_film(measured, "python visualize.py", path)
    with Image.open(path) as film:
        assert film.n_frames == 2 and "loop" not in film.info   # it plays once
        assert film.n_frames * film.info["duration"] <= 5000 and film.size[0] == 800
        first, second = (numpy.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(film))
    assert first[0, 0].tolist() == [0x0D, 0x11, 0x17] and (first != second).any()


def test_the_picture_of_lengths_says_which_model_stops_and_which_goes_on(view):
    def sentence():
        return lengths_sentence([view])

    name, beyond = MODELS[view.run.architecture], view.evidence.lengths[8]
    assert sentence() == f"the {name} generalises beyond the training lengths: 72% correct at length 9"
    beyond.answers = beyond.target.clone()
    beyond.answers[1:, 9], beyond.answers[1:, 10] = END, PAD
    assert sentence() == f"the {name} learned to reverse, and to stop after 8 symbols"
    lines = lengths_picture([view]).axes[1].get_title(loc="left").splitlines()
    assert lines[1:3] == ["length 9: 1% correct", "END after 8 symbols: 99 of 100"]
    beyond.answers[:80, 3] = 0                                  # it is not correct until there
    assert sentence() == "no model generalises beyond the training lengths: at most 0% correct at length 9"
    view.evidence.lengths = view.evidence.lengths[:8]
    assert sentence() == "reverse: the model has no positions for questions longer than those in training"


@pytest.mark.parametrize(
    ("right", "share", "sentence"),
    [
        ([0, 0.6, 1], [0, 0.2, 1], "the correct symbols emerge at step 16, the attention pattern at step 24"),
        ([0, 0.2, 1], [0, 0.6, 1],
         "the attention pattern emerges at step 16, the correct symbols at step 24"),
        ([0, 0, 1], [0, 0, 1], "the correct symbols and the attention pattern emerge together, at step 24"),
        ([0, 1, 1], [0, 0.2, 0.2],
         "the correct symbols emerge at step 16; no head ever attends mainly to the symbols they need"),
        ([0, 0.1, 0.4], [0, 0.5, 1], "most symbols are still incorrect at step 24"),
        ([1, 1, 1], None, "the correct symbols emerge at step 8"),
    ],
)
def test_the_sentence_of_the_film_says_what_comes_first(right, share, sentence):
    assert film_sentence([8, 16, 24], right, share) == sentence


def test_the_film_spends_its_time_where_the_model_learns_and_has_at_most_48_frames():
    def moments(right, *others, early, late):
        view = SimpleNamespace(record={"step": numpy.arange(len(right))})
        return Film(view, [], dict(enumerate([right, *others]))).moments(early, late)

    epochs = moments([0] * 9 + [1] * 41, [0] * 5 + [1] * 45, early=36, late=12)
    assert epochs[:19] == list(range(19)) and epochs[-1] == 49 and len(epochs) == 30
    assert len(moments([0] * 300 + [1] * 200, early=36, late=12)) <= 48
    assert moments([0] * 9 + [1] * 41, early=3, late=2) == [0, 9, 18, 49]
    assert moments([1], early=3, late=2) == [0]


def test_a_run_without_its_record_is_drawn_without_a_film_and_says_so(
    models_dir, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    folder = run_folder(tmp_path, "copy", "encoder")
    shutil.copytree(run_folder(models_dir, "copy", "encoder"), folder)
    for remove, reason in (False, "does not cover the whole run"), (True, "does not exist"):
        (folder / "attention.npz").write_text("no record")
        if remove:
            (folder / "attention.npz").unlink()
        call_main(monkeypatch, "--models-dir", tmp_path)
        recorded = folder / "attention.npz"
        told = f"no animation for copy, encoder: {recorded} {reason}; train again to record it\n"
        assert capsys.readouterr().err == told and not list(folder.glob("film*"))
        assert (folder / "layers.png").exists()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([0.2, 0.23, 0.89, 0.91, 1],
         "accuracy first reaches 90% of its final value after 3: 91% of the tokens"),
        ([0.1, 0.999], "accuracy first reaches 90% of its final value after 1: 99% of the tokens"),
        ([0.1, 0.3, 0.509, 0.7, 0.9], "the answers build up gradually, to 90% of the tokens"),
        ([0.1, 0.2, 0.3], "the answers never appear: only 30% of the tokens are correct at the end"),
    ],
)
def test_the_answer_appears_at_90_percent_of_the_final_score_or_gradually(values, sentence):
    assert layers_sentence({str(place): value for place, value in enumerate(values)}) == sentence


def test_each_kind_is_ablated_in_the_sentence_on_top(models_dir):
    view = look_at(load_run(models_dir, "reverse", "encoder-decoder"))
    count = len(view.evidence.source)
    for cost, kind in (count, "encoder"), (count // 2, "decoder"), (1, "cross"):
        view.evidence.margins[kind,] = torch.cat([-torch.ones(cost, 3), torch.ones(count - cost, 3)])
    assert sentence_of(kinds_picture(view)) == (
        "Accuracy: 0% without the encoder's self-attention, 50% without the decoder's self-attention, "
        "99% without cross-attention"
    )


def test_a_query_can_be_redone_from_the_numbers_shown(view):
    table = head_picture(view).axes[-1]
    assert names_of(table.get_yticklabels())[1] == "x = q·k / √8"
    numbers = numpy.array([float(text.get_text().replace("−", "-")) for text in table.texts])
    scores, scaled, powers, weights = numbers.reshape(4, -1)
    numpy.testing.assert_allclose(scaled, scores / 8**0.5, atol=0.01)
    numpy.testing.assert_allclose(powers, numpy.exp(scaled - scaled.max()), atol=0.02)
    numpy.testing.assert_allclose(weights, powers / powers.sum(), atol=0.002)
    kind, layer, head = view.best
    query = visualize.instructive_query(view)
    assert view.cells[query].any()
    row = view.reading.maps[kind][layer, head, query]
    numpy.testing.assert_allclose(weights, row[: len(weights)], atol=0.0006)
    assert row[len(weights) :].sum() == 0
    cells = [key for key, _ in outlined(table)]                 # the correct keys are marked
    assert cells == view.cells[query].nonzero().flatten().tolist()


def test_lines_run_from_each_symbol_of_the_answer_to_the_tokens_and_are_as_wide_as_the_weights(view):
    figure = lines_picture([[view]])
    (kind, layer, head), (axes,) = view.best, figure.axes
    view.run.model(*view.reading.given)
    weights = view.run.model.attention_layers()[kind][layer].attention_weights[0, head]
    first = {"encoder": 1, "decoder": 4, "cross": 0}[kind]      # the query that predicts symbol 0
    for lines, outlined in zip(axes.collections, (False, True), strict=True):
        for (below, above), width in zip(lines.get_segments(), lines.get_linewidths(), strict=True):
            answer, key = int(below[0] - 1.5), int(above[0] - 0.5)
            assert (below[1], above[1]) == (0, 1) and outlined == (answer + key == 3 and answer < 3)
            assert width == pytest.approx(4.5 * weights[first + answer, key].item(), abs=1e-5)
    left = int(100 * view.evidence.left((view.kind,)) + 1e-9)
    without = "cross-attention" if kind == "cross" else "any attention"
    name = MODELS[view.run.architecture].removesuffix(" model")
    title = f"Reverse, {name}\nwithout {without}: {left}% correct"
    assert axes.get_title(loc="left") == title


def test_the_sentence_of_the_lines_says_who_needs_attention():
    def row(architecture, **right):
        kind = "cross" if architecture == "encoder-decoder" else architecture
        return [
            SimpleNamespace(
                kind=kind, model=MODELS[architecture], run=SimpleNamespace(config=SimpleNamespace(task=task)),
                evidence=SimpleNamespace(left=lambda part=NOTHING, left=left: 1 if part == NOTHING else left),
            ) for task, left in right.items()
        ]

    sentence = comparison_sentence
    encoder, both = row("encoder", copy=1, reverse=0), row("encoder-decoder", copy=0, reverse=0.125)
    assert sentence([encoder, both]) == "copying in an encoder needs no attention; reversing does"
    assert sentence([encoder[:1], both[:1]]) == (
        "copying in an encoder needs no attention; in an encoder–decoder it does"
    )
    assert sentence([both]) == "none of these models works without attention: at most 13% correct"
    needless = [row("decoder", add=1, add_one=1, sort=0), both]
    assert sentence(needless) == "adding and add_one in a decoder-only model need no attention; sorting does"
    assert sentence([encoder[:1]]) == "copying in an encoder needs no attention"
    encoder[1].evidence.left = lambda part=NOTHING: 0       # it never learned to reverse
    assert sentence([encoder]) == "copying in an encoder needs no attention"
    assert sentence([encoder[1:]]).startswith("none of these models has learned its task")


def test_no_sentence_takes_chance_for_a_finding(view):
    """85% against 80% for uniform attention; an irreplaceable symbol; a harmful head."""
    evidence, (_, layer, head) = view.evidence, view.best
    view.reading.shares[layer, head], view.reading.chance = 0.85, 0.8
    for sentence in map(sentence_of, (head_picture(view), layer_picture(view))):
        assert sentence.startswith("No head ") and "(uniform: 80%)" in sentence
    view.reading.shares[layer, head] = 0.9375
    assert visualize.head_sentence(view).endswith(
        " spends 93% of its attention on the symbols the answer needs (uniform: 80%)"
    )
    evidence.reading.shares, evidence.reading.chance = evidence.reading.shares * 0 + 0.1355, 0.1
    assert "no head attends to them much: 14% at most (uniform: 10%)" in sentence_of(influence_picture(view))
    evidence.influence = evidence.influence * math.nan
    assert sentence_of(influence_picture(view)).startswith("No symbol could be replaced, so what the answers")
    harmful, count = heads_of(view.run.model)[0], len(evidence.source)
    evidence.margins |= {
        NOTHING: torch.cat([-torch.ones(count // 4, 3), torch.ones(count - count // 4, 3)]),
        harmful: torch.ones(count, 3),
    }
    assert price(view, harmful) == "costs nothing (accuracy rises by 25 points)"
    assert "+25" in [text.get_text() for text in model_picture(view).axes[0].texts]
    evidence.margins = {part: -torch.ones(count, 3) for part in evidence.margins}
    assert sentence_of(model_picture(view)) == "The model is never correct, so no ablation can make it worse"


def test_small_numbers_are_written_in_powers_of_ten():
    written = [number(value) for value in (1.0, 0.0123, 0.001, 0.00031, 2e-12, 0.0)]
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
    "letters": (Task(data.reverse, symbols=range(4, 7), names={4: "a", 5: "b", 6: "c"}), True),
    "marks": (Task(data.reverse, symbols=range(4, 12), names=dict(enumerate(MARKS, 4))), True),
}


def texts_of(figure):
    """Yield every visible text and its bounding box, in pixels."""
    figure.draw_without_rendering()
    texts = [*figure.texts, *figure.legends]
    for axes in figure.axes:
        texts += axes.texts
        if axes.axison:
            ticks = [tick for axis in (axes.xaxis, axes.yaxis) for tick in axis._update_ticks()]
            texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
            texts += [label for tick in ticks for label in (tick.label1, tick.label2)]
    texts = {text for text in texts if text.get_visible()}
    named = {text: text.get_text() if hasattr(text, "get_text") else "legend" for text in texts}
    return [(name, text.get_window_extent()) for text, name in named.items() if name.strip()]


def assert_readable(figure):
    """No text leaves the picture, overlaps other text or mentions NaN."""
    texts = texts_of(figure)
    width, height = figure.bbox.size
    for name, box in texts:
        assert "nan" not in name
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, f"{name!r} is cut"
    for (one, first), (other, second) in itertools.combinations(texts, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        down = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert min(across, down) <= 1, f"{one!r} and {other!r} collide"


def pictures_of_view(view, several=1):
    """All pictures of one run, and comparisons as if there were several such runs."""
    with picture_style(letters=data.letters_in_names()):
        return {
            name: picture(view) for name, picture in visualize.PICTURES.items()
            if not visualize.says_nothing(name, view)
        } | {
            "lengths": lengths_picture([view] * several),
            "lines": lines_picture([[view] * several] * several),
        }


@pytest.fixture
def few_lengths(monkeypatch):
    """Only the extremes of the lengths within and beyond training are measured."""
    answer_lengths = lab.evidence.answer_lengths

    def ends(run, twice):
        lengths = data.usable_lengths(run.config.task, "test", twice, run.config.vocab_size)
        trained = [length for length in lengths if 2 * length <= twice] or lengths[:1]
        beyond = [length for length in lengths if 2 * length > twice] or lengths[-1:]
        extremes = trained[0], trained[-1], beyond[0], beyond[-1]
        return {length: size for length, size in answer_lengths(run, twice).items() if length in extremes}

    monkeypatch.setattr(lab.evidence, "answer_lengths", ends)


@pytest.fixture
def unpainted(monkeypatch):
    """Pictures are composed and their files created, but nothing is painted."""
    def write_nothing(drawn, path, command=""):
        path.write_bytes(b"")

    set_everywhere(monkeypatch, support.figure, "save_picture", write_nothing)


def untrained_view(task, architecture, words=None, **sizes):
    """For a model that answers nonsense, as if trained for one epoch."""
    config = recipe(task, architecture, **TINY | sizes)
    check_config(config, torch.device("cpu"))
    torch.manual_seed(0)
    row = {"step": 8, "loss": 1.0, "token_accuracy": 0.2, "exact_match": 0.1, "seconds": 1.0, "solved": False}
    view = look_at(Run(config.model().eval(), config, [row], Path()), words)
    view.record = extended(None, view.run.model, probe_of(config), row)
    return view


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("task", OWN)
def test_every_picture_of_a_task_of_ones_own_is_drawn_and_claims_nothing_false(
    task, architecture, monkeypatch, few_sequences, few_lengths
):
    monkeypatch.setitem(TASKS, task, OWN[task][0])
    view = untrained_view(task, architecture, ["cab"] if task == "letters" else None)
    if task == "letters":
        assert view.answer.startswith("c a b → ")
    if task == "marks":
        names = [tick.get_text() for tick in head_picture(view).axes[0].get_xticklabels()]
        assert {*names[1:9]} <= {*MARKS} and names[9] == "END"
    outlines = OWN[task][1]
    for name, figure in pictures_of_view(view).items():
        assert_readable(figure)
        if outlines is not True:
            assert not any(word in figure.get_supxlabel() for word in ("utlined:", "Blue"))
            assert "needed sy" not in sentence_of(figure)
            if name in ("attention_head", "attention_layer"):
                assert outlines in sentence_of(figure)
    assert view.outlined == (outlines is True)


def test_letters_that_matplotlibs_font_lacks_come_from_another_or_are_named_once(monkeypatch, capsys):
    fonts = {font.name: get_font(font.fname).get_charmap() for font in fontManager.ttflist
             if font.name in ("DejaVu Sans", "STIXGeneral") and font.weight in (400, "regular")}
    monkeypatch.setattr(fontManager, "ttflist", [font for font in fontManager.ttflist if font.name in fonts])
    letter = chr(min(fonts["STIXGeneral"].keys() - fonts["DejaVu Sans"].keys()))
    assert families("") == families("ж") == ["sans-serif"]
    assert families(letter) == ["sans-serif", "STIXGeneral"] and capsys.readouterr().err == ""
    monkeypatch.setitem(TASKS, "letters", Task(data.reverse, names={4: "\U0010fffd", 5: letter}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with picture_style(letters=data.letters_in_names()):
                figure = Figure()
                figure.suptitle(f"\U0010fffd {letter} $x", weight="bold")
                figure.draw_without_rendering()
    assert capsys.readouterr().err == "no font here has \U0010fffd; pictures show boxes instead\n"


SIZES = {
    "62 symbols": {"seq_len": 62, "d_model": 8, "num_layers": 1},
    "one layer, one head": {"num_layers": 1, "num_heads": 1},
    "odd width": {"d_model": 9, "num_heads": 1},
    "width 1": {"d_model": 1, "num_heads": 1},
    "one symbol": {"vocab_size": 5},
    "length 1": {"seq_len": 1},
    "five digits": {"vocab_size": 20_000, "d_model": 2, "num_layers": 1, "seq_len": 14},
    "many heads": {"num_heads": 16, "num_layers": 6, "seq_len": 3},
    "64 heads": {"num_heads": 64, "d_model": 64, "num_layers": 1, "seq_len": 3},
}


@pytest.mark.parametrize(("size", "architecture"), [
    *zip(SIZES, itertools.cycle(ARCHITECTURES), strict=False), ("length 1", "encoder"),
    ("one symbol", "encoder-decoder"),
])
def test_texts_of_odd_models_never_collide_or_leave_the_picture(
    size, architecture, few_sequences, few_lengths
):
    view = untrained_view("reverse", architecture, **SIZES[size])
    for figure in pictures_of_view(view, several=2).values():
        assert_readable(figure)


def test_a_readers_own_matplotlibrc_changes_no_byte(models_dir, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(run_folder(models_dir, "copy", "encoder"), run_folder(models, "copy", "encoder"))
    (tmp_path / "matplotlibrc").write_text(
        "text.usetex: True\nfont.family: serif\nfont.size: 20\naxes.grid: True\nsavefig.dpi: 40\n"
    )
    written = []
    script, asked = Path(visualize.__file__), ["--sequence", "5 9"]
    for folder, more in ("plain", {}), ("own", {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}):
        result = subprocess.run(
            [sys.executable, script, "--models-dir", models, "--output-dir", tmp_path / folder, *asked],
            capture_output=True, text=True, timeout=100,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)} | more,
        )
        assert result.returncode == 0, result.stderr
        written.append({path.name: path.read_bytes() for path in (tmp_path / folder).rglob("*.png")})
    assert written[0] == written[1] and len(written[0]) == 3


def call_main(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["visualize.py", *map(str, options)])
    run_script(visualize.main, status_if_left=130)


def pictures_of(tasks, architectures, suffix, lengths="lengths"):
    """The files that visualize.py writes for these, apart from the comparison."""
    expected = {
        Path(f"{task}_task", architecture, name) for task in tasks for architecture in architectures
        for name in [*TABLES, *(f"{name}.{suffix}" for name in NAMES)]
    }
    expected |= {Path(f"{task}_task/{lengths}.{suffix}") for task in tasks}
    expected.add(Path("index.html"))
    if "encoder-decoder" in architectures:
        expected |= {Path(f"{task}_task/encoder-decoder/attention_kinds.{suffix}") for task in tasks}
    return expected


def test_without_options_the_runs_that_are_found_are_drawn_and_named(
    models_dir, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    models, output = tmp_path / "models", tmp_path / "out"
    for task, architecture in ("copy", "encoder"), ("reverse", "encoder"):
        shutil.copytree(run_folder(models_dir, task, architecture), run_folder(models, task, architecture))
    shutil.copytree(run_folder(models, "copy", "encoder"), run_folder(models, "mine", "encoder"))
    call_main(monkeypatch, "--models-dir", models, "--output-dir", output)
    written = {path.relative_to(output) for path in output.rglob("*.*")}
    assert written == pictures_of(["copy", "reverse"], ["encoder"], "png") | {
        Path("copy_vs_reverse_encoder.png"), Path("copy_vs_reverse_encoder_maps.png")
    }
    printed = capsys.readouterr()
    assert printed.out.startswith("drawing copy, encoder; reverse, encoder\n")
    assert printed.out.count("encoder: a linear probe on a symbol's residual stream") == 2
    assert printed.err == "skipped: mine, encoder: data.py defines no such task\n"


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
def test_each_task_is_trained_and_drawn_with_each_architecture(
    task, architecture, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    if task in ANSWERS:
        monkeypatch.setitem(TASKS, task, ANSWERS[task])
    monkeypatch.setattr(train, "TEST_SEQUENCES", 100)
    folder = run_folder(tmp_path, task, architecture)
    folder.mkdir(parents=True)
    small = TINY | {"num_layers": 1, "epochs": 1, "seq_len": 4, "oversample": 0.0}
    config = recipe(task, architecture, **small)
    train.train_and_save(config, torch.device("cpu"), folder, quiet=True)
    call_main(monkeypatch, "--models-dir", tmp_path)
    assert capsys.readouterr().err == ""
    written = {path.relative_to(tmp_path) for path in folder.parent.rglob("*.*")}
    assert pictures_of([task], [architecture], "png") - {Path("index.html")} <= written


def test_a_picture_that_fails_is_one_line_and_the_others_are_drawn(
    models_dir, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    def fails(view):
        raise RuntimeError("shapes differ\nby a lot")

    shutil.copytree(run_folder(models_dir, "copy", "encoder"), run_folder(tmp_path, "copy", "encoder"))
    monkeypatch.setitem(visualize.PICTURES, "layers", fails)
    monkeypatch.setattr(lab.probes, "probe_length", fails)
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--models-dir", tmp_path)
    picture, probe = capsys.readouterr().err.splitlines()
    path = tmp_path / "copy_task" / "encoder" / "layers.png"
    reason = "is missing: RuntimeError: shapes differ (test_visualize.py, line "
    assert picture.startswith(f"error: {path} {reason}")
    assert probe.startswith(f"error: copy, encoder {reason}")
    assert stopped.value.code == 1
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")}
    assert pictures_of(["copy"], ["encoder"], "png") - written == {Path("copy_task/encoder/layers.png")}


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
    ("suffix", "task", "architecture", "lengths"),
    [
        ("png", "complete", "encoder", "lengths"), ("pdf", "copy", "encoder", "lengths_encoder"),
        ("svg", "reverse", "encoder-decoder", "lengths_encoder-decoder"),
    ],
)
def test_the_same_input_gives_the_same_bytes_and_vectors_are_vectors(
    suffix, task, architecture, lengths, models_dir, tmp_path, monkeypatch, few_sequences, few_lengths
):
    written = []
    for output in (tmp_path / "first", tmp_path / "second"):
        options = ["--task", task, "--architecture", architecture, "--format", suffix]
        call_main(monkeypatch, "--models-dir", models_dir, "--output-dir", output, *options)
        written.append({path.relative_to(output): path.read_bytes() for path in output.rglob("*.*")})
    assert set(written[0]) == pictures_of([task], [architecture], suffix, lengths)
    first, second = (pages.pop(Path("index.html")).decode() for pages in written)
    assert first.replace("/first", "/second") == second         # the folder in the command
    assert written[0] == written[1]
    marks = {"svg": (b"<image", b"</text>"), "pdf": (b"/Subtype /Image", b"/ToUnicode")}
    for path, picture in written[0].items():
        if path.suffix[1:] in marks:                            # vectors, no pixels, and text stays text
            bitmap, text = marks[path.suffix[1:]]
            assert bitmap not in picture and text in picture, path


def test_a_sequence_of_ones_own_replaces_no_picture_and_its_title_says_so(
    models_dir, tmp_path, monkeypatch, capsys
):
    """Beyond the training lengths, in one pair of quotes; among the runs found, the sum is skipped."""
    models, question = tmp_path / "models", "5 9 12 14 7 8 4 10 11"
    for task in "copy", "add":
        shutil.copytree(run_folder(models_dir, task, "encoder"), run_folder(models, task, "encoder"))
    kept = run_folder(models, "copy", "encoder") / "attention_head.png"
    kept.write_text("of the default command")
    call_main(monkeypatch, "--models-dir", models, "--sequence", question)
    printed = capsys.readouterr()
    assert kept.read_text() == "of the default command"
    assert "skipped: add, encoder: 5 9 1 2 1 4 7 8 4 1 0 1 1 is not a valid question" in printed.err
    drawn = {path.name for path in kept.parent.glob("*_5-9-12-14-7-8-4-10-11.png")}
    assert drawn == {
        f"{name}_5-9-12-14-7-8-4-10-11.png"
        for name in ("attention_head", "attention_layer", "attention_model")
    }
    view = look_at(load_run(models, "copy"), [question])
    share = view.reading.maps["encoder"][view.best[1:]].diagonal()[1:10].mean()
    for picture in head_picture, layer_picture:
        assert "(9 symbols; training had at most 8)" in numbers_of(picture(view))
    assert f"at {int(100 * share)}%" in sentence_of(head_picture(view))
    assert "training had" not in numbers_of(head_picture(look_at(view.run, ["5 9"])))
    with pytest.raises(SystemExit):                             # a task that is named must take the question
        call_main(monkeypatch, "--models-dir", models, "--task", "copy", "add", "--sequence", "5 9")
    assert capsys.readouterr().err.startswith("error: 5 9 is not a valid question for add;")
    assert (kept.parent / "attention_head_5-9.png").exists()


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


def test_pictures_elsewhere_never_stand_beside_those_of_other_weights(
    models_dir, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    models, output = tmp_path / "models", tmp_path / "slides"
    folder, drawn = (run_folder(place, "copy", "encoder") for place in (models, output))
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
    assert f"\n{output}: 17 files based on earlier weights removed\n" in "\n" + capsys.readouterr().out
    assert {path.name for path in drawn.iterdir()} == {"weights_of_mine.png"} | {
        f"{name}_7.png" for name in ("attention_head", "attention_layer", "attention_model")
    }
    shutil.copy(folder / "checkpoint.pt", drawn)
    with pytest.raises(SystemExit):
        call_main(monkeypatch, *options)
    assert capsys.readouterr().err == f"error: {drawn} holds another run; choose another --output-dir\n"


@pytest.mark.parametrize(("part", "said"), [
    ("model", "transformer.py has changed since: the same weights give other logits"),
    ("task", r"the task has changed since: ([\d ]+) gave (?!\1)[\d ]+, and now gives \1"),
])
def test_code_that_changed_since_is_noticed_where_a_run_is_read(
    part, said, models_dir, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    folder, attention = run_folder(tmp_path, "reverse", "encoder"), transformer.scaled_dot_product_attention
    shutil.copytree(run_folder(models_dir, "reverse", "encoder"), folder)
    call_main(monkeypatch, "--models-dir", tmp_path)
    gallery, page = tmp_path / "index.html", folder / "explorer.html"
    assert capsys.readouterr().err == "" and "of 500 test sequences (" in gallery.read_text()
    if part == "task":
        monkeypatch.setitem(TASKS, "reverse", Task(data.copy))
    else:
        monkeypatch.setattr(transformer, "scaled_dot_product_attention", lambda query, *more: attention(
            query.size(-1) ** 0.5 * query, *more
        ))
    (folder / "training.png").write_text("of train.py")
    call_main(monkeypatch, "--models-dir", tmp_path)
    assert (folder / "training.png").read_text() == "of train.py"           # nothing stored is drawn again
    line = rf"{folder}: code and weights no longer belong together: {said}; undo the change, or train .*\n"
    assert re.fullmatch(line, capsys.readouterr().err)
    for written in gallery, page:
        assert re.search(f"Code and weights no longer belong together: {said}", written.read_text())
    assert "500 test sequences" not in gallery.read_text() + page.read_text()
    monkeypatch.setattr(sys, "argv", ["train.py", "--task", "reverse", "--architecture", "encoder",
                                      "--output-dir", str(tmp_path), "--resume"])
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        run_script(train.main)
    assert stopped.value.code == 2 and (folder / "checkpoint.pt").read_bytes() == before
    errors = capsys.readouterr().err
    assert re.fullmatch(f"error: cannot resume the run in {folder}: {said}; undo .*\n", errors)


def test_a_finished_run_is_drawn_while_another_trains(
    models_dir, tmp_path, monkeypatch, capsys, few_sequences, few_lengths, unpainted
):
    finished, busy = (run_folder(tmp_path, "copy", architecture) for architecture in ("encoder", "decoder"))
    for folder in finished, busy:
        shutil.copytree(run_folder(models_dir, "copy", folder.name), folder)
    with files.only_writer(busy):
        call_main(monkeypatch, "--models-dir", tmp_path)
        reason = f"{busy}: process {os.getpid()} is already writing there; wait for it to finish, or"
        assert capsys.readouterr().err == f"skipped: {reason} choose another folder\n"
        with pytest.raises(SystemExit) as stopped:
            call_main(monkeypatch, "--models-dir", tmp_path, "--task", "copy", "--architecture", "decoder")
    assert capsys.readouterr().err == f"error: {reason} choose another folder\n" and stopped.value.code == 2
    assert (finished / "layers.png").exists() and not (busy / "layers.png").exists()


def test_the_names_that_are_recognised_are_those_that_are_written():
    assert {*visualize.PICTURES, "beside_trained"} == {*OF_RUN}
    assert {*visualize.OF_ONE_SEQUENCE, "beside_trained"} == {*OF_ONE_QUESTION}
    for words in "5 9 12", "4 2 + 1 9", "42+19", "5 _ 5 7", " ".join(["17"] * 60):
        assert is_question(visualize.name_in_file(words), "add")


def test_training_curves_of_several_runs_are_labelled_by_what_differs(
    models_dir, tmp_path, monkeypatch, capsys
):
    """A folder of runs next to a single run, whose model need not be a current one."""
    narrow, changed = tmp_path / "narrow", tmp_path / "changed"
    config = recipe("reverse", "encoder", **TINY | {"d_model": 8, "seed": 3})
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
    drawn, _, gallery = capsys.readouterr().out.splitlines()
    path, title = drawn.split(": ", 1)
    assert Path(path) == tmp_path / "training_narrow_vs_changed.png"
    assert Path(gallery) == tmp_path / "index.html"
    assert Path(path).read_bytes()[1:4] == b"PNG"
    assert title == "1 of 2 runs solved the task, the earliest at step 6: d_model 8, seed 3"
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
    assert training_curves_picture(runs_in([changed])).get_suptitle() == "Not solved"
    assert training_curves_picture(runs_in([narrow])).get_suptitle() == "Solved at step 6"
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--compare", narrow, tmp_path / "nothing", "--output-dir", tmp_path)
    assert stopped.value.code == 2
    assert f"no run found in {tmp_path / 'nothing'}" in capsys.readouterr().err


def test_the_balance_of_positions_and_symbols_is_drawn_as_measured(models_dir, tmp_path, monkeypatch, capsys):
    one, other = (run_folder(models_dir, "reverse", name) for name in ("encoder", "encoder-decoder"))
    call_main(monkeypatch, "--balance", one, other, "--models-dir", models_dir, "--output-dir", tmp_path)
    path = tmp_path / "balance_reverse_task-encoder_vs_reverse_task-encoder-decoder.png"
    assert path.exists() and capsys.readouterr().out.startswith(f"{path}: How strongly positions")
    shutil.copytree(one, tmp_path / "kept")                     # as cp -r does
    copied = evidence_in([tmp_path / "kept"])["kept"].run
    assert copied.config == load_run(models_dir, "reverse").config
    runs = evidence_in([one, other])
    assert list(runs) == ["architecture encoder", "architecture encoder-decoder"]
    figure = balance_picture(runs | {f"{name}, and so on and on": runs[name] for name in runs})
    assert_readable(figure)
    for axes, evidence in zip(figure.axes, [*runs.values()] * 2, strict=True):
        source, _, _ = unseen_sequences(evidence.run, 8, 100)
        models = untrained(evidence.run.config), evidence.run.model
        before, after = (loudness(model, source) for model in models)
        expected = [before["positions"], after["positions"], before["symbols"], after["symbols"]]
        assert [bar.get_height() for bar in axes.patches] == pytest.approx(expected)
    with pytest.raises(SystemExit):
        call_main(monkeypatch, "--balance", models_dir, "--output-dir", tmp_path)
    assert capsys.readouterr().err == "error: --balance shows at most 4 runs, and these folders hold 9\n"


def test_the_sentence_of_the_balance_claims_only_what_all_runs_show():
    def sentence(**runs):
        run = SimpleNamespace(config=SimpleNamespace(task="reverse"))
        measured = {
            name: SimpleNamespace(run=run, left=lambda right=right: right)
            for name, (right, _, _) in runs.items()
        }
        return balance_sentence(measured, {
            name: [{}, {"positions": positions, "symbols": symbols}]
            for name, (_, positions, symbols) in runs.items()
        })

    claim = "reverse is learned only where positions come to outweigh symbols"
    neutral = "how strongly positions"
    assert sentence(loud=(1.0, 2, 1), drowned=(0.3, 1, 2)) == claim
    assert sentence(loud=(1.0, 2, 1), drowned=(1.0, 1, 2)).startswith(neutral)
    assert sentence(loud=(1.0, 2, 1), louder=(1.0, 3, 1)).startswith(neutral)


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
        (["--task", "copy", "--sequence", *["5"] * 63], "65 tokens exceed max_len=64"),
        (["--task", "revers"], "invalid choice: 'revers'"),
        (["--architecture", "gpt"], "invalid choice: 'gpt'"),
        (["--models-dir", "nowhere"], "no run found in nowhere; train one first: python train.py"),
        (["--task", "sort"], "train it: python train.py --task sort --architecture encoder --output-dir "),
        (["--format", "gif"], "invalid choice: 'gif'"),
        (["--compare", "a", "--balance", "b"], "argument --balance: not allowed with argument --compare"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    options, message, models_dir, tmp_path, monkeypatch, capsys
):
    if "--models-dir" not in options:
        options = ["--models-dir", models_dir, *options]
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--output-dir", tmp_path / "out", *options)
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and not (tmp_path / "out").exists() and printed.out == ""
    assert printed.err.startswith("error: ") and message in printed.err and printed.err.count("\n") == 1


def test_runs_that_cannot_be_read_are_named_and_the_others_are_drawn(
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


def test_a_folder_that_cannot_be_written_is_one_line_before_any_measuring(
    models_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(lab.view, "Evidence", lambda run: pytest.fail("measured for nothing"))
    (tmp_path / "file").write_text("kept")
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--models-dir", models_dir, "--output-dir", tmp_path / "file")
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and (tmp_path / "file").read_text() == "kept"
    assert printed.err.startswith("error: cannot read or write ") and printed.err.count("\n") == 1


def test_an_interrupted_run_ends_quietly_with_130(models_dir, tmp_path, monkeypatch):
    def interrupt(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(lab.view, "Evidence", interrupt)
    with pytest.raises(SystemExit) as stopped:
        call_main(monkeypatch, "--models-dir", models_dir, "--output-dir", tmp_path)
    assert stopped.value.code == 130
