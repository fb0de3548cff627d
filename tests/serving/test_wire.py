"""What a request may hold, and the place of what it may not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rango.serving.wire import RequestError, as_text, read_request

NOUL = {"type": "noul", "instructions": "Is it?"}


def refused(body: Any) -> RequestError:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(RequestError) as error:
        read_request(content)
    return error.value


def ask(question: Any, **changes: Any) -> dict[str, Any]:
    return {"model": "m", "state": "s", "questions": {"q": question}, **changes}


def test_a_request_keeps_the_order_of_questions_and_labels() -> None:
    labels = ["zeta", "alpha", "mid"]
    body = {"model": "m", "state": {"a": 1}, "questions": {"z": {"type": "choice", "criteria": dict.fromkeys(labels)}}}
    body["questions"]["a"] = NOUL
    request = read_request(json.dumps(body | {"later": True}).encode())
    assert list(request.questions) == ["z", "a"]
    assert list(request.questions["z"].criteria) == labels


Q = ["questions", "q"]


def labels(**criteria: Any) -> dict[str, Any]:
    return ask({"type": "choice", "criteria": criteria})


@pytest.mark.parametrize(
    ("body", "place", "message"),
    [
        ({"model": "m", "state": "s"}, ["questions"], "Field required"),
        (ask(NOUL, questions={}), ["questions"], "at least 1 item"),
        (ask(NOUL, state=3), ["state"], "expected a text, an object or an array"),
        (ask(NOUL, state=None), ["state"], "expected a text, an object or an array"),
        (ask(NOUL, model=7), ["model"], "valid string"),
        (ask({"type": "choose"}), [*Q], "'choice', 'noul', 'score', 'box'"),
        (ask({"instructions": "x"}), [*Q], "discriminator 'type'"),
        (ask({"type": "choice"}), [*Q, "choice", "criteria"], "Field required"),
        (ask({"type": "choice", "criteria": {}}), [*Q, "choice", "criteria"], "at least 1"),
        (labels(a=1), [*Q, "choice", "criteria", "a"], "expected a text"),
        (labels(**{"a": None, " ": None}), [*Q, "choice"], "label 1 is no text"),
        (labels(**{"a": None, "a ": None}), [*Q, "choice"], "0 and 1 are equal"),
        (ask({"type": "noul"}), [*Q, "noul"], "expected instructions, or criteria"),
        (ask({"type": "noul", "criteria": {"yes": "x"}}), [*Q, "noul", "criteria", "yes"], "not permitted"),
        (ask({**NOUL, "instrutions": "x"}), [*Q, "noul", "instrutions"], "not permitted"),
        (ask({"type": "score", "criteria": ["a", "a"]}), [*Q, "score"], "levels 0 and 1 are equal"),
        (ask({"type": "score", "criteria": list("abcdefghijk")}), [*Q, "score", "criteria"], "at most 10"),
        (ask({"type": "box"}), [*Q, "box"], "images are not answered here"),
    ],
)  # fmt: skip
def test_a_malformed_request_names_its_place(body: Any, place: list[str], message: str) -> None:
    error = refused(body)
    entry = error.body["detail"][0]
    assert error.status == 422
    assert entry["loc"] == ["body", *place]
    assert message in entry["msg"]


def test_images_and_too_many_labels_are_refused() -> None:
    assert "assets are images" in str(refused(ask(NOUL, assets={"a": {"type": "image"}})))
    assert "at most 255" in str(refused(ask({"type": "choice", "criteria": {str(n): None for n in range(256)}})))


def test_a_key_that_stands_twice_is_refused_and_not_one_of_them() -> None:
    content = b'{"model": "m", "state": "s", "questions": {"q": {"type": "choice", "criteria": {"a": "x", "a": "y"}}}}'
    error = refused(content)
    assert (error.status, str(error)) == (422, "'a' stands twice")
    assert error.body["detail"][0]["loc"] == ["body", "questions", "q", "criteria"]


def test_depth_halves_of_characters_and_broken_json_are_refused() -> None:
    deep: Any = "x"
    for _ in range(40):
        deep = [deep]
    assert refused(ask(NOUL, state=deep)).body["detail"][0]["loc"] == ["body", "state", 0, 0]
    assert refused(b'{"state": ' + b"[" * 100_000).status in (400, 422)
    assert "half a surrogate" in str(refused(rb'{"model": "m", "state": "\ud83d", "questions": {}}'))
    for content in (b"", b"[1", b"\xff", b'{"a": Infinity}', b'{"a": ' + b"9" * 5000 + b"}"):
        assert refused(content).status == 400
    assert refused(b"[]").status == 422


def test_objects_become_lines_and_deeper_values_json() -> None:
    assert as_text({"a": "é", "n": 1.5, "yes": True, "none": None}) == "a: é\nn: 1.5\nyes: true\nnone: null"
    assert as_text({"a": ["é"]}) == '{"a": ["é"]}'
    assert as_text(["x", 1]) == '["x", 1]'
