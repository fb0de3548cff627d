"""Endpoints that answer in place of a model: how MODEL names one, what is sent for an instance, and what comes back.

systemone:URL#name   POST URL/v1/systemone: the context is the state, the choices are the labels of a choice, the levels
                     of a score, or the yes and no of a noul, by the type of the instance
openai:URL#name      POST URL/v1/chat/completions with log-probabilities: the letter form

Nothing here sends anything; `asking` does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np

from rango.errors import InputError
from rango.options import EvaluateConfig, Form
from rango.serving.wire import MOST_LEVELS
from rango.tasks import Instance, Task
from rango.tasks.task import LETTERS

Kind = Literal["systemone", "openai"]
KEYS: dict[Kind, str] = {"systemone": "TYPESAFE_API_KEY", "openai": "OPENAI_API_KEY"}
"""The environment variable with the key of each kind of endpoint."""
MOST_LOGPROBS = 20
_SUM = 0.02  # how far the probabilities of an answer may be from 1: some servers round them
_TRUTH = {"yes": "true", "true": "true", "no": "false", "false": "false"}
"""What the format calls the answers of a yes-or-no question."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class WrongAnswerError(RuntimeError):
    """An answer without the probabilities that were asked for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint says of one instance."""

    scores: tuple[float, ...]
    """(K,) log-probabilities of the choices, nats."""
    model: str
    """The model that answered, as the endpoint calls it."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    """What the endpoint says that it took, in its own currency; 0 where it says nothing."""
    bounded: int = 0
    """Choices of which only an upper bound of the probability is known."""
    mass: float | None = None
    """Probability of all letters together."""
    calibrated: bool | None = None
    """What `rango serve` says of its answers; None where nothing is said."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as MODEL names it."""

    kind: Kind
    url: str
    name: str

    @property
    def address(self) -> str:
        """Where requests go."""
        if self.kind == "systemone":
            return f"{self.url}/v1/systemone"
        return f"{self.url}/chat/completions" if self.url.endswith("/v1") else f"{self.url}/v1/chat/completions"

    def headers(self) -> dict[str, str]:
        """What is sent with each request; the key of the environment, which is written nowhere.

        Raises:
            InputError: there is a key, and it would cross a network unencrypted.
        """
        key = os.environ.get(KEYS[self.kind], "").strip()
        if not key:
            return {}
        parts = urlsplit(self.url)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise InputError(
                f"{self.url} is not https, and would get the key of {KEYS[self.kind]}; unset it, or use https"
            )
        return {"authorization": f"Bearer {key}"}

    def form(self, task: Task, config: EvaluateConfig) -> Form:
        """The form in which instances are asked.

        Raises:
            InputError: an option that means nothing for an endpoint.
        """
        for option in ("adapter", "normalise", "quantise", "dtype", "device", "batch_tokens"):
            if getattr(config, option) != EvaluateConfig.model_fields[option].default:
                raise InputError(
                    f"{option} is {getattr(config, option)} but {config.model} is an endpoint; leave it out"
                )
        if self.kind == "systemone":
            if config.shots:
                raise InputError("shots stand in a prompt, which a systemone endpoint writes itself; leave them out")
            if config.form is not None:
                raise InputError("form is the endpoint's own choice with systemone; leave it out")
            levels = max((len(i.choices) for i in task.split(config.split) if i.type == "score"), default=0)
            if levels > MOST_LEVELS:
                raise InputError(
                    f"{levels} levels; a systemone endpoint takes {MOST_LEVELS} at most, so give these rows the type "
                    "choice"
                )
            return "cloze"
        if config.form == "cloze":
            raise InputError("an openai endpoint gives no probability of whole texts; use --form letter")
        if task.n_choices > MOST_LOGPROBS:
            raise InputError(
                f"{task.n_choices} choices; an openai endpoint names the {MOST_LOGPROBS} most probable letters"
            )
        return "letter"

    def payload(self, instance: Instance, *, task: Task) -> dict[str, Any]:
        """The JSON that asks for one instance."""
        if self.kind == "openai":
            prompt = task.prompt(instance, "letter").trunk
            return {
                "model": self.name,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": True,
                "top_logprobs": MOST_LOGPROBS,
            }
        # The same text twice is one label, whose probability both choices have.
        labels, kind = list(dict.fromkeys(_labels(instance))), _question_type(instance)
        question: dict[str, Any] = {"type": kind}
        if kind == "choice":
            question["criteria"] = dict.fromkeys(labels)
        elif kind == "score":
            question["criteria"] = labels
        elif not instance.question.strip():
            # The format takes no question without words: where the state asks, these only say which answer is yes.
            question["criteria"] = {_TRUTH[label.casefold()]: label for label in labels}
        if instance.question.strip():
            question["instructions"] = instance.question
        return {"model": self.name, "state": instance.context, "questions": {"answer": question}}

    def read(self, reply: Any, instance: Instance) -> Answer:
        """What the JSON of a response says of an instance.

        Raises:
            WrongAnswerError: it is no answer to what was asked.
        """
        if not isinstance(reply, Mapping):
            raise WrongAnswerError(f"the response is a {type(reply).__name__}, not an object")
        read = _read_systemone if self.kind == "systemone" else _read_openai
        try:
            return read(reply, instance)
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}"[:200]
            raise WrongAnswerError(f"the response has another shape ({reason})") from None


