"""The gallery shows all of our pictures and pages, once each, in a real browser."""

import functools
import itertools
import json
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from conftest import opened, text_of, violations, wait_until
from PIL import Image
from screenshot import set_window
from selenium.webdriver.support.ui import Select

from data import ARCHITECTURES, TASKS
from lab.gallery import save_gallery
from support.figure import new_figure, save_picture
from support.runs import add_to_listing, run_folder, write_json


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


@pytest.fixture
def some_runs(models_dir, tmp_path):
    """Return a function that makes a gallery of pictures of runs [(task, architecture), …]."""
    def make(runs: list[tuple[str, str]]) -> Path:
        for task, architecture in runs:
            run_dir = run_folder(tmp_path, task, architecture)
            run_dir.mkdir(parents=True)
            for name in "ablation", "layers", "attention_head":
                path = run_dir.relative_to(tmp_path) / f"{name}.png"
                draw(tmp_path, path.as_posix(), [run_dir], f"{name} of {task} & {architecture}")
            (run_dir / "explorer.html").write_text("the page")
        return save_gallery(tmp_path)

    return make


def test_gallery_shows_everything_listed(some_runs, models_dir, tmp_path, browser):
    page = some_runs([("copy", "encoder"), ("reverse", "decoder")])
    folder, other = run_folder(tmp_path, "copy", "encoder"), run_folder(tmp_path, "reverse", "decoder")
    shutil.copytree(run_folder(models_dir, "copy", "encoder"), folder, dirs_exist_ok=True)
    metrics = json.loads((folder / "metrics.json").read_text())
    changes = {"parameters": 1234, "steps": 200, "steps_to_solve": 96, "seed": 3, "test_sequences": 10_000}
    write_json(metrics | changes | {"test_exact_match": 0.99996}, folder / "metrics.json")
    (folder / "my_notes.png").write_text("of the reader")
    own = "python visualize.py --sequence 5 9 --dark"
    draw(tmp_path, "copy_task/encoder/attention_head_5-9.svg", [folder], "A sequence of my own", own)
    draw(tmp_path, "copy_task/encoder/attention_layer.pdf", [folder], "In pdf")
    draw(tmp_path, "copy_vs_reverse.png", [folder, other], "Both <b>")
    save_gallery(tmp_path)
    opened(browser, page)
    links = {
        Path(unquote(urlparse(link.get_attribute("href")).path)).name
        for link in browser.find_elements("css selector", "section a")
    }
    assert links == {
        "ablation.png", "layers.png", "attention_head.png", "attention_head_5-9.svg", "attention_layer.pdf",
        "copy_vs_reverse.png", "explorer.html",
    }
    section = browser.find_element("id", "copy-encoder")
    assert "1,234 parameters; 200 training steps, solved at step 96, seed 3; 99.99% of 10,000" in section.text
    assert "test sequences correct." in section.text
    assert "Made with python visualize.py" in section.text and own in section.text
    picture = section.find_element("css selector", "[src$='ablation.png']")
    assert picture.get_attribute("alt").startswith("ablation of copy & encoder. Look for cuts that leave few")
    assert "Look for cuts that leave few answers correct" in section.text
    assert [figure.text for figure in section.find_elements("tag name", "b")] == [
        "attention_head of copy & encoder", "A sequence of my own", "In pdf", "ablation of copy & encoder",
        "layers of copy & encoder",
    ]
    assert browser.find_element("id", "runs-side-by-side").get_attribute("data-task") == "copy reverse"


def test_gallery_shows_each_picture_once(some_runs, tmp_path):
    """In two formats, and of a task that data.py no longer defines."""
    page, folder = some_runs([("copy", "encoder")]), run_folder(tmp_path, "copy", "encoder")
    for name in "influence", "ablation":
        draw(tmp_path, f"copy_task/encoder/{name}.svg", [folder], "in svg")
    gone = run_folder(tmp_path, "gone", "encoder")
    gone.mkdir(parents=True)
    draw(tmp_path, "gone_task/encoder/layers.png", [gone], "of a task that is gone")
    text = save_gallery(tmp_path).read_text()
    assert text.count("ablation.") == 2 and "ablation.svg" not in text              # link and picture
    assert text.count("influence.svg") == 2
    assert text.index('data-task="copy"') < text.index('data-task="gone"') and page.exists()


def test_gallery_is_filtered_by_task_and_architecture(some_runs, browser):
    opened(browser, some_runs([*itertools.product(TASKS, ARCHITECTURES)]))

    def choose(name: str, value: str) -> list[str]:
        Select(browser.find_element("id", name)).select_by_visible_text(value)
        titles, links = (
            [shown.text for shown in browser.find_elements("css selector", tag) if shown.is_displayed()]
            for tag in ("h2", "nav a")
        )
        assert titles == links
        return titles

    assert text_of(browser, "count") == "54 of 54 pictures"
    assert choose("task", "add") == ["add, decoder", "add, encoder", "add, encoder-decoder"]
    assert choose("architecture", "decoder") == ["add, decoder"]
    assert text_of(browser, "count") == "3 of 54 pictures"
    assert choose("task", "all") == [f"{task}, decoder" for task in sorted(TASKS)]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("runs", [1, 18])
def test_gallery_passes_axe(some_runs, browser, window, dark, runs):
    page = some_runs([*itertools.product(TASKS, ARCHITECTURES)][:runs])
    set_window(browser, window, 1000, dark=dark)
    opened(browser, page)
    assert violations(browser) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= window


def test_gallery_respects_reduced_motion(some_runs, tmp_path, browser, emulation):
    page = some_runs([("copy", "encoder")])
    folder = run_folder(tmp_path, "copy", "encoder")
    with Image.open(folder / "attention_head.png") as still:
        still.save(folder / "film.gif")
    shown = {"runs": ["copy_task/encoder"], "title": "moving", "command": "python visualize.py"}
    add_to_listing(tmp_path, {folder / "film.gif": shown})
    save_gallery(tmp_path)
    source = """
        const film = document.querySelector("picture img");
        film.scrollIntoView();
        return film.currentSrc;
    """
    for reduce, shown in ("no-preference", "film.gif"), ("reduce", "attention_head.png"):
        motion = {"name": "prefers-reduced-motion", "value": reduce}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [motion]})
        opened(browser, page)
        seen = wait_until(browser, lambda browser: browser.execute_script(source))
        assert seen.endswith(shown)


def test_save_gallery_keeps_a_users_own_page(some_runs, tmp_path):
    page = some_runs([("copy", "encoder")])
    save_gallery(tmp_path)                                  # ours is
    mine = tmp_path / "slides" / "index.html"
    mine.parent.mkdir()
    mine.write_text("<h1>mine</h1>")
    with pytest.raises(ValueError, match="was not written by visualize.py; move it, or choose another"):
        save_gallery(mine.parent)
    assert mine.read_text() == "<h1>mine</h1>" and page.exists()
