"""Every call by which a command changes a file fails once: is anything lost, half, or other when it is repeated?

    python benchmarks/faults.py [--commands metrics predict] [--first 1] [--limit 50] [--step 3] [--all-errors]

A small library in C (faults.c) stands before the C library and counts the calls below one folder that open for writing,
write, truncate, map to be written, sync, rename, link, remove, make a folder or change a mode. The n-th of them fails,
for n = 1, 2, … until the command passes undisturbed:

    ENOSPC    at every call; a write takes half of its bytes first, and the disk stays full for what needs room
    EIO, EACCES, EROFS    at every third call each; a disk that became read-only stays so for everything
    SIGKILL   before every call, and after the last: after the n-th is before the next

(--all-errors: all of these, and SIGKILL after, at every call.) Each trial begins in the same folder, with whole results
of an earlier command where the command may replace them:

    intact    what has a final name is what stood there before, what the undisturbed command writes, or a whole file on
              the way there (a state, a record): its digest holds, or it can be read to its end
    one line  no traceback; one line on stderr that names a file of the folder, exit code 1, or 2 where another place
              would do; where the command passes all the same, its files are those of the undisturbed command
    repeat    the same command again ends with 0 and with the same files, hidden ones too. Bytes are compared, but for
              clock times and durations (`TIMES`). Where two faults leave the same files, they are repeated once

Where many writes into one file follow each other, as the pages of a Parquet file do, the first two and the last fail
(--all-errors: all of them). Files elsewhere (caches, temporary folders) are not counted. One process imports what a
command needs and is forked for each trial; a study's workers are forked too instead of spawned, and pages are written
without their figures. Two things escape: a raw system call that does not pass through the C library (safetensors
renames so, in a folder of Rango's own), and what only a lost power shows.

`rango demo` is not here: it is pretrain, finetune and evaluate with their own writers, in minutes a trial. tasks,
models and generate write nothing; verify is run to show that it does not.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults_commands import COMMANDS, Command, Inputs, with_a_client
from faults_folders import HALF, comparable, contents, difference, is_final, is_whole
from faults_running import Ending, environment, library, run, without_figures

ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EACCES", "EROFS")}
ERRORS |= {"SIGKILL": -1, "SIGKILL after": -2}
ROTATED = ("EIO", "EACCES", "EROFS")


@dataclass
class Enumeration:
    """The trials of one command, and what came of them."""

    name: str
    command: Command
    inputs: Inputs
    folder: Path
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    next: int | None = 1
    """The call to go on with; None where there are no more."""
    _repeated: dict[str, str] = field(default_factory=dict)
    """State of the folder after a fault -> what is wrong when the command is repeated on it; "" where nothing is."""

    def prepare(self) -> None:
        """Make the folder as it is before the command, and run the command undisturbed, twice."""
        self._clear()
        for name in self.command.copied:
            shutil.copytree(self.inputs[name], self.folder / name)
        for words in self.command.before:
            ending = run(words.format_map(self.inputs), folder=self.folder)
            if ending.code:
                raise SystemExit(f"{self.name}: {words}: {ending.err}")
        self.before_folder = self.folder.with_name("before")
        shutil.rmtree(self.before_folder, ignore_errors=True)
        shutil.copytree(self.folder, self.before_folder)
        self.before = comparable(contents(self.folder))
        # The first run is for what it imports.
        self._run()
        without_figures()
        endings, trees = [], []
        for _ in range(2):
            self._restore()
            began = time.perf_counter()
            endings.append(self._run())
            self.seconds = time.perf_counter() - began
            trees.append(contents(self.folder))
        self.undisturbed, self.after = endings[0], comparable(trees[0])
        if self.undisturbed.code:
            raise SystemExit(f"{self.name}: {self.undisturbed.err}")
        # Of the undisturbed command, which calls only write on in a file.
        log = [HALF.sub("", line) for line in endings[0].log]
        self.writing_on = {
            n + 1
            for n, line in enumerate(log)
            if line.startswith("write ") and log[max(0, n - 2) : n + 2] == [line] * 4
        }
        if differing := difference(self.after, comparable(trees[1])):
            raise SystemExit(f"{self.name}: two undisturbed runs differ in {differing}")

    def trials(self, args: argparse.Namespace) -> None:
        """Fail one call after the other until there are no more, or until a limit; the options are those of `main`."""
        begun, site = time.monotonic(), args.first
        while (args.limit is None or site < args.first + args.limit) and time.monotonic() - begun < args.seconds:
            if (site not in self.writing_on or args.all_errors) and (site - 1) % args.step == 0:
                rotated = ROTATED[site // args.step % len(ROTATED)]
                names = args.errors or (list(ERRORS) if args.all_errors else ["ENOSPC", rotated, "SIGKILL"])
                struck = [self._trial(site, name) for name in names]
                if not any(struck):
                    if site > 1 and args.step == 1 and "SIGKILL" in names:
                        self._trial(site - 1, "SIGKILL after")
                    self.next = None
                    return
                self.counts["failed"] += 1
            site += 1
        self.next = site

    def _trial(self, site: int, error: str) -> bool:
        """One fault and what follows; whether the command still had such a call."""
        self._restore()
        ending = self._run(site, ERRORS[error])
        if not ending.struck:
            return False
        self.counts["trials"] += 1
        state = contents(self.folder)
        wrong = {
            "intact": self._lost(state),
            "one line": self._unsaid(ending, error, state),
            "repeat": self._repeat(state),
        }
        for column, words in wrong.items():
            self.counts[column] += not words
            if words:
                self.faults.append(f"{self.name} {site}, {error} at {ending.struck}: {column}: {words}")
                print(self.faults[-1], flush=True)
        return True

    def _lost(self, state: dict[str, bytes]) -> str:
        """What has a final name and is not whole, or has gone; "" where nothing is."""
        now = comparable(state)
        for name, digest in now.items():
            if is_final(name) and digest not in (self.before.get(name), self.after.get(name)):
                path = self.folder / name
                if not path.is_dir() and not is_whole(path):
                    return f"{name} is half"
        gone = [name for name in self.before if is_final(name) and name in self.after and name not in now]
        return f"{', '.join(gone)} lost" if gone else ""

    def _unsaid(self, ending: Ending, error: str, state: dict[str, bytes]) -> str:
        """What is wrong with what the command said and its exit code."""
        known = set(self.undisturbed.err.splitlines())
        lines = [line for line in ending.err.splitlines() if line not in known]
        if "Traceback" in ending.err:
            return f"traceback: {lines[-1]}"
        if error.startswith("SIGKILL"):
            return "" if ending.code == -signal.SIGKILL or self.command.patch else f"exit code {ending.code}"
        if ending.code == 0 and self.command.patch is with_a_client:
            return ""  # a server goes on, and the client has looked at what was answered
        if ending.code == 0:
            return difference(self.after, comparable(state)) and "passes with other files"
        if ending.code not in (1, 2) or (ending.code == 2 and error in ("ENOSPC", "EIO")):
            return f"exit code {ending.code}: {lines}"
        if self.command.patch is not None:  # a study says what failed, a line each
            return "" if lines and all(line.strip() for line in lines) else "nothing said"
        named = len(lines) == 1 and lines[0].startswith("rango: ") and str(self.folder) in lines[0]
        return "" if named else f"said {lines}"

    def _repeat(self, state: dict[str, bytes]) -> str:
        """What is wrong when the command is repeated on what the fault has left."""
        key = repr(sorted(comparable(state).items()))
        if key not in self._repeated:
            ending = self._run(again=True)
            differing = difference(self.after, comparable(contents(self.folder)))
            said = ending.err.strip().splitlines()[-1:] if ending.code else []
            self._repeated[key] = f"exit code {ending.code} {said}" if ending.code else differing
        return self._repeated[key]

    def _run(self, site: int = 0, error: int = 0, *, again: bool = False) -> Ending:
        words = self.command.words.format_map(self.inputs)
        words = f"{words} {self.command.again}" if again else words
        return run(words, folder=self.folder, site=site, error=error, patch=self.command.patch)

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def _restore(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.before_folder, self.folder)


def enumerate_commands(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each command: sites, trials, and of how many trials each promise holds."""
    # No TemporaryDirectory: the forked processes end as Python does, and would remove it.
    work = Path(args.keep or tempfile.mkdtemp(prefix="rango-faults-")).resolve()
    (work / "inputs").mkdir(parents=True, exist_ok=True)
    inputs = Inputs(work / "inputs", work / "trial")
    try:
        for name in args.commands or COMMANDS:
            enumeration = Enumeration(name, COMMANDS[name], inputs, work / "trial")
            enumeration.prepare()
            print(f"{name}: {len(enumeration.undisturbed.log)} calls, {enumeration.seconds:.1f} s", file=sys.stderr)
            enumeration.trials(args)
            columns = ("failed", "trials", "intact", "one line", "repeat")
            row: dict[str, Any] = {"command": name, "calls": len(enumeration.undisturbed.log)}
            row |= {column: enumeration.counts[column] for column in columns}
            yield row | {"faults": enumeration.faults, "next": enumeration.next}
    finally:
        inputs.close()
        if not args.keep:
            shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="*", choices=list(COMMANDS), metavar="NAME", default=[])
    parser.add_argument("--first", type=int, default=1, help="the call to begin at")
    parser.add_argument("--limit", type=int, help="how many calls of each command")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of each command, after which to stop")
    parser.add_argument("--step", type=int, default=1, help="only each so many-th call")
    parser.add_argument("--all-errors", action="store_true", help="every error at every call")
    parser.add_argument("--errors", nargs="*", choices=list(ERRORS), default=[], help="these at every call")
    parser.add_argument("--keep", help="a folder to work in, which is kept")
    parser.add_argument("--rows", help="a file to which the rows are added, in place of the record with its conditions")
    args = parser.parse_args()
    if not hasattr(library(), "faults_arm"):
        variables = environment(Path(tempfile.mkdtemp(prefix="faults-")))
        os.execve(sys.executable, [sys.executable, *sys.argv], variables)
    assert threading.active_count() == 1  # a fork takes along no other
    rows = []
    for row in enumerate_commands(args):
        rows.append(row)
        if args.rows:
            with Path(args.rows).open("a") as file:
                file.write(json.dumps(row) + "\n")
        trials = row["trials"]
        print(f"| {row['command']} | {row['calls']} | {row['failed']} | {trials} | ", end="")
        print(" | ".join(f"{row[name]} of {trials}" for name in ("intact", "one line", "repeat")), "|", flush=True)
    if not args.rows:
        from measuring import conditions, record

        record(
            "faults",
            {"first": args.first, "limit": args.limit, "step": args.step, "seconds": args.seconds, "rows": rows},
            conditions(dtype="float32", device="cpu"),
        )
    sys.exit(any(row["faults"] for row in rows))


if __name__ == "__main__":
    main()
