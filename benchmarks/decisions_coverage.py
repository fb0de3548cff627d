"""How often the intervals hold what they should: 95 % intervals over 1,000 simulated data sets.

    python benchmarks/decisions_coverage.py [--repetitions 1000]

Every repetition draws a data set from a distribution whose metric is known from 4 million draws, makes the interval,
and counts whether it holds that value. The binomial error of a coverage over 1,000 repetitions is 0.7 points.
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from rango.decisions import Costs, Posteriors, summarise, summarise_difference
from rango.decisions.bootstrap import IntervalKind, Resample

METRICS = ("nce", "cross_entropy", "error_rate", "brier", "normalised_expected_cost")
K, GROUP = 3, 3
COSTS = Costs.zero_one(K).with_abstention(0.3)


def draw(n: int, seed: int, *, grouped: bool = False) -> tuple[Posteriors, Posteriors]:
    """Two systems on the same instances: scores with noise of their own, overconfident by a half.

    Grouped instances come in threes that share how hard they are to read, as questions on one context do.
    """
    rng = np.random.default_rng(seed)
    difficulty = np.ones((n, 1))
    groups = None
    if grouped:
        difficulty = np.repeat(np.exp(0.7 * rng.normal(size=(n // GROUP, 1))), GROUP, axis=0)
        groups = [str(i // GROUP) for i in range(n)]
    scores = rng.normal(size=(n, K)) + np.array([0.4, 0.0, -0.4])
    labels = (scores + rng.gumbel(size=(n, K))).argmax(axis=1)
    first, second = (1.5 * (scores + noise * difficulty * rng.normal(size=(n, K))) for noise in (0.5, 0.8))
    return Posteriors.from_scores(first, labels, None, groups), Posteriors.from_scores(second, labels, None, groups)


def values(n: int, *, grouped: bool = False) -> dict[str, dict[str, float]]:
    """The true metrics of the first system, and of the difference: means over four draws of `n`."""
    found: dict[str, dict[str, list[float]]] = {"single": {}, "difference": {}}
    for seed in range(4):
        a, b = draw(n, 1_000_000 + seed, grouped=grouped)
        of_a, of_b = (summarise(p, costs=COSTS, metrics=METRICS, replicates=0) for p in (a, b))
        for name in METRICS:
            found["single"].setdefault(name, []).append(of_a[name].value)
            found["difference"].setdefault(name, []).append(of_b[name].value - of_a[name].value)
    return {kind: {name: float(np.mean(v)) for name, v in each.items()} for kind, each in found.items()}


def coverage(
    n: int,
    repetitions: int,
    *,
    difference: bool = False,
    interval: IntervalKind = "percentile",
    resample: Resample | None = None,
) -> dict[str, float]:
    """The share of intervals that hold the true value, by metric."""
    grouped = resample is not None
    truth = values(1_000_002, grouped=grouped)["difference" if difference else "single"]
    hits = dict.fromkeys(METRICS, 0)
    for repetition in range(repetitions):
        a, b = draw(n, repetition, grouped=grouped)
        options = {"costs": COSTS, "metrics": METRICS, "seed": repetition, "interval": interval, "resample": resample}
        found = summarise_difference(a, b, **options) if difference else summarise(a, **options)  # type: ignore[arg-type]
        for name, estimate in found.items():
            assert estimate.low is not None
            assert estimate.high is not None
            hits[name] += estimate.low <= truth[name] <= estimate.high
    return {name: hit / repetitions for name, hit in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=1000)
    repetitions = parser.parse_args().repetitions
    cases = {
        "percentile, N = 300": lambda: coverage(300, repetitions),
        "percentile, N = 2000": lambda: coverage(2000, repetitions),
        "BCa, N = 300": lambda: coverage(300, repetitions, interval="bca"),
        "difference, N = 300": lambda: coverage(300, repetitions, difference=True),
        "groups of 3, whole groups drawn, N = 600": lambda: coverage(600, repetitions, resample="groups"),
        "groups of 3, instances drawn again inside, N = 600": lambda: coverage(
            600, repetitions, resample="groups_then_instances"
        ),
        "groups of 3, instances drawn, N = 600": lambda: coverage(600, repetitions, resample="instances"),
    }
    print(f"{'coverage of 95 % intervals':52}" + "".join(f"{name:>26}" for name in METRICS))
    result = {}
    for title, case in cases.items():
        start = time.perf_counter()
        result[title] = case()
        row = "".join(f"{result[title][name]:26.3f}" for name in METRICS)
        print(f"{title:52}{row}   ({time.perf_counter() - start:.0f} s)", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
