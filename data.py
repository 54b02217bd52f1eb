"""Sequence tasks with exactly known answers, so that every mistake a model makes can be seen.

A sequence is [START, content …, END], padded with PAD. A task is a `Task` object: a function from questions
to answers, plus anything else specific to it. Every batch is freshly sampled. A sequence's content alone
determines its split, so training never sees a test sequence. `python data.py` prints examples and the sizes
of the splits; `python data.py --task NAME` checks a task.

Shapes: N sequences, L symbols of content in each, A symbols in each answer, S = longest content + 2.
"""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

from support import console  # before all others, see there

# isort: split
import torch
import torch.nn.functional as F
from torch import Tensor

from support import puzzles
from support.files import format_error
from support.own_tasks import check_fields, read_tasks, try_task
from support.puzzles import MASK, PLUS, ZERO
from transformer import END, PAD, START, check_choice

FIRST_SYMBOL = 4                                            # content symbols are 4 … vocab_size − 1
MODELS = {"encoder": "encoder", "decoder": "decoder-only model", "encoder-decoder": "encoder–decoder"}
ARCHITECTURES = tuple(MODELS)                               # on the command line; MODELS names them in prose
SPLITS = ("train", "validation", "test")                    # 80, 10 and 10% of all sequences
MAX_CANDIDATES, MIN_PER_SPLIT = 20_000, 3                   # to find this many questions in each split
MAX_ENUMERATED = 4096                                       # sequences of one length that are listed in full
OVERSAMPLING_FACTOR, MAX_RESAMPLED = 8, 2**20               # candidates per question; torch takes 2²⁴


def accept_all(content: Tensor) -> Tensor:
    """Accept every row of content (N, L), (N,): most tasks have an answer for any symbols."""
    return torch.ones(len(content), dtype=torch.bool)


@dataclass(frozen=True, eq=False)
class Task:
    """Everything specific to a task. Only the answer is required: `Task(sort)` is a complete task.

    `answer` maps a batch of valid questions (N, L), never an empty one, to answers (N, A); A depends only on
    L. Each must depend only on its own question: content.roll(1, dims=1), not content.roll(1).
    """

    answer: Callable[[Tensor], Tensor]
    symbols: range | None = None                            # in questions; None: 4 … vocab_size − 1
    gaps: bool = False                                      # whether questions may contain MASK
    sample_candidates: Callable[[range, int, int, torch.Generator], Tensor] = puzzles.sample_symbols
    is_valid: Callable[[Tensor], Tensor] = accept_all       # whether each row (N, L) is valid, (N,)
    token_names: dict[int, str] = field(default_factory=dict)           # of tokens not shown by number
    format_hint: str = "other symbols"                      # completes the error hint "write …"
    categories: Callable[[Tensor], dict[str, Tensor]] | None = None     # of questions, as count_repeats
    settings: dict = field(default_factory=dict)            # best Config values; see support/config.py
    answer_sources: Callable[[Tensor], Tensor] | None = None            # (N, L) → (N, A, L); None: measured
    train_fraction: float = 0.8                             # of all questions, at most 0.8
    next_token: bool = False                                # also learn the questions, which have no END
    file: str = ""                                          # that defines it; set by load_tasks


def copy(content: Tensor) -> Tensor:
    """5 7 9 → 5 7 9: each position depends only on itself."""
    return content


def reverse(content: Tensor) -> Tensor:
    """5 7 9 → 9 7 5: each position must look at its mirror position, wherever that is."""
    return content.flip(-1)


def sort(content: Tensor) -> Tensor:
    """9 5 7 5 → 5 5 7 9: where a symbol goes depends on all the others."""
    return content.sort(dim=-1).values


def double(content: Tensor) -> Tensor:
    """5 7 9 → 5 7 9 5 7 9: the answer is longer than the question."""
    return content.repeat(1, 2)


