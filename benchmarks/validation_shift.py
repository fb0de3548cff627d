"""Is validation as hard as test? Of finished runs: both splits, and what a validation set cut from test would say.

    python benchmarks/validation_shift.py RUN [RUN ...] [--draws 500] [--seed 0]

Validation instances are carved from the official training file, test instances from the official validation file.
First, for each run and state, error rate and NCE on both splits and the difference test − validation with its 95 %
interval: whole groups of each split are drawn again, apart from one another; losses are divided by the entropy of the
split's own class frequencies, which is not drawn again. Second, the NCE on test after a temperature that was fitted on
the validation split, and after one that was fitted on as many instances of test: each draw cuts test by groups into
that many instances and the rest, on which both are measured. Third, of several runs: how often as many instances of
test would choose another run than the validation split does, and what either choice costs on the rest.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from measuring import record

from rango.decisions import Posteriors, fit_calibrator
from rango.training.run_folder import Run

STATES = ("base", "adapted")


def losses(posteriors: Posteriors) -> dict[str, np.ndarray]:
    """NCE and error of each instance, (N,): their means are the metrics."""
    rows = np.arange(len(posteriors))
    log_loss = -posteriors.log_posteriors[rows, posteriors.labels]
    entropy = -sum(p * math.log(p) for p in posteriors.priors() if p > 0)
    wrong = posteriors.log_posteriors.argmax(axis=1) != posteriors.labels
    return {"error_rate": wrong.astype(float), "nce": log_loss / entropy}


def group_numbers(posteriors: Posteriors) -> np.ndarray:
    """The number of each instance's group, (N,)."""
    names = posteriors.groups or posteriors.ids
    return np.unique(np.asarray(names), return_inverse=True)[1]


def drawn_means(values: np.ndarray, groups: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """The mean over `draws` resamplings of whole groups, (draws,)."""
    sums = np.bincount(groups, weights=values)
    counts = np.bincount(groups)
    chosen = generator.integers(len(sums), size=(draws, len(sums)))
    means: np.ndarray = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    return means


def shift(run: Run, state: str, draws: int, seed: int) -> dict[str, dict[str, float]]:
    """Each metric on both splits, and test − validation with its interval."""
    generator = np.random.default_rng(seed)
    splits = [run.posteriors(state, split) for split in ("validation", "test")]
    result = {}
    for metric in ("error_rate", "nce"):
        values = [losses(split)[metric] for split in splits]
        means = [
            drawn_means(v, group_numbers(split), draws, generator) for v, split in zip(values, splits, strict=True)
        ]
        low, high = np.quantile(means[1] - means[0], [0.025, 0.975])
        result[metric] = {
            "validation": float(values[0].mean()),
            "test": float(values[1].mean()),
            "difference": float(values[1].mean() - values[0].mean()),
            "low": float(low),
            "high": float(high),
        }
    return result


def cut(posteriors: Posteriors, size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """About `size` instances in whole groups, and the rest, as numbers of instances."""
    groups = group_numbers(posteriors)
    order = generator.permutation(groups.max() + 1)
    taken = np.cumsum(np.bincount(groups)[order]) <= size
    chosen = np.isin(groups, order[taken])
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def temperatures(run: Run, state: str, draws: int, seed: int) -> dict[str, float]:
    """NCE on the rest of test: as it is, with the temperature of validation, and with that of a piece of test."""
    generator = np.random.default_rng(seed)
    validation, test = (run.posteriors(state, split) for split in ("validation", "test"))
    fitted = fit_calibrator(validation, method="temperature").apply(test)
    rows = []
    for _ in range(draws):
        chosen, rest = cut(test, len(validation), generator)
        of_test = fit_calibrator(test.take(chosen), method="temperature")
        rows.append([p.take(rest).nce() for p in (test, fitted)] + [of_test.apply(test.take(rest)).nce()])
    plain, by_validation, by_test = np.mean(rows, axis=0)
    difference = np.array(rows)[:, 1] - np.array(rows)[:, 2]
    return {
        "nce": float(plain),
        "temperature of validation": float(by_validation),
        "temperature of a piece of test": float(by_test),
        "first better in": float((difference < 0).mean()),
    }


def choices(runs: list[Run], draws: int, seed: int) -> dict[str, object]:
    """Which run validation prefers, which one pieces of test would, and the NCE of both choices on the rest."""
    generator = np.random.default_rng(seed)
    validation = [run.posteriors("adapted", "validation").nce() for run in runs]
    preferred = int(np.argmin(validation))
    tests = [run.posteriors("adapted") for run in runs]
    other, costs = 0, []
    for _ in range(draws):
        chosen, rest = cut(tests[0], len(runs[0].posteriors("adapted", "validation")), generator)
        best = int(np.argmin([test.take(chosen).nce() for test in tests]))
        other += best != preferred
        costs.append([tests[preferred].take(rest).nce(), tests[best].take(rest).nce()])
    of_validation, of_test = np.mean(costs, axis=0)
    return {
        "preferred": str(runs[preferred].path),
        "others chosen in": other / draws,
        "nce of validation's": float(of_validation),
        "nce of test's": float(of_test),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    runs = [Run(path) for path in args.runs]
    print("run, state: metric on validation, on test, test − validation (95 % interval)")
    rows = []
    for run in runs:
        for state in STATES:
            values = shift(run, state, 2000, args.seed)
            rows.append({"run": str(run.path), "state": state, **values})
            for metric, v in values.items():
                print(
                    f"{run.path} {state:8} {metric:10} {v['validation']:.3f} {v['test']:.3f} "
                    f"{v['difference']:+.3f} ({v['low']:+.3f} to {v['high']:+.3f})"
                )
    fitted = {
        f"{run.path} {state}": temperatures(run, state, min(args.draws, 100), args.seed)
        for run in runs
        for state in STATES
    }
    for name, temperature in fitted.items():
        print(name, {key: round(value, 4) for key, value in temperature.items()})
    selection = choices(runs, args.draws, args.seed) if len(runs) > 1 else None
    if selection is not None:
        print(selection)
    record("validation_shift", {"draws": args.draws, "seed": args.seed, "rows": rows, "fitted": fitted}, {})


if __name__ == "__main__":
    main()
