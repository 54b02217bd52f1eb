"""The language model learns from text, and the losses it is compared with are what they claim to be."""

import math
import re
from collections import Counter

import pytest
import torch
from conftest import ROOT

from lab import text
from transformer import MiniTransformer

RHYME = "".join(f"{number} men went to mow, went to mow a meadow.\n" for number in range(100))


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "rhyme.txt"
    path.write_text(RHYME, encoding="utf-8")
    return path


def test_split_lines_holds_out_every_tenth():
    training, held_out = text.split_lines(RHYME)
    assert [int(line.split()[0]) for line in held_out.splitlines()] == [*range(9, 100, 10)]
    assert sorted((training + held_out).splitlines()) == sorted(RHYME.splitlines())


def test_pair_loss_equals_counting_by_hand():
    alphabet = "abc"
    training, held_out = "aababcba", "abca"
    pairs = Counter(zip(training, training[1:], strict=False))
    chances = [
        (pairs[first, second] + 1) / (sum(pairs[first, other] for other in alphabet) + len(alphabet))
        for first, second in zip(held_out, held_out[1:], strict=False)
    ]
    expected = -sum(map(math.log, chances)) / len(chances)
    tokens = (text.encode(part, alphabet) for part in (training, held_out))
    assert text.pair_loss(*tokens, vocab_size=6) == pytest.approx(expected)


def test_text_loss_of_a_model_without_preference_is_that_of_guessing():
    model = MiniTransformer(20, d_model=16, num_heads=2, d_ff=32, num_layers=1, causal=True)
    torch.nn.init.zeros_(model.output_projection.weight)
    torch.nn.init.zeros_(model.output_projection.bias)
    tokens = torch.randint(text.FIRST_CHARACTER, 20, (200,))
    assert text.text_loss(model, tokens) == pytest.approx(math.log(20))


def test_windows_are_pieces_of_the_text():
    tokens = torch.arange(100)
    windows = text.sample_windows(tokens)
    assert windows.shape == (text.BATCH_SIZE, text.CONTEXT + 1)
    assert (windows.diff(dim=1) == 1).all() and windows.min() >= 0 and windows.max() <= 99
    only = text.sample_windows(tokens[: text.CONTEXT + 1])
    assert (only == tokens[: text.CONTEXT + 1]).all()


def test_main_learns_more_than_pairs_and_writes_what_it_read(written, call_lab):
    lines = call_lab(text, written, "--steps", 60)
    distinct = len(set(RHYME))
    training, held_out = map(len, text.split_lines(RHYME))
    assert lines[0] == f"rhyme.txt: {training:,} characters to train on, {held_out:,} held out"
    assert f"{math.log(distinct):.2f} when guessing among {distinct}" in lines[1]
    pairs = float(lines[1].split()[-4])
    steps, losses = zip(*((int(line.split()[0]), float(line.split()[1])) for line in lines[4:]), strict=True)
    assert steps == (0, *range(6, 61, 6))
    assert losses[0] == pytest.approx(math.log(distinct), abs=0.6) and losses[-1] < pairs / 2
    assert "men went to mow" in lines[-1] and "men went to mow" not in lines[4]


def test_main_rejects_bad_input_in_one_line(written, tmp_path, call_lab):
    status, error = call_lab(text, written, "--steps", 0)
    assert status == 2 and error == "error: --steps 0 is too small; choose 1 or more\n"
    for content in "", "short\n" * 9, "no line " * 1_000:
        (tmp_path / "short.txt").write_text(content, encoding="utf-8")
        status, error = call_lab(text, tmp_path / "short.txt")
        assert status == 2 and "short.txt is too short; choose a text of 1,000 characters" in error


def test_readme_names_these_losses():
    readme, exercises = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "EXERCISES.md"))
    claim = r"among (\d+) characters has a loss of ln \1 = (\S+);.*?, (\S+)\."
    number, guessing, pairs = re.search(claim, readme).groups()
    alphabet = "".join(sorted(set(exercises)))
    tokens = [text.encode(lines, alphabet) for lines in text.split_lines(exercises)]
    expected = text.pair_loss(*tokens, vocab_size=text.FIRST_CHARACTER + len(alphabet))
    assert int(number) == len(alphabet) and guessing == f"{math.log(len(alphabet)):.2f}"
    assert pairs == f"{expected:.2f}"
    first, later, last = re.findall(r"^ *(?:0|70|700)   (\d\.\d\d)   ", readme, re.MULTILINE)
    assert float(first) > float(guessing) > float(later) > float(pairs) > float(last) + 0.5
