"""Sequence tasks with exactly known answers, so that every mistake a model makes can be seen.

A sequence is [START, content …, END], padded with PAD. A task is a `Task` object: a function from questions
to answers, plus anything else specific to it. `TASKS` names six: copy, reverse, sort, double, add and
complete. Every draw generates fresh sequences. A sequence's content alone determines its split, so training
never sees a test sequence. `python data.py` prints examples and the sizes of the splits; `python data.py
--task NAME` checks a task.

Shapes: N sequences, L symbols of content in each, A symbols in each answer, S = longest content + 2 for START
and END. Functions take their arguments in the order task, split, length, vocab_size, as needed.
"""

import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from support.console import add_choice, fail, new_parser, parse_options, run_script
from support.files import first_line
from support.puzzles import (
    MASK,
    PLUS,
    ZERO,
    add,
    complete,
    count_carries,
    count_clues,
    count_repeats,
    has_one_completion,
    is_sum,
    propose_patterns,
    propose_sums,
    uniform_symbols,
    visible_copies,
)
from transformer import END, PAD, START, check_known

FIRST_SYMBOL = 4                                            # content symbols are 4 … vocab_size − 1
MODELS = {"encoder": "encoder", "decoder": "decoder-only model", "encoder-decoder": "encoder–decoder"}
ARCHITECTURES = tuple(MODELS)                               # on the command line; MODELS names them in prose
SPLITS = ("train", "validation", "test")                    # 80, 10 and 10% of all sequences
PROPOSALS, ENOUGH = 100_000, 3                              # tries to find this many questions in a split
SMALL_POOL = 4096                                           # the most sequences of a length that we list
POOL = 8                                                    # candidates per question picked


def every_question(content: Tensor) -> Tensor:
    """Accept every row of content (N, L), (N,): most tasks have an answer for any symbols."""
    return torch.ones(len(content), dtype=torch.bool)


@dataclass(frozen=True, eq=False)
class Task:
    """Everything specific to a task. Only the answer is required: `Task(sort)` is a complete task.

    `answer` maps a batch of questions (N, L) to answers (N, A), where A depends only on L. It is called only
    with valid questions, and never with an empty batch. Each answer must depend only on its own question, so
    specify the dimension: content.roll(1, dims=1), not content.roll(1).
    """

    answer: Callable[[Tensor], Tensor]
    symbols: range | None = None                            # in questions; None: 4 … vocab_size − 1
    gaps: bool = False                                      # whether questions may contain MASK
    propose: Callable[[range, int, int, torch.Generator], Tensor] = uniform_symbols     # same signature
    is_valid: Callable[[Tensor], Tensor] = every_question   # whether each row (N, L) is valid, (N,)
    names: dict[int, str] = field(default_factory=dict)     # of tokens not shown by number
    form: str = "other symbols"                             # completes the error hint "write …"
    kinds: Callable[[Tensor], dict[str, Tensor]] | None = None          # of questions, see count_repeats
    settings: dict = field(default_factory=dict)            # best Config values; see support/config.py
    depends_on: Callable[[Tensor], Tensor] | None = None    # (N, L) → (N, A, L); None: see `dependence`


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


# To add a task, write a function and add a line here; `python data.py --task NAME` checks it.
TASKS = {
    "copy": Task(copy),
    "reverse": Task(reverse),
    "sort": Task(sort, kinds=count_repeats, settings={"epochs": 300, "oversample": 1.0}),
    "double": Task(double, settings={"epochs": 100}),
    "add": Task(
        add, symbols=range(ZERO, PLUS + 1), propose=propose_sums, is_valid=is_sum,
        names={ZERO + digit: str(digit) for digit in range(10)} | {PLUS: "+"},
        form="two numbers with the same number of digits, as in 4 2 + 1 9",
        kinds=count_carries,
        settings={
            "epochs": 400, "embedding_std": 1.0, "position_base": 10_000.0, "oversample": 1.0,
            "decoder": {"oversample": 0.75},
        },
    ),
    "complete": Task(
        complete, gaps=True, propose=propose_patterns, is_valid=has_one_completion,
        form="a repeating pattern with gaps that can be filled in only one way, as in 5 _ 5 7",
        kinds=count_clues,
        settings={
            "epochs": 400, "positional": "learned", "embedding_std": 0.5, "oversample": 1.0,
            "encoder": {"norm_first": False, "embedding_std": 0.25}, "decoder": {"oversample": 0.75},
        },
        depends_on=visible_copies,                          # replacing one copy usually breaks the pattern
    ),
}


