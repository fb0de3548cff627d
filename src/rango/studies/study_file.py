"""Reading a study file: YAML, then its small variant `tiny`, then each `--set`, then the checks of `Study`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from rango.config import merge, underscored
from rango.errors import InputError
from rango.files import read_yaml
from rango.studies.axes import flatten, unflatten
from rango.studies.study import Study
from rango.yaml_loader import parse_yaml


def read_study(path: Path, *, tiny: bool = False, changes: Sequence[str] = ()) -> Study:
    """Read a study file. What its keys and values say is checked where it is planned, with everything else.

    Args:
        path: YAML with the fields of `Study`, and optionally `tiny`: differences that make it small.
        tiny: apply them.
        changes: `KEY=VALUE`, a field of the study or a key of its base, such as `model=runs/lm` or `seeds=[0,1]`;
            `vary.KEY=VALUES`, one axis of the grid; `search.KEY=VALUE`; or `models.NAME.KEY=VALUE`, such as
            `models.small.texts=[book.txt]`.

    Raises:
        InputError: fields that a study does not have, or of another kind; no such file.
    """
    values = _with_underscores(read_yaml(path), where=str(path))
    small = values.pop("tiny", None)
    if tiny:
        if not isinstance(small, Mapping):
            raise InputError(f"{path} has no `tiny:` block; run the whole study, or add the differences that shrink it")
        values = _replace(values, small)
    for change in changes:
        values = _change(values, change)
    values.setdefault("name", path.stem)
    return Study.build(values, where=str(path))


def _with_underscores(values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The keys of a run's configuration with `_` for `-`, so that a change finds the key that it changes."""
    result = dict(values)
    for key, value in values.items():
        if key in ("base", "vary") and isinstance(value, Mapping):
            result[key] = underscored(value, where=where)
        elif key == "tiny" and isinstance(value, Mapping):
            result[key] = _with_underscores(value, where=where)
        elif key == "runs" and isinstance(value, list):
            result[key] = [underscored(run, where=where) if isinstance(run, Mapping) else run for run in value]
    return result


def _replace(
    values: Mapping[str, Any], over: Mapping[str, Any], *, merged: Collection[str] = ("base", "models")
) -> dict[str, Any]:
    """`over` on top of `values`: the fields of `merged` key by key, other fields, lists and axes as a whole."""
    result = dict(values)
    for key, value in over.items():
        old = result.get(key)
        if key in merged and isinstance(value, Mapping) and isinstance(old, Mapping):
            dotted = flatten(value)  # `lora.rank` gives way to `lora: {rank: …}`
            kept = {name: inner for name, inner in old.items() if "." not in str(name) or name not in dotted}
            value = merge(kept, value)
        result[key] = value
    return result


def _change(values: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The values of a study file with one `KEY=VALUE` on top."""
    key, sign, value = text.partition("=")
    head, _, inner = key.strip().partition(".")
    head = head.replace("-", "_")
    if not sign or not head:
        raise InputError(f"--set {text!r}: expected KEY=VALUE, such as model=runs/lm")
    try:
        parsed = parse_yaml(value)
    except ConstructorError as error:
        raise InputError(f"--set {text!r}: {error.problem}") from None
    except yaml.YAMLError:
        parsed = value
    if head in Study.model_fields and not inner:
        return _replace(values, _with_underscores({head: parsed}, where=f"--set {head}"))
    # A dotted key is what a file would have in its place; of vary and search it leaves the other keys.
    if head == "models":
        name, _, inner = inner.partition(".")  # a name may have hyphens
        if not inner:
            raise InputError(f"--set {text!r}: expected models.NAME.KEY=VALUE, such as models.small.texts=[book.txt]")
        over = {"models": {name: unflatten({inner.replace("-", "_"): parsed})}}
    else:
        inner = inner.replace("-", "_")
        if head == "search":
            axis = inner.removeprefix("space.")
            over = {"search": {inner: parsed} if axis == inner else {"space": {axis: parsed}}}
        elif head == "vary":
            over = {"vary": {inner: parsed}}
        else:
            over = {"base": unflatten({f"{head}.{inner}" if inner else head: parsed})}
    return _replace(values, over, merged=("base", "models", "search", "vary"))
