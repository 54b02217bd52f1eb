"""The command line of any script: one-line errors, signals, closed pipes, parsers, devices and threads.

Scripts import this first: it ends them if Python is too old, and keeps matplotlib from opening windows.
"""

import sys

if sys.version_info < (3, 10):                              # noqa: UP036
    sys.exit("error: Python 3.10 or newer is needed; this is " + sys.version.split()[0])

import argparse
import difflib
import os
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

os.environ["MPLBACKEND"] = "agg"                            # no window; a notebook may export another


def exit_with_error(*messages: str) -> None:
    """End a script on bad input: one line per message on stderr, exit status 2."""
    for message in messages:                                # a value in it can be any text
        message = " ".join("".join(x if x.isprintable() else " " for x in message).split())
        if len(message) > 600:
            message = f"{message[:300]} … {message[-300:]}"
        tqdm.write(f"error: {message}", file=sys.stderr)    # above the progress bars
    raise SystemExit(2)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the closest word to a mistyped one."""

    def error(self, message: str) -> None:
        typed = re.search(r"(?:invalid choice: |unrecognized arguments: )'?([^\s'=]+)", message)
        if typed:
            words = {*re.findall(r"[\w-]+", f"{self.format_usage()} {message.partition('choose from')[2]}")}
            if nearest := difflib.get_close_matches(typed[1], words, n=1, cutoff=0.7):
                message = f"{message.split(' (choose')[0]}; did you mean {nearest[0]}?"
        exit_with_error(message)


def new_parser(description: str, *examples: str, **settings) -> Parser:
    """Return a script's argument parser, with examples below the help."""
    return Parser(
        description=description, epilog="\n  ".join(["examples:", *examples]), allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter, **settings,
    )


def add_choice(parser: Parser, flag: str, choices: Sequence[str], default: Sequence[str] = ()) -> None:
    """Add an option that takes one or more of these words, listed once in the help; by default none."""
    words = f"one or more of {', '.join(choices)} (default: {' '.join(default or ['all'])})"
    parser.add_argument(flag, nargs="+", choices=choices, metavar="NAME", default=default, help=words)


def folder_name(name: str) -> Path:
    """Parse an option that names a folder."""
    if not name.strip():
        raise argparse.ArgumentTypeError("the folder name is empty")
    return Path(name)


def choose_device(name: str) -> torch.device:
    """Return the named device; "auto" picks the fastest. Raises ValueError if it is not available."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, is_there in available.items() if is_there)
    if not available[name]:
        raise ValueError(f"device {name!r} is not available on this machine; use --device cpu")
    torch.set_float32_matmul_precision("highest")           # no TF32, which has only 10 mantissa bits
    return torch.device(name)


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads; None means OMP_NUM_THREADS, or else one."""
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = 1                                         # for models this small, more are rarely faster
    if threads is not None:
        if not 1 <= threads <= 1_024:
            raise ValueError(f"threads={threads} is out of range; choose 1 … 1024")
        torch.set_num_threads(threads)


def run_script(main: Callable[[], None]) -> None:
    """Call main; if a file cannot be read or written, print one line.

    Ctrl-C, and a reader who closes the pipe as `| head` does, end it with status 130; SIGTERM with 143. If
    the output encoding lacks a character (e.g. Windows' cp1252), "?" is printed instead.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    for stream in sys.stdout, sys.stderr:
        if hasattr(stream, "reconfigure"):                  # a notebook's has none, and shows everything
            stream.reconfigure(errors="replace")
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as error:
        if error.filename is None:                          # otherwise Python complains again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(130) from None
        exit_with_error(f"cannot read or write {error.filename or 'the output'}: {error.strerror or error}")
