"""`rango predict` of very many rows: memory over time, rows a second, and no line lost or doubled after kills.

    python benchmarks/predict_stream.py [--lines 10_000_000] [--kills 3] [--ending .jsonl] [--folder DIR]
    python benchmarks/predict_stream.py --run RUN --rows FILE [--kills 0]

The first form generates lines and answers them with a stand-in for a model, which gives each row posteriors by its
number, so that reading, deciding and writing are measured. The second runs the command itself with a real run. Either
is killed with SIGKILL when about a part of the rows is answered, and repeated. In the end every row of the input must
stand in the output once, in order, with its own columns. Resident memory is printed at intervals, and so is how far the
reading of the input and the comparison at the end are. Ends with one line of JSON; exit code 1 where a line is lost,
doubled or changed. Ten million lines need about 3.5 GB below --folder, twice the output for Parquet, and nothing of it
stays, also when the benchmark is stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from rango.console import Screen
from rango.decisions import Posteriors, StatedCosts
from rango.options import FinetuneConfig
from rango.row_stream import rows_of
from rango.tasks import Task
from rango.training.prediction import Offered, Predictions, Predictor
from rango.training.prediction_stream import predict_file

LINE_BYTES = 400
"""Disk that a generated line and its answer need at most, as JSONL."""
TABLE = {"prompt": "{text}. Mood:", "choices": ["happy", "sad", "angry"], "label": "mood", "label_is": "text"}


class Trivial(Predictor):
    """Posteriors that follow from the number of a row."""

    @contextlib.contextmanager
    def answering(self, model: Any, *, offered: Offered, costs: Any = None, gate: Any = None) -> Iterator[Any]:  # noqa: ARG002
        matrix = self.matrix(offered, costs, gate)

        def answer(task: Task, rows: Iterable[Mapping[str, Any]], screen: Screen | None) -> Predictions:  # noqa: ARG001
            numbers = np.array([int(instance.id.removeprefix("new:")) for instance in task.test])
            scores = np.stack([numbers % 7, numbers % 5, numbers % 3], axis=1).astype(float)  # (N, K)
            posteriors = Posteriors.from_scores(scores, None, choices=[instance.choices for instance in task.test])
            return Predictions(tuple(rows), task.test, posteriors, matrix, (), gate, offered)

        yield answer


def answer_trivially(rows: Path, out: Path) -> None:
    config = FinetuneConfig.build({"model": "none", "task": "table"}, where="benchmark")
    predictor = Trivial(Path("run.yaml"), config, None, None, TABLE, "none")
    costs = StatedCosts(abstain=0.3)
    predict_file(predictor, rows, out, load=lambda: None, settings={}, costs=costs, screen=Screen())  # type: ignore[arg-type, return-value]


def generate(path: Path, lines: int) -> None:
    moods = ("happy", "sad", "angry")
    with path.open("w", encoding="utf-8") as file:
        for number in range(lines):
            label = f', "mood": "{moods[number % 3]}"' if number % 10 == 0 else ""
            file.write(f'{{"ticket": {number}, "text": "Ann sings on day {number}"{label}}}\n')
            say_every(1_000_000, number + 1, "lines generated")


def say_every(step: int, count: int, words: str) -> None:
    if count % step == 0:
        print(f"{count:12,} {words}", flush=True)


def resident(process: int) -> float:
    with contextlib.suppress(FileNotFoundError, IndexError, ProcessLookupError):
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


def answered(out: Path) -> int:
    """Rows that an unfinished command has recorded."""
    with contextlib.suppress(FileNotFoundError):
        return int(json.loads((out.with_name(f"{out.name}.partial") / "progress.json").read_text())["rows"])
    return 0


def run(command: list[str], out: Path, *, kill_at: int | None, interval: float) -> tuple[bool, list[float]]:
    """Whether a command came to its end, and its memory at intervals in MiB."""
    process = subprocess.Popen(command)
    begun, memory = time.perf_counter(), list[float]()
    try:
        while process.poll() is None:
            time.sleep(min(interval, 0.2))
            if time.perf_counter() - begun >= interval * len(memory) and (size := resident(process.pid)):
                memory.append(size)
                print(f"{time.perf_counter() - begun:8.1f} s  {answered(out):12,} rows  {size:8.1f} MiB", flush=True)
            if kill_at is not None and answered(out) >= kill_at:
                process.send_signal(signal.SIGKILL)
    finally:
        # A command that went on would write into a folder that is removed.
        process.kill()
        code = process.wait()
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"the command ended with {code}")
    return code == 0, memory


def wrong_rows(rows: Path, out: Path) -> int:
    """Rows of the output that are not those of the input, in its order and with its columns."""
    wrong = 0
    for number, (given, written) in enumerate(zip_longest(rows_of(rows), rows_of(out)), start=1):
        say_every(1_000_000, number, "rows compared")
        if given is None or written is None:
            wrong += 1
            continue
        columns = {key: str(written[1].get(key)) for key in given[1]}
        wrong += columns != {key: str(value) for key, value in given[1].items()}
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--ending", default=".jsonl")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between two looks at the memory")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--answer", type=Path, nargs=2, help=argparse.SUPPRESS)  # what the child does
    arguments = parser.parse_args()
    if arguments.answer:
        answer_trivially(*arguments.answer)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder is removed
    where = arguments.folder or Path(tempfile.gettempdir())
    needed = 0 if arguments.rows else arguments.lines * LINE_BYTES * (2 if arguments.ending == ".parquet" else 1)
    if (free := shutil.disk_usage(where).free) < needed:
        raise SystemExit(
            f"{where} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} are needed; give another --folder"
        )
    with tempfile.TemporaryDirectory(dir=where) as folder:
        rows, out = arguments.rows or Path(folder) / "rows.jsonl", Path(folder) / f"out{arguments.ending}"
        if arguments.rows is None:
            generate(rows, arguments.lines)
        count = sum(1 for _ in rows_of(rows)) if arguments.rows else arguments.lines
        command = [sys.executable, __file__, "--answer", str(rows), str(out)]
        if arguments.run:
            command = [sys.executable, "-m", "rango", "predict", str(arguments.run), str(rows), "--out", str(out)]
        begun, memory, killed = time.perf_counter(), list[float](), 0
        while True:
            part = (killed + 1) * count // (arguments.kills + 1)
            at = part if killed < arguments.kills else None
            done, sizes = run(command, out, kill_at=at, interval=arguments.interval)
            memory += sizes
            if done:
                break
            killed += 1
            print(f"killed after {answered(out):,} recorded rows", flush=True)
        seconds = time.perf_counter() - begun
        wrong = wrong_rows(rows, out)
        size = out.stat().st_size
    result = {
        "rows": count, "kills": killed, "seconds": round(seconds, 1), "rows_per_second": round(count / seconds),
        "MiB": {"first": round(memory[0]), "last": round(memory[-1]), "most": round(max(memory))},
        "bytes": size, "wrong_rows": wrong, "load": os.getloadavg()[0],
    }  # fmt: skip
    print(json.dumps(result))
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
