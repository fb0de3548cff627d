"""Who works on what, when several workers share a folder: a claim is a file with a heartbeat.

A claim is made by creating its file, which one process alone can do. Its owner touches it while it works. A claim is
stale when its process is gone (on this machine; a later process with its number has another start) or its heartbeat is
older than a minute (on another): then it is taken over. Take-overs happen under one lock, so that two workers cannot
both find the same claim stale and take it in turn.
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
from typing import Any

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
_PROC = Path("/proc")


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
        # A claim that was taken over is not ours to keep alive.
        while not self._stop.wait(BEAT_SECONDS) and self.is_held():
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.path)

    def is_held(self) -> bool:
        """Whether the claim is still this one's: not released, not taken over."""
        return not self._stop.is_set() and _read(self.path).get("token") == self.token

    def release(self) -> None:
        """Give the claim back; one that was taken over meanwhile is left to its new owner."""
        held = self.is_held()
        self._stop.set()
        if held:
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
        temporary.write_text(json.dumps(owner(os.getpid()) | {"token": token}))
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


def owner(pid: int) -> dict[str, str | int | None]:
    """What tells a process of this machine from all others, later ones with its number too."""
    return {"host": socket.gethostname(), "pid": pid, "start": _start(pid)}


def is_stale(path: Path) -> bool:
    """Whether the owner of a claim is gone."""
    known = _read(path)
    if known.get("host") == socket.gethostname():
        start = _start(int(known["pid"]))
        return start is None or start != known.get("start")
    try:
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return True


def _start(pid: int) -> str | None:
    """When a process began, in the system's ticks; None when it is gone. The same for all where there is no /proc."""
    if not (_PROC / "self" / "stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass  # another user's, but there
        return "unknown"
    try:
        # Behind the name, which may hold anything: the state, and 19 fields on the start (proc(5), fields 3 and 22).
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else fields[19]  # a killed child that nobody has waited for is gone too
    except (OSError, IndexError):
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
