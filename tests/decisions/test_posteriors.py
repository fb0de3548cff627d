from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from rango.decisions import Posteriors, average_posteriors
from rango.decisions.arrays import log_softmax
from rango.errors import InputError


def test_arguments_are_never_written_to() -> None:
    scores = np.random.default_rng(0).normal(size=(50, 3))
    labels = np.arange(50) % 3
    before = scores.copy()
    posteriors = Posteriors.from_scores(scores, labels)
    logs = np.array(posteriors.log_posteriors)
    own = Posteriors(logs, labels)
    own.ece(), own.nce(), own.brier(), own.with_priors([0.2, 0.3, 0.5])
    assert (scores == before).all()
    assert logs.flags.writeable
    assert not own.log_posteriors.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        own.log_posteriors[0, 0] = 1.0


def test_float64_posteriors_are_not_copied() -> None:
    logs = np.log(np.full((4, 2), 0.5))
    assert np.shares_memory(Posteriors(logs, [0, 1, 0, 1]).log_posteriors, logs)


def test_rounding_of_float32_is_renormalised() -> None:
    logs = log_softmax(np.random.default_rng(1).normal(size=(30, 50)) * 5).astype(np.float32)
    sums = np.exp(Posteriors(logs, np.zeros(30, dtype=int)).log_posteriors).sum(axis=1)
    np.testing.assert_allclose(sums, 1.0, atol=1e-14)


def test_default_ids_are_numbers_and_survive_replace() -> None:
    posteriors = Posteriors(np.log([[0.5, 0.5]] * 2), [0, 1])
    assert posteriors.ids == ("0", "1")
    named = Posteriors(np.log([[0.5, 0.5]] * 2), [0, 1], ids=["x", "y"])
    assert dataclasses.replace(named, labels=[1, 1]).ids == ("x", "y")
    assert named.replaced(named.log_posteriors).ids == ("x", "y")
    assert named.prior_only().ids == ("x", "y")
    with pytest.raises(AttributeError, match="no attribute 'id'"):
        named.id  # noqa: B018


def test_take_keeps_every_column() -> None:
    whole = Posteriors(np.log([[0.5, 0.5]] * 3), [0, 1, 1], "abc", "ggh", [["p", "q"]] * 3)
    part = whole.take(np.array([False, True, True]))
    assert (part.ids, part.groups, part.choices) == (("b", "c"), ("g", "h"), (("p", "q"),) * 2)
    assert whole.take([2, 0]).ids == ("c", "a")


def test_one_instance() -> None:
    one = Posteriors(np.log([[0.25, 0.75]]), [1])
    assert one.cross_entropy() == pytest.approx(-np.log(0.75))
    assert np.isnan(one.nce())
    assert np.isnan(one.normalised_brier())


def test_a_thousand_classes_and_absent_ones() -> None:
    rng = np.random.default_rng(0)
    posteriors = Posteriors.from_scores(rng.normal(size=(20, 1000)), rng.integers(0, 5, 20))
    loop = -np.mean([posteriors.log_posteriors[i, y] for i, y in enumerate(posteriors.labels)])
    assert posteriors.cross_entropy() == pytest.approx(loop)
    assert 0 < posteriors.nce() < np.inf


def test_padding_changes_nothing() -> None:
    scores = np.array([[1.0, 0.2], [0.3, 0.1], [2.0, 0.0]])
    labels = [0, 1, 1]
    plain = Posteriors.from_scores(scores, labels)
    padded = Posteriors.from_scores(np.hstack([scores, np.full((3, 2), -np.inf)]), labels)
    for name in ("cross_entropy", "nce", "brier", "normalised_brier", "error_rate", "ece"):
        assert getattr(padded, name)() == pytest.approx(getattr(plain, name)())


def test_a_posterior_of_zero_costs_infinity_and_is_named() -> None:
    posteriors = Posteriors.from_probabilities([[1, 0], [0, 1], [0.5, 0.5]], [0, 0, 1], ids=["a", "b", "c"])
    assert posteriors.cross_entropy() == np.inf
    assert posteriors.zero_posterior_ids() == ("b",)
    assert posteriors.brier() == pytest.approx((0 + 2 + 0.5) / 3)


def test_a_class_of_weight_zero_counts_zero_though_its_loss_is_infinite() -> None:
    posteriors = Posteriors.from_probabilities([[0.5, 0.5], [1, 0]], [0, 1])
    assert posteriors.cross_entropy(priors=[1, 0]) == pytest.approx(np.log(2))


