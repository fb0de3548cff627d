"""Systems on the same instances: aligned by id whatever their order, or refused."""

from __future__ import annotations

import numpy as np
import pytest

from rango.decisions import Posteriors, average_posteriors, compare, mcnemar, summarise_difference
from rango.decisions.pairing import align_by_id
from rango.errors import InputError


def test_systems_are_aligned_by_id() -> None:
    rng = np.random.default_rng(0)
    ids = [f"i{k}" for k in range(30)]
    scores, labels = rng.normal(size=(2, 30, 3)), rng.integers(0, 3, 30)
    a = Posteriors.from_scores(scores[0], labels, ids)
    b = Posteriors.from_scores(scores[1], labels, ids)
    order = rng.permutation(30)
    mixed = b.take(order)
    assert align_by_id(a, mixed).ids == a.ids
    assert (align_by_id(a, mixed).log_posteriors == b.log_posteriors).all()
    assert compare(a, mixed, replicates=50).as_dict() == compare(a, b, replicates=50).as_dict()
    assert mcnemar(a, mixed) == mcnemar(a, b)
    one, other = (summarise_difference(a, second, replicates=50) for second in (b, mixed))
    assert one == other
    averages = [average_posteriors([a, second]).log_posteriors for second in (b, mixed)]
    assert (averages[0] == averages[1]).all()


def test_what_cannot_be_aligned_is_refused() -> None:
    a = Posteriors(np.log([[0.5, 0.5]] * 2), [0, 1], ["x", "y"])
    for other, message in (
        (Posteriors(np.log([[0.5, 0.5]] * 2), [0, 1], ["y", "z"]), "row 0 is id 'x' beside id 'y'; give both files"),
        (Posteriors(np.log([[0.5, 0.5]] * 2), [0, 1], ["y", "x"]), "id 'x' has label 0 beside 1"),
        (Posteriors(np.log([[0.5, 0.5]] * 3), [0, 1, 1], ["x", "y", "z"]), "2 instances beside 3"),
    ):
        with pytest.raises(InputError, match=message):
            align_by_id(a, other)
    twice = [Posteriors(np.log([[0.5, 0.5]] * 3), [0, 0, 0], ids) for ids in ("xxy", "xyx")]
    with pytest.raises(InputError, match="id 'x' occurs twice and the orders differ"):
        align_by_id(*twice)
    # Choices that differ between instances are no classes, so their columns have no names to be matched by.
    words = [
        Posteriors(np.log([[0.5, 0.5]] * 2), [0, 0], ["x", "y"], None, [row, ["c", "d"]])
        for row in (["a", "b"], ["b", "a"])
    ]
    with pytest.raises(InputError, match=r"id 'x' has choices \['a', 'b'\] beside \['b', 'a'\]"):
        align_by_id(*words)
