"""The gallery, index.html: every picture, animation and live page, each with what to look for in it."""

import html
import re
from collections import Counter
from pathlib import Path
from urllib.parse import quote

from data import ARCHITECTURES, TASKS
from lab.live_page import ASSETS, fill_in
from support.config import label_of, tests_text, title_of
from support.figure import percent
from support.files import write_text
from support.runs import list_files, read_listing, read_metrics, read_run, task_of

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
    "beside_trained": "Compare the few heads the task needs with the many that training found.",
}
SIDE_BY_SIDE = "Compare the tasks: which tokens does each answer come from?"
PICTURES = (".png", ".svg", ".gif", ".pdf")


def look_for(path: Path) -> tuple[int, str]:
    """Return a picture's sort order and what to look for in it."""
    for place, (name, words) in enumerate(LOOK_FOR.items()):
        if path.name.startswith(name):
            return place, words
    return -1, SIDE_BY_SIDE


def card(path: Path, link: str, shown: dict, common: str) -> str:
    """Return a picture's card: its title, what to look for and, if not the common one, its command."""
    (_, words), title = look_for(path), html.escape(shown["title"])
    image = title
    if path.suffix != ".pdf":                               # a browser does not show these as pictures
        image = f'<img src="{link}" alt="{title}. {words}" loading="lazy">'
    still = path.with_name("attention_head.png")            # shown to readers who prefer reduced motion
    if path.suffix == ".gif" and still.is_file():
        source = link.replace(path.name, still.name)
        image = f'<source media="(prefers-reduced-motion: reduce)" srcset="{source}">{image}'
        image = f"<picture>{image}</picture>"
    made = f"<code>{html.escape(shown['command'])}</code>" if shown["command"] != common else ""
    return (
        f'<li><figure><a href="{link}">{image}</a><figcaption><b>{title}</b>'
        f"<p>{words}</p>{made}</figcaption></figure></li>"
    )


def link_to(path: Path, output: Path) -> str:
    return quote(path.relative_to(output).as_posix())


def figures(folder: Path) -> str:
    """Summarise a run's metrics in a sentence; "" if training was interrupted."""
    metrics = read_metrics(folder)
    try:
        run = read_run(folder, task_of(folder), folder.name, quiet=True)
    except ValueError:                                      # it cannot be read, which was reported
        return ""
    if run.changed:
        return html.escape(f"Code and weights no longer belong together: {run.changed}.")
    if not metrics:
        return ""
    trained = "hand-built"
    if metrics["steps"]:
        step = metrics["steps_to_solve"]
        solved = f"solved at step {step}" if step else "not solved"
        trained = f"{metrics['steps']} training steps, {solved}, seed {metrics['seed']}"
    tests = tests_text(run.config, metrics["test_sequences"])
    correct = f"{percent(metrics['test_exact_match'], 2)} of {tests} correct"
    return f"{metrics['parameters']:,} parameters; {trained}; {correct}."


def anchor(title: str) -> str:
    """Return the link anchor for a title."""
    return re.sub(r"\W+", "-", title)


def section(title: str, intro: str, shown: dict[Path, dict], output: Path) -> str:
    """Return a section with a title, an intro, these pictures and the command that made most."""
    runs = [(output / run).resolve() for each in shown.values() for run in each["runs"]]
    tasks = " ".join(sorted({task_of(run) for run in runs}))
    architectures = " ".join(sorted({label_of(run.name) for run in runs}))
    (common, _), = Counter(each["command"] for each in shown.values()).most_common(1)
    paths = sorted(shown, key=lambda path: (look_for(path), path.name))
    cards = "\n".join(card(path, link_to(path, output), shown[path], common) for path in paths)
    name = anchor(title)
    return (
        f'<section id="{name}" data-task="{tasks}" data-architecture="{architectures}" '
        f'aria-labelledby="{name}-title"><h2 id="{name}-title">{html.escape(title)}</h2>{intro}\n'
        f"<p class=\"hint\">Made with <code>{html.escape(common)}</code></p>\n"
        f'<ul class="pictures">\n{cards}\n</ul></section>\n'
    )


def grouped(output: Path) -> dict[Path, dict[Path, dict]]:
    """Return the listed pictures by folder, each in one format, in the gallery's order."""
    groups = {}
    for name, shown in read_listing(output).items():
        path = output / name
        if path.suffix in PICTURES:
            groups.setdefault(path.parent, {})[path] = shown

    def is_preferred(path: Path, others: dict[Path, dict]) -> bool:
        before = PICTURES[: PICTURES.index(path.suffix)]
        return not any(path.with_suffix(suffix) in others for suffix in before)

    known = [*TASKS, *ARCHITECTURES]
    return {
        folder: {path: shown for path, shown in group.items() if is_preferred(path, group)}
        for folder, group in sorted(groups.items(), key=lambda item: [
            known.index(name) if name in known else len(known)
            for name in (part.removesuffix("_task") for part in item[0].relative_to(output).parts)
        ])
    }


def sections(output: Path) -> dict[str, str]:
    """Return the gallery's sections by title: comparisons of runs, then each task and each run."""
    found = {}
    for folder, shown in grouped(output).items():
        task, *architecture = folder.relative_to(output).parts or [""]
        title, intro = "runs side by side", ""
        if architecture:
            title = title_of(task.removesuffix("_task"), *architecture)
            (run,), *_ = (each["runs"] for each in shown.values() if len(each["runs"]) == 1)
            intro = f'<p class="figures">{figures((output / run).resolve())}</p>'
            if (page := folder / "explorer.html").is_file():
                intro += f'<a class="open" href="{link_to(page, output)}">Take it apart: the live page</a>'
        elif task:
            title = f"{task.removesuffix('_task')}, all architectures"
        found[title] = section(title, intro, shown, output)
    return found


def save_gallery(output: Path) -> Path:
    """Write index.html, which links all pictures, animations and live pages listed in output.

    Raises ValueError rather than overwrite an index.html that is not ours.
    """
    path, listing = output / "index.html", read_listing(output)
    if path.exists() and path.name not in listing:
        raise ValueError(f"{path} was not written by visualize.py; move it, or choose another --output-dir")
    found = sections(output)
    links = "\n".join(f'<a href="#{anchor(title)}">{html.escape(title)}</a>' for title in found)
    contents = f'<nav aria-label="runs">\n{links}\n</nav>\n' + "".join(found.values())
    parts = {name: (ASSETS / name).read_text(encoding="utf-8") for name in ("gallery.html", "base.css")}
    page = fill_in(parts["gallery.html"], {"base.css": parts["base.css"], "contents": contents})
    write_text(page, path)
    runs = sorted({run for shown in listing.values() for run in shown["runs"]})
    list_files(output, {path: {"runs": runs}})
    return path
