"""The live page, in a real browser: Debian's chromium and chromium-driver, driven by selenium, and axe-core.

If these are not installed, the tests that need them are skipped with a message.
"""

import html
import json
import os
import re
import shutil
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch
from urllib.parse import unquote, urlparse
from xml.etree import ElementTree

import pytest
import torch
from conftest import ROOT, opened, text_of, violations, wait_until
from PIL import Image
from screenshot import set_window, take_screenshot
from selenium.webdriver import ActionChains, Keys
from torch.optim.swa_utils import AveragedModel

import transformer
from data import TASKS, Task, alphabet, example_questions
from handmade import copying_encoder, copying_encoder_decoder, reversing_encoder
from lab import live_page
from lab.ablation import ablate, correct_by_margin, logit_margins_without, mean_head_outputs
from lab.evidence import Evidence
from lab.experiments import make_guide, make_worksheet
from lab.heads import compute_query_scores, list_parts, map_answer_sources
from lab.influence import answer_sensitivity
from lab.live_page import TERMS, link_pages, render_template, round_to_float16, save_page
from support.config import Config, fixed_generator
from support.figure import percent, to_points
from support.puzzles import MASK
from support.runs import Run, add_to_listing, read_run, write_json
from transformer import END, PAD, START, eval_mode, generate

FEW = 40                                                    # sequences in a page, which it tests at once
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

ONE_OF_EACH = [name for name in MODELS if name.endswith(", pre")]        # of each architecture


def random_run(**settings) -> Run:
    """A run with random weights, already rounded, so that the page has exactly PyTorch's weights."""
    config = Config(**{"task": "reverse", **SMALL, **settings})
    torch.manual_seed(1)
    return round_to_float16(Run(config.build_model().eval(), config, [], Path("nowhere")))


def page_of(run: Run, path: Path) -> Path:
    with patch.object(live_page, "TEST_SEQUENCES", 50):
        save_page(Evidence(run, FEW), path)
    return path


def asked(browser, questions: list[list[int]], without: list) -> list[dict]:
    script = "return arguments[0].map(content => window.explorer.ask(content, arguments[1]))"
    return browser.execute_script(script, questions, without)


def by_pytorch(run: Run, content: list[int]) -> tuple[list[int], torch.Tensor]:
    """Return the answer up to its END, and the logits for all of the model's input."""
    length = TASKS[run.config.task].answer(torch.tensor([content])).size(1)
    source = [START, *content] if TASKS[run.config.task].next_token else [START, *content, END]
    if run.architecture == "encoder":
        inputs = [source + [MASK] * (length - len(content))]
    else:
        written = generate(run.model, torch.tensor([source]), length + 1)[0]
        written = written[written != PAD].tolist()          # a model that is not trained may write PAD
        read = written[:-1] if END in written else written[:length]
        inputs = [source + read] if run.architecture == "decoder" else [source, [START, *read]]
    with eval_mode(run.model) as model:
        logits = model(*(torch.tensor([tokens]) for tokens in inputs))[0]
    if run.architecture == "encoder":
        written = logits.argmax(dim=-1)[1 : length + 2].tolist()
        written = written[: written.index(END) + 1] if END in written else written
    return written, logits


@pytest.fixture(scope="session", params=MODELS)
def random_page(request, browser, tmp_path_factory):
    run = random_run(**MODELS[request.param])
    return run, page_of(run, tmp_path_factory.mktemp("page") / "explorer.html")


def test_page_equals_pytorch(random_page, browser):
    """Two random questions of each length, within and beyond the training lengths."""
    run, path = random_page
    generator = torch.Generator().manual_seed(0)
    lengths = [*range(1, 15)] * 2
    questions = [torch.randint(4, 20, (length,), generator=generator).tolist() for length in lengths]
    for question, page in zip(questions, asked(opened(browser, path), questions, []), strict=True):
        answer, logits = by_pytorch(run, question)
        assert page["answer"] == answer
        assert torch.allclose(torch.tensor(page["logits"]), logits, rtol=0, atol=1e-3)
        for kind, attentions in run.model.attention_layers().items():
            weights = torch.cat([attention.attention_weights for attention in attentions])
            shown = torch.tensor(page["attention"][kind], dtype=torch.float32)
            assert torch.allclose(shown, weights, rtol=0, atol=1e-4)


def test_cuts_equal_zero_and_mean_ablation(random_page, browser):
    run, path = random_page
    question = [5, 9, 12, 14, 7]
    opened(browser, path)
    for part in list_parts(run.model):
        (page,) = asked(browser, [question], [part])
        with ablate(run.model, part):
            answer, logits = by_pytorch(run, question)
        assert page["answer"] == answer, part
        assert torch.allclose(torch.tensor(page["logits"]), logits, rtol=0, atol=1e-3), part
    means = mean_head_outputs(run)
    script = "return ask(model, arguments[0], 5, [arguments[1]], 'mean').answer"
    for part in list_parts(run.model):
        with ablate(run.model, part, replacement=means):
            answer, _ = by_pytorch(run, question)
        assert browser.execute_script(script, question, part) == answer, part


@pytest.fixture(scope="session")
def handmade(browser, tmp_path_factory):
    """The hand-built reversing encoder, which is always correct, and its page."""
    config, model, purposes = reversing_encoder()
    run = round_to_float16(Run(model.eval(), config, [], Path("nowhere"), purposes=purposes))
    return run, page_of(run, tmp_path_factory.mktemp("handmade") / "explorer.html")


@pytest.fixture(scope="session")
def stepped(browser, tmp_path_factory):
    """The page of a hand-built copying encoder–decoder."""
    config, model, purposes = copying_encoder_decoder()
    run = Run(model.eval(), config, [], Path("nowhere"), purposes=purposes)
    return run, page_of(run, tmp_path_factory.mktemp("stepped") / "explorer.html")


# ---------------------------------------------------------------- the tasks, once more in JavaScript


