"""The evaluation of an endpoint has the files of any other, and of `rango serve` the run's own posteriors."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import yaml
from helpers.toy import toy_task

from rango import load_model, load_task
from rango.console import Screen
from rango.errors import InputError
from rango.files import read_yaml
from rango.options import EvaluateConfig
from rango.serving.app import make_app
from rango.serving.asking import LoggedAnswer, ask_all
from rango.serving.endpoint import Answer, parse_endpoint
from rango.serving.endpoint_evaluation import evaluate_endpoint, notes_of
from rango.serving.engine import Engine
from rango.serving.served_run import read_served
from rango.training.finetune import finetune
from rango.training.run_folder import Run

QUIET = Screen(quiet=True)


class Served(httpx2.ASGITransport):
    """An application with its start and its end, for a client that has its own event loop."""

    lifespan: Any = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.lifespan is None:
            app: Any = self.app
            self.lifespan = app.router.lifespan_context(app)
            await self.lifespan.__aenter__()
        return await super().handle_async_request(request)

    async def aclose(self) -> None:
        if self.lifespan is not None:
            await self.lifespan.__aexit__(None, None, None)


def evaluate(out: Path, task: Any, model: str, transport: httpx2.AsyncBaseTransport, **options: Any) -> dict[str, Any]:
    endpoint = parse_endpoint(model)
    assert endpoint is not None
    config = EvaluateConfig.build({"model": model, "task": task.name, **options})
    ask = partial(ask_all, transport=transport)
    return evaluate_endpoint(endpoint, task, out=out, config=config, screen=QUIET, ask=ask)


def test_a_served_run_gives_the_posteriors_that_it_has_stored(
    engine: Engine, runs: dict[str, Path], tmp_path: Path
) -> None:
    """The whole way there and back: words, JSON, queue, calibrator, JSON, posteriors file."""
    task = load_task(runs["moods"].parent / "moods-table", train=30, validation=12, test=20)
    for name, state in (("moods", "calibrated"), ("plain", "base")):
        model = f"systemone:http://127.0.0.1:8000#{name}"
        metrics = evaluate(tmp_path / name, task, model, Served(app=make_app(engine)))
        stored, run = Run(runs["moods"]).posteriors(state), Run(tmp_path / name)
        served = run.posteriors("base")
        assert (served.ids, served.labels.tolist()) == (stored.ids, stored.labels.tolist())
        np.testing.assert_allclose(served.log_posteriors, stored.log_posteriors, atol=1e-5)
        assert metrics["base"]["nce"].value == pytest.approx(
            Run(runs["moods"]).metrics["test"][state]["nce"].value, 1e-4
        )
        record = read_yaml(tmp_path / name / "evaluation.yaml")
        assert record["status"] == "complete"
        assert record["endpoint"]["models"] == {name: 20}
        assert record["tokens"] > 100
        assert 0 < record["endpoint"]["seconds_p50"] <= record["endpoint"]["seconds_p99"]


def test_rows_of_several_types_have_the_posteriors_of_the_run_as_served(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Yes-or-no rows whose yes stands last, and levels: asked as noul and score, each is the run's own question."""
    (tmp_path / "typed").mkdir()
    levels, yes_no = ["calm", "cross", "angry"], ["no", "yes"]
    rows = [
        {"state": f"Ticket {n}.", "question": question, "options": options, "kind": kind, "answer": options[n % 2]}
        for n in range(24)
        for question, options, kind in (("How angry?", levels, "score"), ("About money?", yes_no, "yes_no"))
    ]
    (tmp_path / "typed" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"prompt": "{state} {question}", "choices": "options", "label": "answer", "type": "kind", "group": "state"}
    (tmp_path / "typed" / "task.yaml").write_text(yaml.safe_dump(keys))
    model, task = load_model(checkpoint("phi")), load_task(tmp_path / "typed", train=16, validation=12, test=12)
    finetune(model, task, out=tmp_path / "run", steps=2, batch=8, learning_rate=0.01, form="letter")
    served = Engine(load_model(checkpoint("phi")), read_served([f"typed={tmp_path / 'run'}"]))
    kinds = []

    class Kinds(Served):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            kinds.append(json.loads(request.content)["questions"]["answer"]["type"])
            return await super().handle_async_request(request)

    evaluate(tmp_path / "out", task, "systemone:http://127.0.0.1:8000#typed", Kinds(app=make_app(served)))
    assert sorted(kinds) == ["noul"] * 6 + ["score"] * 6
    stored, answered = Run(tmp_path / "run").posteriors("calibrated"), Run(tmp_path / "out").posteriors("base")
    assert (answered.ids, answered.types) == (stored.ids, stored.types)
    np.testing.assert_allclose(answered.log_posteriors, stored.log_posteriors, atol=1e-5)


