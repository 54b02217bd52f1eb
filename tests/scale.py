"""Measure the cost of a training step as the model, the sequences and the batch grow: benchmark.py --scale.

Each measurement runs in its own forked processes and reads its memory use from Linux. A step includes the
optimiser and the weight average, and no row has padding. Steps are measured in several rounds, and the
fastest counts, because other programs slow some rounds down for minutes.
"""

import itertools
import os
import re
import socket
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partialmethod
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import matplotlib
import torch
import torch.multiprocessing
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import train
from data import make_inputs_and_targets
from support import distributed
from support.config import Config
from support.figure import label_lines, new_figure, picture_style, save_picture
from transformer import PAD, LayerNorm, PositionalEncoding, build_token_embedding

CPU = torch.device("cpu")
BASE = Config(seq_len=8, fixed_length=True)                 # what the sweeps start from
SWEEPS = {                                                  # one size at a time
    "d_model": {size: replace(BASE, d_model=size, d_ff=4 * size) for size in (64, 128, 256, 512, 1024)},
    "layers": {size: replace(BASE, num_layers=size) for size in (2, 4, 8, 12)},
    "length": {size: replace(BASE, seq_len=size, batch_size=8) for size in (8, 32, 128, 512, 1024)},
    "batch": {size: replace(BASE, batch_size=size) for size in (8, 32, 128, 512)},
}
SETUPS = {                                  # threads, processes, with PyTorch's layers, options of training
    "1 thread": (1, 1, False, {}), "2 threads": (2, 1, False, {}), "2 processes": (1, 2, False, {}),
    "nn.TransformerEncoder": (1, 1, True, {}),
}
OPTIONS = {"compiled": (1, 1, False, {"compiled": True}), "bfloat16": (1, 1, False, {"amp": True})}
WITH_OPTIONS = ("d_model", 128), ("d_model", 512), ("length", 128), ("batch", 512)      # of the sweeps
ROUNDS = 4
EXCHANGED = 25_000_000                                      # numbers averaged to time the exchange
GPUS = {"Eight H100 with NVLink, about": (400e12, 450e9)}   # flops per second in bfloat16, bytes per second


