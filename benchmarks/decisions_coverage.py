"""How often the intervals hold what they should: 95 % intervals over 1,000 simulated data sets.

    python benchmarks/decisions_coverage.py [--repetitions 1000]
    python benchmarks/decisions_coverage.py --classes balanced|skewed [--repetitions 500] [--numbers 10,77]
        [--sizes 300,500] [--calibrations temperature,affine] [--out FILE.jsonl]

Every repetition draws a data set from a distribution whose metric is known from many draws, makes the interval, and
counts whether it holds that value. The binomial error of a coverage over 1,000 repetitions is 0.7 points, over 500 one.
With --classes the cells are numbers of classes and of instances, and the intervals those of normalised metrics and of
the calibration loss. Each cell is a line of --out, and cells that stand there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from rango.decisions import Costs, Posteriors, calibration_loss, entropy, naive_cost, summarise, summarise_difference
from rango.decisions.bootstrap import Resample
from rango.decisions.metrics import brier_of_priors

METRICS = ("nce", "cross_entropy", "error_rate", "brier", "normalised_expected_cost")
K, GROUP = 3, 3
COSTS = Costs.zero_one(K).with_abstention(0.3)
CLASSES, SIZES = (2, 3, 4, 10, 50, 77, 150), (300, 500, 1000, 2000, 5000)
NORMALISED = ("nce", "normalised_brier", "normalised_expected_cost")
CALIBRATIONS = ("temperature", "affine")


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
    resample: Resample | None = None,
) -> dict[str, float]:
    """The share of intervals that hold the true value, by metric."""
    grouped = resample is not None
    truth = values(1_000_002, grouped=grouped)["difference" if difference else "single"]
    hits = dict.fromkeys(METRICS, 0)
    for repetition in range(repetitions):
        a, b = draw(n, repetition, grouped=grouped)
        options = {"costs": COSTS, "metrics": METRICS, "seed": repetition, "resample": resample}
        found = summarise_difference(a, b, **options) if difference else summarise(a, **options)  # type: ignore[arg-type]
        for name, estimate in found.items():
            assert estimate.low is not None
            assert estimate.high is not None
            hits[name] += estimate.low <= truth[name] <= estimate.high
    return {name: hit / repetitions for name, hit in hits.items()}


def draw_classes(n: int, priors: np.ndarray, rng: np.random.Generator) -> tuple[Posteriors, Posteriors]:
    """The true posteriors of n instances of these classes, and the same sharpened by 1.4."""
    labels = rng.choice(len(priors), size=n, p=priors)
    scores = rng.normal(size=(n, len(priors)))
    scores[np.arange(n), labels] += 1.5
    logits = 1.5 * scores + np.log(priors)
    return Posteriors.from_scores(logits, labels), Posteriors.from_scores(1.4 * logits, labels)


def classes_coverage(
    k: int,
    sizes: list[int],
    *,
    skewed: bool,
    repetitions: int,
    calibrations: list[str],
) -> Iterator[dict[str, Any]]:
    """For each size the coverage of each normalised metric and calibration loss; absent where there is no interval."""
    priors = 1.0 / np.arange(1, k + 1) if skewed else np.ones(k)
    priors /= priors.sum()
    means: dict[str, list[float]] = {name: [] for name in ("cross_entropy", "brier", "error_rate", "calibration")}
    rng = np.random.default_rng(1_000_000)
    for _ in range(20):
        true, sharp = draw_classes(20_000, priors, rng)
        for name in ("cross_entropy", "brier", "error_rate"):
            means[name].append(sharp.metric(name))
        means["calibration"].append(sharp.cross_entropy() - true.cross_entropy())
    references = (entropy(priors), brier_of_priors(priors), naive_cost(priors, costs=Costs.zero_one(k)))
    truth = {
        name: float(np.mean(values) / reference)
        for name, values, reference in zip(NORMALISED, means.values(), references, strict=False)
    }
    for n in sizes:
        start = time.perf_counter()
        hits: dict[str, list[float]] = {name: [] for name in (*NORMALISED, "holds its value", *calibrations)}
        for repetition in range(repetitions):
            _, posteriors = draw_classes(n, priors, np.random.default_rng(repetition))
            estimates = summarise(posteriors, metrics=NORMALISED, seed=repetition, replicates=400)
            inside = []
            for name, estimate in estimates.items():
                assert estimate.low is not None
                assert estimate.high is not None
                hits[name].append(estimate.low <= truth[name] <= estimate.high)
                inside.append(estimate.low <= estimate.value <= estimate.high)
            hits["holds its value"].append(all(inside))
            for method in calibrations:
                if method == "affine" and n < 10 * k:
                    continue
                parts = calibration_loss(posteriors, method=method, folds=2, seed=repetition)  # type: ignore[arg-type]
                assert parts.low is not None
                assert parts.high is not None
                hits[method].append(parts.low <= np.mean(means["calibration"]) <= parts.high)
        coverages = {name: float(np.mean(hit)) for name, hit in hits.items() if hit}
        row = "  ".join(f"{name} {value:.3f}" for name, value in coverages.items())
        print(f"K = {k:3}, N = {n:4}:  {row}   ({time.perf_counter() - start:.0f} s)", flush=True)
        yield {"k": k, "n": n, "skewed": skewed, "repetitions": repetitions, "coverage": coverages}


def measure_classes(options: argparse.Namespace) -> None:
    """The cells that `--out` does not hold yet, each appended as soon as it is measured."""
    stored = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    measured = {(cell["k"], cell["n"], cell["skewed"]) for cell in stored}
    skewed = options.classes == "skewed"
    for k in (int(number) for number in options.numbers.split(",")):
        sizes = [n for n in (int(size) for size in options.sizes.split(",")) if (k, n, skewed) not in measured]
        calibrations = [name for name in options.calibrations.split(",") if name]
        cells = classes_coverage(k, sizes, skewed=skewed, repetitions=options.repetitions, calibrations=calibrations)
        for cell in cells:
            with options.out.open("a") as lines:
                lines.write(json.dumps(cell) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--classes", choices=("balanced", "skewed"))
    parser.add_argument("--numbers", default=",".join(map(str, CLASSES)), help="numbers of classes")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of instances")
    parser.add_argument("--calibrations", default=",".join(CALIBRATIONS), help="empty for none")
    parser.add_argument("--out", type=Path, default=Path("coverage.jsonl"), help="a line of JSON per cell")
    options = parser.parse_args()
    repetitions = options.repetitions
    if options.classes:
        measure_classes(options)
        return
    cases = {
        "percentile, N = 300": lambda: coverage(300, repetitions),
        "percentile, N = 2000": lambda: coverage(2000, repetitions),
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
