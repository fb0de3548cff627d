from __future__ import annotations

import gc
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.decisions import DecisionLog, Posteriors, read_posteriors, write_posteriors
from rango.decisions.long_logs import LongLog
from rango.errors import InputError

ENDINGS = ["parquet", "csv", "jsonl", "npz"]
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=8)


def assert_same(a: Posteriors, b: Posteriors) -> None:
    assert (a.log_posteriors == b.log_posteriors).all()
    assert (a.labels == b.labels).all()
    assert (a.ids, a.groups, a.choices) == (b.ids, b.groups, b.choices)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("columns", [False, True])
def test_what_is_written_is_read(ending: str, columns: bool, tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=(7, 3)) * 9
    scores[2, 2] = -np.inf
    words = [['yes, "quoted"', "no\nnew line", "ä → ü"]] * 2 + [["a", "b"]] + [["a", "b", "c"]] * 4
    extra = (list("abcdefg"), list("xxyyzzz"), words) if columns else (None, None, None)
    posteriors = Posteriors.from_scores(scores, [0, 1, 1, 2, 0, 0, 1], *extra)
    path = tmp_path / f"new folder/posteriors.{ending}"
    write_posteriors(path, posteriors)
    assert_same(read_posteriors(str(path)), posteriors)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@given(data=st.data())
@settings(deadline=None, max_examples=25)
def test_any_ids_and_extreme_posteriors_survive(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    n = data.draw(st.integers(1, 5))
    scores = data.draw(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2), min_size=n, max_size=n))
    ids = data.draw(st.lists(TEXTS, min_size=n, max_size=n))
    posteriors = Posteriors.from_scores(scores, [0] * n, ids)
    for ending in ("parquet", "csv", "jsonl"):
        path = tmp_path_factory.mktemp("files") / f"p.{ending}"
        write_posteriors(path, posteriors)
        assert_same(read_posteriors(path), posteriors)


def test_every_kind_of_column_is_read(tmp_path: Path) -> None:
    q = np.array([[0.7, 0.3], [0.0, 1.0]])
    with np.errstate(divide="ignore"):
        kinds = {"posteriors": q, "log_posteriors": np.log(q), "logits": np.log(q) + np.array([[3.0], [-2.0]])}
    for kind, values in kinds.items():
        rows = [{"label": 1, kind: row} for row in values.tolist()]
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        stem = kind.removesuffix("s")
        lines = [f"label,{stem}_0,{stem}_1", *(f"1,{a!r},{b!r}" for a, b in values.tolist())]
        (tmp_path / "p.csv").write_text("\n".join(lines) + "\n")
        np.savez(tmp_path / "p.npz", label=[1, 1], **{kind: values})
        pq.write_table(pa.table({"label": [1, 1], kind: values.tolist()}), tmp_path / "p.parquet")
        for ending in ENDINGS:
            found = read_posteriors(tmp_path / f"p.{ending}")
            np.testing.assert_allclose(np.exp(found.log_posteriors), q, atol=1e-12)
            assert found.ids == ("0", "1")


