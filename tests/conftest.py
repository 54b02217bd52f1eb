"""Shared by the test files: a single thread, and tiny runs that are trained only once."""

import itertools
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

import lab.heads
import lab.live_page
import train
from data import ARCHITECTURES
from support.config import Config
from support.runs import run_folder
from train import Answers, load_run, train_and_save

TINY = {"d_model": 16, "num_heads": 2, "num_layers": 2, "d_ff": 32, "epochs": 2, "steps_per_epoch": 3}
TINY_OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
KINDS = {"encoder": ["encoder"], "decoder": ["decoder"], "encoder-decoder": ["encoder", "decoder", "cross"]}

ROOT = Path(train.__file__).parent
SOURCES = sorted(path for folder in ("", "support", "lab") for path in (ROOT / folder).glob("*.py"))

torch.set_num_threads(1)


def files_in(folder):
    """Return the contents of all files below a folder, by path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def set_everywhere(monkeypatch, owner, name, value):
    """Replace owner.name, also in the modules that have imported it."""
    before = getattr(owner, name)
    for module in [*sys.modules.values()]:
        if getattr(module, name, None) is before:
            monkeypatch.setattr(module, name, value)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory):
    """A models folder with finished runs of some tasks for each architecture; do not modify it.

    Each is tested on 500 sequences, because an untrained model takes long to generate 10,000 answers.
    """
    folder = tmp_path_factory.mktemp("session") / "models"
    runs = [*itertools.product(("copy", "reverse"), ARCHITECTURES)]
    for task, architecture in *runs, ("add", "encoder"), ("complete", "encoder"), ("add", "encoder-decoder"):
        path = run_folder(folder, task, architecture)
        path.mkdir(parents=True)
        config = Config(**TINY, task=task, architecture=architecture)
        with patch.object(train, "TEST_SEQUENCES", 500):
            train_and_save(config, torch.device("cpu"), path, quiet=True)
    return folder


@pytest.fixture(scope="session", params=ARCHITECTURES)
def run(models_dir, request):
    """A tiny run of each architecture in turn; its two layers have two heads each. Do not modify it."""
    return load_run(models_dir, "reverse", request.param)


@pytest.fixture
def few_sequences(monkeypatch):
    """Measure everything on 30 sequences, for tests that measure often."""
    unseen_sequences = lab.heads.unseen_sequences

    def first(run, length=None, count=None):
        return unseen_sequences(run, length, 30)

    set_everywhere(monkeypatch, lab.heads, "unseen_sequences", first)
    monkeypatch.setattr(lab.live_page, "SEQUENCES", 30)


@pytest.fixture
def answers():
    """Six questions of sort, one repeated; both with repeated symbols are answered incorrectly, one twice."""
    source = torch.tensor([
        [1, 9, 5, 9, 2], [1, 7, 8, 2, 0], [1, 9, 5, 9, 2], [1, 6, 5, 4, 2], [1, 7, 7, 2, 0], [1, 6, 2, 0, 0]
    ])
    target = torch.tensor([
        [1, 5, 9, 9, 2], [1, 7, 8, 2, 0], [1, 5, 9, 9, 2], [1, 4, 5, 6, 2], [1, 7, 7, 2, 0], [1, 6, 2, 0, 0]
    ])
    prediction = target.clone()
    prediction[[0, 2], 2], prediction[4, 1] = 5, 8
    prediction[5, 3:] = 9                                   # nothing after END counts
    return Answers(Config(task="sort"), source, target, prediction)
