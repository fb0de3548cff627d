"""The base of every configuration: typed, frozen, strict about unknown keys, one line per mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rango.errors import InputError, unknown_name
from rango.files import read_yaml

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """A frozen pydantic model. A docstring under a field is its help text, on the command line too."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

    @classmethod
    def build(cls, values: Mapping[str, Any], *, where: str = "configuration") -> Self:
        """Check a mapping once, at the boundary.

        Raises:
            InputError: the first mistake on one line, naming the key, the value and what was expected.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise InputError(one_line(error, where=where, model=cls)) from None

    def pick(self, kind: type[C]) -> C:
        """The fields that belong to `kind`, a configuration that this one contains."""
        return kind.model_validate({name: getattr(self, name) for name in kind.model_fields})

    @classmethod
    def from_yaml(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a YAML file with this model's keys; `overrides` (nested like the file) win."""
        values = merge(read_yaml(path), overrides or {})
        return cls.build(values, where=str(path))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, key by key, into nested mappings.

    >>> merge({"lora": {"rank": 4, "alpha": 8}, "seed": 0}, {"lora": {"rank": 2}})
    {'lora': {'rank': 2, 'alpha': 8}, 'seed': 0}
    """
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def underscored(values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The keys of a file with `_` for `-`, in nested mappings too.

    >>> underscored({"learning-rate": 0.01, "lora": {"rank": 2}}, where="a.yaml")
    {'learning_rate': 0.01, 'lora': {'rank': 2}}

    Raises:
        InputError: two spellings of one key.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name in found:
            raise InputError(f"{where}: {name} stands twice, spelt with - and with _; keep one of them")
        found[name] = underscored(value, where=where) if isinstance(value, Mapping) else value
    return found


def one_line(error: ValidationError, *, where: str, model: type[BaseModel] | None = None) -> str:
    """The first mistake that pydantic found, on one line; with `model`, an unknown key gets its nearest valid name."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path) or "value"
    if first["type"] == "extra_forbidden":
        owner = _model_at(model, path[:-1]) if model is not None else None
        prefix = "".join(f"{part}." for part in path[:-1])
        known = [prefix + name for name in owner.model_fields] if owner is not None else []
        return str(unknown_name(f"key in {where}", key, known))
    if first["type"] == "missing":
        return f"{where}: {key} is missing; give it a value"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if first["type"] == "value_error":
        return f"{where}: {key}: {message}" if path else f"{where}: {message}"
    return f"{where}: {key} is {first['input']!r}: {message}"


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    for part in path:
        field = model.model_fields.get(part)
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not nested:
            break
        model = nested[0]
    return model
