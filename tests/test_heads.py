"""Maps and attention mass are those of plain loops and closed forms."""

import pytest
import torch
from conftest import KINDS, attentions

from data import TASKS, add_special_tokens, format_tokens, make_inputs_and_targets, parse_content
from lab.heads import (
    attention_mass_on,
    map_answer_sources,
    max_test_length,
    measure_attention,
    pick_clear_example,
    sample_unseen,
)
from lab.influence import answer_sensitivity
from train import load_run


@pytest.mark.parametrize(
    ("task", "question", "answer", "positions"),
    [
        ("copy", "9 5 7 5", "9 5 7 5", [[1], [2], [3], [4]]),
        ("reverse", "9 5 7 5", "5 7 5 9", [[4], [3], [2], [1]]),
        ("double", "9 5 9", "9 5 9 9 5 9", [[1], [2], [3], [1], [2], [3]]),
        ("sort", "9 5 7 16", "5 7 9 16", [[2], [2, 3], [1, 2, 3], [4]]),
        ("complete", "9 5 _ 9 _ 7", "9 5 7 9 5 7", [[1, 4], [2], [6], [1, 4], [2], [6]]),
        ("add", "4 2 + 1 9", "0 6 1", [[4], [1, 4, 5], [2, 5]]),             # the 9 makes the carry
    ],
)
@pytest.mark.parametrize("architecture", KINDS)
def test_answer_sources_are_where_the_target_symbol_is(architecture, task, question, answer, positions):
    content = parse_content(question.split(), task)[None]
    target = TASKS[task].answer(content)
    assert format_tokens(target[0], task) == answer
    source, target = (add_special_tokens(x, x.size(1) + 2) for x in (content, target))
    inputs, targets = make_inputs_and_targets(architecture, source, target)
    sizes = targets.size(1), inputs[0].size(1), source.size(1)
    cells = map_answer_sources(architecture, answer_sensitivity(task, content, 20), *sizes)
    first = {"encoder": 1, "encoder-decoder": 0, "decoder": content.size(1) + 1}[architecture]
    expected = {(first + i, place) for i, row in enumerate(positions) for place in row}
    assert {tuple(cell) for cell in cells[0].nonzero().tolist()} == expected
    if task not in ("add", "sort"):
        assert all(targets[0, query] == inputs[0][0, key] for query, key in expected)


def test_attention_mass_equals_a_loop(run):
    source, inputs, targets = sample_unseen(run, max_test_length(run))
    assert inputs[0].shape[0] == 320 and (inputs[0] != 0).all()
    mass = measure_attention(run, source, inputs, targets).mass
    run.model(*inputs)
    kind, first = {"encoder": ("encoder", 1), "decoder": ("decoder", 9), "encoder-decoder": ("cross", 0)}[
        run.architecture
    ]
    for layer, attention in enumerate(attentions(run.model, kind)):
        for head in range(2):
            weights = attention.attention_weights[:, head]
            cells = [weights[:, first + i, 8 - i].mean().item() for i in range(8)]
            assert mass[layer, head].item() == pytest.approx(sum(cells) / 8, abs=1e-6)


def test_chance_is_the_mass_of_uniform_attention(run):
    decoder = run.architecture == "decoder"
    expected = [1 / (10 + i) if decoder else 1 / 10 for i in range(8)]
    assert measure_attention(run, *sample_unseen(run, 8)).chance == pytest.approx(sum(expected) / 8)


def test_attention_mass_counts_only_queries_with_cells():
    """Three heads of 4 queries: one attends uniformly, one to its position, one to the mirror position."""
    maps = torch.stack([torch.full((4, 4), 0.25), torch.eye(4), torch.eye(4).flip(1)])          # (3, 4, 4)
    corner = torch.zeros(4, 4, dtype=torch.bool)
    corner[0, 2:] = True
    torch.testing.assert_close(attention_mass_on(corner, maps), torch.tensor([0.5, 0, 1]))


@pytest.mark.parametrize("kind", ["encoder", "decoder", "cross"])
def test_patterns_equal_a_loop_over_single_tokens(kind, models_dir):
    architecture = "encoder-decoder" if kind == "cross" else kind
    run = load_run(models_dir, "reverse", architecture)
    source, inputs, targets = sample_unseen(run, 6, 20)
    patterns = measure_attention(run, source, inputs, targets).patterns
    if kind == "cross":
        assert {name for name, _ in patterns} == {"encoder", "decoder"}
        return
    run.model(*inputs)
    for layer, attention in enumerate(run.model.attention_layers()[kind]):
        for head in range(2):
            expected = {"previous_token": [], "induction": []}
            for tokens, weights in zip(inputs[0].tolist(), attention.attention_weights[:, head], strict=True):
                previous = [weights[t, t - 1].item() for t in range(1, len(tokens))]
                expected["previous_token"].append(sum(previous) / len(previous))
                after = {
                    t: sum(weights[t, j + 1].item() for j in range(t) if tokens[j] == token)
                    for t, token in enumerate(tokens) if token > 2 and token in tokens[:t]
                }
                if after:
                    expected["induction"].append(sum(after.values()) / len(after))
            for name, values in expected.items():
                mean = sum(values) / len(values)
                assert patterns[kind, name][layer, head].item() == pytest.approx(mean, abs=1e-6)


def test_clear_example_is_answered_correctly_if_any_is(models_dir, monkeypatch):
    run = load_run(models_dir, "reverse", "encoder")
    source, inputs, _ = sample_unseen(run, 8)
    targets = run.model(*inputs).argmax(dim=-1)
    targets[:, 1] = 4 + (targets[:, 1] - 3) % 16            # all wrong, …
    content = source[:, 1:-1]
    unclear = min(range(len(content)), key=lambda row: len(content[row].unique()))
    monkeypatch.setattr("lab.heads.sample_unseen", lambda run, length: (source, inputs, targets))
    assert len(pick_clear_example(run).unique()) == max(len(symbols.unique()) for symbols in content)
    targets[unclear] = run.model(*inputs).argmax(dim=-1)[unclear]           # … but for one
    assert torch.equal(pick_clear_example(run), content[unclear])
