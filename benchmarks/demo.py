"""Does the demo's adapted model close 90 % of the distance from NCE 1 to the floor, for every seed?

    python benchmarks/demo.py [--seeds 3] [--out runs/bench-demo]
    python benchmarks/demo.py --check

The distance is measured on the drawn labels of the test split (as the page shows it) and as the exact expectation under
the true posterior, which is free of label noise. Ends with one line of JSON.

With --check one seed is measured and compared with GOLDEN; exit code 1 where a figure is further away than TOLERANCE.
Who changes a figure of GOLDEN gives the reason in CHANGELOG.md, under "Figures of the demo".
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from rango.demo import SIZES, run_demo
from rango.tasks import load_task, true_log_posteriors

GOLDEN = {"ngram": 0.920, "base": 0.901, "control": 1.958, "adapted": 0.462, "calibrated": 0.463, "floor": 0.430}
"""NCE on the test split of seed 0 (AVX-512, one thread), as the README shows it."""
TOLERANCE = {"ngram": 0.0005, "base": 0.02, "control": 0.2, "adapted": 0.02, "calibrated": 0.02, "floor": 0.0005}
"""How far another machine or number of threads may be away. Nothing is trained by steps for the n-gram and the floor;
the control starts from random weights and is far too sure, so that its few worst instances make its figure."""


def expected_nce(log_posteriors: np.ndarray, true: np.ndarray) -> float:
    """NCE on average over labels drawn from the true posteriors, (N, K) each, in nats."""
    p = np.exp(true)
    priors = p.mean(axis=0)
    return float((p * log_posteriors).sum(axis=1).mean() / (priors * np.log(priors)).sum())


def measure(out: Path, seed: int) -> dict[str, float]:
    started = time.perf_counter()
    run = run_demo(out / str(seed), seed=seed)
    seconds = time.perf_counter() - started
    nce = {state: found["nce"].value for state, found in run.metrics["test"].items()}
    true = true_log_posteriors(load_task("simulated", data_seed=seed, **SIZES).test)
    expected = {
        state: expected_nce(run.posteriors(state).log_posteriors, true)
        for state in ("base", "adapted", "control", "floor")
    }
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        **{state: round(nce[state], 4) for state in GOLDEN},
        "closed": round((1 - nce["adapted"]) / (1 - nce["floor"]), 4),
        "closed_expected": round((1 - expected["adapted"]) / (1 - expected["floor"]), 4),
        "closed_by_control_expected": round((1 - expected["control"]) / (1 - expected["floor"]), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-demo"))
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.check:
        row = measure(arguments.out, 0)
        far = {state: row[state] for state in GOLDEN if abs(row[state] - GOLDEN[state]) > TOLERANCE[state]}
        for state, figure in GOLDEN.items():
            print(f"{state:12} {row[state]:.4f}  {figure} ± {TOLERANCE[state]}{'  FAR' if state in far else ''}")
        print(json.dumps({"benchmark": "demo check", "far": far, **row}))
        sys.exit(bool(far))
    rows = [measure(arguments.out, seed) for seed in range(arguments.seeds)]
    print(" ".join(f"{name:>12}"[:26] for name in rows[0]))
    for row in rows:
        print(" ".join(f"{value:>{max(12, len(name))}}" for name, value in row.items()))
    print(json.dumps({"benchmark": "demo", "rows": rows}))


if __name__ == "__main__":
    main()
