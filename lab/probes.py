"""The logit lens: what a model would predict after each sublayer."""

import torch
from torch import Tensor, nn

from data import batches_by_length
from lab.heads import capture_activations
from support.config import EVALUATION_BATCH
from support.runs import Run
from transformer import eval_mode


def list_residual_readers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that read the residual stream before each sublayer, and after the last one.

    Each is named after the preceding sublayer of the stack that answers: "embedding", "layer 1 attention", …
    """
    encoder_decoder = model.architecture == "encoder-decoder"
    names, readers = ["embedding"], []
    for layer, block in enumerate(model.decoder_blocks if encoder_decoder else model.blocks, start=1):
        for name in "attention", "cross_attention", "feed_forward":
            if hasattr(block, name):
                names.append(f"layer {layer} {name.replace('_', '-')}")
                readers.append(getattr(block, f"{name}_norm" if block.norm_first else name))
    readers.append(model.decoder_norm if encoder_decoder else model.final_norm)
    return dict(zip(names, readers, strict=True))


def logit_lens(run: Run, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Return what the model would predict after each sublayer, ids (N, T), starting with the embedding alone.

    Each state is passed directly to the final norm and the output projection (nostalgebraist 2020,
    "interpreting GPT: the logit lens"). The last entry is the model's actual prediction.
    """
    with eval_mode(run.model) as model:
        readers = list_residual_readers(model)
        *_, norm = readers.values()
        predictions = {name: torch.zeros_like(inputs[-1]) for name in readers}
        for rows, tokens in batches_by_length(inputs, EVALUATION_BATCH):
            passed = capture_activations(model, [*readers.values()], tokens)
            for ids, (stream, _) in zip(predictions.values(), passed, strict=True):
                ids[rows, : stream.size(1)] = model.output_projection(norm(stream)).argmax(dim=-1)
    return predictions
