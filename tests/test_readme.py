"""The README and other pages are accurate: commands parse, files exist, code runs, numbers agree."""

import argparse
import ast
import importlib
import itertools
import json
import re
import shlex
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, SOURCES
from torch import nn

import data
import handmade
import support.config
import train
import transformer
import visualize
from data import TASKS, Task
from lab.claims import changes_in
from lab.reader import BLOCK, parse_diff, read_sections
from support.config import default_config
from support.own_tasks import read_tasks
from support.runs import load_run, read_checkpoint, run_folder
from train import train_and_save

PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in
         ("README.md", "EXERCISES.md", "tests/BENCHMARKS.md", "models/README.md",
          "teaching/README.md", "teaching/quiz.md")}
README, EXERCISES = PAGES["README.md"], PAGES["EXERCISES.md"]
EXERCISE = re.compile(r"^#{2,3} (.*?)\n(.*?<details>.*?</details>)", re.DOTALL | re.MULTILINE)


def blocks(page, language):
    """The blocks of code in a page that have this language, "" for commands and outputs."""
    return [text for found, text in BLOCK.findall(page) if found == language]


def sentences(page):
    """The sentences of a page, without code, tables, pictures and headings."""
    text = BLOCK.sub("", page)
    text = re.sub(r"<[^>]+>|`[^`]*`|^\|.*|^#.*", lambda found: "code" if found[0][0] == "`" else "", text,
                  flags=re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\d+\. )", text):
        yield from re.split(r"(?<=[.!?])\*{0,2}\s+", " ".join(paragraph.split()))


def commands():
    """Return each command of our scripts that appears on a page or as an example in a help text."""
    pages = "\n".join(PAGES.values())
    scripts = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    found = "".join(blocks(pages, "")).splitlines()
    found += re.findall(r"`(python [^`]*)`", BLOCK.sub("", pages))
    found += re.findall(r'"(python [^"]*)"[,)]', scripts)
    lines = [part.strip() for line in found for part in line.split("&&")]
    lines = [re.sub(r"^python (my_transformer|graded)/", "python ", line) for line in lines]
    return sorted({line for line in lines if re.match(r"python (?!transformer)\S+\.py(?! --help)", line)})


def test_readme_is_short():
    assert len(README.splitlines()) <= 230 and len(README.split()) <= 2_600


