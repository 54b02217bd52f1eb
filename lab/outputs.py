"""The files that visualize.py saves: how they are named, written and listed for the gallery."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from zlib import crc32

from matplotlib.figure import Figure
from tqdm import tqdm

from support.figure import one_line_title, save_picture
from support.files import format_error
from support.runs import add_to_listing, write_table


def slugify(words: Iterable[str]) -> str:
    """Turn words into part of a file name: 5 9 12 becomes 5-9-12. Encode or cut whatever does not fit."""
    name = quote("-".join(" ".join(words).split()), safe="+")
    return name if len(name) <= 80 else f"{name[:70]}-{crc32(name.encode()):08x}"


@dataclass
class Output:
    """A file to save: the folders of the runs it shows, and what draws it.

    make returns the picture or table to save, or the title of a file that it has written itself; None, []
    or "" if there is nothing to see.
    """

    path: Path
    runs: list[Path]
    make: Callable[[], Figure | list[dict] | str | None]

    def save(self) -> str:
        """Save the file, if there is anything to see; return its title."""
        made = self.make()
        if isinstance(made, str):
            return made
        if isinstance(made, Figure):
            save_picture(made, self.path)
            return one_line_title(made)
        if made:
            write_table(made, self.path)
        return ""


def save_outputs(
    outputs: Iterable[Output], options: argparse.Namespace, show: Callable[..., None]
) -> list[Path]:
    """Save the outputs, and list them for the gallery and remove_stale; return those that failed.

    Each is reported to show; see Progress.
    """
    outputs, saved, failed, command = list(outputs), {}, [], shlex.join(["python", *sys.argv])
    show(done=0, total=len(outputs))
    try:
        for done, output in enumerate(outputs, start=1):
            try:
                title = output.save()
            except OSError:                                 # a full disk would spoil all the others as well
                raise
            except Exception as error:                      # a bug of ours, or of the reader's own code
                failed.append(output.path)
                tqdm.write(f"error: {output.path} is missing: {format_error(error)}", file=sys.stderr)
                continue
            show(title and f"{output.path}: {title}", done=done)
            if output.path.is_file():
                shown = [Path(os.path.relpath(run, options.output_dir)).as_posix() for run in output.runs]
                saved[output.path] = {"runs": shown, "title": title, "command": command}
    finally:                                                # also after an interrupt
        add_to_listing(options.output_dir, saved)
    return failed
