"""Reads what a run left behind. The only place in reports that knows the files of a run.

`rango.training.Run` reads the same files for further work and stops at what is missing; a page has to name it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rango.decisions import Posteriors, read_posteriors
from rango.errors import InputError
from rango.files import read_json, read_rows, read_yaml
from rango.reports.tables import STATES

T = TypeVar("T")


@dataclass(frozen=True)
class RunFiles:
    """The contents of a run directory, each part empty where it is missing."""

    path: Path
    record: dict[str, Any]
    """run.yaml: `config`, `model`, `versions`, `fingerprints`, `notes`, `seconds`, `status`, ..."""
    log: tuple[dict[str, Any], ...]
    """log.jsonl, in order."""
    metrics: dict[str, Any]
    """metrics.json."""
    posteriors: dict[str, Posteriors]
    """State -> posteriors of the test split, in the order of the table."""
    missing: dict[str, str]
    """Part -> why it is not here, in words."""


def read_run(path: Path, *, split: str = "test") -> RunFiles:
    """Read a run directory; what is missing or broken is told in `missing`, not raised.

    Raises:
        InputError: the folder does not exist, or holds neither run.yaml nor metrics.json.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; give the folder of a run or of a study")
    if not (path / "run.yaml").exists() and not (path / "metrics.json").exists():
        raise InputError(f"{path} holds neither run.yaml nor metrics.json; give the folder of a run or of a study")
    missing: dict[str, str] = {}

    def part(name: str, read: Callable[[Path], T]) -> T | None:
        if not (path / name).exists():
            missing[name] = f"{name} is not in the run directory"
            return None
        try:
            return read(path / name)
        except InputError as error:
            # The page names files relative to the run: it may travel to where the full path means nothing.
            missing[name] = str(error).replace(f"{path}/", "")
            return None

    record = part("run.yaml", read_yaml) or {}
    log = part("log.jsonl", partial(_read_log, missing=missing)) or ()
    metrics = part("metrics.json", _read_metrics) or {}
    posteriors = {}
    for state in STATES:
        name = f"posteriors/{split}-{state.key}.parquet"
        found = part(name, read_posteriors)
        if found is not None:
            posteriors[state.key] = found
    return RunFiles(path, record, log, metrics, posteriors, missing)


def _read_log(path: Path, *, missing: dict[str, str]) -> tuple[dict[str, Any], ...]:
    """The records up to the first broken line: a run that was killed may have cut off its last one."""
    records = []
    try:
        for _, row in read_rows(path):
            records.append(row)
    except InputError as error:
        if not records:
            raise
        missing["log.jsonl"] = str(error).replace(f"{path.parent}/", "")
    return tuple(records)


def _read_metrics(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    level = {str(key): inner for key, inner in value.items()}
    for below in ("states", "metrics", "numbers"):
        for place, inner in level.items():
            if not isinstance(inner, dict):
                raise InputError(f"{path}: {place} is a {type(inner).__name__}; expected an object of {below}")
        level = {f"{place}.{key}": each for place, inner in level.items() for key, each in inner.items()}
    for place, each in level.items():
        if place.endswith((".value", ".low", ".high")) and not isinstance(each, int | float | None):
            raise InputError(f"{path}: {place} is {each!r}; expected a number")
    return value
