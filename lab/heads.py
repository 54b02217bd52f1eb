"""Measure what the heads of a trained model attend to in unseen sequences.

Shapes: N sequences, L symbols of content, A symbols of the answer, H heads, T queries, S keys.
A map is (T, S): row = query (attends), column = key (attended to).
"""

from collections import defaultdict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import transformer
from data import batches_by_length, is_correct, make_inputs_and_targets
from lab.influence import answer_sensitivity
from support.config import EVALUATION_BATCH, fixed_generator
from support.puzzles import count_symbols, strip_special_tokens
from support.runs import Run
from transformer import END, PAD, MultiHeadAttention, attention_mask, eval_mode, unwrap_model

SEQUENCES = 320                                             # test sequences of all lengths, …
SEQUENCES_PER_LENGTH = 100                                  # … and of a single length
Head = tuple[str, int, int]                                 # kind, layer, head; here both count from 0
Part = tuple[()] | tuple[str] | tuple[str, int] | Head      # all attention, a kind, a layer or a head
ALL_ATTENTION: Part = ()
KINDS = {
    "encoder": "the encoder's self-attention", "decoder": "the decoder's self-attention",
    "cross": "cross-attention",
}


def attention_modules(model: nn.Module) -> dict[tuple[str, int], MultiHeadAttention]:
    """Return the attention module of each kind and layer."""
    return {
        (kind, layer): attention for kind, attentions in unwrap_model(model).attention_layers().items()
        for layer, attention in enumerate(attentions)
    }


