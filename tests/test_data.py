"""Tasks, splits and scores against brute force and counts by hand."""

import itertools

import pytest
import torch

import transformer
from data import (
    END,
    FIRST_SYMBOL,
    MASK,
    PAD,
    SPLITS,
    START,
    TASKS,
    arrange,
    draw,
    exact_match,
    list_contents,
    split_of,
    to_text,
    token_accuracy,
    usable_lengths,
)

IN_PLAIN_PYTHON = {"copy": lambda content: content, "reverse": lambda content: content[::-1]}


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
    assert source.shape == target.shape == (500, 10) and source.dtype == target.dtype == torch.int64
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
    sources = [draw(task, 800, generator(seed), split)[0] for task in TASKS]
    for row in torch.cat(sources).tolist():
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
    (seen,), said = arrange("encoder", source, target)
    assert torch.equal(seen, source) and torch.equal(said, target)
    (prompt, begun), said = arrange("encoder-decoder", source, target)
    assert torch.equal(prompt, source) and begun.shape == said.shape == (200, 7)
    (joint,), said_alone = arrange("decoder", source, target)
    assert joint.shape == said_alone.shape == (200, 14)
    rows = (tensor.tolist() for tensor in (source, target, begun, said, joint, said_alone))
    for source_row, target_row, begun_row, said_row, joint_row, alone_row in zip(*rows, strict=True):
        prompt = [START, *content_of(source_row), END]
        answer = [*content_of(target_row), END]
        fill = [PAD] * (6 - len(content_of(source_row)))
        assert said_row == answer + fill
        assert begun_row == [START, *(answer + fill)[:-1]]
        assert joint_row == (prompt + answer + 2 * fill)[:14]
        assert alone_row == [PAD] * (len(prompt) - 1) + answer + 2 * fill


def test_scores_count_what_a_person_would_count():
    target = torch.tensor([[START, 5, 7, END, PAD], [START, 9, END, PAD, PAD], [START, 8, 6, 4, END]])
    prediction = torch.tensor([[9, 5, 7, END, 9], [START, 9, 9, PAD, PAD], [START, 8, 6, 4, END]])
    assert token_accuracy(prediction, target) == pytest.approx(8 / 9)        # 3 + 2 + 4 tokens, one wrong
    assert exact_match(prediction, target) == pytest.approx(2 / 3)
    assert token_accuracy(target, target) == exact_match(target, target) == 1.0


def test_text_is_what_a_person_would_write():
    assert to_text(torch.tensor([START, 5, MASK, END, PAD, PAD])) == "START 5 MASK END"
    assert to_text(torch.tensor([5, PAD, 7])) == "5 PAD 7"


def test_both_files_mean_the_same_by_the_special_tokens():
    assert (transformer.PAD, transformer.START, transformer.END) == (PAD, START, END)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "revers"}, "task='revers' is unknown; choose copy or reverse"),
        ({"split": "tests"}, "split='tests' is unknown; choose train, validation, test"),
        ({"seq_len": 0}, "seq_len=0 .* 1 or more"),
        ({"vocab_size": 4}, "vocab_size=4 leaves no symbols; choose 5 or more"),
        ({"vocab_size": 5, "seq_len": 1, "split": "test"}, "no sequence for the test split; raise"),
    ],
)
def test_bad_settings_are_named_with_their_fix(settings, message):
    with pytest.raises(ValueError, match=message):
        draw(**{"task": "copy", "count": 4, "generator": generator(), **settings})
