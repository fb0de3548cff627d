"""Endpoints: how MODEL names one, what is sent, and what is no answer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from helpers.toy import toy_task

from rango.errors import InputError
from rango.options import EvaluateConfig
from rango.serving.endpoint import Endpoint, WrongAnswerError, parse_endpoint
from rango.tasks import Instance

SYSTEM = Endpoint("systemone", "http://127.0.0.1:8000", "tickets")
OPENAI = Endpoint("openai", "https://api.example/v1", "m")
TWICE = Instance("i", "Sam ran.", "Why?", ("late", "bored", "late "), 0, "g")
TASK = toy_task(train=1, validation=1, test=1, form="letter")


def test_model_names_an_endpoint_or_none() -> None:
    assert parse_endpoint("systemone:http://127.0.0.1:8000/#tickets") == SYSTEM
    assert parse_endpoint("openai:https://api.example/v1#m") == OPENAI
    assert OPENAI.address == "https://api.example/v1/chat/completions"
    assert Endpoint("openai", "http://localhost:11434", "m").address.endswith(":11434/v1/chat/completions")
    for other in ("microsoft/phi-2", "./folder", "model.gguf", "C:\\models"):
        assert parse_endpoint(other) is None
    for model, message in {
        "systemone:tickets": "has no URL; expected systemone:https://HOST#NAME",
        "systemone:ftp://x#y": "has no URL",
        "openai:https://x": "does not say which model to ask; expected openai:https://x#NAME",
        "openai:https://me:pass@x#y": "put the key into OPENAI_API_KEY",
        "systemone:https://x?key=1#y": "put the key into TYPESAFE_API_KEY",
    }.items():
        with pytest.raises(InputError, match=message) as error:
            parse_endpoint(model)
        assert "pass@" not in str(error.value).partition("URL")[2]


def test_a_key_of_the_environment_is_sent_encrypted_or_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TYPESAFE_API_KEY", raising=False)
    assert SYSTEM.headers() == {}
    monkeypatch.setenv("TYPESAFE_API_KEY", "secret")
    assert SYSTEM.headers() == {"authorization": "Bearer secret"}
    with pytest.raises(InputError, match="is not https, and would get the key of TYPESAFE_API_KEY") as error:
        Endpoint("systemone", "http://example.org", "m").headers()
    assert "secret" not in str(error.value)


def test_an_instance_is_asked_as_state_question_and_labels() -> None:
    payload = SYSTEM.payload(TWICE, task=TASK)
    question = {"type": "choice", "instructions": "Why?", "criteria": {"late": None, "bored": None}}
    assert payload == {"model": "tickets", "state": "Sam ran.", "questions": {"answer": question}}
    letters = OPENAI.payload(TASK.test[0], task=TASK)
    assert letters["messages"][0]["content"].endswith("Answer:")
    assert (letters["max_tokens"], letters["logprobs"], letters["top_logprobs"]) == (1, True, 20)


def test_rows_with_a_type_are_asked_as_what_they_are() -> None:
    """Levels from the lowest, yes or no as noul, and two other answers as a choice: nobody says which is yes."""
    levels = Instance("s", "Sam ran.", "How fast?", ("slow", "fast"), 0, "g", type="score")
    asked = SYSTEM.payload(levels, task=TASK)["questions"]["answer"]
    assert asked == {"type": "score", "instructions": "How fast?", "criteria": ["slow", "fast"]}
    tired = Instance("y", "Sam ran.", "Tired?", ("Yes", "No"), 0, "g", type="yes_no")
    assert SYSTEM.payload(tired, task=TASK)["questions"]["answer"] == {"type": "noul", "instructions": "Tired?"}
    stated = replace(tired, context="Sam ran. Tired?", question="")
    criteria = {"true": "Yes", "false": "No"}
    assert SYSTEM.payload(stated, task=TASK)["questions"]["answer"] == {"type": "noul", "criteria": criteria}
    other = replace(tired, choices=("bad", "good"))
    assert SYSTEM.payload(other, task=TASK)["questions"]["answer"]["type"] == "choice"
    answer = {"type": "noul", "noul": 0.75, "confidence": 0.75}
    assert SYSTEM.read({"answers": {"answer": answer}}, tired).scores == (math.log(0.75), math.log(0.25))
    shares = {"type": "score", "score": 0.6, "probabilities": {"0": 0.4, "1": 0.6}}
    assert SYSTEM.read({"answers": {"answer": shares}}, levels).scores == (math.log(0.4), math.log(0.6))
    with pytest.raises(WrongAnswerError, match="another shape"):
        SYSTEM.read(reply(slow=0.4, fast=0.6), levels)
    with pytest.raises(WrongAnswerError, match="a probability of the answer is 1.5"):
        SYSTEM.read({"answers": {"answer": {"noul": 1.5}}}, tired)
    many = replace(levels, choices=tuple(f"level {n}" for n in range(11)))
    with pytest.raises(InputError, match="11 levels; a systemone endpoint takes 10 at most"):
        SYSTEM.form(replace(TASK, test=(many,)), EvaluateConfig.build({"model": "systemone:http://x#y", "task": "t"}))


def reply(**probabilities: Any) -> dict[str, Any]:
    return {"model": "t-1", "answers": {"answer": {"type": "choice", "probabilities": probabilities}}}


def test_an_answer_gives_each_choice_the_probability_of_its_label() -> None:
    answer = SYSTEM.read(reply(late=0.75, bored=0.25) | {"usage": {"input_tokens": 9}}, TWICE)
    assert answer.scores == (math.log(0.75), math.log(0.25), math.log(0.75))
    assert (answer.model, answer.input_tokens, answer.calibrated) == ("t-1", 9, None)
    assert SYSTEM.read(reply(late=1, bored=0), TWICE).scores[1] == -math.inf


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "is a list, not an object"),
        ({}, "another shape"),
        ({"answers": {"answer": {"noul": 1}}}, "another shape"),
        (reply(late=1.0), "no probability of 'bored'"),
        (reply(late=0.9, bored=0.9), "sum to 1.8000"),
        (reply(late=True, bored=0), "a probability of the answer is True"),
        (reply(late=float("nan"), bored=1), "is nan"),
        (reply(late=-1, bored=2), "is -1"),
    ],
)
def test_what_is_no_answer_says_why(body: Any, message: str) -> None:
    with pytest.raises(WrongAnswerError, match=message):
        SYSTEM.read(body, TWICE)


def listed(**tokens: float) -> dict[str, Any]:
    top = [{"token": token.replace("_", " "), "logprob": math.log(share)} for token, share in tokens.items()]
    return {"model": "m", "choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}


def test_letters_are_read_with_and_without_their_space_and_bounded_where_they_are_missing() -> None:
    """A has 0.5 + 0.2, B is the last listed with 0.1, C at most 0.1 of the 0.15 that are not listed."""
    answer = OPENAI.read(listed(_A=0.5, A=0.2, x=0.05, B=0.1), TWICE)
    assert [math.exp(score) for score in answer.scores] == pytest.approx([0.7, 0.1, 0.05])
    assert (answer.bounded, answer.mass) == (1, pytest.approx(0.8))
    with pytest.raises(WrongAnswerError, match=r"none of the letters ABC is among .* \('Sure', 'I'\)"):
        OPENAI.read(listed(Sure=0.6, I=0.4), TWICE)
    with pytest.raises(WrongAnswerError, match="another shape"):
        OPENAI.read({"choices": [{"message": {"content": "A"}}]}, TWICE)


def test_options_that_mean_nothing_for_an_endpoint_are_refused() -> None:
    def form(endpoint: Endpoint, **options: Any) -> str:
        return endpoint.form(TASK, EvaluateConfig.build({"model": "systemone:http://x#y", "task": "t", **options}))

    assert (form(SYSTEM), form(OPENAI), form(OPENAI, form="letter", shots=2)) == ("cloze", "letter", "letter")
    for endpoint, options, message in (
        (SYSTEM, {"form": "letter"}, "form is the endpoint's own choice"),
        (SYSTEM, {"shots": 2}, "shots stand in a prompt"),
        (SYSTEM, {"adapter": "run"}, "adapter is run but systemone:http://x#y is an endpoint"),
        (OPENAI, {"form": "cloze"}, "use --form letter"),
        (OPENAI, {"normalise": "tokens"}, "normalise is tokens"),
    ):
        with pytest.raises(InputError, match=message):
            form(endpoint, **options)


@pytest.mark.parametrize(
    ("endpoint", "reply"),
    [
        (SYSTEM, {"answers": {"answer": {"probabilities": {"late": 0.5, "bored": 0.5}}}, "usage": {"cost": 10**400}}),
        (
            SYSTEM,
            {"answers": {"answer": {"probabilities": {"late": 0.5, "bored": 0.5}}}, "usage": {"input_tokens": "x"}},
        ),
        (OPENAI, {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "A", "logprob": "x"}]}]}}]}),
        (OPENAI, {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "A", "logprob": -(10**400)}]}]}}]}),
    ],
)
def test_a_number_that_is_none_is_a_wrong_answer(endpoint: Endpoint, reply: dict[str, Any]) -> None:
    with pytest.raises(WrongAnswerError, match="the response has another shape"):
        endpoint.read(reply, TWICE)
