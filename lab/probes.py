"""The logit lens: what a model would predict after each sublayer."""

import torch
from torch import Tensor

from data import batches_by_length
from lab.patching import record
from support.config import EVALUATION_BATCH
from support.runs import Run
from transformer import eval_mode


def logit_lens(run: Run, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Return what the model would predict after each sublayer, ids (N, T), starting with the embedding alone.

    Each state of the stream that answers goes directly to the final norm and the output projection
    (nostalgebraist 2020, "interpreting GPT: the logit lens"). The last entry is the actual prediction.
    """
    predictions = {}
    with eval_mode(run.model) as model:
        has_two = run.architecture == "encoder-decoder"
        stack, norm = ("decoder ", model.decoder_norm) if has_two else ("", model.final_norm)
        for rows, tokens in batches_by_length(inputs, EVALUATION_BATCH):
            for site, stream in record(model, tokens).items():
                if site.startswith(stack) and "head" not in site:
                    ids = predictions.setdefault(site.removeprefix(stack), torch.zeros_like(inputs[-1]))
                    ids[rows, : stream.size(1)] = model.output_projection(norm(stream)).argmax(dim=-1)
    return predictions
