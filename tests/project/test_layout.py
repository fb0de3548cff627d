"""The house as docs/architecture.md draws it: a map that holds, tests that mirror it, files that are subjects."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "rango"
TESTS = ROOT / "tests"
MODULES = {str(path.relative_to(SOURCE).with_suffix("")) for path in SOURCE.rglob("*.py")}
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

MOST_FILES = 219
MOST_LINES = 46_700
FEWEST_LINES = 80
SHORT = {"errors", "tasks/registry", "reports/study/report", "__main__"}
"""Beside faces and commands, what may be shorter than a subject: errors, and what a room is entered by."""
FORBIDDEN = {"found", "told", "there", "asked", "left", "some"}
"""Words that say nothing of what a variable holds."""


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def shipped() -> list[Path]:
    """Every file of the package, templates too."""
    return [path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_the_package_stays_within_its_size() -> None:
    files = [path for path in shipped() if path.suffix == ".py"]
    assert len(files) <= MOST_FILES
    assert sum(map(lines, files)) <= MOST_LINES


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_file_is_a_subject(name: str) -> None:
    size = lines(SOURCE / f"{name}.py")
    assert size <= 500
    if not (name in SHORT or name.endswith("__init__") or name.startswith("cli/")):
        assert size >= FEWEST_LINES


def module_of(test: Path) -> str | None:
    """The module that a test file is about: test_FILE.py or test_FILE_ASPECT.py in the folder of the same name."""
    folder = test.parent.relative_to(TESTS)
    words = test.stem.removeprefix("test_").split("_")
    for end in range(len(words), 0, -1):
        name = str(folder / "_".join(words[:end]))
        if name in MODULES or f"{name}/__init__" in MODULES:
            return name
    return None


@pytest.mark.parametrize("test", sorted(TESTS.rglob("test_*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_every_test_file_is_about_a_module(test: Path) -> None:
    assert test.parent == TESTS / "project" or module_of(test) is not None


def test_every_module_has_a_test_file() -> None:
    tested = {module_of(test) for test in TESTS.rglob("test_*.py") if test.parent != TESTS / "project"}
    subjects = {
        name for name in MODULES if not name.endswith("__init__") and lines(SOURCE / f"{name}.py") >= FEWEST_LINES
    }
    assert subjects - tested == set()


def mapped() -> list[str]:
    """The files that the map names, in its order: rows such as "| `tasks/table.py` | what it holds |"."""
    return re.findall(r"^\| `([\w/]+\.(?:py|html|css))` \| \S", ARCHITECTURE, flags=re.MULTILINE)


def test_the_map_has_one_line_for_each_file() -> None:
    names = [str(path.relative_to(SOURCE)) for path in shipped() if path.suffix in (".py", ".html", ".css")]
    faces = {name for name in names if name.endswith("__init__.py")}
    assert sorted(mapped()) == sorted(set(names) - faces)


@pytest.mark.parametrize(
    ("walk", "most"),
    [("An instance", 15), ("A rank", 6), ("A study's configuration", 14)],
    ids=lambda value: str(value),
)
def test_a_walk_is_short_and_names_files_that_exist(walk: str, most: int) -> None:
    section = re.search(rf"^## {re.escape(walk)}[^\n]*\n(.*?)(?=^## |\Z)", ARCHITECTURE, flags=re.MULTILINE | re.DOTALL)
    assert section is not None
    stops = re.findall(r"^\d+\. `([\w/]+\.(?:py|html))`", section.group(1), flags=re.MULTILINE)
    assert 2 <= len(stops) <= most
    assert len(set(stops)) == len(stops)
    assert [stop for stop in stops if not (SOURCE / stop).is_file()] == []


def test_the_readme_points_to_the_map() -> None:
    assert "docs/architecture.md" in (ROOT / "README.md").read_text(encoding="utf-8").split("## The house")[1]


def names_in(path: Path) -> set[str]:
    """Names that a file gives: variables, parameters, attributes of classes."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return names


@pytest.mark.parametrize("name", sorted(MODULES))
def test_names_say_what_they_hold(name: str) -> None:
    assert names_in(SOURCE / f"{name}.py") & FORBIDDEN == set()


def test_comments_are_several_percent_of_the_code() -> None:
    code = comments = 0
    for name in MODULES:
        text = (SOURCE / f"{name}.py").read_text(encoding="utf-8")
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        comments += len({token.start[0] for token in tokens if token.type == tokenize.COMMENT})
        code += len({token.start[0] for token in tokens if token.type not in (tokenize.COMMENT, tokenize.NL)})
    assert comments / code >= 0.03
