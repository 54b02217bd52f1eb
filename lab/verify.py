"""Measure again each number of our texts that comes from a run, and compare.

`python -m lab.verify` finds the numbers in README.md, EXERCISES.md and teaching/. It runs the commands and
code there in a copy of this folder, as a reader would, and measures what else the sentences speak of
(lab/claims.py). Each number is then one of these:

    exact       what was measured, to the last digit
    within      not exact, but no further away than its text allows for other machines
    here        further away, but its section says that such figures are those of our machine
    moved       further away: text or code must change
    uncovered   never measured, and not known to be a setting, a name, an example or arithmetic
    skipped     measured only with --all, because it takes minutes or ten seeds

A number that has moved or is uncovered makes the exit status 1.
"""

import itertools
import math
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from operator import eq
from pathlib import Path

from lab import claims, exercise_claims  # noqa: F401
from lab.reader import BLOCK, Reader, Section
from support import console, parallel
from support.figure import percent

NUMBER = r"[−-]?\d(?:[\d,]*\d)?(?:\.\d+)?"
FIND = re.compile(NUMBER)
ANYTHING = "anything"                                       # the name of what … matches
NOT_PROSE = re.compile(                                     # code, links, tags, headings, first columns
    r"`[^`\n]*`|\]\([^)]*\)|<(?!img)[^>]*>|(?:src|srcset|width|media)=\"[^\"]*\"|^#.*|^\| \d+ \||^1?\d\. "
    r"|●.*", re.MULTILINE,
)
SPREAD = re.compile(r"(percentages|steps|decimals)\s+by\s+up\s+to\s+([\d.]*\d)")
OURS = "our machine"                                        # a section with these words has no spread


def to_float(digits: str) -> float:
    return float(digits.replace(",", "").replace("−", "-"))


@dataclass
class Number:
    """A number in a text, and what was measured instead."""

    section: Section
    start: int                                              # in the section, in characters
    digits: str
    before: str                                             # the text around it
    after: str
    spread: dict[str, float]                                # that its text gives, by kind
    measure: str = ""                                       # the function or output that gives it
    measured: str = ""
    verdict: str = "uncovered"

    @property
    def line(self) -> int:
        return self.section.first_line + self.section.text.count("\n", 0, self.start)

    @property
    def value(self) -> float:
        return to_float(self.digits)

    @property
    def spread_here(self) -> float:
        """The spread of numbers like this in its text; 0 for all, none and other integers."""
        if self.after.startswith("%") and self.value in (0, 100):
            return 0
        if self.after.startswith(("%", " points")):
            return self.spread.get("percentages", 0)
        if re.search(r"steps? [\d, andto]*$", self.before):
            return self.spread.get("steps", 0)
        return self.spread.get("decimals", 0) if "." in self.digits else 0

    def compare(self, value: object) -> None:
        """Set the verdict on what was measured: a number, a string or None, and a fraction if % follows."""
        decimals = len(self.digits.partition(".")[2])
        if not isinstance(value, (int, float)):
            self.measured = str(value)
        elif self.after.startswith("%"):
            self.measured = percent(value, decimals).removesuffix("%")
        else:
            self.measured = f"{value:,.{decimals}f}"
        try:
            difference = abs(to_float(self.measured.lstrip("<")) - self.value)
        except ValueError:                                  # a run that was not solved, or an error
            difference = math.inf
        if difference <= self.spread_here:
            self.verdict = "within" if difference else "exact"
        else:
            self.verdict = "here" if OURS in self.section.text and difference < math.inf else "moved"


@dataclass
class Job:
    """Something to measure, and the numbers that it gives."""

    name: str
    is_slow: bool
    numbers: list[Number]
    measure: Callable[[Reader], None]                       # sets what was measured

    def __post_init__(self):
        for number in self.numbers:
            number.verdict, number.measure = "skipped", self.name


