"""Measure what a trained model's attention does, and whether the answer depends on it.

Shares, scores and maps show where heads attend. Interventions on the model itself, such as ablating heads or
replacing a symbol, show what matters. Everything is measured on unseen sequences.

Shapes: N sequences, L symbols of content, A symbols of the answer, H heads, T queries, S keys.
A map is (T, S): row = query (attends), column = key (attended to).
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
from support.config import Config, fixed_generator
from support.record import Record
from support.runs import Run
from train import predict
from transformer import END, PAD, MultiHeadAttention, TransformerBlock, attention_mask, evaluating, unwrapped

SEQUENCES = 320                                             # test sequences of all lengths, …
SEQUENCES_EACH = 100                                        # … and of a single length
BATCH = 100                                                 # sequences per pass: fits the CPU caches
LARGEST = 4_000_000                                         # elements per tensor, if rows are long

Head = tuple[str, int, int]                                 # kind, layer, head; here both count from 0
Part = tuple[()] | tuple[str] | tuple[str, int] | Head      # all attention, a kind, a layer or a head
ALL_ATTENTION: Part = ()
NOTHING = "nothing"                                         # instead of a part
MOST_HARMLESS, PAIRS = 48, 4                                # candidate heads, and pairs measured
SMALLEST_COST = 0.01                                        # of a pair worth reporting


def attention_at(model: nn.Module) -> dict[tuple[str, int], MultiHeadAttention]:
    """Return the attention module of each kind and layer."""
    return {
        (kind, layer): attention for kind, attentions in unwrapped(model).attention_layers().items()
        for layer, attention in enumerate(attentions)
    }


def heads_of(model: nn.Module, part: Part = ALL_ATTENTION) -> list[Head]:
    """List the heads in one part of the model's attention. Raises ValueError if there is no such part."""
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
    """List every part that can be ablated: each head, each layer, each kind, and all attention."""
    return sorted({head[:size] for head in heads_of(model) for size in range(4)})


def inputs_and_outputs(
    model: nn.Module, modules: list[nn.Module], given: tuple[Tensor, ...]
) -> list[tuple[Tensor, Tensor]]:
    """Return each module's first input and its output during one forward pass, both (B, T, …)."""
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
    """Ablate parts of the model's attention: zero ablation, or mean ablation with mean_head_outputs.

    Each head in these parts passes zeros, or its replacement (Dh,), to the output projection. On exit, the
    model is restored. Raises ValueError if it has no such part.
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
    """Return the kind of attention that can find the answers in the source."""
    return "cross" if architecture == "encoder-decoder" else architecture


def first_symbol(architecture: str, kind: str, length: int) -> tuple[int, int]:
    """Return the query and key where the symbols start in a map; that query predicts symbol 0.

    In an encoder, each query predicts the symbol at its own position; in a generating model, the next one.
    The first is predicted at START, or at the prompt's END. On its own diagonal, a decoder thus sees the
    symbol it wrote last.
    """
    if architecture == "decoder":
        return length + 1, 1
    return {"encoder": (1, 1), "decoder": (0, 0), "cross": (0, 1)}[kind]


def cells_of_symbols(symbols: Tensor, first: tuple[int, int], queries: int, keys: int) -> Tensor:
    """Place symbol cells (…, A, L) into a boolean map (…, T, S), starting at this query and key.

    Cells outside the map are dropped, because an answer can end too early.
    """
    (query, key), symbols = first, symbols[..., : queries - first[0], : keys - first[1]]
    cells = torch.zeros(*symbols.shape[:-2], queries, keys, dtype=torch.bool)
    cells[..., query : query + symbols.size(-2), key : key + symbols.size(-1)] = symbols
    return cells


def answer_cells(architecture: str, depends: Tensor, queries: int, keys: int) -> Tensor:
    """Return where the answers come from in a map (T, S) of the answering kind, (N, T, S) boolean.

    The query that predicts a symbol gets a cell at each key with at least half the dependence of the
    strongest key. depends (N, A, L) comes from data.dependence.
    """
    known = depends.nan_to_num()
    behind = (known > 0) & (known >= known.amax(dim=2, keepdim=True) / 2)
    first = first_symbol(architecture, answering_kind(architecture), behind.size(2))
    return cells_of_symbols(behind, first, queries, keys)


def diagonals(first: tuple[int, int], length: int, queries: int, keys: int) -> Tensor:
    """Return the diagonal and anti-diagonal of the symbols in a map (T, S), (2, T, S) boolean."""
    square = torch.eye(length, dtype=torch.bool)
    return cells_of_symbols(torch.stack([square, square.flip(1)]), first, queries, keys)


def longest(run: Run) -> int:
    """Return the longest content length in the test split; for sums with seq_len 8, this is 7."""
    return run.config.lengths("test")[-1]


def unseen_sequences(
    run: Run, length: int | None = None, count: int = SEQUENCES
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Return sources, model inputs and targets for unseen sequences.

    They cover all training lengths, or just one.
    """
    config = run.config
    if length is not None:
        config = replace(config, seq_len=length, fixed_length=True)
    source, target = config.draw(count, fixed_generator("analysis"), "test")
    return source, *arrange(run.architecture, source, target)


