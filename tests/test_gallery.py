"""The gallery shows all of our pictures and pages, once each, in a real browser."""

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from conftest import opened, seen_by, text_of, violations
from PIL import Image
from selenium.webdriver.support.ui import Select, WebDriverWait

from data import ARCHITECTURES, TASKS
from lab.gallery import save_gallery
from support.config import Config
from support.figure import new_picture, save_picture
from support.runs import run_folder


def some_runs(folder: Path, runs: list[tuple[str, str]]) -> Path:
    """A folder of pictures as visualize.py writes them, of runs [(task, architecture), …]."""
    for task, architecture in runs:
        place = run_folder(folder, task, architecture)
        place.mkdir(parents=True)
        for name in "ablation", "film", "attention_head":
            figure, _ = new_picture(1.0, f"{name} of {task} & {architecture}", how="How to read it <here>.")
            save_picture(figure, place / f"{name}.png", "python visualize.py")
        (place / "explorer.html").write_text("the page")
        (place / "metrics.json").write_text(json.dumps({
            "parameters": 1234, "steps": 200, "steps_to_solve": 96, "seconds_to_solve": 2.5, "seed": 3,
            "train_seconds": 5.0, "test_sequences": 10_000,
            "test_exact_match": 0.99996, "config": asdict(Config(task=task, architecture=architecture)),
        }))
    save_gallery(folder, folder, "")
    return folder / "index.html"


def test_the_gallery_shows_all_that_is_there_with_figures_command_and_what_to_look_for(tmp_path, browser):
    page = some_runs(tmp_path, [("copy", "encoder"), ("reverse", "decoder")])
    folder = run_folder(tmp_path, "copy", "encoder")
    (folder / "my_notes.png").write_text("of the reader")
    (folder / "attention_layer.pdf").write_text("shown nowhere, linked")
    (folder / "layers.png").write_text("torn")
    figure, _ = new_picture(1.0, "a sequence of my own")
    save_picture(figure, folder / "attention_head_5-9.svg", "python visualize.py --sequence 5 9 --dark")
    save_picture(figure, tmp_path / "copy_vs_reverse.png", "python visualize.py")
    save_gallery(tmp_path, tmp_path, " --models-dir here")
    opened(browser, page)
    links = {
        Path(unquote(urlparse(link.get_attribute("href")).path))
        for link in browser.find_elements("css selector", "section a")
    }
    expected = {path for path in tmp_path.rglob("*.*") if path.suffix != ".json"}
    assert links == expected - {page, folder / "my_notes.png"}
    section = browser.find_element("id", "copy-encoder")
    assert "1,234 parameters; 200 training steps, solved at step 96, seed 3; 99.99% of 10,000" in section.text
    assert "test sequences (6,584 distinct) correct." in section.text
    assert "Made with python visualize.py --models-dir here" in section.text
    assert "python visualize.py --sequence 5 9 --dark --models-dir here" in section.text
    picture = section.find_element("css selector", "[src$='ablation.png']")
    assert picture.get_attribute("alt") == "Ablation of copy & encoder. How to read it <here>."
    assert "Look for cuts that leave few answers correct" in section.text
    heads = [figure.text for figure in section.find_elements("tag name", "b")]
    assert heads == [
        "Attention_head of copy & encoder", "A sequence of my own", "attention_layer.pdf",
        "Ablation of copy & encoder", "layers.png", "Film of copy & encoder",
    ]


def test_the_gallery_shows_each_picture_once_and_only_what_is_ours(tmp_path):
    """In two formats; a file that looks like a task's folder; a task whose name contains another's."""
    folder = run_folder(tmp_path, "copy", "encoder")
    some_runs(tmp_path, [("copy", "encoder")])
    figure, _ = new_picture(1.0, "in svg")
    for name in "film", "layers", "ablation":
        save_picture(figure, folder / f"{name}.svg")
    (folder / "film.png").unlink()
    Image.new("L", (2, 2)).save(folder / "film.gif")
    (tmp_path / "todo_task").touch()
    (tmp_path / "add_from_ones_task" / "encoder").mkdir(parents=True)
    save_picture(figure, tmp_path / "copy_vs_add_from_ones_encoder.png")
    page = save_gallery(tmp_path, tmp_path, "").read_text()
    assert page.count("ablation.") == 2 and "ablation.svg" not in page              # link and picture
    assert 'srcset="copy_task/encoder/film.svg"' in page and page.count("layers.svg") == 2
    assert 'data-task="add_from_ones copy"' in page


def test_the_gallery_is_filtered_by_task_and_architecture(tmp_path, browser):
    opened(browser, some_runs(tmp_path, [*itertools.product(TASKS, ARCHITECTURES)]))

    def choose(name: str, value: str) -> list[str]:
        Select(browser.find_element("id", name)).select_by_visible_text(value)
        titles, links = (
            [shown.text for shown in browser.find_elements("css selector", tag) if shown.is_displayed()]
            for tag in ("h2", "nav a")
        )
        assert titles == links
        return titles

    assert text_of(browser, "count") == "54 of 54 pictures"
    assert choose("task", "add") == ["add, encoder", "add, decoder-only", "add, encoder–decoder"]
    assert choose("architecture", "decoder-only") == ["add, decoder-only"]
    assert text_of(browser, "count") == "3 of 54 pictures"
    assert choose("task", "all") == [f"{task}, decoder-only" for task in TASKS]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("runs", [1, 18])
def test_axe_finds_nothing_wrong_in_the_gallery(tmp_path, browser, window, dark, runs):
    page = some_runs(tmp_path, [*itertools.product(TASKS, ARCHITECTURES)][:runs])
    seen_by(browser, window, dark)
    opened(browser, page)
    assert violations(browser) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= window


def test_who_wants_nothing_to_move_sees_the_last_moments_of_a_film(tmp_path, browser):
    page = some_runs(tmp_path, [("copy", "encoder")])
    folder = run_folder(tmp_path, "copy", "encoder")
    with Image.open(folder / "film.png") as still:
        still.save(folder / "film.gif")
    save_gallery(tmp_path, tmp_path, "")
    source = """
        const film = document.querySelector("picture img");
        film.scrollIntoView();
        return film.currentSrc;
    """
    for reduce, shown in ("no-preference", "film.gif"), ("reduce", "film.png"):
        motion = {"name": "prefers-reduced-motion", "value": reduce}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [motion]})
        opened(browser, page)
        seen = WebDriverWait(browser, 5).until(lambda browser: browser.execute_script(source))
        assert seen.endswith(shown)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_page_of_the_readers_own_is_not_replaced(tmp_path):
    page = some_runs(tmp_path / "ours", [("copy", "encoder")])
    save_gallery(page.parent, page.parent, "")              # ours is
    mine = tmp_path / "index.html"
    mine.write_text("<h1>mine</h1>")
    with pytest.raises(ValueError, match="was not written by visualize.py; move it, or choose another"):
        save_gallery(tmp_path, tmp_path, "")
    assert mine.read_text() == "<h1>mine</h1>"