@pytest.mark.parametrize("task", TASKS)
def test_page_judges_questions_like_data(task, browser, handmade):
    """Valid questions of each length, and random ones, of which most are not valid for some tasks."""
    opened(browser, handmade[1])
    for length in range(1, 11):
        symbols = alphabet(task, 20)
        generator = torch.Generator().manual_seed(length)
        some = torch.tensor(symbols)[torch.randint(len(symbols), (40, length), generator=generator)]
        contents = torch.cat([some, example_questions(task, length, 20)[:20]])
        valid = TASKS[task].is_valid(contents)
        script = "return arguments[1].map(content => IS_VALID[arguments[0]]?.(content) ?? true)"
        assert browser.execute_script(script, task, contents.tolist()) == valid.tolist()
        if not valid.any():
            continue
        questions = contents[valid][-20:]
        answers = TASKS[task].answer(questions)
        script = "return arguments[1].map(content => ANSWERS[arguments[0]](content))"
        assert browser.execute_script(script, task, questions.tolist()) == answers.tolist()
        script = "return arguments[1].map(content => answerSources(arguments[0], content, arguments[2]))"
        cells = torch.tensor(browser.execute_script(script, task, questions.tolist(), symbols))
        depends = answer_sensitivity(task, questions, 20)
        expected = map_answer_sources("encoder", depends, depends.size(1) + 1, length + 1, 0)[:, 1:, 1:]
        assert torch.equal(cells, expected)


# ---------------------------------------------------------------- the page


def verdict(browser) -> str:
    """The question, the answer and whether it is correct, in one line."""
    return " ".join(text_of(browser, "verdict").split())


def wait_for(browser, name: str, words: str) -> str:
    """The text of an element once these words are in it."""
    wait_until(browser, lambda browser: words in text_of(browser, name))
    return text_of(browser, name)


def test_typing_updates_the_answer_at_once(handmade, browser):
    opened(browser, handmade[1])
    question, empty = browser.find_element("id", "question"), [Keys.CONTROL, "a", Keys.NULL, Keys.BACKSPACE]
    question.send_keys(*empty)
    assert text_of(browser, "problem") == "type a question: any of the symbols 4 … 19"
    question.send_keys("5 7 9")
    assert verdict(browser) == "5 7 9 → 9 7 5 ✓ correct" and text_of(browser, "problem") == ""
    symbols = browser.find_element("id", "symbols").find_elements("tag name", "button")
    assert [symbol.text for symbol in symbols] == [str(symbol) for symbol in range(4, 20)]
    symbols[0].click()
    assert verdict(browser) == "5 7 9 4 → 4 9 7 5 ✓ correct"
    browser.find_element("id", "delete").click()
    assert verdict(browser) == "5 7 9 → 9 7 5 ✓ correct"
    for typed, problem in (
        (" 3", "3 is not a symbol of reverse; choose from 4 … 19"),
        (" 4 4 4 4 4 4", "9 symbols are too many: this model has positions for at most 8"),
    ):
        question.send_keys(*empty, "5 7 9", typed)
        assert text_of(browser, "problem") == problem
    long, short = browser.find_element("id", "examples").find_elements("tag name", "button")
    for button, length in (long, 8), (short, 3):
        button.click()
        assert len(verdict(browser).split(" → ")[0].split()) == length
        assert text_of(browser, "problem") == ""


def test_cuts_change_the_answer_and_the_score(handmade, browser):
    run, path = handmade
    opened(browser, path)
    evidence = Evidence(run, FEW)
    predict_everything(browser)
    measured = f"% of {FEW}"
    assert wait_for(browser, "exact", measured) == f"100% of {FEW} unseen questions correct; nothing is cut"
    finds_end, fetches = browser.find_elements("css selector", "td .cut")
    finds_end.click()
    assert "(correct: " in verdict(browser) and "✗" in verdict(browser)
    accuracy = percent(evidence.accuracy_without(("encoder", 0)))       # its only head: the whole layer
    shown = wait_for(browser, "exact", measured)
    assert shown == f"{accuracy} of {FEW} unseen questions correct without layer 1"
    fetches.click()
    assert wait_for(browser, "exact", measured).endswith(" without all attention")
    fetches.click()
    browser.find_element("css selector", "[value=mean]").click()
    assert finds_end.get_attribute("aria-pressed") == "true"
    assert fetches.get_attribute("aria-pressed") == "false"
    browser.find_element("id", "restore").click()
    assert verdict(browser).endswith("✓ correct")


def test_cut_shows_the_answer_before_it(handmade, browser):
    """Without the head that finds END, the reversed 5 7 9 has 7 in its middle by chance at most."""
    opened(browser, handmade[1])
    browser.execute_script("write('5 7 9 11')")

    def tokens(row: str, marked: str = "") -> list[str]:
        chips = browser.find_elements("css selector", f"#{row} .chip{marked}")
        return [chip.get_attribute("textContent").removesuffix(" (wrong)") for chip in chips]

    assert tokens("before", ":not(.later .chip)") == []
    browser.execute_script("toggle(['encoder', 0, 0])")
    expected, answer = ["11", "9", "7", "5", "END"], tokens("answered")
    assert tokens("before") == expected and answer != expected
    wrong = [token for token, right in zip(answer, expected, strict=False) if token != right]
    assert tokens("answered", ".wrong") == tokens("answered", ".changed") == wrong
    assert browser.find_elements("css selector", ".head.gone canvas")[0].is_displayed()
    browser.execute_script("change({cut: []})")
    assert tokens("before") == answer and tokens("answered", ".wrong") == []


