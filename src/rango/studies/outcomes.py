"""What a study leaves for its tables and figures: posteriors on test for each configuration and seed, no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rango.decisions import Posteriors

ADAPTATION, TASK = "adaptation", "task"
"""Axes with a meaning of their own: configurations of one task are compared, `adaptation: none` is the base model."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """One configuration of a study with what each of its seeds gave on test."""

    axes: Mapping[str, object]
    """Axis (a dotted key, such as "lora.targets") → value, in the study's order."""
    posteriors: Mapping[int, Posteriors]
    """Seed → posteriors on test; an ensemble has one entry, a configuration of which every seed failed has none."""
    floor: Posteriors | None = None
    """The true posterior of the same instances, where it is known."""
    logs: Mapping[int, tuple[dict[str, Any], ...]] = field(default_factory=dict)
    """Seed → records of log.jsonl; empty where nothing was trained."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """Numbers beside the metrics: trainable_parameters, seconds, held_out_nats_per_token."""
    failures: Mapping[int, str] = field(default_factory=dict)
    """Seed → why it has no posteriors, in words."""


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


def axis_text(value: object) -> str:
    """A value of an axis as a person writes it on the command line.

    >>> axis_text(("q", "v")), axis_text(2e-4), axis_text(None), axis_text(True), axis_text({"rank": 8})
    ('q,v', '0.0002', 'none', 'true', 'rank 8')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {axis_text(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(axis_text(inner) for inner in (sorted(value, key=str) if isinstance(value, set) else value))
    return str(value)


def axis_names(configurations: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    """Every axis, in the order in which it is first seen."""
    return tuple(dict.fromkeys(name for axes in configurations for name in axes))


def varied_axes(configurations: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    """The axes with more than one value; an axis that a configuration lacks counts as `none` there."""
    return tuple(
        name for name in axis_names(configurations) if len({axis_text(axes.get(name)) for axes in configurations}) > 1
    )


def is_base(axes: Mapping[str, object]) -> bool:
    """Whether a configuration is the model as it came."""
    return axes.get(ADAPTATION) == "none"


def belongs(reference: Reference, task: object) -> bool:
    """Whether a reference stands beside the configurations of a task: it names that task, or there is none to name."""
    stated = reference.where.get(TASK)
    return stated is None or task is None or axis_text(stated) == axis_text(task)


def logged(outcome: Outcome) -> Iterator[tuple[int, tuple[dict[str, Any], ...]]]:
    """The seeds that have a log, with it."""
    return ((seed, records) for seed, records in outcome.logs.items() if records)
