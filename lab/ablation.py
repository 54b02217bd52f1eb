"""Ablation of a head, a layer or all attention: replace its outputs with zero or their mean."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from data import batches_by_length, loss_mask
from lab.heads import (
    SEQUENCES,
    Head,
    Part,
    attention_modules,
    capture_activations,
    list_blocks,
    list_heads,
    sample_unseen,
    visit_heads,
)
from support.config import EVALUATION_BATCH
from support.runs import Run
from transformer import PAD, eval_mode, unwrap_model

NOTHING = "nothing"                                         # instead of a part


@contextmanager
def ablate(
    model: nn.Module, *parts: Part, replacement: dict[Head, Tensor] | None = None
) -> Iterator[nn.Module]:
    """Ablate parts of the model's attention: zero ablation, or mean ablation with mean_head_outputs.

    Each head in these parts passes zeros, or its replacement (Dh,), to the output projection. On exit, the
    model is restored. Raises ValueError if it has no such part.
    """
    attentions = attention_modules(model)
    ablated = {head for part in parts for head in list_heads(model, part)}

    def replace_output(head: Head, output: Tensor) -> Tensor:
        if head not in ablated:
            return output
        return replacement[head].to(output).expand_as(output) if replacement else torch.zeros_like(output)

    with ExitStack() as hooks:
        for layer in {head[:2] for head in ablated}:
            heads = list_heads(model, layer)
            hooks.enter_context(visit_heads(attentions[layer], heads, replace_output))
        yield unwrap_model(model)


@contextmanager
def replay(outputs: dict[nn.Module, Tensor]) -> Iterator[None]:
    """Let each module return an output computed earlier, whatever its input, instead of computing it."""
    for module, output in outputs.items():
        module.forward = lambda *inputs, output=output, **masks: output
    try:
        yield
    finally:
        for module in outputs:
            del module.forward                              # its class's own method is there again


def mean_head_outputs(run: Run) -> dict[Head, Tensor]:
    """Return each head's mean output (Dh,) over all tokens of the test sequences."""
    _, inputs, _ = sample_unseen(run)
    attentions, means = attention_modules(run.model), {}
    projections = [attention.output_projection for attention in attentions.values()]
    mixed = capture_activations(run.model, projections, inputs)
    for (layer, attention), (mixture, _) in zip(attentions.items(), mixed, strict=True):
        is_token = inputs[0 if layer[0] == "encoder" else -1] != PAD                    # (N, T)
        by_head = mixture[is_token].float().mean(dim=0).unflatten(0, (attention.num_heads, -1))     # (H, Dh)
        means |= {(*layer, head): mean for head, mean in enumerate(by_head)}
    return means


def logit_margins(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the correct symbol's logit minus the highest other logit, (N, T); ∞ where nothing is scored.

    A prediction is correct exactly when its margin is positive. logits are (N, T, V), targets (N, T).
    """
    index = targets[:, :, None]
    margins = logits.gather(2, index) - logits.scatter(2, index, -torch.inf).amax(dim=2, keepdim=True)
    return margins[:, :, 0].float().where(loss_mask(targets), torch.inf)


def logit_margins_without(
    run: Run, ablations: list[tuple[Part, ...]], replacement: dict[Head, Tensor] | None = None,
    count: int = SEQUENCES,
) -> Tensor:
    """Return the logit margins on test sequences of all lengths under each ablation, (ablations, N, T).

    This also scores generating models: greedy decoding is correct exactly if every teacher-forced step is.
    The blocks before the first ablated one need no second pass, since an ablation cannot change them.
    """
    _, inputs, targets = sample_unseen(run, count=count)
    result = torch.full((len(ablations), *targets.shape), torch.inf, dtype=torch.float32)
    with eval_mode(run.model) as model:
        blocks, attentions = list_blocks(model), attention_modules(model)
        block_of = {module: number for number, block in enumerate(blocks) for module in block.modules()}
        for rows, trimmed in batches_by_length(inputs, EVALUATION_BATCH):
            length = trimmed[-1].size(1)
            intact = [output for _, output in capture_activations(model, blocks, trimmed)]
            for index, parts in enumerate(ablations):
                layers = {head[:2] for part in parts for head in list_heads(model, part)}
                first = min((block_of[attentions[layer]] for layer in layers), default=len(blocks))
                unchanged = dict(zip(blocks[:first], intact, strict=False))
                with replay(unchanged), ablate(model, *parts, replacement=replacement):
                    result[index, rows, :length] = logit_margins(model(*trimmed), targets[rows, :length])
    return result


def correct_by_margin(margins: Tensor) -> Tensor:
    """Return which sequences have a positive margin at every query; (…, N, T) → (…, N) boolean."""
    return (margins > 0).all(dim=-1)
