"""The fuzzing of readers in short: no fault among a few hundred inputs, and every kind of fault is noticed."""

from __future__ import annotations

import gzip
import os
import random
import signal
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rango.errors import InputError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
READERS = (
    *(
        "posteriors-csv",
        "posteriors-jsonl",
        "posteriors-npz",
        "posteriors-parquet",
        "table-csv",
        "rows",
        "decision-log",
        "long-log",
        "piped-rows",
    ),
    *("costs", "calibrator", "gate", "baseline", "endpoint", "answers", "texts", "probe"),
)


@pytest.fixture(scope="module")
def fuzz() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import fuzz

        yield fuzz
    finally:
        sys.path.remove(str(BENCHMARKS))


def attack(fuzz: Any, name: str, folder: Path, *, inputs: int, keep: Path | None = None) -> tuple[int, int, list[Any]]:
    """What was refused, what was read, and the faults; in this process."""
    run = fuzz.Attack(name, 0, inputs, folder, keep)
    run.work(0, 60.0)
    _, refused, read, _ = run.board.read()
    return refused, read, run.faults()


@pytest.mark.parametrize("name", READERS)
def test_what_is_mutated_is_read_or_refused_in_one_line(name: str, fuzz: Any, tmp_path: Path) -> None:
    refused, read, faults = attack(fuzz, name, tmp_path, inputs=60)
    assert faults == []
    assert refused + read == 60
    # Of neither kind, nothing would have been shown.
    assert refused > 0
    assert read > 0


def _raise(error: BaseException) -> None:
    raise error


FAULTS: dict[str, Callable[[], Any]] = {
    "ZeroDivisionError": lambda: 1 / 0,
    "BaseException": lambda: _raise(BaseException("a panic in another language")),
    "hang": lambda: time.sleep(5),
    "warning": lambda: warnings.warn("a number overflows", RuntimeWarning, stacklevel=1),
    "print": lambda: print("x" * 10, file=sys.__stderr__, flush=True),
    "long message": lambda: _raise(InputError(*["word " * 79] * 2, "w" * 90 + "/" + " x" * 230)),
    "MemoryError": lambda: bytearray(1 << 36),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_every_kind_of_fault_is_noticed_and_its_input_kept(
    kind: str, fuzz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = b"whole"

    def make(folder: Path) -> Any:
        (folder / "file.bin").write_bytes(whole)
        return fuzz.Prepared([folder / "file.bin"], lambda file: file.read_bytes() == whole or FAULTS[kind]())

    monkeypatch.setitem(fuzz.READERS, "made", make)
    monkeypatch.setattr(fuzz, "SLOWEST", 0.1)
    monkeypatch.setattr(fuzz, "LONGEST", 100)
    try:
        _, read, faults = attack(fuzz, "made", tmp_path, inputs=3, keep=tmp_path / "kept")
    except SystemExit:  # what hung may have left anything: the worker begins anew
        faults, read = fuzz.Attack("made", 0, 3, tmp_path, None).faults(), 0
    assert faults
    assert {fault.kind for fault, _ in faults} == {kind}
    assert read + len(faults) in (1, 3)
    kept = tmp_path / "kept" / "made" / f"0-{faults[0][1]}" / "file.bin"
    assert kept.read_bytes() != whole


def test_memory_that_an_input_takes_is_a_fault(fuzz: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes of their own, since the most that a process held before never falls."""

    def make(folder: Path) -> Any:
        (folder / "file.bin").write_bytes(b"a")
        return fuzz.Prepared(
            [folder / "file.bin"], lambda file: file.read_bytes() == b"a" or bytearray(b"x" * (40 << 20))
        )

    monkeypatch.setitem(fuzz.READERS, "made", make)
    monkeypatch.setattr(fuzz, "mutate", lambda *_: b"b")
    monkeypatch.setattr(fuzz, "MOST_BYTES", 30 << 20)
    tally = fuzz.attack("made", inputs=2)
    assert {fault.kind for fault in tally.faults} == {"blow-up"}
    assert (tally.inputs, tally.read) == (2, 0)


def test_a_process_that_dies_is_a_fault_and_the_others_are_read(
    fuzz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(folder: Path) -> Any:
        (folder / "file.bin").write_bytes(b"a")
        # One flip in eight gives b"i".
        return fuzz.Prepared(
            [folder / "file.bin"], lambda file: file.read_bytes() == b"i" and os.kill(os.getpid(), signal.SIGTERM)
        )

    monkeypatch.setitem(fuzz.READERS, "made", make)
    monkeypatch.setattr(fuzz, "mutate", lambda *_: b"i" if next(numbers) == 2 else b"b")
    numbers = iter(range(10))
    tally = fuzz.attack("made", inputs=4, keep=tmp_path)
    # The iterator is copied with each process, so that the second begins where the first one did.
    assert {fault.kind for fault in tally.faults} == {"death"}
    assert tally.inputs == 4
    assert "made 0-2: death at status -15" in capsys.readouterr().out


def test_an_input_depends_on_its_number_and_the_seed_alone(fuzz: Any, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    inputs = []
    for folder in folders:
        folder.mkdir()
        prepared = fuzz.READERS["gate"](folder)
        whole = {file: file.read_bytes() for file in prepared.files}
        order = range(40) if folder.name == "a" else reversed(range(40))
        made = {n: fuzz.make_input(prepared, whole, "gate", 0, n) for n in order}
        inputs.append([(made[n][0].name, made[n][1]) for n in range(40)])
    assert inputs[0] == inputs[1]
    assert len({data for _, data in inputs[0]}) > 35


def test_archives_are_changed_inside_and_stay_archives() -> None:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from fuzz_mutations import mutate
    finally:
        sys.path.remove(str(BENCHMARKS))
    whole = gzip.compress(b'{"a": 1}\n', mtime=0)
    inside = 0
    for n in range(60):
        try:
            inside += gzip.decompress(mutate(whole, "rows.jsonl.gz", random.Random(n), [])) != b'{"a": 1}\n'
        except (OSError, EOFError, zlib.error):
            continue
    assert inside > 30
