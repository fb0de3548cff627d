"""How fast and how small: bootstrap, calibration and point metrics, beside the ways they are usually done.

    python benchmarks/decisions.py [bootstrap] [calibration] [memory] [compare] [matrix] [growth]

Prints a table for each part and ends with one line of JSON. Times are medians over repetitions taken in turn, so that a
busy moment of the machine falls on both sides of a ratio. `compare` and `matrix` are single large jobs with the time
that they may take; `growth` shows the peak memory of commands for ever more rows, beside the size of the rows. The
variables ROWS, REPLICATES and CLASSES make these three smaller, to try them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

# The times of single large jobs are those of a machine as it is; ratios to other programs are of one thread each.
if not {"compare", "matrix", "growth"} & set(sys.argv):
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from rango.decisions import Costs, Posteriors, Resampling, fit_calibrator, summarise, write_posteriors

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


def size_of(variable: str, default: int) -> int:
    return int(os.environ.get(variable, default))


def two_files(folder: Path, n: int) -> list[str]:
    """Posteriors files of two systems on the same n instances over 4 choices."""
    first = simulated(n)
    noise = np.random.default_rng(1).normal(size=(n, K))
    paths = [str(folder / f"{name}-{n}.parquet") for name in ("a", "b")]
    for path, logs in zip(paths, (first.log_posteriors, first.log_posteriors + noise), strict=True):
        write_posteriors(path, Posteriors.from_scores(logs, first.labels))
    return paths


def command(*arguments: str) -> tuple[float, float]:
    """Seconds and peak MiB of `rango` with these arguments, which must succeed."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "rango", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"rango {' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss / 2**10


def compare() -> dict[str, float]:
    n, replicates = size_of("ROWS", 1_000_000), size_of("REPLICATES", 1000)
    with tempfile.TemporaryDirectory() as folder:
        paths = two_files(Path(folder), n)
        seconds_with, peak = command("compare", *paths, "--replicates", str(replicates))
        seconds_without, _ = command("compare", *paths, "--replicates", "0")
    result = {
        "seconds": seconds_with,
        "seconds_at_most": 20.0,
        "seconds_of_reading_and_point_metrics": seconds_without,
        "ms_per_replicate": (seconds_with - seconds_without) / replicates * 1e3,
        "peak_mib": peak,
    }
    show(f"rango compare of two files (N = {n:,}, K = {K}, {replicates:,} replicates)", result)
    return result


def matrix() -> dict[str, float]:
    """Two kinds of posteriors: scores of unrelated classes, and of classes in 32 dimensions, which overlap."""
    n, k = size_of("ROWS", 2000), size_of("CLASSES", 1000)
    rng = np.random.default_rng(0)
    centres, labels = rng.normal(size=(k, 32)), rng.integers(0, k, n)
    states = centres[labels] + rng.normal(size=(n, 32))
    scores = states @ centres.T / 2 - (centres**2).sum(axis=1) / 4
    result = {}
    for name, posteriors in {
        "unrelated": simulated(n, k),
        "overlapping": Posteriors.from_scores(1.5 * scores, labels),
    }.items():
        start = time.perf_counter()
        report = fit_calibrator(posteriors, method="matrix").report
        assert report is not None
        result |= {
            f"seconds_{name}": time.perf_counter() - start,
            f"steps_{name}": float(report.iterations),
            f"converged_{name}": float(report.converged),
            f"loss_before_{name}": report.loss_before,
            f"loss_after_{name}": report.loss_after,
        }
    result["seconds_at_most"] = 30.0
    show(f"Matrix calibration (N = {n:,}, K = {k:,})", result)
    return result


def growth() -> dict[str, float]:
    """Peak memory beyond that of the fewest rows, beside what the rows themselves need more, for each command."""
    largest, result = size_of("ROWS", 1_000_000), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = [largest // 100, largest // 10, largest]
        for n in sizes:
            paths = two_files(folder, n)
            # Posteriors, labels, and an id as text of each row.
            result[f"mib_of_one_file_{n}"] = n * (8 * K + 8 + 60) / 2**20
            result[f"peak_mib_metrics_{n}"] = command("metrics", paths[0], "--replicates", "20")[1]
            result[f"peak_mib_compare_{n}"] = command("compare", *paths, "--replicates", "20")[1]
        base, run = str(folder / "base"), str(folder / "evaluated")
        from rango.language.options import PretrainConfig
        from rango.language.pretrain import pretrain
        from rango.tasks import simulated_narratives

        small = PretrainConfig.build({"hidden": 32, "layers": 1, "heads": 2, "tokens": 20_000}, where="benchmark")
        pretrain(simulated_narratives(2000), out=Path(base), config=small)
        for n in (sizes[0] // 50, sizes[0] // 5, 2 * sizes[0]):
            options = ["--train", "10", "--validation", "10", "--test", str(n), "--out", f"{run}-{n}", "--quiet"]
            result[f"peak_mib_evaluate_{n}"] = command("evaluate", base, "simulated", *options)[1]
    show("Peak memory for ever more rows", result)
    return result


def show(title: str, result: dict[str, float]) -> None:
    print(title)
    for name, value in result.items():
        print(f"  {name.replace('_', ' '):44} {value:12.4g}")
    print()


if __name__ == "__main__":
    parts = {
        "bootstrap": bootstrap,
        "calibration": calibration,
        "memory": memory,
        "compare": compare,
        "matrix": matrix,
        "growth": growth,
    }
    print(json.dumps({name: parts[name]() for name in (sys.argv[1:] or parts)}))
