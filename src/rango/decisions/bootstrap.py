"""The bootstrap: drawing instances again, metrics of many resamplings at once, and intervals from them.

Resampling.counts   how often each instance is drawn     (R, N)
LossTable.sums      losses summed over the draws         (R, K, rules), by class
Sums.metrics        each metric of each replicate        (R,); a `Normaliser` takes the bias out of normalised ones
percentile_interval                                      (low, high)
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from rango.decisions.arrays import Array, Labels, one_blas_thread
from rango.decisions.costs import Costs
from rango.decisions.instances import Votes
from rango.decisions.metrics import METRICS
from rango.decisions.normaliser import Normaliser
from rango.decisions.posteriors import Posteriors
from rango.decisions.reliability import BINS, bin_edges, bin_index
from rango.errors import InputError

Resample: TypeAlias = Literal["instances", "groups", "groups_then_instances"]
Interval: TypeAlias = tuple[float, float] | None
T = TypeVar("T")

# Entries of a block of counts: 4 MB, whatever the number of replicates. With fewer replicates than these at a time the
# losses of many instances would be read from memory again for each one; the block may then have up to 64 MB.
_BLOCK, _TOGETHER, _LARGEST_BLOCK = 1 << 19, 8, 1 << 23
# Instances that are drawn, and summed, at a time: what belongs to them stays in a core's cache. With smaller cells
# threads would wait for each other, since counting holds Python's lock.
_CELL, _PIECE = 1 << 16, 1 << 14
# With more instances a block takes so long that cores may share the blocks; no more of them than these, for the memory.
_MANY_INSTANCES, _MOST_CORES = 1 << 17, 4
# With a larger share of undefined replicates, the rest no longer shows how the metric varies from sample to sample.
_MAX_UNDEFINED = 0.05


def class_order(labels: Labels) -> NDArray[np.intp]:
    """The instances sorted by class, each class in its own order."""
    return np.argsort(labels, kind="stable")


class Resampling:
    """Bootstrap resampling of N instances. Replicate b has a random stream of its own, made from (seed, b).

    With groups, G groups are drawn with replacement, each with all its instances; with `within`, each drawn group's
    instances are drawn with replacement in turn.

    Positions are drawn in class order, so that the sums over a class are sums over a slice. Two systems on the same
    instances share labels, hence the order, hence the instances of every replicate.
    """

    def __init__(
        self, labels: Labels, *, seed: int = 0, groups: Sequence[str] | None = None, within: bool = False
    ) -> None:
        """Sort the instances by class, and where there are groups, by group, once."""
        self.n, self.seed, self.within = len(labels), seed, within
        self.order = class_order(labels)
        self.unit_of: NDArray[np.intp] = np.arange(self.n)
        """The unit that is drawn (an instance or a group), for each instance in class order."""
        self._members: NDArray[np.intp] | None = None
        if groups is not None:
            _, index, self._sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
            # Group g holds the positions _members[_starts[g] : _starts[g] + _sizes[g]].
            self._starts = np.cumsum(self._sizes) - self._sizes
            self.unit_of = index[self.order]
            self._members = np.argsort(self.unit_of, kind="stable")

    def indices(self, replicate: int) -> NDArray[np.intp]:
        """The instances of one replicate, with repetitions."""
        positions = [start + places for start, _, places in self._draws(replicate)]
        return np.asarray(self.order[np.concatenate(positions)], dtype=np.intp)

    def counts(self, replicates: int) -> Iterator[Array]:
        """How often each instance occurs: blocks (R, N) in class order, together `replicates` rows.

        The memory of a block is used again for the next one.
        """
        buffer = np.empty((self._step(replicates), self.n))
        for block in self._blocks(replicates):
            yield self._fill(buffer, block)

    def of_blocks(self, measure: Callable[[Array], T], replicates: int) -> list[T]:
        """`measure` of each block that `counts` yields, in their order; of many instances on several cores.

        NumPy lets go of Python's lock where it draws and multiplies, so that threads do. Blocks are the same whatever
        the number of cores, and so are the results.
        """
        cores = min(len(os.sched_getaffinity(0)), _MOST_CORES)
        if self.n < _MANY_INSTANCES or cores == 1:
            return [measure(counts) for counts in self.counts(replicates)]
        of_thread = threading.local()

        def measured(block: range) -> T:
            if not hasattr(of_thread, "buffer"):
                of_thread.buffer = np.empty((self._step(replicates), self.n))
            return measure(self._fill(of_thread.buffer, block))

        with one_blas_thread(), ThreadPoolExecutor(cores) as pool:
            return list(pool.map(measured, self._blocks(replicates)))

    def _step(self, replicates: int) -> int:
        """The replicates of one block."""
        return min(max(_TOGETHER, _BLOCK // self.n), max(1, _LARGEST_BLOCK // self.n), max(1, replicates))

    def _blocks(self, replicates: int) -> list[range]:
        step = self._step(replicates)
        return [range(start, min(start + step, replicates)) for start in range(0, replicates, step)]

    def _fill(self, buffer: Array, block: range) -> Array:
        """The counts of a block of replicates, as rows of `buffer`."""
        for row, replicate in enumerate(block):
            for start, stop, places in self._draws(replicate):
                buffer[row, start:stop] = np.bincount(places, minlength=stop - start)
        return buffer[: len(block)]

    def _draws(self, replicate: int) -> Iterator[tuple[int, int, NDArray[np.intp]]]:
        """One replicate in class order, a cell after the other: its start, its stop, and the places drawn within it.

        How many of N draws fall into each cell is multinomial, and within a cell all places are as probable.
        """
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(replicate,))))
        if self._members is None:
            edges = [*range(0, self.n, _CELL), self.n]
            drawn_in = [self.n] if self.n <= _CELL else rng.multinomial(self.n, np.diff(edges) / self.n).tolist()
            for start, stop, size in zip(edges[:-1], edges[1:], drawn_in, strict=True):
                yield start, stop, rng.integers(0, stop - start, size=size)
            return
        drawn = rng.integers(0, len(self._sizes), size=len(self._sizes))  # (G,)
        sizes = self._sizes[drawn]
        # An offset for each instance of each drawn group: any of the group's, or 0, 1, … size − 1.
        if self.within:
            offsets = rng.integers(0, np.repeat(sizes, sizes))
        else:
            offsets = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield 0, self.n, np.asarray(self._members[np.repeat(self._starts[drawn], sizes) + offsets], dtype=np.intp)


def resampling_of(
    labels: Labels, *, groups: Sequence[str] | None, resample: Resample | None, seed: int = 0
) -> Resampling:
    """The resampling for instances that may have groups: of whole groups where there are any and `resample` is None.

    Raises:
        InputError: `resample` names groups but there are none; an unknown kind.
    """
    kind = resample or ("instances" if groups is None else "groups")
    if kind == "instances":
        return Resampling(labels, seed=seed)
    if kind not in ("groups", "groups_then_instances"):
        raise InputError(f"resample is {kind!r}; expected 'instances', 'groups' or 'groups_then_instances'")
    if groups is None:
        raise InputError(f"resample is {kind!r} but the posteriors have no groups; give groups or resample instances")
    return Resampling(labels, seed=seed, groups=groups, within=kind == "groups_then_instances")


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over instances for R resamplings, by class; L is the number of rules."""

    totals: Array
    """(R, K, 1 + L): how many instances, then the sum of each rule's finite losses."""
    infinite: Array
    """(R, K, 1 + L): instances of infinite loss."""
    gaps: Array | None
    """(R, K, M): sums of right − confidence in each of the M bins; None where no metric needs them."""
    columns: Mapping[str, int]
    """Metric → the column of its rule in `totals` and `infinite`."""

    def metrics(
        self,
        names: Sequence[str],
        *,
        costs: Costs,
        priors: Array | None,
        normalisers: Mapping[str, Normaliser] | None = None,
    ) -> dict[str, Array]:
        """The metrics of each resampling, (R,) each; NaN where one is undefined.

        A metric without a normaliser is that of the drawn instances: it is normalised by their own class frequencies,
        or by the target priors.
        """
        counts = self.totals[:, :, 0]  # (R, K)
        totals = counts.sum(axis=1, keepdims=True)  # (R, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = counts / totals if priors is None else np.broadcast_to(priors, counts.shape)
            # The mean loss is Σ_k weights_k · (sum of losses of class k); a class of prior 0 counts 0.
            weights = np.broadcast_to(1.0 / totals, shares.shape)
            if priors is not None:
                weights = np.where(shares > 0, shares / counts, 0.0)
                # A class that this resampling lost has no mean: the metric is undefined there.
                weights = np.where(np.isinf(weights), np.nan, weights)
            values = {}
            for name in names:
                if (column := self.columns.get(name)) is None:
                    assert self.gaps is not None
                    values[name] = np.abs(np.einsum("rk,rkm->rm", weights, self.gaps)).sum(axis=1)
                    continue
                mean = (weights * self.totals[:, :, column]).sum(axis=1)
                mean[((self.infinite[:, :, column] > 0) & (weights > 0)).any(axis=1)] = np.inf
                if normalisers and name in normalisers:
                    constant = normalisers[name].of_counts(counts)
                    values[name] = np.where(constant > 0, mean / constant, np.nan)
                else:
                    values[name] = METRICS[name].value(mean, priors=shares, costs=costs)
            return values


