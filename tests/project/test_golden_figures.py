"""The figures of the demo are the same wherever they stand, and each change of them has a reason in the changelog."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = {
    "n-gram": "ngram",
    "Base model": "base",
    "Control": "control",
    "Adapted model": "adapted",
    "Adapted, calibrated": "calibrated",
    "True posterior": "floor",
}


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_benchmark", ROOT / "benchmarks" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_the_golden_figures(benchmark: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = {}
    for name, state in ROWS.items():
        (nce,) = re.findall(rf"^{name} +0\.\d+  0\.\d+ to 0\.\d+ +(\d\.\d+) ", readme, re.MULTILINE)
        shown[state] = float(nce)
    assert shown == benchmark.GOLDEN
    assert benchmark.TOLERANCE.keys() == benchmark.GOLDEN.keys()


def test_the_changelog_gives_the_reason_for_the_golden_figures(benchmark: ModuleType) -> None:
    """The newest entry, the first one, has today's figures and says why they are what they are."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = changelog.split("### Figures of the demo\n")[1].split("\n#")[0]
    newest = " ".join(section.split("\n- ")[0].removeprefix("- ").split())
    figures, reason = newest.split(". ", 1)
    names = {name.casefold().replace("adapted, calibrated", "calibrated"): state for name, state in ROWS.items()}
    assert {
        names[name]: float(value) for name, value in re.findall(r"([a-z][a-z -]+) (\d\.\d{3})", figures)
    } == benchmark.GOLDEN
    assert len(reason.split()) >= 8
