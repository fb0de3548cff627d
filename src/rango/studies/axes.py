"""The axes of a study: dotted keys, their values as text, and what a configuration is called beside others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rango.config import merge
from rango.options import AdaptationOptions, FinetuneConfig

ADAPTATION, TASK = "adaptation", "task"
"""Axes with a meaning of their own: configurations of one task are compared, `adaptation: none` is the base model."""


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


THE_ONE = "the configuration"
"""What a configuration is called where there is no other."""


def short_name(axis: str, axes: Sequence[str]) -> str:
    """An axis as a heading: the last part of its dotted key, unless another axis ends alike.

    >>> short_name("lora.rank", ["lora.rank", "seed"]), short_name("a.rank", ["a.rank", "b.rank"])
    ('rank', 'a.rank')
    """
    last = axis.rpartition(".")[2]
    alike = [name for name in axes if name.rpartition(".")[2] == last]
    return last.replace("_", " ") if len(alike) <= 1 else axis


@dataclass(frozen=True, eq=False)
class Names:
    """What the configurations of a study are called in a sentence or legend.

    The values of the axes that vary, without the task, each with its axis's name before it where it does not explain
    itself. What follows from the adaptation is left out: full fine-tuning's own learning rate, and that what has no
    calibrator has none.
    """

    among: Sequence[Mapping[str, object]]
    """The axes of every configuration."""

    def of(self, axes: Mapping[str, object], *, without: Sequence[str] = ()) -> str:
        """The name of one of them; `without` names axes to leave out."""
        base = is_base(axes)
        told = set(self._of_bases if base else self._of_adapted)
        if not base and (of_base := set(self._of_bases) - set(self._of_adapted) - {TASK}):
            told |= {*of_base, ADAPTATION}  # of several bases only one was adapted
        told -= {TASK, *without, *self.follows}
        if ADAPTATION in told:
            told -= self._absent[axis_text(axes.get(ADAPTATION))]
        names = tuple(name for name in self._axes if name in told)
        parts = ["base model"] if base else []
        for name in names:
            value = axes.get(name)
            explained = isinstance(value, str | list | tuple)
            parts.append(axis_text(value) if explained else f"{short_name(name, names)} {axis_text(value)}")
        return ", ".join(parts) if parts else axis_text(axes.get(ADAPTATION, THE_ONE))

    @cached_property
    def follows(self) -> dict[str, dict[str, object]]:
        """The varied axes of which each adaptation has one value: axis → adaptation → value."""
        found: dict[str, dict[str, object]] = {}
        for name in varied_axes(self.among):
            values = {axis_text(axes.get(ADAPTATION)): axes.get(name) for axes in self.among}
            pairs = {(axis_text(axes.get(ADAPTATION)), axis_text(axes.get(name))) for axes in self.among}
            if name not in (ADAPTATION, TASK) and len(pairs) == len(values):
                found[name] = values
        return found

    @cached_property
    def _axes(self) -> tuple[str, ...]:
        return axis_names(self.among)

    @cached_property
    def _of_bases(self) -> tuple[str, ...]:
        return varied_axes([axes for axes in self.among if is_base(axes)])

    @cached_property
    def _of_adapted(self) -> tuple[str, ...]:
        # Where all that is adapted is adapted alike, saying so each time says nothing.
        return varied_axes([axes for axes in self.among if not is_base(axes)])

    @cached_property
    def _absent(self) -> dict[str, set[str]]:
        """For each adaptation the axes that mean nothing to it."""
        found: dict[str, set[str]] = {}
        for axes in self.among:
            absent = {name for name in self._axes if axes.get(name) is None}
            adaptation = axis_text(axes.get(ADAPTATION))
            found[adaptation] = found.get(adaptation, absent) & absent
        return found


def known_keys() -> list[str]:
    """Every dotted key that a base or an axis may name; `seed` is set by `seeds`."""
    return sorted({*_dotted(FinetuneConfig), *AdaptationOptions.model_fields} - {"seed"})


def field_of(key: str) -> FieldInfo:
    """The field of a configuration that a dotted key names."""
    kind: type[BaseModel] = AdaptationOptions if key in AdaptationOptions.model_fields else FinetuneConfig
    *path, name = key.split(".")
    for part in path:
        kind = kind.model_fields[part].annotation  # type: ignore[assignment]
    return kind.model_fields[name]


def default_of(key: str) -> Any:
    """What a dotted key is when neither base nor axis names it; None where it must be named.

    >>> default_of("lora.rank"), default_of("adaptation"), default_of("task")
    (8, 'lora', None)
    """
    value = field_of(key).get_default()
    return None if value is PydanticUndefined else list(value) if isinstance(value, tuple) else value


def _dotted(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from _dotted(nested, f"{prefix}{name}.")
        else:
            yield prefix + name


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as dotted keys.

    >>> flatten({"lora": {"rank": 2}, "steps": 10})
    {'lora.rank': 2, 'steps': 10}
    """
    return dict(dotted_items(values))


def dotted_items(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values, a key as often as it stands."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted_items(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def unflatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings.

    >>> unflatten({"lora.rank": 2, "lora.alpha": 4})
    {'lora': {'rank': 2, 'alpha': 4}}
    """
    nested: dict[str, Any] = {}
    for key, value in values.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        nested = merge(nested, value)
    return nested
