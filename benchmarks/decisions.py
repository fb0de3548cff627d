"""How fast and how small: bootstrap, calibration and point metrics, beside the ways they are usually done.

    python benchmarks/decisions.py [bootstrap] [calibration] [memory]

Prints a table for each part and ends with one line of JSON. Times are medians over repetitions taken in turn, so that a
busy moment of the machine falls on both sides of a ratio.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from rango.decisions import Costs, Posteriors, Resampling, fit_calibrator, summarise

N, K, REPLICATES = 100_000, 4, 1000
METRICS = ("nce", "error_rate", "normalised_expected_cost")
COSTS = Costs.zero_one(K).with_abstention(0.3)


def simulated(n: int, k: int = K, seed: int = 0) -> Posteriors:
    """Overconfident posteriors with a bias, whose labels were drawn from the calibrated ones."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, k)) * 1.2
    labels = (0.6 * scores + np.linspace(-0.2, 0.2, k) + rng.gumbel(size=(n, k))).argmax(axis=1)
    return Posteriors.from_scores(2 * scores, labels)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(first: Callable[[], object], second: Callable[[], object], repetitions: int) -> tuple[float, float]:
    """Median seconds of both, run alternately after one warm-up each."""
    first(), second()
    pairs = [(seconds(first), seconds(second)) for _ in range(repetitions)]
    return float(np.median([pair[0] for pair in pairs])), float(np.median([pair[1] for pair in pairs]))


def recomputed(posteriors: Posteriors, indices: np.ndarray) -> tuple[float, float, float]:
    """The three metrics from scratch on resampled rows, with scikit-learn's log_loss and a confusion matrix."""
    from sklearn.metrics import confusion_matrix, log_loss

    q, y = np.exp(posteriors.log_posteriors[indices]), posteriors.labels[indices]
    priors = np.bincount(y, minlength=K) / len(y)
    cross_entropy = log_loss(y, q, labels=np.arange(K))
    decisions = (q @ COSTS.matrix).argmin(axis=1)
    shares = confusion_matrix(y, decisions, labels=np.arange(K + 1), normalize="true")[:K]
    cost = float((priors[:, None] * COSTS.matrix * shares).sum())
    error = float((q.argmax(axis=1) != y).mean())
    return cross_entropy / -(priors @ np.log(priors)), error, cost / (priors @ COSTS.matrix).min()


def recomputed_plainly(posteriors: Posteriors, indices: np.ndarray) -> tuple[float, float, float]:
    """The same with nothing but NumPy, as lean as recomputing from posteriors can be."""
    logs, y = posteriors.log_posteriors[indices], posteriors.labels[indices]
    priors = np.bincount(y, minlength=K) / len(y)
    cross_entropy = -logs[np.arange(len(y)), y].mean()
    cost = COSTS.matrix[y, (np.exp(logs) @ COSTS.matrix).argmin(axis=1)].mean()
    error = float((logs.argmax(axis=1) != y).mean())
    return cross_entropy / -(priors @ np.log(priors)), error, cost / (priors @ COSTS.matrix).min()


