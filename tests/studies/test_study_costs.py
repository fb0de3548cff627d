"""Metrics to show first and what decisions cost, as a study file states them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.studies_plan import plan, write

from rango.decisions import StatedCosts
from rango.errors import InputError
from rango.studies.plan import Plan, plan_study
from rango.studies.study import Study
from rango.studies.study_file import read_study


class TestMetricsAndCosts:
    def test_a_costs_file_is_read_and_kept(self, tmp_path: Path) -> None:
        matrix = {"classes": ["a", "b"], "decisions": ["a", "b", "ask"], "costs": [[0, 1, 0.3], [5, 0, 0.3]]}
        file = tmp_path / "costs.yaml"
        file.write_text(yaml.safe_dump(matrix))
        for stated in (str(file), matrix):
            costs = read_study(write(tmp_path / "a.yaml", costs=stated, metrics="expected_cost")).costs
            assert costs is not None
            assert costs.costs == ((0.0, 1.0, 0.3), (5.0, 0.0, 0.3))
            assert costs.decisions == ("a", "b", "ask")

    def test_decisions_are_the_classes_of_a_square_matrix(self, tmp_path: Path) -> None:
        stated = {"classes": ["a", "b"], "costs": [[0, 1], [2, 0]]}
        costs = read_study(write(tmp_path / "a.yaml", costs=stated)).costs
        assert costs is not None
        assert costs.decisions == ("a", "b")

    @pytest.mark.parametrize("costs", [{"abstain": 0.3}, {"costs": [[0, 1, 0.2], [1, 0, 0.2]]}])
    def test_what_is_stored_reads_back_equal(self, tmp_path: Path, costs: dict[str, Any]) -> None:
        study = read_study(write(tmp_path / "a.yaml", costs=costs, metrics=["ece", "expected_cost"]))
        stored = study.model_dump(mode="json", exclude_defaults=True)
        assert Study.build(stored) == study

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"metrics": ["cross_entropi"]}, "unknown metric 'cross_entropi': did you mean 'cross_entropy'"),
            ({"metrics": ["ece", "nce", "ece"]}, "ece is named twice; name each metric once"),
            ({"metrics": ["expected_cost"]}, "metrics has expected_cost but there are no costs; give costs, such as"),
            ({"costs": "no/such.yaml"}, "no/such.yaml"),
            ({"costs": {"cost": [[0, 1], [1, 0]]}}, "unknown key in costs 'cost': did you mean 'costs'"),
            ({"costs": {"costs": [[0, 1], [1]]}}, "give rows of one length"),
            ({"costs": {"abstain": 1.5}}, "abstain is 1.5; expected a cost between 0 and 1"),
            ({"costs": {"abstain": 0.3, "costs": [[0, 1], [1, 0]]}}, "abstain and costs are both given"),
            ({"costs": 3}, "costs is 3"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, values: dict[str, Any], words: str) -> None:
        with pytest.raises(InputError) as error:
            plan_study(read_study(write(tmp_path / "a.yaml", **values)), tmp_path / "out")
        assert words in str(error.value)
        assert "\n" not in str(error.value)

    def test_the_plan_keeps_them_so_that_it_reads_back_without_the_study_file(self) -> None:
        planned = plan(metrics=["ece", "expected_cost"], costs={"abstain": 0.3})
        assert planned.metrics == ("ece", "expected_cost")
        assert Plan.build(planned.model_dump(mode="json")) == planned
        matrix = plan(costs={"classes": ["a", "b", "c"], "costs": [[0, 1, 1], [2, 0, 1], [1, 1, 0]]})
        assert Plan.model_validate_json(matrix.model_dump_json()) == matrix

    def test_costs_that_fit_no_task_are_refused_before_anything_runs(self) -> None:
        two = {"costs": [[0, 1], [1, 0]]}
        with pytest.raises(
            InputError, match="study s: costs have 2 classes but the tasks have 3 choices; give one row"
        ):
            plan(costs=two)
        plan(
            costs={"costs": [[0, 1, 1], [1, 0, 1], [1, 1, 0]]}, vary={"task": ["simulated", "simulated-continuations"]}
        )

    def test_costs_of_the_command_line_win(self, tmp_path: Path) -> None:
        file = write(tmp_path / "a.yaml", costs={"abstain": 0.3})
        assert read_study(file, costs="abstain=0.2").costs == StatedCosts(abstain=0.2)
        with pytest.raises(InputError, match="abstain is 'much'; expected a cost between 0 and 1"):
            read_study(file, costs="abstain=much")