# A task of your own is a function and a line like these, in a file of your own; see load_tasks.
TASKS = {
    "copy": Task(copy),
    "reverse": Task(reverse),
    "sort": Task(sort, categories=puzzles.count_repeats, settings={"epochs": 300, "oversample": 1.0}),
    "double": Task(double, settings={"epochs": 100}),
    "add": Task(
        puzzles.add, symbols=range(ZERO, PLUS + 1), sample_candidates=puzzles.sample_sums,
        is_valid=puzzles.is_sum, categories=puzzles.count_carries,
        token_names={ZERO + digit: str(digit) for digit in range(10)} | {PLUS: "+"},
        format_hint="two numbers with the same number of digits, as in 4 2 + 1 9",
        settings={                                          # base 50 does as well (encoder)
            "epochs": 400, "embedding_std": 1.0, "position_base": 10_000.0, "oversample": 1.0,
            "decoder": {"oversample": 0.75},
        },
    ),
    "complete": Task(
        puzzles.complete, gaps=True, sample_candidates=puzzles.sample_patterns,
        is_valid=puzzles.has_one_completion, categories=puzzles.count_clues,
        format_hint="a repeating pattern with gaps that can be filled in only one way, as in 5 _ 5 7",
        settings={
            "epochs": 400, "positional": "learned", "embedding_std": 0.5, "oversample": 1.0,
            "encoder": {"norm_first": False, "embedding_std": 0.25}, "decoder": {"oversample": 0.75},
        },
        answer_sources=puzzles.find_visible_copies,         # replacing one copy usually breaks the pattern
    ),
}


def token_name(token: int, task: str = "copy") -> str:
    """Return the name of a token: its own, or else its number."""
    names = {PAD: "PAD", START: "START", END: "END", MASK: "_"} | TASKS[task].token_names
    return names.get(token, str(token))


def format_tokens(tokens: Tensor, task: str = "copy") -> str:
    """Format a row of token ids (S,) as readable text, without trailing PAD."""
    length = int((tokens != PAD).cumsum(dim=0).argmax()) + 1
    return " ".join(token_name(token, task) for token in tokens[:length].tolist())


# ---------------------------------------------------------------- splits and sampling


def split_index(content: Tensor, train_fraction: float = 0.8) -> Tensor:
    """Return the split of each row of content (N, L), as an index into SPLITS (N,), or 3 if it is unused.

    A hash maps the symbols to 0 … 9.99: train if below 10 · train_fraction, validation from 8, test from 9.
    So a sequence stays in the same split in all epochs, seeds, tasks and runs. The state evolves like
    Lehmer's random number generator. No product exceeds 2⁴⁸, so every machine computes the same result.
    """
    prime = 2**31 - 1
    state = torch.ones(len(content), dtype=torch.int64)
    for symbols in content.unbind(dim=-1):
        state = (state * 48271 + symbols) % prime
    for _ in range(2):                                      # a single symbol needs more mixing
        state = state * 69621 % prime
    hashed = state % 10 + state // 10 % 100 / 100
    split = (hashed >= 8).long() + (hashed >= 9).long()
    return split.masked_fill((hashed < 8) & (hashed >= 10 * train_fraction), len(SPLITS))


def count_splits(contents: Tensor, train_fraction: float = 0.8) -> list[int]:
    """Return the number of rows of contents in each split."""
    return split_index(contents, train_fraction).bincount(minlength=len(SPLITS))[: len(SPLITS)].tolist()


def question_symbols(task: str, vocab_size: int) -> range:
    """Return the symbols used in the task's questions, apart from MASK for gaps."""
    return TASKS[task].symbols or range(FIRST_SYMBOL, vocab_size)


def alphabet(task: str, vocab_size: int) -> list[int]:
    """Return all tokens that may occur in a question."""
    return [*([MASK] if TASKS[task].gaps else []), *question_symbols(task, vocab_size)]


def enumerate_contents(tokens: list[int] | range, length: int) -> Tensor:
    """Return all sequences of this length over these tokens, (N, length)."""
    return torch.cartesian_prod(*[torch.tensor(tokens)] * length).reshape(-1, length)


def select_split(split: str, contents: Tensor, train_fraction: float = 0.8) -> Tensor:
    """Return those rows of contents that are in the split."""
    return contents[split_index(contents, train_fraction) == SPLITS.index(split)]


def sample_valid(task: str, count: int, length: int, vocab_size: int, generator: torch.Generator) -> Tensor:
    """Sample count candidates, and return those that are valid questions, (N, length)."""
    candidates = TASKS[task].sample_candidates(question_symbols(task, vocab_size), count, length, generator)
    return candidates[TASKS[task].is_valid(candidates)]


