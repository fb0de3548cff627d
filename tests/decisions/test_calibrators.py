"""Calibrators: what each does to posteriors, by hand, and their files, good and damaged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from helpers.made_posteriors import make
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.decisions import Calibrator, Posteriors, fit_calibrator
from rango.decisions.calibrators import (
    CALIBRATORS,
    Affine,
    Bias,
    Histogram,
    Isotonic,
    Matrix,
    Method,
    Temperature,
    Vector,
)
from rango.errors import InputError


def test_every_method_has_its_class() -> None:
    assert list(CALIBRATORS) == [*get_args(Method)]


def test_linear_calibrators_by_hand() -> None:
    logs = np.log([[0.5, 0.5]])
    half = np.log(2.0)
    np.testing.assert_allclose(np.exp(Bias(bias=(half, 0.0)).transform(logs)), [[2 / 3, 1 / 3]])
    affine = Affine(scale=3.0, bias=(half, 0.0), priors=(0.5, 0.5))
    np.testing.assert_allclose(np.exp(affine.transform(logs)), [[2 / 3, 1 / 3]])
    np.testing.assert_allclose(np.exp(Vector(scales=(0.0, 1.0), bias=(0.0, 0.0)).transform(logs)), [[2 / 3, 1 / 3]])
    swap = Matrix(weights=((0.0, 1.0), (1.0, 0.0)), bias=(0.0, 0.0))
    np.testing.assert_allclose(np.exp(swap.transform(np.log([[0.9, 0.1]]))), [[0.1, 0.9]])


def test_step_functions_by_hand() -> None:
    logs = np.log([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]])
    isotonic = Isotonic(starts=(0.0, 2.0), values=(0.25, 0.5, 1.0))
    # A step begins at its log-odds: 0 belongs to the second.
    np.testing.assert_allclose(np.exp(isotonic.transform(logs))[:, 1], [0.25, 0.5, 1.0])
    histogram = Histogram(edges=(0.0, 0.5, 1.0), values=(0.25, 0.75))
    # A bin is closed above: 0.5 belongs to the first.
    np.testing.assert_allclose(np.exp(histogram.transform(logs))[:, 1], [0.25, 0.25, 0.75])
    assert np.isneginf(isotonic.transform(logs)[2, 0])


@pytest.mark.parametrize("calibrator", [Temperature(scale=0.0), Affine(scale=0.0, bias=(1.0, 2.0, 3.0))])
def test_an_impossible_choice_stays_impossible_at_scale_zero(calibrator: Calibrator) -> None:
    """0 · −∞ is not a number; the choice must keep posterior 0."""
    after = np.exp(calibrator.apply(Posteriors.from_probabilities([[0.5, 0.5, 0.0]], [0])).log_posteriors[0])
    assert after[2] == 0
    assert after[:2].sum() == pytest.approx(1)


def test_posteriors_are_not_written_to_and_keep_their_columns() -> None:
    posteriors = Posteriors.from_probabilities([[0.5, 0.5, 0.0]], [0], ids=["a"])
    before = posteriors.log_posteriors.copy()
    after = Bias(bias=(0.0, 1.0, 2.0)).apply(posteriors)
    assert (posteriors.log_posteriors == before).all()
    assert after.ids == ("a",)


def test_another_number_of_choices_is_refused() -> None:
    with pytest.raises(InputError, match="3 choices for a calibrator of 2; fit it on the same choices"):
        Bias(bias=(0.0, 1.0)).apply(make())
    with pytest.raises(InputError, match="3 choices for a calibrator of 2"):
        Isotonic(starts=(), values=(0.5,)).apply(make())
    with pytest.raises(InputError, match=re.escape("log_posteriors[0] has a choice of posterior 0; a matrix")):
        Matrix(weights=((1.0, 0.0), (0.0, 1.0)), bias=(0.0, 0.0)).transform(np.array([[0.0, -np.inf]]))


@given(st.integers(0, 10_000), st.floats(0.01, 50))
@settings(deadline=None, max_examples=30)
def test_temperature_changes_no_decision_under_zero_one_costs(seed: int, scale: float) -> None:
    posteriors = make(n=60, k=4, seed=seed)
    after = Temperature(scale=scale).apply(posteriors)
    assert (after.log_posteriors.argmax(axis=1) == posteriors.log_posteriors.argmax(axis=1)).all()


@pytest.mark.parametrize("method", get_args(Method))
def test_files_give_equal_calibrators(method: Method, tmp_path: Path) -> None:
    calibrator = fit_calibrator(make(k=2), method=method)
    calibrator.write(tmp_path / "c.json")
    assert Calibrator.read(tmp_path / "c.json") == calibrator
    assert json.loads((tmp_path / "c.json").read_text())["method"] == method
    assert Calibrator.read(str(tmp_path / "c.json")).apply(make(k=2)).cross_entropy() == pytest.approx(
        calibrator.apply(make(k=2)).cross_entropy()
    )


REPORT = '{"n": 3, "converged": true, "iterations": 2, "gradient": 0, "loss_before": 1, %s}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no key method; expected a calibrator written by rango"),
        ('{"method": "afine"}', "unknown method in {path} 'afine': did you mean 'affine'?"),
        ('{"method": "temperature", "report": null}', "scale is missing; expected the keys method, report, scale"),
        ('{"method": "temperature", "report": null, "scale": 1, "x": 1}', "x is unknown"),
        (
            '{"method": "temperature", "report": null, "scale": "hot"}',
            "values of a temperature calibrator are not numbers",
        ),
        ('{"method": "temperature", "report": 3, "scale": 1}', "values of a temperature calibrator are not numbers"),
        ('{"method": ["affine"]}', "unknown method in {path}"),
        *(
            (
                f'{{"method": "{damaged[0]}", "report": {damaged[1]}, {damaged[2]}}}',
                f"values of a {damaged[0]} calibrator are not numbers that",
            )
            for damaged in (
                ("temperature", "null", '"scale": [1]'),
                ("temperature", "null", '"scale": null'),
                ("bias", "null", '"bias": 3, "priors": null'),
                ("bias", "null", '"bias": [0, [1]], "priors": null'),
                ("bias", "null", '"bias": [0, 1], "priors": [1]'),
                ("vector", "null", '"bias": [0, 1], "priors": null, "scales": [1]'),
                ("matrix", "null", '"bias": [0, 1], "priors": null, "weights": [[1, 0]]'),
                ("isotonic", "null", '"starts": [0], "values": [1]'),
                ("histogram", "null", '"edges": [0, 1], "values": [0.5, 0.5]'),
                ("temperature", REPORT % '"loss_after": [1]', '"scale": 1'),
                ("temperature", REPORT % '"loss_after": 1, "note": 3', '"scale": 1'),
                ("temperature", '{"n": 3}', '"scale": 1'),
            )
        ),
        ('{"method": "temperature", "report": null, "scale": 1' + "0" * 400 + "}", "a number has too many digits"),
        ("{", "not JSON"),
    ],
)
def test_bad_calibrator_files_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message.format(path=path))):
        Calibrator.read(path)


@pytest.mark.parametrize("method", ["bias", "affine", "vector", "matrix"])
def test_columns_are_matched_by_the_names_of_their_classes(method: Method, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    names, order = ["a", "b", "c"], [2, 0, 1]
    scores, labels = rng.normal(size=(90, 3)), rng.integers(0, 3, 90)
    named = Posteriors.from_scores(scores, labels, choices=[names] * 90)
    fitted = fit_calibrator(named, method=method)
    fitted.write(tmp_path / "c.json")
    again = Calibrator.read(tmp_path / "c.json")
    assert again == fitted
    assert again.choices == ("a", "b", "c")
    other = Posteriors(named.log_posteriors[:, order], None, choices=[[names[k] for k in order]] * 90)
    expected = again.apply(named).log_posteriors
    np.testing.assert_array_equal(again.apply(other).log_posteriors, expected[:, order])
    # By place where one side has no names.
    np.testing.assert_array_equal(again.apply(Posteriors(named.log_posteriors, None)).log_posteriors, expected)
    with pytest.raises(InputError, match="unknown choice for this calibrator 'd'"):
        again.apply(Posteriors(named.log_posteriors, None, choices=[["a", "b", "d"]] * 90))


@pytest.mark.parametrize("choices", ['["a"]', '["a", "a"]', '["a", 1]', "3"])
def test_choices_that_do_not_fit_a_calibrator_are_refused(choices: str, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(f'{{"method": "bias", "report": null, "bias": [0, 1], "priors": null, "choices": {choices}}}')
    with pytest.raises(InputError, match="values of a bias calibrator are not numbers that fit each other"):
        Calibrator.read(file)


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("temperature", {"scale": 1e308}),
        ("temperature", {"scale": "Infinity"}),
        ("bias", {"bias": [0, 1e200], "priors": None}),
        ("bias", {"bias": [0, 1], "priors": [0, 0]}),
        ("bias", {"bias": [0, 1], "priors": [-0.5, 1.5]}),
        ("matrix", {"weights": [[1e300, 0], [0, 1e300]], "bias": [0, 0], "priors": None}),
        ("isotonic", {"starts": [0.0], "values": [0.2, 1.5]}),
        ("isotonic", {"starts": [1.0, 0.0], "values": [0.1, 0.2, 0.3]}),
        ("histogram", {"edges": [0, 0.6, 0.5, 1], "values": [0.1, 0.2, 0.3]}),
        ("histogram", {"edges": [0, 1], "values": [-0.1]}),
    ],
)
def test_parameters_that_give_no_posteriors_are_refused(method: str, values: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"method": method, "report": None, **values}).replace('"Infinity"', "Infinity"))
    with pytest.raises(InputError, match=f"values of a {method} calibrator are not numbers that fit each other"):
        Calibrator.read(file)


def test_priors_that_leave_an_instance_no_choice_are_named() -> None:
    sure = Posteriors(np.array([[-np.inf, 0.0], [0.0, -np.inf]]), None)
    with pytest.raises(
        InputError, match=r"log_posteriors\[0\] has posterior 0 wherever the calibrator's priors are not 0"
    ):
        Bias(bias=(0.0, 0.0), priors=(1.0, 0.0), report=None).apply(sure)
