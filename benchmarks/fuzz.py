"""Mutated files and requests: is each of them read or refused in one line, or is there a traceback, a hang, a blow-up?

    python benchmarks/fuzz.py [--inputs 100000] [--readers posteriors-csv,http] [--seconds 300] [--seed 0]
    python benchmarks/fuzz.py --replay fuzz-faults/gate/0-1234/costs.json

Each reader (`fuzz_readers`) has a folder of valid files; `fuzz_mutations` changes one of them, and it is read in this
process, as Rango's commands read it. A fault is an exception that is no InputError, a warning or a print, more than
5 s, more than 1 GB, a process that dies, or a message of more than one line or 400 characters (without the folder).
Input n of a reader depends on the seed and on n alone; of each kind of fault the first input is kept, to be replayed.
Ends with one line of JSON; exit code 1 where there was a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz_mutations import mutate
from fuzz_prepared import Prepared
from fuzz_readers import READERS

import rango
from rango.errors import InputError

SLOWEST, MOST_BYTES, LONGEST = 5, 1 << 30, 400
_SPARE = 4 << 30  # of address space beyond what a process has when it begins: enough to see a blow-up and survive it
_MEMORY = Path("/dev/shm")  # where files are in memory
_PACKAGE = str(Path(rango.__file__).parent)


class Hang(BaseException):
    """An input took too long. No Exception, so that no reader takes it for one of its own."""


@dataclass(frozen=True)
class Fault:
    """What is wrong, and where: faults of one kind are equal."""

    kind: str
    place: str
    detail: str = field(default="", compare=False)


@dataclass
class Tally:
    """What became of the inputs of a reader."""

    inputs: int = 0
    refused: int = 0
    read: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)
    seconds: float = 0.0


def judge(prepared: Prepared, file: Path, folder: Path, printed: Path) -> Fault | bool:
    """Read a file: whether it was read, or the fault that this was."""
    held, begun = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(), printed.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    noticed: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, category, name, line, *_: noticed.append(
            f"{category.__name__} at {_short(name)}:{line}: {message}"
        )
        signal.setitimer(signal.ITIMER_REAL, SLOWEST)
        try:
            prepared.read(file)
            outcome: Fault | bool = True
        except InputError as error:
            outcome = _of_message(error, str(folder))
        except Hang:
            outcome = Fault("hang", _place(sys.exc_info()[1]))
        except BaseException as error:  # a panic of a library in Rust is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            outcome = Fault(type(error).__name__, _place(error), str(error)[:300])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    if noticed and not isinstance(outcome, Fault):
        outcome = Fault("warning", noticed[0].partition(": ")[0], noticed[0])
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if highest > peak and (highest << 10) - held > MOST_BYTES:
        outcome = Fault("blow-up", f"after {outcome}"[:60])
    if printed.stat().st_size > begun and not isinstance(outcome, Fault):
        outcome = Fault("print", printed.read_text(errors="replace")[begun:][:60])
    return outcome


def _of_message(error: InputError, folder: str) -> Fault | bool:
    text = str(error).replace(folder, "")
    if len(text.splitlines()) > 1:
        return Fault("message of several lines", _place(error), text[:300])
    # Of several mistakes each has its own length; a path is as long as its folders.
    text = max((" ".join(w for w in each.split(" ") if "/" not in w) for each in error.mistakes), key=len)
    if len(text) > LONGEST:
        return Fault("long message", _place(error), f"{len(text)} characters: {text[:500]}")
    return False


def _place(error: BaseException | None) -> str:
    """The last line of Rango that an error came through."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    own = [frame for frame in frames if frame.filename.startswith(_PACKAGE)] or frames
    return f"{_short(own[-1].filename)}:{own[-1].lineno}" if own else "?"


def _short(name: str) -> str:
    return name.rpartition("/src/")[2].rpartition("/site-packages/")[2]


