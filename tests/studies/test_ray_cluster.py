"""A study on a Ray cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rango.errors import InputError
from rango.studies.execution import begin
from rango.studies.plan import plan_study
from rango.studies.ray_cluster import run_on_ray
from rango.studies.store import Store
from rango.studies.study import Study
from rango.studies.worker import Worker

BASE: dict[str, Any] = {
    "form": "cloze", "normalise": "none", "train": 12, "validation": 12, "test": 10, "steps": 60, "batch": 4,
    "validate_every": 2, "learning_rate": 0.03, "device": "cpu", "dtype": "float32",
}  # fmt: skip


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    values = {
        "name": "s",
        "base": {**BASE, "model": str(checkpoint("phi"))},
        "vary": {"task": ["simulated", "simulated-continuations"], "lora.rank": [1, 2]},
    }
    script = Path(__file__).parents[1] / "helpers" / "ray_study.py"
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(values), str(tmp_path / "ray")],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"killed": 1, "statuses": ["done"] * 6}
    study = Study.build(values)
    plan, here = plan_study(study, tmp_path / "here"), Store(tmp_path / "here")
    begin(study, plan, here, workers=1, bank="off", retry=False)
    Worker(here, plan).work()
    there = Store(tmp_path / "ray")
    for job in plan.jobs:
        state = "base" if job.kind == "base" else "adapted"
        one, other = (store.posteriors(job, "test", state).log_posteriors for store in (here, there))
        np.testing.assert_allclose(one, other, atol=1e-6)


class OneMachine:
    """Ray as far as a study needs it, on this machine: a task is done when it is asked for."""

    def __init__(self, gpus: float) -> None:
        self.resources = {"GPU": gpus} if gpus else {}
        self.asked: list[dict[str, Any]] = []
        self.exceptions = SimpleNamespace(RayTaskError=ValueError, RayError=OSError)

    def init(self, **_: Any) -> None:
        """The cluster is there."""

    shutdown = init

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, **asked: Any) -> Any:
        self.asked.append(asked)
        return lambda work: SimpleNamespace(remote=work)

    def wait(self, tasks: list[str], **_: Any) -> tuple[list[str], list[str]]:
        return tasks, []

    def get(self, task: str) -> str:
        return task


@pytest.mark.parametrize(("there", "gpus", "expected"), [(2.0, 0.25, 0.25), (2.0, None, 1.0), (0.0, None, 0.0)])
def test_a_task_may_ask_for_a_fraction_of_a_gpu(
    there: float,
    gpus: float | None,
    expected: float,
    checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = OneMachine(there)
    monkeypatch.setitem(sys.modules, "ray", ray)
    study = Study.build(
        {"name": "s", "base": {**BASE, "model": str(checkpoint("phi")), "task": "simulated", "steps": 2}}
    )
    plan, store = plan_study(study, tmp_path), Store(tmp_path)
    run_on_ray(study, plan, store, address="local", bank="off", gpus=gpus)
    assert ray.asked == [{"num_cpus": 1, "num_gpus": expected, "max_retries": 0}]
    assert {store.status(job) for job in plan.jobs} == {"done"}


def test_ray_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    study = Study.build({"name": "s", "base": {"model": "m", "task": "simulated"}})
    plan = plan_study(study, tmp_path / "out")
    with pytest.raises(InputError, match=r"--ray needs Ray, which is not installed; pip install 'rango-lm\[ray\]'"):
        run_on_ray(study, plan, Store(tmp_path / "out"), address="local")
    assert not (tmp_path / "out").exists()
