"""Tasks, splits and scores against brute force and counts by hand."""

import inspect
import itertools
import re
import sys
from pathlib import Path

import benchmark
import pytest
import torch

import data
import transformer
from data import (
    END,
    FIRST_SYMBOL,
    MASK,
    PAD,
    PLUS,
    SPLITS,
    START,
    TASKS,
    ZERO,
    arrange,
    draw,
    exact_match,
    is_example,
    list_contents,
    split_of,
    to_content,
    to_text,
    token_accuracy,
    usable_lengths,
)


def sum_in_plain_python(content):
    plus = content.index(PLUS)
    parts = content[:plus], content[plus + 1 :]
    first, second = ("".join(str(digit - ZERO) for digit in part) for part in parts)
    assert len(first) == len(second)
    return [ZERO + int(digit) for digit in f"{int(first) + int(second):0{plus + 1}}"]


def patterns_that_fit(content, symbols):
    """Each way to fill the gaps so that one pattern stands there twice or more, by trying them all."""
    gaps = content.count(MASK)
    for filling in itertools.product(symbols, repeat=gaps):
        rest = iter(filling)
        whole = [next(rest) if symbol == MASK else symbol for symbol in content]
        periods = range(1, len(whole) // 2 + 1)
        if any(whole[period:] == whole[:-period] for period in periods):
            yield whole


def only_pattern(content):
    """With the symbols that occur and one that does not: a gap that could be any symbol could be that one."""
    (whole,) = patterns_that_fit(content, {*content, 99} - {MASK})
    return whole


IN_PLAIN_PYTHON = {
    "copy": lambda content: content,
    "reverse": lambda content: content[::-1],
    "sort": sorted,
    "double": lambda content: content + content,
    "add": sum_in_plain_python,
    "complete": only_pattern,
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def content_of(row):
    """The symbols between START and END of a list of ids, checking that START, END and PAD are in place."""
    end = row.index(END)
    assert row[0] == START and set(row[end + 1 :]) <= {PAD}
    return row[1:end]


@pytest.mark.parametrize("task", TASKS)
def test_targets_are_what_plain_python_says(task):
    source, target = draw(task, 500, generator())
    widths = {"add": (9, 6), "double": (10, 18)}.get(task, (10, 10))        # seq_len 8: three digits each
    assert (source.size(1), target.size(1)) == widths and source.dtype == target.dtype == torch.int64
    for source_row, target_row in zip(source.tolist(), target.tolist(), strict=True):
        assert content_of(target_row) == IN_PLAIN_PYTHON[task](content_of(source_row))


def test_lengths_and_symbols_are_uniform():
    source, _ = draw("copy", 16_000, generator())
    lengths = (source >= FIRST_SYMBOL).sum(dim=1).bincount(minlength=9)
    assert lengths[0] == 0 and (lengths[1:] - 2000).abs().max() < 200       # 2000 ± 4.8 standard deviations
    long_rows = source[(source >= FIRST_SYMBOL).sum(dim=1) == 8]
    counts = long_rows[long_rows >= FIRST_SYMBOL].bincount(minlength=20)[FIRST_SYMBOL:].float()
    assert len(counts) == 16 and (counts / counts.mean() - 1).abs().max() < 0.2


def test_fixed_length_draws_only_that_length():
    source, _ = draw("reverse", 200, generator(), seq_len=5, fixed_length=True)
    assert ((source >= FIRST_SYMBOL).sum(dim=1) == 5).all()


def test_no_sequence_is_in_two_splits_and_each_is_in_one():
    for length in range(1, 5):
        listed = [set(map(tuple, list_contents(length, split, vocab_size=12).tolist())) for split in SPLITS]
        every = set(itertools.product(range(FIRST_SYMBOL, 12), repeat=length))
        assert set.union(*listed) == every and sum(map(len, listed)) == len(every)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", [0, 1])
def test_draws_stay_in_their_split_for_each_length_and_task(split, seed):
    for task in TASKS:
        for row in draw(task, 800, generator(seed), split)[0].tolist():
            content = torch.tensor([content_of(row)])
            assert SPLITS[split_of(content).item()] == split


@pytest.mark.parametrize("length", [3, 4, 8])
def test_splits_are_80_10_10_whatever_the_symbols(length):
    contents = torch.randint(4, 20, (50_000, length), generator=generator())
    for symbol in (4, 11, 19):                              # also among sequences that begin or end alike
        for column in (0, -1):
            some = contents[contents[:, column] == symbol]
            shares = split_of(some).bincount(minlength=3) / len(some)
            assert (shares - torch.tensor([0.8, 0.1, 0.1])).abs().max() < 0.04


def test_the_hash_is_the_same_on_every_machine():
    """In Python's unbounded integers, so an overflow in the tensor version would show."""
    for content in ([5, 7, 9], [4], [19] * 60, list(range(4, 20))):
        state = 1
        for symbol in content:
            state = (state * 48271 + symbol) % (2**31 - 1)
        bucket = state * 69621**2 % (2**31 - 1) % 10
        assert split_of(torch.tensor([content])).item() == max(0, bucket - 7)
    assert split_of(torch.tensor([[5, 7, 9]])).item() == SPLITS.index("test")   # never change it


def test_the_same_seed_draws_the_same_and_the_generator_moves_on():
    first, again = generator(3), generator(3)
    assert torch.equal(draw("reverse", 50, first)[0], draw("reverse", 50, again)[0])
    assert not torch.equal(draw("reverse", 50, first)[0], draw("reverse", 50, generator(3))[0])


def test_a_length_without_sequences_is_left_out():
    assert [len(list_contents(1, split, vocab_size=6)) for split in SPLITS] == [1, 1, 0]
    assert usable_lengths("test", seq_len=8, vocab_size=6)[0] > 1
    source, _ = draw("copy", 300, generator(), "test", vocab_size=6)
    assert (source >= FIRST_SYMBOL).sum(dim=1).min() > 1


@pytest.mark.parametrize("task", TASKS)
def test_each_architecture_is_asked_for_the_answer_alone_and_is_never_given_what_it_is_to_say(task):
    source, target = draw(task, 200, generator(), seq_len=6)
    width = max(source.size(1), target.size(1))
    (seen,), said = arrange("encoder", source, target)
    assert seen.shape == said.shape == (200, width)
    (prompt, begun), rest = arrange("encoder-decoder", source, target)
    assert torch.equal(prompt, source) and begun.shape == rest.shape == (200, target.size(1) - 1)
    (joint,), alone = arrange("decoder", source, target)
    assert joint.shape == alone.shape == (200, source.size(1) + target.size(1) - 2)

    def filled(row, width):
        return row + [PAD] * (width - len(row))

    for row, wanted in enumerate(target.tolist()):
        prompt, answer = [START, *content_of(source[row].tolist()), END], [*content_of(wanted), END]
        to_write = [MASK] * (len(answer) + 1 - len(prompt))
        assert seen[row].tolist() == filled(prompt + to_write, width)
        assert said[row].tolist() == filled([START, *answer], width)
        assert rest[row].tolist() == filled(answer, rest.size(1))
        assert begun[row].tolist() == [START, *filled(answer, rest.size(1))[:-1]]
        assert joint[row].tolist() == filled(prompt + answer, joint.size(1) + 1)[:-1]
        assert alone[row].tolist() == filled([PAD] * (len(prompt) - 1) + answer, alone.size(1))


def test_scores_count_what_a_person_would_count():
    target = torch.tensor([[START, 5, 7, END, PAD], [START, 9, END, PAD, PAD], [START, 8, 6, 4, END]])
    prediction = torch.tensor([[9, 5, 7, END, 9], [START, 9, 9, PAD, PAD], [START, 8, 6, 4, END]])
    assert token_accuracy(prediction, target) == pytest.approx(8 / 9)        # 3 + 2 + 4 tokens, one wrong
    assert exact_match(prediction, target) == pytest.approx(2 / 3)
    assert token_accuracy(target, target) == exact_match(target, target) == 1.0


def to_ids(text):
    """Text as the tutorial prints it, with _ for MASK, in one row."""
    return torch.tensor([[MASK if word == "_" else int(word) for word in text.split()]])


def to_digits(text):
    return torch.tensor([[PLUS if character == "+" else ZERO + int(character) for character in text]])


@pytest.mark.parametrize(
    ("task", "content", "target"),
    [
        ("sort", to_ids("9 5 9 4 5 5"), to_ids("4 5 5 5 9 9")),
        ("double", to_ids("7"), to_ids("7 7")),
        ("add", to_digits("0+0"), to_digits("00")),
        ("add", to_digits("999+001"), to_digits("1000")),
        ("add", to_digits("999+999"), to_digits("1998")),
        ("add", to_digits("9" * 40 + "+" + "0" * 39 + "1"), to_digits("1" + "0" * 40)),
        ("complete", to_ids("5 _ 9 5 7 _"), to_ids("5 7 9 5 7 9")),
        ("complete", to_ids("5 _ _ _ 5 7"), to_ids("5 7 5 7 5 7")),         # period 3 fits too: 5 5 7 5 5 7
        ("complete", to_ids("_ 5 7 5 _"), to_ids("7 5 7 5 7")),
        ("complete", to_ids("5 _ 7 8"), to_ids("5 _ 7 8")),                 # no pattern
    ],
)
def test_boundary_cases(task, content, target):
    assert torch.equal(TASKS[task](content), target)


def test_completions_with_two_answers_are_no_examples():
    """Against all ways to fill all gaps of all sequences of up to seven symbols, of which there are two."""
    for length in range(1, 8):
        contents = torch.cartesian_prod(*[torch.tensor([MASK, 4, 5])] * length).reshape(-1, length)
        rows = contents.tolist()
        good = [MASK in row and len(list(patterns_that_fit(row, (4, 5)))) == 1 for row in rows]
        assert is_example("complete", contents).tolist() == good
    assert sum(good) > 100
    assert not is_example("complete", to_ids("5 _ _ _ 5 7"))


def test_only_two_numbers_of_as_many_digits_are_a_sum():
    names = {START: "S", MASK: "_", ZERO: "0", ZERO + 9: "9", PLUS: "+", PLUS + 1: "x"}
    for length in range(1, 6):
        contents = list(itertools.product(names, repeat=length))
        numbers = ["".join(names[token] for token in content).split("+") for content in contents]
        good = [
            [part.isdigit() for part in row] == [True, True] and len(row[0]) == len(row[1]) for row in numbers
        ]
        assert is_example("add", torch.tensor(contents)).tolist() == good and any(good) == (length in (3, 5))


def test_text_is_what_a_person_would_write():
    assert to_text(torch.tensor([START, 5, MASK, END, PAD, PAD])) == "START 5 _ END"
    assert to_text(torch.tensor([5, PAD, 7])) == "5 PAD 7"


def test_words_become_the_content_that_prints_as_these_words():
    for task, text in ("add", "4 2 + 1 9"), ("complete", "5 _ 5 7"), ("sort", "19 4"):
        assert to_text(to_content(text.split(), task), task) == text
    assert to_content(["4", "2", "+", "1", "9"], "add").tolist() == [8, 6, PLUS, 5, 13]


@pytest.mark.parametrize("digits", [1, 2])
def test_the_benchmarks_hardest_sums_are_those_whose_carry_runs_through_every_digit(digits):
    largest = 10**digits - 1
    expected = {f"{0:0{digits}}+{0:0{digits}}", f"{largest}+{largest}"}
    for first, second in itertools.product(range(10**digits), repeat=2):
        columns = zip(f"{first:0{digits}}", f"{second:0{digits}}", strict=True)
        *rest, ones = (int(a) + int(b) for a, b in columns)
        if ones > 9 and set(rest) <= {9}:
            expected.add(f"{first:0{digits}}+{second:0{digits}}")
    found = [to_text(row, "add").replace(" ", "") for row in benchmark.hardest_sums(digits)]
    assert set(found) == expected and len(found) == len(expected)


def test_the_readme_shows_tasks_as_they_stand_in_the_source():
    source, readme = (Path(data.__file__).with_name(name).read_text() for name in ("data.py", "README.md"))
    line = next(line for line in source.splitlines() if line.startswith("TASKS = "))
    assert inspect.getsource(data.sort) in readme and inspect.getsource(data.double) in readme
    assert line in readme and list(TASKS) == re.findall(r'"(\w+)"', line)


def test_printed_sums_are_sums(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["data.py", "--task", "add"])
    data.main()
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading == "add:" and len(lines) == 4
    for line in lines:
        first, second, total = re.fullmatch(
            r"  START ([\d ]+) \+ ([\d ]+) END +→ START ([\d ]+) END", line
        ).groups()
        first, second, total = (int(digits.replace(" ", "")) for digits in (first, second, total))
        assert first + second == total


def test_both_files_mean_the_same_by_the_special_tokens():
    assert (transformer.PAD, transformer.START, transformer.END) == (PAD, START, END)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "revers"}, "task='revers' is unknown; choose copy or reverse or sort"),
        ({"split": "tests"}, "split='tests' is unknown; choose train, validation, test"),
        ({"seq_len": 0}, "seq_len=0 .* 1 or more"),
        ({"task": "add", "vocab_size": 14}, "vocab_size=14 is too small for sums; choose 15 or more"),
        ({"task": "add", "seq_len": 2}, "seq_len=2 leave no example of add for the train split"),
        ({"task": "add", "seq_len": 8, "fixed_length": True}, "seq_len=8 as fixed length leave no example"),
        ({"task": "complete", "seq_len": 1}, "seq_len=1 leave no example of complete"),
        ({"vocab_size": 4}, "vocab_size=4 leaves no symbols; choose 5 or more"),
        ({"vocab_size": 5, "seq_len": 1, "split": "test"}, "no example of copy for the test split; change"),
    ],
)
def test_bad_settings_are_named_with_their_fix(settings, message):
    with pytest.raises(ValueError, match=message):
        draw(**{"task": "copy", "count": 4, "generator": generator(), **settings})