def test_shorter_lists_are_fewer_choices(tmp_path: Path) -> None:
    rows = [{"label": 0, "posteriors": [0.5, 0.25, 0.25]}, {"label": 1, "posteriors": [0.5, 0.5]}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    (tmp_path / "p.csv").write_text("label,posterior_0,posterior_1,posterior_2\n0,0.5,0.25,0.25\n1,0.5,0.5,\n")
    for ending in ("jsonl", "parquet", "csv"):
        found = read_posteriors(tmp_path / f"p.{ending}")
        assert np.isneginf(found.log_posteriors[1, 2])
        assert found.cross_entropy() == pytest.approx(np.log(2))


def test_float32_and_one_million_rows_keep_their_shape(tmp_path: Path) -> None:
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.full(6, 0.5, dtype=np.float32)), 2)
    pq.write_table(pa.table({"label": pa.array([0, 1, 1], pa.int8()), "posteriors": values}), tmp_path / "p.parquet")
    found = read_posteriors(tmp_path / "p.parquet")
    assert found.log_posteriors.shape == (3, 2)
    assert found.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "x", "ending '.txt' is not known; expected .parquet, .csv, .jsonl or .npz"),
        ("p.jsonl", '{"label": 0}\n', "has label; expected one of posteriors, log_posteriors, logits"),
        ("p.jsonl", '{"logits": [0, 1], "posteriors": [0, 1]}\n', "has posteriors and logits; expected one of"),
        ("p.jsonl", '{"logits": [0, 1]}\n', "has no column label; give the 0-based index"),
        (
            "p.jsonl",
            '{"label": 2, "logits": [0, 1]}\n',
            "p.jsonl: labels[0] is 2 but there are 2 choices (valid: 0..1)",
        ),
        ("p.jsonl", '{"label": "b", "logits": [0, 1]}\n', "labels[0] is 'b'; expected the 0-based index"),
        ("p.jsonl", '{"label": null, "logits": [0, 1]}\n', "labels[0] is None; expected the 0-based index"),
        ("p.jsonl", '{"label": 0, "logits": "high"}\n', "logits holds something other than lists of numbers"),
        ("p.jsonl", '{"label": 0, "logits": 3}\n', "logits holds something other than lists of numbers"),
        ("p.jsonl", '{"label": 0, "logits": [NaN, 1]}\n', "p.jsonl:1: logits[0] is NaN or null; fill every cell"),
        ("p.jsonl", '{"label": 0, "posteriors": [0.5, 0.4]}\n', "posteriors[0] sums to 0.9; expected 1"),
        ("p.jsonl", '{"label": 0, "logits": [0, 1]}\n{"label": 0}\n', ":2: 'logits' is not in every row"),
        ("p.jsonl", '{"label": 0, "logits": [0, 1], "choices": ["a"]}\n', "choices[0] has"),
        ("p.jsonl", '{"label": 0, "logits": [0, 1], "choices": 3}\n', "choices[0] is 3; expected a list of texts"),
        ("p.jsonl", '{"label": 0, "logits": [0, 1], "choices": "a, b"}\n', "choices[0] is 'a, b'; expected a list"),
        (
            "p.jsonl",
            '{"label": 1' + "0" * 400 + ', "logits": [0, 1]}\n',
            "p.jsonl:1: a number has too many digits",
        ),
        ("p.jsonl", '{"label": "1e30", "logits": [0, 1]}\n', "labels[0] is '1e30'; expected the 0-based index"),
        ("p.jsonl", '{"label": 0, "logits": [1' + "0" * 400 + "]}\n", "p.jsonl:1: a number has too many digits"),
        ("p.jsonl", '{"label": 0, "logits": [0, 1], "choices": "' + "[" * 9999 + '"}\n', "expected a list of texts"),
        ("p.jsonl", "", "is empty; expected at least one line"),
        ("p.csv", "label,logit_0,logit_1\n", "has no rows; expected at least one instance"),
        ("p.csv", "label,logit_0,logit_1\n0,1,x\n", "p.csv:2: logit_1 is 'x'; expected a number"),
        ("p.csv", "label,logit_0,logit_2\n0,1,2\n", "has columns logit_0, logit_2; expected logit_0 to logit_1"),
        ("p.csv", "label,logit_0,logit_\u00b2\n0,1,2\n", "has the one column logit_0; expected logit_0, logit_1, …"),
        ("p.npz", "not a zip file", "is not an NPZ file of plain arrays"),
        ("p.parquet", "not a parquet file", "is not a Parquet file"),
    ],
)
def test_bad_files_are_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    if "choices[0] has" in message:
        path.write_text(text.replace('"label": 0', '"label": 1'))
        message = "labels[0] is 1 but that instance has 1 choices"
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_posteriors(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", label=np.array([0], dtype=object), logits=[[0.0, 1.0]])
    with pytest.raises(InputError, match="is not an NPZ file of plain arrays"):
        read_posteriors(tmp_path / "p.npz")


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=re.escape("ending '.txt' is not known; expected .parquet, .csv, .jsonl or .npz")
    ):
        write_posteriors(tmp_path / "p.txt", Posteriors(np.log([[0.5, 0.5]]), [0]))


