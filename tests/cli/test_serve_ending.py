"""How `rango serve` ends: asked to in the middle of requests it answers what it took, killed it leaves nothing half."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from rango.decisions import DecisionLog

pytest.importorskip("uvicorn", reason="uvicorn is in the extra serve")

SERVER = str(Path(__file__).parents[1] / "helpers" / "serve_slowly.py")
HOST, PATIENCE = "127.0.0.1", 60.0
BODY = json.dumps({"model": "slow", "state": "x", "questions": {"q": {"type": "noul", "instructions": "Is it?"}}})


def until(condition: Callable[[], bool]) -> None:
    """Wait for another process."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < PATIENCE
        time.sleep(0.02)


def ask(port: int, path: str = "/v1/systemone") -> tuple[int, str]:
    """Status and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    try:
        if path == "/v1/systemone":
            connection.request("POST", path, BODY, {"content-type": "application/json"})
        else:
            connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def is_listening(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex((HOST, port)) == 0


def waiting(port: int) -> float:
    lines = ask(port, "/metrics")[1].splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("rango_waiting_questions "))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], int]]]:
    """Starts the server, always on one port, and gives it with the port; what still runs in the end is killed."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    started: list[subprocess.Popen[str]] = []

    def start() -> tuple[subprocess.Popen[str], int]:
        command = [sys.executable, SERVER, str(port), str(tmp_path / "go"), str(tmp_path / "log.jsonl")]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        until(lambda: is_listening(port) or started[-1].poll() is not None)
        assert started[-1].poll() is None
        return started[-1], port

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_ended_in_the_middle_of_requests_it_loses_none_and_killed_it_begins_again(
    server: Callable[[], tuple[subprocess.Popen[str], int]], tmp_path: Path
) -> None:
    go, begun, log = tmp_path / "go", tmp_path / "go.begun", tmp_path / "log.jsonl"

    def ask_many(port: int, count: int) -> list[Future[tuple[int, str]]]:
        """Requests of which the first is being answered and all others wait."""
        go.unlink()
        begun.unlink()
        replies = [clients.submit(ask, port)]
        until(begun.exists)
        replies += [clients.submit(ask, port) for _ in range(count - 1)]
        until(lambda: waiting(port) == count - 1)
        return replies

    with ThreadPoolExecutor(8) as clients:
        go.touch()
        process, port = server()
        assert ask(port)[0] == 200
        replies = ask_many(port, 4)
        process.kill()
        process.wait()
        # Each client sees its connection end, and no answer.
        for reply in replies:
            assert isinstance(reply.exception(PATIENCE), ConnectionError | http.client.HTTPException)
        # The log can be read as it is, and has a line for the one answer that was given. The same command serves again
        # and adds to it, and cuts off half a line.
        assert len(DecisionLog.read(log, time="time").posteriors) == 1
        with log.open("ab") as file:
            file.write(log.read_bytes()[:40])
        go.touch()
        process, port = server()
        assert ask(port)[0] == 200
        assert len(log.read_text().splitlines()) == 2
        replies = ask_many(port, 6)
        process.send_signal(signal.SIGTERM)
        until(lambda: not is_listening(port))
        # Nobody new is let in while those that were taken wait for their answers.
        with pytest.raises(ConnectionRefusedError):
            ask(port)
        assert process.poll() is None
        assert not any(reply.done() for reply in replies)
        go.touch()
        assert [reply.result(PATIENCE)[0] for reply in replies] == [200] * 6
        errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0
    assert "Stopped: what waited is answered" in errors
    assert "Traceback" not in errors
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) == 8
    assert len({row["id"] for row in rows}) == 8
    assert DecisionLog.read(log, time="time").posteriors.ids == tuple(row["id"] for row in rows)
