"""teaching/tiny.py is what transformer.py and train.py are, in 100 lines."""

from pathlib import Path

import pytest
import torch
from conftest import CPU

import train
from data import TASKS, exact_match
from support.config import Config
from teaching import tiny
from transformer import END, MiniTransformer


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def same_model():
    """A tiny model, and MiniTransformer with its weights."""
    small, full = tiny.MiniTransformer(), MiniTransformer()
    missing, unexpected = full.load_state_dict(small.state_dict(), strict=False)
    assert missing == ["positional_encoding.encoding"] and unexpected == []
    return small, full


def test_tiny_has_at_most_100_lines():
    assert len(Path(tiny.__file__).read_text(encoding="utf-8").splitlines()) <= 100


def test_tiny_equals_transformer_in_logits():
    small, full = same_model()
    question, _ = tiny.sample_batch(50)
    for parameter in small.parameters():                    # also biases and norms, which begin as 0 and 1
        torch.nn.init.normal_(parameter, std=0.1)
    full.load_state_dict(small.state_dict(), strict=False)
    assert (small(question) - full(question)).abs().max() <= 1e-5


def test_tiny_equals_train_in_its_first_20_losses():
    small, full = same_model()
    state = train.TrainingState(Config("reverse", "encoder"), CPU)
    state.model.load_state_dict(full.state_dict())
    torch.manual_seed(1)
    losses = [loss for _, loss in zip(range(20), tiny.train(small), strict=False)]
    torch.manual_seed(1)
    batches = (tiny.sample_batch(tiny.BATCH_SIZE) for _ in range(20))
    expected = train.train_epoch(state, (((question,), answer) for question, answer in batches))
    assert losses == pytest.approx(expected.tolist(), abs=1e-5) and losses[-1] < losses[0] - 1


def test_tiny_samples_questions_with_reversed_answers():
    question, answer = tiny.sample_batch(500)
    lengths = question.eq(END).int().argmax(dim=1) - 1
    assert lengths.unique().tolist() == [*range(1, 9)]
    for row, length in enumerate(lengths):
        content, reversed_content = (tokens[row, 1 : length + 1] for tokens in (question, answer))
        assert torch.equal(TASKS["reverse"].answer(content[None])[0], reversed_content)


def test_tiny_exact_match_equals_ours(monkeypatch):
    question, answer = tiny.sample_batch(400)
    prediction = answer.where(torch.rand(answer.shape) < 0.9, 7)    # also START, PAD
    monkeypatch.setattr(tiny, "sample_batch", lambda count: (question, answer))
    found = tiny.exact_match(lambda tokens: torch.nn.functional.one_hot(prediction, 20), 400)
    assert 0.1 < found < 0.9 and found == pytest.approx(exact_match(prediction, answer))
