"""Probes, the logit lens and the parts of the scores agree with the model's own numbers."""

import copy
import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import KINDS, TINY, assert_readable, attentions, title_of, zero
from probes import draw_balance, initial_model, linear_probe, score_parts, score_std

from data import ARCHITECTURES, loss_mask
from lab.heads import compute_query_scores, measure_attention, sample_unseen
from lab.probes import logit_lens
from support.config import Config
from support.figure import picture_style
from support.runs import Run


def test_logit_lens_starts_at_the_embedding_and_ends_at_the_output(run):
    """Without the later sublayers' contributions, the model predicts what the lens sees earlier."""
    _, inputs, targets = sample_unseen(run)
    scored = loss_mask(targets)
    model = copy.deepcopy(run.model)
    blocks = model.decoder_blocks if len(inputs) == 2 else model.blocks
    sublayers = ["attention", "cross-attention", "feed-forward"][:: 1 if len(inputs) == 2 else 2]
    lens = logit_lens(replace(run, model=model), inputs)
    assert list(lens) == ["embedding", *(f"layer {layer} {name}" for layer in (1, 2) for name in sublayers)]
    *early, last = lens.values()
    assert last[scored].equal(model(*inputs).argmax(dim=-1)[scored]) and not last.equal(early[0])
    for predictions, (layer, name) in zip(
        reversed(early), reversed([*itertools.product((0, 1), sublayers)]), strict=True
    ):
        part = blocks[layer].get_submodule(name.replace("-", "_"))
        zero(part, "contract" if name == "feed-forward" else "output_projection")
        assert model(*inputs).argmax(dim=-1)[scored].equal(predictions[scored])


def test_logit_lens_reads_a_post_norm_stream_after_its_norm():
    config = Config(**TINY, norm_first=False)
    run = Run(config.build_model().eval(), config, [], Path())
    _, inputs, targets = sample_unseen(run)
    block, stream = run.model.blocks[0], run.model.positional_encoding(run.model.embedding(inputs[0]))
    stream = block.attention_norm(stream + block.attention(stream, mask=(inputs[0] != 0)[:, None, None]))
    predictions = run.model.output_projection(stream).argmax(dim=-1)
    scored = loss_mask(targets)
    assert logit_lens(run, inputs)["layer 1 attention"][scored].equal(predictions[scored])


def test_query_scores_give_the_attention_weights(run):
    source, inputs, targets = sample_unseen(run, 5, count=1)
    made = {}
    for kind, maps in measure_attention(run, source, inputs, targets).maps.items():
        (scores, size), weights = compute_query_scores(run.model, inputs, (kind, 1, 1), 3), maps[1, 1, 3]
        assert size == 8
        allowed = weights > 0
        torch.testing.assert_close((scores / math.sqrt(8))[allowed].softmax(dim=0), weights[allowed])
        attention = attentions(run.model, kind)[1]
        parts = attention.query_projection, attention.key_projection
        hooks = [part.register_forward_hook(lambda part, _, out: made.update({part: out})) for part in parts]
        run.model(*inputs)
        for hook in hooks:
            hook.remove()
        query, keys = (made[part][0, :, 8:] for part in parts)  # the second head's half
        torch.testing.assert_close(scores, keys @ query[3])


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_score_parts_add_up_to_the_models_scores(architecture, norm_first):
    """Apart from what is the same for all keys; with biases and scales like a trained model's."""
    torch.manual_seed(0)
    config = Config(**TINY, architecture=architecture, norm_first=norm_first, positional="learned")
    model = config.build_model()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    source = torch.tensor([[1, 5, 9, 12, 2], [1, 7, 7, 4, 2]])
    parts = score_parts(model, source)
    kind, expected = KINDS[architecture][0], torch.empty(1, 2, 5, 5)
    for head, query in itertools.product(range(2), range(5)):
        inputs = (source[:1], source[:1]) if architecture == "encoder-decoder" else (source[:1],)
        scores, _ = compute_query_scores(model, inputs, (kind, 0, head), query)
        expected[0, head, query] = scores / math.sqrt(8)

    def centred(scores):
        return scores - scores.mean(dim=-1, keepdim=True)

    torch.testing.assert_close(centred(sum(parts.values()))[:1], centred(expected), atol=1e-5, rtol=1e-5)


def test_score_std_rejects_a_modified_model():
    """RMSNorm does not subtract the mean, which the parts of the scores assume."""
    model, source = Config(**TINY).build_model(), torch.tensor([[1, 5, 7, 9, 2]])
    score_std(model, source)
    norm = model.blocks[0].attention_norm
    norm.bias = None
    norm.forward = lambda x: x * (x.square().mean(-1, keepdim=True) + norm.epsilon).rsqrt() * norm.weight
    with torch.no_grad():
        model.embedding.weight += 1
    with pytest.raises(ValueError, match="the balance cannot be measured: the terms differ from the"):
        score_std(model, source)


def test_balance_picture_compares_the_stronger_part_with_the_weaker():
    here, scaled = {"positions": 0.96, "symbols": 0.06}, {"positions": 0.0125, "symbols": 2.34}
    with picture_style():
        figure = draw_balance({"one": (here, 1.0), "the other": (scaled, 0.24)})
    assert_readable(figure)
    assert title_of(figure) == (
        "With the other, symbols are 187 times as strong as positions, and 24% of the answers are correct"
    )
    axes, = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.96, 0.06, 0.0125, 2.34]
    labels = [text.get_text() for text in axes.texts]
    assert labels == ["positions: 16 times as strong", "symbols", "positions", "symbols: 187 times as strong"]


def test_score_std_equals_scores_of_positions_or_symbols_alone():
    config = Config(**TINY)
    source = torch.tensor([[1, 5, 9, 12, 2], [1, 7, 7, 4, 2]])
    model = initial_model(config)
    torch.manual_seed(config.seed)
    assert torch.equal(config.build_model().embedding.weight, model.embedding.weight)
    full = score_std(model, source)
    model.embedding.weight.data.zero_()
    model.embedding.weight.data += 3.0                          # all symbols alike: the norm removes the mean
    only_positions = score_std(model, source)
    assert only_positions["symbols"] == only_positions["both"] == pytest.approx(0, abs=1e-6)
    scores = score_parts(model, source)["positions"]
    expected = scores.var(dim=-1, unbiased=False).mean().sqrt().item()
    assert only_positions["positions"] == pytest.approx(expected, rel=1e-5) and full["symbols"] > 0.01
    causal = Config(**TINY, architecture="decoder").build_model()
    scores = score_parts(causal, source)["symbols"]
    rows = [scores[:, :, query, : query + 1].var(dim=-1, unbiased=False).mean() for query in range(5)]
    expected = (sum(rows) / 5).sqrt().item()
    assert score_std(causal, source)["symbols"] == pytest.approx(expected, rel=1e-5)


def test_linear_probe_reads_only_what_is_linear():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(600, 8, generator=generator)
    held_out = torch.arange(600) >= 400
    assert linear_probe(states, states[:, :3].argmax(dim=1), held_out) > 0.95
    assert linear_probe(states, (states[:, 0] * states[:, 1] > 0).long(), held_out) < 0.65      # as XOR
    assert linear_probe(states, torch.randint(3, (600,), generator=generator), held_out) < 0.45
