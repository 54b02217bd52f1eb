"""The measurements of benchmark.py --scale: the counts are correct, and every measurement runs."""

import os
from dataclasses import replace
from functools import partialmethod

import pytest
import scale
import torch
from conftest import TINY
from test_transformer import give_weights
from torch import nn

from teaching.checks import twins


@pytest.mark.parametrize("name", scale.SWEEPS)
def test_flops_equal_a_sum_by_hand(name):
    """For an encoder: 2 per weight and token, plus QKᵀ and weights · V in attention."""
    _, config, *_ = scale.SWEEPS[name].values()
    length, width = config.seq_len + 2, config.d_model
    weights = config.num_layers * (4 * width**2 + 2 * width * config.d_ff) + width * config.vocab_size
    attention = 2 * config.num_layers * length * width
    flops_of_weights = 3 * 2 * config.batch_size * length * weights
    assert scale.count_flops(config, attention=False) == flops_of_weights
    assert scale.count_flops(config) == flops_of_weights + 3 * 2 * config.batch_size * length * attention


def test_pytorch_encoder_is_the_same_model():
    config = replace(scale.BASE, **TINY)
    ours, theirs = config.build_model(), scale.PyTorchEncoder(config)
    pairs = [*twins(ours.final_norm, theirs.encoder.norm)]
    pairs += twins(ours.output_projection, theirs.output_projection)
    for block, layer in zip(ours.blocks, theirs.encoder.layers, strict=True):
        pairs += twins(block, layer)
    give_weights(pairs)
    theirs.embedding.load_state_dict(ours.embedding.state_dict())
    tokens = torch.tensor([[1, 5, 9, 2], [1, 7, 2, 0]])
    torch.testing.assert_close(theirs(tokens)[0], ours(tokens)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs(tokens)[1, :3], ours(tokens)[1, :3], atol=1e-5, rtol=1e-5)
    assert sum(x.numel() for x in ours.parameters()) == sum(x.numel() for x in theirs.parameters())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_scale_benchmark_reports_when_processes_pay_off(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scale, "SWEEPS", {"length": {2: replace(scale.BASE, **TINY, batch_size=2)}})
    monkeypatch.setattr(scale, "EXCHANGED", 1_000)
    monkeypatch.setattr(scale, "WITH_OPTIONS", [("length", 2)])
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    monkeypatch.setattr(scale, "ROUNDS", 1)
    scale.scale(tmp_path, lambda: 1e9)
    printed = capsys.readouterr().out
    assert printed.count("MB") == len(scale.SETUPS | scale.OPTIONS)
    assert "length 2: compiling takes " in printed
    assert "length: speed-up of two processes over one: 2: " in printed
    assert "Eight H100 with NVLink, about: 400 TFLOP/s, 450 GB/s, so adding processes pays off" in printed
    assert "from 1,185 tokens per step" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"scale.png", "scale_dark.png"}


def test_measure_all_keeps_the_fastest_round(monkeypatch):
    times = iter([3.0, 1.0, 2.0])
    point = scale.Point("length", 8, scale.BASE, 0, {})
    monkeypatch.setattr(scale, "ROUNDS", 3)
    monkeypatch.setattr(scale, "SETUPS", {"1 thread": (1, 1, False, {})})
    monkeypatch.setattr(scale, "run_in_processes", lambda processes, function, *arguments: (
        4.0 if function is scale.measure_rate else scale.Cost(next(times), 9.0, 0)
    ))
    assert scale.measure_all([point], lambda: 4.0) == 4.0
    assert point.costs == {"1 thread": scale.Cost(1.0, 9.0, 0)}