def test_bars_keep_a_ghost_of_before(handmade, browser):
    run, path = handmade
    opened(browser, path)
    predict_everything(browser)
    wait_for(browser, "exact", "% of")
    browser.execute_script("toggle(['encoder', 0, 0])")
    wait_for(browser, "exact", "without layer 1")
    evidence = Evidence(run, FEW)
    lengths = (evidence.source > END).sum(dim=1)
    correct = correct_by_margin(evidence.logit_margins["encoder", 0, 0]).double()
    accuracies = [correct[lengths == length].mean().item() for length in lengths.unique()]
    script = "return [...document.querySelectorAll('#lengths li')].map(li => li.style.cssText)"
    styles = browser.execute_script(script)
    shown = [[float(number) for number in re.findall(r": ([0-9.]+)", style)] for style in styles]
    assert shown == [[pytest.approx(accuracy, abs=1e-5), 1.0] for accuracy in accuracies]


def test_token_has_one_colour_everywhere(handmade, browser):
    """In the chips, the lines and the headings of the grid; each symbol has its own."""
    opened(browser, handmade[1])
    browser.execute_script("write('5 7 9 11')")
    chips = browser.execute_script("""
        const places = ["#asked", "#answered", "#lines", "#grid"].map(place => `${place} .chip`);
        const chips = [...document.querySelectorAll(places.join())];
        return chips.filter(chip => getComputedStyle(chip).visibility === "visible")
            .map(chip => [chip.textContent, chip.style.getPropertyValue("--hue")]);
    """)
    hues = {name: {hue for other, hue in chips if other == name} for name in ("5", "7", "9", "11")}
    assert all(len(found) == 1 for found in hues.values()) and len(set.union(*hues.values())) == 4
    assert len([chip for chip in chips if chip[0] == "5"]) == 7


def test_likely_tokens_are_the_tasks_own(random_page, browser):
    """PAD, START and MASK are never an answer, though an untrained model finds them as likely as others."""
    run, path = random_page
    opened(browser, path)
    browser.execute_script("write('5 9 12')")
    likely = browser.find_elements("css selector", "#likely .chance")
    names, percentages = zip(*(item.text.split() for item in likely), strict=True)
    assert set(names) <= {"END", *map(str, range(4, 20))}
    _, logits = by_pytorch(run, [5, 9, 12])
    assert {int(text[:-1]) for text in percentages} <= {
        int(percent(chance)[:-1]) for chance in logits.softmax(dim=-1).flatten().tolist() if chance >= 0.01
    }


def test_pointer_and_arrow_keys_select_one_cell_everywhere(handmade, browser):
    run, path = handmade
    opened(browser, path)
    question = [5, 7, 9, 11]
    browser.execute_script("write(arguments[0])", "5 7 9 11")
    by_pytorch(run, question)
    maps = [attention.attention_weights[0, 0] for attention in run.model.attention_layers()["encoder"]]
    names = ["START", "5", "7", "9", "11", "END"]

    def shown(layer: int, query: int, key: int) -> str:
        weight = maps[layer][query, key].item()
        return f"{names[query]} attends to {names[key]} with weight {weight:.3f}"

    assert text_of(browser, "cell") == shown(1, 1, 4)       # it predicts the first symbol
    cell = browser.find_element("css selector", "#grid td.at")
    cell.click()
    ActionChains(browser).send_keys(Keys.ARROW_DOWN, Keys.ARROW_LEFT).perform()
    assert text_of(browser, "cell") == shown(1, 2, 3)
    marked = browser.find_elements("css selector", "#lines .at text, #grid th.at")
    assert [mark.text for mark in marked] == ["9", "7", "9", "7"]
    heads, away = browser.find_elements("css selector", ".head"), browser.find_element("id", "question")
    first, second = "Layer 1, head 1 (finds END)", "Layer 2, head 1 (fetches the symbol)"
    ActionChains(browser).move_to_element(heads[0]).perform()
    wait_for(browser, "head-title", first)                  # pointing previews …
    assert text_of(browser, "cell") == shown(0, 2, 3)
    ActionChains(browser).move_to_element(away).perform()
    wait_for(browser, "head-title", second)
    heads[0].click()                                        # … and a click locks
    ActionChains(browser).move_to_element(heads[1]).perform()
    wait_for(browser, "head-title", second)
    ActionChains(browser).move_to_element(away).perform()
    wait_for(browser, "head-title", first)


def test_numbers_inside_a_cell_are_the_models(handmade, browser):
    run, path = handmade
    opened(browser, path)
    browser.execute_script("write('5 7 9 11'); change({chosen: ['encoder', 1, 0], cell: [1, 4]})")
    assert not browser.find_element("id", "numbers").is_displayed()
    browser.find_element("id", "show-numbers").click()
    inputs = torch.tensor([[START, 5, 7, 9, 11, END]]),
    products, _ = compute_query_scores(run.model, inputs, ("encoder", 1, 0), query=1)
    scaled = products / run.config.d_model**0.5
    rows = browser.find_elements("css selector", "#numbers table:nth-of-type(2) tr")
    numbers = [[float(cell.text) for cell in row.find_elements("tag name", "td")] for row in rows[1:]]
    assert torch.allclose(torch.tensor(numbers[0]), products, atol=0.006)
    assert torch.allclose(torch.tensor(numbers[1]), scaled, atol=0.006)
    assert torch.allclose(torch.tensor(numbers[2]), scaled.softmax(dim=0), atol=0.0006)


def test_generation_is_stepped_token_by_token(browser, stepped):
    opened(browser, stepped[1])
    browser.execute_script("write('5 7 9')")
    assert text_of(browser, "step-text") == "token 4 of 4"
    browser.find_element("id", "forward").click()
    assert text_of(browser, "step-text") == "token 1 of 4"
    assert text_of(browser, "cell") == "START attends to 5 with weight 1.000"
    browser.find_element("id", "forward").click()
    assert text_of(browser, "cell") == "5 attends to 7 with weight 1.000"
    assert len(browser.find_elements("css selector", "#grid tr:not(.later) th[scope=row]")) == 2
    browser.find_element("id", "back").click()
    assert text_of(browser, "step-text") == "token 1 of 4"
    browser.execute_script("change({chosen: ['encoder', 0, 0]})")       # its queries predict nothing
    assert not browser.find_element("id", "stepping").is_displayed()


