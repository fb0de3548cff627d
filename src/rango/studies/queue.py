"""What workers take from a study's folder: work items, and the lock by which one worker takes one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rango.files import fingerprint, read_json, write_json
from rango.studies.plan import MODELS, Job, Plan, groups, own_model
from rango.studies.store import ENDED, Store
from rango.training.bank import bankable

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


BANKS = "banks"
_LARGEST_BANK = 8


@dataclass(frozen=True)
class WorkItem:
    """One claim's worth of work."""

    id: str
    kind: Literal["model", "base", "measure", "run", "bank"]
    jobs: tuple[Job, ...]

    @property
    def group(self) -> str | None:
        """The group of its jobs; a model has none."""
        return self.jobs[0].group if self.jobs else None

    def state(self, store: Store) -> Path:
        """The file that a bank's resume needs."""
        return store.path / BANKS / f"{self.id}.state.safetensors"

    def finished(self, store: Store) -> bool:
        """Whether nothing is left to do, be it done or failed."""
        if self.kind == "model":
            return has_model(store, self.id) or store.failure_file(self.id).is_file()
        return all(store.status(job) in ENDED for job in self.jobs)

    def unfinished_ids(self, store: Store) -> list[str]:
        """The ids that a failure of this item is remembered under."""
        if self.kind == "model":
            return [self.id]
        return [job.id for job in self.jobs if store.status(job) not in ENDED]

    def waits_for(self, store: Store, plan: Plan) -> Literal["nothing", "others", "failed"]:
        """Whether what it builds on is there: the study's own model (or its tokenizer), and the base's posteriors."""
        name = self._own_model(plan)
        if name is not None and not has_model(store, name):
            return "failed" if store.failure_file(name).is_file() else "others"
        if self.kind in ("model", "base"):
            return "nothing"
        status = store.status(plan.job(self.jobs[0].base))
        return "nothing" if status == "done" else "failed" if status == "failed" else "others"

    def cause(self, store: Store, plan: Plan) -> str:
        """Why what it builds on failed, in one line."""
        name = self._own_model(plan)
        reason = store.failure(name) if name is not None else ""
        return reason or store.failure(self.jobs[0].base)

    def _own_model(self, plan: Plan) -> str | None:
        """The study's own model that must be there first: the one to adapt, or the one whose tokenizer is taken."""
        return plan.models[self.id].tokenizer_of if self.kind == "model" else own_model(self.jobs[0], plan)


def has_model(store: Store, name: str) -> bool:
    """Whether one of the study's own models is complete: its folder appears when all is there."""
    return (store.path / MODELS / name / "config.json").is_file()


def work_items(plan: Plan, store: Store) -> Iterator[WorkItem]:
    """All units of a plan, what others build on first."""
    for name in plan.models:
        yield WorkItem(name, "model", ())
    for job in plan.jobs:
        if job.kind == "base":
            yield WorkItem(job.id, "base", (job,))
    banked = set()
    for file, bank in read_banks(store):
        members = [plan.job(name) for name in bank["runs"] if plan.has_job(name)]
        if bank["size"] is None:
            banked |= {job.id for job in members}
            yield WorkItem(file.stem, "measure", tuple(members))
        elif bank["size"] > 1:
            for start in range(0, len(bank["runs"]), bank["size"]):
                part = set(bank["runs"][start : start + bank["size"]]).difference(bank.get("alone", ()))
                jobs = tuple(job for job in members if job.id in part)
                banked |= {job.id for job in jobs}
                if jobs:
                    yield WorkItem(f"{file.stem}-{start}", "bank", jobs)
    for job in plan.jobs:
        if job.kind == "run" and job.id not in banked:
            yield WorkItem(job.id, "run", (job,))


def read_banks(store: Store) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The banks that are written down.

    `runs`, `size` (how many in one pass; None until it is measured), `why`, `alone` (runs that were taken out again).
    """
    for file in sorted((store.path / BANKS).glob("*.json")):
        yield file, read_json(file)


def write_bank(file: Path, runs: Sequence[str], *, size: int | None, why: str) -> None:
    """Write a bank down."""
    write_json(file, {"runs": list(runs), "size": size, "why": why})


def dissolve(store: Store, item: WorkItem, *, why: str) -> bool:
    """Have the runs of a bank that failed trained one by one, so that one of them does not end the others.

    Returns:
        Whether `item` was a bank; the item of one run cannot be divided.
    """
    if item.kind not in ("measure", "bank"):
        return False
    file = store.path / BANKS / f"{item.id.partition('-')[0]}.json"
    with lock(store.claims):
        bank = read_json(file)
        if item.kind == "measure":
            bank["size"] = 1
        else:
            bank["alone"] = [*bank.get("alone", ()), *(job.id for job in item.jobs)]
        write_json(file, {**bank, "why": f"{bank['why']}; one by one: {why}"})
    item.state(store).unlink(missing_ok=True)
    return True


def form_banks(plan: Plan, store: Store, *, workers: int, measure: bool) -> None:
    """Put runs that nobody has begun into banks: same group, alike enough to be trained in one pass.

    With several workers a group is cut so that each has a bank. With `measure`, the worker that comes to a bank decides
    how many are trained in one pass; until then `size` is None.
    """
    with lock(store.claims):  # two commands on one folder must not put one run into two banks
        _form_banks(plan, store, workers=workers, measure=measure)


def _form_banks(plan: Plan, store: Store, *, workers: int, measure: bool) -> None:
    known = {name for _, bank in read_banks(store) for name in bank["runs"]}
    fresh = [job for job in plan.jobs if job.kind == "run" and job.id not in known and store.status(job) == "waiting"]
    for _, jobs in groups(fresh):
        size = min(_LARGEST_BANK, max(2, -(-len(jobs) // workers)))
        banks: list[list[Job]] = []
        for job in jobs:
            for bank in banks:
                if len(bank) < size and bankable([*(member.config for member in bank), job.config]) is None:
                    bank.append(job)
                    break
            else:
                banks.append([job])
        for bank in banks:
            if len(bank) > 1:
                names = [job.id for job in bank]
                file = store.path / BANKS / f"{fingerprint('bank', *names)}.json"
                write_bank(file, names, size=None if measure else len(names), why="" if measure else "asked for")
