"""Build notebook.ipynb from notebook.py, whose cells begin with # %%: python teaching/build_notebook.py"""

import json
from pathlib import Path

SOURCE = Path(__file__).with_name("notebook.py")


def make_cell(number: int, text: str) -> dict:
    """Return one cell. In SOURCE, texts are comments, and so are the commands ! and % of a notebook."""
    kind, _, body = text.partition("\n")
    if "[markdown]" in kind:
        lines = [line.removeprefix("#").removeprefix(" ") for line in body.strip().split("\n")]
        return {"cell_type": "markdown", "id": str(number), "metadata": {}, "source": "\n".join(lines)}
    lines = [line[2:] if line.startswith(("# !", "# %")) else line for line in body.strip().split("\n")]
    cell = {"cell_type": "code", "id": str(number), "metadata": {}, "source": "\n".join(lines)}
    return cell | {"execution_count": None, "outputs": []}


def build_notebook() -> str:
    """Return the notebook as JSON."""
    cells = SOURCE.read_text(encoding="utf-8").split("# %%")[1:]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": [make_cell(number, text) for number, text in enumerate(cells)],
        "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SOURCE.with_suffix(".ipynb").write_text(build_notebook(), encoding="utf-8")
