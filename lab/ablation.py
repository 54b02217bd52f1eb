"""Ablation of attention: replace its outputs with zero, with their mean, or with those for another question.

The last of these tests an explanation. If a layer hands on nothing but the length, its outputs for any other
question of that length must do as well: causal scrubbing (Chan et al. 2022). `python -m lab.ablation` tests
the HYPOTHESES about the encoder that reverses.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data import batches_by_length, loss_mask, reverse
from lab.heads import (
    SEQUENCES,
    Head,
    Part,
    attention_modules,
    capture_activations,
    list_blocks,
    list_heads,
    part_name,
    sample_unseen,
    visit_heads,
)
from lab.patching import patch, record
from support import console
from support.config import EVALUATION_BATCH, fixed_generator
from support.figure import percent
from support.puzzles import strip_special_tokens
from support.runs import DEFAULT_FOLDER, Run
from train import load_run
from transformer import PAD, eval_mode, unwrap_model

SCRUBBED = 200                                              # unseen questions of each length
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


@dataclass(frozen=True)
class Hypothesis:
    """The attention of some of an encoder's layers hands on nothing but the length and what matters.

    matters maps contents (N, L) to the symbol that matters at each position, (N, L); by default, none does.
    With differs, the other question must have another one there.
    """

    text: str
    layers: slice                                           # counted from 0
    matters: Callable[[Tensor], Tensor] = torch.zeros_like
    differs: bool = False


HYPOTHESES = (
    Hypothesis("layer 1 hands on nothing but the length", slice(0, 1)),
    Hypothesis("layer 2 hands on nothing but the length", slice(1, 2)),
    Hypothesis("all layers hand on nothing but the mirror symbol", slice(None), reverse),
    Hypothesis("… nothing but the symbol next to it", slice(None), lambda rows: reverse(rows).roll(1, 1)),
    Hypothesis("… not even the mirror symbol", slice(None), reverse, differs=True),
)


def pick_others(matters: Tensor, differs: bool, generator: torch.Generator) -> Tensor:
    """Return a random other question's row for each question and position, both (N, L).

    It agrees in what matters, or differs. A question with which no other agrees keeps its own row.
    """
    suits = (matters[:, None] == matters) != differs                        # (N, N, L)
    itself = torch.eye(len(matters), dtype=torch.bool)[:, :, None]
    suits &= ~itself
    suits |= itself & ~suits.any(dim=1, keepdim=True)
    rows = suits.movedim(2, 0).flatten(0, 1).float().multinomial(1, generator=generator)    # (L · N, 1)
    return rows.view(matters.size(1), -1).T


def scrub(run: Run, hypothesis: Hypothesis, length: int) -> tuple[float, float]:
    """Replace the attention outputs of unseen questions with those of others.

    Returns the fraction of correct symbols, and of those that are correct for the other questions.
    """
    source, inputs, targets = sample_unseen(run, length, SCRUBBED)
    matters, generator = hypothesis.matters(strip_special_tokens(source)), fixed_generator("analysis")
    others = pick_others(matters, hypothesis.differs, generator)
    others = others[:, [0, *range(length), -1]]             # for START and END, only the length can matter
    layers = range(len(attention_modules(run.model)))[hypothesis.layers]
    sites = [part_name(run.model, head) for head in list_heads(run.model) if head[1] in layers]
    activations, columns = record(run.model, inputs), torch.arange(length + 2)
    replaced = {site: activations[site][others, columns] for site in sites}
    with eval_mode(run.model), patch(run.model, replaced) as model:
        predicted = model(*inputs).argmax(dim=-1)
    correct = [(predicted == expected)[:, 1:-1] for expected in (targets, targets[others, columns])]
    return tuple(each.double().mean().item() for each in correct)


def main() -> None:
    parser = console.new_parser("Test what the attention of the encoder that reverses hands on.")
    parser.add_argument(
        "folder", nargs="?", type=console.folder_name, default=DEFAULT_FOLDER, metavar="FOLDER",
        help=f"with the run (default: {DEFAULT_FOLDER})",
    )
    try:
        run = load_run(parser.parse_args().folder, "reverse", "encoder")
    except ValueError as error:
        console.exit_with_error(str(error))
    console.set_threads(None)
    print("Each token's attention outputs are replaced with those for another question, which agrees in\n"
          "the length and in what matters.\n")
    print(f"{'hypothesis, and predicted symbols that are':<50}   correct   correct for the other question")
    for hypothesis in HYPOTHESES:
        scores = [scrub(run, hypothesis, length) for length in run.config.lengths() if length > 1]
        own, other = torch.tensor(scores).mean(dim=0).tolist()
        print(f"{hypothesis.text:<50}{percent(own):>10}   {percent(other):>7}")


if __name__ == "__main__":
    console.run_script(main)
