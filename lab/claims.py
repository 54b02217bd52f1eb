"""Sentences of our texts that make a claim, and the functions that measure it.

In a pattern, {name} is a number and … is anything within the paragraph. The function returns what it measured
by name, with fractions for percentages. If several sentences give the same number, they have to agree.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from torch import Tensor

from lab import heads
from lab.ablation import correct_by_margin, logit_margins_without
from lab.heads import ALL_ATTENTION
from lab.reader import Reader, Result

ENCODER, DECODER, BOTH = "encoder", "decoder", "encoder-decoder"
NOT_MEASURED = re.compile(r"""
    (?:layers?|heads?|exercises?|seeds?|hours?|quiz|experiments?|sheet|positions?|python|lengths?|symbols?|token
      |tokens|row|seed|period|base|head|GPT-|to)\ \d+(?:(?:,|\ and|\ to|\ or|–|,\ and)\ ?\d+)*(?!%)
    | \d+\ (?:symbols?|digits|keys|numbers|lines|tokens|minutes|epochs|heads|products|random\ numbers)
""", re.VERBOSE | re.IGNORECASE)
SLOW_SECTIONS = "And what helps?", "15. The fused kernel", "17. A key–value cache"


@dataclass
class Claim:
    """Sentences with numbers, and the function that measures them."""

    patterns: tuple[str, ...]
    measure: Callable[[Reader], dict]
    slow: bool


CLAIMS: list[Claim] = []


def claim(*patterns: str, slow: bool = False) -> Callable:
    """Register a function as what measures the numbers of these sentences; slow ones need --all."""
    def register(measure: Callable) -> Callable:
        CLAIMS.append(Claim(patterns, measure, slow))
        return measure
    return register


# ---------------------------------------------------------------- the models that python train.py trains


def trained(reader: Reader, task: str, architecture: str = ENCODER) -> Result:
    """Return one of the four runs of `python train.py`."""
    return reader.once(Result, reader.train("python train.py"), task, architecture)


def without(reader: Reader, *cut: heads.Head) -> float:
    """Return the exact match of the encoder that reverses without these heads."""
    run = trained(reader, "reverse").run
    with reader.alone:
        return correct_by_margin(logit_margins_without(run, [list(cut)])).double().mean().item()


LAYER_1 = [("encoder", 0, head) for head in range(8)]


@claim("each model gets {correct}% of {sequences} test sequences right", 
       "answers {sequences} test questions correctly", "exact match on {sequences} test sequences")
def test_of_the_default_runs(reader):
    runs = [trained(reader, task, kind) for task in ("copy", "reverse") for kind in (ENCODER, BOTH)]
    return {"correct": min(run.correct for run in runs), "sequences": runs[0].metrics["test_sequences"]}


@claim("An encoder that copies: {copy}% correct without any. One that reverses: {reverse}%.",
       "{copy}%. Each token carries its own symbol up")
def without_attention(reader):
    runs = {task: trained(reader, task) for task in ("copy", "reverse")}
    with reader.alone:
        return {task: run.evidence.accuracy_without(ALL_ATTENTION) for task, run in runs.items()}


@claim("head 6 cut: {left}% of {count} unseen questions", "stay correct instead of {left}%",
       "layer 1, head 6 costs {cost} points")
def without_head_6(reader):
    left = without(reader, LAYER_1[5])
    return {"left": left, "count": heads.SEQUENCES, "cost": 100 * (1 - left)}


@claim("removing both costs {cost} points", "{cost} points. They are redundant",
       "Of the answers, {left}% remain correct")
def without_heads_3_and_8(reader):
    left = without(reader, LAYER_1[2], LAYER_1[7])
    return {"cost": 100 * (1 - left), "left": left}


def attention_mass(reader: Reader, task: str) -> Tensor:
    """Return how much of its attention each head of an encoder spends on the answer's sources."""
    run = trained(reader, task)
    with reader.alone:
        return run.evidence.attention.mass


@claim("No head spends more than {mass}% of its attention on the symbol to copy")
def mass_of_the_copying_encoder(reader):
    return {"mass": attention_mass(reader, "copy").max().item()}


@claim("encoder spends {mass}% of its attention on the symbol that")
def mass_of_the_reversing_encoder(reader):
    return {"mass": attention_mass(reader, "reverse").max().item()}


@claim("reverse at most {longer}% of questions with 9.")
def reversed_nine_symbols(reader):
    runs = [trained(reader, "reverse", architecture) for architecture in (ENCODER, BOTH)]
    with reader.alone:
        results = [result for run in runs for result in run.evidence.length_results]
    return {"longer": max(result.exact_match for result in results if result.length == 9)}


@claim("The encoder copies up to {encoder} symbols without a mistake, but the encoder–decoder only {both}.")
def longest_copy_without_a_mistake(reader):
    runs = {"encoder": trained(reader, "copy"), "both": trained(reader, "copy", BOTH)}
    with reader.alone:
        results = {name: run.evidence.length_results for name, run in runs.items()}
    return {name: min(each.length for each in of if each.exact_match < 1) - 1
            for name, of in results.items()}


@claim("Swap layer 2's instead, and only {correct}% do")
def causal_scrubbing(reader):
    models = reader.train("python train.py")
    printed = reader.once(reader.call_python, models.parent, "-m", "lab.ablation")
    return {"correct": re.search(r"layer 2 hands on .*?(\d+)%", printed)[1]}


@claim("so {cases} cases cover all {questions} questions",
       "there are {questions} questions. Among {sampled} random ones")
def proof_that_copying_needs_no_attention(reader):
    models = reader.train("python train.py")
    printed = reader.once(reader.call_python, models.parent, "-m", "lab.prove", "models/copy_task/encoder")
    cases = re.search(r"without attention +PROVED.*?([\d,]+) cases", printed)
    sampled = re.search(r"no error in ([\d,]+) of ([\d,]+)", printed)
    return {"cases": cases[1], "questions": sampled[2], "sampled": sampled[1]}


# ---------------------------------------------------------------- other models


def result(
    reader: Reader, words: str, *options: str, task: str = "reverse", architecture: str = ENCODER
) -> Result:
    """Return a run of the commands that contain these words."""
    return reader.once(Result, reader.train(words, *options), task, architecture)


def seeds(reader: Reader, words: str, *options: str, **which) -> list[Result]:
    """Return ten such runs, with seeds 0 to 9."""
    train = lambda seed: result(reader, words, "--seed", str(seed), *options, **which)     # noqa: E731
    return reader.each(train, range(10))


def solved(runs: list[Result]) -> dict[str, object]:
    """Return the median of the steps at which runs were solved, and how many were."""
    steps = [run.solved or math.inf for run in runs]
    return {"step": median(steps), "solved": len(steps) - steps.count(math.inf), "count": len(steps)}


@claim("One layer gets {one}% of",
       "If they all have 8 symbols, it gets {fixed}%, solving the task at step {fixed_step}.",
       "Two layers get {two}% at every length, solving the task at step {step}.",
       "two layers solve the task at step {step} instead of {default}.",
       "at worst, {worst}% stay correct instead of")
def one_layer_or_two(reader):
    one, fixed, two = (
        result(reader, f"models/{name} ") for name in ("one_layer", "one_layer_fixed", "two_layers")
    )
    with reader.alone:
        worst = min(map(two.evidence.accuracy_without, heads.list_heads(two.run.model)))
    return {"one": one.correct, "fixed": fixed.correct, "fixed_step": fixed.solved, "two": two.correct,
            "step": two.solved, "default": trained(reader, "reverse").solved, "worst": worst}
