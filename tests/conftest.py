"""What every test shares."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Tests run side by side; two threads in each process only fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A program that needs an extra: looked through for examples, it would be imported where the extra is not.
collect_ignore = ["helpers/ray_study.py"]


@pytest.fixture
def shared_data() -> Path:
    """The folder with real data beside the project; a test that needs it is skipped where it is absent."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("no real data beside the project")
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function giving the folder of a tiny random checkpoint; each is written once per session."""
    written: dict[str, Path] = {}

    def folder(architecture: str = "phi", **changes: Any) -> Path:
        key = f"{architecture} {sorted(changes.items())}"
        if key not in written:
            from helpers.checkpoints import write_checkpoint

            written[key] = write_checkpoint(tmp_path_factory.mktemp(architecture), architecture, **changes)
        return written[key]

    return folder
