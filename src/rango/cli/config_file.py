"""`--config FILE.yaml`: a file gives what flags give, under the same names; flags win. And what both are checked for.

cyclopts puts the values into a command's arguments. By itself it would stop at the first mistake, take a number for a
text and the last of two spellings of a key, so the file is checked as a whole before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from cyclopts import App, Argument, ArgumentCollection
from cyclopts.config import Dict

from rango.errors import InputError
from rango.files import read_yaml


@dataclass(frozen=True)
class ConfigFile:
    """The values of a YAML file; cyclopts calls it for the arguments of the command that runs."""

    path: Path

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Give every argument that the command line leaves open the file's value.

        Raises:
            InputError: unknown keys, two spellings of one, values of the wrong kind; all of them at once.
        """
        from pydantic import create_model

        from rango.config import Config, underscored

        values = underscored(read_yaml(self.path), where=str(self.path))
        fields: dict[str, Any] = {}
        for argument in arguments:
            if argument.keys:
                continue  # a field of a model, which is taken as a whole
            if isinstance(argument.hint, type) and issubclass(argument.hint, Config):
                fields |= {name: _optional(f.annotation, f.metadata) for name, f in argument.hint.model_fields.items()}
                continue
            key = argument.name.lstrip("-").replace("-", "_")
            fields[key] = _optional(argument.hint)
            if key in values:
                values[key] = _as_flag(values[key], argument)
        # One model of all that the command takes finds every mistake of the file in one pass.
        create_model("File", __base__=Config, **fields).build(values, where=str(self.path))
        Dict(values, source=str(self.path), use_commands_as_keys=False)(app, commands, arguments)


def check_arguments(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Check what a command was given before it is converted.

    Raises:
        InputError: everything that neither the command line nor the file gives, and every flag whose number Python or
            cyclopts would read as another than a person would: 1_0 and 0xA as 10, 2.5 instances as 2.
    """
    mistakes = []
    for argument in arguments:
        kinds = set(get_args(argument.hint) or (argument.hint,))
        for token in argument.tokens:
            if token.source != "cli":
                continue  # of the file, which is checked as a whole
            if int in kinds and not re.fullmatch("[+-]?[0-9]+", token.value):
                mistakes.append(f"{argument.name} is {token.value!r}; expected a whole number in plain digits")
            elif float in kinds and re.search("[^-+.0-9a-zA-Z]", token.value):
                mistakes.append(f"{argument.name} is {token.value!r}; expected a number in plain digits, such as 0.5")
        if argument.children or not argument.required or argument.has_tokens:
            continue
        key = argument.name.lstrip("-")
        shown = argument.name if argument.index is None else key.upper()
        mistakes.append(f"{shown} is missing; give it on the command line or as `{key}:` in --config")
    if mistakes:
        raise InputError(*mistakes)


def _optional(annotation: Any, metadata: Iterable[Any] = ()) -> Any:
    """A field that may be absent: what the file lacks, a flag may give, and `check_arguments` looks at both."""
    from pydantic import Field

    return Annotated[(annotation, *metadata, Field(validate_default=False))], None


def _as_flag(value: Any, argument: Argument) -> Any:
    """A value as its flag takes it: a list for a text with commas between, a single value for a list of one."""
    kinds = {get_origin(kind) or kind for kind in (get_args(argument.hint) or (argument.hint,))}
    if get_origin(argument.hint) in (list, tuple):
        return value if isinstance(value, list) else [value]
    if str in kinds and isinstance(value, list):
        return ",".join(map(str, value))
    # Costs are a text on the command line and a mapping in every other file.
    if str in kinds and argument.name == "--costs" and isinstance(value, dict):
        return json.dumps(value)
    return str(value) if str in kinds and type(value) in (int, float) else value
