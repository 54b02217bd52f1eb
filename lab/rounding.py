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
    """Return the bound for x·Wᵀ + b, in units of roundoff: the number of terms times their absolute sum."""
    terms = F.linear((x != 0).to(x), (weight != 0).to(x)) + 1           # adding 0 is exact
    return terms * F.linear(x.abs(), weight.abs(), bias.abs())


def matmul_error(x: Tensor, y: Tensor) -> Tensor:
    """Return the bound for x @ y: the number of terms times their absolute sum."""
    return ((x != 0).to(x) @ (y != 0).to(x)) * (x.abs() @ y.abs())


def softmax_error(scores: Tensor, dim: int) -> Tensor:
    """Return the bound for a softmax: each exponent is rounded, and so is their sum."""
    gap = (scores - scores.amax(dim, keepdim=True)).nan_to_num(neginf=0.0).abs()
    weights = scores.softmax(dim)
    return weights * (gap + (weights * gap).sum(dim, keepdim=True) + scores.size(dim) + 8)


def layer_norm_effect(
    gradient: Tensor, x: Tensor, shape: tuple[int], weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Return what rounding in a layer norm can do to the result, in units of roundoff.

    An error in the mean shifts all features together, one in the variance scales all together.
    """
    mean, variance = x.mean(dim=-1, keepdim=True), x.var(dim=-1, keepdim=True, correction=0) + eps
    mean_error = (shape[0] + 1) * x.abs().mean(dim=-1)
    relative = (shape[0] + 6) / 2 + mean_error * (x - mean).abs().mean(dim=-1) / variance[..., 0]
    scaled, output = gradient * weight / variance.sqrt(), F.layer_norm(x, shape, weight, bias, eps)
    together = scaled.sum(dim=-1).abs() * mean_error + (scaled * (x - mean)).sum(dim=-1).abs() * relative
    return together + (4 * (scaled * (x - mean)).abs() + (gradient * output).abs()).sum(dim=-1)


def independent(error: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the effect of an operation whose results have separate errors, with these bounds."""
    return lambda gradient, *arguments, **settings: gradient.abs() * error(*arguments, **settings)


EFFECTS: dict[str, Callable[..., Tensor]] = {               # in units of roundoff, by the operation's name
    "linear": independent(linear_error),
    "matmul": independent(matmul_error),
    "softmax": independent(softmax_error),
    "layer_norm": layer_norm_effect,
    "gelu": independent(lambda x: 8 * x.abs()),
    "add": independent(lambda x, y: (x + y).abs()),
    "div": independent(lambda x, y: (x / y).abs()),
}


class SumErrors(TorchFunctionMode):
    """Add up the errors of all operations, each times its effect on the result, when that is known."""

    def __init__(self):
        super().__init__()
        self.total = torch.zeros(())                        # (N,) after the backward pass

    def __torch_function__(self, function, types, arguments=(), settings=None):
        settings = settings or {}
        result, name = function(*arguments, **settings), function.__name__.strip("_")
        if not isinstance(result, Tensor) or not result.is_floating_point() or name in EXACT:
            return result
        if name not in EFFECTS:
            raise ValueError(f"no bound is known for the rounding of {name}; add one to lab.rounding.EFFECTS")

        def collect(gradient: Tensor) -> None:
            effect = EFFECTS[name](gradient, *arguments, **settings)
            self.total = self.total + UNIT_ROUNDOFF * effect.flatten(1).sum(dim=1)

        result.register_hook(collect)
        return result


def bound_rounding(
    model: nn.Module, inputs: tuple[Tensor, ...], margin: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return by how much rounding can change the margin of each question, margin(logits), (N,)."""
    exact = copy.deepcopy(unwrap_model(model)).double().eval().requires_grad_(True)
    with SumErrors() as errors:
        logits = exact(*inputs)
    margin(logits).sum().backward()
    return errors.total.detach()
