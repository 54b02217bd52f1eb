"""Each file is in its room: it imports only from the rooms before it, and a reader can finish it."""

import ast
import graphlib
import importlib
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, SOURCES

ROOM = ["console", "files", "figure", "distributed", "parallel", "own_tasks"]
FOUNDATIONS = [f"support.{name}" for name in ROOM]
ORDER = [                                                   # each uses only its own row and those above
    {"transformer", "support.puzzles", *FOUNDATIONS},
    {"data"},
    {"support.config"},
    {"support.runs", "support.record", "support.report", "support.training_plot"},
    {"train"},
    {"handmade", "lab"},
    {"visualize"},
]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LONGEST, MOST_NAMES = 450, 26
STILL_LONGER = {}
STILL_MORE_NAMES = {}


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(path): path for path in SOURCES}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in FILES.items()}


def imported(tree):
    """Yield each module imported, also within functions; the name taken from it, if any; the name it gets."""
    for node in ast.walk(tree):
        for alias in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            known_as = alias.asname or alias.name
            module = alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"
            if isinstance(node, ast.Import) or module in FILES:
                yield module, None, known_as
            else:
                yield node.module, alias.name, known_as


def ours(module):
    """The modules of ours that a module imports."""
    return {name for name, *_ in imported(TREES[module]) if name in FILES}


def row_of(module):
    """The number of the row of ORDER that a module is in."""
    return next(row for row, modules in enumerate(ORDER) if {module, module.split(".")[0]} & modules)


@pytest.mark.parametrize("module", FILES)
def test_files_import_only_from_rooms_before_them(module):
    if module not in ("support", "lab"):
        assert [name for name in ours(module) if row_of(name) > row_of(module)] == []


def test_tutorial_files_do_not_use_the_rooms_above_them():
    assert all(not name.startswith("lab") for name in ours("train"))
    assert ours("data") <= {"transformer", "support.puzzles", *FOUNDATIONS}
    assert ours("support.puzzles") == set()
    for module in FOUNDATIONS:
        assert ours(module) <= {*FOUNDATIONS}


@pytest.mark.parametrize("path", [*SOURCES, *(ROOT / "tests").glob("*.py")], ids=lambda path: path.name)
def test_attributes_of_our_modules_exist(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {name: module for module, taken, name in imported(tree) if not taken and module in FILES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (module := modules.get(ast.unparse(node.value))):
            assert hasattr(importlib.import_module(module), node.attr), (node.lineno, ast.unparse(node))


def test_imports_form_no_circle():
    graph = {module: ours(module) for module in FILES}
    assert {*graphlib.TopologicalSorter(graph).static_order()} == {*FILES}      # a circle raises CycleError


def test_transformer_runs_alone_in_a_folder(tmp_path, start):
    """And imported, it prints nothing."""
    shutil.copy(FILES["transformer"], tmp_path)
    for node in TREES["transformer"].body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for module, *_ in imported(node):
                assert module.split(".")[0] in {"torch", *sys.stdlib_module_names}
    code = "import runpy, transformer as it; print(1); runpy.run_path(it.__file__, run_name='__main__')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONIOENCODING": "utf-8"}
    alone = subprocess.check_output(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, encoding="utf-8", timeout=100
    )
    status, here, errors = start("transformer.py").finish()
    assert (status, errors) == (0, "") and alone == f"1\n{here}" and here.count("\n") > 10


@pytest.mark.parametrize("module", FILES)
def test_files_are_short_enough_to_finish(module):
    lines = len(FILES[module].read_text(encoding="utf-8").splitlines())
    names = len({(name, taken) for name, taken, _ in imported(TREES[module]) if name in FILES})
    longest = 500 if module == "transformer" else LONGEST
    assert lines <= STILL_LONGER.get(module, longest)
    assert names <= STILL_MORE_NAMES.get(module, MOST_NAMES)
    assert (module in STILL_LONGER) == (lines > longest)    # an entry that is no longer needed has to go
    assert (module in STILL_MORE_NAMES) == (names > MOST_NAMES)


@pytest.mark.parametrize("room", ["support", "lab"])
def test_room_maps_name_each_file(room):
    (text,) = TREES[room].body                              # a docstring and nothing else
    mapped = [line.split()[0] for line in ast.get_docstring(TREES[room]).splitlines() if ".py  " in line]
    assert sorted(mapped) == sorted(path.name for path in (ROOT / room).glob("[!_]*.py"))
    assert isinstance(text, ast.Expr)


@pytest.mark.parametrize("path", [*SOURCES, *(ROOT / "tests").glob("*.py")], ids=lambda path: path.name)
def test_reads_and_writes_of_text_name_an_encoding(path):
    """Otherwise it depends on the machine, and fails on one whose locale is ASCII."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        name, arguments = ast.unparse(call.func), [ast.unparse(each) for each in (*call.args, *call.keywords)]
        is_text = name.endswith((".read_text", ".write_text")) or any(
            name.startswith("subprocess.") and each == "text=True" for each in arguments
        )
        if name == "open":
            is_text = not any(re.fullmatch(r"'\w*b\+?'|'\w\+b'", each) for each in arguments)
        assert not is_text or any(each.startswith("encoding=") for each in arguments), (name, call.lineno)


@pytest.mark.parametrize("module", FILES)
def test_definitions_use_only_what_is_above_them(module):
    definitions = [node for node in TREES[module].body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    line_of = {node.name: node.lineno for node in definitions}
    for node in TREES[module].body:
        if isinstance(node, ast.Assign):
            line_of |= {target.id: node.lineno for target in node.targets if isinstance(target, ast.Name)}
    for definition in definitions:
        names = [node for node in ast.walk(definition) if isinstance(node, ast.Name)]
        own = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        own |= {node.arg for node in ast.walk(definition) if isinstance(node, ast.arg)}
        used = {node.id for node in names} - own
        below = {name for name in used if line_of.get(name, 0) > definition.lineno}
        assert below == set(), f"{definition.name} uses {below}"


def test_workflow_runs_the_commands_of_ci():
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (readme_command,) = re.findall(r"^python3 -m venv .*pytest$", README, re.MULTILINE)
    (demos,) = re.findall(r"^for script in (.*); do$", ci, re.MULTILINE)
    (npm,) = re.findall(r"^(npm install .*) \|\|", ci, re.MULTILINE)
    expected = [npm, *readme_command.split(" && ")[2:], *(f"python {script}" for script in demos.split())]
    expected += re.findall(r"^python -m lab.*", ci, re.MULTILINE)
    assert re.findall("- run: (.*)", workflow) == expected


def test_train_step_reads_in_fifteen_lines():
    (function,) = (node for node in TREES["train"].body if getattr(node, "name", "") == "train_step")
    code = ast.get_source_segment(FILES["train"].read_text(encoding="utf-8"), function)
    assert len(code.splitlines()) <= 15
    for word in "process", "rank", "parts", "micro", "distributed", "world":
        assert word not in code.lower(), word
