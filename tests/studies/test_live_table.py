"""What is shown while a study runs: the live table of a terminal, and the lines of a log."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rango.files import write_json, write_yaml
from rango.studies.execution import describe
from rango.studies.live_table import LiveTable, job_names
from rango.studies.plan import Job, Plan, plan_study
from rango.studies.queue import lock_item
from rango.studies.store import Store
from rango.studies.study import Study

BASE: dict[str, Any] = {"model": "some/model", "task": "simulated", "train": 30, "validation": 20, "test": 25}
Made = Callable[..., tuple[Plan, Store]]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def plan(**values: Any) -> tuple[Plan, Store]:
        base = BASE | values.pop("base", {})
        return plan_study(Study.build({"name": "s", "base": base, **values}), tmp_path), Store(tmp_path)

    return plan


def on_terminal(plan: Plan, store: Store, *, width: int = 100) -> tuple[LiveTable, Callable[[], str]]:
    """A watch on a terminal, and what its table reads."""
    watch = LiveTable(store, plan, Console(force_terminal=True, width=width, file=io.StringIO()))

    def read() -> str:
        watch()
        file = io.StringIO()
        Console(width=width, file=file).print(watch.table())
        return file.getvalue()

    return watch, read


def begin(store: Store, job: Job, *, steps: int = 0, nce: float | None = None, **record: Any) -> None:
    """A run that is on its way."""
    folder = store.folder(job)
    write_yaml(folder / "run.yaml", {"status": "running", **record})
    lines = [{"step": step, "train_loss": 1.0} for step in range(steps + 1)]
    if nce is not None:
        lines[0]["validation"] = {"nce": nce}  # type: ignore[assignment]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99')


def complete(store: Store, job: Job, seconds: float = 3.2) -> None:
    write_yaml(store.folder(job) / "run.yaml", {"status": "complete", "seconds": seconds})


def runs_of(plan: Plan) -> list[Job]:
    return [job for job in plan.jobs if job.kind == "run"]


class TestTable:
    def test_epochs_are_shown_as_the_steps_that_the_run_says(self, made: Made) -> None:
        plan, store = made(base={"epochs": 7}, vary={"lora.rank": [1, 2]})
        first, second = runs_of(plan)
        watch, read = on_terminal(plan, store)
        lock_item(store.lock_file(first.id))
        begin(store, first, steps=84, nce=0.75)
        assert "step 84 " in read(), "before the run says how many"
        begin(store, first, steps=84, nce=0.75, most_steps=210)
        lines = read().splitlines()
        assert re.fullmatch(r"s  0 of 3 done · 1 running · 2 waiting · 0:\d\d", lines[0].rstrip())
        assert [part.strip() for part in lines[1].split("  ") if part.strip()] == [
            "rank 1, seed 0",
            "━━━━╸",  # the rest of the bar has another colour, which plain text lacks
            "84/210",
            "validation NCE 0.750",
        ]
        assert len(lines) == 2
        lock_item(store.lock_file(second.id))
        begin(store, second)
        assert "2 running · 1 waiting" in read()
        watch.stop()

    def test_only_what_somebody_works_on_is_running(self, made: Made) -> None:
        plan, store = made(base={"steps": 10}, vary={"lora.rank": [1, 2, 3]})
        left, dead, alive = runs_of(plan)
        for job in (left, dead, alive):
            begin(store, job, steps=2)
        lock_item(store.lock_file(alive.id))
        store.lock_file(dead.id).write_text("its owner was killed")
        watch, read = on_terminal(plan, store)
        text = read()
        assert "0 of 4 done · 1 running · 3 waiting" in text
        assert ("rank 3" in text, "rank 1" in text, "rank 2" in text) == (True, False, False)
        watch.stop()

    def test_models_and_bases_are_rows(self, made: Made) -> None:
        model = {"texts": "simulated", "lines": 50, "hidden": 64, "tokens": 1_500_000}
        plan, store = made(models={"my-lm": model}, base={"model": "my-lm", "steps": 9}, vary={"lora.rank": [1, 2]})
        (name,) = plan.models
        held = lock_item(store.lock_file(name))
        watch, read = on_terminal(plan, store)
        text = read()
        assert "0 of 3 done · 0 running · 3 waiting · 1 model pre-training" in text
        assert re.search(r"model my-lm +━+ +0:0\d +pre-training 1,500,000 tokens", text)
        assert held is not None
        held.release()
        (store.path / "models" / name).mkdir(parents=True)
        (store.path / "models" / name / "config.json").write_text("{}")
        write_yaml(store.path / "models" / name / "pretrain.yaml", {"seconds": 12.0})
        lock_item(store.lock_file(next(job.id for job in plan.jobs if job.kind == "base")))
        text = read()
        assert "model" not in text.replace("base model", "")
        assert re.search(r"1 running · 2 waiting.*\nbase model +━+ +0:0\d +scoring", text)
        watch.stop()

    def test_a_bank_has_a_row_for_each_run_that_is_left_and_a_long_table_is_cut(self, made: Made) -> None:
        plan, store = made(base={"steps": 10}, vary={"lora.rank": list(range(1, 16))})
        runs = runs_of(plan)
        write_json(store.banks / "b.json", {"runs": [job.id for job in runs], "divided": None})
        lock_item(store.lock_file("b"))
        complete(store, runs[0])
        watch, read = on_terminal(plan, store)
        lines = read().splitlines()
        assert "1 of 16 done · 14 running · 1 waiting" in lines[0]
        assert [line.split(",")[0] for line in lines[1:13]] == [f"rank {rank}" for rank in range(2, 14)]
        assert lines[13] == "and 2 more"
        watch.stop()

    def test_a_narrow_terminal_cuts_names_and_wraps_nothing(self, made: Made) -> None:
        plan, store = made(base={"steps": 10}, vary={"lora.targets": ["q,k,v,o,mlp", "q,k,v,o"], "lora.rank": [1, 2]})
        lock_item(store.lock_file(runs_of(plan)[0].id))
        begin(store, runs_of(plan)[0], steps=3, nce=0.9)
        watch, read = on_terminal(plan, store, width=50)
        assert all(len(line) <= 50 for line in read().splitlines())
        assert len(read().splitlines()) == 3
        watch.stop()


class TestLines:
    def lines(self, plan: Plan, store: Store) -> tuple[LiveTable, Callable[[], list[str]]]:
        file = io.StringIO()
        watch = LiveTable(store, plan, Console(width=40, file=file))

        def read() -> list[str]:
            watch()
            text = file.getvalue()
            file.truncate(file.seek(0))
            return text.splitlines()

        return watch, read

    def test_one_line_for_each_ended_job_with_what_varies(self, made: Made) -> None:
        model = {"texts": "simulated", "lines": 50, "hidden": 64}
        vary = {"task": ["simulated"], "train": [30], "lora.targets": ["q,k,v,o,mlp,head", "q"]}
        plan, store = made(models={"lm": model}, base={"model": "lm", "steps": 9}, vary=vary, seeds=[0, 1])
        _, read = self.lines(plan, store)
        assert read() == []
        (name,) = plan.models
        (store.path / "models" / name).mkdir(parents=True)
        (store.path / "models" / name / "config.json").write_text("{}")
        write_yaml(store.path / "models" / name / "pretrain.yaml", {"seconds": 61.4})
        first, second, *_ = runs_of(plan)
        complete(store, first)
        store.write_failure(second.id, "out of memory, and that needs more words than a line of forty has")
        assert read() == [
            "  done   model lm (61 s)",
            "  done   q,k,v,o,mlp,head, seed 0 (3 s)",
            "  failed q,k,v,o,mlp,head, seed 1: out of memory, and that needs more words than a line of forty has",
        ]
        assert read() == []

    def test_what_begins_has_a_line_and_each_minute_says_how_far_everything_is(self, made: Made) -> None:
        plan, store = made(base={"steps": 210}, vary={"lora.rank": [1, 2]})
        first, _ = runs_of(plan)
        watch, read = self.lines(plan, store)
        seconds = 0.0
        watch.clock = lambda: seconds
        watch._begun, watch._logged = 0.0, -61.0
        assert read() == ["s  0 of 3 done · 0 running · 3 waiting · workers are getting ready · 0:00"]
        held = lock_item(store.lock_file(first.id))
        begin(store, first, steps=84, nce=0.75)
        assert read() == ["  begun  rank 1, seed 0"]
        seconds = 59.0
        assert read() == []
        seconds = 61.0
        assert read() == [
            "s  0 of 3 done · 1 running · 2 waiting · 1:01",
            "  rank 1, seed 0: 84/210, validation NCE 0.750",
        ]
        assert read() == []
        assert held is not None
        held.release()
        complete(store, first)
        assert read() == ["  done   rank 1, seed 0 (3 s)"]

    def test_what_is_tried_again_is_told_again(self, made: Made) -> None:
        plan, store = made(base={"steps": 9})
        (run,) = runs_of(plan)
        store.write_failure(run.id, "killed")
        _, read = self.lines(plan, store)
        assert read() == []
        store.forget_failures()
        assert read() == []
        complete(store, run)
        assert read() == ["  done   run, seed 0 (3 s)"]


class TestWords:
    def test_names_tell_tasks_and_bases_apart(self, made: Made) -> None:
        tasks = ["simulated", "simulated-continuations"]
        plan, _ = made(base={"steps": 9}, vary={"task": tasks, "adaptation": ["none", "lora", "lora+calibration"]})
        assert sorted(job_names(plan).values()) == sorted(
            f"{task}: {name}" for task in tasks for name in ("base model", "lora, seed 0")
        )
        plan, _ = made(base={"steps": 9}, vary={"normalise": ["none", "tokens"]})
        assert sorted(job_names(plan).values()) == [
            "base model, normalise none",
            "base model, normalise tokens",
            "none, seed 0",
            "tokens, seed 0",
        ]

    def test_one_is_told_as_one(self, made: Made) -> None:
        plan, store = made(base={"steps": 9})
        assert describe(plan, store)[:4] == [
            "s: 1 configuration, 1 result over all seeds",
            "  1 fine-tuning run: 0 there already, 0 to go on with, 1 to start, 0 failed",
            "  1 scoring of a base model, shared: 0 there already",
            f"  1 run on the base {Path(plan.jobs[0].config.model).name} for simulated",
        ]
