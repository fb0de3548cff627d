"""The queue before the model: requests that wait while a pass runs are answered together in the next one.

Nothing waits for company: a request alone is answered at once, and the more there are, the more share a pass. The queue
has an end: what would not be answered in reasonable time is refused at once, with the time after which to ask again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from rango.serving.wire import RequestError

Q = TypeVar("Q")
A = TypeVar("A")

_SMOOTHING = 0.2  # of the seconds that a question takes: the share of the newest batch


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What waits at most, and what is taken at once."""

    waiting: int = 1024
    """Questions that may wait. A request alone is taken whatever its size."""
    batch: int = 64
    """Questions of one batch; a request is never cut."""


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[Q, A]):
    request: Q
    size: int
    answer: asyncio.Future[A]
    gone: Callable[[], Awaitable[bool]] | None


class BatchQueue(Generic[Q, A]):
    """Requests in the order in which they came, answered in batches by one thread.

    Args:
        answer: answers several requests, one answer or exception for each.
        limits: of the queue.
        clock: seconds.
        on_batch: told the questions of each batch and the seconds that it took.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Q]], Sequence[A | Exception]],
        *,
        limits: QueueLimits | None = None,
        clock: Callable[[], float] = time.perf_counter,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        self._answer, self.limits, self._clock, self._on_batch = answer, limits or QueueLimits(), clock, on_batch
        self._waiting: deque[_Waiting[Q, A]] = deque()
        self._news = asyncio.Event()
        self._closing = False
        self._running = 0
        self._seconds_each: float | None = None
        # PyTorch uses the cores itself; a second thread would only take them from the first.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    @property
    def size(self) -> int:
        """Questions that wait."""
        return sum(each.size for each in self._waiting)

    async def ask(self, request: Q, *, size: int, gone: Callable[[], Awaitable[bool]] | None = None) -> A:
        """The answer to one request, when its turn comes.

        Args:
            request: what `answer` takes.
            size: its questions.
            gone: whether whoever asked has gone away, in which case nothing is computed for them.

        Raises:
            RequestError: 429, too many questions wait; 503, the server is being shut down.
        """
        if self._closing:
            raise RequestError(503, "the server is shutting down; ask again later", headers={"retry-after": "5"})
        ahead = self.size
        if ahead and ahead + size > self.limits.waiting:
            wait = max((ahead + self._running) * (self._seconds_each or 0.05), 0.1)
            headers = {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(1000 * wait))}
            message = f"{ahead} questions wait, and {self.limits.waiting} may; ask again in {math.ceil(wait)} s"
            raise RequestError(429, message, headers=headers)
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, size, answer, gone))
        self._news.set()
        return await answer

    async def run(self) -> None:
        """Answer until `close`, and then what still waits."""
        while self._waiting or not self._closing:
            batch = await self._next_batch()
            if not batch:
                self._news.clear()
                if not self._closing:
                    await self._news.wait()
                continue
            self._running = sum(each.size for each in batch)
            begun = self._clock()
            requests = [each.request for each in batch]
            answers: Sequence[A | Exception]
            try:
                answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, requests)
            except Exception as error:  # of `answer` itself, which the queue must survive
                answers = [error] * len(batch)
            self._count(self._running, self._clock() - begun)
            self._running = 0
            for each, answer in zip(batch, answers, strict=True):
                if each.answer.done():  # cancelled meanwhile
                    continue
                if isinstance(answer, Exception):
                    each.answer.set_exception(answer)
                else:
                    each.answer.set_result(answer)
        self._thread.shutdown(wait=False)

    def close(self) -> None:
        """Take no more requests; `run` returns when those that wait are answered."""
        self._closing = True
        self._news.set()

    async def _next_batch(self) -> list[_Waiting[Q, A]]:
        batch: list[_Waiting[Q, A]] = []
        size = 0
        while self._waiting and (not batch or size + self._waiting[0].size <= self.limits.batch):
            each = self._waiting.popleft()
            if each.answer.done():
                continue
            if each.gone is not None and await each.gone():
                each.answer.set_exception(RequestError(499, "whoever asked has gone away"))
                continue
            batch.append(each)
            size += each.size
        return batch

    def _count(self, questions: int, seconds: float) -> None:
        each = seconds / questions
        before = each if self._seconds_each is None else self._seconds_each
        self._seconds_each = _SMOOTHING * each + (1 - _SMOOTHING) * before
        if self._on_batch is not None:
            self._on_batch(questions, seconds)
