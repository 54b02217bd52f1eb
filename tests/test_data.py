"""Tasks, splits and scores against brute force and counts by hand."""

import hashlib
import itertools
import re
import sys
from dataclasses import replace

import pytest
import torch
from conftest import IN_PLAIN_PYTHON, generator

import data
import transformer
from data import (
    FIRST_SYMBOL,
    SPLITS,
    TASKS,
    Task,
    check_task,
    exact_match,
    example_questions,
    format_tokens,
    make_inputs_and_targets,
    parse_content,
    sample_batch,
    select_split,
    split_index,
    token_accuracy,
    valid_lengths,
)
from lab.influence import answer_sensitivity
from support import puzzles
from support.config import Config
from support.puzzles import MASK, PLUS, add
from transformer import END, PAD, START

# For each task, the SHA-256 of 2,000 sequences from each split with seed 0. Published metrics rest on these.
HASHES = {
    "copy": "943637e9782c8d14",
    "reverse": "d4d190536baef764",
    "sort": "6d170d51be61b286",
    "double": "5cdd726574f5c311",
    "add": "28f0f34e52b291e6",
    "complete": "b33a1f71671ee484",
}


def content_of(row):
    """The symbols between START and END of a list of ids, checking that START, END and PAD are in place."""
    end = row.index(END)
    assert row[0] == START and set(row[end + 1 :]) <= {PAD}
    return row[1:end]


@pytest.mark.parametrize("task", IN_PLAIN_PYTHON)
def test_answers_equal_plain_python(task):
    source, target = sample_batch(task, 500, generator())
    widths = {"add": (9, 6), "double": (10, 18)}.get(task, (10, 10))        # seq_len 8: three digits each
    assert (source.size(1), target.size(1)) == widths and source.dtype == target.dtype == torch.int64
    for source_row, target_row in zip(source.tolist(), target.tolist(), strict=True):
        assert content_of(target_row) == IN_PLAIN_PYTHON[task](content_of(source_row))


@pytest.mark.parametrize("task", HASHES)
def test_sample_batch_never_changes(task):
    hashed = hashlib.sha256()
    for split in SPLITS:
        for tokens in sample_batch(task, 2000, generator(), split):
            hashed.update(tokens.numpy().tobytes())
    assert hashed.hexdigest()[:16] == HASHES[task]


def test_sample_batch_is_uniform_in_lengths_and_symbols():
    source, _ = sample_batch("copy", 16_000, generator())
    lengths = (source >= FIRST_SYMBOL).sum(dim=1).bincount(minlength=9)
    assert lengths[0] == 0 and (lengths[1:] - 2000).abs().max() < 200       # 2000 ± 4.8 standard deviations
    long_rows = source[(source >= FIRST_SYMBOL).sum(dim=1) == 8]
    counts = long_rows[long_rows >= FIRST_SYMBOL].bincount(minlength=20)[FIRST_SYMBOL:].float()
    assert len(counts) == 16 and (counts / counts.mean() - 1).abs().max() < 0.2


def test_sample_batch_keeps_a_fixed_length():
    source, _ = sample_batch("reverse", 200, generator(), seq_len=5, fixed_length=True)
    assert ((source >= FIRST_SYMBOL).sum(dim=1) == 5).all()


def test_splits_are_disjoint_and_complete():
    for length in range(1, 5):
        lists = [select_split(split, example_questions("copy", length, 12)).tolist() for split in SPLITS]
        listed = [set(map(tuple, contents)) for contents in lists]
        every = set(itertools.product(range(FIRST_SYMBOL, 12), repeat=length))
        assert set.union(*listed) == every and sum(map(len, listed)) == len(every)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", [0, 1])
def test_sample_batch_stays_in_its_split(split, seed):
    for task in IN_PLAIN_PYTHON:
        source, _ = sample_batch(task, 800, generator(seed), split)
        contents = {tuple(content_of(row)) for row in source.tolist()}
        for length in {*map(len, contents)}:                # split_index takes those of one length at once
            same_length = torch.tensor([content for content in contents if len(content) == length])
            assert {SPLITS[index] for index in split_index(same_length).tolist()} == {split}


@pytest.mark.parametrize("length", [3, 4, 8])
def test_split_index_gives_80_10_10_for_any_symbols(length):
    contents = torch.randint(4, 20, (50_000, length), generator=generator())
    for symbol in (4, 11, 19):                              # also among sequences that begin or end alike
        for column in (0, -1):
            some = contents[contents[:, column] == symbol]
            fractions = split_index(some).bincount(minlength=3) / len(some)
            assert (fractions - torch.tensor([0.8, 0.1, 0.1])).abs().max() < 0.04


