"""The frame of every picture: percentages, fonts, and no influence of a reader's own settings."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

import support.figure
import visualize
from support.figure import percent, picture_style
from support.runs import run_folder


@pytest.mark.parametrize(
    ("fraction", "text", "whole"),
    [(1.0, "100%", "100%"), (0.99999, "99.99%", "99%"), (0.204, "20.40%", "20%"), (0.29, "29%", "29%"),
     (0.0, "0%", "0%")],
)
def test_percent_never_rounds_up_to_100(fraction, text, whole):
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


def test_pictures_ignore_the_users_matplotlibrc(models_dir, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(run_folder(models_dir, "copy", "encoder"), run_folder(models, "copy", "encoder"))
    (tmp_path / "matplotlibrc").write_text(
        "text.usetex: True\nfont.family: serif\nfont.size: 20\naxes.grid: True\nsavefig.dpi: 40\n"
    )
    written = []
    script, asked = Path(visualize.__file__), ["--sequence", "5 9"]
    for folder, more in ("plain", {}), ("own", {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}):
        result = subprocess.run(
            [sys.executable, script, "--models-dir", models, "--output-dir", tmp_path / folder, *asked],
            capture_output=True, text=True, timeout=100,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)} | more,
        )
        assert result.returncode == 0, result.stderr
        written.append({path.name: path.read_bytes() for path in (tmp_path / folder).rglob("*.png")})
    assert written[0] == written[1] and len(written[0]) == 3
