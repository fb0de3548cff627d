"""A study on a Ray cluster: one task for each group of runs that share a base, on a folder that all machines see.

A task is the same worker as on one machine, kept to its group. So a task that is started again after its process or
machine died goes on with what was saved, and a run whose lock another worker holds is left to that worker.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rango.errors import InputError, first_line
from rango.studies.execution import DEATHS, Bank, begin, give_up
from rango.studies.plan import Plan, groups
from rango.studies.queue import work_items
from rango.studies.store import ENDED, Store
from rango.studies.study import Study

_WAIT_SECONDS = 0.5


def run_on_ray(
    study: Study,
    plan: Plan,
    store: Store,
    *,
    address: str,
    bank: Bank = "auto",
    retry: bool = False,
    gpus: float | None = None,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Do what is left of a prepared study on a Ray cluster.

    Args:
        study: for the record in the folder.
        plan: what `prepare` returned.
        store: likewise, on a folder that every machine of the cluster sees under the same path.
        address: of the cluster, or `local` to start one here.
        bank: as in `run_study`; `auto` asks whether the cluster has GPUs.
        retry: try again what failed.
        gpus: GPUs of a task, a fraction lets tasks share one; one where the cluster has any when None.
        watch: called a few times a second.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs Ray, which is not installed; pip install 'rango-lm[ray]'") from None
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise InputError(f"--ray {address!r} cannot be reached ({error}); give a cluster's address, or local") from None
    try:
        on_cuda = float(ray.cluster_resources().get("GPU", 0)) > 0
        begin(study, plan, store, workers=1, bank=bank, retry=retry, cuda=on_cuda)
        share = float(on_cuda) if gpus is None else gpus
        remote = ray.remote(num_cpus=1, num_gpus=share, max_retries=0)(work_on_group)
        places = str(store.path.resolve()), str(Path.cwd())
        group_of = {remote.remote(*places, group): group for group, _ in groups(plan.jobs)}
        deaths: Counter[str] = Counter()
        # A task whose process or machine died is started again, until its group is done or given up.
        while group_of:
            ready, _ = ray.wait(list(group_of), timeout=_WAIT_SECONDS)
            for task in ready:
                group = group_of.pop(task)
                if not _is_over(ray, task, group, plan, store, deaths):
                    group_of[remote.remote(*places, group)] = group
            watch()
    finally:
        ray.shutdown()
        store.rebuild_index(plan)


def work_on_group(path: str, folder: str, group: str) -> str:
    """The task: everything of one group of the study in `path`; other paths are relative to `folder`."""
    from rango.studies.worker import Worker

    # Another machine may lack the driver's folder; then paths in the study must be absolute.
    with contextlib.suppress(FileNotFoundError):
        os.chdir(folder)
    store = Store(Path(path))
    Worker(store, store.read_plan(), only=frozenset([group])).work()
    return group


def _is_over(ray: Any, task: Any, group: str, plan: Plan, store: Store, deaths: Counter[str]) -> bool:
    """Whether a task that has ended is over; one that died is to be started again.

    An item in which tasks die is given up, so that the rest of its group gets done.
    """

    def fail(reason: str) -> None:
        for job in plan.jobs:
            if job.group == group and store.status(job) not in ENDED:
                store.write_failure(job.id, reason)

    try:
        ray.get(task)
    except ray.exceptions.RayTaskError as error:  # an error of the worker itself: it would come again
        fail(f"its Ray task failed: {first_line(error.cause)}")
    except ray.exceptions.RayError as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        # A group has one task at a time: the lock files that exist are those of the task that died.
        items = [item for item in work_items(plan, store) if item.group == group]
        locked = [item for item in items if store.lock_file(item.id).is_file()]
        for name in [item.id for item in locked] or [group]:
            deaths[name] += 1
        for item in locked:
            if deaths[item.id] >= DEATHS:
                give_up(store, item, f"its Ray task died {DEATHS} times ({reason}); out of memory?")
        if deaths[group] <= DEATHS:
            return False
        fail(f"its Ray task died before it began anything ({reason})")
    return True
