"""What the room exports, and what importing it loads."""

from __future__ import annotations

import subprocess
import sys

from rango import decisions


def test_public_names_exist_once_and_are_all_there() -> None:
    assert len(set(decisions.__all__)) == len(decisions.__all__)
    public = {
        name for name, value in vars(decisions).items() if not name.startswith("_") and type(value).__name__ != "module"
    }
    assert public == set(decisions.__all__)


def test_the_room_needs_neither_torch_nor_a_plot_library() -> None:
    heavy = "('torch', 'matplotlib', 'pyarrow', 'pydantic', 'yaml')"
    code = f"import sys, rango.decisions; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
