"""Bounds on what float32 rounding can do to a model's answers, to first order.

The model runs in float64. For each operation that would round in float32, the error has a known bound, and
the gradient shows how much an error there would change the answer. Added up over all operations, this bounds
the total, in whatever order sums are computed (Higham 2002, Accuracy and Stability of Numerical Algorithms,
chapter 3).
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from transformer import unwrap_model

UNIT_ROUNDOFF = 2.0**-24                                    # of float32
EXACT = {                                                   # operations that only move or select numbers
    "unflatten", "flatten", "transpose", "masked_fill", "embedding", "unbind", "cat", "zeros_like", "relu",
    "dropout", "getitem", "detach",
}


def linear_error(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the bound in units of roundoff for x·Wᵀ + b: n + 1 terms, each rounded up to n + 1 times."""
    return (x.size(-1) + 1) * F.linear(x.abs(), weight.abs(), None if bias is None else bias.abs())


def matmul_error(x: Tensor, y: Tensor) -> Tensor:
    """Return the bound for x @ y: sums of n products."""
    return x.size(-1) * (x.abs() @ y.abs())


def layer_norm_error(x: Tensor, shape: tuple[int], weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the bound for a layer norm, whose mean and variance are sums of n terms."""
    size, mean = shape[0], x.mean(dim=-1, keepdim=True)
    distance, variance = (x - mean).abs(), x.var(dim=-1, keepdim=True, correction=0) + eps
    mean_error = (size + 1) * x.abs().mean(dim=-1, keepdim=True)
    relative = (size + 6) / 2 + mean_error * distance.mean(dim=-1, keepdim=True) / variance     # of √variance
    error = (mean_error + distance + distance * relative) / variance.sqrt()
    return 2 * error * weight.abs() + (distance / variance.sqrt() * weight.abs() + bias.abs())


def softmax_error(scores: Tensor, dim: int) -> Tensor:
    """Return the bound for a softmax: each exponent is rounded, and so is the sum."""
    gap = (scores - scores.amax(dim, keepdim=True)).nan_to_num(neginf=0.0).abs()
    weights = scores.softmax(dim)
    return weights * (gap + (weights * gap).sum(dim, keepdim=True) + scores.size(dim) + 8)


ERRORS: dict[str, Callable[..., Tensor]] = {                # in units of roundoff, by the operation's name
    "linear": linear_error,
    "matmul": matmul_error,
    "layer_norm": layer_norm_error,
    "softmax": softmax_error,
    "gelu": lambda x: 8 * x.abs(),
    "add": lambda x, y: (x + y).abs(),
    "div": lambda x, y: (x / y).abs(),
}


class SumErrors(TorchFunctionMode):
    """Add up the bounds of all operations, each times the gradient of the result, when that is computed."""

    def __init__(self):
        super().__init__()
        self.total = torch.zeros(())                        # (N,) after the backward pass

    def __torch_function__(self, function, types, arguments=(), settings=None):
        result = function(*arguments, **(settings or {}))
        name = function.__name__.strip("_")
        if not isinstance(result, Tensor) or not result.is_floating_point() or name in EXACT:
            return result
        if name not in ERRORS:
            raise ValueError(f"no bound is known for the rounding of {name}; add one to lab.rounding.ERRORS")
        with torch.no_grad(), torch._C.DisableTorchFunction():
            error = UNIT_ROUNDOFF * ERRORS[name](*arguments, **(settings or {}))
        result.register_hook(lambda gradient: self.collect(gradient.abs() * error))
        return result

    def collect(self, errors: Tensor) -> None:
        self.total = self.total + errors.flatten(1).sum(dim=1)


def bound_rounding(
    model: nn.Module, inputs: tuple[Tensor, ...], margin: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return by how much rounding can change the margin of each question, margin(logits), (N,)."""
    exact = copy.deepcopy(unwrap_model(model)).double().eval().requires_grad_(True)
    with SumErrors() as errors:
        logits = exact(*inputs)
    margin(logits).sum().backward()
    return errors.total