def test_a_repeated_evaluation_asks_nothing_and_another_is_refused(tmp_path: Path) -> None:
    task, count = toy_task(train=2, validation=2, test=8, form="letter"), 0

    def handler(request: httpx2.Request) -> httpx2.Response:
        nonlocal count
        count += 1
        assert request.url.path == "/v1/chat/completions"
        top = [{"token": token, "logprob": float(np.log(share))} for token, share in ((" B", 0.6), (" A", 0.3))]
        body = {"model": "x-1", "choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}
        return httpx2.Response(200, json=body | {"usage": {"prompt_tokens": 5, "cost": 0.25}})

    model = "openai:http://localhost:11434#x"
    evaluate(tmp_path / "out", task, model, httpx2.MockTransport(handler))
    metrics = (tmp_path / "out/metrics.json").read_text()
    evaluate(tmp_path / "out", task, model, httpx2.MockTransport(handler))
    assert (count, (tmp_path / "out/metrics.json").read_text()) == (8, metrics)
    record = read_yaml(tmp_path / "out/evaluation.yaml")
    assert (record["form"], record["endpoint"]["cost"], record["letter_mass"]) == ("letter", 2.0, 0.9)
    shares = np.exp(Run(tmp_path / "out").posteriors("base").log_posteriors[0])
    # The letters that are missing have at most the 0.1 that the others leave.
    assert shares[1] / shares[2] == pytest.approx(6)
    with pytest.raises(InputError, match="already holds other files"):
        evaluate(tmp_path / "out", task, "openai:http://localhost:11434#y", httpx2.MockTransport(handler))


def test_an_endpoint_is_bodies_every_order(tmp_path: Path) -> None:
    """One that answers A with 2/3 whatever is asked is averaged to equal shares over a whole round."""
    task, bodies = toy_task(train=2, validation=2, test=6, form="letter"), list[bytes]()

    def handler(request: httpx2.Request) -> httpx2.Response:
        bodies.append(request.content)
        shares = ((" A", 0.6), (" B", 0.2), (" C", 0.07), (" D", 0.03))
        top = [{"token": token, "logprob": float(np.log(share))} for token, share in shares]
        return httpx2.Response(
            200, json={"model": "x", "choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}
        )

    model, orders = "openai:http://localhost:11434#x", 24
    evaluate(tmp_path / "out", task, model, httpx2.MockTransport(handler), orders=orders)
    sizes = [len(one.choices) for one in task.test]
    assert len(set(bodies)) == len(bodies) == sum(6 if size == 3 else 24 for size in sizes)
    stored = Run(tmp_path / "out").posteriors("base")
    for row, size in enumerate(sizes):
        np.testing.assert_allclose(np.exp(stored.log_posteriors[row, :size]), 1 / size, rtol=1e-9)
    assert stored.choices == tuple(one.choices for one in task.test)
    evaluate(tmp_path / "out", task, model, httpx2.MockTransport(handler), orders=orders)
    assert len(bodies) == len(set(bodies))


def test_what_one_must_know_of_the_answers_is_noted() -> None:
    def answers(*given: Answer) -> list[LoggedAnswer]:
        return [LoggedAnswer(answer, 0.1) for answer in given]

    sure = Answer((0.0, -np.inf), "m-1", calibrated=True)
    assert notes_of(answers(Answer((-0.5, -1.0), "m"))) == []
    notes = notes_of(answers(sure, Answer((-0.5, -1.0), "m-2", bounded=1, calibrated=False)))
    parts = ("more than one model answered: m-1 (1), m-2 (1)", "1 of 2 answers do not list", "probability 0", "1 of 2")
    for note, part in zip(notes, parts, strict=True):
        assert part in note
