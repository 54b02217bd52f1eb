"""Attention on one question after each epoch: the history from which the animation is drawn."""

from dataclasses import replace
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn

from data import make_inputs_and_targets, token_accuracy
from support.config import MAX_RECORDED_LENGTH, Config, fixed_generator
from support.files import check_zip
from transformer import eval_mode

NUM_RECORDED = 4                                            # questions; attention is recorded on the first
AttentionHistory = dict[str, numpy.ndarray]                 # each kind: (epochs, layers, H, T, S), and more


def recorded_questions(config: Config) -> tuple[Tensor, Tensor]:
    """Return long unseen questions (N, S) of one length and their answers (N, T), clearest first."""
    lengths = config.lengths()
    length = max((length for length in lengths if length <= MAX_RECORDED_LENGTH), default=lengths[0])
    fixed = replace(config, seq_len=length, fixed_length=True)
    source, target = fixed.sample_batch(100, fixed_generator("examples"), "validation")
    clearest = sorted(range(100), key=lambda row: -len(source[row].unique()))[:NUM_RECORDED]
    return source[clearest], target[clearest]


def append_epoch(
    attention: AttentionHistory | None, model: nn.Module, questions: tuple[Tensor, Tensor], row: dict
) -> AttentionHistory:
    """Return the attention history with one more epoch, whose history row is given; None starts a new one."""
    device = next(model.parameters()).device
    inputs, targets = make_inputs_and_targets(model.architecture, *(rows.to(device) for rows in questions))
    with eval_mode(model) as model:
        predictions = model(*inputs).argmax(dim=-1)
    epoch = {
        kind: torch.stack([layer.attention_weights[0] for layer in layers]).half().cpu().numpy()
        for kind, layers in model.attention_layers().items()
    } | {
        "step": row["step"], "loss": row["loss"], "accuracy": token_accuracy(predictions, targets),
        "prediction": predictions[0].cpu().numpy(),         # of the first question
    }
    appended = {
        name: numpy.concatenate([attention[name], [value]]) if attention else numpy.array([value])
        for name, value in epoch.items()
    }
    source, target = questions
    return appended | {"source": source[0].numpy(), "target": target[0].numpy()}


def read_attention_history(folder: Path, history: list[dict]) -> AttentionHistory | None:
    """Return these epochs' attention; None if the file is missing, damaged, old, or has other losses."""
    try:
        check_zip(folder / "attention.npz")
        with numpy.load(folder / "attention.npz") as arrays:
            attention = dict(arrays)
        epochs = len(history)
        losses, is_old = attention["loss"][:epochs].tolist(), "prediction" not in attention
        if is_old or losses != [row["loss"] for row in history]:
            return None
        return {name: x if name in ("source", "target") else x[:epochs] for name, x in attention.items()}
    except Exception:                                       # a broken file can fail in any way
        return None
