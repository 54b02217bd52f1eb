"""The measurements of benchmark.py --scale: what is counted, and that all of it can be carried out."""

from dataclasses import replace
from functools import partialmethod

import pytest
import torch
from conftest import TINY
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

scale = pytest.importorskip("scale", reason="needs fork, which Windows does not have")


@pytest.mark.parametrize("name", scale.SWEEPS)
def test_flops_are_those_that_pytorch_counts(name):
    config = replace(scale.SWEEPS[name][1], num_layers=2)
    model = config.model()
    tokens = torch.ones(config.batch_size, config.seq_len + 2, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens)
    assert scale.flops_of(config) == 3 * counter.get_total_flops()


def test_the_encoder_of_pytorch_has_the_same_size_and_loss_before_training():
    config = replace(scale.BASE, **TINY)
    ours, other = config.model(), scale.EncoderOfPyTorch(config)
    assert sum(x.numel() for x in ours.parameters()) == sum(x.numel() for x in other.parameters())


def test_all_is_measured_drawn_and_told_when_several_processes_pay(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scale, "SWEEPS", {"batch": [replace(scale.BASE, **TINY, batch_size=2)]})
    monkeypatch.setattr(scale, "EXCHANGED", 1_000)
    monkeypatch.setattr(scale, "COMPILED", [("batch", 0)])
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    scale.scale(tmp_path, flops_per_second=1e9)
    printed = capsys.readouterr().out
    assert printed.count("MB") == len(scale.WAYS) and "pays after" in printed
    assert "batch: two processes are so many times as fast as one: 2: " in printed
    assert "Eight H100 with NVLink, about: 400 TFLOP/s, 450 GB/s, so more of them pay from 1,185 " in printed
    assert {path.name for path in tmp_path.iterdir()} == {"scale.png", "scale_dark.png"}
