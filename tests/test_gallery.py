"""The gallery shows all of our pictures and pages, once each, in a real browser."""

import functools
import itertools
import re
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from conftest import opened, text_of, violations, wait_until
from screenshot import set_window
from selenium.webdriver.support.ui import Select

from data import ARCHITECTURES, TASKS
from lab.gallery import save_gallery
from lab.side_by_side import QUESTION
from support.figure import new_figure, save_picture
from support.runs import add_to_listing, read_listing, run_folder


@functools.cache
def some_picture(suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture").with_suffix(suffix)
        figure = new_figure(1.0, "A picture")
        figure.subplots()
        save_picture(figure, path)
        return path.read_bytes()


def draw(folder: Path, name: str, runs: list[Path], title: str, command: str = "python visualize.py") -> None:
    """Save a picture and list it, as visualize.py does."""
    (folder / name).write_bytes(some_picture(Path(name).suffix))
    shown = {"runs": [run.relative_to(folder).as_posix() for run in runs], "title": title, "command": command}
    add_to_listing(folder, {folder / name: shown})


def add_film(folder: Path, run: Path) -> None:
    """Save and list an animation of a run whose training.png exists."""
    shutil.copy(run / "training.png", run / "film.gif")
    shown = {"runs": [run.relative_to(folder).as_posix()], "title": "a film", "command": "visualize.py"}
    add_to_listing(folder, {run / "film.gif": shown})


@pytest.fixture
def some_runs(tmp_path):
    """Return a function that makes a gallery of pictures of runs [(task, architecture), …]."""
    def make(runs: list[tuple[str, str]]) -> Path:
        for task, architecture in runs:
            run_dir = run_folder(tmp_path, task, architecture)
            run_dir.mkdir(parents=True)
            for name in "ablation", "layers", "attention_head":
                path = run_dir.relative_to(tmp_path) / f"{name}.png"
                draw(tmp_path, path.as_posix(), [run_dir], f"{name} of {task} & {architecture}")
            (run_dir / "explorer.html").write_text("the page", encoding="utf-8")
        return save_gallery(tmp_path)

    return make


def test_gallery_lists_everything(some_runs, tmp_path, browser):
    page = some_runs([("copy", "encoder"), ("reverse", "decoder")])
    folder, other = run_folder(tmp_path, "copy", "encoder"), run_folder(tmp_path, "reverse", "decoder")
    (folder / "my_notes.png").write_text("of the reader", encoding="utf-8")
    own = "python visualize.py --sequence 5 9 --dark"
    draw(tmp_path, "copy_task/encoder/attention_head_5-9.svg", [folder], "A sequence of my own", own)
    draw(tmp_path, "copy_task/encoder/attention_layer.pdf", [folder], "In pdf")
    draw(tmp_path, "copy_vs_reverse.png", [folder, other], "Both <b>")
    save_gallery(tmp_path)
    opened(browser, page)
    lists = {name.text: name.find_element("xpath", "..") for name in browser.find_elements("tag name", "h3")}
    assert [*lists] == ["runs side by side", "copy, encoder", "reverse, decoder"]
    links = {
        Path(unquote(urlparse(link.get_attribute("href")).path)).name
        for each in lists.values() for link in each.find_elements("tag name", "a")
    }
    assert links == {
        "ablation.png", "layers.png", "attention_head.png", "attention_head_5-9.svg", "attention_layer.pdf",
        "copy_vs_reverse.png", "explorer.html",
    }
    section = lists["copy, encoder"].text
    assert section.count("python visualize.py") == 2 and own in section     # the common one is there once
    assert lists["runs side by side"].get_attribute("data-task") == "copy reverse"


def test_gallery_path_asks_seven_questions_in_order(tmp_path, browser):
    """The reversing encoder leads; the copying encoder is its contrast."""
    tasks = "copy", "reverse", "sort"
    runs = [run_folder(tmp_path, *each) for each in itertools.product(tasks, ARCHITECTURES)]
    for run in runs:
        run.mkdir(parents=True)
        for name in "attention_head", "attention_layer", "ablation", "influence", "layers", "training":
            path = (run / f"{name}.png").relative_to(tmp_path).as_posix()
            draw(tmp_path, path, [run], path)
        add_film(tmp_path, run)
        (run / "explorer.html").write_text("the page", encoding="utf-8")
    for task in tasks:
        draw(tmp_path, f"{task}_task/lengths.png", runs[:3], "lengths")
    draw(tmp_path, "copy_vs_reverse.png", runs, QUESTION)
    draw(tmp_path, "accuracy_vs_steps.png", runs, "compared by --compare")      # not the comparison of tasks
    draw(tmp_path, "copy_task/encoder/influence.svg", runs[:1], "influence")    # in a second format
    opened(browser, save_gallery(tmp_path))
    buttons = [link.get_attribute("href") for link in browser.find_elements("css selector", ".open")]
    assert [Path(link).parents[1].name for link in buttons] == ["reverse_task", "copy_task"]
    assert {Path(link).parent.name for link in buttons} == {"encoder"}
    steps = browser.find_elements("css selector", ".step")
    images = [step.find_element("tag name", "img") for step in steps]
    shown = [image.get_attribute("src").removeprefix(f"file://{tmp_path}/") for image in images]
    main, contrast = "reverse_task/encoder", "copy_task/encoder"
    assert shown == [
        "copy_vs_reverse.png", f"{main}/attention_head.png", f"{main}/ablation.png",
        f"{contrast}/influence.png", f"{main}/layers.png", "copy_task/lengths.png", f"{main}/film.gif",
    ]
    for number, step in enumerate(steps, start=1):
        question, sentence = step.text.splitlines()[:2]
        assert re.fullmatch(rf"{number}\. .*\?", question)
        assert sentence.removesuffix(" Play again").endswith(".")
    assert min(image.size["width"] for image in images) >= 560


@pytest.mark.parametrize(("name", "title", "sentence"), [
    ("attention_head", "Layer 2, head 2 looks at the answer: 97% …", "Outlined: the symbol that its answer"),
    ("attention_head", "No head looks at the answer: even layer 2 …", "it does not look its answer up"),
    ("ablation", "Nothing breaks: without any attention, …", "no answer depends on it"),
    ("ablation", "The head that matters most does not look at …", "does not show whether"),
    ("ablation", "The head that matters most looks at the …", "Only removing a head shows"),
    ("influence", "… changes – yet no head looks at it", "do not show what a model depends on"),
])
def test_gallery_sentence_fits_the_finding(name, title, sentence, tmp_path):
    run = run_folder(tmp_path, "copy", "encoder")
    run.mkdir(parents=True)
    draw(tmp_path, f"copy_task/encoder/{name}.png", [run], title)
    assert sentence in save_gallery(tmp_path).read_text(encoding="utf-8")


def test_gallery_shows_each_picture_once(some_runs, tmp_path):
    """In two formats, and of a task that data.py no longer defines."""
    page, folder = some_runs([("copy", "encoder")]), run_folder(tmp_path, "copy", "encoder")
    for name in "influence", "ablation":
        draw(tmp_path, f"copy_task/encoder/{name}.svg", [folder], "in svg")
    gone = run_folder(tmp_path, "gone", "encoder")
    gone.mkdir(parents=True)
    draw(tmp_path, "gone_task/encoder/layers.png", [gone], "of a task that is gone")
    text = save_gallery(tmp_path).read_text(encoding="utf-8")
    lists = text[text.index("All pictures"):]
    assert lists.count('ablation.png"') == 1 and "ablation.svg" not in text
    assert lists.count('influence.svg"') == 1
    assert text.index('data-task="copy"') < text.index('data-task="gone"') and page.exists()


def test_gallery_is_filtered_by_task_and_architecture(some_runs, browser):
    opened(browser, some_runs([*itertools.product(TASKS, ARCHITECTURES)]))

    def choose(name: str, value: str) -> list[str]:
        Select(browser.find_element("id", name)).select_by_visible_text(value)
        return [shown.text for shown in browser.find_elements("tag name", "h3") if shown.is_displayed()]

    assert text_of(browser, "count") == "54 of 54 pictures"
    assert choose("task", "add") == ["add, decoder", "add, encoder", "add, encoder-decoder"]
    assert choose("architecture", "decoder") == ["add, decoder"]
    assert text_of(browser, "count") == "3 of 54 pictures"
    assert choose("task", "all") == [f"{task}, decoder" for task in sorted(TASKS)]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("runs", [1, 18])
def test_gallery_passes_axe(some_runs, tmp_path, browser, window, dark, runs):
    page = some_runs([*itertools.product(TASKS, ARCHITECTURES)][:runs])
    for name, shown in read_listing(tmp_path).items():
        command = "python visualize.py --dark" if dark else "python visualize.py"
        add_to_listing(tmp_path, {tmp_path / name: shown | {"command": command}})
    save_gallery(tmp_path)
    set_window(browser, window, 1000, dark=not dark)        # the page is as dark as its pictures
    opened(browser, page)
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
    assert violations(browser) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= window


def test_gallery_respects_reduced_motion_until_asked_to_play(tmp_path, browser, emulation):
    folder = run_folder(tmp_path, "copy", "encoder")
    folder.mkdir(parents=True)
    draw(tmp_path, "copy_task/encoder/training.png", [folder], "still")
    add_film(tmp_path, folder)
    page = save_gallery(tmp_path)
    source = """
        const film = document.querySelector("picture img");
        film.scrollIntoView();
        return film.currentSrc;
    """
    for reduce, shown in ("no-preference", "film.gif"), ("reduce", "training.png"):
        motion = {"name": "prefers-reduced-motion", "value": reduce}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [motion]})
        opened(browser, page)
        seen = wait_until(browser, lambda browser: browser.execute_script(source))
        assert seen.endswith(shown)
    for play in 1, 2:
        browser.execute_script('document.querySelector(".replay").click()')
        address = f"film.gif?{play}"
        wait_until(browser, lambda browser, end=address: browser.execute_script(source).endswith(end))


def test_save_gallery_keeps_a_users_own_page(some_runs, tmp_path):
    page = some_runs([("copy", "encoder")])
    save_gallery(tmp_path)                                  # ours is
    mine = tmp_path / "slides" / "index.html"
    mine.parent.mkdir()
    mine.write_text("<h1>mine</h1>", encoding="utf-8")
    with pytest.raises(ValueError, match="was not written by visualize.py; move it, or choose another"):
        save_gallery(mine.parent)
    assert mine.read_text(encoding="utf-8") == "<h1>mine</h1>" and page.exists()
