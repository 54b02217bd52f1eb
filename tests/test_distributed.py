"""Several processes train like one: same losses and weights, a single writer, and no process left hanging."""

import itertools
import os
import re
import socket
import subprocess
import sys
import time
from collections import deque
from functools import partialmethod
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from conftest import CPU, TINY, TINY_OPTIONS
from scale import free_port, join_processes, run_in_processes
from torch import nn
from torch._inductor.exc import InvalidCxxCompiler

import train
from data import ARCHITECTURES
from support import distributed
from support.config import Config
from support.runs import run_folder
from train import load_run, save_weights

SETTINGS = TINY | {"batch_size": 7}                         # divisible by neither 2 nor 3
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
SCRIPT = str(Path(train.__file__))


def losses_and_weights(architecture, **execution):
    """Return those of a full run in double precision, where rounding cannot hide a difference."""
    model = Config.build_model
    torch.set_default_dtype(torch.float64)                  # also of the weight of each part
    try:
        with patch.object(Config, "build_model", lambda config: model(config).double()):
            config = Config(**SETTINGS, architecture=architecture)
            run = deque(train.train(config, CPU, **execution), maxlen=1)
    finally:
        torch.set_default_dtype(torch.float32)
    if not run:                                             # not the first process
        return None
    _, checkpoint = run.pop()
    losses = torch.tensor([row["loss"] for row in checkpoint["history"]], dtype=torch.float64)
    return losses, torch.cat([weights.flatten() for weights in checkpoint["model"].values()])