@cache
def find_questions(entry: Task, task: str, length: int, vocab_size: int) -> tuple[Tensor, bool, bool]:
    """Return valid questions (N, length), whether these are all, and whether every split has enough.

    If there are too many contents to list them all, up to MAX_CANDIDATES are sampled. The entry of TASKS is
    an argument so that the cache notices a change.
    """
    if len(alphabet(task, vocab_size)) ** length <= MAX_ENUMERATED:
        contents = enumerate_contents(alphabet(task, vocab_size), length)
        found = contents[entry.is_valid(contents)]
        return found, True, min(count_splits(found, entry.train_fraction)) > 0
    found, generator = torch.empty(0, length, dtype=torch.int64), torch.Generator().manual_seed(0)
    for count in 200, 1_000, MAX_CANDIDATES:                # the first 200 usually suffice
        found = torch.cat([found, sample_valid(task, count, length, vocab_size, generator)])
        if enough := min(count_splits(found, entry.train_fraction)) >= MIN_PER_SPLIT:
            break
    return found[:10], False, enough


def example_questions(task: str, length: int, vocab_size: int) -> Tensor:
    """Return valid questions (N, length) of all splits: every one if they can be listed, else a few."""
    return find_questions(TASKS[task], task, length, vocab_size)[0]


def sample_contents(
    task: str, split: str, length: int, vocab_size: int, count: int, generator: torch.Generator
) -> Tensor:
    """Sample valid questions (count, length) of the split, with replacement."""
    found, are_all, _ = find_questions(entry := TASKS[task], task, length, vocab_size)
    if are_all:
        pool = select_split(split, found, entry.train_fraction)
        return pool[torch.randint(len(pool), (count,), generator=generator)]
    sampled = found[:0]
    while len(sampled) < count:                             # the smallest split holds one sequence in ten
        more = sample_valid(task, 10 * (count - len(sampled) + 1), length, vocab_size, generator)
        sampled = torch.cat([sampled, select_split(split, more, entry.train_fraction)])
    return sampled[:count]


def valid_lengths(task: str, seq_len: int, vocab_size: int, fixed_length: bool = False) -> list[int]:
    """Return the lengths with valid questions in every split. Raises ValueError if there are none."""
    needed = max(FIRST_SYMBOL + 1, question_symbols(task, vocab_size).stop)
    if vocab_size < needed:
        raise ValueError(f"vocab_size={vocab_size} is too small for {task}; choose {needed} or more")
    lengths = [
        length for length in ([seq_len] if fixed_length else range(1, seq_len + 1))
        if find_questions(TASKS[task], task, length, vocab_size)[2]
    ]
    if not lengths:
        few = f"{task} has too few questions of length {seq_len if fixed_length else f'1 … {seq_len}'}"
        raise ValueError(f"{few} with vocab_size={vocab_size}; change --seq-len or --vocab-size")
    return lengths


def describe_missing_lengths(
    task: str, seq_len: int = 8, vocab_size: int = 20, fixed_length: bool = False
) -> str:
    """Name the lengths that are left out, because not every split has such questions; "" if none are."""
    lengths = valid_lengths(task, seq_len, vocab_size, fixed_length)
    missing = ", ".join(str(length) for length in range(1, seq_len + 1) if length not in lengths)
    text = f"no questions of length {missing}: too few are valid to fill every split"
    return text if missing and not fixed_length else ""


def answer_length(task: str, length: int, vocab_size: int) -> int:
    """Return the length of the answer to a question of this (valid) length."""
    return TASKS[task].answer(example_questions(task, length, vocab_size)[:1]).size(1)


def add_special_tokens(content: Tensor, width: int) -> Tensor:
    """Return content (N, L) as [START, content, END, PAD …] (N, width)."""
    sequence = torch.full((len(content), width), PAD)
    sequence[:, 0] = START
    sequence[:, 1 : content.size(1) + 1] = content
    sequence[:, content.size(1) + 1] = END
    return sequence


def make_source_and_target(task: str, content: Tensor) -> tuple[Tensor, Tensor]:
    """Return valid questions (N, L) and their answers with the special tokens: (N, L + 2) and (N, A + 2).

    In next-token prediction, no END follows the question: its source is (N, L + 1).
    """
    source, target = (add_special_tokens(x, x.size(1) + 2) for x in (content, TASKS[task].answer(content)))
    return source[:, :-1] if TASKS[task].next_token else source, target


