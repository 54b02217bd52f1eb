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

from data import load_tasks
from lab import heads
from lab.ablation import NOTHING, correct_by_margin, logit_margins_without
from lab.evidence import make_head_table
from lab.heads import ALL_ATTENTION
from lab.mistakes import find_mistakes, mistakes_by_category
from lab.reader import Reader, Result, parse_diff

ENCODER, DECODER, BOTH = "encoder", "decoder", "encoder-decoder"
NOT_MEASURED = re.compile(r"""
    # names and settings
    (?:layers?|heads?|exercises?|seeds?|hours?|quiz\ 6,|quiz|experiments?|sheet|positions?|python|lengths?|symbols?
      |tokens?|row|period|base|GPT|size|oversample|epoch\*\ is|copy|first|writes|And|decay\ is|modulo|START,
      |after\ step|up\ to|asks|Dh\ =|last\ =|here\ =|key\ gets|exactly|which\ is|±|deviation\ (?:of\ )?|variance\ (?:of\ )?|mean)
      [\s-]?\d[\d,]*(?:\.\d+)?(?:(?:,|\ and|\ to|\ or|–|,\ and)\ ?\d+)*(?!%)
    | \d[\d,]*\ (?:symbols?|digits|keys|numbers|lines|tokens|minutes|epochs|products|questions\ of\ each|steps
      |random\ numbers|validation|warm-up|task–architecture|sums\ of\ two|\*?heads|steps\ in\ (?:all|a\ single)|MB)
    | \b1\ (?:to|or)\ \d+ | \ in\ 400\ steps | reverses\ 1,000 | within\ 100\ steps | \|\ 50\ \(
    | from\ 1,\ Python\ from\ 0 | variation,\ 0\ to\ 1
    # examples of sequences and shapes
    | (?:\d+|_)(?:\ (?:\d+|[_+→]))+\b | \d+\ must\ become\ \d+ | matches\ \d+'s | so\ \d+\ gets | \?\ \|\ \d+
    | \ and\ 7\ 5 | \(1,\ queries | and\ 19\s+with\s+4 | 6,\ 7 | appears\ to\ be\ at\ 3
    # years and arithmetic
    | −1e9 | sum:\ 0\ /\ 0 | (?:et\s+al\.|Wallace)\s+\d{4} | ^-\ \*\*[abc]\*\*.* | -ln.* | [−p]ln.* | \d/\d+ | [·√=/(+−]\ ?\d[\d.]*\d? | \d+\ [+/] | e\^−∞\s+is\s+0
    | scores\ −0\.5493\ and\ 0\.5493 | it\ is\ 1\ again | can\ add\ 20
""", re.VERBOSE | re.MULTILINE | re.IGNORECASE)
TESTED_ELSEWHERE = {"16. Backward by hand": "tests/test_backward.py", "Homework": "tests/test_blank.py"}
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


@claim("an encoder with one wide head learned to reverse on only {solved} of {count} seeds", slow=True)
def undivided_scores_with_ten_seeds(reader):
    return solved(seeds(reader, "models/undivided_1"))


@claim("With eight heads, all ten do, at a median of step {step}", slow=True)
def undivided_scores_of_eight_heads(reader):
    return solved(seeds(reader, "models/undivided_8"))


@claim("it ends at {correct}% of the test sequences (seed 1: {other}%)", slow=True)
def undivided_scores(reader):
    runs = result(reader, "models/undivided_1"), result(reader, "models/undivided_1", "--seed", "1")
    return {"correct": runs[0].correct, "other": runs[1].correct}


def default_seeds(reader: Reader, task: str, architecture: str) -> dict[str, object]:
    """Train an architecture with its default settings on ten seeds."""
    options = "--task", task, "--architecture", architecture
    return solved(seeds(reader, "python train.py", *options, task=task, architecture=architecture))


@claim("number as the seed; half a minute; {correct}%", slow=True)
def worst_of_ten_seeds(reader):
    runs = seeds(reader, "python train.py", "--task", "reverse", "--architecture", ENCODER)
    return {"correct": min(run.correct for run in runs)}


@claim("| encoder | {copy_encoder} | {reverse_encoder} |", "| decoder-only | {copy_decoder} | {reverse_decoder} |",
       "| encoder–decoder | {copy_both} | {reverse_both} |", "median of step 144 instead of {reverse_encoder}.",
       "median of step 104 instead of {reverse_encoder}.", "with a median of {reverse_encoder}.",
       "the decoder-only model's median goes from step {reverse_decoder} to", "the encoder–decoder's from {reverse_both} to",
       "copying is solved at step 8 instead of {copy_encoder}.", slow=True)