class Board:
    """Where a worker says how far it is, in memory that its parent reads also after it was killed."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 32)

    def write(self, index: int, refused: int, read: int, seconds: float) -> None:
        self._shared[:] = struct.pack("3qd", index, refused, read, seconds)

    def read(self) -> tuple[int, int, int, float]:
        """The next input, how many were refused and read, and the seconds that this took."""
        index, refused, read, seconds = struct.unpack("3qd", self._shared[:])
        return index, refused, read, seconds


@dataclass(frozen=True)
class Attack:
    """Inputs of one reader, and where it is said what became of them."""

    name: str
    seed: int
    inputs: int
    base: Path
    """A folder of its own."""
    keep: Path | None
    """Where the first input of each kind of fault is kept."""
    board: Board = field(default_factory=Board)

    @property
    def log(self) -> Path:
        """A line of JSON for each fault."""
        return self.base / "faults.jsonl"

    def report(self, fault: Fault, index: int) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps([fault.kind, fault.place, fault.detail, index]) + "\n")

    def faults(self) -> list[tuple[Fault, int]]:
        """The faults so far, each with the number of its input."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(Fault(*parts), index) for *parts, index in map(json.loads, lines)]

    def save(self, index: int, folder: Path, file: Path, data: bytes) -> None:
        """Keep an input, to be replayed."""
        if self.keep is not None:
            place = self.keep / self.name / f"{self.seed}-{index}" / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)

    def work(self, start: int, seconds: float) -> None:
        """Read the inputs from a number on, in this process, for that long; the preparation does not count."""
        folder = self.base / f"from-{start}"
        folder.mkdir()
        prepared = READERS[self.name](folder)
        whole = {file: file.read_bytes() for file in prepared.files}
        refused, read, met = 0, 0, {fault for fault, _ in self.faults()}
        with _watched(self.base / "printed") as printed:
            # A reader that refuses its own valid files would refuse every other, and show nothing.
            for file in prepared.files:
                if (outcome := judge(prepared, file, folder, printed)) is not True:
                    prepared.read(file)  # or it says itself why
                    raise RuntimeError(f"{self.name}: the valid {file.name} is not read: {outcome}")
            begun = time.monotonic()
            for index in range(start, self.inputs):
                spent = time.monotonic() - begun
                self.board.write(index, refused, read, spent)
                if spent > seconds:
                    raise SystemExit(_LATE)
                file, data = make_input(prepared, whole, self.name, self.seed, index)
                file.write_bytes(data)
                outcome = judge(prepared, file, folder, printed)
                file.write_bytes(whole[file])
                refused, read = refused + (outcome is False), read + (outcome is True)
                if not isinstance(outcome, Fault):
                    continue
                self.report(outcome, index)
                if outcome not in met:
                    self.save(index, folder, file, data)
                met.add(outcome)
                if outcome.kind in ("blow-up", "hang"):
                    # The most memory of a process never falls, and what hung may have left anything: begin anew.
                    self.board.write(index + 1, refused, read, time.monotonic() - begun)
                    raise SystemExit(_AGAIN)
            self.board.write(self.inputs, refused, read, time.monotonic() - begun)

    def save_unread(self, index: int) -> None:
        """Keep the input that ended a process."""
        folder = self.base / f"ended-{index}"
        folder.mkdir()
        prepared = READERS[self.name](folder)
        whole = {file: file.read_bytes() for file in prepared.files}
        self.save(index, folder, *make_input(prepared, whole, self.name, self.seed, index))


def attack(name: str, *, inputs: int, seed: int = 0, seconds: float = 1e9, keep: Path | None = None) -> Tally:
    """Mutate and read files of a reader; each kind of fault is printed once.

    Args:
        name: of `READERS`.
        inputs: how many, fewer where `seconds` have passed before.
        seed: with a number it gives an input.
        seconds: of reading; what prepares the files does not count.
        keep: where inputs of faults are kept.
    """
    tally = Tally()
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None, prefix="fuzz-") as base:
        run, start, status = Attack(name, seed, inputs, Path(base), keep), 0, _AGAIN
        while start < inputs and status != _LATE:
            run.board.write(-1, 0, 0, 0.0)
            rest = seconds - tally.seconds
            status = _in_process(lambda first=start, most=rest: run.work(first, most), run.board)  # type: ignore[misc]
            start, refused, read, spent = run.board.read()
            tally.refused, tally.read = tally.refused + refused, tally.read + read
            tally.seconds += spent
            if start < 0:
                raise SystemExit(f"{name}: its valid files cannot be prepared or read")
            if status not in (0, _AGAIN, _LATE):  # it was ended by a signal, or by the watch over it
                run.report(Fault("hang" if status == -signal.SIGKILL else "death", f"status {status}"), start)
                _in_process(lambda index=start: run.save_unread(index), run.board)  # type: ignore[misc]
                start += 1
        for fault, index in run.faults():
            if fault not in tally.faults:
                print(f"{name} {seed}-{index}: {fault.kind} at {fault.place}: {fault.detail}", flush=True)
            tally.faults[fault] += 1
    tally.inputs = tally.refused + tally.read + tally.faults.total()
    return tally