def test_split_index_is_the_same_on_every_machine():
    """In Python's unbounded integers, so an overflow in the tensor version would show."""
    for content in ([5, 7, 9], [4], [19] * 60, list(range(4, 20))):
        state = 1
        for symbol in content:
            state = (state * 48271 + symbol) % (2**31 - 1)
        bucket = state * 69621**2 % (2**31 - 1) % 10
        assert split_index(torch.tensor([content])).item() == max(0, bucket - 7)
    assert split_index(torch.tensor([[5, 7, 9]])).item() == SPLITS.index("test")    # never change it


def test_sample_batch_depends_only_on_the_generator():
    first, again = generator(3), generator(3)
    assert torch.equal(sample_batch("reverse", 50, first)[0], sample_batch("reverse", 50, again)[0])
    other = sample_batch("reverse", 50, generator(3))[0]
    assert not torch.equal(sample_batch("reverse", 50, first)[0], other)


def test_sample_batch_leaves_out_lengths_without_sequences():
    assert [len(select_split(split, example_questions("copy", 1, 6))) for split in SPLITS] == [1, 1, 0]
    assert valid_lengths("copy", seq_len=8, vocab_size=6)[0] > 1
    source, _ = sample_batch("copy", 300, generator(), "test", vocab_size=6)
    assert (source >= FIRST_SYMBOL).sum(dim=1).min() > 1


@pytest.mark.parametrize("task", IN_PLAIN_PYTHON)
def test_inputs_never_reveal_their_targets(task):
    source, target = sample_batch(task, 200, generator(), seq_len=6)
    width = max(source.size(1), target.size(1))
    (seen,), predictions = make_inputs_and_targets("encoder", source, target)
    assert seen.shape == predictions.shape == (200, width)
    (prompt, begun), rest = make_inputs_and_targets("encoder-decoder", source, target)
    assert torch.equal(prompt, source) and begun.shape == rest.shape == (200, target.size(1) - 1)
    (joint,), alone = make_inputs_and_targets("decoder", source, target)
    assert joint.shape == alone.shape == (200, source.size(1) + target.size(1) - 2)

    def filled(row, width):
        return row + [PAD] * (width - len(row))

    for row, wanted in enumerate(target.tolist()):
        prompt, answer = [START, *content_of(source[row].tolist()), END], [*content_of(wanted), END]
        to_write = [MASK] * (len(answer) + 1 - len(prompt))
        assert seen[row].tolist() == filled(prompt + to_write, width)
        assert predictions[row].tolist() == filled([START, *answer], width)
        assert rest[row].tolist() == filled(answer, rest.size(1))
        assert begun[row].tolist() == [START, *filled(answer, rest.size(1))[:-1]]
        assert joint[row].tolist() == filled(prompt + answer, joint.size(1) + 1)[:-1]
        assert alone[row].tolist() == filled([PAD] * (len(prompt) - 1) + answer, alone.size(1))


def test_question_categories_default_to_length():
    source, _ = sample_batch("copy", 50, torch.Generator().manual_seed(0))
    (name, lengths), = puzzles.question_categories(None, source).items()
    assert name == "length" and lengths.tolist() == [row.index(END) - 1 for row in source.tolist()]


@pytest.mark.parametrize("oversample", [0, 0.5, 1])
def test_sample_rebalanced_equalises_categories(oversample):
    lengths, repeats = torch.tensor([1] * 800 + [2] * 200), torch.tensor([0] * 950 + [1] * 50)
    categories = {"length": lengths, "repeats": repeats}
    generator, picked = torch.Generator().manual_seed(0), []
    for _ in range(100):
        picked += puzzles.sample_rebalanced(categories, 20, oversample, generator).tolist()
    counts = [sum(low <= row < high for row in picked) for low, high in ((0, 800), (800, 950), (950, 1000))]
    for count, fraction in zip(counts, (0.8, 0.15, 0.05), strict=True):
        assert count == pytest.approx(2000 * ((1 - oversample) * fraction + oversample / 3), abs=100)


def test_oversampled_batches_keep_their_split_and_answers():
    plain, oversampled = (
        sample_batch("add", 1000, torch.Generator().manual_seed(0), oversample=fraction)
        for fraction in (0.0, 1.0)
    )
    sources = [source for source, _ in (plain, oversampled)]
    categories = [puzzles.question_categories(puzzles.count_carries, source) for source in sources]
    rare = [int((each["ripple"] > 0).sum()) for each in categories]
    assert rare[1] > 2 * rare[0] > 0
    for sequence, answer in zip(*(tokens.tolist() for tokens in oversampled), strict=True):
        content = torch.tensor([sequence[1 : sequence.index(END)]])
        assert split_index(content) == 0
        assert TASKS["add"].answer(content)[0].tolist() == answer[1 : answer.index(END)]


