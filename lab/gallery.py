"""The gallery, index.html: two live pages, a path of seven steps, and a list of every picture."""

import html
from pathlib import Path
from urllib.parse import quote

from lab.live_page import ASSETS, link_pages, render_template
from lab.side_by_side import QUESTION
from support.files import write_text
from support.runs import (
    DEFAULT_ARCHITECTURES,
    DEFAULT_TASKS,
    add_to_listing,
    read_listing,
    run_folder,
    task_from_folder,
)

MAIN, CONTRAST, ITS_TASK, BOTH = "main", "contrast", "its task", "both"     # the folder of a step's picture
STEPS = {                                                   # a question, and what follows from each finding
    (QUESTION, BOTH): ("Which of these models needs attention?", {
        "": "A symbol can move straight up the residual stream at its own position. Only attention can carry "
            "it to another.",
    }),
    ("attention_head", MAIN): ("Where does a head look?", {
        "no head looks": "The outlined cells get little of the attention: it does not look its answer up.",
        "": "Each row shows where one token looks. Outlined: the symbol that its answer comes from.",
    }),
    ("ablation", MAIN): ("Which head would you least like to lose?", {
        "nothing breaks": "Every head attends to something, but no answer depends on it.",
        "does not look": "What a head looks at does not show whether the model can spare it.",
        "": "Only removing a head shows whether the model can spare it.",
    }),
    ("influence", CONTRAST): ("What does an answer depend on?", {
        "yet no head": "So attention weights do not show what a model depends on.",
        "": "Here, a head looks where the answer comes from. That need not be so.",
    }),
    ("layers", MAIN): ("Where in the model does the answer appear?", {
        "": "The curves apply the model's last step to the residual stream early. They jump where the "
            "answer arrives.",
    }),
    ("lengths", ITS_TASK): ("Can a model answer longer questions than it was trained on?", {
        "": "Perfect answers at the training lengths say nothing about longer questions.",
    }),
    ("film", MAIN): ("How does it learn this?", {
        "": "Watch the incorrect symbols, in brackets, disappear. They need not wait for a sharp pattern.",
    }),
}
PICTURES = (".png", ".svg", ".gif", ".pdf")                 # the first of one name is shown


def relative_link(path: Path, output: Path) -> str:
    return quote(path.relative_to(output).as_posix())


def preferred_runs(output: Path, folders: set[Path]) -> list[Path]:
    """Return the folders of runs, first the one to look at first, then one to compare it with."""
    best = [
        run_folder(output, task, architecture)
        for architecture in DEFAULT_ARCHITECTURES for task in reversed(DEFAULT_TASKS)
    ]
    return [folder for folder in best if folder in folders] + sorted(folders - {*best})


def find_picture(name: str, folder: Path, pictures: dict[Path, dict]) -> Path | None:
    """Return the picture of this name or title in a folder, if a browser can show it."""
    return next((
        path for path, shown in pictures.items() if path.parent == folder and path.suffix != ".pdf"
        and name in (path.stem, shown["title"])
    ), None)


def make_step(question: str, lesson: str, path: Path, title: str, output: Path) -> str:
    """Return a step of the path as HTML: a question, a picture and a sentence."""
    link, replay = relative_link(path, output), ""
    image = f'<img src="{link}" alt="{html.escape(title)}" loading="lazy">'
    still = path.with_name("training.png")                  # shown to readers who prefer reduced motion
    if path.suffix == ".gif":
        replay = '<button type="button" class="replay">Play again</button>'
        if still.is_file():
            source = f'media="(prefers-reduced-motion: reduce)" srcset="{relative_link(still, output)}"'
            image = f"<picture><source {source}>{image}</picture>"
    return (
        f'<section class="step"><h2>{html.escape(question)}</h2>\n<figure><a href="{link}">{image}</a>'
        f"<figcaption>{html.escape(lesson)} {replay}</figcaption></figure></section>\n"
    )


