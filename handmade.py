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
Doubling is reversing with another table.

Sorting and adding are harder. Attention averages rather than counts; so hidden units compare each average
with a yardstick that is averaged with it, such as the fraction that START makes up. Averages also change the
mean and variance that a norm reads. So each comes with its NEGATIVE, which keeps the mean, and the BALLAST of
±300 is so large that the variance hardly changes.

`python handmade.py` builds seven models, tests them and saves them; `python -m lab.prove models/handmade`
proves that they are always correct. `python visualize.py --models-dir models/handmade` draws and ablates them
like trained ones.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import accumulate, pairwise
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

import data
import train
from support import runs
from support.config import Config
from support.console import new_parser, run_script
from support.figure import percent
from support.files import folder_lock
from support.puzzles import PLUS, ZERO
from transformer import END, START, FeedForward, LayerNorm, MultiHeadAttention, eval_mode

VOCAB_SIZE, MAX_LENGTH = 20, 8
NUM_POSITIONS = MAX_LENGTH + 2                              # of START, the symbols and END
ATTENTION_SHARPNESS = 1000.0                                # high enough to give one key all the weight
ANSWER_LOGIT = 20.0                                         # the logit of the answer; all others are 0
BALLAST = 300.0                                             # much larger than any other number in a token

Pair = tuple[int, int]                                      # (last, here): END's position and a token's own
HandBuilt = tuple[Config, nn.Module, dict[str, str]]        # with the purpose of some parts of the model


def lay_out(**widths: int) -> SimpleNamespace:
    """Return the slice of each part of the stream, and D, the width of all."""
    edges = pairwise(accumulate(widths.values(), initial=0))
    parts = {name: slice(*edge) for name, edge in zip(widths, edges, strict=True)}
    return SimpleNamespace(**parts, D=sum(widths.values()))


def lay_out_positions(count: int) -> SimpleNamespace:
    """Return the parts of a stream for models that move symbols between this many positions."""
    return lay_out(WHAT=VOCAB_SIZE, WHERE=count, LAST=NUM_POSITIONS, MIRROR=count, ANSWER=VOCAB_SIZE)


def list_pairs(width: Callable[[int], int]) -> list[Pair]:
    """List all pairs (last, here) in rows of width(last) tokens."""
    return [(last, here) for last in range(2, NUM_POSITIONS) for here in range(width(last))]


PAIRS = list_pairs(lambda last: last + 1)                   # of START, the symbols and END


def copy_slice(layer: nn.Linear, source: slice, target: slice, strength: float = 1.0) -> None:
    """Copy one slice of the layer's input to an equally wide slice of its output."""
    layer.weight[target, source] = strength * torch.eye(target.stop - target.start)


def find_end(attention: MultiHeadAttention, part: SimpleNamespace) -> None:
    """Make every token attend to END and copy END's WHERE into its own LAST."""
    attention.query_projection.bias[0] = 1
    attention.key_projection.weight[0, part.WHAT.start + END] = ATTENTION_SHARPNESS
    copy_slice(attention.value_projection, part.WHERE, part.WHERE)
    positions = slice(part.WHERE.start, part.WHERE.start + NUM_POSITIONS)               # where END can be
    copy_slice(attention.output_projection, positions, part.LAST)


def set_unit(
    feed_forward: FeedForward, unit: int, reads: dict[int, float], bias: float, writes: dict[int, float]
) -> None:
    """Let a hidden unit compute max(0, Σ weight · column + bias), and add it to other columns."""
    feed_forward.expand.weight[unit, [*reads]] = torch.tensor([*reads.values()])
    feed_forward.expand.bias[unit] = bias
    feed_forward.contract.weight[[*writes], unit] = torch.tensor([*writes.values()])


