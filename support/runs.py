"""The folders of runs: where they are, what is in them, and which files in them are stale."""

import csv
import json
import math
import re
import shlex
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

import torch
from torch import nn

from data import ARCHITECTURES, TASKS
from support.config import Config, check_config, parameters_expected
from support.figure import FORMATS
from support.files import difference, first_line, is_sealed, read_archive, replacing, size_text
from transformer import EncoderDecoder, MiniTransformer, unwrapped

UNDO = "undo the change, or train the changed code with a different --output-dir"
CHECKPOINT = {                                              # its entries and their types
    "config": dict, "sample": dict,
    "history": list, "model": dict, "averaged_updates": int, "trained_weights": dict,
    "optimizer": dict, "schedule": dict, "random_states": dict, "seal": str,
}
HISTORY_ROW = {
    "epoch": int, "step": int, "loss": float, "train_seconds": float, "token_accuracy": float,
    "exact_match": float, "solved": bool,
}
METRICS = {                                                 # of those that are read again
    "steps": int, "train_seconds": float, "seed": int, "parameters": int, "test_sequences": int,
    "test_exact_match": float, "steps_to_solve": type(None), "seconds_to_solve": type(None),
}
MORE_IN_CHANGED_CODE = 50e6                                 # tolerance, in bytes, for modified models
DEFAULT_TASKS, DEFAULT_ARCHITECTURES = ["copy", "reverse"], ["encoder", "encoder-decoder"]
DEFAULT_FOLDER = Path("models")
TABLES = "metrics.json", "history.csv", "heads.csv", "mistakes.csv", "explorer.html", "film.gif"
OF_ONE_QUESTION = "attention_head", "attention_layer", "attention_model", "attention_kinds", "beside_trained"
OF_RUN = (*OF_ONE_QUESTION, "training", "mistakes", "influence", "ablation", "layers", "film", "weights")
GALLERY = '<meta name="generator" content="visualize.py">'    # marks a gallery as ours


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


def is_gallery(path: Path) -> bool:
    """Return whether visualize.py wrote this page, rather than the reader."""
    return path.is_file() and GALLERY in path.read_text(encoding="utf-8", errors="replace")


def is_question(text: str, task: str) -> bool:
    """Return True if this part of a file name is a question of the task: 5-9-12, 42+19."""
    symbols = "|".join([r"\d", "_", *map(re.escape, TASKS[task].names.values() if task in TASKS else [])])
    cut = r".{70}-[0-9a-f]{8}"                              # see visualize.name_in_file
    return bool(re.fullmatch(rf"(?:{symbols})(?:-?(?:{symbols}))*", unquote(text)) or re.fullmatch(cut, text))


def runs_shown(file: Path, models_dir: Path) -> set[tuple[str, str]]:
    """Return task and architecture of each run shown by a picture or table of ours in a models folder.

    Files are recognised by their exact names, so the reader's own files show none.
    """
    *folders, name = file.relative_to(models_dir).parts
    tasks = {*TASKS, *(folder.name.removesuffix("_task") for folder in models_dir.glob("*_task"))}
    longest_first = sorted(tasks, key=len, reverse=True)    # add_from_ones is not add with a question
    task, architecture = "|".join(map(re.escape, longest_first)), "|".join(ARCHITECTURES)
    pattern = {
        0: rf"(?P<tasks>({task})(_vs_({task}))*)(_(?P<of>({architecture})(_vs_({architecture}))*))?(_maps)?",
        1: rf"lengths(_(?P<of>({architecture})(_({architecture}))*))?", 2: "|".join(OF_RUN),
    }.get(len(folders), "")
    shown = re.fullmatch(rf"(?P<what>{pattern})(_(?P<question>.+))?\.({'|'.join(FORMATS)})", name)
    several = re.fullmatch(rf"(?:training|balance)_(.+)\.(?:{'|'.join(FORMATS)})", name)
    if len(folders) == 2 and name in TABLES:
        return {(folders[0].removesuffix("_task"), folders[1])}
    if not folders and several:                             # each is named after its folders
        named = [re.fullmatch(rf"({task})_task-({architecture})", one) for one in several[1].split("_vs_")]
        return {found.groups() for found in named if found}
    if not shown:
        return set()
    parts = shown.groupdict()
    tasks = parts["tasks"].split("_vs_") if "tasks" in parts else [folders[0].removesuffix("_task")]
    if parts["question"] and (
        len(folders) == 1 or folders and parts["what"] not in OF_ONE_QUESTION
        or not is_question(parts["question"], tasks[0])
    ):
        return set()
    if len(folders) == 2:
        return {(tasks[0], folders[1])}
    named = re.findall(rf"(?:{architecture})(?=_|$)", parts["of"] or "")
    if not folders and max(len(tasks), len(named)) < 2:        # side by side there are at least two runs
        return set()
    default = ARCHITECTURES if folders else DEFAULT_ARCHITECTURES
    return {(one, other) for one in tasks for other in named or default}


