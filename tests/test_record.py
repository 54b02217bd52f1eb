"""The record holds the attention of the run's own weights after each epoch."""

import shutil

import numpy
import pytest
import torch

import data
from data import ARCHITECTURES, SPLITS, make_inputs_and_targets
from support.config import Config
from support.record import read_attention_history, recorded_questions
from train import load_run
from transformer import PAD, START


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_history_holds_each_epoch(architecture, models_dir):
    run = load_run(models_dir, "reverse", architecture)
    record = read_attention_history(run.folder, run.history)
    assert record["step"].tolist() == [3, 6]
    source, target = torch.tensor(record["source"]), torch.tensor(record["target"])
    assert target[1:-1].tolist() == source[1:-1].tolist()[::-1]
    assert len(source) == 10 and data.split_index(source[None, 1:-1]).item() == SPLITS.index("validation")
    sources, targets = recorded_questions(run.config)
    assert torch.equal(sources[0], source) and len(sources) == 4
    inputs, targets = make_inputs_and_targets(architecture, sources, targets)
    correct = (run.model(*inputs).argmax(dim=-1) == targets)[(targets != PAD) & (targets != START)]
    assert record["accuracy"][1] == pytest.approx(correct.double().mean().item())
    run.model(*make_inputs_and_targets(architecture, source[None], target[None])[0])
    for kind, attentions in run.model.attention_layers().items():
        weights = torch.stack([attention.attention_weights[0] for attention in attentions])
        numpy.testing.assert_allclose(record[kind][1], weights, atol=1e-3)
        assert not numpy.array_equal(record[kind][0], record[kind][1])


def test_attention_history_of_other_weights_is_rejected(finished, tmp_path):
    history = load_run(finished.parents[1], "reverse").history
    shutil.copy(finished / "attention.npz", tmp_path)
    assert len(read_attention_history(tmp_path, history[:1])["encoder"]) == 1
    assert read_attention_history(tmp_path, [*history, history[-1]]) is None
    assert read_attention_history(tmp_path, [history[0] | {"loss": 1.0}]) is None
    whole = (tmp_path / "attention.npz").read_bytes()
    for damaged in whole[:-100], whole[:500] + bytes([whole[500] ^ 1]) + whole[501:]:
        (tmp_path / "attention.npz").write_bytes(damaged)
        assert read_attention_history(tmp_path, history) is None
    arrays = dict(numpy.load(finished / "attention.npz"))
    del arrays["prediction"]                                # as written by an earlier version
    numpy.savez(tmp_path / "attention.npz", **arrays)
    assert read_attention_history(tmp_path, history) is None


@pytest.mark.parametrize(
    ("settings", "length"), [({"seq_len": 30}, 16), ({"seq_len": 20, "fixed_length": True}, 20), ({}, 8)]
)
def test_recorded_questions_fit_in_a_picture(settings, length):
    source, target = recorded_questions(Config(**settings))
    assert source.shape == target.shape == (4, length + 2)
    assert len(source[0].unique()) >= len(source[3].unique())
