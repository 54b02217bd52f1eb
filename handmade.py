"""A Transformer whose weights are set by hand, so that you can say what each number in it is for.

Read this after transformer.py. Nothing is trained and no class is changed: the functions below fill the
matrices of a plain MiniTransformer. This is how the encoder reverses any sequence of up to 8 symbols:

1. A token's vector has five parts, each one-hot: WHAT token it is, WHERE it stands, where the LAST token
   (END) stands, the MIRROR place, and the ANSWER. The embedding fills WHAT, the position WHERE.
2. Layer 1, attention: every query is the same and matches END's key. Where END stands is copied into LAST.
3. Layer 1, feed-forward: a hidden unit for each pair (last, here) is on only where LAST and WHERE are that
   pair, an AND. It writes last − here into MIRROR.
4. Layer 2, attention: the query is MIRROR, the key WHERE, the value WHAT, which is copied into ANSWER.
5. The output projection reads ANSWER.

Step 4 needs what step 2 finds, and one layer looks only once: hence two layers. A layer norm does no harm.
Of D numbers, k are 1 and the others 0, so the mean is always m = k/D and the variance m − m². The norm is
then a fixed scale and shift, and its own weight and bias undo it.

In an encoder, copying needs no attention. In an encoder–decoder, cross-attention must fetch each symbol.
Sorting resists: a place would have to know how many symbols are smaller, but attention does not count, it
averages. That gives fractions instead of ones, and no norm is fixed any more.

`python handmade.py` builds four models, tests them and saves them. `python visualize.py --models-dir
models/handmade` then draws and ablates them like trained ones.
"""

from collections.abc import Callable
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from data import (
    FIRST_SYMBOL,
    TASKS,
    add_start_end,
    every_content,
    exact_match,
    new_parser,
    parse_options,
    uniform_symbols,
)
from train import (
    DEFAULT_ARCHITECTURES,
    DEFAULT_FOLDER,
    DEFAULT_TASKS,
    Config,
    command_line,
    percent,
    predict,
    save_untrained,
)
from transformer import END, FeedForward, LayerNorm, MultiHeadAttention, run_script

VOCAB, LONGEST = 20, 8
PLACES = LONGEST + 2                                        # of START, the symbols and END
WIDTHS = {"WHAT": VOCAB, "WHERE": PLACES, "LAST": PLACES, "MIRROR": PLACES, "ANSWER": VOCAB}
STREAM = dict(zip(WIDTHS, pairwise(accumulate(WIDTHS.values(), initial=0)), strict=True))
WHAT, WHERE, LAST, MIRROR, ANSWER = (slice(*edges) for edges in STREAM.values())
PAIRS = [(last, here) for last in range(2, PLACES) for here in range(last + 1)]
HARD = 1000.0                                               # a score so high that one key gets all the weight
LOUD = 20.0                                                 # the logit of the answer; all others are 0

Built = tuple[Config, nn.Module, dict[str, str]]            # and what some of the model's parts do


def connect(layer: nn.Linear, source: slice, target: slice, strength: float = 1.0) -> None:
    """Copy one part of what the layer reads to an equally wide part of what it writes."""
    layer.weight[target, source] = strength * torch.eye(target.stop - target.start)


def find_end(attention: MultiHeadAttention) -> None:
    """Every token reads END and copies END's WHERE into its own LAST."""
    attention.query_projection.bias[0] = 1
    attention.key_projection.weight[0, WHAT.start + END] = HARD
    connect(attention.value_projection, WHERE, WHERE)
    connect(attention.output_projection, WHERE, LAST)


def look_up(feed_forward: FeedForward, places: list[int]) -> None:
    """Write into MIRROR the place that belongs to (last, here): max(0, 2·LAST + 2·WHERE − 3) is an AND."""
    for unit, ((last, here), place) in enumerate(zip(PAIRS, places, strict=True)):
        feed_forward.expand.weight[unit, [LAST.start + last, WHERE.start + here]] = 2
        feed_forward.expand.bias[unit] = -3                 # both: 1; one alone: −1, which the ReLU cuts off
        feed_forward.contract.weight[MIRROR.start + place, unit] = 1


def fetch(attention: MultiHeadAttention, query: slice, key: slice) -> None:
    """Every token reads the one whose key equals its query, and copies its WHAT into ANSWER."""
    connect(attention.query_projection, query, key)
    connect(attention.key_projection, key, key, HARD)
    connect(attention.value_projection, WHAT, WHAT)
    connect(attention.output_projection, WHAT, ANSWER)


