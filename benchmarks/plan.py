"""How often gates and plans keep what they promise, over simulated data sets whose truth is known.

    python benchmarks/plan.py [--repetitions 1000]

Gates: the share of samples in which the true error of what is acted on exceeds --max-error, which is at most 5 %, and
the coverage that is reached beside the largest possible one; posteriors are calibrated or too sure. Plans: the power of
the paired test at the planned number of instances (80 %), and the share of fitted temperatures within 10 % at theirs
(95 %). The binomial error of a share over 1,000 repetitions is 0.7 points at 5 %, 1.3 at 80 %.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from rango.decisions import Posteriors, fit_calibrator, gate, judge, plan_sample, resolution, temperature_instances

MOST, LEVEL = 0.05, 0.95
SIZES = (100, 300, 1000, 3000)
TRUTH = 200_000


def draw(n: int, rng: np.random.Generator, *, sharpness: float = 1.0, noise: float = 0.0) -> Posteriors:
    """Labels that follow their scores, which are then sharpened: above 1 they are too sure."""
    scores = 3.0 * rng.normal(size=(n, 3))
    labels = (scores + rng.gumbel(size=(n, 3))).argmax(axis=1)
    return Posteriors.from_scores(sharpness * (scores + noise * rng.normal(size=(n, 3))), labels)


def gates(repetitions: int) -> None:
    """How often the bound is broken, by the true error of each threshold on many further instances."""
    for sharpness in (1.0, 2.0):
        truth = draw(TRUTH, np.random.default_rng(1), sharpness=sharpness)
        sure = np.exp(truth.log_posteriors.max(axis=1))
        order = np.argsort(-sure, kind="stable")
        wrong = (truth.log_posteriors.argmax(axis=1) != truth.labels)[order]
        errors = np.cumsum(wrong) / np.arange(1, TRUTH + 1)
        possible = np.flatnonzero(errors <= MOST)[-1] / TRUTH
        for n in SIZES:
            rng, broken, covered, never = np.random.default_rng(n), 0, 0.0, 0
            for _ in range(repetitions):
                chosen = gate(draw(n, rng, sharpness=sharpness), max_error=MOST, level=LEVEL, replicates=0)
                acted = int((sure >= chosen.threshold).sum())
                never += not acted
                broken += acted > 0 and bool(errors[acted - 1] > MOST)
                covered += acted / TRUTH
            print(
                f"gate, sharpness {sharpness:g}, n {n:5}: bound broken {broken / repetitions:.3f}, "
                f"coverage {covered / repetitions:.3f} of {possible:.3f}, never acts {never / repetitions:.3f}"
            )


def plans(repetitions: int) -> None:
    """The power at the planned number, for two systems with noise of their own."""

    def pair(n: int, rng: np.random.Generator) -> tuple[Posteriors, Posteriors]:
        scores = 2.0 * rng.normal(size=(n, 3))
        labels = (scores + rng.gumbel(size=(n, 3))).argmax(axis=1)
        noises = (0.3, 0.9)
        one, other = (Posteriors.from_scores(scores + s * rng.normal(size=(n, 3)), labels) for s in noises)
        return one, other

    a, b = pair(TRUTH, np.random.default_rng(2))
    for metric in ("nce", "error_rate"):
        true = abs(b.metric(metric) - a.metric(metric))
        rng, seen, sizes = np.random.default_rng(3), 0, []
        for _ in range(repetitions):
            # Each repetition has a pilot of its own: the number that is planned varies with it.
            plan = plan_sample(*pair(2000, rng), difference=true, metric=metric)  # type: ignore[arg-type]
            one, other = pair(plan.instances, rng)
            # `resolution` is 2.80 standard errors: 1.96 of them are significant.
            limit = resolution(one, other, metric=metric) * 1.959964 / 2.801585  # type: ignore[arg-type]
            seen += abs(other.metric(metric) - one.metric(metric)) > limit
            sizes.append(plan.instances)
        print(
            f"plan, {metric}, difference {true:.3f}: power {seen / repetitions:.3f} at {np.median(sizes):.0f} instances"
        )
    rng = np.random.default_rng(4)
    n = temperature_instances(draw(5000, rng, sharpness=2.0), precision=0.1)
    fits = [fit_calibrator(draw(n, rng, sharpness=2.0), method="temperature") for _ in range(repetitions)]
    scales = np.array([fitted.as_dict()["scale"] for fitted in fits])
    within = float((np.abs(scales / 0.5 - 1) < 0.1).mean())
    print(f"plan, temperature to 10 %: {n} instances, within 10 % in {within:.3f}")


def intervals(repetitions: int) -> None:
    """How often the interval of the error on test holds the true one."""
    rng, held = np.random.default_rng(5), 0
    truth = draw(TRUTH, np.random.default_rng(6))
    chosen = gate(draw(1000, rng), costs="abstain=0.2", replicates=0)
    true = judge(chosen, truth, replicates=0).error.value
    for _ in range(repetitions):
        error = judge(chosen, draw(500, rng), replicates=0).error
        held += error.low is not None and error.high is not None and error.low <= true <= error.high
    print(f"interval of the error at the gate, n 500: holds the true one in {held / repetitions:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    number, start = parser.parse_args().repetitions, time.perf_counter()
    gates(number)
    intervals(number)
    plans(number)
    print(f"{number} repetitions, {time.perf_counter() - start:.0f} s")