def sample_batch(
    task: str, count: int, generator: torch.Generator, split: str = "train",
    seq_len: int = 8, vocab_size: int = 20, fixed_length: bool = False, oversample: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Sample questions and their answers: source (N, S) and target (N, T), as wide as the longest requires.

    Lengths are uniform in 1 … seq_len, or always seq_len with fixed_length; those with too few questions are
    left out. With oversample, puzzles.sample_rebalanced picks from OVERSAMPLING_FACTOR times as many.
    """
    check_choice(TASKS, task=task)
    check_choice(SPLITS, split=split)
    sizes = seq_len, vocab_size, fixed_length
    if oversample:
        parts = []
        for rows in torch.arange(count).split(MAX_RESAMPLED):
            source, target = sample_batch(task, OVERSAMPLING_FACTOR * len(rows), generator, split, *sizes)
            categories = puzzles.question_categories(TASKS[task].categories, source)
            picked = puzzles.sample_rebalanced(categories, len(rows), oversample, generator)
            parts.append((source[picked], target[picked]))
        return tuple(map(torch.cat, zip(*parts, strict=True)))
    lengths = valid_lengths(task, *sizes)
    source = torch.full((count, max(lengths) + 2 - TASKS[task].next_token), PAD)
    target = torch.full((count, max(answer_length(task, length, vocab_size) for length in lengths) + 2), PAD)
    length_of_row = torch.tensor(lengths)[torch.randint(len(lengths), (count,), generator=generator)]
    for length in length_of_row.unique().tolist():          # rows of one length form a tensor without PAD
        rows = (length_of_row == length).nonzero().flatten()
        content = sample_contents(task, split, length, vocab_size, len(rows), generator)
        for sequences, drawn in zip((source, target), make_source_and_target(task, content), strict=True):
            sequences[rows, : drawn.size(1)] = drawn
    return source, target


# ---------------------------------------------------------------- what each architecture sees, and scores


def make_inputs_and_targets(
    architecture: str, source: Tensor, target: Tensor, next_token: bool = False
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the model's inputs and its targets, one per position, with PAD where nothing is scored.

    5 7 → 7 5, with S = START, E = END and . = PAD:     inputs                      targets
        encoder           all answers at once           S 5 7 E                     S 7 5 E
        decoder           the prompt, then the answer   S 5 7 E 7 5                 . . . 7 5 E
        encoder-decoder   source, and answer prefix     S 5 7 E   and   S 7 5       7 5 E

    Generating models are thus teacher-forced: whatever they predict, they read the correct token next. One
    pass trains every prefix. An encoder whose source is shorter than its answer gets MASK after it. With
    next_token, the targets of a decoder include the prompt's own tokens.
    """
    if architecture == "encoder":
        missing = target.size(1) - source.size(1)
        source, target = F.pad(source, (0, max(0, missing))), F.pad(target, (0, max(0, -missing)))
        return (source.masked_fill((source == PAD) & (target != PAD), MASK),), target
    if architecture == "encoder-decoder":
        return (source, target[:, :-1]), target[:, 1:]
    sequence = torch.cat([source, target[:, 1:]], dim=1)                # PAD occurs between and after …
    order = (sequence == PAD).long().argsort(dim=1, stable=True)        # … and moves to the end of each row
    sequence = sequence.gather(1, order)
    prompt = torch.arange(sequence.size(1), device=source.device) < (source != PAD).sum(dim=1, keepdim=True)
    return (sequence[:, :-1],), sequence[:, 1:] if next_token else sequence.masked_fill(prompt, PAD)[:, 1:]


def loss_mask(target: Tensor) -> Tensor:
    """Return the scored positions (N, T): all except START, which is given, and PAD."""
    return (target != START) & (target != PAD)


def token_accuracy(prediction: Tensor, target: Tensor) -> float:
    """Return the fraction of scored positions predicted correctly; prediction and target are (N, T)."""
    return (prediction == target)[loss_mask(target)].double().mean().item()


def is_correct(prediction: Tensor, target: Tensor) -> Tensor:
    """Return which sequences are entirely correct, (N,); prediction and target are (N, T)."""
    return ((prediction == target) | ~loss_mask(target)).all(dim=1)


def exact_match(prediction: Tensor, target: Tensor) -> float:
    """Return the fraction of sequences that are entirely correct; prediction and target are (N, T)."""
    return is_correct(prediction, target).double().mean().item()


def batches_by_length(inputs: tuple[Tensor, ...], size: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield batches of up to size row indices (n,) and their trimmed inputs, longest rows first."""
    order = sum((tokens != PAD).sum(dim=1) for tokens in inputs).argsort(descending=True, stable=True)
    for rows in order.split(size):
        if len(rows):
            yield rows, [tokens[rows, : (tokens[rows] != PAD).sum(dim=1).max()] for tokens in inputs]


def parse_content(words: list[str], task: str, vocab_size: int = 20) -> Tensor:
    """Parse words in format_tokens' notation into content (L,). Raises ValueError for an invalid question.

    Words may hold several symbols separated by spaces; no spaces are needed if each name is one character.
    """
    token_of = {token_name(token, task): token for token in alphabet(task, vocab_size)}
    names = " ".join(words).split()
    if all(len(name) == 1 for name in token_of):
        names = list("".join(names))
    for name in names:
        if name not in token_of:
            choice = puzzles.format_range(list(token_of))
            raise ValueError(f"{name} is not a symbol of {task}; choose from {choice}")
    content = torch.tensor([token_of[name] for name in names], dtype=torch.int64)
    if not len(content) or not TASKS[task].is_valid(content[None]):
        question = " ".join(names) or "an empty sequence"
        raise ValueError(f"{question} is not a valid question for {task}; write {TASKS[task].format_hint}")
    return content


def check_task(task: str, seq_len: int = 8, vocab_size: int = 20, fixed_length: bool = False) -> None:
    """Raise a one-line ValueError if the task cannot be trained, after trying a few questions per length."""
    try:
        check_fields(TASKS[task], FIRST_SYMBOL, [token_name(token, task) for token in range(vocab_size)])
        for length in valid_lengths(task, seq_len, vocab_size, fixed_length):
            content = sample_contents(task, "train", length, vocab_size, 8, torch.Generator())
            try_task(TASKS[task], content, range(FIRST_SYMBOL, vocab_size), partial(format_tokens, task=task))
    except ValueError as error:
        raise ValueError(f"task {task}: {error}") from error
    except Exception as error:                              # a user's function can fail in any way
        raise ValueError(f"task {task}: {format_error(error)}") from error


# ---------------------------------------------------------------- command line


def load_tasks(path: Path | None) -> None:
    """Add the tasks of a reader's file to TASKS, if there is one. Raises ValueError if it cannot be used."""
    for name, task in read_tasks(path).items() if path else ():
        if not re.fullmatch(r"[\w-]+", str(name)):
            raise ValueError(f"{path} names a task {name!r}; use letters, digits and _")
        if name in TASKS and TASKS[name].file != str(path):
            raise ValueError(f"{path} defines {name!r}, which exists already; choose another name")
        if not isinstance(task, Task):
            fix = f'write "{name}": Task({getattr(task, "__name__", "…")})'
            raise ValueError(f'{path}: TASKS["{name}"] is not a Task; {fix}')
        TASKS[name] = replace(task, file=str(path))


def add_task_options(parser: console.Parser, default: list[str] | tuple[()] = ()) -> None:
    """Add --task, and --tasks, whose file is loaded at once, so that --task can name what it defines."""
    early, words = console.Parser(add_help=False, allow_abbrev=False), "a file that defines more tasks"
    for each in early, parser:
        each.add_argument("--tasks", type=console.folder_name, default=None, metavar="FILE", help=words)
    try:
        load_tasks(early.parse_known_args()[0].tasks)
    except ValueError as error:
        console.exit_with_error(str(error))
    console.add_choice(parser, "--task", list(TASKS), default)


def print_examples(task: str) -> None:
    """Check the task and print examples sampled in one batch, as for training."""
    overrides = TASKS[task].settings
    sizes = {name: overrides[name] for name in ("seq_len", "vocab_size", "fixed_length") if name in overrides}
    check_task(task, **sizes)
    print(f"{task}:")
    if missing := describe_missing_lengths(task, **sizes):
        print(f"  {missing}")
    for source, target in zip(*sample_batch(task, 4, torch.Generator().manual_seed(0), **sizes), strict=True):
        print(f"  {format_tokens(source, task):<40}→ {format_tokens(target, task)}")


def main() -> None:
    parser = console.new_parser("Check each task and print example questions.", "python data.py --task add")
    add_task_options(parser)
    options = parser.parse_args()
    try:
        for task in options.task or TASKS:
            print_examples(task)
    except ValueError as error:
        console.exit_with_error(str(error))
    if not options.task:
        print("\nNumber of sequences in each split, for the 16 symbols 4 … 19:")
        print("  length" + "".join(f"{split:>12}" for split in SPLITS))
        for length in range(1, 6):
            sizes = count_splits(enumerate_contents(question_symbols("copy", 20), length))
            print(f"  {length:>6}" + "".join(f"{size:>12,}" for size in sizes))


if __name__ == "__main__":
    sys.modules["data"] = sys.modules["__main__"]           # so that a reader's file imports this very module
    console.run_script(main)
