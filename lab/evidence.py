"""All measurements of one run: shares, ablations, influence, lengths; each is made when first needed."""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

import data
from lab import ablation, heads
from lab.influence import answer_sensitivity, influence
from lab.probes import logit_lens
from support.record import AttentionHistory
from support.runs import Run
from train import predict
from transformer import unwrap_model

MOST_HARMLESS, PAIRS = 48, 4                                # candidate heads, and pairs measured
SMALLEST_COST = 0.01                                        # of a pair worth reporting


@dataclass
class AtLength:
    """A model's answers to questions of one length."""

    source: Tensor                                          # (N, L + 2)
    target: Tensor                                          # the correct answers (N, T), with START and END
    answers: Tensor                                         # the model's own (N, T), of train.predict

    @property
    def length(self) -> int:
        """The number of symbols in each question."""
        return self.source.size(1) - 2

    @property
    def exact_match(self) -> float:
        return data.exact_match(self.answers, self.target)


def answer_lengths(run: Run, most: int) -> dict[int, int]:
    """Return the answer length for each question length, up to this one, that task and model support."""
    config, places, lengths = run.config, len(unwrap_model(run.model).positional_encoding.encoding), {}
    for length in data.valid_lengths(config.task, most, config.vocab_size):
        question = data.example_questions(config.task, length, config.vocab_size)[:1]
        try:
            answer = data.check_answers(config.task, question, config.vocab_size)
        except Exception:                                   # a user's task need not have one
            continue
        source, target = (data.add_special_tokens(x, x.size(1) + 2) for x in (question, answer))
        inputs, _ = data.make_inputs_and_targets(run.architecture, source, target)
        if max(tokens.size(1) for tokens in inputs) <= places:
            lengths[length] = answer.size(1)
    return lengths


def shares_in_training(run: Run, attention_history: AttentionHistory) -> Tensor:
    """Return each head's fraction of attention on the answers after each epoch, (epochs, layers, H).

    It covers the kind that can find answers, on the recorded question; NaN if they depend on nothing.
    """
    question = torch.from_numpy(attention_history["source"])[None, 1:-1]
    depends = answer_sensitivity(run.config.task, question, run.config.vocab_size)
    maps = torch.from_numpy(attention_history[heads.answering_kind(run.architecture)]).float()
    cells = heads.answer_cells(run.architecture, depends, *maps.shape[-2:])[0]
    return heads.share_on(cells, maps)


@dataclass
class Evidence:
    """Measurements of a run on unseen sequences, each computed when first needed."""

    run: Run
    count: int = heads.SEQUENCES                            # of all lengths, for ablation and lens

    @cached_property
    def reading(self) -> heads.Reading:
        """The attention in the longest sequences."""
        longest = heads.longest(self.run)
        return heads.read(self.run, *heads.unseen_sequences(self.run, longest, heads.SEQUENCES_EACH))

    @property
    def brightest(self) -> heads.Head | None:
        """The head that attends most to the answers; None if it is unknown where these come from."""
        shares = self.reading.shares
        if shares.isnan().any():
            return None
        return heads.answering_kind(self.run.architecture), *divmod(int(shares.argmax()), shares.size(1))

    @cached_property
    def influence(self) -> Tensor:
        """The influence of each symbol on the answers to the same sequences, (N, T, S)."""
        return influence(self.run, self.reading.source, self.reading.inputs, self.reading.targets)

    @cached_property
    def lengths(self) -> list[AtLength]:
        """The answers for each available question length, up to twice the training length."""
        lengths = []
        for length in answer_lengths(self.run, 2 * self.run.config.seq_len):
            source, _, _ = heads.unseen_sequences(self.run, length, heads.SEQUENCES_EACH)
            answer = data.TASKS[self.run.config.task].answer(source[:, 1:-1])
            target = data.add_special_tokens(answer, answer.size(1) + 2)
            lengths.append(AtLength(source, target, predict(self.run.model, source, target)))
        return lengths

    @cached_property
    def source(self) -> Tensor:
        """The test sequences of all lengths on which ablation and lens are measured, (N, S)."""
        return heads.unseen_sequences(self.run, count=self.count)[0]

    @cached_property
    def lens(self) -> dict[str, tuple[float, float]]:
        """Token accuracy and exact match of the logit lens after each sublayer."""
        _, inputs, targets = heads.unseen_sequences(self.run, count=self.count)
        return {
            name: (data.token_accuracy(predictions, targets), data.exact_match(predictions, targets))
            for name, predictions in logit_lens(self.run, inputs).items()
        }

    @cached_property
    def margins(self) -> dict[heads.Part | str, Tensor]:
        """The margins (N, T) on sequences of all lengths after zero ablation of NOTHING and of each part."""
        model = self.run.model
        cuts = {part: tuple(heads.heads_of(model, part)) for part in heads.parts_of(model)}
        different = list(dict.fromkeys([(), *cuts.values()]))           # some parts contain the same heads
        margins = ablation.margins_without(self.run, different, count=self.count)
        ahead = dict(zip(different, margins, strict=True))
        return {ablation.NOTHING: ahead[()]} | {part: ahead[cut] for part, cut in cuts.items()}

    def left(self, part: heads.Part | str = ablation.NOTHING) -> float:
        """Return the exact match without this part."""
        return ablation.is_right(self.margins[part]).double().mean().item()

    def cost(self, part: heads.Part) -> float:
        """Return how much exact match drops without this part."""
        return self.left() - self.left(part)

    @cached_property
    def pair(self) -> tuple[heads.Head, heads.Head, float] | None:
        """Two heads that can each be removed at no cost, but not together, and the exact match without both.

        To first order, the effects of two cuts on a margin add up. So pairs are ranked by that sum, and the
        top PAIRS are measured. None if no pair costs at least SMALLEST_COST.
        """
        harmless = [head for head in heads.heads_of(self.run.model) if self.cost(head) < SMALLEST_COST]
        uncut = self.margins[ablation.NOTHING]
        taken = {head: (self.margins[head] - uncut).nan_to_num() for head in harmless}
        harmless = sorted(harmless, key=lambda head: taken[head].sum())[:MOST_HARMLESS]

        def expected(pair: tuple[heads.Head, heads.Head]) -> float:
            least = (self.margins[pair[0]] + taken[pair[1]]).amin(dim=1)
            return least.sigmoid().mean().item()            # a smooth version of exact match

        pairs = sorted(itertools.combinations(harmless, 2), key=expected)[:PAIRS]
        margins = ablation.margins_without(self.run, pairs, count=self.count)
        left = ablation.is_right(margins).double().mean(dim=1).tolist()
        least, pair = min(zip(left, pairs, strict=True), default=(1.0, None))
        return (*pair, least) if self.left() - least >= SMALLEST_COST else None


def head_table(evidence: Evidence) -> list[dict]:
    """Return one row per head, most costly first; layers and heads are numbered from 1.

    Each gives the fraction of attention on the answer's source, the exact match without the head, and the
    cost of removing it. The fraction is None if that kind cannot find the source, or there is none.
    """
    rows, answering = [], heads.answering_kind(evidence.run.architecture)
    for head in heads.heads_of(evidence.run.model):
        kind, layer, index = head
        share = evidence.reading.shares[layer, index].item() if kind == answering else math.nan
        rows.append({
            "kind": kind, "layer": layer + 1, "head": index + 1,
            "answer": None if math.isnan(share) else share,
            "exact_match_without": evidence.left(head), "cost": evidence.cost(head),
        })
    return sorted(rows, key=lambda row: (-row["cost"], -(row["answer"] or 0)))
