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
from itertools import combinations_with_replacement
from pathlib import Path

import torch
from torch import Tensor, nn

import data
from data import TASKS, format_tokens
from lab import dependencies, rounding
from lab.ablation import ablate, logit_margins
from lab.heads import ALL_ATTENTION
from support import console, runs
from support.config import EVALUATION_BATCH, Config
from support.figure import percent
from support.puzzles import PLUS, ZERO
from train import load_run, predict
from transformer import PAD, eval_mode

SAMPLED, CONFIDENCE = 30_000, 0.95                          # questions that are sampled
MAX_QUESTIONS = 2_000_000                                   # of the longest, if all are asked
MAX_SHORT = 5_000                                           # of one length, for a short counterexample
ROUNDED = 256                                               # cases whose rounding is bounded: the closest


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim, with its reason."""

    word: str                                               # PROVED, REFUTED or SAMPLED
    reason: str
    cases: int = 0
    margin: float = math.nan                                # the minimum over all cases
    rounding: float = math.nan                              # its maximum effect on a margin

    def __str__(self) -> str:
        text = f"{self.word:<9}{self.reason}"
        if self.word == "PROVED":
            margin = math.floor(100 * self.margin) / 100
            text += f"; {self.cases:,} cases, margin {margin:.2f}, rounding {self.rounding:.2g}"
        return text


@dataclass(frozen=True)
class Cases:
    """Contents (N, L), and the outputs whose every case they contain; None: all, each question one case."""

    content: Tensor
    outputs: list[int] | None = None


Argument = tuple[str, Iterable[Cases]]                      # why these cases cover all questions


def list_questions(config: Config, length: int) -> Tensor:
    """Return all questions of a length, (N, L)."""
    if config.task == "add":                                # without listing all sequences of its symbols
        terms = data.enumerate_contents(range(ZERO, PLUS), length - 1)
        first, second = terms.chunk(2, dim=1)
        return torch.cat([first, torch.full((len(terms), 1), PLUS), second], dim=1)
    content = data.enumerate_contents(data.alphabet(config.task, config.vocab_size), length)
    return content[TASKS[config.task].is_valid(content)]


def sample_questions(config: Config) -> tuple[str, list[Tensor]]:
    """Sample evenly from all questions, if they may consist of any symbols; say so, and return contents."""
    generator, lengths = torch.Generator().manual_seed(0), config.lengths()
    symbols = data.question_symbols(config.task, config.vocab_size)
    drawing, weights = "sampled as in training", [1] * len(lengths)
    if TASKS[config.task].is_valid is data.accept_all and not TASKS[config.task].gaps:
        weights = [len(symbols) ** length for length in lengths]
        drawing = f"of {sum(weights):,}, sampled evenly"
    drawn = torch.tensor(weights, dtype=torch.float64).multinomial(SAMPLED, True, generator=generator)
    contents = []
    for length, count in zip(lengths, drawn.bincount(minlength=len(lengths)).tolist(), strict=True):
        rows = data.sample_valid(config.task, count, length, config.vocab_size, generator)
        contents += [rows] if len(rows) else []
    return drawing, contents


def compute_margins(model: nn.Module, config: Config, content: Tensor) -> Tensor:
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
            answer = predict(run.model, source, target).where(data.loss_mask(target), PAD)
            rows = (format_tokens(row[0, 1:], config.task) for row in (source, answer, target))
            question, predicted, correct = (row.removesuffix(" END") for row in rows)
            return Verdict("REFUTED", f"{question} → {predicted}, not {correct}")
    return None


def every_question(run: runs.Run) -> Argument | None:
    """Return every question, if there are not too many."""
    config = run.config
    count = len(data.alphabet(config.task, config.vocab_size)) ** max(config.lengths())
    if count > MAX_QUESTIONS and config.task != "add":
        return None
    contents = (list_questions(config, length) for length in config.lengths())
    return "every question was asked", map(Cases, contents)


def few_dependencies(run: runs.Run, without_attention: bool) -> Argument | None:
    """Return one case for each assignment to the symbols on which an output depends, if these are few."""
    model, config, cases, count = run.model, run.config, [], 0
    for length in reversed(config.lengths()):               # the longest usually decides
        groups = dependencies.find_dependencies(model, config, length, without_attention)
        if groups is None:
            return None
        count = max(count, *map(len, groups))
        for group in {*groups}:
            content, _ = dependencies.vary(config, length, {group})
            scored = data.loss_mask(dependencies.make_questions(config, content[:1])[1][0]).tolist()
            outputs = [output for output, each in enumerate(groups) if each == group and scored[output]]
            cases += [Cases(content, outputs)] if outputs else []
    return f"each output depends on at most {count} symbol{'s' * (count != 1)}", cases


def any_order(run: runs.Run) -> Argument | None:
    """Return one case for each multiset of symbols, if neither the task nor the model heeds their order."""
    config, answer = run.config, TASKS[run.config.task].answer
    sorts = all(dependencies.record_operations(answer, length) == {"sort"} for length in config.lengths())
    if not sorts or not dependencies.ignores_order(run.model, config):
        return None
    symbols = data.question_symbols(config.task, config.vocab_size)
    multisets = (combinations_with_replacement(symbols, length) for length in config.lengths())
    return "the order of the symbols does not matter", (Cases(torch.tensor([*rows])) for rows in multisets)


def bound_each(run: runs.Run, content: Tensor, outputs: list[int]) -> Tensor:
    """Return how far rounding can move the margins of these outputs, (N, outputs)."""
    inputs, targets = dependencies.make_questions(run.config, content)
    bounds = []
    for output in outputs:
        def margin(logits: Tensor, output: int = output) -> Tensor:
            return logit_margins(logits, targets)[:, output]

        bounds.append(rounding.bound_rounding(run.model, inputs, margin))
    return torch.stack(bounds, dim=1)


def check_cases(run: runs.Run, reason: str, cases: Iterable[Cases]) -> Verdict:
    """Return PROVED if the model is correct in each case, by a margin that rounding cannot change."""
    margin, effect, count = math.inf, 0.0, 0
    for each in cases:
        margins = compute_margins(run.model, run.config, each.content)
        outputs = each.outputs or margins[0].isfinite().nonzero().flatten().tolist()
        margins = margins[:, outputs]
        closest = margins.amin(dim=1).argsort()[:ROUNDED]
        bounds = bound_each(run, each.content[closest], outputs)
        if (margins[closest] <= bounds).any():
            unclear = Verdict("SAMPLED", "rounding could change an answer")
            return refute(run, [each.content[closest]]) or unclear
        margin, effect = min(margin, margins.min().item()), max(effect, bounds.max().item())
        count += margins.numel() if each.outputs else len(margins)
    return Verdict("PROVED", reason, count, margin, effect)


def bound_error_rate(count: int) -> float:
    """Return the error rate at which count questions show an error with probability CONFIDENCE."""
    return 1 - (1 - CONFIDENCE) ** (1 / count)


def judge(run: runs.Run, without_attention: bool = False) -> Verdict:
    """Return what is known about the claim that the model answers every question correctly."""
    config = run.config
    with ablate(run.model, ALL_ATTENTION) if without_attention else nullcontext():
        num_tokens = len(data.alphabet(config.task, config.vocab_size))
        short = [length for length in config.lengths() if num_tokens**length <= MAX_SHORT]
        if refuted := refute(run, [list_questions(config, length) for length in short]):
            return refuted
        if argument := every_question(run) or few_dependencies(run, without_attention) or any_order(run):
            return check_cases(run, *argument)
        drawing, contents = sample_questions(config)
        bound = percent(bound_error_rate(SAMPLED), 2)
        reason = f"no error in {SAMPLED:,} {drawing}: error rate below {bound}"
        return refute(run, contents) or Verdict("SAMPLED", reason)


def main() -> None:
    parser = console.new_parser(__doc__.splitlines()[0], "python -m lab.prove models/handmade")
    parser.add_argument(
        "folders", nargs="*", type=console.folder_name, default=[runs.DEFAULT_FOLDER], metavar="FOLDER",
        help=f"runs, or folders of runs (default: {runs.DEFAULT_FOLDER})",
    )
    parser.add_argument("--tasks", type=Path, metavar="FILE", help="a file that defines more tasks")
    options = parser.parse_args()
    console.set_threads(None)
    try:
        data.load_tasks(options.tasks)
        folders = []
        for each in options.folders:
            folders += (found := runs.find_runs(each))
            if not found:
                raise ValueError(f"no run found in {each}; pass a folder written by train.py or handmade.py")
        loaded = [load_run(each.parents[1], runs.task_from_folder(each), each.name) for each in folders]
    except ValueError as error:
        console.exit_with_error(str(error))
    for run in loaded:
        print(f"{run.folder}: {run.config.name}")
        for claim, without_attention in ("always correct", False), ("without attention", True):
            print(f"  {claim:<19}{judge(run, without_attention)}", flush=True)


if __name__ == "__main__":
    console.run_script(main)