def test_scores_equal_a_count_by_hand():
    target = torch.tensor([[START, 5, 7, END, PAD], [START, 9, END, PAD, PAD], [START, 8, 6, 4, END]])
    prediction = torch.tensor([[9, 5, 7, END, 9], [START, 9, 9, PAD, PAD], [START, 8, 6, 4, END]])
    assert token_accuracy(prediction, target) == pytest.approx(8 / 9)        # 3 + 2 + 4 tokens, one wrong
    assert exact_match(prediction, target) == pytest.approx(2 / 3)
    assert token_accuracy(target, target) == exact_match(target, target) == 1.0


def test_task_functions_get_only_valid_questions(monkeypatch):
    def strict(content):
        assert len(content) and content.dtype == torch.int64 and ((content >= 4) & (content < 20)).all()
        return 4 + torch.nn.functional.one_hot(content - 4).argmax(dim=-1)      # fails without a row

    monkeypatch.setitem(TASKS, "strict", Task(strict))
    check_task("strict")
    for count in 1, 3, 200:                                     # with one row, most lengths have none
        source, target = sample_batch("strict", count, generator())
        assert source.size(1) == target.size(1) == 10 and torch.equal(source, target)
    answer_sensitivity("strict", source[source[:, -1] == END][:, 1:-1], 20)

    def sum_only(content):
        assert len(content) and TASKS["add"].is_valid(content).all()
        return add(content)

    monkeypatch.setitem(TASKS, "add", replace(TASKS["add"], answer=sum_only))
    check_task("add")
    source, _ = sample_batch("add", 100, generator())
    answer_sensitivity("add", source[source[:, 8] == END][:, 1:-1], 20)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda content: content + 10, "an answer holds 2[0-9]; use only symbols 4 … 19"),
        (lambda content: content.sum(dim=1, keepdim=True) % 2, "an answer holds (PAD|START); use only"),
        (lambda content: content * 1.0, r"are torch.float32 \(8, 1\) for questions \(8, 1\); return token"),
        (lambda content: content > 9, r"are torch.bool \(8, 1\) for questions"),
        (lambda content: content[:, 0], r"are torch.int64 \(8,\) for questions \(8, 1\)"),
        (lambda content: content[:1], r"are torch.int64 \(1, 1\) for questions \(8, 1\)"),
        (lambda content: content.tolist(), "the answers are a list; return a tensor"),
        (lambda content: content.roll(1), r"differently alone and in a batch; .*roll\(1, dims=1\)"),
        (lambda content: content.sort(dim=0).values, "differently alone and in a batch"),
        (lambda content: torch.randint_like(content, 4, 20), "differently alone and in a batch; use no"),
        (lambda content: content[:, [2]], r"IndexError: .*\(test_data.py, line \d+\)"),
    ],
)
def test_check_task_rejects_a_wrong_answer_function(answer, message, monkeypatch):
    monkeypatch.setitem(TASKS, "wrong", Task(answer))
    with pytest.raises(ValueError, match=message) as refused:
        check_task("wrong")
    assert "\n" not in str(refused.value) and str(refused.value).startswith("task wrong")


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (lambda content: content[:, 0], "AttributeError: 'Tensor' object has no attribute 'items'"),
        (lambda content: {"first": content[:, :1]}, r"category 'first' is not one integer per question, \(N"),
        (lambda content: {"mean": content.double().mean(dim=1)}, "category 'mean' is not one integer per"),
        (lambda content: {"third": content[:, 2]}, r"IndexError: .*\(test_data.py, line \d+\)"),
    ],
)
def test_check_task_rejects_wrong_categories(categories, message, monkeypatch):
    monkeypatch.setitem(TASKS, "wrong", Task(data.copy, categories=categories))
    with pytest.raises(ValueError, match=message) as refused:
        check_task("wrong")
    assert "\n" not in str(refused.value) and str(refused.value).startswith("task wrong")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task(data.copy, symbols=range(0, 10)), r"wrong: symbols=range\(0, 10\) is not usable; choose a"),
        (Task(data.copy, symbols=range(4, 20, 2)), r"symbols=range\(4, 20, 2\) is not usable; choose a ra"),
        (Task(data.copy, symbols=[4, 5, 6]), r"symbols=\[4, 5, 6\] is not usable; choose a range from 4"),
        (Task(data.copy, token_names={4: 0}), "a token is named 0; choose distinct words without spaces"),
        (Task(data.copy, token_names={4: "a b"}), "a token is named 'a b'; choose distinct words"),
        (Task(data.copy, token_names={4: "a", 5: "a"}), "a token is named 'a'; choose distinct words"),
        (Task(data.copy, token_names={4: "5"}), "a token is named '5'; choose distinct words"),
        (
            Task(lambda content: content.clamp(max=4) - 1),
            "an answer holds _; use only",
        ),
        (Task(data.copy, answer_sources=lambda content: content), r"answer_sources does not return \(N, A"),
        (Task(data.copy, train_fraction=0.9), "train_fraction=0.9 is out of range; choose up to 0.8"),
        (Task(data.copy, train_fraction=0.0), "train_fraction=0.0 is out of range"),
        (Task(data.copy, next_token=True), "predicts each next token; choose --architecture decoder"),
        (Task(data.copy, symbols=range(4, 40)), "vocab_size=20 is too small for wrong; choose 40 or more"),
    ],
)
def test_check_task_rejects_wrong_fields(task, message, monkeypatch):
    monkeypatch.setitem(TASKS, "wrong", task)
    with pytest.raises(ValueError, match=message):
        Config("wrong").check()


