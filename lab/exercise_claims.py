"""Sentences of EXERCISES.md and teaching/ that make a claim, and the functions that measure it."""

import math
import re

from data import load_tasks
from lab import heads
from lab.ablation import NOTHING
from lab.claims import DECODER, ENCODER, KINDS, claim, find_counterexample, solved
from lab.evidence import make_head_table
from lab.mistakes import find_mistakes, mistakes_by_category
from lab.reader import Reader, Result, parse_diff

UNTRAINED = """
import torch
from data import token_accuracy
from support.config import default_config
from train import masked_cross_entropy
config = default_config("copy", "encoder")
torch.manual_seed(0)
model = config.build_model()
for task in "copy", "reverse":
    config, generator = default_config(task, "encoder"), torch.Generator().manual_seed(0)
    source, target = config.sample_batch(1_000, generator, "test")
    logits = model(source)
    print(token_accuracy(logits.argmax(dim=-1), target), masked_cross_entropy(logits, target).item())
"""
STEPS = """
import time
import torch
from statistics import median
from data import make_inputs_and_targets
from support.config import default_config
from train import TrainingState, train_step
config = default_config("reverse", "encoder")
state, times = TrainingState(config, torch.device("cpu")), []
for _ in range(100):
    batch = make_inputs_and_targets("encoder", *config.sample_batch(config.batch_size, state.generator))
    start = time.perf_counter()
    train_step(state, *batch)
    times.append(1000 * (time.perf_counter() - start))
print(median(times))
"""


@claim("One layer gets {one}% of",
       "If they all have 8 symbols, it gets {fixed}%, solving the task at step {fixed_step}.",
       "Two layers get {two}% at every length, solving the task at step {step}.",
       "two layers solve the task at step {step} instead of {default}.",
       "at worst, {worst}% stay correct instead of")
def one_layer_or_two(reader):
    names = "one_layer", "one_layer_fixed", "two_layers"
    one, fixed, two = (reader.result(f"models/{name} ") for name in names)
    with reader.alone:
        worst = min(map(two.evidence.accuracy_without, heads.list_heads(two.run.model)))
    return {"one": one.correct, "fixed": fixed.correct, "fixed_step": fixed.solved, "two": two.correct,
            "step": two.solved, "default": reader.default("reverse").solved, "worst": worst}


@claim("and the most important head is in layer 1 ({one} and {two} points", slow=True)
def most_important_heads_of_seeds_1_and_2(reader):
    costs = {}
    for name, seed in ("one", "1"), ("two", "2"):
        run = reader.result("python train.py", "--task", "reverse", "--architecture", ENCODER, "--seed", seed)
        with reader.alone:
            costs[name] = 100 * max(map(run.evidence.ablation_cost, heads.list_heads(run.run.model)))
    return costs


@claim("or without the logarithm, at least {logarithm}% at all lengths.",
       "Without coupling, it is {coupling}% everywhere.", slow=True)
def longer_questions(reader):
    names = "logarithm", "coupling"
    without = [re.findall(r"(\d+)%", reader.call("-m", "lab.longer", "--without", name)) for name in names]
    return {"logarithm": min(without[0], key=int), "coupling": max(without[1], key=int)}


@claim("With `view` alone, the encoder gets {correct}% of the test sequences right after {steps} steps,",
       "steps, instead of {default}% (seeds 1 and 2")
def view_alone(reader):
    run = reader.result("models/view_alone")
    default = reader.default("reverse").correct
    return {"correct": run.correct, "steps": run.metrics["steps"], "default": default}


@claim("(seeds 1 and 2: {one}% and {two}%). The shapes", slow=True)
def view_alone_with_seeds_1_and_2(reader):
    one, two = (reader.result("models/view_alone", "--seed", seed).correct for seed in "12")
    return {"one": one, "two": two}


@claim("all ten seeds solve the task, at a median of step {step} instead", slow=True)
def shuffled_positions(reader):
    return solved(reader.seeds("models/shuffled"))


@claim("With one head, seed 0 ends at {correct}% of the test sequences, seed 1 at {other}%.",
       "an encoder with one wide head learned to reverse on only {solved} of {count} seeds (2, if sums",
       "Only {solved} of {count} seeds solve it in 400 steps, and only 2 if sums", slow=True)
def undivided_scores_of_one_head(reader):
    runs = reader.seeds("models/undivided_1")
    return solved(runs) | {"correct": runs[0].correct, "other": runs[1].correct}


@claim("With eight heads, all ten do, at a median of step {step}", slow=True)
def undivided_scores_of_eight_heads(reader):
    return solved(reader.seeds("models/undivided_8"))


