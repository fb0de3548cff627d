"""Work for another process that begins and fails."""

from __future__ import annotations

from pathlib import Path


def fail(folder: Path) -> None:
    (folder / "began").touch()
    raise RuntimeError("out of memory, say")