# ---------------------------------------------------------------- text, and calls to a task's own functions


def token_name(token: int, task: str = "copy") -> str:
    """Return the name of a token: its own, or else its number."""
    names = {PAD: "PAD", START: "START", END: "END", MASK: "_"} | TASKS[task].names
    return names.get(token, str(token))


def letters_in_names() -> str:
    """Return the non-ASCII letters in the names of all tasks and tokens, for which pictures need a font."""
    names = [*TASKS, *(name for task in TASKS.values() for name in task.names.values())]
    return "".join(sorted({letter for name in names for letter in name if not letter.isascii()}))


def to_text(tokens: Tensor, task: str = "copy") -> str:
    """Format a row of token ids (S,) as readable text, without trailing PAD."""
    length = int((tokens != PAD).cumsum(dim=0).argmax()) + 1
    return " ".join(token_name(token, task) for token in tokens[:length].tolist())


def described(value: object) -> str:
    """Describe the type and shape of a task function's result, for an error message."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def call(task: str, function: Callable, *given: object) -> object:
    """Call a task's function. Raises ValueError if it fails or modifies its questions (N, L)."""
    before = given[0].clone() if isinstance(given[0], Tensor) else None
    try:
        returned = function(*given)
    except Exception as error:                              # a user's function can fail in any way
        frame = traceback.extract_tb(error.__traceback__)[:2][-1]           # in the reader's function
        place = f"{Path(frame.filename).name}, line {frame.lineno}"
        question = "" if before is None else f" on {to_text(before[0], task)}"
        raise ValueError(
            f"task {task} raises {type(error).__name__}{question}: {first_line(error)} ({place})"
        ) from error
    if before is not None and not torch.equal(given[0], before):
        raise ValueError(f"task {task} modifies its input in place; work on content.clone() instead")
    return returned


# ---------------------------------------------------------------- splits and draws


def split_of(content: Tensor) -> Tensor:
    """Return the split of each row of content (N, L), as an index into SPLITS (N,).

    A hash of the symbols picks one of ten buckets: 0 … 7 train, 8 validation, 9 test. So a sequence stays in
    the same split in all epochs, seeds, tasks and runs. The state evolves like Lehmer's random number
    generator. No product exceeds 2⁴⁸, so every machine computes the same result.
    """
    prime = 2**31 - 1
    state = torch.ones(len(content), dtype=torch.int64)
    for symbols in content.unbind(dim=-1):
        state = (state * 48271 + symbols) % prime
    for _ in range(2):                                      # a single symbol needs more mixing
        state = state * 69621 % prime
    bucket = state % 10
    return (bucket >= 8).long() + (bucket == 9).long()


def symbols_of(task: str, vocab_size: int) -> range:
    """Return the symbols used in the task's questions, apart from MASK for gaps."""
    return TASKS[task].symbols or range(FIRST_SYMBOL, vocab_size)


def alphabet(task: str, vocab_size: int) -> list[int]:
    """Return all tokens that may occur in a question."""
    gap = [MASK] if TASKS[task].gaps else []
    return gap + list(symbols_of(task, vocab_size))


def can_be_listed(task: str, length: int, vocab_size: int) -> bool:
    """Return whether there are few enough contents of this length to list them all."""
    return len(alphabet(task, vocab_size)) ** length <= SMALL_POOL


def every_content(tokens: list[int] | range, length: int) -> Tensor:
    """Return all sequences of this length over these tokens, (N, length)."""
    return torch.cartesian_prod(*[torch.tensor(tokens)] * length).reshape(-1, length)


def in_split(split: str, contents: Tensor) -> Tensor:
    """Return those rows of contents that are in the split."""
    return contents[split_of(contents) == SPLITS.index(split)]


