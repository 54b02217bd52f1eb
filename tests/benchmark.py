"""Compare our recipe with a typical tutorial's: steps and seconds until a task is solved.

    python tests/benchmark.py --seeds 10
    python tests/benchmark.py --seeds 10 --what-decides --architecture encoder
    python tests/benchmark.py --all-tasks
    python tests/benchmark.py --by-hand
    python tests/benchmark.py --balance models/reverse_task/encoder
    python tests/benchmark.py --mistakes models/before/complete_task/encoder
    python tests/benchmark.py --pattern --seeds 5
    python tests/benchmark.py --other-toys --seeds 5
    python tests/benchmark.py --scale

The first shows all three architectures. The second changes one ingredient of the recipe at a time. The third
trains each architecture on each task to the end of its schedule and scores the final models. With
--ones-first, sums are written least significant digit first, as by hand. The fourth asks whether the trained
reversing encoder works like the one in handmade.py. The fifth splits the first attention scores of runs into
the parts due to positions and to symbols. The sixth draws which categories of questions runs get wrong. The
seventh asks which emerges first in training: correct symbols or the attention pattern. The eighth trains on
other projects' toy tasks. The last measures the cost of a training step as the model grows, and writes
models/scale.png.

"Solved" always means that all 2,000 validation sequences are correct, checked every 8 steps. The fraction of
peak compares two rates on the same threads. One is the arithmetic of the weight matrices divided by the time
of a step: 2 flops per weight and token, forward once and backward twice. The other is that of a float32
matrix product, timed just before.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from mistakes import format_mistake_report, save_mistake_pictures  # noqa: E402
from probes import (  # noqa: E402
    draw_balance,
    initial_model,
    name_embeddings,
    patch_length_signal,
    probe_positions,
    score_std,
)
from scale import count_flops, scale  # noqa: E402

import handmade  # noqa: E402
import train  # noqa: E402
import transformer  # noqa: E402
from data import ARCHITECTURES, TASKS, add_special_tokens, is_correct, parse_content  # noqa: E402
from lab.animation import half_rise_index  # noqa: E402
from lab.evidence import Evidence, mass_during_training  # noqa: E402
from lab.heads import SEQUENCES_PER_LENGTH, max_test_length, sample_unseen  # noqa: E402
from support.config import Config, default_config  # noqa: E402
from support.console import Parser, exit_with_error, run_script, set_threads  # noqa: E402
from support.figure import percent, picture_style, save_picture  # noqa: E402
from support.puzzles import add  # noqa: E402
from support.record import append_epoch, recorded_questions  # noqa: E402
from support.report import TestResults  # noqa: E402
from support.runs import DEFAULT_FOLDER, DEFAULT_TASKS, Run, read_run, task_from_folder  # noqa: E402
from transformer import check_positive, scaled_dot_product_attention, sinusoidal_encoding  # noqa: E402

CPU = torch.device("cpu")
LOOK_EVERY = 8                                              # steps between evaluations; one epoch of our runs
FIXED_SEQUENCES = 10_000                                    # the usual tutorial's training set
OTHER_TOYS = {                                              # sizes and batches of the projects they come from
    "UvA tutorial 6: reverse 16 digits": {
        "task": "reverse", "architecture": "encoder", "seq_len": 16, "vocab_size": 14, "num_layers": 1,
        "num_heads": 1, "d_model": 32, "d_ff": 64, "batch_size": 128,
    },
    "minGPT: sort 6 digits of 3": {
        "task": "sort", "architecture": "decoder", "seq_len": 6, "vocab_size": 7, "num_layers": 3,
        "num_heads": 3, "d_model": 48, "d_ff": 192, "batch_size": 64,
    },
    "x-transformers: copy 32 symbols twice": {
        "task": "double", "architecture": "encoder-decoder", "seq_len": 32, "num_layers": 3,
    },
}


class UsualTutorial(nn.Module):
    """nn.TransformerEncoder with defaults (post-norm, ReLU, dropout 0.1), embeddings scaled by √d_model."""

    architecture = "encoder"

    def __init__(self, config: Config):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            config.d_model, config.num_heads, config.d_ff, dropout=0.1, batch_first=True
        )
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.register_buffer("positions", sinusoidal_encoding(config.seq_len + 2, config.d_model))
        self.encoder = nn.TransformerEncoder(layer, config.num_layers, enable_nested_tensor=False)
        self.output_projection = nn.Linear(config.d_model, config.vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) * self.embedding.embedding_dim**0.5 + self.positions[: tokens.size(1)]
        return self.output_projection(self.encoder(x, src_key_padding_mask=tokens == 0))


def usual_history(config: Config) -> Iterator[dict]:
    """Train with the usual loop:

    Adam at 1e-3, batches of 32 from a fixed set, no schedule, no average, no clipping.
    """
    torch.manual_seed(config.seed)
    model = UsualTutorial(config)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    source, target = config.sample_batch(FIXED_SEQUENCES, torch.Generator().manual_seed(config.seed))
    validation = train.sample_validation_set(config)
    step, seconds = 0, 0.0
    while True:
        start = time.perf_counter()
        for rows in torch.randperm(len(source)).split(config.batch_size):
            model.train()
            optimizer.zero_grad()
            train.masked_cross_entropy(model(source[rows]), target[rows]).backward()
            optimizer.step()
            step += 1
            if step % LOOK_EVERY == 0:
                seconds += time.perf_counter() - start
                scores = train.evaluate(model, *validation, check_all=True)
                yield {"step": step, "train_seconds": seconds} | scores
                start = time.perf_counter()
        seconds += time.perf_counter() - start


def our_history(config: Config) -> Iterator[dict]:
    for _, checkpoint in train.train(config, CPU):
        yield checkpoint["history"][-1]


def trained(config: Config) -> tuple[nn.Module, dict]:
    """Return the averaged model and last checkpoint of a full run; keeping all would take gigabytes."""
    return deque(train.train(config, CPU), maxlen=1).pop()


def until_solved(history: Iterator[dict], max_steps: int) -> dict:
    """Return the first solved row, or else the last one reached."""
    for row in history:
        if row["solved"] or row["step"] >= max_steps:
            return row
    return row


def peak_flops_per_second(size: int = 1024, repeats: int = 10) -> float:
    """Return the highest rate of float32 matrix products on this machine, with the threads of training."""
    a, b = torch.randn(2, size, size)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def median_and_most(rows: list[dict], key: str, digits: int) -> str:
    """Format a column's median and maximum over the seeds, with > for runs that gave up."""
    values, unsolved = [row[key] for row in rows], sum(not row["solved"] for row in rows)
    median, most = f"{statistics.median(values):.{digits}f}", f"{max(values):.{digits}f}"
    if unsolved:
        most = f">{most}"
    if 2 * unsolved >= len(rows):
        median = f">{median}"
    return f"{median} ({most})"


