"""Answering: a loaded base with the adapters of several runs, and the questions of many requests in few passes.

requests ── prepare ──> Jobs: trees of tokens ── answer ──> scores ── calibrator, costs ──> answers

Questions about one state share its tokens: they are read once, and each question continues from them (`Reader.after`).
Requests of one question each share forward passes instead. Neither changes an answer by more than rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rango.decisions import Costs, Posteriors, decide
from rango.errors import InputError, unknown_name
from rango.models.adapter_set import AdapterSet, load_adapters
from rango.models.loading import Model
from rango.models.peft_format import load_adapter
from rango.options import Form
from rango.scoring.forward import SHORTEST_PREFIX, check_numbers, shared_beginning
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import score
from rango.scoring.trees import TokenTree, TooLongError, encode
from rango.serving.answer_log import logged_columns
from rango.serving.questions import Prepared, ask
from rango.serving.served_run import ServedRun
from rango.serving.wire import ChoiceQuestion, NoulQuestion, Request, RequestError, ScoreQuestion
from rango.tasks import Task

LOGGED = "logged"
"""The key of a response that is for the server alone."""
MOST_KEYS = 2**17
"""Tokens whose keys and values are held at once, in a pass over questions that share a state."""


@dataclass(frozen=True, eq=False)
class Job:
    """One request as token trees."""

    run: ServedRun
    names: tuple[str, ...]
    """Of the questions, in their order."""
    prepared: tuple[Prepared, ...]
    trees: tuple[TokenTree | None, ...]
    """None where nothing is to be scored."""

    @cached_property
    def clusters(self) -> list[list[int]]:
        """The places of its questions that begin with the same tokens, so that these are worth reading once."""
        clusters: dict[tuple[Any, ...], list[int]] = {}
        for place, (prepared, tree) in enumerate(zip(self.prepared, self.trees, strict=True)):
            if tree is not None:
                clusters.setdefault((prepared.form, tree.trunk[:SHORTEST_PREFIX]), []).append(place)
        return list(clusters.values())

    @property
    def tokens(self) -> int:
        """Tokens that are read to answer it; those that questions share count once."""
        total = 0
        for places in self.clusters:
            trees = [tree for place in places if (tree := self.trees[place]) is not None]
            total += sum(tree.input_length for tree in trees) - shared_beginning(trees) * (len(trees) - 1)
        return total


@dataclass(frozen=True, slots=True)
class _Row:
    """What the model says of the choices of one question, before any calibration."""

    scores: np.ndarray
    """(K,) nats, normalised by length where the run does so."""
    mass: float | None
    """Probability of all its choices together; None where scores by length leave it unknown."""


class Engine:
    """A base model, and the runs on it by name. One thread at a time may ask it."""

    def __init__(self, model: Model, runs: Mapping[str, ServedRun]) -> None:
        """Put the adapters of the runs into a loaded base.

        Raises:
            InputError: another base model than that of the runs, or an adapter that cannot be read.
        """
        self.model, self.runs = model, dict(runs)
        for run in runs.values():
            if model.fingerprint != run.predictor.fingerprint:
                raise InputError(
                    f"{model.name} has fingerprint {model.fingerprint}, but {run.name} adapted "
                    f"{run.predictor.config.model} with {run.predictor.fingerprint}; give the model it was trained on"
                )
        self._tasks = {
            name: Task(name, (), (), (), run.task.words, run.task.form, shots=run.shots) for name, run in runs.items()
        }
        self._adapters: AdapterSet | None = None
        folders = {name: run.predictor.adapter for name, run in runs.items()}
        if any(run.is_full for run in runs.values()):
            load_adapter(model, next(folder for folder in folders.values() if folder is not None))
        elif any(folders.values()):
            self._adapters = load_adapters(model, {name: each for name, each in folders.items() if each is not None})
        self.reader = probe_reader(model)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen and could not be checked, in words."""
        adapters = () if self._adapters is None else self._adapters.values()
        of_adapters = (note for adapter in adapters for note in adapter.notes)
        return tuple(dict.fromkeys((*self.model.notes, *of_adapters, *self.reader.notes)))

    def run(self, name: str) -> ServedRun:
        """The run of a name.

        Raises:
            RequestError: 404, there is none.
        """
        if name not in self.runs:
            raise RequestError(404, str(unknown_name("model", name[:80], self.runs)))
        return self.runs[name]

    def prepare(self, request: Request) -> Job:
        """Put a request into words and tokens.

        Raises:
            RequestError: 404, an unknown model; 413, more tokens than the model reads, with their number; 422, labels
                that the tokenizer cannot tell apart, or nothing but spaces to ask about.
        """
        run = self.run(request.model)
        prepared = []
        for name, question in request.questions.items():
            with _as_request_error(name):
                prepared.append(ask(name, question, state=request.state, task=run.task))
        trees: list[TokenTree | None] = [None] * len(prepared)
        for form in {each.form for each in prepared}:
            numbers = [n for n, each in enumerate(prepared) if each.form == form and each.instance is not None]
            for number, tree in zip(numbers, self._encode(run, prepared, numbers, form, request), strict=True):
                trees[number] = tree
        return Job(run, tuple(request.questions), tuple(prepared), tuple(trees))

    def _encode(
        self, run: ServedRun, prepared: Sequence[Prepared], numbers: Sequence[int], form: Form, request: Request
    ) -> list[TokenTree]:
        task = self._tasks[run.name]
        instances = [instance for n in numbers if (instance := prepared[n].instance) is not None]
        try:
            return list(encode(self.model, instances, task=task, form=form))
        except InputError:
            # Which of the questions it is, only asking them one by one can say.
            trees: list[TokenTree] = []
            for number, instance in zip(numbers, instances, strict=True):
                with _as_request_error(list(request.questions)[number]):
                    trees += encode(self.model, [instance], task=task, form=form)
            return trees

    def answer(self, jobs: Sequence[Job]) -> list[dict[str, Any] | Exception]:
        """The responses to several requests, or what is wrong with them, in their order.

        Under `LOGGED` a response has the columns of the log for each of the run's own questions; these are not sent.
        A fault of the model that one request causes is its own: the others are answered.
        """
        try:
            rows = self._score(jobs)
        except Exception as error:
            if len(jobs) == 1:
                return [error]
            return [reply for job in jobs for reply in self.answer([job])]
        replies: list[dict[str, Any] | Exception] = []
        for number, job in enumerate(jobs):
            logged: dict[str, dict[str, Any]] = {}
            try:
                answers = {
                    name: self._answer(job.run, prepared, rows.get((number, place)), logged.setdefault(name, {}))
                    for place, (name, prepared) in enumerate(zip(job.names, job.prepared, strict=True))
                }
            except Exception as error:
                replies.append(error)
                continue
            usage = {"input_tokens": job.tokens, "output_tokens": 0}
            logged = {name: columns for name, columns in logged.items() if columns}
            replies.append({"model": job.run.name, "answers": answers, "usage": usage, LOGGED: logged})
        return replies

    def _score(self, jobs: Sequence[Job]) -> dict[tuple[int, int], _Row]:
        """What the model says of each question, by the numbers of its job and of the question in it."""
        rows: dict[tuple[int, int], _Row] = {}
        for name, form, places in _passes(jobs):
            trees = [tree for job, place in places if (tree := jobs[job].trees[place]) is not None]
            config = self.runs[name].predictor.config
            # The keys of a state are held once for each row, so a long state allows fewer rows in a pass.
            longest = max(tree.input_length for tree in trees)
            rest = longest - shared_beginning(trees)
            budget = min(config.batch_tokens, max(1, MOST_KEYS // longest) * rest)
            options = config.model_copy(update={"batch_tokens": max(budget, 1)})
            with self._at_work(name):
                scores = score(self.reader, trees, options=options, form=form)
            for row, place in enumerate(places):
                values = scores.values[row, : len(trees[row].branches)]
                if scores.letter_mass is not None:
                    mass: float | None = float(scores.letter_mass[row])
                else:
                    mass = float(np.exp(values).sum()) if config.normalise == "none" else None
                rows[place] = _Row(values, mass)
        return rows

    def _at_work(self, name: str) -> AbstractContextManager[None]:
        """Within the block the network is the run's: its adapter alone, or the base."""
        if self._adapters is None or self.runs[name].predictor.adapter is None:
            return contextlib.nullcontext()
        return self._adapters.only(name)

    def _answer(self, run: ServedRun, prepared: Prepared, row: _Row | None, logged: dict[str, Any]) -> dict[str, Any]:
        """The answer to one question; `logged` gets the columns of its line in the log, where it is the run's own."""
        extra: dict[str, Any] = {"calibrated": False, "form": prepared.form}
        calibrator = run.predictor.calibrator
        if row is None:
            shares = [1.0]
            extra["note"] = "there is one answer alone: nothing was asked"
        else:
            assert prepared.instance is not None
            check_numbers(self.model, row.scores, prepared.instance.id)
            if np.isneginf(row.scores).all():
                raise RequestError(
                    422,
                    "the model gives probability 0 to each of its choices",
                    loc=("questions", prepared.instance.id.removeprefix("question ")),
                )
            posteriors = Posteriors.from_scores(row.scores[None], None, choices=(prepared.instance.choices,))
            missing = run.task.n_choices - posteriors.n_choices
            if prepared.foreign is None and missing:
                # Calibrator and costs are those of all columns, of which this question has the first ones.
                padded = np.pad(row.scores, (0, missing), constant_values=-np.inf)
                posteriors = Posteriors.from_scores(padded[None], None)
            extra["option_mass"] = row.mass
            if prepared.foreign is not None:
                extra["note"] = f"not the run's own question: {prepared.foreign}"
            elif calibrator is not None:
                posteriors = calibrator.apply(posteriors)
                extra["calibrated"] = True
                extra["calibrator"] = f"{calibrator.method} of {run.name}"
            shares = np.exp(posteriors.log_posteriors[0, : len(prepared.names)]).tolist()
            if prepared.foreign is None:
                decision, column = _decision(run, prepared, posteriors)
                # Of a run without costs the decision is only the most probable choice, which the answer has.
                if run.costs is not None or run.gate is not None:
                    extra |= decision
                acts = {"act": "yes" if decision["act"] else "no"} if "act" in decision else {}
                logged.update(logged_columns(posteriors.column_names if run.task.classes else None, shares))
                logged.update(decision | {"decision": column} | acts | {"calibrated": extra["calibrated"]})
        return _in_the_format(prepared, shares) | extra


def _decision(run: ServedRun, prepared: Prepared, posteriors: Posteriors) -> tuple[dict[str, Any], str]:
    """The decision of least expected cost as the answer has it, and what it is called in the words of the run.

    It is taken under the costs that were stated to the run, or with a gate under the gate's, of what acts.
    """
    assert prepared.instance is not None
    costs = Costs.zero_one(posteriors.column_names or posteriors.n_choices)
    if run.costs is not None:
        costs = run.costs.for_posteriors(posteriors)
    decision = next(decide(posteriors, costs=costs).rows())
    label, choices = decision["decision"], prepared.instance.choices
    # Where choices are a question's own, costs call them by their places.
    if label not in choices and label.isdecimal() and int(label) < len(choices):
        label = choices[int(label)]
    name = prepared.names[choices.index(label)] if label in choices else label
    act = {} if run.gate is None else {"act": bool(run.gate.decide(posteriors).acts[0])}
    return {"decision": name, "expected_cost": decision["expected_cost"], **act}, label


def _in_the_format(prepared: Prepared, shares: Sequence[float]) -> dict[str, Any]:
    """The answer as the format has it, from the probability of each choice."""
    question = prepared.question
    by_name = dict(zip(prepared.names, shares, strict=True))
    if isinstance(question, ChoiceQuestion):
        by_name = {label: by_name[label] for label in question.criteria}
        best = max(by_name, key=lambda name: by_name[name])  # the first of equals
        return {"type": "choice", "choice": best, "confidence": by_name[best], "probabilities": by_name}
    if isinstance(question, NoulQuestion):
        return {"type": "noul", "noul": by_name["true"], "confidence": max(shares)}
    assert isinstance(question, ScoreQuestion)
    return {
        "type": "score",
        "score": sum(level * share for level, share in enumerate(shares)),
        "confidence": max(shares),
        "legend": {str(number): level for number, level in enumerate(question.criteria)},
        "probabilities": by_name,
    }


def _passes(jobs: Sequence[Job]) -> Iterator[tuple[str, Form, list[tuple[int, int]]]]:
    """What is scored together: the name of the run, the form, and the questions by job and place.

    Questions about a state that is worth reading once are scored by themselves, all others of a run together.
    """
    groups: dict[tuple[str, Form, int, int], list[tuple[int, int]]] = {}
    for number, job in enumerate(jobs):
        for cluster, places in enumerate(job.clusters):
            own = (number, cluster) if len(places) > 1 else (-1, -1)
            key = (job.run.name, job.prepared[places[0]].form, *own)
            groups.setdefault(key, []).extend((number, place) for place in places)
    for (name, form, *_), members in groups.items():
        yield name, form, members


@contextlib.contextmanager
def _as_request_error(question: str) -> Iterator[None]:
    """Turn what is wrong with a question into the response that says so."""
    try:
        yield
    except TooLongError as error:
        raise RequestError(413, str(error)) from None
    except RequestError:
        raise
    except InputError as error:
        raise RequestError(422, str(error), loc=("questions", question)) from None