def find_numbers(section: Section, spread: dict[str, float]) -> dict[int, Number]:
    """Return each number in a section by its start, in prose, tables and outputs but not in code."""
    text = section.text
    prose = BLOCK.sub(lambda block: re.sub(r"\S", " ", block[0]), text)
    prose = NOT_PROSE.sub(lambda found: " " * len(found[0]), prose)
    for first, last in section.outputs:
        prose = prose[:first] + text[first:last] + prose[last:]
    return {
        found.start(): Number(
            section, found.start(), found[0], text[max(0, found.start() - 60) : found.start()],
            text[found.end() : found.end() + 10], spread,
        )
        for found in FIND.finditer(prose)
    }


def is_in(start: int, spans: list[tuple[int, int]]) -> bool:
    return any(first <= start < last for first, last in spans)


def compile_pattern(pattern: str) -> re.Pattern:
    """Return a regular expression for a sentence with {names} for numbers and … for anything."""
    names = Counter()

    def expand(part: re.Match) -> str:
        if part[0].isspace():
            return r"\s+"
        if part[0] != "…" and not part[1]:
            return re.escape(part[0])
        name, matches = (part[1], NUMBER) if part[1] else (ANYTHING, r"(?:(?!\n\n).)*?")
        names[name] += 1
        return f"(?P<{name}__{names[name]}>{matches})"

    return re.compile(re.sub(r"\{(\w+)\}|\s+|…|.", expand, pattern), re.DOTALL)


def match_pattern(pattern: str, numbers: dict[Section, dict[int, Number]]) -> list[tuple[str, Number]]:
    """Return the numbers for which a pattern has names; those that it spells out need no measure.

    Raises ValueError if no text has such a sentence.
    """
    found, expression = [], compile_pattern(pattern)
    for section, of_section in numbers.items():
        for match in expression.finditer(section.text):
            gaps = [match.span(name) for name in match.groupdict() if name.startswith(ANYTHING)]
            for start, number in of_section.items():        # in an output, … counts as spelled out
                in_gap = is_in(start, gaps) and not pattern.startswith("```")
                if number.verdict == "uncovered" and is_in(start, [match.span()]) and not in_gap:
                    number.verdict = "given"
            names = [name for name in match.groupdict() if not name.startswith(ANYTHING)]
            found += [(name.partition("__")[0], of_section[match.start(name)]) for name in names]
    if not found:
        raise ValueError(f"no text has {pattern!r}")
    return found


def job_of_claim(claim: claims.Claim, named: list[tuple[str, Number]]) -> Job:
    """Return the job that measures the numbers of a claim, by their names in its patterns."""
    def measure(reader: Reader) -> None:
        measured = claim.measure(reader)
        for name, number in named:
            number.compare(measured[name])

    return Job(claim.measure.__name__, claim.slow, [number for _, number in named], measure)


def job_of_output(section: Section, numbers: list[Number]) -> Job:
    """Return the job that compares the outputs in a section with what its commands or code print."""
    def words(line: str) -> str:
        return " ".join(FIND.sub("0", line.replace("<", "")).split())

    def measure(reader: Reader) -> None:
        lines = [(words(line), FIND.findall(line)) for line in reader.output_of(section).splitlines()]
        by_start = {number.start: number for number in numbers}
        for line in re.finditer(r".+", section.text):
            shown = FIND.findall(line[0])
            here = [by_start.get(line.start() + found.start()) for found in FIND.finditer(line[0])]
            alike = [printed for masked, printed in lines if masked == words(line[0])]
            nearest = max(alike, key=lambda printed: sum(map(eq, printed, shown)),      # noqa: B023
                          default=["no such line"] * len(shown))
            for number, printed in zip(here, nearest, strict=True):
                if number:
                    number.compare(printed)

    return Job(f"output of {section.title}", section.title in claims.SLOW_SECTIONS, numbers, measure)


