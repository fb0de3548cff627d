"""A study on a Ray cluster: one task for each group of runs that share a base, on a folder that all machines see.

A task is the same worker as on one machine, kept to its group. So a task that is started again after its process or
machine died goes on with what was saved, and a run that another worker has claimed is left to it.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rango.errors import InputError
from rango.studies.execution import Bank, begin, give_up
from rango.studies.plan import Plan, groups
from rango.studies.queue import work_items
from rango.studies.store import ENDED, Store
from rango.studies.study import Study

_DEATHS = 2  # of tasks in the same item, before the item is given up
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
        store: on a folder that every machine of the cluster sees under the same path.
        address: of the cluster, or `local` to start one here.
        bank: as in `run_study`.
        retry: try again what failed.
        gpus: GPUs of a task, a fraction lets tasks share one; one where the cluster has any when None.
        watch: called a few times a second.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
    """
    ray = _ray()
    begin(study, plan, store, workers=1, bank=bank, retry=retry)
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise InputError(f"--ray {address!r} cannot be reached ({error}); give a cluster's address, or local") from None
    try:
        share = gpus if gpus is not None else float(ray.cluster_resources().get("GPU", 0) > 0)
        remote = ray.remote(num_cpus=1, num_gpus=share, max_retries=0)(work_group)
        places = str(store.path.resolve()), str(Path.cwd())
        group_of = {remote.remote(*places, group): group for group, _ in groups(plan.jobs)}
        deaths: Counter[str] = Counter()
        while group_of:
            ready, _ = ray.wait(list(group_of), timeout=_WAIT_SECONDS)
            for task in ready:
                group = group_of.pop(task)
                if not _collect(ray, task, group, plan, store, deaths):
                    group_of[remote.remote(*places, group)] = group
            watch()
    finally:
        ray.shutdown()
        store.rebuild_index(plan)


def work_group(path: str, folder: str, group: str) -> str:
    """The task: everything of one group of the study in `path`; other paths are relative to `folder`."""
    from rango.studies.worker import Worker

    with contextlib.suppress(FileNotFoundError):
        os.chdir(folder)
    store = Store(Path(path))
    Worker(store, store.read_plan(), only=frozenset([group])).work()
    return group


def _collect(ray: Any, task: Any, group: str, plan: Plan, store: Store, deaths: Counter[str]) -> bool:
    """Whether a task that has ended is over; one that died is to be started again.

    A item in which tasks die is given up, so that the rest of its group gets done.
    """
    try:
        ray.get(task)
    except ray.exceptions.RayTaskError as error:  # an error of the worker itself: it would come again
        _fail(plan, store, group, f"its Ray task failed: {str(error.cause).splitlines()[0]}")
    except ray.exceptions.RayError as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        held = [item for item in work_items(plan, store) if item.group == group and store.is_claimed(item.id)]
        for name in [item.id for item in held] or [group]:
            deaths[name] += 1
        for item in held:
            if deaths[item.id] >= _DEATHS:
                give_up(store, item, f"its Ray task died {_DEATHS} times ({reason}); out of memory?")
        if deaths[group] <= _DEATHS:
            return False
        _fail(plan, store, group, f"its Ray task died before it began anything ({reason})")
    return True


def _fail(plan: Plan, store: Store, group: str, reason: str) -> None:
    for job in plan.jobs:
        if job.group == group and store.status(job) not in ENDED:
            store.write_failure(job.id, reason)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs Ray, which is not installed; pip install 'rango[ray]'") from None
    return ray
