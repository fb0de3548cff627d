"""How often alarms over time are false, how soon they notice drift, and what few labels are worth to a calibrator.

    python benchmarks/monitoring.py [--streams 2000]

Streams of confidence and outcomes whose truth is known: calibrated, too sure by a stated amount from the start, and too
sure after a long time without any drift. Beside the test over time stands the z-test of 95 % at every look. Then the
cross-entropy of an old calibrator, of an ordinary fit and of `recalibrate`, for 20 to 1,000 labels under shifts of
several sizes. The binomial error of a share of 5 % over 2,000 streams is 0.5 points. Nothing is written to
the disk.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from rango.decisions import Posteriors, betting_test, fit_calibrator, recalibrate
from rango.decisions.arrays import Array

ALPHA = 0.05


def gaps(n: int, rng: np.random.Generator, *, too_sure: float = 0.0, since: int = 0) -> Array:
    """Confidence less whether it was right; from `since` on, right less often than promised."""
    confidence = rng.uniform(0.5, 1.0, size=n)
    truth = confidence - np.where(np.arange(n) >= since, too_sure, 0.0)
    return np.asarray(confidence - (rng.random(n) < truth), dtype=np.float64)


def alarms(streams: int) -> None:
    """Shares of false alarms, and the labels after which drift was noticed."""
    for quiet, too_sure in ((0, 0.0), (0, 0.03), (0, 0.05), (0, 0.1), (0, 0.2), (1_000, 0.1), (10_000, 0.1)):
        rng, noticed, peeking, early = np.random.default_rng(quiet), [], 0, 0
        for _ in range(streams if quiet < 10_000 else streams // 5):
            stream = gaps(quiet + 2_000, rng, too_sure=too_sure, since=quiet)
            alarm = betting_test(stream, low=-1, high=1, lower=0, upper=0, alpha=ALPHA).alarm
            noticed.append(np.inf if alarm is None else alarm - quiet)
            early += alarm is not None and alarm <= quiet
            n = np.arange(1, len(stream) + 1)
            means = np.cumsum(stream) / n
            spread = np.sqrt(np.maximum(np.cumsum(stream**2) / n - means**2, 1e-12) / n)
            peeking += bool((np.abs(means) > 1.96 * spread)[30:].any())
        share, middle = float(np.isfinite(noticed).mean()), float(np.median(noticed))
        print(
            f"too sure by {too_sure:4.2f} after {quiet:6,} labels: alarm in {share:.3f} of {len(noticed):,} streams "
            f"within 2,000 labels, median {middle:.0f} labels later; false before {early / len(noticed):.3f}; "
            f"z-test at every look {peeking / len(noticed):.3f}",
            flush=True,
        )


def errors(streams: int) -> None:
    """The limit of an error rate: kept with equality, and exceeded."""
    rng = np.random.default_rng(1)
    for limit, error in ((0.05, 0.05), (0.05, 0.08), (0.2, 0.2), (0.2, 0.25)):
        raised = [betting_test(rng.random(2_000) < error, low=0, high=1, upper=limit).alarm for _ in range(streams)]
        after = [one for one in raised if one is not None]
        middle = f"{np.median(after):.0f}" if after else "-"
        print(
            f"error {error:g}, limit {limit:g}: alarm in {len(after) / streams:.3f}, after {middle} labels (median)",
            flush=True,
        )


def labels(repetitions: int) -> None:
    """Few labels: the loss on many further instances of the old calibrator, an ordinary fit, and the two together."""
    rng = np.random.default_rng(2)

    def draw(n: int, scale: float, bias: tuple[float, ...]) -> Posteriors:
        scores = 2.0 * rng.normal(size=(n, 3))
        return Posteriors.from_scores(
            scores, (scale * scores + np.array(bias) + rng.gumbel(size=(n, 3))).argmax(axis=1)
        )

    old = fit_calibrator(draw(1_000, 0.6, (0.0, 0.0, 0.0)), method="affine")
    shifts = {"none": (0.6, (0.0, 0.0, 0.0)), "small": (0.5, (0.2, 0.0, -0.2)), "large": (0.3, (1.0, 0.0, -1.0))}
    for name, (scale, bias) in shifts.items():
        truth = draw(50_000, scale, bias)
        kept = old.apply(truth).cross_entropy()
        for n in (20, 50, 100, 300, 1_000):
            samples = [draw(n, scale, bias) for _ in range(repetitions)]
            new = np.array([fit_calibrator(one, method="affine").apply(truth).cross_entropy() for one in samples])
            ours = np.array([recalibrate(one, old).apply(truth).cross_entropy() for one in samples])
            print(
                f"shift {name:5}, {n:5,} labels: old {kept:.4f}, new {new.mean():.4f}, recalibrated {ours.mean():.4f}; "
                f"95 % of samples at most {np.quantile(ours - np.minimum(new, kept), 0.95):+.4f} above the better",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=2000, help="at least 5")
    number, start = parser.parse_args().streams, time.perf_counter()
    alarms(number)
    errors(number)
    labels(max(2, number // 20))
    print(f"{number:,} streams, {time.perf_counter() - start:.0f} s")
