"""Few labels beside an old calibrator: laws at both ends, and never much worse than the better of old and new."""

from __future__ import annotations

import numpy as np
import pytest

from rango.decisions import (
    Affine,
    Calibrator,
    Posteriors,
    Temperature,
    fit_calibrator,
    identity_calibrator,
    recalibrate,
)
from rango.decisions.calibrators import Method
from rango.errors import InputError

CLASSES = ("a", "b", "c")


def draw(
    n: int, rng: np.random.Generator, *, scale: float = 0.6, bias: tuple[float, ...] = (0.0, 0.0, 0.0)
) -> Posteriors:
    """Posteriors whose best calibrator is affine, with this scale and bias."""
    scores = 2.0 * rng.normal(size=(n, 3))
    labels = (scale * scores + np.array(bias) + rng.gumbel(size=(n, 3))).argmax(axis=1)
    return Posteriors.from_scores(scores, labels, choices=[CLASSES] * n)


@pytest.fixture(scope="module")
def old() -> Calibrator:
    return fit_calibrator(draw(200, np.random.default_rng(0)), method="affine")


@pytest.mark.parametrize("bias", [(0.0, 0.0, 0.0), (1.0, 0.0, -1.0)], ids=["as before", "shifted"])
@pytest.mark.parametrize("n", [20, 100, 1000])
def test_it_is_never_much_worse_than_the_better_of_old_and_new(
    n: int, bias: tuple[float, ...], old: Calibrator
) -> None:
    rng, scale = np.random.default_rng(n), 0.6 if bias[0] == 0 else 0.3
    truth = draw(10_000, rng, scale=scale, bias=bias)
    few = [draw(n, rng, scale=scale, bias=bias) for _ in range(4 if n == 20 else 1)]

    def mean_loss(calibrators: list[Calibrator]) -> float:
        return float(np.mean([one.apply(truth).cross_entropy() for one in calibrators]))

    kept, new = mean_loss([old]), mean_loss([fit_calibrator(one, method="affine") for one in few])
    ours = mean_loss([recalibrate(one, old) for one in few])
    # In nats; with 20 labels the worse of the two is 0.1 to 0.2 away.
    assert ours <= min(kept, new) + {20: 0.04, 100: 0.02, 1000: 0.005}[n]
    if n == 20:
        assert ours < max(kept, new) - 0.05


def test_no_label_keeps_the_old_and_very_many_give_the_ordinary_fit(old: Calibrator) -> None:
    assert recalibrate(None, old) is old
    many = draw(4_000, np.random.default_rng(1), scale=0.3, bias=(1.0, 0.0, -1.0))
    ordinary, ours = fit_calibrator(many, method="affine"), recalibrate(many, old)
    np.testing.assert_allclose(ours.transform(many.log_posteriors), ordinary.transform(many.log_posteriors), atol=0.02)
    assert ours.report is not None
    assert ours.report.note is not None
    assert ours.report.note.startswith("the old calibrator counts as ")


@pytest.mark.parametrize("method", ["temperature", "bias", "affine", "vector", "matrix"])
def test_labels_that_agree_with_the_old_one_leave_it_as_it_is(method: Method) -> None:
    """Fitted and held at on the same instances: both parts of the objective have their optimum there."""
    sample = draw(300, np.random.default_rng(2))
    old = fit_calibrator(sample, method=method, regularisation=0.0)
    again = recalibrate(sample, old)
    assert again.method == method
    np.testing.assert_allclose(again.transform(sample.log_posteriors), old.transform(sample.log_posteriors), atol=1e-5)


def test_the_old_one_holds_what_the_labels_do_not_tell(old: Calibrator) -> None:
    """One class without a label: an ordinary fit sends its bias towards minus infinity."""
    sample = draw(60, np.random.default_rng(3))
    few = sample.take(np.flatnonzero(sample.labels != 2)[:12])
    ours = recalibrate(few, old)
    assert isinstance(ours, Affine)
    assert min(ours.bias) > -4
    ordinary = fit_calibrator(few, method="affine")
    assert isinstance(ordinary, Affine)
    assert min(ordinary.bias) < -8


def test_columns_are_matched_by_name(old: Calibrator) -> None:
    few = draw(12, np.random.default_rng(4))
    turned = Posteriors(few.log_posteriors[:, ::-1], 2 - few.labels, choices=[CLASSES[::-1]] * 12)
    one, other = recalibrate(few, old), recalibrate(turned, old)
    np.testing.assert_allclose(other.apply(turned).log_posteriors[:, ::-1], one.apply(few).log_posteriors, atol=1e-9)
    with pytest.raises(InputError, match="the old calibrator is of a, b, c, but the labels are of x, y, z"):
        recalibrate(Posteriors(few.log_posteriors, few.labels, choices=[("x", "y", "z")] * 12), old)


def test_impossible_choices_stay_impossible() -> None:
    rng = np.random.default_rng(5)
    logs = np.array(draw(12, rng).log_posteriors)
    logs[::2, 2] = -np.inf
    labels = np.where(np.arange(12) % 2, rng.integers(0, 3, 12), rng.integers(0, 2, 12))
    ours = recalibrate(Posteriors.from_scores(logs, labels), Temperature(scale=1.0))
    assert isinstance(ours, Temperature)
    assert np.isneginf(ours.transform(logs)[::2, 2]).all()


def test_the_identity_is_where_calibrated_logs_begin() -> None:
    few = draw(50, np.random.default_rng(6), scale=1.0)
    for method in ("auto", "temperature", "bias", "affine"):
        same = identity_calibrator(few, method)  # type: ignore[arg-type]
        np.testing.assert_allclose(same.apply(few).log_posteriors, few.log_posteriors, atol=1e-12)
    with pytest.raises(InputError, match="--method matrix towards identity"):
        identity_calibrator(few, "matrix")


def test_what_is_refused(old: Calibrator) -> None:
    few = draw(30, np.random.default_rng(7))
    two = Posteriors.from_probabilities([[0.5, 0.5]] * 4, [0, 1, 0, 1])
    with pytest.raises(InputError, match="the old calibrator is isotonic"):
        recalibrate(two, fit_calibrator(two, method="isotonic"))
    with pytest.raises(InputError, match="the old calibrator has target priors"):
        recalibrate(few, fit_calibrator(few, method="affine", priors=[0.2, 0.3, 0.5]))
    with pytest.raises(InputError, match="2 choices for a calibrator of 3"):
        recalibrate(two, old)
    dead = Posteriors.from_probabilities([[0.0, 1.0]] * 3, [0, 0, 0])
    with pytest.raises(InputError, match="every instance has posterior 0 at its label"):
        recalibrate(dead, Temperature(scale=1.0))
