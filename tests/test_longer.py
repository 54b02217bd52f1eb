"""Rotary attention depends on differences, coupled positions lead to the answer, and training generalises."""

import pytest
import torch

from lab import longer
from support.files import read_archive
from transformer import END, START, MultiHeadAttention, generate


def test_rotate_equals_rotation_matrices():
    """As in equation 15 of RoFormer: a block-diagonal matrix of 2 × 2 rotations."""
    x, positions = torch.randn(2, 3, 4, 6), torch.tensor([0, 1, 7, 1_000])
    for token, position in enumerate(positions.double()):
        angles = [position / 50 ** (2 * pair / 6) for pair in range(3)]
        blocks = [torch.tensor([[a.cos(), -a.sin()], [a.sin(), a.cos()]]) for a in angles]
        expected = x[:, :, token] @ torch.block_diag(*blocks).T.float()
        torch.testing.assert_close(
            longer.rotate(x, positions, base=50.0)[:, :, token], expected, atol=2e-4, rtol=0
        )


def test_rotated_scores_depend_only_on_differences():
    query, key = torch.randn(2, 1, 1, 5, 64)
    positions = torch.tensor([3, 0, 10, 11, 200])
    scores = [
        longer.rotate(query, positions + shift) @ longer.rotate(key, positions + shift).transpose(-2, -1)
        for shift in (0, 1, 897)
    ]
    assert (scores[0] - query @ key.transpose(-2, -1)).abs().max() > 1
    torch.testing.assert_close(scores[1], scores[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(scores[2], scores[0], atol=2e-3, rtol=0)     # rounded angles


def test_rotation_keeps_norms():
    x = torch.randn(2, 1, 9, 64)
    rotated = longer.rotate(x, torch.arange(9))
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(rotated[:, :, 0], x[:, :, 0])        # position 0 is not rotated
    assert not torch.allclose(rotated[:, :, 1], x[:, :, 1], atol=0.1)


@pytest.mark.parametrize(("task", "fetched"), [("copy", [10, 20, 30, 40]), ("reverse", [30, 20, 10, 40])])
def test_couple_positions_leads_to_what_comes_next(task, fetched):
    question = torch.tensor([[0, 10, 20, 30, 40]])
    positions = longer.couple_positions(task, question, shift=100)[0]
    assert positions.tolist() == [0, 10, 20, 30, 40, *(100 + each for each in fetched)]


@pytest.mark.parametrize("task", longer.TASKS)
def test_coupled_tokens_are_the_next_of_the_answer(task):
    """At the position of each token of the answer, the question has what comes next."""
    generator = torch.Generator().manual_seed(0)
    tokens, answers = longer.sample_batch(task, 7, 20, generator)
    assert (tokens[:, [0, 9]] == START).all() and (tokens[:, 8] == END).all()
    model = longer.LongTransformer(task)
    for positions in (model.assign_positions(7, 20, each) for each in (None, generator)):
        question, answer = positions[:, :9], positions[:, 9:] - longer.NUM_POSITIONS
        found = (answer[:, :, None] == question[:, None, :]).int()
        assert (found.sum(dim=-1) == 1).all()
        assert torch.equal(tokens[:, :9].gather(1, found.argmax(dim=-1)), answers)


@pytest.mark.parametrize("without", ["", "coupling"])
def test_random_positions_are_ordered_subsets(without):
    model, generator = longer.LongTransformer("copy", without), torch.Generator().manual_seed(0)
    positions = model.assign_positions(20, 2_000, generator)[:, :22]
    assert (positions.diff(dim=1) > 0).all()
    assert len(positions.unique(dim=0)) == 2_000
    if not without:                                         # all, and only those, occur
        assert torch.equal(positions.unique(), torch.arange(longer.NUM_POSITIONS))


def test_logarithm_multiplies_scores_by_that_of_the_number_of_keys():
    x, mask = torch.randn(1, 6, 64), torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    attentions = [longer.LongAttention(rotation=False, logarithm=each) for each in (True, False)]
    attentions[1].load_state_dict(attentions[0].state_dict())
    for attention in attentions:
        attention(x, mask=mask)
    scaled, plain = (attention.attention_weights[0, 0] for attention in attentions)
    for row in range(6):
        expected = plain[row, : row + 1] ** torch.tensor(row + 1.0).log()   # softmax(c·scores) ∝ softmax^c
        torch.testing.assert_close(scaled[row, : row + 1], expected / expected.sum())


def test_attention_without_both_is_that_of_the_tutorial():
    x, mask = torch.randn(2, 6, 64), torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    ours, tutorial = longer.LongAttention(rotation=False, logarithm=False), MultiHeadAttention(64, 1)
    ours.load_state_dict(tutorial.state_dict())
    assert torch.equal(ours(x, mask=mask), tutorial(x, mask=mask))
    assert torch.equal(ours.attention_weights, tutorial.attention_weights)


def test_absolute_positions_add_the_sinusoids_at_them():
    model = longer.LongTransformer("copy", without="rotation")
    seen, x = [], torch.zeros(1, 5, longer.D_MODEL)
    model.positional_encoding.positions = torch.tensor([[[0, 3, 9, 10, 1_103]]])
    seen = model.positional_encoding(x)[0]
    expected = longer.transformer.sinusoidal_encoding(2_200, longer.D_MODEL, longer.ROTATION_BASE)
    assert torch.equal(seen, expected[[0, 3, 9, 10, 1_103]])


@pytest.fixture(scope="module")
def trained():
    return longer.train_model("reverse", without="", seed=0, steps=400)


def test_training_on_20_symbols_suffices_for_100(trained):
    assert longer.score(trained, 100) == 1


def test_generate_writes_the_answers_that_are_scored(trained):
    tokens, answers = longer.sample_batch("reverse", 30, 5, torch.Generator().manual_seed(1))
    assert torch.equal(generate(trained, tokens[:, :33], 40), answers)


@pytest.fixture
def brief(monkeypatch):
    monkeypatch.setattr(longer, "STEPS", 2)
    monkeypatch.setattr(longer, "TEST_LENGTHS", (2, 30))


def test_main_prints_saves_and_draws(brief, call_lab, tmp_path):
    options = "--task", "copy", "--seeds", "2", "--compare", "--output-dir", tmp_path
    header, *rows, saved = call_lab(longer, *options)
    assert header.split() == ["2", "30", "symbols"]
    settings = ["all ingredients", *map("without {}".format, longer.INGREDIENTS)]
    assert [row.split("  ")[0] for row in rows] == [f"copy, {each}" for _ in range(3) for each in settings]
    assert saved == f"saved {tmp_path / 'lengths.png'}" and (tmp_path / "lengths.png").stat().st_size > 10_000
    assert len([*tmp_path.glob("*.pt")]) == 12


def test_main_saves_a_model_that_scores_the_same(brief, call_lab, tmp_path):
    call_lab(longer, "--task", "reverse", "--without", "random", "--output-dir", tmp_path)
    run = read_archive(tmp_path / "reverse_without_random_0.pt")
    model = longer.LongTransformer(run["task"], run["without"])
    model.load_state_dict(run["model"])
    assert run["scores"] == [longer.score(model, length) for length in (2, 30)]


def test_means_over_seeds_are_drawn(tmp_path):
    for seed, scores in enumerate([[1, 1, 1, 1, 1, 0.5], [1, 1, 1, 1, 1, 1.0]]):
        torch.save({"task": "copy", "without": "", "scores": scores}, tmp_path / f"{seed}.pt")
    torch.save({"task": "copy", "without": "random", "scores": [0.25] * 6}, tmp_path / "2.pt")
    torch.save({"task": "reverse", "without": "random", "scores": [0] * 6}, tmp_path / "3.pt")
    figure = longer.draw_scores(longer.read_scores(tmp_path))
    (axes,) = figure.axes                                   # reverse lacks what it would be compared with
    assert {line.get_label(): line.get_ydata()[-1] for line in axes.get_lines()} == {
        "all ingredients": 75, "without random": 25,
    }
    assert figure.get_suptitle().endswith("75% correct on 1,000")


def test_main_names_a_mistake(call_lab, tmp_path):
    for options, words in (("--without", "rotations"), "did you mean rotation"), (
        ("--compare", "--seeds", 0, "--output-dir", tmp_path), f"no models in {tmp_path}"
    ):
        status, error = call_lab(longer, *options)
        assert status == 2 and error.startswith("error: ") and words in error and error.count("\n") == 1
