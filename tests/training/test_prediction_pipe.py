"""Answers through a pipe: those of a file, each as it comes, and a row that does not fit is refused where it stands."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.predict_killed import FakePredictor, answer, predictor

from rango.decisions import StatedCosts
from rango.errors import InputError
from rango.training.prediction_pipe import predict_pipe, stream_parts

ROWS = [{"text": f"Ann {'sings'[: n % 5 + 1]} {n}", **({"mood": "happy"} if n % 3 == 0 else {})} for n in range(40)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def piped(rows: Any, of: FakePredictor | None = None) -> tuple[Any, list[dict[str, Any]]]:
    out, nothing = io.BytesIO(), lambda: None
    costs = StatedCosts(abstain=0.3)
    done = predict_pipe(of or predictor(), rows, out, load=nothing, costs=costs)  # type: ignore[arg-type]
    return done, [json.loads(line) for line in out.getvalue().splitlines()]


def of_own_choices() -> FakePredictor:
    table = {"prompt": "{text}. Mood:", "choices": "options", "label": "mood"}
    return replace(predictor(), table=table)


class Dripping(io.RawIOBase):
    """A pipe into which a line is written when the one before it is answered."""

    def __init__(self, lines: list[bytes], answered: Callable[[], int]) -> None:
        self.lines, self.answered, self.given = lines, answered, 0

    def read1(self, _: int) -> bytes:
        assert self.answered() == self.given
        self.given += 1
        return self.lines[self.given - 1] if self.given <= len(self.lines) else b""


@pytest.mark.parametrize("as_file", [False, True])
def test_the_answers_are_those_of_a_file(tmp_path: Path, as_file: bool) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_bytes(LINES)
    whole = answer(source, tmp_path / "out.jsonl")
    done, rows = piped(source if as_file else io.BytesIO(LINES.rstrip(b"\n")))
    assert rows == [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    np.testing.assert_array_equal(done.totals.taken, whole.totals.taken)
    np.testing.assert_allclose(done.totals.expected, whole.totals.expected, rtol=1e-14)
    assert done.measured.ids == whole.measured.ids  # type: ignore[union-attr]
    np.testing.assert_array_equal(done.measured.log_posteriors, whole.measured.log_posteriors)  # type: ignore[union-attr]
    assert not list(tmp_path.glob("*.partial"))


def test_a_row_is_answered_before_the_next_one_comes() -> None:
    out = io.BytesIO()
    pipe = Dripping(LINES.splitlines(keepends=True)[:6], lambda: out.getvalue().count(b"\n"))
    predict_pipe(predictor(), pipe, out, load=lambda: None)  # type: ignore[arg-type, return-value]
    assert out.getvalue().count(b"\n") == 6


def test_lines_are_put_together_wherever_the_pipe_cuts_them() -> None:
    for size in (1, 7, 64):
        stream = io.BytesIO(b"\xef\xbb\xbf" + LINES + b"\n \n")
        cut = type("Cut", (), {"read1": staticmethod(lambda _, s=stream, n=size: s.read(n))})()
        rows = [row for part in stream_parts(cut) for row in part]
        assert [row.values for row in rows] == ROWS
        assert rows[-1].where == "stdin:40"


def test_choices_of_each_row_are_named_by_place_and_no_row_may_have_more_than_the_first_ones() -> None:
    rows = [{"text": "Ann 1", "options": ["sings", "cries"]}, {"text": "Ann 2", "options": ["runs", "eats"]}]
    _, answered = piped(io.BytesIO("".join(json.dumps(row) + "\n" for row in rows[:1]).encode()), of_own_choices())
    assert {"posterior_0", "posterior_1"} <= answered[0].keys()
    assert answered[0]["decision"] in ("sings", "cries", "abstain")
    out = io.BytesIO()
    lines = [json.dumps(row).encode() + b"\n" for row in (*rows, {"text": "Ann 3", "options": ["a", "b", "c"]})]
    with pytest.raises(InputError, match="stdin:3: 3 choices, of the first rows at most 2; give a file"):
        predict_pipe(
            of_own_choices(),
            Dripping(lines, lambda: out.getvalue().count(b"\n")),
            out,
            load=lambda: None,  # type: ignore[arg-type, return-value]
        )
    assert out.getvalue().count(b"\n") == 2  # what was answered before it has been written


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"", "there are no rows on stdin"),
        (b"\n \n", "there are no rows on stdin"),
        (b"text\nAnn\n", "stdin:1: is no JSON; give an object on each line, or a table as a file"),
        (b'{"text": "Ann"}\n[1]\n', "stdin:2: holds a list; expected a JSON object"),
        (b'{"text": "Ann"}\n{"text": "\xff"}\n', "stdin:2: byte 0xff at 10 is not UTF-8"),
        (b'{"words": "Ann"}\n', "unknown column 'text'"),
        (b'{"text": "Ann", "mood": "joyful"}\n', "label is 'joyful'"),
        (b'{"text": "Ann", "decision": "x"}\n', "a column decision already"),
    ],
)
def test_bad_rows_are_refused_in_one_line_before_a_model_is_loaded(lines: bytes, message: str) -> None:
    out = io.BytesIO()
    with pytest.raises(InputError, match=message):
        predict_pipe(predictor(), io.BytesIO(lines), out, load=lambda: pytest.fail("a model was loaded"))
    assert not out.getvalue()


def test_a_file_is_looked_at_as_a_whole_before_its_first_row_is_answered(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(LINES + b'{"text": "Ann", "mood": "joyful"}\n')
    out = io.BytesIO()
    with pytest.raises(InputError, match="label is 'joyful'"):
        predict_pipe(predictor(), tmp_path / "rows.jsonl", out, load=lambda: pytest.fail("a model was loaded"))
    assert not out.getvalue()