def test_with_priors_is_bayes_rule() -> None:
    posteriors = Posteriors(np.log([[0.5, 0.5], [0.2, 0.8]]), [0, 1])
    moved = np.exp(posteriors.with_priors([0.9, 0.1]).log_posteriors)
    np.testing.assert_allclose(moved, [[0.9, 0.1], [0.18 / 0.26, 0.08 / 0.26]])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Posteriors(np.log([[0.5, 0.4]]), [0]), r"log_posteriors[0] sums to 0.9 after exp; expected 1"),
        (lambda: Posteriors(np.log([[0.5, 0.5], [0.5, 0.2], [0.5, 0.4]]), [0] * 3), "log_posteriors[1] sums to 0.7"),
        (lambda: Posteriors([[0.0, np.nan]], [0]), "log_posteriors[0] is [0, nan]; expected numbers below infinity"),
        (lambda: Posteriors.from_scores([[0, 1], [np.inf, 0]], [0, 0]), "scores[1] is [inf, 0]; expected numbers"),
        (lambda: Posteriors.from_scores([[-np.inf, -np.inf]], [0]), "scores[0] is -inf everywhere"),
        (lambda: Posteriors(np.zeros((0, 3)), []), "log_posteriors has no rows"),
        (lambda: Posteriors(np.zeros((2, 1)), [0, 0]), "log_posteriors has 1 column; expected at least two choices"),
        (lambda: Posteriors(np.zeros(3), [0]), "has shape (3,); expected (instances, choices)"),
        (lambda: Posteriors([[0.0], [0.0, 1.0]], [0, 0]), "is ragged; expected rows of one length"),
        (lambda: Posteriors([["a", "b"]], [0]), "values; expected numbers"),
        (lambda: Posteriors(np.log([[0.5, 0.5]] * 2), [0, 2]), "labels[1] is 2 but there are 2 choices (valid: 0..1)"),
        (lambda: Posteriors(np.log([[0.5, 0.5]]), [-1]), "labels[0] is -1 but there are 2 choices"),
        (lambda: Posteriors(np.log([[0.5, 0.5]]), [0.5]), "labels[0] is 0.5 but there are 2 choices"),
        (lambda: Posteriors(np.log([[0.5, 0.5]]), [np.nan]), "labels[0] is nan but"),
        (lambda: Posteriors(np.log([[0.5, 0.5]]), [0, 1]), "labels have shape (2,); expected (1,)"),
        (lambda: Posteriors(np.log([[0.5, 0.5]]), [0], ids=["a", "b"]), "ids has 2 entries but there are 1 instances"),
        (lambda: Posteriors(np.log([[0.5, 0.5]]), [0], groups=[]), "groups has 0 entries but there are 1"),
        (lambda: Posteriors(np.log([[0.5, 0.5]]), [0], choices=[]), "choices has 0 entries but there are 1"),
        (lambda: Posteriors([[0.0, -np.inf]], [1], choices=[["a"]]), "labels[0] is 1 but that instance has 1 choices"),
        (
            lambda: Posteriors(np.log([[0.5, 0.5]]), [1], choices=["abc"]),
            "choices[0] has 3 entries; expected at most 2",
        ),
        (lambda: Posteriors.from_probabilities([[1.1, -0.1]], [0]), "posteriors[0] is [1.1, -0.1]; expected numbers"),
        (lambda: Posteriors.from_probabilities([[0.5, 0.6]], [0]), "posteriors[0] sums to 1.1; expected 1"),
    ],
)
def test_bad_input_is_named(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(InputError, match=re.escape(message)):
        build()


def test_priors_for_an_absent_class() -> None:
    posteriors = Posteriors(np.log([[0.5, 0.5]]), [0])
    with pytest.raises(InputError, match=re.escape("priors[1] is 0.5 but no instance has label 1; set it to 0")):
        posteriors.cross_entropy(priors=[0.5, 0.5])
    with pytest.raises(InputError, match="no instance has label 1"):
        posteriors.ece(priors=[0.5, 0.5])
    assert posteriors.cross_entropy(priors=[1, 0]) == pytest.approx(np.log(2))


def test_without_labels_everything_but_measuring_goes_on() -> None:
    logs = np.log([[0.7, 0.3], [0.2, 0.8]])
    unlabelled = Posteriors(logs, None, ids=["a", "b"], choices=[["no", "yes"]] * 2)
    assert not unlabelled.has_labels
    assert len(unlabelled) == 2
    assert not unlabelled.take([1]).replaced(logs[:1]).has_labels
    moved = unlabelled.with_priors([0.9, 0.1], training_priors=[0.5, 0.5])
    np.testing.assert_allclose(np.exp(moved.log_posteriors[0]), [0.63 / 0.66, 0.03 / 0.66])
    assert not average_posteriors([unlabelled, moved]).has_labels
    for measured in (unlabelled.nce, unlabelled.ece, unlabelled.prior_only, unlabelled.zero_posterior_ids):
        with pytest.raises(InputError, match="these instances have no labels; give the 0-based index"):
            measured()
    with pytest.raises(InputError, match="without labels the priors behind the posteriors are not known"):
        unlabelled.with_priors([0.9, 0.1])
    with pytest.raises(InputError, match="only the second has labels"):
        average_posteriors([unlabelled, Posteriors(logs, [0, 1], ids=["a", "b"])])
    with pytest.raises(InputError, match=r"choices\[1\] has 3 entries; expected at most 2"):
        Posteriors(logs, None, choices=[["no", "yes"], ["a", "b", "c"]])


def test_blank_groups_get_names_that_no_other_has() -> None:
    logs = np.log([[0.5, 0.5]] * 5)
    groups = ["(no group) b", None, "", float("nan"), "(no group) b"]
    posteriors = Posteriors(logs, [0] * 5, "abbcd", groups)  # type: ignore[arg-type]
    assert posteriors.groups is not None
    assert len(set(posteriors.groups)) == 4
    assert posteriors.groups[0] == posteriors.groups[4] == "(no group) b"
    # The names stay when instances are chosen.
    assert posteriors.take([1, 2]).groups == posteriors.groups[1:3]
    assert posteriors.take([1, 2]).notes == ()
