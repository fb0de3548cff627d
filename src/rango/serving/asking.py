"""Asking an endpoint for many instances: side by side, again where it says wait, and never twice for the same one.

instances ── ask_all ──> answers.jsonl, a line each as soon as it is there ── read_answers ──> Answers by id

A command that is stopped, or whose endpoint goes away, is repeated: what the log has is not asked again.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rango.console import Bar
from rango.errors import InputError, RunError
from rango.files import naming_file, read_text, write_text
from rango.serving.endpoint import KEYS, Answer, Endpoint, WrongAnswerError
from rango.tasks import Instance, Task

if TYPE_CHECKING:
    import httpx2

_LONGEST_WAIT = 120.0
_WAITS = (0.5, 30.0)  # seconds before the second try, doubled each time up to the second number


@dataclass(frozen=True, slots=True)
class Patience:
    """How an endpoint is asked."""

    concurrency: int = 8
    """Requests at a time."""
    tries: int = 8
    """Of one instance, before the command gives up."""
    seconds: float = 60.0
    """Until a response that does not come counts as none."""


@dataclass
class Tally:
    """What asking took."""

    retries: int = 0
    seconds: list[float] = field(default_factory=list)
    """Of each successful request."""


@dataclass(frozen=True, slots=True)
class LoggedAnswer:
    """A line of the log."""

    answer: Answer
    seconds: float


def ask_all(
    endpoint: Endpoint,
    instances: Sequence[Instance],
    *,
    task: Task,
    log: Path,
    patience: Patience | None = None,
    bar: Bar | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> tuple[dict[str, LoggedAnswer], Tally]:
    """Ask for every instance that the log does not have yet.

    Args:
        endpoint: to ask.
        instances: with ids of their own.
        task: puts the instances into words, where the endpoint needs words.
        log: JSONL; a line is written as soon as its answer is there.
        patience: how many at a time, and how often.
        bar: moves by one for each answer.
        transport: of HTTP, for tests.
        sleep: waits, for tests.

    Raises:
        InputError: the endpoint refuses what it is asked: key, model or question.
        RunError: it cannot be reached, or answers wrongly again and again; what it has answered is in the log.
    """
    answers, tally = read_answers(log, instances), Tally()
    waiting = [instance for instance in instances if instance.id not in answers]
    if waiting:
        patience, bar = patience or Patience(), bar or Bar()
        asking = _Asking(endpoint, task, log, patience, bar, transport, sleep, answers, tally)
        asyncio.run(asking.run(waiting))
    return answers, tally


def read_answers(log: Path, instances: Sequence[Instance]) -> dict[str, LoggedAnswer]:
    """The answers in a log, by id; a last line that a crash has cut is dropped from the file.

    Raises:
        InputError: a line before the last is broken, or of another instance.
    """
    if not log.is_file():
        return {}
    text = read_text(log)
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_text(log, whole)
    sizes = {instance.id: len(instance.choices) for instance in instances}
    answers = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            record = json.loads(line)
            scores = tuple(-math.inf if score is None else float(score) for score in record["answer"]["scores"])
            answer = Answer(**{**record["answer"], "scores": scores})
            logged, identity = LoggedAnswer(answer, float(record["seconds"])), record["id"]
            counts = (answer.input_tokens, answer.output_tokens, answer.bounded)
            amounts = (logged.seconds, answer.cost, 0.0 if answer.mass is None else answer.mass)
            texts = (identity, answer.model)
            # By type, because True and False are integers too.
            if not all(type(each) is int for each in counts) or not all(isinstance(each, str) for each in texts):
                raise TypeError(line)
            if not all(type(each) in (int, float) and math.isfinite(each) for each in amounts):
                raise TypeError(line)
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
            raise InputError(f"{log}:{number}: is no answer of an endpoint; move the file away to ask again") from None
        if sizes.get(identity) != len(scores):
            raise InputError(f"{log}:{number}: {identity!r} is no instance of this evaluation; move the file away")
        answers[identity] = logged
    return answers


@dataclass(frozen=True, eq=False)
class _Asking:
    endpoint: Endpoint
    task: Task
    log: Path
    patience: Patience
    bar: Bar
    transport: httpx2.AsyncBaseTransport | None
    sleep: Callable[[float], Awaitable[None]]
    answers: dict[str, LoggedAnswer]
    tally: Tally

    async def run(self, instances: Sequence[Instance]) -> None:
        import httpx2

        queue = iter(instances)
        limits = httpx2.Limits(max_connections=self.patience.concurrency)
        with naming_file(self.log), self.log.open("a", encoding="utf-8") as file:
            async with httpx2.AsyncClient(
                headers=self.endpoint.headers(), timeout=self.patience.seconds, limits=limits, transport=self.transport
            ) as client:

                async def work() -> None:
                    # The workers take from one iterator, which hands out each instance once.
                    for instance in queue:
                        logged = await self.ask(client, instance)
                        self.answers[instance.id] = logged
                        file.write(_line(instance.id, logged))
                        file.flush()
                        self.bar.advance()

                workers = [asyncio.create_task(work()) for _ in range(self.patience.concurrency)]
                try:
                    await asyncio.gather(*workers)
                finally:
                    for worker in workers:
                        worker.cancel()

    async def ask(self, client: httpx2.AsyncClient, instance: Instance) -> LoggedAnswer:
        """One instance, again until it is answered."""
        import httpx2

        payload, reason = self.endpoint.payload(instance, task=self.task), ""
        for number in range(self.patience.tries):
            wait: float | None = None
            begun = time.perf_counter()
            try:
                response = await client.post(self.endpoint.address, json=payload)
                if response.status_code == 200:
                    answer = self.endpoint.read(response.json(), instance)
                    seconds = round(time.perf_counter() - begun, 6)
                    self.tally.seconds.append(seconds)
                    return LoggedAnswer(answer, seconds)
                reason = f"status {response.status_code} ({_detail(response)})"
                if response.status_code not in (408, 409, 425, 429) and response.status_code < 500:
                    raise InputError(self._refused(response.status_code, reason, instance))
                wait = stated_wait(response.headers)
            except httpx2.TimeoutException:
                reason = f"no response in {self.patience.seconds:g} s"
            except httpx2.HTTPError as error:
                reason = f"{type(error).__name__}: {error}"
            except (ValueError, RecursionError, WrongAnswerError) as error:
                if isinstance(error, InputError):
                    raise
                reason = str(error) if isinstance(error, WrongAnswerError) else "the response is not JSON"
            if number + 1 < self.patience.tries:
                self.tally.retries += 1
                first, longest = _WAITS
                # Spread, so that requests that were refused together do not come back together.
                own = min(first * 2**number, longest) * random.uniform(0.5, 1.0)
                await self.sleep(own if wait is None else wait)
        raise RunError(
            f"{self.endpoint.address} did not answer for instance {instance.id} in {self.patience.tries} tries: "
            f"{reason}; what it has answered is kept, repeat the command to go on"
        )

    def _refused(self, status: int, reason: str, instance: Instance) -> str:
        if status in (401, 403):
            return f"{self.endpoint.address} refuses the key: {reason}; put it into {KEYS[self.endpoint.kind]}"
        return f"{self.endpoint.address} refuses instance {instance.id}: {reason}"


def stated_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds after which a server asks to be asked again, at most two minutes; None where it does not say.

    >>> stated_wait({"retry-after": "3"}), stated_wait({"retry-after-ms": "250"}), stated_wait({})
    (3.0, 0.25, None)
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        try:
            seconds = float(text) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - time.time()
            except (ValueError, TypeError):
                continue
        if math.isfinite(seconds):
            return min(max(seconds, 0.0), _LONGEST_WAIT)
    return None


def _detail(response: httpx2.Response) -> str:
    """What an error response says, in one short line."""
    try:
        body = response.json()
    except ValueError:
        return response.text[:200]
    for key in ("error", "message", "detail"):
        value = body.get(key) if isinstance(body, dict) else None
        value = value.get("message") if isinstance(value, dict) else value
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = f"{'.'.join(map(str, value[0].get('loc', [])))}: {value[0].get('msg')}"
        if value:
            return str(value)[:200]
    return str(body)[:200]


def _line(identity: str, logged: LoggedAnswer) -> str:
    record: dict[str, Any] = asdict(logged.answer)
    # JSON has no infinity.
    record["scores"] = [None if math.isinf(score) else score for score in logged.answer.scores]
    return json.dumps({"id": identity, "seconds": logged.seconds, "answer": record}) + "\n"