def test_play_steps_to_the_end(browser, stepped):
    opened(browser, stepped[1])
    browser.execute_script("write('5'); stepTo(1)")
    browser.find_element("id", "play").click()
    wait_for(browser, "step-text", "token 2 of 2")
    wait_until(browser, lambda browser: browser.find_element("id", "play").accessible_name == "play")


# ---------------------------------------------------------------- the experiments


def test_top_head_experiment_equals_evidence(handmade):
    """Without the head that finds END, the one that fetches attends uniformly: to 10 keys at length 8."""
    run, _ = handmade
    guide = make_guide(Evidence(run, 100))
    first, second = guide["experiments"]
    assert guide["top_head"] == ("encoder", 1, 0) and first["look"][1] == ("encoder", 0, 0)
    assert "spends 100% of its attention" in first["intro"] and first["answer"] == 2 and first["tells_length"]
    assert "spends 10% of its attention there instead of 100%" in first["found"]
    assert second["answer"] == 2 and second["trials"][0]["correct"] == "0% correct"
    assert guide["elsewhere"] == {"copy": ["a model that needs no attention"]}


class Measured:
    """Evidence of two heads with made-up accuracies."""

    def __init__(self, run: Run, top: float, other: float, both: float):
        evidence = Evidence(run, FEW)
        self.run, self.attention, self.accuracy = run, evidence.attention, 1.0
        self.top_head, self.redundant_pair = ("encoder", 1, 0), (("encoder", 0, 0), ("encoder", 1, 0), both)
        self.accuracies = {("encoder", 1, 0): top, ("encoder", 0, 0): other, (): 0.0}

    def accuracy_without(self, part) -> float:
        return self.accuracies[part]

    def ablation_cost(self, part) -> float:
        return 1 - self.accuracies[part]


@pytest.mark.parametrize(
    ("top", "other", "both", "answers"),
    [
        (1.0, 0.3, 0.2, [1, 1]), (0.5, 0.996, 0.4, [0, 1]), (0.7, 0.7, 0.4, [2, None]),
        (1.0, 0.995, 0.9, [None, 1]),
    ],
)
def test_experiments_ask_only_about_effects(handmade, top, other, both, answers):
    guide = make_guide(Measured(handmade[0], top, other, both))
    by_title = {experiment["title"]: experiment for experiment in guide["experiments"]}
    titles = "Does the head that looks most at the answer matter most?", "Can two heads replace each other?"
    assert [by_title.get(title, {}).get("answer") for title in titles] == answers
    assert ("two heads that replace each other" in guide["elsewhere"].get("reverse", [])) is False
    if answers[1]:
        one, two, together = (to_points(1 - accuracy) for accuracy in (other, top, both))
        assert f"they cost {one} and {two} point" in by_title[titles[1]]["found"]
        assert f"cut together, {together} points." in by_title[titles[1]]["found"]


def test_copying_without_attention_is_one_experiment():
    config, model, _ = copying_encoder()
    guide = make_guide(Evidence(Run(model.eval(), config, [], Path("nowhere")), FEW))
    (only,) = guide["experiments"]
    assert only["title"] == "Does it need attention at all?" and only["answer"] == 0
    assert guide["elsewhere"] == {
        "reverse": [
            "a head that matters most without looking at the answer", "two heads that replace each other",
        ],
    }


def test_worksheet_and_answers_escape_their_texts():
    text = "<b>&"
    trial = {"name": text, "correct": "<1% correct"}
    texts = dict.fromkeys(("title", "intro", "question", "found"), text)
    for written in make_worksheet([texts | {"options": [text], "answer": 0, "trials": [trial]}]):
        assert text not in written and "&lt;b&gt;&amp;" in written


def experiment(browser, number: int):
    return browser.find_element("css selector", f"#experiments > :nth-child({number})")


def predict_everything(browser) -> None:
    browser.execute_script("experiments.forEach((_, i) => { progress[i].guess = 0; }); acting(() => {})()")


def test_experiments_go_from_prediction_to_explanation(handmade, browser):
    opened(browser, handmade[1])
    first = experiment(browser, 1)
    one, two = first.find_elements("css selector", ".try")
    assert not one.is_enabled() and "(predict first)" in first.text and "Look." not in first.text
    assert not browser.find_element("id", "next").is_enabled()
    wrong = first.find_elements("tag name", "input")[1]
    wrong.click()
    one.click()
    assert "✗" in verdict(browser) and "Look." not in first.text
    assert not wrong.is_enabled()                           # a prediction locks when the cut is made
    assert wait_for(browser, "exact", "% of").startswith(f"0% of {FEW}")
    assert one.text.endswith("(fetches the symbol): 0% correct")
    two.click()
    found = first.find_element("css selector", ".found").text
    assert found.startswith("Your prediction was wrong. ") and "spends 10% of its attention there" in found
    _, finds_end, long, short = first.find_elements("css selector", ".look")
    finds_end.click()
    assert text_of(browser, "head-title").startswith("Layer 1, head 1 (finds END)")
    for button, length in (long, 8), (short, 3):
        button.click()
        assert len(verdict(browser).split(" → ")[0].split()) == length
        assert verdict(browser).endswith("✓ correct")
    browser.find_element("id", "next").click()
    assert experiment(browser, 2).is_displayed() and not first.is_displayed()
    browser.find_element("id", "again").click()
    assert first.is_displayed() and not one.is_enabled() and "Look." not in first.text


