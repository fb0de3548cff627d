"""Plans: what is computed once, what is shared, which configurations are the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rango.errors import InputError
from rango.files import fingerprint
from rango.options import FinetuneConfig
from rango.studies.plan import Plan, plan_study
from rango.studies.study import Study
from rango.studies.study_file import read_study

ROOT = Path(__file__).resolve().parents[2]
BASE: dict[str, Any] = {
    "model": "some/model", "task": "simulated", "train": 30, "validation": 20, "test": 25, "steps": 5,
}  # fmt: skip


def plan(out: Path = Path("out"), **values: Any) -> Plan:
    base = BASE | values.pop("base", {})
    return plan_study(Study.build({"name": "s", "base": base, **values}), out)


def kinds(found: Plan) -> dict[str, int]:
    jobs = [job.kind for job in found.jobs]
    return {kind: jobs.count(kind) for kind in ("base", "run")}


class TestSharing:
    def test_one_base_for_all_ranks_and_seeds(self) -> None:
        found = plan(vary={"lora.rank": [1, 2]}, seeds=[0, 1, 2])
        assert kinds(found) == {"base": 1, "run": 6}
        assert len({job.group for job in found.jobs}) == 1
        assert [len(row.cells) for row in found.rows] == [3, 3]

    def test_scoring_and_task_make_another_base(self) -> None:
        assert kinds(plan(vary={"normalise": ["none", "tokens"]}))["base"] == 2
        assert kinds(plan(vary={"task": ["simulated", "simulated-continuations"]}))["base"] == 2

    def test_training_sizes_share_the_base(self) -> None:
        found = plan(vary={"train": [10, 20], "adaptation": ["none", "lora"]})
        assert kinds(found) == {"base": 1, "run": 2}
        assert [dict(row.axes) for row in found.rows] == [
            {"train": None, "adaptation": "none"},
            {"train": 10, "adaptation": "lora"},
            {"train": 20, "adaptation": "lora"},
        ]

    def test_adaptations_read_the_same_run(self) -> None:
        found = plan(vary={"adaptation": ["none", "calibration", "lora", "lora+calibration"]}, seeds=[0, 1])
        assert kinds(found) == {"base": 1, "run": 2}
        none, calibration, lora, both = found.rows
        assert len(none.cells) == len(calibration.cells) == 1
        assert none.cells[0].sources == calibration.cells[0].sources
        assert (none.cells[0].calibrator, calibration.cells[0].calibrator) == (None, "temperature")
        assert [cell.sources for cell in lora.cells] == [cell.sources for cell in both.cells]

    def test_combinations_that_mean_the_same_collapse(self) -> None:
        found = plan(vary={"adaptation": ["none", "lora"], "lora.rank": [1, 2, 4]})
        assert dict(found.rows[0].axes) == {"adaptation": "none", "lora.rank": None}
        assert len(found.rows) == 4

    def test_what_a_listed_run_does_not_name_is_told_as_it_is(self) -> None:
        runs = [{"adaptation": "none"}, {"lora.rank": 2}, {"lora.targets": "q"}, {"normalise": "tokens"}]
        found = plan(base={"lora": {"targets": "v"}}, runs=runs)
        assert [tuple(row.axes.values()) for row in found.rows] == [
            ("none", 8, "v", "none"),
            ("lora", 2, "v", "none"),
            ("lora", 8, "q", "none"),
            ("lora", 8, "v", "tokens"),
        ]

    def test_values_are_told_as_the_configuration_reads_them(self) -> None:
        # YAML takes 1e-3 for a word.
        found = plan(vary={"learning_rate": ["1e-4", "1e-3", 0.001], "lora.rank": [8, 8.0, "8", 4]})
        assert [tuple(row.axes.values()) for row in found.rows] == [(1e-4, 8), (1e-4, 4), (1e-3, 8), (1e-3, 4)]
        assert {type(row.axes["learning_rate"]) for row in found.rows} == {float}

    def test_targets_have_one_order(self) -> None:
        found = plan(vary={"lora.targets": ["q,v", "v,q", ["v", "q"], "head,mlp,o"]})
        assert [row.axes["lora.targets"] for row in found.rows] == ["q,v", "o,mlp,head"]
        runs = [job.config.lora.targets for job in found.jobs if job.kind == "run"]
        assert runs == [("q", "v"), ("o", "mlp", "head")]

    def test_the_rule_belongs_to_choice(self) -> None:
        found = plan(vary={"objective": ["answer", "choice"], "rule": ["logarithmic", "brier"]})
        told = [tuple(row.axes.values()) for row in found.rows]
        assert told == [("answer", None), ("choice", "logarithmic"), ("choice", "brier")]
        assert kinds(found)["run"] == 3

    def test_a_calibrator_left_open_is_told(self) -> None:
        found = plan(vary={"adaptation": ["lora", "lora+calibration"], "calibrator": [None, "temperature", "bias"]})
        assert [tuple(row.axes.values()) for row in found.rows] == [
            ("lora", None), ("lora+calibration", "temperature"), ("lora+calibration", "bias"),
        ]  # fmt: skip

    def test_the_metric_of_the_study_chooses_checkpoints(self) -> None:
        def chosen(**values: Any) -> set[str]:
            return {job.config.select for job in plan(**values).jobs if job.kind == "run"}

        assert chosen(select="accuracy") == {"accuracy"}
        assert chosen(select="accuracy", base={"select": "brier"}) == {"brier"}
        assert chosen(select="accuracy", vary={"select": ["nce", "brier"]}) == {"nce", "brier"}
        assert chosen(select="cross_entropy") == {"nce"}  # they order alike, and share runs

    @pytest.mark.parametrize("objective", ["answer", "choice"])
    def test_each_regime_is_a_run(self, objective: str) -> None:
        found = plan(base={"objective": objective}, vary={"regime": ["validation", "retrain", "all"]})
        assert [row.axes["regime"] for row in found.rows] == ["validation", "retrain", "all"]
        assert kinds(found) == {"base": 1, "run": 3}

    def test_letters_are_calibrated_affinely(self) -> None:
        (row,) = plan(base={"adaptation": "calibration", "form": "letter"}).rows
        assert row.cells[0].calibrator == "affine"


class TestWays:
    def test_members_of_an_ensemble_are_its_own(self) -> None:
        found = plan(base={"adaptation": "ensemble", "members": 2}, seeds=[0, 1])
        (row,) = found.rows
        seeds = [[found.job(source.job).config.seed for source in cell.sources] for cell in row.cells]
        assert seeds == [[0, 1], [2, 3]]

    def test_an_ensemble_shares_its_members_with_single_runs(self) -> None:
        assert kinds(plan(vary={"adaptation": ["lora", "ensemble"]}, seeds=[0, 1, 2]))["run"] == 9

    def test_few_shot_draws_by_seed(self) -> None:
        found = plan(base={"adaptation": "few-shot", "shots": 3, "objective": "tokens"}, seeds=[0, 1])
        assert kinds(found) == {"base": 2, "run": 0}
        assert [job.config.shots_seed for job in found.jobs] == [0, 1]

    def test_shots_belong_to_few_shot_alone(self) -> None:
        found = plan(base={"shots": 3}, vary={"adaptation": ["none", "lora", "few-shot"]})
        assert sorted(job.config.shots for job in found.jobs) == [0, 0, 3]

    def test_full_is_another_run_than_lora(self) -> None:
        assert kinds(plan(vary={"adaptation": ["lora", "full"]}))["run"] == 2

    def test_mc_dropout_reads_its_own_state(self) -> None:
        found = plan(base={"adaptation": "mc-dropout", "samples": 4, "lora": {"dropout": 0.1}})
        assert found.rows[0].cells[0].sources[0].state == "mc-dropout-4"
        assert found.jobs[-1].samples == (4,)


class TestIdentity:
    def test_more_values_leave_the_other_runs(self) -> None:
        few, more = plan(vary={"lora.rank": [1]}), plan(vary={"lora.rank": [1, 2]}, about="More.")
        assert {job.id for job in few.jobs} < {job.id for job in more.jobs}

    def test_own_models_do_not_tie_runs_to_a_folder(self) -> None:
        models = {"tiny": {"texts": "simulated", "hidden": 16, "heads": 4, "tokens": 100}}
        here, there = (plan(Path(out), base={"model": "tiny"}, models=models) for out in ("a", "b/c"))
        assert [job.id for job in here.jobs] == [job.id for job in there.jobs]
        assert here.jobs[0].config.model.startswith("a/models/tiny-")

    def test_a_plan_reads_back(self) -> None:
        found = plan(vary={"adaptation": ["none", "ensemble"]})
        assert Plan.model_validate_json(found.model_dump_json()) == found

    def test_a_run_in_the_one_spelling_is_hashed_as_it_stands(self) -> None:
        """Otherwise runs that are recorded would be trained again."""
        values = {**BASE, "rule": "brier", "lora": {"targets": "q,k,v"}}
        config = FinetuneConfig.build(values)
        (_, run) = plan(base=values).jobs
        assert run.config == config
        assert run.id == fingerprint("run", config.model_dump_json())


class TestMistakes:
    def test_all_at_once(self) -> None:
        with pytest.raises(InputError) as caught:
            plan(vary={"lora.rank": [0, 1], "learning_rate": [-1, 0.1]})
        message = str(caught.value)
        assert message.startswith("study s: ")
        assert message.count("lora.rank is 0: input should be greater than or equal to 1") == 1, "each once"
        assert message.count("learning_rate is -1: input should be greater than 0") == 1

    def test_keys_values_tasks_and_models_at_once(self) -> None:
        """What is wrong with a key hides neither a value, nor a task that cannot be loaded, nor a model."""
        with pytest.raises(InputError) as caught:
            plan(
                base={"trian": 3, "train": -1, "form": "clozee", "model": "/nowhere/lm"},
                vary={"task": ["simulatd"], "lora.rnk": [1], "steps": []},
                references=[{"name": "a", "where": {"tsk": "x"}, "metric": "acuracy", "value": 1, "source": "b"}],
            )
        for part in (
            "unknown key in base 'trian': did you mean 'train'?",
            "unknown key in vary 'lora.rnk': did you mean 'lora.rank'?",
            "vary: steps has no values",
            "metric of reference 'a' 'acuracy': did you mean 'accuracy'?",
            "key in where of reference 'a' 'tsk': did you mean 'task'?",
            "model folder /nowhere/lm does not exist; expected a Hub id or a folder",
            "did you mean 'simulated'?",
        ):
            assert part in str(caught.value)

    def test_all_values_of_one_configuration_at_once(self) -> None:
        with pytest.raises(InputError) as caught:
            plan(base={"train": -1, "form": "clozee", "batch": 0, "task": "simulatd"}, vary={"lora.rank": [1, 2]})
        message = str(caught.value)
        for part in ("train is -1", "form is 'clozee'", "batch is 0", "'simulatd'"):
            assert message.count(part) == 1

    def test_nearly_the_name_of_an_own_model(self) -> None:
        with pytest.raises(InputError, match="unknown model of the study 'tinny': did you mean 'tiny'"):
            plan(base={"model": "tinny"}, models={"tiny": {"texts": "simulated"}})

    def test_a_task_that_cannot_load_is_told_once(self) -> None:
        with pytest.raises(InputError, match=r"data folder /nowhere/hellaswag does not exist") as caught:
            plan(base={"data": "/nowhere/{task}"}, vary={"task": ["hellaswag"], "lora.rank": [1, 2]})
        assert str(caught.value).count("/nowhere") == 1

    def test_what_trains_nothing_may_be_calibrated_in_any_regime(self) -> None:
        assert plan(base={"adaptation": "calibration", "regime": "all"}).rows[0].cells[0].calibrator == "temperature"

    @pytest.mark.parametrize(
        ("base", "message"),
        [
            ({"adaptation": "few-shot"}, "few-shot needs shots"),
            ({"adaptation": "mc-dropout"}, r"mc-dropout needs lora.dropout above 0; it is 0.0"),
            ({"adaptation": "lore"}, "adaptation is 'lore'"),
            ({"task": "simulatd"}, "did you mean 'simulated'"),
            (
                {"adaptation": "lora+calibration", "regime": "all"},
                "adaptation is lora.calibration and regime is all.*use regime validation, or lora without calibration",
            ),
            (
                {"adaptation": "mc-dropout+calibration", "regime": "retrain", "lora": {"dropout": 0.1}},
                "regime is retrain, which trains on the validation instances",
            ),
            ({"adaptation": "ensemble+calibration", "regime": "all"}, "or ensemble without calibration"),
            ({"adaptation": "full+calibration", "regime": "retrain"}, "or full without calibration"),
        ],
    )
    def test_messages(self, base: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            plan(base=base)


@pytest.mark.parametrize("path", sorted((ROOT / "studies").rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_tiny_studies_plan(path: Path, tmp_path: Path) -> None:
    found = plan_study(read_study(path, tiny=True), tmp_path)
    assert found.rows
    assert all(Path(job.config.model).parent == tmp_path / "models" for job in found.jobs)


def test_the_study_in_the_documentation_plans(tmp_path: Path) -> None:
    text, *_ = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "studies.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    (tmp_path / "placement.yaml").write_text(text, encoding="utf-8")
    found = plan_study(read_study(tmp_path / "placement.yaml"), tmp_path / "out")
    assert kinds(found) == {"base": 1, "run": 8}
    assert found.name == "placement-small"


class TestMetricsAndCosts:
    def test_the_plan_keeps_them_so_that_it_reads_back_without_the_study_file(self) -> None:
        found = plan(metrics=["ece", "expected_cost"], costs={"abstain": 0.3})
        assert found.metrics == ("ece", "expected_cost")
        assert Plan.build(found.model_dump(mode="json")) == found
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
