"""Sequence tasks whose answers are known exactly, so that a model's every mistake shows.

A sequence is [START, content …, END], filled up with PAD. A task is a function from content to target.
Each draw makes fresh sequences; which split a sequence belongs to is decided by its content alone, so that
training can never meet a sequence it is tested on. `python data.py` prints examples and the splits' sizes.

Shapes: N sequences, L symbols of content in each, S = longest content + 2 for START and END.
"""

import torch
from torch import Tensor

PAD, START, END, MASK = 0, 1, 2, 3
FIRST_SYMBOL = 4                                            # content symbols are 4 … vocab_size − 1
ARCHITECTURES = ("encoder", "decoder", "encoder-decoder")
SPLITS = ("train", "validation", "test")                    # 80, 10 and 10 per cent of all sequences
SMALL_POOL = 4096                                           # up to here, all sequences of a length are listed


def copy(content: Tensor) -> Tensor:
    """5 7 9 → 5 7 9: each position answers for itself."""
    return content


def reverse(content: Tensor) -> Tensor:
    """5 7 9 → 9 7 5: each position must look at its mirror image, wherever that is."""
    return content.flip(-1)


# A new task is a function from content (N, L) to target (N, L), and a line here.
TASKS = {"copy": copy, "reverse": reverse}


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


def list_contents(length: int, split: str, vocab_size: int) -> Tensor:
    """Each sequence of this length that is in the split, (N, length)."""
    symbols = torch.arange(FIRST_SYMBOL, vocab_size)
    contents = torch.cartesian_prod(*[symbols] * length).reshape(-1, length)
    return contents[split_of(contents) == SPLITS.index(split)]


def draw_contents(count: int, length: int, split: str, vocab_size: int, generator: torch.Generator) -> Tensor:
    """count sequences (count, length) of the split, uniformly, with repetition."""
    if (vocab_size - FIRST_SYMBOL) ** length <= SMALL_POOL:
        pool = list_contents(length, split, vocab_size)
        return pool[torch.randint(len(pool), (count,), generator=generator)]
    drawn = torch.empty(0, length, dtype=torch.int64)
    while len(drawn) < count:                               # of ten sequences, one is in the smallest split
        shape = (10 * (count - len(drawn)) + 10, length)
        contents = torch.randint(FIRST_SYMBOL, vocab_size, shape, generator=generator)
        drawn = torch.cat([drawn, contents[split_of(contents) == SPLITS.index(split)]])
    return drawn[:count]


