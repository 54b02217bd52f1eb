"""Train or draw several runs at once, each in a process of its own.

This process shows a progress bar for each, and prints what they print. A run computes exactly what it would
compute alone.
"""

import argparse
import io
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from functools import partial
from multiprocessing.connection import Connection, wait

import torch
from tqdm import tqdm

from support.console import run_script
from support.distributed import RANK, WORLD_SIZE

CPU = torch.device("cpu")


def add_jobs(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the option that says how many runs to train or draw at once."""
    words = f"runs to {verb} at once, each in its own process (default: one per CPU core; on a GPU, 1)"
    parser.add_argument("--jobs", type=int, default=None, metavar="N", help=words)


def choose_jobs(jobs: int | None, device: torch.device = CPU) -> int:
    """Return the number of processes to use; None means one per CPU core and thread, but only one on a GPU.

    Started by torchrun, there are several processes already. Raises ValueError if it is out of range.
    """
    if jobs is not None and not 1 <= jobs <= 1_024:
        raise ValueError(f"jobs={jobs} is out of range; choose 1 … 1024")
    if WORLD_SIZE > 1:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return jobs or (max(1, cores // torch.get_num_threads()) if device.type == "cpu" else 1)


def print_lines(*lines: str, **progress: object) -> None:
    """Print the lines of what runs in this process; there is no progress bar."""
    for line in filter(None, lines):
        print(line)


class Progress:
    """A progress bar for each run, and the lines that the runs print, in the order of the runs."""

    def __init__(self, names: list[str], unit: str, quiet: bool = False):
        self.names, self.unit = names, unit
        self.disable = True if quiet or RANK > 0 else None  # None: no bars if the output is a file
        self.bars: dict[int, tqdm] = {}
        self.lines: list[list[str]] = [[] for _ in names]   # not printed yet
        self.ended: set[int] = set()

    def show(self, run: int, *lines: str, done: int | None = None, total: int = 0, **scores: str) -> None:
        """Print a run's lines, unless an earlier run has not ended yet; update its progress bar."""
        self.lines[run] += filter(None, lines if RANK == 0 else [])
        for number, waiting in enumerate(self.lines):
            while waiting:
                tqdm.write(waiting.pop(0), file=sys.stdout)
            if number not in self.ended:
                break
        if done is not None and run not in self.bars:
            self.bars[run] = tqdm(
                desc=self.names[run], total=total, initial=done, unit=self.unit, position=run,
                disable=self.disable,
            )
        elif done is not None:
            self.bars[run].set_postfix(scores, refresh=False)
            self.bars[run].update(done - self.bars[run].n)

    def end(self, run: int) -> None:
        """Stop the clock of a run that has ended, and print the lines that had to wait for it."""
        if run in self.bars:
            self.bars[run].bar_format = str(self.bars[run]).replace("{", "{{").replace("}", "}}")
        self.ended.add(run)
        self.show(run)

    def close(self) -> None:
        """Leave the bars as they are, and print what is left."""
        self.ended.update(range(len(self.names)))
        self.show(0)
        for _, bar in sorted(self.bars.items()):
            bar.close()


def work(connection: Connection, function: Callable) -> None:
    """In a process of its own, call the function with each run's arguments as they arrive.

    Send what it shows and what it returns, and finally all that was written to stderr.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)            # on Ctrl-C, the first process sends SIGTERM

    def send(*message: object) -> None:                     # connection.send would share tensors
        connection.send_bytes(pickle.dumps(message))

    def show(*lines: str, **values: object) -> None:
        send("show", lines, values)

    def call_for_each() -> None:
        while arguments := pickle.loads(connection.recv_bytes()):
            send("result", function(*arguments, show=show))

    errors = io.StringIO()
    try:
        with redirect_stderr(errors):
            run_script(call_for_each)
    finally:
        send("errors", errors.getvalue())


def run_in_processes(function: Callable, runs: list[tuple], jobs: int, progress: Progress) -> list[object]:
    """Call the function for each run, up to this many at once; stop all of them if one fails."""
    context = multiprocessing.get_context("spawn")
    waiting, results = list(enumerate(runs)), [None] * len(runs)
    processes, current, errors = {}, {}, {}                 # by connection; current is its run's number

    def assign(connection: Connection) -> None:
        """Send a process the next run, or nothing, which ends it."""
        current[connection], arguments = waiting.pop(0) if waiting else (None, None)
        with suppress(OSError):                             # it has died, as receive will notice
            connection.send_bytes(pickle.dumps(arguments))

    def receive(connection: Connection) -> bool:
        """Handle a process's next message; return False if it has ended."""
        try:
            kind, *values = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return False
        number = current[connection]
        if kind == "show":
            progress.show(number, *values[0], **values[1])
        elif kind == "result":
            results[number] = values[0]
            progress.end(number)
            assign(connection)
        else:
            errors[connection] = values[0]
        return True

    try:
        for _ in range(min(jobs, len(runs))):
            here, there = context.Pipe()
            process = context.Process(target=work, args=(there, function))
            process.start()
            processes[here], errors[here] = process, ""
            there.close()                                   # else its end would go unnoticed here
            assign(here)
        while processes:
            for connection in wait(list(processes)):
                if receive(connection):
                    continue
                process = processes.pop(connection)
                process.join()
                if process.exitcode < 0:
                    name, number = progress.names[current[connection]], -process.exitcode
                    errors[connection] = (
                        f"error: {name}: killed by signal {number}; if memory is short, try --jobs 1\n"
                    )
                if process.exitcode:
                    raise SystemExit(process.exitcode if process.exitcode > 0 else 2)
    finally:                                                # also after an error or Ctrl-C
        waiting.clear()
        for process in processes.values():
            process.terminate()
        for connection, process in processes.items():
            while receive(connection):
                pass
            process.join()
            if process.exitcode != 128 + signal.SIGTERM:    # it failed as well, probably for the same reason
                errors[connection] = ""
        progress.close()
        print("".join(errors.values()), file=sys.stderr, end="")
    return results


def run_all(
    function: Callable, runs: dict[str, tuple], jobs: int, unit: str, quiet: bool = False
) -> list[object]:
    """Return function(*arguments, show=…) for each run, given by name; up to this many jobs run at once.

    Each calls show(*lines, done=…, total=…, **scores); see Progress.
    """
    progress = Progress(list(runs), unit, quiet)
    try:
        if jobs > 1 and len(runs) > 1:
            return run_in_processes(function, list(runs.values()), jobs, progress)
        results = []
        for number, arguments in enumerate(runs.values()):
            results.append(function(*arguments, show=partial(progress.show, number)))
            progress.end(number)
        return results
    finally:
        progress.close()
