"""Claims: one owner at a time, and none for ever."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rango.studies import queue as claims
from rango.studies.queue import claim, is_stale


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    held = claim(tmp_path, "a")
    assert held is not None
    assert claim(tmp_path, "a") is None
    assert claim(tmp_path, "b") is not None
    held.release()
    assert claim(tmp_path, "a") is not None


def write_owner(path: Path, *, pid: int, **changes: str) -> None:
    path.write_text(json.dumps({**claims.owner(pid), "token": "other", **changes}))


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_claim_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    write_owner(tmp_path / "a.claim", pid=dead_pid())
    assert is_stale(tmp_path / "a.claim")
    assert claim(tmp_path, "a") is not None


def test_the_claim_of_a_living_process_is_not(tmp_path: Path) -> None:
    write_owner(tmp_path / "a.claim", pid=os.getpid())
    assert claim(tmp_path, "a") is None


def test_a_later_process_with_the_same_number_is_another(tmp_path: Path) -> None:
    write_owner(tmp_path / "a.claim", pid=os.getpid(), start="1")
    assert is_stale(tmp_path / "a.claim")
    assert claim(tmp_path, "a") is not None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_the_start_is_read_behind_any_name() -> None:
    program = "open('/proc/self/comm', 'w').write('a) Z 1 (b'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as later:
        assert later.stdout is not None
        later.stdout.readline()
        here, there = (claims.owner(pid)["start"] for pid in (os.getpid(), later.pid))
        later.communicate(b"\n")
    assert isinstance(here, str)
    assert isinstance(there, str)
    assert 0 < int(here) < int(there)
    assert claims.owner(later.pid)["start"] is None


def test_without_proc_the_number_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_PROC", tmp_path / "none")
    for pid, stale in ((os.getpid(), False), (dead_pid(), True)):
        write_owner(tmp_path / "a.claim", pid=pid)
        assert is_stale(tmp_path / "a.claim") == stale


def test_on_another_machine_the_heartbeat_decides(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    write_owner(path, host="elsewhere", pid=dead_pid())
    assert not is_stale(path)
    old = path.stat().st_mtime - claims.STALE_SECONDS - 1
    os.utime(path, (old, old))
    assert is_stale(path)
    assert claim(tmp_path, "a") is not None


def test_a_claim_that_was_taken_over_is_not_released_by_its_old_owner(tmp_path: Path) -> None:
    held = claim(tmp_path, "a")
    assert held is not None
    assert held.is_held()
    write_owner(held.path, pid=os.getpid(), token="new")
    assert not held.is_held()
    held.release()
    assert held.path.exists()


def test_a_claim_that_was_taken_over_is_not_kept_alive(tmp_path: Path) -> None:
    beats = iter([False, False])
    held = claims.Claim(tmp_path / "a.claim", "mine")
    held._stop.wait = lambda _seconds: next(beats)  # type: ignore[method-assign, assignment, misc]
    write_owner(held.path, pid=os.getpid(), token="new")
    os.utime(held.path, (0, 0))
    held._beat()
    assert held.path.stat().st_mtime == 0


def test_the_heartbeat_touches_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.0)
    held = claim(tmp_path, "a")
    assert held is not None
    os.utime(held.path, (0, 0))
    while held.path.stat().st_mtime == 0:
        pass
    held.release()


def _try(folder: str, barrier: object, won: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    if claim(Path(folder), "a") is not None:
        won.put(os.getpid())  # type: ignore[attr-defined]
    barrier.wait()  # type: ignore[attr-defined]


def test_of_many_that_find_a_stale_claim_one_gets_it(tmp_path: Path) -> None:
    write_owner(tmp_path / "a.claim", pid=dead_pid())
    context = multiprocessing.get_context("fork")
    barrier, won = context.Barrier(8), context.Queue()
    processes = [context.Process(target=_try, args=(str(tmp_path), barrier, won)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    winners = [won.get(timeout=10)]
    assert won.empty()
    assert len(winners) == 1
