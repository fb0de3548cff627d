"""Answers of a file of any length: stopped anywhere and gone on with, in every format, in the same memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import predict_killed
from helpers.predict_killed import answer, predictor

import rango.training.prediction_stream as stream
from rango.decisions import Gate, Posteriors, StatedCosts, gate
from rango.errors import InputError
from rango.row_stream import Encoder
from rango.rows import read_rows
from rango.training.prediction import Offered
from rango.training.prediction_stream import MOST_MEASURED, Sample, check_rows

WORDS = ("sings", "cries", 'shouts "no"', "=runs, away", "läuft\nheim")


def rows(count: int) -> list[dict[str, object]]:
    """Rows with line breaks, quotation marks and formulas in them; every third has a label."""
    made: list[dict[str, object]] = []
    for n in range(count):
        row: dict[str, object] = {"text": f"Ann {WORDS[n % 5]} {n}", "ticket": f"T{n}"}
        if n % 3 == 0:
            row["mood"] = ("happy", "sad")[n % 2]
        if n >= 40:
            row["late"] = n / 4
        made.append(row)
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(150)))
    return path


def test_killed_anywhere_the_same_command_loses_and_doubles_no_line(source: Path, tmp_path: Path) -> None:
    """Killed while a line is half written, before what was written is recorded, and before the file has its name."""
    stops = {
        ".jsonl": ["torn", "full", "unrecorded", "interrupted", "unfinished", "unremoved"],
        ".csv": ["torn", "unrecorded"],
        ".parquet": ["torn", "unrecorded", "unfinished"],
    }
    ends = [(f"{tmp_path}/out{ending}", way) for ending, ways in stops.items() for way in ways]
    command = [sys.executable, predict_killed.__file__, str(source), *map(":".join, ends)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    expected = {"full": "OSError", "interrupted": "Interrupted"}
    assert [line.partition(":")[0] for line in ended] == [expected.get(way, "SIGKILL") for _, way in ends]
    assert f"stopped by SIGINT; repeat the command to go on, or remove {tmp_path}/out.jsonl.partial" in ended[3]
    for ending in stops:
        out, undisturbed = tmp_path / f"out{ending}", tmp_path / f"undisturbed{ending}"
        # The last of the kills came behind the name in one case, and before it in the others.
        assert out.exists() is (ending == ".jsonl")
        assert json.loads((tmp_path / f"out{ending}.partial" / "progress.json").read_text())["rows"] >= 32
        # Of a record that was being written where the one before it says that all is answered.
        (tmp_path / f"out{ending}.partial" / ".progress.json.a1b2c3d4.tmp").write_text("half")
        resumed, whole = answer(source, out), answer(source, undisturbed)
        assert out.read_bytes() == undisturbed.read_bytes()
        assert not (tmp_path / f"out{ending}.partial").exists()
        assert len(list(read_rows(out))) == 150
        assert resumed.totals.as_dict() == whole.totals.as_dict()
        assert resumed.measured is not None
        assert whole.measured is not None
        assert resumed.measured.ids == whole.measured.ids
        np.testing.assert_array_equal(resumed.measured.log_posteriors, whole.measured.log_posteriors)


def test_every_format_holds_the_same_answers(source: Path, tmp_path: Path) -> None:
    """The rows keep their columns; one that lacks a column of others has None, or an empty cell, in its place."""
    answers = {}
    for ending in (".jsonl", ".csv", ".parquet"):
        answer(source, tmp_path / f"out{ending}")
        answers[ending] = [row for _, row in read_rows(tmp_path / f"out{ending}")]
    given = rows(150)
    assert [{key: row[key] for key in before} for row, before in zip(answers[".jsonl"], given, strict=True)] == given
    columns = ["text", "ticket", "mood", "late", "probability_happy", "probability_sad"]
    assert list(answers[".parquet"][0])[:6] == list(answers[".csv"][0])[:6] == columns
    for line, row in zip(answers[".jsonl"], answers[".parquet"], strict=True):
        assert line == {key: value for key, value in row.items() if key in line}
        assert all(value is None for key, value in row.items() if key not in line)
    assert answers[".csv"][3]["text"] == "Ann =runs, away 3"
    assert float(answers[".csv"][7]["expected_cost"]) == answers[".jsonl"][7]["expected_cost"]


def test_packed_rows_tables_and_groups_of_parquet_are_read_alike(source: Path, tmp_path: Path) -> None:
    answer(source, tmp_path / "expected.parquet")
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    table = tmp_path / "rows.parquet"
    pq.write_table(
        pa.Table.from_pylist(
            rows(150),
            schema=pa.schema({"text": pa.string(), "ticket": pa.string(), "mood": pa.string(), "late": pa.float64()}),
        ),
        table,
        row_group_size=40,
    )
    for other in (packed, table):
        answer(other, tmp_path / "out.parquet")
        assert pq.read_table(tmp_path / "out.parquet") == pq.read_table(tmp_path / "expected.parquet")


def test_a_changed_input_run_or_file_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, partial = tmp_path / "out.csv", tmp_path / "out.csv.partial"

    commit = stream._Stream.commit

    def stopped(unfinished: stream._Stream) -> None:
        commit(unfinished)
        if unfinished.done >= 32:
            raise KeyboardInterrupt

    monkeypatch.setattr(stream._Stream, "commit", stopped)
    with pytest.raises(KeyboardInterrupt):
        answer(source, out, run="a", costs={"abstain": 0.3})
    monkeypatch.setattr(stream._Stream, "commit", commit)
    for settings, named in (({"run": "b"}, "another run"), ({"run": "a", "costs": None}, "another costs")):
        with pytest.raises(InputError, match=f"holds 32 answers of a command with {named}.*remove .*partial to begin"):
            answer(source, out, **settings)
    before, settings = source.read_text(), {"run": "a", "costs": {"abstain": 0.3}}
    source.write_text(before.replace("Ann sings 5", "Ann sings 6"))
    with pytest.raises(InputError, match="with another input, or of one that has changed since"):
        answer(source, out, **settings)
    source.write_text(before)
    written = (partial / "rows").read_bytes()
    (partial / "rows").write_bytes(written[:-3])
    with pytest.raises(InputError, match=r"rows is not what was written; remove .*partial to begin again"):
        answer(source, out, **settings)
    (partial / "rows").write_bytes(written)
    answer(source, out, **settings)
    assert not partial.exists()


def test_rows_that_change_while_they_are_read_are_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grown(*_: object) -> stream.Checked:
        checked = check_rows(predictor(), source, tmp_path / "out.csv")
        with source.open("a") as file:
            file.write('{"text": "Bo sings"}\n')
        return checked

    monkeypatch.setattr(stream, "check_rows", grown)
    with pytest.raises(InputError, match=r"rows\.jsonl has changed while it was read"):
        answer(source, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_the_last_row_is_checked_before_the_first_is_answered(source: Path, tmp_path: Path) -> None:
    for line, words in (
        ('{"text": 3.5, "mood": "joyful"}', r"rows\.jsonl:151: label is 'joyful'"),
        ('{"text": ""}', r"rows\.jsonl:151: text is missing"),
        ('{"text": "x", "decision": 1}', "a column decision already"),
        ("{", r"rows\.jsonl:151: not JSON"),
        ('{"text": "x", "late": "soon"}', r"column late cannot be written as Parquet .*; write \.jsonl or \.csv"),
    ):
        source.write_text("".join(json.dumps(row) + "\n" for row in rows(150)) + line + "\n")
        with pytest.raises(InputError, match=words):
            answer(source, tmp_path / "out.parquet")
        assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_choices_of_later_rows_name_the_columns_of_the_first() -> None:
    """Whatever the order, the choices that stand for all rows are those that a look at all of them takes."""
    generator = np.random.default_rng(0)
    kinds = [("a", "b"), ("a", "b", "c"), ("a", "c"), ("a",), ("a", "b", "c", "d")]
    for _ in range(200):
        shown = [kinds[k] for k in generator.integers(0, len(kinds), size=generator.integers(1, 6))]
        offered = Offered()
        for choices in shown:
            offered.add(choices)
        longest = max(shown, key=len)
        same = all(longest[: len(choices)] == choices for choices in shown)
        assert offered.longest == longest
        assert offered.names == (longest if same else None)
        assert (offered.other is None) is same
        assert len({len(choices) for choices in offered.examples} - {len(choices) for choices in shown}) == 0
        assert (len(offered.examples) == 1) is (len(set(shown)) == 1)


def test_a_part_has_the_columns_of_all_rows() -> None:
    """A part whose rows have fewer choices is padded; names that only the part has are taken off."""
    part = Posteriors(np.log([[0.9, 0.1]]), None, choices=[("a", "b")])
    padded = Offered(("a", "b", "c"), shorter=("a", "b")).among_all(part)
    assert padded.column_names == ("a", "b", "c")
    np.testing.assert_allclose(np.exp(padded.log_posteriors), [[0.9, 0.1, 0.0]])
    assert Offered(("a", "b", "c"), other=("a", "c")).among_all(part).column_names is None


def test_of_very_many_rows_a_random_sample_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample is of one size whatever the number of rows, the same on a second reading, and even over the rows."""
    monkeypatch.setattr(stream, "MOST_MEASURED", 500)
    sample, kept = Sample(), []
    for number in range(20_000):
        entry = [number, number % 2, "g", None, "choice", [float(np.log(0.5))] * 2]
        if sample.add(entry):
            kept.append(entry)
    again = Sample()
    for entry in kept:
        again.add(entry)
    drawn, redrawn = (one.posteriors(Offered(("a", "b"))) for one in (sample, again))
    assert drawn is not None
    assert redrawn is not None
    assert drawn.ids == redrawn.ids
    assert 200 < len(drawn) <= 500 < MOST_MEASURED
    numbers = np.array([int(name.removeprefix("row ")) for name in drawn.ids])
    # Of a uniform sample of this size the mean is within 0.05 of a half with four standard errors.
    assert abs(numbers.mean() / 20_000 - 0.5) < 4 * np.sqrt(1 / 12 / len(numbers))


