"""The live page of a run: one file in which a reader asks the model, cuts its heads and sees what breaks.

`python visualize.py` writes explorer.html beside the pictures. It opens by double-click, without network or
server. The weights travel in it, rounded to float16, and assets/transformer.js does with them what
transformer.py does. The page checks itself: with it travel PyTorch's logits of a few sequences, and what
PyTorch measured of each cut.
"""

import base64
import copy
import html
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from analysis import (
    ALL_ATTENTION,
    NOTHING,
    Evidence,
    Head,
    ablated,
    clearest_example,
    different_rows,
    heads_of,
    is_right,
    longest,
    mean_head_outputs,
    portions_of_like_length,
    unseen_sequences,
)
from data import (
    END,
    MASK,
    PAD,
    START,
    TASKS,
    add_start_end,
    all_right,
    alphabet,
    arrange,
    ask,
    some_questions,
    token_name,
)
from train import TEST_SEQUENCES, Run, fixed_generator, percent, replacing
from transformer import count_parameters, evaluating

ASSETS = Path(__file__).with_name("assets")
LARGEST_PAGE = 3_000_000                                    # bytes
SEQUENCES = 200                                             # unseen ones that travel with the page
CHECKED = 3                                                 # of them, whose logits by PyTorch travel, too


def rounded(run: Run) -> Run:
    """The run with weights as float16 keeps them. ValueError where one is too large for it, or no number."""
    model = copy.deepcopy(run.model)
    for name, weights in model.state_dict().items():
        weights.copy_(weights.half())
        if not weights.isfinite().all():
            raise ValueError(f"{name} holds a number that float16 cannot")
    return replace(run, model=model)


def right_in_test(run: Run, count: int) -> float:
    """The exact match on so many test sequences, in one pass over the right answers.

    Greedy decoding is right just where each step after the right beginning is.
    """
    source, target = run.config.draw(count, fixed_generator("test"), "test")
    given, to_say, place = different_rows(*arrange(run.architecture, source, target))
    right = torch.zeros(len(to_say), dtype=torch.bool)
    with evaluating(run.model) as model:
        for rows, short in portions_of_like_length(run.config, given):
            said = model(*short).argmax(dim=-1)
            right[rows] = all_right(said, to_say[rows, : said.size(1)])
    return right[place].double().mean().item()


def tested(run: Run) -> tuple[int, float]:
    """On how many test sequences the run was tested, and the exact match: as training noted, or now."""
    try:
        metrics = json.loads((run.folder / "metrics.json").read_text())
        return metrics["test_sequences"], metrics["test_exact_match"]
    except (OSError, ValueError, KeyError):                 # training was interrupted
        return TEST_SEQUENCES, right_in_test(run, TEST_SEQUENCES)


def as_base64(tensors: list[Tensor], precision: torch.dtype) -> str:
    numbers = torch.cat([x.detach().flatten() for x in tensors]).to(precision)
    return base64.b64encode(numbers.numpy().tobytes()).decode()


def answer_lengths(run: Run) -> dict[int, int]:
    """How long the answer is to a question of each length that the task has and the model can read."""
    task, vocab_size, lengths = run.config.task, run.config.vocab_size, {}
    places = len(run.model.positional_encoding.table)
    for length in range(1, places):
        questions = some_questions(task, length, vocab_size)[:1]
        try:
            answer = ask(task, questions) if len(questions) else questions
        except ValueError:                                  # a task of the reader's own may end here
            break
        sequences = (add_start_end(tokens, tokens.size(1) + 2) for tokens in (questions, answer))
        given, _ = arrange(run.architecture, *sequences)
        if len(questions) and max(tokens.size(1) for tokens in given) <= places:
            lengths[length] = answer.size(1)
    return lengths


