"""The queue: what waits for what, banks, and locks that have one owner at a time and none for ever."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.studies_work import BASE, Made, runs_of

from rango.studies import queue
from rango.studies.plan import plan_study
from rango.studies.queue import LARGEST_BANK, divide_bank, form_banks, lock_item, locked_ids, read_banks, work_items
from rango.studies.store import Store
from rango.studies.study import Study

HOLD = """
import sys
from pathlib import Path
from rango.studies.queue import lock_item
assert lock_item(Path(sys.argv[1])) is not None
print("held", flush=True)
input()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Store(tmp_path).lock_file("a")


class TestLocks:
    def test_one_owner_at_a_time(self, file: Path) -> None:
        lock = lock_item(file)
        assert lock is not None
        assert lock_item(file) is None
        assert lock_item(file.with_name("b.lock")) is not None
        lock.release()
        assert not file.exists()
        assert lock_item(file) is not None

    @pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
    def test_the_lock_of_a_killed_process_is_free_at_once(self, file: Path, ending: signal.Signals) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as owner:
            assert owner.stdout is not None
            owner.stdout.readline()
            assert lock_item(file) is None
            assert locked_ids(Store(file.parents[1])) == {"a"}
            os.kill(owner.pid, signal.SIGSTOP)
            assert lock_item(file) is None, "a process that does not get on is alive"
            os.kill(owner.pid, signal.SIGCONT)
            os.kill(owner.pid, ending)
            owner.wait()
        assert file.exists(), "it says what the process was doing"
        assert locked_ids(Store(file.parents[1])) == set()
        assert lock_item(file) is not None

    def test_a_lock_whose_file_its_owner_has_removed_is_none(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Otherwise two processes hold the item: one by the old file, one by the new."""
        flock = queue.fcntl.flock

        def remove_first(descriptor: int, kind: int) -> None:
            file.unlink()
            flock(descriptor, kind)

        with monkeypatch.context() as patched:
            patched.setattr(queue.fcntl, "flock", remove_first)
            assert lock_item(file) is None
        assert lock_item(file) is not None

    def test_of_many_that_find_a_lock_free_one_gets_it(self, file: Path) -> None:
        file.parent.mkdir()
        file.write_text("of a process that was killed")
        context = multiprocessing.get_context("fork")
        barrier, won = context.Barrier(8), context.Queue()
        processes = [context.Process(target=_try, args=(str(file), barrier, won)) for _ in range(8)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=60)
        winners = [won.get(timeout=10)]
        assert won.empty()
        assert len(winners) == 1


def _try(file: str, barrier: object, won: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    if lock_item(Path(file)) is not None:
        won.put(os.getpid())  # type: ignore[attr-defined]
    barrier.wait()  # type: ignore[attr-defined]


class TestItems:
    def test_what_others_build_on_comes_first(self, prepare: Made) -> None:
        plan, store = prepare(vary={"lora.rank": [1, 2]})
        base, *runs = work_items(plan, store)
        assert [base.kind, *(item.kind for item in runs)] == ["base", "run", "run"]
        assert base.ready(store, plan) == ("yes", "")
        assert {item.ready(store, plan) for item in runs} == {("no", "")}
        store.write_failure(base.id, "no memory")
        assert base.unfinished(store) == []
        assert {item.ready(store, plan) for item in runs} == {("never", "no memory")}
        assert [item.unfinished(store) for item in runs] == [[job.id] for job in runs_of(plan)]


class TestBanks:
    def test_they_are_of_one_group_alike_and_not_too_large(self, prepare: Made) -> None:
        plan, store = prepare(bank="on", vary={"batch": [2, 4], "lora.rank": list(range(1, 11))})
        banks = [[plan.job(run) for run in bank["runs"]] for _, bank in read_banks(store)]
        assert sorted(map(len, banks)) == [2, 2, LARGEST_BANK, LARGEST_BANK]
        assert all(len({job.config.batch for job in bank}) == 1 for bank in banks)
        assert {item.kind for item in work_items(plan, store)} == {"base", "bank"}

    def test_each_worker_gets_one(self, tmp_path: Path) -> None:
        study = Study.build({"name": "s", "base": {**BASE, "model": "m"}, "vary": {"lora.rank": [1, 2, 3, 4, 5, 6]}})
        plan, store = plan_study(study, tmp_path), Store(tmp_path)
        form_banks(runs_of(plan), store, workers=2)
        assert [len(bank["runs"]) for _, bank in read_banks(store)] == [3, 3]

    def test_a_run_is_put_into_one_bank_only(self, prepare: Made) -> None:
        few, _ = prepare(bank="on", vary={"lora.rank": [1, 2]})
        more, store = prepare(bank="on", vary={"lora.rank": [1, 2, 3, 4]})
        banked = [run for _, bank in read_banks(store) for run in bank["runs"]]
        assert len(banked) == len(set(banked)) == 4
        assert {job.id for job in runs_of(few)} < set(banked)
        assert sum(item.kind == "bank" for item in work_items(more, store)) == 2

    def test_one_that_is_divided_stays_so(self, prepare: Made) -> None:
        plan, store = prepare(bank="on", vary={"lora.rank": [1, 2]})
        base, bank = work_items(plan, store)
        assert not divide_bank(base, store, reason="it failed")
        assert divide_bank(bank, store, reason="no memory left")
        assert [item.kind for item in work_items(plan, store)] == ["base", "run", "run"]
        plan, store = prepare(bank="on", vary={"lora.rank": [1, 2]})
        assert [item.kind for item in work_items(plan, store)] == ["base", "run", "run"]
