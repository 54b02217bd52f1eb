"""Settings are checked before training: their names and their ranges."""

import math
import re
import sys
from dataclasses import fields

import pytest
import torch

import data
import train
from data import TASKS, Task
from support.config import Config
from support.runs import run_folder
from train import load_run, save_weights


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"dropout": math.nan}, "dropout=nan is out of range; choose 0.0 … 0.99"),
        ({"architecture": "gpt"}, "architecture='gpt' is not a valid choice; choose from 'encoder',"),
        ({"task": "revers"}, "task='revers' is not a valid choice; choose from 'copy', "),
        ({"positional": "rotary"}, "positional='rotary' is not a valid choice; choose from 'sinusoidal',"),
        ({"activation": "tanh"}, "activation='tanh' is not a valid choice; choose from 'relu', 'gelu'"),
    ],
)
def test_config_rejects_unknown_words(words, message):
    with pytest.raises(ValueError, match=message):
        Config(**words)


def test_plan_run_prefers_options_to_task_settings(monkeypatch, capsys):
    own = {"epochs": 7, "learning_rate": 0.01, "encoder": {"epochs": 9, "num_heads": 4}}
    monkeypatch.setitem(TASKS, "sort", Task(data.sort, settings=own))
    monkeypatch.setattr(sys, "argv", ["train.py", "--learning-rate", "0.02", "--batch-size", "5"])
    options = train.parse_options()
    requested = {"learning_rate": 0.02, "batch_size": 5}
    assert train.plan_run("sort", "decoder", options)[0] == Config("sort", "decoder", epochs=7, **requested)
    encoder = train.plan_run("sort", "encoder", options)[0]
    assert encoder == Config("sort", "encoder", epochs=9, num_heads=4, **requested)
    assert train.plan_run("copy", "decoder", options)[0] == Config("copy", "decoder", **requested)
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    with pytest.raises(SystemExit):
        train.parse_options()
    help_text = " ".join(capsys.readouterr().out.split())
    assert "(default: 50)" in help_text and "settings that data.py gives a task" in help_text


RANGES = {
    setting.name: setting.metadata["range"] for setting in fields(Config) if "range" in setting.metadata
}


@pytest.mark.parametrize("name", RANGES)
def test_config_rejects_numbers_out_of_range(name):
    minimum, maximum = RANGES[name]
    assert minimum <= getattr(Config(), name) <= maximum
    for value in minimum - 1, 2 * maximum + 1, 10**40:
        message = f"{name}={value} is out of range; choose {minimum} … {maximum}"
        with pytest.raises(ValueError, match=re.escape(message)):
            Config(**{name: value})


def test_read_run_fills_in_settings_that_older_runs_lack(finished, tmp_path):
    folder = run_folder(tmp_path, "reverse", "encoder")
    folder.mkdir(parents=True)
    checkpoint = torch.load(finished / "checkpoint.pt", weights_only=True)
    del checkpoint["config"]["constant_fraction"], checkpoint["config"]["oversample"]
    save_weights(checkpoint, folder)
    assert load_run(tmp_path, "reverse").config == load_run(finished.parents[1], "reverse").config
