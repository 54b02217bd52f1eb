"""Transformers with hand-set weights, so that every number in them has a known purpose.

Read this after transformer.py. Nothing is trained, and no class is changed: the functions below fill in the
matrices of an ordinary MiniTransformer. The encoder reverses any sequence of up to 8 symbols as follows:

1. A token's vector has five one-hot parts: WHAT it is, WHERE it is, where the LAST token (END) is, the MIRROR
   position and the ANSWER. The token embedding fills WHAT, and the position embedding WHERE.
2. Layer 1, attention: all queries are identical and match END's key, so END's position is copied into LAST.
3. Layer 1, feed-forward: one hidden unit per pair (last, here) acts as an AND gate:
   it fires only for that LAST and WHERE. It writes last − here into MIRROR.
4. Layer 2, attention: the query is MIRROR, the key WHERE, the value WHAT, which is copied into ANSWER.
5. The output projection reads ANSWER.

Step 4 needs the result of step 2, and one layer looks only once; hence two layers. Layer norm is harmless
here. Of the D numbers, k are 1 and the rest 0, so the mean is always m = k/D and the variance m − m². The
norm is thus a fixed scale and shift, which its own weight and bias undo.

In an encoder, copying needs no attention. In an encoder–decoder, cross-attention must fetch each symbol.
Sorting is harder: a position would need to know how many symbols are smaller, but attention averages rather
than counts. That yields fractions instead of ones, so the norms are no longer fixed.

`python handmade.py` builds four models, tests them and saves them. `python visualize.py --models-dir
models/handmade` then draws and ablates them like trained ones.
"""

from collections.abc import Callable
from dataclasses import asdict
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

import data
import train
from support import runs
from support.config import Config
from support.console import new_parser, run_script
from support.figure import percent
from support.files import folder_lock
from support.puzzles import sample_symbols
from transformer import END, FeedForward, LayerNorm, MultiHeadAttention, eval_mode

VOCAB_SIZE, MAX_LENGTH = 20, 8
NUM_POSITIONS = MAX_LENGTH + 2                              # of START, the symbols and END
WIDTHS = {
    "WHAT": VOCAB_SIZE, "WHERE": NUM_POSITIONS, "LAST": NUM_POSITIONS, "MIRROR": NUM_POSITIONS,
    "ANSWER": VOCAB_SIZE,
}
STREAM = dict(zip(WIDTHS, pairwise(accumulate(WIDTHS.values(), initial=0)), strict=True))
WHAT, WHERE, LAST, MIRROR, ANSWER = (slice(*edges) for edges in STREAM.values())
PAIRS = [(last, here) for last in range(2, NUM_POSITIONS) for here in range(last + 1)]
ATTENTION_SHARPNESS = 1000.0                                # high enough to give one key all the weight
ANSWER_LOGIT = 20.0                                         # the logit of the answer; all others are 0

HandBuilt = tuple[Config, nn.Module, dict[str, str]]        # with the purpose of some parts of the model


def copy_slice(layer: nn.Linear, source: slice, target: slice, strength: float = 1.0) -> None:
    """Copy one slice of the layer's input to an equally wide slice of its output."""
    layer.weight[target, source] = strength * torch.eye(target.stop - target.start)


def find_end(attention: MultiHeadAttention) -> None:
    """Make every token attend to END and copy END's WHERE into its own LAST."""
    attention.query_projection.bias[0] = 1
    attention.key_projection.weight[0, WHAT.start + END] = ATTENTION_SHARPNESS
    copy_slice(attention.value_projection, WHERE, WHERE)
    copy_slice(attention.output_projection, WHERE, LAST)


def look_up(feed_forward: FeedForward, positions: list[int]) -> None:
    """Write the position for each (last, here) into MIRROR: max(0, 2·LAST + 2·WHERE − 3) acts as an AND."""
    for unit, ((last, here), position) in enumerate(zip(PAIRS, positions, strict=True)):
        feed_forward.expand.weight[unit, [LAST.start + last, WHERE.start + here]] = 2
        feed_forward.expand.bias[unit] = -3                 # both: 1; one alone: −1, clipped by the ReLU
        feed_forward.contract.weight[MIRROR.start + position, unit] = 1


def fetch(attention: MultiHeadAttention, query: slice, key: slice) -> None:
    """Make every token attend to the one whose key equals its query, and copy its WHAT into ANSWER."""
    copy_slice(attention.query_projection, query, key)
    copy_slice(attention.key_projection, key, key, ATTENTION_SHARPNESS)
    copy_slice(attention.value_projection, WHAT, WHAT)
    copy_slice(attention.output_projection, WHAT, ANSWER)


def zero_model(
    task: str, architecture: str, num_layers: int, ones: list[int], answer: slice = ANSWER
) -> tuple[Config, nn.Module]:
    """Return settings and a model with all-zero sublayers; ones gives the number of ones each norm reads."""
    config = Config(
        task=task, architecture=architecture, num_layers=num_layers, num_heads=1, d_model=ANSWER.stop,
        d_ff=len(PAIRS), positional="learned", activation="relu", vocab_size=VOCAB_SIZE, seq_len=MAX_LENGTH,
        max_len=NUM_POSITIONS, epochs=1,
    )
    model = config.build_model().requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    model.embedding.weight[:, WHAT] = torch.eye(VOCAB_SIZE)
    model.positional_encoding.encoding[:, WHERE] = torch.eye(NUM_POSITIONS)
    copy_slice(model.output_projection, answer, slice(0, VOCAB_SIZE), ANSWER_LOGIT)
    norms = [module for module in model.modules() if isinstance(module, LayerNorm)]
    for norm, count in zip(norms, ones, strict=True):       # (x − mean) / std · weight + bias = x
        mean = count / ANSWER.stop
        norm.weight.fill_((mean - mean**2 + norm.epsilon) ** 0.5)
        norm.bias.fill_(mean)
    return config, model