def test_a_missing_folder_is_not_said_to_have_a_wrong_ending(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="runs does not exist; give a posteriors file, or the folder of a run"):
        read_posteriors(tmp_path / "runs")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for ending in ENDINGS:
        with pytest.raises(InputError, match="does not exist"):
            read_posteriors(tmp_path / f"p.{ending}")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_without_labels_is_read_where_none_are_needed(ending: str, tmp_path: Path) -> None:
    unlabelled = Posteriors.from_probabilities([[0.5, 0.5], [0.2, 0.8]], None, ["a", "b"])
    path = tmp_path / f"p.{ending}"
    write_posteriors(path, unlabelled)
    again = read_posteriors(path, need_labels=False)
    assert not again.has_labels
    assert (again.log_posteriors == unlabelled.log_posteriors).all()
    assert again.ids == ("a", "b")
    with pytest.raises(InputError, match="has no column label; give the 0-based index of the right choice"):
        read_posteriors(path)


@pytest.mark.parametrize("label", [None, float("nan"), -1])
def test_a_label_column_without_any_label_is_none(label: float | None, tmp_path: Path) -> None:
    rows = [{"label": label, "posteriors": [0.5, 0.5]}] * 2
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    np.savez(tmp_path / "p.npz", label=[-1 if label is None else label] * 2, posteriors=[[0.5, 0.5]] * 2)
    cell = "" if label is None else label
    (tmp_path / "p.csv").write_text(f"label,posterior_0,posterior_1\n{cell},0.5,0.5\n{cell},0.5,0.5\n")
    for ending in ENDINGS:
        assert not read_posteriors(tmp_path / f"p.{ending}", need_labels=False).has_labels
        with pytest.raises(InputError, match=r"labels\[0\] is '?(None|nan|NaN|-1)?'?"):
            read_posteriors(tmp_path / f"p.{ending}")


def test_some_labels_are_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("label,posterior_0,posterior_1\n,0.5,0.5\n1,0.5,0.5\n")
    with pytest.raises(InputError, match=r"labels\[0\] is ''"):
        read_posteriors(tmp_path / "p.csv", need_labels=False)


NPY = {"label": np.array([0, 1]), "logits": np.zeros((2, 2))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.zeros((2, 2), dtype=complex)}, "logits is of type complex128; expected numbers or texts"),
        ({"id": np.zeros(2, dtype="V4")}, r"id is of type \|V4; expected numbers or texts"),
        ({"id": np.array([0xFFFFFFFF, 1], "<u4").view("<U1")}, "a text of id is no Unicode"),
        ({"group": np.array([0xD800, 1], "<u4").view("<U1")}, "a text of group is no Unicode"),
    ],
)
def test_arrays_that_would_be_read_wrongly_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", **{**NPY, **change})
    with pytest.raises(InputError, match=message):
        read_posteriors(tmp_path / "p.npz")


def test_what_an_archive_holds_beside_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", **NPY)
    with zipfile.ZipFile(tmp_path / "p.npz", "a") as archive:
        archive.writestr("readme.txt", "no array")
    with pytest.raises(InputError, match=r"readme\.txt is no array"):
        read_posteriors(tmp_path / "p.npz")
    # The file is closed where it is no archive, and a header that Python 2 wrote is only older.
    (tmp_path / "p.npz").write_bytes(b"PK" + bytes(200))
    with pytest.raises(InputError, match="is not an NPZ file of plain arrays"):
        read_posteriors(tmp_path / "p.npz")
    gc.collect()
    np.savez(tmp_path / "p.npz", **NPY)
    with zipfile.ZipFile(tmp_path / "p.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(
                name,
                content.replace(b"(2,)", b"(2L,)").replace(b"(2L,), }  ", b"(2L,), } ") if "label" in name else content,
            )
    assert read_posteriors(tmp_path / "p.npz").labels.tolist() == [0, 1]


def test_rows_with_the_id_of_another_are_said(tmp_path: Path) -> None:
    file = tmp_path / "joined.csv"
    file.write_text("id,label,posterior_0,posterior_1\na,0,0.9,0.1\nb,1,0.2,0.8\na,0,0.9,0.1\n")
    (note,) = read_posteriors(file).notes
    assert note == "1 row with the id of a row before: each counts as an instance of its own"
    # A frame and a log are measured as a file is.
    assert Posteriors.from_frame(pa.csv.read_csv(file)).notes == (note,)
    assert note in DecisionLog.read(file).notes
    assert note in LongLog.read(file).log.notes
    file.write_text("id,label,posterior_0,posterior_1\na,0,0.9,0.1\nb,1,0.2,0.8\n")
    assert read_posteriors(file).notes == ()
