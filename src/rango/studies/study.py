"""A study: a base configuration, what is varied or searched, seeds, and which metric selects.

base ──┐                                 ┌─▶ × seeds ──▶ runs
runs ──┼─▶ combinations: dotted axes ────┤
vary ──┘   (or the trials of a search)   └─▶ rows of the table
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    Tag,
    ValidationError,
)

from rango.config import Config, Seed, faulty_fields, mistakes
from rango.decisions import METRICS
from rango.decisions.stated_costs import StatedCosts
from rango.errors import InputError, unknown_name
from rango.options import Selection
from rango.showing import Grid, Shown, count
from rango.studies.axes import TASK, axis_text, dotted_items, flatten, known_keys
from rango.studies.pretrained_models import ModelSpec
from rango.training.loggers import parse_loggers

StatedCost = Annotated[StatedCosts, PlainValidator(StatedCosts.of), PlainSerializer(StatedCosts.as_dict)]
"""Costs as a field of a study and of its plan: a path is read at once, so that the file is not needed again."""

Axes = Mapping[str, Any]
"""Dotted key -> value: what distinguishes one configuration of a study from another."""


@dataclass(frozen=True)
class Reference:
    """A figure that a source states, shown beside what was measured and never mixed with it."""

    name: str
    """The system, such as "phi-2 adapted"."""
    where: Mapping[str, object]
    """Axes it belongs to, such as the task."""
    metric: str
    """Name of the metric, such as "accuracy"."""
    value: float
    source: str
    """Who states it."""


def belongs(reference: Reference, task: object) -> bool:
    """Whether a reference stands beside the configurations of a task: it names that task, or there is none to name."""
    stated = reference.where.get(TASK)
    return stated is None or task is None or axis_text(stated) == axis_text(task)


class Range(Config):
    """Numbers between two ends, both included. Two whole ends make whole numbers."""

    low: int | float
    """The smallest value."""
    high: int | float
    """The largest value."""
    log: bool = False
    """Whether equal ratios, instead of equal differences, are equally likely at first."""

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def rounded(self, value: float) -> int | float:
        """A value as a person would write it: whole, or with four digits, and still within the range."""
        if self.whole:
            return int(value)
        return min(max(float(f"{value:.4g}"), float(self.low)), float(self.high))


def _range_or_choice(value: Any) -> str:
    return "range" if isinstance(value, Mapping | Range) else "choice"


SearchAxis = Annotated[
    Annotated[Range, Tag("range")] | Annotated[tuple[Any, ...], Tag("choice")],
    Discriminator(_range_or_choice),
]


class Search(Config):
    """How the configurations of a study are chosen, one after the other."""

    trials: Annotated[int, Field(ge=1)] = 20
    """Configurations to try, each once; fewer where the space holds no more."""
    sampler: Literal["tpe", "random"] = "tpe"
    """tpe (ten random ones, then where good ones are dense and bad ones are rare) or random."""
    seed: Seed = 0
    """Seed of the choices."""
    prune: bool = True
    """End a run whose best validation so far is worse than the median of the earlier ones' at the same step, once five
    have come to their end."""
    space: Mapping[str, SearchAxis] = {}
    """Dotted key -> `{low, high, log}`, or a list to choose from."""

    def corners(self) -> Iterator[dict[str, Any]]:
        """Every end and every choice of each axis once, the other axes at their first."""
        ends = {name: (axis.low, axis.high) if isinstance(axis, Range) else axis for name, axis in self.space.items()}
        first = {name: values[0] for name, values in ends.items()}
        for name, values in ends.items():
            for value in values:
                yield {**first, name: value}

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every configuration of the space, the last axis fastest; none where an axis has no countable values."""
        axes = {
            name: range(int(axis.low), int(axis.high) + 1) if isinstance(axis, Range) else axis
            for name, axis in self.space.items()
            if not isinstance(axis, Range) or axis.whole
        }
        if len(axes) < len(self.space):
            return
        # By number: itertools.product would hold all values of a wide range at once.
        for number in range(math.prod(map(len, axes.values()))):
            chosen, rest = {}, number
            for name, values in reversed(axes.items()):
                rest, place = divmod(rest, len(values))
                chosen[name] = values[place]
            yield {name: chosen[name] for name in axes}


def _check_seeds(value: Any) -> Any:
    values = (value,) if isinstance(value, int) else value
    if isinstance(values, list | tuple):
        # pydantic would take true for 1.
        if any(isinstance(seed, bool) for seed in values):
            raise ValueError(f"{list(values)} are no seeds; give whole numbers, such as [0, 1, 2]")
        if len(set(map(str, values))) < len(values):
            raise ValueError(f"{list(values)} has one seed twice; give each once")
    return values


