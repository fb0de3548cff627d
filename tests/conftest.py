"""What every test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tests run side by side; two threads in each process only fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture
def shared_data() -> Path:
    """The folder with real data beside the project; a test that needs it is skipped where it is absent."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("no real data beside the project")
    return path
