"""Train a Transformer on a task until it makes no mistakes, and save everything worth looking at.

`python train.py` trains copy and reverse, each with an encoder and with an encoder–decoder, and writes
models/<task>_task/<architecture>/. The training loop is in `train_epoch` and `train`; the loss, schedule and
evaluation come before them. The test, saving and the command line follow. What any training script needs,
such as settings, files and several processes, is in support/.
"""

import argparse
import io
import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, nullcontext, redirect_stderr
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

import data
from support import console, distributed
from support.config import (
    EVALUATION_BATCH,
    TEST_SEQUENCES,
    VALIDATION_SEQUENCES,
    Config,
    add_settings,
    differing_settings,
    fixed_generator,
    recipe,
    setting_text,
)
from support.distributed import backward
from support.figure import percent, picture_style, save_picture
from support.files import first_line, is_out_of_memory, only_writer, replacing
from support.record import Record, extended, probe_of, read_record
from support.runs import (
    DEFAULT_ARCHITECTURES,
    DEFAULT_FOLDER,
    DEFAULT_TASKS,
    UNDO,
    Run,
    command_line,
    first_solved,
    read_checkpoint,
    read_metrics,
    remove_stale,
    run_folder,
    save_table,
    write_json,
)
from support.training_plot import training_picture
from transformer import PAD, check_positive, count_parameters, evaluating, generate, unwrapped

WARM_UP_STEPS = 15
BETAS = (0.85, 0.99)                                        # decay rates of Adam's two moment estimates
CLIP_NORM = 0.5                                             # maximum gradient norm
SAMPLE = 8                                                  # questions that reveal changed code
RESUME = "run the same command with --resume to continue"
LESS_MEMORY = "try --accumulate 4, or a smaller --batch-size or --seq-len"