def copying_encoder() -> HandBuilt:
    """Return an encoder that copies: the answer is WHAT, and the sublayers stay zero."""
    return *zero_model("copy", "encoder", 1, ones=[2, 2, 2], answer=WHAT), {"layer 1, head 1": "does nothing"}


def reversing_encoder() -> HandBuilt:
    """Return an encoder that reverses: find END, look up the mirror position, fetch the symbol."""
    config, model = zero_model("reverse", "encoder", 2, ones=[2, 3, 4, 5, 5])
    find_end(model.blocks[0].attention)
    look_up(model.blocks[0].feed_forward, [last - here if 0 < here < last else here for last, here in PAIRS])
    fetch(model.blocks[1].attention, query=MIRROR, key=WHERE)
    return config, model, {
        "layer 1, head 1": "finds END", "layer 1, feed-forward": "looks up the mirror position",
        "layer 2, head 1": "fetches the symbol",
    }


def copying_encoder_decoder() -> HandBuilt:
    """Return an encoder–decoder that copies: at position t, it fetches the symbol at position t + 1."""
    config, model = zero_model("copy", "encoder-decoder", 1, ones=[2, 2, 2, 2, 2, 3, 3])
    here, following = slice(WHERE.start, WHERE.stop - 1), slice(WHERE.start + 1, WHERE.stop)
    fetch(model.decoder_blocks[0].cross_attention, query=here, key=following)
    return config, model, {"cross-attention layer 1, head 1": "fetches the symbol"}


def reversing_encoder_decoder() -> HandBuilt:
    """Return an encoder–decoder that reverses: MIRROR holds each symbol's position in the answer."""
    config, model = zero_model("reverse", "encoder-decoder", 1, ones=[2, 3, 4, 2, 2, 3, 3])
    find_end(model.encoder_blocks[0].attention)
    positions = [{0: last, last: last - 1}.get(here, last - 1 - here) for last, here in PAIRS]
    look_up(model.encoder_blocks[0].feed_forward, positions)
    fetch(model.decoder_blocks[0].cross_attention, query=WHERE, key=MIRROR)
    return config, model, {
        "encoder layer 1, head 1": "finds END",
        "encoder layer 1, feed-forward": "looks up the answer position",
        "cross-attention layer 1, head 1": "fetches the symbol",
    }


def exact_match_by_length(model: nn.Module, answer: Callable[[Tensor], Tensor]) -> dict[int, float]:
    """Return exact match by length: on all sequences of 1 to 4 symbols, and on 10,000 longer ones."""
    symbols, generator, scores = range(data.FIRST_SYMBOL, VOCAB_SIZE), torch.Generator().manual_seed(0), {}
    for length in range(1, MAX_LENGTH + 1):
        if length <= 4:
            content = data.enumerate_contents(symbols, length)
        else:
            content = sample_symbols(symbols, 10_000 // (MAX_LENGTH - 4), length, generator)
        source, target = (data.add_special_tokens(rows, length + 2) for rows in (content, answer(content)))
        scores[length] = data.exact_match(train.predict(model, source, target), target)
    return scores


def save_hand_built(config: Config, model: nn.Module, purposes: dict[str, str], models_dir: Path) -> None:
    """Save a hand-built model as a run that the other scripts can read."""
    folder = runs.run_folder(models_dir, config.task, config.architecture)
    source, target = train.sample_validation_set(config)
    inputs, targets = data.make_inputs_and_targets(config.architecture, source, target)
    with eval_mode(model):
        loss = train.masked_cross_entropy(model(*inputs), targets).item()
    row = {"epoch": 0, "step": 0, "loss": loss, "train_seconds": 0.0}
    row |= train.evaluate(model, source, target, check_all=True)
    checkpoint = {
        "config": asdict(config), "reference": runs.make_reference(config, model), "history": [row],
        "model": model.state_dict(), "purposes": purposes,
    }
    with folder_lock(folder):
        train.save_weights(checkpoint, folder)
        (folder / "attention.npz").unlink(missing_ok=True)
        train.save_test(config, model, [row], folder)


def main() -> None:
    text = "Build four models with hand-set weights, test them and save them."
    new_parser(text, "python handmade.py").parse_args()
    models_dir, failed = runs.DEFAULT_FOLDER / "handmade", False
    print("Exact match by length, on every sequence of 1 to 4 symbols and on 10,000 longer ones:\n")
    for build in copying_encoder, reversing_encoder, copying_encoder_decoder, reversing_encoder_decoder:
        config, model, purposes = build()
        weights = torch.cat([x.flatten() for name, x in model.named_parameters() if "norm" not in name])
        scores = exact_match_by_length(model, data.TASKS[config.task].answer)
        print(f"{config.name}: {' '.join(map(percent, scores.values()))}")
        count = f"{weights.count_nonzero()} of {len(weights):,} weights"
        print(f"  {build.__doc__}\n  {count} are non-zero, not counting the norms\n")
        save_hand_built(config, model, purposes, models_dir)
        failed |= min(scores.values()) < 1
    command = runs.format_command("visualize.py", runs.DEFAULT_TASKS, runs.DEFAULT_ARCHITECTURES, models_dir)
    print(f"Saved in {models_dir}/. To see how they work: {command}")
    if failed:
        raise SystemExit("error: at least one of the models makes mistakes")


if __name__ == "__main__":
    run_script(main)
