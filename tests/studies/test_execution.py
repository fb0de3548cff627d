"""Execution of a study: what is prepared, workers that die or are stopped, and the command."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers import idle_worker
from helpers.studies_work import BASE, Checkpoint, Made, finish, runs_of, statuses, work

from rango.cli import main
from rango.errors import RunError
from rango.studies.execution import Workers, give_up
from rango.studies.live_table import LiveTable
from rango.studies.queue import WorkItem, items_of_process, lock_item, read_banks
from rango.studies.store import Store
from rango.studies.worker import Worker
from rango.training.run_folder import read_log


class TestBankAuto:
    """Runs are trained in one pass where they compute on CUDA."""

    @pytest.mark.parametrize(
        ("device", "cuda", "banks"),
        [("cpu", True, []), ("auto", False, []), ("auto", True, [2]), ("cuda", False, [2]), ("cuda:1", True, [2])],
    )
    def test_on_for_cuda_and_off_for_a_cpu(self, prepare: Made, device: str, cuda: bool, banks: list[int]) -> None:
        _, store = prepare(bank="auto", cuda=cuda, base={"device": device}, vary={"lora.rank": [1, 2]})
        assert [len(bank["runs"]) for _, bank in read_banks(store)] == banks

    def test_this_machine_is_asked_where_nobody_says(self, prepare: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        _, store = prepare(bank="auto", base={"device": "auto"}, vary={"lora.rank": [1, 2]})
        assert [len(bank["runs"]) for _, bank in read_banks(store)] == [2]


class TestWorkers:
    def test_a_process_of_another_machine_with_the_same_number_is_not_meant(self, prepare: Made) -> None:
        plan, store = prepare()
        lock = lock_item(store.lock_file(plan.jobs[0].id))
        assert lock is not None
        assert [item.id for item in items_of_process(plan, store, os.getpid())] == [plan.jobs[0].id]
        lock.path.write_text(f"elsewhere {os.getpid()}")
        assert items_of_process(plan, store, os.getpid()) == []
        lock.release()

    def test_a_unit_in_which_workers_die_is_given_up(self, prepare: Made, monkeypatch: Any) -> None:
        plan, store = prepare(vary={"lora.rank": [1, 2, 4]})
        monkeypatch.setattr("rango.studies.execution.run_worker", die_at_rank_2)
        monkeypatch.setattr("rango.studies.execution.multiprocessing.get_context", fork_context)
        monkeypatch.setattr("rango.studies.execution._WATCH_SECONDS", 0.02)
        Workers(store, plan, 1).run()
        by_rank = {job.config.lora.rank: job for job in plan.jobs if job.kind == "run"}
        assert [store.status(by_rank[rank]) for rank in (1, 2, 4)] == ["done", "failed", "done"]
        assert "its worker died 2 times (exit code 9)" in store.failure(by_rank[2].id)

    def test_a_worker_that_has_no_log_says_so_in_one_line(self, prepare: Made, monkeypatch: Any, capfd: Any) -> None:
        plan, store = prepare()
        (store.path / "logs").write_text("")
        monkeypatch.setattr("rango.studies.execution.multiprocessing.get_context", fork_context)
        monkeypatch.setattr("rango.studies.execution._WATCH_SECONDS", 0.02)
        with pytest.raises(RunError, match=r"workers die before they begin anything \(exit code 1\)$"):
            Workers(store, plan, 1).run()
        lines = capfd.readouterr().err.splitlines()
        assert set(lines) == {f"rango: a worker cannot write {store.path / 'logs'}: File exists"}

    def test_ctrl_c_ends_no_worker_that_is_still_starting(self, prepare: Made, monkeypatch: Any, capfd: Any) -> None:
        """Ctrl-C reaches all processes of a terminal; what a worker does then is its parent's to say."""
        plan, store = prepare()
        monkeypatch.setattr("rango.studies.execution.run_worker", idle_worker.run_worker)
        monkeypatch.setattr("rango.studies.execution._WATCH_SECONDS", 0.01)
        begun: list[Any] = []

        def press() -> None:
            (process,) = workers._running
            begun.append(process)
            if process.is_alive():
                os.kill(process.pid or 0, signal.SIGINT)

        workers = Workers(store, plan, 1, press)
        workers.run()
        assert len(set(begun)) == 1
        assert begun[0].exitcode == 0
        assert (store.path / "blocked").read_text() == "SIGINT"
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert "Traceback" not in capfd.readouterr().err

    def test_a_bank_in_which_workers_die_is_divided(self, prepare: Made) -> None:
        plan, store = prepare(bank="on", vary={"lora.rank": [1, 2, 4]})
        ((name, _),) = read_banks(store)
        give_up(store, WorkItem(name, "bank", tuple(runs_of(plan))), "it died")
        assert "failed" not in statuses(plan, store)
        work(plan, store)
        assert statuses(plan, store) == ["done"] * 4


