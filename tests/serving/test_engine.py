"""Answers: those of the run itself, the same packed and alone, in the format, and with what is known of their worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rango.rows import read_rows
from rango.serving.engine import Engine
from rango.serving.wire import Request, RequestError, read_request
from rango.training.run_folder import Run

MOODS = ("happy", "sad", "angry")


def request(questions: dict[str, Any], *, state: Any = "Ann sings on day 3", model: str = "moods") -> Request:
    return read_request(json.dumps({"model": model, "state": state, "questions": questions}).encode())


def answers(engine: Engine, *requests: Request) -> list[dict[str, Any]]:
    replies = engine.answer([engine.prepare(each) for each in requests])
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return [reply["answers"] for reply in replies if isinstance(reply, dict)]


OWN = {"type": "choice", "criteria": dict.fromkeys(MOODS)}


def test_the_run_s_own_question_gets_the_run_s_own_posteriors(engine: Engine, runs: dict[str, Path]) -> None:
    """As a text, and as an object with the columns of the prompt; asked of the test, in one batch."""
    rows = {str(n): row for n, (_, row) in enumerate(read_rows(runs["moods"].parent / "moods-table/rows.jsonl"), 1)}
    for model, state in (("moods", "calibrated"), ("plain", "base")):
        stored = Run(runs["moods"]).posteriors(state)
        states = [rows[identity]["text"] if n % 2 else rows[identity] for n, identity in enumerate(stored.ids)]
        replies = answers(engine, *(request({"q": OWN}, state=state, model=model) for state in states))
        shares = [[reply["q"]["probabilities"][mood] for mood in MOODS] for reply in replies]
        np.testing.assert_allclose(shares, np.exp(stored.log_posteriors), atol=1e-6)
        assert all(reply["q"]["calibrated"] is (model == "moods") for reply in replies)


MANY = {
    "own": OWN,
    "described": {"type": "choice", "instructions": "Who?", "criteria": {"Ann": "a woman", "Bo": None, "none": None}},
    "noul": {"type": "noul", "instructions": "Is it about Ann?"},
    "described noul": {"type": "noul", "criteria": {"true": "Someone is loud.", "false": "All is quiet."}},
    "score": {"type": "score", "instructions": {"rate": "volume"}, "criteria": ["quiet", "loud", "very loud"]},
    "many": {"type": "choice", "criteria": {f"day {n}": None for n in range(40)}},
}


@pytest.mark.parametrize("model", ["moods", "yes"])
def test_many_questions_about_one_state_are_answered_as_each_alone_and_beside_others(
    engine: Engine, model: str
) -> None:
    """The state is read once for all of them: to 1e-5 in float32, whatever shares the pass."""
    state = {"text": "Ann smiles and sings. " * 4, "again": "No 3"}
    (packed,) = answers(engine, request(MANY, state=state, model=model))
    alone = [answers(engine, request({name: MANY[name]}, state=state, model=model))[0] for name in MANY]
    others = request({"q": OWN}, state="Bo cries", model="plain")
    crowd = answers(engine, others, request(MANY, state=state, model=model), request(MANY, model=model), others)[1]
    for name, single in zip(MANY, alone, strict=True):
        for reply in (packed[name], crowd[name]):
            assert reply.keys() == single[name].keys()
            expected = single[name].get("probabilities", {"true": single[name].get("noul")})
            given = reply.get("probabilities", {"true": reply.get("noul")})
            assert list(given) == list(expected)
            np.testing.assert_allclose(list(given.values()), list(expected.values()), atol=1e-5)
    together, apart = engine.prepare(request(MANY, state=state, model=model)).tokens, 0
    apart = sum(engine.prepare(request({name: MANY[name]}, state=state, model=model)).tokens for name in MANY)
    assert together < apart


def test_answers_have_the_shape_of_the_format(engine: Engine) -> None:
    (reply,) = answers(engine, request(MANY))
    own, score, noul = reply["own"], reply["score"], reply["noul"]
    assert (own["type"], own["choice"]) == ("choice", max(own["probabilities"], key=own["probabilities"].get))
    # The confidence is the winning probability, and probabilities sum to 1 in the order of the labels.
    assert own["confidence"] == max(own["probabilities"].values())
    assert list(own["probabilities"]) == list(MOODS)
    assert sum(own["probabilities"].values()) == pytest.approx(1)
    assert noul["type"] == "noul"
    assert noul["confidence"] == max(noul["noul"], 1 - noul["noul"])
    assert score["legend"] == {"0": "quiet", "1": "loud", "2": "very loud"}
    assert score["score"] == pytest.approx(score["probabilities"]["1"] + 2 * score["probabilities"]["2"])
    assert len(reply["many"]["probabilities"]) == 40
    assert 0 <= own["option_mass"] <= 1


def test_what_is_known_of_an_answer_s_worth_is_said(engine: Engine) -> None:
    """Calibrator and costs are the run's own question's; every other answer says why it is not calibrated."""
    (reply,) = answers(engine, request(MANY))
    own = reply["own"]
    assert (own["calibrated"], own["calibrator"], own["form"]) == (True, "temperature of moods", "cloze")
    # Abstaining costs 0.4: the decision is to abstain where an error is more probable than that.
    error = 1 - own["confidence"]
    assert own["expected_cost"] == pytest.approx(min(error, 0.4))
    assert own["decision"] == ("abstain" if error > 0.4 else own["choice"])
    for name, why in {
        "described": "trained on the labels happy, sad, angry",
        "noul": "trained on the labels happy, sad, angry",
        "many": "trained on the labels happy, sad, angry",
    }.items():
        assert not reply[name]["calibrated"]
        assert why in reply[name]["note"]
        assert "decision" not in reply[name]
    again = {"type": "choice", "instructions": "Which mood?", "criteria": dict.fromkeys(MOODS)}
    assert "without instructions" in answers(engine, request({"q": again}))[0]["q"]["note"]
    about = {"type": "choice", "criteria": {**dict.fromkeys(MOODS), "sad": "low"}}
    assert "without descriptions" in answers(engine, request({"q": about}))[0]["q"]["note"]
    assert "names ('{text}. Mood:')" in answers(engine, request({"q": OWN}, state=["x"]))[0]["q"]["note"]


def test_another_order_of_the_labels_is_kept_and_calibrated_by_name(engine: Engine) -> None:
    turned = {"type": "choice", "criteria": dict.fromkeys(reversed(MOODS))}
    reply, other = answers(engine, request({"q": OWN}), request({"q": turned}))
    assert list(other["q"]["probabilities"]) == list(reversed(MOODS))
    assert other["q"]["probabilities"] == pytest.approx(reply["q"]["probabilities"], abs=1e-6)
    assert other["q"]["calibrated"]
    # Letters are given out as in training, so that the order of a request changes nothing.
    state = {"text": "Ann sings", "again": "No 3"}
    orders = [{"q": {"type": "choice", "criteria": dict.fromkeys(order)}} for order in (("no", "yes"), ("yes", "no"))]
    one, two = answers(engine, *(request(order, state=state, model="yes") for order in orders))
    assert list(two["q"]["probabilities"]) == ["yes", "no"]
    assert one["q"]["probabilities"] == pytest.approx(two["q"]["probabilities"], abs=1e-7)


def test_a_yes_or_no_run_is_asked_in_its_own_words(engine: Engine) -> None:
    """Its prompt ends in "Ann?", which the client may say again; the classes are no and yes."""
    asks = {
        "choice": {"type": "choice", "criteria": {"no": None, "yes": None}},
        "own": {"type": "noul", "instructions": "Ann?"},
        "other": {"type": "noul", "instructions": "Is it Ann?"},
        "described": {"type": "noul", "criteria": {"true": "x"}},
    }
    (reply,) = answers(engine, request(asks, state={"text": "Ann sings", "again": "No 3"}, model="yes"))
    assert reply["own"]["noul"] == pytest.approx(reply["choice"]["probabilities"]["yes"], abs=1e-6)
    assert "note" not in reply["own"]
    assert "without instructions" in reply["other"]["note"]
    assert "without descriptions" in reply["described"]["note"]


def test_one_label_is_certain_and_255_are_answered(engine: Engine) -> None:
    one = {"type": "choice", "criteria": {"only": None}}
    every = {"type": "choice", "criteria": {f"label {n}": None for n in range(255)}}
    (reply,) = answers(engine, request({"one": one, "every": every}, model="yes"))
    assert (reply["one"]["confidence"], reply["one"]["note"]) == (1.0, "there is one answer alone: nothing was asked")
    # More labels than letters are asked for as texts.
    assert reply["every"]["form"] == "cloze"
    assert sum(reply["every"]["probabilities"].values()) == pytest.approx(1)


def test_what_cannot_be_asked_is_refused_with_its_place_or_its_length(engine: Engine) -> None:
    with pytest.raises(RequestError, match=r"unknown model 'mood': did you mean 'moods'") as unknown:
        engine.prepare(request({"q": OWN}, model="mood"))
    assert unknown.value.status == 404
    with pytest.raises(RequestError, match=r"is \d+ tokens long, .* reads at most \d+") as long:
        engine.prepare(request({"q": OWN}, state="sings " * 3000))
    assert long.value.status == 413
    blank = {"type": "choice", "criteria": {"a": None, "b": None}}
    with pytest.raises(RequestError, match="are blank") as nothing:
        engine.prepare(request({"fine": {"type": "noul", "instructions": "Is it?"}, "q": blank}, state=" "))
    assert (nothing.value.status, nothing.value.body["detail"][0]["loc"]) == (422, ["body", "questions", "q"])


def test_a_fault_of_one_request_is_its_own(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [engine.prepare(request({"q": OWN}, state=state)) for state in ("Ann sings", "Bo cries")]
    from rango.serving import engine as module

    def fails(reader: Any, trees: Any, **rest: Any) -> Any:
        if any(tree is jobs[1].trees[0] for tree in trees):
            raise RuntimeError("out of memory")
        return score(reader, trees, **rest)

    score = module.score
    monkeypatch.setattr(module, "score", fails)
    first, second = engine.answer(jobs)
    assert isinstance(first, dict)
    assert isinstance(second, RuntimeError)
