"""The queue: what waits shares a batch, what is too much is refused, and nothing is lost at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from rango.serving.queue import BatchQueue, QueueLimits
from rango.serving.wire import RequestError


class Doubling:
    """Answers numbers with twice their value once `go` is set, and keeps the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()

    def __call__(self, requests: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(requests))
        assert self.go.wait(10)
        return [ValueError("odd") if request % 2 else 2 * request for request in requests]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def run_with(queue: BatchQueue[int, int], use: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    worker = asyncio.create_task(queue.run())
    result = await use()
    queue.close()
    await worker
    return result


def test_what_waits_while_a_batch_runs_is_answered_together() -> None:
    doubling = Doubling()
    queue = BatchQueue[int, int](doubling, limits=QueueLimits(waiting=100, batch=4))

    async def use() -> list[int]:
        first = asyncio.create_task(queue.ask(2, size=1))
        await until(lambda: bool(doubling.batches))
        rest = [asyncio.create_task(queue.ask(number, size=1)) for number in (4, 6, 8, 10, 12)]
        await until(lambda: queue.size == 5)
        doubling.go.set()
        return list(await asyncio.gather(first, *rest))

    assert asyncio.run(run_with(queue, use)) == [4, 8, 12, 16, 20, 24]
    assert doubling.batches == [[2], [4, 6, 8, 10], [12]]


def test_a_request_is_never_cut_and_alone_is_taken_whatever_its_size() -> None:
    doubling = Doubling()
    doubling.go.set()
    sizes: list[int] = []
    queue = BatchQueue[int, int](
        doubling, limits=QueueLimits(waiting=5, batch=4), on_batch=lambda size, _: sizes.append(size)
    )

    async def use() -> list[int]:
        return list(await asyncio.gather(queue.ask(2, size=50), return_exceptions=False))

    assert asyncio.run(run_with(queue, use)) == [4]
    assert sizes == [50]


def test_too_many_are_refused_with_the_time_that_those_ahead_take() -> None:
    doubling = Doubling()
    ticks = iter(range(100))
    queue = BatchQueue[int, int](doubling, limits=QueueLimits(waiting=3, batch=1), clock=lambda: 2.0 * next(ticks))

    async def use() -> RequestError:
        doubling.go.set()
        await queue.ask(2, size=1)  # 2 seconds by the clock
        doubling.go.clear()
        running = asyncio.create_task(queue.ask(2, size=1))
        await until(lambda: len(doubling.batches) == 2)
        waiting = [asyncio.create_task(queue.ask(2, size=1)) for _ in range(3)]
        await until(lambda: queue.size == 3)
        with pytest.raises(RequestError, match=r"3 questions wait, and 3 may; ask again in 8 s") as refused:
            await queue.ask(2, size=1)
        doubling.go.set()
        await asyncio.gather(running, *waiting)
        return refused.value

    error = asyncio.run(run_with(queue, use))
    assert (error.status, error.headers) == (429, {"retry-after": "8", "retry-after-ms": "8000"})


def test_an_error_is_of_the_request_that_caused_it() -> None:
    doubling = Doubling()
    doubling.go.set()
    queue = BatchQueue[int, int](doubling)

    async def use() -> list[Any]:
        return list(await asyncio.gather(*(queue.ask(n, size=1) for n in (1, 2, 3)), return_exceptions=True))

    odd, two, other = asyncio.run(run_with(queue, use))
    assert (str(odd), two, str(other)) == ("odd", 4, "odd")


def test_whoever_has_gone_away_costs_nothing() -> None:
    doubling = Doubling()
    queue = BatchQueue[int, int](doubling)

    async def has_gone() -> bool:
        return True

    async def use() -> int:
        first = asyncio.create_task(queue.ask(2, size=1))
        await until(lambda: bool(doubling.batches))
        lost = asyncio.create_task(queue.ask(4, size=1, gone=has_gone))
        cancelled = asyncio.create_task(queue.ask(6, size=1))
        await until(lambda: queue.size == 2)
        cancelled.cancel()
        doubling.go.set()
        with pytest.raises(RequestError, match="has gone away"):
            await lost
        return await first

    assert asyncio.run(run_with(queue, use)) == 4
    assert doubling.batches == [[2]]


def test_the_end_answers_what_waits_and_takes_nothing_more() -> None:
    doubling = Doubling()
    queue = BatchQueue[int, int](doubling, limits=QueueLimits(batch=1))

    async def use() -> list[int]:
        worker = asyncio.create_task(queue.run())
        asks = [asyncio.create_task(queue.ask(number, size=1)) for number in (2, 4, 6)]
        await until(lambda: bool(doubling.batches))
        queue.close()
        with pytest.raises(RequestError, match="shutting down") as refused:
            await queue.ask(8, size=1)
        assert refused.value.status == 503
        doubling.go.set()
        await worker
        return list(await asyncio.gather(*asks))

    assert asyncio.run(use()) == [4, 8, 12]


def test_a_broken_answerer_does_not_stop_the_queue() -> None:
    def breaks(requests: Sequence[int]) -> list[int | Exception]:
        if requests == [2]:
            raise MemoryError("no memory")
        return [0 for _ in requests]

    queue = BatchQueue[int, int](breaks)

    async def use() -> int:
        with pytest.raises(MemoryError):
            await queue.ask(2, size=1)
        return await queue.ask(4, size=1)

    assert asyncio.run(run_with(queue, use)) == 0
