"""Sequence tasks whose answers are known exactly, so that a model's every mistake shows.

A sequence is [START, content …, END], filled up with PAD. A task is a function from content to target: copy,
reverse, sort, double, add and complete; of the last two, not all contents can be asked (`is_example`).
Each draw makes fresh sequences; which split a sequence belongs to is decided by its content alone, so that
training can never meet a sequence it is tested on. `python data.py` prints examples and the splits' sizes.

Shapes: N sequences, L symbols of content in each, S = longest content + 2 for START and END.
"""

import argparse
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

PAD, START, END, MASK = 0, 1, 2, 3
FIRST_SYMBOL = 4                                            # content symbols are 4 … vocab_size − 1
ZERO, PLUS = 4, 14                                          # in a sum the digits are 4 … 13
ARCHITECTURES = ("encoder", "decoder", "encoder-decoder")
SPLITS = ("train", "validation", "test")                    # 80, 10 and 10 per cent of all sequences
SMALL_POOL = 4096                                           # up to here, all sequences of a length are listed


def copy(content: Tensor) -> Tensor:
    """5 7 9 → 5 7 9: each position answers for itself."""
    return content


def reverse(content: Tensor) -> Tensor:
    """5 7 9 → 9 7 5: each position must look at its mirror image, wherever that is."""
    return content.flip(-1)


def sort(content: Tensor) -> Tensor:
    """9 5 7 5 → 5 5 7 9: where a symbol goes depends on all the others."""
    return content.sort(dim=-1).values


def double(content: Tensor) -> Tensor:
    """5 7 9 → 5 7 9 5 7 9: the answer is longer than the question."""
    return content.repeat(1, 2)