class LossTable:
    """The losses of every instance in class order, ready to be summed over many resamplings."""

    def __init__(self, posteriors: Posteriors, *, metrics: Sequence[str], costs: Costs) -> None:
        """Compute each loss that `metrics` need, once."""
        self.order = class_order(posteriors.strata)
        votes = posteriors.votes
        self.votes, by_class = votes.by_class(self.order)
        self.n, self.n_classes = len(posteriors), posteriors.n_choices
        weights = 1.0 if self.votes.weights is None else self.votes.weights  # (M,)
        # Metrics of one rule, such as NCE and cross-entropy, share its column. The columns have one order whatever the
        # order of the metrics, since the last bits of a matrix product depend on it.
        means = [METRICS[name] for name in metrics if METRICS[name].is_mean]
        made = {metric.definition: metric.rule_for(costs, weights=votes.weights) for metric in means}
        places = {rule: column for column, rule in enumerate(sorted(made, key=repr), start=1)}
        self.columns = {metric.name: places[metric.definition] for metric in means}
        self.losses = np.empty((len(by_class), 1 + len(places)))  # (M, 1 + L)
        self.losses[:, 0] = weights
        for definition, column in places.items():
            losses = made[definition](posteriors.log_posteriors[votes.rows], votes.labels)
            self.losses[:, column] = weights * losses[by_class]
        # Zero times infinity is not a number: infinite losses are counted beside the matrix product.
        votes_of, columns = np.nonzero(np.isinf(self.losses))  # (infinite losses,) each
        self.losses[votes_of, columns] = 0.0
        cells = self.votes.labels[votes_of] * len(self.losses.T) + columns
        self.infinite = {divmod(int(cell), len(self.losses.T)): votes_of[cells == cell] for cell in np.unique(cells)}
        bounds = np.searchsorted(self.votes.labels, np.arange(self.n_classes + 1)).tolist()
        # The votes of a class are neighbours: a piece has a slice for each class that it holds.
        self.pieces = []
        for start in range(0, len(by_class), _PIECE):
            stop = min(start + _PIECE, len(by_class))
            ends = [(k, max(bounds[k], start), min(bounds[k + 1], stop)) for k in range(self.n_classes)]
            self.pieces.append(
                (slice(start, stop), [(k, slice(first, last)) for k, first, last in ends if first < last])
            )
        self.gaps = _gaps(posteriors, self.order, self.votes) if len(means) < len(metrics) else None

    def sums(self, counts: Array) -> Sums:
        """Sums for R resamplings given by how often each instance counts, (R, N) in class order."""
        totals = np.zeros((len(counts), self.n_classes, self.losses.shape[1]))
        infinite = np.zeros_like(totals)
        gaps = None if self.gaps is None else np.zeros((len(counts), self.n_classes * BINS))
        rows = self.votes.rows
        for piece, segments in self.pieces:
            # With one vote for each instance a slice copies nothing.
            drawn = counts[:, piece] if isinstance(rows, slice) else counts[:, rows[piece]]  # (R, n)
            for k, segment in segments:
                local = slice(segment.start - piece.start, segment.stop - piece.start)
                totals[:, k] += drawn[:, local] @ self.losses[segment]
            if gaps is not None and self.gaps is not None:
                cells, values = (column[piece] for column in self.gaps)
                for row, own in enumerate(drawn):
                    gaps[row] += np.bincount(cells, weights=own * values, minlength=gaps.shape[1])
        for (k, column), chosen in self.infinite.items():
            infinite[:, k, column] = counts[:, chosen if isinstance(rows, slice) else rows[chosen]].sum(axis=1)
        shaped = None if gaps is None else gaps.reshape(len(counts), self.n_classes, BINS)
        return Sums(totals, infinite, shaped, self.columns)


