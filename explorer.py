"""A run's live page, for questioning the model and cutting its heads, and the gallery.

`python visualize.py` writes explorer.html next to the pictures. It opens with a double-click, without a
network or server. It embeds the weights, rounded to float16, and assets/transformer.js does the same with
them as transformer.py. The page checks itself against PyTorch's logits for a few sequences, and against
PyTorch's accuracy after each cut.
"""

import base64
import copy
import html
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import quote

import torch
from PIL import Image
from torch import Tensor

from analysis import (
    ALL_ATTENTION,
    NOTHING,
    Evidence,
    Head,
    ablated,
    answer_lengths,
    clearest_example,
    heads_of,
    is_right,
    longest,
    mean_head_outputs,
    read,
    unseen_sequences,
    untrained,
)
from data import (
    ARCHITECTURES,
    TASKS,
    all_right,
    alphabet,
    arrange,
    different_rows,
    is_content,
    token_name,
    usable_lengths,
)
from support.config import TEST_SEQUENCES, Config, fixed_generator, label_of, title_of
from support.figure import percent
from support.files import replacing
from support.runs import Run, is_gallery, read_metrics, runs_shown
from train import one_pass, tests_text
from transformer import count_parameters, evaluating, unwrapped

ASSETS = Path(__file__).with_name("assets")
LARGEST_PAGE = 3_000_000                                    # bytes
SEQUENCES = 200                                             # unseen sequences embedded in the page
CHECKED = 3                                                 # sequences embedded with PyTorch's logits


def rounded(run: Run) -> Run:
    """Return the run with weights rounded to float16; those above 65,504 become infinite."""
    model = copy.deepcopy(run.model)
    for weights in model.state_dict().values():
        weights.copy_(weights.half())
    return replace(run, model=model)


def is_finite(run: Run) -> bool:
    """Return whether all weights are finite."""
    return all(x.isfinite().all() for x in run.model.state_dict().values())


def right_in_test(run: Run, count: int) -> float:
    """Return the exact match on this many test sequences, using one teacher-forced pass.

    Greedy decoding is correct exactly if every teacher-forced step is.
    """
    source, target = run.config.draw(count, fixed_generator("test"), "test")
    given, to_say, place = different_rows(*arrange(run.architecture, source, target))
    right = torch.zeros(len(to_say), dtype=torch.bool)
    with evaluating(run.model) as model:
        for rows, said in one_pass(model, given):
            right[rows] = all_right(said, to_say[rows, : said.size(1)])
    return right[place].double().mean().item()


def tested(run: Run) -> tuple[int, float]:
    """Return the number of test sequences and the exact match, from the metrics or measured now."""
    metrics = {} if run.changed else read_metrics(run.folder)
    if metrics:
        return metrics["test_sequences"], metrics["test_exact_match"]
    return TEST_SEQUENCES, right_in_test(run, TEST_SEQUENCES)           # interrupted, or of other code


def as_base64(tensors: Iterable[Tensor], format: str) -> str:
    """Encode all numbers, concatenated, as "float16" or "float32"."""
    numbers = torch.cat([x.detach().flatten() for x in tensors]).to(getattr(torch, format))
    return base64.b64encode(numbers.numpy().tobytes()).decode()


def examples(run: Run, lengths: dict[int, int]) -> list[list]:
    """Return example questions with answers and notes: long, short, and beyond the training lengths."""
    known = run.config.lengths("test")
    tested = usable_lengths(run.config.task, "test", max(lengths), run.config.vocab_size)
    longer = [length for length in lengths if length > run.config.seq_len and length in tested][:1]
    notes = {known[-1]: "", known[len(known) // 3]: ""} | dict.fromkeys(longer, "beyond the training lengths")
    result = []
    for length, note in notes.items():
        content = clearest_example(run, length)
        answer = TASKS[run.config.task].answer(content[None])[0]
        result.append([content.tolist(), answer.tolist(), note])
    return result


def with_answers(task: str, source: Tensor) -> list[list[list[int]]]:
    """Return the content of each row of source (N, S) and its correct answer."""
    contents = [row[is_content(row)] for row in source]
    return [[content.tolist(), TASKS[task].answer(content[None])[0].tolist()] for content in contents]


def checks(run: Run, means: dict[Head, Tensor]) -> list[dict]:
    """Return PyTorch's logits for a few sequences, with and without cuts."""
    _, given, _ = unseen_sequences(run, longest(run), CHECKED)
    heads = heads_of(run.model)
    first, last = heads[0], heads[-1]                       # the same in a model of one head
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
                "logits": as_base64([logits[row]], "float32"),
            })
    return result


