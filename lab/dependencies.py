"""The symbols on which each output depends: exactly, for all questions of one length.

Tokens exchange information only in attention. If attention reads few symbols, whatever the rest of the
question, then a few questions cover all. Three checks establish this; none of them samples:

1. `moves_symbols`: the operations of the task's function are recorded. It only rearranges symbols, so each
   token of an input and each symbol of an answer comes from one place in the question.
2. `tokens_stay_apart`: without attention, a NaN in one token reaches no other token's output. NaN survives
   every sum, product and function of a number, so nothing else could have crossed unnoticed.
3. `find_dependencies`: layer by layer, all queries and keys that can occur are computed. If a key's score is
   always at least UNDERFLOW less than another's, its weight is exactly 0, and its token is not read.

Shapes: N questions, L symbols of content in each, H heads, T queries, S keys.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import data
from data import FIRST_SYMBOL, make_inputs_and_targets, make_source_and_target
from lab.ablation import ablate
from lab.heads import ALL_ATTENTION, record_attention
from support.config import Config
from transformer import eval_mode

MOVES = {                                                   # operations that rearrange, and compute nothing
    "alias", "as_strided", "cat", "clone", "copy_", "expand", "flip", "permute", "repeat", "roll", "select",
    "slice", "split", "stack", "transpose", "unbind", "unsqueeze", "view",
}
UNDERFLOW = 105.0                                           # e^−104 is 0 in float32
MAX_ASSIGNMENTS = 5_000                                     # to the symbols on which an output depends

Symbols = frozenset[int]                                    # where they are in the question, from 0


class RecordOperations(TorchDispatchMode):
    """Record the name of each operation that torch runs."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operation, types, arguments=(), settings=None):
        self.names.add(operation.overloadpacket.__name__)
        return operation(*arguments, **settings or {})


def record_operations(answer: Callable[[Tensor], Tensor], length: int) -> set[str]:
    """Return the names of the operations in a task's function."""
    content = torch.arange(length)[None]
    with RecordOperations() as recorded:
        answer(content)
    return recorded.names


def moves_symbols(answer: Callable[[Tensor], Tensor], length: int) -> bool:
    """Return True if a task's function only rearranges symbols, whichever they are."""
    return record_operations(answer, length) <= MOVES