def _check_name(value: str) -> str:
    if not value.strip() or value.startswith(".") or set(value) & set("/\\\0"):
        raise ValueError(f"{value!r} cannot name a folder; give a word, such as placement")
    return value


def check_metrics(names: Any) -> Any:
    """Check what stands under `metrics:`, a name or a list.

    Raises:
        InputError: an unknown name, or one that stands there twice.
    """
    # Anything but names is left to pydantic, which says what it expects.
    listed = [names] if isinstance(names, str) else names
    for name in listed if isinstance(listed, list | tuple) else ():
        if name not in METRICS:
            raise unknown_name("metric", str(name), METRICS)
        if listed.count(name) > 1:
            raise InputError(f"{name} is named twice; name each metric once")
    return listed


_MEANT = {
    **dict.fromkeys(("axes", "axis", "grid", "sweep", "parameters"), "vary"),
    **dict.fromkeys(("configurations", "variants", "configs"), "runs"),
    "metric": "select",
}
"""Words that others use for the fields of a study, too unlike them to be found by their letters."""


def _misplaced(key: str) -> str:
    """What is wrong with a key that is no field of a study, if it is a run's or another word for a field; else ""."""
    if key in _MEANT:
        return f"unknown key {key!r}: did you mean {_MEANT[key]!r}?"
    if key == "seed":
        return "unknown key 'seed': did you mean 'seeds'? It is a list, such as [0, 1, 2]"
    known = known_keys()
    full = next((name for name in known if name == key or name.startswith(f"{key}.") or name.endswith(f".{key}")), None)
    if full is None:
        return ""
    return f"{key} belongs under `base:`" + (f", as {full}" if full.endswith(f".{key}") else "")