def parse_endpoint(model: str) -> Endpoint | None:
    """The endpoint that MODEL names; None for a folder, a file or a Hub id.

    Raises:
        InputError: no URL, no name, or an URL that holds a password or a query.

    >>> parse_endpoint("systemone:http://127.0.0.1:8000#tickets").address
    'http://127.0.0.1:8000/v1/systemone'
    """
    kind, colon, rest = model.partition(":")
    if not colon or kind not in KEYS:
        return None
    url, _, name = rest.partition("#")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"model {model!r} has no URL; expected {kind}:https://HOST#NAME")
    if not name:
        raise InputError(f"model {model!r} does not say which model to ask; expected {kind}:{url}#NAME")
    # MODEL is written into evaluation.yaml.
    if parts.username or parts.password or parts.query:
        raise InputError(f"the URL of {kind} holds a user, a password or a query; put the key into {KEYS[kind]}")
    return Endpoint("systemone" if kind == "systemone" else "openai", url.rstrip("/"), name)


def _labels(instance: Instance) -> list[str]:
    return [choice.strip() for choice in instance.choices]


def _question_type(instance: Instance) -> Literal["choice", "noul", "score"]:
    """What the format calls the question: a noul only where its two answers are yes and no, or true and false."""
    labels = [label.casefold() for label in _labels(instance)]
    if instance.type == "yes_no" and sorted(labels) in (["no", "yes"], ["false", "true"]):
        return "noul"
    return "score" if instance.type == "score" else "choice"


def _read_systemone(reply: Mapping[str, Any], instance: Instance) -> Answer:
    answer, kind = reply["answers"]["answer"], _question_type(instance)
    if kind == "noul":
        yes = _share(answer["noul"])
        shares = {label: yes if _TRUTH[label.casefold()] == "true" else 1 - yes for label in _labels(instance)}
    elif kind == "score":
        # Levels are answered by their numbers, from 0.
        levels = dict.fromkeys(_labels(instance))
        shares = {level: _share(answer["probabilities"][str(number)]) for number, level in enumerate(levels)}
    else:
        shares = {str(label).strip(): _share(value) for label, value in answer["probabilities"].items()}
    if missing := [label for label in _labels(instance) if label not in shares]:
        raise WrongAnswerError(f"the answer has no probability of {missing[0][:80]!r}")
    total = sum(shares[label] for label in dict.fromkeys(_labels(instance)))
    if abs(total - 1) > _SUM:
        raise WrongAnswerError(f"the probabilities of the answer sum to {total:.4f}, not to 1")
    usage = reply.get("usage") or {}
    return Answer(
        scores=tuple(_log(shares[label]) for label in _labels(instance)),
        model=str(reply.get("model", "")),
        input_tokens=int(usage.get("input_tokens") or 0),
        output_tokens=int(usage.get("output_tokens") or 0),
        cost=float(usage.get("cost") or 0.0),
        calibrated=answer.get("calibrated"),
    )


def _read_openai(reply: Mapping[str, Any], instance: Instance) -> Answer:
    listed: Sequence[Mapping[str, Any]] = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    tokens = [(str(entry["token"]).strip(), float(entry["logprob"])) for entry in listed]
    if not tokens or any(not value <= 1e-6 for _, value in tokens):
        raise WrongAnswerError("the response lists no log-probabilities; the server must give logprobs")
    letters = LETTERS[: len(instance.choices)]
    # " A" and "A" are two tokens and one answer.
    scores = [np.logaddexp.reduce([value for token, value in tokens if token == a], initial=-np.inf) for a in letters]
    if np.isneginf(scores).all():
        shown = ", ".join(repr(token) for token, _ in tokens[:5])
        raise WrongAnswerError(f"none of the letters {letters} is among the most probable tokens ({shown})")
    # A letter that is not listed is less probable than the last that is, and than what the listed ones leave.
    remaining = _log(max(0.0, 1 - sum(math.exp(value) for _, value in tokens)))
    bound = min(min(value for _, value in tokens), remaining)
    usage = reply.get("usage") or {}
    return Answer(
        scores=tuple(float(bound if np.isneginf(score) else score) for score in scores),
        model=str(reply.get("model", "")),
        input_tokens=int(usage.get("prompt_tokens") or 0),
        output_tokens=int(usage.get("completion_tokens") or 0),
        cost=float(usage.get("cost") or 0.0),
        bounded=int(np.isneginf(scores).sum()),
        mass=float(np.exp(scores).sum()),
    )


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1 + 1e-6:
        raise WrongAnswerError(f"a probability of the answer is {value!r}")
    return float(value)


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf
