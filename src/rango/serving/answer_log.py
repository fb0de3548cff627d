"""The log of a server: what was decided about each of the run's own questions, a line of JSON for each, at once.

time   id   model   question   probability_CLASS …   decision   expected_cost   act   calibrated   state

`rango monitor` reads it as it reads what `rango predict` writes. `act` is there with a gate, `state` where it is asked
for. Questions of other words than the run's have no decision of the run, and stand in no log.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from rango.errors import InputError
from rango.files import check_writable_file, naming_file

_BLOCK, _LONGEST = 1 << 16, 1 << 24  # bytes in which the last line of a log is looked for, at first and at most
_BEGIN = b'{"time": "'  # of every line


class AnswerLog:
    """A file to which whole lines are appended. It grows as long as the server runs; to rotate it, rename it.

    A line is written before its answer is sent. The system has it then, so that no end of the server loses it; where
    the machine loses power, the last lines may be lost.
    """

    def __init__(self, path: Path, *, with_state: bool = False) -> None:
        """Open a log to add to it; half a line at its end, of a server whose disk was full, is cut off.

        Raises:
            InputError: the file cannot be written, or holds something else than lines of JSON.
        """
        check_writable_file(path)
        self.path, self._with_state = path, with_state
        self._handle = -1
        self.note = ""
        """What was mended, in words."""
        with self._locked() as end:
            whole, line, torn = _end_of(self._handle, end)
            # Nothing is cut off a file of another kind that is given by mistake.
            if not (line.startswith(_BEGIN) or not whole) or not torn.startswith(_BEGIN[: len(torn)]):
                raise InputError(f"{path} is no log of decisions; give a file that rango serve wrote, or a new one")
            if whole < end:
                with naming_file(path):
                    os.ftruncate(self._handle, whole)
                self.note = f"{path} ended in half a line, which is cut off"

    def write(self, answers: Mapping[str, Mapping[str, Any]], *, model: str, request: str, state: Any) -> None:
        """Add a line for each answer, all of them or none.

        Args:
            answers: the row of each question, by its name, with the columns behind `question`.
            model: the name of the run.
            request: the id of the request, which its response has in a header.
            state: what the questions are about.

        Raises:
            OSError: the disk is full, for example. Nothing of these answers is in the log then.
        """
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        lines = []
        for name, columns in answers.items():
            row = {"time": moment, "id": f"{request}/{name}", "model": model, "question": name, **columns}
            lines.append(json.dumps(row | {"state": state} if self._with_state else row) + "\n")
        data = "".join(lines).encode()
        with self._locked() as end:
            if end and os.pread(self._handle, 1, end - 1) != b"\n":
                # A server that shares the log was killed within a line, or half a line could not be taken back.
                end = _end_of(self._handle, end)[0]
                os.ftruncate(self._handle, end)
            try:
                # A disk that is almost full takes a part and says so by a number.
                while data:
                    data = data[os.write(self._handle, data) :]
            except OSError:
                os.ftruncate(self._handle, end)
                raise

    def close(self) -> None:
        """Close the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The length of the file, which no other server changes in the block."""
        # Whoever rotates logs renames them: the next line begins a new file of the same name.
        while self._handle < 0 or not self._is_at_its_name():
            self.close()
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        try:
            yield os.fstat(self._handle).st_size
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_UN)

    def _is_at_its_name(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._handle), self.path.stat())
        except FileNotFoundError:
            return False


def _end_of(handle: int, size: int) -> tuple[int, bytes, bytes]:
    """How many bytes of a file are whole lines, the last of these, and the half line behind it."""
    tail, begin = b"", size
    while begin and tail.count(b"\n") < 2 and len(tail) < _LONGEST:
        begin = max(0, begin - _BLOCK)
        tail = os.pread(handle, size - begin, begin)
    lines, newline, torn = tail.rpartition(b"\n")
    return begin + len(lines) + len(newline), lines.rpartition(b"\n")[2], torn


def logged_columns(classes: Iterable[str] | None, shares: Iterable[float]) -> dict[str, float]:
    """The columns of probabilities, called as `rango predict` calls them: by the classes, or by place without any."""
    if classes is None:
        return {f"posterior_{place}": share for place, share in enumerate(shares)}
    return {f"probability_{name}": share for name, share in zip(classes, shares, strict=True)}
