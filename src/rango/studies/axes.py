"""The axes of a study: dotted keys, their values as text, and what a configuration is called beside others.

{lora: {rank: 8}, steps: 10}  ── flatten ──▶  {lora.rank: 8, steps: 10}  ── unflatten ──▶  the same again
"""

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


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as dotted keys.

    >>> flatten({"lora": {"rank": 2}, "steps": 10})
    {'lora.rank': 2, 'steps': 10}
    """
    return dict(dotted_items(values))


def dotted_items(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values; a key that stands both nested and dotted comes twice."""
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


def known_keys() -> list[str]:
    """Every dotted key that a base or an axis may name; `seed` is set by `seeds`."""

    def dotted(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
        for name, field in kind.model_fields.items():
            nested = field.annotation
            if isinstance(nested, type) and issubclass(nested, BaseModel):
                yield from dotted(nested, f"{prefix}{name}.")
            else:
                yield prefix + name

    return sorted({*dotted(FinetuneConfig), *AdaptationOptions.model_fields} - {"seed"})


def field_of(key: str) -> FieldInfo:
    """The field of a configuration that a dotted key names."""
    # `adaptation` is a key of both: in a study it has more values than a run.
    kind: type[BaseModel] = AdaptationOptions if key in AdaptationOptions.model_fields else FinetuneConfig
    # Down the nested models: `lora.rank` is the field `rank` of the model of `lora`.
    *path, name = key.split(".")
    for part in path:
        kind = kind.model_fields[part].annotation  # type: ignore[assignment]
    return kind.model_fields[name]


def default_of(key: str) -> Any:
    """The value of a dotted key that neither base nor axis names; None where it must be named.

    >>> default_of("lora.rank"), default_of("adaptation"), default_of("task")
    (8, 'lora', None)
    """
    value = field_of(key).get_default()
    return None if value is PydanticUndefined else list(value) if isinstance(value, tuple) else value


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


def short_name(axis: str, axes: Sequence[str]) -> str:
    """An axis as a heading: the last part of its dotted key, unless another axis ends alike.

    >>> short_name("lora.rank", ["lora.rank", "seed"]), short_name("a.rank", ["a.rank", "b.rank"])
    ('rank', 'a.rank')
    """
    last = axis.rpartition(".")[2]
    alike = [name for name in axes if name.rpartition(".")[2] == last]
    return last.replace("_", " ") if len(alike) <= 1 else axis


CENTRE = "centre"
"""The name of the configuration that each other one changes."""
# The axes whose values are known for what they are.
_EXPLAINED = (TASK, "model", ADAPTATION, "lora.targets")
# A grid of fewer axes has short names that say everything.
_FEWEST_AROUND = 4


@dataclass(frozen=True, eq=False)
class Names:
    """What the configurations of a study are called in a sentence or legend.

    A name has the values of the axes that vary, without the task, each behind its axis where it does not explain
    itself: "lora, rank 8". What follows from the adaptation is left out, such as the learning rate that only full
    fine-tuning has, or that a configuration without calibration has no calibrator. Where a study changes one thing at a
    time, a name is what differs from the first configuration, the centre.
    """

    among: Sequence[Mapping[str, object]]
    """The axes of every configuration."""

    def of(self, axes: Mapping[str, object], *, without: Sequence[str] = ()) -> str:
        """The name of one configuration; `without` names axes to leave out."""
        base = is_base(axes)
        if not base and self.centre is not None:
            named = {key for key in self._of_adapted if axis_text(axes.get(key)) != axis_text(self.centre.get(key))}
            if not named - {TASK}:
                return CENTRE
            return self._listed(axes, named - {TASK, *without}) or "the configuration"
        named = set(self._of_bases if base else self._of_adapted)
        if not base and (of_bases := set(self._of_bases) - set(self._of_adapted) - {TASK}):
            named |= {*of_bases, ADAPTATION}  # of several bases only one was adapted
        named -= {TASK, *without, *self.follows}
        if ADAPTATION in named:
            named -= self._absent[axis_text(axes.get(ADAPTATION))]
        parts = ["base model"] if base else []
        parts += filter(None, [self._listed(axes, named)])
        return ", ".join(parts) if parts else axis_text(axes.get(ADAPTATION, "the configuration"))

    def of_centre(self) -> str:
        """The values of the centre on the axes that vary, "" where there is no centre."""
        return "" if self.centre is None else self._listed(self.centre, set(self._of_adapted) - {TASK})

    def _listed(self, axes: Mapping[str, object], named: set[str]) -> str:
        names = tuple(name for name in axis_names(self.among) if name in named)
        parts = []
        for name in names:
            value = axes.get(name)
            # Beside a centre a word alone, such as "0-9" or "answer", does not say what it changes.
            explained = isinstance(value, str | list | tuple) and (self.centre is None or name in _EXPLAINED)
            parts.append(axis_text(value) if explained else f"{short_name(name, names)} {axis_text(value)}")
        return ", ".join(parts)

    @cached_property
    def centre(self) -> Mapping[str, object] | None:
        """The first adapted configuration, if many axes vary and each other one changes at most three of them."""
        adapted = [axes for axes in self.among if not is_base(axes)]
        varied = set(self._of_adapted) - {TASK}
        if len(varied) < _FEWEST_AROUND or ADAPTATION in varied:
            return None
        first = adapted[0]
        changes = [sum(axis_text(axes.get(key)) != axis_text(first.get(key)) for key in varied) for axes in adapted]
        return first if max(changes) <= 3 else None

    @cached_property
    def follows(self) -> dict[str, dict[str, object]]:
        """The varied axes of which each adaptation has one value: axis → adaptation → value."""
        values: dict[str, dict[str, object]] = {}
        for name in varied_axes(self.among):
            by_adaptation = {axis_text(axes.get(ADAPTATION)): axes.get(name) for axes in self.among}
            pairs = {(axis_text(axes.get(ADAPTATION)), axis_text(axes.get(name))) for axes in self.among}
            if name not in (ADAPTATION, TASK) and len(pairs) == len(by_adaptation):
                values[name] = by_adaptation
        return values

    @cached_property
    def _of_bases(self) -> tuple[str, ...]:
        return varied_axes([axes for axes in self.among if is_base(axes)])

    @cached_property
    def _of_adapted(self) -> tuple[str, ...]:
        # Where all that is adapted is adapted alike, its name need not repeat how.
        return varied_axes([axes for axes in self.among if not is_base(axes)])

    @cached_property
    def _absent(self) -> dict[str, set[str]]:
        """For each adaptation the axes that mean nothing to it: no configuration with it has a value there."""
        names = axis_names(self.among)
        absent: dict[str, set[str]] = {}
        for axes in self.among:
            adaptation = axis_text(axes.get(ADAPTATION))
            absent[adaptation] = absent.get(adaptation, set(names)) & {name for name in names if axes.get(name) is None}
        return absent