def solved_of(rows: list[dict]) -> str:
    return f"{sum(row['solved'] for row in rows)} of {len(rows)}"


def undivided_attention(query: Tensor, *others) -> tuple[Tensor, Tensor]:
    """Return softmax(QKᵀ)·V, without the division by √Dh."""
    return scaled_dot_product_attention(query * query.size(-1) ** 0.5, *others)


def copy_weights(averages: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
    """Do not average: return the weights of the last step."""
    for average, weight in zip(averages, weights, strict=True):
        average.copy_(weight)


def what_decides(architectures: list[str], seeds: range, max_steps: int) -> None:
    """Train on reverse with our recipe, changing one ingredient at a time to the usual choice."""
    undivided = patch.object(transformer, "scaled_dot_product_attention", undivided_attention)
    changes = {
        "the recipe": ({}, nullcontext()),
        "embeddings times √d_model": ({"embedding_std": 128**0.5}, nullcontext()),
        "embeddings of standard deviation 1": ({"embedding_std": 1.0}, nullcontext()),
        "sinusoids with base 10,000": ({"position_base": 10_000.0}, nullcontext()),
        "weights of the last step, no average": ({}, patch.object(train, "update_ema", copy_weights)),
        "betas 0.9, 0.999": ({}, patch.object(train, "BETAS", (0.9, 0.999))),
        "gradients not clipped": ({}, patch.object(train, "CLIP_NORM", float("inf"))),
        "ReLU": ({"activation": "relu"}, nullcontext()),
        "post-norm": ({"norm_first": False}, nullcontext()),
        "two heads": ({"num_heads": 2}, nullcontext()),
        "one head": ({"num_heads": 1}, nullcontext()),
        "scores not divided by √Dh": ({}, undivided),
        "one head, not divided by √Dh": ({"num_heads": 1}, undivided),
    }
    line = "{:<38}{:<17}{:>10}{:>16}"
    print(line.format("reverse", "architecture", "solved", "steps (most)"))
    for (name, (settings, patched)), architecture in itertools.product(changes.items(), architectures):
        settings = settings | {"task": "reverse", "architecture": architecture}
        with patched:
            configs = [Config(**settings, seed=seed) for seed in seeds]
            rows = [until_solved(our_history(config), max_steps) for config in configs]
        steps = median_and_most(rows, "step", 0)
        print(line.format(name, architecture, solved_of(rows), steps), flush=True)


def compare(architectures: list[str], seeds: range, max_steps: int) -> None:
    """Train our recipe with each architecture, and the tutorial encoder, on both tasks."""
    line = "{:<9}{:<17}{:>10}{:>16}{:>19}{:>9}{:>9}"
    headings = "task", "model", "solved", "steps (max)", "seconds (max)", "ms/step", "% of peak"
    print(line.format(*headings))
    for task, model in itertools.product(("copy", "reverse"), (*architectures, "usual tutorial")):
        rows, milliseconds, fractions = [], [], []
        for seed in seeds:
            usual = model == "usual tutorial"
            config = Config(task=task, seed=seed, architecture="encoder" if usual else model)
            peak = peak_flops_per_second()
            rows.append(until_solved((usual_history if usual else our_history)(config), max_steps))
            seconds_per_step = rows[-1]["train_seconds"] / rows[-1]["step"]
            milliseconds.append(1000 * seconds_per_step)
            fractions.append(count_flops(config, attention=False) / seconds_per_step / peak)
        print(line.format(
            task, model, solved_of(rows), median_and_most(rows, "step", 0),
            median_and_most(rows, "train_seconds", 1),
            f"{statistics.median(milliseconds):.1f}", f"{statistics.median(fractions):.0%}",
        ), flush=True)
        unsolved = [row for row in rows if not row["solved"]]
        given_up = ", ".join(percent(row["exact_match"], 2) for row in unsolved)
        if given_up:
            print(f"         exact match of unsolved runs: {given_up}", flush=True)
    print("\nSteps, seconds, ms/step and % of peak are medians over the seeds.", end="")


def other_toys(seeds: range, max_steps: int) -> None:
    """Train our recipe on other projects' toy tasks, with sequences of a single length as there."""
    line = "{:<41}{:>10}{:>16}{:>19}"
    print(line.format("toy", "solved", "steps (most)", "seconds (most)"))
    for name, settings in OTHER_TOYS.items():
        configs = [Config(**settings, fixed_length=True, seed=seed) for seed in seeds]
        rows = [until_solved(our_history(config), max_steps) for config in configs]
        steps, seconds = median_and_most(rows, "step", 0), median_and_most(rows, "train_seconds", 1)
        print(line.format(name, solved_of(rows), steps, seconds), flush=True)


def hardest_sums(digits: int) -> Tensor:
    """Return contents (N, L): 0 + 0, the largest sum, and all sums with a carry through every digit."""
    first, second = torch.arange(10**digits)[:, None], torch.arange(10**digits)
    starts, runs_on = first % 10 + second % 10 > 9, first // 10 + second // 10 == 10 ** (digits - 1) - 1
    longest_carries = map(tuple, (starts & runs_on).nonzero().tolist())
    pairs = sorted({(0, 0), (10**digits - 1, 10**digits - 1), *longest_carries})
    return torch.stack([parse_content(list(f"{a:0{digits}}+{b:0{digits}}"), "add") for a, b in pairs])


def right_of_hardest_sums(model: nn.Module, config: Config) -> str:
    """Count how many of the hardest sums, up to config's number of digits, the model gets right."""
    right, count = 0, 0
    for digits in range(1, (config.seq_len + 1) // 2):
        content = hardest_sums(digits)
        source = add_special_tokens(content, 2 * digits + 3)
        target = add_special_tokens(TASKS["add"].answer(content), digits + 3)
        right += int(is_correct(train.predict(model, source, target), target).sum())
        count += len(content)
    return f"{right:,} of {count:,}"


def all_tasks(tasks: list[str], architectures: list[str], seeds: range) -> None:
    """Train each architecture on each task with its own recipe, and list its mistakes by category."""
    line = "{:<10}{:<17}{:>8}{:>15}{:>17}{:>7}   {}"
    headings = "task", "architecture", "solved", "steps (most)", "seconds (most)", "in all", "exact match"
    tokens = "source", "target", "prediction"
    print(line.format(*headings))
    for task, architecture in itertools.product(tasks, architectures):
        rows, seconds, tests, hardest = [], [], [], []
        for seed in seeds:
            config = default_config(task, architecture, seed=seed)
            model, checkpoint = trained(config)
            history = checkpoint["history"]
            rows.append(until_solved(iter(history), history[-1]["step"]))
            seconds.append(history[-1]["train_seconds"])
            tests.append(train.run_test(config, model))
            hardest += [right_of_hardest_sums(model, config)] if task == "add" else []
        matches = [percent(1 - test.wrong.double().mean().item(), 2) for test in tests]
        print(line.format(
            task, architecture, solved_of(rows), median_and_most(rows, "step", 0),
            median_and_most(rows, "train_seconds", 1), f"{max(seconds):.0f}",
            "; hardest sums: ".join(filter(None, [", ".join(matches), ", ".join(hardest)])),
        ), flush=True)
        answers = (torch.cat([getattr(test, name) for test in tests]) for name in tokens)
        if (all_tests := TestResults(config, *answers)).wrong.any():
            print("\n".join(format_mistake_report(all_tests).splitlines()[:3]), flush=True)


def swapped(run: Run, longer: bool) -> str:
    """Return the means of probes.patch_length_signal over all pairs with a longer or a shorter other."""
    pairs = itertools.permutations(run.config.lengths(), 2)
    fractions = [patch_length_signal(run, own, other) for own, other in pairs if (other > own) == longer]
    return ", ".join(f"{share:.1%}" for share in torch.tensor(fractions).nanmean(dim=0).tolist())


def by_hand(seeds: range) -> None:
    """Test whether reversing encoders, hand-built, untrained and trained, know and use END's position."""
    print("Highest attention to END of any layer 1 head, at length 8. Probe accuracy after each sublayer,\n"
          "for END's position and the mirror position. Predictions after patching in layer 1 attention from\n"
          "a shorter or longer sequence: from the symbol's own mirror position, and from the other.\n")
    line = "{:<19}{:>7}{:>15}{:>15}{:>16}{:>15}{:>15}".format
    print(line("", "END", "embedding", "attention 1", "feed-forward 1", "shorter", "longer"))

    def report(name: str, run: Run, *swaps: str, shuffled: bool = False) -> None:
        probed = probe_positions(run, shuffled).values()
        on_end = Evidence(run).attention.maps["encoder"][0, :, :, -1].mean(dim=1).max()
        cells = [f"{end:.1%}, {mirror:.1%}" for end, mirror in probed] + [*swaps, "", ""][:2]
        print(line(name, f"{on_end:.1%}", *cells), flush=True)

    config, model, _ = handmade.reversing_encoder()
    run = Run(model, config, [], Path())
    report("hand-built", run, swapped(run, longer=False), swapped(run, longer=True))
    for seed in seeds:
        config = Config(seed=seed)
        run = Run(initial_model(config).requires_grad_(False), config, [], Path())
        report(f"untrained, seed {seed}", run)
        for parameter in run.model.blocks[0].attention.query_projection.parameters():
            parameter.zero_()                               # all scores are 0
        report("  uniform attention", run)
        model, checkpoint = trained(config)
        run = Run(model, config, checkpoint["history"], Path())
        report(f"trained, seed {seed}", run, swapped(run, longer=False), swapped(run, longer=True))
        report("  labels shuffled", run, shuffled=True)


def balance(folders: list[Path]) -> None:
    """Compare how strongly positions and symbols drive the first attention; save balance.png in the last."""
    line, balances = "{:<45}{:>18}{:>18}{:>14}".format, {}
    print(line("spread of the scores, before and after training", "positions", "symbols", "exact match"))
    for folder in folders:
        run = read_run(folder, task_from_folder(folder), folder.name)
        source, _, _ = sample_unseen(run, max_test_length(run), SEQUENCES_PER_LENGTH)
        before, after = (score_std(model, source) for model in (initial_model(run.config), run.model))
        cells = [f"{before[name]:.3g} → {after[name]:.3g}" for name in ("positions", "symbols")]
        label = name_embeddings(run.config)
        balances[label] = after, Evidence(run).accuracy
        print(line(f"{folder}", *cells, percent(balances[label][1])))
    with picture_style():
        save_picture(draw_balance(balances), folders[-1] / "balance.png")


def pattern(tasks: list[str], architectures: list[str], seeds: range) -> None:
    """Find the steps at which symbol accuracy and the attention pattern reach half their rise."""
    print("Steps at which accuracy and the attention pattern reach half their rise, by seed. The\n"
          "pattern is the fraction of the best head's attention on one recorded question's answer.\n")
    for task, architecture in itertools.product(tasks, architectures):
        cells, order = [], []
        for seed in seeds:
            config, attention_history = default_config(task, architecture, seed=seed), None
            probe = recorded_questions(config)
            for model, checkpoint in train.train(config, CPU):
                attention_history = append_epoch(attention_history, model, probe, checkpoint["history"][-1])
            run = Run(model, config, checkpoint["history"], Path())
            share = mass_during_training(run, attention_history)
            best = share[-1].argmax()
            symbols = attention_history["step"][half_rise_index(attention_history["accuracy"])]
            pattern = attention_history["step"][half_rise_index(share.flatten(1)[:, best].tolist())]
            if share[-1].max() < 0.5:
                cells.append(f"{symbols}, none")
            else:
                cells.append(f"{symbols}, {pattern}")
                order.append(int(pattern > symbols) - int(pattern < symbols))
        print(f"{task}, {architecture}: {'; '.join(cells)}. Symbols first: {order.count(1)}, "
              f"together: {order.count(0)}, pattern first: {order.count(-1)}", flush=True)


def main() -> None:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--architecture", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES,
                        help="one or more (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--max-steps", type=int, default=400,
                        help="give up on a run after this many steps (default: 400)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--what-decides", action="store_true",
                         help="instead: change one ingredient of the recipe at a time")
    instead.add_argument("--all-tasks", action="store_true",
                         help="instead: train every architecture on every task")
    instead.add_argument("--by-hand", action="store_true",
                         help="instead: compare learned and hand-built models")
    instead.add_argument("--balance", nargs="+", type=Path, metavar="FOLDER",
                         help="instead: split the first attention scores of the runs in these folders")
    instead.add_argument("--mistakes", nargs="+", type=Path, metavar="FOLDER",
                         help="instead: draw which questions the runs in these folders get wrong")
    instead.add_argument("--pattern", action="store_true",
                         help="instead: time when correct symbols and the attention pattern emerge")
    instead.add_argument("--other-toys", action="store_true",
                         help="instead: train on other projects' toy tasks")
    instead.add_argument("--scale", action="store_true",
                         help="instead: measure the cost of a training step at different sizes")
    parser.add_argument("--ones-first", action="store_true",
                        help="with --all-tasks: write sums least significant digit first")
    parser.add_argument("--task", nargs="+", choices=list(TASKS), default=list(TASKS),
                        help="with --all-tasks: train only on these tasks")
    options = parser.parse_args()
    try:
        check_positive(seeds=options.seeds, max_steps=options.max_steps)
        Config(seed=options.first_seed)
        set_threads(options.threads)
    except ValueError as error:
        exit_with_error(str(error))
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if options.all_tasks:
        ones_first = {"add": replace(TASKS["add"], answer=lambda content: add(content).flip(-1))}
        with patch.dict(TASKS, ones_first if options.ones_first else {}):
            all_tasks(options.task, options.architecture, seeds)
    elif options.other_toys:
        other_toys(seeds, options.max_steps)
    elif options.scale:
        scale(DEFAULT_FOLDER, peak_flops_per_second)
    elif options.pattern:
        pattern(DEFAULT_TASKS, options.architecture, seeds)
    elif options.mistakes:
        save_mistake_pictures(options.mistakes)
        return
    elif options.balance:
        balance(options.balance)
    elif options.by_hand:
        by_hand(seeds)
    elif options.what_decides:
        what_decides(options.architecture, seeds, options.max_steps)
    else:
        compare(options.architecture, seeds, options.max_steps)
    print(f"\n{options.threads} thread(s), torch {torch.__version__}, seeds {seeds[0]} … {seeds[-1]}, "
          f"peak {peak_flops_per_second() / 1e9:.0f} GFLOP/s in float32")


if __name__ == "__main__":
    run_script(main)
