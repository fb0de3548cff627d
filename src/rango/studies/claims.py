"""Who works on what, when several workers share a folder: a claim is a file with a heartbeat.

A claim is made by creating its file, which one process alone can do. Its owner touches it while it works. A claim is
stale when its process is gone (on this machine) or its heartbeat is older than a minute (on another): then it is taken
over. Take-overs happen under one lock, so that two workers cannot both find the same claim stale and take it in turn.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0


@dataclass
class Claim:
    """A claim that this process holds."""

    path: Path
    token: str
    _stop: threading.Event = field(default_factory=threading.Event)

    def beat(self) -> None:
        """Touch the file now and then until released, from a thread of its own."""
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.path)

    def release(self) -> None:
        """Give the claim back; one that was taken over meanwhile is left to its new owner."""
        self._stop.set()
        if _read(self.path).get("token") == self.token:
            self.path.unlink(missing_ok=True)


def claim(folder: Path, name: str) -> Claim | None:
    """Claim `name`, or None when somebody alive holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.claim"
    with lock(folder):
        if path.exists() and not is_stale(path):
            return None
        token = uuid.uuid4().hex
        temporary = folder / f".{name}.{token}"
        temporary.write_text(json.dumps({"token": token, "host": socket.gethostname(), "pid": os.getpid()}))
        temporary.replace(path)
    held = Claim(path, token)
    held.beat()
    return held


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """One process at a time is in this block; a killed one leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_stale(path: Path) -> bool:
    """Whether the owner of a claim is gone."""
    owner = _read(path)
    if owner.get("host") == socket.gethostname():
        return not _alive(int(owner["pid"]))
    try:
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return True


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")  # a killed child that nobody has waited for is gone too


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
