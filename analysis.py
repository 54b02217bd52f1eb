"""What a trained model's attention does, in numbers, and whether the answer depends on it.

Shares, scores and maps say where heads read. Interventions on the real model, ablating heads or replacing
a symbol, say what matters. Everything is measured on sequences that training never saw.

Shapes: N sequences, L symbols of content, A symbols of the answer, H heads, T queries, S keys.
A map is (T, S): row = query (who reads), column = key (what is read).
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from data import (
    END,
    PAD,
    TASKS,
    add_start_end,
    arrange,
    ask,
    check_answers,
    dependence,
    different_rows,
    exact_match,
    is_scored,
    other_question,
    portions_of_like_length,
    replace_symbol,
    some_questions,
    symbols_of,
    token_accuracy,
    usable_lengths,
)
from train import Config, Record, Run, fixed_generator, predict
from transformer import (
    MultiHeadAttention,
    TransformerBlock,
    attention_mask,
    evaluating,
    unwrapped,
)

SEQUENCES = 320                                             # test sequences of all lengths, …
SEQUENCES_EACH = 100                                        # … and of a single length
BATCH = 100                                                 # of them at a time: small enough for the caches
LARGEST = 4_000_000                                         # numbers in one tensor, where rows are long

Head = tuple[str, int, int]                                 # kind, layer, head; here both count from 0
Part = tuple[()] | tuple[str] | tuple[str, int] | Head      # all attention, a kind, a layer or a head
ALL_ATTENTION: Part = ()
NOTHING = "nothing"                                         # in place of a part
MOST_HARMLESS, PAIRS = 48, 4                                # of so many heads, so many pairs are measured
SMALLEST_COST = 0.01                                        # of a pair that is worth telling


def attention_at(model: nn.Module) -> dict[tuple[str, int], MultiHeadAttention]:
    """The attention of each kind and layer."""
    return {
        (kind, layer): attention for kind, attentions in unwrapped(model).attention_layers().items()
        for layer, attention in enumerate(attentions)
    }


def heads_of(model: nn.Module, part: Part = ALL_ATTENTION) -> list[Head]:
    """The heads of one part of the model's attention. ValueError where the model has no such part."""
    heads = [
        (*place, head) for place, attention in attention_at(model).items()
        for head in range(attention.num_heads)
    ]
    chosen = [head for head in heads if head[: len(part)] == part]
    if not chosen:
        kinds = ", ".join(unwrapped(model).attention_layers())
        raise ValueError(
            f"this model has no part {part}; its kinds are {kinds} and its last head is {heads[-1]}"
        )
    return chosen


def parts_of(model: nn.Module) -> list[Part]:
    """All that can be ablated: each head, each layer, each kind, and all attention."""
    return sorted({head[:size] for head in heads_of(model) for size in range(4)})


def inputs_and_outputs(
    model: nn.Module, modules: list[nn.Module], given: tuple[Tensor, ...]
) -> list[tuple[Tensor, Tensor]]:
    """What each of these modules is given and gives in one pass of the model, both (B, T, …)."""
    seen = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[module] = inputs[0], output

    with evaluating(model) as model, ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(note))
        model(*given)
    return [seen[module] for module in modules]


