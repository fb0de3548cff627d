"""Plans: what is computed once, what is shared, which configurations are the same."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from helpers.studies_plan import BASE, kinds, plan

from rango.errors import InputError
from rango.studies.optuna_search import Searcher
from rango.studies.plan import Plan, own_model, plan_study
from rango.studies.store import Store
from rango.studies.study import Study
from rango.studies.study_file import read_study

ROOT = Path(__file__).resolve().parents[2]


class TestSharing:
    def test_one_base_for_all_ranks_and_seeds(self) -> None:
        planned = plan(vary={"lora.rank": [1, 2]}, seeds=[0, 1, 2])
        assert kinds(planned) == {"base": 1, "run": 6}
        assert len({job.group for job in planned.jobs}) == 1
        assert [len(row.cells) for row in planned.rows] == [3, 3]

    def test_scoring_and_task_make_another_base(self) -> None:
        assert kinds(plan(vary={"normalise": ["none", "tokens"]}))["base"] == 2
        assert kinds(plan(vary={"task": ["simulated", "simulated-continuations"]}))["base"] == 2

    def test_training_sizes_share_the_base(self) -> None:
        planned = plan(vary={"train": [10, 20], "adaptation": ["none", "lora"]})
        assert kinds(planned) == {"base": 1, "run": 2}
        assert [dict(row.axes) for row in planned.rows] == [
            {"train": None, "adaptation": "none"},
            {"train": 10, "adaptation": "lora"},
            {"train": 20, "adaptation": "lora"},
        ]

    def test_adaptations_read_the_same_run(self) -> None:
        planned = plan(vary={"adaptation": ["none", "calibration", "lora", "lora+calibration"]}, seeds=[0, 1])
        assert kinds(planned) == {"base": 1, "run": 2}
        none, calibration, lora, both = planned.rows
        assert len(none.cells) == len(calibration.cells) == 1
        assert none.cells[0].sources == calibration.cells[0].sources
        assert (none.cells[0].calibrator, calibration.cells[0].calibrator) == (None, "temperature")
        assert [cell.sources for cell in lora.cells] == [cell.sources for cell in both.cells]

    def test_combinations_that_mean_the_same_collapse(self) -> None:
        planned = plan(vary={"adaptation": ["none", "lora"], "lora.rank": [1, 2, 4]})
        assert dict(planned.rows[0].axes) == {"adaptation": "none", "lora.rank": None}
        assert len(planned.rows) == 4

    def test_a_calibrator_left_open_is_told(self) -> None:
        planned = plan(vary={"adaptation": ["lora", "lora+calibration"], "calibrator": [None, "temperature", "bias"]})
        assert [tuple(row.axes.values()) for row in planned.rows] == [
            ("lora", None), ("lora+calibration", "temperature"), ("lora+calibration", "bias"),
        ]  # fmt: skip

    @pytest.mark.parametrize("objective", ["answer", "choice"])
    def test_each_regime_is_a_run(self, objective: str) -> None:
        planned = plan(base={"objective": objective}, vary={"regime": ["validation", "retrain", "all"]})
        assert [row.axes["regime"] for row in planned.rows] == ["validation", "retrain", "all"]
        assert kinds(planned) == {"base": 1, "run": 3}

    def test_letters_are_calibrated_affinely(self) -> None:
        (row,) = plan(base={"adaptation": "calibration", "form": "letter"}).rows
        assert row.cells[0].calibrator == "affine"


class TestWays:
    def test_members_of_an_ensemble_are_its_own(self) -> None:
        planned = plan(base={"adaptation": "ensemble", "members": 2}, seeds=[0, 1])
        (row,) = planned.rows
        seeds = [[planned.job(source.job).config.seed for source in cell.sources] for cell in row.cells]
        assert seeds == [[0, 1], [2, 3]]

    def test_an_ensemble_shares_its_members_with_single_runs(self) -> None:
        assert kinds(plan(vary={"adaptation": ["lora", "ensemble"]}, seeds=[0, 1, 2]))["run"] == 9

    def test_few_shot_draws_by_seed(self) -> None:
        planned = plan(base={"adaptation": "few-shot", "shots": 3, "objective": "tokens"}, seeds=[0, 1])
        assert kinds(planned) == {"base": 2, "run": 0}
        assert [job.config.shots_seed for job in planned.jobs] == [0, 1]

    def test_shots_belong_to_few_shot_alone(self) -> None:
        planned = plan(base={"shots": 3}, vary={"adaptation": ["none", "lora", "few-shot"]})
        assert sorted(job.config.shots for job in planned.jobs) == [0, 0, 3]

    def test_full_is_another_run_than_lora(self) -> None:
        assert kinds(plan(vary={"adaptation": ["lora", "full"]}))["run"] == 2

    def test_mc_dropout_reads_its_own_state(self) -> None:
        planned = plan(base={"adaptation": "mc-dropout", "samples": 4, "lora": {"dropout": 0.1}})
        assert planned.rows[0].cells[0].sources[0].state == "mc-dropout-4"
        assert planned.jobs[-1].samples == (4,)


class TestBaselines:
    def test_words_need_no_model_and_have_no_seed(self) -> None:
        """One job for all models, ranks and seeds; a study of words alone names no model."""
        runs = [{"adaptation": way, "model": model} for way in ("tfidf", "lora") for model in ("a/b", "c/d")]
        planned = plan(base={"model": "x/y"}, runs=runs, vary={"lora.rank": [1, 2]}, seeds=[0, 1])
        assert kinds(planned, "tfidf") == {"tfidf": 1, "base": 2, "run": 8}
        assert dict(planned.rows[0].axes) == {"adaptation": "tfidf", "model": None, "lora.rank": None}
        assert len(planned.rows[0].cells) == 1
        (job,) = (job for job in planned.jobs if job.kind == "tfidf")
        assert (job.base, job.config.seed, job.config.model) == (job.id, 0, "tfidf")
        alone = plan_study(
            Study.build({"name": "s", "base": {"task": "simulated", "adaptation": "tfidf"}}), Path("out")
        )
        assert [job.kind for job in alone.jobs] == ["tfidf"]

    def test_a_probe_reads_the_model_and_the_form(self) -> None:
        planned = plan(
            base={"adaptation": "probe", "steps": 7, "select": "accuracy"}, vary={"form": ["cloze", "letter"]}
        )
        assert kinds(planned, "probe") == {"probe": 2, "base": 0, "run": 0}
        assert {job.config.steps for job in planned.jobs} == {None}
        assert [row.axes["form"] for row in planned.rows] == ["cloze", "letter"]

    def test_an_encoder_is_trained_with_its_own_model(self) -> None:
        base = {"adaptation": "encoder", "encoder": "google/bert", "objective": "tokens", "regime": "all", "shots": 3}
        planned = plan(base=base, vary={"lora.rank": [1, 2], "learning_rate": [1e-5, 5e-5]}, seeds=[0, 1])
        assert [job.kind for job in planned.jobs] == ["encoder"] * 4
        assert {job.config.model for job in planned.jobs} == {"google/bert"}
        assert {(job.config.seed, job.config.learning_rate) for job in planned.jobs} == {
            (0, 1e-5), (0, 5e-5), (1, 1e-5), (1, 5e-5),
        }  # fmt: skip
        assert {(job.config.objective, job.config.regime, job.config.shots) for job in planned.jobs} == {
            ("choice", "validation", 0)
        }
        assert [tuple(row.axes.values()) for row in planned.rows] == [(None, 1e-5), (None, 5e-5)]

    def test_they_share_a_job_with_their_calibrated_rows(self) -> None:
        ways = ["tfidf", "tfidf+calibration", "probe", "probe+calibration"]
        planned = plan(vary={"adaptation": ways})
        assert kinds(planned, "tfidf", "probe") == {"tfidf": 1, "probe": 1, "base": 0, "run": 0}
        assert [row.cells[0].calibrator for row in planned.rows] == [None, "temperature", None, "temperature"]

    def test_changed_instances_make_another_baseline(self) -> None:
        few, more = (plan(base={"adaptation": "tfidf", "train": size}) for size in (20, 30))
        assert few.jobs[0].id != more.jobs[0].id

    def test_what_they_lack_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(
            InputError, match="adaptation encoder: encoder is missing; give the Hub id or folder of one"
        ):
            plan(vary={"adaptation": ["encoder"]})
        with pytest.raises(InputError, match="model folder /nowhere/bert does not exist"):
            plan(base={"adaptation": "encoder", "encoder": "/nowhere/bert"})
        models = {"tiny": {"texts": "simulated", "hidden": 16, "heads": 4, "tokens": 100}}
        with pytest.raises(InputError, match="encoder is tiny, one of the study's own models, which predict"):
            plan(base={"adaptation": "encoder", "encoder": "tiny"}, models=models)
        search = Study.build({"name": "s", "base": BASE, "search": {"space": {"adaptation": ["tfidf"]}}})
        with pytest.raises(InputError, match="search: only lora and full have a validation value"):
            Searcher(search, Store(Path("out"))).check()
        monkeypatch.setitem(sys.modules, "sklearn", None)
        with pytest.raises(
            InputError, match=r"adaptation tfidf needs scikit-learn, .* pip install 'rango-lm\[baselines\]'"
        ):
            plan(base={"adaptation": "tfidf"})

    def test_a_probe_of_an_own_model_waits_for_it(self) -> None:
        models = {"tiny": {"texts": "simulated", "hidden": 16, "heads": 4, "tokens": 100}}
        planned = plan(base={"model": "tiny"}, models=models, vary={"adaptation": ["probe", "tfidf"]})
        assert [own_model(job, planned) for job in planned.jobs] == [next(iter(planned.models)), None]
        assert plan(base={"model": "tiny", "adaptation": "tfidf"}, models=models).models == {}


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
        planned = plan(vary={"adaptation": ["none", "ensemble"]})
        assert Plan.model_validate_json(planned.model_dump_json()) == planned


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

    def test_an_own_model_that_cannot_be_quantised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        models = {"grams": {"texts": "simulated", "model": "ngram"}, "tiny": {"texts": "simulated"}}
        monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
        with pytest.raises(InputError, match="quantise is 'nf4', but grams, a model of the study, is an ngram, in"):
            plan(base={"model": "grams", "quantise": "nf4", "adaptation": "none"}, models=models)
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(InputError, match=r"quantise is 'int8', which needs bitsandbytes; pip install 'rango-lm"):
            plan(base={"model": "tiny", "quantise": "int8"}, models=models)

    def test_a_run_that_its_task_cannot_take(self) -> None:
        ranked = {"objective": "choice", "rule": "ranked"}
        with pytest.raises(InputError, match=r"^study s: rule is ranked, which is for ordered levels, but instance"):
            plan(base=ranked, vary={"lora.rank": [1, 2]})
        with pytest.raises(InputError, match="select is mean_absolute_error, which is for ordered levels") as caught:
            plan(base={"select": "mean_absolute_error"}, vary={"lora.rank": [1, 2]})
        assert str(caught.value).count("ordered levels") == 1, "each once"
        # What trains nothing has neither.
        assert plan(base={**ranked, "adaptation": "none"}).rows

    def test_a_task_that_cannot_load_is_told_once(self) -> None:
        with pytest.raises(InputError, match=r"data folder /nowhere/hellaswag does not exist") as caught:
            plan(base={"data": "/nowhere/{task}"}, vary={"task": ["hellaswag"], "lora.rank": [1, 2]})
        assert str(caught.value).count("/nowhere") == 1


@pytest.mark.parametrize("path", sorted((ROOT / "studies").rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_tiny_studies_plan(path: Path, tmp_path: Path) -> None:
    planned = plan_study(read_study(path, tiny=True), tmp_path)
    assert planned.rows
    # Words alone need no model.
    models = [Path(job.config.model) for job in planned.jobs if job.kind != "tfidf"]
    assert all(model.parent == tmp_path / "models" for model in models)


def test_the_study_in_the_documentation_plans(tmp_path: Path) -> None:
    text, *_ = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "studies.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    (tmp_path / "placement.yaml").write_text(text, encoding="utf-8")
    planned = plan_study(read_study(tmp_path / "placement.yaml"), tmp_path / "out")
    assert kinds(planned) == {"base": 1, "run": 8}
    assert planned.name == "placement-small"
