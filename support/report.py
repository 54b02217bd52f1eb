"""The lines that training prints: scores, sample answers, what is saved, mistakes, and the final table."""

import math
import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

import data
from support.config import (
    EVALUATION_BATCH,
    VALIDATION_SEQUENCES,
    Config,
    fixed_generator,
    format_test_size,
    non_default_settings,
)
from support.console import exit_with_error
from support.distributed import is_peer_failure
from support.figure import percent
from support.files import first_line
from support.runs import first_solved


def format_prediction(task: str, source: Tensor, target: Tensor, prediction: Tensor) -> str:
    """Format source (S,), target (T,) and prediction (T,) one below another, with wrong symbols in []."""
    counts = data.loss_mask(target)
    source, target, prediction = source[data.loss_mask(source)], target[counts], prediction[counts]
    wrong, lines = prediction != target, []
    for name, tokens in {"input": source, "target": target, "prediction": prediction}.items():
        cells = [f" {data.format_tokens(token, task)} " for token in tokens.split(1)]
        if name == "prediction":
            cells = [f"[{x.strip()}]" if mark else x for x, mark in zip(cells, wrong, strict=True)]
        lines.append(f"    {name:<11}" + "".join(f"{cell:>6}" for cell in cells).rstrip())
    return "\n".join(lines) + (f"   {int(wrong.sum())} wrong" if wrong.any() else "   all correct")


@dataclass
class TestResults:
    """A model's answers to the test sequences, none of which were seen during training."""

    config: Config
    source: Tensor                                          # the questions (N, S)
    target: Tensor                                          # the correct answers (N, T)
    prediction: Tensor                                      # the model's own (N, T)

    @property
    def wrong(self) -> Tensor:
        """Return which questions were answered incorrectly, (N,)."""
        return ~data.is_correct(self.prediction, self.target)

    def distinct_mistakes(self) -> list[int]:
        """Return one row per distinct question answered incorrectly."""
        backwards = reversed(self.wrong.nonzero().flatten().tolist())
        return sorted({tuple(self.source[row].tolist()): row for row in backwards}.values())

    def format_examples(self) -> list[str]:
        """Format up to three distinct mistakes; see format_prediction."""
        return [format_prediction(self.config.task, self.source[row], self.target[row], self.prediction[row])
                for row in self.distinct_mistakes()[:3]]


def sample_examples(config: Config) -> list[Tensor]:
    """Return source (2, S) and target (2, T) of two validation questions, of medium and of full length."""
    source, target = config.sample_batch(100, fixed_generator("examples"), "validation")
    medium_and_longest = data.loss_mask(target).sum(dim=1).argsort()[[50, -1]]
    return [tokens[medium_and_longest] for tokens in (source, target)]


def is_solved_now(history: list[dict]) -> bool:
    """Return whether the task was solved in the last epoch, and not before."""
    return first_solved(history) is history[-1]


def is_early(history: list[dict]) -> bool:
    """Return whether sample answers are worth printing: in the first epochs, and when the task is solved."""
    return is_solved_now(history) or history[-1]["epoch"] in (1, 5) and not first_solved(history)


def format_progress(config: Config, history: list[dict]) -> str:
    """Format the scores of the last epoch, at intervals and when the task is solved; "" otherwise."""
    row, solved = history[-1], is_solved_now(history)
    if not solved and row["epoch"] not in (1, 5) and row["epoch"] % 10:
        return ""
    text = (
        f"{config.name}, step {row['step']}: loss {row['loss']:.4f}, token accuracy "
        f"{percent(row['token_accuracy'])}, exact match {percent(row['exact_match'])} of {EVALUATION_BATCH}"
    )
    if solved:
        seconds = f"{row['train_seconds']:.1f} s of training"
        text += f"; solved: all {VALIDATION_SEQUENCES:,} validation sequences correct after {seconds}"
    return text