def steps_to_solve(reader):
    cells = [(task, name, architecture) for task in ("copy", "reverse") for name, architecture in
             (("encoder", ENCODER), ("decoder", DECODER), ("both", BOTH))]
    medians = reader.each(lambda cell: default_seeds(reader, cell[0], cell[2])["step"], cells)
    return {f"{task}_{name}": step for (task, name, _), step in zip(cells, medians, strict=True)}


@claim("seeds 0 to 9 solve reverse at steps {s0}, {s1}, {s2}, {s3}, {s4}, {s5}, {s6}, {s7}, {s8} and {s9}", slow=True)
def class_of_seeds(reader):
    runs = seeds(reader, "python train.py", "--task", "reverse", "--architecture", ENCODER)
    return {f"s{seed}": run.solved for seed, run in enumerate(runs)}


@claim("typical tutorial encoder | {step} | not within {limit} |", slow=True)
def typical_tutorial_encoder(reader):
    unchanged = reader.train("python train.py").parent
    printed = reader.once(reader.call_python, unchanged, "tests/benchmark.py", "--seeds", "10")
    copied, reversed_ = re.findall(r"usual tutorial +\d+ of 10 +>?(\d+)", printed)
    return {"step": copied, "limit": reversed_}


@claim("removing the head that looks most costs nothing, and the most important head is in layer 1 ({one} and {two}", slow=True)
def most_important_heads_of_other_seeds(reader):
    costs = {}
    for name, seed in ("one", "1"), ("two", "2"):
        run = result(reader, "python train.py", "--task", "reverse", "--architecture", ENCODER, "--seed", seed)
        with reader.alone:
            costs[name] = 100 * max(map(run.evidence.ablation_cost, heads.list_heads(run.run.model)))
    return costs


@claim("With `view` alone, the encoder gets {correct}% of the test sequences right after {steps} steps, instead of 100%")
def view_alone(reader):
    run = result(reader, "models/view_alone")
    return {"correct": run.correct, "steps": run.metrics["steps"]}


@claim("instead of 100% (seeds 1 and 2: {one}% and {two}%). The shapes", slow=True)
def view_alone_with_other_seeds(reader):
    one, two = (result(reader, "models/view_alone", "--seed", seed).correct for seed in "12")
    return {"one": one, "two": two}


@claim("all ten seeds solve the task, at a median of step {step} instead", slow=True)
def shuffled_positions(reader):
    return solved(seeds(reader, "models/shuffled"))


def changed(reader: Reader, name: str, *changes: tuple[str, str], options: tuple[str, ...] = ()) -> Result:
    """Train the README's command for a changed part with these changes to transformer.py."""
    copy = reader.once(reader.make_copy, name, changes)
    command = next(line for line in reader.find("Change something").commands if "models/changed" in line)
    reader.once(reader.call_python, copy, *command.split()[1:], *reader.train_options, *options)
    return Result(copy / "models" / "changed", "reverse", ENCODER)


@claim("Reverse is solved at step {silu} (SiLU), {swiglu} (SwiGLU) or {norm} (RMSNorm) instead of {default}.", slow=True)
def changed_parts(reader):
    code, = [code for code in reader.find("Change something").of_kind("python") if "RMSNorm" in code]
    lines, norm = code.split("\n\n", 1)
    gate, forward = lines.splitlines()
    expand = "        self.expand = nn.Linear(d_model, d_ff)\n"
    table = 'ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu'
    below = "class FeedForward("
    old = "        return self.contract(self.dropout(self.activation(self.expand(x))))"
    return {
        "silu": changed(reader, "silu", (table, f'{table}, "silu": F.silu'), options=("--activation", "silu")).solved,
        "swiglu": changed(reader, "swiglu", (expand, f"{expand}{gate}\n"), (old, forward)).solved,
        "norm": changed(reader, "norm", (below, f"{norm}\n\n{below}")).solved,
        "default": trained(reader, "reverse").solved,
    }