def clearest_example(run: Run, length: int | None = None) -> Tensor:
    """Return the unseen content (L,) with the fewest repeated symbols, by default among the longest."""
    source, _, _ = unseen_sequences(run, length or longest(run))
    return max(source[:, 1:-1], key=lambda content: len(content.unique()))


def share_on(cells: Tensor, maps: Tensor) -> Tensor:
    """Return the mean fraction of attention that queries with marked cells spend on them, per head (…, H).

    maps (…, H, T, S), cells (T, S) boolean or (N, 1, T, S) for maps of N sequences. NaN if there are no
    cells.
    """
    queries = cells.any(dim=-1).sum(dim=-1)
    return (maps * cells).sum(dim=(-2, -1)) / queries


def relative_entropy(maps: Tensor, allowed: Tensor) -> Tensor:
    """Return how evenly each head attends (…, H): 0 means a single key, 1 means uniform attention.

    This is −Σ w·ln w / ln n over the n keys a query may attend to, averaged over queries with a choice. maps
    (…, H, T, S), allowed broadcastable to it, boolean.
    """
    entropy = torch.special.entr(maps).sum(dim=-1)                                      # (…, H, T), nats
    keys = allowed.sum(dim=-1)
    return (entropy / keys.log()).where(keys > 1, torch.nan).nanmean(dim=-1)


def mean_distance(maps: Tensor, first: tuple[int, int]) -> Tensor:
    """Return how far a query's attention is from its own symbol, in tokens, as a mean per head (…, H).

    A copying head scores 0. maps are (…, H, T, S); first is the query and key of symbol 0 (see first_symbol).
    Earlier queries are left out.
    """
    query, key = first
    numbers = torch.arange(maps.size(-2) - query)[:, None], torch.arange(maps.size(-1)) - key
    distances = (numbers[0] - numbers[1]).abs()                                         # (T − query, S)
    return (maps[..., query:, :] * distances).sum(dim=-1).mean(dim=-1)