def add(content: Tensor) -> Tensor:
    """4 2 + 1 9 → 0 6 1: two numbers of n digits; the sum has n + 1, as 9 9 + 0 1 → 1 0 0 needs them."""
    first, second = (content - ZERO).split(content.size(1) // 2 + 1, dim=1)             # first is with PLUS
    carry, digits = torch.zeros(len(content), dtype=torch.int64), []
    for column in reversed(range(second.size(1))):          # from the ones, on the right, to the left
        total = first[:, column] + second[:, column] + carry
        carry, digits = total // 10, [total % 10, *digits]
    return ZERO + torch.stack([carry, *digits], dim=1)


def repeat(content: Tensor, period: int) -> tuple[Tensor, Tensor]:
    """The sequence (N, L) that repeats what content shows at this period, and whether content agrees (N,)."""
    repeats = F.pad(content, (0, -content.size(1) % period), value=MASK).unflatten(1, (-1, period))
    pattern = repeats.amax(dim=1)                           # (N, period); MASK is less than each symbol
    whole = pattern.repeat(1, repeats.size(1))[:, : content.size(1)]
    return whole, ((content == whole) | (content == MASK)).all(dim=1)


def complete(content: Tensor) -> Tensor:
    """5 _ 9 5 7 _ → 5 7 9 5 7 9: fill the gaps (MASK) of a pattern that occurs at least twice.

    Where several periods fit, the smallest counts; where none does, the gaps stay.
    """
    answer = content
    for period in reversed(range(1, content.size(1) // 2 + 1)):
        whole, agrees = repeat(content, period)
        answer = torch.where((agrees & (whole != MASK).all(dim=1))[:, None], whole, answer)
    return answer


# A new task is a function from content (N, L) to target (N, any length), and a line here.
TASKS = {"copy": copy, "reverse": reverse, "sort": sort, "double": double, "add": add, "complete": complete}


def is_sum(content: Tensor) -> Tensor:
    """Which rows (N, L) are digits, PLUS and as many digits again, (N,)."""
    length = content.size(1)
    if length % 2 == 0 or length < 3:
        return torch.zeros(len(content), dtype=torch.bool)
    is_digit = (content >= ZERO) & (content < PLUS)
    return torch.where(torch.arange(length) == length // 2, content == PLUS, is_digit).all(dim=1)


def has_one_completion(content: Tensor) -> Tensor:
    """Which rows (N, L) have gaps and only one way to fill them, (N,)."""
    answer = complete(content)
    good = (content >= MASK).all(dim=1) & (content == MASK).any(dim=1) & (answer != MASK).all(dim=1)
    for period in range(1, content.size(1) // 2 + 1):
        whole, agrees = repeat(content, period)
        good &= ~agrees | (whole == answer).all(dim=1)
    return good


def is_example(task: str, content: Tensor) -> Tensor:
    """Which rows of content (N, L) the task can be asked, (N,): for most tasks, any symbols."""
    if task == "add":
        return is_sum(content)
    if task == "complete":
        return has_one_completion(content)
    return (content >= FIRST_SYMBOL).all(dim=1)


def split_of(content: Tensor) -> Tensor:
    """The split of each row of content (N, L), as an index into SPLITS (N,).

    A hash of the symbols picks one of ten buckets, 0 … 7 train, 8 validation, 9 test, so a sequence keeps its
    split through all epochs, seeds, tasks and runs. The state steps like Lehmer's random number generator;
    no product exceeds 2⁴⁸, so each machine computes the same.
    """
    prime = 2**31 - 1
    state = torch.ones(len(content), dtype=torch.int64)
    for symbols in content.unbind(dim=-1):
        state = (state * 48271 + symbols) % prime
    for _ in range(2):                                      # a single symbol needs more stirring
        state = state * 69621 % prime
    bucket = state % 10
    return (bucket >= 8).long() + (bucket == 9).long()


def alphabet(task: str, vocab_size: int) -> Tensor:
    """What the contents of a task are made of."""
    first = MASK if task == "complete" else FIRST_SYMBOL
    return torch.arange(first, min(PLUS + 1, vocab_size) if task == "add" else vocab_size)


def can_be_listed(length: int, task: str, vocab_size: int) -> bool:
    """Whether the contents of this length are few enough to list them all."""
    return len(alphabet(task, vocab_size)) ** length <= SMALL_POOL


def keep(task: str, content: Tensor, split: str) -> Tensor:
    """Those rows of content that the task can be asked and that are in the split."""
    return content[is_example(task, content) & (split_of(content) == SPLITS.index(split))]


def list_contents(length: int, split: str, vocab_size: int, task: str = "copy") -> Tensor:
    """Each content of this length that the task can be asked and that is in the split, (N, length)."""
    contents = torch.cartesian_prod(*[alphabet(task, vocab_size)] * length).reshape(-1, length)
    return keep(task, contents, split)


def propose(task: str, count: int, length: int, vocab_size: int, generator: torch.Generator) -> Tensor:
    """Contents (count, length) at random; of those for complete, some are no examples."""
    if task == "add":
        digits = torch.randint(ZERO, PLUS, (count, length), generator=generator)
        digits[:, length // 2] = PLUS
        return digits
    contents = torch.randint(FIRST_SYMBOL, vocab_size, (count, length), generator=generator)
    if task == "complete":                                  # repeat the first symbols, hide a third of all
        period = torch.randint(1, max(1, length // 2) + 1, (count, 1), generator=generator)
        contents = contents.gather(1, torch.arange(length) % period)
        contents[torch.rand(count, length, generator=generator) < 1 / 3] = MASK
    return contents


def draw_contents(
    count: int, length: int, split: str, vocab_size: int, generator: torch.Generator, task: str = "copy"
) -> Tensor:
    """count contents (count, length) of the split that the task can be asked, with repetition."""
    if can_be_listed(length, task, vocab_size):
        pool = list_contents(length, split, vocab_size, task)
        return pool[torch.randint(len(pool), (count,), generator=generator)]
    drawn = torch.empty(0, length, dtype=torch.int64)
    while len(drawn) < count:                               # of ten sequences, one is in the smallest split
        contents = propose(task, 10 * (count - len(drawn)) + 10, length, vocab_size, generator)
        drawn = torch.cat([drawn, keep(task, contents, split)])
    return drawn[:count]


def usable_lengths(
    split: str, seq_len: int, vocab_size: int, fixed_length: bool = False, task: str = "copy"
) -> list[int]:
    """The lengths of which the split has any example. ValueError where there is none or a size is wrong."""
    if seq_len < 1:
        raise ValueError(f"seq_len={seq_len} is too small; choose 1 or more")
    if vocab_size <= FIRST_SYMBOL:
        raise ValueError(f"vocab_size={vocab_size} leaves no symbols; choose {FIRST_SYMBOL + 1} or more")
    if task == "add" and vocab_size <= PLUS:
        raise ValueError(f"vocab_size={vocab_size} is too small for sums; choose {PLUS + 1} or more")
    lengths = []
    for length in [seq_len] if fixed_length else range(1, seq_len + 1):
        if can_be_listed(length, task, vocab_size):
            there = list_contents(length, split, vocab_size, task)
        else:
            trial = propose(task, 100, length, vocab_size, torch.Generator().manual_seed(0))
            there = trial[is_example(task, trial)]
        lengths += [length] * bool(len(there))
    if not lengths:
        sizes = f"vocab_size={vocab_size} and seq_len={seq_len}" + " as fixed length" * fixed_length
        raise ValueError(f"{sizes} leave no example of {task} for the {split} split; change one of them")
    return lengths


def frame(content: Tensor, width: int) -> Tensor:
    """content (N, L) → [START, content, END, PAD …] (N, width)."""
    framed = torch.full((len(content), width), PAD)
    framed[:, 0] = START
    framed[:, 1 : content.size(1) + 1] = content
    framed[:, content.size(1) + 1] = END
    return framed


def draw(
    task: str, count: int, generator: torch.Generator, split: str = "train",
    seq_len: int = 8, vocab_size: int = 20, fixed_length: bool = False,
) -> tuple[Tensor, Tensor]:
    """Fresh sequences of a task: source (N, S) and target (N, T), as wide as the longest need.

    Lengths are uniform in 1 … seq_len, or all seq_len with fixed_length. A length of which the split has no
    example is left out. ValueError for an unknown task or split and for sizes that leave nothing to draw.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r} is unknown; choose {' or '.join(TASKS)}")
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; choose {', '.join(SPLITS)}")
    lengths = usable_lengths(split, seq_len, vocab_size, fixed_length, task)
    length_of_row = torch.tensor(lengths)[torch.randint(len(lengths), (count,), generator=generator)]
    pairs = []
    for length in lengths:                                  # rows of one length make one tensor without PAD
        rows = (length_of_row == length).nonzero().flatten()
        content = draw_contents(len(rows), length, split, vocab_size, generator, task)
        pairs.append((rows, content, TASKS[task](content)))
    source_width, target_width = (max(pair[part].size(1) for pair in pairs) + 2 for part in (1, 2))
    source, target = torch.full((count, source_width), PAD), torch.full((count, target_width), PAD)
    for rows, content, answer in pairs:
        source[rows], target[rows] = frame(content, source_width), frame(answer, target_width)
    return source, target


def arrange(architecture: str, source: Tensor, target: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """What a model is given, and what it is to say at each position; PAD where nothing is asked.

    5 7 → 7 5, with S = START, E = END and . = PAD:     given                       to say
        encoder           all answers at once           S 5 7 E                     S 7 5 E
        decoder           the prompt, then the answer   S 5 7 E 7 5                 . . . 7 5 E
        encoder-decoder   source, and answer so far     S 5 7 E   and   S 7 5       7 5 E

    A generating model is thus asked for the next token after each beginning of the right answer. An encoder
    answers where it reads, so behind a source that is too short for its answer stands MASK: "write here".
    """
    if architecture == "encoder":
        missing = target.size(1) - source.size(1)
        source, target = F.pad(source, (0, max(0, missing))), F.pad(target, (0, max(0, -missing)))
        return (source.masked_fill((source == PAD) & (target != PAD), MASK),), target
    if architecture == "encoder-decoder":
        return (source, target[:, :-1]), target[:, 1:]
    sequence = torch.cat([source, target[:, 1:]], dim=1)                # PAD stands between and behind …
    order = (sequence == PAD).long().argsort(dim=1, stable=True)        # … and moves to the end of each row
    sequence = sequence.gather(1, order)
    prompt = torch.arange(sequence.size(1), device=source.device) < (source != PAD).sum(dim=1, keepdim=True)
    return (sequence[:, :-1],), sequence.masked_fill(prompt, PAD)[:, 1:]


def scored(target: Tensor) -> Tensor:
    """The positions (N, T) that count: all but START, which is given, and PAD, which is nothing."""
    return (target != START) & (target != PAD)


def token_accuracy(prediction: Tensor, target: Tensor) -> float:
    """The share of scored positions that are right; prediction and target are (N, T)."""
    return (prediction == target)[scored(target)].double().mean().item()


def all_right(prediction: Tensor, target: Tensor) -> Tensor:
    """Which sequences have every scored position right, (N,); prediction and target are (N, T)."""
    return ((prediction == target) | ~scored(target)).all(dim=1)


def exact_match(prediction: Tensor, target: Tensor) -> float:
    """The share of sequences in which every scored position is right; prediction and target are (N, T)."""
    return all_right(prediction, target).double().mean().item()


def names_of(task: str) -> dict[int, str]:
    """What a person calls the tokens that do not go by their number."""
    names = {PAD: "PAD", START: "START", END: "END", MASK: "_"}
    digits = {ZERO + digit: str(digit) for digit in range(10)} | {PLUS: "+"}
    return names | digits if task == "add" else names


def to_text(tokens: Tensor, task: str = "copy") -> str:
    """A row of token ids (S,) as a person would write it, without the PAD at its end."""
    names, length = names_of(task), int((tokens != PAD).cumsum(dim=0).argmax()) + 1
    return " ".join(names.get(token, str(token)) for token in tokens[:length].tolist())


def to_content(words: list[str], task: str, vocab_size: int = 20) -> Tensor:
    """Words as to_text writes them, as content (L,). ValueError for what the task cannot be asked."""
    tokens = {to_text(token, task): token for token in alphabet(task, vocab_size).split(1)}
    for word in words:
        if word not in tokens:
            *_, last = numbers = [name for name in tokens if name.isdigit()]
            choice = " and ".join([f"{numbers[0]} … {last}", *tokens.keys() - set(numbers)])
            raise ValueError(f"symbol {word} is not content of {task}; choose from {choice}")
    content = torch.cat([tokens[word] for word in words])
    if not is_example(task, content[None]):
        form = {
            "add": "two numbers of as many digits each, as in 4 2 + 1 9",
            "complete": "a pattern that repeats, with gaps to be filled in one way only, as in 5 _ 5 7",
        }[task]
        raise ValueError(f"{' '.join(words)} is nothing to {task}; write {form}")
    return content


def fail(*messages: str) -> None:
    """How all our command lines end on bad input: a line each on stderr, exit status 2."""
    for message in messages:
        print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def print_examples(task: str) -> None:
    print(f"{task}:")
    for source, target in zip(*draw(task, 4, torch.Generator().manual_seed(0)), strict=True):
        print(f"  {to_text(source, task):<40}→ {to_text(target, task)}")


def print_arranged(task: str) -> None:
    print(f"\n{task}, as each architecture has it (PAD: nothing is asked there, _: write here):")
    content = torch.tensor([[5, 7, 9]])
    answer = TASKS[task](content)
    source, target = frame(content, 5), frame(answer, answer.size(1) + 2)
    for architecture in ARCHITECTURES:
        given, to_say = arrange(architecture, source, target)
        for name, tokens in *(("given", part) for part in given), ("to say", to_say):
            print(f"  {architecture:<17}{name:<8}" + "".join(f"{to_text(token):>6}" for token in tokens.T))


def main() -> None:
    parser = argparse.ArgumentParser(description="Print examples of each task.", allow_abbrev=False)
    parser.error = fail
    parser.add_argument("--task", nargs="+", choices=list(TASKS), help="only examples of these")
    tasks = parser.parse_args().task
    for task in tasks or TASKS:
        print_examples(task)
    if tasks:
        return
    print_arranged("reverse")
    print_arranged("double")
    print("\nSequences in each split, with the 16 symbols 4 … 19:")
    print("  length" + "".join(f"{split:>12}" for split in SPLITS))
    for length in range(1, 6):
        sizes = [len(list_contents(length, split, vocab_size=20)) for split in SPLITS]
        print(f"  {length:>6}" + "".join(f"{size:>12,}" for size in sizes))


if __name__ == "__main__":
    main()
