"""The folders of runs: where they are, what is in them, and which files in them are stale."""

import csv
import json
import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from data import END, TASKS, exact_match, format_tokens, make_inputs_and_targets, token_accuracy
from support.config import Config, fixed_generator
from support.files import atomic_write, folder_lock, read_archive, write_text
from transformer import EncoderDecoder, MiniTransformer, count_parameters, eval_mode, unwrap_model

REMEDY = "undo the change, or train the changed code with a different --output-dir"
DEFAULT_TASKS, DEFAULT_ARCHITECTURES = ["copy", "reverse"], ["encoder", "encoder-decoder"]
DEFAULT_FOLDER = Path("models")
LISTING = "pictures.json"                                   # what visualize.py has saved in a folder


def first_solved(history: list[dict]) -> dict | None:
    """Return the first history row with all validation sequences correct, if any."""
    return next((row for row in history if row["solved"]), None)


def run_folder(models_dir: Path, task: str, architecture: str) -> Path:
    """Return the folder of a run."""
    return Path(models_dir) / f"{task}_task" / architecture


def task_from_folder(folder: Path) -> str:
    """Return the task that a run's folder is named after."""
    return folder.parent.name.removesuffix("_task")


def find_runs(folder: Path) -> list[Path]:
    """Return a folder itself if it is a run's, or else those of all runs in it."""
    if (folder / "checkpoint.pt").is_file():
        return [folder]
    return [path.parent for path in sorted(folder.glob("*_task/*/checkpoint.pt"))]


def format_command(script: str, tasks: list[str], architectures: list[str], models_dir: Path) -> str:
    """Return a command for these runs that can be pasted as printed, with all options it needs, quoted."""
    path = Path(__file__).resolve().parents[1] / script
    words = ["python", script if path.parent == Path.cwd() else str(path)]
    if files := {TASKS[task].file for task in tasks if task in TASKS} - {""}:
        words += ["--tasks", *files]
    if (tasks, architectures) != (DEFAULT_TASKS, DEFAULT_ARCHITECTURES):
        words += ["--task", *tasks, "--architecture", *architectures]
    if models_dir != DEFAULT_FOLDER:
        words += ["--output-dir" if script == "train.py" else "--models-dir", str(models_dir)]
    return shlex.join(words)