def rows_at_once(config: Config, given: tuple[Tensor, ...]) -> int:
    """Return how many input rows to process at once, so that no tensor in a forward pass gets large.

    Allocate one tensor for all results first, and write each batch's into it. Otherwise small tensors left
    between large, freed ones fragment memory.
    """
    length = max(tokens.size(1) for tokens in given)
    numbers = length * max(config.vocab_size, config.num_layers * config.num_heads * length)    # logits, maps
    return max(1, min(BATCH, LARGEST // numbers))


def portions(config: Config, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Split the input row indices (N,) into batches of rows_at_once."""
    return torch.arange(len(given[0])).split(rows_at_once(config, given))


@dataclass
class Reading:
    """The attention in sequences of one length: a single sequence, or means over N."""

    source: Tensor                                          # (N, L + 2)
    given: tuple[Tensor, ...]
    to_say: Tensor                                          # (N, T)
    said: Tensor                                            # (N, T)
    maps: dict[str, Tensor]                                 # of each kind: (layers, H, T, S)
    entropy: dict[str, Tensor]                              # of each kind: (layers, H), see relative_entropy
    depends: Tensor                                         # of the correct answer; see data.dependence
    cells: Tensor                                           # (N, T, S), see answer_cells
    shares: Tensor                                          # of the answering kind, on cells: (layers, H)
    chance: float                                           # what uniform attention would score

    @property
    def enough(self) -> float:
        """The fraction above which a head attends mainly to the needed symbols: half-way from chance to 1."""
        return (1 + self.chance) / 2

    @property
    def length(self) -> int:
        """The number of symbols in each question."""
        return self.source.size(1) - 2

    @property
    def right(self) -> float:
        """The exact match of the predictions."""
        return exact_match(self.said, self.to_say)


def read(run: Run, source: Tensor, given: tuple[Tensor, ...], to_say: Tensor) -> Reading:
    """Measure where the heads attend; all sources must have the same length."""
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
    """Return each head's mean output (Dh,) over all tokens of the test sequences."""
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
    """Return the correct symbol's logit minus the highest other logit, (N, T); ∞ where nothing is scored.

    A prediction is correct exactly when its margin is positive. logits are (N, T, V), to_say (N, T).
    """
    right = to_say[:, :, None]
    ahead = logits.gather(2, right) - logits.scatter(2, right, -torch.inf).amax(dim=2, keepdim=True)
    return ahead[:, :, 0].float().where(is_scored(to_say), torch.inf)


def margins_without(
    run: Run, cuts: list[tuple[Part, ...]], replacement: dict[Head, Tensor] | None = None,
    count: int = SEQUENCES,
) -> Tensor:
    """Return the margins on test sequences of all lengths under each ablation, (cuts, N, T).

    This also scores generating models: greedy decoding is correct exactly if every teacher-forced step is.
    Each distinct row is processed once, batched with others of similar length.
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
    """Return which sequences have a positive margin at every query; (…, N, T) → (…, N) boolean."""
    return (margins > 0).all(dim=-1)


@dataclass
class AtLength:
    """A model's answers to questions of one length."""

    reading: Reading
    target: Tensor                                          # the correct answers (N, T), with START and END
    answers: Tensor                                         # the model's own (N, T), of train.predict

    @property
    def length(self) -> int:
        """The number of symbols in each question."""
        return self.reading.length

    @property
    def exact_match(self) -> float:
        return exact_match(self.answers, self.target)

    @property
    def right(self) -> Tensor:
        """The accuracy at each symbol of the answer and at its END, (T − 1,)."""
        return (self.answers == self.target)[:, 1:].double().mean(dim=0)

    def stops_after(self, symbols: int) -> int:
        """Return how many answers have END after exactly this many symbols."""
        ends = self.answers[:, 1:] == END
        return int((ends.any(dim=1) & (ends.long().argmax(dim=1) == symbols)).sum())


def answer_lengths(run: Run, most: int) -> dict[int, int]:
    """Return the answer length for each question length, up to this one, that task and model support.

    Lengths the task does not have, or too long for the model's positions, are left out.
    """
    config, places, lengths = run.config, len(unwrapped(run.model).positional_encoding.table), {}
    for length in range(1, most + 1):
        question = some_questions(config.task, length, config.vocab_size, proposals=1_000)[:1]
        if len(question):
            try:
                answer = ask(config.task, question)
                check_answers(config.task, question, answer, config.vocab_size)
            except ValueError:                              # a user's task need not have one
                continue
            source, target = (add_start_end(tokens, tokens.size(1) + 2) for tokens in (question, answer))
            given, _ = arrange(run.architecture, source, target)
            if max(tokens.size(1) for tokens in given) <= places:
                lengths[length] = answer.size(1)
    return lengths


def by_length(run: Run) -> list[AtLength]:
    """Return the answers for each available question length, up to twice the training length."""
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
    """Measure what each answer depends on: replace one symbol and see how much the output changes, (N, T, S).

    For query t and key s, this is the total variation distance ½·Σ|p − p′| between the output distributions
    before and after. It is 0 if nothing changes and 1 if everything does. At positions that are not scored
    it is NaN, as it is where no other symbol leaves a valid question. An encoder–decoder's earlier answer
    tokens are held fixed. All sources must have the same length.
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
    """Return the fraction of all influence that falls on these cells, and its mean there and elsewhere.

    cells (N, T, S) boolean, moved (N, T, S) as influence gives it.
    """
    there, elsewhere = moved[cells], moved[~cells]
    return (there.nansum() / moved.nansum()).item(), there.nanmean().item(), elsewhere.nanmean().item()


def sublayers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that read the residual stream before each sublayer, and after the last one.

    They belong to the stack that answers. Each is named after the preceding sublayer: "embedding", "layer 1
    attention", "layer 1 feed-forward", …
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
    """Return what the model would predict after each sublayer, ids (N, T), starting with the embedding alone.

    Each state is passed directly to the final norm and the output projection (nostalgebraist 2020,
    "interpreting GPT: the logit lens"). The last entry is the model's actual prediction.
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
    """Return the dot products q·k of one query with every key, for the first input row, (S,).

    Divided by √Dh and passed through softmax, they give the attention weights (Vaswani et al. 2017, eq. 1).
    """
    (kind, layer, index), = heads_of(model, head)           # ValueError if there is no such head
    attention = attention_at(model)[kind, layer]
    projections = [attention.query_projection, attention.key_projection]
    (_, queries), (_, keys) = inputs_and_outputs(model, projections, given)
    queries, keys = (attention.split_heads(x)[0, index].float() for x in (queries, keys))
    return keys @ queries[query]


# ---------------------------------------------------------------- the balance between what and where


def untrained(config: Config) -> nn.Module:
    """Return the initial, untrained model of a run with these settings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return config.model().eval()


def score_parts(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """Split the scores q·k / √Dh of the first attention by source, each (B, H, T, S).

    Its input is a symbol vector plus a position vector. With the norm's divisor held fixed, norm and
    projections are linear. So each score is a sum of three terms: positions only, symbols only, and cross
    terms. Anything equal for all keys is left out, because softmax ignores it.
    """
    model = unwrapped(model)
    block = next(module for module in model.modules() if isinstance(module, TransformerBlock))
    attention, norm = block.attention, block.attention_norm
    symbols = model.embedding(tokens)
    positions = model.positional_encoding(torch.zeros_like(symbols))
    deviation = (symbols + positions).var(dim=-1, unbiased=False, keepdim=True).add(norm.epsilon).sqrt()

    def projected(x: Tensor, projection: nn.Linear) -> Tensor:
        """Return this term's contribution to the queries or keys, (B, H, length, Dh)."""
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
    """Return the loudness of each score term: its standard deviation over the keys a query may attend to.

    This is the root mean square over all queries, heads and questions. source (N, S) holds questions of one
    length. Raises ValueError if the terms do not add up, as in a modified model.
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
                f"the balance cannot be measured: the terms differ from the attention scores by {error:.2g}, "
                "so norm, positions or projections are not those of transformer.py"
            )
        share = mask / mask.sum(dim=-1, keepdim=True)                                   # of each key
        for name, part in parts.items():
            centred = part - (part * share).sum(dim=-1, keepdim=True)
            result[name] = (centred.square() * share).sum(dim=-1).mean().sqrt().item()
    return result


# ---------------------------------------------------------------- does an encoder know where END is?


def linear_probe(states: Tensor, labels: Tensor, held_out: Tensor) -> float:
    """Return a logistic regression's accuracy for labels (N,) from states (N, D), on held-out rows (N,).

    A successful probe (Alain & Bengio 2016, arXiv:1610.01644) does not show that the model uses the
    information, nor that it was learned. So probe an untrained model too (Hewitt & Liang 2019,
    arXiv:1909.03368).
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
    """Return the inputs of an encoder's first sublayers at each symbol (n, D), named as in sublayers_of.

    Also return, each (n,), END's position in the symbol's sequence, the symbol's own position, and whether it
    is held out. Sequences of one symbol are left out, because there are too few to hold some out. As a
    control, shuffled=True gives each sequence the END of another.
    """
    source, given, _ = unseen_sequences(run, count=min(1_000, 10_000 // longest(run) + 1))
    last, here = (source != PAD).sum(dim=1, keepdim=True) - 1, torch.arange(source.size(1))
    is_symbol = (here > 0) & (here < last) & (last > 2)
    held_out = source.unique(dim=0, return_inverse=True)[1] % 2 == 1        # every other distinct sequence
    if shuffled:
        last = last[torch.randperm(len(last), generator=fixed_generator("analysis"))]
    readers = dict(itertools.islice(sublayers_of(run.model).items(), sublayers))
    shape = *source.shape, run.config.d_model
    states = {name: torch.zeros(shape, dtype=torch.float32) for name in readers}
    for rows in portions(run.config, given):
        passed = inputs_and_outputs(run.model, [*readers.values()], tuple(tokens[rows] for tokens in given))
        for kept, (stream, _) in zip(states.values(), passed, strict=True):
            kept[rows] = stream[:, : source.size(1)]        # without the MASKs after it, for longer answers
    end, place, is_held_out = (x.expand_as(source)[is_symbol] for x in (last, here, held_out[:, None]))
    return {name: kept[is_symbol] for name, kept in states.items()}, end, place, is_held_out


def probe_length(run: Run) -> tuple[float, float]:
    """Return how accurately a linear probe decodes a sequence's length from its symbols' states.

    The encoder's states are taken before layer 1 and after its attention. The length is END's position minus
    one.
    """
    states, end, _, held_out = states_to_probe(run, 2)
    before, after = (linear_probe(each, end, held_out) for each in states.values())
    return before, after


def probe_places(run: Run, shuffled: bool = False) -> dict[str, tuple[float, float]]:
    """Return a linear probe's accuracy for END's position and a symbol's own mirror position.

    The encoder's states are taken before layer 1, after its attention and after its feed-forward network.
    As a control, shuffled=True gives each sequence the END of another.
    """
    states, end, place, held_out = states_to_probe(run, 3, shuffled)
    return {
        name: (linear_probe(each, end, held_out), linear_probe(each, end - place, held_out))
        for name, each in states.items()
    }


def swap_end(run: Run, length: int, other_length: int) -> tuple[float, float]:
    """Patch a reversing encoder's first attention output with that of sequences of another length.

    Return two fractions of the predicted symbols: those from the mirror position for its own length, and
    those from the one for the other length. Positions where either is not a symbol are left out. This is an
    interchange intervention (Geiger et al. 2021, arXiv:2106.02997). Unlike a probe, it shows what the model
    uses.
    """
    source, other = (unseen_sequences(run, each, SEQUENCES_EACH)[0] for each in (length, other_length))
    attention, here = run.model.blocks[0].attention, torch.arange(1, min(length, other_length) + 1)
    (_, written), = inputs_and_outputs(run.model, [attention], (other,))

    def swap(attention: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.index_copy(1, here, written[:, here])

    with evaluating(run.model) as model, attention.register_forward_hook(swap):
        said = model(source).argmax(dim=-1)
    here = here[other_length + 1 - here <= length]          # where both mirror positions are symbols
    own, moved = source[:, length + 1 - here], source[:, other_length + 1 - here]
    return tuple((said[:, here] == places).double().mean().item() for places in (own, moved))


# ---------------------------------------------------------------- how attention forms during training


def shares_in_training(run: Run, record: Record) -> Tensor:
    """Return each head's fraction of attention on the answers after each epoch, (epochs, layers, H).

    It covers the heads of the kind that can find answers, on the recorded question. It is NaN if the answer
    depends on nothing.
    """
    question = torch.from_numpy(record["source"])[None, 1:-1]
    depends = dependence(run.config.task, question, run.config.vocab_size)
    maps = torch.from_numpy(record[answering_kind(run.architecture)]).float()
    cells = answer_cells(run.architecture, depends, *maps.shape[-2:])[0]
    return share_on(cells, maps)


def half_way(values: list[float]) -> int:
    """Return the index at which rising values first reach half-way from the first to the last."""
    middle = (values[0] + values[-1]) / 2
    return next((place for place, value in enumerate(values) if value >= middle), 0)


@dataclass
class Evidence:
    """Measurements of a run on unseen sequences, each computed when first needed."""

    run: Run
    count: int = SEQUENCES                                  # of all lengths, for ablation and lens

    @cached_property
    def reading(self) -> Reading:
        """The attention in the longest sequences."""
        return read(self.run, *unseen_sequences(self.run, longest(self.run), SEQUENCES_EACH))

    @property
    def brightest(self) -> Head | None:
        """The head that attends most to the answers; None if it is unknown where these come from."""
        shares = self.reading.shares
        if shares.isnan().any():
            return None
        return answering_kind(self.run.architecture), *divmod(int(shares.argmax()), shares.size(1))

    @cached_property
    def influence(self) -> Tensor:
        """The influence of each symbol on the answers to the same sequences, (N, T, S)."""
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
        """Token accuracy and exact match of the logit lens after each sublayer."""
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
        different = list(dict.fromkeys(cuts.values()))      # some parts contain the same heads
        ahead = dict(zip(different, margins_without(self.run, different, count=self.count), strict=True))
        return {part: ahead[heads] for part, heads in cuts.items()}

    def left(self, part: Part | str = NOTHING) -> float:
        """Return the exact match without this part."""
        return is_right(self.margins[part]).double().mean().item()

    def cost(self, part: Part) -> float:
        """Return how much exact match drops without this part."""
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
        """Two heads that can each be removed at no cost, but not together, and the exact match without both.

        To first order, the effects of two cuts on a margin add up. So pairs are ranked by that sum, and the
        top PAIRS are measured. None if no pair costs at least SMALLEST_COST.
        """
        harmless = [head for head in heads_of(self.run.model) if self.cost(head) < SMALLEST_COST]
        taken = {head: (self.margins[head] - self.margins[NOTHING]).nan_to_num() for head in harmless}
        harmless = sorted(harmless, key=lambda head: taken[head].sum())[:MOST_HARMLESS]

        def expected(pair: tuple[Head, Head]) -> float:
            least = (self.margins[pair[0]] + taken[pair[1]]).amin(dim=1)
            return least.sigmoid().mean().item()            # a smooth version of exact match

        pairs = sorted(itertools.combinations(harmless, 2), key=expected)[:PAIRS]
        left = is_right(margins_without(self.run, pairs, count=self.count)).double().mean(dim=1).tolist()
        least, pair = min(zip(left, pairs, strict=True), default=(1.0, None))
        return (*pair, least) if self.left() - least >= SMALLEST_COST else None


def head_table(evidence: Evidence) -> list[dict]:
    """Return one row per head, most costly first; layers and heads are numbered from 1.

    Each row gives the fractions of attention on both diagonals and on the answer's source, the entropy
    relative to uniform attention, and the distance in tokens. Then come the exact match without the head and
    the cost of removing it. A fraction is None if it has no meaning. For the answer, that is a kind of
    attention that cannot find it, or an answer that depends on nothing. For a diagonal, it is one outside the
    map.
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
