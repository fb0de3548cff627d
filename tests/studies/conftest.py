"""A study of a tiny random model, planned and written down as workers read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.studies_work import BASE, Checkpoint, Made

from rango.studies.execution import begin
from rango.studies.plan import Plan, plan_study
from rango.studies.store import Store
from rango.studies.study import Study


@pytest.fixture
def prepare(checkpoint: Checkpoint, tmp_path: Path) -> Made:
    """A function that plans a study of a random model and writes what a worker reads."""

    def made(
        bank: Any = "off", out: Path | None = None, retry: bool = False, cuda: bool | None = None, **values: Any
    ) -> tuple[Plan, Store]:
        base = {**BASE, "model": str(checkpoint("phi")), **values.pop("base", {})}
        study = Study.build({"name": "s", "base": base, **values})
        folder = out or tmp_path / "study"
        plan, store = plan_study(study, folder), Store(folder)
        begin(study, plan, store, workers=1, bank=bank, retry=retry, cuda=cuda)
        return plan, store

    return made
