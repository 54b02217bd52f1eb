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
from multiprocessing.process import BaseProcess

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


class Workers:
    """Processes that share the runs: each gets the next one when it has finished the last."""

    def __init__(self, function: Callable, runs: list[tuple], progress: Progress):
        self.function, self.progress = function, progress
        self.waiting, self.results = list(enumerate(runs)), [None] * len(runs)
        self.processes: dict[Connection, BaseProcess] = {}
        self.current: dict[Connection, int | None] = {}     # the number of the run that a process does
        self.errors: dict[Connection, str] = {}             # what it wrote to stderr

    def start(self) -> None:
        """Start a process and send it its first run."""
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=work, args=(there, self.function))
        process.start()
        self.processes[here], self.errors[here] = process, ""
        there.close()                                       # else its end would go unnoticed here
        self.assign(here)

    def assign(self, connection: Connection) -> None:
        """Send a process the next run, or nothing, which ends it."""
        self.current[connection], arguments = self.waiting.pop(0) if self.waiting else (None, None)
        with suppress(OSError):                             # it has died, as receive will notice
            connection.send_bytes(pickle.dumps(arguments))

    def receive(self, connection: Connection) -> bool:
        """Handle a process's next message; return False if it has ended."""
        try:
            kind, *values = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return False
        number = self.current[connection]
        if kind == "show":
            self.progress.show(number, *values[0], **values[1])
        elif kind == "result":
            self.results[number] = values[0]
            self.progress.end(number)
            self.assign(connection)
        else:
            self.errors[connection] = values[0]
        return True

    def join(self, connection: Connection) -> None:
        """Remove a process that has ended; raise SystemExit if it failed."""
        process = self.processes.pop(connection)
        process.join()
        if process.exitcode < 0:
            name, number = self.progress.names[self.current[connection]], -process.exitcode
            reason = f"killed by signal {number}; if memory is short, try --jobs 1"
            self.errors[connection] = f"error: {name}: {reason}\n"
        if process.exitcode:
            raise SystemExit(process.exitcode if process.exitcode > 0 else 2)

    def stop(self) -> None:
        """Stop all processes that are left, and print the errors below the bars."""
        self.waiting.clear()
        for process in self.processes.values():
            process.terminate()
        for connection, process in self.processes.items():
            while self.receive(connection):
                pass
            process.join()
            if process.exitcode != 128 + signal.SIGTERM:    # it failed as well, probably for the same reason
                self.errors[connection] = ""
        self.progress.close()
        print("".join(self.errors.values()), file=sys.stderr, end="")


def run_in_processes(function: Callable, runs: list[tuple], jobs: int, progress: Progress) -> list[object]:
    """Call the function for each run, up to this many at once; stop all of them if one fails."""
    workers = Workers(function, runs, progress)
    try:
        for _ in range(min(jobs, len(runs))):
            workers.start()
        while workers.processes:
            for connection in wait(list(workers.processes)):
                if not workers.receive(connection):
                    workers.join(connection)
    finally:                                                # also after an error or Ctrl-C
        workers.stop()
    return workers.results


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