def test_describe_missing_lengths_names_what_is_left_out(monkeypatch, capsys):
    """Once in 65,536 times, a palindrome of length 8 is sampled; a single sequence is in a single split."""
    palindromes = Task(data.copy, is_valid=lambda content: (content == content.flip(1)).all(dim=1))
    def sample_fives(symbols, count, length, generator):
        return torch.full((count, length), 5)

    monkeypatch.setitem(TASKS, "palindromes", palindromes)
    monkeypatch.setitem(TASKS, "fives", Task(data.copy, sample_candidates=sample_fives))
    assert valid_lengths("palindromes", 8, 20) == [1, 2, 3, 4, 5]
    assert valid_lengths("fives", 8, 20) == [1, 2, 3]       # short ones are listed, not sampled
    for task in "palindromes", "fives":
        monkeypatch.setattr("sys.argv", ["data.py", "--task", task])
        data.main()
        Config(task).check()
        for split in SPLITS:
            source, _ = sample_batch(task, 50, generator(), split)
            assert {*((source != PAD).sum(dim=1) - 2).tolist()} <= {*valid_lengths(task, 8, 20)}
    palindrome, five = (line for line in capsys.readouterr().out.splitlines() if "no questions" in line)
    assert palindrome == "  no questions of length 6, 7, 8: too few are valid to fill every split"
    assert five == "  no questions of length 4, 5, 6, 7, 8: too few are valid to fill every split"


def test_train_fraction_takes_part_of_the_training_set(monkeypatch):
    contents = data.enumerate_contents(range(4, 20), 3)
    whole, half = split_index(contents), split_index(contents, 0.4)
    assert abs((half == 0).double().mean().item() - 0.4) < 0.02
    assert (whole[half == 0] == 0).all() and (whole[half == 3] == 0).all()
    assert torch.equal(whole[half != 3][whole[half != 3] > 0], half[(half == 1) | (half == 2)])
    monkeypatch.setitem(TASKS, "part", Task(data.copy, train_fraction=0.05))
    for length in 2, 5:                                     # listed, and sampled
        source, _ = sample_batch("part", 200, generator(), "train", length, fixed_length=True)
        assert (split_index(source[:, 1:-1], 0.05) == 0).all() and len(source) == 200


def test_next_token_tasks_have_no_end_between_question_and_answer(monkeypatch):
    monkeypatch.setitem(TASKS, "next", Task(data.reverse, next_token=True))
    source, target = data.make_source_and_target("next", torch.tensor([[5, 7, 9]]))
    assert source.tolist() == [[START, 5, 7, 9]] and target.tolist() == [[START, 9, 7, 5, END]]
    (tokens,), scored = make_inputs_and_targets("decoder", source, target)
    assert tokens.tolist() == [[START, 5, 7, 9, 9, 7, 5]] and scored.tolist() == [[0, 0, 0, 9, 7, 5, END]]
    _, learned = make_inputs_and_targets("decoder", source, target, next_token=True)
    assert learned.tolist() == [[5, 7, 9, 9, 7, 5, END]]
    source, target = sample_batch("next", 50, generator())
    assert source.size(1) == 9 and target.size(1) == 10 and not (source == END).any()
    _, learned = make_inputs_and_targets("decoder", source, target, next_token=True)
    count = 2 * (source > END).sum(dim=1) + 1               # the only END is that of the answer
    assert torch.equal((learned != PAD).sum(dim=1), count)


