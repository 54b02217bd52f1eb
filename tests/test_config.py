"""Settings are checked before training: their names, their sizes and the memory that they need."""

import math
import sys
from dataclasses import replace

import pytest
import torch
from conftest import CPU, TINY

import data
import train
from data import ARCHITECTURES, TASKS, Task, arrange
from support.config import Config, check_config, memory_needed, parameters_expected
from train import loss_of


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"norm_first": "prenorm"}, "norm_first='prenorm' has type str, not bool"),
        ({"d_model": 64.0}, "d_model=64.0 has type float, not int"),
        ({"num_layers": True}, "num_layers=True has type bool, not int"),
        ({"dropout": math.nan}, "dropout=nan is out of range; choose e.g. 0.0"),
        ({"architecture": "gpt"}, "architecture='gpt' is not a valid choice; choose from 'encoder',"),
        ({"task": "revers"}, "task='revers' is not a valid choice; choose from 'copy', "),
        ({"positional": "rotary"}, "positional='rotary' is not a valid choice; choose from 'sinusoidal',"),
        ({"activation": "tanh"}, "activation='tanh' is not a valid choice; choose from 'relu', 'gelu'"),
    ],
)
def test_a_word_that_is_unknown_is_refused_where_it_enters(words, message):
    with pytest.raises(ValueError, match=message):
        Config(**words)


def test_a_task_may_have_settings_of_its_own_and_an_option_wins(monkeypatch, capsys):
    own = {"epochs": 7, "learning_rate": 0.01, "encoder": {"epochs": 9, "num_heads": 4}}
    monkeypatch.setitem(TASKS, "sort", Task(data.sort, settings=own))
    monkeypatch.setattr(sys, "argv", ["train.py", "--learning-rate", "0.02", "--batch-size", "5"])
    options = train.parse()
    given = {"learning_rate": 0.02, "batch_size": 5}
    assert train.config_of("sort", "decoder", options, CPU)[0] == Config("sort", "decoder", epochs=7, **given)
    encoder = train.config_of("sort", "encoder", options, CPU)[0]
    assert encoder == Config("sort", "encoder", epochs=9, num_heads=4, **given)
    assert train.config_of("copy", "decoder", options, CPU)[0] == Config("copy", "decoder", **given)
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    with pytest.raises(SystemExit):
        train.parse()
    help_text = " ".join(capsys.readouterr().out.split())
    assert "(default: 50; sort: 7; sort, encoder: 9; double: 100;" in help_text


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("settings", [{}, {"norm_first": False, "d_ff": 48, "num_layers": 3, "seq_len": 40}])
def test_the_size_of_a_model_is_known_without_building_it(architecture, settings):
    config = Config(**TINY | settings, architecture=architecture, max_len=100)
    numbers = sum(weights.numel() for weights in config.model().state_dict().values())
    assert parameters_expected(config) == numbers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("settings", [{}, {"seq_len": 40}, {"d_ff": 2048}])
def test_the_memory_of_a_batch_is_about_what_autograd_keeps(architecture, settings):
    config = Config(**{"num_layers": 4, "batch_size": 250} | settings, architecture=architecture)
    model, kept = config.model(), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    source, target = config.draw(config.batch_size, torch.Generator().manual_seed(0))
    given, to_say = arrange(architecture, source, target)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(model(*given), to_say)
    more = memory_needed(replace(config, batch_size=500)) - memory_needed(config)
    assert loss.isfinite() and 0.8 < more / sum(kept.values()) < 1.25


@pytest.mark.parametrize(
    ("option", "value", "size"),
    [("seq_len", 99999999, "EB"), ("vocab_size", 2_000_000_000, "TB"), ("batch_size", 100_000_000, "TB"),
     ("d_model", 1_000_000, "PB"), ("num_layers", 10**9, "PB"), ("d_ff", 10**30, "YB"),
     ("num_heads", 10**9, "TB"), ("epochs", 10**12, "PB"), ("steps_per_epoch", 10**9, "TB")],
)
def test_what_does_not_fit_into_memory_is_refused_by_name_and_size(option, value, size):
    config = Config(architecture="encoder-decoder", **{option: value, "oversample": 0.5})
    with pytest.raises(ValueError, match=f"^{option}={value} is too large: .* about .* {size} of memory,"):
        check_config(config, CPU)
