"""What a trained model's attention does, in numbers, and whether the answer depends on it.

Shares, scores and maps say where heads read. Interventions on the real model, ablating heads or replacing
a symbol, say what matters. Everything is measured on sequences that training never saw.

Shapes: N sequences, L symbols of content, A symbols of the answer, H heads, T queries, S keys.
A map is (T, S): row = query (who reads), column = key (what is read).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from data import (
    PAD,
    arrange,
    dependence,
    exact_match,
    is_scored,
    other_question,
    replace_symbol,
    symbols_of,
    token_accuracy,
    usable_lengths,
)
from train import Run, fixed_generator
from transformer import MultiHeadAttention, attention_mask, evaluating, unwrapped

SEQUENCES = 500                                             # test sequences behind each number
SEQUENCES_EACH = 200                                        # where all lengths or all symbols have their turn
BATCH = 100                                                 # of them at a time: small enough for the caches

Head = tuple[str, int, int]                                 # kind, layer, head; here both count from 0
Part = tuple[str] | tuple[str, int] | Head                  # one of the two below, a kind, a layer or a head
NOTHING: Part = ("nothing",)
ALL_ATTENTION: Part = ("all attention",)


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
    if part == NOTHING:
        return []
    if part == ALL_ATTENTION:
        return heads
    chosen = [head for head in heads if head[: len(part)] == part]
    if not part or not chosen:
        there = ", ".join(
            f"{kind} layers 0 … {len(attentions) - 1} with heads 0 … {attentions[0].num_heads - 1}"
            for kind, attentions in unwrapped(model).attention_layers().items()
        )
        raise ValueError(f"part={part} is not in this model; choose from {there}, or ALL_ATTENTION")
    return chosen


def parts_of(model: nn.Module) -> list[Part]:
    """All that can be ablated: each head, each layer, each kind, and all attention."""
    return [ALL_ATTENTION, *sorted({head[:size] for head in heads_of(model) for size in (1, 2, 3)})]


@contextmanager
def with_pre_hooks(modules: Iterable[nn.Module], hook: Callable) -> Iterator[None]:
    """Call hook(module, inputs) before each of these modules; what it returns takes the inputs' place."""
    handles = [module.register_forward_pre_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def inputs_of(model: nn.Module, modules: list[nn.Module], given: tuple[Tensor, ...]) -> list[Tensor]:
    """What each of these modules is given in one pass of the model, (B, T, …)."""
    seen = {}

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        seen[module] = inputs[0]

    with evaluating(model) as model, with_pre_hooks(modules, note):
        model(*given)
    return [seen[module] for module in modules]


@contextmanager
def ablated(
    model: nn.Module, part: Part, replacement: dict[Head, Tensor] | None = None
) -> Iterator[nn.Module]:
    """The model without one part of its attention: zero ablation, or mean ablation with mean_head_outputs.

    Each head of the part gives zeros, or its replacement (Dh,), to the output projection that mixes the
    heads. Afterwards the model is as it was. ValueError where it has no such part.
    """
    attentions, heads = attention_at(model), heads_of(model, part)
    place_of = {attentions[head[:2]].output_projection: head[:2] for head in heads}

    def replace_outputs(output_projection: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        place = place_of[output_projection]
        by_head = inputs[0].unflatten(-1, (attentions[place].num_heads, -1)).clone()    # (B, T, H, Dh)
        for head in heads:
            if head[:2] == place:
                by_head[:, :, head[2]] = replacement[head] if replacement else 0.0
        return by_head.flatten(2)

    with with_pre_hooks(place_of, replace_outputs):
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


def answer_cells(architecture: str, depends: Tensor, queries: int, keys: int) -> Tensor:
    """Where in a map (T, S) of the answering kind the answers come from, (N, T, S) boolean.

    A query that says a symbol has those keys on which the right symbol depends, at least half as much as on
    the key on which it depends most. depends (N, A, L) as data.dependence measures it.
    """
    known = depends.nan_to_num()
    behind = (known > 0) & (known >= known.amax(dim=2, keepdim=True) / 2)
    query, key = first_symbol(architecture, answering_kind(architecture), behind.size(2))
    cells = torch.zeros(len(behind), queries, keys, dtype=torch.bool)
    behind = behind[:, : queries - query]                   # an answer that ended too early has fewer
    cells[:, query : query + behind.size(1), key : key + behind.size(2)] = behind
    return cells


def diagonals(architecture: str, kind: str, length: int, queries: int, keys: int) -> Tensor:
    """The diagonal and the anti-diagonal of the symbols in a map (T, S), (2, T, S) boolean."""
    query, key = first_symbol(architecture, kind, length)
    square = torch.eye(length, dtype=torch.bool)
    both = torch.stack([square, square.flip(1)])[:, : queries - query]      # an answer may have fewer symbols
    cells = torch.zeros(2, queries, keys, dtype=torch.bool)
    cells[:, query : query + both.size(1), key : key + length] = both[:, :, : keys - key]
    return cells


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


def share_on(cells: Tensor, maps: Tensor) -> Tensor:
    """What share of its attention a query with such cells spends on them, a mean for each head (…, H).

    cells (N or 1, T, S) boolean, maps (…, N, H, T, S). nan where no sequence has a cell.
    """
    queries = cells.any(dim=2).sum(dim=1)[:, None]                                      # (N or 1, 1)
    return ((maps * cells[:, None]).sum(dim=(-2, -1)) / queries).nanmean(dim=-2)


def uniform_attention(allowed: Tensor) -> Tensor:
    """The map (…, T, S) of a head that attends uniformly to all that it may attend to."""
    return allowed.double() / allowed.sum(dim=-1, keepdim=True)


def relative_entropy(maps: Tensor, allowed: Tensor) -> Tensor:
    """How evenly a head reads, a mean for each head (…, H): 0 is a single key, 1 is uniform attention.

    That is −Σ w·ln w / ln n over the n keys that a query may read, of the queries that have a choice.
    maps (…, N, H, T, S), allowed broadcastable to it, boolean.
    """
    entropy = torch.special.entr(maps).sum(dim=-1)                                      # (…, N, H, T), nats
    keys = allowed.sum(dim=-1)
    return (entropy / keys.log()).where(keys > 1, torch.nan).nanmean(dim=(-3, -1))


def mean_distance(maps: Tensor, first: tuple[int, int]) -> Tensor:
    """How far what a query reads is from the symbol of its number, a mean for each head (…, H), in tokens.

    A head that copies has 0. maps (…, N, H, T, S); first are the query and key of symbol 0, see first_symbol.
    The queries before it are left out.
    """
    query, key = first
    numbers = torch.arange(maps.size(-2) - query)[:, None], torch.arange(maps.size(-1)) - key
    distances = (numbers[0] - numbers[1]).abs()                                         # (T − query, S)
    return (maps[..., query:, :] * distances).sum(dim=-1).mean(dim=(-3, -1))


@dataclass
class Reading:
    """One pass over sequences of one length: what was asked and said, and where the heads read."""

    source: Tensor                                          # (N, L + 2)
    given: tuple[Tensor, ...]
    to_say: Tensor                                          # (N, T)
    said: Tensor                                            # (N, T)
    maps: dict[str, Tensor]                                 # of each kind: (layers, N, H, T, S)
    depends: Tensor                                         # of the right answer, see data.dependence
    cells: Tensor                                           # see answer_cells
    shares: Tensor                                          # of the answering kind, on cells: (layers, H)
    chance: float                                           # the share of uniform attention

    @property
    def length(self) -> int:
        """How many symbols each question has."""
        return self.source.size(1) - 2


def read(run: Run, source: Tensor, given: tuple[Tensor, ...], to_say: Tensor) -> Reading:
    """Look where the heads read; all sources are equally long."""
    kind = answering_kind(run.architecture)
    with evaluating(run.model) as model:
        said = model(*given).argmax(dim=-1)
        maps = {
            name: torch.stack([attention.attention_weights.float() for attention in layers])
            for name, layers in model.attention_layers().items()
        }
    depends = dependence(run.config.task, source[:, 1:-1], run.config.vocab_size)
    cells = answer_cells(run.architecture, depends, *maps[kind].shape[-2:])
    uniform = uniform_attention(attention_mask(given[0], causal=kind == "decoder"))
    return Reading(
        source=source, given=given, to_say=to_say, said=said, maps=maps, depends=depends, cells=cells,
        shares=share_on(cells, maps[kind]), chance=share_on(cells, uniform).item(),
    )


def mean_head_outputs(run: Run) -> dict[Head, Tensor]:
    """What each head gives to the output projection (Dh,), a mean over all tokens of the test sequences."""
    _, given, _ = unseen_sequences(run)
    attentions, means = attention_at(run.model), {}
    outputs = inputs_of(run.model, [attention.output_projection for attention in attentions.values()], given)
    for (place, attention), output in zip(attentions.items(), outputs, strict=True):
        is_token = given[0 if place[0] == "encoder" else -1] != PAD                     # (N, T)
        by_head = output[is_token].float().mean(dim=0).unflatten(0, (attention.num_heads, -1))      # (H, Dh)
        means |= {(*place, head): mean for head, mean in enumerate(by_head)}
    return means


def answers(model: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    """The likeliest symbol at each query, (N, T); PAD where the query is one.

    Each different row goes through the model once, beside others of like length, without needless PAD.
    """
    widths = [tokens.size(1) for tokens in given]
    different, place = torch.cat(given, dim=1).unique(dim=0, return_inverse=True)
    said = torch.full((len(different), widths[-1]), PAD)
    with evaluating(model) as model:
        for rows in (different != PAD).sum(dim=1).argsort().split(BATCH):
            parts = different[rows].split(widths, dim=1)
            short = [tokens[:, : (tokens != PAD).sum(dim=1).max()] for tokens in parts]
            said[rows, : short[-1].size(1)] = model(*short).argmax(dim=-1)
    return said[place]


def exact_match_ablated(
    run: Run, parts: list[Part], replacement: dict[Head, Tensor] | None = None
) -> dict[Part, float]:
    """Exact match on test sequences of all lengths, each time with one part ablated; see ablated.

    For a generating model that of what it generates: greedy decoding is right just where each step after the
    right beginning is.
    """
    _, given, to_say = unseen_sequences(run)
    scores = {}
    for part in parts:
        with ablated(run.model, part, replacement) as model:
            scores[part] = exact_match(answers(model, given), to_say)
    return scores


def by_length(run: Run) -> list[dict]:
    """Exact match, and where the heads read, on sequences of each length up to twice those of training.

    A length that the task does not have, or that is too long for the model's positions, is left out.
    """
    config, rows = run.config, []
    for length in usable_lengths(config.task, "test", 2 * config.seq_len, config.vocab_size):
        asked = unseen_sequences(run, length, SEQUENCES_EACH)
        if max(tokens.size(1) for tokens in asked[1]) > len(unwrapped(run.model).positional_encoding.table):
            break
        reading = read(run, *asked)
        rows.append({
            "length": length, "exact_match": exact_match(reading.said, reading.to_say),
            "shares": reading.shares, "chance": reading.chance,
        })
    return rows


def influence(run: Run, source: Tensor, given: tuple[Tensor, ...], to_say: Tensor) -> Tensor:
    """What each answer depends on: replace one symbol and see how far the answer moves, (N, T, S).

    Query t has there, for key s, the total variation ½·Σ|p − p′| of its distributions over the vocabulary,
    before and after: 0 where nothing moves, 1 where all does. It is nan where nothing is asked or no symbol
    can be replaced so that the question stays valid. What an encoder–decoder has written so far is held
    fixed. All sources are equally long.
    """
    config, question = run.config, source[:, 1:-1]
    symbols, generator = symbols_of(config.task, config.vocab_size), fixed_generator("influence")
    columns = []
    with evaluating(run.model) as model:
        before = model(*given).float().softmax(dim=-1)
        for key in range(given[0].size(1)):
            shift = torch.randint(1, max(2, len(symbols)), (len(source),), generator=generator)
            if 1 <= key <= question.size(1):
                replaced, changed = other_question(config.task, question, key - 1, shift, config.vocab_size)
                other = given[0].clone()
                other[:, 1 : question.size(1) + 1] = replaced
            else:                                           # a symbol that a decoder has written
                other, changed = replace_symbol(symbols, given[0], key, shift)
            after = model(other, *given[1:]).float().softmax(dim=-1)
            moved = (after - before).abs().sum(dim=-1) / 2                                  # (N, T)
            columns.append(moved.where(changed[:, None] & is_scored(to_say), torch.nan))
    return torch.stack(columns, dim=2)


def influence_on(cells: Tensor, moved: Tensor) -> tuple[float, float, float]:
    """What share of all influence is on these cells, and its means there and elsewhere.

    cells (N, T, S) boolean, moved (N, T, S) as influence gives it.
    """
    there, elsewhere = moved[cells], moved[~cells]
    return (there.nansum() / moved.nansum()).item(), there.nanmean().item(), elsewhere.nanmean().item()


def rollout(maps: dict[str, Tensor]) -> Tensor:
    """How much of each source token is in each query's end, if attention were all that moves it, (N, T, S).

    Attention rollout (Abnar and Zuidema 2020, section 3): from layer to layer R ← (A + I)/2 · R, with the
    mean A of the heads, and I for the residual stream; through cross-attention by the same rule. Weights are
    all that it looks at. It gives each head the same say and the stream one half, whatever they carry.
    """
    means = {kind: weights.mean(dim=2) for kind, weights in maps.items()}               # (layers, N, T, S)
    first = means.get("encoder", means.get("decoder"))
    result = torch.eye(first.size(-1)).expand_as(first[0])
    for layer in first:
        result = (result + layer @ result) / 2
    if "cross" not in maps:
        return result
    memory, result = result, torch.zeros_like(means["cross"][0])                        # no source read yet
    for layer, cross in zip(means["decoder"], means["cross"], strict=True):
        result = (result + layer @ result) / 2
        result = (result + cross @ memory) / 2
    return result


def logit_lens(model: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    """What the model would say after each layer, (layers + 1, N, T, V) logits; first, without any.

    Each state goes straight through the final norm and the output projection (nostalgebraist 2020,
    "interpreting GPT: the logit lens"). The last is what the model says.
    """
    with evaluating(model) as model:
        if model.architecture == "encoder-decoder":
            blocks, norm = model.decoder_blocks, model.decoder_norm
        else:
            blocks, norm = model.blocks, model.final_norm
        return model.output_projection(norm(torch.stack(inputs_of(model, [*blocks, norm], given))))


def lens_scores(run: Run) -> list[tuple[float, float]]:
    """Token accuracy and exact match of what the lens sees after each layer, on test sequences."""
    _, given, to_say = unseen_sequences(run)
    said = logit_lens(run.model, given).argmax(dim=-1)
    return [(token_accuracy(early, to_say), exact_match(early, to_say)) for early in said]


def scores_of_query(model: nn.Module, given: tuple[Tensor, ...], head: Head, query: int) -> Tensor:
    """The products q·k of one query with each key, in the first row given, (S,).

    Divided by √Dh, softmax makes the attention weights of them (Vaswani et al. 2017, eq. 1).
    """
    (kind, layer, index), = heads_of(model, head)           # ValueError where there is no such head
    attention = attention_at(model)[kind, layer]
    projections = [attention.query_projection, attention.key_projection]
    inputs = inputs_of(model, projections, given)
    with torch.no_grad():
        queries, keys = (
            attention.split_heads(projection(x))[0, index].float()
            for projection, x in zip(projections, inputs, strict=True)
        )
    return keys @ queries[query]


@dataclass
class Evidence:
    """All that is measured of a run, on sequences that training never saw."""

    reading: Reading                                        # of the longest sequences
    influence: Tensor                                       # on the first of them, (N, T, S)
    zero_ablation: dict[Part, float]                        # exact match without NOTHING and each part
    mean_ablation: dict[Part, float]                        # the same without each layer, kind and all
    lens: list[tuple[float, float]]                         # after each layer: token accuracy, exact match
    lengths: list[dict]                                     # see by_length


def measure(run: Run) -> Evidence:
    """Measure everything; a few seconds for a model of the default size."""
    source, given, to_say = unseen_sequences(run, longest(run))
    first = slice(SEQUENCES_EACH)
    parts = parts_of(run.model)
    larger = [part for part in parts if len(part) < 3]      # than a head
    return Evidence(
        reading=read(run, source, given, to_say),
        influence=influence(run, source[first], tuple(tokens[first] for tokens in given), to_say[first]),
        zero_ablation=exact_match_ablated(run, [NOTHING, *parts]),
        mean_ablation=exact_match_ablated(run, larger, mean_head_outputs(run)),
        lens=lens_scores(run),
        lengths=by_length(run),
    )


def head_table(run: Run, evidence: Evidence) -> list[dict]:
    """One row for each head, from the one that costs most to lose; layers and heads are counted from 1.

    Shares of attention on the diagonals and on where the answer comes from, entropy against uniform, distance
    in tokens, and the exact match that is left without the head. A score is None where it has no meaning: the
    answer's of a kind that cannot find it or where it depends on nothing, a diagonal's outside the map.
    """
    rows, reading, architecture = [], evidence.reading, run.architecture
    for kind, maps in reading.maps.items():
        causal = kind == "decoder"
        allowed = attention_mask(reading.given[-1 if causal else 0], causal)
        both = diagonals(architecture, kind, reading.length, *maps.shape[-2:])
        scores = {
            "diagonal": share_on(both[:1], maps), "anti_diagonal": share_on(both[1:], maps),
            "relative_entropy": relative_entropy(maps, allowed),
            "mean_distance": mean_distance(maps, first_symbol(architecture, kind, reading.length)),
        }
        if kind == answering_kind(architecture):
            scores["answer"] = reading.shares
        for head in heads_of(run.model, (kind,)):
            _, layer, index = head
            left = evidence.zero_ablation[head]
            row = {"kind": kind, "layer": layer + 1, "head": index + 1, "answer": None}
            for name, score in scores.items():
                row[name] = None if score[layer, index].isnan() else score[layer, index].item()
            rows.append(row | {"exact_match_without": left, "cost": evidence.zero_ablation[NOTHING] - left})
    return sorted(rows, key=lambda row: (-row["cost"], -(row["answer"] or 0)))
