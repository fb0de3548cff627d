"""Reading a study folder back: what cannot be read of one cell is that cell's reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rango.decisions import Posteriors
from rango.results.outcomes import read_outcomes
from rango.studies.plan import plan_study
from rango.studies.store import Store
from rango.studies.study import Study


def test_a_posterior_of_zero_is_the_reason_of_the_matrix_alone(tmp_path: Path) -> None:
    base = {"model": "some/model", "task": "simulated", "train": 30, "validation": 20, "test": 25}
    runs = [{"adaptation": "none"}, *({"adaptation": "calibration", "calibrator": way} for way in ("matrix", "bias"))]
    plan, store = plan_study(Study.build({"name": "s", "base": base, "runs": runs}), tmp_path), Store(tmp_path)
    store.write_plan(plan)
    with np.errstate(divide="ignore"):
        some = Posteriors(np.log([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]]), np.array([0, 2, 1]))
    for split in ("validation", "test"):
        store.write_posteriors(plan.jobs[0], split, "base", some)
    none, matrix, bias = read_outcomes(tmp_path).outcomes
    assert "has a choice of posterior 0; a matrix calibrator needs every choice" in matrix.failures[0]
    assert not matrix.posteriors
    assert none.posteriors.keys() == bias.posteriors.keys() == {0}