def guide(run: Run, evidence: Evidence) -> dict:
    """Return the measurements behind the page's experiments.

    "brightest" is the head that attends most to the answers, "other" the most costly of the rest. "share" is
    the fraction of the brightest head's attention on the answers' source, "moved" the same without "other".
    "readers" counts the heads with more than Reading.enough of theirs there. "pair" holds two heads that can
    each be removed at no cost, but not both, and the number of sequences that stay correct without them. It
    is None if no such pair was found.
    """
    brightest, reading, result = evidence.brightest, evidence.reading, {"brightest": None}
    others = [head for head in heads_of(run.model) if head != brightest]
    if brightest and others:
        other = min(others, key=evidence.left)
        with ablated(run.model, other):
            without = read(run, reading.source, reading.given, reading.to_say)
        _, layer, head = brightest
        result = {
            "brightest": brightest, "other": other, "readers": int((reading.shares > reading.enough).sum()),
            "share": reading.shares[layer, head].item(), "moved": without.shares[layer, head].item(),
        }
    pair = evidence.pair
    return result | {"pair": pair and [pair[0], pair[1], round(pair[2] * len(evidence.source))]}


def page_data(run: Run, format: str) -> tuple[dict, str]:
    """Return the page's data about the run, and all model parameters in base64."""
    config, task, model = run.config, run.config.task, run.model
    evidence, means = Evidence(run, SEQUENCES), mean_head_outputs(run)
    lengths = answer_lengths(run, len(model.positional_encoding.table))
    if format == "float16":
        means = {head: mean.half().float() for head, mean in means.items()}
    tensors = model.state_dict() | {f"means.{'.'.join(map(str, head))}": x for head, x in means.items()}
    most = max(length + answer + 3 for length, answer in lengths.items())
    tensors["positional_encoding.table"] = tensors["positional_encoding.table"][:most]
    data = {
        "task": task, "architecture": run.architecture, "config": asdict(config), "format": format,
        "tensors": [[name, x.numel()] for name, x in tensors.items()],
        "names": [token_name(token, task) for token in range(config.vocab_size)],
        "symbols": alphabet(task, config.vocab_size), "form": TASKS[task].form, "purposes": run.purposes,
        "answer_lengths": lengths, "examples": examples(run, lengths),
        "unseen": with_answers(task, evidence.source), "checks": checks(run, means),
        "guide": guide(run, evidence), "right": int(is_right(evidence.margins[NOTHING]).sum()),
        "table": [
            [part, int(is_right(margins).sum())] for part, margins in evidence.margins.items()
            if part != NOTHING
        ],
    }
    return data, as_base64(tensors.values(), format)


def fill_in(template: str, parts: dict[str, str]) -> str:
    """Fill each {name} in the template, in a single pass: inserted text is not filled in again."""
    names = "|".join(map(re.escape, parts))
    return re.sub(rf"\{{({names})\}}", lambda found: parts[found[1]], template)


def live_page(run: Run, format: str, tested_on: int, share: float) -> str:
    """Return a run's page as HTML, with weights in this format; share is its exact match on the test set."""
    data, weights = page_data(run, format)
    warning = f"Code and weights no longer belong together: {run.changed}. " if run.changed else ""
    about = html.escape(warning) + (
        f"A trained model with {count_parameters(run.model):,} parameters: {percent(share, 2)} of "
        f"{tests_text(run.config, tested_on)} correct. Ask it questions, cut its heads and see what breaks. "
        "Everything is in this one file."
    )
    sources = [ASSETS / "explorer.html", *ASSETS.glob("*.css"), *ASSETS.glob("*.js")]
    parts = {path.name: path.read_text(encoding="utf-8") for path in sources}
    return fill_in(parts["explorer.html"], parts | {
        "title": html.escape(f"Take this Transformer apart: {title_of(run.config.task, run.architecture)}"),
        "about": about, "data": json.dumps(data).replace("<", "\\u003c"), "weights": weights,
    })


def save_page(run: Run, path: Path) -> None:
    """Write the page, in float16 if that does not change the test exact match, otherwise in float32.

    If float32 exceeds LARGEST_PAGE, float16 is used anyway. The exact match shown is that of the page's own
    weights. Raises ValueError if the model is too large either way, or has infinite or NaN weights.
    """
    run = replace(run, model=unwrapped(run.model))          # compiled or averaged, it has the same weights
    shapes, expected = (
        {name: getattr(x, "shape", None) for name, x in model.state_dict().items()}
        for model in (run.model, untrained(run.config))
    )
    if shapes != expected:
        raise ValueError("its weights are not those of its settings, as in a quantised model")
    numbers = sum(x.numel() for x in run.model.state_dict().values())
    if (size := numbers * 2 * 4 / 3) > LARGEST_PAGE:        # base64 writes three bytes as four characters
        raise ValueError(
            f"its weights take {size / 1e6:.1f} MB, over the limit of {LARGEST_PAGE / 1e6:.0f} MB"
        )
    count, exact_match = tested(run)
    choices, half = [(run, "float32", exact_match)], rounded(run)
    if is_finite(half):
        exact_match_in_half = right_in_test(half, count)
        choices.insert(exact_match_in_half != exact_match, (half, "float16", exact_match_in_half))
    elif not is_finite(run):
        raise ValueError("some of its weights are infinite or NaN")
    for shown, format, share in choices:
        page = live_page(shown, format, count, share)
        if (size := len(page.encode())) <= LARGEST_PAGE:
            with replacing(path) as unfinished:
                unfinished.write_text(page, encoding="utf-8")
            return
    raise ValueError(f"it takes {size / 1e6:.1f} MB, over the limit of {LARGEST_PAGE / 1e6:.0f} MB")