def blank(
    task: str, architecture: str, num_layers: int, ones: list[int], answer: slice = ANSWER
) -> tuple[Config, nn.Module]:
    """Settings, and a model whose sublayers are all zero; its norms, in order, read so many ones."""
    config = Config(
        task=task, architecture=architecture, num_layers=num_layers, num_heads=1, d_model=ANSWER.stop,
        d_ff=len(PAIRS), positional="learned", activation="relu", vocab_size=VOCAB, seq_len=LONGEST,
        max_len=PLACES, epochs=1,
    )
    model = config.model().requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    model.embedding.weight[:, WHAT] = torch.eye(VOCAB)
    model.positional_encoding.table[:, WHERE] = torch.eye(PLACES)
    connect(model.output_projection, answer, slice(0, VOCAB), LOUD)
    norms = [module for module in model.modules() if isinstance(module, LayerNorm)]
    for norm, count in zip(norms, ones, strict=True):       # (x − mean) / std · weight + bias = x
        mean = count / ANSWER.stop
        norm.weight.fill_((mean - mean**2 + norm.epsilon) ** 0.5)
        norm.bias.fill_(mean)
    return config, model


def copying_encoder() -> Built:
    """The answer is WHAT; the sublayers stay zero."""
    return *blank("copy", "encoder", 1, ones=[2, 2, 2], answer=WHAT), {"layer 1, head 1": "does nothing"}


def reversing_encoder() -> Built:
    """Find END, look up the mirror place, fetch the symbol."""
    config, model = blank("reverse", "encoder", 2, ones=[2, 3, 4, 5, 5])
    find_end(model.blocks[0].attention)
    look_up(model.blocks[0].feed_forward, [last - here if 0 < here < last else here for last, here in PAIRS])
    fetch(model.blocks[1].attention, query=MIRROR, key=WHERE)
    return config, model, {
        "layer 1, head 1": "finds END", "layer 1, feed-forward": "looks up the mirror place",
        "layer 2, head 1": "fetches the symbol",
    }


def copying_encoder_decoder() -> Built:
    """The decoder says at place t the symbol of place t + 1, and fetches it from there."""
    config, model = blank("copy", "encoder-decoder", 1, ones=[2, 2, 2, 2, 2, 3, 3])
    here, following = slice(WHERE.start, WHERE.stop - 1), slice(WHERE.start + 1, WHERE.stop)
    fetch(model.decoder_blocks[0].cross_attention, query=here, key=following)
    return config, model, {"cross-attention layer 1, head 1": "fetches the symbol"}


def reversing_encoder_decoder() -> Built:
    """The encoder writes into MIRROR where each symbol is due in the answer; the decoder fetches it there."""
    config, model = blank("reverse", "encoder-decoder", 1, ones=[2, 3, 4, 2, 2, 3, 3])
    find_end(model.encoder_blocks[0].attention)
    due = [{0: last, last: last - 1}.get(here, last - 1 - here) for last, here in PAIRS]
    look_up(model.encoder_blocks[0].feed_forward, due)
    fetch(model.decoder_blocks[0].cross_attention, query=WHERE, key=MIRROR)
    return config, model, {
        "encoder layer 1, head 1": "finds END", "encoder layer 1, feed-forward": "looks up where it is due",
        "cross-attention layer 1, head 1": "fetches what is due",
    }


def right_by_length(model: nn.Module, answer: Callable[[Tensor], Tensor]) -> dict[int, float]:
    """What share is right of every sequence of 1 to 4 symbols, and of 10,000 longer ones, by length."""
    symbols, generator, right = range(FIRST_SYMBOL, VOCAB), torch.Generator().manual_seed(0), {}
    for length in range(1, LONGEST + 1):
        if length <= 4:
            content = every_content(symbols, length)
        else:
            content = uniform_symbols(symbols, 10_000 // (LONGEST - 4), length, generator)
        source, target = (add_start_end(rows, length + 2) for rows in (content, answer(content)))
        right[length] = exact_match(predict(model, source, target), target)
    return right


def main() -> None:
    parse_options(new_parser("Build four models with hand-set weights, test them and save them.",
                             "python handmade.py"))
    models_dir, wrong = DEFAULT_FOLDER / "handmade", False
    print("Exact match by length, on every sequence of 1 to 4 symbols and on 10,000 longer ones:\n")
    for build in copying_encoder, reversing_encoder, copying_encoder_decoder, reversing_encoder_decoder:
        config, model, purposes = build()
        weights = torch.cat([x.flatten() for name, x in model.named_parameters() if "norm" not in name])
        right = right_by_length(model, TASKS[config.task].answer)
        print(f"{config.name}: {' '.join(map(percent, right.values()))}")
        print(f"  {build.__doc__}")
        print(
            f"  {weights.count_nonzero()} of {len(weights):,} weights are non-zero, not counting the norms\n"
        )
        save_untrained(config, model, models_dir, purposes=purposes, stream=STREAM)
        wrong |= min(right.values()) < 1
    command = command_line("visualize.py", DEFAULT_TASKS, DEFAULT_ARCHITECTURES, models_dir)
    print(f"Saved in {models_dir}/. To see how they work: {command}")
    if wrong:
        raise SystemExit("error: at least one of the models makes mistakes")


if __name__ == "__main__":
    run_script(main)
