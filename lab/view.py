"""A run and a question, ready to be drawn, and the phrases that all pictures share."""

import math
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

import data
from lab import heads
from lab.evidence import Evidence
from support.figure import percent
from support.puzzles import MASK
from support.record import AttentionHistory, read_attention_history
from support.runs import Run
from transformer import PAD, eval_mode, generate

NEVER_CORRECT = "the model is never correct, so no ablation can make it worse"
KINDS = {
    "encoder": "the encoder's self-attention", "decoder": "the decoder's self-attention",
    "cross": "cross-attention",
}


def most_focused_head(kind: str, maps: Tensor) -> heads.Head:
    """Return the head with the most concentrated attention, on average; maps (layers, H, T, S)."""
    return kind, *divmod(int(maps.amax(dim=-1).mean(dim=-1).argmax()), maps.size(1))


@dataclass
class View:
    """The data shown in the pictures of one run and one sequence."""

    run: Run
    reading: heads.Reading                                  # of this one question
    answer: str                                             # the model's answer as text, with ✓ or ✗
    evidence: Evidence                                      # of many questions
    attention_history: AttentionHistory | None              # of how attention formed

    def __str__(self) -> str:
        return self.run.config.name

    @property
    def model(self) -> str:
        """The model's name in a sentence."""
        return data.MODELS[self.run.architecture]

    @property
    def kind(self) -> str:
        """The kind of attention that can find the answers; cells and shares refer to this kind."""
        return heads.answering_kind(self.run.architecture)

    @cached_property
    def best(self) -> heads.Head:
        """The head that attends most to the answers or, if nothing is outlined, the most focused one."""
        return self.evidence.brightest or most_focused_head(self.kind, self.reading.maps[self.kind])

    @property
    def costly(self) -> list[heads.Head]:
        """The heads whose removal costs anything, most costly first."""
        costly = [head for head in heads.heads_of(self.run.model) if self.evidence.cost(head) > 0]
        return sorted(costly, key=self.evidence.left)

    @property
    def outlined(self) -> bool:
        """True if there is anything to outline, in this sequence and in the test sequences."""
        return bool(self.reading.cells.any()) and not self.evidence.reading.shares.isnan().any()

    def share(self, head: heads.Head) -> float:
        """Return the fraction of the head's attention on this sequence's outlined cells."""
        return self.reading.shares[head[1:]].item()

    def name(self, part: heads.Part) -> str:
        """Return a part's display name, with its purpose if known: layer 1, head 1 (finds END)."""
        place = self.place(part)
        purpose = self.run.purposes.get(place)
        return f"{place} ({purpose})" if purpose else place

    def place(self, part: heads.Part) -> str:
        """Return a part's location, e.g. layer 1, head 6, with its kind if the model has several."""
        place, several = part[1:], len(self.reading.maps) > 1
        if not place:
            return KINDS[part[0]] if part and several else "any attention"
        words = [f"{word} {number + 1}" for word, number in zip(("layer", "head"), place, strict=False)]
        if several:
            words[0] = f"{'cross-attention' if part[0] == 'cross' else part[0]} {words[0]}"
        return ", ".join(words)


def make_view(run: Run, words: list[str] | None = None) -> View:
    """Ask the model one question in data.format_tokens's format, by default a clear example, and measure it.

    Raises ValueError if the question is invalid for the task or too long.
    """
    architecture, task = run.architecture, run.config.task
    content = data.parse_content(words, task, run.config.vocab_size) if words else heads.clearest_example(run)
    answer = data.TASKS[task].answer(content[None])
    source, target = (data.add_special_tokens(x, x.size(1) + 2) for x in (content[None], answer))
    if architecture == "encoder":
        inputs, _ = data.make_inputs_and_targets(architecture, source, target)
        with eval_mode(run.model) as model:
            predictions = model(*inputs).argmax(dim=-1)
        written = predictions[:, : target.size(1)]
    else:
        written = torch.cat([source[:, :1], generate(run.model, source, target.size(1) - 1)], dim=1)
        inputs, predictions = data.make_inputs_and_targets(architecture, source, written)
    mark = "✓" if written.shape == target.shape and data.exact_match(written, target) == 1 else "✗"
    output = data.format_tokens(written[0, 1:], task).removesuffix(" END")
    texts = data.format_tokens(content, task), output
    text = " → ".join(textwrap.shorten(text, 40, placeholder=" …") for text in texts)
    reading = heads.read(run, source, inputs, predictions)
    attention_history = read_attention_history(run.folder, run.history)
    return View(run, reading, f"{text} {mark}", Evidence(run), attention_history)


def describe_run(view: View) -> str:
    """Return the grey line of a picture of one sequence."""
    text = f"{view}: {view.answer}"
    if view.reading.length > (most := heads.longest(view.run)):
        text += f" ({view.reading.length} symbols; training had at most {most})"
    return f"{text}."


def explain_marks(view: View, kinds: Iterable[str]) -> str:
    """Explain the marks in maps of these kinds of attention."""
    marks = {
        "Outlined: the symbols the answer depends on.": view.outlined,
        "Hatched: masked (future tokens).": "decoder" in kinds,
        "_: a gap to fill in.": any((tokens == MASK).any() for tokens in view.reading.inputs),
    }
    return " ".join(mark for mark, is_shown in marks.items() if is_shown)


def explain_no_outline(view: View) -> str:
    if view.evidence.reading.depends.isnan().any() or view.reading.depends.isnan().any():
        return "what the answer depends on cannot be measured"
    return "the answer depends on no symbol"


def lengths_of(source: Tensor) -> Tensor:
    """Return the number of symbols in each question, without START and END, (N,)."""
    return (source != PAD).sum(dim=1) - 2


def describe_sample(source: Tensor) -> str:
    """Describe the sequences a number is based on, and how many of them are distinct."""
    lengths = lengths_of(source)
    shortest, most, different = int(lengths.min()), int(lengths.max()), len(source.unique(dim=0))
    count = f"{len(source)} unseen sequences"
    if different < len(source):
        count += f" ({different} distinct)"
    return f"{count} of length {most}" if shortest == most else f"{count} of lengths {shortest} to {most}"


def format_change(view: View, part: heads.Part) -> str:
    return f"{percent(view.evidence.left())} → {percent(view.evidence.left(part))}"


def cost_in_points(view: View, part: heads.Part) -> int:
    """Return the points of exact match lost without a part, negative if it improves; at least 1 if any."""
    cost = round(100 * view.evidence.cost(part), 6)
    return math.ceil(cost) if cost > 0 else math.floor(cost)


def format_cost(view: View, part: heads.Part) -> str:
    """Return the cost of removing a part, worded as the end of a sentence."""
    points = cost_in_points(view, part)
    count = f"{abs(points)} point{'s' if abs(points) != 1 else ''}"
    if points < 0:
        return f"costs nothing (accuracy rises by {count})"
    return f"costs {count}" if points else "costs nothing"


def needs_no_attention(view: View) -> bool:
    return view.evidence.left(heads.ALL_ATTENTION) > 0.99 * view.evidence.left()
