"""Measurements agree with closed forms and plain loops, and leave the model unchanged."""

import copy
import itertools
import math
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from conftest import KINDS, TINY, set_everywhere
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

import lab.ablation
import lab.heads
from data import ARCHITECTURES, TASKS, Task, add_start_end, arrange, to_content, to_text
from lab.ablation import NOTHING, ablated, margins, margins_without, mean_head_outputs
from lab.evidence import PAIRS, Evidence, answer_lengths, by_length, head_table
from lab.heads import (
    ALL_ATTENTION,
    answer_cells,
    answering_kind,
    diagonals,
    first_symbol,
    heads_of,
    longest,
    mean_distance,
    parts_of,
    read,
    relative_entropy,
    share_on,
    unseen_sequences,
)
from lab.influence import dependence, influence, influence_on
from lab.probes import logit_lens, loudness, score_parts, scores_of_query, untrained
from support.config import Config, recipe
from support.runs import Run
from train import load_run
from transformer import FeedForward, generate


def attentions(model, kind):
    """That kind's attention modules, by their names in the checkpoint."""
    names = {"encoder": "encoder_blocks.{}.attention", "decoder": "decoder_blocks.{}.attention"}
    names["cross"] = "decoder_blocks.{}.cross_attention"
    pattern = names[kind] if hasattr(model, "encoder_blocks") else "blocks.{}.attention"
    return [model.get_submodule(pattern.format(layer)) for layer in range(2)]


def zero(module, *names):
    """Set the parameters with one of these names to zero."""
    for full_name, weights in module.named_parameters():
        if any(name in full_name for name in names):
            weights.data.zero_()


def with_edited_weights(model, heads, outputs=None):
    """The model with what the heads give set to zero, or to constants, in the output projection's weights."""
    model = copy.deepcopy(model)
    for kind, layer, head in heads:
        attention = attentions(model, kind)[layer]
        size = attention.output_projection.in_features // attention.num_heads
        columns = attention.output_projection.weight.data[:, head * size : (head + 1) * size]
        if outputs:
            attention.output_projection.bias.data += columns @ outputs[kind, layer, head]
        columns.zero_()
    return model


