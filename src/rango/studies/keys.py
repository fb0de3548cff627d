"""The dotted keys of a study: which there are, their defaults, and nested mappings as dotted keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rango.config import merge
from rango.studies.adaptation import AdaptationOptions
from rango.training.options import FinetuneConfig


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
