"""Posteriors files as other programs and people write them: what is read, said and refused."""

from __future__ import annotations

import gzip
import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rango import files
from rango.decisions import Posteriors, read_posteriors, summarise, write_posteriors
from rango.errors import InputError
from rango.rows import read_rows

# ln of 0.5, 0.3 and 0.2, as three numbers of any kind.
ROWS = {"posteriors": [0.5, 0.3, 0.2], "log_posteriors": np.log([0.5, 0.3, 0.2]).tolist(), "logits": [1.0, 2.0, 3.0]}


def text_file(tmp_path: Path, text: str, name: str = "p.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def as_lists(tmp_path: Path, kind: str, rows: list[list[float | None]]) -> dict[str, Path]:
    """The same rows as a list column, in the formats that have lists."""
    table = {"label": [0] * len(rows), kind: rows}
    pq.write_table(pa.table(table), tmp_path / "l.parquet")
    lines = [json.dumps({"label": 0, kind: row}) for row in rows]
    return {"jsonl": text_file(tmp_path, "\n".join(lines), "l.jsonl"), "parquet": tmp_path / "l.parquet"}


def as_columns(tmp_path: Path, stem: str, rows: list[list[float | None]]) -> dict[str, Path]:
    """The same rows with a column for each choice."""
    columns = {f"{stem}_{k}": [row[k] for row in rows] for k in range(len(rows[0]))}
    pq.write_table(pa.table({"label": [0] * len(rows), **columns}), tmp_path / "c.parquet")
    lines = [json.dumps({"label": 0} | {name: values[i] for name, values in columns.items()}) for i in range(len(rows))]
    cells = [",".join(["0", *("" if v is None else repr(v) for v in row)]) for row in rows]
    return {
        "parquet": tmp_path / "c.parquet",
        "jsonl": text_file(tmp_path, "\n".join(lines), "c.jsonl"),
        "csv": text_file(tmp_path, "\n".join([",".join(["label", *columns]), *cells]) + "\n", "c.csv"),
    }


@pytest.mark.parametrize("kind", list(ROWS))
@pytest.mark.parametrize("hole", [0, 1])
def test_a_hole_inside_a_row_is_refused_with_line_and_column(kind: str, hole: int, tmp_path: Path) -> None:
    whole, holed = ROWS[kind], [None if k == hole else value for k, value in enumerate(ROWS[kind])]
    stem = kind.removesuffix("s")
    for ending, path in as_columns(tmp_path, stem, [whole, holed]).items():
        line = 3 if ending == "csv" else 2
        with pytest.raises(InputError, match=re.escape(f"{path}:{line}: {stem}_{hole} is empty; fill every cell")):
            read_posteriors(path)
    for path in as_lists(tmp_path, kind, [whole, holed]).values():
        with pytest.raises(InputError, match=re.escape(f"{path}:2: {kind}[{hole}] is NaN or null; fill every cell")):
            read_posteriors(path)
    np.savez(tmp_path / "p.npz", label=[0, 0], **{kind: np.array([whole, holed], dtype=np.float64)})
    with pytest.raises(InputError, match=re.escape(f"p.npz:2: {kind}[{hole}] is NaN or null")):
        read_posteriors(tmp_path / "p.npz")


@pytest.mark.parametrize("kind", list(ROWS))
def test_empty_cells_at_the_end_are_fewer_choices(kind: str, tmp_path: Path) -> None:
    short: list[float | None] = [*np.log([0.5, 0.5]).tolist(), None]
    if kind == "posteriors":
        short = [0.5, 0.5, None]
    for path in as_columns(tmp_path, kind.removesuffix("s"), [ROWS[kind], short]).values():
        read = read_posteriors(path)
        np.testing.assert_allclose(np.exp(read.log_posteriors[1]), [0.5, 0.5, 0.0], atol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,posterior_0,posterior_1\n0,nan,1\n", "p.csv:2: posterior_0 is NaN or null"),
        ("label,posterior_0,posterior_1\n0,0.5,0.5\n0,,\n", "p.csv:3: posterior_0 is empty, and so are the others"),
        (
            "label,posterior_0,posterior_1,posterior_2\n2,0.5,0.5,\n0,1,0,0\n",
            "p.csv:2: labels[0] is 2 but that instance",
        ),
        ("label,logit_0,logit_1\n0,1_0,2\n", "p.csv:2: logit_0 is '1_0'; expected a number"),
        ("label,p_0,p_1,choice_0,choice_1\n0,1,0,,b\n", "p.csv:2: choice_0 is empty; fill every cell"),
        ("label,p_0,p_1,choice_0,choice_1\n0,1,,a,b\n", "p.csv:2: choices[0] has 2 entries but there are 1 numbers"),
        ("label,p_0,p_1,choice_0,choice_1\n0,0.5,0.5,a,\n", "choices[0] has 1 entries but posteriors for more"),
        ("label,p_0,p_1,choice_1,choice_2\n0,0.5,0.5,a,b\n", "has columns choice_1, choice_2; expected choice_0 to"),
        ("label,prob_0,p_0,p_1\n0,0.5,0.5,0.5\n", "has columns p_0, prob_0, p_1; expected posterior_0 to posterior_2"),
        ("label,posterior_0\n1,0.9\n", "has the one column posterior_0; expected posterior_0, posterior_1, …, or one"),
        ("label,prob\n1,0.9\n0,1.2\n", "p.csv:3: prob is 1.2; expected a number from 0 to 1"),
        ("label,logp\n1,0.1\n", "p.csv:2: logp is 0.1; expected a number of at most 0"),
        ("label,prob,proba\n1,0.9,0.1\n", "has prob and proba; expected one of posteriors, log_posteriors, logits"),
        ("label,prob_0,prob_1,logp_0,logp_1\n1,0,1,0,0\n", "has posteriors and log_posteriors; expected one of"),
        ("label,posteror_0,posteror_1\n1,0.5,0.5\n", "is posteror_0 meant as posterior_0?"),
        ("y,target,p_0,p_1\n1,1,0.5,0.5\n", "has y and target; call one of them label"),
        ("label,happy,sad\nsad,0.5,0.7\n", "happy, sad do not sum to one: call those of the classes posterior_NAME"),
        (
            "label,p_happy,p_sad\nglad,0.5,0.5\n",
            "p.csv:2: labels[0] is 'glad'; expected the 0-based index of the right",
        ),
        ("label,posterior_1,posterior_2\n0,0.5,0.5\n", "label is 0 but the columns count from posterior_1; count both"),
        ("label;p_0;p_1\n0;0,5;0.5\n", "p.csv:2: p_0 has a comma where other numbers have a point"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = text_file(tmp_path, text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_posteriors(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("label,prob_0,prob_1\n1,0.1,0.9\n0,0.8,0.2\n", "prob_0, prob_1: read as posteriors"),
        ("Label,P0,P1\n1,0.1,0.9\n0,0.8,0.2\n", "P0, P1: read as posteriors"),
        ("y_true,proba_1,proba_0\n1,0.9,0.1\n0,0.2,0.8\n", "the column y_true is read as label"),
        ("label, Posterior 0, Posterior 1\n1,0.1,0.9\n0,0.8,0.2\n", "read as posteriors"),
        (
            "label;posterior_0;posterior_1\n1;0,1;0,9\n0;0,8;0,2\n",
            "the commas inside numbers are read as decimal commas",
        ),
        ("label\tprob[0]\tprob[1]\n1\t0.1\t0.9\n0\t0.8\t0.2\n", "prob[0], prob[1]: read as posteriors"),
        ("label,p1\n1,0.9\n0,0.2\n", "p1 is read as the posterior of class 1, of the classes 0 and 1"),
        ("label,probability\n1,0.9\n0,0.2\n", "probability is read as the posterior of class 1"),
        (f"label,logp\n1,{math.log(0.9)!r}\n0,{math.log(0.2)!r}\n", "logp is read as the log-posterior of class 1"),
        (f"label,logit\n1,{math.log(9)!r}\n0,{-math.log(4)!r}\n", "logit is read as the log-odds of class 1"),
        ("label,happy,sad\nsad,0.1,0.9\nhappy,0.8,0.2\n", "happy, sad: read as posteriors, named after the classes"),
        ("Unnamed: 0,label,sad,happy\n0,sad,0.9,0.1\n1,Happy,0.2,0.8\n", "named after the classes"),
        ("label,prob_happy,prob_sad\n sad,0.1,0.9\nhappy,0.8,0.2\n", "read as posteriors, named after the classes"),
        (
            "label,posterior_1,posterior_2\n2,0.1,0.9\n1,0.8,0.2\n",
            "the columns count from 1 (posterior_1), so the labels",
        ),
        ("label,p_0,p_1,choice_0,choice_1\nb,0.1,0.9,a,b\n1,0.2,0.8,b,c\n", "1 of 2 labels are read as the text of a"),
    ],
)
def test_headers_as_people_write_them_are_read_and_said(text: str, note: str, tmp_path: Path) -> None:
    read = read_posteriors(text_file(tmp_path, text))
    right = np.exp(read.log_posteriors)[np.arange(2), read.labels]
    np.testing.assert_allclose(right, [0.9, 0.8], atol=1e-12)
    assert any(note in line for line in read.notes), read.notes


def test_classes_named_by_columns_become_choices(tmp_path: Path) -> None:
    read = read_posteriors(text_file(tmp_path, "label,sad,happy\nhappy,0.2,0.8\n"))
    assert read.choices == (("sad", "happy"),)
    assert read.labels.tolist() == [1]


def test_other_columns_are_ignored_where_the_documented_ones_are_there(tmp_path: Path) -> None:
    text = "label,posterior_0,posterior_1,p,prob_0,logp\n0,0.7,0.3,0.04,0.1,-3\n"
    read = read_posteriors(text_file(tmp_path, text))
    np.testing.assert_allclose(np.exp(read.log_posteriors), [[0.7, 0.3]])
    assert read.notes == ()


@pytest.mark.parametrize("label", ["1", "1.0", " 1 ", "b", " b ", "B"])
def test_a_label_is_an_index_or_the_text_of_one_choice(label: str, tmp_path: Path) -> None:
    text = f"label,p_0,p_1,p_2,choice_0,choice_1,choice_2\n{label},0.2,0.5,0.3,a,b,a\n0,1,0,0,a,b,a\n"
    assert read_posteriors(text_file(tmp_path, text)).labels.tolist() == [1, 0]


def test_a_label_that_two_choices_have_as_text_is_refused(tmp_path: Path) -> None:
    text = "label,p_0,p_1,p_2,choice_0,choice_1,choice_2\na,0.2,0.5,0.3,a,b,a\n"
    with pytest.raises(InputError, match=r"p\.csv:2: labels\[0\] is 'a'; expected the 0-based index"):
        read_posteriors(text_file(tmp_path, text))


def test_labels_from_one_are_said(tmp_path: Path) -> None:
    header = "label,posterior_0,posterior_1,posterior_2\n"
    read = read_posteriors(text_file(tmp_path, header + "1,0.2,0.3,0.5\n2,0.2,0.3,0.5\n"))
    assert read.notes == ("no label is 0: labels count from 0; where yours count from 1, subtract 1 from each",)
    assert read_posteriors(text_file(tmp_path, header + "0,0.2,0.3,0.5\n2,0.2,0.3,0.5\n")).notes == ()
    with pytest.raises(InputError, match=r"labels\[1\] is 3 but there are 3 choices .*subtract 1 from each"):
        read_posteriors(text_file(tmp_path, header + "1,0.2,0.3,0.5\n3,0.2,0.3,0.5\n"))
    with pytest.raises(InputError, match=r"there are 3 choices \(valid: 0\.\.2\)$"):
        read_posteriors(text_file(tmp_path, header + "0,0.2,0.3,0.5\n3,0.2,0.3,0.5\n"))


@pytest.mark.parametrize("blank", ["", "  ", None])
def test_a_blank_group_is_a_group_of_its_own(blank: str | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
    groups = ["g0", "g0", "g1", "g1", *[blank] * 56]
    alone = Posteriors.from_scores(scores, labels, None, ["g0", "g0", "g1", "g1", *map(str, range(56))])
    table: dict[str, Any] = {"label": labels.tolist(), "logits": scores.tolist(), "group": groups}
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    lines = [json.dumps({key: table[key][row] for key in table}) for row in range(60)]
    text_file(tmp_path, "\n".join(lines), "p.jsonl")
    cells = [f"{g or ''},{y},{','.join(map(repr, s))}" for g, y, s in zip(groups, labels, scores.tolist(), strict=True)]
    text_file(tmp_path, "\n".join(["group,label,logit_0,logit_1,logit_2", *cells]))
    if blank is not None:
        np.savez(tmp_path / "p.npz", label=labels, logits=scores, group=groups)
    sought = summarise(alone, replicates=200, metrics=["error_rate"])["error_rate"]
    assert sought.low is not None
    for path in sorted(tmp_path.iterdir()):
        read = read_posteriors(path)
        assert len(set(read.groups or ())) == 58
        assert "56 of 60 instances have no group: each is a group of its own" in read.notes
        width = summarise(read, replicates=200, metrics=["error_rate"])["error_rate"]
        assert width.low is not None
        assert width.low == pytest.approx(sought.low, abs=0.05)
    written = tmp_path / "again.parquet"
    write_posteriors(written, read)
    assert read_posteriors(written).groups == read.groups


def test_groups_that_are_all_blank_are_none(tmp_path: Path) -> None:
    assert read_posteriors(text_file(tmp_path, "label,group,p_0,p_1\n0,,1,0\n1,,0,1\n")).groups is None


@pytest.mark.parametrize("value", [None, {"a": 1}, True, [1]])
def test_an_id_or_a_choice_that_is_no_text_is_refused(value: Any, tmp_path: Path) -> None:
    good = {"label": 0, "posteriors": [0.5, 0.5], "id": "x", "choices": ["a", "b"]}
    for bad, message in ((good | {"id": value}, "id is"), (good | {"choices": [value, "b"]}, "choices[1] holds")):
        if message == "id is" and value is True:
            continue  # Python's True is a whole number, and harmless as a name
        path = text_file(tmp_path, f"{json.dumps(good)}\n{json.dumps(bad)}\n", "p.jsonl")
        with pytest.raises(InputError, match=re.escape(f"p.jsonl:2: {message}")):
            read_posteriors(path)


def test_float16_posteriors_are_divided_by_their_sum_and_said(tmp_path: Path) -> None:
    q = np.random.default_rng(1).dirichlet([0.5] * 20, size=50).astype(np.float16)
    assert np.abs(q.astype(np.float64).sum(axis=1) - 1).max() > 1e-4
    np.savez(tmp_path / "p.npz", label=np.arange(50) % 20, posteriors=q)
    read = read_posteriors(tmp_path / "p.npz")
    exact = q.astype(np.float64) / q.astype(np.float64).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(read.log_posteriors), exact, atol=1e-12)
    assert "each row was divided by its sum" in read.notes[0]


@pytest.mark.parametrize(
    ("sums_to", "noted"), [(1.0, False), (1.00005, False), (0.9996, True), (1.005, True), (0.991, True)]
)
def test_rounding_is_mended_within_a_hundredth(sums_to: float, noted: bool) -> None:
    for posteriors in (
        Posteriors.from_probabilities([[sums_to / 2] * 2], [0]),
        Posteriors(np.log([[sums_to / 2] * 2]), [0]),
    ):
        np.testing.assert_allclose(posteriors.log_posteriors, np.log(0.5), atol=1e-4)
        assert bool(posteriors.notes) == noted
    with pytest.raises(InputError, match=r"sums to 0\.98; expected 1, give or take 0\.01 .*give scores as logits"):
        Posteriors.from_probabilities([[0.5, 0.48]], [0])


@pytest.mark.parametrize("key", ["id", "group", "label", "choices", "logits"])
def test_a_single_value_in_npz_is_one_line(key: str, tmp_path: Path) -> None:
    columns: dict[str, Any] = {"label": [0], "logits": [[0.0, 1.0]]} | {key: "x"}
    np.savez(tmp_path / "p.npz", **columns)
    with pytest.raises(InputError, match=rf"p\.npz: {key} is a single value \(.*'x'.*\); expected one for each"):
        read_posteriors(tmp_path / "p.npz")


def test_columns_of_unequal_length_in_npz_are_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", label=[0, 1], posterior_0=[0.5], posterior_1=[0.5, 0.5])
    with pytest.raises(InputError, match=r"posterior_0 has 1 entries beside 2; give one for each row"):
        read_posteriors(tmp_path / "p.npz")


def test_an_error_without_text_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    (tmp_path / "p.npz").write_bytes(b"x")
    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(InputError, match=r"p\.npz is not an NPZ file of plain arrays \(MemoryError\)"):
        read_posteriors(tmp_path / "p.npz")


@pytest.mark.parametrize("read", [read_posteriors, lambda path: list(read_rows(path))])
def test_odd_parquet_columns_are_one_line(read: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    table = pa.table({"label": [0], "logits": [[0.0, 1.0]], "abcdefg": [1]})
    pq.write_table(table, path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"abcdefg", b"abc\xff\xfefg"))
    with pytest.raises(InputError, match=r"p\.parquet: the name of a column is not UTF-8"):
        read(path)
    pq.write_table(pa.table([[0], [1], [[0.0, 1.0]]], names=["label", "label", "logits"]), path)
    with pytest.raises(InputError, match=r"p\.parquet: column 'label' stands twice"):
        read(path)


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 100_000
    with gzip.open(tmp_path / "p.jsonl.gz", "wt") as file:
        file.write(json.dumps({"label": 0, "logits": [0, 1], "x": "0" * n * 8}))
    np.savez_compressed(tmp_path / "p.npz", label=np.zeros(n), logits=np.zeros((n, 2)))
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2 * n)), 2)
    pq.write_table(pa.table({"label": np.zeros(n, dtype=np.int64), "logits": zeros}), tmp_path / "p.parquet")
    paths = sorted(tmp_path.iterdir())
    for path in paths:
        assert len(read_posteriors(path))
    monkeypatch.setattr(files, "_UNPACKED_FREE", 1000)
    for path in paths:
        with pytest.raises(InputError, match=r"unpacks to more than .* MB, 100 times its size or more; unpack it your"):
            read_posteriors(path)
    # What packs as data does is read whatever its size.
    np.savez_compressed(
        path := tmp_path / "q.npz", label=np.zeros(9), logits=np.random.default_rng(0).normal(size=(9, 2))
    )
    assert len(read_posteriors(path)) == 9