@pytest.mark.parametrize("by_mean", [False, True])
def test_ablating_a_part_equals_editing_the_weights_and_leaves_no_trace(run, by_mean, monkeypatch):
    source, given, to_say = unseen_sequences(run)
    before = run.model(*given)
    set_everywhere(monkeypatch, lab.heads, "unseen_sequences", lambda run, **_: (source, given, to_say))
    expected_margins = {}
    kinds, places = KINDS[run.architecture], [(0, 0), (0, 1), (1, 0), (1, 1)]
    heads_in = {(kind, *place): [(kind, *place)] for kind in kinds for place in places}
    heads_in |= {(kind, layer): [(kind, layer, 0), (kind, layer, 1)] for kind in kinds for layer in (0, 1)}
    heads_in |= {(kind,): [(kind, *place) for place in places] for kind in kinds}
    heads_in[ALL_ATTENTION] = [(kind, *place) for kind in kinds for place in places]
    assert set(parts_of(run.model)) == set(heads_in)
    outputs = mean_head_outputs(run) if by_mean else None
    for part, heads in heads_in.items():
        expected = with_edited_weights(run.model, heads, outputs)(*given)
        with ablated(run.model, part, replacement=outputs):
            torch.testing.assert_close(run.model(*given), expected, atol=1e-5, rtol=0)
        assert torch.equal(run.model(*given), before) and not torch.allclose(before, expected, atol=1e-4)
        expected_margins[part] = margins(expected, to_say)
    first, second = (kinds[0], 0, 1), (kinds[-1], 1, 0)         # a pair of heads, in two layers
    cuts = [(), *((part,) for part in expected_margins), (first, second)]
    pair = with_edited_weights(run.model, [first, second], outputs)(*given)
    every = [margins(before, to_say), *expected_margins.values(), margins(pair, to_say)]
    for ahead, expected in zip(margins_without(run, cuts, outputs), every, strict=True):
        torch.testing.assert_close(ahead, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("part", [("encoder", 4), ("cross",), ("Encoder", 0), ("encoder", 0, 2), "all"])
def test_a_part_that_the_model_does_not_have_is_refused(part, models_dir):
    run = load_run(models_dir, "reverse", "encoder")
    for refuse in (
        lambda: ablated(run.model, part).__enter__(), lambda: heads_of(run.model, part),
        lambda: margins_without(run, [(part,)]),
    ):
        with pytest.raises(ValueError, match=r"its kinds are encoder and its last head is \('encoder', 1,"):
            refuse()


def in_training_mode(model):
    model.train()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5
    return model


@pytest.mark.parametrize(
    ("change", "digits"),
    [
        (AveragedModel, 6), (lambda model: torch.compile(model, backend="eager"), 6), (in_training_mode, 6),
        (lambda model: model.double(), 4), (lambda model: model.half(), 1),
        (lambda model: model.bfloat16(), 1),
    ],
    ids=["AveragedModel", "compiled", "training mode", "float64", "float16", "bfloat16"],
)
def test_measures_of_a_wrapped_model_or_of_another_precision_are_the_same(run, change, digits, few_sequences):
    expected = Evidence(run)
    other = replace(run, model=change(copy.deepcopy(run.model)))
    modes = [part.training for part in other.model.modules()]
    evidence = Evidence(other)
    rows = head_table(evidence)
    assert [part.training for part in other.model.modules()] == modes
    tolerance = 10**-digits
    torch.testing.assert_close(
        evidence.influence, expected.influence, atol=tolerance, rtol=0, equal_nan=True, check_dtype=False
    )
    for kind, maps in expected.reading.maps.items():
        torch.testing.assert_close(evidence.reading.maps[kind], maps, atol=tolerance, rtol=0)
    assert evidence.margins.keys() == expected.margins.keys()
    if digits > 1:
        assert all(evidence.left(part) == expected.left(part) for part in expected.margins)
        assert evidence.lens == expected.lens and evidence.mean_ablation == expected.mean_ablation
    assert len(rows) == len(head_table(expected)) and all(math.isfinite(row["cost"]) for row in rows)
    scores = scores_of_query(other.model, evidence.reading.given, (KINDS[run.architecture][0], 1, 1), 3)
    assert scores.isfinite().all()


def test_mean_head_outputs_are_means_over_tokens_of_weights_times_values(run):
    _, given, _ = unseen_sequences(run)
    kind = KINDS[run.architecture][-1]
    attention, is_token, memory = attentions(run.model, kind)[1], given[-1] != 0, {}
    hook = attention.value_projection.register_forward_pre_hook(lambda _, inputs: memory.update(x=inputs[0]))
    run.model(*given)
    hook.remove()
    values = attention.value_projection(memory["x"]).unflatten(-1, (2, 8))
    reads = [attention.attention_weights[:, head] @ values[:, :, head] for head in range(2)]
    outputs = mean_head_outputs(run)
    for head, values in enumerate(reads):
        mean = (values * is_token[:, :, None]).sum(dim=(0, 1)) / is_token.sum()
        torch.testing.assert_close(outputs[kind, 1, head], mean)


@pytest.mark.parametrize(
    ("task", "question", "answer", "places"),
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
def test_answer_cells_are_where_the_symbol_to_say_stands(architecture, task, question, answer, places):
    content = to_content(question.split(), task)[None]
    target = TASKS[task].answer(content)
    assert to_text(target[0], task) == answer
    source, target = add_start_end(content, content.size(1) + 2), add_start_end(target, target.size(1) + 2)
    given, to_say = arrange(architecture, source, target)
    queries, keys = to_say.size(1), given[0].size(1)
    cells = answer_cells(architecture, dependence(task, content, 20), queries, keys)
    first = {"encoder": 1, "encoder-decoder": 0, "decoder": content.size(1) + 1}[architecture]
    expected = {(first + i, place) for i, row in enumerate(places) for place in row}
    assert {tuple(cell) for cell in cells[0].nonzero().tolist()} == expected
    if task not in ("add", "sort"):
        assert all(to_say[0, query] == given[0][0, key] for query, key in expected)


def test_shares_are_those_of_a_loop(run):
    source, given, to_say = unseen_sequences(run, longest(run))
    assert given[0].shape[0] == 320 and (given[0] != 0).all()
    shares = read(run, source, given, to_say).shares
    run.model(*given)
    kind, first = {"encoder": ("encoder", 1), "decoder": ("decoder", 9), "encoder-decoder": ("cross", 0)}[
        run.architecture
    ]
    for layer, attention in enumerate(attentions(run.model, kind)):
        for head in range(2):
            weights = attention.attention_weights[:, head]
            cells = [weights[:, first + i, 8 - i].mean().item() for i in range(8)]
            assert shares[layer, head].item() == pytest.approx(sum(cells) / 8, abs=1e-6)


def test_the_chance_level_is_the_share_of_uniform_attention(run):
    decoder = run.architecture == "decoder"
    expected = [1 / (10 + i) if decoder else 1 / 10 for i in range(8)]
    assert read(run, *unseen_sequences(run, 8)).chance == pytest.approx(sum(expected) / 8)


@pytest.mark.parametrize(
    ("architecture", "kind", "diagonal", "anti_diagonal"),
    [
        ("encoder", "encoder", [(1, 1), (2, 2), (3, 3)], [(1, 3), (2, 2), (3, 1)]),
        ("encoder-decoder", "encoder", [(1, 1), (2, 2), (3, 3)], [(1, 3), (2, 2), (3, 1)]),
        ("encoder-decoder", "cross", [(0, 1), (1, 2), (2, 3)], [(0, 3), (1, 2), (2, 1)]),
        ("encoder-decoder", "decoder", [(0, 0), (1, 1), (2, 2)], [(0, 2), (1, 1), (2, 0)]),
        ("decoder", "decoder", [(4, 1), (5, 2), (6, 3)], [(4, 3), (5, 2), (6, 1)]),
    ],
)
def test_diagonals_join_the_query_that_says_a_symbol_with_that_symbol(
    architecture, kind, diagonal, anti_diagonal
):
    first = first_symbol(architecture, kind, 3)
    cells = diagonals(first, 3, 8, 5)
    assert [[tuple(cell) for cell in part.nonzero().tolist()] for part in cells] == [diagonal, anti_diagonal]
    fewer = diagonals(first, 3, diagonal[1][0] + 1, 5)         # two symbols are predicted
    assert fewer.equal(cells[:, : diagonal[1][0] + 1])


def test_scores_of_maps_that_are_known_in_closed_form():
    """Three heads of 4 queries: one attends uniformly, one to its position, one to the mirror position."""
    mirror = torch.eye(4).flip(1)
    maps = torch.stack([torch.full((4, 4), 0.25), torch.eye(4), mirror])        # (3, 4, 4)
    allowed = torch.ones(4, 4, dtype=torch.bool)
    torch.testing.assert_close(relative_entropy(maps, allowed), torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(mean_distance(maps, (0, 0)), torch.tensor([1.25, 0, 2]))
    copying = torch.eye(4).roll(1, dims=1)[:3]                  # cross-attention: query 0 reads key 1, …
    assert mean_distance(copying, (0, 1)).item() == 0
    corner = torch.zeros(4, 4, dtype=torch.bool)
    corner[0, 2:] = True                                        # a single query has cells: the right half
    torch.testing.assert_close(share_on(corner, maps), torch.tensor([0.5, 0, 1]))


def test_entropy_counts_only_what_a_query_may_read_and_queries_that_may_choose():
    allowed = torch.ones(5, 5, dtype=torch.bool).tril()
    maps = allowed / allowed.sum(dim=-1, keepdim=True)          # uniform attention
    assert relative_entropy(maps, allowed).item() == pytest.approx(1)
    maps[4] = torch.tensor([0.5, 0.5, 0, 0, 0])           # may read five keys, and reads two
    assert relative_entropy(maps, allowed).item() == pytest.approx((3 + math.log(2) / math.log(5)) / 4)


class Mirror(nn.Module):
    """Predicts at each position, almost certainly, the symbol at its mirror position."""

    architecture = "encoder"

    def forward(self, tokens):
        return 100 * functional.one_hot(tokens.flip(1), 20).float()


def test_the_influence_on_a_perfect_mirror_is_its_anti_diagonal(models_dir):
    run = load_run(models_dir, "reverse", "encoder")
    source, given, to_say = unseen_sequences(run, longest(run))
    expected = torch.eye(10).flip(1)
    expected[[0, 9]] = 0                                        # START and END are not replaced, …
    moved = influence(replace(run, model=Mirror()), source, given, to_say)
    assert moved[:, 0].isnan().all() and moved[:, :, [0, 9]].isnan().all()      # … START is not scored
    torch.testing.assert_close(moved[:, 1:, 1:9], expected[1:, 1:9].expand(320, -1, -1))


def test_influence_on_cells_leaves_out_what_was_not_measured():
    moved = torch.tensor([[[0.75, 0.25, torch.nan], [0.0, 0.5, torch.nan]]])
    cells = torch.tensor([[[True, False, True], [False, True, False]]])
    assert influence_on(cells, moved) == pytest.approx((1.25 / 1.5, 1.25 / 2, 0.25 / 2))


@pytest.mark.parametrize("architecture", KINDS)
def test_influence_is_that_of_a_loop_over_keys(architecture):
    """With two symbols, there is only one replacement for each."""
    config = Config(**TINY, architecture=architecture, vocab_size=6)
    run = Run(config.model().eval(), config, [], Path())
    source, given, to_say = unseen_sequences(run, 5, count=20)
    moved, before = influence(run, source, given, to_say), run.model(*given).softmax(dim=-1)
    for row, query, key in itertools.product(range(20), range(to_say.size(1)), range(given[0].size(1))):
        other = given[0][row : row + 1].clone()
        symbol = int(other[0, key])
        if symbol < 4 or to_say[row, query] in (0, 1):
            assert moved[row, query, key].isnan()
            continue
        other[0, key] = 9 - symbol
        after = run.model(other, *(tokens[row : row + 1] for tokens in given[1:])).softmax(dim=-1)
        distance = (after[0, query] - before[row, query]).clamp(min=0).sum()
        torch.testing.assert_close(moved[row, query, key], distance, atol=1e-5, rtol=0)
        assert not (architecture == "decoder" and key > query) or moved[row, query, key] == 0


def test_digits_are_replaced_by_digits(models_dir):
    run = load_run(models_dir, "add", "encoder")
    source, given, to_say = unseen_sequences(run, longest(run), count=50)
    seen = []
    run.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    influence(run, source, given, to_say)
    changed = torch.stack(seen[1:]) != given[0]                 # (S, N, S)
    for key, tokens in enumerate(seen[1:]):
        was_digit = (given[0][:, key] >= 4) & (given[0][:, key] < 14)
        assert ((tokens >= 4) & (tokens < 14)).equal((given[0] >= 4) & (given[0] < 14))
        assert changed[key, :, key].equal(was_digit) and changed[key].sum() == was_digit.sum()


def test_the_logit_lens_sees_the_embedding_first_and_what_the_model_says_last(run):
    """Without the later sublayers' contributions, the model predicts what the lens sees earlier."""
    _, given, _ = unseen_sequences(run)
    model = copy.deepcopy(run.model)
    blocks = model.decoder_blocks if len(given) == 2 else model.blocks
    sublayers = ["attention", "cross-attention", "feed-forward"][:: 1 if len(given) == 2 else 2]
    lens = logit_lens(replace(run, model=model), given)
    assert list(lens) == ["embedding", *(f"layer {layer} {name}" for layer in (1, 2) for name in sublayers)]
    *early, last = lens.values()
    assert last.equal(model(*given).argmax(dim=-1)) and not last.equal(early[0])
    for said, (layer, name) in zip(
        reversed(early), reversed([*itertools.product((0, 1), sublayers)]), strict=True
    ):
        part = blocks[layer].get_submodule(name.replace("-", "_"))
        zero(part, "contract" if name == "feed-forward" else "output_projection")
        assert model(*given).argmax(dim=-1).equal(said)


def test_the_lens_sees_a_post_norm_stream_after_its_norm():
    config = Config(**TINY, norm_first=False)
    run = Run(config.model().eval(), config, [], Path())
    _, given, _ = unseen_sequences(run)
    block, stream = run.model.blocks[0], run.model.positional_encoding(run.model.embedding(given[0]))
    stream = block.attention_norm(stream + block.attention(stream, mask=(given[0] != 0)[:, None, None]))
    said = run.model.output_projection(stream).argmax(dim=-1)
    assert logit_lens(run, given)["layer 1 attention"].equal(said)


def test_the_margin_is_the_lead_over_the_best_other_symbol():
    logits = torch.tensor([[[1.0, 5, 2, 3], [4, 1, 0, 2], [9, 9, 9, 9]]])
    ahead = margins(logits, torch.tensor([[3, 2, 0]]))
    assert ahead.tolist() == [[-2, -4, math.inf]]               # PAD is not scored


def test_measuring_sees_what_the_model_does_and_leaves_it_as_it_was(run, few_sequences):
    """A user's own hook acts once, on a projection of each kind; a replaced forward stays replaced."""
    model = copy.deepcopy(run.model)
    expected = copy.deepcopy(run.model)
    attention = attentions(model, answering_kind(run.architecture))[-1]
    other = attentions(expected, answering_kind(run.architecture))[-1]
    for projection in "key_projection", "output_projection":
        getattr(attention, projection).register_forward_hook(lambda part, given, output: 2 * output)
        for weights in getattr(other, projection).parameters():
            weights.data.mul_(2)
    mine, theirs = (
        next(part for part in each.modules() if isinstance(part, FeedForward)) for each in (model, expected)
    )
    replaced = mine.forward = lambda x: 3 * FeedForward.forward(mine, x)
    for weights in theirs.contract.parameters():
        weights.data.mul_(3)
    measured, right = (Evidence(replace(run, model=each)) for each in (model, expected))
    assert [*measured.margins] == [*right.margins]
    for part, ahead in measured.margins.items():
        torch.testing.assert_close(ahead, right.margins[part], atol=1e-4, rtol=1e-4)
    assert mine.forward is replaced and len(attention.key_projection._forward_hooks) == 1


def test_two_heads_that_can_each_be_lost_but_not_both_are_found(run, monkeypatch):
    """Each of two heads takes 3 of a lead of 5; a third takes 1."""
    evidence, (first, second, third, *others) = Evidence(run), heads_of(run.model)
    taken = {first: 3.0, second: 3.0, third: 1.0} | dict.fromkeys(others, 0.0)
    evidence.margins = {NOTHING: torch.full((10, 4), 5.0)} | {
        head: torch.full((10, 4), 5.0 - much) for head, much in taken.items()
    }
    asked = []

    def without(run, pairs, **_):
        asked.extend(pairs)
        return torch.stack([torch.full((10, 4), 5 - sum(taken[head] for head in pair)) for pair in pairs])

    monkeypatch.setattr(lab.ablation, "margins_without", without)
    assert evidence.pair == (first, second, 0.0) and len(asked) == PAIRS
    harmless = Evidence(run)
    harmless.margins = evidence.margins | {first: torch.full((10, 4), 5.0)}
    taken[first] = 0.0
    assert harmless.pair is None


def test_the_scores_of_a_query_give_its_weights_and_are_the_projections_products(run):
    source, given, to_say = unseen_sequences(run, 5, count=1)
    made = {}
    for kind, maps in read(run, source, given, to_say).maps.items():
        scores, weights = scores_of_query(run.model, given, (kind, 1, 1), 3), maps[1, 1, 3]
        allowed = weights > 0
        torch.testing.assert_close((scores / math.sqrt(8))[allowed].softmax(dim=0), weights[allowed])
        attention = attentions(run.model, kind)[1]
        parts = attention.query_projection, attention.key_projection
        hooks = [part.register_forward_hook(lambda part, _, out: made.update({part: out})) for part in parts]
        run.model(*given)
        for hook in hooks:
            hook.remove()
        query, keys = (made[part][0, :, 8:] for part in parts)  # the second head's half
        torch.testing.assert_close(scores, keys @ query[3])


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_parts_of_the_scores_add_up_to_the_scores_that_the_model_uses(architecture, norm_first):
    """Apart from what is the same for all keys; with biases and scales like a trained model's."""
    torch.manual_seed(0)
    config = Config(**TINY, architecture=architecture, norm_first=norm_first, positional="learned")
    model = config.model()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    source = torch.tensor([[1, 5, 9, 12, 2], [1, 7, 7, 4, 2]])
    parts = score_parts(model, source)
    kind, expected = KINDS[architecture][0], torch.empty(1, 2, 5, 5)
    for head, query in itertools.product(range(2), range(5)):
        given = (source[:1], source[:1]) if architecture == "encoder-decoder" else (source[:1],)
        scores = scores_of_query(model, given, (kind, 0, head), query)
        expected[0, head, query] = scores / math.sqrt(8)

    def centred(scores):
        return scores - scores.mean(dim=-1, keepdim=True)

    torch.testing.assert_close(centred(sum(parts.values()))[:1], centred(expected), atol=1e-5, rtol=1e-5)


def test_the_balance_of_a_changed_model_is_not_measured():
    """RMSNorm does not subtract the mean, which the parts of the scores assume."""
    model, source = Config(**TINY).model(), torch.tensor([[1, 5, 7, 9, 2]])
    loudness(model, source)
    norm = model.blocks[0].attention_norm
    norm.bias = None
    norm.forward = lambda x: x * (x.square().mean(-1, keepdim=True) + norm.epsilon).rsqrt() * norm.weight
    with torch.no_grad():
        model.embedding.weight += 1
    with pytest.raises(ValueError, match="the balance cannot be measured: the terms differ from the"):
        loudness(model, source)


def test_loudness_is_the_spread_over_the_keys_of_what_comes_from_positions_or_symbols_alone():
    config = Config(**TINY)
    source = torch.tensor([[1, 5, 9, 12, 2], [1, 7, 7, 4, 2]])
    model = untrained(config)
    torch.manual_seed(config.seed)
    assert torch.equal(config.model().embedding.weight, model.embedding.weight)
    full = loudness(model, source)
    model.embedding.weight.data.zero_()
    model.embedding.weight.data += 3.0                          # all symbols alike: the norm removes the mean
    only_positions = loudness(model, source)
    assert only_positions["symbols"] == only_positions["both"] == pytest.approx(0, abs=1e-6)
    scores = score_parts(model, source)["positions"]
    expected = scores.var(dim=-1, unbiased=False).mean().sqrt().item()
    assert only_positions["positions"] == pytest.approx(expected, rel=1e-5) and full["symbols"] > 0.01
    causal = Config(**TINY, architecture="decoder").model()
    scores = score_parts(causal, source)["symbols"]
    rows = [scores[:, :, query, : query + 1].var(dim=-1, unbiased=False).mean() for query in range(5)]
    expected = (sum(rows) / 5).sqrt().item()
    assert loudness(causal, source)["symbols"] == pytest.approx(expected, rel=1e-5)


def copying_by_hand(config):
    """A copying encoder in which each embedding is its own output and all heads attend uniformly."""
    model = config.model().eval()
    zero(model, "query_projection", "contract", "output_projection")
    model.positional_encoding.table.zero_()
    model.embedding.weight.data = torch.eye(20, 32)
    model.output_projection.weight.data = torch.eye(20, 32)
    return Run(model, config, [], Path())


def test_scores_by_length_are_those_of_a_model_known_in_closed_form():
    run = copying_by_hand(Config(task="copy", d_model=32, num_heads=2, num_layers=2))
    lengths = by_length(run)
    assert [each.length for each in lengths] == list(range(1, 17))
    for each in lengths:
        uniform = 1 / (each.length + 2)
        assert each.exact_match == 1 and each.reading.chance == pytest.approx(uniform)
        assert each.right.tolist() == [1] * (each.length + 1)                               # and END
        assert each.stops_after(each.length) == 100 and each.stops_after(each.length - 1) == 0
        torch.testing.assert_close(each.reading.shares, torch.full((2, 2), uniform))
    run.config.task = "reverse"                                 # correct exactly on palindromes
    one, two, three, *_ = by_length(run)
    assert one.exact_match == 1 and 0 < two.exact_match < 0.5
    edge, middle, other_edge, end = three.right
    assert edge == other_edge < 0.5 and middle == end == 1


def test_what_a_generating_model_writes_after_a_mistake_is_its_own(models_dir):
    """Not what it would have predicted after a correct prefix."""
    run = load_run(models_dir, "copy", "encoder-decoder")
    each = by_length(run)[4]
    written = generate(run.model, each.reading.source, each.target.size(1) - 1)
    assert each.answers[:, 1 : 1 + written.size(1)].equal(written)
    assert each.exact_match == each.reading.right


def test_lengths_that_the_task_does_not_have_or_positions_do_not_reach_are_left_out(models_dir):
    run = load_run(models_dir, "add", "encoder")
    assert [each.length for each in by_length(run)] == [3, 5, 7, 9, 11, 13, 15]
    run.model.positional_encoding.table = run.model.positional_encoding.table[:12]
    assert [each.length for each in by_length(run)] == [3, 5, 7, 9]


def test_the_table_of_heads_has_each_once_and_starts_with_the_most_costly(run):
    evidence = Evidence(run)
    wrong = {part: cost for cost, part in enumerate(parts_of(run.model))} | {NOTHING: 0}
    evidence.margins = {                                        # the tiny model itself may get none right
        part: torch.cat([-torch.ones(cost, 3), torch.ones(100 - cost, 3)]) for part, cost in wrong.items()
    }
    rows, kinds = head_table(evidence), KINDS[run.architecture]
    assert {(row["kind"], row["layer"], row["head"]) for row in rows} == {
        (kind, layer, head) for kind in kinds for layer in (1, 2) for head in (1, 2)
    }
    assert len(rows) == 4 * len(kinds) and rows == sorted(rows, key=lambda row: -row["cost"])
    for row in rows:
        place = row["layer"] - 1, row["head"] - 1
        assert row["exact_match_without"] == pytest.approx(1 - wrong[(row["kind"], *place)] / 100)
        assert row["cost"] == pytest.approx(1 - row["exact_match_without"])
        run.model(*evidence.reading.given)
        weights = attentions(run.model, row["kind"])[place[0]].attention_weights[:, place[1]]
        query, key = {"encoder": (1, 1), "cross": (0, 1), "decoder": (0, 0)}[row["kind"]]
        query, key = (9, 1) if run.architecture == "decoder" else (query, key)
        mirrored = [weights[:, query + i, key + 7 - i].mean().item() for i in range(8)]
        assert row["anti_diagonal"] == pytest.approx(sum(mirrored) / 8, abs=1e-6)
        answering = row["kind"] == kinds[-1]                    # there the answer of reverse is just that
        assert row["answer"] == (pytest.approx(row["anti_diagonal"]) if answering else None)
        queries, keys = range(query, weights.size(1)), range(weights.size(2))
        distance = sum(
            weights[:, t, s].mean().item() * abs((t - query) - (s - key)) for t in queries for s in keys
        )
        assert row["mean_distance"] == pytest.approx(distance / len(queries), abs=1e-5)


def test_lengths_that_a_task_cannot_answer_are_left_out():
    """It swaps the halves of eight symbols; sixteen would give two answers, and other lengths none."""
    def swap_halves(content):
        return content.reshape(-1, 2, 4).flip(1).flatten(1)

    halves = Task(swap_halves, settings={"fixed_length": True})
    with patch.dict(TASKS, {"halves": halves}):
        config = recipe("halves", "encoder", **TINY)
        run = Run(config.model().eval(), config, [], Path("nowhere"))
        assert answer_lengths(run, 62) == {8: 8}
        assert [at.length for at in by_length(run)] == [8]