def examples(run: Run, lengths: dict[int, int]) -> list[dict]:
    """Questions to begin with: a long one, a short one, and one that is longer than in training."""
    known = run.config.lengths("test")
    longer = [length for length in lengths if length > run.config.seq_len][:1]
    notes = {known[-1]: "", known[len(known) // 3]: ""} | dict.fromkeys(longer, "longer than in training")
    result = []
    for length, note in notes.items():
        content = clearest_example(run, length)
        answer = TASKS[run.config.task].answer(content[None])[0]
        result.append({"content": content.tolist(), "answer": answer.tolist(), "note": note})
    return result


def with_answers(task: str, source: Tensor) -> list[list[list[int]]]:
    """The content of each row of source (N, S), and the right answer to it."""
    contents = [row[(row != PAD) & (row != START) & (row != END)] for row in source]
    return [[content.tolist(), TASKS[task].answer(content[None])[0].tolist()] for content in contents]


def checks(run: Run, means: dict[Head, Tensor]) -> list[dict]:
    """PyTorch's logits of a few sequences, by the last token of each row: intact, and with several cuts."""
    _, given, _ = unseen_sequences(run, longest(run), CHECKED)
    first, *_, last = heads_of(run.model)
    result = []
    for without, replacement in (
        ([], None), ([first], None), ([last[:2]], means), ([first, last], means), ([ALL_ATTENTION], None),
    ):
        with evaluating(run.model) as model, ablated(model, *without, replacement=replacement):
            logits = model(*given)
        for row in range(CHECKED):
            result.append({
                "given": [tokens[row].tolist() for tokens in given], "without": without,
                "mode": "mean" if replacement else "zero",
                "logits": as_base64([logits[row]], torch.float32),
            })
    return result


def page_data(run: Run, format: str) -> tuple[dict, str]:
    """What the page knows of the run, whose weights are already rounded, and all its numbers in base64."""
    config, task, model = run.config, run.config.task, run.model
    evidence, lengths, means = Evidence(run, SEQUENCES), answer_lengths(run), mean_head_outputs(run)
    if format == "float16":
        means = {head: mean.half().float() for head, mean in means.items()}
    tensors = model.state_dict() | {f"means.{'.'.join(map(str, head))}": x for head, x in means.items()}
    most = max(length + answer + 3 for length, answer in lengths.items())
    tensors["positional_encoding.table"] = tensors["positional_encoding.table"][:most]
    data = {
        "task": task, "architecture": run.architecture, "config": asdict(config), "format": format,
        "tensors": [[name, x.numel()] for name, x in tensors.items()],
        "names": [token_name(token, task) for token in range(config.vocab_size)],
        "symbols": alphabet(task, config.vocab_size), "gap": MASK if TASKS[task].gaps else None,
        "form": TASKS[task].form, "answer_lengths": lengths, "examples": examples(run, lengths),
        "unseen": with_answers(task, evidence.source), "checks": checks(run, means), "purposes": run.purposes,
        "right": int(is_right(evidence.margins[NOTHING]).sum()),
        "table": [
            [part, int(is_right(margins).sum())] for part, margins in evidence.margins.items()
            if part != NOTHING
        ],
    }
    return data, as_base64([*tensors.values()], getattr(torch, format))


def fill_in(template: str, parts: dict[str, str]) -> str:
    """The template with each {name} replaced, once: what is put in is left as it is."""
    names = "|".join(map(re.escape, parts))
    return re.sub(rf"\{{({names})\}}", lambda found: parts[found[1]], template)


def live_page(run: Run) -> str:
    """The page of one run, as HTML. ValueError where it would be larger than LARGEST_PAGE."""
    count, exact_match = tested(run)
    in_half = rounded(run)
    same = right_in_test(in_half, count) == exact_match
    data, weights = page_data(*((in_half, "float16") if same else (run, "float32")))
    about = (
        f"A trained model: {count_parameters(run.model):,} weights, {percent(exact_match, 2)} of {count:,} "
        "test sequences right. Ask it, cut its heads, and see what breaks. All of it is in this file."
    )
    scripts = {path.name: path.read_text() for path in ASSETS.glob("*.js")}
    page = fill_in((ASSETS / "explorer.html").read_text(), scripts | {
        "title": html.escape(f"Take this Transformer apart: {run.config.task}, {run.architecture}"),
        "about": about, "explorer.css": (ASSETS / "explorer.css").read_text(),
        "data": json.dumps(data).replace("<", "\\u003c"), "weights": weights,
    })
    if (size := len(page.encode())) > LARGEST_PAGE:
        raise ValueError(f"it would take {size / 1e6:.1f} MB, more than {LARGEST_PAGE / 1e6:.0f}")
    return page


def save_page(run: Run, path: Path) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(live_page(run))