def look_up(feed_forward: FeedForward, part: SimpleNamespace, table: dict[Pair, list[int]]) -> None:
    """Write 1 into these columns for each (last, here): max(0, 2·LAST + 2·WHERE − 3) acts as an AND."""
    for unit, ((last, here), columns) in enumerate(table.items()):
        reads = {part.LAST.start + last: 2.0, part.WHERE.start + here: 2.0}
        set_unit(feed_forward, unit, reads, -3.0, dict.fromkeys(columns, 1.0))          # one alone: clipped


def fetch(attention: MultiHeadAttention, part: SimpleNamespace, query: slice, key: slice) -> None:
    """Make every token attend to the one whose key equals its query, and copy its WHAT into ANSWER."""
    copy_slice(attention.query_projection, query, key)
    copy_slice(attention.key_projection, key, key, ATTENTION_SHARPNESS)
    copy_slice(attention.value_projection, part.WHAT, part.WHAT)
    copy_slice(attention.output_projection, part.WHAT, part.ANSWER)


def zero_model(
    task: str, architecture: str, num_layers: int, part: SimpleNamespace, ones: list[int], d_ff: int
) -> tuple[Config, nn.Module]:
    """Return settings and a model with all-zero sublayers; ones gives the number of ones each norm reads."""
    positions = part.WHERE.stop - part.WHERE.start
    config = Config(
        task=task, architecture=architecture, num_layers=num_layers, num_heads=1, d_model=part.D, d_ff=d_ff,
        positional="learned", activation="relu", vocab_size=VOCAB_SIZE, seq_len=MAX_LENGTH,
        max_len=positions, epochs=1,
    )
    model = config.build_model().requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    model.embedding.weight[:, part.WHAT] = torch.eye(VOCAB_SIZE)
    model.positional_encoding.encoding[:, part.WHERE] = torch.eye(positions)
    copy_slice(model.output_projection, part.ANSWER, slice(0, VOCAB_SIZE), ANSWER_LOGIT)
    ballast = 0.0
    if hasattr(part, "BALLAST"):
        model.positional_encoding.encoding[:, part.BALLAST] = torch.tensor([BALLAST, -BALLAST])
        ballast = 2 * BALLAST**2
    norms = [module for module in model.modules() if isinstance(module, LayerNorm)]
    for norm, count in zip(norms, ones, strict=True):       # (x − mean) / std · weight + bias = x
        mean = count / part.D
        norm.weight.fill_(((count + ballast) / part.D - mean**2 + norm.epsilon) ** 0.5)
        norm.bias.fill_(mean)
    return config, model


def copying_encoder() -> HandBuilt:
    """Return an encoder that copies: the answer is WHAT, and the sublayers stay zero."""
    part = lay_out_positions(NUM_POSITIONS)
    part.ANSWER = part.WHAT
    config, model = zero_model("copy", "encoder", 1, part, ones=[2, 2, 2], d_ff=len(PAIRS))
    return config, model, {"layer 1, head 1": "does nothing"}


def fetching_encoder(task: str, mirror: Callable[[int, int], int], pairs: list[Pair]) -> HandBuilt:
    """Return an encoder that finds END, looks up mirror(last, here) and fetches the symbol there."""
    part = lay_out_positions(1 + max(here for _, here in pairs))
    config, model = zero_model(task, "encoder", 2, part, ones=[2, 3, 4, 5, 5], d_ff=len(pairs))
    find_end(model.blocks[0].attention, part)
    table = {pair: [part.MIRROR.start + mirror(*pair)] for pair in pairs}
    look_up(model.blocks[0].feed_forward, part, table)
    fetch(model.blocks[1].attention, part, query=part.MIRROR, key=part.WHERE)
    return config, model, {
        "layer 1, head 1": "finds END", "layer 1, feed-forward": "looks up the mirror position",
        "layer 2, head 1": "fetches the symbol",
    }


def reversing_encoder() -> HandBuilt:
    """Return an encoder that reverses: find END, look up the mirror position, fetch the symbol."""
    return fetching_encoder("reverse", lambda last, here: last - here if 0 < here < last else here, PAIRS)


