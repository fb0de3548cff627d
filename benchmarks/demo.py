"""Does the demo's adapted model close 90 % of the distance from NCE 1 to the floor, for every seed?

    python benchmarks/demo.py [--seeds 3] [--out runs/bench-demo]

The distance is measured on the drawn labels of the test split (as the page shows it) and as the exact expectation under
the true posterior, which is free of label noise. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from rango.demo import SIZES, run_demo
from rango.tasks import load_task, true_log_posteriors


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
        **{state: round(nce[state], 4) for state in ("base", "adapted", "calibrated", "control", "floor")},
        "closed": round((1 - nce["adapted"]) / (1 - nce["floor"]), 4),
        "closed_expected": round((1 - expected["adapted"]) / (1 - expected["floor"]), 4),
        "closed_by_control_expected": round((1 - expected["control"]) / (1 - expected["floor"]), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-demo"))
    arguments = parser.parse_args()
    rows = [measure(arguments.out, seed) for seed in range(arguments.seeds)]
    print(" ".join(f"{name:>12}"[:26] for name in rows[0]))
    for row in rows:
        print(" ".join(f"{value:>{max(12, len(name))}}" for name, value in row.items()))
    print(json.dumps({"benchmark": "demo", "rows": rows}))


if __name__ == "__main__":
    main()
