"""The command line: one-line errors, signals, closed pipes, parsers, devices and threads.

Nothing here is specific to Transformers.
"""

import argparse
import difflib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

MOST_THREADS = 1_024

os.environ["MPLBACKEND"] = "agg"                            # no window; a notebook may export another


def nearest_option(option: str, options: list[str]) -> str | None:
    """Guess the intended option: --epochs for --epoch, --learning-rate for its initials --lr, and so on."""
    typed = option.strip("-").replace("_", "-")
    words_of = {name: name.strip("-").split("-") for name in options}
    candidates = [
        *(name for name, words in words_of.items() if typed == "".join(word[0] for word in words)),
        *difflib.get_close_matches(f"--{typed}", options, n=1, cutoff=0.9),
        *(name for name, words in words_of.items() if typed in words),
        *difflib.get_close_matches(f"--{typed}", options, n=1),
    ]
    return next(iter(candidates), None)


def new_parser(description: str, *examples: str, **settings) -> argparse.ArgumentParser:
    """Return a script's argument parser, with examples below the help."""
    return argparse.ArgumentParser(
        description=description, epilog="\n  ".join(["examples:", *examples]), allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter, **settings,
    )


def add_choice(
    parser: argparse.ArgumentParser, flag: str, choices: Sequence[str], default: Sequence[str] | None = None
) -> None:
    """Add an option that takes one or more of these words, listed once in the help; by default None."""
    words = f"one or more of {', '.join(choices)} (default: {' '.join(default or ['all'])})"
    name = flag.strip("-").upper()
    parser.add_argument(flag, nargs="+", choices=choices, metavar=name, default=default, help=words)


def folder_name(name: str) -> Path:
    """Parse an option that names a folder."""
    if not name.strip():
        raise argparse.ArgumentTypeError("the folder name is empty")
    return Path(name)


def arguments() -> list[str]:
    """Return the command-line arguments; none in a notebook, where they belong to the kernel."""
    return [] if sys.argv[0].endswith("kernel_launcher.py") else sys.argv[1:]


def fail(*messages: str) -> None:
    """End a script on bad input: one line per message on stderr, exit status 2."""
    for message in messages:                                # a value in it can be any text
        message = "".join(letter if letter.isprintable() else " " for letter in message)
        if len(message) > 600:
            message = f"{message[:300]} … {message[-300:]}"
        print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def parse_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the options. An unknown or repeated option ends the program with a suggested fix."""
    parser.error = fail
    flags = [word.split("=")[0] for word in arguments() if word.startswith("--")]
    for flag in flags:
        if flags.count(flag) > 1:
            fail(f"{flag} was given more than once")
    namespace, unknown = parser.parse_known_args(arguments())
    if unknown:
        option = unknown[0].split("=")[0]
        nearest = nearest_option(option, re.findall(r"--[\w-]+", parser.format_usage()))
        hint = f"did you mean {nearest}?" if nearest else "see --help"
        fail(f"unknown option {option}; {hint}")
    return namespace


def choose_device(name: str) -> torch.device:
    """Return the named device; "auto" picks the fastest. Raises ValueError if it is not available."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, is_there in available.items() if is_there)
    if not available[name]:
        raise ValueError(
            f"device {name!r} is not available on this machine; use --device cpu or drop --device"
        )
    torch.set_float32_matmul_precision("highest")           # no TF32, which has only 10 mantissa bits
    return torch.device(name)


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads; None means OMP_NUM_THREADS, or else one."""
    if threads is not None:
        if not 1 <= threads <= MOST_THREADS:
            raise ValueError(f"threads={threads} is out of range; choose 1 … {MOST_THREADS}")
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)                            # for models this small, more are rarely faster


def run_script(main: Callable[[], None], status_if_left: int = 0) -> None:
    """Call main, and exit quietly with this status if the output pipe is closed, as by `| head -2`.

    If a file cannot be read or written, print one line and exit. Ctrl-C exits with status 130; SIGTERM, as
    sent by a cluster, with 143. If the output encoding lacks a character (e.g. Windows' cp1252), "?" is
    printed instead.
    """
    def terminate(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, terminate)
    sys.stdout, sys.stderr = sys.stdout or io.StringIO(), sys.stderr or io.StringIO()   # None: closed
    for stream in sys.stdout, sys.stderr:
        if hasattr(stream, "reconfigure"):                  # a notebook's has none, and shows everything
            stream.reconfigure(errors="replace")
    try:
        os.getcwd()
    except FileNotFoundError:
        fail("the working directory has been deleted; change to another one")
    try:
        main()
        sys.stdout.flush()
    except OSError as error:
        if error.filename is None:                          # otherwise Python complains again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(status_if_left) from None
        fail(f"cannot read or write {error.filename or 'the output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