@claim("answers 10,000 test questions correctly, but `python -m lab.prove` finds {a} {b} {c} → {d} {e} {f}.", slow=True)
def mistake_of_seed_8(reader):
    run = result(reader, "python train.py", "--task", "reverse", "--architecture", ENCODER, "--seed", "8")
    printed = reader.once(reader.call_python, run.models.parent, "-m", "lab.prove", str(run.folder))
    found = re.search(r"always correct +REFUTED +(\d+) (\d+) (\d+) → (\d+) (\d+) (\d+)", printed)
    return dict(zip("abcdef", found.groups(), strict=True))


@claim("```\n   0   {start}   …\n  70   {middle}   …\n 700   {end}   ", "Guessing among {letters} characters has a loss of ln {letters} = {guess}; counting which follows which, {pairs}.")
def loss_of_the_language_model(reader):
    printed = reader.output_of(reader.find("And language models?"))
    guess, letters, pairs = re.search(r"([\d.]+) when guessing among (\d+), ([\d.]+) when", printed).groups()
    losses = {f"{step} ": re.search(rf"^ *{step}   ([\d.]+)", printed, re.MULTILINE)[1] for step in (0, 70, 700)}
    return {"start": losses["0 "], "middle": losses["70 "], "end": losses["700 "], "letters": letters, "guess": guess, "pairs": pairs}


def worst_of_six_seeds(task: str) -> Callable:
    """Return a function that measures a row of the README's table of tasks."""
    def measure(reader: Reader) -> dict:
        def worst(architecture: str) -> float:
            options = "--task", task, "--architecture", architecture, "--seed"
            return min(result(reader, "python train.py", *options, seed, task=task, architecture=architecture).correct
                       for seed in ("0", "1", "2", "10", "11", "12"))
        return dict(zip(("encoder", "decoder", "both"), reader.each(worst, (ENCODER, DECODER, BOTH)), strict=True))
    measure.__name__ = f"worst_of_six_seeds: {task}"
    return measure


for task in ("copy", "reverse", "sort", "double", "add", "complete"):
    claim(f"| {task}: … | {{encoder}}% | {{decoder}}% | {{both}}% |", slow=True)(worst_of_six_seeds(task))


# ---------------------------------------------------------------- exercises


@claim("reverse is no longer solved in 400 steps, and {correct}% of the test sequences are correct")
def tied_encoder(reader):
    return {"correct": result(reader, "models/tied").correct}


@claim("Only {solved} of {count} seeds solve it, instead of all 10.", "from step 176 to {decoder}, the encoder–decoder's from 120 to {both}.", "But copying is solved at step {copy} instead", slow=True)
def tied_models_with_ten_seeds(reader):
    kinds = {"decoder": DECODER, "both": BOTH}
    medians = {name: solved(seeds(reader, "models/tied", "--architecture", kind, architecture=kind))["step"]
               for name, kind in kinds.items()}
    copy = result(reader, "models/tied", "--task", "copy", task="copy")
    return solved(seeds(reader, "models/tied")) | medians | {"copy": copy.solved}


UNTRAINED = """
import sys
import torch
from data import token_accuracy
from train import masked_cross_entropy
from support.config import default_config
config = default_config("copy", "encoder")
torch.manual_seed(0)
model = config.build_model()
for task in "copy", "reverse":
    source, target = default_config(task, "encoder").sample_batch(1000, torch.Generator().manual_seed(0), "test")
    logits = model(source)
    print(token_accuracy(logits.argmax(dim=-1), target), masked_cross_entropy(logits, target).item())
"""


@claim("with tied weights already copies {tied}% of the tokens ({default}% without tying)",
       "the loss starts at {tied_loss} nats per token instead of {default_loss}.")
def untrained_encoder(reader):
    measured = {}
    for name, words in ("tied", "models/tied"), ("default", "python train.py"):
        copy = reader.copy_for(next(s for s in reader.sections if any(words in line for line in s.commands)))
        (accuracy, _), (_, loss) = (
            map(float, line.split()) for line in reader.once(reader.call_python, copy, "-c", UNTRAINED).splitlines()
        )
        measured |= {name: accuracy, f"{name}_loss": loss}
    return measured


@claim("With seed 2, {left_2}% of the test sums are correct when written from the left, and {right_2}% from the right. "
       "With seeds 0 and 1, it is {left_0}% and {left_1}% from the left, and {right}% from the right.",
       "with seed 0, it gets {encoder}% either way", slow=True)
