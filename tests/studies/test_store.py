"""The folder of a study: what is there is read once, and what another process changes is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rango.decisions import Posteriors
from rango.files import read_yaml, write_yaml
from rango.studies import store
from rango.studies.plan import Plan, plan_study
from rango.studies.store import Store
from rango.studies.study import Study
from rango.studies.worker import Worker

BASE = {"model": "some/model", "task": "simulated", "train": 30, "validation": 20, "test": 25, "steps": 4}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Six runs and their base, all of them done."""
    asked = {"name": "s", "base": BASE, "vary": {"lora.rank": [1, 2, 3]}, "seeds": [0, 1]}
    found = plan_study(Study.build(asked), tmp_path)
    some = Posteriors(np.log([[0.5, 0.5]]), np.array([0]))
    for split in ("validation", "test"):
        Store(tmp_path).write_posteriors(found.jobs[0], split, "base", some)
    for job in found.jobs[1:]:
        write_yaml(Store(tmp_path).folder(job) / "run.yaml", {"status": "complete", "config": {"model": "some/model"}})
    return found


def test_a_look_parses_nothing_that_was_parsed(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Path] = []

    def read(path: Path) -> dict[str, Any]:
        parsed.append(path)
        return read_yaml(path)

    monkeypatch.setattr(store, "read_yaml", read)
    worker = Worker(Store(tmp_path), plan)
    for _ in range(3):
        assert worker.do_next() == "nothing"
    assert len(parsed) == len(set(parsed)) == 6


def test_what_another_process_writes_is_seen(plan: Plan, tmp_path: Path) -> None:
    job, here, there = plan.jobs[1], Store(tmp_path), Store(tmp_path)
    file = here.folder(job) / "run.yaml"
    assert here.status(job) == "done"
    for status, seen in (("pruned", "pruned"), ("running", "started"), ("complete", "done")):
        write_yaml(file, {"status": status})
        assert here.status(job) == seen
    write_yaml(file, {"status": "pruned"})
    there.resume_pruned([job])
    assert here.status(job) == "started"
    there.write_failure(job.id, "no memory")
    assert here.status(job) == "failed"
    there.forget_failures()
    assert here.status(job) == "started"
    file.unlink()
    assert here.status(job) == "waiting"


def test_a_moved_run_names_the_model_where_it_is(plan: Plan, tmp_path: Path) -> None:
    job, here = plan.jobs[1], Store(tmp_path)
    before = here.record(job)
    moved = job.model_copy(update={"config": job.config.model_copy(update={"model": "elsewhere"})})
    here.relocate(moved)
    assert here.record(job)["config"]["model"] == "elsewhere"
    assert before["config"]["model"] == "some/model"
