"""The server as clients see it: the official one, sync and async, and requests that are refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pyarrow as pa
import pytest
from starlette.testclient import TestClient
from typesafe_sdk import (
    AsyncTypeSafeClient,
    Choice,
    Noul,
    RetryPolicy,
    Score,
    TypeSafeAuthenticationError,
    TypeSafeClient,
    TypeSafeInternalServerError,
    TypeSafeNotFoundError,
    TypeSafeRateLimitError,
    TypeSafeUnprocessableEntityError,
)

from rango.serving.app import LOOPBACK, Limits, make_app
from rango.serving.engine import Engine
from rango.serving.queue import QueueLimits

QUESTIONS = {
    "mood": Choice(criteria={"happy": None, "sad": None, "angry": None}),
    "ann": Noul(instructions="Is it about Ann?"),
    "volume": Score(instructions="How loud?", criteria=["quiet", "loud", "very loud"]),
}
OWN = {"type": "choice", "criteria": {"happy": None, "sad": None, "angry": None}}


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(make_app(engine, limits=Limits(body=20_000, questions=9))) as client:
        yield client


def official(client: TestClient, **changes: Any) -> TypeSafeClient:
    settings = {"api_key": "x", "base_url": "http://testserver", "model": "moods", **changes}
    return TypeSafeClient(**settings, retry=RetryPolicy(max_retries=0), transport=client._transport)


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "moods", "state": "Ann sings", "questions": {"q": OWN}, **changes}


def test_the_official_client_asks_all_three_kinds_of_question(client: TestClient) -> None:
    result = official(client).system_one(state="Ann sings on day 3", questions=QUESTIONS)
    assert result.choices["mood"].choice in {"happy", "sad", "angry"}
    assert list(result.choices["mood"].probabilities) == ["happy", "sad", "angry"]
    assert 0 <= result.nouls["ann"].noul <= 1
    assert result.scores["volume"].legend == {0: "quiet", 1: "loud", 2: "very loud"}
    assert (result.model, result.usage.output_tokens) == ("moods", 0)
    assert len(result.request_id) == 32
    # What the format does not have is in the response beside it.
    assert result.raw_http_response.json()["answers"]["mood"]["calibrated"]
    listed = official(client).models.list().models
    assert [model.name for model in listed] == ["moods", "plain", "yes"]
    assert "calibrated (temperature)" in listed[0].description


def test_the_official_async_client_asks_many_at_once(engine: Engine) -> None:
    """One event loop for server and client; 20 requests for two models, each with its own answer."""
    app, models = make_app(engine), ("moods", "plain")

    async def ask() -> list[Any]:
        async with app.router.lifespan_context(app):
            transport = httpx2.ASGITransport(app=app)
            settings: dict[str, Any] = {"api_key": "x", "base_url": "http://testserver", "transport": transport}
            async with AsyncTypeSafeClient(**settings) as client:
                calls = [
                    client.system_one(state=f"Ann sings on day {n}", questions=QUESTIONS, model=models[n % 2])
                    for n in range(20)
                ]
                return await asyncio.gather(*calls)

    results = asyncio.run(ask())
    assert [result.model for result in results] == ["moods", "plain"] * 10
    assert len({result.choices["mood"].confidence for result in results}) == 20


def test_what_is_wrong_becomes_the_client_s_own_errors(client: TestClient, engine: Engine) -> None:
    asks = official(client)
    with pytest.raises(TypeSafeNotFoundError, match="did you mean 'moods'"):
        asks.system_one(state="x", questions=QUESTIONS, model="mood")
    with pytest.raises(TypeSafeUnprocessableEntityError, match=r"questions\.q\.choice: labels 0 and 1 are equal"):
        asks.system_one(state="x", questions={"q": Choice(criteria={"a": None, " a": None})})
    with pytest.raises(TypeSafeUnprocessableEntityError, match="images, which are not answered here"):
        asks.system_one(state="x", questions=QUESTIONS, extra_body={"assets": {"a": {"type": "image"}}})
    with TestClient(make_app(engine, key="secret")) as locked:
        with pytest.raises(TypeSafeAuthenticationError, match="key is missing or wrong"):
            official(locked).models.list()
        assert official(locked, api_key="secret").models.list().models
        assert locked.get("/metrics").status_code == 401
        assert locked.get("/").status_code == 200


def test_a_full_queue_says_when_to_ask_again(engine: Engine) -> None:
    app = make_app(engine, limits=Limits(queue=QueueLimits(waiting=2, batch=1)))

    async def ask() -> list[httpx2.Response]:
        async with app.router.lifespan_context(app):
            transport = httpx2.ASGITransport(app=app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
                return await asyncio.gather(*(client.post("/v1/systemone", json=body()) for _ in range(12)))

    responses = asyncio.run(ask())
    refused = [response for response in responses if response.status_code == 429]
    assert refused
    assert {response.status_code for response in responses} == {200, 429}
    assert int(refused[0].headers["retry-after"]) >= 1
    assert float(refused[0].headers["retry-after-ms"]) > 0
    error = TypeSafeRateLimitError(429, refused[0].json(), refused[0].headers)
    assert error.retry_after_ms is not None
    assert "questions wait" in str(error)


def test_a_server_that_fails_says_so_without_saying_why(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "_score", lambda _: 1 / 0)
    with pytest.raises(TypeSafeInternalServerError, match=r"the server failed; request [0-9a-f]{32}"):
        official(client).system_one(state="x", questions=QUESTIONS)
    assert "ZeroDivisionError" in caplog.text


REFUSED = {
    "no JSON": (b"{", 400, "the body is not JSON"),
    "no UTF-8": (b"\xff", 400, "is not UTF-8"),
    "NaN": (b'{"model": NaN}', 400, "a number that JSON does not have"),
    "too large": (json.dumps(body(state="x" * 30_000)).encode(), 413, "more than 20,000 bytes"),
    "too many tokens": (json.dumps(body(state="sings " * 2000)).encode(), 413, "tokens long"),
    "too many questions": (json.dumps(body(questions={str(n): OWN for n in range(10)})).encode(), 422, "at most 9"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bodies_that_are_refused(client: TestClient, name: str) -> None:
    content, status, message = REFUSED[name]
    response = client.post("/v1/systemone", content=content)
    assert (response.status_code, message in response.text) == (status, True), response.text
    assert response.headers["x-typesafe-request-id"]


def test_a_compressed_body_is_read_and_a_bomb_is_not(client: TestClient) -> None:
    def post(content: bytes, encoding: str = "zstd") -> httpx2.Response:
        return client.post("/v1/systemone", content=content, headers={"content-encoding": encoding})

    codec = pa.Codec("zstd")
    assert post(codec.compress(json.dumps(body()).encode()).to_pybytes()).status_code == 200
    assert post(codec.compress(b" " * 10_000_000).to_pybytes()).status_code == 413
    assert post(b"no zstd").status_code == 400
    assert post(b"{}", "br").status_code == 415


def test_images_as_a_form_are_refused_where_they_stand(client: TestClient) -> None:
    response = client.post("/v1/systemone", files={"request": b"{}", "asset-0": b"png"})
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "assets"]


def test_metrics_count_what_was_answered_and_refused(engine: Engine) -> None:
    with TestClient(make_app(engine)) as client:
        client.post("/v1/systemone", json=body(questions={"q": OWN, "r": {"type": "noul", "instructions": "Is it?"}}))
        client.post("/v1/systemone", json=body(model="other"))
        shown = client.get("/metrics").text
    assert 'rango_questions_total{calibrated="true",model="moods",type="choice"} 1.0' in shown
    assert 'rango_questions_total{calibrated="false",model="moods",type="noul"} 1.0' in shown
    assert 'rango_requests_total{status="404"} 1.0' in shown
    assert "rango_request_seconds_count 1.0" in shown
    assert 'rango_batch_questions_bucket{le="2.0"} 1.0' in shown
    assert "rango_waiting_questions 0.0" in shown


def test_the_page_asks_nobody_but_this_server(client: TestClient) -> None:
    response = client.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "http" not in response.text.replace("<!doctype html>", "")
    assert "innerHTML" not in response.text
    entry = client.get("/v1/models").json()["models"][0]["rango"]
    assert entry["classes"] == ["happy", "sad", "angry"]
    assert entry["test"]["nce"]["low"] < entry["test"]["nce"]["value"]


def test_a_name_that_leads_here_from_elsewhere_is_refused(engine: Engine) -> None:
    app = make_app(engine, hosts=LOOPBACK)
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        assert client.get("/health").status_code == 200
        assert client.get("/health", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/nothing").status_code == 404