def docstrings(path):
    """The docstrings of a script, without the tables in them, which are indented."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield re.sub(r"^ {4}.*", "", ast.get_docstring(node) or "", flags=re.MULTILINE)


def test_sentences_are_short():
    texts = PAGES | {path.name: "\n\n".join(docstrings(path)) for path in SOURCES}
    for name, text in texts.items():
        assert [sentence for sentence in sentences(text) if len(sentence.split()) > 30] == [], name


class Parsed(Exception):
    """Carries what a script made of its options, and stops it there."""


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command, monkeypatch):
    _, script, *options = shlex.split(command)
    parse = argparse.ArgumentParser.parse_known_args

    def stop(self, *arguments):
        parsed = parse(self, *arguments)
        if self.add_help:                                   # otherwise it only looks for --tasks
            raise Parsed(parsed)
        return parsed

    assert (ROOT / script).is_file()
    module = importlib.import_module(Path(script).stem)
    monkeypatch.setattr(sys, "argv", [script, *options])
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
    monkeypatch.setattr(data, "load_tasks", lambda path: None)
    for own in "shift", "add_from_ones", "repeat", "add_modulo":
        monkeypatch.setitem(TASKS, own, Task(data.copy))
    with pytest.raises(Parsed) as parsed:
        module.main()
    _, unknown = parsed.value.args[0]
    assert unknown == []


def test_documented_defaults_are_the_defaults(monkeypatch):
    command = re.search(r"encoder's defaults.*?^(python train.py .*?)$", README, re.DOTALL | re.MULTILINE)[1]
    monkeypatch.setattr(sys, "argv", shlex.split(command)[1:])
    options = train.parse_options()
    for task in options.task:
        config, *_ = train.plan_run(task, "encoder", options)
        assert config == default_config(task, "encoder")


@pytest.mark.parametrize("name", PAGES)
def test_files_options_and_tests_named_exist(name, capsys, monkeypatch):
    page, folder = PAGES[name], (ROOT / name).parent
    links = re.findall(r"\]\(([^)#]+)\)|(?:src|srcset)=\"([^\"]+)\"", page)
    for link in filter(None, itertools.chain(*links)):
        assert link.startswith("https://") or (folder / link).exists(), link
    written_by_us = "models/", "index.html", "explorer.html", "my_tasks.py", "induction.py", "modular.py"
    for path in re.findall(r"`((?:\w+/)*\w+\.(?:py|md|js))`", page):
        assert path.startswith(written_by_us) or (ROOT / path).exists() or (folder / path).exists(), path
    helps = ""
    for script in "train", "visualize", "data", "benchmark", "teaching.blank", "lab.longer", "lab.verify":
        monkeypatch.setattr(sys, "argv", [script, "--help"])
        with pytest.raises(SystemExit):
            importlib.import_module(script).main()
        helps += capsys.readouterr().out
    known = set(re.findall(r"--[\w-]+", helps))
    for code in re.findall(r"`([^`\n]+)`", BLOCK.sub("", page)):
        assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code)) <= known, code
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    for test in re.findall(r"`(test_\w+)`", page):
        assert f"def {test}(" in tests
    headings = re.findall(r"^#+ (.*)", BLOCK.sub("", page), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= anchors


def test_models_readme_names_every_file(models_dir):
    """By training and by drawing, next to a checkpoint."""
    written = {path.name for path in run_folder(models_dir, "reverse", "encoder").iterdir()}
    assert "metrics.json" in written
    written |= {f"{name}.png" for name in visualize.PICTURES} | {"heads.csv", "film.gif", "explorer.html"}
    assert written <= set(re.findall(r"`([^`\n]+)`", PAGES["models/README.md"]))


def test_documented_metrics_agree_with_the_trained_runs():
    """Steps can differ by an epoch or two, because sums round differently on another machine."""
    folder = run_folder(ROOT / "models", "reverse", "encoder")
    try:
        _, config = read_checkpoint(folder)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (ValueError, OSError):
        pytest.skip("python train.py has not been run here")
    if config != default_config("reverse", "encoder"):
        pytest.skip("the run has other settings")
    step = int(re.search(r"\(RMSNorm\) instead of (\d+)", README)[1])
    sequences = int(re.search(r"100% of ([\d,]+) test sequences", README)[1].replace(",", ""))
    assert abs(metrics["steps_to_solve"] - step) <= 16
    assert metrics["test_sequences"] == sequences and metrics["test_exact_match"] == 1


# ---------------------------------------------------------------- code


@pytest.fixture
def in_a_folder_with_models(models_dir, tmp_path, monkeypatch):
    """Tiny runs of copy, reverse and sort in models/, where the code on the pages expects them."""
    monkeypatch.chdir(tmp_path)
    for task in "copy", "reverse":
        shutil.copytree(run_folder(models_dir, task, "encoder"), run_folder("models", task, "encoder"))
    sort = run_folder("models", "sort", "encoder")
    sort.mkdir(parents=True)
    config = replace(train.load_run("models", "reverse", "encoder").config, task="sort")
    with patch.object(support.config, "TEST_SEQUENCES", 100):
        train_and_save(config, torch.device("cpu"), sort, quiet=True)


def test_readme_snippet_runs_a_model(in_a_folder_with_models):
    code, = [text for text in blocks(README, "python") if "load_run" in text]
    assert len(code.splitlines()) == 5
    exec(code, names := {})
    assert names["answer"].shape == (1, 6)
    with pytest.raises(ValueError, match="2 is not a symbol of reverse"):
        exec(code.replace("14", "2"), {})                   # END is not the reader's to write
    weights = names["weights"]
    assert weights.shape == (1, 6, 6) and weights.sum(axis=-1) == pytest.approx(1)
    layer = names["model"].attention_layers()["encoder"][1]
    assert (weights == layer.attention_weights[:, 1].numpy()).all()


@pytest.mark.parametrize("document", [README, EXERCISES], ids=["README", "EXERCISES"])
def test_own_tasks_of_the_documents_are_valid(document, tmp_path, monkeypatch):
    codes = [text for text in blocks(document, "python") if "\nTASKS = " in text]
    assert codes
    for number, code in enumerate(codes):
        path = tmp_path / f"tasks_{number}.py"
        path.write_text(code, encoding="utf-8")
        name, = read_tasks(path)
        monkeypatch.setitem(TASKS, name, Task(data.copy, file=str(path)))   # to be removed again
        data.load_tasks(path)
        default_config(name, "decoder").check()
        question, answer = re.search(r'"""(.*?) → (.*?):', code).groups()
        content = data.parse_content(question.split(), name)
        assert data.format_tokens(TASKS[name].answer(content[None])[0], name) == answer


