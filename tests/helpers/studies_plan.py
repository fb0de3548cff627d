"""Studies that tests plan without working on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rango.studies.plan import Plan, plan_study
from rango.studies.study import Study

BASE: dict[str, Any] = {
    "model": "some/model", "task": "simulated", "train": 30, "validation": 20, "test": 25, "steps": 5,
}  # fmt: skip


def plan(out: Path = Path("out"), **values: Any) -> Plan:
    base = BASE | values.pop("base", {})
    return plan_study(Study.build({"name": "s", "base": base, **values}), out)


def kinds(found: Plan, *others: str) -> dict[str, int]:
    jobs: list[str] = [job.kind for job in found.jobs]
    return {kind: jobs.count(kind) for kind in (*others, "base", "run")}


def write(path: Path, **values: Any) -> Path:
    """A study file."""
    path.write_text(yaml.safe_dump({"base": BASE, **values}, sort_keys=False))
    return path