def make_path(pictures: dict[Path, dict], runs: list[Path], output: Path) -> str:
    """Return the seven steps as HTML; those without a picture are left out."""
    steps, (first, second) = "", (*runs, *runs[-1:], output, output)[:2]
    folders = {MAIN: first, CONTRAST: second, ITS_TASK: second.parent, BOTH: output}
    for (name, role), (question, lessons) in STEPS.items():
        if path := find_picture(name, folders[role], pictures):
            title = pictures[path]["title"]
            lesson = next(lessons[finding] for finding in lessons if finding in title.lower())
            steps += make_step(f"{steps.count('<h2>') + 1}. {question}", lesson, path, title, output)
    return steps


def make_list(folder: Path, pictures: dict[Path, dict], output: Path) -> str:
    """Return a section that lists the pictures in a folder, with their titles and commands."""
    runs = {(output / run).resolve() for path in pictures for run in pictures[path]["runs"]}
    tasks, architectures = {task_from_folder(run) for run in runs}, {run.name for run in runs}
    title, common = "runs side by side", next(iter(pictures.values()))["command"]
    intro = f"<p>Made with <code>{html.escape(common)}</code>.</p>"
    if folder != output:
        title = ", ".join(part.removesuffix("_task") for part in folder.relative_to(output).parts)
    if (page := folder / "explorer.html").is_file():
        link = f'<a href="{relative_link(page, output)}">Live page</a>'
        intro = f"<p>{link}</p>{intro}"
    items = ""
    for path, shown in pictures.items():
        made = f" <code>{html.escape(shown['command'])}</code>" if shown["command"] != common else ""
        link = f'<a href="{relative_link(path, output)}">{html.escape(shown["title"])}</a>'
        items += f"<li>{link} <code>{html.escape(path.name)}</code>{made}</li>\n"
    return (
        f'<section class="list" data-task="{" ".join(sorted(tasks))}" '
        f'data-architecture="{" ".join(sorted(architectures))}"><h3>{html.escape(title)}</h3>{intro}'
        f"<ul>\n{items}</ul></section>\n"
    )


def make_contents(output: Path) -> dict[str, str]:
    """Return the parts of the gallery, to be filled in its template; its style is as dark as its pictures."""
    listed = {output / name: shown for name, shown in read_listing(output).items()}
    found = [path for path in listed if path.suffix in PICTURES]
    pictures, groups = {}, {}
    for path in sorted(found, key=lambda path: (PICTURES.index(path.suffix), path)):
        pictures.setdefault(path.with_suffix(""), path)     # one of each name
    pictures = {path: listed[path] for path in sorted(pictures.values())}
    for path, shown in pictures.items():
        groups.setdefault(path.parent, {})[path] = shown
    runs = preferred_runs(output, {folder for folder in groups if folder.parent.name.endswith("_task")})
    links = "".join(
        f'<a class="open" href="{relative_link(folder / "explorer.html", output)}">Take it apart: '
        f"{task_from_folder(folder)}, {folder.name}</a>\n"
        for folder in runs[:2] if (folder / "explorer.html").is_file()
    )
    lists = "".join(make_list(folder, groups[folder], output) for folder in sorted(groups))
    dark = sum("--dark" in shown["command"] for shown in pictures.values()) > len(pictures) / 2
    style = (ASSETS / "base.css").read_text(encoding="utf-8")
    style = style.replace("(prefers-color-scheme: dark)", "all" if dark else "not all")
    style = style.replace("light dark", "dark" if dark else "light")
    return {"base.css": style, "links": links, "path": make_path(pictures, runs, output), "lists": lists}


def save_gallery(output: Path) -> Path:
    """Write index.html, which links all pictures, animations and live pages listed, and link the pages.

    Raises ValueError rather than overwrite an index.html that is not ours.
    """
    path, listing = output / "index.html", read_listing(output)
    if path.exists() and path.name not in listing:
        raise ValueError(f"{path} was not written by visualize.py; move it, or choose another --output-dir")
    link_pages(output)
    template = (ASSETS / "gallery.html").read_text(encoding="utf-8")
    write_text(render_template(template, make_contents(output)), path)
    runs = sorted({run for shown in listing.values() for run in shown["runs"]})
    add_to_listing(output, {path: {"runs": runs}})
    return path
