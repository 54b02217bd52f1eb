"""Models can be exported and compiled; they then do the same, and their attention can still be read."""

import pytest
import torch
from test_transformer import KINDS, model_and_input, ragged_source, small_generator, small_model
from torch.optim.swa_utils import AveragedModel

from transformer import generate


@pytest.mark.parametrize("kind", KINDS)
def test_models_can_be_exported_for_other_shapes(kind):
    model, inputs = model_and_input(kind)
    batch, lengths = torch.export.Dim("batch"), ["source", "target"]
    shapes = [{0: batch, 1: torch.export.Dim(lengths[place], max=64)} for place in range(len(inputs))]
    inputs = tuple(map(torch.clone, inputs))                # the same tensor twice would have to stay one
    exported = torch.export.export(model, inputs, dynamic_shapes=tuple(shapes)).module()
    longer = [torch.cat([tokens, tokens.flip(0)])[:3].masked_fill(tokens[:1] == 0, 4) for tokens in inputs]
    for lengths in (2, 3), (5, 2), (3, 5):                  # of source and target, or of an only input
        tokens = [each[:, :length] for each, length in zip(longer, lengths, strict=False)]
        torch.testing.assert_close(exported(*tokens), model(*tokens))


def eagerly_compiled(model):
    return torch.compile(model, backend="eager")


def test_compiled_model_keeps_its_attention():
    model, inputs = model_and_input("encoder")
    expected = model(*inputs)
    weights = model.blocks[1].attention.attention_weights
    compiled = eagerly_compiled(small_model().eval())
    torch.testing.assert_close(compiled(*inputs), expected)
    torch.testing.assert_close(compiled.attention_layers()["encoder"][1].attention_weights, weights)


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_generate_unwraps_a_compiled_model(kind):
    model, source = small_generator(kind), ragged_source(0)
    expected = generate(model, source, 6)
    for wrapped in eagerly_compiled(model), AveragedModel(eagerly_compiled(model)):
        assert torch.equal(generate(wrapped, source, 6), expected)
