from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers.made_posteriors import make

from rango.decisions import Posteriors, compare, mcnemar, summarise_difference
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
        r"\(-0\.\d{4}, 95% interval -0\.\d{4} to -0\.\d{4}\)\. Their error rates, 0\.\d{4} and 0\.\d{4}, differ: "
        r"only base is right on \d+, only adapted on \d+ \(exact McNemar p < 0\.0001\)\.$",
        sentence,
    )
    assert "of the second is higher (worse)" in compare(good, bad, replicates=200).sentence()
    assert set(json.loads(json.dumps(found.as_dict()))) == {"a", "b", "difference", "mcnemar", "level", "sentence"}


def test_comparison_says_when_there_is_nothing_to_tell() -> None:
    sentence = compare(make(), make(), replicates=50).sentence()
    assert "do not differ significantly (+0.0000" in sentence
    assert "do not differ significantly: only the first is right on 0" in sentence
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
