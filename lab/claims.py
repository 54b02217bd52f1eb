"""Sentences of the README that make a claim, and the functions that measure it; and what is no claim.

In a pattern, {name} is a number and … is anything within the paragraph. The function returns what it measured
by name, with fractions for percentages. If several sentences give the same number, they have to agree.
"""

import math
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from torch import Tensor

from data import ARCHITECTURES
from lab import heads
from lab.ablation import correct_by_margin, logit_margins_without
from lab.reader import Reader, Result, Section

ENCODER, DECODER, BOTH = ARCHITECTURES
KINDS = {"encoder": ENCODER, "decoder": DECODER, "both": BOTH}          # by their names in patterns
SLOW_SECTIONS = (                                           # their outputs take minutes
    "8. Does sorting attend to positions or symbols?", "And what helps?", "15. The fused kernel",
    "17. A key–value cache",
)
TESTED_ELSEWHERE = {"16. Backward by hand": "tests/test_backward.py", "Homework": "tests/test_blank.py"}
NAMED = (                                                   # a number after one of these is not measured, …
    r"layers?|heads?|exercises?|seeds?|hours?|quiz(?: 6,)?|experiments?|sheet|positions?|Python|lengths?",
    r"tokens?|period|base|GPT|size|oversample|\*epoch\* is|copy|first|writes|decay is|modulo|START,",
    r"after step|up to|asks|key gets|exactly|which is|±|mean|deviation(?: of)?|variance(?: of)?",
)
COUNTED = (                                                 # … nor is one before one of these, …
    r"symbols?|numbers|lines|tokens|products|random numbers|validation|warm-up|MB|task–architecture",
    r"sums of two|\*?heads|steps in (?:all|a single)",
)
EXAMPLES = (                                                # … nor are sequences, years and arithmetic
    r"(?:\d+|_)(?: (?:\d+|[_+→]))+\b|\d+ must become \d+|matches \d+'s|so \d+ gets|\? \| \d+",
    r"appears to be at 3|\b1 (?:to|or) \d+|reverses 1,000|within 100 steps|\| 50 \(|from 1, Python from 0",
    r"variation, 0 to 1|sum: 0 / 0|(?:et\s+al\.|Wallace)\s+\d{4}|^- \*\*[abc]\*\*.*|[−p]ln.*|\d/\d+",
    r"[·√=/(+] ?\d[\d.]*|e\^−∞\s+is 0|scores −0\.5493 and 0\.5493|it is 1 again|can add 20|and 19\s+with 4",
    r"And 9\?|− 1\)|bias of −1|with\s+−1e9|\d+ [+/]|AdamW, \d+",
)
NOT_MEASURED = re.compile(
    rf"(?:{'|'.join(NAMED)})[\s-]?\d[\d,]*(?:\.\d+)?(?:(?:,|,? and| to| or|–) ?\d+)*(?![\d%])"
    rf"|\d[\d,]* (?:{'|'.join(COUNTED)})|{'|'.join(EXAMPLES)}", re.MULTILINE | re.IGNORECASE,
)


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


def solved(runs: list[Result]) -> dict[str, float]:
    """Return the median of the steps at which runs were solved, and how many were, of how many."""
    steps = [run.solved or math.inf for run in runs]
    return {"step": median(steps), "solved": len(steps) - steps.count(math.inf), "count": len(steps)}


def find_counterexample(printed: str) -> dict[str, str]:
    """Return the tokens of the counterexample that lab.prove printed, named a, b, c …"""
    tokens = re.findall(r"\d+", re.search(r"REFUTED(.*)", printed)[1])
    return dict(zip(string.ascii_lowercase, tokens, strict=False))


def attention_mass(reader: Reader, task: str) -> Tensor:
    """Return the fraction of its attention that each head of an encoder spends on what each answer needs."""
    run = reader.default(task)
    with reader.alone:
        return run.evidence.attention.mass


# ---------------------------------------------------------------- what python train.py trains


@claim("each model gets {correct}% of {sequences} test sequences right",
       "answers {sequences} test questions correctly", "exact match on {sequences} test sequences")
def default_runs(reader):
    runs = [reader.default(task, kind) for task in ("copy", "reverse") for kind in (ENCODER, BOTH)]
    return {"correct": min(run.correct for run in runs), "sequences": runs[0].metrics["test_sequences"]}


