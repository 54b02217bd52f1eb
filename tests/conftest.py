"""Shared by the test files: one thread, tiny runs that are trained only once, a browser, and plain Python.

What takes long to import is imported where it is used, so that a file of tests waits only for what it tests.
"""

import copy
import io
import itertools
import os
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from filelock import FileLock
from screenshot import start_browser

from data import ARCHITECTURES
from support.puzzles import MASK, PLUS, ZERO

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
WINDOWS = {"phone": 390, "laptop": 1280, "projector": 1920}
MODELS = {"encoder": "encoder", "decoder": "decoder-only model", "encoder-decoder": "encoder–decoder"}
TINY = {"d_model": 16, "num_heads": 2, "num_layers": 2, "d_ff": 32, "epochs": 2, "steps_per_epoch": 3}
TINY_OPTIONS = ["--jobs=1", *(f"--{name.replace('_', '-')}={value}" for name, value in TINY.items())]
NOTEBOOK = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "RANK": ""}       # exported by it
FINISHED = "reverse", "encoder"
KINDS = {"encoder": ["encoder"], "decoder": ["decoder"], "encoder-decoder": ["encoder", "decoder", "cross"]}
SOURCES = sorted(path for folder in ("", "support", "lab") for path in (ROOT / folder).glob("*.py"))

torch.set_num_threads(1)


def pytest_xdist_auto_num_workers(config):
    """Start no workers for single tests, and for files that are done sooner than workers are ready."""
    quick = {"test_transformer.py", "test_data.py", "test_puzzles.py", "test_house.py", "test_console.py"}
    return 0 if all("::" in each or Path(each).name in quick for each in config.args) else None


def as_run(build, **changes):
    """A hand-built model as a run, with some settings changed; its weights stay the same."""
    from support.runs import Run

    config, model, purposes = build()
    return Run(model, replace(config, **changes), [], Path(), purposes)


def resize_handmade(vocab_size, max_length):
    """The definitions of handmade.py, with its line of sizes changed."""
    sizes, source = "VOCAB_SIZE, MAX_LENGTH = 20, 8\n", (ROOT / "handmade.py").read_text(encoding="utf-8")
    assert sizes in source
    changed = {"__name__": "changed"}
    exec(source.replace(sizes, f"VOCAB_SIZE, MAX_LENGTH = {vocab_size}, {max_length}\n"), changed)
    return changed


def files_in(folder):
    """Return the contents of all files below a folder, by path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def set_everywhere(monkeypatch, owner, name, value):
    """Replace owner.name, also in the modules that have imported it."""
    before = getattr(owner, name)
    for module in [*sys.modules.values()]:
        if getattr(module, name, None) is before:
            monkeypatch.setattr(module, name, value)


def made_once(tmp_path_factory, name, make):
    """Return a folder that make fills, once for all workers of pytest-xdist; do not modify it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent                                  # of all workers
    with FileLock(base / f"{name}.lock"):
        if not (base / name).exists():
            unfinished = tmp_path_factory.mktemp(name)
            make(unfinished)
            unfinished.rename(base / name)
    return base / name


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory):
    """A models folder with finished runs of some tasks for each architecture; do not modify it.

    Each is tested on 500 sequences, because an untrained model takes long to generate 10,000 answers. The
    training curves are drawn only for the finished run below.
    """
    import support.config
    import train
    from support.runs import run_folder

    def train_each(folder):
        runs = [*itertools.product(("copy", "reverse"), ARCHITECTURES)]
        runs += [("add", "encoder"), ("complete", "encoder"), ("add", "encoder-decoder")]
        for each in runs:
            path = run_folder(folder, *each)
            path.mkdir(parents=True)
            config = train.Config(*each, **TINY)
            unpainted = nullcontext() if each == FINISHED else patch.object(train, "save_picture")
            with patch.object(support.config, "TEST_SEQUENCES", 500), unpainted:
                train.train_and_save(config, CPU, path, quiet=True)

    return made_once(tmp_path_factory, "models", train_each)


@pytest.fixture(scope="session", params=ARCHITECTURES)
def run(models_dir, request):
    """A tiny run of each architecture in turn; its two layers have two heads each. Do not modify it."""
    from train import load_run

    return load_run(models_dir, "reverse", request.param)


@pytest.fixture
def few_sequences(monkeypatch):
    """Measure everything on 30 sequences, for tests that measure often."""
    import lab.heads

    sample_unseen = lab.heads.sample_unseen

    def first(run, length=None, count=None):
        return sample_unseen(run, length, 30)

    set_everywhere(monkeypatch, lab.heads, "sample_unseen", first)


@pytest.fixture
def few_lengths(monkeypatch):
    """Only the extremes of the lengths within and beyond training are measured."""
    import data
    import lab.evidence

    find_answer_lengths = lab.evidence.find_answer_lengths

    def ends(run, twice):
        lengths = data.valid_lengths(run.config.task, twice, run.config.vocab_size)
        trained = [length for length in lengths if 2 * length <= twice] or lengths[:1]
        beyond = [length for length in lengths if 2 * length > twice] or lengths[-1:]
        extremes = trained[0], trained[-1], beyond[0], beyond[-1]
        lengths = find_answer_lengths(run, twice)
        return {length: size for length, size in lengths.items() if length in extremes}

    monkeypatch.setattr(lab.evidence, "find_answer_lengths", ends)