def doubling_encoder() -> HandBuilt:
    """Return an encoder that doubles: like the one that reverses, but after the end it starts again."""
    pairs = list_pairs(lambda last: 2 * last)               # gaps after END leave room for the answer
    return fetching_encoder("double", lambda last, here: here if here < last else here - last + 1, pairs)


def copying_encoder_decoder() -> HandBuilt:
    """Return an encoder–decoder that copies: at position t, it fetches the symbol at position t + 1."""
    part = lay_out_positions(NUM_POSITIONS)
    config, model = zero_model(
        "copy", "encoder-decoder", 1, part, ones=[2, 2, 2, 2, 2, 3, 3], d_ff=len(PAIRS)
    )
    start, stop = part.WHERE.start, part.WHERE.stop
    here, following = slice(start, stop - 1), slice(start + 1, stop)
    fetch(model.decoder_blocks[0].cross_attention, part, query=here, key=following)
    return config, model, {"cross-attention layer 1, head 1": "fetches the symbol"}


def reversing_encoder_decoder() -> HandBuilt:
    """Return an encoder–decoder that reverses: MIRROR holds each symbol's position in the answer."""
    part = lay_out_positions(NUM_POSITIONS)
    config, model = zero_model(
        "reverse", "encoder-decoder", 1, part, ones=[2, 3, 4, 2, 2, 3, 3], d_ff=len(PAIRS)
    )
    find_end(model.encoder_blocks[0].attention, part)
    positions = {(last, here): {0: last, last: last - 1}.get(here, last - 1 - here) for last, here in PAIRS}
    table = {pair: [part.MIRROR.start + position] for pair, position in positions.items()}
    look_up(model.encoder_blocks[0].feed_forward, part, table)
    fetch(model.decoder_blocks[0].cross_attention, part, query=part.WHERE, key=part.MIRROR)
    return config, model, {
        "encoder layer 1, head 1": "finds END",
        "encoder layer 1, feed-forward": "looks up the answer position",
        "cross-attention layer 1, head 1": "fetches the symbol",
    }


# ---------------------------------------------------------------- models that count


def average(attention: MultiHeadAttention, part: SimpleNamespace) -> None:
    """Copy the average of the values into AVERAGE, and its negative into NEGATIVE."""
    copy_slice(attention.output_projection, part.AVERAGE, part.AVERAGE)
    copy_slice(attention.output_projection, part.AVERAGE, part.NEGATIVE, -1.0)


def compare(
    feed_forward: FeedForward, units: Iterator[int], part: SimpleNamespace, gate: int,
    amount: int, count: int, one: int, writes: dict[int, float],
) -> None:
    """Write something if column gate is 1, and column amount of AVERAGE is at least count times column one.

    The difference of two units rises from 0 to one / 2 while the amount grows from (count − 3/4) · one to
    (count − 1/4) · one. Amounts are multiples of one, so none is near these two thresholds.
    """
    for threshold, sign in (count - 3 / 4, 1), (count - 1 / 4, -1):
        reads = {gate: 1.0}                                 # if it is 0, the bias is below −amount
        for side, half in (part.AVERAGE, 1 / 2), (part.NEGATIVE, -1 / 2):               # a shift cancels
            reads |= {side.start + amount: half, side.start + one: -half * threshold}
        changes = {column: sign * strength for column, strength in writes.items()}
        set_unit(feed_forward, next(units), reads, -1.0, changes)