def propose(task: str, count: int, length: int, vocab_size: int, generator: torch.Generator) -> Tensor:
    """Propose contents (count, length) as questions. Raises ValueError if the task's function is faulty."""
    symbols = symbols_of(task, vocab_size)
    content = call(task, TASKS[task].propose, symbols, count, length, generator)
    shape = (count, length)
    if not isinstance(content, Tensor) or content.dtype != torch.int64 or content.shape != shape:
        raise ValueError(f"task {task}: propose returns {described(content)}; return int64 {shape}")
    outside = content[(content < MASK) | (content >= vocab_size)]
    if len(outside):
        raise ValueError(f"task {task}: propose returns token {int(outside[0])}; use the symbols it is given")
    return content


def is_valid(task: str, content: Tensor) -> Tensor:
    """Return which rows (N, L) are valid questions, (N,). Raises ValueError if the function is faulty."""
    valid = call(task, TASKS[task].is_valid, content)
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool or valid.shape != content.shape[:1]:
        raise ValueError(
            f"task {task}: is_valid returns {described(valid)} for {len(content)} questions; "
            "return True or False for each, (N,)"
        )
    return valid


@cache
def search(entry: Task, task: str, length: int, vocab_size: int, proposals: int) -> tuple[Tensor, list[str]]:
    """Return valid questions (N, length), and the splits that have enough of them to draw from.

    If they can be listed, these are all there are. Otherwise, questions are proposed until each split has
    ENOUGH, or until this many proposals have been made. The entry of TASKS is an argument so that the cache
    notices a change.
    """
    if can_be_listed(task, length, vocab_size):
        contents = every_content(alphabet(task, vocab_size), length)
        found = contents[is_valid(task, contents)]
        return found, [split for split in SPLITS if len(in_split(split, found))]
    found, counts = torch.empty(0, length, dtype=torch.int64), torch.zeros(len(SPLITS), dtype=torch.int64)
    generator, made = torch.Generator().manual_seed(0), 0
    while made < proposals:
        asked = max(200, min(4 * made, 1_000_000 // length))            # the first 200 usually suffice
        made += asked
        proposed = propose(task, asked, length, vocab_size, generator)
        valid = proposed[is_valid(task, proposed)]
        found = torch.cat([found, valid])[:10]
        counts += split_of(valid).bincount(minlength=len(SPLITS))
        if (counts >= ENOUGH).all():
            break
    return found, [split for split, count in zip(SPLITS, counts, strict=True) if count >= ENOUGH]


def some_questions(task: str, length: int, vocab_size: int, proposals: int = PROPOSALS) -> Tensor:
    """Return valid questions (N, length) from all splits: every one if they can be listed, else a sample."""
    return search(TASKS[task], task, length, vocab_size, proposals)[0]


def list_contents(task: str, split: str, length: int, vocab_size: int) -> Tensor:
    """Return all valid questions of this length in the split; there must be few enough to list."""
    return in_split(split, some_questions(task, length, vocab_size))


def draw_contents(
    task: str, split: str, length: int, vocab_size: int, count: int, generator: torch.Generator
) -> Tensor:
    """Draw count valid questions (count, length) of the split, with repetition."""
    if can_be_listed(task, length, vocab_size):
        pool = list_contents(task, split, length, vocab_size)
        return pool[torch.randint(len(pool), (count,), generator=generator)]
    drawn, in_vain = torch.empty(0, length, dtype=torch.int64), 0
    while len(drawn) < count:                               # the smallest split holds one sequence in ten
        asked = max(10 * (count - len(drawn)) + 10, in_vain if in_vain > 1_000 else 0)
        proposed = propose(task, asked, length, vocab_size, generator)
        found = in_split(split, proposed[is_valid(task, proposed)])
        drawn, in_vain = torch.cat([drawn, found]), 0 if len(found) else in_vain + len(proposed)
        if in_vain > 10 * PROPOSALS:
            raise ValueError(
                f"the propose function of {task} found no valid question of length {length} for the "
                f"{split} split"
            )
    return drawn[:count]


def usable_lengths(
    task: str, split: str, seq_len: int, vocab_size: int, fixed_length: bool = False
) -> list[int]:
    """Return the lengths with valid questions in the split. Raises ValueError if there are none."""
    if seq_len < 1:
        raise ValueError(f"seq_len={seq_len} is too small; choose 1 or more")
    if vocab_size <= FIRST_SYMBOL:
        raise ValueError(f"vocab_size={vocab_size} leaves no symbols; choose {FIRST_SYMBOL + 1} or more")
    needed = symbols_of(task, vocab_size).stop
    if vocab_size < needed:
        raise ValueError(f"vocab_size={vocab_size} is too small for {task}; choose {needed} or more")
    lengths = [
        length for length in ([seq_len] if fixed_length else range(1, seq_len + 1))
        if split in search(TASKS[task], task, length, vocab_size, PROPOSALS)[1]
    ]
    if not lengths:
        length = f"length {seq_len}" if fixed_length else f"at most seq_len={seq_len} symbols"
        raise ValueError(
            f"with vocab_size={vocab_size}, {task} has no question of {length} in the {split} split; "
            "change one of them"
        )
    return lengths


def missing_text(task: str, seq_len: int = 8, vocab_size: int = 20, fixed_length: bool = False) -> str:
    """Name the lengths that are skipped because a split has no such questions; "" if none are."""
    asked = [seq_len] if fixed_length else range(1, seq_len + 1)
    lengths = {split: usable_lengths(task, split, seq_len, vocab_size, fixed_length) for split in SPLITS}
    missing = {split: ", ".join(str(x) for x in asked if x not in lengths[split]) for split in SPLITS}
    parts = [f"{missing[split]} in the {split} split" for split in SPLITS if missing[split]]
    if len(set(missing.values())) == 1:
        parts = [part for part in [missing["train"]] if part]
    if not parts:
        return ""
    return f"left out for lack of questions: length {'; length '.join(parts)}"


def answer_length(task: str, length: int, vocab_size: int) -> int:
    """Return the length of the answer to a question of this (usable) length."""
    return TASKS[task].answer(some_questions(task, length, vocab_size)[:1]).size(1)


def add_start_end(content: Tensor, width: int) -> Tensor:
    """Return content (N, L) as [START, content, END, PAD …] (N, width)."""
    sequence = torch.full((len(content), width), PAD)
    sequence[:, 0] = START
    sequence[:, 1 : content.size(1) + 1] = content
    sequence[:, content.size(1) + 1] = END
    return sequence


def kinds_of(task: str, source: Tensor) -> dict[str, Tensor]:
    """Return each question's length in source (N, S), and any other kinds the task defines, each (N,)."""
    lengths = (source != PAD).sum(dim=1) - 2                # without START and END
    kinds = {"length": lengths}
    if TASKS[task].kinds:
        for length in lengths.unique().tolist():
            rows = lengths == length
            for name, values in TASKS[task].kinds(source[rows, 1 : length + 1]).items():
                kinds.setdefault(name, torch.zeros_like(lengths))[rows] = values
    return kinds


def pick_rare(
    kinds: dict[str, Tensor], count: int, oversample: float, generator: torch.Generator
) -> Tensor:
    """Sample indices (count,) of questions with these kinds, each (N,), favouring rare kinds.

    In a fraction oversample of the sample, all kinds are equally frequent, as far as supply allows. The rest
    keep the natural frequencies, so that the model does not forget common kinds.
    """
    kind = torch.stack(list(kinds.values()), dim=1)
    _, number, frequency = kind.unique(dim=0, return_inverse=True, return_counts=True)
    equally = len(kind) / len(frequency) / frequency.double()           # the weight that makes kinds equal
    return torch.multinomial((1 - oversample + oversample * equally)[number], count, generator=generator)


def draw(
    task: str, count: int, generator: torch.Generator, split: str = "train",
    seq_len: int = 8, vocab_size: int = 20, fixed_length: bool = False, oversample: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Generate fresh sequences of a task: source (N, S) and target (N, T), as wide as the longest requires.

    Lengths are uniform in 1 … seq_len, or always seq_len with fixed_length. Lengths with no example in the
    split are skipped. With oversample, sequences are picked from POOL times as many (see pick_rare).
    Raises ValueError for an unknown task or split, or for sizes that leave nothing to draw.
    """
    if oversample:
        sizes = seq_len, vocab_size, fixed_length
        source, target = draw(task, POOL * count, generator, split, *sizes)
        rows = pick_rare(kinds_of(task, source), count, oversample, generator)
        return source[rows], target[rows]
    check_known(TASKS, task=task)
    check_known(SPLITS, split=split)
    lengths = usable_lengths(task, split, seq_len, vocab_size, fixed_length)
    length_of_row = torch.tensor(lengths)[torch.randint(len(lengths), (count,), generator=generator)]
    pairs, answer_lengths = [], []
    for length in lengths:                                  # rows of one length form a tensor without PAD
        rows = (length_of_row == length).nonzero().flatten()
        if len(rows):
            content = draw_contents(task, split, length, vocab_size, len(rows), generator)
            pairs.append((rows, content, TASKS[task].answer(content)))
            answer_lengths.append(pairs[-1][2].size(1))
        else:
            answer_lengths.append(answer_length(task, length, vocab_size))
    source = torch.full((count, max(lengths) + 2), PAD)
    target = torch.full((count, max(answer_lengths) + 2), PAD)
    for rows, content, answer in pairs:
        source[rows] = add_start_end(content, source.size(1))
        target[rows] = add_start_end(answer, target.size(1))
    return source, target


# ---------------------------------------------------------------- what each architecture sees, and scores


def arrange(architecture: str, source: Tensor, target: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the model's inputs and its target at each position, with PAD where nothing is scored.

    5 7 → 7 5, with S = START, E = END and . = PAD:     inputs                      target
        encoder           all answers at once           S 5 7 E                     S 7 5 E
        decoder           the prompt, then the answer   S 5 7 E 7 5                 . . . 7 5 E
        encoder-decoder   source, and answer prefix     S 5 7 E   and   S 7 5       7 5 E

    Generating models are thus teacher-forced: they predict the next token after every prefix of the correct
    answer. An encoder writes its answer at the input positions, so a source shorter than its answer is
    extended with MASK ("write here").
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
    return (sequence[:, :-1],), sequence.masked_fill(prompt, PAD)[:, 1:]


def is_content(tokens: Tensor) -> Tensor:
    """Return which tokens are neither START, END nor PAD; the same shape, boolean."""
    return (tokens != START) & (tokens != END) & (tokens != PAD)


def is_scored(target: Tensor) -> Tensor:
    """Return the scored positions (N, T): all except START, which is given, and PAD."""
    return (target != START) & (target != PAD)


def token_accuracy(prediction: Tensor, target: Tensor) -> float:
    """Return the fraction of scored positions predicted correctly; prediction and target are (N, T)."""
    return (prediction == target)[is_scored(target)].double().mean().item()


def all_right(prediction: Tensor, target: Tensor) -> Tensor:
    """Return which sequences are entirely correct, (N,); prediction and target are (N, T)."""
    return ((prediction == target) | ~is_scored(target)).all(dim=1)


def exact_match(prediction: Tensor, target: Tensor) -> float:
    """Return the fraction of sequences that are entirely correct; prediction and target are (N, T)."""
    return all_right(prediction, target).double().mean().item()


def different_rows(given: tuple[Tensor, ...], to_say: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Return the distinct rows of inputs and targets, and each original row's index among them (N,)."""
    widths = [tokens.size(1) for tokens in given]
    different, place = torch.cat([*given, to_say], dim=1).unique(dim=0, return_inverse=True)
    return different[:, : sum(widths)].split(widths, dim=1), different[:, sum(widths) :], place


def portions_of_like_length(given: tuple[Tensor, ...], size: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield batches of up to size row indices (n,) and their trimmed inputs, longest rows first."""
    order = sum((tokens != PAD).sum(dim=1) for tokens in given).argsort(descending=True)
    for rows in order.split(size):
        if len(rows):
            yield rows, [tokens[rows, : (tokens[rows] != PAD).sum(dim=1).max()] for tokens in given]


# ---------------------------------------------------------------- questions typed by a reader


def to_content(words: list[str], task: str, vocab_size: int = 20) -> Tensor:
    """Parse words in to_text's format into content (L,). Raises ValueError unless they form a valid question.

    Words may hold several symbols separated by spaces; no spaces are needed if each name is one character.
    """
    token_of = {token_name(token, task): token for token in alphabet(task, vocab_size)}
    names = " ".join(words).split()
    if all(len(name) == 1 for name in token_of):
        names = list("".join(names))
    for name in names:
        if name not in token_of:
            known = list(token_of)
            choice = f"{known[0]} … {known[-1]}" if known[-1].isdigit() else " ".join(known)
            raise ValueError(f"{name} is not a symbol of {task}; choose from {choice}")
    content = torch.tensor([token_of[name] for name in names], dtype=torch.int64)
    if not len(content) or not is_valid(task, content[None]):
        question = " ".join(names) or "an empty sequence"
        raise ValueError(f"{question} is not a valid question for {task}; write {TASKS[task].form}")
    return content


# ---------------------------------------------------------------- checking a task


def ask(task: str, content: Tensor) -> Tensor:
    """Return a task's answers (N, A) without trusting its function: see call and check_answers."""
    return call(task, TASKS[task].answer, content)


def check_kinds(task: str, content: Tensor) -> None:
    """Raise ValueError unless each kind of these questions (N, L) has a name and integers (N,)."""
    kinds = call(task, TASKS[task].kinds, content)
    if not isinstance(kinds, dict):
        raise ValueError(
            f"task {task} returns kinds as a {type(kinds).__name__}; return a dict {{name: (N,)}}"
        )
    for name, values in kinds.items():
        whole = isinstance(values, Tensor) and not values.is_floating_point()
        if not whole or values.shape != (len(content),):
            got = described(values) if isinstance(values, Tensor) else repr(values)
            raise ValueError(
                f"task {task} returns {name} as {got} for {len(content)} questions; "
                "return one integer per question"
            )


def check_answers(task: str, content: Tensor, answers: Tensor, vocab_size: int) -> None:
    """Raise ValueError unless these can answer content (N, L): integers (N, A) from the vocabulary."""
    if not isinstance(answers, Tensor):
        raise ValueError(f"task {task} returns {type(answers).__name__}; return a tensor of token ids")
    if answers.dtype.is_floating_point or answers.dtype == torch.bool:
        kind = str(answers.dtype).removeprefix("torch.")
        raise ValueError(f"task {task} returns answers of type {kind}; return token ids, e.g. with .long()")
    if answers.dim() != 2 or len(answers) != len(content):
        shapes = f"shape {tuple(answers.shape)} for questions of shape {tuple(content.shape)}"
        raise ValueError(f"task {task} returns answers of {shapes}; return one row per question, (N, A)")
    wrong = answers[(answers < FIRST_SYMBOL) | (answers >= vocab_size)]
    if len(wrong):
        special = {PAD: "0 (PAD)", START: "1 (START)", END: "2 (END)", MASK: "3 (MASK)"}
        name = special.get(int(wrong[0]), int(wrong[0]))
        raise ValueError(
            f"task {task} answers with token {name}; use only symbols {FIRST_SYMBOL} … {vocab_size - 1}"
        )


def check_symbols(task: str, vocab_size: int) -> None:
    """Raise ValueError unless the task's symbols are a range of step 1 and all token names distinct."""
    symbols, names = TASKS[task].symbols, TASKS[task].names
    if symbols is not None and (not isinstance(symbols, range) or symbols.step != 1 or not symbols):
        raise ValueError(f"task {task} has symbols={symbols!r}; choose a range without steps: range(4, 20)")
    if symbols_of(task, vocab_size).start < FIRST_SYMBOL:
        raise ValueError(
            f"task {task} uses symbols below {FIRST_SYMBOL}, reserved for PAD, START, END and MASK"
        )
    for token, name in names.items():
        if not isinstance(name, str) or len(name.split()) != 1 or name != name.strip():
            raise ValueError(f"task {task} has names[{token}]={name!r}; choose a string without spaces")
    first = {}
    for token in range(vocab_size):
        if (other := first.setdefault(token_name(token, task), token)) != token:
            name = token_name(token, task)
            raise ValueError(f"task {task} calls both {other} and {token} {name!r}; rename one of them")


def check_task(task: str, seq_len: int = 8, vocab_size: int = 20, fixed_length: bool = False) -> None:
    """Raise a one-line ValueError if the task cannot be trained, after trying a few questions per length."""
    check_symbols(task, vocab_size)
    for length in usable_lengths(task, "train", seq_len, vocab_size, fixed_length):
        generator = torch.Generator().manual_seed(0)
        content = draw_contents(task, "train", length, vocab_size, 8, generator)
        answers = ask(task, content)
        check_answers(task, content, answers, vocab_size)
        if TASKS[task].kinds:
            check_kinds(task, content)
        if TASKS[task].depends_on:
            cells, shape = call(task, TASKS[task].depends_on, content), (*answers.shape, length)
            if not isinstance(cells, Tensor) or cells.shape != shape:
                got = described(cells)
                raise ValueError(f"task {task}: depends_on returns {got}; return (N, A, L), here {shape}")
        if not torch.equal(answers, ask(task, content)):
            raise ValueError(
                f"task {task} gives different answers to the same question; make it deterministic"
            )
        for question, answer in zip(content, answers, strict=True):
            alone = ask(task, question[None])
            if not torch.equal(alone, answer[None]):
                raise ValueError(
                    f"task {task} answers {to_text(question, task)} differently in a batch, so its rows are "
                    "not independent; specify the dimension, as in content.roll(1, dims=1)"
                )


# ---------------------------------------------------------------- command line


def task_names() -> list[str]:
    """Return the choices for --task. Ends the program if an entry of TASKS is not a Task."""
    for name, task in TASKS.items():
        if not isinstance(task, Task):
            function = getattr(task, "__name__", "…")
            fail(f'TASKS["{name}"] is {function}, not a Task; write "{name}": Task({function})')
        if not re.fullmatch(r"[\w-]+", name):
            fail(f"task name {name!r} is not a valid folder name; use letters, digits, _ and -")
    return list(TASKS)


def print_examples(task: str) -> None:
    """Check the task and print examples drawn in one batch, as for training."""
    names = "seq_len", "vocab_size", "fixed_length"
    sizes = {name: value for name, value in TASKS[task].settings.items() if name in names}
    check_task(task, **sizes)
    print(f"{task}:")
    if missing := missing_text(task, **sizes):
        print(f"  {missing}")
    for source, target in zip(*draw(task, 4, torch.Generator().manual_seed(0), **sizes), strict=True):
        print(f"  {to_text(source, task):<40}→ {to_text(target, task)}")


def print_arranged(task: str) -> None:
    print(f"\n{task}, as each architecture sees it (PAD: not scored; _: answer goes here):")
    content = torch.tensor([[5, 7, 9]])
    answer = TASKS[task].answer(content)
    source, target = add_start_end(content, 5), add_start_end(answer, answer.size(1) + 2)
    for architecture in ARCHITECTURES:
        given, to_say = arrange(architecture, source, target)
        for name, tokens in *(("input", part) for part in given), ("target", to_say):
            print(f"  {architecture:<17}{name:<8}" + "".join(f"{to_text(token):>6}" for token in tokens.T))


def main() -> None:
    parser = new_parser(
        "Check each task, then print example questions and the sizes of the splits.",
        "python data.py --task add complete",
    )
    add_choice(parser, "--task", task_names())
    options = parse_options(parser)
    tasks = options.task or list(TASKS)
    try:
        for task in tasks:
            print_examples(task)
    except ValueError as error:
        fail(str(error))
    if options.task:
        return
    print_arranged("reverse")
    print_arranged("double")
    print("\nNumber of sequences in each split, for the 16 symbols 4 … 19:")
    print("  length" + "".join(f"{split:>12}" for split in SPLITS))
    for length in range(1, 6):
        contents = every_content(symbols_of("copy", 20), length)
        sizes = [len(in_split(split, contents)) for split in SPLITS]
        print(f"  {length:>6}" + "".join(f"{size:>12,}" for size in sizes))


if __name__ == "__main__":
    run_script(main)
