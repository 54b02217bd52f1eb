"""The gallery, index.html: every picture, animation and live page, each with what to look for in it."""

import html
import json
import re
from collections import Counter
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from data import ARCHITECTURES, TASKS
from lab.live_page import ASSETS, fill_in
from support.config import Config, label_of, title_of
from support.figure import percent
from support.files import replacing
from support.runs import is_gallery, read_metrics, runs_shown
from train import tests_text

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