_AGAIN, _LATE = 75, 76  # exit statuses of a worker


def _in_process(work: Callable[[], None], board: Board) -> int:
    """Work in a process of its own; its exit status, negative for the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except SystemExit as error:
            status = int(error.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    last, since = -1, time.monotonic()
    while True:
        ended, state = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(state)
        # Code in C may not come back to Python, whose alarm then never rings.
        if (index := board.read()[0]) != last or index < 0:
            last, since = index, time.monotonic()
        elif time.monotonic() - since > 4 * SLOWEST:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.02)


def make_input(prepared: Prepared, whole: dict[Path, bytes], name: str, seed: int, index: int) -> tuple[Path, bytes]:
    """Input `index` of a reader: which file is changed, and to what."""
    rng = random.Random(f"{seed}/{name}/{index}")
    file = rng.choice(list(prepared.files))
    return file, mutate(whole[file], file.name, rng, prepared.words, list(whole.values()))


@contextlib.contextmanager
def _watched(printed: Path) -> Iterator[Path]:
    """Within the block an alarm raises `Hang`, memory has a limit, and what is printed goes to a file."""

    def ring(*_: Any) -> None:
        raise Hang

    alarm, limits = signal.signal(signal.SIGALRM, ring), resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _SPARE, limits[1]))
    own = [os.dup(number) for number in (1, 2)]
    with printed.open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        yield printed
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in zip((1, 2), own, strict=True):
            os.dup2(old, number)
            os.close(old)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, alarm)


def replay(kept: Path) -> None:
    """Read an input that was kept, without any guard: an error ends in its traceback."""
    name = next(part for part in reversed(kept.parts) if part in READERS)
    place = kept.parts[len(kept.parts) - kept.parts[::-1].index(name) + 1 :]  # behind the reader, and seed and number
    with tempfile.TemporaryDirectory() as folder:
        prepared = READERS[name](Path(folder))
        file = Path(folder, *place)
        file.write_bytes(kept.read_bytes())
        warnings.simplefilter("error")
        print(f"{name} reads {'/'.join(place)} ({file.stat().st_size:,} bytes)")
        print(prepared.read(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="for each reader")
    parser.add_argument("--readers", default=",".join(READERS), help="a comma-separated list")
    parser.add_argument("--seconds", type=float, default=1e9, help="of reading at most, for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"), help="where inputs of faults are kept")
    parser.add_argument("--replay", type=Path, help="read one that was kept, and nothing else")
    args = parser.parse_args()
    if args.replay is not None:
        replay(args.replay)
        return
    rows = {}
    for name in args.readers.split(","):
        tally = attack(name, inputs=args.inputs, seed=args.seed, seconds=args.seconds, keep=args.keep)
        rows[name] = {
            "inputs": tally.inputs, "refused": tally.refused, "read": tally.read, "faults": tally.faults.total(),
            "seconds": round(tally.seconds, 1),
        }  # fmt: skip
        rate = tally.inputs / max(tally.seconds, 1e-9)
        print(
            f"{name:20} {' '.join(f'{key} {value:,}' for key, value in rows[name].items())} ({rate:,.0f}/s)", flush=True
        )
    # Last, because the threads of torch do not survive the forks of the workers.
    from measuring import conditions, record

    setting = conditions(dtype="float32", device="cpu")
    limits = {"inputs": args.inputs, "seconds": args.seconds if args.seconds < 1e9 else None}
    record("fuzz", {**limits, "seed": args.seed, "rows": rows}, setting)
    if any(row["faults"] for row in rows.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
