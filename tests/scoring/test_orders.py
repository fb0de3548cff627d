"""The mean over orders: models whose answers are known, laws, and the real scorer beside a mean by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.toy import toy_task

from rango.errors import InputError
from rango.models.loading import load_model
from rango.options import ScoringOptions
from rango.scoring.orders import score_orders
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import ScoredSplit, score_split
from rango.tasks import Instance
from rango.tasks.perturbations import orders_of, permuted
from rango.tasks.task import posteriors_of

Checkpoint = Callable[..., Path]
TASK = toy_task(test=12, form="letter")
LETTER = ScoringOptions(form="letter")
NO_READER: Any = None


def by_place(_reader: object, instances: Sequence[Instance], **_: Any) -> ScoredSplit:
    """A model that looks at the places alone: the first has odds of 4, 2, 1, 1/2 to the next ones."""
    scores = np.full((len(instances), max(len(one.choices) for one in instances)), -np.inf)
    for row, one in enumerate(instances):
        scores[row, : len(one.choices)] = np.log([4.0, 2.0, 1.0, 0.5][: len(one.choices)])
    return ScoredSplit(posteriors_of(instances, scores), letter_mass=0.5, tokens=10, seconds=1.0)


def by_text(_reader: object, instances: Sequence[Instance], **_: Any) -> ScoredSplit:
    """A model that looks at the texts alone: the longer, the more probable."""
    scores = np.full((len(instances), max(len(one.choices) for one in instances)), -np.inf)
    for row, one in enumerate(instances):
        scores[row, : len(one.choices)] = [len(choice) / 10 for choice in one.choices]
    return ScoredSplit(posteriors_of(instances, scores), letter_mass=0.5, tokens=10, seconds=1.0)


def mean(instances: Sequence[Instance], orders: int, score: Callable[..., ScoredSplit], seed: int = 0) -> ScoredSplit:
    return score_orders(NO_READER, instances, task=TASK, options=LETTER, orders=orders, seed=seed, score=score)


def test_a_whole_round_of_orders_leaves_nothing_of_a_preference_for_places() -> None:
    for choices in (3, 4):
        instances = [one for one in TASK.test if len(one.choices) == choices]
        assert len(instances) > 2
        np.testing.assert_allclose(
            np.exp(mean(instances, choices, by_place).posteriors.log_posteriors), 1 / choices, rtol=1e-12
        )
        # By hand: in two orders a choice that stood at two places has their mean.
        two = np.exp(mean(instances, 2, by_place).posteriors.log_posteriors)
        shares = np.array([4.0, 2.0, 1.0, 0.5][:choices])
        shares /= shares.sum()
        for row, one in enumerate(instances):
            _, order = orders_of(one, 2, seed=0)
            expected = [(shares[k] + shares[order.index(k)]) / 2 for k in range(choices)]
            np.testing.assert_allclose(two[row], expected, rtol=1e-12)


@pytest.mark.parametrize("orders", [1, 2, 5, 24, 1000])
def test_a_model_that_ignores_order_keeps_its_posteriors(orders: int) -> None:
    alone = by_text(None, TASK.test).posteriors
    averaged = mean(TASK.test, orders, by_text).posteriors
    np.testing.assert_allclose(averaged.log_posteriors, alone.log_posteriors, rtol=1e-12)
    assert (averaged.ids, averaged.choices, averaged.groups) == (alone.ids, alone.choices, alone.groups)
    np.testing.assert_array_equal(averaged.labels, alone.labels)


def test_the_mean_over_all_orders_does_not_depend_on_the_order_of_the_data() -> None:
    def mixed(reader: object, instances: Sequence[Instance], **_: Any) -> ScoredSplit:
        scores = (
            by_place(reader, instances).posteriors.log_posteriors + by_text(reader, instances).posteriors.log_posteriors
        )
        return ScoredSplit(posteriors_of(instances, scores), letter_mass=None, tokens=0, seconds=0.0)

    orders = [orders_of(one, 3, seed=9)[-1] for one in TASK.test]
    shuffled = [permuted(one, order) for one, order in zip(TASK.test, orders, strict=True)]
    one = mean(TASK.test, 24, mixed).posteriors.log_posteriors
    other = mean(shuffled, 24, mixed, seed=5).posteriors.log_posteriors
    for row, order in enumerate(orders):
        np.testing.assert_allclose(other[row, : len(order)], one[row, list(order)], rtol=1e-9)


def test_passes_of_few_instances_count_by_how_many_they_have() -> None:
    scored = mean(TASK.test, 24, by_place)
    assert scored.tokens == 240
    assert scored.seconds == 24.0
    assert scored.letter_mass == pytest.approx(0.5)


def test_one_order_is_the_plain_pass_and_more_are_their_mean(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    reader = probe_reader(model)
    plain = score_split(reader, TASK.test, task=TASK, options=LETTER)
    one = score_orders(reader, TASK.test, task=TASK, options=LETTER, orders=1)
    np.testing.assert_array_equal(one.posteriors.log_posteriors, plain.posteriors.log_posteriors)
    assert one.letter_mass == plain.letter_mass
    two = score_orders(reader, TASK.test, task=TASK, options=LETTER, orders=2, seed=4).posteriors
    for row, instance in enumerate(TASK.test):
        _, order = orders_of(instance, 2, seed=4)
        other = score_split(reader, [permuted(instance, order)], task=TASK, options=LETTER).posteriors
        back = np.exp(other.log_posteriors[0])[[order.index(k) for k in range(len(order))]]
        expected = (np.exp(plain.posteriors.log_posteriors[row, : len(order)]) + back) / 2
        np.testing.assert_allclose(np.exp(two.log_posteriors[row, : len(order)]), expected, atol=1e-6)
        assert np.all(np.isneginf(two.log_posteriors[row, len(order) :]))


def test_instances_without_labels_are_averaged_too() -> None:
    bare = [replace(one, label=None) for one in TASK.test]
    assert not mean(bare, 3, by_place).posteriors.has_labels


def test_the_cloze_form_shows_no_order() -> None:
    with pytest.raises(InputError, match="orders is 2, but the cloze form lists no options whose order could matter"):
        score_orders(NO_READER, TASK.test, task=TASK, options=ScoringOptions(form="cloze"), orders=2, score=by_text)
