"""Searches: the same choices however often interrupted, direction, pruning, runs that are there, and mistakes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rango.decisions import Posteriors
from rango.errors import InputError
from rango.files import write_yaml
from rango.results.outcomes import read_outcomes
from rango.studies.execution import begin, prepare
from rango.studies.optuna_search import Searcher
from rango.studies.plan import Job, Plan, plan_study
from rango.studies.store import Store
from rango.studies.study import Search, Study
from rango.studies.study_file import read_study
from rango.studies.worker import Worker

BASE: dict[str, Any] = {
    "model": "some/model", "task": "simulated", "train": 30, "validation": 20, "test": 25, "steps": 4,
}  # fmt: skip
SPACE = {
    "lora.rank": {"low": 1, "high": 16, "log": True},
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "lora.targets": ["q", "q,v", ["q", "k"]],
}


def asked(trials: int, *, base: dict[str, Any] | None = None, select: str = "nce", **search: Any) -> Study:
    block = {"trials": trials, "space": SPACE, **search}
    return Study.build({"name": "s", "base": BASE | (base or {}), "select": select, "search": block})


def planted(job: Job) -> float:
    """Lowest for rank 4 and learning rate 0.01."""
    config = job.config
    return 0.2 + 0.1 * abs(math.log2(config.lora.rank) - 2) + 0.1 * abs(math.log10(config.learning_rate) + 2)


class Fake:
    """Finishes runs as training would, with planted values at steps 2 and 4."""

    def __init__(self, searcher: Searcher, *, stop_after: int | None = None) -> None:
        self.searcher, self.stop_after = searcher, stop_after
        self.trained: list[str] = []

    def __call__(self, plan: Plan) -> None:
        store = self.searcher.store
        for job in plan.jobs:
            if job.kind != "run" or store.status(job) != "waiting":
                continue
            if len(self.trained) == self.stop_after:
                raise KeyboardInterrupt
            self.trained.append(job.id)
            self._train(store, job)

    def _train(self, store: Store, job: Job) -> None:
        folder = store.folder(job)
        folder.mkdir(parents=True)
        hook, records, record = self.searcher.prunes(job), [], {"status": "complete", "best_step": 4}
        for step, extra in ((0, 1.0), (2, 0.1), (4, 0.0)):
            values = dict.fromkeys(("nce", "accuracy"), planted(job) + extra)
            records.append({"step": step, "validation": values})
            if step < 4 and hook is not None and hook(step, values):
                record = {"status": "pruned", "reason": f"pruned at step {step}"}
                break
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))
        if record["status"] == "complete":
            posteriors = Posteriors.from_scores(np.eye(3), labels=np.arange(3))
            store.write_posteriors(job, "test", "adapted", posteriors)
        write_yaml(folder / "run.yaml", record)


def run(study: Study, out: Path, *, stop_after: int | None = None) -> tuple[Searcher, Fake]:
    searcher = Searcher(study, Store(out))
    searcher.check()
    fake = Fake(searcher, stop_after=stop_after)
    if stop_after is None:
        searcher.run(fake)
    else:
        with pytest.raises(KeyboardInterrupt):
            searcher.run(fake)
    return searcher, fake


class TestChoices:
    def test_three_and_then_the_rest_are_those_in_one_go(self, tmp_path: Path) -> None:
        whole, _ = run(asked(14), tmp_path / "whole")
        run(asked(14), tmp_path / "parts", stop_after=3)
        run(asked(14), tmp_path / "parts", stop_after=9)
        parts, _ = run(asked(14), tmp_path / "parts")
        assert parts.chosen() == whole.chosen()
        assert len(whole.chosen()) == 14

    def test_more_trials_go_on(self, tmp_path: Path) -> None:
        run(asked(3), tmp_path / "parts")
        parts, fake = run(asked(6), tmp_path / "parts")
        assert parts.chosen() == run(asked(6), tmp_path / "whole")[0].chosen()
        assert len(fake.trained) <= 3

    def test_values_lie_in_the_space(self, tmp_path: Path) -> None:
        searcher, _ = run(asked(8, sampler="random"), tmp_path)
        for axes in searcher.chosen():
            assert isinstance(axes["lora.rank"], int)
            assert 1 <= axes["lora.rank"] <= 16
            assert 1e-4 <= axes["learning_rate"] <= 1e-1
            assert axes["lora.targets"] in SPACE["lora.targets"]

    def test_no_configuration_is_tried_twice_and_the_space_may_end(self, tmp_path: Path) -> None:
        # q,v and v,q are one run.
        space = {"lora.targets": ["q,v", "v,q", "q"], "lora.rank": {"low": 1, "high": 3}}
        searcher, fake = run(asked(9, space=space, prune=False), tmp_path)
        tried = [("".join(sorted(axes["lora.targets"])), axes["lora.rank"]) for axes in searcher.chosen()]
        assert len(tried) == len(set(tried)) == len(fake.trained) == 6
        assert searcher.best_words().startswith("best of 6 trials, all of the space, by validation nce")

    def test_the_grid_of_a_space(self) -> None:
        space = {"lora.rank": {"low": 1, "high": 2}, "lora.targets": ["q", "v"]}
        whole = Search.build({"space": space})
        assert [tuple(axes.values()) for axes in whole.grid()] == [(1, "q"), (1, "v"), (2, "q"), (2, "v")]
        endless = Search.build({"space": {**space, "learning_rate": {"low": 1e-4, "high": 1e-1}}})
        assert list(endless.grid()) == []
        wide = Search.build({"space": {"steps": {"low": 1, "high": 10**12}}})
        assert next(wide.grid()) == {"steps": 1}

    def test_seed_decides(self, tmp_path: Path) -> None:
        assert run(asked(2), tmp_path / "a")[0].chosen() != run(asked(2, seed=1), tmp_path / "b")[0].chosen()


class TestResults:
    @pytest.mark.parametrize(("select", "best"), [("nce", min), ("accuracy", max)])
    def test_direction(self, tmp_path: Path, select: str, best: Callable[[list[float]], float]) -> None:
        searcher, _ = run(asked(6, select=select, prune=False), tmp_path)
        trials = searcher.trials(searcher.chosen())
        values = [trial.best for trial in trials if trial.best is not None]
        assert f"{best(values):.4f} on validation" in searcher.best_words()

    def test_a_trial_is_worth_what_its_kept_checkpoint_is(self, tmp_path: Path) -> None:
        """The base keeps checkpoints by NCE; the accuracy of another step is not that of what is tested."""
        searcher, _ = run(asked(1, base={"select": "nce"}, select="accuracy", prune=False), tmp_path)
        (job,) = (job for job in searcher.plan().jobs if job.kind == "run")
        folder = searcher.store.folder(job)
        values = {2: {"nce": 0.5, "accuracy": 0.9}, 4: {"nce": 0.3, "accuracy": 0.7}}
        records = [json.dumps({"step": step, "validation": measured}) + "\n" for step, measured in values.items()]
        (folder / "log.jsonl").write_text("".join(records))
        assert [trial.best for trial in searcher.trials(searcher.chosen())] == [0.7]

    def test_a_run_that_is_there_is_not_repeated(self, tmp_path: Path) -> None:
        searcher, fake = run(asked(3), tmp_path)
        (tmp_path / "search.json").unlink()
        again, other = run(asked(3), tmp_path)
        assert again.chosen() == searcher.chosen()
        assert (len(fake.trained), other.trained) == (3, [])

    def test_pruned_runs_are_rows_with_words_and_are_not_repeated(self, tmp_path: Path) -> None:
        searcher, _ = run(asked(16, sampler="random"), tmp_path)
        trials = searcher.trials(searcher.chosen())
        pruned = [trial for trial in trials if trial.state == "pruned"]
        assert pruned
        assert all(trial.state == "complete" for trial in trials[:5])
        outcomes = read_outcomes(tmp_path).outcomes
        assert len(outcomes) == len({str(trial.axes) for trial in trials})
        assert sum(outcome.failures == {0: "pruned at step 2"} for outcome in outcomes) == len(pruned)
        assert run(asked(16, sampler="random"), tmp_path)[1].trained == []

    def test_a_grid_takes_up_what_was_pruned(self, tmp_path: Path) -> None:
        searcher, _ = run(asked(16, sampler="random"), tmp_path)
        pruned = next(trial for trial in searcher.trials(searcher.chosen()) if trial.state == "pruned")
        grid = Study.build({"name": "g", "base": BASE, "runs": [pruned.axes]})
        plan, store = prepare(grid, tmp_path)
        begin(grid, plan, store, workers=1, bank="off", retry=False)
        assert [store.status(job) for job in plan.jobs if job.kind == "run"] == ["started"]


class TestMessages:
    def test_all_at_once(self, tmp_path: Path) -> None:
        space = {"lora.rnk": [1], "lora.rank": {"low": 8, "high": 2}, "steps": [], "seed": [1]}
        space |= {"learning_rate": {"low": 0, "high": 1, "log": True}}
        path = tmp_path / "a.yaml"
        values = {"base": BASE, "vary": {"batch": [1]}, "seeds": [0, 1], "search": {"space": space}}
        path.write_text(yaml.safe_dump(values))
        with pytest.raises(InputError) as caught:
            plan_study(read_study(path), tmp_path / "out")
        message = str(caught.value)
        for part in (
            "did you mean 'lora.rank'", "lora.rank has low 8 above high 2", "steps has no values", "seed is set by",
            "logarithmic scale from 0", "search and vary are both given", "a search takes one",
        ):  # fmt: skip
            assert part in message

    def test_values_that_no_run_accepts(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"study s: lora.rank is 0: input should be"):
            prepare(asked(2, space={"lora.rank": {"low": 0, "high": 4}}), tmp_path)

    @pytest.mark.parametrize(
        ("base", "message"), [({"adaptation": "none"}, "only lora and full"), ({"regime": "all"}, "regime is all")]
    )
    def test_nothing_to_choose_by(self, tmp_path: Path, base: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            prepare(asked(2, base=base), tmp_path)

    def test_another_search(self, tmp_path: Path) -> None:
        run(asked(1), tmp_path)
        with pytest.raises(InputError, match="holds another search"):
            prepare(asked(1, seed=3), tmp_path)

    def test_without_optuna(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(InputError, match=r"pip install 'rango-lm\[search\]'"):
            prepare(asked(1), tmp_path)


def test_training_is_pruned_and_the_study_reads_it(tmp_path: Path, checkpoint: Callable[..., Path]) -> None:
    base = {"model": str(checkpoint()), "form": "cloze", "batch": 4, "validate_every": 2, "device": "cpu"}
    study = asked(2, base=base | {"dtype": "float32"})
    plan, store = prepare(study, tmp_path)
    begin(study, plan, store, workers=1, bank="auto", retry=False)
    searcher = Searcher(study, store)
    worker = Worker(store, plan, prunes=lambda _: lambda step, _values: step == 2 and len(searcher.chosen()) == 2)
    searcher.run(worker.work_on)
    assert [trial.state for trial in searcher.trials(searcher.chosen())] == ["complete", "pruned"]
    last = [job for job in store.read_plan().jobs if job.kind == "run"][-1]
    assert store.record(last)["steps"] == 2
    assert (store.folder(last) / "adapter" / "best" / "adapter_config.json").is_file()
    assert read_outcomes(tmp_path).outcomes[1].failures == {0: "pruned at step 2"}
    assert "1 pruned, 0 failed" in searcher.best_words()
