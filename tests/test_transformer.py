"""Each part of transformer.py against PyTorch's own layer, a closed form or a brute-force loop."""

import math

import pytest
import torch
import torch.nn.functional as F

from transformer import scaled_dot_product_attention


def random_qkv(target=5, source=7, heads=2, head_size=4, batch=3):
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, heads, target, head_size), (batch, heads, source, head_size), (batch, heads, source, head_size)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def random_mask(target=5, source=7, batch=3):
    mask = torch.rand(batch, 1, target, source, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[..., 0] = True                                                         # no row without anything to see
    return mask


def test_attention_is_the_formula_written_as_loops():
    query, key, value = (tensor.detach() for tensor in random_qkv())
    mask = random_mask()
    mixture, weights = scaled_dot_product_attention(query, key, value, mask)
    for b in range(3):
        for h in range(2):
            for t in range(5):
                scores = [query[b, h, t] @ key[b, h, s] / math.sqrt(4) for s in range(7)]
                odds = [math.exp(score) if mask[b, 0, t, s] else 0.0 for s, score in enumerate(scores)]
                expected = torch.tensor([odd / sum(odds) for odd in odds])
                torch.testing.assert_close(weights[b, h, t], expected)
                torch.testing.assert_close(mixture[b, h, t], sum(w * value[b, h, s] for s, w in enumerate(expected)))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_pytorch_forward_and_backward(masked):
    mask = random_mask() if masked else None
    ours, theirs = random_qkv(), random_qkv()
    mixture, _ = scaled_dot_product_attention(*ours, mask)
    expected = F.scaled_dot_product_attention(*theirs, attn_mask=mask)
    torch.testing.assert_close(mixture, expected, atol=1e-5, rtol=0)
    mixture.square().sum().backward()
    expected.square().sum().backward()
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad, their.grad, atol=1e-5, rtol=0)


def test_a_row_with_nothing_to_attend_to_is_zero_forward_and_backward():
    query, key, value = random_qkv()
    mask = random_mask()
    mask[1, 0, 2] = False
    mixture, weights = scaled_dot_product_attention(query, key, value, mask)
    assert (weights[1, :, 2] == 0).all() and (mixture[1, :, 2] == 0).all()
    mixture.sum().backward()
    for tensor in (query, key, value):
        assert tensor.grad.isfinite().all()
    assert (query.grad[1, :, 2] == 0).all() and (query.grad[1, :, 1] != 0).any()


def test_masked_keys_get_exactly_no_weight_in_half_precision():
    query, key, value = (tensor.detach().half() * 100 for tensor in random_qkv())
    mask = random_mask()
    _, weights = scaled_dot_product_attention(query, key, value, mask)
    assert (weights.masked_select(~mask.expand_as(weights)) == 0).all() and weights.isfinite().all()


def test_returned_weights_sum_to_one_even_with_dropout():
    torch.manual_seed(0)
    mixture, weights = scaled_dot_product_attention(*random_qkv(), dropout=0.5)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 2, 5))
    undropped, _ = scaled_dot_product_attention(*random_qkv())
    assert not torch.allclose(mixture, undropped)
