"""A disk that is full at any call of a command: nothing is lost, one line says so, and the command can be repeated.

The short form of benchmarks/faults.py, which enumerates every command with more errors and with kills.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="faults.c needs Linux and a C compiler"
)
CARELESS = """
import json, sys
import faults

def careless(arm, folder):
    import rango.cli.posteriors
    rango.cli.posteriors.write_json = lambda path, value: path.write_text(json.dumps(value))
    arm()

faults.COMMANDS["careless"] = faults.Command(**{**vars(faults.COMMANDS["metrics"]), "patch": careless})
faults.main()
"""
"""The same command with a writer that writes over the file that stands there."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The rows of the benchmark for three commands, with a disk that is full at every call."""
    folder = tmp_path_factory.mktemp("faults")
    spec = importlib.util.spec_from_file_location("faults_running_of_benchmarks", BENCHMARKS / "faults_running.py")
    assert spec is not None
    assert spec.loader is not None
    running = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = running
    spec.loader.exec_module(running)
    arguments = ["--commands", "metrics", "decide, Parquet", "careless", "--errors", "ENOSPC"]
    # One process for all of them: what it imports takes longer than a command.
    subprocess.run(
        [sys.executable, "-c", CARELESS, *arguments, "--rows", str(folder / "rows.jsonl")],
        env={**running.environment(folder), "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *sys.path])},
        check=False,
        stdout=subprocess.DEVNULL,
    )
    kept = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return {row["command"]: row for row in kept}


@pytest.mark.parametrize("command", ["metrics", "decide, Parquet"])
def test_a_full_disk_at_any_call_loses_nothing(rows: dict[str, dict[str, Any]], command: str) -> None:
    row = rows[command]
    assert row["faults"] == []
    # Beside the file that is written: a look at the folder, the hidden file, its sync and its rename.
    assert row["trials"] == row["failed"] >= 9
    assert row["intact"] == row["one line"] == row["repeat"] == row["trials"]


def test_a_writer_that_loses_the_old_file_is_noticed(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["careless"]
    assert row["trials"] > row["intact"]
    assert any("m.json is half" in fault for fault in row["faults"])