def test_costs_wait_for_predictions(handmade, browser):
    """Neither on the buttons nor, if a cut that is asked about is made by hand, in the score."""
    opened(browser, handmade[1])
    wait_for(browser, "exact", "% of")
    assert all(button.text == "✂" for button in browser.find_elements("css selector", "#heads .cut"))
    browser.find_element("css selector", "td .cut").click()
    assert text_of(browser, "exact").startswith("Experiment 1 asks about this cut: predict first.")
    browser.find_element("id", "restore").click()
    script = "return [...document.querySelectorAll('#lengths li')].map(li => li.style.cssText)"
    wait_until(browser, lambda browser: browser.execute_script("return flagsOf(state.before)"))
    browser.execute_script("renderScore()")
    assert all("--before: 0;" in style for style in browser.execute_script(script))     # no ghost reveals it
    experiment(browser, 1).find_element("tag name", "input").click()
    assert all(button.text == "✂" for button in browser.find_elements("css selector", "#heads .cut"))
    browser.find_element("id", "next").click()
    experiment(browser, 2).find_element("tag name", "input").click()
    assert {button.text for button in browser.find_elements("css selector", "td .cut")} == {"✂ −100"}


def test_mean_mode_shows_the_costs_of_mean_ablation(handmade, browser):
    run, path = handmade
    opened(browser, path)
    predict_everything(browser)
    browser.find_element("css selector", "[value=mean]").click()
    means = {head: mean.half().float() for head, mean in mean_head_outputs(run).items()}
    parts = [("encoder", 0, 0), ("encoder", 1, 0)]
    margins = logit_margins_without(run, [(part,) for part in parts], replacement=means, count=FEW)
    costs = [to_points(1 - accuracy) for accuracy in correct_by_margin(margins).double().mean(dim=1).tolist()]
    shown = [f"✂ {'−' if cost else ''}{cost}" for cost in costs]
    wait_until(browser, lambda browser: shown == [
        button.text for button in browser.find_elements("css selector", "td .cut")
    ])


@pytest.mark.parametrize("random_page", ONE_OF_EACH, indirect=True)
def test_experiments_need_a_model_that_is_sometimes_correct(browser, random_page):
    run, path = random_page
    assert Evidence(run, FEW).accuracy == 0
    opened(browser, path)
    assert text_of(browser, "elsewhere").startswith("This model is never correct")
    assert not browser.find_elements("css selector", ".experiment")


def test_wrong_answer_is_shown_on_demand(browser, handmade):
    opened(browser, handmade[1])
    predict_everything(browser)
    wait_for(browser, "exact", "% of")
    button = browser.find_element("id", "ask-wrong")
    assert not button.is_enabled()
    browser.execute_script("change({cut: ['encoder.0.0']})")
    wait_until(browser, lambda browser: button.is_enabled())
    questions = set()
    for _ in range(3):
        button.click()
        assert "✗" in verdict(browser)
        questions.add(verdict(browser))
    assert len(questions) == 3


def test_worksheet_and_answers_are_printed_on_a_sheet_each(browser, handmade, stepped):
    for _, path in handmade, stepped:
        opened(browser, path)
        paper = {"paperWidth": 8.27, "paperHeight": 11.69}  # A4, in inches
        printed = b64decode(browser.execute_cdp_cmd("Page.printToPDF", paper)["data"])
        assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 2


def test_pages_of_other_runs_are_linked(browser, handmade, stepped, tmp_path):
    """Experiments lead next door; a page's time of modification, by which stale ones are found, is kept."""
    folders = {"reverse": handmade[1], "copy": stepped[1]}
    pages = [tmp_path / f"{task}_task" / "encoder" / "explorer.html" for task in folders]
    for page, source in zip(pages, folders.values(), strict=True):
        page.parent.mkdir(parents=True)
        shutil.copyfile(source, page)
        os.utime(page, (1, 1))
    add_to_listing(tmp_path, {page: {"runs": []} for page in pages})
    for _ in range(2):
        link_pages(tmp_path)
        assert all(page.stat().st_mtime == 1 for page in pages)
    opened(browser, pages[0])
    links = browser.find_elements("css selector", "#pages a")
    assert [link.text for link in links] == ["copy, encoder", "reverse, encoder"]
    assert links[1].get_attribute("aria-current") == "page"
    assert text_of(browser, "elsewhere") == "To see a model that needs no attention, open copy, encoder."
    browser.find_element("css selector", "#elsewhere a").click()
    assert Path(unquote(urlparse(browser.current_url).path)) == pages[1]


# ---------------------------------------------------------------- to be shown to others


def test_link_restores_the_view(browser, stepped):
    opened(browser, stepped[1])
    assert browser.execute_script("return location.hash") == ""
    browser.execute_script("""
        write("5 7 9");
        change({cut: ["encoder.0.0"]});
        change({mode: "mean", chosen: ["decoder", 0, 0], step: 2, cell: [1, 0]});
    """)
    link = "#ask=5+7+9&cut=encoder.1.1&mode=mean&head=decoder.1.1&step=2&cell=2.1"
    wait_until(browser, lambda browser: browser.current_url.endswith(link))
    seen = "verdict", "head-title", "cell", "step-text"

    def texts() -> list[str]:
        return [text_of(browser, name) for name in seen]

    before = texts()
    opened(browser, stepped[1])
    assert texts() != before
    browser.execute_script("location.hash = arguments[0]", link)        # a link in a page that is open, …
    assert texts() == before
    browser.get("about:blank")
    browser.get(stepped[1].as_uri() + link)                 # … and one that opens it
    assert texts() == before
    assert browser.find_element("css selector", "[value=mean]").is_selected()


@pytest.mark.parametrize(
    ("link", "message"), [
        ("ask=5+7+99", "99 is not a symbol of copy; choose from 4 … 19"),
        ("head=encoder.9.1", "this model has no head encoder.9.1; its heads are encoder.1.1, … , cross.1.1"),
        ("cut=layer1", "this model has no head layer1; its heads are encoder.1.1, … , cross.1.1"),
    ]
)
def test_link_to_another_model_is_reported_in_one_line(browser, stepped, link, message):
    browser.get("about:blank")
    browser.get(f"{stepped[1].as_uri()}#{link}")
    assert wait_for(browser, "problem", "link") == f"This link does not fit this model: {message}"
    assert verdict(browser).endswith("✓ correct")


