"""The folder of a study: what is there is read once, and what another process changes is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rango.decisions import Posteriors
from rango.errors import InputError
from rango.files import read_yaml, write_yaml
from rango.results.outcomes import read_outcomes
from rango.studies import store
from rango.studies.execution import describe
from rango.studies.plan import Plan, plan_study
from rango.studies.queue import items_of_process, work_items
from rango.studies.store import Store
from rango.studies.study import Study
from rango.studies.worker import Worker

BASE = {"model": "some/model", "task": "simulated", "train": 30, "validation": 20, "test": 25, "steps": 4}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Six runs and their base, all of them done."""
    asked = {"name": "s", "base": BASE, "vary": {"lora.rank": [1, 2, 3]}, "seeds": [0, 1]}
    planned = plan_study(Study.build(asked), tmp_path)
    posteriors = Posteriors(np.log([[0.5, 0.5]]), np.array([0]))
    for split in ("validation", "test"):
        Store(tmp_path).write_posteriors(planned.jobs[0], split, "base", posteriors)
    for job in planned.jobs[1:]:
        write_yaml(Store(tmp_path).folder(job) / "run.yaml", {"status": "complete", "config": {"model": "some/model"}})
    return planned


def test_a_look_parses_nothing_that_was_parsed(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Path] = []

    def read(path: Path) -> dict[str, Any]:
        parsed.append(path)
        return read_yaml(path)

    monkeypatch.setattr(store, "read_record", read)
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


def test_a_run_is_done_when_its_dropout_posteriors_are_there_too(tmp_path: Path) -> None:
    base = {**BASE, "adaptation": "mc-dropout", "samples": 4, "lora": {"dropout": 0.1}}
    (_, job), here = plan_study(Study.build({"name": "s", "base": base}), tmp_path).jobs, Store(tmp_path)
    write_yaml(here.folder(job) / "run.yaml", {"status": "complete"})
    assert (here.is_trained(job), here.status(job)) == (True, "started")
    here.write_posteriors(job, "test", "mc-dropout-4", Posteriors(np.log([[0.5, 0.5]]), np.array([0])))
    assert here.status(job) == "done"
    assert here.counts([job]) == {"done": 1}


def test_held_out_figures_outlive_the_model(tmp_path: Path) -> None:
    models = {"lm": {"texts": "simulated", "hidden": 16}}
    plan = plan_study(Study.build({"name": "s", "base": {**BASE, "model": "lm"}, "models": models}), tmp_path)
    job, here = plan.jobs[0], Store(tmp_path)
    assert here.held_out(job) == {}
    record = Path(here.model(job, plan)) / "pretrain.yaml"
    write_yaml(record, {"held_out": {"held_out_nats_per_token": np.log(8.0).item()}})
    here.keep_held_out(job, plan)
    record.unlink()
    assert here.held_out(job) == {"held_out_perplexity": 8.0, "held_out_nats_per_token": np.log(8.0)}


def test_a_moved_run_names_the_model_where_it_is(plan: Plan, tmp_path: Path) -> None:
    job, here = plan.jobs[1], Store(tmp_path)
    before = here.record(job)
    moved = job.model_copy(update={"config": job.config.model_copy(update={"model": "elsewhere"})})
    here.relocate(moved)
    assert here.record(job)["config"]["model"] == "elsewhere"
    assert before["config"]["model"] == "some/model"


DAMAGE = [
    "[" * 100_000,
    "null",
    "[1]",
    '{"runs": 3, "reason": [], "trials": {}}',
    "{",
    '{"runs": [1], "trials": [1]}',
    "\x00",
]


@pytest.mark.parametrize("content", DAMAGE, ids=range(len(DAMAGE)))
@pytest.mark.parametrize(
    "name",
    ["plan.json", "failures/JOB.json", "failures/BASE.json", "banks/0f.json", "runs/JOB/run.yaml", "runs/JOB/log.jsonl",
     "bases/BASE/held-out.yaml", "bases/BASE/posteriors/test-base.parquet", "index.json", "locks/JOB.lock"],
)  # fmt: skip
def test_a_damaged_file_of_a_study_is_one_line_or_costs_its_own_part(
    name: str, content: str, plan: Plan, tmp_path: Path
) -> None:
    stored = Store(tmp_path)
    stored.write_plan(plan)
    file = tmp_path / name.replace("JOB", plan.jobs[1].id).replace("BASE", plan.jobs[0].id)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    # Everything that a command asks of a folder: what is left to do, who works on what, the table.
    for look in (
        lambda: describe(plan, stored),
        lambda: [item.ready(stored, plan) for item in work_items(plan, stored)],
        lambda: items_of_process(plan, stored, 1),
        lambda: stored.rebuild_index(stored.read_plan()),
        lambda: read_outcomes(tmp_path),
    ):
        message = ""
        try:
            look()
        except InputError as error:
            message = str(error)
        assert len(message) < 1500
        assert not message or file.name in message


def test_a_plan_that_lacks_a_job_says_so(plan: Plan) -> None:
    with pytest.raises(InputError, match="plan.json has no job '../x', which its rows read; run rango study again"):
        plan.job("../x")
