"""Measure again each number of our texts that comes from a run, and compare.

`python -m lab.verify` finds the numbers in README.md, EXERCISES.md and teaching/. It runs the commands and
code there in a copy of this folder, as a reader would, and measures what else the sentences speak of
(lab/claims.py). Each number is then one of these:

    exact       what was measured, to the last digit
    within      the spread that its text gives for other machines
    here        a time or another number that its text calls one of our machine, so that it is not judged
    moved       none of these, so text or code must change
    uncovered   not measured, and not known to be a setting, a name, an example or arithmetic
    skipped     measured only with --all, because it takes minutes or ten seeds
"""

import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab import claims, exercise_claims  # noqa: F401
from lab.reader import BLOCK, ROOT, TEXTS, Reader, Section
from support import console, parallel
from support.figure import percent

NUMBER = r"[−-]?\d(?:[\d,]*\d)?(?:\.\d+)?"
FIND = re.compile(NUMBER)
ANYTHING = "anything"                                       # the name of what … matches
NOT_PROSE = re.compile(                                     # code, links, tags, headings, first columns
    r"`[^`\n]*`|\]\([^)]*\)|<(?!img)[^>]*>|(?:src|srcset|width|media)=\"[^\"]*\"|^#.*|^\| \d+ \||^1?\d\. "
    r"|●.*", re.MULTILINE,
)


def to_float(digits: str) -> float:
    return float(digits.replace(",", "").replace("−", "-"))


@dataclass
class Number:
    """A number in a text: where it is, how it is written there, and what was measured."""

    file: str
    line: int
    start: int                                              # in characters
    digits: str
    before: str                                             # the text around it
    after: str
    measure: str = ""                                       # the function or command that measures it
    measured: str = ""
    verdict: str = "uncovered"

    @property
    def decimals(self) -> int:
        return len(self.digits.partition(".")[2])

    @property
    def value(self) -> float:
        return to_float(self.digits)


def find_numbers(file: str, sections: list[Section]) -> dict[int, Number]:
    """Return each number of a text by its start, in prose, tables and outputs but not in code."""
    text = (ROOT / file).read_text(encoding="utf-8")
    prose = BLOCK.sub(lambda block: re.sub(r"\S", " ", block[0]), text)
    prose = NOT_PROSE.sub(lambda found: " " * len(found[0]), prose)
    for section in sections:
        for kind, block in section.blocks:
            if kind == "output":
                start = section.start + block.start(2)
                prose = prose[:start] + block[2] + prose[start + len(block[2]) :]
    return {
        found.start(): Number(
            file, text.count("\n", 0, found.start()) + 1, found.start(), found[0],
            text[max(0, found.start() - 60) : found.start()], text[found.end() : found.end() + 30],
        )
        for found in FIND.finditer(prose)
    }


def compile_pattern(pattern: str) -> re.Pattern:
    """Return a regular expression for a sentence with {names} for numbers and … for anything."""
    names = Counter()

    def expand(part: re.Match) -> str:
        if part[0].isspace():
            return r"\s+"
        if part[0] not in "…" and not part[1]:
            return re.escape(part[0])
        name, matches = (part[1], NUMBER) if part[1] else (ANYTHING, r"(?:(?!\n\n).)*?")
        names[name] += 1
        return f"(?P<{name}__{names[name]}>{matches})"

    return re.compile(re.sub(r"\{(\w+)\}|\s+|…|.", expand, pattern), re.DOTALL)


def format_like(number: Number, value: object) -> str:
    """Write a measured value as the text writes the number; fractions are percentages if % follows it."""
    if value is None:
        return "never"
    if isinstance(value, str):
        return value
    if number.after.startswith("%"):
        return percent(value, number.decimals).removesuffix("%")
    return f"{value:,.{number.decimals}f}"


def set_measured(number: Number, name: str, value: object) -> None:
    """Compare a number with what was measured."""
    number.measure, number.measured = name, format_like(number, value)
    try:
        exact = to_float(number.measured) == number.value
    except ValueError:                                      # never
        exact = False
    number.verdict = "exact" if exact else "moved"


def find_claims(texts: dict[str, str], numbers: dict[str, dict[int, Number]]) -> Iterator:
    """Yield each claim with the numbers in the texts that it measures, by the names of its pattern."""
    for claim in claims.CLAIMS:
        found = []
        for pattern in claim.patterns:
            expression = compile_pattern(pattern)
            matches = [(file, match) for file, text in texts.items() for match in expression.finditer(text)]
            if not matches:
                raise ValueError(f"{claim.measure.__name__}: no text has {pattern!r}")
            for file, match in matches:
                spans = {name: match.span(name) for name in match.groupdict()}
                for name, (start, _) in spans.items():
                    if not name.startswith(ANYTHING):
                        found.append((name.partition("__")[0], numbers[file][start]))
                skipped = [span for name, span in spans.items() if name.startswith(ANYTHING)]
                for start in range(*match.span()):          # what the pattern itself says is a condition
                    in_gap = any(first <= start < last for first, last in skipped)
                    if start in numbers[file] and (not in_gap or pattern.startswith("```")):
                        numbers[file][start].verdict = "given"
        yield claim, found