HOSTILE = [
    "5 " * 5_000, "x" * 10_000, "<img src=x onerror=window.owned=1>", "<script>window.owned = 1</script>",
    "'; window.owned = 1; '", "🙂 🙂", "5\u202e7", "constructor", "__proto__", "٥ ٧", "-5", "5.0", "\n\t",
]
TAMPERED = [
    "#ask=%3Cscript%3Ewindow.owned=1%3C/script%3E", "#ask=" + "5+" * 5_000, "#ask=" + "x" * 10_000, "#ask=%",
    "#%", "#ask=%F0%9F%99%82", "#ask", "#ask=5&ask=<b>", "#head=encoder.1.1.1", "#head=constructor",
    "#head=encoder.-1.1", "#cut=" + "encoder.1.1+" * 2_000 + "encoder.9.9", "#cut=encoder.1.1e9",
    "#?ask=5", "#/home/5", "#ask=5+7&step=1e9&cell=1e9.1e9&mode=constructor", "#ask=5+7&cell=NaN.-1&step=-3",
]


def test_any_typed_text_is_answered_or_rejected_in_one_line(handmade, browser):
    opened(browser, handmade[1])
    write = "byId('question').value = arguments[0]; byId('question').dispatchEvent(new Event('input'))"
    for typed in HOSTILE:
        browser.execute_script(write, typed)
        assert 0 < len(text_of(browser, "problem")) < 150, typed[:50]
        assert "\n" not in text_of(browser, "problem")
    browser.execute_script(write, "5 7 9")
    assert verdict(browser) == "5 7 9 → 9 7 5 ✓ correct" and text_of(browser, "problem") == ""
    assert browser.execute_script("return window.owned") is None and browser.get_log("browser") == []


def test_any_link_is_followed_or_rejected_in_one_line(stepped, browser):
    opened(browser, stepped[1])
    for link in TAMPERED:
        browser.execute_script("location.hash = arguments[0]; dispatchEvent(new Event('hashchange'))", link)
        assert "→" in wait_for(browser, "verdict", "✓"), link[:50]
        message = text_of(browser, "problem")
        assert len(message) < 150 and "\n" not in message
        assert message.startswith("This link does not fit this model: ") or message == ""
    assert browser.execute_script("return window.owned") is None and browser.get_log("browser") == []


def test_address_is_rarely_written(browser, handmade):
    """Browsers ignore more than about 200 changes of the address in a short time."""
    opened(browser, handmade[1])
    browser.execute_script("""
        window.count = 0;
        const {replaceState} = history;
        history.replaceState = (...words) => { count++; replaceState.apply(history, words); };
        for (let i = 0; i < 300; i++) change({cell: [i % 3, i % 2]});
    """)
    wait_until(browser, lambda browser: browser.current_url.endswith("&cell=3.2"))
    assert browser.execute_script("return count") == 1


def test_saved_picture_has_its_title_and_weights(browser, handmade, tmp_path):
    run, path = handmade
    opened(browser, path)
    folder = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", folder)
    browser.execute_script("write('5 7 9 11'); change({chosen: ['encoder', 1, 0], cell: [1, 4]})")
    wait_for(browser, "exact", "% of")
    browser.find_element("id", "save-picture").click()
    file = tmp_path / "reverse_encoder_encoder.2.1.svg"
    wait_until(browser, lambda browser: file.exists() and file.stat().st_size)
    svg = ElementTree.parse(file).getroot()
    name = "{http://www.w3.org/2000/svg}"
    assert svg.find(f"{name}title").text == (
        f"5 7 9 11 → 11 9 7 5 ✓ correct; 100% of {FEW} unseen questions correct; nothing is cut; "
        "Layer 2, head 1 (fetches the symbol): 5 attends to 11 with weight 1.000"
    )
    by_pytorch(run, [5, 7, 9, 11])
    weights = run.model.attention_layers()["encoder"][1].attention_weights[0, 0]
    lines = [line.get("style") for line in svg.iter(f"{name}line") if line.get("class") == "line"]
    widths = [float(re.search(r"stroke-width: ([0-9.]+)", style)[1]) for style in lines]
    assert torch.allclose(torch.tensor(widths), 1 + 5 * weights.flatten(), atol=1e-3)


# ---------------------------------------------------------------- for everyone


@pytest.mark.parametrize("dark", [False, True])
def test_page_passes_axe(browser, handmade, stepped, window, dark):
    """Intact, cut, stepped back, and with an invalid question."""
    set_window(browser, window, 1000, dark=dark)
    for _, path in handmade, stepped:
        opened(browser, path)
        wait_for(browser, "exact", f"% of {FEW}")
        assert violations(browser) == []
        predict_everything(browser)
        browser.execute_script("toggle([]); stepTo(2); askText('5 7 3'); toggleNumbers()")
        browser.execute_script("document.getAnimations().forEach(animation => animation.finish())")
        assert violations(browser) == []


def test_page_is_never_wider_than_the_window(browser, handmade, stepped, window):
    set_window(browser, window, 1000)
    for _, path in handmade, stepped:
        opened(browser, path)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= window


def test_late_results_move_nothing(browser, handmade, window, tmp_path):
    """Also on a page as large as a trained model's, the start of which the browser shows early."""
    page, path = handmade[1].read_text(encoding="utf-8"), tmp_path / "explorer.html"
    filler = f'<script type="text/plain">{"A" * 2_500_000}</script>'
    page = page.replace('<script type="text/plain"', f'{filler}<script type="text/plain"', 1)
    path.write_text(page, encoding="utf-8")
    set_window(browser, window, 1000)
    opened(browser, path)
    browser.execute_script("""
        window.moved = [];
        const note = list => list.getEntries().forEach(({sources}) =>
            moved.push(...sources.map(({node}) => node?.outerHTML ?? node?.data)));
        new PerformanceObserver(note).observe({type: "layout-shift", buffered: true});
    """)
    certificate(browser)
    assert browser.execute_script("return moved") == []


