"""Activation patching: let a model answer one question with activations from another (Meng et al. 2022).

Sites have names: the residual stream, (B, T, D), before the first sublayer and after each, and the output of
each head, (B, T, Dh).

    "embedding"   "layer 1 attention"   "layer 1 feed-forward"   …   "layer 1, head 1"   …

An encoder–decoder has two streams: "encoder embedding" …, "decoder layer 1 cross-attention" …
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from unittest import mock

from torch import Tensor, nn

from lab.heads import attention_modules, list_heads, list_streams, part_name, visit_heads
from transformer import eval_mode, unwrap_model

Visitor = Callable[[str, Tensor], Tensor]                   # of a site and its activation


def name_sublayers(block: nn.Module, layer: str) -> dict[nn.Module, str]:
    """Return the name of the site after each sublayer; each sublayer has a norm."""
    names = [name for name, _ in block.named_children() if hasattr(block, f"{name}_norm")]
    return {getattr(block, name): f"{layer} {name.replace('_', '-')}" for name in names}


def list_sites(model: nn.Module) -> list[str]:
    """Return the names of all sites, those of the streams first."""
    sites = []
    for stack, blocks in list_streams(model).items():
        sites.append(f"{stack}embedding")
        for number, block in enumerate(blocks, start=1):
            sites += name_sublayers(block, f"{stack}layer {number}").values()
    return sites + [part_name(model, head) for head in list_heads(model)]


def visit_input(block: nn.Module, site: str, visit: Visitor) -> AbstractContextManager:
    """Return a context in which the stream is visited before a block."""
    return block.register_forward_pre_hook(lambda block, inputs: visit(site, *inputs))


def visit_sublayers(block: nn.Module, layer: str, visit: Visitor) -> AbstractContextManager:
    """Return a context in which the stream is visited after each of a block's sublayers."""
    apply_sublayer, sites = block.apply_sublayer, name_sublayers(block, layer)

    def apply_and_visit(x: Tensor, norm: nn.Module, sublayer: nn.Module, **arguments) -> Tensor:
        return visit(sites[sublayer], apply_sublayer(x, norm, sublayer, **arguments))

    return mock.patch.object(block, "apply_sublayer", apply_and_visit)


@contextmanager
def visit_sites(model: nn.Module, visit: Visitor) -> Iterator[None]:
    """Call visit(site, activation) at each site of a pass; the model continues with what it returns."""
    with ExitStack() as contexts:
        for stack, blocks in list_streams(model).items():
            contexts.enter_context(visit_input(blocks[0], f"{stack}embedding", visit))
            for number, block in enumerate(blocks, start=1):
                contexts.enter_context(visit_sublayers(block, f"{stack}layer {number}", visit))
        for layer, attention in attention_modules(model).items():
            sites = [part_name(model, head) for head in list_heads(model, layer)]
            contexts.enter_context(visit_heads(attention, sites, visit))
        yield


def record(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Return the activation at each site in one pass over the model's inputs, in order of computation."""
    activations = {}

    def keep(site: str, activation: Tensor) -> Tensor:
        activations[site] = activation
        return activation

    with eval_mode(model), visit_sites(model, keep):
        unwrap_model(model)(*inputs)
    return activations


@contextmanager
def patch(model: nn.Module, values: dict[str, Tensor]) -> Iterator[nn.Module]:
    """Let the model continue with these values at these sites; on exit, it computes its own again.

    Each value has the shape of the activation, or broadcasts to it: zeros of (Dh,) ablate a head. Raises
    ValueError for an unknown site.
    """
    if unknown := values.keys() - {*list_sites(model)}:
        raise ValueError(f"this model has no site {min(unknown)!r}; see lab.patching.list_sites")

    def replace(site: str, activation: Tensor) -> Tensor:
        return values[site].expand_as(activation) if site in values else activation

    with visit_sites(model, replace):
        yield unwrap_model(model)