class PyTorchEncoder(nn.Module):
    """The same encoder, with the layers of nn.TransformerEncoder."""

    architecture = "encoder"

    def __init__(self, config: Config):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            config.d_model, config.num_heads, config.d_ff, dropout=config.dropout,
            activation=config.activation, batch_first=True, norm_first=config.norm_first,
        )
        max_len = config.longest_row()
        self.embedding = build_token_embedding(config.vocab_size, config.d_model, config.embedding_std)
        self.positional_encoding = PositionalEncoding(
            config.d_model, max_len, config.positional, config.position_base
        )
        self.encoder = nn.TransformerEncoder(
            layer, config.num_layers, norm=LayerNorm(config.d_model), enable_nested_tensor=False
        )
        self.output_projection = nn.Linear(config.d_model, config.vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.positional_encoding(self.embedding(tokens))
        return self.output_projection(self.encoder(x, src_key_padding_mask=tokens == PAD))


@dataclass(order=True)
class Cost:
    """The cost of one training step, in one setup."""

    seconds: float
    first_seconds: float                                    # of the first step, with which PyTorch begins
    peak_bytes: int                                         # peak memory above the baseline


def count_flops(config: Config, attention: bool = True) -> int:
    """Count the flops of a step's matrix products with PyTorch: once forward and twice as many backward.

    Without attention, these are only the products with weights.
    """
    source, target = config.sample_batch(config.batch_size, torch.Generator())
    inputs, _ = make_inputs_and_targets(config.architecture, source, target)
    sized = replace(config, max_len=config.longest_row())
    with FlopCounterMode(display=False) as counter, torch.device("meta"):   # shapes alone, no memory
        sized.build_model()(*(tokens.to("meta") for tokens in inputs))
    with_weights = counter.get_flop_counts()["Global"][torch.ops.aten.addmm]
    return 3 * (counter.get_total_flops() if attention else with_weights)


def memory(name: str) -> int:
    """Return this process's memory in bytes: current ("VmRSS") or peak ("VmHWM")."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(rf"{name}:\s*(\d+)", status)[1])


@contextmanager
def join_processes(rank: int, processes: int, port: int) -> Iterator[None]:
    """Make a forked process one of several within the block, as if torchrun had started it."""
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "WORLD_SIZE": processes}
    distributed.RANK, distributed.WORLD_SIZE = rank, processes
    os.environ |= {name: str(value) for name, value in environment.items()}
    with distributed.process_group(CPU):
        yield


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_in_processes(processes: int, function: Callable, *arguments: object) -> object:
    """Call a function in this many new processes, and return what the first puts into the queue."""
    results = torch.multiprocessing.get_context("fork").SimpleQueue()
    arguments = processes, free_port(), results, *arguments
    torch.multiprocessing.start_processes(function, arguments, processes, start_method="fork")
    return results.get()


def time_steps(config: Config, **execution: bool) -> list[float]:
    """Return the seconds of some steps, equally many in each process."""
    run, times, steps = train.TrainingState(config, CPU, **execution), [], 2
    source, target = config.sample_batch(config.batch_size, torch.Generator().manual_seed(0))
    batch = make_inputs_and_targets("encoder", source, target)
    while len(times) < steps:
        start = time.perf_counter()
        train.train_epoch(run, [batch])
        times.append(time.perf_counter() - start)
        if len(times) == 2:
            steps = distributed.broadcast_from_rank_zero(
                lambda: 2 + min(50, max(1, int(1 / times[1])))
            )
    return times


def measure_step(
    rank: int, processes: int, port: int, results: SimpleQueue,
    config: Config, threads: int, of_pytorch: bool, execution: dict[str, bool],
) -> None:
    """Measure a step in each process (see train.TrainingState); the first puts a Cost into results."""
    torch.set_num_threads(threads)
    before = memory("VmRSS")
    model = partialmethod(PyTorchEncoder) if of_pytorch else Config.build_model
    with (
        join_processes(rank, processes, port), patch.object(Config, "build_model", model),
        TemporaryDirectory() as cache, patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=cache),   # empty
    ):
        first, _, *others = time_steps(config, **execution)
    if rank == 0:
        results.put(Cost(statistics.median(others), first, memory("VmHWM") - before))


@dataclass
class Point:
    """One size of a sweep."""

    sweep: str
    size: int
    config: Config
    flops: int                                              # of a step
    costs: dict[str, Cost]                                  # of each setup, in its fastest round; shared by
                                                            # points with the same config

    @property
    def name(self) -> str:
        return f"{self.sweep} {self.size:,}"

    @property
    def tokens(self) -> int:
        """The number of tokens per step."""
        return self.config.batch_size * (self.config.seq_len + 2)


def measure_rate(rank: int, processes: int, port: int, results: SimpleQueue, rate: Callable) -> None:
    """Put the rate into results. In its own process, it leaves the memory of the others alone."""
    results.put(rate())


def measure_all(points: list[Point], rate: Callable[[], float]) -> float:
    """Measure the costs of the points, and return the highest rate measured between them."""
    highest = 0.0
    for _, point in tqdm([*itertools.product(range(ROUNDS), points)]):
        setups = SETUPS | OPTIONS if (point.sweep, point.size) in WITH_OPTIONS else SETUPS
        for setup, (threads, processes, *others) in setups.items():
            cost = run_in_processes(processes, measure_step, point.config, threads, *others)
            point.costs[setup] = min(cost, point.costs.get(setup, cost))
        highest = max(highest, run_in_processes(1, measure_rate, rate))
    return highest


def print_costs(points: list[Point], flops_per_second: float) -> None:
    """Print the cost of each point in each setup, and the percentage due to matrix products alone."""
    line = "{:<18}{:<24}{:>10}{:>12}{:>12}{:>12}"
    print(line.format("size", "setup", "ms/step", "tokens/s", "% of limit", "memory"))
    for point in points:
        for setup, cost in point.costs.items():
            print(line.format(
                point.name, setup, f"{1000 * cost.seconds:.1f}", f"{point.tokens / cost.seconds:,.0f}",
                f"{point.flops / flops_per_second / cost.seconds:.0%}", f"{cost.peak_bytes / 1e6:,.0f} MB",
            ))


def scale_picture(points: list[Point], flops_per_second: float) -> Figure:
    """Plot the cost of a step against the length: ours, PyTorch's, and the limit of matrix products."""
    swept = [point for point in points if point.sweep == "length"]
    ratios = {
        point.size: point.costs["1 thread"].seconds / point.costs["nn.TransformerEncoder"].seconds
        for point in swept
    }
    shortest, longest = min(ratios), max(ratios)
    figure = new_figure(
        3.2, f"written-out attention costs {ratios[shortest]:.1f} times as much as PyTorch's at length "
        f"{shortest}, {ratios[longest]:.1f} times at {longest:,}",
        "Encoder of d_model 128, 4 layers, batch 8; one process, one thread.",
        f"Dashed: the limit set by matrix products alone, at {flops_per_second / 1e9:.0f} GFLOP/s.",
    )
    axes, sizes = figure.subplots(), [point.size for point in swept]
    for setup, label in ("1 thread", "ours"), ("nn.TransformerEncoder", "nn.TransformerEncoder"):
        axes.plot(sizes, [1000 * point.costs[setup].seconds for point in swept], marker="o", label=label)
    limits = [1000 * point.flops / flops_per_second for point in swept]
    axes.plot(sizes, limits, "--", color=matplotlib.rcParams["grid.color"], label="limit")
    axes.set(xscale="log", yscale="log", xlabel="length", ylabel="ms per step")
    axes.set_xticks(sizes, map("{:,}".format, sizes))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,g}")
    label_lines(axes)
    return figure


