"""The two tasks that need more than a line: add and complete, and what makes their questions hard.

Shapes: N questions, L symbols of content in each, A symbols in each answer.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MASK = 3                                                    # a gap to fill; PAD, START, END are 0, 1, 2
ZERO, PLUS = 4, 14                                          # in a sum the digits are 4 … 13


def sample_symbols(symbols: range, count: int, length: int, generator: torch.Generator) -> Tensor:
    """Return contents (count, length) with every symbol sampled uniformly."""
    return torch.randint(symbols.start, symbols.stop, (count, length), generator=generator)


def format_range(names: list[str]) -> str:
    """Return the names of all symbols, shortened to 4 … 19 if they are numbers."""
    return f"{names[0]} … {names[-1]}" if names[-1].isdigit() else " ".join(names)


def add(content: Tensor) -> Tensor:
    """4 2 + 1 9 → 0 6 1: a sum has one more digit than its terms, as in 9 9 + 0 1 → 1 0 0."""
    first, second = (content - ZERO).split(content.size(1) // 2 + 1, dim=1)             # first includes PLUS
    carry, digits = torch.zeros(len(content), dtype=torch.int64), []
    for column in reversed(range(second.size(1))):          # from the last digit to the first
        total = first[:, column] + second[:, column] + carry
        carry, digits = total // 10, [total % 10, *digits]
    return ZERO + torch.stack([carry, *digits], dim=1)


def repeat_pattern(content: Tensor, period: int) -> tuple[Tensor, Tensor]:
    """Return the pattern (N, L) that content implies for this period, and whether content fits it (N,)."""
    repeats = F.pad(content, (0, -content.size(1) % period), value=MASK).unflatten(1, (-1, period))
    pattern = repeats.amax(dim=1)                           # (N, period); MASK is less than each symbol
    filled = pattern.repeat(1, repeats.size(1))[:, : content.size(1)]
    return filled, ((content == filled) | (content == MASK)).all(dim=1)


def complete(content: Tensor) -> Tensor:
    """5 _ 9 5 7 _ → 5 7 9 5 7 9: fill the gaps (MASK) in a pattern that repeats at least once.

    If several periods fit, use the smallest; if none fits, leave the gaps.
    """
    answer = content
    for period in reversed(range(1, content.size(1) // 2 + 1)):
        filled, fits = repeat_pattern(content, period)
        answer = torch.where((fits & (filled != MASK).all(dim=1))[:, None], filled, answer)
    return answer


def is_sum(content: Tensor) -> Tensor:
    """Return which rows (N, L) consist of digits, PLUS and the same number of digits, (N,)."""
    length = content.size(1)
    if length % 2 == 0 or length < 3:
        return torch.zeros(len(content), dtype=torch.bool)
    is_digit = (content >= ZERO) & (content < PLUS)
    return torch.where(torch.arange(length) == length // 2, content == PLUS, is_digit).all(dim=1)


def has_one_completion(content: Tensor) -> Tensor:
    """Return which rows (N, L) have gaps that can be filled in exactly one way, (N,)."""
    answer = complete(content)
    valid = (content >= MASK).all(dim=1) & (content == MASK).any(dim=1) & (answer != MASK).all(dim=1)
    for period in range(1, content.size(1) // 2 + 1):
        filled, fits = repeat_pattern(content, period)
        valid &= ~fits | (filled == answer).all(dim=1)
    return valid


def sample_sums(symbols: range, count: int, length: int, generator: torch.Generator) -> Tensor:
    """Return digits with PLUS in the middle; no sum has an even length."""
    content = torch.randint(ZERO, PLUS, (count, length), generator=generator)
    content[:, length // 2] = PLUS
    return content


def sample_patterns(symbols: range, count: int, length: int, generator: torch.Generator) -> Tensor:
    """Return random symbols repeated with a random period, with a third of all positions hidden."""
    content = sample_symbols(symbols, count, length, generator)
    period = torch.randint(1, max(1, length // 2) + 1, (count, 1), generator=generator)
    content = content.gather(1, torch.arange(length) % period)
    content[torch.rand(count, length, generator=generator, dtype=torch.float32) < 1 / 3] = MASK
    return content


def count_repeats(content: Tensor) -> dict[str, Tensor]:
    """9 5 5 7 9 5 has 3 repeats, a 9 and two 5s, and 3 copies of one symbol, the 5."""
    same = content[:, :, None] == content[:, None, :]       # (N, L, L)
    return {"repeats": same.tril(-1).any(dim=2).sum(dim=1), "copies": same.sum(dim=2).amax(dim=1)}


def count_carries(content: Tensor) -> dict[str, Tensor]:
    """7 9 5 + 2 0 6 has 3 carries, 2 nines (9 + 0, 7 + 2), and a ripple of 2: one carry runs through both.

    Count these for each sum (N, L). A nine produces a carry only if one arrives from its right.
    """
    first, second = (content - ZERO).split(content.size(1) // 2 + 1, dim=1)             # first includes PLUS
    pairs = first[:, : second.size(1)] + second
    carry = count = ripple = longest = torch.zeros(len(content), dtype=torch.int64)
    for pair in reversed(pairs.unbind(dim=1)):
        ripple = torch.where((pair == 9) & (carry == 1), ripple + 1, 0)
        carry = (pair + carry) // 10
        count, longest = count + carry, torch.maximum(longest, ripple)
    return {"carries": count, "nines": (pairs == 9).sum(dim=1), "ripple": longest}


def count_clues(content: Tensor) -> dict[str, Tensor]:
    """_ _ 5 9 5 9 has period 2, 2 gaps and 1 clue: only the first 5 and the last 9 rule out period 3.

    Clues are the symbol pairs that rule out a wrong period; the count for a question (N, L) is the smallest
    over all wrong periods. It is at most 3, which also means "no wrong period". Repeats are within a period.
    """
    length, max_clues = content.size(1), 3
    clashes = [torch.zeros(len(content), dtype=torch.int64)]            # of symbols 0, 1, 2 … apart
    for shift in range(1, length):
        near, far = content[:, :-shift], content[:, shift:]
        clashes.append(((near != far) & (near != MASK) & (far != MASK)).sum(dim=1))
    period, clues = torch.zeros_like(clashes[0]), torch.full_like(clashes[0], max_clues)
    for candidate in reversed(range(1, length // 2 + 1)):
        against = torch.stack(clashes[candidate::candidate]).sum(dim=0)
        period[against == 0] = candidate
        clues = torch.where(against > 0, torch.minimum(clues, against), clues)
    repeats = count_repeats(complete(content))["repeats"] - (length - period)
    return {"period": period, "gaps": (content == MASK).sum(dim=1), "clues": clues, "repeats": repeats}


def find_visible_copies(content: Tensor) -> Tensor:
    """Return where each symbol of the completed pattern is visible in the question, (N, A, L) boolean."""
    return complete(content)[:, :, None] == content[:, None, :]


def count_symbols(source: Tensor) -> Tensor:
    """Return the number of symbols in each question of source (N, S), without START, END and PAD, (N,)."""
    return (source >= MASK).sum(dim=1)


def strip_special_tokens(source: Tensor) -> Tensor:
    """Return the symbols (N, L) of questions of one length (N, S), without START, END and PAD."""
    return source[source >= MASK].view(len(source), -1)


def question_categories(others: Callable | None, source: Tensor) -> dict[str, Tensor]:
    """Return each question's length in source (N, S), and any others that a task counts, each (N,)."""
    lengths = count_symbols(source)
    categories = {"length": lengths}
    if others:
        for length in lengths.unique().tolist():
            rows = lengths == length
            for name, values in others(source[rows, 1 : length + 1]).items():
                categories.setdefault(name, torch.zeros_like(lengths))[rows] = values
    return categories


def sample_rebalanced(
    categories: dict[str, Tensor], count: int, oversample: float, generator: torch.Generator
) -> Tensor:
    """Sample indices (count,) of questions with these categories, each (N,), favouring rare ones.

    In a fraction oversample of the sample, all combinations of categories are equally frequent, as far as
    supply allows. The rest keep their natural frequencies, so that the model does not forget common ones.
    """
    combined = torch.stack(list(categories.values()), dim=1)
    _, index, frequency = combined.unique(dim=0, return_inverse=True, return_counts=True)
    equal = len(combined) / len(frequency) / frequency.double()         # weights that make all equally likely
    return torch.multinomial((1 - oversample + oversample * equal)[index], count, generator=generator)