@pytest.mark.parametrize("count", [5, 12])
def test_large_batches_are_oversampled_in_parts(count, monkeypatch):
    monkeypatch.setattr(data, "MAX_RESAMPLED", 5)           # torch.multinomial takes at most 2²⁴ candidates
    source, target = sample_batch("sort", count, generator(), oversample=1.0)
    assert len(source) == len(target) == count
    assert [content_of(row) for row in target.tolist()] == [
        sorted(content_of(row)) for row in source.tolist()
    ]


def test_parse_content_uses_a_tasks_own_names(monkeypatch):
    letters = {4 + position: letter for position, letter in enumerate("abc")}
    monkeypatch.setitem(TASKS, "letters", Task(data.reverse, symbols=range(4, 7), token_names=letters))
    check_task("letters")
    source, _ = sample_batch("letters", 50, generator())
    assert source.max() == 6
    for words in ["c", "a", "b"], ["c a b"], ["cab"]:
        assert format_tokens(parse_content(words, "letters"), "letters") == "c a b"
    with pytest.raises(ValueError, match="x is not a symbol of letters; choose from a b c"):
        parse_content(["x"], "letters")


def test_format_tokens_writes_what_a_person_would():
    assert format_tokens(torch.tensor([START, 5, MASK, END, PAD, PAD])) == "START 5 _ END"
    assert format_tokens(torch.tensor([5, PAD, 7])) == "5 PAD 7"


def test_parse_content_inverts_format_tokens():
    for task, text in ("add", "4 2 + 1 9"), ("complete", "5 _ 5 7"), ("sort", "19 4"):
        assert format_tokens(parse_content(text.split(), task), task) == text
    assert parse_content(["4", "2", "+", "1", "9"], "add").tolist() == [8, 6, PLUS, 5, 13]


def test_printed_splits_hold_every_sequence_once(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["data.py"])
    data.main()
    table = capsys.readouterr().out.rsplit("test\n", 1)[1].replace(",", "").splitlines()
    for length, line in enumerate(table, start=1):
        number, *sizes = map(int, line.split())
        assert number == length and sum(sizes) == 16**length
    assert length == 5


def test_printed_sums_are_correct(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["data.py", "--task", "add"])
    data.main()
    heading, missing, *lines = capsys.readouterr().out.splitlines()
    assert heading == "add:"
    assert missing == "  no questions of length 1, 2, 4, 6, 8: too few are valid to fill every split"
    assert len(lines) == 4
    for line in lines:
        first, second, total = re.fullmatch(
            r"  START ([\d ]+) \+ ([\d ]+) END +→ START ([\d ]+) END", line
        ).groups()
        first, second, total = (int(digits.replace(" ", "")) for digits in (first, second, total))
        assert first + second == total


def test_special_tokens_agree_between_modules():
    assert (transformer.PAD, transformer.START, transformer.END) == (PAD, START, END)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "revers"}, "task='revers' is not a valid choice; choose from .*copy', .*reverse',"),
        ({"split": "tests"}, "split='tests' is not a valid choice; choose from 'train', 'validation',"),
        ({"seq_len": 0}, "too few questions of length 1 … 0 with"),
        ({"task": "add", "vocab_size": 14}, "vocab_size=14 is too small for add; choose 15 or more"),
        ({"task": "add", "seq_len": 2}, "add has too few questions of length 1 … 2 with"),
        ({"task": "add", "seq_len": 8, "fixed_length": True}, "add has too few questions of length 8 with"),
        ({"task": "complete", "seq_len": 1}, "complete has too few questions of length 1 … 1"),
        ({"vocab_size": 4}, "vocab_size=4 is too small for copy; choose 5 or more"),
        (
            {"vocab_size": 5, "seq_len": 1, "split": "test"},
            "copy has too few questions of length 1 … 1",
        ),
    ],
)
def test_sample_batch_names_bad_settings_and_their_fix(settings, message):
    with pytest.raises(ValueError, match=message):
        sample_batch(**{"task": "copy", "count": 4, "generator": generator(), **settings})


def test_data_prints_the_size_of_each_split(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["data.py"])
    data.main()
    table = capsys.readouterr().out.split("in each split, for the 16 symbols")[-1]
    rows = [[int(size.replace(",", "")) for size in line.split()] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == [1, 2, 3, 4, 5]
    for length, *sizes in rows:
        assert sum(sizes) == 16**length
        if length > 3:                                          # shorter ones are too few to be exact
            assert [size / 16**length for size in sizes] == pytest.approx([0.8, 0.1, 0.1], abs=0.001)
