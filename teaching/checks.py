"""Helpers for tests of the blanks: they report what was expected, and build PyTorch's layers to compare."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from transformer import END, PAD, START

SOURCE = torch.tensor([[START, 7, 5, 9, END], [START, 4, END, PAD, PAD]])
TARGET = torch.tensor([[START, 9, 5, 7], [START, 4, END, PAD]])


def expect(what: str, got: object, expected: object) -> None:
    """Fail unless got equals expected, a tensor or a list, up to rounding; report both."""
    expected = torch.as_tensor(expected)
    assert isinstance(got, Tensor), f"{what}: expected a tensor, got {got!r}"
    shape, correct = tuple(got.shape), tuple(expected.shape)
    assert shape == correct, f"{what}: expected the shape {correct}, got {shape}"
    difference = (got.double() - expected.double()).abs().nan_to_num(torch.inf)
    if (difference <= 1e-5 + 1e-4 * expected.double().abs()).all():
        return
    if got.numel() > 12:                                    # too many to print: only the worst
        worst = difference.argmax()
        what = f"{what}, at {[int(i) for i in torch.unravel_index(worst, got.shape)]}"
        got, expected = got.flatten()[worst], expected.flatten()[worst]
    got, wanted = (x if x.dtype == torch.bool else x.double().round(decimals=5) for x in (got, expected))
    raise AssertionError(f"{what}: expected {wanted.tolist()}, got {got.tolist()}")


def expect_shape(what: str, got: object, *shape: int) -> None:
    """Fail unless got is a tensor of this shape with finite numbers."""
    expect(what, 0 * got if isinstance(got, Tensor) else got, torch.zeros(shape))


def random(*shape: int) -> Tensor:
    """Return normally distributed numbers, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def randomize(module: nn.Module) -> nn.Module:
    """Give a module random weights, also in biases and norms, and return it."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def twins(ours: nn.Module, theirs: nn.Module) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield our parameters with the stacked one that holds them all in PyTorch's corresponding layer."""
    if isinstance(theirs, nn.MultiheadAttention):
        parts = ours.query_projection, ours.key_projection, ours.value_projection
        yield [part.weight for part in parts], theirs.in_proj_weight
        yield [part.bias for part in parts], theirs.in_proj_bias
        yield from twins(ours.output_projection, theirs.out_proj)
    elif isinstance(theirs, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        cross = hasattr(ours, "cross_attention")
        yield from twins(ours.attention, theirs.self_attn)
        yield from twins(ours.attention_norm, theirs.norm1)
        if cross:
            yield from twins(ours.cross_attention, theirs.multihead_attn)
            yield from twins(ours.cross_attention_norm, theirs.norm2)
        yield from twins(ours.feed_forward.expand, theirs.linear1)
        yield from twins(ours.feed_forward.contract, theirs.linear2)
        yield from twins(ours.feed_forward_norm, theirs.norm3 if cross else theirs.norm2)
    else:                                                   # a linear layer or a norm
        yield [ours.weight], theirs.weight
        yield [ours.bias], theirs.bias


@torch.no_grad()
def copy_weights(pairs: Iterable[tuple[list[Tensor], Tensor]]) -> None:
    """Give PyTorch's layers the weights of ours."""
    for ours, theirs in pairs:
        theirs.copy_(torch.cat(ours))


def pytorch_attention(attention: nn.Module) -> nn.MultiheadAttention:
    """Return PyTorch's attention with the weights of ours."""
    d_model = attention.query_projection.in_features
    layer = nn.MultiheadAttention(d_model, attention.num_heads, batch_first=True)
    copy_weights(twins(attention, layer))
    return layer


def pytorch_layer(block: nn.Module) -> nn.Module:
    """Return PyTorch's layer with the weights of our block."""
    d_ff, d_model = block.feed_forward.expand.weight.shape
    layer = (nn.TransformerDecoderLayer if block.cross else nn.TransformerEncoderLayer)(
        d_model, block.attention.num_heads, d_ff, dropout=0.0, activation="gelu", batch_first=True,
        norm_first=block.norm_first,
    )
    copy_weights(twins(block, layer))
    return layer