def sorting_encoder() -> HandBuilt:
    """Return an encoder that sorts: position i gets the smallest s for which i symbols are at most s."""
    symbols = range(data.FIRST_SYMBOL, VOCAB_SIZE)
    part = lay_out(
        WHAT=VOCAB_SIZE, WHERE=NUM_POSITIONS, AVERAGE=VOCAB_SIZE, NEGATIVE=VOCAB_SIZE, ANSWER=VOCAB_SIZE,
        BALLAST=2,
    )
    d_ff = 2 * MAX_LENGTH * len(symbols)
    config, model = zero_model("sort", "encoder", 1, part, ones=[2, 2, 2], d_ff=d_ff)
    block, units = model.blocks[0], itertools.count()
    is_at_most = torch.ones(VOCAB_SIZE, VOCAB_SIZE).tril()  # row s: 1 for each symbol up to s …
    is_at_most[:, : data.FIRST_SYMBOL] = 0
    is_at_most[START, START] = 1                            # … and a row for the yardstick
    block.attention.value_projection.weight[part.AVERAGE, part.WHAT] = is_at_most
    average(block.attention, part)                          # with equal weights, since queries are 0
    for here, symbol in itertools.product(range(1, NUM_POSITIONS - 1), symbols):
        writes = {part.ANSWER.start + symbol: 2.0 * NUM_POSITIONS}      # 1 / (one / 2), at least
        if symbol + 1 < VOCAB_SIZE:                         # it qualifies too but is not the smallest
            writes[part.ANSWER.start + symbol + 1] = -2.0 * NUM_POSITIONS
        compare(block.feed_forward, units, part, part.WHERE.start + here, symbol, here, START, writes)
    model.output_projection.weight[END, part.WHAT.start + END] = ANSWER_LOGIT
    return config, model, {"layer 1, head 1": "averages", "layer 1, feed-forward": "compares counts"}


NUM_COLUMNS = (MAX_LENGTH - 1) // 2                         # of digits; column i holds the multiples of 10ⁱ
NO_DIGIT = NUM_COLUMNS
ASKS = [(column, column + 1) for column in range(NUM_COLUMNS)]          # of the answer; how many decide it
ASKS += [(column, column) for column in range(1, NUM_COLUMNS + 1)]      # a leading digit is only a carry
ASK_END, ASK_NOTHING = len(ASKS), len(ASKS) + 1


def list_sum_tokens() -> dict[Pair, tuple[int, int]]:
    """Return, for each (last, here) in a sum, the column of its digit and what to ask for its answer."""
    table = {}
    for digits in range(1, NUM_COLUMNS + 1):                # START, digits, PLUS, digits, END
        for here in range(2 * digits + 3):
            column = digits - here if here <= digits else 2 * digits + 1 - here
            column = column if 0 <= column < digits else NO_DIGIT
            answer = digits + 1 - here                      # the column of this token's answer
            ask = ASK_END if answer == -1 else ASK_NOTHING
            if 0 <= answer <= digits:
                ask = ASKS.index((answer, min(answer + 1, digits)))
            table[2 * digits + 2, here] = column, ask
    return table


