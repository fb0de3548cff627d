"""Posteriors from data frames and back: the same values, names and refusals as with files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.made_posteriors import make

from rango.decisions import Posteriors
from rango.errors import InputError

LOGS = np.log([[0.8, 0.2], [0.4, 0.6]])
EXTREME = np.array([[0.0, -800.0], [-np.inf, 0.0]])


def assert_equal(a: Posteriors, b: Posteriors) -> None:
    assert np.array_equal(a.log_posteriors, b.log_posteriors)
    assert a.has_labels == b.has_labels
    assert not a.has_labels or np.array_equal(a.labels, b.labels)
    assert (a.ids, a.groups, a.choices) == (b.ids, b.groups, b.choices)


@pytest.mark.parametrize("backend", ["pandas", "polars", "pyarrow"])
@pytest.mark.parametrize(
    "choices",
    [None, [("no", "yes")] * 2, [("2", "1")] * 2, [(" a", "a")] * 2, [("a", "b"), ("c", "d")]],
    ids=["none", "classes", "numbers", "spaces", "own"],
)
def test_a_frame_of_logarithms_gives_the_same_posteriors(backend: Any, choices: Any) -> None:
    for logs in (LOGS, EXTREME):
        posteriors = Posteriors(logs, [1, 1], ids=["x", "y"], groups=["g", "h"], choices=choices)
        assert_equal(Posteriors.from_frame(posteriors.to_frame(backend, logarithms=True)), posteriors)


def test_probabilities_are_named_after_the_classes() -> None:
    posteriors = Posteriors(LOGS, [0, 1], choices=[("no", "yes")] * 2)
    frame = posteriors.to_frame()
    assert list(frame.columns) == ["id", "label", "probability_no", "probability_yes"]
    assert frame["label"].tolist() == ["no", "yes"]
    assert np.allclose(frame["probability_no"], [0.8, 0.4], rtol=1e-15)
    again = Posteriors.from_frame(frame)
    assert np.allclose(again.log_posteriors, posteriors.log_posteriors, rtol=0, atol=1e-15)


def test_a_row_with_fewer_choices_keeps_them() -> None:
    logs = np.log([[0.5, 0.3, 0.2], [0.9, 0.1, 1.0]])
    logs[1, 2] = -np.inf
    posteriors = Posteriors(logs, None, choices=[("a", "b", "c"), ("a", "b")])
    frame = posteriors.to_frame("polars", logarithms=True)
    assert frame["log_probability_c"].to_list()[1] is None
    assert_equal(Posteriors.from_frame(frame, need_labels=False), posteriors)


def test_a_frame_is_refused_as_a_file_would_be() -> None:
    frame = make(5, 2).to_frame()
    with pytest.raises(InputError, match=r"frame:3: labels\[2\] is 'perhaps'"):
        Posteriors.from_frame(frame.assign(label=[0, 1, "perhaps", 0, 1]))
    with pytest.raises(InputError, match="frame has no column label"):
        Posteriors.from_frame(frame.drop(columns="label"))
    with pytest.raises(InputError, match=r"frame: posteriors\[1\] sums to 1\.3"):
        Posteriors.from_frame(pd.DataFrame({"label": [0, 1], "posterior_0": [0.5, 0.4], "posterior_1": [0.5, 0.9]}))
    assert not Posteriors.from_frame(frame.drop(columns="label"), need_labels=False).has_labels
