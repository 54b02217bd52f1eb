"""The Transformer, from scratch, in reading order.

Attention → heads → positions → layer norm → feed-forward → block → model. PyTorch gives us nn.Linear, nn.Embedding,
softmax and autograd; everything above those is written out here, and tests/test_transformer.py holds it equal to
PyTorch's own layers. `python transformer.py` walks one small batch through the model.

Shapes, batch first everywhere: B batch, S source length, T target length, D d_model, H heads, Dh = D/H, V vocabulary.
Attention weights are (B, H, T, S): row = query (who reads), column = key (what is read). True in a mask = may attend.
Section and equation numbers are those of Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762).
"""

import math

import torch
from torch import Tensor


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Mix the values by how well each query matches each key: softmax(QKᵀ/√Dh)·V (eq. 1).

    query (B, H, T, Dh), key and value (B, H, S, Dh), mask broadcastable to (B, H, T, S), True = may attend.
    Returns the mixture (B, H, T, Dh) and the weights (B, H, T, S), whose rows sum to one; a row that may attend to
    nothing is all zeros. Dropout strikes the weights that mix the values, not the ones that are returned.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))          # (B, H, T, S)
    if mask is not None:
        empty = ~mask.any(dim=-1, keepdim=True)                                 # rows with nothing to attend to
        scores = scores.masked_fill(~(mask | empty), -math.inf)                 # e^−inf = 0: exactly no weight
    weights = scores.softmax(dim=-1)                                            # each row sums to one …
    if mask is not None:
        weights = weights.masked_fill(empty, 0.0)                               # … or is zero: all −inf would be NaN
    return torch.nn.functional.dropout(weights, dropout) @ value, weights
