"""The folders of runs: where they are, what is in them, and which files in them are stale."""

import csv
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from support.config import Config
from support.files import read_archive, replacing
from transformer import EncoderDecoder, MiniTransformer, unwrapped

UNDO = "undo the change, or train the changed code with a different --output-dir"
DEFAULT_TASKS, DEFAULT_ARCHITECTURES = ["copy", "reverse"], ["encoder", "encoder-decoder"]
DEFAULT_FOLDER = Path("models")
LISTING = "pictures.json"                                   # what visualize.py has saved in a folder


def first_solved(history: list[dict]) -> dict | None:
    """Return the first history row with all validation sequences correct, if any."""
    return next((row for row in history if row["solved"]), None)


def run_folder(models_dir: Path, task: str, architecture: str) -> Path:
    """Return the folder of a run."""
    return Path(models_dir) / f"{task}_task" / architecture


def task_of(folder: Path) -> str:
    """Return the task that a run's folder is named after."""
    return folder.parent.name.removesuffix("_task")


def runs_below(models_dir: Path) -> list[Path]:
    """Return the folders of all runs in a models folder."""
    return [path.parent for path in sorted(models_dir.glob("*_task/*/checkpoint.pt"))]


def command_line(script: str, tasks: list[str], architectures: list[str], models_dir: Path) -> str:
    """Return a command for these runs that can be pasted as printed, with all options it needs, quoted."""
    path = Path(__file__).resolve().parents[1] / script
    words = ["python", script if path.parent == Path.cwd() else str(path)]
    if (tasks, architectures) != (DEFAULT_TASKS, DEFAULT_ARCHITECTURES):
        words += ["--task", *tasks, "--architecture", *architectures]
    if models_dir != DEFAULT_FOLDER:
        words += ["--output-dir" if script == "train.py" else "--models-dir", str(models_dir)]
    return shlex.join(words)


def save_table(rows: list[dict], path: Path) -> None:
    """Write rows to a CSV file with a header."""
    with replacing(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def write_json(values: dict, path: Path) -> None:
    """Write values to a JSON file."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_metrics(folder: Path) -> dict:
    """Return a finished run's metrics; empty if they are missing or damaged."""
    try:
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def read_listing(output: Path) -> dict[str, dict]:
    """Return what visualize.py has saved in a folder, by path: the runs it shows, its title and its command.

    Paths, also those of the runs, are relative to the folder. Files that no longer exist are left out.
    """
    try:
        listing = json.loads((output / LISTING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {path: shown for path, shown in listing.items() if (output / path).is_file()}


def list_files(output: Path, files: dict[Path, dict]) -> None:
    """Add files to the listing of what visualize.py has saved in a folder."""
    added = {path.relative_to(output).as_posix(): shown for path, shown in files.items()}
    write_json(read_listing(output) | added, output / LISTING)


def remove_stale(output: Path, folder: Path) -> int:
    """Remove pictures, tables and pages that show a run's earlier weights; return how many.

    Only files listed by visualize.py, in output or a folder in it, are removed; the reader's own are kept.
    """
    removed, saved = 0, (folder / "checkpoint.pt").stat().st_mtime
    for place in [output, *(path.parent for path in output.glob(f"*/{LISTING}"))]:
        for name, shown in read_listing(place).items():
            shows_run = any((place / run).resolve() == folder.resolve() for run in shown["runs"])
            if shows_run and (place / name).stat().st_mtime < saved:
                (place / name).unlink()
                removed += 1
    return removed


@dataclass
class Run:
    """A finished run, as load_run reads it: the model in evaluation mode on the CPU."""

    model: MiniTransformer | EncoderDecoder
    config: Config
    history: list[dict]
    folder: Path
    purposes: dict[str, str] = field(default_factory=dict)              # "layer 1, head 1": "finds END"
    stream: dict[str, tuple[int, int]] = field(default_factory=dict)    # "WHAT": first feature, last + 1
    changed: str = ""                                       # how the code differs from the run's, if it does

    @property
    def architecture(self) -> str:
        return unwrapped(self.model).architecture


def open_checkpoint(folder: Path, remedy: str) -> tuple[dict, Config]:
    """Return a folder's checkpoint and settings.

    Raises ValueError with the remedy if it is missing or damaged. The weights are not checked: they may come
    from a modified transformer.py.
    """
    path = folder / "checkpoint.pt"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; {remedy}")
    try:
        checkpoint = read_archive(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
    try:
        return checkpoint, Config(**checkpoint["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} was trained by a different version of the code: {error}; {UNDO}") from error


def read_checkpoint(folder: Path, task: str, architecture: str) -> tuple[dict, Config, nn.Module]:
    """Return a run's checkpoint, settings and model. Raises ValueError if it cannot be used."""
    path, models_dir = folder / "checkpoint.pt", folder.parents[1]
    remedy = f"train it: {command_line('train.py', [task], [architecture], models_dir)}"
    checkpoint, config = open_checkpoint(folder, remedy)
    if (config.task, config.architecture) != (task, architecture):
        found = f"{path} holds task {config.task}, architecture {config.architecture}"
        raise ValueError(f"{found}; move it to {run_folder(models_dir, config.task, config.architecture)}")
    try:
        with torch.random.fork_rng(devices=[]):
            model = config.model()
        model.load_state_dict(checkpoint["model"])
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} was trained by a different version of transformer.py: {reason}; {UNDO}"
        ) from error
    return checkpoint, config, model