# ---------------------------------------------------------------- the gallery


LOOK_FOR = {                                                # by the beginning of a file's name, in this order
    "attention_head": "Look along a row: its brightest cell is the token this query attends to most.",
    "attention_layer": "Compare the heads of one layer: which attend to the symbols the answers come from?",
    "attention_model": "Find the first layer whose heads attend to the symbols the answers come from.",
    "attention_kinds": "Compare the kinds of attention: which one brings the question to the answer?",
    "influence": "Compare the symbols the answers depend on with those the heads attend to.",
    "ablation": "Look for cuts that leave few answers correct: those heads matter, bright or not.",
    "layers": "Find the sublayer after which the answer is present: that is where it was found.",
    "lengths": "See what happens beyond the training lengths, and at which position it breaks.",
    "training": "Find the step at which every sequence is correct.",
    "mistakes": "Look for a kind that is rare among the questions and frequent among the mistakes.",
    "film": "Look for the step at which the pattern appears, and whether accuracy rises with it.",
    "weights": "Look at which part of the residual stream each matrix reads, and which it writes.",
    "beside_trained": "Compare the few heads the task needs with the many that training found.",
    "balance": "Compare how strongly positions and symbols count before and after training.",
}
SIDE_BY_SIDE = "Compare the tasks: which tokens does each answer come from?"
PICTURES = (".png", ".svg", ".gif", ".pdf")


def look_for(path: Path) -> tuple[int, str]:
    """Return a picture's sort order and what to look for in it."""
    for place, (name, words) in enumerate(LOOK_FOR.items()):
        if path.name.startswith(name):
            return place, words
    return -1, SIDE_BY_SIDE


def texts_of(path: Path) -> dict[str, str]:
    """Return the metadata of a picture of ours: Title, Description and Source, as far as present."""
    try:
        if path.suffix == ".svg":
            start = path.read_text(encoding="utf-8")[:8000]
            found = re.findall(r"<dc:(title|description|source)>(.*?)</dc", start, re.DOTALL)
            found.reverse()                                 # so that the first, which is ours, wins
            return {name.capitalize(): html.unescape(text) for name, text in found}
        if path.suffix == ".pdf":                           # a browser does not show it as a picture
            return {}
        with Image.open(path) as image:
            return json.loads(image.info.get("comment", "{}")) if path.suffix == ".gif" else image.info
    except (OSError, ValueError):                           # not ours, or corrupted
        return {}


def card(path: Path, link: str, texts: dict[str, str], command: str) -> str:
    """Return a picture's card: its title, what to look for and, if different, the command that made it."""
    (_, words), title = look_for(path), texts.get("Title", path.name)
    shown = html.escape(title)
    if path.suffix != ".pdf":
        alt = html.escape(f"{title}. {texts.get('Description') or words}")
        shown = f'<img src="{link}" alt="{alt}" loading="lazy">'
    stills = [path.with_suffix(suffix) for suffix in PICTURES[:2] if path.with_suffix(suffix).is_file()]
    if path.suffix == ".gif" and stills:                    # shown to readers who prefer reduced motion
        still = link.removesuffix(".gif") + stills[0].suffix
        still = f'<source media="(prefers-reduced-motion: reduce)" srcset="{still}">'
        shown = f"<picture>{still}{shown}</picture>"
    made = f"<code>{html.escape(texts['Source'])}</code>" if texts["Source"] != command else ""
    return (
        f'<li><figure><a href="{link}">{shown}</a><figcaption><b>{html.escape(title)}</b>'
        f"<p>{words}</p>{made}</figcaption></figure></li>"
    )


def link_to(path: Path, output: Path) -> str:
    return quote(path.relative_to(output).as_posix())


def figures(folder: Path) -> str:
    """Summarise the run's metrics.json in a sentence; "" if there is none."""
    run = read_metrics(folder)
    if not run:                                             # training was interrupted
        return ""
    trained = "hand-built"
    if run["steps"]:
        solved = f"solved at step {run['steps_to_solve']}" if run["steps_to_solve"] else "not solved"
        trained = f"{run['steps']} training steps, {solved}, seed {run['seed']}"
    tests = tests_text(Config(**run["config"]), run["test_sequences"])
    correct = f"{percent(run['test_exact_match'], 2)} of {tests} correct"
    return f"{run['parameters']:,} parameters; {trained}; {correct}."


