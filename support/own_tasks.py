"""Tasks that readers write: read from a file, and checked before any training.

Shapes: N questions, L symbols of content in each, A symbols in each answer. An entry is a data.Task.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from support.files import format_error


def read_tasks(path: Path) -> dict[str, object]:
    """Execute a Python file, and return its TASKS. Raises ValueError if it fails, or defines none."""
    namespace = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), namespace)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; write your tasks in it") from error
    except SyntaxError as error:
        raise ValueError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except Exception as error:                              # a reader's file can fail in any way
        raise ValueError(f"{path}: {format_error(error)}") from error
    tasks = namespace.get("TASKS")
    if not isinstance(tasks, dict) or not tasks:
        raise ValueError(f'{path} defines no tasks; write TASKS = {{"shift": Task(shift)}} in it')
    return tasks


def check_fields(entry: object, first_symbol: int, names: list[str]) -> None:
    """Raise ValueError for a task with unusable fields, or with these unusable names of all tokens."""
    symbols = entry.symbols
    if symbols and not (isinstance(symbols, range) and symbols.step == 1 and symbols.start >= first_symbol):
        raise ValueError(f"symbols={symbols!r} is not usable; choose a range from {first_symbol} upwards")
    if not 0 < entry.train_fraction <= 0.8:
        raise ValueError(f"train_fraction={entry.train_fraction} is out of range; choose up to 0.8")
    for name, count in Counter(names).items():
        if count > 1 or str(name).split() != [name]:
            raise ValueError(f"a token is named {name!r}; choose distinct words without spaces")


def check_answers(
    answer: Callable[[Tensor], Tensor], content: Tensor, allowed: range, show: Callable[[Tensor], str]
) -> Tensor:
    """Return the answers to content (N, L). Raises ValueError unless they are allowed token ids (N, A).

    show formats tokens in the message.
    """
    answers = answer(content.clone())
    if not isinstance(answers, Tensor):
        raise ValueError(f"the answers are a {type(answers).__name__}; return a tensor of token ids")
    if answers.dtype != torch.int64 or answers.dim() != 2 or len(answers) != len(content):
        shapes = f"{answers.dtype} {tuple(answers.shape)} for questions {tuple(content.shape)}"
        raise ValueError(f"the answers are {shapes}; return token ids, torch.int64 (N, A)")
    outside = answers[(answers < allowed.start) | (answers >= allowed.stop)]
    if len(outside):
        symbols = f"{allowed.start} … {allowed.stop - 1}"
        raise ValueError(f"an answer holds {show(outside[:1])}; use only symbols {symbols}")
    return answers


def try_task(entry: object, content: Tensor, allowed: range, show: Callable[[Tensor], str]) -> None:
    """Raise an error if one of a task's functions fails on questions (N, L)."""
    answers = check_answers(entry.answer, content, allowed, show)
    for question, answer in zip(content, answers, strict=True):
        if not torch.equal(check_answers(entry.answer, question[None], allowed, show), answer[None]):
            raise ValueError(
                f"{show(question)} is answered differently alone and in a batch; use no random numbers, "
                "and specify the dimension, as in content.roll(1, dims=1)"
            )
    for name, values in (entry.categories(content) if entry.categories else {}).items():
        if values.shape != (len(content),) or values.is_floating_point():
            raise ValueError(f"category {name!r} is not one integer per question, (N,)")
    if entry.answer_sources and entry.answer_sources(content).shape != (*answers.shape, content.size(1)):
        raise ValueError("answer_sources does not return (N, A, L)")