def fork_context(_kind: str) -> Any:
    import multiprocessing.context

    return multiprocessing.context.ForkContext()


def die_at_rank_2(path: str, _number: int, _count: int, _parent: int) -> None:
    """A worker process that stands for one without memory."""
    store = Store(Path(path))
    here = Worker(store, store.read_plan())

    def do(item: WorkItem) -> None:
        job = item.jobs[0]
        if job.kind == "run" and job.config.lora.rank == 2:
            os._exit(9)
        finish(store, item)

    here._do = do  # type: ignore[method-assign]
    here.work()
    os._exit(0)


class TestCommand:
    @pytest.fixture
    def file(self, checkpoint: Checkpoint, tmp_path: Path) -> Path:
        path = tmp_path / "s.yaml"
        base = {**BASE, "model": str(checkpoint("phi"))}
        path.write_text(json.dumps({"base": base, "vary": {"learning_rate": [0.01, 1e30]}}))
        return path

    def test_real_workers(self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out"
        command = ["study", str(file), "--out", str(out), "--workers", "2", "--bank", "off", "--quiet"]
        assert main(command) == 1
        assert "1 of 3 jobs failed; rango study … --retry tries them again" in capsys.readouterr().err
        rows = (out / "table.csv").read_text().splitlines()
        kinds = ["kind", "configuration", "configuration", "base", "prior", "floor"]
        assert [row.partition(",")[0] for row in rows] == kinds, "the base was scored for the runs, and is shown"
        assert "the loss became" in rows[2] or "nan" in rows[2]
        assert not list((out / "locks").glob("*"))

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_a_signal_saves_and_the_same_command_goes_on(
        self, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
    ) -> None:
        file, out = tmp_path / "s.yaml", tmp_path / "out"
        base = {**BASE, "model": str(checkpoint("phi")), "steps": 300, "validate_every": 10}
        file.write_text(json.dumps({"base": base, "vary": {"lora.rank": [1]}}))

        def stop_once_it_trains(watch: LiveTable) -> None:
            (run,) = (job for job in watch.plan.jobs if job.kind == "run")
            if read_log(watch.store.folder(run))[1:]:
                os.kill(os.getpid(), number)

        with monkeypatch.context() as patched:
            patched.setattr(LiveTable, "__call__", stop_once_it_trains)
            assert main(["study", str(file), "--out", str(out), "--bank", "off", "--quiet"]) == code
        store = Store(out)
        plan = store.read_plan()
        (run,) = (job for job in plan.jobs if job.kind == "run")
        assert store.status(run) == "started"
        assert (store.folder(run) / "state" / "state.safetensors").is_file()
        assert len(read_log(store.folder(run))) < 300
        work(plan, store)
        assert statuses(plan, store) == ["done", "done"]
        assert [record["step"] for record in read_log(store.folder(run))] == list(range(301))

    def test_dry_run_writes_nothing(self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["study", str(file), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
        assert "2 fine-tuning runs: 0 there already" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_refusals(self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("mine")
        assert main(["study", str(file), "--out", str(tmp_path / "out")]) == 2
        assert "already holds other files (thesis.tex)" in capsys.readouterr().err
        assert main(["study", str(file), "--workers", "0"]) == 2
        assert "--workers is 0; expected 1 to 1024" in capsys.readouterr().err
        shutil.rmtree(tmp_path / "out")