def list_jobs(sections: list[Section]) -> tuple[list[Number], list[Job]]:
    """Return the numbers in these sections that need a measure, in order, and the jobs that measure them."""
    spreads = defaultdict(dict)
    for section in sections:
        spreads[section.file] |= {kind: float(limit) for kind, limit in SPREAD.findall(section.text)}
    numbers = {section: find_numbers(section, spreads[section.file]) for section in sections}
    jobs = []
    for claim in claims.CLAIMS:
        named = [match_pattern(pattern, numbers) for pattern in claim.patterns]
        jobs.append(job_of_claim(claim, list(itertools.chain(*named))))
    for section, of_section in numbers.items():
        prose = BLOCK.sub(lambda block: re.sub(r"\S", "x", block[0]), section.text)
        not_measured = [found.span() for found in claims.NOT_MEASURED.finditer(prose)]
        if section.title in claims.TESTED_ELSEWHERE:
            not_measured = [(0, len(section.text))]
        rest = [number for number in of_section.values() if number.verdict == "uncovered"]
        for number in rest:
            if is_in(number.start, not_measured):
                number.verdict = "given"
        printed = [x for x in rest if x.verdict == "uncovered" and is_in(x.start, section.outputs)]
        if printed:
            jobs.append(job_of_output(section, printed))
    every = [number for of in numbers.values() for number in of.values() if number.verdict != "given"]
    return every, jobs


def run_job(job: Job, reader: Reader) -> None:
    """Measure; an error is what was measured."""
    try:
        job.measure(reader)
    except Exception as error:
        for number in job.numbers:
            number.compare(f"{type(error).__name__}: {error}")


def print_table(numbers: list[Number]) -> None:
    """Print a line for each number, and how many there are of each verdict."""
    print(f"{'text':<20} {'number':>34}   {'measured':>9}   verdict     measured by")
    for number in numbers:
        context = " ".join(number.before.split())[-24:]
        print(f"{number.section.file}:{number.line:<5} {context:>24} {number.digits:>9}"
              f"   {number.measured:>9}   {number.verdict:<10}  {number.measure}")
    counts = Counter(number.verdict for number in numbers)
    print(f"\n{len(numbers)} numbers:", ", ".join(f"{count} {name}" for name, count in counts.most_common()))


def main() -> None:
    parser = console.new_parser(__doc__.splitlines()[0], "python -m lab.verify", "python -m lab.verify --all")
    option = parser.add_argument
    option("--all", action="store_true", help="measure ten seeds, long runs and times as well (hours)")
    option("--only", nargs="+", default=[], metavar="WORD", help="what has such a word in the last column")
    option("--device", choices=["cpu", "cuda", "mps"], default="cpu", help="train on it (default: cpu)")
    option("--threads", type=int, default=1, help="CPU threads for each command (default: 1)")
    option("--jobs", type=int, default=None, metavar="N", help="commands run at once (default: 1 per core)")
    option("--folder", type=Path, default=None, metavar="FOLDER",
           help="keep all results here, to continue after an interruption; delete it if a file changes")
    options = parser.parse_args()
    console.set_threads(None)
    with tempfile.TemporaryDirectory() as temporary:
        folder, jobs_at_once = options.folder or Path(temporary), parallel.choose_jobs(options.jobs)
        reader = Reader(folder, jobs_at_once, options.threads, ("--device", options.device))
        numbers, jobs = list_jobs(reader.sections)
        if options.only:
            jobs = [job for job in jobs if any(word in job.name for word in options.only)]
            if not jobs:
                parser.error(f"nothing is measured by a name with {' or '.join(options.only)}")
        elif not options.all:
            jobs = [job for job in jobs if not job.is_slow]
        start = time.perf_counter()
        reader.each(lambda job: run_job(job, reader), jobs)
    print_table(numbers)
    print(f"{time.perf_counter() - start:.0f} s")
    if any(number.verdict in ("moved", "uncovered") for number in numbers):
        raise SystemExit(1)


if __name__ == "__main__":
    console.run_script(main)
