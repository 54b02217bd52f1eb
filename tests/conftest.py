"""What several test files share: one thread, and two tiny runs trained once."""

import pytest
import torch

from train import Config, run_folder, train_and_save

TINY = {"d_model": 16, "num_heads": 2, "num_layers": 2, "d_ff": 32, "epochs": 2, "steps_per_epoch": 3}

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory):
    """A models folder with a finished copy and a finished reverse run; read only, please."""
    folder = tmp_path_factory.mktemp("session") / "models"
    for task in ("copy", "reverse"):
        path = run_folder(folder, task, "encoder")
        path.mkdir(parents=True)
        train_and_save(Config(**TINY, task=task), torch.device("cpu"), path, quiet=True)
    return folder