def compare_output(block: str, numbers: dict[int, Number], printed: str, name: str) -> None:
    """Look up each line of a block among those printed, by its words, and compare their numbers.

    numbers has those of the block by their start in it.
    """
    def words(line: str) -> str:
        return " ".join(FIND.sub("0", line).split())

    lines = [(words(line), FIND.findall(line)) for line in printed.splitlines()]
    for line in re.finditer(r".+", block):
        here = [(numbers.get(line.start() + found.start()), found[0]) for found in FIND.finditer(line[0])]
        alike = [found for masked, found in lines if masked == words(line[0])]
        nearest = max(alike, key=lambda found: sum(a == b for a, (_, b) in zip(found, here, strict=True)),
                      default=["no such line"] * len(here))
        for (number, _), measured in zip(here, nearest, strict=True):
            if number:
                set_measured(number, name, measured)


def verify(reader: Reader, slow: bool, only: list[str]) -> list[Number]:
    """Measure the numbers of all texts, or those whose measure has one of these words, and return them."""
    def is_wanted(name: str, is_slow: bool) -> bool:
        return any(word in name for word in only) if only else slow or not is_slow

    texts = {file: (ROOT / file).read_text(encoding="utf-8") for file in TEXTS}
    numbers = {file: find_numbers(file, [x for x in reader.sections if x.file == file]) for file in TEXTS}
    claimed = list(find_claims(texts, numbers))
    for file, text in texts.items():
        measured = {number.start for _, found in claimed for _, number in found if number.file == file}
        prose = BLOCK.sub(lambda block: re.sub(r"\S", "x", block[0]), text)
        spans = [found.span() for found in claims.NOT_MEASURED.finditer(prose)]
        spans += [(section.start, section.start + len(section.text)) for section in reader.sections
                  if section.file == file and section.title in claims.TESTED_ELSEWHERE]
        numbers[file] = {
            start: number for start, number in numbers[file].items() if start in measured
            or number.verdict != "given" and not any(first <= start < last for first, last in spans)
        }

    def measure_claim(claim: claims.Claim, found: list[tuple[str, Number]]) -> None:
        name = claim.measure.__name__
        try:
            measured = claim.measure(reader) if is_wanted(name, claim.slow) else None
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            measured = defaultdict(lambda: message)
        for key, number in found:
            if measured is None:
                number.measure, number.verdict = name, "skipped"
            else:
                set_measured(number, name, measured[key])

    def measure_output(section: Section) -> None:
        name, is_slow = f"output of {section.title}", section.title in claims.SLOW_SECTIONS
        for block in [block for kind, block in section.blocks if kind == "output"]:
            first = section.start + block.start(2)
            found = {start - first: number for start, number in numbers[section.file].items()
                     if first <= start < first + len(block[2]) and not number.measure}
            if found and is_wanted(name, is_slow):
                compare_output(block[2], found, reader.output_of(section), name)
            for number in found.values():
                if not number.measure:
                    number.measure, number.verdict = name, "skipped"

    with ThreadPoolExecutor(len(claimed) + len(reader.sections)) as pool:
        futures = [pool.submit(measure_claim, *each) for each in claimed]
        futures += [pool.submit(measure_output, section) for section in reader.sections]
        for future in futures:
            future.result()
    return [number for file in TEXTS for number in numbers[file].values()]


def print_table(numbers: list[Number]) -> None:
    print(f"{'text':<24} {'number':>36}   {'measured':>9}   verdict     measured by")
    for number in numbers:
        context = " ".join(number.before.split())[-24:]
        print(f"{number.file.removeprefix('teaching/')}:{number.line:<5} {context:>24} {number.digits:>9}"
              f"   {number.measured:>9}   {number.verdict:<10}  {number.measure}")
    counts = Counter(number.verdict for number in numbers)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))


def main() -> None:
    parser = console.new_parser(__doc__.splitlines()[0], "python -m lab.verify", "python -m lab.verify --all")
    option = parser.add_argument
    option("--all", action="store_true", help="measure ten seeds, long runs and times as well (hours)")
    option("--only", nargs="+", default=[], metavar="WORD", help="what has such a word in the last column")
    option("--device", choices=["cpu", "cuda", "mps"], default="cpu", help="train on it (default: cpu)")
    option("--threads", type=int, default=1, help="CPU threads for each command (default: 1)")
    option("--jobs", type=int, default=None, metavar="N", help="commands run at once (default: 1 per core)")
    option("--folder", type=Path, default=None, metavar="FOLDER",
           help="keep what was trained and printed here, for another run (default: keep nothing)")
    options = parser.parse_args()
    console.set_threads(None)
    with tempfile.TemporaryDirectory() as temporary:
        folder, jobs = options.folder or Path(temporary), parallel.choose_jobs(options.jobs)
        reader = Reader(folder, jobs, options.threads, ("--device", options.device))
        start = time.perf_counter()
        numbers = verify(reader, options.all, options.only)
        print_table(numbers)
        print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    console.run_script(main)
