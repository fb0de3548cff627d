"""What holds of every configuration: each number that a user gives is finite."""

from __future__ import annotations

import importlib
import math
import pkgutil
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

import rango
from rango.config import Config, underscored
from rango.errors import InputError


def kinds(parent: type[Config] = Config) -> Iterator[type[Config]]:
    for kind in parent.__subclasses__():
        if kind.__module__.startswith("rango."):
            yield kind
        yield from kinds(kind)


def parts(annotation: Any) -> set[Any]:
    """The plain types in an annotation."""
    inner = typing.get_args(annotation)
    return set().union(*map(parts, inner)) if inner else {annotation} if isinstance(annotation, type) else set()


def numbers() -> list[tuple[type[Config], str]]:
    """Every field of the project that takes a number with a fraction, where it is declared."""
    for module in pkgutil.walk_packages(rango.__path__, "rango."):
        if module.name.endswith("options") or module.name.rpartition(".")[2] in ("task", "search"):
            importlib.import_module(module.name)
    return sorted(
        {
            (kind, name)
            for kind in kinds()
            for name, field in kind.model_fields.items()
            if name in kind.__annotations__ and float in parts(field.annotation)
        },
        key=lambda found: (found[0].__name__, found[1]),
    )


NUMBERS = numbers()


def test_the_numbers_are_found() -> None:
    assert {"learning_rate", "alpha", "temperature", "threshold", "discount"} <= {name for _, name in NUMBERS}


@pytest.mark.parametrize(("kind", "name"), NUMBERS, ids=[f"{kind.__name__}.{name}" for kind, name in NUMBERS])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_number_that_is_not_finite_is_refused(kind: type[Config], name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as refusal:
        kind.model_validate({name: value})
    assert name in str(refusal.value)


def test_two_spellings_are_refused_at_any_depth() -> None:
    assert underscored({"a-b": {"c-d": 1}, "e": [1]}, where="x") == {"a_b": {"c_d": 1}, "e": [1]}
    with pytest.raises(InputError, match="x: c_d stands twice, spelt with - and with _; keep one of them"):
        underscored({"a": {"c_d": 1, "c-d": 1}}, where="x")
