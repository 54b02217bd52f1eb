"""The notebook is built from notebook.py, and its cells run from top to bottom."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from build_notebook import build_notebook
from conftest import ROOT

NOTEBOOK = ROOT / "teaching" / "notebook.ipynb"
RUN = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in json.load(sys.stdin)["cells"]:
    if cell["cell_type"] == "code":
        shell.run_cell(cell["source"]).raise_error()
        assert shell.user_ns.get("_exit_code", 0) == 0, cell["source"]
print("page:", shell.user_ns["page"].count("&lt;script"), "costs:", len(shell.user_ns["costs"]))
"""


def test_notebook_equals_its_source():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert build_notebook() == text
    cells = json.loads(text)["cells"]
    assert all(cell["source"] and "# !" not in cell["source"] for cell in cells) and 10 <= len(cells) <= 20


def test_notebook_runs_from_top_to_bottom(tmp_path):
    """In a copy of the repository, as opened in its folder; the second training is cut short."""
    first, second = NOTEBOOK.read_text(encoding="utf-8").rsplit("--epochs 25", 1)
    for path in ROOT.iterdir():
        if path.suffix in (".py", ".txt"):
            shutil.copy(path, tmp_path)
    for room in "support", "lab", "teaching":
        shutil.copytree(ROOT / room, tmp_path / room)
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=f"{first}--epochs 1{second}", cwd=tmp_path / "teaching",
        env=environment, capture_output=True, encoding="utf-8", timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "START 5 9 12 14 END → 14 12 9 5 END\ncorrect" in done.stdout and "costs: 32" in done.stdout
    folder = tmp_path / "models" / "notebook"
    assert {path.parent.name for path in folder.glob("*/encoder")} == {"reverse_task", "shift_task"}
