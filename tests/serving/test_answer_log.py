"""The log of a server: whole lines only, whatever ends, and in columns that a monitor reads."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from rango.decisions import gate
from rango.decisions.decision_log import DecisionLog
from rango.errors import InputError
from rango.serving.answer_log import AnswerLog, logged_columns
from rango.serving.app import REQUEST_ID, make_app
from rango.serving.engine import Engine
from rango.serving.served_run import read_served

ROW = {"probability_a": 0.25, "probability_b": 0.75, "decision": "b", "expected_cost": 0.25}
OWN = {"type": "choice", "criteria": {"angry": None, "sad": None, "happy": None}}
OTHER = {"type": "choice", "instructions": "Which?", "criteria": {"red": None, "blue": None}}


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_s_own_questions_are_logged_in_its_words_and_read_by_the_monitor(
    runs: dict[str, Path], engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of the request's labels, and labels of other questions, do not reach the log."""
    chosen = gate(engine.runs["moods"].run.posteriors("calibrated"), max_error=0.5)
    served = read_served([str(runs["moods"])], chosen)
    monkeypatch.setitem(engine.runs, "moods", served["moods"])
    path = tmp_path / "log.jsonl"
    with AnswerLog(path) as log, TestClient(make_app(engine, log=log)) as client:
        body = {"model": "moods", "state": "Ann sings on day 3", "questions": {"q": OWN, "x": OTHER, "r": OWN}}
        response = client.post("/v1/systemone", json=body)
        client.post("/v1/systemone", json={**body, "model": "plain"})
    answer = response.json()["answers"]["q"]
    assert set(response.json()) == {"model", "answers", "usage"}
    first, second, plain, _ = lines(path)
    names = ["happy", "sad", "angry"]
    assert list(first) == [
        *("time", "id", "model", "question", *(f"probability_{name}" for name in names)),
        *("decision", "expected_cost", "act", "calibrated"),
    ]
    assert {name: first[f"probability_{name}"] for name in names} == answer["probabilities"]
    assert (first["decision"], first["expected_cost"]) == (answer["decision"], answer["expected_cost"])
    assert first["act"] == {True: "yes", False: "no"}[answer["act"]]
    assert first["id"] == f"{response.headers[REQUEST_ID]}/q"
    assert second["id"] == f"{response.headers[REQUEST_ID]}/r"
    assert (plain["model"], plain["calibrated"], "act" in plain) == ("plain", False, False)
    assert "Ann" not in path.read_text()
    path.write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n")
    read = DecisionLog.read(path, time="time")
    assert read.posteriors.column_names == tuple(names)
    assert read.decisions == (first["decision"],) * 2


def test_a_state_is_written_only_where_it_is_asked_for(tmp_path: Path) -> None:
    with AnswerLog(tmp_path / "log", with_state=True) as log:
        log.write({"q": ROW}, model="m", request="1", state={"text": "é\n\ud83d"})
    assert lines(tmp_path / "log")[0]["state"] == {"text": "é\n\ud83d"}


def test_half_a_line_is_cut_off_and_no_other_file_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for _ in range(2):
        with AnswerLog(path) as log:
            log.write({"q": ROW, "r": ROW}, model="m", request="1", state="s")
            assert log.note == ""
    whole = path.read_bytes()
    assert len(lines(path)) == 4
    for torn in (b"{", b'{"time": "2026', whole.splitlines()[0][:-1]):
        path.write_bytes(whole + torn)
        with AnswerLog(path) as log:
            assert "ended in half a line, which is cut off" in log.note
        assert path.read_bytes() == whole
    path.write_bytes(b'{"time": "20')  # the first line of all
    AnswerLog(path).close()
    assert path.read_bytes() == b""
    for other in (b"id,label\n1,a\n", b"a letter", b'{"text": "x"}\n', whole + b"a note", b"x" * (1 << 18)):
        path.write_bytes(other)
        with pytest.raises(InputError, match="is no log of decisions"):
            AnswerLog(path)
        assert path.read_bytes() == other
    with pytest.raises(InputError, match="is a folder"):
        AnswerLog(tmp_path)


def test_half_a_line_that_could_not_be_taken_back_goes_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does that of another server, which was killed while it wrote."""
    path, write = tmp_path / "log", os.write

    def broken(handle: int, data: bytes) -> int:
        if len(data) > 40:
            return write(handle, data[:40])
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def refused(*_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with AnswerLog(path) as log:
        log.write({"q": ROW}, model="m", request="1", state="s")
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", broken)
            patched.setattr(os, "ftruncate", refused)
            with pytest.raises(OSError, match="Input/output error"):
                log.write({"q": ROW}, model="m", request="2", state="s")
        assert not path.read_bytes().endswith(b"\n")
        log.write({"q": ROW}, model="m", request="3", state="s")
    assert [line["id"] for line in lines(path)] == ["1/q", "3/q"]


def test_a_log_that_is_renamed_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with AnswerLog(path) as log:
        log.write({"q": ROW}, model="m", request="1", state="s")
        path.rename(tmp_path / "log.1")
        log.write({"q": ROW}, model="m", request="2", state="s")
    assert [lines(tmp_path / name)[0]["id"] for name in ("log.1", "log")] == ["1/q", "2/q"]


def test_a_full_disk_leaves_whole_lines_and_no_answer(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision that cannot be logged is not given: what was acted on would be missing from the log."""
    path, write = tmp_path / "log", os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) > 40:
            return write(handle, data[:40])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with AnswerLog(path) as log, TestClient(make_app(engine, log=log)) as client:
        body = {"model": "moods", "state": "Ann sings on day 3", "questions": {"q": OWN}}
        assert client.post("/v1/systemone", json=body).status_code == 200
        before = path.read_bytes()
        with monkeypatch.context() as patched:
            patched.setattr("rango.serving.answer_log.os.write", full)
            refused = client.post("/v1/systemone", json=body)
        assert refused.status_code == 503
        assert "cannot be logged (No space left on device)" in refused.text
        assert path.read_bytes() == before
        assert client.post("/v1/systemone", json=body).status_code == 200
    assert len(lines(path)) == 2


def test_columns_are_called_as_predict_calls_them() -> None:
    assert logged_columns(("a", "b"), [0.25, 0.75]) == {"probability_a": 0.25, "probability_b": 0.75}
    assert logged_columns(None, [0.25, 0.75]) == {"posterior_0": 0.25, "posterior_1": 0.75}
