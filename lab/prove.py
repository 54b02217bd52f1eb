"""Proved, refuted or sampled: what is certain about a model's answers to all questions.

A test on 10,000 questions leaves 4,581,288,448 others. Yet a claim about all of them is PROVED if a few cases
cover them, and the model is correct in each; see dependencies.py. A counterexample makes it REFUTED.
Otherwise, it is SAMPLED: if thousands of questions show no error, the error rate is small, with 95%
confidence.

In each case, the margin is the correct symbol's logit minus the highest other one. It must exceed what
float32 rounding can do to it, on this machine or any other; see rounding.py.
"""

import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

import data
from data import TASKS, format_tokens
from lab import dependencies, rounding
from lab.ablation import ablate, logit_margins
from lab.heads import ALL_ATTENTION
from support import console, runs
from support.config import EVALUATION_BATCH, Config
from support.figure import percent
from support.puzzles import sample_symbols
from train import load_run, predict
from transformer import START, eval_mode

SAMPLED = 30_000                                            # questions
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Verdict:
    """What is known about a claim, and why."""

    word: str                                               # PROVED, REFUTED or SAMPLED
    reason: str
    cases: int
    margin: float = math.nan                                # the minimum over all cases
    rounding: float = math.nan                              # its maximum effect on a margin

    def __str__(self) -> str:
        text = f"{self.word:<9}{self.reason}"
        if self.word == "PROVED":
            text += f"; {self.cases:,} cases, margin {self.margin:.2f}, rounding {self.rounding:.1g}"
        return text


@dataclass(frozen=True)
class Cases:
    """Contents (N, L), and the outputs whose every case they contain."""

    content: Tensor
    outputs: list[int]


def count_questions(config: Config) -> list[int]:
    """Return how many questions of each length there are, if a question may consist of any symbols."""
    symbols = data.question_symbols(config.task, config.vocab_size)
    return [len(symbols) ** length for length in config.lengths()]


def sample_evenly(config: Config, count: int) -> list[Tensor]:
    """Sample from all questions, each with the same probability; contents (N, L), one tensor per length."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor(count_questions(config), dtype=torch.float64)
    drawn = torch.multinomial(weights, count, replacement=True, generator=generator)
    symbols = data.question_symbols(config.task, config.vocab_size)
    return [
        sample_symbols(symbols, int((drawn == index).sum()), length, generator)
        for index, length in enumerate(config.lengths()) if (drawn == index).any()
    ]


def compute_margins(model: torch.nn.Module, config: Config, content: Tensor) -> Tensor:
    """Return the logit margins (N, T) for content (N, L), ∞ where nothing is scored."""
    inputs, targets = dependencies.make_questions(config, content)
    batches = zip(*(rows.split(EVALUATION_BATCH) for rows in (*inputs, targets)), strict=True)
    with eval_mode(model) as model:
        return torch.cat([logit_margins(model(*tokens), target) for *tokens, target in batches])


def refute(run: runs.Run, contents: Iterable[Tensor]) -> Verdict | None:
    """Return a counterexample from these questions (N, L), if there is one."""
    config = run.config
    for content in contents:
        wrong = (compute_margins(run.model, config, content) <= 0).any(dim=1)
        if wrong.any():
            source, target = data.make_source_and_target(config.task, content[wrong][:1])
            rows = source[0], predict(run.model, source, target)[0], target[0]
            question, answer, correct = (format_tokens(row[row != START], config.task) for row in rows)
            return Verdict("REFUTED", f"{question} → {answer}, not {correct}", len(content))
    return None


def few_dependencies(run: runs.Run, without_attention: bool) -> tuple[str, list[Cases]] | None:
    """Return an argument and its cases if each output depends on few symbols."""
    model, config, cases, count = run.model, run.config, [], 0
    for length in config.lengths():
        if not dependencies.moves_symbols(TASKS[config.task].answer, length):
            return None
        inputs, targets = dependencies.make_questions(config, data.FIRST_SYMBOL + torch.arange(length)[None])
        if not dependencies.tokens_stay_apart(model, inputs):
            return None
        groups = dependencies.find_dependencies(model, config, length, without_attention)
        if groups is None:
            return None
        count = max(count, *map(len, groups))
        scored = data.loss_mask(targets)[0].nonzero().flatten().tolist()
        for group in {groups[output] for output in scored}:
            content, _ = dependencies.vary(config, length, {group})
            cases.append(Cases(content, [output for output in scored if groups[output] == group]))
    return f"each output depends on at most {count} symbol{'s' * (count != 1)}", cases


def bound_each(run: runs.Run, cases: Cases) -> Tensor:
    """Return how far rounding can move the margin of each case, (N, outputs)."""
    inputs, targets = dependencies.make_questions(run.config, cases.content)
    bounds = []
    for output in cases.outputs:
        def margin(logits: Tensor, output: int = output) -> Tensor:
            return logit_margins(logits, targets)[:, output]

        bounds.append(rounding.bound_rounding(run.model, inputs, margin))
    return torch.stack(bounds, dim=1)


def check_cases(run: runs.Run, reason: str, cases: list[Cases]) -> Verdict:
    """Return PROVED if the model is correct in each of these cases, despite rounding."""
    margin, effect, number = math.inf, 0.0, 0
    for each in cases:
        margins = compute_margins(run.model, run.config, each.content)[:, each.outputs]
        bounds = bound_each(run, each)
        if (wrong := (margins <= bounds).any(dim=1)).any():
            return refute(run, [each.content[wrong]]) or Verdict("SAMPLED", "rounding could decide", number)
        margin, effect = min(margin, margins.min().item()), max(effect, bounds.max().item())
        number += margins.numel()
    return Verdict("PROVED", reason, number, margin, effect)


def judge(run: runs.Run, without_attention: bool = False) -> Verdict:
    """Return what is known about the claim that the model answers every question correctly."""
    config = run.config
    with ablate(run.model, ALL_ATTENTION) if without_attention else nullcontext():
        symbols = data.question_symbols(config.task, config.vocab_size)
        short = [data.enumerate_contents(symbols, length) for length in config.lengths() if length <= 2]
        if refuted := refute(run, short):
            return refuted
        if argument := few_dependencies(run, without_attention):
            return check_cases(run, *argument)
        bound = 1 - (1 - CONFIDENCE) ** (1 / SAMPLED)
        reason = f"no error in {SAMPLED:,} questions; error rate below {percent(bound, 2)}"
        return refute(run, sample_evenly(config, SAMPLED)) or Verdict("SAMPLED", reason, SAMPLED)


def main() -> None:
    parser = console.new_parser(__doc__.splitlines()[0], "python -m lab.prove models/handmade")
    parser.add_argument(
        "folders", nargs="*", type=console.folder_name, default=[runs.DEFAULT_FOLDER], metavar="FOLDER",
        help="runs, or folders with runs (default: models)",
    )
    options = parser.parse_args()
    console.set_threads(None)
    for models_dir in options.folders:
        for folder in runs.find_runs(models_dir):
            run = load_run(models_dir, runs.task_from_folder(folder), folder.name)
            print(f"{folder}: {run.config.name}")
            for claim, without in ("is always correct", False), ("is so without attention", True):
                print(f"  {claim:<26}{judge(run, without)}", flush=True)


if __name__ == "__main__":
    console.run_script(main)