def adding_encoder() -> HandBuilt:
    """Return an encoder that adds: weights of 1, 10, 100 sum the columns, and hidden units round down.

    Column i of the answer depends on the columns 0 to i, so its query looks only at those. Their scores rise
    by ln 10, and softmax turns that into factors of ten.
    """
    part = lay_out(
        WHAT=VOCAB_SIZE, WHERE=NUM_POSITIONS, LAST=NUM_POSITIONS, COLUMN=NUM_COLUMNS + 1, ASK=len(ASKS) + 2,
        AVERAGE=2, NEGATIVE=2, ANSWER=VOCAB_SIZE, BALLAST=2,
    )
    config, model = zero_model("add", "encoder", 2, part, ones=[2, 3, 5, 5, 6], d_ff=128)
    first, second = model.blocks
    find_end(first.attention, part)
    tokens = list_sum_tokens().items()
    columns = {pair: [part.COLUMN.start + column, part.ASK.start + ask] for pair, (column, ask) in tokens}
    look_up(first.feed_forward, part, columns)

    scores = torch.full((len(ASKS) + 2, NUM_COLUMNS + 1), -ATTENTION_SHARPNESS)
    for ask, (_, count) in enumerate(ASKS):
        scores[ask, :count] = part.D**0.5 * math.log(10) * torch.arange(count)
    copy_slice(second.attention.query_projection, part.ASK, part.ASK)
    second.attention.key_projection.weight[part.ASK, part.COLUMN] = scores
    total, one = second.attention.value_projection.weight[part.AVERAGE]
    total[part.WHAT.start + ZERO : part.WHAT.start + PLUS] = torch.arange(10) / 10      # less than the bias
    one[part.COLUMN.start] = 1 / 20                         # of two tokens: the ones
    average(second.attention, part)

    units = itertools.count()
    for ask, (column, count) in enumerate(ASKS):
        gate = part.ASK.start + ask
        set_unit(second.feed_forward, next(units), {gate: 1.0}, 0.0, {part.ANSWER.start + ZERO: 1.0})
        strength = 2 * 20 * sum(10.0**lower for lower in range(count))  # 1 / (one / 2)
        for reached in range(1, 20 if column < count else 2):           # two nines and a carry are 19
            digit, previous = (part.ANSWER.start + ZERO + number % 10 for number in (reached, reached - 1))
            writes = {digit: strength, previous: -strength}
            compare(second.feed_forward, units, part, gate, 0, reached * 10**column, 1, writes)
    writes = {part.ANSWER.start + END: 1.0}
    set_unit(second.feed_forward, next(units), {part.ASK.start + ASK_END: 1.0}, 0.0, writes)
    return config, model, {
        "layer 1, head 1": "finds END", "layer 1, feed-forward": "looks up the columns",
        "layer 2, head 1": "sums the columns", "layer 2, feed-forward": "rounds down",
    }


def exact_match_by_length(
    model: nn.Module, answer: Callable[[Tensor], Tensor], task: str = "copy"
) -> dict[int, float]:
    """Return exact match by length: on all questions of up to 4 symbols, and on 10,000 longer ones."""
    generator, scores = torch.Generator().manual_seed(0), {}
    for length in range(1, MAX_LENGTH + 1):
        if length <= 4:
            content = data.enumerate_contents(data.question_symbols(task, VOCAB_SIZE), length)
            content = content[data.TASKS[task].is_valid(content)]
        else:
            content = data.sample_valid(task, 10_000 // (MAX_LENGTH - 4), length, VOCAB_SIZE, generator)
        if len(content):                                    # sums have 3, 5 or 7 symbols
            source, target = (data.add_special_tokens(x, x.size(1) + 2) for x in (content, answer(content)))
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


BUILDERS = (
    copying_encoder, reversing_encoder, doubling_encoder, sorting_encoder, adding_encoder,
    copying_encoder_decoder, reversing_encoder_decoder,
)


def main() -> None:
    text = "Build seven models with hand-set weights, test them and save them."
    new_parser(text, "python handmade.py").parse_args()
    models_dir, failed = runs.DEFAULT_FOLDER / "handmade", False
    print("Exact match by length, on all questions of up to 4 symbols and on 10,000 longer ones:\n")
    for build in BUILDERS:
        config, model, purposes = build()
        weights = torch.cat([x.flatten() for name, x in model.named_parameters() if "norm" not in name])
        scores = exact_match_by_length(model, data.TASKS[config.task].answer, config.task)
        print(f"{config.name}: {' '.join(map(percent, scores.values()))}")
        count = f"{int(weights.count_nonzero()):,} of {len(weights):,} weights"
        print(f"  {build.__doc__.splitlines()[0]}\n  {count} are non-zero, not counting the norms\n")
        save_hand_built(config, model, purposes, models_dir)
        failed |= min(scores.values()) < 1
    command = runs.format_command("visualize.py", runs.DEFAULT_TASKS, runs.DEFAULT_ARCHITECTURES, models_dir)
    print(f"Saved in {models_dir}/. To see how they work: {command}")
    print(f"To prove that they are always correct: python -m lab.prove {models_dir}")
    if failed:
        raise SystemExit("error: at least one of the models makes mistakes")


if __name__ == "__main__":
    run_script(main)