def check_finite(config: Config, model: nn.Module, losses: Tensor, epoch: int) -> None:
    """Raise FloatingPointError if a loss of this epoch (steps,) or a weight after it is infinite or NaN."""
    finite = losses.isfinite()
    if finite.all() and all(weights.isfinite().all() for weights in model.parameters()):
        return
    step = (epoch - 1) * config.steps_per_epoch + 1
    step += len(losses) - 1 if finite.all() else int(finite.int().argmin())
    cause, rate = non_default_settings(config), min(config.learning_rate, Config.learning_rate) / 10
    raise FloatingPointError(
        f"{config.name}: the loss or a weight is infinite or NaN at step {step}; try --learning-rate {rate:g}"
        + (f", or drop non-default settings ({cause})" if cause else "")
    )


def report_failure(error: BaseException, config: Config, epochs: int) -> None:
    """End the program with one line on why training stopped and what has been saved, unless it is a bug."""
    saved = f"nothing new was saved for {config.name}"
    if epochs:
        saved = f"{config.name} is saved up to epoch {epochs} of {config.epochs}"
    resume = "run the same command with --resume to continue"
    if isinstance(error, (KeyboardInterrupt, SystemExit)):  # Ctrl-C, SIGTERM
        tqdm.write(f"interrupted: {saved}; {resume}", file=sys.stderr)
    elif isinstance(error, FloatingPointError):             # the same command would fail again here
        exit_with_error(f"{error}; {saved}")
    elif isinstance(error, OSError):                        # e.g. a full disk
        raise OSError(error.errno, f"{error.strerror or error}; {saved}; {resume}", error.filename) from error
    elif is_peer_failure(error):
        exit_with_error(f"another process has died; {saved}; {resume}")
    elif isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        fix = "try --accumulate 4, or a smaller --batch-size or --seq-len"
        exit_with_error(f"{first_line(error)}; {fix}; {saved}")
    elif "torch._" in type(error).__module__ or "autocast" in str(error):   # of a compiler, or of bfloat16
        exit_with_error(f"{first_line(error)}; drop --compile or --amp; {saved}")


def format_mistakes(results: TestResults, last: dict) -> list[str]:
    """Format three mistakes, to be printed; if the final loss suggests it, blame the learning rate."""
    config, count = results.config, f"{int(results.wrong.sum()):,} of {len(results.wrong):,}"
    lines = [f"{config.name}: {count} test sequences answered incorrectly, for example:"]
    lines.append("\n".join(results.format_examples()) + "\n")
    guessing = math.log(config.vocab_size)                  # the loss of uniform guessing
    if last["loss"] > guessing and last["step"] > 100:
        chance = f"uniform guessing (ln {config.vocab_size} = {guessing:.2f})"
        advice = f"try a --learning-rate below {config.learning_rate:g}"
        lines.append(f"The loss is {last['loss']:.2f}, worse than {chance}; {advice}\n")
    return lines


def print_table(all_metrics: list[dict]) -> None:
    """Print one line per run."""
    width = max(10, *(len(metrics["task"]) + 2 for metrics in all_metrics))
    line = "{:<{width}}{:<17}{:>10}{:>12}{:>9}{:>17}{:>14}"
    configs = [Config(**metrics["config"]) for metrics in all_metrics]
    sizes = map(format_test_size, configs, (metrics["test_sequences"] for metrics in all_metrics))
    print(f"\nOn {' or '.join(dict.fromkeys(sizes))}, none of them seen during training:\n")
    headings = "task", "architecture", "parameters", "solved at", "time", "token accuracy", "exact match"
    print(line.format(*headings, width=width))
    for metrics in all_metrics:
        solved = "never", ""
        if metrics["steps_to_solve"] is not None:
            solved = f"step {metrics['steps_to_solve']}", f"{metrics['seconds_to_solve']:.1f} s"
        run = metrics["task"], metrics["architecture"], f"{metrics['parameters']:,}", *solved
        scores = percent(metrics["test_token_accuracy"], 2), percent(metrics["test_exact_match"], 2)
        print(line.format(*run, *scores, width=width))
