"""Attention on one question after each epoch: the record from which the animation is drawn."""

from dataclasses import replace
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn

from data import make_inputs_and_targets, token_accuracy
from support.config import LONGEST_PROBE, Config, fixed_generator
from support.files import check_zip
from transformer import eval_mode

PROBES = 4                                                  # recorded questions
Record = dict[str, numpy.ndarray]                           # per kind: (epochs, layers, H, T, S), and more


def probe_of(config: Config) -> tuple[Tensor, Tensor]:
    """Return long unseen questions (N, S) of one length and their answers (N, T), clearest first."""
    lengths = config.lengths()
    length = max((length for length in lengths if length <= LONGEST_PROBE), default=lengths[0])
    fixed = replace(config, seq_len=length, fixed_length=True)
    source, target = fixed.sample_batch(100, fixed_generator("examples"), "validation")
    clearest = sorted(range(100), key=lambda row: -len(source[row].unique()))[:PROBES]
    return source[clearest], target[clearest]


def extended(record: Record | None, model: nn.Module, probe: tuple[Tensor, Tensor], row: dict) -> Record:
    """Return the record extended by one epoch, whose history row is given; pass None to start a new one."""
    device = next(model.parameters()).device
    inputs, targets = make_inputs_and_targets(model.architecture, *(tokens.to(device) for tokens in probe))
    with eval_mode(model) as model:
        predictions = model(*inputs).argmax(dim=-1)
    now = {
        kind: torch.stack([attention.attention_weights[0] for attention in attentions]).half().cpu().numpy()
        for kind, attentions in model.attention_layers().items()
    } | {"step": row["step"], "loss": row["loss"], "right": token_accuracy(predictions, targets)}
    grown = {
        name: numpy.concatenate([record[name], [new]]) if record else numpy.array([new])
        for name, new in now.items()
    }
    source, target = probe
    return grown | {"source": source[0].numpy(), "target": target[0].numpy()}


def read_record(folder: Path, history: list[dict]) -> Record | None:
    """Return the record of these epochs; None if it is missing, damaged, or its losses are not history's."""
    try:
        check_zip(folder / "attention.npz")
        with numpy.load(folder / "attention.npz") as arrays:
            record = dict(arrays)
        epochs = len(history)
        if record["loss"][:epochs].tolist() != [row["loss"] for row in history]:
            return None
        return {name: x if name in ("source", "target") else x[:epochs] for name, x in record.items()}
    except Exception:                                       # a broken file can fail in any way
        return None