@pytest.mark.parametrize(
    "settings", [{"num_layers": 4}, {"num_layers": 2, "architecture": "encoder-decoder"}]
)
def test_page_fits_on_one_screen(browser, emulation, handmade, tmp_path, settings):
    """As many heads as by default, with the experiments of another page, whose texts are the longest."""
    set_window(browser, 1280, 720)
    run = random_run(**{"architecture": "encoder", "d_model": 16, "num_heads": 8, **settings})
    opened(browser, page_of(run, tmp_path / "explorer.html"))
    browser.execute_script("""
        Object.assign(data.guide.experiments, arguments[0]);
        progress.push(...experiments.map(({trials}) => ({guess: 1, done: trials.map(() => true)})));
        makeGuide();
    """, make_guide(Evidence(handmade[0], FEW))["experiments"])
    for name in "verdict", "answer", "lengths", "heads", "lines", "grid", "experiments":
        shown = browser.execute_script("return byId(arguments[0]).getBoundingClientRect()", name)
        assert shown["height"] > 20 and shown["top"] >= 0 and shown["bottom"] <= 720, name


def test_reduced_motion_stops_lines_and_flashes(browser, emulation, handmade):
    opened(browser, handmade[1])
    browser.execute_script("toggle(['encoder', 0, 0])")
    script = """
        const [line, changed] = ["#lines .line", "#answered .changed"].map(name =>
            getComputedStyle(document.querySelector(name)));
        return [line.transitionDuration, changed.animationName];
    """
    for preference, expected in ("no-preference", ["0.3s, 0.3s", "flash"]), ("reduce", ["0s", "none"]):
        feature = {"name": "prefers-reduced-motion", "value": preference}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        assert browser.execute_script(script) == expected


def test_terms_explain_themselves_like_the_readme(browser, handmade):
    opened(browser, handmade[1])
    wait_for(browser, "exact", "% of")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for term in browser.find_elements("tag name", "dfn"):
        browser.execute_script("arguments[0].focus()", term)
        content = "return getComputedStyle(arguments[0], '::after').content"
        assert browser.execute_script(content, term).strip('"') == term.get_attribute("data-means")
    shared = {
        "head": "with its own matrices. It gives each token one weighted average.", "query": "looking for",
        "key": "others can find", "unseen": "None was seen during training.",
    }
    assert all(words in TERMS[term] and words in readme for term, words in shared.items())


def test_screenshot_shows_a_broken_answer(browser, emulation, handmade, tmp_path):
    path = tmp_path / "explorer.png"
    take_screenshot(browser, handmade[1], path, dark=True)
    with Image.open(path) as image:
        assert image.width == 1_600 and image.getpixel((2, 2))[:3] == (13, 17, 23)
    assert "✗" in verdict(browser)


def test_tables_are_one_tab_stop_each(browser, handmade):
    opened(browser, handmade[1])
    browser.execute_script("write('5 7 9')")
    browser.find_element("id", "question").click()

    def pressed(*keys: str) -> str:
        ActionChains(browser).send_keys(*keys).perform()
        return browser.switch_to.active_element.accessible_name

    finds_end, fetches = "layer 1, head 1 (finds END)", "layer 2, head 1 (fetches the symbol)"
    assert [pressed(Keys.TAB) for _ in range(5)] == [
        "delete the last symbol", "4", "long", "short", "question and answer",
    ]
    browser.find_element("css selector", "[name=mode]").send_keys(Keys.TAB)
    pressed(Keys.TAB)
    assert pressed(Keys.TAB) == "✂: cut layer 1"
    assert [pressed(key) for key in (Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP)] == [
        f"look at {finds_end}", f"✂: cut {finds_end}", f"look at {fetches}", f"✂: cut {finds_end}",
    ]
    pressed(Keys.ENTER)
    assert "✗" in verdict(browser)
    pressed(Keys.ENTER)
    outlined = ", where the answer comes from"
    assert pressed(Keys.TAB, Keys.TAB, Keys.TAB) == f"5 attends to 9: 1.000{outlined}"
    assert pressed(Keys.HOME) == "5 attends to START: 0.000"
    assert pressed(Keys.END) == "5 attends to END: 0.000"
    assert pressed(Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ARROW_LEFT) == f"7 attends to 7: 1.000{outlined}"
    assert pressed(Keys.TAB) == "show the numbers"


# ---------------------------------------------------------------- it checks itself, and needs nothing else


def certificate(browser, words: str = "agree with PyTorch") -> tuple[str, bool]:
    """Return the page's text once everything is re-measured, and whether it is a warning."""
    text = wait_for(browser, "certificate", words)
    return text, "wrong" in browser.find_element("id", "certificate").get_attribute("class")


