"""The base of every configuration: typed, frozen, strict about unknown keys, all mistakes at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from rango.errors import InputError, unknown_name
from rango.files import read_yaml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""A seed: every random generator takes these."""

_KEY = "[key]"  # in pydantic's paths: what is wrong is the key before it, not its value
# Parts of pydantic's paths that are no keys, but say which of several types the value was compared with.
_TYPES = {
    _KEY,
    *("range", "choice", "int", "float", "str", "bool", *(f"constrained-{t}" for t in ("int", "float", "str"))),
}
_EXPECTED = {
    **dict.fromkeys(("tuple_type", "list_type"), "expected a list, such as [8]"),
    **dict.fromkeys(
        ("mapping_type", "dict_type", "model_type", "model_attributes_type"),
        "expected keys and values, such as {rank: 8}",
    ),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "expected a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "expected a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
    "string_type": "expected a text",
    "path_type": "expected a path, as text",
}


class Config(BaseModel):
    """A frozen pydantic model. A docstring under a field is its help text, on the command line too."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="wrap")
    @classmethod
    def _plain_numbers(cls, value: Any, read: ValidatorFunctionWrapHandler) -> Any:
        """Refuse `1_0e-1`, which pydantic reads as Python would: 1.0."""
        result = read(value)
        lists = isinstance(value, list | tuple) and isinstance(result, tuple)
        for text, number in zip(value, result, strict=False) if lists else ((value, result),):
            if isinstance(text, str) and "_" in text and isinstance(number, int | float):
                raise ValueError(f"{text!r} is no number; write numbers without _")
        return result

    @classmethod
    def build(cls, values: Mapping[str, Any], *, where: str = "configuration") -> Self:
        """Check a mapping once, at the boundary.

        Raises:
            InputError: every mistake on one line, naming the key, the value and what was expected.
        """
        if not isinstance(values, Mapping):  # JSON may hold anything
            raise InputError(f"{where} holds a {type(values).__name__}; expected keys and values")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise InputError(*mistakes(error, where=where, model=cls)) from None

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read a YAML file with this model's keys; errors as in `build`."""
        return cls.build(read_yaml(path), where=str(path))

    @classmethod
    def __pydantic_init_subclass__(cls, **_options: Any) -> None:
        # The command line reads this: what must be given needs no flag; all else is a flag unless its field says so.
        for field in cls.model_fields.values():
            field.kw_only = not field.is_required() and field.kw_only is not False


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
    renamed: dict[Any, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_") if isinstance(key, str) else key
        if name in renamed:
            raise InputError(f"{where}: {name} stands twice, spelt with - and with _; keep one of them")
        renamed[name] = underscored(value, where=where) if isinstance(value, Mapping) else value
    return renamed


def mistakes(error: ValidationError, *, where: str = "", model: type[BaseModel] | None = None) -> list[str]:
    """Put every mistake that pydantic reports into words, with `where` before the first.

    With `model`, the configuration that was checked, an unknown key comes with its nearest name.
    """
    errors = error.errors(include_url=False)
    # A value that fits none of several types is reported once for each; the last report stands for all.
    by_key = {".".join(str(part) for part in each["loc"] if str(part) not in _TYPES): each for each in errors}
    if len(by_key) == 1 and errors[-1]["type"] == "extra_forbidden":
        return [_unknown_key(errors[-1], next(iter(by_key)), place=f"key in {where}" if where else "key", model=model)]
    first, *rest = dict.fromkeys(_mistake(each, key, model=model) for key, each in by_key.items())
    return [f"{where}: {first}" if where else first, *rest]


def faulty_fields(error: ValidationError) -> set[str]:
    """The outermost keys whose values are wrong."""
    return {str(each["loc"][0]) for each in error.errors(include_url=False) if each["loc"]}


def _mistake(error: ErrorDetails, key: str, *, model: type[BaseModel] | None) -> str:
    if error["type"] == "extra_forbidden":
        return _unknown_key(error, key, place="key", model=model)
    if error["type"] == "missing":
        return f"{key} is missing; give it a value"
    if _KEY in error["loc"]:
        return f"{key.rpartition('.')[0]}: the key {error['input']!r} is not a word; put it in quotes"
    if error["type"] == "too_short":
        return f"{key} is {error['input']!r}: expected at least {error['ctx']['min_length']}"
    message = _EXPECTED.get(error["type"]) or error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if error["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        if near := difflib.get_close_matches(str(error["input"]), known, n=1):
            message = f"{message}; did you mean {near[0]!r}?"
    if error["type"] == "value_error":  # of a validator of ours, which may name key and value itself
        return message if not key or message.startswith(f"{key} ") else f"{key}: {message}"
    return f"{key or 'value'} is {error['input']!r}: {message}"


def _unknown_key(error: ErrorDetails, key: str, *, place: str, model: type[BaseModel] | None) -> str:
    owner = _model_at(model, [str(part) for part in error["loc"][:-1]]) if model is not None else None
    parents = key.rpartition(".")[0]
    known = [f"{parents}.{name}" if parents else name for name in owner.model_fields] if owner is not None else []
    return str(unknown_name(place, key, known))


def _model_at(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    """The model to which the last key of a path belongs; None where a path leads through something else."""
    at: Any = model
    for part in path:
        if isinstance(at, type) and issubclass(at, BaseModel):
            field = at.model_fields.get(part)
            at = field.annotation if field else None
        else:  # a key of a mapping, or a place in a list
            at = get_args(at)[-1] if get_args(at) else None
        at = _nested(at)
    return at if isinstance(at, type) and issubclass(at, BaseModel) else None


def _nested(annotation: Any) -> Any:
    """An annotation without Annotated and None; of several types the one that is a model."""
    if hasattr(annotation, "__metadata__"):
        return _nested(annotation.__origin__)
    if get_origin(annotation) in (Union, UnionType):
        inner = [_nested(each) for each in get_args(annotation)]
        return next((each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)), inner[0])
    return annotation
