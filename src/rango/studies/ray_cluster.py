"""A study on a Ray cluster: one task for each group of runs that share a base, on a folder that all machines see.

A task is the same worker as on one machine, kept to its group. So a task that Ray starts again after its machine died
goes on with what was saved, and a run that another worker has claimed is left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rango.errors import InputError
from rango.studies.plan import Job, Plan, groups
from rango.studies.running import Bank, begin
from rango.studies.store import ENDED, Store
from rango.studies.study import Study

_RETRIES = 4
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
        ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError) as error:
        raise InputError(f"--ray {address!r} cannot be reached ({error}); give a cluster's address, or local") from None
    try:
        share = gpus if gpus is not None else float(ray.cluster_resources().get("GPU", 0) > 0)
        remote = ray.remote(num_cpus=1, num_gpus=share, max_retries=_RETRIES)(work_group)
        path = str(store.path.resolve())
        jobs_of = {remote.remote(path, group): jobs for group, jobs in groups(plan.jobs)}
        pending = list(jobs_of)
        while pending:
            ready, pending = ray.wait(pending, timeout=_WAIT_SECONDS)
            for task in ready:
                _collect(ray, task, jobs_of[task], store)
            watch()
    finally:
        ray.shutdown()
        store.rebuild_index(plan)


def work_group(path: str, group: str) -> str:
    """The task: everything of one group."""
    from rango.studies.worker import Worker

    store = Store(Path(path))
    Worker(store, store.read_plan(), only=frozenset([group])).work()
    return group


def _collect(ray: Any, task: Any, jobs: Sequence[Job], store: Store) -> None:
    """A task that died more often than it is retried leaves its group's unfinished jobs as failed."""
    try:
        ray.get(task)
    except ray.exceptions.RayError as error:
        reason = f"its Ray task died {_RETRIES + 1} times ({type(error).__name__}: {str(error).splitlines()[0]})"
        for job in jobs:
            if store.status(job) not in ENDED:
                store.write_failure(job.id, reason)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs Ray, which is not installed; pip install 'rango[ray]'") from None
    return ray