@claim("An encoder that copies: {copy}% correct without any. One that reverses: {reverse}%.",
       "{copy}%. Each token carries its own symbol up")
def without_attention(reader):
    runs = {task: reader.default(task) for task in ("copy", "reverse")}
    with reader.alone:
        return {task: run.evidence.accuracy_without(heads.ALL_ATTENTION) for task, run in runs.items()}


@claim("head 6 cut: {left}% of {count} unseen questions", "stay correct instead of {left}%",
       "layer 1, head 6 costs {cost} points")
def without_head_6(reader):
    evidence, head = reader.default("reverse").evidence, ("encoder", 0, 5)
    with reader.alone:
        left, cost = evidence.accuracy_without(head), evidence.ablation_cost(head)
    return {"left": left, "count": evidence.count, "cost": 100 * cost}


@claim("removing both costs {cost} points", "{cost} points. They are redundant",
       "Of the answers, {left}% remain correct")
def without_heads_3_and_8(reader):
    run, cut = reader.default("reverse").run, (("encoder", 0, 2), ("encoder", 0, 7))
    with reader.alone:
        intact, left = correct_by_margin(logit_margins_without(run, [(), cut])).double().mean(dim=1).tolist()
    return {"cost": 100 * (intact - left), "left": left}


@claim("No head spends more than {mass}% of its attention on the symbol to copy")
def attention_of_the_copying_encoder(reader):
    return {"mass": attention_mass(reader, "copy").max().item()}


@claim("encoder spends {mass}% of its attention on the symbol that")
def attention_of_the_reversing_encoder(reader):
    return {"mass": attention_mass(reader, "reverse").max().item()}


@claim("reverse at most {correct}% of questions with 9.")
def reversing_nine_symbols(reader):
    runs = [reader.default("reverse", kind) for kind in (ENCODER, BOTH)]
    with reader.alone:
        results = [result for run in runs for result in run.evidence.length_results]
    return {"correct": max(result.exact_match for result in results if result.length == 9)}


@claim("The encoder copies up to {encoder} symbols without a mistake, but the encoder–decoder only {both}.")
def longest_perfect_copy(reader):
    runs = {name: reader.default("copy", KINDS[name]) for name in ("encoder", "both")}
    with reader.alone:
        results = {name: run.evidence.length_results for name, run in runs.items()}
    return {name: min(each.length for each in of if each.exact_match < 1) - 1
            for name, of in results.items()}


@claim("Swap layer 2's instead, and only {correct}% do")
def causal_scrubbing(reader):
    printed = reader.call("-m", "lab.ablation")
    return {"correct": re.search(r"layer 2 hands on .*?(\d+)%", printed)[1]}


@claim("so {cases} cases cover all {questions} questions",
       "there are {questions} questions. Among {sampled} random ones")
def copying_is_proved_to_need_no_attention(reader):
    printed = reader.call("-m", "lab.prove", "models/copy_task/encoder")
    cases = re.search(r"without attention +PROVED.*?([\d,]+) cases", printed)
    sampled = re.search(r"no error in ([\d,]*\d) of ([\d,]*\d)", printed)
    return {"cases": cases[1], "sampled": sampled[1], "questions": sampled[2]}


@claim("The shape stays ({b}, {s}, {d}) all the way up.")
def shape_of_the_residual_stream(reader):
    printed = reader.call("transformer.py")
    return dict(zip("bsd", re.search(r"\((\d+), (\d+), (\d+)\)", printed).groups(), strict=True))


@claim("`models/` to a stick (about {size} MB)", slow=True)
def size_of_the_models(reader):
    models = reader.train("python train.py")
    reader.call("visualize.py")
    files = [path for task in ("copy", "reverse") for path in models.glob(f"{task}_task/*/*")]
    return {"size": round(sum(path.stat().st_size for path in files) / 1e6, -1)}


# ---------------------------------------------------------------- other models of the README


@claim("```\n   0   {start}   …\n  70   {middle}   …\n 700   {end}   …\n```",
       "Guessing among {letters} characters has a loss of ln {letters} = {guess}; … follows which, {pairs}.")
