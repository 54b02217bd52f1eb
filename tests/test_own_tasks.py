"""A reader's own file defines tasks, which data.py, train.py and visualize.py treat like the others."""

import pytest
from conftest import TINY_OPTIONS

import data
from support.runs import load_run, run_folder

SHIFT = """
from data import Task

def shift(content):
    return content.roll(1, dims=1)

TASKS = {"shift": Task(shift)}
"""


@pytest.fixture
def tasks_file(tmp_path):
    """A file that defines the task shift; what a test loads is forgotten afterwards."""
    before = dict(data.TASKS)
    path = tmp_path / "my_tasks.py"
    path.write_text(SHIFT, encoding="utf-8")
    yield path
    for name in data.TASKS.keys() - before:
        del data.TASKS[name]


def test_tasks_file_serves_all_three_scripts(tasks_file, tmp_path, start):
    models, chosen = tmp_path / "models", ["--tasks", tasks_file, "--task", "shift"]
    status, printed, errors = start("data.py", *chosen).finish()
    assert (status, errors) == (0, "") and "shift:" in printed
    options = [*TINY_OPTIONS[1:], "--jobs=2", "--quiet", "--output-dir", models]
    status, printed, errors = start("train.py", *options, *chosen).finish()      # in processes of their own
    assert status == 0 and f"--tasks {tasks_file} --task shift" in printed
    options = ["--models-dir", models, "--sequence", "5", "--architecture", "encoder"]
    status, printed, errors = start("visualize.py", *options, *chosen).finish()
    assert (status, errors) == (0, "")
    assert (run_folder(models, "shift", "encoder") / "attention_head_5.png").exists()

    status, _, errors = start("visualize.py", *options[:2]).finish()
    assert status == 2 and errors.count("\n") == 1
    assert f"task 'shift' is defined in {tasks_file}; add --tasks {tasks_file}" in errors
    with pytest.raises(ValueError, match="or call load_tasks"):
        load_run(models, "shift")
    data.load_tasks(tasks_file)
    run = load_run(models, "shift")
    assert run.config.task_file == str(tasks_file) and not run.code_change
    changed = SHIFT.replace("roll(1", "roll(2")
    tasks_file.write_text(changed, encoding="utf-8")
    data.load_tasks(tasks_file)
    assert load_run(models, "shift", quiet=True).code_change.startswith("the task has changed since")
    tasks_file.unlink()
    status, _, errors = start("visualize.py", *options, *chosen).finish()
    assert status == 2 and f"cannot read {tasks_file}: No such file" in errors


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "defines no tasks; write TASKS = "),
        ("TASKS = []", "defines no tasks"),
        ("TASKS = {'copy': 1}", "defines 'copy', which exists already; choose another name"),
        ("TASKS = {'../x': 1}", "names a task '../x'; use letters, digits and _"),
        ("def f(x):\n    return x\nTASKS = {'shift': f}", r'is not a Task; write "shift": Task\(f\)'),
        ("1 / 0", r"ZeroDivisionError: division by zero \(my_tasks.py, line 1\)"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("\n(", r"my_tasks.py, line 2: '\(' was never closed"),
    ],
)
def test_load_tasks_rejects_a_file_in_one_line(code, message, tasks_file):
    tasks_file.write_text(code, encoding="utf-8")
    before = dict(data.TASKS)
    with pytest.raises(ValueError, match=message) as refused:
        data.load_tasks(tasks_file)
    assert "\n" not in str(refused.value) and before == data.TASKS


def test_wrong_answers_of_an_own_task_end_in_one_line(tasks_file, start):
    tasks_file.write_text(SHIFT.replace("roll(1, dims=1)", "float()"), encoding="utf-8")
    for script in "data.py", "train.py":
        status, printed, errors = start(script, "--tasks", tasks_file, "--task", "shift").finish()
        assert status == 2 and printed == "" and errors.count("\n") == 1
        assert "task shift: the answers are torch.float32" in errors
