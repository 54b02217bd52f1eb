"""Train a Transformer on a task until it makes no mistakes, and save everything worth looking at.

`python train.py` trains copy and reverse, each with an encoder and with an encoder–decoder, and writes
models/<task>_task/<architecture>/. An epoch is 8 steps on fresh data. The training loop is in `train_step`
and `train`; the loss, schedule and evaluation come before them. The test, saving and the command line follow.
What any training script needs, such as settings, files and several processes, is in support/.
"""

import argparse
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext, redirect_stderr
from copy import deepcopy
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

from support import console  # before all others, see there

# isort: split
import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import data
from support import config as settings
from support import distributed, files, parallel, record, report, runs
from support.config import Config, fixed_generator
from support.distributed import backward
from support.figure import percent, picture_style, save_picture
from support.runs import load_run
from support.training_plot import draw_training
from transformer import PAD, eval_mode, generate, unwrap_model

WARM_UP_STEPS = 15
BETAS = (0.85, 0.99)                                        # decay rates of Adam's two moment estimates
CLIP_NORM = 0.5                                             # maximum gradient norm
SAVE_EVERY = 5                                              # seconds; and at the end, or when interrupted


def masked_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of −log p(target) over the scored positions; logits (B, S, V), targets (B, S)."""
    ignored = -100                                          # cross_entropy's index for positions without loss
    targets = targets.masked_fill(~data.loss_mask(targets), ignored)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))    # bfloat16 is too coarse to sum
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=ignored)


def lr_multiplier(step: int, steps: int, constant_fraction: float = 0.0) -> float:
    """Return the learning-rate multiplier at step 0 … steps − 1: short linear warm-up, then cosine decay.

    The decay begins after constant_fraction of the steps; if that is 1, never.
    """
    warm_up, start = min(1.0, (step + 1) / WARM_UP_STEPS), constant_fraction * steps
    return warm_up * 0.5 * (1 + math.cos(math.pi * max(0.0, step - start) / max(1.0, steps - start)))


def update_ema(averages: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
    """Move the moving average towards the weights: by 0.82, 0.75, 0.69 … of the way, finally by 0.05.

    updates is the number of updates so far, the first being AveragedModel's copy of the weights.
    """
    decay = ((1 + updates) / (10 + updates)).clamp(max=0.95)
    for average, weight in zip(averages, weights, strict=True):
        average.lerp_(weight, 1 - decay)


class TrainingState:
    """Everything that changes during a run, so that a checkpoint can capture it.

    The last arguments are not part of Config, because they affect the result only through rounding (with
    dropout, accumulation_steps also changes which numbers are dropped). accumulation_steps is the number of
    micro-batches per batch, amp turns on bfloat16, and compiled uses torch.compile.
    """

    def __init__(
        self, config: Config, device: torch.device,
        accumulation_steps: int = 1, amp: bool = False, compiled: bool = False,
    ):
        torch.manual_seed(config.seed)
        steps = config.epochs * config.steps_per_epoch
        self.config, self.device = config, device
        self.backward_options = {"accumulation_steps": accumulation_steps, "amp": amp}
        self.model = config.build_model().to(device)
        self.ema_model = AveragedModel(self.model, multi_avg_fn=update_ema)
        self.ema_model.n_averaged = self.ema_model.n_averaged.cpu()         # read every step: keep it off GPU
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), config.learning_rate, BETAS,
            weight_decay=config.weight_decay, fused=device.type != "mps",
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: lr_multiplier(step, steps, config.constant_fraction)
        )
        self.generator = torch.Generator().manual_seed(config.seed)         # of the training data
        self.history: list[dict] = []                                       # one row per epoch
        if compiled:
            self.model.compile()
        self.model = distributed.wrap_ddp(self.model)

    def checkpoint(self) -> dict:
        """Return a copy of the full state; "model" holds the averaged weights, which are the ones to use."""
        random_states = {"torch": torch.get_rng_state(), "data": self.generator.get_state()}
        if self.device.type == "cuda":
            random_states["cuda"] = torch.cuda.get_rng_state(self.device)
        return deepcopy({
            "config": asdict(self.config),
            "reference": runs.make_reference(self.config, self.ema_model.module),
            "history": self.history,
            "model": self.ema_model.module.state_dict(),
            "ema_updates": int(self.ema_model.n_averaged),
            "trained_weights": unwrap_model(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random_states": random_states,
        })

    def restore(self, checkpoint: dict) -> None:
        """Restore the checkpoint's state, so that the same steps follow; the checkpoint is not modified."""
        checkpoint = deepcopy(checkpoint)
        self.history = checkpoint["history"]
        self.ema_model.module.load_state_dict(checkpoint["model"])
        self.ema_model.n_averaged.fill_(checkpoint["ema_updates"])
        unwrap_model(self.model).load_state_dict(checkpoint["trained_weights"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.schedule.load_state_dict(checkpoint["schedule"])
        torch.set_rng_state(checkpoint["random_states"]["torch"])
        self.generator.set_state(checkpoint["random_states"]["data"])
        if self.device.type == "cuda" and "cuda" in checkpoint["random_states"]:
            torch.cuda.set_rng_state(checkpoint["random_states"]["cuda"], self.device)


def train_step(state: TrainingState, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
    """Take one optimiser step on a batch: model(*inputs) should predict targets. Return the loss, in nats.

    Compute fresh gradients, clip their norm to CLIP_NORM, and update the weights, the learning rate and the
    moving average, in this order.
    """
    state.optimizer.zero_grad()
    # backward(…) is masked_cross_entropy(state.model(*inputs), targets).backward(), and returns the loss.
    batch = inputs, targets, data.loss_mask(targets)
    loss = backward(state.model, masked_cross_entropy, *batch, **state.backward_options)
    nn.utils.clip_grad_norm_(state.model.parameters(), CLIP_NORM)
    state.optimizer.step()
    state.schedule.step()
    state.ema_model.update_parameters(state.model)
    return loss


def train_epoch(state: TrainingState, batches: Iterable[tuple[tuple[Tensor, ...], Tensor]]) -> Tensor:
    """Take one step per batch of inputs and targets; return the losses (steps,)."""
    state.model.train()
    return torch.stack([train_step(state, *batch) for batch in batches])


# ---------------------------------------------------------------- evaluation, and the loop over epochs


def predict(model: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    """Return the model's predictions for sources (N, S), shaped like target (N, T); all on the CPU.

    An encoder predicts in one pass; the others generate. Greedy decoding and a teacher-forced pass read the
    same first tokens. Each time both predict the correct token, both read it next and predict the same again.
    So only rows with a mistake need generating. Duplicate questions are answered once.
    """
    device = next(model.parameters()).device
    pairs, inverse = torch.cat([source, target], dim=1).unique(dim=0, return_inverse=True)
    source, target = pairs[:, : source.size(1)], pairs[:, source.size(1) :]
    with eval_mode(model) as model:
        inputs, targets = data.make_inputs_and_targets(model.architecture, source, target)
        predictions = torch.full_like(targets, PAD)
        for rows, tokens in data.batches_by_length(inputs, settings.EVALUATION_BATCH):
            logits = model(*(x.to(device) for x in tokens))
            predictions[rows, : logits.size(1)] = logits.argmax(dim=-1).cpu()
    if model.architecture == "encoder":
        return predictions[inverse, : target.size(1)]
    answers, length = target.clone(), target.size(1) - 1    # without START
    wrong = (~data.is_correct(predictions, targets)).nonzero().flatten()
    for rows in wrong.split(settings.EVALUATION_BATCH) if len(wrong) else ():
        generated = generate(model, source[rows].to(device), length).cpu()
        answers[rows, 1:] = F.pad(generated, (0, length - generated.size(1)))
    return answers[inverse]


def evaluate(model: nn.Module, source: Tensor, target: Tensor, check_all: bool) -> dict:
    """Compute both accuracies on a fixed first batch and, if check_all, whether all sequences are correct.

    Evaluating all of them after every epoch would take longer than training. Unless check_all, "solved" is
    None if the first batch is correct.
    """
    count = settings.EVALUATION_BATCH
    first, answers = predict(model, source[:count], target[:count]), target[:count]
    exact_match = data.exact_match(first, answers)
    scores = {"token_accuracy": data.token_accuracy(first, answers), "exact_match": exact_match}
    solved = None if exact_match == 1 else False
    if check_all and solved is None:
        solved = data.exact_match(predict(model, source[count:], target[count:]), target[count:]) == 1
    return scores | {"solved": solved}


def sample_validation_set(config: Config) -> tuple[Tensor, Tensor]:
    """Return source and target of the validation set shared by all runs with these settings."""
    return config.sample_batch(settings.VALIDATION_SEQUENCES, fixed_generator("validation"), "validation")


def train(
    config: Config, device: torch.device, checkpoint: dict | None = None, **execution: bool | int
) -> Iterator[tuple[nn.Module, dict]]:
    """Train for config.epochs; after each epoch, yield the averaged model and a new checkpoint.

    If a checkpoint is given, training continues from it; one from the last epoch is yielded unchanged. The
    moving average of the weights is evaluated and saved, not the weights themselves. It does not follow their
    final oscillations around the solution (Polyak & Juditsky 1992). For execution, see TrainingState. With
    several processes, only the first evaluates and yields.
    """
    state = TrainingState(config, device, **execution)
    if checkpoint:
        state.restore(checkpoint)
        if distributed.RANK == 0:
            yield state.ema_model.module, checkpoint
    validation = sample_validation_set(config)
    seconds = state.history[-1]["train_seconds"] if state.history else 0.0
    for epoch in range(len(state.history) + 1, config.epochs + 1):
        start = time.perf_counter()
        if distributed.RANK > 0:                            # its own dropout masks, also after a resume
            torch.manual_seed(distributed.dropout_seed(config.seed, epoch))
        sampled = config.sample_batch(config.steps_per_epoch * config.batch_size, state.generator)
        rows = zip(*(tokens.to(device).split(config.batch_size) for tokens in sampled), strict=True)
        next_token = data.TASKS[config.task].next_token
        batches = (data.make_inputs_and_targets(config.architecture, *pair, next_token) for pair in rows)
        losses = distributed.all_reduce_mean(train_epoch(state, batches))
        losses = losses.cpu()                               # waits for the device, for correct timing
        seconds += time.perf_counter() - start
        report.check_finite(config, state.model, losses, epoch)
        if distributed.RANK > 0:
            continue

        check_all = epoch == config.epochs or not runs.first_solved(state.history)
        scores = evaluate(state.ema_model.module, *validation, check_all)
        step = epoch * config.steps_per_epoch
        row = {"epoch": epoch, "step": step, "loss": losses.mean().item(), "train_seconds": seconds} | scores
        state.history.append(row)
        yield state.ema_model.module, state.checkpoint()


# ---------------------------------------------------------------- the test, and saving


def run_test(config: Config, model: nn.Module, count: int | None = None) -> report.TestResults:
    """Return the model's answers to this run's test sequences, 10,000 by default."""
    source, target = config.sample_batch(count or settings.TEST_SEQUENCES, fixed_generator("test"), "test")
    return report.TestResults(config, source, target, predict(model, source, target))


def save_weights(checkpoint: dict, folder: Path, attention: record.AttentionHistory | None = None) -> int:
    """Save a run's new weights, and remove what was based on earlier ones; return the number of pictures.

    The attention history is replaced first. If it is ahead of its checkpoint, it is cut when it is read.
    """
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)                          # writing to a full disk raises no OSError here
    with files.atomic_write(folder / "checkpoint.pt") as path:
        path.write_bytes(buffer.getbuffer())
        if attention:
            with files.atomic_write(folder / "attention.npz") as other:
                numpy.savez(other, **attention)
    for name in "metrics.json", "history.csv", "training.png":
        (folder / name).unlink(missing_ok=True)
    return runs.remove_stale(folder.parents[1], folder)


def save_test(config: Config, model: nn.Module, history: list[dict], folder: Path) -> report.TestResults:
    """Run and return the test; save history.csv, training.png if the model was trained, and metrics.json."""
    results = run_test(config, model)
    metrics = runs.collect_metrics(config, model, history, results.target, results.prediction)
    runs.write_table(history, folder / "history.csv")
    if metrics["steps"]:
        with picture_style():
            save_picture(draw_training(config, history), folder / "training.png")
    runs.write_json(metrics, folder / "metrics.json")                   # last: then the run is finished
    return results


# ---------------------------------------------------------------- command line


def parse_options() -> argparse.Namespace:
    """Parse the command line. Config settings that are not given are absent and so keep their defaults."""
    parser = console.new_parser(
        "Train Transformers on sequence tasks; python visualize.py then shows what they learned.",
        "python train.py", "python train.py --task sort --architecture decoder",
        "python train.py --task reverse --num-layers 1 --output-dir models/one_layer",
        argument_default=argparse.SUPPRESS,
    )
    data.add_task_options(parser, runs.DEFAULT_TASKS)
    console.add_choice(parser, "--architecture", data.ARCHITECTURES, runs.DEFAULT_ARCHITECTURES)
    settings.add_settings(parser)
    option = parser.add_argument
    option("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto",
           help="device to train on (default: auto, which picks a GPU if available)")
    option("--threads", type=int, default=None, help="CPU threads (default: OMP_NUM_THREADS, or else 1)")
    parallel.add_jobs(parser, "train")
    option("--accumulate", type=int, default=1, metavar="N", help="micro-batches per batch, to save memory")
    option("--amp", action="store_true", default=False, help="train in bfloat16 mixed precision")
    option("--compile", action="store_true", default=False, help="use torch.compile; needs a C++ compiler")
    option("--output-dir", type=console.folder_name, default=runs.DEFAULT_FOLDER, metavar="FOLDER",
           help="folder in which to save the runs (default: models)")
    option("--resume", action="store_true", default=False, help="continue each run that has a checkpoint")
    option("--quiet", action="store_true", default=False, help="print only the final table")
    options = parser.parse_args()
    if "norm" in options:
        options.norm_first = options.norm == "pre"
    return options


def plan_run(task: str, architecture: str, options: argparse.Namespace) -> tuple[Config, dict | None, bool]:
    """Return what to train, the checkpoint to resume from, if any, and whether the run is already finished.

    Raises ValueError if a setting is impossible, or differs from that of the run to resume.
    """
    names = {field.name for field in fields(Config)} - {"task", "architecture"}
    requested = {name: value for name, value in vars(options).items() if name in names}
    config, checkpoint, finished = settings.default_config(task, architecture, **requested), None, False
    folder = runs.run_folder(options.output_dir, task, architecture)
    if options.resume and (folder / "checkpoint.pt").exists():
        run = load_run(options.output_dir, task, architecture, quiet=True)
        config, checkpoint, last = run.config, run.checkpoint, run.history[-1]
        if config.constant_fraction == 1:                   # without a decay, more epochs change no step
            config = replace(config, epochs=max(config.epochs, requested.get("epochs", 0)))
        if "optimizer" not in checkpoint:                   # set by hand, or a copy without the rest
            raise ValueError(f"{folder} holds weights alone, which cannot be resumed; drop --resume")
        if run.code_change:
            raise ValueError(f"cannot resume the run in {folder}: {run.code_change}; {runs.REMEDY}")
        differing = [name for name in requested if requested[name] != getattr(config, name)]
        if differing:
            expected = ", ".join(settings.format_setting(name, requested[name]) for name in differing)
            found = ", ".join(settings.format_setting(name, getattr(config, name)) for name in differing)
            raise ValueError(
                f"cannot resume with {expected}: the run in {folder} was started with {found}; "
                "drop these options, or train in a different --output-dir without --resume"
            )
        seconds = runs.read_metrics(folder).get("train_seconds")            # written last
        finished = last["epoch"] == config.epochs and last["train_seconds"] == seconds
    config.check()
    distributed.check_batch_size(config.batch_size, options.accumulate)
    return config, checkpoint, finished


def train_and_save(
    config: Config, device: torch.device, folder: Path, quiet: bool, checkpoint: dict | None = None,
    show: Callable[..., None] = lambda *lines, **progress: None, **execution: bool | int,
) -> dict | None:
    """Train with occasional sample answers, save everything and return the metrics; see Progress for show.

    With several processes, only the first saves and returns anything.
    """
    examples, questions = report.sample_examples(config), record.recorded_questions(config)
    history = checkpoint["history"] if checkpoint else []
    attention = record.read_attention_history(folder, history) if history else None
    saved, unsaved, save_at = len(history), None, 0.0       # in epochs; what to save; when
    missing = "" if quiet else data.describe_missing_lengths(config.task, *config.sizes)
    show(missing and f"{config.name}: {missing}", done=saved, total=config.epochs)
    try:
        for model, current in train(config, device, checkpoint, **execution):
            row, lines = current["history"][-1], [report.format_progress(config, current["history"])]
            if not quiet and report.is_early(current["history"]):
                predicted = zip(*examples, predict(model, *examples), strict=True)
                lines += [report.format_prediction(config.task, *each) + "\n" for each in predicted]
            if row["epoch"] > saved:
                attention = record.append_epoch(attention, model, questions, row)
                unsaved = current, folder, attention
            if unsaved and (time.monotonic() >= save_at or row["epoch"] == config.epochs):
                replaces = row["epoch"] == 1 and (folder / "checkpoint.pt").exists()
                if (removed := save_weights(*unsaved)) or replaces:
                    lines.append(f"{folder}: earlier weights replaced, {removed} files based on them removed")
                saved, unsaved, save_at = row["epoch"], None, time.monotonic() + SAVE_EVERY
            scores = {"loss": f"{row['loss']:.4f}", "exact match": percent(row["exact_match"])}
            show(*([] if quiet else lines), done=row["epoch"], **scores)
        if distributed.RANK > 0:
            return None
        results = save_test(config, model, current["history"], folder)
    except BaseException as error:
        if unsaved and not isinstance(error, OSError):      # e.g. a full disk
            save_weights(*unsaved)
            saved = len(unsaved[0]["history"])
        report.report_failure(error, config, saved)
        raise                                               # an interrupt, or a bug
    if not quiet and results.wrong.any():
        show(*report.format_mistakes(results, row))
    return runs.read_metrics(folder)


def train_run(
    task: str, architecture: str, options: argparse.Namespace, show: Callable[..., None]
) -> dict | None:
    """Train and save one run, or what is left of it to train; return its metrics, if there was anything."""
    data.load_tasks(options.tasks)                          # it may run in a process of its own
    console.set_threads(options.threads)
    device = console.choose_device(options.device)
    folder = runs.run_folder(options.output_dir, task, architecture)
    execution = {"accumulation_steps": options.accumulate, "amp": options.amp, "compiled": options.compile}
    with files.folder_lock(folder) if distributed.RANK == 0 else nullcontext():
        planned = distributed.broadcast_from_rank_zero(partial(plan_run, task, architecture, options))
        config, checkpoint, finished = planned
        if not finished:
            return train_and_save(config, device, folder, options.quiet, checkpoint, show, **execution)
        show(f"{config.name}: already finished ({config.epochs} epochs)")
        return None


def train_all(options: argparse.Namespace) -> None:
    """Check everything first, then train the runs, several at once, and print a table."""
    start = time.perf_counter()
    tasks, architectures = list(dict.fromkeys(options.task)), list(dict.fromkeys(options.architecture))
    chosen = [(task, architecture, options) for architecture in architectures for task in tasks]
    with ExitStack() as context:
        try:
            console.set_threads(options.threads)
            device = console.choose_device(options.device)
            context.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            context.enter_context(distributed.process_group(device))
            jobs = parallel.choose_jobs(options.jobs, device)
            named = {plan_run(*run)[0].name: run for run in chosen}     # checks all before training any
        except ValueError as error:
            console.exit_with_error(str(error))
        all_metrics = list(filter(None, parallel.run_all(train_run, named, jobs, "epoch", options.quiet)))
    if distributed.RANK > 0:
        return
    if all_metrics:
        report.print_table(all_metrics)
    command = runs.format_command("visualize.py", tasks, architectures, options.output_dir)
    print(f"\nDone in {time.perf_counter() - start:.0f} s. The runs are saved in {options.output_dir}/. "
          f"To see what they learned: {command}")


def main() -> None:
    with redirect_stderr(io.StringIO()) if distributed.RANK > 0 else nullcontext():     # the first reports
        train_all(parse_options())


if __name__ == "__main__":
    console.run_script(main)