def write_table(rows: list[dict], path: Path) -> None:
    """Write rows to a CSV file with a header."""
    with atomic_write(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def write_json(values: dict, path: Path) -> None:
    """Write values to a JSON file."""
    write_text(json.dumps(values, indent=2) + "\n", path)


def collect_metrics(
    config: Config, model: nn.Module, history: list[dict], target: Tensor, prediction: Tensor
) -> dict:
    """Return a run's metrics: when it solved the validation set, and its scores on the test (N, T)."""
    solved = first_solved(history) or {}
    return {
        "task": config.task, "architecture": config.architecture, "seed": config.seed,
        "config": asdict(config), "parameters": count_parameters(model), "epochs": config.epochs,
        "steps": history[-1]["step"], "train_seconds": history[-1]["train_seconds"],
        "steps_to_solve": solved.get("step"), "seconds_to_solve": solved.get("train_seconds"),
        "test_sequences": len(target), "test_token_accuracy": token_accuracy(prediction, target),
        "test_exact_match": exact_match(prediction, target), "device": str(next(model.parameters()).device),
        "threads": torch.get_num_threads(), "torch_version": str(torch.__version__),
    }


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


def add_to_listing(output: Path, files: dict[Path, dict]) -> None:
    """Add files to the listing of what visualize.py has saved in a folder."""
    added = {path.relative_to(output).as_posix(): shown for path, shown in files.items()}
    with folder_lock(output, wait=True):                    # several processes add to it
        write_json(read_listing(output) | added, output / LISTING)


def remove_stale(output: Path, folder: Path) -> int:
    """Remove pictures, tables and pages that show a run's earlier weights; return how many.

    Only files listed by visualize.py, in output or a folder in it, are removed; the reader's own are kept.
    """
    removed, saved = 0, (folder / "checkpoint.pt").stat().st_mtime
    for pictures_dir in [output, *(path.parent for path in output.glob(f"*/{LISTING}"))]:
        for name, shown in read_listing(pictures_dir).items():
            shows_run = any((pictures_dir / run).resolve() == folder.resolve() for run in shown["runs"])
            if shows_run and (pictures_dir / name).stat().st_mtime < saved:
                (pictures_dir / name).unlink()
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
    checkpoint: dict = field(default_factory=dict)          # as it was saved
    code_change: str = ""                                   # how the code differs from the run's, if it does

    @property
    def architecture(self) -> str:
        return unwrap_model(self.model).architecture


def compute_logits(model: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    """Return the logits of one pass over source (N, S) and target (N, T), (N, T or more, V), on the CPU."""
    device = next(model.parameters()).device
    with eval_mode(model) as model:
        inputs, _ = make_inputs_and_targets(model.architecture, source.to(device), target.to(device))
        return model(*inputs).float().cpu()


def make_reference(config: Config, model: nn.Module) -> dict[str, Tensor]:
    """Return a few questions with their answers and the model's logits, which reveal changed code."""
    source, target = config.sample_batch(8, fixed_generator("examples"))
    return {"source": source, "target": target, "logits": compute_logits(model, source, target)}


def describe_code_change(config: Config, model: nn.Module, reference: dict[str, Tensor]) -> str:
    """Describe how the current code differs from that of a run with these weights; "" if it does not.

    reference is what make_reference returned when the run was saved.
    """
    for source, target in zip(reference["source"], reference["target"], strict=True):
        question, before = (row[row > END] for row in (source, target))         # the content
        now = TASKS[config.task].answer(question[None])[0]
        if not torch.equal(now, before):
            texts = [format_tokens(tokens, config.task) for tokens in (question, before, now)]
            return "the task has changed since: {} gave {}, and now gives {}".format(*texts)
    logits, before = compute_logits(model, reference["source"], reference["target"]), reference["logits"]
    if logits.shape != before.shape or not (logits - before).abs().max() <= 1e-3 * before.abs().max():
        return "transformer.py has changed since: the same weights give other logits"
    return ""


def read_checkpoint(folder: Path, remedy: str = "train it again") -> tuple[dict, Config]:
    """Return a folder's checkpoint, with weights of any transformer.py, and its settings.

    Raises ValueError with the remedy if it is missing or damaged.
    """
    path = folder / "checkpoint.pt"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; {remedy}")
    try:
        checkpoint = read_archive(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
    values = checkpoint.get("config", {})
    if (task := values.get("task")) not in TASKS and (file := values.get("task_file")):
        remedy = f"add --tasks {file}, or call load_tasks"
        raise ValueError(f"{path}: task {task!r} is defined in {file}; {remedy}")
    try:
        return checkpoint, Config(**checkpoint["config"])
    except (KeyError, TypeError, ValueError) as error:
        problem = f"{path} was trained by a different version of the code"
        raise ValueError(f"{problem}: {error}; {REMEDY}") from error


def read_run(folder: Path, task: str, architecture: str, quiet: bool = False) -> Run:
    """Return the run in a folder of any name. Raises ValueError if there is none or it cannot be used.

    Unless quiet, print one line to stderr if the code has changed so that the weights no longer belong to it.
    """
    path, models_dir = folder / "checkpoint.pt", folder.parents[1]
    command = format_command("train.py", [task], [architecture], models_dir)
    checkpoint, config = read_checkpoint(folder, f"train it: {command}")
    if (config.task, config.architecture) != (task, architecture):
        found = f"{path} holds task {config.task}, architecture {config.architecture}"
        raise ValueError(f"{found}; move it to {run_folder(models_dir, config.task, config.architecture)}")
    try:
        with torch.random.fork_rng(devices=[]):
            model = config.build_model().eval()
        model.load_state_dict(checkpoint["model"])
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} was trained by a different transformer.py: {reason}; {REMEDY}") from error
    run = Run(model, config, checkpoint["history"], folder, checkpoint.get("purposes", {}), checkpoint)
    run.code_change = describe_code_change(config, model, checkpoint["reference"])
    if run.code_change and not quiet:
        problem = f"code and weights no longer belong together: {run.code_change}"
        print(f"{folder}: {problem}; {REMEDY}", file=sys.stderr)
    return run


def load_run(models_dir: Path, task: str, architecture: str = "encoder", quiet: bool = False) -> Run:
    """Return the run that training left in models_dir; see read_run."""
    return read_run(run_folder(models_dir, task, architecture), task, architecture, quiet)
