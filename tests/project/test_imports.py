"""The layout is the architecture: imports point one way, and what should be light is light."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "rango"
ORDER = [
    "errors",
    "checksums",
    "yaml_loader",
    "files",
    "rows",
    "row_stream",
    "frames",
    "showing",
    "output_folder",
    "unicode_words",
    "config",
    "console",
    "options",
    "keywords",
    "decisions",
    "tasks",
    "models",
    "scoring",
    "training",
    "baselines",
    "language",
    "studies",
    "results",
    "reports",
    "serving",
    "commands",
    "figures",
    "demo",
    "cli",
    "__main__",
]
MODEL_LIBRARIES = {"torch", "transformers", "datasets", "peft", "matplotlib", "pyarrow", "pandas", "jinja2"}
HEAVY = MODEL_LIBRARIES | {"numpy", "scipy"}
FILES = sorted(SOURCE.rglob("*.py"))
GROUND = ["errors", "files", "config", "console", "options", "cli"]
ROOMS = [
    *("decisions", "tasks", "models", "scoring", "training", "baselines", "language", "studies", "results", "reports"),
    "reports.run.terminal",
]


def module_name(path: Path) -> str:
    parts = ("rango", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import of rango in a file, also those inside functions."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            # `from rango import x` may name a module; elsewhere the module is enough.
            names = [f"rango.{alias.name}" for alias in node.names] if source == "rango" else [source]
            yield from ((node.lineno, name) for name in names)


def room(name: str) -> str:
    """The room a module of rango lives in: "rango.tasks.table" -> "tasks"."""
    return name.split(".")[1]


def wrong_way(path: Path) -> list[str]:
    """Imports of a file that point from a room to one that comes after it."""
    if path == SOURCE / "__init__.py":
        return []  # its public names are imported when first used
    own = room(module_name(path))
    found = []
    for line, name in imported(path):
        if not name.startswith("rango.") or name == "rango.__version__":
            continue
        if room(name) not in ORDER:
            found.append(f"{path.name}:{line}: {name} (a room imports from rooms, not from the public `rango`)")
        elif ORDER.index(room(name)) > ORDER.index(own):
            found.append(f"{path.name}:{line}: {own} imports {name}")
    return found


def test_every_module_has_a_place_in_the_order() -> None:
    places = {room(module_name(path)) for path in FILES if path != SOURCE / "__init__.py"}
    assert places <= set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    assert wrong_way(path) == []


def test_the_walk_sees_a_wrong_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "tasks").mkdir()
    path = tmp_path / "tasks" / "table.py"
    path.write_text(
        "from rango import evaluate\ndef f():\n    from ..models import lora\n    from rango.errors import x\n"
    )
    assert wrong_way(path) == [
        "table.py:1: rango.evaluate (a room imports from rooms, not from the public `rango`)",
        "table.py:3: tasks imports rango.models",
    ]


def ring(files: list[Path]) -> list[str]:
    """Files that import one another in a ring, also through imports inside functions; empty where there is none."""
    names = {module_name(path): path for path in files}
    graph = {name: set(imported_files(path, names)) & set(names) for name, path in names.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def imported_files(path: Path, names: Collection[str]) -> Iterator[str]:
    """The full name of every file of rango that a file imports: `from rango.a import b` may mean the file a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                file = f"{node.module}.{alias.name}"
                yield file if file in names else node.module


def test_no_files_import_one_another_in_a_ring() -> None:
    assert ring(FILES) == []


def test_the_search_for_rings_sees_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    for name, other in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")):
        (tmp_path / f"{name}.py").write_text(f"def f():\n    from rango.{other} import x\n")
    assert sorted(set(ring(sorted(tmp_path.glob("*.py"))))) == ["rango.a", "rango.b", "rango.c"]


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a statement loads into a fresh interpreter, without the standard library."""
    program = (
        "import json, sys\nbefore = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(result.stdout)) - set(sys.stdlib_module_names) - {"rango"}


def test_importing_rango_loads_nothing_else() -> None:
    assert modules_after("import rango") <= {"lazy_loader", "packaging"}


@pytest.mark.parametrize("name", GROUND)
def test_ground_floor_and_command_line_load_nothing_heavy(name: str) -> None:
    assert modules_after(f"import rango.{name}") & HEAVY == set()


@pytest.mark.parametrize("name", ROOMS)
def test_opening_a_room_loads_no_model_library(name: str) -> None:
    assert modules_after(f"import rango.{name}") & MODEL_LIBRARIES == set()


def test_decisions_need_numpy_and_scipy_only() -> None:
    files = [path for path in FILES if room(module_name(path) + ".") == "decisions"]
    statement = "import " + ", ".join(module_name(path) for path in files)
    loaded = {name for name in modules_after(statement) if not name.startswith("_")}
    assert loaded - {"lazy_loader", "packaging"} <= {"numpy", "scipy"}
