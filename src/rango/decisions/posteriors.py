"""Posteriors of instances with their labels, and everything that is measured on them.

The class checks its arrays once; every other file of the room takes it as sound. Its metrics are those of the registry
in `metrics`; `pairing` holds what concerns several systems.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rango.decisions import instances, posteriors_columns
from rango.decisions.arrays import (
    Array,
    Labels,
    check_log_posteriors,
    check_matrix,
    check_posteriors,
    check_priors,
    frozen,
    log_softmax,
)
from rango.decisions.costs import Costs
from rango.decisions.instances import QuestionType, Votes
from rango.decisions.metrics import METRICS, Rule, class_weights, logarithmic_rule, weighted_mean
from rango.decisions.posteriors_columns import Table
from rango.decisions.priors import reweight_posteriors
from rango.decisions.reliability import BINS, Spacing, reliability_bins
from rango.errors import InputError
from rango.frames import Backend, frame_columns, new_frame
from rango.showing import Grid, Shown, count, short

if TYPE_CHECKING:
    from narwhals.typing import IntoDataFrame

_SHOWN_METRICS = 100_000
"""Instances up to which the metrics that show posteriors take no noticeable time."""


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Posteriors(Shown):
    """Posteriors of N instances over K choices, with the right answers where they are known.

    Deciding needs no labels; what needs them asks for `labels`, which raises where there are none.

    The metrics take `priors`: target class priors π that weigh the instances by w_i = π_y / p_y (reference thesis,
    eqs. 3.6 and 3.7). They never change the posteriors; `with_priors` does that.

    >>> posteriors = Posteriors(np.log([[0.8, 0.2], [0.4, 0.6]]), [0, 0])
    >>> round(posteriors.cross_entropy(), 4), posteriors.error_rate()
    (0.5697, 0.5)
    """

    log_posteriors: Array
    """(N, K) float64, nats; each row normalised; -inf where an instance has fewer choices or the posterior is 0."""
    labels: Labels
    """(N,) int64, index of the right choice. InputError where the instances have none, or soft labels."""
    targets: Array | None = field(init=False)
    """(N, K) soft labels: the share of each choice, such as of annotators; None where each has one right choice."""
    ids: tuple[str, ...]
    """One name for each instance; "0", "1", … unless given."""
    groups: tuple[str, ...] | None
    """Instances of one group share a context; they are resampled and cross-validated together. An instance whose group
    is blank has one of its own."""
    choices: tuple[tuple[str, ...], ...] | None
    """The words of each instance's choices."""
    types: tuple[QuestionType, ...] | None
    """What the choices of each instance are: choice, yes_no, or score (ordered levels); None where all are choice."""
    notes: tuple[str, ...] = field(init=False)
    """How the input was understood or mended, for whoever reads the numbers."""

    def __init__(
        self,
        log_posteriors: ArrayLike,
        labels: ArrayLike | None,
        ids: Iterable[str] | None = None,
        groups: Iterable[str | None] | None = None,
        choices: Iterable[Iterable[str]] | None = None,
        types: Sequence[str] | None = None,
    ) -> None:
        """Check and hold the arrays, without a copy where they are float64 and int64 already.

        `labels` are (N,) indices, or (N, K) distributions over the choices, which are then scored in expectation.

        Raises:
            InputError: NaN (row), rows that do not sum to one (worst row, its sum), a label out of range (row, value,
                valid range), a label at a choice that its instance does not have, a posterior above 0 for a choice
                without words, columns of different lengths.
        """
        notes: list[str] = []
        logs = check_log_posteriors(log_posteriors, notes=notes)
        n, n_choices = logs.shape
        truth = None if labels is None else instances.check_truth(labels, n=n, n_choices=n_choices, notes=notes)
        # The class is frozen for its users, so only this way can its fields be set, here and below.
        object.__setattr__(self, "log_posteriors", frozen(logs))
        if truth is not None and truth.ndim == 1:
            object.__setattr__(self, "labels", frozen(truth))
        object.__setattr__(self, "targets", frozen(truth) if truth is not None and truth.ndim == 2 else None)
        if ids is not None:
            object.__setattr__(self, "ids", instances.check_texts(ids, n, "ids"))
        if groups is not None:
            groups = instances.group_names(groups, n=n, id_of=lambda row: self.ids[row], notes=notes)
        object.__setattr__(self, "groups", groups)
        words = None if choices is None else tuple(tuple(row) for row in choices)
        if words is not None:
            instances.check_choices(words, truth, logs)
        object.__setattr__(self, "choices", words)
        object.__setattr__(self, "types", instances.check_types(types, n=n))
        object.__setattr__(self, "notes", tuple(notes))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Whoever needs labels says so by asking for them: one place refuses for all.
            if name == "labels" and self.targets is not None:
                return self.labels_for("what is wanted")
            if name == "labels":
                raise InputError("these instances have no labels; give the 0-based index of the right choice of each")
            # Ten million default ids weigh more than the posteriors, so they are made when somebody asks.
            if name != "ids":
                raise AttributeError(f"Posteriors has no attribute {name!r}")
            object.__setattr__(self, "ids", tuple(map(str, range(len(self)))))
            return self.ids

    @classmethod
    def from_scores(
        cls,
        scores: ArrayLike,
        labels: ArrayLike | None,
        ids: Iterable[str] | None = None,
        groups: Iterable[str | None] | None = None,
        choices: Iterable[Iterable[str]] | None = None,
        types: Sequence[str] | None = None,
    ) -> Posteriors:
        """Posteriors of unnormalised scores (N, K), nats: log-softmax over the choices; -inf pads missing ones.

        Raises:
            InputError: NaN or +inf (row), a row of -inf only, or as the constructor.
        """
        array = check_matrix(scores, name="scores")
        empty = np.isneginf(array.max(axis=1))
        if empty.any():
            raise InputError(f"scores[{int(empty.argmax())}] is -inf everywhere; expected a finite score in every row")
        return cls(log_softmax(array), labels, ids, groups, choices, types)

    @classmethod
    def from_probabilities(
        cls,
        posteriors: ArrayLike,
        labels: ArrayLike | None,
        ids: Iterable[str] | None = None,
        groups: Iterable[str | None] | None = None,
        choices: Iterable[Iterable[str]] | None = None,
        types: Sequence[str] | None = None,
    ) -> Posteriors:
        """Posteriors given as probabilities (N, K); 0 stays 0.

        Raises:
            InputError: a negative entry, a row that does not sum to one (worst row, its sum), or as the constructor.
        """
        notes: list[str] = []
        result = cls(check_posteriors(posteriors, notes=notes), labels, ids, groups, choices, types)
        return result.with_notes(notes)

    @classmethod
    def from_table(cls, table: Table, *, need_labels: bool = True) -> Posteriors:
        """Posteriors of the columns of a file or a frame; `read_posteriors` says what they may be.

        Raises:
            InputError: as `read_posteriors`.
        """
        notes: list[str] = []
        label_name = posteriors_columns.label_column(table, need_labels)
        scores = posteriors_columns.find_scores(table, label_name, notes)
        if label_name is None and need_labels:
            raise InputError(f"{table.path} has no column label; give the 0-based index of the right choice")
        if label_name is not None and label_name.strip().casefold() != "label":
            notes.append(f"the column {label_name} is read as label")
        matrix, lengths = posteriors_columns.score_matrix(table, scores, notes)
        choices = posteriors_columns.choice_lists(table, scores, lengths)
        labels = (
            None
            if label_name is None
            else posteriors_columns.label_array(table, label_name, scores, choices, lengths, notes)
        )
        ids, groups = (posteriors_columns.texts_of(table, key) for key in ("id", "group"))
        # The column that holds the scores decides how its numbers become posteriors.
        makers: dict[str, Callable[..., Posteriors]] = {
            "posteriors": cls.from_probabilities,
            "log_posteriors": cls,
            "logits": cls.from_scores,
        }
        try:
            posteriors = makers[scores.kind](matrix, labels, ids, groups, choices, posteriors_columns.types_of(table))
        except InputError as error:
            raise InputError(f"{table.path}: {error}") from None
        return posteriors.with_notes(notes)

    @classmethod
    def from_frame(cls, frame: IntoDataFrame, *, need_labels: bool = True) -> Posteriors:
        """Posteriors of a data frame of pandas, Polars or Arrow, with the columns of a posteriors file.

        Args:
            frame: its columns mean what they mean in a file, and are checked alike; messages name the row, from 1.
            need_labels: as `read_posteriors`.

        Raises:
            InputError: as `read_posteriors`; a frame that is lazy or empty.
        """
        columns = frame_columns(frame)
        rows = len(next(iter(columns.values())))
        posteriors = cls.from_table(Table(Path("frame"), columns, range(1, rows + 1)), need_labels=need_labels)
        return posteriors.with_notes(instances.repeat_notes(posteriors.ids))

    def to_frame(self, backend: Backend = "pandas", *, logarithms: bool = False) -> Any:
        """A data frame with a row for each instance, which `from_frame` takes.

        Its columns are id, label (the class, or the index of the right choice), group, and one for each choice:
        `probability_NAME` where the columns are classes, else `posterior_0`, … and a column of lists, choices. What
        is not known has no column.

        Args:
            backend: "pandas", "polars" or "pyarrow".
            logarithms: natural logarithms, `log_probability_NAME`, which are exact where a probability is too small
                for a float.

        Raises:
            InputError: an unknown backend, or one that is not installed.
        """
        names = posteriors_columns.score_columns(self.column_names, self.n_choices, logarithms=logarithms)
        # Columns that say their classes say the choices; by number, the choices need a column of their own.
        classes = None if names[0].endswith("posterior_0") else self.column_names
        columns: dict[str, Sequence[Any]] = {"id": self.ids}
        if self.has_labels:
            columns["label"] = self.label_cells(classes)
        if self.groups is not None:
            columns["group"] = self.groups
        if self.choices is not None and classes is None:
            columns["choices"] = [list(row) for row in self.choices]
        values = self.log_posteriors if logarithms else np.exp(self.log_posteriors)  # (N, K)
        if self.types is not None:
            columns["type"] = self.types
        ends = [self.n_choices] * len(self) if self.choices is None else list(map(len, self.choices))
        for k, name in enumerate(names):
            columns[name] = [value if k < end else None for value, end in zip(values[:, k].tolist(), ends, strict=True)]
        return new_frame(columns, backend)

    def label_cells(self, classes: Sequence[str] | None = None) -> list[Any]:
        """What a column `label` holds: indices, or the names of `classes`; the list of shares where labels are soft."""
        return instances.label_cells(self.labels if self.targets is None else self.targets, self.choices, classes)

    def _facts(self) -> Iterator[str]:
        yield count(len(self), "instance")
        yield count(self.n_choices, "choice") if self.column_names is None else ", ".join(self.column_names)
        if not self.has_labels:
            yield "no labels"
        elif len(self) <= _SHOWN_METRICS:
            yield f"NCE {short(self.nce())}"
            yield f"error rate {short(self.error_rate())}"

    def _grid(self) -> Grid:
        probabilities = np.exp(self.log_posteriors[:5])  # (n, K)
        names = self.column_names or tuple(map(str, range(self.n_choices)))
        rows = [["", *names, *(["label"] if self.has_labels else [])]]
        labels = self.label_cells() if self.has_labels else []
        for number, values in enumerate(probabilities.tolist()):
            cells = [names[k] if isinstance(k, int) else " ".join(map(short, k)) for k in labels[number : number + 1]]
            rows.append([f"row {number}", *map(short, values), *cells])
        return Grid(rows[0], rows[1:])

    def with_notes(self, notes: Iterable[str]) -> Posteriors:
        """The same posteriors with more notes, before those they have."""
        same = copy.copy(self)
        object.__setattr__(same, "notes", (*notes, *self.notes))
        return same

    def __len__(self) -> int:
        return len(self.log_posteriors)

    @property
    def has_labels(self) -> bool:
        """Whether it is known what is right: one choice of each instance, or a distribution over its choices."""
        return "labels" in self.__dict__ or self.targets is not None

    @property
    def is_ordered(self) -> bool:
        """Whether the choices of every instance are levels, from the lowest to the highest."""
        return self.types is not None and set(self.types) == {"score"}

    @property
    def truth(self) -> Labels | Array | None:
        """What the constructor takes for `labels`: labels (N,), targets (N, K), or None."""
        return self.labels if "labels" in self.__dict__ else self.targets

    def labels_for(self, purpose: str) -> Labels:
        """The labels, for a purpose that has no meaning where an instance has more than one right choice.

        Raises:
            InputError: no labels, or soft ones; names the purpose.
        """
        if self.targets is not None:
            raise InputError(
                f"{purpose} needs one right choice for each instance, but these have soft labels (distributions over "
                "their choices)"
            )
        return self.labels

    @cached_property
    def votes(self) -> Votes:
        """What is right as weighted votes, by which everything is measured; InputError where there are no labels."""
        return Votes.of(self.labels if self.targets is None else self.targets)

    @property
    def strata(self) -> Labels:
        """(N,) the class of each instance for sorting and folds; one for all where labels are soft."""
        return self.labels if self.targets is None else np.zeros(len(self), dtype=np.int64)

    @cached_property
    def column_names(self) -> tuple[str, ...] | None:
        """The class that each column is, where every instance has the same choices; None where they differ.

        An instance may have fewer choices. None too where the choices are not known.
        """
        if self.choices is None:
            return None
        names = max(set(self.choices), key=len)
        is_class = len(names) == self.n_choices == len(set(names))
        return names if is_class and all(names[: len(row)] == row for row in set(self.choices)) else None

    def match_costs(self, costs: Costs) -> Costs:
        """The costs with a row for each column, by the names of the classes; by place where one side has no names.

        Raises:
            InputError: another number of classes; a class of the costs that is no choice, or stands in another column
                for some instances; a choice without costs.
        """
        costs.check_classes(self.n_choices)
        if self.column_names is None and self.choices is not None:
            costs.check_columns(self.ids, self.choices)
        return costs.for_choices(self.column_names)

    @property
    def n_choices(self) -> int:
        """K, the number of columns."""
        return int(self.log_posteriors.shape[1])

    def priors(self) -> Array:
        """Empirical priors p_k = N_k / N of the labels, shape (K,); the mean target where they are soft."""
        return self.votes.counts(self.n_choices) / len(self)

    def replaced(self, log_posteriors: ArrayLike) -> Posteriors:
        """The same instances with other log-posteriors."""
        return self._with_columns(Posteriors(log_posteriors, self.truth, None, self.groups, self.choices, self.types))

    def take(self, indices: ArrayLike) -> Posteriors:
        """The instances at `indices`, in that order."""
        chosen = np.asarray(indices)
        rows = [int(row) for row in (np.flatnonzero(chosen) if chosen.dtype == bool else chosen)]
        return Posteriors(
            self.log_posteriors[rows],
            None if self.truth is None else self.truth[rows],
            [self.ids[row] for row in rows],
            None if self.groups is None else [self.groups[row] for row in rows],
            None if self.choices is None else [self.choices[row] for row in rows],
            None if self.types is None else [self.types[row] for row in rows],
        )

    def prior_only(self) -> Posteriors:
        """The system that ignores its input: it outputs the empirical priors of the labels for every instance."""
        with np.errstate(divide="ignore"):
            constant = np.broadcast_to(np.log(self.priors()), self.log_posteriors.shape)
        return self._with_columns(Posteriors(constant, self.truth, None, self.groups, None, self.types))

    def target_only(self) -> Posteriors:
        """The system that outputs each instance's target: no other has a lower expected proper score."""
        with np.errstate(divide="ignore"):
            return self.replaced(np.log(np.eye(self.n_choices)[self.labels] if self.targets is None else self.targets))

    def with_priors(self, priors: ArrayLike, *, training_priors: ArrayLike | None = None) -> Posteriors:
        """The posteriors under other class priors: q'_k ∝ q_k π_k / π⁰_k. It changes posteriors, not metric weights.

        Args:
            priors: (K,), the new class priors π.
            training_priors: (K,), the priors π⁰ behind the posteriors; None for the empirical priors of the labels.

        Raises:
            InputError: bad priors; no training priors and no labels to take them from; a training prior of 0 for a
                class whose new prior is positive.
        """
        if training_priors is None and not self.has_labels:
            raise InputError("without labels the priors behind the posteriors are not known; give the training priors")
        old = self.priors() if training_priors is None else training_priors
        return self.replaced(reweight_posteriors(self.log_posteriors, priors=priors, training_priors=old))

    def zero_posterior_ids(self) -> tuple[str, ...]:
        """Ids of the instances whose right choice has posterior exactly 0: their logarithmic score is infinite."""
        return tuple(self.ids[row] for row in np.flatnonzero(np.isinf(self.losses(logarithmic_rule))))

    def score(self, rule: Rule, *, priors: ArrayLike | None = None) -> float:
        """Mean of a proper scoring rule (an EPSR): (1/N) Σ_i w_i rule(y_i, q_i). Lower is better.

        With soft labels it is the expected one, Σ_k t_k w_k rule(k, q) of each instance.
        """
        votes = self.votes
        losses = rule(self.log_posteriors[votes.rows], votes.labels)  # (M,)
        target = self._target(priors)
        return weighted_mean(losses, votes.labels, n_classes=self.n_choices, priors=target, weights=votes.weights)

    def losses(self, rule: Rule) -> Array:
        """The loss of each instance by a rule, (N,); the expected one where labels are soft."""
        votes = self.votes
        return votes.of_instances(rule(self.log_posteriors[votes.rows], votes.labels), len(self))

    def metric(self, name: str, *, costs: Costs | None = None, priors: ArrayLike | None = None) -> float:
        """The value of a metric of `METRICS`; NaN where it is normalised but the reference is 0.

        Args:
            name: a key of METRICS.
            costs: (K, D), for the metrics that need costs; None for 0–1 costs.
            priors: (K,) target priors that weigh the instances; None for the empirical ones.

        Raises:
            InputError: costs of another number of classes, bad priors, a class of positive prior without instances.
        """
        metric = METRICS[name]
        # The calibration error is not made of a loss for each instance.
        if not metric.is_mean:
            return self.ece(priors=priors)
        used = Costs.zero_one(self.n_choices) if costs is None else self.match_costs(costs)
        if metric.needs_order and not self.is_ordered:
            raise InputError(f"{name} is for ordered levels; give every instance the type score (column type)")
        mean = np.asarray(self.score(metric.rule_for(used, weights=self.votes.weights), priors=priors))
        target = self._target(priors)
        return float(metric.value(mean, priors=self.priors() if target is None else target, costs=used))

    def cross_entropy(self, *, priors: ArrayLike | None = None) -> float:
        """−Σ_k (π_k / N_k) Σ_{i: y(i) = k} ln q(i, k), nats. Lower is better (reference thesis, eq. 3.7)."""
        return self.metric("cross_entropy", priors=priors)

    def nce(self, *, priors: ArrayLike | None = None) -> float:
        """Cross-entropy / H(π); 1 = no better than the priors, NaN where H(π) = 0. Lower is better."""
        return self.metric("nce", priors=priors)

    def calibrated_nce(self, *, priors: ArrayLike | None = None) -> float:
        """NCE after the temperature that is best on these same instances; at most the NCE. Lower is better."""
        return self.metric("calibrated_nce", priors=priors)

    def brier(self, *, priors: ArrayLike | None = None) -> float:
        """Mean of Σ_k (1[k = y] − q_k)², summed over classes. Lower is better."""
        return self.metric("brier", priors=priors)

    def normalised_brier(self, *, priors: ArrayLike | None = None) -> float:
        """Brier score / (1 − Σ_k π_k²); 1 = no better than the priors. Lower is better."""
        return self.metric("normalised_brier", priors=priors)

    def error_rate(self, *, priors: ArrayLike | None = None) -> float:
        """Share of instances whose most probable choice is not the label, a fraction. Lower is better."""
        return self.metric("error_rate", priors=priors)

    def accuracy(self, *, priors: ArrayLike | None = None) -> float:
        """1 − error rate, a fraction. Higher is better."""
        return self.metric("accuracy", priors=priors)

    def expected_cost(self, costs: Costs, *, priors: ArrayLike | None = None) -> float:
        """(1/N) Σ_i w_i C[y(i), d_B(q_i)], the mean cost of the Bayes decisions. Lower is better."""
        return self.metric("expected_cost", costs=costs, priors=priors)

    def normalised_expected_cost(self, costs: Costs, *, priors: ArrayLike | None = None) -> float:
        """Expected cost / min_d Σ_k π_k C[k, d]; 1 = no better than the best constant decision. Lower is better."""
        return self.metric("normalised_expected_cost", costs=costs, priors=priors)

    def ece(self, *, bins: int = BINS, spacing: Spacing = "width", priors: ArrayLike | None = None) -> float:
        """Expected calibration error of the top label: a diagnosis, not a verdict; see `reliability_bins`."""
        target, counts, truth = self._target(priors), self.votes.counts(self.n_choices), self.truth
        assert truth is not None  # or there would be no votes
        weights = None if target is None else class_weights(counts, target)
        return reliability_bins(self.log_posteriors, truth, bins=bins, spacing=spacing, class_weights=weights).error

    def _target(self, priors: ArrayLike | None) -> Array | None:
        return None if priors is None else check_priors(priors, n_classes=self.n_choices)

    def _with_columns(self, other: Posteriors) -> Posteriors:
        # Default ids stay unmade.
        if "ids" in self.__dict__:
            object.__setattr__(other, "ids", self.ids)
        return other