@claim("reverse is no longer solved in 400 steps, and {correct}% of the test sequences are correct")
def tied_encoder(reader):
    return {"correct": reader.result("models/tied").correct}


@claim("Only {solved} of {count} seeds solve it, instead of all 10.",
       "But copying is solved at step {copy} instead",
       "the decoder-only model, whose median goes from step 176 to {decoder}.", slow=True)
def tied_models_with_ten_seeds(reader):
    decoder = solved(reader.seeds("models/tied", "--architecture", DECODER))["step"]
    copying = reader.result("models/tied", "--task", "copy")
    return solved(reader.seeds("models/tied")) | {"decoder": decoder, "copy": copying.solved}


@claim("with tied weights already copies {tied}% of the tokens ({default}% without tying)",
       "the loss starts at {tied_loss} nats per token instead of {default_loss}.")
def untrained_encoder(reader):
    measured = {}
    for name, words in ("tied", "models/tied"), ("default", "python train.py"):
        section, _ = reader.find_training(words)
        printed = reader.once(reader.call_python, reader.copy_for(section), "-c", UNTRAINED)
        copied, _, _, loss = map(float, printed.split())
        measured |= {name: copied, f"{name}_loss": loss}
    return measured


@claim("With seed 2, {left_2}% of the test sums are correct when written from the left, and {right_2}% from",
       "With seeds 0 and 1, it is {left_0}% and {left_1}% from the left, and {right}% from the right.",
       "with seed 0, it gets {encoder_left}% from the left and {encoder_right}% from the right", slow=True)
def sums_from_right_to_left(reader):
    def train(run: tuple[str, str, str]) -> float:
        task, kind, seed = run
        options = "--task", task, "--architecture", kind, "--seed", seed
        return reader.result("add_from_ones", *options).correct

    runs = {}
    for side, task in ("left", "add"), ("right", "add_from_ones"):
        runs |= {f"{side}_{seed}": (task, DECODER, seed) for seed in "012"}
        runs[f"encoder_{side}"] = task, ENCODER, "0"
    correct = dict(zip(runs, reader.each(train, runs.values()), strict=True))
    return correct | {"right": min(correct["right_0"], correct["right_1"])}


@claim("In 400 steps, the encoder gets {encoder}% of the test sequences right, instead of {default}%.",
       "The decoder-only model gets {decoder}%.")
def rotary_positions(reader):
    kinds = {name: KINDS[name] for name in ("encoder", "decoder")}
    runs = {name: reader.result("models/rotary", architecture=kind) for name, kind in kinds.items()}
    return {name: run.correct for name, run in runs.items()} | {"default": reader.default("reverse").correct}


@claim("With base 10,000, the encoder gets {correct}%:", slow=True)
def rotary_positions_with_base_10_000(reader):
    diffs = map(parse_diff, reader.find("Rotary positions").of_kind("diff"))
    changes = [(old, new.replace("base: float = 50.0", "base: float = 10_000.0")) for old, new in diffs]
    return {"correct": reader.change("rotary_10_000", changes).correct}


def repeating_run(reader: Reader, *options: str) -> tuple[Result, dict[int, dict]]:
    """Return a run of the exercise on induction heads, and the row of heads.csv for each layer."""
    run = reader.result("--task repeat", *options)
    reader.once(load_tasks, run.models.parent / "induction.py")
    with reader.alone:
        return run, {row["layer"]: row for row in make_head_table(run.evidence)}


@claim("At step 136, token accuracy is still {low}%; at step 232, it is {high}%.",
       "In the end, {correct}% of the test", "token accuracy falls from {all}% to {left_1}%.",
       "| layer 1 | {previous_1}% | {induction_1}% | {left_1}% |",
       "| layer 2 | {previous_2}% | {induction_2}% | {left_2}% |", slow=True)
def induction_heads(reader):
    run, rows = repeating_run(reader)
    steps = {"low": 136, "high": 232}
    measured = {name: float(run.history[step]["token_accuracy"]) for name, step in steps.items()}
    for layer, row in rows.items():
        measured |= {f"previous_{layer}": row["attention_on_previous_token"],
                     f"induction_{layer}": row["attention_on_induction"],
                     f"left_{layer}": row["token_accuracy_without"]}
    with reader.alone:
        return measured | {"correct": run.correct, "all": run.evidence.token_accuracy_without(NOTHING)}


@claim("and {correct}% of the test sequences are correct. Yet layer 2 spends less than {attention}%",
       slow=True)
def no_induction_head(reader):
    run, rows = repeating_run(reader, "--embedding-std", "0.25")
    return {"correct": run.correct, "attention": math.ceil(100 * rows[2]["attention_on_induction"]) / 100}