def test_copy_of_the_weights_is_a_run_without_the_rest(finished, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished, tmp_path / "models" / "reverse_task" / "encoder")
    monkeypatch.chdir(tmp_path)
    code, = blocks(PAGES["models/README.md"], "python")
    exec(code, {})
    copied = load_run("models/handed_in", "reverse")
    assert set(copied.checkpoint) == {"config", "reference", "history", "model"} and not copied.code_change
    tokens = torch.tensor([[1, 5, 7, 2]])
    assert torch.equal(copied.model(tokens), load_run("models", "reverse").model(tokens))
    path = Path("reverse_task/encoder/checkpoint.pt")
    assert ("models/handed_in" / path).stat().st_size < ("models" / path).stat().st_size / 2
    options = ["--task=reverse", "--architecture=encoder", "--resume", "--output-dir=models/handed_in"]
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    with pytest.raises(SystemExit):
        train.main()
    assert "holds weights alone, which cannot be resumed; drop --resume" in capsys.readouterr().err


def changed(*changes):
    """Return transformer.py as a module with each old text replaced; each must occur exactly once."""
    source = Path(transformer.__file__).read_text(encoding="utf-8")
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    module = types.ModuleType("changed")
    exec(compile(source, "changed", "exec"), module.__dict__)
    return module


(SECTION,) = [section for section in read_sections("README.md") if section.title == "Change something"]
PARTS = changes_in(SECTION)


def test_silu_and_swiglu_snippets_work():
    silu = changed(*PARTS["silu"]).FeedForward(4, 6, activation="silu")
    x = torch.randn(2, 3, 4)
    hidden = silu.expand(x)
    assert torch.allclose(silu(x), silu.contract(hidden * hidden.sigmoid()))

    swiglu = changed(*PARTS["swiglu"]).FeedForward(4, 6)
    gated = swiglu.gate(x)
    assert torch.allclose(swiglu(x), swiglu.contract(gated * gated.sigmoid() * swiglu.expand(x)))


def test_rms_norm_snippet_replaces_layer_norm():
    model = changed(*PARTS["norm"]).MiniTransformer(d_model=16, num_heads=2, d_ff=32)
    norms = [part for part in model.modules() if type(part).__name__ == "RMSNorm"]
    assert len(norms) == 9 and not any(type(part).__name__ == "LayerNorm" for part in model.modules())
    nn.init.normal_(norms[0].weight)
    x = torch.randn(2, 3, 16)
    assert torch.allclose(norms[0](x), F.rms_norm(x, (16,), norms[0].weight, 1e-5), atol=1e-6)
    logits = model(torch.tensor([[1, 5, 2]]))
    logits.square().sum().backward()                        # torchrun needs a gradient for every parameter
    assert logits.isfinite().all() and all(x.grad is not None for x in model.parameters())


# ---------------------------------------------------------------- exercises


BY_HAND = "Break a hand-built model"
DIFFS = {title: found for title, text in EXERCISE.findall(EXERCISES) if (found := blocks(text, "diff"))}