FORMULAS = ["=1+1", "+cmd", "-x", "@SUM(A1)", "'=1", "''@", "'plain", "-3", "+0.5", "a=b", "\t=1"]


def test_formulas_in_csv_are_quoted_and_read_back(tmp_path: Path) -> None:
    n = len(FORMULAS)
    posteriors = Posteriors(np.log([[0.5, 0.5]] * n), [0] * n, FORMULAS, FORMULAS, [[f, f + "!"] for f in FORMULAS])
    write_posteriors(tmp_path / "p.csv", posteriors)
    read = read_posteriors(tmp_path / "p.csv")
    assert (read.ids, read.groups, read.choices) == (posteriors.ids, posteriors.groups, posteriors.choices)
    for row in (tmp_path / "p.csv").read_text().splitlines()[1:]:
        cells = [cell for k, cell in enumerate(row.split(",")) if k not in (3, 4)]  # the log-posteriors are numbers
        assert all(cell in ("-3", "+0.5") or cell[0] not in "=+-@\t" for cell in cells)


def test_a_choice_without_text_does_not_go_into_csv(tmp_path: Path) -> None:
    posteriors = Posteriors(np.log([[0.5, 0.5]]), [0], None, None, [["", "b"]])
    with pytest.raises(InputError, match=r"a choice has no text, .*write \.jsonl or \.parquet"):
        write_posteriors(tmp_path / "p.csv", posteriors)
    assert list(tmp_path.iterdir()) == []


def test_a_very_long_name_of_a_column_is_refused_at_once(tmp_path: Path) -> None:
    """Looking for what it may mean takes no time that grows with the square of its length."""
    begun = time.process_time()
    with pytest.raises(
        InputError, match=r"expected one of posteriors, log_posteriors, logits; is logits-.* meant as logit_0"
    ):
        read_posteriors(text_file(tmp_path, f"label,logits{'-' * 100_000}x\n0,1\n"))
    assert time.process_time() - begun < 2