def make_questions(config: Config, content: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the model's inputs and its targets for content (N, L)."""
    return make_inputs_and_targets(config.architecture, *make_source_and_target(config.task, content))


def tokens_stay_apart(model: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Return True if only attention carries information between the tokens of one question, (1, S)."""
    rows = max(tokens.size(1) for tokens in inputs)

    def poison(embedding: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        return output.masked_fill(torch.eye(rows, dtype=torch.bool)[:, : output.size(1), None], torch.nan)

    poisoned = model.embedding.register_forward_hook(poison)            # row i: NaN in token i
    with poisoned, eval_mode(model) as model, ablate(model, ALL_ATTENTION):
        reached = model(*(tokens.expand(rows, -1) for tokens in inputs)).isnan().any(dim=2)
    return torch.equal(reached, torch.eye(rows, dtype=torch.bool)[:, : reached.size(1)])


def vary(config: Config, length: int, groups: set[Symbols]) -> tuple[Tensor, dict[Symbols, slice]]:
    """Return contents (N, L) with every assignment of symbols to each group, and each group's rows."""
    symbols = data.question_symbols(config.task, config.vocab_size)
    rows, contents, start = {}, [], 0
    for group in groups:
        assigned = data.enumerate_contents(symbols, len(group)) if group else torch.empty(1, 0).long()
        content = torch.full((len(assigned), length), symbols[0])
        content[:, sorted(group)] = assigned
        contents.append(content)
        rows[group] = slice(start, start := start + len(content))
    return torch.cat(contents), rows


def read_symbols(query: Tensor, group: Symbols, tokens: list[tuple[Tensor, Tensor, Symbols]]) -> Symbols:
    """Return the symbols on which one query's weighted average can depend.

    query (n, Dh) contains every value that it can take as the symbols in group vary. So do each token's key
    and value, (m, Dh) each, as the symbols in its own group vary.
    """
    scores = [query @ key.T / query.size(-1) ** 0.5 for key, _, _ in tokens]            # (n, m), all pairs
    bound = max(score.min() for score in scores) - UNDERFLOW
    read = [(score, *token[1:]) for score, token in zip(scores, tokens, strict=True) if score.max() >= bound]
    symbols: Symbols = frozenset()
    for score, value, own in read:
        if (value != value[0]).any():
            symbols |= own
        if len(read) > 1 and score.min() != score.max():    # a single key has a weight of 1
            symbols |= group | own
    return symbols


def find_dependencies(
    model: nn.Module, config: Config, length: int, without_attention: bool = False
) -> list[Symbols] | None:
    """Return the symbols on which each output depends; None if unknown, or with too many cases for one."""
    symbols = data.question_symbols(config.task, config.vocab_size)
    inputs, _ = make_questions(config, torch.full((1, length), symbols[0]))
    if not moves_symbols(data.TASKS[config.task].answer, length) or not tokens_stay_apart(model, inputs):
        return None
    numbered, _ = make_questions(config, FIRST_SYMBOL + torch.arange(length)[None])     # by position
    origins = [
        [frozenset({token - FIRST_SYMBOL} - {*range(-FIRST_SYMBOL, 0)}) for token in tokens[0].tolist()]
        for tokens in numbered
    ]
    streams = {"encoder": origins[0], "decoder": origins[-1]}           # updated by each attention
    kinds = {kind: (kind, kind) for kind in streams} | {"cross": ("decoder", "encoder")}
    for layer in () if without_attention else record_attention(model, inputs):
        queries, keys = (streams[name] for name in kinds[layer[0]])
        content, rows = vary(config, length, {*queries, *keys})
        query, key, value, mask = record_attention(model, make_questions(config, content)[0])[layer]
        visible = mask.expand(len(content), 1, query.size(2), key.size(2))[0, 0]
        added = []
        for here, group in enumerate(queries):
            depends = group
            for head in range(query.size(1)):
                tokens = [
                    (key[rows[keys[at]], head, at], value[rows[keys[at]], head, at], keys[at])
                    for at in visible[here].nonzero().flatten().tolist()
                ]
                depends |= read_symbols(query[rows[group], head, here], group, tokens)
            if len(symbols) ** len(depends) > MAX_ASSIGNMENTS:
                return None
            added.append(depends)
        queries[:] = added                                  # the residual stream keeps what it had
    return streams["encoder" if config.architecture == "encoder" else "decoder"]


def ignores_order(model: nn.Module, config: Config) -> bool:
    """Return True if each output depends only on its position and on how often each symbol occurs.

    The weights of an encoder with one layer show it. Queries and keys depend on neither positions nor
    symbols, and values not on positions. After attention, nothing reads a token's own symbol. Norms do not
    either: symbol plus position always has the same sum and the same sum of squares.
    """
    if config.architecture != "encoder" or config.num_layers > 1 or not config.norm_first:
        return False
    block, symbols = model.blocks[0], list(data.question_symbols(config.task, config.vocab_size))
    embeddings = model.embedding.weight[symbols].double()
    positions = model.positional_encoding.encoding[1 : max(config.lengths()) + 1].double()
    sums = (embeddings[:, None] + positions).flatten(0, 1)
    own, where = ((x != x[0]).any(dim=0) for x in (embeddings, positions))              # columns that differ
    attention, feed_forward = block.attention, block.feed_forward
    unread = [
        attention.query_projection.weight[:, own | where], attention.key_projection.weight[:, own | where],
        attention.value_projection.weight[:, where], feed_forward.expand.weight[:, own],
        model.output_projection.weight[:, own],
    ]
    unwritten = [
        weights[own] for layer in (attention.output_projection, feed_forward.contract)
        for weights in (layer.weight, layer.bias)
    ]
    seen_by_norms = sums.sum(dim=1), sums.square().sum(dim=1)
    return all((x == x[0]).all() for x in seen_by_norms) and not any(x.any() for x in unread + unwritten)
