"""All measurements of one run: shares, ablations, influence, lengths; each is made when first needed."""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

import data
from lab import ablation, heads
from lab.influence import answer_sensitivity, measure_influence
from lab.probes import logit_lens
from support.own_tasks import check_answers
from support.puzzles import count_symbols, strip_special_tokens
from support.record import AttentionHistory
from support.runs import Run
from train import predict
from transformer import unwrap_model

MAX_CANDIDATES, MAX_PAIRS = 48, 4                           # candidate heads, and pairs measured
MIN_COST = 0.01                                             # of a pair worth reporting


@dataclass
class LengthResult:
    """A model's answers to questions of one length."""

    source: Tensor                                          # (N, L + 2)
    target: Tensor                                          # the correct answers (N, T), with START and END
    answers: Tensor                                         # the model's own (N, T), of train.predict

    @property
    def length(self) -> int:
        """The number of symbols in each question."""
        return int(count_symbols(self.source)[0])

    @property
    def exact_match(self) -> float:
        return data.exact_match(self.answers, self.target)


def find_answer_lengths(run: Run, max_length: int) -> dict[int, int]:
    """Return the answer length for each question length, up to this one, that task and model support."""
    config, positions, lengths = run.config, getattr(unwrap_model(run.model), "positional_encoding", None), {}
    max_len = len(positions.encoding) if hasattr(positions, "encoding") else math.inf
    for length in data.valid_lengths(config.task, max_length, config.vocab_size):
        question = data.example_questions(config.task, length, config.vocab_size)[:1]
        try:
            symbols = range(data.FIRST_SYMBOL, config.vocab_size)
            answer = check_answers(data.TASKS[config.task].answer, question, symbols, str)
        except Exception:                                   # a user's task need not have one
            continue
        pair = data.make_source_and_target(config.task, question)
        inputs, _ = data.make_inputs_and_targets(run.architecture, *pair)
        if max(tokens.size(1) for tokens in inputs) <= max_len:
            lengths[length] = answer.size(1)
    return lengths


def mass_during_training(run: Run, attention_history: AttentionHistory) -> Tensor:
    """Return each head's fraction of attention on the answers after each epoch, (epochs, layers, H).

    It covers the kind that can find answers, on the recorded question; NaN if they depend on nothing.
    """
    source = torch.from_numpy(attention_history["source"])[None]
    sensitivity = answer_sensitivity(run.config.task, strip_special_tokens(source), run.config.vocab_size)
    maps = torch.from_numpy(attention_history[heads.source_attention_kind(run.architecture)]).float()
    sources = heads.map_answer_sources(run.architecture, sensitivity, *maps.shape[-2:], source.size(1))
    return heads.attention_mass_on(sources[0], maps)


