"""A log that is read part by part shows what it shows as a whole, in memory that does not depend on its length."""

from __future__ import annotations

import csv
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.made_logs import CLASSES, COSTS, PRIORS, make_log, write_log

import rango
from rango.decisions import Baseline, DecisionLog, monitor
from rango.decisions import long_logs as module
from rango.decisions.long_logs import Counted, LongLog
from rango.errors import InputError

N = 240
SPREAD = np.random.default_rng(3).permutation(N)
FURTHER = {
    "when": [f"2026-{1 + row // 60:02d}-{1 + row % 28:02d}T10:00" for row in range(N)],
    "shuffled": [f"2026-{1 + row // 60:02d}-15" for row in SPREAD],
    "number": [str(row * 60) for row in range(N)],
    "shop": ["north", "south", ""] * (N // 3),
    "act": ["yes", "no", "yes", ""] * (N // 4),
}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART", 17)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_log(tmp_path / "log.csv", make_log(N, seed=1, known=0.4), FURTHER)


def as_dict(log: DecisionLog | LongLog, **options: Any) -> dict[str, Any]:
    settings: Any = {"costs": COSTS, "training_priors": PRIORS, "replicates": 30, **options}
    return json.loads(json.dumps(monitor(log, **settings).as_dict()))


def check_equal(one: Any, other: Any, place: str = "") -> None:
    """Equal JSON values, numbers to rounding: sums are taken in another order."""
    assert type(one) is type(other), place
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            check_equal(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for number, (each, beside) in enumerate(zip(one, other, strict=True)):
            check_equal(each, beside, f"{place}[{number}]")
    else:
        assert one == (pytest.approx(other, abs=1e-9) if isinstance(one, float) else other), place


@pytest.mark.parametrize(
    ("columns", "period"),
    [
        ({}, None),
        ({"by": "shop"}, "50"),
        ({"time": "when", "by": "shop"}, "month"),
        ({"time": "when"}, "week"),
        ({"time": "number"}, "100"),
        ({"time": "shuffled", "by": "shop"}, "day"),
        ({"time": "shuffled"}, "100"),  # rows are counted in the order of time: this file is read as a whole
    ],
)
def test_parts_show_what_the_whole_shows(path: Path, columns: dict[str, str], period: str | None) -> None:
    long = LongLog.read(path, period=period, costs_for=lambda _: COSTS, sample=True, **columns)  # type: ignore[arg-type]
    check_equal(as_dict(long), as_dict(DecisionLog.read(path, **columns), period=period))  # type: ignore[arg-type]
    kept_whole = columns == {"time": "shuffled"}
    assert (long.counted.n == 0) is kept_whole
    assert len(long) == N


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv.gz"])
def test_every_format_is_read_alike(path: Path, tmp_path: Path, ending: str) -> None:
    import gzip

    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    other = tmp_path / f"log{ending}"
    if ending == ".csv.gz":
        other.write_bytes(gzip.compress(path.read_bytes()))
    else:
        typed: list[dict[str, Any]] = [
            {key: float(cell) if key.startswith("prob") else cell or None for key, cell in row.items()} for row in rows
        ]
        if ending == ".jsonl":
            other.write_text("".join(json.dumps(row) + "\n" for row in typed))
        else:
            pq.write_table(pa.Table.from_pylist(typed), other)
    long = LongLog.read(other, time="when", period="month", costs_for=lambda _: COSTS, sample=True)
    assert long.counted.n
    whole = as_dict(DecisionLog.read(path, time="when"), period="month")
    check_equal(as_dict(long), whole | {"notes": as_dict(long)["notes"]})


def test_labels_of_a_file_and_limits(tmp_path: Path) -> None:
    """What is watched against a baseline, and a baseline of it, are those of the whole log."""
    log = make_log(N, seed=1, known=0.4)
    bare = write_log(tmp_path / "bare.csv", replace(log, labels=np.full(N, -1)), {"when": FURTHER["when"]})
    labels = tmp_path / "labels.csv"
    known = log.arrival[::-1].tolist()
    labels.write_text("id,label\n" + "".join(f"r{row},{CLASSES[log.labels[row]]}\n" for row in known) + "x,keep\n")
    test = write_log(tmp_path / "test.csv", make_log(300, seed=5, name="test"))
    limits = Baseline.of(DecisionLog.read(test), costs=COSTS, replicates=30)
    read = LongLog.read(bare, labels, time="when", costs_for=lambda _: COSTS, sample=True)
    whole = DecisionLog.read(bare, labels, time="when")
    check_equal(as_dict(read, baseline=limits), as_dict(whole, baseline=limits))
    assert read.log.labelled.ids == whole.labelled.ids
    one, other = (Baseline.of(each, costs=COSTS, replicates=30).as_dict() for each in (read.log, whole))
    check_equal(one, other)


def test_a_decision_that_the_costs_do_not_know_makes_all_of_them_bayes_decisions(path: Path, tmp_path: Path) -> None:
    lines = path.read_text().splitlines()
    place = lines[0].split(",").index("decision")
    # Far behind rows that were counted by what the log says, without a label, and acted on.
    row = next(n for n in range(200, N) if lines[n].split(",")[1] == "" and not lines[n].endswith(",no"))
    cells = lines[row].split(",")
    cells[place] = "call"
    lines[row] = ",".join(cells)
    other = tmp_path / "other.csv"
    other.write_text("\n".join(lines) + "\n")
    long = LongLog.read(other, costs_for=lambda _: COSTS, sample=True)
    shown = as_dict(long)
    assert any("the costs have no decision 'call'" in note for note in shown["notes"])
    check_equal(shown, as_dict(DecisionLog.read(other)))


def test_what_is_wrong_anywhere_is_refused_as_in_the_whole(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    wrong = {
        "unknown column of": {"time": "wen"},
        "did you mean 'shop'": {"by": "shops"},
        "log.csv:2: decision is '[a-z]+'; expected a time": {"time": "decision"},
        "a day needs times": {"period": "day"},
        "unknown period 'year'": {"period": "year", "time": "when"},
    }
    for message, options in wrong.items():
        with pytest.raises(InputError, match=message):
            LongLog.read(path, **options)  # type: ignore[arg-type]
    last = text.splitlines()[-1].split(",")
    broken = tmp_path / "log2.csv"
    broken.write_text("\n".join([*text.splitlines()[:-1], ",".join([*last[:2], "x", *last[3:]])]) + "\n")
    with pytest.raises(InputError, match=f"log2.csv:{N + 1}: probability_keep is 'x'; expected a number"):
        LongLog.read(broken)
    (tmp_path / "labels.csv").write_text("id,label\nz,keep\n")
    with pytest.raises(InputError, match="no id of .*labels.csv is in .*log.csv, the first is 'z'"):
        LongLog.read(path, tmp_path / "labels.csv")
    twice = tmp_path / "twice.csv"
    twice.write_text(text + text.splitlines()[3] + "\n")
    (tmp_path / "labels.csv").write_text(f"id,label\n{text.splitlines()[3].split(',')[0]},keep\n")
    with pytest.raises(InputError, match="stands 2 times; give each row its own"):
        LongLog.read(twice, tmp_path / "labels.csv")


def test_of_many_rows_a_random_sample_is_kept_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample is as large as is wanted, the same whatever the parts, and its mean is that of all."""
    monkeypatch.setattr(module, "MOST_SAMPLED", 400)
    values = np.random.default_rng(0).normal(size=(5_000, 2))
    samples = []
    for size in (5_000, 600, 7):
        counted = Counted()
        for start in range(0, 5_000, size):
            numbers = np.arange(start, min(start + size, 5_000))
            sample = (module._keys(numbers), np.zeros(len(numbers)), numbers, values[numbers])
            counted.add(np.ones(len(numbers), np.bool_), np.ones((2, len(numbers))), sample)
        assert (counted.n, counted.acted, counted.promise) == (5_000, 5_000, 5_000.0)
        samples.append(counted.sample())
    assert samples[0] is not None
    assert samples[0].shape == (400, 2)
    np.testing.assert_array_equal(samples[0], samples[1])
    np.testing.assert_array_equal(samples[0], samples[2])
    np.testing.assert_allclose(samples[0].mean(axis=0), values.mean(axis=0), atol=4 / np.sqrt(400))


def test_memory_does_not_grow_with_rows_without_labels_and_the_file_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight times as many lines with the same 30 labels; also with a baseline saved."""
    monkeypatch.setattr(module, "_PART", 50)
    monkeypatch.setattr(module, "MOST_SAMPLED", 80)
    opened = []
    ordinary = module.rows_of
    monkeypatch.setattr(module, "rows_of", lambda path: opened.append(path) or ordinary(path))
    peaks = []
    for rows in (300, 2_400):
        log = make_log(rows, seed=2)
        few = replace(log, labels=np.where(np.arange(rows) < 30, log.labels, -1), arrival=np.arange(30))
        path = write_log(tmp_path / f"{rows}.csv", few)
        del log, few
        tracemalloc.start()
        report = rango.monitor(
            path, costs="abstain=0.3", training_priors=PRIORS, save_to=tmp_path / "limits.json", replicates=5
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert report.whole.n == rows
        assert len(opened) == len(peaks)
    assert peaks[1] < 1.2 * peaks[0]
    assert len(Baseline.load(tmp_path / "limits.json").ids) == 30
