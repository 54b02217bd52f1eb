"""Patched with its own activations, a model is unchanged; with another question's, it answers that one."""

import copy
import itertools

import pytest
import torch
from conftest import KINDS, zero

from lab.ablation import ablate
from lab.heads import list_heads, part_name, sample_unseen
from lab.patching import list_sites, patch, record


@pytest.fixture
def questions(run):
    """The inputs for eight questions of one length, and for eight others."""
    _, inputs, _ = sample_unseen(run, 5, 16)
    return [tuple(tokens[rows] for tokens in inputs) for rows in (slice(8), slice(8, 16))]


def test_record_has_every_site_in_order(run, questions):
    activations = record(run.model, questions[0])
    assert sorted(activations) == sorted(list_sites(run.model))
    streams = [site for site in activations if "head" not in site]
    if run.architecture == "encoder-decoder":
        names = "embedding", "layer 1 attention", "layer 1 feed-forward"
        assert streams[:3] == [f"encoder {name}" for name in names]
        names = "embedding", "layer 1 attention", "layer 1 cross-attention"
        assert streams[5:8] == [f"decoder {name}" for name in names]
    else:
        assert streams == ["embedding"] + [
            f"layer {layer} {name}" for layer in (1, 2) for name in ("attention", "feed-forward")
        ]
    embedding = run.model.positional_encoding(run.model.embedding(questions[0][-1]))
    assert torch.equal(activations[streams[0 if len(KINDS[run.architecture]) == 1 else 5]], embedding)


def test_last_site_of_the_stream_determines_the_output(run, questions):
    """All answers come from it, so the other question is answered; its embedding does the same."""
    model, (mine, others) = run.model, questions
    before, expected, other = model(*mine), model(*others), record(model, others)
    last = [site for site in other if "head" not in site][-1]
    embeddings = {site: other[site] for site in other if site.endswith("embedding")}
    for values in {last: other[last]}, embeddings:
        with patch(model, values):
            torch.testing.assert_close(model(*mine), expected)
        assert torch.equal(model(*mine), before)
    with patch(model, record(model, mine)):
        torch.testing.assert_close(model(*mine), before)


def test_stream_patched_with_the_one_before_leaves_out_a_sublayer(run, questions):
    model, (mine, _) = run.model, questions
    streams = {site: x for site, x in record(model, mine).items() if "head" not in site}
    for earlier, later in itertools.pairwise(streams):
        if later.endswith("embedding"):                     # of the other stream
            continue
        *stack, _, layer, name = later.split()
        without = copy.deepcopy(model)
        blocks = without.get_submodule(f"{stack[0]}_blocks" if stack else "blocks")
        part = blocks[int(layer) - 1].get_submodule(name.replace("-", "_"))
        zero(part, "contract" if name == "feed-forward" else "output_projection")
        with patch(model, {later: streams[earlier]}):
            torch.testing.assert_close(model(*mine), without(*mine))


def test_patching_zeros_into_heads_ablates_them(run, questions):
    model, (mine, _) = run.model, questions
    for head in list_heads(model):
        with ablate(model, head):
            expected = model(*mine)
        zeros = torch.zeros(model.attention_layers()[head[0]][head[1]].output_projection.in_features // 2)
        with patch(model, {part_name(run, head): zeros}):
            torch.testing.assert_close(model(*mine), expected)


def test_patch_of_one_position_changes_only_what_can_see_it(models_dir):
    from train import load_run

    run = load_run(models_dir, "reverse", "encoder")
    mine, others = (torch.tensor([[1, *content, 2]]) for content in ([5, 7, 9], [5, 8, 9]))
    mixed = record(run.model, (mine,))["layer 2 attention"].clone()
    mixed[:, 2] = record(run.model, (others,))["layer 2 attention"][:, 2]
    with patch(run.model, {"layer 2 attention": mixed}):
        patched = run.model(mine)
    torch.testing.assert_close(patched[:, 2], run.model(others)[:, 2])      # only the feed-forward is left
    torch.testing.assert_close(patched[:, [0, 1, 3, 4]], run.model(mine)[:, [0, 1, 3, 4]])


def test_patch_rejects_an_unknown_place(run):
    refusal = pytest.raises(ValueError, match="no site 'layer 9 attention'; see lab.patching.list_sites")
    with refusal, patch(run.model, {"layer 9 attention": torch.zeros(16)}):
        pass
