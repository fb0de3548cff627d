"""The package as others get it: the wheel holds every file, and the commands run from it alone."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rango import __version__

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """What a program prints, without this process's own way of finding the package."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env={**kept, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_wheel(folder: Path) -> Path:
    # Of a copy: a build leaves folders beside the sources, and takes what an older one left there.
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    if importlib.util.find_spec("build"):
        command = ["build", "--wheel", "--no-isolation", "--outdir"]
    else:
        command = ["pip", "wheel", "--no-deps", "--no-build-isolation", ".", "--wheel-dir"]
    run(sys.executable, "-m", *command, folder, cwd=source)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_the_wheel_is_whole_and_runs_without_the_sources(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    assert wheel.name == f"rango_lm-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("rango/")}
    files = {path for path in (ROOT / "src" / "rango").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert packed == {str(path.relative_to(ROOT / "src")) for path in files}
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-index", "--no-deps"]
    run(*pip, "--target", installed, wheel, cwd=empty)
    alone = {"PYTHONPATH": str(installed)}
    where = run(sys.executable, "-c", "import rango; print(rango.__file__)", cwd=empty, **alone)
    assert Path(where.strip()).is_relative_to(installed)
    rango = installed / "bin" / "rango"
    assert run(rango, "--version", cwd=empty, **alone).strip() == f"rango {__version__}"
    shown = run(rango, "tasks", "simulated", "--show", "1", cwd=empty, **alone)
    assert shown.startswith("simulated: train 5,000, validation 300, test 2,000; 3 choices")
    assert "letter form ---" in shown
    assert "cloze form ---" in shown
    assert list(empty.iterdir()) == []