@pytest.fixture
def unpainted(monkeypatch):
    """Pictures and animations are composed and their files created, but nothing is painted."""
    from PIL import Image

    import support.figure
    from lab import animation

    def write_nothing(drawn, path):
        path.write_bytes(b"")

    def compose_first(figure, show, count):
        show(0)
        yield Image.new("RGB", (1, 1))

    monkeypatch.setattr(animation, "paint_frames", compose_first)
    set_everywhere(monkeypatch, support.figure, "save_picture", write_nothing)


@pytest.fixture
def answers():
    """Six questions of sort, one repeated; both with repeated symbols are answered incorrectly, one twice."""
    from support.report import Config, TestResults

    source = torch.tensor([
        [1, 9, 5, 9, 2], [1, 7, 8, 2, 0], [1, 9, 5, 9, 2], [1, 6, 5, 4, 2], [1, 7, 7, 2, 0], [1, 6, 2, 0, 0]
    ])
    target = torch.tensor([
        [1, 5, 9, 9, 2], [1, 7, 8, 2, 0], [1, 5, 9, 9, 2], [1, 4, 5, 6, 2], [1, 7, 7, 2, 0], [1, 6, 2, 0, 0]
    ])
    prediction = target.clone()
    prediction[[0, 2], 2], prediction[4, 1] = 5, 8
    prediction[5, 3:] = 9                                   # nothing after END counts
    return TestResults(Config(task="sort"), source, target, prediction)


def attentions(model, kind):
    """That kind's attention modules, by their names in the checkpoint."""
    names = {"encoder": "encoder_blocks.{}.attention", "decoder": "decoder_blocks.{}.attention"}
    names["cross"] = "decoder_blocks.{}.cross_attention"
    pattern = names[kind] if hasattr(model, "encoder_blocks") else "blocks.{}.attention"
    return [model.get_submodule(pattern.format(layer)) for layer in range(2)]


def zero(module, *names):
    """Set the parameters with one of these names to zero."""
    for full_name, weights in module.named_parameters():
        if any(name in full_name for name in names):
            weights.data.zero_()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def to_ids(text):
    """Text as the tutorial prints it, with _ for MASK, in one row."""
    return torch.tensor([[MASK if word == "_" else int(word) for word in text.split()]])


def to_digits(text):
    return torch.tensor([[PLUS if character == "+" else ZERO + int(character) for character in text]])


@pytest.fixture(scope="session")
def browser():
    driver = start_browser()
    if driver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    yield driver
    driver.quit()


def opened(browser, path: Path):
    """The browser with this page open, and nothing in its logs of earlier ones."""
    browser.get("about:blank")
    for kind in "browser", "performance":
        browser.get_log(kind)
    browser.get(path.as_uri())
    return browser


def wait_until(browser, condition):
    """Wait until condition(browser) is true, and return it."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, timeout=20, poll_frequency=0.02).until(condition)


def text_of(browser, name: str) -> str:
    return browser.find_element("id", name).text


@pytest.fixture
def emulation(browser):
    """Undo what a test changes about the window and the reader's preferences."""
    yield
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.fixture(params=WINDOWS)
def window(request, emulation):
    return WINDOWS[request.param]


def violations(browser) -> list[str]:
    """Return axe-core's findings on the open page: the rule, and the first element that breaks it."""
    if not AXE.is_file():
        pytest.skip("needs axe-core: npm install --no-save axe-core@4")
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    result = browser.execute_async_script("axe.run().then(arguments[0])")
    assert len(result["passes"]) > 15                       # it looked
    return [f"{rule['id']}: {rule['nodes'][0]['html']}" for rule in result["violations"]]


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """The output of `python handmade.py` and the folder of its runs; do not modify it."""
    import handmade
    import support.config
    from support.console import run_script

    def build(folder):
        with pytest.MonkeyPatch.context() as monkeypatch, redirect_stdout(io.StringIO()) as printed:
            monkeypatch.chdir(folder)
            monkeypatch.setattr(sys, "argv", ["handmade.py"])
            monkeypatch.setattr(support.config, "TEST_SEQUENCES", 500)
            monkeypatch.setattr(handmade, "exact_match_by_length", lambda *arguments: {1: 1.0})
            run_script(handmade.main)
        (folder / "printed.txt").write_text(printed.getvalue(), encoding="utf-8")

    folder = made_once(tmp_path_factory, "built", build)
    return (folder / "printed.txt").read_text(encoding="utf-8"), folder / "models" / "handmade"


@pytest.fixture(scope="session")
def built(saved):
    return saved[1]


