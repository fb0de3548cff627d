"""Answers a file in processes that stop themselves: one for each OUT:WAY on the command line, in their order.

Prints how each of them ended. The answers come from a stand-in for a model, so that nothing but the writing is tested.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import rango.training.prediction_stream as stream
from rango.console import Screen
from rango.decisions import Costs, Posteriors, StatedCosts
from rango.options import FinetuneConfig
from rango.row_stream import Encoder, GrowingFile
from rango.tasks import Task
from rango.training.prediction import Offered, Predictions, Predictor

PART = 16


class FakePredictor(Predictor):
    """A predictor whose posteriors follow from the length of a text and its last character."""

    @contextlib.contextmanager
    def answering(self, model: Any, *, offered: Offered, costs: Any = None, gate: Any = None) -> Iterator[Any]:  # noqa: ARG002
        def answer(task: Task, rows: Iterable[Mapping[str, Any]], screen: Screen | None) -> Predictions:  # noqa: ARG001
            scores = [[len(one.context) % 7, ord(one.fields["text"][-1]) % 5] for one in task.test]
            posteriors = Posteriors.from_scores(scores, None, choices=[one.choices for one in task.test])
            return Predictions(tuple(rows), task.test, posteriors, matrix, (), gate, offered)

        matrix: Costs = self.matrix(offered, costs, gate)
        yield answer


def predictor() -> FakePredictor:
    """Of a table with the columns text and mood."""
    table = {"prompt": "{text}. Mood:", "choices": ["happy", "sad"], "label": "mood", "label_is": "text"}
    config = FinetuneConfig.build({"model": "fake", "task": "table"}, where="test")
    return FakePredictor(Path("run.yaml"), config, None, None, table, "fake")


def answer(rows: Path, out: Path, **settings: Any) -> stream.Answered:
    """Answer a file with parts of a few rows, each recorded at once."""
    with contextlib.ExitStack() as stack:
        # A kill takes nothing that the system has; waiting for the disk only guards against a machine that loses power.
        for owner, name, value in ((stream, "PART", PART), (stream, "_SECONDS", 0.0), (os, "fsync", lambda _: None)):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        costs = StatedCosts(abstain=0.3)
        return stream.predict_file(
            predictor(), rows, out, load=lambda: None, settings=settings or {"run": "a"}, costs=costs
        )


def stop_in(way: str) -> None:
    """Have this process stop itself in the middle of its third part."""
    calls = {"append": 0, "record": 0, "answer": 0}
    append, write_json, task = GrowingFile.append, stream.write_json, stream.task_of_part

    def third(name: str, ordinary: Callable[..., Any], stop: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            # Labelled rows are appended to a file of their own.
            calls[name] += name != "append" or arguments[0]._path.name == "rows"
            return (stop if calls[name] == 3 else ordinary)(*arguments, **keywords)

        return counted

    def torn(file: GrowingFile, data: bytes) -> None:
        append(file, data[: len(data) // 2])
        file.sync()
        killed()

    def full(file: GrowingFile, data: bytes) -> None:
        append(file, data[:9])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file._path))

    def killed(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return task(*arguments)

    ways: dict[str, tuple[object, str, Any]] = {
        "torn": (GrowingFile, "append", third("append", append, torn)),
        "full": (GrowingFile, "append", third("append", append, full)),
        "unrecorded": (stream, "write_json", third("record", write_json, killed)),
        "interrupted": (stream, "task_of_part", third("answer", task, interrupted)),
        "unfinished": (Encoder, "finish", killed),
        "unremoved": (Path, "unlink", killed),
    }
    if way in ways:
        setattr(*ways[way])


if __name__ == "__main__":
    import pyarrow as pa  # noqa: F401 - here once, and not in each process below

    rows, *ends = sys.argv[1:]
    for end in ends:
        out, _, way = end.rpartition(":")
        child = os.fork()
        if not child:
            stop_in(way)
            try:
                answer(Path(rows), Path(out))
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", flush=True)
            else:
                print("done", flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            print(signal.Signals(os.WTERMSIG(status)).name, flush=True)
