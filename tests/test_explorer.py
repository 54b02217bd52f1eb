"""The live page, in a real browser: Debian's chromium and chromium-driver, driven by selenium.

Where these are not installed, the tests that need them are skipped and say so.
"""

import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

import explorer
from analysis import ablated, parts_of
from data import END, MASK, PAD, START, TASKS
from train import Config, Run
from transformer import evaluating, generate

SMALL = {"d_model": 20, "num_heads": 2, "num_layers": 2, "d_ff": 24}
MODELS = {
    "encoder, pre": {"architecture": "encoder", "activation": "relu", "positional": "learned"},
    "encoder, post": {"architecture": "encoder", "norm_first": False},
    "decoder, pre": {"architecture": "decoder"},
    "decoder, post": {"architecture": "decoder", "norm_first": False, "positional": "learned"},
    "encoder-decoder, pre": {"architecture": "encoder-decoder", "num_heads": 4},
    "encoder-decoder, post": {
        "architecture": "encoder-decoder", "norm_first": False, "activation": "relu", "d_model": 19,
        "num_heads": 1,
    },
}


def random_run(**settings) -> Run:
    """A run of random weights, already rounded, so that what the page has is what PyTorch has."""
    config = Config(**{"task": "reverse", **SMALL, **settings})
    torch.manual_seed(1)
    return explorer.rounded(Run(config.model().eval(), config, [], Path("nowhere")))


def page_of(run: Run, path: Path) -> Path:
    with patch.object(explorer, "TEST_SEQUENCES", 50):
        explorer.save_page(run, path)
    return path


@pytest.fixture(scope="session")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs pip install selenium")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for argument in "--headless=new", "--no-sandbox", "--window-size=1280,1000":
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


def opened(browser, path: Path):
    """The browser with this page open, and nothing in its logs of earlier ones."""
    browser.get("about:blank")
    for kind in "browser", "performance":
        browser.get_log(kind)
    browser.get(path.as_uri())
    return browser


def asked(browser, questions: list[list[int]], without: list) -> list[dict]:
    script = "return arguments[0].map(content => window.explorer.ask(content, arguments[1]))"
    return browser.execute_script(script, questions, without)


def by_pytorch(run: Run, content: list[int]) -> tuple[list[int], torch.Tensor]:
    """The answer up to its END, and the logits of all that the model is given."""
    length = TASKS[run.config.task].answer(torch.tensor([content])).size(1)
    source = [START, *content, END]
    if run.architecture == "encoder":
        given = [source + [MASK] * (length - len(content))]
    else:
        written = generate(run.model, torch.tensor([source]), length + 1)[0]
        written = written[written != PAD].tolist()          # a model that is not trained may write PAD
        read = written[:-1] if END in written else written[:length]
        given = [source + read] if run.architecture == "decoder" else [source, [START, *read]]
    with evaluating(run.model) as model:
        logits = model(*(torch.tensor([tokens]) for tokens in given))[0]
    if run.architecture == "encoder":
        written = logits.argmax(dim=-1)[1 : length + 2].tolist()
        written = written[: written.index(END) + 1] if END in written else written
    return written, logits


@pytest.fixture(scope="session", params=MODELS)
def random_page(request, browser, tmp_path_factory):
    run = random_run(**MODELS[request.param])
    return run, page_of(run, tmp_path_factory.mktemp("page") / "explorer.html")


def test_answers_logits_and_attention_are_those_of_pytorch(random_page, browser):
    """200 random questions, of lengths that training knows and of longer ones."""
    run, path = random_page
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 15, (200,), generator=generator).tolist()
    questions = [torch.randint(4, 20, (length,), generator=generator).tolist() for length in lengths]
    for question, page in zip(questions, asked(opened(browser, path), questions, []), strict=True):
        answer, logits = by_pytorch(run, question)
        assert page["answer"] == answer
        assert torch.allclose(torch.tensor(page["logits"]), logits, rtol=0, atol=1e-3)
        for kind, attentions in run.model.attention_layers().items():
            weights = torch.cat([attention.attention_weights for attention in attentions])
            shown = torch.tensor(page["attention"][kind], dtype=torch.float32)
            assert torch.allclose(shown, weights, rtol=0, atol=1e-4)


def test_each_cut_does_what_ablation_does(random_page, browser):
    run, path = random_page
    question = [5, 9, 12, 14, 7]
    opened(browser, path)
    for part in parts_of(run.model):
        (page,) = asked(browser, [question], [part])
        with ablated(run.model, part):
            answer, logits = by_pytorch(run, question)
        assert page["answer"] == answer, part
        assert torch.allclose(torch.tensor(page["logits"]), logits, rtol=0, atol=1e-3), part
