"""A reader of our texts: finds their sections, commands and code, and runs these in copies of this folder."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lab.evidence import Evidence
from support.runs import Run, load_run, read_metrics, run_folder

ROOT = Path(__file__).resolve().parents[1]
TEXTS = "README.md", "EXERCISES.md", "teaching/README.md", "teaching/quiz.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:python3?|py|torchrun) |\.venv")
OUR_COMMAND = re.compile(r"python (?!visualize|-m (?:venv|pip|pytest))")
NOT_COPIED = shutil.ignore_patterns(".*", "models", "assets", "node_modules", "__pycache__")


@dataclass(frozen=True)
class Section:
    """A part of a text, from one heading to the next."""

    file: str
    text: str
    first_line: int

    @property
    def title(self) -> str:
        return self.text.partition("\n")[0].lstrip("# ")

    @cached_property
    def blocks(self) -> list[tuple[str, re.Match]]:
        """Its fenced blocks, and of which kind each is: "python", "diff", "commands" or "output"."""
        found = []
        for block in BLOCK.finditer(self.text):
            found.append((block[1] or ("commands" if COMMAND.match(block[2]) else "output"), block))
        return found

    def of_kind(self, kind: str) -> list[str]:
        """Return the text in each block of this kind."""
        return [block[2] for found, block in self.blocks if found == kind]

    @property
    def outputs(self) -> list[tuple[int, int]]:
        """Where its outputs start and end, in characters."""
        return [block.span(2) for kind, block in self.blocks if kind == "output"]

    @property
    def commands(self) -> list[str]:
        """Its commands that print or train something, each once."""
        lines = [part.strip() for text in self.of_kind("commands") for part in re.split(r"\n|&&", text)]
        return list(dict.fromkeys(filter(OUR_COMMAND.match, lines)))


def read_sections(file: str) -> list[Section]:
    """Return the sections of a text."""
    text = (ROOT / file).read_text(encoding="utf-8")
    prose = BLOCK.sub(lambda block: " " * len(block[0]), text)
    starts = [*(heading.start() for heading in re.finditer(r"^#+ ", prose, re.MULTILINE)), len(text)]
    return [
        Section(file, text[start:end], text.count("\n", 0, start) + 1)
        for start, end in zip(starts, starts[1:], strict=False)
    ]


def parse_diff(diff: str) -> tuple[str, str]:
    """Return the old and the new text of a block with - and +."""
    lines = diff.splitlines(keepends=True)
    return tuple("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))


@dataclass(frozen=True)
class Result:
    """A trained run, as its folder holds it."""

    models: Path
    task: str
    architecture: str

    @property
    def folder(self) -> Path:
        return run_folder(self.models, self.task, self.architecture)

    @cached_property
    def metrics(self) -> dict:
        return read_metrics(self.folder)

    @property
    def correct(self) -> float:
        """The exact match on the test sequences."""
        return self.metrics["test_exact_match"]

    @property
    def solved(self) -> int | None:
        """The step at which all validation sequences were correct for the first time."""
        return self.metrics["steps_to_solve"]

    @cached_property
    def history(self) -> dict[int, dict[str, str]]:
        """The rows of history.csv, by step."""
        with open(self.folder / "history.csv", newline="", encoding="utf-8") as file:
            return {int(row["step"]): row for row in csv.DictReader(file)}

    @cached_property
    def run(self) -> Run:
        return load_run(self.models, self.task, self.architecture, quiet=True)

    @cached_property
    def evidence(self) -> Evidence:
        return Evidence(self.run)


class Reader:
    """Does what the texts say: each thing once, and several at the same time."""

    def __init__(self, folder: Path, jobs: int, threads: int = 1, train_options: tuple[str, ...] = ()):
        self.folder, self.train_options = folder, ("--jobs", "1", *train_options)
        self.environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUTF8": "1"}
        self.slots, self.futures, self.interrupted = threading.Semaphore(jobs), {}, False
        self.lock, self.alone = threading.Lock(), threading.Lock()      # the second, while a model has hooks
        self.sections = [section for file in TEXTS for section in read_sections(file)]

    def once(self, work: Callable, *arguments):
        """Call a function, or return what it returned for the same arguments before."""
        with self.lock:
            known = (work, arguments) in self.futures
            future = self.futures.setdefault((work, arguments), Future())
        if not known:
            try:
                future.set_result(work(*arguments))
            except Exception as error:
                future.set_exception(error)
        return future.result()

    def each(self, work: Callable, values: Iterable) -> list:
        """Return work(value) for each value, computed at the same time; after Ctrl-C, no command starts."""
        values = list(values)
        with ThreadPoolExecutor(len(values)) as pool:
            try:
                return list(pool.map(work, values))
            except (KeyboardInterrupt, SystemExit):
                self.interrupted = True
                raise

    # ---------------------------------------------------------------- sections and copies

    def find(self, title: str) -> Section:
        """Return the section whose title contains this."""
        return next(section for section in self.sections if title in section.title)

    def own_file(self, section: Section) -> tuple[str, str]:
        """Return name and text of the file that a reader of this section saves; empty if there is none."""
        named = re.search(r"--tasks (\S+)", " ".join(section.commands))
        codes = [code for code in section.of_kind("python") if "\nTASKS = " in code]
        if named and not codes:                             # the README's, as exercise 18 says
            return self.own_file(self.find("Change something"))
        return (named[1], codes[0]) if named else ("", "")

    def make_copy(
        self, name: str, changes: tuple[tuple[str, str], ...] = (), file: str = "", code: str = ""
    ) -> Path:
        """Copy this folder without trained models, change transformer.py and save a file of the reader's."""
        copy = self.folder / name
        if not copy.exists():
            shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
            source = (copy / "transformer.py").read_text(encoding="utf-8")
            for old, new in changes:
                if source.count(old) != 1:
                    raise ValueError(f"transformer.py does not have exactly one {old!r}")
                source = source.replace(old, new)
            (copy / "transformer.py").write_text(source, encoding="utf-8")
            if file:
                (copy / file).write_text(code, encoding="utf-8")
        return copy

    def copy_for(self, section: Section) -> Path:
        """Return the copy in which the section's commands are run."""
        file, code = self.own_file(section)
        changes = tuple(map(parse_diff, section.of_kind("diff")))
        name = re.sub(r"\W+", "_", section.title) if changes or file else "unchanged"
        return self.once(self.make_copy, name, changes, file, code)

    # ---------------------------------------------------------------- commands and code

    def call_python(self, copy: Path, *arguments: str) -> str:
        """Run Python with these arguments in a copy; return what it prints, which is kept in a file."""
        command = f"{copy.name}: python {' '.join(arguments)}"
        printed = self.folder / f"{zlib.crc32(command.encode()):08x}.txt"
        if not printed.exists():
            with self.slots:
                if self.interrupted:
                    raise RuntimeError(f"{command}: not started")
                start = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, *arguments], cwd=copy, env=self.environment, check=False,
                    capture_output=True, text=True, encoding="utf-8",
                )
            if done.returncode:
                raise RuntimeError(f"{command}: {done.stderr.strip()[-300:]}")
            print(f"{time.perf_counter() - start:4.0f} s  {command[:90]!r}", file=sys.stderr, flush=True)
            printed.write_text(done.stdout, encoding="utf-8")
        return printed.read_text(encoding="utf-8")

    def call(self, *arguments: str) -> str:
        """Run Python where the default runs are; return what it prints."""
        return self.once(self.call_python, self.train("python train.py").parent, *arguments)

    def run_command(self, section: Section, command: str, *options: str) -> str:
        """Run a section's command where its reader would; return what it prints."""
        arguments = shlex.split(command)[1:]
        if arguments[0] == "train.py":
            options = *self.train_options, *options
        return self.once(self.call_python, self.copy_for(section), *arguments, *options)

    def output_of(self, section: Section) -> str:
        """Run a section's commands, then its code; return all that they print.

        With changes to transformer.py, the commands are for these, not for the code.
        """
        codes = [code for code in section.of_kind("python") if "\nTASKS = " not in code]
        commands = [] if codes and section.of_kind("diff") else section.commands
        printed = [self.run_command(section, command) for command in commands]
        return "".join(printed + [self.call("-c", code) for code in codes])

    # ---------------------------------------------------------------- trained runs

    def find_training(self, words: str) -> tuple[Section, list[str]]:
        """Return the first section with commands that train and contain these words, and the commands."""
        return next(
            (section, found) for section in self.sections
            if (found := [line for line in section.commands if "train.py" in line and words in f"{line} "])
        )

    def train(self, words: str, *options: str) -> Path:
        """Run the commands that train and contain these words; return the folder of their runs.

        With options, such as a seed, another folder is used.
        """
        section, commands = self.find_training(words)
        folder = (re.findall(r"--output-dir (\S+)", commands[0]) or ["models"])[0]
        if options:
            folder += "_".join(options)
            options = *options, "--output-dir", folder
        for command in commands:
            self.run_command(section, command, *options)
        return self.copy_for(section) / folder

    def result(self, words: str, *options: str, architecture: str = "") -> Result:
        """Return a run of the commands that contain these words; of several architectures, one."""
        _, commands = self.find_training(words)
        asked = shlex.split(commands[0]) + list(options)
        task, kind = (asked[len(asked) - asked[::-1].index(flag)] for flag in ("--task", "--architecture"))
        return self.once(Result, self.train(words, *options), task, architecture or kind)

    def default(self, task: str, architecture: str = "encoder") -> Result:
        """Return one of the runs that `python train.py` trains."""
        return self.once(Result, self.train("python train.py"), task, architecture)

    def seeds(self, words: str, *options: str) -> list[Result]:
        """Return ten runs of the commands that contain these words, with seeds 0 to 9."""
        return self.each(lambda seed: self.result(words, *options, "--seed", str(seed)), range(10))

    def change(self, name: str, changes: Iterable[tuple[str, str]], *options: str) -> Result:
        """Train the README's command for a changed part with these changes to transformer.py."""
        copy = self.once(self.make_copy, name, tuple(changes))
        command = next(line for line in self.find("Change something").commands if "models/changed" in line)
        self.once(self.call_python, copy, *shlex.split(command)[1:], *self.train_options, *options)
        return self.once(Result, copy / "models" / "changed", "reverse", "encoder")
