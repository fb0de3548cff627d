"""The notebook of `examples/`: it runs, small in every test and whole in a kernel, and what it stores is its own."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NOTEBOOK = json.loads((EXAMPLES / "tickets.ipynb").read_text(encoding="utf-8"))
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
SIZES = "tokens, steps = 300_000, 200"


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the notebook and what it imports, as a person has it."""
    for name in ("tickets.ipynb", "tickets.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tickets", raising=False)
    return tmp_path


def test_its_outputs_are_stored_and_name_no_folder_of_the_machine_that_made_them() -> None:
    first, *others = CELLS  # the first one only imports
    assert first["outputs"] == []
    for cell in others:
        (output,) = cell["outputs"]
        assert output["output_type"] == "execute_result"
        assert re.search("/(tmp|work|home|root)/", json.dumps(output["data"])) is None
    kinds = {kind for cell in others for kind in cell["outputs"][0]["data"]}
    assert kinds == {"text/plain", "text/html", "image/svg+xml"}
    assert len(json.dumps(NOTEBOOK)) < 500_000


def test_its_cells_run_at_a_small_size(folder: Path) -> None:
    """In this process: a kernel needs seconds to start. Each cell ends in a value that shows itself."""
    names: dict[str, Any] = {}
    assert SIZES in source(CELLS[0])
    for cell in CELLS:
        tree = ast.parse(source(cell).replace(SIZES, "tokens, steps = 2_000, 2"))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), names)
        if last is not None:
            assert repr(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    assert list(names["answers"].columns[:2]) == ["ticket", "text"]
    assert len(names["answers"]) == 40
    assert names["run"].complete
    assert (folder / "runs" / "run" / "metrics.json").is_file()


@pytest.mark.slow
def test_it_runs_whole_in_a_kernel(folder: Path) -> None:
    """As Jupyter runs it, with the kinds of output that are stored."""
    code = (
        "import nbclient, nbformat, sys\n"
        "notebook = nbformat.read('tickets.ipynb', as_version=4)\n"
        "nbclient.NotebookClient(notebook, timeout=900, kernel_name='python3').execute()\n"
        "nbformat.write(notebook, 'done.ipynb')\n"
    )
    (folder / "run_it.py").write_text(code, encoding="utf-8")
    runpy.run_path(str(folder / "run_it.py"))
    done = json.loads((folder / "done.ipynb").read_text(encoding="utf-8"))
    for now, stored in zip((c for c in done["cells"] if c["cell_type"] == "code"), CELLS, strict=True):
        results = [output for output in now["outputs"] if output["output_type"] == "execute_result"]
        assert [sorted(o["data"]) for o in results] == [sorted(o["data"]) for o in stored["outputs"]]
