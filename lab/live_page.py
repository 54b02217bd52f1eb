"""A run's live page, for questioning the model and cutting its heads.

`python visualize.py` writes explorer.html next to the pictures. It opens with a double-click, without a
server. It embeds the weights in float16, and lab/page/transformer.js does the same with them as
transformer.py. The page checks itself against PyTorch's logits, and PyTorch's accuracy after each cut.
"""

import base64
import copy
import html
import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import quote

import torch
from torch import Tensor

from data import END, TASKS, alphabet, exact_match, token_name
from lab import ablation, heads
from lab.evidence import Evidence, find_answer_lengths
from lab.experiments import make_guide, make_worksheet, name_part
from support.config import TEST_SEQUENCES, format_test_size
from support.figure import percent
from support.files import write_text
from support.puzzles import format_range
from support.runs import Run, read_listing, read_metrics, task_from_folder
from train import run_test
from transformer import count_parameters, eval_mode, unwrap_model

ASSETS = Path(__file__).with_name("page")
MAX_PAGE_BYTES = 3_000_000                                  # bytes
NAV_START, NAV_END = '<nav id="pages" aria-label="models">', "</nav>"       # around the links to other pages
TERMS = {                                                   # each explains itself on the page
    "head": "A head is one attention with its own matrices. It gives each token one weighted average.",
    "query": "The query is what this token is looking for. It attends most to the keys that match it best.",
    "key": "The key is what others can find this token by. Each line leads from a query to a key: the wider, "
           "the larger the attention weight.",
    "unseen": "None was seen during training.",
    "cut": "To cut a head is to discard its output, so that nothing can use what it has read.",
    "zero": "Zeros in place of the head's output: zero ablation.",
    "mean": "The head's average output over many unseen questions, the same at every token: mean ablation.",
}
CHECKED = 3                                                 # sequences embedded with PyTorch's logits


def round_to_float16(run: Run) -> Run:
    """Return the run with weights rounded to float16."""
    model = copy.deepcopy(run.model)
    for weights in model.state_dict().values():
        weights.copy_(weights.half())
    return replace(run, model=model)


def encode_base64(tensors: Iterable[Tensor], dtype: torch.dtype) -> str:
    """Encode all numbers, concatenated."""
    numbers = torch.cat([x.detach().flatten() for x in tensors]).to(dtype)
    return base64.b64encode(numbers.numpy().tobytes()).decode()


def pair_with_answers(task: str, contents: Iterable[Tensor]) -> list[list[list[int]]]:
    """Return each content (L,) and its correct answer."""
    return [[content.tolist(), TASKS[task].answer(content[None])[0].tolist()] for content in contents]