def time_exchange(rank: int, processes: int, port: int, results: SimpleQueue) -> None:
    """Measure the bytes per second each process sends to average gradients; the first stores it."""
    with join_processes(rank, processes, port):
        numbers, times = torch.zeros(EXCHANGED), []
        for _ in range(5):
            start = time.perf_counter()
            distributed.all_reduce_mean(numbers)
            times.append(time.perf_counter() - start)
    if rank == 0:
        sent = 2 * (processes - 1) / processes * 4 * EXCHANGED          # by a ring of processes
        results.put(sent / min(times))


def print_when_processes_pay(points: list[Point], flops_per_second: float) -> None:
    """Print where a second process was faster, and above how many tokens more processes should pay off.

    Of P weights, n processes compute 6·P·tokens/n flops each, at a rate R. Each sends 2·(n − 1)/n · 4·P bytes
    of gradients, at a rate W. That is faster than one process from 4/3 · R/W tokens on, whatever P and n.
    """
    for sweep in SWEEPS:
        gains = (
            f"{point.size:,}: {point.costs['1 thread'].seconds / point.costs['2 processes'].seconds:.2f}"
            for point in points if point.sweep == sweep
        )
        print(f"{sweep}: speed-up of two processes over one: {', '.join(gains)}")
    rate = run_in_processes(2, time_exchange)
    machines = {"Two processes here": (flops_per_second, rate), **GPUS}
    for machine, (flops, exchanged) in machines.items():
        print(f"{machine}: {flops / 1e12:,.3g} TFLOP/s, {exchanged / 1e9:,.3g} GB/s, "
              f"so adding processes pays off from {4 / 3 * flops / exchanged:,.0f} tokens per step")


def print_when_compiling_pays(points: list[Point]) -> None:
    """Print how long compiling takes, and after how many steps it pays off."""
    for point in points:
        if (point.sweep, point.size) in WITH_OPTIONS:
            compiled = point.costs["compiled"]
            gain = point.costs["1 thread"].seconds - compiled.seconds
            print(f"{point.name}: compiling takes {compiled.first_seconds:.0f} s and pays off",
                  f"after {compiled.first_seconds / gain:,.0f} steps" if gain > 0 else "never")


def scale(folder: Path, rate: Callable[[], float]) -> None:
    """Measure and print everything, and save the pictures; rate measures flops per second."""
    folder.mkdir(exist_ok=True)
    train.TrainingState(BASE, CPU)                          # loads all of PyTorch that a process then has
    costs = defaultdict(dict)
    points = [
        Point(sweep, size, config, count_flops(config), costs[repr(config)])
        for sweep, configs in SWEEPS.items() for size, config in configs.items()
    ]
    flops_per_second = measure_all(points, rate)
    print_costs(points, flops_per_second)
    print_when_processes_pay(points, flops_per_second)
    print_when_compiling_pays(points)
    for dark in False, True:
        with picture_style(dark):
            path = folder / f"scale{'_dark' if dark else ''}.png"
            save_picture(scale_picture(points, flops_per_second), path)
            print(f"saved {path}")
