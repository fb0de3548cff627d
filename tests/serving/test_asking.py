"""Asking: side by side, again after the server's own waits, and never twice for what the log has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from helpers.toy import toy_task

from rango.errors import InputError, RunError
from rango.serving.asking import LoggedAnswer, Patience, Tally, ask_all, read_answers, stated_wait
from rango.serving.endpoint import Endpoint

ENDPOINT = Endpoint("systemone", "http://127.0.0.1:1", "m")
TASK = toy_task(train=1, validation=1, test=12)


def answered(request: httpx2.Request) -> httpx2.Response:
    """A right answer: the first label has the most probability."""
    labels = list(json.loads(request.content)["questions"]["answer"]["criteria"])
    shares = {label: (1.0 + (n == 0)) / (len(labels) + 1) for n, label in enumerate(labels)}
    answer = {"type": "choice", "choice": labels[0], "confidence": 0.5, "probabilities": shares}
    return httpx2.Response(200, json={"model": "m-1", "answers": {"answer": answer}, "usage": {"input_tokens": 7}})


def ask(
    log: Path, handler: Callable[[httpx2.Request], Any], **patience: Any
) -> tuple[dict[str, LoggedAnswer], Tally, list[float]]:
    """Ask for the test split; also the seconds that were waited, none of which pass."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    answers, tally = ask_all(
        ENDPOINT, TASK.test, task=TASK, log=log, patience=Patience(**patience),
        transport=httpx2.MockTransport(handler), sleep=sleep,
    )  # fmt: skip
    return answers, tally, waits


def test_every_instance_is_asked_once_and_logged_at_once(tmp_path: Path) -> None:
    log, busy, most = tmp_path / "answers.jsonl", 0, 0

    async def handler(request: httpx2.Request) -> httpx2.Response:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0)
        busy -= 1
        return answered(request)

    answers, tally, waits = ask(log, handler, concurrency=3)
    assert set(answers) == {instance.id for instance in TASK.test}
    assert (most, tally.retries, len(tally.seconds), waits) == (3, 0, 12, [])
    assert len(log.read_text().splitlines()) == 12
    assert read_answers(log, TASK.test) == answers


def test_a_stub_that_is_late_wrong_busy_and_broken_is_asked_again(tmp_path: Path) -> None:
    """Each fault once, then answers: 429 with its wait, 503, no JSON, another shape, silence, a cut connection."""
    faults: list[Any] = [
        httpx2.Response(429, headers={"retry-after-ms": "1500"}),
        httpx2.Response(503, headers={"retry-after": "7"}),
        httpx2.Response(200, content=b'{"answers": '),
        httpx2.Response(200, json={"answers": {"answer": {"type": "noul", "noul": 0.5}}}),
        httpx2.ReadTimeout("late"),
        httpx2.ConnectError("cut"),
    ]

    def handler(request: httpx2.Request) -> httpx2.Response:
        fault = faults.pop(0) if faults else answered(request)
        if isinstance(fault, Exception):
            raise fault
        return fault

    answers, tally, waits = ask(tmp_path / "log", handler, concurrency=1)
    assert (len(answers), tally.retries) == (12, 6)
    assert waits[:2] == [1.5, 7.0]
    # Without a word of the server: half a second, doubled each time, less a part that spreads the requests.
    assert all(0.25 * 2**n <= wait <= 0.5 * 2**n for n, wait in enumerate(waits) if n >= 2)


def test_a_repeated_command_asks_for_what_is_missing_alone(tmp_path: Path) -> None:
    log, count = tmp_path / "log", 0

    def handler(request: httpx2.Request) -> httpx2.Response:
        nonlocal count
        count += 1
        return httpx2.Response(500) if count > 5 else answered(request)

    with pytest.raises(RunError, match=r"in 2 tries: status 500 .*; what it has answered is kept, repeat the command"):
        ask(log, handler, concurrency=1, tries=2)
    # A crash may cut the last line.
    log.write_text(log.read_text() + '{"id": "test-9", "seco')
    count = -100
    answers, _, _ = ask(log, handler, concurrency=1)
    assert (len(answers), count) == (12, -100 + 7)
    assert ask(log, handler)[0] == answers
    assert count == -100 + 7


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, {"detail": "no key"}, r"refuses the key: status 401 \(no key\); put it into TYPESAFE_API_KEY"),
        (404, {"error": {"message": "unknown model"}}, r"refuses instance test-0: status 404 \(unknown model\)"),
        (422, {"detail": [{"loc": ["body", "state"], "msg": "too odd"}]}, r"status 422 \(body.state: too odd\)"),
    ],
)
def test_a_refusal_ends_it_at_once(tmp_path: Path, status: int, body: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(tmp_path / "log", lambda _: httpx2.Response(status, json=body), concurrency=1)


def test_a_log_that_is_none_of_this_evaluation_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ask(log, answered)
    lines = log.read_text().splitlines()
    log.write_text("\n".join(["{}", *lines]) + "\n")
    with pytest.raises(InputError, match="log:1: is no answer of an endpoint"):
        read_answers(log, TASK.test)
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="is no instance of this evaluation"):
        read_answers(log, TASK.test[:1])


def test_the_wait_of_a_server_is_read_in_its_three_spellings() -> None:
    assert stated_wait({"retry-after-ms": "20", "retry-after": "9"}) == pytest.approx(0.02)
    assert stated_wait({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}) == 0.0
    assert stated_wait({"retry-after": "99999"}) == 120.0
    assert stated_wait({"retry-after": "soon"}) is None


@pytest.mark.parametrize(
    "line",
    [
        '{"id": ["1"], "seconds": 0.1, "answer": {"scores": [-1], "model": "m"}}',
        '{"id": "1", "seconds": 1' + "0" * 400 + ', "answer": {"scores": [-1], "model": "m"}}',
        '{"id": "1", "seconds": 0.1, "answer": {"scores": [-1' + "0" * 400 + '], "model": "m"}}',
        '{"id": "1", "seconds": 0.1, "answer": {"scores": [-1], "model": "m", "input_tokens": "3"}}',
        '{"id": "1", "seconds": 0.1, "answer": {"scores": [-1], "model": "m", "cost": NaN}}',
        '{"id": "1", "seconds": 0.1, "answer": {"scores": [-1], "model": null}}',
        "[" * 100_000,
    ],
)
def test_a_line_with_values_of_other_kinds_is_no_answer(line: str, tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=r"answers\.jsonl:1: is no answer of an endpoint"):
        read_answers(tmp_path / "answers.jsonl", TASK.test)


def test_a_response_nested_too_deep_is_asked_for_again(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the response is not JSON"):
        ask(tmp_path / "answers.jsonl", lambda _: httpx2.Response(200, content=b"[" * 100_000), tries=2)