def test_distances_between_choices_without_an_order_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="costs are distance=absolute, but the choices of .* have no order"):
        check_rows(predictor(), source, tmp_path / "out.csv", costs=StatedCosts(distance="absolute"))


def test_soft_labels_and_levels_are_measured_as_they_are() -> None:
    """One right choice beside soft labels has the whole share; a row may have fewer choices than others."""
    sample = Sample()
    sample.add([0, [0.25, 0.75], "g", ["low", "high"], "score", [*np.log([0.4, 0.6]), -np.inf]])
    sample.add([1, 2, "h", ["low", "mid", "high"], "score", np.log([0.2, 0.3, 0.5]).tolist()])
    measured = sample.posteriors(Offered(("low", "mid", "high"), None))
    assert measured is not None
    assert measured.targets is not None
    assert measured.targets.tolist() == [[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]
    assert measured.types == ("score", "score")
    assert measured.error_rate() == pytest.approx((0.25 + 0.0) / 2)


def test_rows_acted_on_and_passed_on_are_counted_apart(source: Path, tmp_path: Path) -> None:
    """The sums are those of the column `act`, by hand."""
    judged = Posteriors.from_probabilities([[0.9, 0.1]] * 8 + [[0.4, 0.6]] * 8, [0] * 8 + [0, 1] * 4)
    judged = Posteriors(judged.log_posteriors, judged.labels, choices=[("happy", "sad")] * 16)
    chosen: Gate = gate(judged, costs="abstain=0.3")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stream, "PART", 16)
        done = stream.predict_file(
            predictor(), source, tmp_path / "out.jsonl", load=lambda: None, settings={}, gate=chosen
        )
    answered = [row for _, row in read_rows(tmp_path / "out.jsonl")]
    for side, act in enumerate(("no", "yes")):
        chosen_rows = [row for row in answered if row["act"] == act]
        assert int(done.totals.taken[side].sum()) == len(chosen_rows) > 0
        assert done.totals.expected[side] == pytest.approx(sum(row["expected_cost"] for row in chosen_rows))
        for name, count in zip(done.totals.names, done.totals.taken[side], strict=True):
            assert count == sum(row["decision"] == name for row in chosen_rows)
    assert done.totals.labelled == 50


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("progress.json", lambda record: {**record, "rows": "2"}),
        ("progress.json", lambda record: {**record, "of": []}),
        (
            "progress.json",
            lambda record: {**record, "files": {name: {"size": 2**70, "sha256": ""} for name in record["files"]}},
        ),
        ("progress.json", lambda record: {**record, "totals": {**record["totals"], "taken": [["x"]]}}),
        ("progress.json", lambda record: {**record, "files": {"rows": record["files"]["rows"]}}),
        ("progress.json", lambda record: {**record, "checked": {**record["checked"], "offered": {}}}),
        ("progress.json", lambda record: {key: value for key, value in record.items() if key != "columns"}),
        ("labelled.jsonl", None),
    ],
)
def test_a_damaged_record_of_what_was_begun_is_refused(name: str, change: Any, tmp_path: Path) -> None:
    of, checked, encoder = (
        {"input": "x"},
        stream.Checked(3, ("text",), Offered(("a", "b"))),
        Encoder(tmp_path / "o.csv", ["id"]),
    )
    begun = stream._Stream(tmp_path, of, checked, encoder, {})
    with begun:
        begun._labelled.append(b"[0, 1]\n")
        begun.commit()
    if change is None:
        (tmp_path / name).write_bytes(b"[0, 2]\n")
    else:
        values = json.loads((tmp_path / name).read_text())
        values = {key: value for key, value in values.items() if not key.startswith("rango-")}
        (tmp_path / name).write_text(json.dumps(change(values)))

    def go_on() -> None:
        stream._Stream(tmp_path, of, checked, encoder, stream._read_record(tmp_path, of) or {})

    with pytest.raises(InputError, match="is not the record of an unfinished rango predict|is not what was written"):
        go_on()