def anchor(title: str) -> str:
    """Return the link anchor for a title."""
    return re.sub(r"\W+", "-", title)


def section(title: str, of: str, intro: str, paths: list[Path], output: Path, folders: str) -> str:
    """Return a section with a title, an intro, these pictures and the command that made most."""
    paths = sorted(paths, key=lambda path: (look_for(path), path.name))
    texts = {path: dict(texts_of(path)) for path in paths}
    for found in texts.values():
        found["Source"] = (found.get("Source") or "python visualize.py") + folders
    (command, _), = Counter(found["Source"] for found in texts.values()).most_common(1)
    cards = "\n".join(card(path, link_to(path, output), found, command) for path, found in texts.items())
    name = anchor(title)
    return (
        f'<section id="{name}" {of} aria-labelledby="{name}-title"><h2 id="{name}-title">'
        f"{html.escape(title)}</h2>{intro}\n"
        f"<p class=\"hint\">Made with <code>{html.escape(command)}</code></p>\n"
        f'<ul class="pictures">\n{cards}\n</ul></section>\n'
    )


def pictures_in(folder: Path, output: Path) -> list[Path]:
    """Return our pictures and animations in a folder, each in one format, without the reader's own."""
    first = {}
    for path in folder.iterdir():
        compared = folder == output and path.name.startswith(("training_", "balance_"))
        if path.suffix in PICTURES and (compared or runs_shown(path, output)):
            name = path.name if path.suffix == ".gif" else path.stem
            first[name] = min(first.get(name, path), path, key=lambda path: PICTURES.index(path.suffix))
    return list(first.values())


def index_in(names: list[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


def sections(output: Path, models_dir: Path, folders: str, changed: dict[Path, str]) -> dict[str, str]:
    """Return the gallery's sections by title: comparisons of runs, then each task and each run."""
    found, title = {}, "runs side by side"
    if paths := pictures_in(output, output):
        tasks = " ".join(sorted({task for path in paths for task, _ in runs_shown(path, output)}))
        of = f'data-task="{tasks}" data-architecture="{" ".join(map(label_of, ARCHITECTURES))}"'
        found[title] = section(title, of, "", paths, output, folders)
    known = [*TASKS, *ARCHITECTURES]
    places = [place for place in output.glob("*_task") if place.is_dir()]
    places = {place.name.removesuffix("_task"): place for place in places}
    for task, place in sorted(places.items(), key=lambda item: index_in(known, item[0])):
        runs = sorted((x for x in place.iterdir() if x.is_dir()), key=lambda x: index_in(known, x.name))
        pictures = {run: pictures_in(run, output) for run in runs}
        drawn = [run for run, paths in pictures.items() if paths]
        if paths := pictures_in(place, output):
            of = f'data-task="{task}" data-architecture="{" ".join(label_of(run.name) for run in drawn)}"'
            title = f"{task}, all architectures"
            found[title] = section(title, of, "", paths, output, folders)
        for run in drawn:
            title = title_of(task, run.name)
            of = f'data-task="{task}" data-architecture="{label_of(run.name)}"'
            folder = models_dir / place.name / run.name
            says = figures(folder)
            if differs := changed.get(folder):
                says = html.escape(f"Code and weights no longer belong together: {differs}.")
            intro = f'<p class="figures">{says}</p>'
            if (page := run / "explorer.html").is_file():
                intro += f'<a class="open" href="{link_to(page, output)}">Take it apart: the live page</a>'
            found[title] = section(title, of, intro, pictures[run], output, folders)
    return found


def save_gallery(
    output: Path, models_dir: Path, folders: str, changed: dict[Path, str] | None = None
) -> Path:
    """Write index.html, which links all pictures, animations and live pages in output.

    folders holds their command-line options. changed describes, by run folder, how the current code differs;
    such a run's metrics are left out. Raises ValueError rather than overwrite an index.html that is not ours.
    """
    path = output / "index.html"
    if path.exists() and not is_gallery(path):
        raise ValueError(f"{path} was not written by visualize.py; move it, or choose another --output-dir")
    found = sections(output, models_dir, folders, changed or {})
    links = "\n".join(f'<a href="#{anchor(title)}">{html.escape(title)}</a>' for title in found)
    contents = f'<nav aria-label="runs">\n{links}\n</nav>\n' + "".join(found.values())
    parts = {name: (ASSETS / name).read_text(encoding="utf-8") for name in ("gallery.html", "base.css")}
    page = fill_in(parts["gallery.html"], {"base.css": parts["base.css"], "contents": contents})
    with replacing(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return path
