"""What every test shares."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Tests run side by side; two threads in each process only fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C.
with contextlib.suppress(ValueError):  # not in the main thread
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _look_at(file: Any) -> None:
    """In place of `os.fsync`: refuse what is no open file, and wait for no disk."""
    os.fstat(file if isinstance(file, int) else file.fileno())


# Only a machine that loses its power can tell whether a file was on the disk, and each of the many thousand files that
# tests write would wait for it. The processes that tests start write as users' do.
os.fsync = _look_at

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


@pytest.fixture
def plain_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of commands that look at everything but the page, whose ten figures take longer than a tiny run."""

    def write(folder: Path, **_: Any) -> Path:
        page = Path(folder) / "report.html"
        page.write_text("<!doctype html>")
        return page

    monkeypatch.setattr("rango.reports.run.page.write_report", write)