def sums_from_right_to_left(reader):
    add = {"architecture": DECODER, "task": "add"}
    trained = {(task, kind, seed): (task, kind, seed) for task in ("add", "add_from_ones") for kind, seed in
               ((DECODER, "0"), (DECODER, "1"), (DECODER, "2"), (ENCODER, "0"))}
    def train(which):
        task, kind, seed = which
        options = "--task", task, "--architecture", kind, "--seed", seed
        return result(reader, "add_from_ones", *options, task=task, architecture=kind).correct
    correct = dict(zip(trained, reader.each(train, trained), strict=True))
    left, right = (
        [correct[task, DECODER, seed] for seed in "012"] for task in ("add", "add_from_ones")
    )
    return {"left_0": left[0], "left_1": left[1], "left_2": left[2], "right_2": right[2], "right": min(right[:2]),
            "encoder": min(correct["add", ENCODER, "0"], correct["add_from_ones", ENCODER, "0"])}


@claim("In 400 steps, the encoder gets {encoder}% of the test sequences right, instead of 100%. The decoder-only model gets {decoder}%.")
def rotary_positions(reader):
    return {kind: result(reader, "models/rotary", architecture=kind).correct for kind in (ENCODER, DECODER)}


@claim("With base 10,000, the encoder gets {correct}%:", slow=True)
def rotary_positions_with_base_10_000(reader):
    section = reader.find("Rotary positions")
    changes = [(old, new.replace("base: float = 50.0", "base: float = 10_000.0"))
               for old, new in map(parse_diff, section.of_kind("diff"))]
    return {"correct": changed(reader, "rotary_10_000", *changes).correct}


@claim("At step 136, token accuracy is still {low}%; at step 232, it is {high}%.", "In the end, {correct}% of the test",
       "| layer 1 | {previous_1}% | {induction_1}% | {without_1}% |", "| layer 2 | {previous_2}% | {induction_2}% | {without_2}% |",
       "token accuracy falls from {all}% to {without_1}%.")
def induction_heads(reader):
    run = result(reader, "--task repeat", task="repeat", architecture=DECODER)
    reader.once(load_tasks, run.models.parent / "induction.py")
    measured = {"low": float(run.history[136]["token_accuracy"]), "high": float(run.history[232]["token_accuracy"]), "correct": run.correct}
    with reader.alone:
        for row in make_head_table(run.evidence):
            measured |= {f"previous_{row['layer']}": row["attention_on_previous_token"],
                         f"induction_{row['layer']}": row["attention_on_induction"],
                         f"without_{row['layer']}": row["token_accuracy_without"]}
        measured["all"] = run.evidence.token_accuracy_without(NOTHING)
    return measured


@claim("and {correct}% of the test sequences are correct. Yet layer 2 spends less than {induction}%", slow=True)
def no_induction_head(reader):
    run = result(reader, "--task repeat", "--embedding-std", "0.25", task="repeat", architecture=DECODER)
    reader.once(load_tasks, run.models.parent / "induction.py")
    with reader.alone:
        row = next(row for row in make_head_table(run.evidence) if row["layer"] == 2)
    return {"correct": run.correct, "induction": math.ceil(100 * row["attention_on_induction"]) / 100}


@claim("At step 400, the loss is {loss}, yet of {asked} unseen sums, none is correct",
       "At step 1,400, {at_1400}% are correct, at step 2,400, {at_2400}%, and from step {all}, all.",
       "At the end, {correct}% of the test sums are correct, but only {light}% if the weight decay is 0.01.",
       "Seed 1 takes longer and reaches {seed_1}%.",
       "At steps {first} and {second}, the loss jumps to {highest} and", slow=True)
def grokking(reader):
    which = {"task": "add_modulo"}
    run, light, other = reader.each(
        lambda options: result(reader, "--task add_modulo", *options, **which),
        [(), ("--weight-decay", "0.01"), ("--seed", "1")],
    )
    steps = [step for step in run.history if float(run.history[step]["exact_match"]) < 1]
    late = {step: float(row["loss"]) for step, row in run.history.items() if step > 400}
    jumps = sorted(sorted(late, key=late.get)[-2:])
    return {"loss": float(run.history[400]["loss"]), "at_1400": float(run.history[1400]["exact_match"]), "asked": 100,
            "at_2400": float(run.history[2400]["exact_match"]), "all": max(steps) + 8, "correct": run.correct, "light": light.correct,
            "seed_1": other.correct, "first": jumps[0], "second": jumps[1], "highest": max(late.values())}


