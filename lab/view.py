"""A run and a question, ready to be drawn, and the phrases that all pictures share."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

import data
from lab import heads
from lab.evidence import Evidence
from support.figure import format_points, to_points
from support.puzzles import MASK, count_symbols
from support.record import AttentionHistory, read_attention_history
from support.runs import Run
from transformer import END, eval_mode, generate

NUMBERS = "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"
NEVER_CORRECT = "the model is never correct, so no ablation can make it worse"


def spell(number: int) -> str:
    """Spell out a number up to ten."""
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def most_focused_head(kind: str, maps: Tensor) -> heads.Head:
    """Return the head with the most concentrated attention, on average; maps (layers, H, T, S)."""
    return kind, *divmod(int(maps.amax(dim=-1).mean(dim=-1).argmax()), maps.size(1))


@dataclass
class View:
    """The data shown in the pictures of one run and one sequence."""

    run: Run
    attention: heads.AttentionStats                         # of this one question
    answer: str                                             # the model's answer as text, with ✓ or ✗
    evidence: Evidence                                      # of many questions
    attention_history: AttentionHistory | None              # of how attention formed

    def __str__(self) -> str:
        return self.run.config.name

    @property
    def model_name(self) -> str:
        """The model's name in a sentence."""
        return data.MODELS[self.run.architecture]

    @property
    def kind(self) -> str:
        """The kind of attention that can find the answers; outlines and mass refer to it."""
        return heads.source_attention_kind(self.run.architecture)

    @cached_property
    def top_head(self) -> heads.Head:
        """The head that looks most at this answer or, if nothing is outlined, the most focused one."""
        if self.has_outline:
            return self.kind, *divmod(int(self.attention.mass.argmax()), self.attention.mass.size(1))
        return most_focused_head(self.kind, self.attention.maps[self.kind])

    @property
    def important_heads(self) -> list[heads.Head]:
        """The heads whose removal costs anything, most important first."""
        every = heads.list_heads(self.run.model)
        important = [head for head in every if self.evidence.ablation_cost(head) > 0]
        return sorted(important, key=self.evidence.accuracy_without)

    @property
    def has_outline(self) -> bool:
        """True if there is anything to outline, in this sequence and in the test sequences."""
        return bool(self.attention.answer_sources.any()) and not self.evidence.attention.mass.isnan().any()

    def average(self) -> "View":
        """Return the same run with its mean attention in many sequences, instead of this question's."""
        return replace(self, attention=self.evidence.attention)

    def looks_at_answer(self, head: heads.Head) -> bool:
        return head[0] == self.kind and self.mass(head) > self.attention.threshold

    def mass(self, head: heads.Head) -> float:
        """Return the fraction of the head's attention on the symbols the answer depends on."""
        return self.attention.mass[head[1:]].item()

    def describe_part(self, part: heads.Part) -> str:
        return heads.describe_part(self.run, part)

    def part_name(self, part: heads.Part) -> str:
        return heads.part_name(self.run, part)


def make_view(run: Run, words: list[str] | None = None) -> View:
    """Ask the model one question in data.py's notation, by default a clear example, and measure it.

    Raises ValueError if the question is invalid for the task or too long.
    """
    architecture, task = run.architecture, run.config.task
    if words:
        content = data.parse_content(words, task, run.config.vocab_size)
    else:
        content = heads.pick_clear_example(run)
    source, target = data.make_source_and_target(task, content[None])
    if architecture == "encoder":
        inputs, _ = data.make_inputs_and_targets(architecture, source, target)
        with eval_mode(run.model) as model:
            predictions = model(*inputs).argmax(dim=-1)
        generated = predictions[:, : target.size(1)]
    else:
        generated = torch.cat([source[:, :1], generate(run.model, source, target.size(1) - 1)], dim=1)
        inputs, predictions = data.make_inputs_and_targets(architecture, source, generated)
    mark = "✓" if generated.shape == target.shape and data.exact_match(generated, target) == 1 else "✗"
    output = data.format_tokens(generated[0, 1:], task).removesuffix(" END")
    texts = data.format_tokens(content, task), output
    text = " → ".join(textwrap.shorten(text, 40, placeholder=" …") for text in texts)
    attention = heads.measure_attention(run, source, inputs, predictions)
    attention_history = read_attention_history(run.folder, run.history)
    return View(run, attention, f"{text} {mark}", Evidence(run), attention_history)


def locate_answer(view: View) -> tuple[list[str], int, int]:
    """Return the model's answer up to END, and the query and key of its symbol 0 in an answering map."""
    query, key = heads.first_symbol_cell(view.run.architecture, view.kind, view.attention.source.size(1))
    predictions = view.attention.targets[0, query:].tolist()
    predictions = predictions[: predictions.index(END) + 1] if END in predictions else predictions
    return [data.token_name(token, view.run.config.task) for token in predictions], query, key


def describe_run(view: View) -> str:
    """Return the grey line of a picture of one sequence."""
    text = f"{view}: {view.answer}"
    if view.attention.length > (longest := heads.max_test_length(view.run)):
        text += f" ({view.attention.length} symbols; training had at most {longest})"
    return f"{text}."


def explain_marks(view: View, kinds: Iterable[str]) -> str:
    """Explain the marks in maps of these kinds of attention."""
    marks = {
        "Outlined: the symbols the answer depends on.": view.has_outline,
        "Hatched: masked (future tokens).": "decoder" in kinds,
        "_: a gap to fill in.": any((tokens == MASK).any() for tokens in view.attention.inputs),
    }
    return " ".join(mark for mark, is_shown in marks.items() if is_shown)


def explain_no_outline(view: View) -> str:
    if view.evidence.attention.sensitivity.isnan().any() or view.attention.sensitivity.isnan().any():
        return "what the answer depends on cannot be measured"
    return "the answer depends on no symbol"


def describe_sample(source: Tensor) -> str:
    """Describe the sequences a number is based on, and how many of them are distinct."""
    lengths = count_symbols(source)
    shortest, longest, distinct = int(lengths.min()), int(lengths.max()), len(source.unique(dim=0))
    count = f"{len(source)} unseen sequences"
    if distinct < len(source):
        count += f" ({distinct} distinct)"
    if shortest == longest:
        return f"{count} of length {longest}"
    return f"{count} of lengths {shortest} to {longest}"


def cost_in_points(view: View, part: heads.Part) -> int:
    """Return the points of exact match lost without a part, negative if it improves; 0 means none."""
    return to_points(view.evidence.ablation_cost(part))


def format_cost(view: View, part: heads.Part) -> str:
    """Return what removing a part costs, or gains, in words."""
    cost = view.evidence.ablation_cost(part)
    if to_points(cost) < 0:
        return f"removing it helps: +{format_points(-cost)}"
    return f"costs {format_points(cost)}" if to_points(cost) else "costs nothing"


def needs_no_attention(view: View) -> bool:
    return view.evidence.accuracy_without(heads.ALL_ATTENTION) > 0.99 * view.evidence.accuracy
