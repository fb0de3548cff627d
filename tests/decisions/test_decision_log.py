"""Logs: labels late or few, joined by id, in the order in which they came; times, periods and groups."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.made_logs import CLASSES, COSTS, make_log, write_log

from rango.decisions import Costs, DecisionLog, Posteriors
from rango.errors import InputError


def table(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


LOG = """id,when,shop,probability_no,probability_yes,decision,label
a,2026-02-01,north,0.9,0.1,no,
b,2026-01-05T10:00:00+02:00,south,0.2,0.8,yes,yes
c,2026-01-31,north,0.6,0.4,no,no
"""


def test_rows_stand_in_the_order_of_time_and_may_lack_labels(tmp_path: Path) -> None:
    log = DecisionLog.read(table(tmp_path, "log.csv", LOG), time="when", by="shop")
    assert log.posteriors.ids == ("b", "c", "a")
    assert log.labels.tolist() == [1, 0, -1]
    assert log.labelled.ids == ("b", "c")
    assert log.times is not None
    assert log.times[0] == dt.datetime(2026, 1, 5, 8, tzinfo=dt.UTC)
    assert {name: rows.tolist() for name, rows in log.periods("month").items()} == {"2026-01": [0, 1], "2026-02": [2]}
    assert list(log.periods("week")) == ["2026-W02", "2026-W05"]
    assert {name: rows.tolist() for name, rows in log.periods("2").items()} == {"1-2": [0, 1], "3-3": [2]}
    assert {name: rows.tolist() for name, rows in log.parts().items()} == {"north": [1, 2], "south": [0]}
    assert log.decisions == ("yes", "no", "no")


def test_labels_of_a_file_count_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    labels = table(tmp_path, "labels.csv", "ticket,outcome\nc,no\nz,no\na,yes\n")
    log_file = table(tmp_path, "log.csv", LOG.replace("id,", "ticket,"))
    log = DecisionLog.read(log_file, labels, time="when", label="outcome", name="ticket")
    assert log.labelled.ids == ("c", "a")
    assert log.labelled.labels.tolist() == [0, 1]
    assert any("1 of the 3 labels" in note for note in log.notes)
    assert any("the column label is not used" in note for note in log.notes)


def test_a_frame_a_written_log_and_seconds_are_read_alike(tmp_path: Path) -> None:
    from pyarrow.csv import read_csv

    made = make_log(40, known=0.5)
    path = write_log(tmp_path / "log.csv", made, {"t": range(40)})
    read = DecisionLog.read(path, time="t")
    np.testing.assert_array_equal(read.labels, made.labels)
    np.testing.assert_allclose(read.posteriors.log_posteriors, made.posteriors.log_posteriors, atol=1e-12)
    frame = DecisionLog.read(read_csv(path), time="t")
    np.testing.assert_array_equal(frame.labels, made.labels)
    assert frame.times == read.times


def test_act_says_what_was_acted_on_and_is_refused_where_it_says_neither(tmp_path: Path) -> None:
    acts = dict(zip("abc", ("yes", "no", ""), strict=True))
    gated = LOG.replace("label\n", "label,act\n").replace(",no,\n", ",no,,yes\n")
    for name in "bc":
        gated = "".join(
            line if not line.startswith(f"{name},") else line.rstrip("\n") + f",{acts[name]}\n"
            for line in gated.splitlines(keepends=True)
        )
    log = DecisionLog.read(table(tmp_path, "log.csv", gated), time="when")
    # In the order of time: b, c, a. A row that says nothing, as of a model without a gate, was acted on.
    assert log.acted.tolist() == [False, True, True]
    # What is passed on may be called as the gate calls it, which no costs know.
    costs = Costs.zero_one(("no", "yes"))
    called = DecisionLog.read(table(tmp_path, "called.csv", gated.replace("0.8,yes,", "0.8,ask,")), time="when")
    assert called.decisions == ("ask", "no", "no")
    assert called.decided(costs)[1] == ""
    assert called.decided(costs)[0][called.acted].tolist() == [0, 0]
    assert DecisionLog.read(table(tmp_path, "bare.csv", LOG)).acts is None
    with pytest.raises(InputError, match="log.csv:3: act is 'perhaps'; expected yes or no, which say whether"):
        DecisionLog.read(table(tmp_path, "log.csv", gated.replace("yes,no", "yes,perhaps")))


def test_gaps_in_a_column_of_labels_are_said_to_bend_the_bound(tmp_path: Path) -> None:
    note = "rows without a label stand before rows with one (column label)"
    rows = LOG.splitlines(keepends=True)
    path = table(tmp_path, "log.csv", LOG)
    assert any(note in one for one in DecisionLog.read(path).notes)
    # In the order of time the row without a label is the last; and a file of labels has an order of its own.
    assert not any(note in one for one in DecisionLog.read(path, time="when").notes)
    last = table(tmp_path, "last.csv", "".join([rows[0], *rows[2:], rows[1]]))
    assert not any(note in one for one in DecisionLog.read(last).notes)
    came = DecisionLog.read(path, table(tmp_path, "labels.csv", "id,label\nc,no\n"))
    assert not any(note in one for one in came.notes)


def test_decisions_are_those_of_the_log_where_the_costs_know_them() -> None:
    log = make_log(30)
    chosen, note = log.decided(COSTS)
    assert note == ""
    assert {COSTS.decisions[k] for k in chosen} <= {*CLASSES, "abstain"}
    logged = DecisionLog(log.posteriors, log.labels, log.arrival, decisions=("keep",) * 30)
    assert logged.decided(COSTS)[0].tolist() == [0] * 30
    other = DecisionLog(log.posteriors, log.labels, log.arrival, decisions=("call",) * 30)
    np.testing.assert_array_equal(other.decided(COSTS)[0], chosen)
    assert "the costs have no decision 'call'" in other.decided(COSTS)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "wen"}, "unknown column of .*log.csv 'wen': did you mean 'when'"),
        ({"time": "decision"}, r"log.csv:2: decision is 'no'; expected a time such as"),
        ({"by": "shops"}, "did you mean 'shop'"),
        ({"label": "truth"}, "unknown column of .* 'truth'"),
        ({"name": "number"}, "unknown column of .* 'number'"),
    ],
)
def test_columns_that_are_not_what_they_should_be(options: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        DecisionLog.read(table(tmp_path, "log.csv", LOG), **options)  # type: ignore[arg-type]


def test_labels_that_belong_to_nothing_or_to_two_are_refused(tmp_path: Path) -> None:
    log = table(tmp_path, "log.csv", LOG)
    with pytest.raises(InputError, match="no id of .*other.csv is in .*log.csv, the first is 'z'"):
        DecisionLog.read(log, table(tmp_path, "other.csv", "id,label\nz,no\n"))
    with pytest.raises(InputError, match="id 'a' stands 2 times"):
        DecisionLog.read(log, table(tmp_path, "twice.csv", "id,label\na,no\na,yes\n"))
    with pytest.raises(InputError, match="has no column label; say with --label which of id, outcome"):
        DecisionLog.read(log, table(tmp_path, "named.csv", "id,outcome\na,no\n"))
    with pytest.raises(InputError, match="has no column id, by which labels are joined"):
        DecisionLog.read(log, table(tmp_path, "bare.csv", "label\nno\n"))
    with pytest.raises(InputError, match="expected the 0-based index of the right choice, or one of no, yes"):
        DecisionLog.read(log, table(tmp_path, "class.csv", "id,label\na,maybe\n"))
    groups = "\n".join(f"{row},{row},0.5,0.5" for row in range(60))
    many = table(tmp_path, "many.csv", f"id,customer,posterior_0,posterior_1\n{groups}\n")
    with pytest.raises(InputError, match="column customer has 60 different values; expected at most 50 groups"):
        DecisionLog.read(many, by="customer")


def test_the_log_of_a_server_and_soft_labels(tmp_path: Path) -> None:
    rows = [
        {
            "time": "2026-11-28T10:00:00.123+00:00",
            "id": "a/q",
            "probability_no": 0.9,
            "probability_yes": 0.1,
            "act": True,
        },
        {
            "time": "2026-11-28T09:00:00.456+00:00",
            "id": "b/q",
            "probability_no": 0.2,
            "probability_yes": 0.8,
            "act": False,
        },
    ]
    path = table(tmp_path, "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    log = DecisionLog.read(path, table(tmp_path, "labels.csv", "id,label\na/q,no\n"), time="time", by="act")
    assert log.posteriors.ids == ("b/q", "a/q")
    assert log.labelled.ids == ("a/q",)
    assert log.acted.tolist() == [False, True]
    assert log.parts()["False"].tolist() == [0]
    soft = Posteriors.from_probabilities([[0.9, 0.1]], [[0.8, 0.2]])
    with pytest.raises(InputError, match="a log of decisions needs one right choice for each instance"):
        DecisionLog.of(soft)
    half = '{"posteriors": [0.9, 0.1], "label": [0.8, 0.2]}\n{"posteriors": [0.9, 0.1], "label": null}\n'
    with pytest.raises(InputError, match="a log of decisions needs one right choice for each instance"):
        DecisionLog.read(table(tmp_path, "half.jsonl", half))


@pytest.mark.parametrize("last", ["0", ""])
def test_ordered_levels_stay_ordered(last: str, tmp_path: Path) -> None:
    """With all labels or a part of them; costs by distance were refused for want of an order."""
    text = f"id,label,posterior_0,posterior_1,posterior_2,type\na,2,0.1,0.3,0.6,score\nb,{last},0.2,0.2,0.6,score\n"
    log = DecisionLog.read(table(tmp_path, "levels.csv", text))
    assert log.posteriors.types == ("score", "score")
    assert log.labelled.types == ("score",) * len(log.arrival)
    assert log.labelled.take([0]).metric("ranked_probability_score") == pytest.approx(0.1**2 + 0.4**2)


def test_a_time_that_another_zone_cannot_have_is_refused(tmp_path: Path) -> None:
    log = table(tmp_path, "log.csv", "id,time,posterior_0,posterior_1\na,0001-01-01T00:00+05:00,0.9,0.1\n")
    with pytest.raises(InputError, match="time is '0001-01-01T00:00\\+05:00'; expected a time such as"):
        DecisionLog.read(log, time="time")


def test_periods_need_what_they_are_counted_by() -> None:
    log = make_log(10, known=0.0)
    with pytest.raises(InputError, match="a week needs times; say with --time"):
        log.periods("week")
    with pytest.raises(InputError, match="unknown period 'weak': did you mean 'week'"):
        log.periods("weak")
    with pytest.raises(InputError, match="no decision has a label yet"):
        _ = log.labelled