def test_page_certifies_itself_without_network(random_page, browser):
    run, path = random_page
    opened(browser, path)
    text, red = certificate(browser)
    parts = len(list_parts(run.model))
    assert not red and f"{parts} of {parts} agree with PyTorch" in text
    assert float(re.search("at most ([0-9.e+-]+)", text)[1].rstrip(".")) < 1e-4
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = {
        message["params"]["request"]["url"].split(":")[0] for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert requests <= {"file", "blob", "data"}


def test_page_with_other_weights_warns(browser, handmade, tmp_path):
    """The last values, the means, go unused in most passes, so the first ones are exchanged."""
    page = handmade[1].read_text(encoding="utf-8")
    weights = re.search('id="weights">([^<]+)<', page)[1]
    path = tmp_path / "explorer.html"
    path.write_text(page.replace(weights, weights[8000:16000] + weights[8000:]), encoding="utf-8")
    text, red = certificate(opened(browser, path))
    assert red and text.startswith("This page's results differ from PyTorch's.")
    assert not browser.find_element("id", "guide").is_displayed()
    assert browser.execute_script("return byId('certificate').closest('header') !== null")


def test_custom_task_is_judged_only_if_its_answer_is_known(browser, tmp_path):
    rotate = Task(lambda content: content.roll(1, dims=1), format_hint="<b>anything</b>")
    with patch.dict(TASKS, {"rotate": rotate}):
        path = page_of(random_run(task="rotate", architecture="encoder"), tmp_path / "explorer.html")
    opened(browser, path)
    content, answer, _ = browser.execute_script("return data.examples[0]")
    assert answer == content[-1:] + content[:-1]
    assert re.search("✓|✗", verdict(browser))
    browser.execute_script("write('5 7 9 11 13')")
    assert verdict(browser).endswith("(correct answer unknown)")
    browser.execute_script("write('')")
    assert text_of(browser, "problem") == "type a question: <b>anything</b>"


def test_page_works_in_the_frame_of_a_notebook(browser, handmade, tmp_path):
    """The frame has no address to which the page could write its state."""
    page = html.escape(handmade[1].read_text(encoding="utf-8"))
    (tmp_path / "notebook.html").write_text(f'<iframe srcdoc="{page}"></iframe>', encoding="utf-8")
    opened(browser, tmp_path / "notebook.html").switch_to.frame(0)
    browser.execute_script("write('5 7 9')")
    wait_until(browser, lambda browser: text_of(browser, "verdict"))
    browser.execute_async_script("setTimeout(arguments[0], 400)")           # the address bar waits 300 ms
    assert asked(browser, [[5, 7, 9]], [])[0]["answer"] == [9, 7, 5, END]
    assert browser.get_log("browser") == []
    browser.switch_to.default_content()


def test_page_of_a_next_token_task_equals_pytorch(browser, tmp_path):
    with patch.dict(TASKS, {"next": Task(TASKS["reverse"].answer, next_token=True)}):
        run = random_run(task="next", architecture="decoder")
        opened(browser, page_of(run, tmp_path / "explorer.html"))
        questions = [[5, 7, 9], [8, 8, 12, 19, 4, 6]]
        for question, page in zip(questions, asked(browser, questions, []), strict=True):
            answer, logits = by_pytorch(run, question)
            assert page["answer"] == answer
            assert torch.allclose(torch.tensor(page["logits"]), logits, rtol=0, atol=1e-3)
    assert not certificate(browser)[1]                      # the page finds the same accuracy as PyTorch


def test_task_with_few_questions_is_measured(browser, tmp_path):
    """Five symbols and length 1: fewer distinct sequences than workers."""
    run = random_run(task="copy", architecture="decoder", vocab_size=9, seq_len=1)
    text, red = certificate(opened(browser, page_of(run, tmp_path / "explorer.html")))
    assert not red
    assert browser.execute_script("return new Set(data.unseen.map(String)).size") == 1


def test_modified_task_is_not_judged_by_its_old_rule(browser, tmp_path):
    with patch.dict(TASKS, {"copy": TASKS["reverse"]}):
        path = page_of(random_run(task="copy", architecture="encoder"), tmp_path / "explorer.html")
    opened(browser, path)
    browser.execute_script("write('5 7 9 11 13')")
    assert verdict(browser).endswith("(correct answer unknown)")


def test_page_of_a_modified_model_says_what_to_do(browser, tmp_path):
    """An exercise: another activation in transformer.py, unknown to transformer.js."""
    with patch.dict(transformer.ACTIVATIONS, {"relu": torch.nn.functional.silu}):
        run = random_run(architecture="encoder", activation="relu")
        opened(browser, page_of(run, tmp_path / "explorer.html"))
    text, red = certificate(browser, "transformer.js")
    assert red and "make the same change in lab/page/transformer.js" in text
    assert browser.execute_script("return byId('certificate').closest('header') !== null")


# ---------------------------------------------------------------- the file


def test_exact_match_without_metrics_is_of_the_rounded_weights(tmp_path):
    """The correct logit leads by at least 2, but float16 rounds numbers above 32,768 to multiples of 32."""
    config, model, _ = reversing_encoder()
    run = Run(model.eval(), config, [], Path("nowhere"))
    distinct = len(run.config.sample_batch(50, fixed_generator("test"), "test")[0].unique(dim=0))
    shown = f"100% of 50 test sequences ({distinct} distinct) correct"
    assert distinct < 50 and shown in page_of(run, tmp_path / "explorer.html").read_text(encoding="utf-8")
    with torch.no_grad():
        model.output_projection.bias += 60_000 + torch.linspace(0, 18, 20)
    assert shown not in page_of(run, tmp_path / "explorer.html").read_text(encoding="utf-8")


def test_exact_match_shown_is_that_of_the_test(finished, tmp_path):
    metrics = json.loads((finished / "metrics.json").read_text(encoding="utf-8"))
    shutil.copytree(finished, tmp_path / "run")
    other = {"test_exact_match": 0.4321, "test_sequences": 10_000}
    write_json(metrics | other, tmp_path / "run" / "metrics.json")
    run = replace(read_run(finished, metrics["task"], metrics["architecture"]), folder=tmp_path / "run")
    page = page_of(run, tmp_path / "explorer.html")
    assert "43.21% of 10,000 test sequences" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("limit", [5_000, 60_000])
def test_save_page_refuses_a_model_that_is_too_large(limit, tmp_path, capsys):
    with patch.object(live_page, "MAX_PAGE_BYTES", limit):
        page_of(random_run(architecture="encoder"), tmp_path / "explorer.html")
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err.startswith("no live page for reverse, encoder: it would exceed the limit")


def test_wrapped_model_has_the_same_page(tmp_path):
    run = random_run(architecture="encoder")
    page = page_of(run, tmp_path / "explorer.html").read_text(encoding="utf-8")
    for wrap in AveragedModel, lambda model: torch.compile(model, backend="eager"):
        wrapped = replace(run, model=wrap(run.model))
        assert page_of(wrapped, tmp_path / "wrapped.html").read_text(encoding="utf-8") == page


def test_render_template_does_not_fill_in_inserted_text():
    assert render_template("{a} and {b}, {c}", {"a": "{b}", "b": "x < y"}) == "{b} and x < y, {c}"


# ---------------------------------------------------------------- the gallery
