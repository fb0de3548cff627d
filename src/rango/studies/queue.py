"""What workers take from a study's folder: items of work, and the lock that gives an item to one worker at a time.

    plan ──▶ items (models, bases, baselines, banks, runs) ──▶ locks/ID.lock, held by one process
         ──▶ done, failed or pruned

Nothing else is shared between workers. Whoever finds an item unfinished and its lock free may take it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rango.errors import InputError
from rango.files import fingerprint, naming_file, read_json, remove_leftovers, write_json
from rango.options import BASELINES, Baseline
from rango.studies.plan import Job, Plan, groups, own_model
from rango.studies.store import ENDED, Store
from rango.training.bank import bankable

LARGEST_BANK = 8
"""Runs of a bank at most: until its backward pass a bank keeps the activations of all its runs in memory."""


@dataclass(frozen=True)
class WorkItem:
    """What a worker does under one lock."""

    id: str
    kind: Literal["model", "base", "run", "bank"] | Baseline
    jobs: tuple[Job, ...]

    @property
    def group(self) -> str | None:
        """The group of its jobs; a model has none."""
        return self.jobs[0].group if self.jobs else None

    def unfinished(self, store: Store) -> list[str]:
        """The ids of what is neither done nor failed; a failure of this item is remembered under them."""
        if self.kind == "model":
            return [] if store.has_model(self.id) or store.failure(self.id) else [self.id]
        return [job.id for job in self.jobs if store.status(job) not in ENDED]

    def ready(self, store: Store, plan: Plan) -> tuple[Literal["yes", "no", "never"], str]:
        """Whether what it builds on is done, and why it failed where this item can never be done.

        First the study's own model to adapt, or the one whose tokenizer is taken; then the base's posteriors.
        """
        model = plan.models[self.id].tokenizer_of if self.kind == "model" else own_model(self.jobs[0], plan)
        if model is not None and not store.has_model(model):
            reason = store.failure(model)
        elif self.kind in ("model", "base", *BASELINES) or store.status(plan.job(self.jobs[0].base)) == "done":
            return "yes", ""
        else:
            reason = store.failure(self.jobs[0].base)
        return ("never" if reason else "no"), reason


def work_items(plan: Plan, store: Store) -> Iterator[WorkItem]:
    """All items of a plan, what others build on first."""
    for name in plan.models:
        yield WorkItem(name, "model", ())
    for job in plan.jobs:
        if job.kind != "run":
            yield WorkItem(job.id, job.kind, (job,))
    banked = set()
    # A folder also has the banks of earlier plans: their runs of this plan stay together, as their state file has all.
    for name, bank in read_banks(store):
        jobs = tuple(plan.job(run) for run in bank["runs"] if run in plan.by_id)
        if jobs and not bank.get("divided"):
            banked |= {job.id for job in jobs}
            yield WorkItem(name, "bank", jobs)
    for job in plan.jobs:
        if job.kind == "run" and job.id not in banked:
            yield WorkItem(job.id, "run", (job,))


def read_banks(store: Store) -> Iterator[tuple[str, dict[str, Any]]]:
    """Id and content of each bank: `runs`, and `divided`, why they are trained one by one after all, or None."""
    for file in sorted(store.banks.glob("*.json")):
        bank = read_json(file)
        runs = bank.get("runs") if isinstance(bank, dict) else None
        if not isinstance(runs, list) or not all(isinstance(run, str) for run in runs):
            raise InputError(f"{file} is no bank; delete it, and its runs are trained one by one")
        yield file.stem, bank


def form_banks(runs: Sequence[Job], store: Store, *, workers: int) -> None:
    """Put runs that nobody has begun into banks: of one group, alike enough to be trained in one pass.

    A group is cut so that each of several workers has a bank. Banks are written down before anything runs: which runs
    are trained together decides the last bits, and a study that goes on after a kill must give the same table.
    """
    store.banks.mkdir(parents=True, exist_ok=True)
    with (store.banks / ".lock").open("a") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)  # two commands on one folder must not put one run into two banks
        known = {run for _, bank in read_banks(store) for run in bank["runs"]}
        fresh = [job for job in runs if job.id not in known and store.status(job) == "waiting"]
        for _, jobs in groups(fresh):
            size = min(LARGEST_BANK, max(2, -(-len(jobs) // workers)))
            banks: list[list[Job]] = []
            # Each run goes into the first bank that has room for it and takes it.
            for job in jobs:
                for bank in banks:
                    if len(bank) < size and bankable([*(member.config for member in bank), job.config]) is None:
                        bank.append(job)
                        break
                else:
                    banks.append([job])
            for bank in banks:
                if len(bank) > 1:
                    ids = [job.id for job in bank]
                    write_json(store.banks / f"{fingerprint('bank', *ids)}.json", {"runs": ids, "divided": None})


def divide_bank(item: WorkItem, store: Store, *, reason: str) -> bool:
    """Have the runs of a bank that failed trained one by one, so that one of them does not end the others.

    Which of them is to blame, or whether they are too many for the memory, cannot be known from outside.

    Returns:
        Whether `item` is a bank; nothing else can be divided.
    """
    if item.kind != "bank":
        return False
    file = store.banks / f"{item.id}.json"
    write_json(file, {**read_json(file), "divided": reason})
    store.bank_state(item.id).unlink(missing_ok=True)
    remove_leftovers(store.bank_state(item.id))
    return True


@dataclass(frozen=True)
class ItemLock:
    """A lock that this process holds on an item. The system frees it when the process ends, however it ends."""

    path: Path
    descriptor: int
    """A bare number: a file object would be closed, and the lock freed, when nobody refers to it any more."""

    def release(self) -> None:
        """Give the item back."""
        self.path.unlink(missing_ok=True)  # while it is held: a process that has opened it already sees that it is gone
        os.close(self.descriptor)


def lock_item(path: Path) -> ItemLock | None:
    """Take the lock of an item; None where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last owner may have removed the file after it was opened here: then the lock is on a file without a name.
        gone = not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        gone = True
    if gone:
        os.close(descriptor)
        return None
    with naming_file(path):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _owner(os.getpid()).encode())
    return ItemLock(path, descriptor)


def locked_ids(store: Store) -> set[str]:
    """The items that living processes hold.

    A look takes the lock for a moment: a worker that wants it just then finds it taken, and asks again.
    """
    held = set()
    for file in store.locks.glob("*.lock"):
        try:
            with file.open() as opened:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            held.add(file.stem)
        except FileNotFoundError:
            pass  # released meanwhile
    return held


def items_of_process(plan: Plan, store: Store, pid: int | None) -> list[WorkItem]:
    """The items whose locks a process of this machine took last and has not released, be it alive or not."""
    taken = set()
    for file in store.locks.glob("*.lock"):
        with contextlib.suppress(FileNotFoundError):  # released meanwhile
            if file.read_text(encoding="utf-8", errors="replace") == _owner(pid):
                taken.add(file.stem)
    return [item for item in work_items(plan, store) if item.id in taken]


def _owner(pid: int | None) -> str:
    """The text in a lock: on a shared folder, processes of several machines may have one number."""
    return f"{socket.gethostname()} {pid}"
