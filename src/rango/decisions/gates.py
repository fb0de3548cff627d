"""Gates: when to act on posteriors and when to pass an instance on, chosen on some instances and judged on others.

    posteriors, labels ── gate ──> Gate ── decide ──> act or pass on, for each instance
                                     └──── judge (judging.py) ──> coverage, error and cost, with intervals

An instance is acted on where its doubt is at most a limit. Doubt is the probability that the decision is wrong, 1 − the
posterior of what is decided. Under costs by which errors differ it is what acting is expected to cost more than passing
on. The limit is chosen for one of three aims:

    costs        the least mean cost of the fitting instances
    max_error    the largest coverage at which an upper bound of the error of what is acted on is at most this
    precision    the same for each named class, among the instances that are decided to be of it

The bound holds with probability `level` over the drawing of the fitting instances. Limits are tested from the strictest
to the loosest, each by the exact binomial test of its error rate, and a chain of tests ends with its first failure: so
the first limit that is too loose would have to pass, which happens in 1 − level of the cases at most, however many
limits are tested (fixed sequence testing; Angelopoulos et al., arXiv:2110.01052, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from rango.decisions.arrays import Array, Labels
from rango.decisions.bootstrap import percentile_interval, resampling_of
from rango.decisions.costs import Costs, bayes_decisions, expected_costs
from rango.decisions.posteriors import Posteriors
from rango.decisions.stated_costs import StatedCosts
from rango.decisions.thresholds import bounded_limit, least_cost_limit
from rango.errors import InputError, unknown_name
from rango.files import fingerprint, read_versioned, write_json
from rango.showing import Grid, Shown, count, short

Aim: TypeAlias = Literal["costs", "max_error", "precision"]

FORMAT, VERSION = "rango gate", 1
_ROUNDING = 1e-9  # posteriors that are computed again differ in their last digits, and must not change sides


@dataclass(frozen=True)
class GateChoice:
    """What a gate was chosen on, and how sure the choice is."""

    n: int
    """Instances."""
    fingerprint: str
    """Of their posteriors and labels."""
    low: float | None
    """Lower end of the bootstrap interval of the threshold; None for several thresholds, or where none was chosen."""
    high: float | None
    unreached: float
    """Share of the bootstrap samples in which no threshold reaches the aim."""
    groups: int | None = None
    """Groups among which the instances are, where they have any."""


@dataclass(frozen=True, eq=False)
class GatedDecisions:
    """What is decided for N instances, and which of these decisions are acted on."""

    ids: tuple[str, ...]
    names: tuple[str, ...]
    """Of the decisions that act."""
    chosen: Labels
    """(N,) the best decision that acts."""
    acts: NDArray[np.bool_]
    """(N,) whether it is acted on; else the instance is passed on."""
    doubt: Array
    """(N,) what is compared with the limit."""
    pass_on: str
    """What passing on is called."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """One mapping for each instance: id, decision (passing on among them), act (yes or no)."""
        for name, choice, acts in zip(self.ids, self.chosen.tolist(), self.acts.tolist(), strict=True):
            yield {
                "id": name,
                "decision": self.names[choice] if acts else self.pass_on,
                "act": "yes" if acts else "no",
            }


@dataclass(frozen=True, repr=False)
class Gate(Shown):
    """A limit on doubt, and what it was chosen for. `gate` makes it, `decide` and `judge` use it."""

    aim: Aim
    limit: float
    """The largest doubt that is acted on; −inf to pass every instance on, inf to act on each."""
    choice: GateChoice
    class_limits: Mapping[str, float] = field(default_factory=dict)
    """Limits of classes that have one of their own."""
    max_error: float | None = None
    precision: Mapping[str, float] = field(default_factory=dict)
    costs: Costs | None = None
    """(K, D), one of whose columns is passing on."""
    pass_on: str = "pass on"  # noqa: S105 - a decision, no password
    level: float = 0.95
    """The probability with which the bound of an error holds, and the nominal coverage of intervals."""
    choices: tuple[str, ...] | None = None
    """The class of each column, where every instance has the same choices."""
    n_choices: int = 2

    @property
    def by_confidence(self) -> bool:
        """Whether doubt is 1 − the posterior of the decision: an error costs 1, and passing on the same everywhere."""
        return self.costs is None or _constant_pass(self.costs, self.pass_on) is not None

    @property
    def threshold(self) -> float:
        """The least confidence that is acted on; under other costs, the least expected saving beside passing on."""
        return self._threshold_of(self.limit)

    @property
    def bayes_threshold(self) -> float | None:
        """The threshold that the costs set by themselves, which is the best one for calibrated posteriors."""
        if self.costs is None:
            return None
        constant = _constant_pass(self.costs, self.pass_on)
        return 0.0 if constant is None else 1.0 - constant

    def _threshold_of(self, limit: float) -> float:
        return (1.0 if self.by_confidence else 0.0) - limit

    def decide(self, posteriors: Posteriors) -> GatedDecisions:
        """The best decision of each instance, and whether to act on it. No labels are needed.

        Raises:
            InputError: posteriors of other choices than the gate was chosen on.
        """
        self._check_names(posteriors.column_names, posteriors.n_choices)
        acting = _acting_costs(self._costs_for(posteriors), self.pass_on)
        chosen = bayes_decisions(posteriors.log_posteriors, costs=acting)
        doubt = self._doubt(posteriors, chosen)
        limits = np.array([self.class_limits.get(name, self.limit) for name in acting.decisions])
        acts = within(doubt, limits[chosen])
        return GatedDecisions(posteriors.ids, acting.decisions, chosen, acts, doubt, self.pass_on)

    @property
    def acting_costs(self) -> Costs | None:
        """The costs of the decisions that act; None where the gate has no costs."""
        return None if self.costs is None else _acting_costs(self.costs, self.pass_on)

    def check_choices(self, choices: Collection[Sequence[str]]) -> None:
        """Raise InputError where instances with these choices are none that the gate could decide."""
        longest, same = max(choices, key=len), len(set(map(tuple, choices))) == 1
        self._check_names(tuple(longest) if same else None, len(longest))

    def _check_names(self, names: tuple[str, ...] | None, n_choices: int) -> None:
        if self.choices is not None and names is not None and {*names} != {*self.choices}:
            raise InputError(
                f"the gate was chosen on {', '.join(self.choices)}, but the posteriors are of {', '.join(names)}; "
                "choose a gate for them"
            )
        if n_choices != self.n_choices:
            raise InputError(
                f"the gate was chosen on {self.n_choices} choices, but the posteriors have {n_choices}; "
                "choose a gate for them"
            )
        if self.class_limits and names is None:
            raise InputError(
                "the gate has thresholds for classes, but the posteriors name no classes; name the columns"
            )

    def _costs_for(self, posteriors: Posteriors) -> Costs:
        if self.costs is not None:
            return posteriors.match_costs(self.costs)
        return Costs.zero_one(posteriors.column_names or posteriors.n_choices).with_abstention(0.5, name=self.pass_on)

    def _doubt(self, posteriors: Posteriors, chosen: Labels) -> Array:
        if self.by_confidence:
            # 1 − q by expm1: exact where q is so near to one that it would be rounded to it.
            return np.asarray(-np.expm1(posteriors.log_posteriors.max(axis=1)), dtype=np.float64)
        costs = self._costs_for(posteriors)
        risks = expected_costs(posteriors.log_posteriors, costs=costs)  # (N, D)
        passing = costs.decisions.index(self.pass_on)
        least = np.delete(risks, passing, axis=1)[np.arange(len(chosen)), chosen]
        return np.asarray(least - risks[:, passing], dtype=np.float64)

    def as_dict(self) -> dict[str, Any]:
        """The gate as JSON values, as `load` reads them. A threshold is a number, "always" or "never"."""
        entry: dict[str, Any] = {"format": FORMAT, "version": VERSION, "aim": self.aim}
        entry["measure"] = "confidence" if self.by_confidence else "expected saving"
        entry |= {"threshold": _written(self.threshold), "limit": _written_limit(self.limit)}
        if self.class_limits:
            entry["class_thresholds"] = {k: _written(self._threshold_of(v)) for k, v in self.class_limits.items()}
            entry["class_limits"] = {name: _written_limit(limit) for name, limit in self.class_limits.items()}
        entry |= {"max_error": self.max_error, "precision": dict(self.precision) or None}
        entry |= {"costs": None if self.costs is None else self.costs.as_dict(), "pass_on": self.pass_on}
        entry |= {"level": self.level, "choices": self.choices and list(self.choices), "n_choices": self.n_choices}
        return {**entry, "fitted_on": asdict(self.choice)}

    def write(self, path: Path | str, *, judged: Mapping[str, Any] | None = None) -> None:
        """Write the gate as JSON, atomically, and with it what it does where it was judged."""
        write_json(Path(path), {**self.as_dict(), **({} if judged is None else {"judged": judged})})

    @classmethod
    def load(cls, path: Path | str) -> Gate:
        """Read a gate that `write` wrote.

        Raises:
            InputError: no JSON, no gate, a gate of a later version, or a value that is missing or no such value.
        """
        command = "rango gate --out"
        entry = read_versioned(
            Path(path), kind="gate", form=FORMAT, version=VERSION, command=command, again="choose it again"
        )
        try:
            costs = None if entry["costs"] is None else StatedCosts.build(entry["costs"], where=str(path)).matrix
            read = cls(
                aim=entry["aim"],
                limit=_read_limit(entry["limit"]),
                choice=_read_choice(entry["fitted_on"]),
                class_limits={str(name): _read_limit(limit) for name, limit in entry.get("class_limits", {}).items()},
                max_error=None if entry["max_error"] is None else _share(entry["max_error"]),
                precision={str(name): _share(share) for name, share in (entry["precision"] or {}).items()},
                costs=costs,
                pass_on=str(entry["pass_on"]),
                level=_share(entry["level"]),
                choices=None if entry["choices"] is None else tuple(map(str, entry["choices"])),
                n_choices=int(entry["n_choices"]),
            )
            if read.aim not in get_args(Aim) or (read.choices and len(read.choices) != read.n_choices):
                raise ValueError("its aim or its choices are none")
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"{path} is no whole gate ({error}); choose it again with rango gate") from None
        known = costs.decisions if costs is not None else (*(read.choices or ()), read.pass_on)
        for name in (*read.class_limits, read.pass_on):
            if name not in known:
                raise unknown_name(f"decision in {path}", name, known)
        return read

    def _facts(self) -> Iterator[str]:
        yield {"costs": "least cost", "max_error": f"error at most {self.max_error}", "precision": "precision"}[
            self.aim
        ]
        yield f"{'confidence' if self.by_confidence else 'saving'} from {short(self.threshold)}"
        yield f"chosen on {count(self.choice.n, 'instance')}"

    def _grid(self) -> Grid:
        limits = {"every class": self.limit, **self.class_limits}
        return Grid(["", "threshold"], [[name, str(_written(self._threshold_of(v)))] for name, v in limits.items()])


@dataclass(frozen=True, eq=False)
class GateSample:
    """What choosing and judging need of instances with labels, an array each (N,)."""

    names: tuple[str, ...]
    chosen: Labels
    doubt: Array
    wrong: NDArray[np.bool_]
    """Whether another decision would have cost less by the label."""
    acting: Array
    """Cost of acting, by the label."""
    passing: Array
    """Cost of passing on, by the label."""

    @classmethod
    def of(cls, gate: Gate, posteriors: Posteriors) -> GateSample:
        """What a gate would decide for instances, and what acting on it costs by their labels."""
        decided, labels = gate.decide(posteriors), posteriors.labels_for("a gate")
        costs = gate._costs_for(posteriors)
        matrix = _acting_costs(costs, gate.pass_on).matrix
        acting, passing = matrix[labels, decided.chosen], costs.matrix[labels, costs.decisions.index(gate.pass_on)]
        wrong = acting > matrix[labels].min(axis=1)
        return cls(decided.names, decided.chosen, decided.doubt, wrong, acting, passing)

    def take(self, rows: NDArray[Any]) -> GateSample:
        """The instances of these rows."""
        arrays = (self.chosen, self.doubt, self.wrong, self.acting, self.passing)
        return GateSample(self.names, *(array[rows] for array in arrays))

    def acts(self, gate: Gate) -> NDArray[np.bool_]:
        """(N,) whether the gate acts."""
        limits = np.array([gate.class_limits.get(name, gate.limit) for name in self.names])
        return within(self.doubt, limits[self.chosen])

    def costs_of(self, acts: NDArray[np.bool_], gate: Gate) -> dict[str, Array]:
        """Cost of each instance under the gate, and beside it of what needs no gate; nothing without costs."""
        if gate.costs is None:
            return {}
        constant = _constant_pass(gate.costs, gate.pass_on)
        by_bayes = within(self.doubt, np.full(len(acts), constant or 0.0))
        return {
            "gate": np.where(acts, self.acting, self.passing),
            "Bayes rule": np.where(by_bayes, self.acting, self.passing),
            "act on all": self.acting,
            "pass on all": self.passing,
        }


def gate(
    posteriors: Posteriors,
    *,
    costs: Costs | StatedCosts | str | None = None,
    max_error: float | None = None,
    precision: Mapping[str, float] | None = None,
    pass_on: str | None = None,
    level: float = 0.95,
    replicates: int = 200,
    seed: int = 0,
) -> Gate:
    """Choose when to act and when to pass on, for one aim: `costs`, `max_error` or `precision`.

    Under costs the threshold is that of least mean cost on these instances. For the other two it is the loosest whose
    error is bounded with probability `level`, as the head of this file says; instances are taken as independent.

    Args:
        posteriors: N instances with labels, held out from training and from what the gate will be judged on.
        costs: with a decision that passes on, as "abstain=0.3", a costs file, or a matrix (K, D).
        max_error: the largest error rate among the instances that are acted on, a fraction.
        precision: class → least share that is right among the instances acted on as that class; others are acted on.
        pass_on: the decision of `costs` that passes on; None for the only one that names no class.
        level: with what probability the bound holds, a fraction.
        replicates: bootstrap samples that show how sure the choice is.
        seed: of the bootstrap.

    Returns:
        The gate. Where no threshold reaches the aim it passes every instance on, or every one of that class.

    Raises:
        InputError: no labels; no aim or several; a value out of range; an unknown class; costs without passing on.

    Source: Chow (1970) for costs; arXiv:2110.01052 for the bounds.

    >>> calibrated = Posteriors.from_probabilities([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10, [0] * 9 + [1] + [0, 1] * 5)
    >>> round(gate(calibrated, costs="abstain=0.3").threshold, 9)
    0.9
    """
    blank = _blank_gate(posteriors, costs, max_error, precision or {}, pass_on, level)
    sample = GateSample.of(blank, posteriors)
    limit, class_limits = choose_limits(blank, sample)
    # How far the threshold moves where other instances had been drawn.
    resampling = resampling_of(posteriors.labels, groups=posteriors.groups, resample=None, seed=seed)
    moved = [choose_limits(blank, sample.take(resampling.indices(number))) for number in range(replicates)]
    reached = [blank._threshold_of(one) for one, _ in moved if math.isfinite(one)]
    ends = percentile_interval(np.array(reached), level=level) if reached and not class_limits else None
    missed = [-math.inf in (one, *classes.values()) for one, classes in moved]
    groups = None if posteriors.groups is None else len(set(posteriors.groups))
    low, high = ends or (None, None)
    unreached = float(np.mean(missed)) if missed else 0.0
    choice = GateChoice(len(posteriors), fingerprint_of(posteriors), low, high, unreached, groups)
    return replace(blank, limit=limit, class_limits=class_limits, choice=choice)


def within(doubt: Array, limits: Array) -> NDArray[np.bool_]:
    """Whether each doubt is at most its limit, give or take the rounding of posteriors that were computed again."""
    return np.asarray(doubt <= limits + _ROUNDING * np.abs(np.where(np.isfinite(limits), limits, 0.0)))


def choose_limits(gate: Gate, sample: GateSample) -> tuple[float, dict[str, float]]:
    """The limit of a gate's aim on a sample, and those of classes that have one of their own."""
    alpha = 1.0 - gate.level
    if gate.aim == "costs":
        return least_cost_limit(sample.doubt, sample.passing - sample.acting), {}
    if gate.aim == "max_error":
        assert gate.max_error is not None
        return bounded_limit(sample.doubt, sample.wrong, most=gate.max_error, alpha=alpha), {}
    limits = {}
    for name, least in gate.precision.items():
        rows = np.flatnonzero(sample.chosen == sample.names.index(name))
        part = sample.take(rows)
        # All bounds together hold with the stated probability.
        shared = alpha / len(gate.precision)
        limits[name] = bounded_limit(part.doubt, part.wrong, most=1.0 - least, alpha=shared) if len(rows) else -math.inf
    return math.inf, limits


def _blank_gate(
    posteriors: Posteriors,
    costs: Any,
    max_error: float | None,
    precision: Mapping[str, float],
    pass_on: str | None,
    level: float,
) -> Gate:
    """A gate that acts on every instance, with its aim checked."""
    if (costs is not None) + (max_error is not None) + bool(precision) != 1:
        raise InputError("a gate has one aim; give one of costs, max_error (--max-error) and precision (--precision)")
    if not 0.5 <= level < 1:
        raise InputError(f"level is {level}; expected a fraction from 0.5 to below 1, such as 0.95")
    if max_error is not None and not 0 < max_error < 1:
        raise InputError(f"max_error is {max_error:g}; expected a fraction between 0 and 1, such as 0.05")
    if pass_on is not None and costs is None:
        raise InputError(f"pass_on is {pass_on!r} without costs; only costs have a decision of that name")
    names, matrix, aim = posteriors.column_names, None, "max_error" if max_error is not None else "precision"
    for name, least in precision.items():
        if names is None:
            raise InputError(f"precision names {name!r}, but the posteriors name no classes; name their columns")
        if name not in names:
            raise unknown_name("class in precision", name, names)
        if not 0 < least < 1:
            raise InputError(f"precision of {name!r} is {least:g}; expected a fraction between 0 and 1, such as 0.9")
    if costs is not None:
        aim, matrix = "costs", StatedCosts.of(costs).for_posteriors(posteriors)
        outside = [name for name in matrix.decisions if name not in matrix.classes]
        if pass_on is not None and pass_on not in matrix.decisions:
            raise unknown_name("decision of the costs", pass_on, matrix.decisions)
        if pass_on is None and len(outside) != 1:
            raise InputError(
                f"the costs have {len(outside)} decisions that name no class; say with pass_on (--pass-on) which of "
                f"{', '.join(matrix.decisions)} passes an instance on"
            )
        pass_on = pass_on or outside[0]
        if len(matrix.decisions) < 3:
            raise InputError(f"the costs have one decision beside {pass_on!r}; a gate needs two or more that act")
    named: Any = {"max_error": max_error, "precision": dict(precision), "costs": matrix, "level": level}
    choice = GateChoice(0, "", None, None, 0.0)
    kinds: Any = {"aim": aim, "pass_on": pass_on or "pass on", "choices": names, "n_choices": posteriors.n_choices}
    return Gate(limit=math.inf, choice=choice, **named, **kinds)


def _acting_costs(costs: Costs, pass_on: str) -> Costs:
    """The costs without the decision that passes on."""
    kept = [column for column, name in enumerate(costs.decisions) if name != pass_on]
    names = [costs.decisions[column] for column in kept]
    return Costs(costs.matrix[:, kept], classes=costs.classes if costs.named else None, decisions=names)


def _constant_pass(costs: Costs, pass_on: str) -> float | None:
    """What passing on costs where it is the same for each class and an error costs 1; None under other costs."""
    column = costs.matrix[:, costs.decisions.index(pass_on)]
    is_constant = _acting_costs(costs, pass_on).is_zero_one and bool((column == column[0]).all())
    return float(column[0]) if is_constant else None


def fingerprint_of(posteriors: Posteriors) -> str:
    """A hash of posteriors and labels, by which instances that a gate was chosen on are known again."""
    logs = np.ascontiguousarray(posteriors.log_posteriors)
    return fingerprint(logs.tobytes(), posteriors.labels_for("a gate").tobytes())


def _written(threshold: float) -> float | str:
    """A threshold as JSON: a number, or in words where every instance or none is acted on."""
    return threshold if math.isfinite(threshold) else "never" if threshold > 0 else "always"


def _written_limit(limit: float) -> float | str:
    return limit if math.isfinite(limit) else _written(-limit)


def _read_choice(entry: Mapping[str, Any]) -> GateChoice:
    """What a gate was chosen on. Raises TypeError where a value is of another kind."""
    choice = GateChoice(**entry)
    numbers = [each for each in (choice.low, choice.high, choice.unreached) if each is not None]
    counts = [choice.n, *([] if choice.groups is None else [choice.groups])]
    # By type, because True and False are integers too.
    if not all(type(each) in (int, float) for each in numbers) or not all(type(each) is int for each in counts):
        raise TypeError("fitted_on holds something other than numbers")
    return choice


def _share(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no share from 0 to 1")
    return float(value)


def _read_limit(value: Any) -> float:
    words = {"never": -math.inf, "always": math.inf}
    limit = words[value] if isinstance(value, str) else float(value)
    if math.isnan(limit):
        raise ValueError("a limit is NaN")
    return limit
