"""A worker: everything is done once, what fails stays alone, what is interrupted goes on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.checkpoints import write_encoder
from helpers.studies_work import BASE, Checkpoint, Made, finish, interrupt_after, runs_of, statuses, work
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from rango.decisions import Posteriors, fit_calibrator
from rango.errors import Interrupted
from rango.models.loading import Model, load_model
from rango.reports.study.report import write_study_report
from rango.results.outcomes import read_outcomes
from rango.results.table import study_table, write_csv
from rango.studies import worker
from rango.studies.execution import begin, describe
from rango.studies.live_table import job_names
from rango.studies.plan import Plan, plan_study
from rango.studies.queue import WorkItem, divide_bank, read_banks
from rango.studies.store import Store
from rango.studies.study import Study
from rango.studies.worker import Worker
from rango.training.trainer import Trainer


def test_the_base_is_read_once_for_several_training_sizes(prepare: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def load(source: str, **options: Any) -> Model:
        read.append(source)
        return load_model(source, **options)

    monkeypatch.setattr(worker, "load_model", load)
    plan, store = prepare(vary={"train": [6, 12]})
    work(plan, store)
    assert len({job.group for job in plan.jobs}) == 2
    assert len(read) == 1
    assert statuses(plan, store) == ["done"] * len(plan.jobs)
    alone, other = prepare(vary={"train": [12]}, out=store.path.parent / "alone")
    work(alone, other)
    (run,) = (job for job in alone.jobs if job.kind == "run")
    one, two = (each.posteriors(run, "test", "adapted").log_posteriors for each in (store, other))
    np.testing.assert_array_equal(one, two)


def results(store: Store) -> dict[str, tuple[int, bytes]]:
    """Time and content of all that bases and runs hold."""
    return {
        str(path.relative_to(store.path)): (path.stat().st_mtime_ns, path.read_bytes())
        for name in ("bases", "runs")
        for path in (store.path / name).rglob("*")
        if path.is_file()
    }


def table(store: Store, file: Path) -> bytes:
    write_csv(file, study_table(read_outcomes(store.path).outcomes, select="nce"))
    return file.read_bytes()


@pytest.mark.parametrize("bank", ["off", "on"])
def test_every_run_is_followed_by_loggers_grouped_by_the_study(prepare: Made, monkeypatch: Any, bank: str) -> None:
    followed = []

    class Follower:
        def __init__(self, folder: Path, group: str | None, resumed: bool) -> None:
            self.begun = (folder.name, group, resumed)

        def start(self, config: Any, name: str) -> None:
            followed.append((*self.begun, name, config["seed"]))

        def log(self, step: int, values: Any) -> None: ...
        def finish(self, summary: Any) -> None: ...

    monkeypatch.setattr("rango.training.loggers.LOGGERS", {"json": Follower})  # the name of some package
    plan, store = prepare(bank=bank, seeds=[0, 1], log_to="json", base={"steps": 1})
    work(store.read_plan(), store)
    folders = [store.folder(job).name for job in runs_of(plan)]
    assert sorted(followed) == sorted((name, "s", False, name, seed) for seed, name in enumerate(folders))


class TestResume:
    def test_all_done_and_repeating_does_nothing(self, prepare: Made) -> None:
        plan, store = prepare(vary={"lora.rank": [1, 2]}, seeds=[0, 1])
        work(plan, store)
        assert statuses(plan, store) == ["done"] * 5
        before = results(store)
        work(plan, store)
        assert results(store) == before
        assert not list(store.locks.glob("*"))

    def test_another_value_runs_only_the_new_ones(self, prepare: Made) -> None:
        plan, store = prepare(vary={"lora.rank": [1]})
        work(plan, store)
        before = results(store)
        plan, store = prepare(vary={"lora.rank": [1, 2]})
        assert statuses(plan, store) == ["done", "done", "waiting"]
        work(plan, store)
        assert statuses(plan, store) == ["done"] * 3
        assert {name: value for name, value in results(store).items() if name in before} == before

    def test_a_base_is_scored_once_and_shared(self, prepare: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        scored: list[int] = []
        evaluate = worker.evaluate
        monkeypatch.setattr(worker, "evaluate", lambda *a, **k: scored.append(1) or evaluate(*a, **k))
        plan, store = prepare(vary={"lora.rank": [1, 2], "train": [8, 12]})
        work(plan, store)
        assert len(scored) == 2  # validation and test
        for split in ("test", "validation"):
            files = {store.posteriors_file(job, split, "base").read_bytes() for job in plan.jobs}
            assert len(files) == 1

    def test_a_moved_study_reads_and_goes_on(self, prepare: Made, tmp_path: Path, monkeypatch: Any) -> None:
        models = {"lm": {"texts": "simulated", "lines": 200, "hidden": 16, "layers": 1, "heads": 2, "vocabulary": 300,
                         "context": 128, "tokens": 2000, "batch_tokens": 512, "device": "cpu"}}  # fmt: skip
        asked: dict[str, Any] = {"models": models, "base": {"model": "lm"}, "vary": {"lora.rank": [1, 2]}, "bank": "on"}
        plan, store = prepare(**asked, out=tmp_path / "here")
        interrupt_after(monkeypatch, 2)
        with pytest.raises(Interrupted):
            work(plan, store)
        monkeypatch.undo()
        (tmp_path / "here").rename(tmp_path / "there")
        plan, store = prepare(**asked, out=tmp_path / "there")
        assert statuses(plan, store) == ["done", "started", "started"]
        work(plan, store)
        assert statuses(plan, store) == ["done"] * 3
        there = table(store, tmp_path / "there.csv")
        assert "held_out_nats_per_token" in read_outcomes(store.path).outcomes[0].facts
        (tmp_path / "there").rename(tmp_path / "elsewhere")
        moved = Store(tmp_path / "elsewhere")
        assert table(moved, tmp_path / "elsewhere.csv") == there
        assert "held_out_nats_per_token" in read_outcomes(moved.path).outcomes[0].facts

    def test_leftovers_of_a_killed_process_do_not_block(self, prepare: Made) -> None:
        plan, store = prepare()
        for job in plan.jobs:
            store.folder(job).mkdir(parents=True)
            (store.folder(job) / ".run.yaml.x1y2").write_text("sta")
        work(plan, store)
        assert statuses(plan, store) == ["done", "done"]

    def test_the_index_is_only_a_copy(self, prepare: Made, tmp_path: Path) -> None:
        plan, store = prepare(vary={"adaptation": ["none", "lora"]})
        work(plan, store)
        index = store.rebuild_index(plan)
        assert {entry["status"] for entry in index.values()} == {"done"}
        before = table(store, tmp_path / "a.csv")
        kept = (store.path / "index.json").read_bytes()
        (store.path / "index.json").unlink()
        assert table(store, tmp_path / "b.csv") == before
        store.rebuild_index(store.read_plan())
        assert (store.path / "index.json").read_bytes() == kept


@pytest.fixture(scope="module")
def ladder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    folder = tmp_path_factory.mktemp("ladder")
    ways = ["none", "calibration", "few-shot", "few-shot+calibration", "lora", "lora+calibration", "ensemble",
            "ensemble+calibration", "mc-dropout", "mc-dropout+calibration", "full", "full+calibration"]  # fmt: skip
    base = {**BASE, "model": str(checkpoint("phi", max_position_embeddings=512)), "shots": 2, "members": 2,
            "samples": 3, "lora": {"rank": 2, "dropout": 0.2}}  # fmt: skip
    study = Study.build({"name": "s", "base": base, "vary": {"adaptation": ways}})
    plan, store = plan_study(study, folder), Store(folder)
    begin(study, plan, store, workers=1, bank="off", retry=False)
    work(plan, store)
    return plan, store


BASELINE_WAYS = [f"{way}{end}" for way in ("none", "tfidf", "probe", "encoder") for end in ("", "+calibration")]


@pytest.fixture(scope="module")
def baselines(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    folder = tmp_path_factory.mktemp("baselines")
    ways = ["calibration" if way == "none+calibration" else way for way in BASELINE_WAYS]
    base = {**BASE, "model": str(checkpoint("phi")), "encoder": str(write_encoder(folder / "bert"))}
    study = Study.build({"name": "s", "base": base, "vary": {"adaptation": ways}, "seeds": [0, 1]})
    plan, store = plan_study(study, folder / "study"), Store(folder / "study")
    begin(study, plan, store, workers=1, bank="off", retry=False)
    work(plan, store)
    return plan, store


class TestBaselines:
    def test_each_is_done_once_and_stays(self, baselines: tuple[Plan, Store]) -> None:
        plan, store = baselines
        assert [job.kind for job in plan.jobs] == ["base", "tfidf", "probe", "encoder", "encoder"]
        assert [store.failure(job.id) for job in plan.jobs] == [""] * 5
        assert statuses(plan, store) == ["done"] * 5
        assert describe(plan, store)[3] == "  4 baselines (tfidf, probe, encoder): 4 there already"
        before = {path: path.stat().st_mtime_ns for path in (store.path / "baselines").rglob("*") if path.is_file()}
        work(plan, store)
        assert before == {path: path.stat().st_mtime_ns for path in before}
        probe, encoder = store.record(plan.jobs[2]), store.record(plan.jobs[3])
        assert probe["trainable_parameters"] == 33
        assert set(probe["validation_cross_entropy"]) >= {"0.001", "1", "100"}
        assert (encoder["steps"], encoder["status"]) == (3, "complete")

    def test_they_stand_in_the_table_on_the_same_instances(self, baselines: tuple[Plan, Store], tmp_path: Path) -> None:
        plan, store = baselines
        outcomes = read_outcomes(store.path).outcomes
        assert [len(outcome.posteriors) for outcome in outcomes] == [1, 1, 1, 1, 1, 1, 2, 2]
        ids = outcomes[0].posteriors[0].ids
        assert all(posteriors.ids == ids for outcome in outcomes for posteriors in outcome.posteriors.values())
        assert all(outcome.floor is not None for outcome in outcomes), "the simulated task knows the true posterior"
        assert [len(outcome.logs) for outcome in outcomes] == [0] * 6 + [2, 2]
        for job, plain, calibrated in zip(plan.jobs, outcomes[::2], outcomes[1::2], strict=False):
            validation, test = (
                store.posteriors(job, split, "base" if job.kind == "base" else "fitted")
                for split in ("validation", "test")
            )
            expected = fit_calibrator(validation, method="temperature").apply(test)
            np.testing.assert_array_equal(plain.posteriors[0].log_posteriors, test.log_posteriors)
            np.testing.assert_array_equal(calibrated.posteriors[0].log_posteriors, expected.log_posteriors)
        written = table(store, tmp_path / "table.csv").decode()
        for way in BASELINE_WAYS[2:]:
            assert f"\nconfiguration,{way}," in written
        write_study_report(store.path)
        page = (store.path / "report.html").read_text()
        assert all(
            way in page and way in (store.path / "table.tex").read_text() for way in ("tfidf", "probe", "encoder")
        )
        names = job_names(plan)
        assert [names[job.id] for job in plan.jobs[1:]] == [
            "tfidf", "probe", "encoder, seed 0", "encoder, seed 1",
        ]  # fmt: skip

    def test_a_baseline_that_fails_stays_alone(self, prepare: Made, tmp_path: Path) -> None:
        """An encoder that is too short for the task, beside words that are not."""
        short = write_encoder(tmp_path / "bert", max_position_embeddings=8)
        plan, store = prepare(base={"encoder": str(short)}, vary={"adaptation": ["encoder", "tfidf"]})
        work(plan, store)
        assert statuses(plan, store) == ["failed", "done"]
        assert "reads at most 8; shorten the instance or choose an encoder" in store.failure(plan.jobs[0].id)

    def test_an_interrupted_encoder_goes_on(
        self, prepare: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base = {"encoder": str(write_encoder(tmp_path / "bert")), "adaptation": "encoder"}
        whole, store = prepare(base=base, out=tmp_path / "whole")
        work(whole, store)
        plan, parts = prepare(base=base, out=tmp_path / "parts")
        with monkeypatch.context() as patched:
            interrupt_after(patched, 2)
            with pytest.raises(Interrupted):
                work(plan, parts)
        assert statuses(plan, parts) == ["started"]
        work(plan, parts)
        one, two = (each.posteriors(plan.jobs[0], "test", "fitted").log_posteriors for each in (store, parts))
        np.testing.assert_array_equal(one, two)


class TestAdaptations:
    """Every value of the axis, against posteriors combined by hand from the files of the runs."""

    def by_hand(self, plan: Plan, store: Store, split: str, way: str) -> Posteriors:
        """The posteriors before calibration, from files alone."""
        jobs = {
            "none": [j for j in plan.jobs if j.kind == "base" and not j.config.shots],
            "few-shot": [j for j in plan.jobs if j.kind == "base" and j.config.shots],
            "full": [j for j in plan.jobs if j.kind == "run" and j.config.adaptation == "full"],
        }
        adapted = [j for j in plan.jobs if j.kind == "run" and j.config.adaptation == "lora"]
        assert sorted(job.config.seed for job in adapted) == [0, 1]
        chosen = jobs.get(way, adapted if way == "ensemble" else [j for j in adapted if j.config.seed == 0])
        state = {"none": "base", "few-shot": "base", "mc-dropout": "mc-dropout-3"}.get(way, "adapted")
        members = [store.posteriors(job, split, state) for job in chosen]
        mean = logsumexp([member.log_posteriors for member in members], axis=0) - np.log(len(members))
        return Posteriors(log_softmax(mean, axis=1), members[0].labels, members[0].ids)

    @pytest.mark.parametrize("way", ["none", "few-shot", "lora", "ensemble", "mc-dropout", "full"])
    def test_plain_and_calibrated(self, ladder: tuple[Plan, Store], way: str) -> None:
        plan, store = ladder
        outcomes = {outcome.axes["adaptation"]: outcome for outcome in read_outcomes(store.path).outcomes}
        expected = self.by_hand(plan, store, "test", way)
        plain = outcomes[way].posteriors[0]
        np.testing.assert_allclose(plain.log_posteriors, expected.log_posteriors, atol=1e-10)
        # Temperature: one scale of the log-posteriors, the best on validation.
        validation = self.by_hand(plan, store, "validation", way)
        rows = np.arange(len(validation.labels))

        def loss(log_scale: float) -> float:
            scaled = log_softmax(np.exp(log_scale) * validation.log_posteriors, axis=1)
            return -float(scaled[rows, validation.labels].mean())

        calibrated = outcomes["calibration" if way == "none" else f"{way}+calibration"].posteriors[0]
        best = minimize_scalar(loss, bounds=(-12, 5), method="bounded", options={"xatol": 1e-9})
        scaled = log_softmax(np.exp(best.x) * expected.log_posteriors, axis=1)
        np.testing.assert_allclose(calibrated.log_posteriors, scaled, atol=2e-3)

    def test_dropout_posteriors_on_instances_trained_on_are_not_left_behind(self, prepare: Made) -> None:
        base = {"adaptation": "mc-dropout", "samples": 2, "lora": {"dropout": 0.2}, "regime": "all"}
        plan, store = prepare(base=base)
        work(plan, store)
        assert statuses(plan, store) == ["done", "done"]
        there = {split: store.posteriors_file(plan.jobs[1], split, "mc-dropout-2") for split in ("test", "validation")}
        assert {split: file.is_file() for split, file in there.items()} == {"test": True, "validation": False}

    def test_they_differ(self, ladder: tuple[Plan, Store]) -> None:
        plan, store = ladder
        posteriors = [
            self.by_hand(plan, store, "test", way).log_posteriors
            for way in ("none", "few-shot", "lora", "ensemble", "mc-dropout", "full")
        ]
        for number, one in enumerate(posteriors):
            assert all(np.abs(one - other).max() > 1e-4 for other in posteriors[:number])


class TestFaults:
    def test_a_run_that_diverges_is_told_and_retried(self, prepare: Made) -> None:
        asked: dict[str, Any] = {"vary": {"learning_rate": [0.01, 1e30], "lora.rank": [1, 2]}}
        plan, store = prepare(**asked)
        work(plan, store)
        bad = [job for job in plan.jobs if job.config.learning_rate == 1e30 and job.kind == "run"]
        assert sorted(statuses(plan, store)) == ["done"] * 3 + ["failed"] * 2
        assert all("learning rate 1e+30" in store.failure(job.id) for job in bad)
        assert sum("1e+30" in line and "--retry" in line for line in describe(plan, store)) == 2
        assert [len(outcome.failures) for outcome in read_outcomes(store.path).outcomes] == [0, 0, 1, 1]
        plan, store = prepare(retry=True, **asked)
        assert "failed" not in statuses(plan, store)
        work(plan, store)
        assert sorted(statuses(plan, store)) == ["done"] * 3 + ["failed"] * 2

    def test_one_bad_run_does_not_take_its_bank_with_it(self, prepare: Made) -> None:
        # Layer 7 is not there: adding the adapters of the bank fails as a whole.
        plan, store = prepare(bank="on", vary={"lora.layers": ["0", "1", "7"]})
        work(plan, store)
        by_layer = {job.config.lora.layers: store.status(job) for job in plan.jobs if job.kind == "run"}
        assert list(by_layer.values()) == ["done", "done", "failed"]
        ((_, bank),) = read_banks(store)
        assert "7" in bank["divided"]

    def test_a_failed_base_fails_its_runs_with_its_reason(self, prepare: Made, monkeypatch: Any) -> None:
        def broken(*_args: Any, **_keywords: Any) -> None:
            raise MemoryError("no memory left")

        monkeypatch.setattr(worker, "evaluate", broken)
        plan, store = prepare(vary={"lora.rank": [1, 2]})
        work(plan, store)
        assert statuses(plan, store) == ["failed"] * 3
        assert store.failure(plan.jobs[1].id) == "what it builds on failed: no memory left"
        monkeypatch.undo()
        plan, store = prepare(vary={"lora.rank": [1, 2]}, retry=True)
        work(plan, store)
        assert statuses(plan, store) == ["done"] * 3


class TestBanks:
    def test_every_run_of_a_bank_gets_its_solo_result(self, prepare: Made, tmp_path: Path) -> None:
        asked: dict[str, Any] = {"vary": {"lora.rank": [1, 3], "lora.targets": ["q", "q,v"]}}
        solo_plan, solo = prepare(out=tmp_path / "solo", **asked)
        work(solo_plan, solo)
        plan, store = prepare(bank="on", **asked)
        assert [len(bank["runs"]) for _, bank in read_banks(store)] == [4]
        work(plan, store)
        for job in plan.jobs[1:]:
            for split in ("validation", "test"):
                one, other = (where.posteriors(job, split, "adapted").log_posteriors for where in (solo, store))
                np.testing.assert_allclose(one, other, atol=1e-5)

    def test_an_interrupted_bank_goes_on(self, prepare: Made, tmp_path: Path, monkeypatch: Any) -> None:
        asked: dict[str, Any] = {"bank": "on", "vary": {"lora.rank": [1, 2, 3]}}
        whole_plan, whole = prepare(out=tmp_path / "whole", **asked)
        work(whole_plan, whole)
        plan, store = prepare(**asked)
        interrupt_after(monkeypatch, 2)
        with pytest.raises(Interrupted):
            work(plan, store)
        monkeypatch.undo()
        assert statuses(plan, store)[1:] == ["started"] * 3
        steps: list[int] = []
        step = Trainer._step
        monkeypatch.setattr(Trainer, "_step", lambda self, active: steps.append(1) or step(self, active))
        plan, store = prepare(**asked)
        work(plan, store)
        assert len(steps) == 1  # two of three were saved
        for job in plan.jobs[1:]:
            files = (where.posteriors_file(job, "test", "adapted").read_bytes() for where in (whole, store))
            assert len(set(files)) == 1


class TestSeveralWorkers:
    def test_no_unit_is_done_twice(self, prepare: Made, monkeypatch: Any) -> None:
        plan, store = prepare(vary={"lora.rank": [1, 2, 4]}, seeds=[0, 1, 2, 3])
        monkeypatch.setattr(worker, "POLL_SECONDS", 0.001)
        done: list[str] = []

        def do(_self: Worker, item: WorkItem) -> None:
            done.append(item.id)
            finish(store, item)

        monkeypatch.setattr(Worker, "_do", do)
        threads = [threading.Thread(target=work, args=(plan, store)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(done) == sorted(job.id for job in plan.jobs)

    def test_a_bank_that_was_divided_meanwhile_is_not_trained(self, prepare: Made, monkeypatch: Any) -> None:
        plan, store = prepare(bank="on", vary={"lora.rank": [1, 2]})
        here = Worker(store, plan)
        finish(store, WorkItem("", "base", (plan.jobs[0],)))
        stale = list(here._work_items())
        ((name, _),) = read_banks(store)
        assert divide_bank(WorkItem(name, "bank", tuple(runs_of(plan))), store, reason="no memory left")
        looks = iter([stale])
        listed = Worker._work_items
        monkeypatch.setattr(Worker, "_work_items", lambda self: iter(next(looks, None) or list(listed(self))))
        done: list[str] = []
        monkeypatch.setattr(Worker, "_do", lambda _self, item: done.append(item.kind))
        assert here.do_next() == "done"
        assert done == []