def usable_lengths(split: str, seq_len: int, vocab_size: int, fixed_length: bool = False) -> list[int]:
    """The lengths of which the split has any sequence. ValueError where there is none or a size is wrong."""
    if seq_len < 1:
        raise ValueError(f"seq_len={seq_len} is too small; choose 1 or more")
    symbols = vocab_size - FIRST_SYMBOL
    if symbols < 1:
        raise ValueError(f"vocab_size={vocab_size} leaves no symbols; choose {FIRST_SYMBOL + 1} or more")
    lengths = [
        length for length in ([seq_len] if fixed_length else range(1, seq_len + 1))
        if symbols**length > SMALL_POOL or len(list_contents(length, split, vocab_size))
    ]
    if not lengths:
        sizes = f"vocab_size={vocab_size} and seq_len={seq_len}"
        raise ValueError(f"{sizes} leave no sequence for the {split} split; raise one of them")
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
    """Fresh sequences of a task: source and target, both (N, S) with N = count and S = seq_len + 2.

    Lengths are uniform in 1 … seq_len, or all seq_len with fixed_length. A length of which the split has no
    sequence is left out. ValueError for an unknown task or split and for sizes that leave nothing to draw.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r} is unknown; choose {' or '.join(TASKS)}")
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; choose {', '.join(SPLITS)}")
    lengths = usable_lengths(split, seq_len, vocab_size, fixed_length)
    length_of_row = torch.tensor(lengths)[torch.randint(len(lengths), (count,), generator=generator)]
    source, target = torch.empty(2, count, seq_len + 2, dtype=torch.int64)
    for length in lengths:                                  # rows of one length make one tensor without PAD
        rows = length_of_row == length
        content = draw_contents(int(rows.sum()), length, split, vocab_size, generator)
        source[rows] = frame(content, seq_len + 2)
        target[rows] = frame(TASKS[task](content), seq_len + 2)
    return source, target


def arrange(architecture: str, source: Tensor, target: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """What a model is given, and what it is to say at each position; PAD where nothing is asked.

    5 7 → 7 5, with S = START, E = END and . = PAD:     given                       to say
        encoder           all answers at once           S 5 7 E                     S 7 5 E
        decoder           the prompt, then the answer   S 5 7 E 7 5                 . . . 7 5 E
        encoder-decoder   source, and answer so far     S 5 7 E   and   S 7 5       7 5 E

    A generating model is thus asked for the next token after each beginning of the right answer.
    """
    if architecture == "encoder":
        return (source,), target
    if architecture == "encoder-decoder":
        return (source, target[:, :-1]), target[:, 1:]
    sequence = torch.cat([source, target[:, 1:]], dim=1)                # PAD stands between and behind …
    order = (sequence == PAD).long().argsort(dim=1, stable=True)        # … and moves to the end of each row
    sequence = sequence.gather(1, order)
    prompt = torch.arange(sequence.size(1), device=source.device) < (source != PAD).sum(dim=1, keepdim=True)
    return (sequence[:, :-1],), sequence.masked_fill(prompt, PAD)[:, 1:]


def scored(target: Tensor) -> Tensor:
    """The positions (N, S) that count: all but START, which is given, and PAD, which is nothing."""
    return (target != START) & (target != PAD)


def token_accuracy(prediction: Tensor, target: Tensor) -> float:
    """The share of scored positions that are right; prediction and target are (N, S)."""
    return (prediction == target)[scored(target)].double().mean().item()


def all_right(prediction: Tensor, target: Tensor) -> Tensor:
    """Which sequences have every scored position right, (N,); prediction and target are (N, S)."""
    return ((prediction == target) | ~scored(target)).all(dim=1)


def exact_match(prediction: Tensor, target: Tensor) -> float:
    """The share of sequences in which every scored position is right; prediction and target are (N, S)."""
    return all_right(prediction, target).double().mean().item()


def to_text(tokens: Tensor) -> str:
    """A row of token ids (S,) as a person would write it, without the PAD at its end."""
    names = {PAD: "PAD", START: "START", END: "END", MASK: "MASK"}
    length = int((tokens != PAD).cumsum(dim=0).argmax()) + 1
    return " ".join(names.get(token, str(token)) for token in tokens[:length].tolist())


def main() -> None:
    for task in TASKS:
        print(f"{task}:")
        for source, target in zip(*draw(task, 4, torch.Generator().manual_seed(0)), strict=True):
            print(f"  {to_text(source):<40}→ {to_text(target)}")
    print("\nreverse, as each architecture has it (PAD: nothing is asked there):")
    content = torch.tensor([[5, 7, 9]])
    for architecture in ARCHITECTURES:
        given, to_say = arrange(architecture, frame(content, 5), frame(reverse(content), 5))
        for name, tokens in *(("given", part) for part in given), ("to say", to_say):
            print(f"  {architecture:<17}{name:<8}" + "".join(f"{to_text(token):>6}" for token in tokens.T))
    print("\nSequences in each split, with the 16 symbols 4 … 19:")
    print("  length" + "".join(f"{split:>12}" for split in SPLITS))
    for length in range(1, 6):
        sizes = [len(list_contents(length, split, vocab_size=20)) for split in SPLITS]
        print(f"  {length:>6}" + "".join(f"{size:>12,}" for size in sizes))


if __name__ == "__main__":
    main()