@contextmanager
def ablated(
    model: nn.Module, *parts: Part, replacement: dict[Head, Tensor] | None = None
) -> Iterator[nn.Module]:
    """The model without parts of its attention: zero ablation, or mean ablation with mean_head_outputs.

    Each head of the parts gives zeros, or its replacement (Dh,), to the output projection that mixes the
    heads. Afterwards the model is as it was. ValueError where it has no such part.
    """
    attentions, heads = attention_at(model), {head for part in parts for head in heads_of(model, part)}
    place_of = {attentions[head[:2]].output_projection: head[:2] for head in heads}

    def replace_outputs(output_projection: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        place = place_of[output_projection]
        by_head = inputs[0].unflatten(-1, (attentions[place].num_heads, -1)).clone()    # (B, T, H, Dh)
        for head in heads:
            if head[:2] == place:
                by_head[:, :, head[2]] = replacement[head] if replacement else 0.0
        return by_head.flatten(2)

    with ExitStack() as hooks:
        for output_projection in place_of:
            hooks.enter_context(output_projection.register_forward_pre_hook(replace_outputs))
        yield unwrapped(model)


def answering_kind(architecture: str) -> str:
    """The kind of attention that can find the answers in the source."""
    return "cross" if architecture == "encoder-decoder" else architecture


def first_symbol(architecture: str, kind: str, length: int) -> tuple[int, int]:
    """The query and the key at which the symbols begin in a map; the query is the one that says symbol 0.

    An encoder's query i says symbol i, a generating model's the one that comes next: START the first, or the
    prompt's END. There, what a decoder reads on its own diagonal is the symbol that it wrote last.
    """
    if architecture == "decoder":
        return length + 1, 1
    return {"encoder": (1, 1), "decoder": (0, 0), "cross": (0, 1)}[kind]


def cells_of_symbols(symbols: Tensor, first: tuple[int, int], queries: int, keys: int) -> Tensor:
    """Cells of a map (…, T, S), from those of symbols (…, A, L) that begin at this query and key, boolean.

    A map may have room for fewer symbols: an answer can end too early.
    """
    (query, key), symbols = first, symbols[..., : queries - first[0], : keys - first[1]]
    cells = torch.zeros(*symbols.shape[:-2], queries, keys, dtype=torch.bool)
    cells[..., query : query + symbols.size(-2), key : key + symbols.size(-1)] = symbols
    return cells


def answer_cells(architecture: str, depends: Tensor, queries: int, keys: int) -> Tensor:
    """Where in a map (T, S) of the answering kind the answers come from, (N, T, S) boolean.

    A query that says a symbol has a cell at each key on which this symbol depends at least half as much as on
    any other. depends (N, A, L) as data.dependence measures it.
    """
    known = depends.nan_to_num()
    behind = (known > 0) & (known >= known.amax(dim=2, keepdim=True) / 2)
    first = first_symbol(architecture, answering_kind(architecture), behind.size(2))
    return cells_of_symbols(behind, first, queries, keys)


def diagonals(first: tuple[int, int], length: int, queries: int, keys: int) -> Tensor:
    """The diagonal and the anti-diagonal of the symbols in a map (T, S), (2, T, S) boolean."""
    square = torch.eye(length, dtype=torch.bool)
    return cells_of_symbols(torch.stack([square, square.flip(1)]), first, queries, keys)


def longest(run: Run) -> int:
    """The most content symbols in the test split; of a sum with seq_len 8 these are 7."""
    return run.config.lengths("test")[-1]


def unseen_sequences(
    run: Run, length: int | None = None, count: int = SEQUENCES
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """The sources, what the model is given and is to say, on sequences that training never saw.

    They are of all lengths that it trained on, or of one.
    """
    config = run.config
    if length is not None:
        config = replace(config, seq_len=length, fixed_length=True)
    source, target = config.draw(count, fixed_generator("analysis"), "test")
    return source, *arrange(run.architecture, source, target)


def clearest_example(run: Run, length: int | None = None) -> Tensor:
    """The unseen content (L,), by default one of the longest, in which the fewest symbols occur twice."""
    source, _, _ = unseen_sequences(run, length or longest(run))
    return max(source[:, 1:-1], key=lambda content: len(content.unique()))


def share_on(cells: Tensor, maps: Tensor) -> Tensor:
    """What share of its attention a query with such cells spends on them, a mean for each head (…, H).

    maps (…, H, T, S), cells (T, S) boolean or (N, 1, T, S) for maps of N sequences. nan without any cell.
    """
    queries = cells.any(dim=-1).sum(dim=-1)
    return (maps * cells).sum(dim=(-2, -1)) / queries


def relative_entropy(maps: Tensor, allowed: Tensor) -> Tensor:
    """How evenly a head reads, a mean for each head (…, H): 0 is a single key, 1 is uniform attention.

    That is −Σ w·ln w / ln n over the n keys that a query may read, of the queries that have a choice.
    maps (…, H, T, S), allowed broadcastable to it, boolean.
    """
    entropy = torch.special.entr(maps).sum(dim=-1)                                      # (…, H, T), nats
    keys = allowed.sum(dim=-1)
    return (entropy / keys.log()).where(keys > 1, torch.nan).nanmean(dim=-1)


def mean_distance(maps: Tensor, first: tuple[int, int]) -> Tensor:
    """How far what a query reads is from the symbol of its number, a mean for each head (…, H), in tokens.

    A head that copies has 0. maps (…, H, T, S); first are the query and key of symbol 0, see first_symbol.
    The queries before it are left out.
    """
    query, key = first
    numbers = torch.arange(maps.size(-2) - query)[:, None], torch.arange(maps.size(-1)) - key
    distances = (numbers[0] - numbers[1]).abs()                                         # (T − query, S)
    return (maps[..., query:, :] * distances).sum(dim=-1).mean(dim=-1)


def rows_at_once(config: Config, given: tuple[Tensor, ...]) -> int:
    """How many rows of what a model is given go through it at once, so that no tensor of a pass is large.

    Make a tensor for all results first, and write those of each portion into it. Small tensors that stay
    between large ones that are freed would leave gaps, which take more memory than all of them.
    """
    length = max(tokens.size(1) for tokens in given)
    numbers = length * max(config.vocab_size, config.num_layers * config.num_heads * length)    # logits, maps
    return max(1, min(BATCH, LARGEST // numbers))


def portions(config: Config, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The rows (N,) of what a model is given, as many at a time as rows_at_once says."""
    return torch.arange(len(given[0])).split(rows_at_once(config, given))


@dataclass
class Reading:
    """Where the heads read in sequences of one length: in a single one, or means over N."""

    source: Tensor                                          # (N, L + 2)
    given: tuple[Tensor, ...]
    to_say: Tensor                                          # (N, T)
    said: Tensor                                            # (N, T)
    maps: dict[str, Tensor]                                 # of each kind: (layers, H, T, S)
    entropy: dict[str, Tensor]                              # of each kind: (layers, H), see relative_entropy
    depends: Tensor                                         # of the right answer, see data.dependence
    cells: Tensor                                           # (N, T, S), see answer_cells
    shares: Tensor                                          # of the answering kind, on cells: (layers, H)
    chance: float                                           # the share of uniform attention

    @property
    def enough(self) -> float:
        """The share above which a head reads what an answer needs: half-way from chance to all of it."""
        return (1 + self.chance) / 2

    @property
    def length(self) -> int:
        """How many symbols each question has."""
        return self.source.size(1) - 2

    @property
    def right(self) -> float:
        """The exact match of what is said."""
        return exact_match(self.said, self.to_say)


def read(run: Run, source: Tensor, given: tuple[Tensor, ...], to_say: Tensor) -> Reading:
    """Look where the heads read; all sources are equally long."""
    answering = answering_kind(run.architecture)
    depends = dependence(run.config.task, source[:, 1:-1], run.config.vocab_size)
    cells = answer_cells(run.architecture, depends, to_say.size(1), given[0].size(1))[:, None]
    allowed = {
        kind: attention_mask(given[-1 if kind == "decoder" else 0][:1], causal=kind == "decoder")
        for kind in unwrapped(run.model).attention_layers()
    }
    said, maps, entropy = torch.zeros_like(to_say), dict.fromkeys(allowed, 0), dict.fromkeys(allowed, 0)
    shares = torch.zeros(len(source), run.config.num_layers, run.config.num_heads, dtype=torch.float32)
    with evaluating(run.model) as model:
        for rows in portions(run.config, given):
            said[rows] = model(*(tokens[rows] for tokens in given)).argmax(dim=-1)
            for kind, attentions in model.attention_layers().items():
                weights = torch.stack([attention.attention_weights.float() for attention in attentions])
                maps[kind] += weights.sum(dim=1) / len(source)
                entropy[kind] += relative_entropy(weights, allowed[kind]).sum(dim=1) / len(source)
                if kind == answering:
                    shares[rows] = share_on(cells[rows], weights).transpose(0, 1)
    uniform = allowed[answering].double() / allowed[answering].sum(dim=-1, keepdim=True)
    return Reading(
        source=source, given=given, to_say=to_say, said=said, maps=maps, entropy=entropy,
        depends=depends, cells=cells[:, 0], shares=shares.nanmean(dim=0),
        chance=share_on(cells, uniform).nanmean().item(),
    )


def mean_head_outputs(run: Run) -> dict[Head, Tensor]:
    """What each head gives to the output projection (Dh,), a mean over all tokens of the test sequences."""
    _, given, _ = unseen_sequences(run)
    attentions, means = attention_at(run.model), {}
    projections = [attention.output_projection for attention in attentions.values()]
    mixed = inputs_and_outputs(run.model, projections, given)
    for (place, attention), (mixture, _) in zip(attentions.items(), mixed, strict=True):
        is_token = given[0 if place[0] == "encoder" else -1] != PAD                     # (N, T)
        by_head = mixture[is_token].float().mean(dim=0).unflatten(0, (attention.num_heads, -1))     # (H, Dh)
        means |= {(*place, head): mean for head, mean in enumerate(by_head)}
    return means


def margins(logits: Tensor, to_say: Tensor) -> Tensor:
    """How far the right symbol's logit is ahead of the best other one, (N, T); ∞ where nothing is asked.

    The model says the right symbol just where this is above 0. logits (N, T, V), to_say (N, T).
    """
    right = to_say[:, :, None]
    ahead = logits.gather(2, right) - logits.scatter(2, right, -torch.inf).amax(dim=2, keepdim=True)
    return ahead[:, :, 0].float().where(is_scored(to_say), torch.inf)


def margins_without(
    run: Run, cuts: list[tuple[Part, ...]], replacement: dict[Head, Tensor] | None = None,
    count: int = SEQUENCES,
) -> Tensor:
    """The margins on test sequences of all lengths, each time with some parts ablated, (cuts, N, T).

    For a generating model that says what it generates: greedy decoding is right just where each step after
    the right beginning is. Each different row goes through the model once, beside others of like length.
    """
    _, given, to_say = unseen_sequences(run, count=count)
    given, to_say, place = different_rows(given, to_say)
    result = torch.full((len(cuts), *to_say.shape), torch.inf, dtype=torch.float32)
    with evaluating(run.model) as model:
        for rows, short in portions_of_like_length(given, rows_at_once(run.config, given)):
            length = short[-1].size(1)
            for number, parts in enumerate(cuts):
                with ablated(model, *parts, replacement=replacement):
                    result[number, rows, :length] = margins(model(*short), to_say[rows, :length])
    return result[:, place]


def is_right(margins: Tensor) -> Tensor:
    """Which sequences have the right symbol ahead at every query; margins (…, N, T) → (…, N) boolean."""
    return (margins > 0).all(dim=-1)


@dataclass
class AtLength:
    """What a model answers to questions of one length."""

    reading: Reading
    target: Tensor                                          # the right answers (N, T), with START and END
    answers: Tensor                                         # the model's own (N, T), of train.predict

    @property
    def length(self) -> int:
        """How many symbols each question has."""
        return self.reading.length

    @property
    def exact_match(self) -> float:
        return exact_match(self.answers, self.target)

    @property
    def right(self) -> Tensor:
        """How often each symbol of the answer and its END is right, (T − 1,)."""
        return (self.answers == self.target)[:, 1:].double().mean(dim=0)

    def stops_after(self, symbols: int) -> int:
        """How many answers have END after so many symbols."""
        ends = self.answers[:, 1:] == END
        return int((ends.any(dim=1) & (ends.long().argmax(dim=1) == symbols)).sum())


def answer_lengths(run: Run, most: int) -> dict[int, int]:
    """How long the answer is to a question of each length up to this one that the task and the model have.

    A length that the task does not have, or that is too long for the model's positions, is left out.
    """
    config, places, lengths = run.config, len(unwrapped(run.model).positional_encoding.table), {}
    for length in range(1, most + 1):
        question = some_questions(config.task, length, config.vocab_size, proposals=1_000)[:1]
        if len(question):
            try:
                answer = ask(config.task, question)
                check_answers(config.task, question, answer, config.vocab_size)
            except ValueError:                              # a task of the reader's own need not have one
                continue
            source, target = (add_start_end(tokens, tokens.size(1) + 2) for tokens in (question, answer))
            given, _ = arrange(run.architecture, source, target)
            if max(tokens.size(1) for tokens in given) <= places:
                lengths[length] = answer.size(1)
    return lengths


def by_length(run: Run) -> list[AtLength]:
    """What is answered to questions of each length up to twice those of training that there are."""
    config, most, lengths = run.config, 2 * run.config.seq_len, []
    in_test = usable_lengths(config.task, "test", most, config.vocab_size)
    for length in sorted(answer_lengths(run, most).keys() & in_test):
        source, given, to_say = unseen_sequences(run, length, SEQUENCES_EACH)
        answer = TASKS[config.task].answer(source[:, 1:-1])
        target = add_start_end(answer, answer.size(1) + 2)
        answers = predict(run.model, source, target)
        lengths.append(AtLength(read(run, source, given, to_say), target, answers))
    return lengths


def influence(run: Run, source: Tensor, given: tuple[Tensor, ...], to_say: Tensor) -> Tensor:
    """What each answer depends on: replace one symbol and see how far the answer moves, (N, T, S).

    For query t and key s this is the total variation ½·Σ|p − p′| of the distributions over the vocabulary,
    before and after. It is 0 where nothing moves, and 1 where everything does. It is nan where nothing is
    asked, or where no other symbol leaves a valid question. What an encoder–decoder has written so far is
    held fixed. All sources are equally long.
    """
    config, question = run.config, source[:, 1:-1]
    symbols, generator = symbols_of(config.task, config.vocab_size), fixed_generator("influence")
    result = torch.full((*to_say.shape, given[0].size(1)), torch.nan, dtype=torch.float32)
    with evaluating(run.model) as model:
        for rows in portions(config, given):
            asked = [tokens[rows] for tokens in given]
            before = model(*asked).float().softmax(dim=-1)
            for key in range(given[0].size(1)):
                shift = torch.randint(1, max(2, len(symbols)), (len(rows),), generator=generator)
                if 1 <= key <= question.size(1):
                    replaced, changed = other_question(
                        config.task, question[rows], key - 1, shift, config.vocab_size
                    )
                    other = asked[0].clone()
                    other[:, 1 : question.size(1) + 1] = replaced
                else:                                       # a symbol that a decoder has written
                    other, changed = replace_symbol(symbols, asked[0], key, shift)
                after = model(other, *asked[1:]).float().softmax(dim=-1)
                moved = (after - before).abs().sum(dim=-1) / 2                          # (N, T)
                counts = changed[:, None] & is_scored(to_say[rows])
                result[rows, :, key] = moved.where(counts, torch.nan)
    return result


def influence_on(cells: Tensor, moved: Tensor) -> tuple[float, float, float]:
    """What share of all influence is on these cells, and its means there and elsewhere.

    cells (N, T, S) boolean, moved (N, T, S) as influence gives it.
    """
    there, elsewhere = moved[cells], moved[~cells]
    return (there.nansum() / moved.nansum()).item(), there.nanmean().item(), elsewhere.nanmean().item()


def sublayers_of(model: nn.Module) -> dict[str, nn.Module]:
    """What is given the residual stream before each sublayer of the stack that answers, and after the last.

    Each is named after the sublayer before it: "embedding", "layer 1 attention", "layer 1 feed-forward", …
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


def logit_lens(run: Run, given: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """What the model would say after each sublayer, ids (N, T); first, after the embedding alone.

    Each state goes straight through the final norm and the output projection (nostalgebraist 2020,
    "interpreting GPT: the logit lens"). The last is what the model says.
    """
    with evaluating(run.model) as model:
        readers = sublayers_of(model)
        *_, norm = readers.values()
        said = {name: torch.zeros_like(given[-1]) for name in readers}
        for rows in portions(run.config, given):
            passed = inputs_and_outputs(model, [*readers.values()], [tokens[rows] for tokens in given])
            for ids, (stream, _) in zip(said.values(), passed, strict=True):
                ids[rows] = model.output_projection(norm(stream)).argmax(dim=-1)
    return said


def scores_of_query(model: nn.Module, given: tuple[Tensor, ...], head: Head, query: int) -> Tensor:
    """The products q·k of one query with each key, in the first row given, (S,).

    Divided by √Dh, softmax makes the attention weights of them (Vaswani et al. 2017, eq. 1).
    """
    (kind, layer, index), = heads_of(model, head)           # ValueError where there is no such head
    attention = attention_at(model)[kind, layer]
    projections = [attention.query_projection, attention.key_projection]
    (_, queries), (_, keys) = inputs_and_outputs(model, projections, given)
    queries, keys = (attention.split_heads(x)[0, index].float() for x in (queries, keys))
    return keys @ queries[query]


# ---------------------------------------------------------------- the balance of what and where


def untrained(config: Config) -> nn.Module:
    """The model with which the training of these settings began."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return config.model().eval()


def score_parts(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """The scores q·k / √Dh of the first attention, split by what they come from, each (B, H, T, S).

    It reads a symbol's vector plus a position's. With the divisor of the norm held fixed, norm and
    projections are linear. So a score is a sum of three: of positions alone, of symbols alone, and of one of
    each. What is the same for all keys is left out, since softmax ignores it.
    """
    model = unwrapped(model)
    block = next(module for module in model.modules() if isinstance(module, TransformerBlock))
    attention, norm = block.attention, block.attention_norm
    symbols = model.embedding(tokens)
    positions = model.positional_encoding(torch.zeros_like(symbols))
    deviation = (symbols + positions).var(dim=-1, unbiased=False, keepdim=True).add(norm.epsilon).sqrt()

    def projected(x: Tensor, projection: nn.Linear) -> Tensor:
        """What this part of the sum adds to the queries or keys, (B, H, length, Dh)."""
        if block.norm_first:
            x = (x - x.mean(dim=-1, keepdim=True)) / deviation * norm.weight
        return attention.split_heads(linear(x, projection.weight))

    bias = norm.bias if block.norm_first and norm.bias is not None else torch.zeros_like(norm.weight)
    constant = attention.split_heads(attention.query_projection(bias).expand_as(symbols))
    (query_symbols, key_symbols), (query_positions, key_positions) = (
        [projected(x, projection) for projection in (attention.query_projection, attention.key_projection)]
        for x in (symbols, positions)
    )
    parts = {
        "positions": (query_positions + constant) @ key_positions.mT,
        "symbols": (query_symbols + constant) @ key_symbols.mT,
        "both": query_symbols @ key_positions.mT + query_positions @ key_symbols.mT,
    }
    return {name: part / math.sqrt(constant.size(-1)) for name, part in parts.items()}


def loudness(model: nn.Module, source: Tensor) -> dict[str, float]:
    """How loud each part of those scores is: its standard deviation over the keys that a query may read.

    It is the root mean square over all queries, heads and questions. source are questions of one length,
    (N, S). ValueError if the parts do not add up, since the model was changed.
    """
    result = {}
    with evaluating(model) as model:
        mask = attention_mask(source[:1], causal=model.architecture == "decoder")
        parts = score_parts(model, source)
        expected = sum(parts.values()).masked_fill(~mask, -torch.inf).softmax(dim=-1)
        first = next(module for module in model.modules() if isinstance(module, MultiHeadAttention))
        model(*[source] * (2 if model.architecture == "encoder-decoder" else 1))
        if (error := (first.attention_weights - expected).abs().max()) > 1e-3:
            raise ValueError(
                f"the balance cannot be measured: the parts of the scores miss the attention by {error:.2g}, "
                "so norm, positions or projections are not those of transformer.py"
            )
        share = mask / mask.sum(dim=-1, keepdim=True)                                   # of a key, in a mean
        for name, part in parts.items():
            centred = part - (part * share).sum(dim=-1, keepdim=True)
            result[name] = (centred.square() * share).sum(dim=-1).mean().sqrt().item()
    return result


# ---------------------------------------------------------------- does an encoder know where END stands?


def linear_probe(states: Tensor, labels: Tensor, held_out: Tensor) -> float:
    """How often a logistic regression reads labels (N,) from states (N, D), on the rows held out (N,).

    A probe that reads something (Alain & Bengio 2016, arXiv:1610.01644) does not show that the model uses it,
    nor that it was learned. So probe an untrained model, too (Hewitt & Liang 2019, arXiv:1909.03368).
    """
    classes, labels = labels.unique(return_inverse=True)
    fitted = states[~held_out]
    states = (states - fitted.mean(dim=0)) / (fitted.std(dim=0) + 1e-6)
    weight, bias = states.new_zeros(len(classes), states.size(1)), states.new_zeros(len(classes))
    weight.requires_grad_(), bias.requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = linear(states[~held_out], weight, bias)
        loss = cross_entropy(logits, labels[~held_out]) + 1e-3 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(loss)
    said = linear(states[held_out], weight, bias).argmax(dim=1)
    return (said == labels[held_out]).double().mean().item()


def states_to_probe(
    run: Run, sublayers: int, shuffled: bool = False
) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """What an encoder's first sublayers are given at each symbol (n, D), as sublayers_of names it.

    With it come the place of END in the symbol's sequence, the symbol's own place, and whether it is held
    out, each (n,). A single symbol is left out: there are too few such sequences to hold some out. With
    shuffled, a control, each sequence has the END of another one.
    """
    source, given, _ = unseen_sequences(run, count=min(1_000, 10_000 // longest(run) + 1))
    last, here = (source != PAD).sum(dim=1, keepdim=True) - 1, torch.arange(source.size(1))
    is_symbol = (here > 0) & (here < last) & (last > 2)
    held_out = source.unique(dim=0, return_inverse=True)[1] % 2 == 1        # every second different one
    if shuffled:
        last = last[torch.randperm(len(last), generator=fixed_generator("analysis"))]
    readers = dict(itertools.islice(sublayers_of(run.model).items(), sublayers))
    shape = *source.shape, run.config.d_model
    states = {name: torch.zeros(shape, dtype=torch.float32) for name in readers}
    for rows in portions(run.config, given):
        passed = inputs_and_outputs(run.model, [*readers.values()], tuple(tokens[rows] for tokens in given))
        for kept, (stream, _) in zip(states.values(), passed, strict=True):
            kept[rows] = stream[:, : source.size(1)]        # without MASK behind it, for longer answers
    end, place, is_held_out = (x.expand_as(source)[is_symbol] for x in (last, here, held_out[:, None]))
    return {name: kept[is_symbol] for name, kept in states.items()}, end, place, is_held_out


def probe_length(run: Run) -> tuple[float, float]:
    """How often a linear probe reads the length of a sequence from the states of its symbols.

    The states of an encoder are read before layer 1 and after its attention. The length is one less than the
    place of END.
    """
    states, end, _, held_out = states_to_probe(run, 2)
    before, after = (linear_probe(each, end, held_out) for each in states.values())
    return before, after


def probe_places(run: Run, shuffled: bool = False) -> dict[str, tuple[float, float]]:
    """How often a linear probe reads from a symbol's state where END stands, and its own mirror place.

    The states of an encoder are read before layer 1, after its attention and after its feed-forward network.
    With shuffled, a control, each sequence has the END of another one.
    """
    states, end, place, held_out = states_to_probe(run, 3, shuffled)
    return {
        name: (linear_probe(each, end, held_out), linear_probe(each, end - place, held_out))
        for name, each in states.items()
    }


def swap_end(run: Run, length: int, other_length: int) -> tuple[float, float]:
    """Give each symbol what the first attention of a reversing encoder wrote there at another length.

    Returns two shares of the symbols that the model then says: those from the mirror place of its own
    sequence, and those from the mirror place of the other one. Places where either is no symbol are left out.
    This is an interchange intervention (Geiger et al. 2021, arXiv:2106.02997). Unlike a probe, it shows what
    the model uses.
    """
    source, other = (unseen_sequences(run, each, SEQUENCES_EACH)[0] for each in (length, other_length))
    attention, here = run.model.blocks[0].attention, torch.arange(1, min(length, other_length) + 1)
    (_, written), = inputs_and_outputs(run.model, [attention], (other,))

    def swap(attention: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.index_copy(1, here, written[:, here])

    with evaluating(run.model) as model, attention.register_forward_hook(swap):
        said = model(source).argmax(dim=-1)
    here = here[other_length + 1 - here <= length]          # where both mirror places are symbols
    own, moved = source[:, length + 1 - here], source[:, other_length + 1 - here]
    return tuple((said[:, here] == places).double().mean().item() for places in (own, moved))


# ---------------------------------------------------------------- how attention forms in training


def shares_in_training(run: Run, record: Record) -> Tensor:
    """What share of its attention each head spent on the answers after each epoch, (epochs, layers, H).

    The heads are those of the kind that can find answers, and the question is that of the record. The share
    is nan where its answer comes from nowhere.
    """
    question = torch.from_numpy(record["source"])[None, 1:-1]
    depends = dependence(run.config.task, question, run.config.vocab_size)
    maps = torch.from_numpy(record[answering_kind(run.architecture)]).float()
    cells = answer_cells(run.architecture, depends, *maps.shape[-2:])[0]
    return share_on(cells, maps)


def half_way(values: list[float]) -> int:
    """Where values that rise are first at least half-way from the first of them to the last."""
    middle = (values[0] + values[-1]) / 2
    return next((place for place, value in enumerate(values) if value >= middle), 0)


@dataclass
class Evidence:
    """Measurements of a run on sequences that training never saw; each is made when it is first needed."""

    run: Run
    count: int = SEQUENCES                                  # of all lengths, for ablation and lens

    @cached_property
    def reading(self) -> Reading:
        """Where the heads read in the longest sequences."""
        return read(self.run, *unseen_sequences(self.run, longest(self.run), SEQUENCES_EACH))

    @property
    def brightest(self) -> Head | None:
        """The head that reads the answers most; None where it is not known where these come from."""
        shares = self.reading.shares
        if shares.isnan().any():
            return None
        return answering_kind(self.run.architecture), *divmod(int(shares.argmax()), shares.size(1))

    @cached_property
    def influence(self) -> Tensor:
        """What the answers of the same sequences depend on, (N, T, S)."""
        return influence(self.run, self.reading.source, self.reading.given, self.reading.to_say)

    @cached_property
    def lengths(self) -> list[AtLength]:
        return by_length(self.run)

    @cached_property
    def source(self) -> Tensor:
        """The test sequences of all lengths on which ablation and lens are measured, (N, S)."""
        return unseen_sequences(self.run, count=self.count)[0]

    @cached_property
    def lens(self) -> dict[str, tuple[float, float]]:
        """Token accuracy and exact match of what the logit lens sees after each sublayer."""
        _, given, to_say = unseen_sequences(self.run, count=self.count)
        return {
            name: (token_accuracy(said, to_say), exact_match(said, to_say))
            for name, said in logit_lens(self.run, given).items()
        }

    @cached_property
    def margins(self) -> dict[Part | str, Tensor]:
        """The margins (N, T) on sequences of all lengths after zero ablation of NOTHING and of each part."""
        model = self.run.model
        cuts = {NOTHING: ()} | {part: tuple(heads_of(model, part)) for part in parts_of(model)}
        different = list(dict.fromkeys(cuts.values()))      # a layer may have one head, a model one kind
        ahead = dict(zip(different, margins_without(self.run, different, count=self.count), strict=True))
        return {part: ahead[heads] for part, heads in cuts.items()}

    def left(self, part: Part | str = NOTHING) -> float:
        """The exact match that is left without this part."""
        return is_right(self.margins[part]).double().mean().item()

    def cost(self, part: Part) -> float:
        """How much exact match it costs to lose this part."""
        return self.left() - self.left(part)

    @cached_property
    def mean_ablation(self) -> dict[Part, float]:
        """Exact match without each kind of attention, by mean ablation."""
        kinds = [(kind,) for kind in unwrapped(self.run.model).attention_layers()]
        replacement = mean_head_outputs(self.run)
        ahead = margins_without(self.run, [(kind,) for kind in kinds], replacement, self.count)
        return dict(zip(kinds, is_right(ahead).double().mean(dim=1).tolist(), strict=True))

    @cached_property
    def pair(self) -> tuple[Head, Head, float] | None:
        """Two heads of which either can be lost at no cost, but not both, and what is left without both.

        To first order, what two cuts take from a margin adds up. So the pairs are ranked by that sum, and the
        first PAIRS are measured. None where none of them costs as much as SMALLEST_COST.
        """
        harmless = [head for head in heads_of(self.run.model) if self.cost(head) < SMALLEST_COST]
        taken = {head: (self.margins[head] - self.margins[NOTHING]).nan_to_num() for head in harmless}
        harmless = sorted(harmless, key=lambda head: taken[head].sum())[:MOST_HARMLESS]

        def expected(pair: tuple[Head, Head]) -> float:
            least = (self.margins[pair[0]] + taken[pair[1]]).amin(dim=1)
            return least.sigmoid().mean().item()            # the exact match, rounded off

        pairs = sorted(itertools.combinations(harmless, 2), key=expected)[:PAIRS]
        left = is_right(margins_without(self.run, pairs, count=self.count)).double().mean(dim=1).tolist()
        least, pair = min(zip(left, pairs, strict=True), default=(1.0, None))
        return (*pair, least) if self.left() - least >= SMALLEST_COST else None


def head_table(evidence: Evidence) -> list[dict]:
    """One row for each head, from the one that costs most to lose; layers and heads are counted from 1.

    A row has the shares of attention on the diagonals and on where the answer comes from, entropy against
    uniform attention, and distance in tokens. Then come the exact match that is left without the head, and
    what losing it costs. A share is None where it has no meaning. For the answer, that is a kind of attention
    that cannot find it, or an answer that depends on nothing. For a diagonal, it is one outside the map.
    """
    run, reading, rows = evidence.run, evidence.reading, []
    architecture = run.architecture
    for kind, maps in reading.maps.items():
        first = first_symbol(architecture, kind, reading.length)
        diagonal, anti_diagonal = diagonals(first, reading.length, *maps.shape[-2:])
        scores = {
            "diagonal": share_on(diagonal, maps), "anti_diagonal": share_on(anti_diagonal, maps),
            "relative_entropy": reading.entropy[kind], "mean_distance": mean_distance(maps, first),
        }
        if kind == answering_kind(architecture):
            scores["answer"] = reading.shares
        for head in heads_of(run.model, (kind,)):
            _, layer, index = head
            row = {"kind": kind, "layer": layer + 1, "head": index + 1, "answer": None}
            for name, score in scores.items():
                row[name] = None if score[layer, index].isnan() else score[layer, index].item()
            rows.append(row | {"exact_match_without": evidence.left(head), "cost": evidence.cost(head)})
    return sorted(rows, key=lambda row: (-row["cost"], -(row["answer"] or 0)))
