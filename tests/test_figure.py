"""The frame of every picture: percentages, fonts, and no influence of a reader's own settings."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from conftest import NOTEBOOK, call_main
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

import support.figure
import visualize
from support.figure import percent, picture_style
from support.runs import run_folder


@pytest.mark.parametrize(
    ("fraction", "text", "whole"),
    [(1.0, "100%", "100%"), (0.99999, "99.99%", "99%"), (0.2065, "20.65%", "21%"), (0.29, "29%", "29%"),
     (0.125, "12.50%", "13%"), (0.00001, "<0.01%", "<1%"), (0.0, "0%", "0%")],
)
def test_percent_rounds_to_the_nearest_but_never_to_all_or_none(fraction, text, whole):
    assert percent(fraction, 2) == text and percent(fraction) == whole


def test_pictures_use_installed_fonts_for_missing_letters(monkeypatch):
    monkeypatch.setattr(support.figure, "FALLBACK_FONTS", ["no such font", "STIXGeneral"])
    own, other = (get_font(findfont(name)).get_charmap().keys() for name in ("DejaVu Sans", "STIXGeneral"))
    letter = chr(min(other - own))
    with warnings.catch_warnings(), picture_style():
        warnings.simplefilter("error")
        figure = Figure()
        figure.suptitle(f"{letter} $x", weight="bold")
        figure.draw_without_rendering()


def test_pictures_need_no_display_and_ignore_the_users_matplotlibrc(models_dir, tmp_path, monkeypatch):
    models = tmp_path / "models"
    shutil.copytree(run_folder(models_dir, "copy", "encoder"), run_folder(models, "copy", "encoder"))
    (tmp_path / "matplotlibrc").write_text(
        "text.usetex: True\nfont.family: serif\nfont.size: 20\naxes.grid: True\nsavefig.dpi: 40\n"
    , encoding="utf-8")
    script, options = Path(visualize.__file__), ["--models-dir", models, "--sequence", "5 9", "--output-dir"]
    call_main(monkeypatch, *options, tmp_path / "plain")
    variables = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PYTHONIOENCODING": "cp1252"}
    result = subprocess.run(
        [sys.executable, script, *options, tmp_path / "own"],
        capture_output=True, encoding="utf-8", timeout=100,
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **variables, **NOTEBOOK},
    )
    assert result.returncode == 0, result.stderr
    plain, own = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).rglob("*.png")}
        for folder in ("plain", "own")
    )
    assert plain == own and len(own) == 2