@claim("At step 400, the loss is {loss}, yet of 100 unseen sums, none is correct",
       "At step 1,400, {early}% are correct, at step 2,400, {late}%, and at step {solved}, for the",
       "After the second jump, all are correct again from step {all}.",
       "At the end, {correct}% of the test sums are correct, but only {light}% if the weight decay is 0.01.",
       "Seed 1 takes longer and reaches {seed_1}%.",
       "At steps {first} and {second}, the loss jumps to {highest} and", slow=True)
def grokking(reader):
    options = (), ("--weight-decay", "0.01"), ("--seed", "1")
    run, light, other = reader.each(lambda of: reader.result("--task add_modulo", *of), options)
    loss = {step: float(row["loss"]) for step, row in run.history.items()}
    exact = {step: float(row["exact_match"]) for step, row in run.history.items()}
    *_, second, first = sorted((step for step in loss if step > 400), key=loss.get)
    return {"loss": loss[400], "early": exact[1400], "late": exact[2400], "solved": run.solved,
            "all": 8 + max(step for step in exact if exact[step] < 1), "correct": run.correct,
            "light": light.correct, "seed_1": other.correct, "first": min(first, second),
            "second": max(first, second), "highest": loss[first]}


@claim("with the fused kernel, a training step takes {fused} ms instead of {ours}.", slow=True)
def fused_kernel(reader):
    _, code = reader.find("The fused kernel").of_kind("python")
    below = "\n\nclass MultiHeadAttention("
    fused = reader.once(reader.make_copy, "fused", ((below, f"\n\n{code}{below}"),))
    printed = reader.once(reader.call_python, fused, "-c", STEPS)
    return {"fused": float(printed), "ours": float(reader.call("-c", STEPS))}


@claim("There are only {cases} questions, so one can ask them all.")
def questions_of_up_to_5_symbols(reader):
    printed = reader.output_of(reader.find("Proof or counterexample"))
    return {"cases": re.search(r"([\d,]+) cases", printed)[1]}


@claim("After only 6 epochs, there is a counterexample: {a} {b} {c} → {d} {e} {f}, not {g} {h} {i}.",
       slow=True)
def counterexample_after_6_epochs(reader):
    run = reader.result("models/small", "--epochs", "6")
    arguments = "-m", "lab.prove", "--tasks", "my_tasks.py", str(run.folder)
    return find_counterexample(reader.once(reader.call_python, run.models.parents[1], *arguments))


@claim("If 0.01% of all answers were incorrect, only {chance}% of such samples would contain none.")
def chance_of_a_sample_without_errors(reader):
    return {"chance": 0.9999**30_000}


@claim('"{correct}% correct" hides', "All {mistakes} mistakes are at length 8",
       "Of 1,000 questions of length 8, {rate} are",
       "With the same number of training steps, only {left} mistakes remain, {one_clue} of them in",
       "{left_rate} of 1,000 questions of length 8", slow=True)
def mistakes_of_the_completing_encoder(reader):
    runs = [reader.result("models/before", *options) for options in ((), ("--oversample", "1"))]
    tables = [mistakes_by_category(find_mistakes(run.run)) for run in runs]
    before, after = ({(row["category"], row["value"]): row for row in table} for table in tables)
    rows = before["length", 8], after["length", 8]
    rate, left_rate = (1000 * row["mistakes"] / row["questions"] for row in rows)
    left = sum(row["mistakes"] for row in tables[1] if row["category"] == "length")
    return {"correct": runs[0].correct, "mistakes": before["length", 8]["mistakes"], "rate": rate,
            "left": left, "one_clue": after["clues", 1]["mistakes"], "left_rate": left_rate}


@claim("so the {correct}% may differ")
def symbols_fetched_by_chance(reader):
    printed = reader.output_of(reader.find("Remove one hidden unit"))
    return {"correct": printed.split()[3].removesuffix("%")}


@claim("With 10 keys, the matching one then gets only {weight}% of the weight.")
def weight_after_six_halvings(reader):
    match = math.exp(1000 / 2**6 / math.sqrt(70))
    return {"weight": match / (match + 9)}


# ---------------------------------------------------------------- teaching


@claim("`python -m pytest my_transformer` | 0 of {points} points")
def points_of_hour_3(reader):
    rows = re.findall(r"^\| (\w+) \|.*\| (\d+) \| \d+ \|$", reader.find("Homework").text, re.MULTILINE)
    points = {name: int(number) for name, number in rows}
    return {"points": sum(points[name] for name in ("softmax", "attention", "heads", "mask"))}