@dataclass
class Evidence:
    """Measurements of a run on unseen sequences, each computed when first needed."""

    run: Run
    count: int = heads.SEQUENCES                            # of all lengths, for ablation and lens

    @cached_property
    def attention(self) -> heads.AttentionStats:
        """The attention in the longest sequences."""
        length = heads.max_test_length(self.run)
        sequences = heads.sample_unseen(self.run, length, heads.SEQUENCES_PER_LENGTH)
        return heads.measure_attention(self.run, *sequences)

    @property
    def top_head(self) -> heads.Head | None:
        """The head that looks most at the answers; None if it is unknown where these come from."""
        mass = self.attention.mass
        if mass.isnan().any():
            return None
        layer, head = divmod(int(mass.argmax()), mass.size(1))
        return heads.source_attention_kind(self.run.architecture), layer, head

    @cached_property
    def influence(self) -> Tensor:
        """The influence of each symbol on the answers to the same sequences, (N, T, S)."""
        attention = self.attention
        return measure_influence(self.run, attention.source, attention.inputs, attention.targets)

    @cached_property
    def length_results(self) -> list[LengthResult]:
        """The answers for each available question length, up to twice the training length."""
        results = []
        for length in find_answer_lengths(self.run, 2 * self.run.config.seq_len):
            source, _, _ = heads.sample_unseen(self.run, length, heads.SEQUENCES_PER_LENGTH)
            content = strip_special_tokens(source)
            source, target = data.make_source_and_target(self.run.config.task, content)
            results.append(LengthResult(source, target, predict(self.run.model, source, target)))
        return results

    @cached_property
    def source(self) -> Tensor:
        """The test sequences of all lengths on which ablation and lens are measured, (N, S)."""
        return heads.sample_unseen(self.run, count=self.count)[0]

    @cached_property
    def lens(self) -> dict[str, tuple[float, float]]:
        """Token accuracy and exact match of the logit lens after each sublayer."""
        _, inputs, targets = heads.sample_unseen(self.run, count=self.count)
        return {
            name: (data.token_accuracy(predictions, targets), data.exact_match(predictions, targets))
            for name, predictions in logit_lens(self.run, inputs).items()
        }

    @cached_property
    def logit_margins(self) -> dict[heads.Part | str, Tensor]:
        """The logit margins (N, T) on sequences of all lengths, intact (NOTHING) and after ablation."""
        model = self.run.model
        heads_in = {part: tuple(heads.list_heads(model, part)) for part in heads.list_parts(model)}
        distinct = list(dict.fromkeys([(), *heads_in.values()]))        # some parts contain the same heads
        margins = ablation.logit_margins_without(self.run, distinct, count=self.count)
        margins_of = dict(zip(distinct, map(torch.clone, margins), strict=True))    # each is sent alone
        return {ablation.NOTHING: margins_of[()]} | {part: margins_of[heads_in[part]] for part in heads_in}

    @property
    def accuracy(self) -> float:
        """The exact match of the intact model."""
        return self.accuracy_without(ablation.NOTHING)

    def accuracy_without(self, part: heads.Part | str) -> float:
        """Return the exact match without this part."""
        return ablation.correct_by_margin(self.logit_margins[part]).double().mean().item()

    def token_accuracy_without(self, part: heads.Part | str) -> float:
        """Return the token accuracy without this part; for long answers, which are rarely all correct."""
        margins = self.logit_margins[part]
        return (margins[margins.isfinite()] > 0).double().mean().item()

    def ablation_cost(self, part: heads.Part) -> float:
        """Return how much exact match drops without this part."""
        return self.accuracy - self.accuracy_without(part)

    @cached_property
    def redundant_pair(self) -> tuple[heads.Head, heads.Head, float] | None:
        """Two heads that can each be removed at no cost, but not together, and the exact match without both.

        To first order, the effects of two cuts on a margin add up. So pairs are ranked by that sum, and the
        top MAX_PAIRS are measured. None if no pair costs at least MIN_COST.
        """
        harmless = [head for head in heads.list_heads(self.run.model) if self.ablation_cost(head) < MIN_COST]
        intact = self.logit_margins[ablation.NOTHING]
        effects = {head: (self.logit_margins[head] - intact).nan_to_num() for head in harmless}
        candidates = sorted(harmless, key=lambda head: effects[head].sum())[:MAX_CANDIDATES]

        def estimate_accuracy(pair: tuple[heads.Head, heads.Head]) -> float:
            smallest = (self.logit_margins[pair[0]] + effects[pair[1]]).amin(dim=1)
            return smallest.sigmoid().mean().item()         # a smooth version of exact match

        pairs = sorted(itertools.combinations(candidates, 2), key=estimate_accuracy)[:MAX_PAIRS]
        margins = ablation.logit_margins_without(self.run, pairs, count=self.count)
        accuracies = ablation.correct_by_margin(margins).double().mean(dim=1).tolist()
        lowest, pair = min(zip(accuracies, pairs, strict=True), default=(1.0, None))
        return (*pair, lowest) if self.accuracy - lowest >= MIN_COST else None


def make_head_table(evidence: Evidence) -> list[dict]:
    """Return one row per head, most costly first; layers and heads are numbered from 1.

    Each gives the head's attention to the answer's source, to the previous token and as an induction head. It
    also gives both accuracies without the head, and what removing it costs in exact match. Attention is None
    if that kind cannot see such tokens, or there are none.
    """
    rows, attention = [], evidence.attention
    source_kind = heads.source_attention_kind(evidence.run.architecture)
    for head in heads.list_heads(evidence.run.model):
        kind, layer, index = head
        masses = {"answer_sources": attention.mass if kind == source_kind else None}
        masses |= {name: attention.patterns.get((kind, name)) for name in ("previous_token", "induction")}
        fractions = {name: math.nan if of is None else of[layer, index].item() for name, of in masses.items()}
        rows.append({
            "kind": kind, "layer": layer + 1, "head": index + 1, **{
                f"attention_on_{name}": None if math.isnan(value) else value
                for name, value in fractions.items()
            },
            "exact_match_without": evidence.accuracy_without(head),
            "token_accuracy_without": evidence.token_accuracy_without(head),
            "cost": evidence.ablation_cost(head),
        })
    return sorted(rows, key=lambda row: (-row["cost"], -(row["attention_on_answer_sources"] or 0)))