def loss_of(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean of −log p(target) over the scored positions; logits (B, S, V), target (B, S)."""
    ignored = -100                                          # cross_entropy's index for positions without loss
    target = target.masked_fill(~data.is_scored(target), ignored)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))    # bfloat16 is too coarse to sum
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=ignored)


def learning_rate_share(step: int, steps: int, hold: float = 0.0) -> float:
    """Return the learning-rate multiplier at step 0 … steps − 1: short linear warm-up, then cosine decay.

    The decay begins after the fraction hold of the steps.
    """
    warm_up, held = min(1.0, (step + 1) / WARM_UP_STEPS), hold * steps
    return warm_up * 0.5 * (1 + math.cos(math.pi * max(0.0, step - held) / (steps - held)))


def update_average(averages: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
    """Move the moving average towards the weights: by 0.82, 0.75, 0.69 … of the way, finally by 0.05.

    updates is the number of updates so far. The first is not made here, because AveragedModel copies the
    weights.
    """
    decay = ((1 + updates) / (10 + updates)).clamp(max=0.95)
    for average, weight in zip(averages, weights, strict=True):
        average.lerp_(weight, 1 - decay)


def logits_of(model: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    """Return the logits of one pass over source (N, S) and target (N, T), (N, T or more, V), on the CPU."""
    device = next(model.parameters()).device
    with evaluating(model) as model:
        given, _ = data.arrange(model.architecture, source.to(device), target.to(device))
        return model(*given).float().cpu()


def sample_of(config: Config, model: nn.Module) -> dict[str, Tensor]:
    """Return a few questions with their answers and the model's logits, which reveal changed code."""
    source, target = config.draw(SAMPLE, fixed_generator("examples"))
    return {"source": source, "target": target, "logits": logits_of(model, source, target)}


class Training:
    """Everything that changes during a run, so that a checkpoint can capture it.

    The last arguments are not part of Config, because they affect the result only through rounding.
    accumulate is the number of micro-batches per batch, amp turns on bfloat16, and compile uses
    torch.compile.
    """

    def __init__(
        self, config: Config, device: torch.device,
        accumulate: int = 1, amp: bool = False, compile: bool = False,
    ):
        torch.manual_seed(config.seed)
        steps = config.epochs * config.steps_per_epoch
        self.config, self.device, self.accumulate = config, device, accumulate
        self.model = config.model().to(device)
        self.average = AveragedModel(self.model, multi_avg_fn=update_average)
        self.average.n_averaged = self.average.n_averaged.cpu()             # read every step: keep it off GPU
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), config.learning_rate, betas=BETAS, fused=device.type != "mps"
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_share(step, steps, config.hold)
        )
        self.generator = torch.Generator().manual_seed(config.seed)         # of the training data
        self.history: list[dict] = []                                       # one row per epoch
        if amp:
            self.model.forward = torch.autocast(device.type, torch.bfloat16)(self.model.forward)
        if compile:
            self.model.compile()
        self.model = distributed.data_parallel(self.model)

    def checkpoint(self) -> dict:
        """Return a copy of the full state; "model" holds the averaged weights, which are the ones to use."""
        random_states = {"torch": torch.get_rng_state(), "data": self.generator.get_state()}
        if self.device.type == "cuda":
            random_states["cuda"] = torch.cuda.get_rng_state(self.device)
        return deepcopy({
            "config": asdict(self.config),
            "sample": sample_of(self.config, self.average.module),
            "history": self.history,
            "model": self.average.module.state_dict(),
            "averaged_updates": int(self.average.n_averaged),
            "trained_weights": unwrapped(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random_states": random_states,
        })

    def restore(self, checkpoint: dict) -> None:
        """Restore the checkpoint's state, so that the same steps follow; the checkpoint is not modified."""
        checkpoint = deepcopy(checkpoint)
        self.history = checkpoint["history"]
        self.average.module.load_state_dict(checkpoint["model"])
        self.average.n_averaged.fill_(checkpoint["averaged_updates"])
        unwrapped(self.model).load_state_dict(checkpoint["trained_weights"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.schedule.load_state_dict(checkpoint["schedule"])
        torch.set_rng_state(checkpoint["random_states"]["torch"])
        self.generator.set_state(checkpoint["random_states"]["data"])
        if self.device.type == "cuda" and "cuda" in checkpoint["random_states"]:
            torch.cuda.set_rng_state(checkpoint["random_states"]["cuda"], self.device)


def train_epoch(run: Training, batches: Iterable[tuple[tuple[Tensor, ...], Tensor]]) -> Tensor:
    """Take one optimiser step per batch from data.arrange; return the losses (steps,) in nats per token."""
    run.model.train()
    losses = []
    for inputs, target in batches:
        run.optimizer.zero_grad()
        # The loss is loss_of(run.model(*inputs), target), and backward also calls loss.backward().
        loss = backward(run.model, loss_of, inputs, target, data.is_scored(target), run.accumulate)
        losses.append(loss)
        nn.utils.clip_grad_norm_(run.model.parameters(), CLIP_NORM)
        run.optimizer.step()
        run.schedule.step()
        run.average.update_parameters(run.model)
    return torch.stack(losses)


# ---------------------------------------------------------------- evaluation, and the loop over epochs


def one_pass(model: nn.Module, given: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the model's predictions batch by batch, one forward pass each: row indices (n,), tokens (n, t).

    The longest rows come first, and each batch is trimmed to its longest row. Everything but the model is on
    the CPU.
    """
    device = next(model.parameters()).device
    for rows, tokens in data.batches(given, EVALUATION_BATCH):
        yield rows, model(*(x.to(device) for x in tokens)).argmax(dim=-1).cpu()


def predict(model: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    """Return the model's predictions for sources (N, S), shaped like target (N, T); all on the CPU.

    An encoder predicts in one pass; the others generate. But if a teacher-forced pass predicts every next
    token correctly, greedy decoding produces exactly that answer. So only the other rows need generating.
    Duplicate questions are answered once.
    """
    device = next(model.parameters()).device
    (source,), target, place = data.different_rows((source,), target)
    with evaluating(model) as model:
        given, to_say = data.arrange(model.architecture, source, target)
        said = torch.full_like(to_say, PAD)
        for rows, tokens in one_pass(model, given):
            said[rows, : tokens.size(1)] = tokens
    if model.architecture == "encoder":
        return said[place, : target.size(1)]
    answers, length = target.clone(), target.size(1) - 1    # without START
    for rows in (~data.all_right(said, to_say)).nonzero().flatten().split(EVALUATION_BATCH):
        if len(rows):
            generated = generate(model, source[rows].to(device), length).cpu()
            answers[rows, 1:] = F.pad(generated, (0, length - generated.size(1)))
    return answers[place]


def solves(model: nn.Module, source: Tensor, target: Tensor) -> bool:
    """Check in one pass whether all answers are correct (see predict); stop at the first mistake."""
    with evaluating(model) as model:
        given, to_say, _ = data.different_rows(*data.arrange(model.architecture, source, target))
        answers = one_pass(model, given)
        return all(data.all_right(said, to_say[rows, : said.size(1)]).all() for rows, said in answers)


def evaluate(model: nn.Module, source: Tensor, target: Tensor, thorough: bool) -> dict:
    """Compute both accuracies on a fixed first batch and, if thorough, whether all sequences are correct.

    Evaluating all of them after every epoch would take longer than training. Unless it was thorough,
    "solved" is None if the first batch is correct.
    """
    first, answers = source[:EVALUATION_BATCH], target[:EVALUATION_BATCH]
    said = predict(model, first, answers)
    scores = {
        "token_accuracy": data.token_accuracy(said, answers), "exact_match": data.exact_match(said, answers)
    }
    others = source[EVALUATION_BATCH:], target[EVALUATION_BATCH:]
    right = scores["exact_match"] == 1
    scores["solved"] = None if right and not thorough else right and solves(model, *others)
    return scores


def validation_set(config: Config) -> tuple[Tensor, Tensor]:
    """Return source and target of the validation set shared by all runs with these settings."""
    return config.draw(VALIDATION_SEQUENCES, fixed_generator("validation"), "validation")


def check_finite(config: Config, model: nn.Module, losses: Tensor, epoch: int) -> None:
    """Raise FloatingPointError if a loss of this epoch (steps,) or a weight after it is infinite or NaN."""
    first_step = (epoch - 1) * config.steps_per_epoch + 1
    for step, loss in enumerate(losses.tolist(), first_step):
        if not math.isfinite(loss):
            fault = f"the loss is {loss} at step {step}"
            break
    else:
        if all(weights.isfinite().all() for weights in model.parameters()):
            return
        fault = f"weights are infinite or NaN at step {step}"
    differing = differing_settings(config)
    cause = f"a non-default setting ({differing})" if differing else "the learning rate"
    rate = min(config.learning_rate, Config.learning_rate) / 10
    remedy = f"the likely cause is {cause}; try --learning-rate {rate:g}"
    raise FloatingPointError(f"{config.name}: {fault}; {remedy}")


def dropout_seed(seed: int, rank: int, epoch: int) -> int:
    """Return a seed unique to this run, process and epoch; in a mere sum, neighbouring seeds would clash."""
    return int(numpy.random.SeedSequence((seed, rank, epoch)).generate_state(1, numpy.uint64)[0] >> 1)


def train(
    config: Config, device: torch.device, checkpoint: dict | None = None, **how: bool | int
) -> Iterator[tuple[nn.Module, dict]]:
    """Train for config.epochs; after each epoch, yield the averaged model and a new checkpoint.

    If a checkpoint is given, training continues from it; one from the last epoch is yielded unchanged. The
    moving average of the weights is evaluated and saved, not the weights themselves. It does not follow their
    final oscillations around the solution (Polyak & Juditsky 1992). For how, see Training. With several
    processes, only the first evaluates and yields.
    """
    run = Training(config, device, **how)
    if checkpoint:
        run.restore(checkpoint)
        if distributed.RANK == 0:
            yield run.average.module, checkpoint
    validation = validation_set(config)
    seconds = run.history[-1]["train_seconds"] if run.history else 0.0
    for epoch in range(len(run.history) + 1, config.epochs + 1):
        start = time.perf_counter()
        if distributed.RANK > 0:                            # its own dropout masks, also after a resume
            torch.manual_seed(dropout_seed(config.seed, distributed.RANK, epoch))
        drawn = config.draw(config.steps_per_epoch * config.batch_size, run.generator)
        batches = zip(*(tensor.to(device).split(config.batch_size) for tensor in drawn), strict=True)
        losses = train_epoch(run, (data.arrange(config.architecture, *rows) for rows in batches))
        losses = distributed.mean_of_all(losses).cpu()      # waits for the device, for correct timing
        seconds += time.perf_counter() - start
        check_finite(config, run.model, losses, epoch)
        if distributed.RANK > 0:
            continue

        thorough = epoch == config.epochs or not first_solved(run.history)
        scores = evaluate(run.average.module, *validation, thorough)
        step = epoch * config.steps_per_epoch
        row = {"epoch": epoch, "step": step, "loss": losses.mean().item(), "train_seconds": seconds} | scores
        run.history.append(row)
        yield run.average.module, run.checkpoint()


# ---------------------------------------------------------------- the test and its mistakes


def prediction_text(task: str, source: Tensor, target: Tensor, prediction: Tensor) -> str:
    """Format source (S,), target (T,) and prediction (T,) one below another, with wrong symbols in []."""
    counts = data.is_scored(target)
    source, target, prediction = source[data.is_scored(source)], target[counts], prediction[counts]
    wrong = prediction != target
    lines = []
    for name, tokens in ("input", source), ("target", target), ("prediction", prediction):
        words = [data.to_text(token, task) for token in tokens.split(1)]
        marked = wrong if name == "prediction" else torch.zeros_like(tokens, dtype=torch.bool)
        cells = [f"[{word}]" if mark else f" {word} " for word, mark in zip(words, marked, strict=True)]
        lines.append(f"    {name:<11}" + "".join(f"{cell:>6}" for cell in cells).rstrip())
    return "\n".join(lines) + (f"   {int(wrong.sum())} wrong" if wrong.any() else "   all correct")


@dataclass
class Answers:
    """A model's answers to the test sequences, none of which were seen during training."""

    config: Config
    source: Tensor                                          # the questions (N, S)
    target: Tensor                                          # the correct answers (N, T)
    prediction: Tensor                                      # the model's own (N, T)

    @property
    def wrong(self) -> Tensor:
        """Return which questions were answered incorrectly, (N,)."""
        return ~data.all_right(self.prediction, self.target)

    def different_mistakes(self) -> list[int]:
        """Return one row per distinct question answered incorrectly."""
        first = {}
        for row in self.wrong.nonzero().flatten().tolist():
            first.setdefault(tuple(self.source[row].tolist()), row)
        return list(first.values())

    def examples(self) -> list[str]:
        """Format up to three distinct mistakes; see prediction_text."""
        return [prediction_text(self.config.task, self.source[row], self.target[row], self.prediction[row])
                for row in self.different_mistakes()[:3]]


def tests_text(config: Config, count: int) -> str:
    """Format the size of a test: 10,000 test sequences (6,584 distinct)."""
    source, _ = config.draw(count, fixed_generator("test"), "test")
    distinct = len(source.unique(dim=0))
    return f"{count:,} test sequences" + (f" ({distinct:,} distinct)" if distinct < count else "")


def take_test(config: Config, model: nn.Module, count: int | None = None) -> Answers:
    """Return the model's answers to this run's test sequences, TEST_SEQUENCES by default."""
    source, target = config.draw(count or TEST_SEQUENCES, fixed_generator("test"), "test")
    return Answers(config, source, target, predict(model, source, target))


def metrics_of(config: Config, model: nn.Module, history: list[dict], answers: Answers) -> dict:
    """Return the run's metrics: when it solved the validation set, and its test scores."""
    solved = first_solved(history) or {}
    return {
        "task": config.task,
        "architecture": config.architecture,
        "seed": config.seed,
        "config": asdict(config),
        "parameters": count_parameters(model),
        "epochs": config.epochs,
        "steps": history[-1]["step"],
        "train_seconds": history[-1]["train_seconds"],
        "steps_to_solve": solved.get("step"),
        "seconds_to_solve": solved.get("train_seconds"),
        "test_sequences": len(answers.target),
        "test_token_accuracy": data.token_accuracy(answers.prediction, answers.target),
        "test_exact_match": data.exact_match(answers.prediction, answers.target),
        "device": str(next(model.parameters()).device),
        "threads": torch.get_num_threads(),
        "torch_version": str(torch.__version__),
    }


# ---------------------------------------------------------------- saving and loading


def save_checkpoint(checkpoint: dict, folder: Path, record: Record | None = None) -> None:
    """Write the record, then the checkpoint; a record that is ahead is cut to its checkpoint when read."""
    whole = io.BytesIO()
    torch.save(checkpoint, whole)                           # writing to a full disk raises no OSError here
    with ExitStack() as files:                              # files are replaced in reverse order
        files.enter_context(replacing(folder / "checkpoint.pt")).write_bytes(whole.getbuffer())
        if record:
            numpy.savez(files.enter_context(replacing(folder / "attention.npz")), **record)


def save_weights(checkpoint: dict, folder: Path, record: Record | None = None) -> int:
    """Save a run's new weights; remove what was based on earlier ones; return the number of pictures."""
    save_checkpoint(checkpoint, folder, record)
    for name in "metrics.json", "history.csv", "training.png":
        (folder / name).unlink(missing_ok=True)
    return remove_stale(folder.parents[1], folder)


def changed(config: Config, model: nn.Module, sample: dict[str, Tensor]) -> str:
    """Describe how the current code differs from that of a run with these weights; "" if it does not.

    sample holds a few questions with the run's answers and logits.
    """
    for source, target in zip(sample["source"], sample["target"], strict=True):
        question, before = (row[data.is_content(row)] for row in (source, target))
        now = data.TASKS[config.task].answer(question[None])[0]
        if not torch.equal(now, before):
            texts = [data.to_text(tokens, config.task) for tokens in (question, before, now)]
            return "the task has changed since: {} gave {}, and now gives {}".format(*texts)
    logits, before = logits_of(model, sample["source"], sample["target"]), sample["logits"]
    if logits.shape != before.shape or not (logits - before).abs().max() <= 1e-3 * before.abs().max():
        return "transformer.py has changed since: the same weights give other logits"
    return ""


def read_run(folder: Path, task: str, architecture: str, quiet: bool = False) -> Run:
    """Return the run in a folder of any name. Raises ValueError if there is none or it cannot be used.

    Unless quiet, print one line to stderr if the code has changed so that the weights no longer belong to it.
    """
    checkpoint, config, model = read_checkpoint(folder, task, architecture)
    run = Run(model.eval(), config, checkpoint["history"], folder, **checkpoint.get("known", {}))
    run.changed = changed(config, model, checkpoint["sample"])
    if run.changed and not quiet:
        print(f"{folder}: code and weights no longer belong together: {run.changed}; {UNDO}", file=sys.stderr)
    return run


def load_run(models_dir: Path, task: str, architecture: str = "encoder") -> Run:
    """Return the run that training left in models_dir; see read_run."""
    return read_run(run_folder(models_dir, task, architecture), task, architecture)


def save_test(config: Config, model: nn.Module, history: list[dict], folder: Path) -> tuple[dict, Answers]:
    """Run the test; save history.csv, training.png if the model was trained and, last, metrics.json.

    Return the metrics and the answers.
    """
    answers = take_test(config, model)
    metrics = metrics_of(config, model, history, answers)
    save_table(history, folder / "history.csv")
    if metrics["steps"]:
        with picture_style(letters=data.letters_in_names()):
            save_picture(training_picture(config, history), folder / "training.png")
    write_json(metrics, folder / "metrics.json")
    return metrics, answers


def save_untrained(config: Config, model: nn.Module, models_dir: Path, **known: dict) -> None:
    """Save a hand-built model as a run that the other scripts can read.

    known may hold the purposes and the stream of Run.
    """
    folder = run_folder(models_dir, config.task, config.architecture)
    source, target = validation_set(config)
    inputs, targets = data.arrange(config.architecture, source, target)
    with evaluating(model):
        loss = loss_of(model(*inputs), targets).item()
    row = {"epoch": 0, "step": 0, "loss": loss, "train_seconds": 0.0}
    row |= evaluate(model, source, target, thorough=True)
    checkpoint = {
        "config": asdict(config), "sample": sample_of(config, model), "history": [row],
        "model": model.state_dict(), "known": known,
    }
    with only_writer(folder):
        save_weights(checkpoint, folder)
        (folder / "attention.npz").unlink(missing_ok=True)
        save_test(config, model, [row], folder)


# ---------------------------------------------------------------- command line


def parse() -> argparse.Namespace:
    """Parse the command line. Config settings that are not given are absent and so keep their defaults."""
    parser = console.new_parser(
        "Train Transformers on sequence tasks; python visualize.py then shows what they learned.",
        "python train.py", "python train.py --task sort --architecture decoder",
        "python train.py --task reverse --num-layers 1 --output-dir models/one_layer",
        argument_default=argparse.SUPPRESS,
    )
    console.add_choice(parser, "--task", data.task_names(), DEFAULT_TASKS)
    console.add_choice(parser, "--architecture", data.ARCHITECTURES, DEFAULT_ARCHITECTURES)
    add_settings(parser)
    option = parser.add_argument
    devices = ["auto", "cpu", "cuda", "mps"]
    option("--device", choices=devices, default="auto",
           help="device to train on (default: auto, which picks a GPU if available)")
    option("--threads", type=int, default=None, metavar="N",
           help="number of CPU threads (default: OMP_NUM_THREADS if set, otherwise 1)")
    option("--accumulate", type=int, default=1, metavar="N",
           help="split each batch into N micro-batches to save memory, accumulating gradients (default: 1)")
    option("--amp", action="store_true", default=False,
           help="train in bfloat16 mixed precision, if the device supports it")
    option("--compile", action="store_true", default=False,
           help="compile the model with torch.compile; takes half a minute and needs a C++ compiler")
    option("--output-dir", type=console.folder_name, default=DEFAULT_FOLDER, metavar="FOLDER",
           help="folder in which to save the runs (default: models)")
    option("--resume", action="store_true", default=False,
           help="resume each run that has a checkpoint; start the others from scratch")
    option("--quiet", action="store_true", default=False, help="print only the final table")
    options = console.parse_options(parser)
    if "norm" in options:
        options.norm_first = options.norm == "pre"
    return options


def plan(task: str, architecture: str, options: argparse.Namespace) -> tuple[Config, dict | None, bool]:
    """Return what to train, the checkpoint to resume from, if any, and whether the run is already finished.

    Raises ValueError if a setting is impossible, or differs from that of the run to resume.
    """
    names = {field.name for field in fields(Config)} - {"task", "architecture"}
    given = {name: value for name, value in vars(options).items() if name in names}
    config, checkpoint, finished = recipe(task, architecture, **given), None, False
    folder = run_folder(options.output_dir, task, architecture)
    if options.resume and (folder / "checkpoint.pt").exists():
        checkpoint, config, model = read_checkpoint(folder, task, architecture)
        own, last = asdict(config), checkpoint["history"][-1]
        if last["epoch"] == 0:
            raise ValueError(f"{folder} holds weights set by hand, which cannot be resumed; drop --resume")
        if differs := changed(config, model, checkpoint["sample"]):
            raise ValueError(f"cannot resume the run in {folder}: {differs}; {UNDO}")
        if differing := [name for name in given if given[name] != own[name]]:
            wanted, found = (
                ", ".join(setting_text(name, of[name]) for name in differing) for of in (given, own)
            )
            raise ValueError(
                f"cannot resume with {wanted}: the run in {folder} was started with {found}; "
                "drop these options, or train in a different --output-dir without --resume"
            )
        is_last = last["epoch"] == config.epochs
        finished = is_last and read_metrics(folder).get("train_seconds") == last["train_seconds"]
    config.check()
    check_positive(accumulate=options.accumulate)
    if config.batch_size < (parts := distributed.PROCESSES * options.accumulate):
        raise ValueError(
            f"batch_size={config.batch_size} is too small for {distributed.PROCESSES} processes with "
            f"accumulate={options.accumulate}; choose {parts} or more"
        )
    return config, checkpoint, finished


def progress_lines(
    config: Config, model: nn.Module, history: list[dict], examples: tuple[Tensor, Tensor]
) -> list[str]:
    """Return the lines to print after an epoch: scores at intervals, and sample answers early in training."""
    *earlier, row = history
    before = first_solved(earlier)
    solved = row["solved"] and not before
    if not solved and row["epoch"] not in (1, 5) and row["epoch"] % 10:
        return []
    scores = (
        f"{config.name}, step {row['step']}: loss {row['loss']:.4f}, token accuracy "
        f"{percent(row['token_accuracy'])}, exact match {percent(row['exact_match'])} of {EVALUATION_BATCH}"
    )
    if solved:
        seconds = f"{row['train_seconds']:.1f} s of training"
        scores += f"; solved: all {VALIDATION_SEQUENCES:,} validation sequences correct after {seconds}"
    if before or row["epoch"] > 5 and not solved:
        return [scores]
    sources, targets = examples
    rows = zip(sources, targets, predict(model, sources, targets), strict=True)
    return [scores, *(prediction_text(config.task, *row) + "\n" for row in rows)]


def saved_text(config: Config, epochs: int, folder: Path) -> str:
    """Describe what has been saved if a run stops after this many epochs."""
    if epochs:
        return f"{config.name} is saved up to epoch {epochs} of {config.epochs}"
    if (folder / "checkpoint.pt").exists():
        return f"nothing new was saved for {config.name}; the earlier run is unchanged"
    return f"nothing was saved for {config.name}"


def print_mistakes(answers: Answers, last: dict) -> None:
    """Print three mistakes; if the final loss suggests it, blame the learning rate."""
    config, count = answers.config, f"{int(answers.wrong.sum()):,} of {len(answers.wrong):,}"
    print(f"{config.name}: {count} test sequences answered incorrectly, for example:")
    print("\n".join(answers.examples()) + "\n")
    guessing = math.log(config.vocab_size)                  # the loss of uniform guessing
    if last["loss"] > guessing and last["step"] > WARM_UP_STEPS:
        print(f"The loss is {last['loss']:.2f}, worse than uniform guessing (ln {config.vocab_size} = "
              f"{guessing:.2f}); try a --learning-rate below {config.learning_rate:g}\n")


def train_and_save(
    config: Config, device: torch.device, folder: Path, quiet: bool, checkpoint: dict | None = None,
    **how: bool | int,
) -> dict | None:
    """Train with a progress bar and occasional sample answers; save everything; return the metrics.

    With several processes, only the first saves and returns anything. If training stops early, one line
    reports why and what has been saved.
    """
    sources, targets = config.draw(100, fixed_generator("examples"), "validation")
    middling_and_longest = data.is_scored(targets).sum(dim=1).argsort()[[50, -1]].tolist()
    examples = sources[middling_and_longest], targets[middling_and_longest]
    missing = data.missing_text(config.task, config.seq_len, config.vocab_size, config.fixed_length)
    if missing and not quiet:
        print(f"{config.name}: {missing}")
    probe, record = probe_of(config), read_record(folder, checkpoint["history"]) if checkpoint else None
    hidden = True if quiet or distributed.RANK > 0 else None            # None: no bar if the output is a file
    bar = tqdm(total=config.epochs, desc=config.name, unit="epoch", disable=hidden)
    done = len(checkpoint["history"]) if checkpoint else 0
    try:
        for model, state in train(config, device, checkpoint, **how):
            row = state["history"][-1]
            lines = [] if quiet else progress_lines(config, model, state["history"], examples)
            if row["epoch"] > done:
                record, replaces = extended(record, model, probe, row), (folder / "checkpoint.pt").exists()
                removed = save_weights(state, folder, record)
                if not quiet and (removed or replaces and row["epoch"] == 1):
                    replaced = f"{folder}: earlier weights replaced"
                    lines.insert(0, f"{replaced}, {removed} files based on them removed")
                done = row["epoch"]
            bar.set_postfix({"loss": f"{row['loss']:.4f}", "exact match": percent(row["exact_match"])})
            bar.update(row["epoch"] - bar.n)
            for line in lines:
                tqdm.write(line, file=sys.stdout)
        if distributed.RANK > 0:
            return None
        metrics, answers = save_test(config, model, state["history"], folder)
    except (KeyboardInterrupt, SystemExit):                 # Ctrl-C, SIGTERM
        print(f"interrupted: {saved_text(config, done, folder)}; {RESUME}", file=sys.stderr)
        raise
    except FloatingPointError as error:                     # the same command would fail again here
        console.fail(f"{error}; {saved_text(config, done, folder)}")
    except OSError as error:                                # e.g. a full disk
        reason = f"{error.strerror or error}; {saved_text(config, done, folder)}; {RESUME}"
        raise OSError(error.errno, reason, error.filename) from error
    except (MemoryError, RuntimeError) as error:
        saved = saved_text(config, done, folder)
        if distributed.is_left_alone(error):
            console.fail(f"another process has died; {saved}; {RESUME}")
        if is_out_of_memory(error):
            console.fail(f"{first_line(error)}; {LESS_MEMORY}; {saved}")
        if how.get("amp") or how.get("compile"):            # not every machine supports them
            console.fail(f"{first_line(error)}; drop --amp and --compile; {saved}")
        raise
    finally:
        bar.close()
    if not quiet and answers.wrong.any():
        print_mistakes(answers, row)
    return metrics


def print_table(results: list[dict]) -> None:
    """Print one line per run."""
    width = max(10, *(len(metrics["task"]) + 2 for metrics in results))
    line = "{:<{width}}{:<17}{:>10}{:>12}{:>9}{:>17}{:>14}"
    configs = [Config(**metrics["config"]) for metrics in results]
    counts = " or ".join(dict.fromkeys(tests_text(config, TEST_SEQUENCES) for config in configs))
    print(f"\nOn {counts}, none of them seen during training:\n")
    headings = "task", "architecture", "parameters", "solved at", "time", "token accuracy", "exact match"
    print(line.format(*headings, width=width))
    for metrics in results:
        step, seconds = metrics["steps_to_solve"], metrics["seconds_to_solve"]
        print(line.format(
            metrics["task"], metrics["architecture"], f"{metrics['parameters']:,}",
            "never" if step is None else f"step {step}", "" if step is None else f"{seconds:.1f} s",
            percent(metrics["test_token_accuracy"], 2), percent(metrics["test_exact_match"], 2), width=width,
        ))


def train_all(options: argparse.Namespace) -> None:
    """Check everything first, then train the runs one after another and print a table."""
    start = time.perf_counter()
    tasks, architectures = list(dict.fromkeys(options.task)), list(dict.fromkeys(options.architecture))
    runs = [(task, architecture) for architecture in architectures for task in tasks]
    how = {name: getattr(options, name) for name in ("accumulate", "amp", "compile")}
    results = []
    with ExitStack() as context:
        try:
            console.set_threads(options.threads)
            device = console.choose_device(options.device)
            context.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            context.enter_context(distributed.process_group(device))
            distributed.from_first(lambda: [plan(*run, options) for run in runs])
        except ValueError as error:
            console.fail(str(error))
        for run in runs:
            folder = run_folder(options.output_dir, *run)
            with only_writer(folder) if distributed.RANK == 0 else nullcontext():
                config, checkpoint, finished = distributed.from_first(lambda run=run: plan(*run, options))
                if finished:
                    print(f"{config.name}: already finished ({config.epochs} epochs)")
                else:
                    results.append(train_and_save(config, device, folder, options.quiet, checkpoint, **how))
    if distributed.RANK > 0:
        return
    if results:
        print_table(results)
    command = command_line("visualize.py", tasks, architectures, options.output_dir)
    print(f"\nDone in {time.perf_counter() - start:.0f} s. The runs are saved in {options.output_dir}/. "
          f"To see what they learned: {command}")


def main() -> None:
    with redirect_stderr(io.StringIO()) if distributed.RANK > 0 else nullcontext():     # the first reports
        train_all(parse())


if __name__ == "__main__":
    console.run_script(main, status_if_left=130)            # interrupted
