"""Grade a folder that teaching/blank.py wrote; a plugin for pytest, loaded by the folder's conftest.py.

Each blank is graded on its own: in the student's file, all other blanks are first replaced with our code.
"""

import ast
import json
import os
import types
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from support.files import first_line
from teaching.blank import BLANKS, ROOT, find_functions


@cache
def our_functions(file: str) -> dict[str, ast.FunctionDef]:
    """Return the functions of our file by qualified name."""
    return find_functions(ast.parse((ROOT / file).read_text(encoding="utf-8")))


def assemble(text: str, file: str, keep: str) -> ast.Module:
    """Return a student's file with all blanks but one replaced with our code.

    Line numbers remain those of the student's file. Raises SyntaxError, or ValueError if a function is gone.
    """
    tree, ours = ast.parse(text, file), our_functions(file)
    theirs = find_functions(tree)
    for name, blank in BLANKS.items():
        for function in blank.functions if blank.file == file else ():
            if function not in theirs:
                raise ValueError(f"{file} has no {function}; its name must stay as it was")
            if name != keep:
                for field in "args", "body", "returns":
                    setattr(theirs[function], field, getattr(ours[function], field))
    return tree


@cache
def load(folder: Path, name: str) -> types.ModuleType:
    """Return a module in which only this blank is the student's; it imports our other modules."""
    path = folder / BLANKS[name].file
    tree = assemble(path.read_text(encoding="utf-8"), path.name, name)
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    exec(compile(tree, str(path), "exec"), vars(module))
    return module


def describe(error: BaseException, folder: Path) -> str:
    """Return one line: what is wrong, after the line of the student's file in which it went wrong, if any."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    lines, trace = [], error.__traceback__
    while trace:
        if Path(trace.tb_frame.f_code.co_filename).parent == folder:
            lines.append(f"{Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}: ")
        trace = trace.tb_next
    is_own_text = isinstance(error, (AssertionError, NotImplementedError, pytest.fail.Exception))
    kind = "" if is_own_text else f"{type(error).__name__}: "
    return f"{lines[-1] if lines else ''}{kind}{first_line(error)}"


class Grader:
    """The tests' fixture, and their results: for each blank, None per passed test, or what is wrong."""

    def __init__(self, config: pytest.Config):
        self.folder, self.results = config.rootpath, defaultdict(list)
        self.blanks, self.seed, self.num_tests = config.getini("blanks"), config.getini("seed"), 0

    @pytest.fixture
    def student(self, request: pytest.FixtureRequest) -> types.ModuleType:
        """Return the module of the blank that a test names: test_<blank>_<behaviour>."""
        return load(self.folder, request.function.__name__.split("_")[1])

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the tests of this folder's blanks, and count them before -k chooses among them."""
        items[:] = [item for item in items if item.name.split("_")[1] in self.blanks]
        self.num_tests = len(items)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo):
        """Record each test once: what was wrong, or that it passed."""
        if call.excinfo or call.when == "call":
            error = call.excinfo and describe(call.excinfo.value, self.folder)
            self.results[item.name.split("_")[1]].append(error)
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print each blank's points and its first error, then the score, which also goes to score.json."""
        write, scores = terminalreporter.write_line, {}
        for name in self.blanks:
            errors = self.results.get(name)
            if not errors:
                continue
            scores[name] = {"points": errors.count(None), "of": len(errors)}
            functions = ", ".join(BLANKS[name].functions)
            write(f"  {name:<12}{functions:<60}{scores[name]['points']:>3} of {len(errors)}")
            if first := next(filter(None, errors), None):
                write(f"      {first}")
        points, total = (sum(score[key] for score in scores.values()) for key in ("points", "of"))
        write(f"\n{points} of {total} points")
        if total == self.num_tests:                         # not if some were left out, or never reached
            score = {"points": points, "of": total, "seed": int(self.seed), "blanks": scores}
            path = self.folder / "score.json"
            path.write_text(json.dumps(score, indent=2) + "\n", encoding="utf-8")
        if points == self.num_tests:
            command = Path(os.path.relpath(self.folder), "train.py").as_posix()
            write(f"Your Transformer is complete. Train it: python {command}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the settings in a folder's pytest.ini."""
    parser.addini("blanks", "the blanks to grade", type="args")
    parser.addini("seed", "the seed of the training")


def pytest_configure(config: pytest.Config) -> None:
    """Take part in grading."""
    config.pluginmanager.register(Grader(config))