def _gaps(posteriors: Posteriors, order: NDArray[np.intp], votes: Votes) -> tuple[NDArray[np.intp], Array]:
    """Of each vote its cell (class and bin) and right − confidence, (M,) each: what the calibration error sums."""
    logs = posteriors.log_posteriors[order][votes.rows]  # (M, K)
    confidence = np.exp(logs.max(axis=1))
    values = (logs.argmax(axis=1) == votes.labels) - confidence
    if votes.weights is not None:
        values *= votes.weights
    bins = bin_index(confidence, bin_edges(confidence, bins=BINS, spacing="width"))
    return votes.labels * BINS + bins, values


def percentile_interval(replicates: Array, *, level: float, value: float = math.nan) -> Interval:
    """The (1 − level)/2 and (1 + level)/2 quantiles of the replicates, or None if over 5 % of them are undefined.

    Replicates that are corrected for a bias may lie to one side of the `value` that is reported. Then the interval ends
    at that value, and the other end is moved inwards, so that `level` of the replicates remain inside.

    >>> percentile_interval(np.arange(101.0), level=0.5)
    (25.0, 75.0)
    >>> low, high = percentile_interval(np.arange(101.0), level=0.5, value=90.0)
    >>> round(low), high
    (40, 90.0)
    """
    values = np.sort(replicates[~np.isnan(replicates)])
    if values.size == 0 or values.size < (1 - _MAX_UNDEFINED) * replicates.size:
        return None
    tail = (1 - level) / 2
    low, high = _quantile(values, tail), _quantile(values, 1 - tail)
    if not math.isfinite(value) or low <= value <= high:
        return low, high
    if value > high:
        return _quantile(values, 1 - level - float((values > value).mean())), value
    return value, _quantile(values, level + float((values < value).mean()))


def _quantile(values: Array, share: float) -> float:
    """The quantile of sorted values, as numpy interpolates it but with infinite values allowed."""
    place = share * (len(values) - 1)
    below = values[math.floor(place)]
    above = values[min(math.floor(place) + 1, len(values) - 1)]
    if not np.isfinite(above) or not np.isfinite(below):
        # Between a finite and an infinite replicate there is nothing to interpolate: take the nearer one.
        return float(above if place % 1 >= 0.5 else below)
    return float(below + (above - below) * (place % 1))