def pick_examples(run: Run, lengths: dict[int, int]) -> list[list]:
    """Return example questions, their answers and labels: long, short, and beyond the training lengths."""
    trained = run.config.lengths()
    longer = [length for length in lengths if length > run.config.seq_len][:1]
    labels = {trained[-1]: "long", trained[len(trained) // 3]: "short"}
    labels |= dict.fromkeys(longer, "longer")
    pairs = pair_with_answers(run.config.task, (heads.pick_clear_example(run, length) for length in labels))
    return [[*pair, label] for pair, label in zip(pairs, labels.values(), strict=True)]


def compute_checks(run: Run, means: dict[heads.Head, Tensor]) -> list[dict]:
    """Return PyTorch's logits for a few sequences, with and without ablations."""
    _, inputs, _ = heads.sample_unseen(run, heads.max_test_length(run), CHECKED)
    every = heads.list_heads(run.model)
    first, last = every[0], every[-1]                       # the same in a model of one head
    result = []
    for without, replacement in (
        ([], None), ([first], None), ([last[:2]], means), ([first, last], means),
        ([heads.ALL_ATTENTION], None),
    ):
        with eval_mode(run.model) as model, ablation.ablate(model, *without, replacement=replacement):
            logits = model(*inputs)
        for row in range(CHECKED):
            result.append({
                "inputs": [tokens[row].tolist() for tokens in inputs], "without": without,
                "mode": "mean" if replacement else "zero",
                "logits": encode_base64([logits[row]], torch.float32),
            })
    return result


def collect_page_data(run: Run, evidence: Evidence) -> tuple[dict, str]:
    """Return the page's data about the run, and all model parameters in base64."""
    config, task, model = run.config, run.config.task, run.model
    symbols = alphabet(task, config.vocab_size)
    means = ablation.mean_head_outputs(run)
    means = {head: mean.half().float() for head, mean in means.items()}
    lengths = find_answer_lengths(run, len(model.positional_encoding.encoding))
    tensors = model.state_dict() | {f"means.{'.'.join(map(str, head))}": x for head, x in means.items()}
    longest_row = max(length + answer + 3 for length, answer in lengths.items())
    tensors["positional_encoding.encoding"] = tensors["positional_encoding.encoding"][:longest_row]
    correct = {part: ablation.correct_by_margin(x) for part, x in evidence.logit_margins.items()}
    num_correct = {part: int(correct[part].sum()) for part in correct}
    data = {
        "task": task, "config": asdict(config) | {"next_token": TASKS[task].next_token},
        "tensors": [[name, x.numel()] for name, x in tensors.items()],
        "token_names": [token_name(token, task) for token in range(config.vocab_size)],
        "symbols": symbols, "symbol_range": format_range([token_name(token, task) for token in symbols]),
        "format_hint": TASKS[task].format_hint, "answer_lengths": lengths,
        "examples": pick_examples(run, lengths),
        "unseen": pair_with_answers(task, (row[row > END] for row in evidence.source)),     # their content
        "checks": compute_checks(run, means), "guide": make_guide(evidence),
        "num_correct": num_correct.pop(ablation.NOTHING),
        "ablations": [[part, name_part(run, part), count] for part, count in num_correct.items()],
    }
    return data, encode_base64(tensors.values(), torch.float16)


def render_template(template: str, parts: dict[str, str]) -> str:
    """Fill each {name} in the template, in a single pass: inserted text is not filled in again."""
    names = "|".join(map(re.escape, parts))
    return re.sub(rf"\{{({names})\}}", lambda found: parts[found[1]], template)


def render_page(run: Run, evidence: Evidence) -> str:
    """Return a run's page as HTML; its weights are rounded, metrics and evidence are of the full ones."""
    data, weights = collect_page_data(run, evidence)
    metrics = {} if run.code_change else read_metrics(run.folder)           # those of the run's own code
    count = metrics.get("test_sequences", TEST_SEQUENCES)
    correct = metrics.get("test_exact_match")
    if correct is None:
        answers = run_test(run.config, run.model, count)
        correct = exact_match(answers.prediction, answers.target)
    warning = ""
    if run.code_change:
        text = html.escape(f"Code and weights no longer belong together: {run.code_change}.")
        warning = f'<p class="warning">{text}</p>'
    about = (
        f"A trained model with {count_parameters(run.model):,} parameters: {percent(correct, 2)} of "
        f"{format_test_size(run.config, count)} correct. Ask it questions, cut its heads and see what "
        "breaks. Everything is in this one file."
    )
    sources = [ASSETS / "explorer.html", *ASSETS.glob("*.css"), *ASSETS.glob("*.js")]
    parts = {path.name: path.read_text(encoding="utf-8") for path in sources}
    for term, meaning in TERMS.items():
        parts[f"means_{term}"] = f'tabindex="0" data-means="{html.escape(meaning)}"'
    worksheet, solutions = make_worksheet(data["guide"]["experiments"])
    return render_template(parts["explorer.html"], parts | {
        "title": html.escape(f"Take this Transformer apart: {run.config.name}"),
        "name": html.escape(run.config.name), "about": about, "warning": warning,
        "count": str(len(data["unseen"])), "worksheet": worksheet, "answers": solutions,
        "data": json.dumps(data).replace("<", "\\u003c"), "weights": weights,
    })


def link_pages(output: Path) -> None:
    """Let the live pages listed in a folder link to one another; their times of modification are kept."""
    paths = [output / name for name in read_listing(output) if Path(name).name == "explorer.html"]
    pages = {                                               # their names, sorted by architecture and task
        path: html.escape(f"{task_from_folder(path.parent)}, {path.parent.name}")
        for path in sorted(paths, key=lambda path: (path.parent.name, task_from_folder(path.parent)))
    }
    for page in pages:
        links = ""
        for other, name in pages.items():
            link = quote(Path(os.path.relpath(other, page.parent)).as_posix())
            current = " aria-current=page" if other == page else ""
            links += f'<a href="{link}" data-run="{name}"{current}>{name}</a>'
        text = page.read_text(encoding="utf-8")
        before, start, rest = text.partition(NAV_START)
        _, end, after = rest.partition(NAV_END)
        if end and (linked := before + start + links + end + after) != text:
            saved = page.stat()
            write_text(linked, page)
            os.utime(page, ns=(saved.st_atime_ns, saved.st_mtime_ns))


def save_page(evidence: Evidence, path: Path) -> str:
    """Write a run's page, with weights in float16; return its title, or print that it would be too large."""
    run = round_to_float16(replace(evidence.run, model=unwrap_model(evidence.run.model)))
    size = count_parameters(run.model) * 2 * 4 / 3          # base64 writes three bytes as four characters
    if size <= MAX_PAGE_BYTES and len((page := render_page(run, evidence)).encode()) <= MAX_PAGE_BYTES:
        write_text(page, path)
        return "an interactive page: question this model, cut its heads and see what breaks"
    limit = f"it would exceed the limit of {MAX_PAGE_BYTES / 1e6:.0f} MB"
    print(f"no live page for {run.config.name}: {limit}", file=sys.stderr)
    return ""