def exercises(by_hand):
    """Title and text of the exercises that have code to run."""
    trained, built = EXERCISES.split(f"## {BY_HAND}")
    found = EXERCISE.findall(built if by_hand else trained)
    return [pytest.param(text, id=title) for title, text in found if blocks(text, "python")]


def without_chance(text):
    """Return the words of a text, with 'less' for every percentage below 100%."""
    return ["less" if word.endswith("%") and word != "100%" else word for word in text.split()]


def test_exercises_have_answers():
    headings = re.findall(r"^## \d+\. .*|^### .*", EXERCISES, re.MULTILINE)
    assert len(EXERCISE.findall(EXERCISES)) == len(headings) == EXERCISES.count("<details>") == 25


@pytest.mark.parametrize("text", exercises(by_hand=True))
def test_hand_built_exercises_print_their_answers(text, capsys, monkeypatch):
    """If sequences are incorrect, chance can decide how many. One in 15 with 4 symbols is enough."""
    every = data.enumerate_contents
    monkeypatch.setattr(data, "enumerate_contents", lambda *of: every(*of)[:: 15 if of[1] == 4 else 1])
    monkeypatch.setattr(handmade, "ATTENTION_SHARPNESS", handmade.ATTENTION_SHARPNESS)  # to be restored
    monkeypatch.setattr(handmade, "BALLAST", handmade.BALLAST)
    monkeypatch.delitem(data.TASKS, "first", raising=False)             # not there afterwards either
    monkeypatch.setattr(support.config, "EVALUATION_BATCH", 1_000)      # the answers come sooner
    code, = blocks(text, "python")
    exec(code, {})
    answer = blocks(text[text.index("<details>") :], "")[0]
    assert without_chance(capsys.readouterr().out) == without_chance(answer)


@pytest.mark.parametrize("text", exercises(by_hand=False))
def test_exercise_code_runs(text, in_a_folder_with_models, capsys):
    """On tiny models and short sequences, so that numbers differ from the answer's, but words do not."""
    answer = text[text.index("<details>") :]
    for code in blocks(text, "python"):
        if "TASKS" not in code:
            exec(re.sub(r"\b(64|256|1024|1_000)\b", "16", code), {})
    printed = capsys.readouterr().out
    if printed:
        lines, expected = (
            {" ".join(re.sub(r"[\d.,%]+", "0", line).split()) for line in text.splitlines()}
            for text in (printed, blocks(answer, "")[0])
        )
        assert lines == expected


@pytest.mark.parametrize("diffs", DIFFS.values(), ids=DIFFS)
def test_exercise_changes_fit_transformer(diffs):
    """The lines to change occur once, and with the new ones the same seed gives another model."""
    tokens, logits = torch.tensor([[1, 5, 7, 2]]), []
    for module in transformer, changed(*map(parse_diff, diffs)):
        torch.manual_seed(0)
        model = module.MiniTransformer(d_model=16, num_heads=2, d_ff=32)
        logits.append(model(tokens))
    assert not torch.allclose(*logits)
    logits[-1].sum().backward()
    assert all(weights.grad is not None for weights in model.parameters())


def test_key_value_cache_changes_no_answer():
    code, = [text for text in blocks(EXERCISES, "python") if "def generate_with_cache" in text]
    exec(code.split("\n\n\ntorch.set_num_threads")[0], names := {})
    source = torch.tensor([[1, 5, 7, 9, 2], [1, 8, 2, 0, 0], [1, 9, 9, 2, 0]])
    lengths = set()
    for seed, norm_first in itertools.product(range(10), (True, False)):
        torch.manual_seed(seed)
        model = transformer.EncoderDecoder(
            d_model=16, num_heads=2, d_ff=32, embedding_std=1.0, norm_first=norm_first
        )
        expected = transformer.generate(model, source, 12)
        assert torch.equal(names["generate_with_cache"](model, source, 12), expected)
        lengths |= set((expected != 0).sum(dim=1).tolist())
    assert len(lengths) > 3                                 # answers that end early are among them