@pytest.fixture
def finished(models_dir):
    """The folder of a tiny finished run."""
    from support.runs import run_folder

    return run_folder(models_dir, *FINISHED)


@pytest.fixture
def start(tmp_path_factory):
    """Start a script in a process of its own: start("train.py", "--quiet").finish() waits for its end."""
    from processes import Script

    started = []

    def start_one(*command, **settings):
        process = Script(tmp_path_factory.mktemp("printed"), *command, **settings)
        process.start()
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def view(measured):
    """A tiny run of each architecture on one question; each further part removed costs one more sequence."""
    view = copy.deepcopy(measured)
    evidence, count = view.evidence, len(view.evidence.source)
    evidence.logit_margins = {
        part: torch.cat([-torch.ones(cost, 3), torch.ones(count - cost, 3)])
        for cost, part in enumerate(evidence.logit_margins)
    }
    *early, last = evidence.lens
    evidence.lens = dict.fromkeys(early, (0.1, 0.0)) | {last: (1.0, 0.875)}
    for each in evidence.length_results:                    # 8 more of 100 correct with each symbol
        each.answers = each.target.clone()
        each.answers[8 * each.length :] = 0
    return view


@pytest.fixture(scope="session")
def measured(run):
    """A tiny run of each architecture on one question, with its measurements; do not modify it."""
    from lab.view import make_view

    view = make_view(run, ["5", "9", "12"])
    for measure in "attention", "influence", "length_results", "source", "lens", "logit_margins":
        getattr(view.evidence, measure)                         # once, not in each copy of it
    return view


def title_of(figure):
    """Return a picture's title, in one line."""
    return figure.get_suptitle().replace("\n", " ")


def numbers_of(figure):
    """Return the grey line below the title."""
    return figure.texts[1].get_text().replace("\n", " ")


def names_of(labels):
    return [label.get_text() for label in labels]


def outlined(axes):
    """Key and query of each outlined cell."""
    paths = axes.collections[1].get_paths() if len(axes.collections) > 1 else []
    return sorted(tuple(path.vertices.min(axis=0).round().astype(int).tolist()) for path in paths)


def texts_of(figure):
    """Yield every visible text and its bounding box, in pixels."""
    from support.figure import fix_layout

    fix_layout(figure)
    figure.draw_without_rendering()
    texts = [*figure.texts, *figure.legends]
    for axes in figure.axes:
        texts += axes.texts
        if axes.axison:
            ticks = [tick for axis in (axes.xaxis, axes.yaxis) for tick in axis._update_ticks()]
            texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
            texts += [label for tick in ticks for label in (tick.label1, tick.label2)]
    texts = {text for text in texts if text.get_visible()}
    named = {text: text.get_text() if hasattr(text, "get_text") else "legend" for text in texts}
    return [(name, text.get_window_extent()) for text, name in named.items() if name.strip()]


def assert_readable(figure):
    """No text leaves the picture, overlaps other text or mentions NaN."""
    texts = texts_of(figure)
    width, height = figure.bbox.size
    for name, box in texts:
        assert "nan" not in name
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, f"{name!r} is cut"
    for (one, first), (other, second) in itertools.combinations(texts, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        down = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert min(across, down) <= 1, f"{one!r} and {other!r} collide"


def call_main(monkeypatch, *options):
    import visualize
    from support.console import run_script

    monkeypatch.setattr(sys, "argv", ["visualize.py", "--jobs=1", *map(str, options)])
    run_script(visualize.main)


@pytest.fixture
def call_lab(monkeypatch, capsys):
    """A function that runs a tool of lab/: the lines it prints, or its exit status and the error."""
    from support.console import run_script

    def call(module, *options):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, options)])
        try:
            run_script(module.main)
        except SystemExit as stop:
            return stop.code, capsys.readouterr().err
        return capsys.readouterr().out.splitlines()

    return call


def sum_in_plain_python(content):
    plus = content.index(PLUS)
    parts = content[:plus], content[plus + 1 :]
    first, second = ("".join(str(digit - ZERO) for digit in part) for part in parts)
    assert len(first) == len(second)
    return [ZERO + int(digit) for digit in f"{int(first) + int(second):0{plus + 1}}"]


def patterns_that_fit(content, symbols):
    """Try every way to fill the gaps so that one pattern appears twice or more."""
    gaps = content.count(MASK)
    for filling in itertools.product(symbols, repeat=gaps):
        rest = iter(filling)
        whole = [next(rest) if symbol == MASK else symbol for symbol in content]
        periods = range(1, len(whole) // 2 + 1)
        if any(whole[period:] == whole[:-period] for period in periods):
            yield whole


def only_pattern(content):
    """With the symbols that occur and one that does not: a gap that could be any symbol could be that one."""
    (whole,) = patterns_that_fit(content, {*content, 99} - {MASK})
    return whole


IN_PLAIN_PYTHON = {
    "copy": lambda content: content,
    "reverse": lambda content: content[::-1],
    "sort": sorted,
    "double": lambda content: content + content,
    "add": sum_in_plain_python,
    "complete": only_pattern,
}