def bootstrap() -> dict[str, float]:
    posteriors = simulated(N)
    resampling = Resampling(posteriors.labels, seed=0)

    def ours(replicates: int = REPLICATES) -> dict[str, object]:
        return dict(summarise(posteriors, costs=COSTS, metrics=METRICS, replicates=replicates))

    def with_scikit_learn() -> None:
        for replicate in range(10):
            recomputed(posteriors, resampling.indices(replicate))

    def with_numpy() -> None:
        for replicate in range(10):
            recomputed_plainly(posteriors, resampling.indices(replicate))

    our_time, theirs = in_turn(lambda: ours(200), with_scikit_learn, 7)
    _, lean = in_turn(lambda: None, with_numpy, 7)
    all_time = seconds(lambda: ours())
    found = summarise(posteriors, costs=COSTS, metrics=METRICS, replicates=REPLICATES)
    drawn = np.array([recomputed(posteriors, resampling.indices(b)) for b in range(REPLICATES)])
    ends = np.quantile(drawn, [0.025, 0.975], axis=0)
    apart = max(
        max(abs((found[name].low or 0) - ends[0, column]), abs((found[name].high or 0) - ends[1, column]))
        for column, name in enumerate(METRICS)
    )
    peaks = []
    for replicates in (50, 500):
        tracemalloc.start()
        ours(replicates)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    result = {
        "ms_per_replicate": our_time / 200 * 1e3,
        "ms_per_replicate_scikit_learn": theirs / 10 * 1e3,
        "ms_per_replicate_numpy": lean / 10 * 1e3,
        "times_faster_than_scikit_learn": theirs / 10 / (our_time / 200),
        "times_faster_than_numpy": lean / 10 / (our_time / 200),
        "seconds_for_1000": all_time,
        "largest_difference_of_interval_ends": float(apart),
        "peak_mib_50_replicates": peaks[0],
        "peak_mib_500_replicates": peaks[1],
    }
    show(f"Bootstrap of {', '.join(METRICS)} (N = {N:,}, K = {K})", result)
    return result


def calibration() -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    posteriors = simulated(N)
    logs, labels = torch.tensor(np.array(posteriors.log_posteriors)), torch.tensor(np.array(posteriors.labels))
    reached: dict[str, np.ndarray] = {}
    passes: list[int] = []

    def ours() -> None:
        fitted = fit_calibrator(posteriors, method="affine").as_dict()
        reached["ours"] = np.array([fitted["scale"], *fitted["bias"]])

    def with_torch() -> None:
        scale = torch.ones(1, dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(K, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [scale, bias], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
        )

        def closure() -> torch.Tensor:
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(scale * logs + bias, labels)
            loss.backward()
            return loss

        optimiser.step(closure)
        passes.append(optimiser.state[scale]["func_evals"])
        reached["torch"] = torch.cat([scale, bias - bias.mean()]).detach().numpy()

    our_time, theirs = in_turn(ours, with_torch, 11)
    result = {
        "ms": our_time * 1e3,
        "ms_torch": theirs * 1e3,
        "passes_torch": float(passes[-1]),
        "times_faster": theirs / our_time,
        "largest_difference_of_parameters": float(np.abs(reached["ours"] - reached["torch"]).max()),
    }
    show(f"Affine calibration (N = {N:,}, K = {K}, one thread each)", result)
    return result


def memory() -> dict[str, float]:
    """In a process of its own, whose peak memory nothing else has raised."""
    code = (
        "import json, resource, sys, time; sys.path.insert(0, 'benchmarks'); import numpy as np\n"
        "from decisions import COSTS; from rango.decisions import Posteriors, summarise\n"
        "rng = np.random.default_rng(0); q = rng.random((10_000_000, 4))\n"
        "q /= q.sum(axis=1, keepdims=True); np.log(q, out=q); y = rng.integers(0, 4, 10_000_000)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10\n"
        "before, start = peak(), time.perf_counter()\n"
        "summarise(Posteriors(q, y), costs=COSTS, replicates=0)\n"
        "print(json.dumps({'seconds': time.perf_counter() - start, 'mib_of_input': (q.nbytes + y.nbytes) / 2**20,\n"
        "                  'peak_mib_before': before, 'peak_mib_beyond': peak() - before}))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(ran.stdout)
    show("All point metrics of 10,000,000 posteriors over 4 choices", result)
    return result


def show(title: str, result: dict[str, float]) -> None:
    print(title)
    for name, value in result.items():
        print(f"  {name.replace('_', ' '):44} {value:12.4g}")
    print()


if __name__ == "__main__":
    parts = {"bootstrap": bootstrap, "calibration": calibration, "memory": memory}
    print(json.dumps({name: parts[name]() for name in (sys.argv[1:] or parts)}))