def remove_stale(folder: Path, older_than: float = math.inf) -> int:
    """Remove metrics, tables and pictures of weights that no longer exist; return their number.

    So no picture outlives the weights it shows, not even in a comparison with other runs. Given a time,
    remove only pictures made before it. The reader's own files are kept.
    """
    models_dir, run = folder.parents[1], (task_of(folder), folder.name)
    files = [path for place in (folder, *folder.parents[:2]) if place.is_dir() for path in place.iterdir()]
    stale = [path for path in files if path.is_file() and run in runs_shown(path, models_dir)]
    for path in models_dir.glob(f"*/{folder.parent.name}/{folder.name}/beside_trained*"):
        if run in runs_shown(path, path.parents[2]):        # drawn next to a hand-built model
            stale.append(path)
    stale = [path for path in stale if path.stat().st_mtime < older_than]
    galleries = {parent / "index.html" for path in stale for parent in path.parents[:3]}
    for path in [*stale, *filter(is_gallery, galleries)]:
        path.unlink(missing_ok=True)                        # another run may have removed it already
    return len(stale)


def save_table(rows: list[dict], path: Path) -> None:
    """Write rows to a CSV file with a header."""
    with replacing(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def read_metrics(folder: Path) -> dict:
    """Return a finished run's metrics; empty if they are missing or damaged."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        Config(**metrics["config"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    solved = {}
    if metrics.get("steps_to_solve") is not None:
        solved = {"steps_to_solve": int, "seconds_to_solve": float}
    return {} if difference(METRICS | solved, {name: metrics.get(name) for name in METRICS}) else metrics


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


def check_history(history: list) -> None:
    """Raise ValueError unless these are rows from train: consecutive epochs from 1, or epoch 0 alone."""
    for row in history:
        unseen = isinstance(row, dict) and row.get("solved", False) is None     # not evaluated on all of them
        known = HISTORY_ROW | ({"solved": type(None)} if unseen else {})
        if differs := difference(known, row, "a row of the history"):
            raise ValueError(differs)
    if [row["epoch"] for row in history] not in ([0], [*range(1, len(history) + 1)]) or not history:
        raise ValueError("the history does not list consecutive epochs from the first")


def check_hand_set(purposes: dict, stream: dict) -> None:
    """Raise ValueError, TypeError or AttributeError unless these are valid as Run.purposes and Run.stream."""
    types = {type(text) for text in purposes.values()}
    types |= {tuple(map(type, span)) for span in stream.values()}
    if types - {str, (int, int)}:
        raise ValueError("the notes on the hand-set weights have the wrong types")


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
        if differs := difference(CHECKPOINT | dict.fromkeys({"known"} & set(checkpoint), dict), checkpoint):
            raise ValueError(differs)
        check_history(checkpoint["history"])
        check_hand_set(**{"purposes": {}, "stream": {}} | checkpoint.get("known", {}))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({first_line(error)}); {remedy}") from error
    if differs := difference(dict.fromkeys(asdict(Config())), dict.fromkeys(checkpoint["config"])):
        raise ValueError(
            f"{path} was trained by a different version of train.py: the setting {differs}; {UNDO}"
        )
    try:
        return checkpoint, Config(**checkpoint["config"])
    except ValueError as error:
        raise ValueError(f"{path} holds a run that this code does not support: {error}") from error


def read_checkpoint(folder: Path, task: str, architecture: str) -> tuple[dict, Config, nn.Module]:
    """Return a run's checkpoint, settings and model. Raises ValueError if it cannot be used."""
    path, models_dir = folder / "checkpoint.pt", folder.parents[1]
    remedy = f"train it: {command_line('train.py', [task], [architecture], models_dir)}"
    checkpoint, config = open_checkpoint(folder, remedy)
    if (config.task, config.architecture) != (task, architecture):
        found = f"{path} holds task {config.task}, architecture {config.architecture}"
        raise ValueError(f"{found}; move it to {run_folder(models_dir, config.task, config.architecture)}")
    needed, there_is = 4 * parameters_expected(config), path.stat().st_size
    if needed > there_is + MORE_IN_CHANGED_CODE:
        raise ValueError(
            f"{path} is damaged (its settings imply {size_text(needed)} of weights, but it holds "
            f"{size_text(there_is)}); {remedy}"
        )
    try:
        smallest = replace(config, epochs=1, steps_per_epoch=1, batch_size=1)
        model = check_config(smallest, torch.device("cpu"))
    except ValueError as error:
        raise ValueError(f"{path} holds a run with invalid settings: {error}") from error
    if differs := difference(model.state_dict(), checkpoint["model"], "model"):
        raise ValueError(
            f"{path} was trained by a different version of transformer.py: {differs}; {UNDO}"
        )
    if not is_sealed(checkpoint):
        raise ValueError(f"{path} is damaged (its parts do not belong to the same run); {remedy}")
    model.load_state_dict(checkpoint["model"])
    return checkpoint, config, model
