"""A study on a local Ray cluster, one of whose workers is killed in the middle; started by test_ray as a process."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from rango.studies.plan import plan_study
from rango.studies.ray_cluster import run_on_ray
from rango.studies.store import Store
from rango.studies.study import Study


def main(values: str, out: str) -> None:
    study, folder = Study.build(json.loads(values)), Path(out)
    plan, store = plan_study(study, folder), Store(folder)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    killed: list[int] = []

    def watch() -> None:
        """Kill one worker that trains, once it is in the middle of a run."""
        training = (
            file
            for file in store.locks.glob("*.lock")
            if file.stem in plan.by_id and (store.folder(plan.job(file.stem)) / "log.jsonl").is_file()
        )
        file = None if killed else next(training, None)
        if file is not None:
            pid = int(file.read_text().split()[-1])
            assert pid != os.getpid()
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    run_on_ray(study, plan, store, address=cluster.address, bank="off", watch=watch)
    print(json.dumps({"killed": len(killed), "statuses": [store.status(job) for job in plan.jobs]}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