class Study(Shown, Config):
    """A study: every combination of `runs` and `vary`, each with every seed, on top of `base`."""

    name: Annotated[str, AfterValidator(_check_name)]
    """A word for the study, used in titles."""
    about: str = ""
    """The question that it answers, in a sentence."""
    base: Mapping[str, Any] = {}
    """Keys of `rango finetune`, and `adaptation`, `members`, `samples`, `calibrator`."""
    vary: Mapping[str, tuple[Any, ...]] = {}
    """Dotted key -> its values: a grid."""
    runs: tuple[Mapping[str, Any], ...] = ()
    """Listed differences from the base, where a grid would hold combinations that nobody wants."""
    search: Search | None = None
    """Instead of vary and runs: each next configuration is chosen by what the earlier ones gave on validation."""
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_check_seeds), Field(min_length=1)] = (0,)
    """Seeds of each configuration."""
    select: Selection = "nce"
    """The metric that marks the best configuration."""
    metrics: Annotated[tuple[str, ...], BeforeValidator(check_metrics)] = ()
    """Metrics that tables and figures show first, in this order; the usual ones follow where there is room."""
    costs: StatedCost | None = None
    """What decisions cost: the path of a costs file, its content, or `abstain: COST` (also written `abstain=COST`)."""
    log_to: Annotated[tuple[str, ...], BeforeValidator(parse_loggers)] = ()
    """What shows the runs while they train, grouped by the study: a list among tensorboard, wandb, mlflow, trackio."""
    models: Mapping[str, Annotated[ModelSpec, BeforeValidator(ModelSpec.flat)]] = {}
    """Small language models to pre-train first; `model: NAME` in the base means one of them."""
    references: tuple[Reference, ...] = ()
    """Figures from elsewhere to show beside the study's."""

    @classmethod
    def build(cls, values: Mapping[str, Any], *, where: str = "configuration") -> Self:
        """Check a mapping. Wrong fields are refused together with what is wrong with keys elsewhere."""
        misplaced = {key: words for key in values if key not in cls.model_fields and (words := _misplaced(key))}
        of_fields, faulty = list(misplaced.values()), set(misplaced)
        try:
            study = cls.model_validate({key: value for key, value in values.items() if key not in misplaced})
        except ValidationError as error:
            # A file has the keys of `rango pretrain` beside a model's own, not under `options`.
            lines = mistakes(error, where="" if misplaced else where, model=cls)
            of_fields += [line.replace(".options.", ".") for line in lines]
            faulty |= faulty_fields(error)
        if not faulty:
            return study
        if misplaced:
            of_fields[0] = f"{where}: {of_fields[0]}"
        # Whatever is sound among the fields has keys, in which mistakes are looked for too.
        rest = cls.model_validate({"name": "rest"} | {key: value for key, value in values.items() if key not in faulty})
        raise InputError(*of_fields, *rest.without_mistakes()[1])

    def _facts(self) -> Iterator[str]:
        yield repr(self.name)
        if self.search is not None:
            yield f"a search of {count(self.search.trials, 'trial')}"
        else:
            number = len(self.runs or ({},)) * math.prod(map(len, self.vary.values()))
            yield count(number, "configuration")
        yield count(len(self.seeds), "seed")
        yield f"select {self.select}"

    def _grid(self) -> Grid | None:
        if not self.vary:
            return None
        return Grid(
            ["varied", "values"], [[key, ", ".join(map(axis_text, values))] for key, values in self.vary.items()]
        )

    def combinations(self) -> Iterator[Axes]:
        """The axes' values of each configuration, listed ones outermost; of a search, the ends of its space."""
        if self.search is not None:
            yield from self.search.corners()
            return
        grid = [dict(zip(self.vary, values, strict=True)) for values in itertools.product(*self.vary.values())]
        for listed in self.runs or ({},):
            for values in grid:
                yield {**flatten(listed), **values}

    @property
    def axes(self) -> tuple[str, ...]:
        """The keys that vary, in the order of the file."""
        if self.search is not None:
            return tuple(self.search.space)
        # The axes of the list first, as its runs are outermost in the table.
        listed = [key for run in self.runs for key in flatten(run)]
        return tuple(dict.fromkeys([*listed, *self.vary]))

    def without_mistakes(self) -> tuple[Self, list[str]]:
        """One pass over all keys: the study without the wrong ones, and a line for each mistake.

        What is kept can be planned, so that wrong values, tasks and models are reported together with wrong keys.
        """
        known, lines = known_keys(), []

        # Each check adds its line, whatever else is wrong with the key.
        def is_known(place: str, key: str) -> bool:
            if key == "seed":
                lines.append(f"{place}: seed is set by `seeds`; take it out")
            elif key not in known:
                lines.append(str(unknown_name(f"key in {place}", key, known)))
            return key in known

        def known_part(place: str, values: Mapping[str, Any]) -> dict[str, Any]:
            items = list(dotted_items(values))
            counts = Counter(key for key, _ in items)
            lines.extend(f"{place}: {key} stands twice; keep one of them" for key in counts if counts[key] > 1)
            return {key: value for key, value in dict(items).items() if is_known(place, key)}

        base = known_part("base", self.base)
        runs = tuple(known_part(f"runs[{number}]", run) for number, run in enumerate(self.runs))
        # An axis of the grid needs values, and must not be listed as well: a row could not say which of the two it has.
        vary = {}
        for key, values in self.vary.items():
            in_runs = [number for number, run in enumerate(runs) if key in run]
            if not values:
                lines.append(f"vary: {key} has no values; give at least one, or take the axis out")
            if in_runs:
                lines.append(f"{key} is varied twice, in vary and in runs[{in_runs[0]}]; keep one of them")
            if is_known("vary", key) and values and not in_runs:
                vary[key] = values

        # A search stands in place of a grid, and its axes may be ranges.
        search, space = self.search, {}
        if search is not None:
            if self.vary or self.runs:
                lines.append(f"search and {'vary' if self.vary else 'runs'} are both given; a study has one of them")
            if len(self.seeds) > 1:
                lines.append(
                    f"search: seeds are {list(self.seeds)}; a search takes one; try the best with more seeds in a "
                    "grid, the same folder keeps their runs"
                )
            if not search.space:
                lines.append("search: space is empty; give at least one axis")
            for key, axis in search.space.items():
                if is_known("search.space", key) and axis:
                    space[key] = axis
                if not axis:
                    lines.append(f"search: {key} has no values; give at least one, or take the axis out")
                if not isinstance(axis, Range):
                    continue
                if axis.low > axis.high:
                    lines.append(f"search: {key} has low {axis.low} above high {axis.high}; exchange them")
                elif axis.log and axis.low <= 0:
                    lines.append(
                        f"search: {key} is on a logarithmic scale from {axis.low}; give a low above 0, or take log out"
                    )
            search = search.model_copy(update={"space": space})

        # References and metrics name what they belong to; they change no run, so all are kept.
        for reference in self.references:
            if reference.metric not in METRICS:
                lines.append(str(unknown_name(f"metric of reference {reference.name!r}", reference.metric, METRICS)))
            for key in reference.where:
                if key not in known:
                    lines.append(str(unknown_name(f"key in where of reference {reference.name!r}", key, known)))
        costly = [name for name in self.metrics if METRICS[name].needs_costs]
        if costly and self.costs is None:
            lines.append(f"metrics has {costly[0]} but there are no costs; give costs, such as {{abstain: 0.3}}")
        kept = {"base": base, "runs": runs, "vary": vary, "search": search}
        return self.model_copy(update=kept), lines
