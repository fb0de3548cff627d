"""What the repository says about itself is true: versions agree, public names exist, the files that ship are there."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from helpers.dev_pins import needed, normal, pins

import rango

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ["decisions", "tasks"]


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def test_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project()["version"] == rango.__version__
    assert f"## {rango.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_licence_is_the_whole_apache_text_everywhere() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project()["license"] == citation["license"] == "Apache-2.0"


def test_pre_commit_needs_no_network() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    assert {hook["language"] for repo in config["repos"] for hook in repo["hooks"]} == {"system"}


def test_every_direct_dependency_is_pinned() -> None:
    requirements = [*project()["dependencies"], *project()["optional-dependencies"]["dev"]]
    assert {normal(re.split(r"[=>]=", requirement)[0].strip()) for requirement in requirements} <= pins().keys()


def test_what_development_needs_is_pinned_by_hashes() -> None:
    """Each distribution that `.[dev]` brings, at the version of constraints.txt; where from stands in no file."""
    text = (ROOT / "requirements-dev.txt").read_text()
    entries = re.findall(r"^(\S+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    hashed = {normal(name): version for name, version, _ in entries}
    # Nothing stands in the file but entries and the comment over them.
    assert sum(hashes.count("\n") + 1 for *_, hashes in entries) == len(re.findall(r"^[^#]", text, re.MULTILINE))
    assert "://" not in text
    versions = pins()
    assert hashed == {name: versions[name] for name in needed() - {"torch"}}


def strangers(text: str) -> list[str]:
    """Lines that install the `rango` of the package index, which is another project's."""
    return [line for line in text.splitlines() if re.search(r"pip3? install\b.*[\s'\"]rango(?![\w/-])", line)]


def test_nothing_installs_the_project_that_has_the_short_name() -> None:
    assert project()["name"] == "rango-lm"
    for name, wrong in (("rango", True), ("'rango[ray]'", True), ("-U rango==1", True), ("'rango-lm[ray]'", False)):
        assert bool(strangers(f"pip install {name}")) == wrong
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in ("src", "tests", "docs", "studies", "benchmarks", ".ci"):
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    wrong_lines = {path.name: strangers(path.read_text(errors="ignore")) for path in files}
    assert {name: lines for name, lines in wrong_lines.items() if lines} == {}


def public_names(module: ModuleType) -> set[str]:
    """Public names bound in the module, without modules (a room's files are not its interface)."""
    values = vars(module)
    future = {"annotations"}
    return {n for n, v in values.items() if not n.startswith("_") and not isinstance(v, ModuleType)} - future


@pytest.mark.parametrize("room", ROOMS)
def test_room_exports_what_it_says(room: str) -> None:
    module = importlib.import_module(f"rango.{room}")
    exported = getattr(module, "__all__", [])
    assert len(exported) == len(set(exported))
    missing = [name for name in exported if not hasattr(module, name)]
    assert missing == [], f"rango.{room}.__all__ names what is not there"
    unlisted = public_names(module) - set(exported) - {"Any", "TYPE_CHECKING"}
    assert unlisted == set(), f"rango.{room} binds public names that its __all__ leaves out"


@pytest.mark.parametrize("name", sorted(rango.__all__))
def test_public_name_exists(name: str) -> None:
    assert getattr(rango, name) is not None


def test_lazy_names_are_where_the_stub_says() -> None:
    stub = ROOT / "src" / "rango" / "__init__.pyi"
    imports = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
    for node in imports:
        if node.module is None:
            continue  # a file of the package itself
        source = importlib.import_module(f"rango.{node.module}")
        for alias in node.names:
            assert getattr(rango, alias.name) is getattr(source, alias.name)


def test_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="rango attribute finetun"):
        _ = rango.finetun  # type: ignore[attr-defined]


def test_files_that_the_pages_need_are_shipped() -> None:
    reports = resources.files("rango.reports")
    for name in ("layout.html", "parts.html", "page.css", "run/page.html", "study/page.html"):
        assert (reports / name).is_file()
    assert (resources.files("rango") / "py.typed").is_file()
