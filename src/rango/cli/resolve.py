"""From flags and a YAML file to one checked configuration: the file's keys are the flags' names, flags win."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from rango.config import Config, merge, underscored
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
        The configuration, and the named values that are not among its fields: `out`, a path, and `texts`, a list of
        paths (the file may name a single one).

    Raises:
        InputError: an unknown key, one in two spellings, a bad value, or a named value that is given nowhere.
    """
    given = {name: value for name, value in named.items() if value is not None}
    overrides = {**(flags.model_dump(exclude_unset=True) if flags is not None else {}), **given}
    where = "command line" if file is None else str(file)
    values = merge(_read(file) if file is not None else {}, overrides)
    for name in named:
        if values.get(name) is None:
            kind_of = "" if name in ("model", "task", "texts", "prompt") else "--"
            shown = name.upper() if not kind_of else name
            raise InputError(f"{kind_of}{shown} is missing; give it on the command line or as `{name}:` in --config")
    apart = {
        name: _KINDS[name](values.pop(name), name=name, where=where) for name in named if name not in kind.model_fields
    }
    return kind.build(values, where=where), apart


def _read(file: Path) -> dict[str, Any]:
    return {str(key): value for key, value in underscored(read_yaml(file), where=str(file)).items()}


def _as_path(value: Any, *, name: str, where: str) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise InputError(f"{where}: {name} is {value!r}; expected a path, as text")
    return Path(value)


def _as_paths(value: Any, *, name: str, where: str) -> list[Path]:
    values = value if isinstance(value, list | tuple) else [value]
    return [_as_path(one, name=name, where=where) for one in values]


_KINDS = {"out": _as_path, "texts": _as_paths}


def with_file(arguments: list[str], positional: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The arguments of a small command with those of its `--config FILE.yaml` put in; what is given already wins.

    Args:
        arguments: a command and its arguments.
        positional: for each such command, the keys of the file that have a place instead of a flag.

    >>> with_file(["demo", "--seed", "1"], {"demo": ()})
    ['demo', '--seed', '1']

    Raises:
        InputError: the file cannot be read, or `--config` has no file.
    """
    at = next((at for at, argument in enumerate(arguments) if argument.partition("=")[0] == "--config"), None)
    if at is None or arguments[0] not in positional:
        return arguments
    _, sign, file = arguments[at].partition("=")
    rest = arguments[at + 1 :]
    if not sign and rest:
        file, *rest = rest
    if not file:
        raise InputError("--config has no file; give the path of a YAML file")
    command, given = arguments[0], [*arguments[1:at], *rest]
    there = {argument.partition("=")[0] for argument in given}
    values = _read(Path(file))
    places = [str(values.pop(name)) for name in positional[command] if name in values]
    flags: list[str] = []
    for key, value in values.items():
        flag = f"--{key.replace('_', '-')}"
        if flag in there or value is None or value is False:
            continue
        flags += (
            [flag] if value is True else [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
        )
    # Places on the command line stand first and win; those of the file count only when there are none.
    has_places = bool(given) and not given[0].startswith("-")
    return [command, *([] if has_places else places), *given, *flags]