def one_of_several(rank, processes, port, results, path):
    """Train each architecture in every process, the first one twice."""
    with join_processes(rank, processes, port):
        runs = [losses_and_weights(architecture) for architecture in (*ARCHITECTURES, ARCHITECTURES[0])]
        runs.append(losses_and_weights("encoder", accumulation_steps=2))
    if rank == 0:
        torch.save(runs, path)
        results.put("saved")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_train_like_one(processes, tmp_path):
    assert run_in_processes(processes, one_of_several, tmp_path / "runs.pt") == "saved"
    *runs, again, in_parts = torch.load(tmp_path / "runs.pt")
    for architecture, several in zip(ARCHITECTURES, runs, strict=True):
        for found, expected in zip(several, losses_and_weights(architecture), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert all(torch.equal(first, second) for first, second in zip(runs[0], again, strict=True))
    for found, expected in zip(in_parts, runs[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_micro_batches_train_like_the_whole_batch(monkeypatch):
    whole = losses_and_weights("encoder")
    for found, expected in zip(losses_and_weights("encoder", accumulation_steps=3), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)

    micro_batches = distributed.micro_batches

    def equal_weights(*batch):
        return ((inputs, target, 1 / 3) for inputs, target, _ in micro_batches(*batch))

    monkeypatch.setattr(distributed, "micro_batches", equal_weights)
    losses, weights = losses_and_weights("encoder", accumulation_steps=3)
    assert (losses - whole[0]).abs().max() > 1e-2 and (weights - whole[1]).abs().max() > 1e-4


def test_torchrun_resumes_and_only_rank_zero_prints(tmp_path):
    config = Config(**TINY, task="copy")
    (_, first), (_, last) = train.train(config, CPU)
    folder = run_folder(tmp_path, "copy", "encoder")
    folder.mkdir(parents=True)
    save_weights(first, folder)
    command = [*TORCHRUN, SCRIPT, "--task=copy", "--architecture=encoder", f"--output-dir={tmp_path}"]
    done = subprocess.run([*command, "--resume"], capture_output=True, encoding="utf-8", timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done in") == 1 and done.stdout.count("step 3: loss") == 1
    history = load_run(tmp_path, "copy").history
    assert history[0] == first["history"][0] and len(history) == 2
    assert history[1]["loss"] == pytest.approx(last["history"][1]["loss"], abs=1e-5)


def start_two(start, *options):
    """Start two processes as torchrun would, but without torchrun, which ends both when one fails."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    return [start("train.py", *options, RANK=rank, **address) for rank in "01"]


@pytest.mark.parametrize("dies", [0, 1])
def test_peer_failure_is_one_line_and_keeps_the_checkpoint(dies, tmp_path, start):
    options = [*TINY_OPTIONS, "--epochs=100000", "--task=copy", "--architecture=encoder", "--quiet"]
    processes = start_two(start, *options, f"--output-dir={tmp_path}")
    checkpoint = run_folder(tmp_path, "copy", "encoder") / "checkpoint.pt"
    while not checkpoint.exists() and processes[0].is_alive():
        time.sleep(0.01)
    processes[dies].kill()
    status, _, message = processes[1 - dies].finish()
    assert status == 2
    one_line = r"error: another process has died; copy, encoder is saved up to epoch \d+ of 100000; .*\n"
    assert re.fullmatch(one_line if dies == 1 else "", message)
    assert len(load_run(tmp_path, "copy").history) >= 1


def test_bad_input_is_reported_only_by_rank_zero(tmp_path, start):
    ended = [process.finish() for process in start_two(start, "--num-heads=7", f"--output-dir={tmp_path}")]
    error = "error: d_model=128 is not divisible by num_heads=7; choose a divisor\n"
    assert ended == [(2, "", error), (2, "", "")] and not list(tmp_path.iterdir())


def test_dropout_seed_is_unique(monkeypatch):
    cases = itertools.product([0, 1, 2, 1_000_003, 2**63 - 1], range(1, 5), range(1, 50))
    seeds = []
    for seed, rank, epoch in cases:
        monkeypatch.setattr(distributed, "RANK", rank)
        seeds.append(distributed.dropout_seed(seed, epoch))
    assert len({*seeds}) == len(seeds) and min(seeds) >= 0 and max(seeds) < 2**63


def test_plan_run_rejects_fewer_rows_than_processes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "WORLD_SIZE", 3)
    monkeypatch.setattr(sys, "argv", ["train.py", "--batch-size", "5", "--accumulate", "2"])
    with pytest.raises(ValueError, match="batch_size=5 .* 3 processes with accumulate=2; choose 6 or more"):
        train.plan_run("copy", "encoder", train.parse_options())


def test_process_group_reports_a_taken_port_in_one_line(monkeypatch):
    monkeypatch.setattr(distributed, "WORLD_SIZE", 2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": 0, "WORLD_SIZE": 2}
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        group = distributed.process_group(CPU)
        with pytest.raises(ValueError, match="in use|EADDRINUSE") as refused, group:
            pass
    assert "\n" not in str(refused.value) and "start them with torchrun" in str(refused.value)
    assert not dist.is_initialized()


def test_compiled_model_trains_like_an_eager_one(monkeypatch):
    """The graph is captured and run eagerly, because the C++ compiler would be slow."""
    compile_eagerly = partialmethod(nn.Module.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    config = Config(**TINY)
    plain, compiled = (
        deque(train.train(config, CPU, compiled=compiled), 1).pop()[1] for compiled in (False, True)
    )
    assert compiled["history"][-1]["loss"] == pytest.approx(plain["history"][-1]["loss"], abs=1e-5)
    assert compiled["trained_weights"].keys() == plain["trained_weights"].keys()


def test_compile_failure_is_reported_in_one_line(tmp_path, monkeypatch, capsys):
    def no_compiler(model):
        raise InvalidCxxCompiler

    monkeypatch.setattr(nn.Module, "compile", no_compiler)
    options = [*TINY_OPTIONS, "--task=copy", "--architecture=encoder", "--compile"]
    monkeypatch.setattr(sys, "argv", ["train.py", *options, f"--output-dir={tmp_path}"])
    with pytest.raises(SystemExit):
        train.main()
    reason = "No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')"
    saved = "nothing new was saved for copy, encoder"
    assert capsys.readouterr().err == f"error: {reason}; drop --compile or --amp; {saved}\n"


def test_amp_keeps_the_weights_in_float32():
    config = Config(**TINY)
    (_, plain), (_, amp) = (deque(train.train(config, CPU, amp=amp), 1).pop() for amp in (False, True))
    loss, other = (checkpoint["history"][-1]["loss"] for checkpoint in (plain, amp))
    assert loss != other == pytest.approx(loss, rel=1e-2)
    assert all(weights.dtype == torch.float32 for weights in amp["trained_weights"].values())