@claim("with the fused kernel, a training step takes {fused} ms instead of {ours}.", slow=True)
def fused_kernel(reader):
    code = next(code for code in reader.find("The fused kernel").of_kind("python") if code.startswith("def scaled"))
    rest = "\n\nclass MultiHeadAttention("
    fused = changed(reader, "fused", (rest, f"\n\n{code}{rest}"))
    runs = {"fused": fused, "ours": trained(reader, "reverse")}
    return {name: 1000 * run.metrics["train_seconds"] / run.metrics["steps"] for name, run in runs.items()}


@claim("After only {epochs} epochs, there is a counterexample: {a} {b} {c} → {d} {e} {f}, not {g} {h} {i}.", slow=True)
def early_counterexample(reader):
    run = result(reader, "models/small", "--epochs", "6", task="shift")
    printed = reader.once(reader.call_python, run.models.parents[1], "-m", "lab.prove", "--tasks", "my_tasks.py", str(run.folder))
    tokens = re.search(r"always correct +REFUTED +(.*)", printed)[1]
    return dict(zip("abcdefghi", re.findall(r"\d+", tokens), strict=True)) | {"epochs": 6}


@claim("There are only {cases} questions, so one can ask them all.")
def questions_of_length_5(reader):
    return {"cases": re.search(r"([\d,]+) cases", reader.output_of(reader.find("Proof or counterexample")))[1]}


@claim("If 0.01% of all answers were incorrect, only {chance}% of such samples would contain none.")
def chance_of_no_error(reader):
    return {"chance": 0.9999**30_000}


@claim('"{correct}% correct" hides', "All {mistakes} mistakes are at length 8", "Of 1,000 questions of length 8, {rate} are",
       "With the same number of training steps, only {after} mistakes remain, {one_clue} of them in",
       "{after_rate} of 1,000 questions of length 8", slow=True)
def mistakes_of_the_completing_encoder(reader):
    before, after = (result(reader, "models/before", *options, task="complete") for options in ((), ("--oversample", "1")))
    tables = [mistakes_by_category(find_mistakes(run.run)) for run in (before, after)]
    counts = [{(row["category"], row["value"]): row for row in table} for table in tables]
    eight = [table["length", 8] for table in counts]
    rates = [1000 * row["mistakes"] / row["questions"] for row in eight]
    return {"correct": before.correct, "mistakes": eight[0]["mistakes"], "rate": rates[0], "after": eight[1]["mistakes"],
            "one_clue": counts[1]["clues", 1]["mistakes"], "after_rate": rates[1]}


@claim("so the {correct}% may differ")
def symbols_fetched_by_chance(reader):
    printed = reader.output_of(reader.find("Remove one hidden unit"))
    return {"correct": printed.split()[3].removesuffix("%")}


@claim("With 10 keys, the matching one then gets only {weight}% of the weight.")
def weight_after_six_halvings(reader):
    match = math.exp(1000 / 2**6 / math.sqrt(70))
    return {"weight": match / (match + 9)}


@claim("or without the logarithm, {logarithm}% at all lengths. … Without coupling, it is {coupling}% everywhere.", slow=True)
def longer_questions(reader):
    folder, measured = reader.once(reader.make_copy, "unchanged"), {}
    for name in "logarithm", "coupling":
        printed = reader.once(reader.call_python, folder, "-m", "lab.longer", "--without", name)
        measured[name] = "/".join(sorted(set(re.findall(r"(\d+)%", printed))))
    return measured


@claim("`python -m pytest my_transformer` | 0 of {points} points")
def points_of_hour_3(reader):
    points = dict(re.findall(r"^\| (\w+) \|.*\| (\d+) \| \d+ \|$", reader.find("Homework").text, re.MULTILINE))
    return {"points": sum(int(points[name]) for name in ("softmax", "attention", "heads", "mask"))}


@claim("The shape stays ({b}, {s}, {d}) all the way up.")
def shape_of_the_residual_stream(reader):
    printed = reader.once(reader.call_python, reader.train("python train.py").parent, "transformer.py")
    return dict(zip("bsd", re.search(r"\((\d+), (\d+), (\d+)\)", printed).groups(), strict=True))


@claim("`models/` to a stick ({size} MB)", slow=True)
def size_of_the_models(reader):
    models = reader.train("python train.py")
    reader.once(reader.call_python, models.parent, "visualize.py")
    return {"size": sum(path.stat().st_size for path in models.rglob("*")) / 1e6}