def loss_of_the_language_model(reader):
    printed = reader.output_of(reader.find("And language models?"))
    names = dict(zip(("start", "middle", "end"), (0, 70, 700), strict=True))
    losses = {name: re.search(rf"^ *{step}   ([\d.]+)", printed, re.M)[1] for name, step in names.items()}
    guess, letters, pairs = re.search(r"([\d.]+) when guessing among (\d+), ([\d.]+) when", printed).groups()
    return losses | {"guess": guess, "letters": letters, "pairs": pairs}


def changes_in(section: Section) -> dict[str, list[tuple[str, str]]]:
    """Return old and new text for each part of the architecture that the README changes."""
    (entry,) = re.findall(r'add `("silu": .*?)` to `ACTIVATIONS`', section.text)
    (code,) = [code for code in section.of_kind("python") if "RMSNorm" in code]
    lines, norm = code.split("\n\n", 1)
    gate, forward = lines.splitlines()
    table, below = 'ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu', "class FeedForward("
    expand = "        self.expand = nn.Linear(d_model, d_ff)\n"
    old = "        return self.contract(self.dropout(self.activation(self.expand(x))))"
    return {
        "silu": [(table, f"{table}, {entry}")], "swiglu": [(expand, f"{expand}{gate}\n"), (old, forward)],
        "norm": [(below, f"{norm}\n\n{below}")],
    }


@claim("Reverse is solved at step {silu} (SiLU), {swiglu} (SwiGLU) or {norm} (RMSNorm) instead of {default}.",
       slow=True)
def changed_parts(reader):
    changes, options = changes_in(reader.find("Change something")), {"silu": ("--activation", "silu")}
    steps = {name: reader.change(name, of, *options.get(name, ())).solved for name, of in changes.items()}
    return steps | {"default": reader.default("reverse").solved}


@claim("| encoder | {copy_encoder} | {reverse_encoder} |",
       "| decoder-only | {copy_decoder} | {reverse_decoder} |",
       "| encoder–decoder | {copy_both} | {reverse_both} |", "step 144 instead of {reverse_encoder}.",
       "step 104 instead of {reverse_encoder}.", "with a median of {reverse_encoder}.",
       "model, whose median goes from step {reverse_decoder} to",
       "copying is solved at step 8 instead of {copy_encoder}.",
       "typical tutorial encoder | {copy_tutorial} | not within {reverse_tutorial} |", slow=True)
def steps_to_solve(reader):
    kinds = KINDS | {"tutorial": "usual tutorial"}
    printed = reader.call("tests/benchmark.py", "--seeds", "10")
    return {f"{task}_{name}": re.search(rf"{task} +{kind} +\d+ of 10 +>?(\d+)", printed)[1]
            for task in ("copy", "reverse") for name, kind in kinds.items()}


@claim("solve reverse at steps {s0}, {s1}, {s2}, {s3}, {s4}, {s5}, {s6}, {s7}, {s8} and {s9}",
       "as the seed; half a minute; {correct}%", slow=True)
def reverse_with_ten_seeds(reader):
    runs = reader.seeds("python train.py", "--task", "reverse", "--architecture", ENCODER)
    steps = {f"s{seed}": run.solved for seed, run in enumerate(runs)}
    return steps | {"correct": min(run.correct for run in runs)}


@claim("correctly, but `python -m lab.prove` finds {a} {b} {c} → {d} {e} {f}.", slow=True)
def mistake_of_seed_8(reader):
    run = reader.result("python train.py", "--task", "reverse", "--architecture", ENCODER, "--seed", "8")
    return find_counterexample(reader.call("-m", "lab.prove", str(run.folder)))


def worst_of_six_seeds(task: str) -> Callable[[Reader], dict]:
    """Return a function that measures a row of the README's table of tasks."""
    def measure(reader: Reader) -> dict:
        command = "tests/benchmark.py", "--all-tasks", "--task", task, "--first-seed"
        printed = "".join(reader.each(lambda seed: reader.call(*command, seed), ("0", "10")))
        rows = {name: re.findall(rf"^{task} +{kind} .*", printed, re.M) for name, kind in KINDS.items()}
        return {name: min(re.findall(r"([\d.]+)%", " ".join(of)), key=float) for name, of in rows.items()}

    measure.__name__ = f"{task}_with_six_seeds"
    return measure


for name in "copy", "reverse", "sort", "double", "add", "complete":
    claim(f"| {name}: … | {{encoder}}% | {{decoder}}% | {{both}}% |", slow=True)(worst_of_six_seeds(name))
