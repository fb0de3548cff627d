from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers.made_posteriors import make

from rango.decisions import Costs, Posteriors, compare, mcnemar, summarise, summarise_difference
from rango.errors import InputError


def test_comparison_says_which_is_better() -> None:
    good = make(n=800)
    bad = good.replaced(np.log(np.full((800, 3), 1 / 3)))
    found = compare(bad, good, replicates=200)
    assert found.difference["nce"].value < 0
    assert found.a["nce"].value == pytest.approx(bad.nce())
    sentence = found.sentence(names=("base", "adapted"))
    assert re.match(
        r"On 800 shared instances the normalised cross-entropy of adapted is lower \(better\) than that of base "
        r"\(−0\.\d{3}, 95% interval −0\.\d{3} to −0\.\d{3}\)\. Their error rates, 0\.\d{3} and 0\.\d{3}, differ: "
        r"only base is right on \d+, only adapted on \d+ \(exact McNemar p < 0\.0001\)\. "
        r"Compared with base, adapted also differs in Brier score \(−0\.\d{3}, −0\.\d{3} to −0\.\d{3}; lower"
        r".*\.$",
        sentence,
    )
    assert "of the second is higher (worse)" in compare(good, bad, replicates=200).sentence()
    assert set(json.loads(json.dumps(found.as_dict()))) == {"a", "b", "difference", "mcnemar", "level", "sentence"}


@pytest.mark.parametrize("case", ["instances", "groups", "only the first", "only the second", "soft", "priors"])
def test_a_comparison_has_the_numbers_of_each_alone_and_of_the_difference(case: str) -> None:
    """Draws that are made once for all three are those that each would make for itself."""
    a, b = make(n=120, group_size=3), make(n=120, sharpness=3, group_size=3)
    bare = {"instances": (a, b), "soft": (a, b), "priors": (a, b), "only the first": (b,), "only the second": (a,)}
    a, b = (
        Posteriors(p.log_posteriors, p.labels) if any(p is one for one in bare.get(case, ())) else p for p in (a, b)
    )
    if case == "soft":
        targets = np.random.default_rng(0).dirichlet(np.ones(3), size=120)
        rounded = targets.round(6) / targets.round(6).sum(axis=1, keepdims=True)
        a, b = Posteriors(a.log_posteriors, targets), Posteriors(b.log_posteriors, rounded)
    options = {"costs": Costs.zero_one(3).with_abstention(0.3), "replicates": 60, "seed": 5}
    if case == "priors":
        options["priors"] = [0.2, 0.3, 0.5]
    together = compare(a, b, **options)
    assert together.a == summarise(a, **options)
    assert together.b == summarise(b, **options)
    assert together.difference == summarise_difference(a, b, **options)


def test_comparison_says_when_there_is_nothing_to_tell() -> None:
    sentence = compare(make(), make(), replicates=50).sentence()
    assert "do not differ significantly (+0.000" in sentence
    assert "Both are right on the same instances: each has the error rate 0." in sentence
    assert "McNemar" not in sentence
    sure = Posteriors.from_probabilities([[1, 0], [0.5, 0.5]], [1, 0])
    assert (
        "cannot be compared (first: infinite: 1 instances" in compare(sure, sure.prior_only(), replicates=9).sentence()
    )


def test_other_instances_are_refused() -> None:
    logs = np.log([[0.5, 0.5]] * 3)
    a = Posteriors(logs, [0, 1, 1], ids=["x", "y", "z"])
    cases = [
        (Posteriors(logs[:2], [0, 1]), "3 instances beside 2; a paired comparison needs the same instances"),
        (Posteriors(logs, [0, 1, 1], ids=["x", "w", "v"]), "row 1 is id 'y' beside id 'w'"),
        (Posteriors(logs, [0, 1, 0], ids=["x", "y", "z"]), "id 'z' has label 1 beside 0"),
        (make(n=3, k=4), "2 choices beside 4; a paired comparison needs the same choices"),
    ]
    for b, message in cases:
        for function in (mcnemar, summarise_difference, compare):
            with pytest.raises(InputError, match=re.escape(message)):
                function(a, b)


def test_a_difference_in_cost_is_said_where_nothing_else_differs() -> None:
    # Both err on 10 of 200, b only where an error costs 9 and a only where it costs 1; all are equally sure.
    labels = [0] * 100 + [1] * 100
    sure, costs = np.array([[0.95, 0.05], [0.05, 0.95]]), Costs([[0, 1], [9, 0]]).with_abstention(5.0)
    a_says, b_says = np.array(labels), np.array(labels)
    a_says[:10], b_says[100:110] = 1, 0
    a, b = (Posteriors.from_probabilities(sure[says], labels) for says in (a_says, b_says))
    comparison = compare(a, b, costs=costs, replicates=400)
    difference = comparison.difference["normalised_expected_cost"]
    assert difference.low is not None
    assert difference.low > 0
    sentence = comparison.sentence()
    assert "normalised cross-entropies of the first and the second do not differ significantly" in sentence
    assert "error rates, 0.050 and 0.050, do not differ significantly" in sentence
    assert "the second also differs in normalised expected cost (+" in sentence
    assert "lower is better" in sentence
    # Without costs there is nothing to say of them.
    assert "also differs" not in compare(a, b, replicates=400).sentence()


def test_the_better_of_two_bad_systems_is_not_called_good_alone() -> None:
    labels = np.arange(120) % 3
    wrong = np.full((120, 3), 0.005)
    wrong[np.arange(120), (labels + 1) % 3] = 0.99
    worse = np.full((120, 3), 0.0005)
    worse[np.arange(120), (labels + 1) % 3] = 0.999
    a, b = Posteriors.from_probabilities(worse, labels), Posteriors.from_probabilities(wrong, labels)
    sentence = compare(a, b, replicates=100).sentence(names=("base", "adapted"))
    assert "of adapted is lower (better) than that of base" in sentence
    assert sentence.endswith("Worse than the priors (NCE above 1): base and adapted.")
    assert "Worse than the priors" not in compare(make(), make(), replicates=50).sentence()


def test_error_rates_under_target_priors_follow_their_interval() -> None:
    # Each system errs on the class that the other gets right: equal counts, unequal under priors of 0.9 and 0.1.
    labels = [0] * 50 + [1] * 50
    sure = np.array([[0.9, 0.1], [0.1, 0.9]])
    a_says, b_says = np.array(labels), np.array(labels)
    a_says[:20], b_says[50:70] = 1, 0
    a, b = (Posteriors.from_probabilities(sure[says], labels) for says in (a_says, b_says))
    sentence = compare(a, b, priors=[0.9, 0.1], replicates=300).sentence()
    assert "Their error rates, 0.360 and 0.040, differ: only the first is right on 20" in sentence
    assert "(exact McNemar p = 1.0000, without the target priors)." in sentence