def list_streams(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Return the blocks of each residual stream, by its name, which is empty if there is only one."""
    model = unwrap_model(model)
    if model.architecture == "encoder-decoder":
        return {"encoder ": model.encoder_blocks, "decoder ": model.decoder_blocks}
    return {"": model.blocks}


def list_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks in the order in which they run."""
    return [block for blocks in list_streams(model).values() for block in blocks]


def list_heads(model: nn.Module, part: Part = ALL_ATTENTION) -> list[Head]:
    """List the heads in one part of the model's attention. Raises ValueError if there is no such part."""
    attentions = attention_modules(model)
    heads = [(*layer, head) for layer in attentions for head in range(attentions[layer].num_heads)]
    if part not in {head[: len(part)] for head in heads}:
        raise ValueError(f"this model has no part {part}; its first head is {heads[0]}, its last {heads[-1]}")
    return [head for head in heads if head[: len(part)] == part]


def list_parts(model: nn.Module) -> list[Part]:
    """List every part that can be ablated: each head, each layer, each kind, and all attention."""
    return sorted({head[:size] for head in list_heads(model) for size in range(4)})


def part_name(model: Run | nn.Module, part: Part) -> str:
    """Return the name of a model's part, e.g. layer 1, head 6, with its kind if the model has several."""
    indices, has_several = part[1:], model.architecture == "encoder-decoder"
    if not indices:
        return KINDS[part[0]] if part and has_several else "any attention"
    words = [f"{word} {index + 1}" for word, index in zip(("layer", "head"), indices, strict=False)]
    if has_several:
        words[0] = f"{'cross-attention' if part[0] == 'cross' else part[0]} {words[0]}"
    return ", ".join(words)


def describe_part(run: Run, part: Part) -> str:
    """Return a part's name, with its purpose if known: layer 1, head 1 (finds END)."""
    name = part_name(run, part)
    purpose = run.purposes.get(name)
    return f"{name} ({purpose})" if purpose else name


def capture_activations(
    model: nn.Module, modules: list[nn.Module], inputs: tuple[Tensor, ...]
) -> list[tuple[Tensor, Tensor]]:
    """Return each module's first input and its output during one forward pass, both (B, T, …)."""
    captured = {}

    def capture(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        captured[module] = arguments[0], output

    with eval_mode(model) as model, ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(capture))
        model(*inputs)
    return [captured[module] for module in modules]


def visit_heads(
    attention: nn.Module, names: list[Hashable], visit: Callable[[Hashable, Tensor], Tensor]
) -> AbstractContextManager:
    """Return a context in which each head's output (B, T, Dh) is replaced with visit(its name, output)."""

    def visit_each(output_projection: nn.Module, arguments: tuple[Tensor]) -> Tensor:
        outputs = arguments[0].unflatten(-1, (attention.num_heads, -1)).unbind(dim=-2)
        return torch.cat([visit(*each) for each in zip(names, outputs, strict=True)], dim=-1)

    return attention.output_projection.register_forward_pre_hook(visit_each)


def record_attention(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[tuple[str, int], tuple]:
    """Return queries, keys, values and mask of each kind and layer in one pass, in order of computation.

    They are those passed to transformer.scaled_dot_product_attention, for example rotated ones. A layer that
    does not call this function is left out.
    """
    attend, running, calls = transformer.scaled_dot_product_attention, [], {}

    def keep(*arguments: object) -> tuple[Tensor, Tensor]:
        calls.setdefault(running[-1], arguments[:4])
        return attend(*arguments)

    with ExitStack() as hooks:
        hooks.enter_context(mock.patch.object(transformer, "scaled_dot_product_attention", keep))
        for layer, attention in attention_modules(model).items():
            enter = partial(lambda layer, *_: running.append(layer), layer)
            hooks.enter_context(attention.register_forward_pre_hook(enter))
        model = hooks.enter_context(eval_mode(model))
        model(*inputs)
    return calls


def compute_query_scores(
    model: nn.Module, inputs: tuple[Tensor, ...], head: Head, query: int
) -> tuple[Tensor, int] | None:
    """Return the dot products q·k of one query with every key, for the first input row, (S,), and Dh.

    None if record_attention leaves out this head's layer.
    """
    kind, layer, index = list_heads(model, head)[0]         # ValueError if there is no such head
    calls = record_attention(model, inputs)
    if (kind, layer) not in calls:
        return None
    queries, keys = (x[0, index].float() for x in calls[kind, layer][:2])
    return keys @ queries[query], queries.size(-1)


def source_attention_kind(architecture: str) -> str:
    """Return the kind of attention that can find the answers in the source."""
    return "cross" if architecture == "encoder-decoder" else architecture


def first_symbol_cell(architecture: str, kind: str, source_length: int) -> tuple[int, int]:
    """Return the query and key where the symbols start in a map; that query predicts symbol 0.

    In an encoder, each query predicts the symbol at its own position; in a generating model, the next one.
    The first is predicted at START, or at the end of the prompt, which has source_length tokens.
    """
    if architecture == "decoder":
        return source_length - 1, 1
    return {"encoder": (1, 1), "decoder": (0, 0), "cross": (0, 1)}[kind]


def map_answer_sources(
    architecture: str, sensitivity: Tensor, queries: int, keys: int, source_length: int
) -> Tensor:
    """Return where the answers come from in a map (T, S) of attention to the source, (N, T, S) boolean.

    For the query that predicts a symbol, these are the keys with at least half the sensitivity of the
    strongest one. sensitivity (N, A, L) comes from influence.answer_sensitivity. Anything outside the map is
    dropped, because an answer can end too early.
    """
    query, key = first_symbol_cell(architecture, source_attention_kind(architecture), source_length)
    measured = sensitivity.nan_to_num()[:, : queries - query, : keys - key]
    sources = torch.zeros(len(sensitivity), queries, keys, dtype=torch.bool)
    sources[:, query : query + measured.size(1), key : key + measured.size(2)] = (
        (measured > 0) & (measured >= measured.amax(dim=2, keepdim=True) / 2)
    )
    return sources


def max_test_length(run: Run) -> int:
    """Return the maximum question length of the test split; for sums with seq_len 8, this is 7."""
    return run.config.lengths()[-1]


def sample_unseen(
    run: Run, length: int | None = None, count: int = SEQUENCES
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Return sources, model inputs and targets of unseen sequences of all training lengths, or just one."""
    config = run.config
    if length is not None:
        config = replace(config, seq_len=length, fixed_length=True)
    source, target = config.sample_batch(count, fixed_generator("analysis"), "test")
    return source, *make_inputs_and_targets(run.architecture, source, target)


def pick_clear_example(run: Run, length: int | None = None) -> Tensor:
    """Return the unseen content (L,) with the fewest repeated symbols, by default among the longest.

    If the model answers any correctly, only those are considered.
    """
    source, inputs, targets = sample_unseen(run, length or max_test_length(run))
    content = strip_special_tokens(source)
    clearest = sorted(range(len(content)), key=lambda row: -len(content[row].unique()))
    with eval_mode(run.model) as model:
        for rows in torch.tensor(clearest).split(EVALUATION_BATCH):
            predictions = model(*(tokens[rows] for tokens in inputs)).argmax(dim=-1)
            if (correct := is_correct(predictions, targets[rows])).any():
                return content[rows[correct][0]]
    return content[clearest[0]]


def attention_mass_on(cells: Tensor, maps: Tensor) -> Tensor:
    """Return the mean fraction of attention that queries with marked cells spend on them, per head (…, H).

    maps (…, H, T, S), cells boolean (T, S), or (N, 1, T, S) for N sequences. NaN if there are no cells.
    """
    queries = cells.any(dim=-1).sum(dim=-1)
    return (maps * cells).sum(dim=(-2, -1)) / queries


def find_patterns(tokens: Tensor) -> dict[str, Tensor]:
    """Return the cells of two patterns of self-attention among tokens (N, T), each (N, T, T) boolean.

    A previous-token head attends to the token before the query. An induction head attends to the token after
    an earlier occurrence of the query's own symbol, and so predicts that what followed will follow again
    (Olsson et al. 2022, arXiv:2209.11895).
    """
    is_symbol = tokens > END
    repeats = (tokens[:, :, None] == tokens[:, None, :]) & is_symbol[:, :, None]
    earlier = torch.ones_like(repeats[0]).tril(-1)
    previous = torch.ones_like(repeats[0]).tril(-1).triu(-1) & (tokens != PAD)[:, :, None]
    return {"previous_token": previous, "induction": F.pad((repeats & earlier)[:, :, :-1], (1, 0))}


@dataclass
class AttentionStats:
    """The attention in sequences of one length: a single sequence, or means over N."""

    source: Tensor                                          # (N, S)
    inputs: tuple[Tensor, ...]
    targets: Tensor                                         # (N, T)
    maps: dict[str, Tensor]                                 # of each kind: (layers, H, T, S)
    sensitivity: Tensor                                     # of the correct answer; see answer_sensitivity
    answer_sources: Tensor                                  # (N, T, S), see map_answer_sources
    mass: Tensor                                            # of attention on answer_sources: (layers, H)
    chance: float                                           # what uniform attention would score
    patterns: dict[tuple[str, str], Tensor]                 # by kind, name in find_patterns: (layers, H)

    @property
    def threshold(self) -> float:
        """The fraction above which a head looks at the answer: half-way from chance to 1."""
        return (1 + self.chance) / 2

    @property
    def length(self) -> int:
        """The number of symbols in each question."""
        return int(count_symbols(self.source)[0])


def measure_attention(
    run: Run, source: Tensor, inputs: tuple[Tensor, ...], targets: Tensor
) -> AttentionStats:
    """Measure where the heads attend; all sources must have the same length."""
    source_kind = source_attention_kind(run.architecture)
    sensitivity = answer_sensitivity(run.config.task, strip_special_tokens(source), run.config.vocab_size)
    sizes = targets.size(1), inputs[0].size(1), source.size(1)
    answer_sources = map_answer_sources(run.architecture, sensitivity, *sizes)
    maps, masses = dict.fromkeys(unwrap_model(run.model).attention_layers(), 0), defaultdict(list)
    with eval_mode(run.model) as model:
        for rows, tokens in batches_by_length(inputs, EVALUATION_BATCH):
            model(*tokens)
            for kind, attentions in model.attention_layers().items():
                weights = torch.stack([attention.attention_weights.float() for attention in attentions])
                maps[kind] += weights.sum(dim=1) / len(source)
                cells = {"answer": answer_sources[rows]} if kind == source_kind else {}
                if kind != "cross":
                    cells |= find_patterns(tokens[0 if kind == "encoder" else -1])
                for name, each in cells.items():
                    masses[kind, name].append(attention_mass_on(each[:, None], weights))
    patterns = {key: torch.cat(of_batches, dim=1).nanmean(dim=1) for key, of_batches in masses.items()}
    allowed = attention_mask(inputs[0][:1], causal=source_kind == "decoder").double()
    uniform = allowed / allowed.sum(dim=-1, keepdim=True)
    return AttentionStats(
        source=source, inputs=inputs, targets=targets, maps=maps, sensitivity=sensitivity,
        answer_sources=answer_sources, mass=patterns.pop((source_kind, "answer")), patterns=patterns,
        chance=attention_mass_on(answer_sources[:, None], uniform).nanmean().item(),
    )
