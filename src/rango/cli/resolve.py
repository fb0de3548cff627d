"""From flags and a YAML file to one checked configuration: the file's keys are the flags' names, flags win."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from rango.config import Config, merge
from rango.errors import InputError
from rango.files import read_yaml

C = TypeVar("C", bound=Config)


def resolve(kind: type[C], file: Path | None, flags: BaseModel | None, **named: Any) -> tuple[C, dict[str, Any]]:
    """Build `kind` from a YAML file and flags.

    Args:
        kind: the configuration to build.
        file: YAML with the same keys as the flags, `-` or `_` between words; None for none.
        flags: what was given on the command line (only its set fields count).
        **named: arguments with a place of their own (model, task, out, ...); None for not given.

    Returns:
        The configuration, and the named values that are not among its fields (such as `out`).

    Raises:
        InputError: an unknown key, a bad value, or a named value that is given nowhere.
    """
    given = {name: value for name, value in named.items() if value is not None}
    overrides = {**(flags.model_dump(exclude_unset=True) if flags is not None else {}), **given}
    values = merge(_with_underscores(read_yaml(file)) if file is not None else {}, overrides)
    for name in named:
        if values.get(name) is None:
            kind_of = "" if name in ("model", "task", "texts") else "--"
            shown = name.upper() if not kind_of else name
            raise InputError(f"{kind_of}{shown} is missing; give it on the command line or as `{name}:` in --config")
    apart = {name: values.pop(name) for name in named if name not in kind.model_fields}
    return kind.build(values, where=str(file) if file is not None else "command line"), apart


def _with_underscores(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(key).replace("-", "_"): _with_underscores(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
    }
