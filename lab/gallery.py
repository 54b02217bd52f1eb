"""The gallery, index.html: every picture, animation and live page, each with what to look for in it."""

import html
import re
from pathlib import Path
from urllib.parse import quote

from lab.live_page import ASSETS, link_pages, render_template
from support.figure import percent
from support.files import write_text
from support.runs import add_to_listing, read_listing, read_metrics, task_from_folder

LOOK_FOR = {                                                # by the beginning of a file's name, in this order
    "attention_head": "Look along a row: its brightest cell is the token this query attends to most.",
    "attention_layer": "Compare the heads of one layer: which attend to the symbols the answers come from?",
    "attention_model": "Find the first layer whose heads attend to the symbols the answers come from.",
    "attention_kinds": "Compare the kinds of attention: which one brings the question to the answer?",
    "influence": "Compare the symbols the answers depend on with those the heads attend to.",
    "ablation": "Look for cuts that leave few answers correct: those heads matter, whatever they attend to.",
    "layers": "Find the sublayer after which the answer is present: that is where it was found.",
    "lengths": "See what happens beyond the training lengths, and read one answer below the curves.",
    "training": "Find the step at which every sequence is correct.",
    "film": "Look for the step at which the pattern appears, and whether accuracy rises with it.",
    "beside_trained": "Compare the few heads the task needs with the many that training found.",
}
SIDE_BY_SIDE = "Compare the tasks: which tokens does each answer come from?"            # of any other name
PICTURES = (".png", ".svg", ".gif", ".pdf")


def find_hint(path: Path) -> tuple[int, str]:
    """Return a picture's sort order and what to look for in it."""
    hints = ((rank, LOOK_FOR[name]) for rank, name in enumerate(LOOK_FOR) if path.name.startswith(name))
    return next(hints, (-1, SIDE_BY_SIDE))


def relative_link(path: Path, output: Path) -> str:
    return quote(path.relative_to(output).as_posix())


def make_card(path: Path, output: Path, shown: dict, common: str) -> str:
    """Return a picture's card: its title, what to look for and, if not the common one, its command."""
    (_, words), title, link = find_hint(path), html.escape(shown["title"]), relative_link(path, output)
    image = title
    if path.suffix != ".pdf":                               # a browser does not show these as pictures
        image = f'<img src="{link}" alt="{title}. {words}" loading="lazy">'
    still = path.with_name("attention_head.png")            # shown to readers who prefer reduced motion
    if path.suffix == ".gif" and still.is_file():
        source = f'media="(prefers-reduced-motion: reduce)" srcset="{relative_link(still, output)}"'
        image = f"<picture><source {source}>{image}</picture>"
    made = f"<code>{html.escape(shown['command'])}</code>" if shown["command"] != common else ""
    return (
        f'<li><figure><a href="{link}">{image}</a><figcaption><b>{title}</b>'
        f"<p>{words}</p>{made}</figcaption></figure></li>"
    )


def summarise_run(folder: Path) -> str:
    """Summarise a run's metrics in a sentence; "" if training was interrupted."""
    metrics = read_metrics(folder)
    if not metrics:
        return ""
    trained = "hand-built"
    if metrics["steps"]:
        step = metrics["steps_to_solve"]
        solved = f"solved at step {step}" if step else "not solved"
        trained = f"{metrics['steps']} training steps, {solved}, seed {metrics['seed']}"
    correct = f"{percent(metrics['test_exact_match'], 2)} of {metrics['test_sequences']:,} test sequences"
    return f"{metrics['parameters']:,} parameters; {trained}; {correct} correct."


def make_anchor(title: str) -> str:
    """Return the link anchor for a title."""
    return re.sub(r"\W+", "-", title)


def make_section(title: str, intro: str, shown: dict[Path, dict], output: Path) -> str:
    """Return a section with a title, an intro, these pictures and the command that made the first."""
    runs = [(output / run).resolve() for each in shown.values() for run in each["runs"]]
    tasks = " ".join(sorted({task_from_folder(run) for run in runs}))
    architectures = " ".join(sorted({run.name for run in runs}))
    paths = sorted(shown, key=lambda path: (find_hint(path), path.name))
    name, common = make_anchor(title), shown[paths[0]]["command"]
    cards = "\n".join(make_card(path, output, shown[path], common) for path in paths)
    return (
        f'<section id="{name}" data-task="{tasks}" data-architecture="{architectures}" '
        f'aria-labelledby="{name}-title"><h2 id="{name}-title">{html.escape(title)}</h2>{intro}\n'
        f"<p class=\"hint\">Made with <code>{html.escape(common)}</code></p>\n"
        f'<ul class="pictures">\n{cards}\n</ul></section>\n'
    )


def make_sections(output: Path) -> dict[str, str]:
    """Return the gallery's sections by title: comparisons of runs, then each task and each run."""
    listed = {output / name: shown for name, shown in read_listing(output).items()}
    pictures, groups, found = [path for path in listed if path.suffix in PICTURES], {}, {}
    for path in sorted(pictures, key=lambda path: PICTURES.index(path.suffix)):         # one of each name
        groups.setdefault(path.parent, {}).setdefault(path.stem, path)
    for folder in sorted(groups):
        shown = {path: listed[path] for path in groups[folder].values()}
        parts = folder.relative_to(output).parts or [""]
        task, *architecture = [part.removesuffix("_task") for part in parts]
        title = f"{task}, all architectures" if task else "runs side by side"
        intro = ""
        if architecture:
            title = ", ".join([task, *architecture])
            run = next(each["runs"][0] for each in shown.values() if len(each["runs"]) == 1)
            intro = f'<p class="figures">{summarise_run((output / run).resolve())}</p>'
            if (page := folder / "explorer.html").is_file():
                link = relative_link(page, output)
                intro += f'<a class="open" href="{link}">Take it apart: the live page</a>'
        found[title] = make_section(title, intro, shown, output)
    return found


def save_gallery(output: Path) -> Path:
    """Write index.html, which links all pictures, animations and live pages listed, and link the pages.

    Raises ValueError rather than overwrite an index.html that is not ours.
    """
    path, listing = output / "index.html", read_listing(output)
    if path.exists() and path.name not in listing:
        raise ValueError(f"{path} was not written by visualize.py; move it, or choose another --output-dir")
    link_pages(output)
    found = make_sections(output)
    links = "\n".join(f'<a href="#{make_anchor(title)}">{html.escape(title)}</a>' for title in found)
    contents = f'<nav aria-label="runs">\n{links}\n</nav>\n' + "".join(found.values())
    parts = {name: (ASSETS / name).read_text(encoding="utf-8") for name in ("gallery.html", "base.css")}
    write_text(render_template(parts["gallery.html"], parts | {"contents": contents}), path)
    runs = sorted({run for shown in listing.values() for run in shown["runs"]})
    add_to_listing(output, {path: {"runs": runs}})
    return path
