"""Reading a study file: YAML, then its small variant `tiny`, then each `--set`, then the checks of `Study`."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from rango.config import merge, underscored
from rango.errors import FileMistakes, InputError
from rango.files import read_text, read_yaml
from rango.studies.axes import flatten, unflatten
from rango.studies.study import Study
from rango.yaml_loader import Place, key_places, parse_yaml


def read_study(
    path: Path,
    *,
    tiny: bool = False,
    changes: Sequence[str] = (),
    costs: str | None = None,
    log_to: str | None = None,
) -> Study:
    """Read a study file. What its keys and values say is checked where it is planned, with everything else.

    Args:
        path: YAML with the fields of `Study`, and optionally `tiny`: differences that make it small.
        tiny: apply them.
        changes: `KEY=VALUE`, a field of the study or a key of its base, such as `model=runs/lm` or `seeds=[0,1]`;
            `vary.KEY=VALUES`, one axis of the grid; `search.KEY=VALUE`; or `models.NAME.KEY=VALUE`, such as
            `models.small.texts=[book.txt]`.
        costs: what mistakes cost, in place of the file's own: a costs file or `abstain=COST`.
        log_to: names of loggers, in place of the file's own.

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
    if costs is not None:
        values["costs"] = costs
    if log_to is not None:
        values["log_to"] = log_to
    values.setdefault("name", path.stem)
    return Study.build(values, where=str(path))


def naming_lines(error: InputError, path: Path, *, tiny: bool, changes: Sequence[str]) -> InputError:
    """An error of a study with the line of each mistake, where the file has one; arguments as of `read_study`."""
    places = _places_of(path, tiny=tiny, changes=changes)
    lines: list[tuple[int, str]] = []
    for mistake in error.mistakes:
        text = re.sub(r"^study [^:]*: ", "", mistake).removeprefix(f"{path}: ").replace(f" in {path} ", " ")
        if len(error.mistakes) > 1:
            # Where a nearest name is given, all the others would be a paragraph for each of the mistakes.
            text = re.sub(r"( did you mean '[^']*'\?) \(known: [^)]*\)", r"\1", text)
        lines.append((_line_of(text, places), text))
    if len(lines) == 1 and not lines[0][0]:
        return error  # of an option, or of what is no key
    ordered = [f"{path}:{line}: {text}" if line else f"{path}: {text}" for line, text in sorted(lines, key=_by_line)]
    return InputError(*ordered) if len(ordered) == 1 else FileMistakes(path, *ordered)


def _by_line(pair: tuple[int, str]) -> float:
    return pair[0] or math.inf  # what has no line comes last


def _places_of(path: Path, *, tiny: bool, changes: Sequence[str]) -> list[Place]:
    """Where the keys of a study stand: those of `tiny` before those that they replace, and none that --set gives."""
    try:
        places = [Place(place.key.replace("-", "_"), place.line, place.value) for place in key_places(read_text(path))]
    except (InputError, yaml.YAMLError):
        return []
    small = [Place(p.key.removeprefix("tiny."), p.line, p.value) for p in places if tiny and p.key.startswith("tiny.")]
    over = {place.key for place in small}
    kept = [*small, *(p for p in places if p.key not in over and not f"{p.key}.".startswith("tiny."))]
    changed = {change.partition("=")[0].strip().replace("-", "_") for change in changes}
    return [place for place in kept if place.key.removeprefix("base.") not in changed and place.key not in changed]


# The ways in which a mistake names its key: (section, key, value), of which each may be missing.
_NAMED = tuple(
    re.compile(pattern)
    for pattern in (
        r"unknown key(?: in (?P<section>[\w.\[\]]+))? '(?P<key>[^']+)'",
        r"(?P<section>base|vary|search|runs\[\d+\]): (?P<key>[\w.]+) ",
        r"(?P<key>[\w.]+) is (?P<value>'[^']*'|\S+): ",
        r"(?P<key>[\w.]+) belongs under",
        r"(?P<key>[\w.]+) is varied twice",
        r"unknown (?P<key>task) (?P<value>'[^']*')",
        r"(?P<key>[\w.]+): unknown \w+ (?P<value>'[^']*')",
        r"(?P<key>[\w.]+)(?: has|:) ",
    )
)


def _line_of(mistake: str, places: Sequence[Place]) -> int:
    """The line of the key, and if possible of the value, that a mistake names; 0 where the file does not say."""
    named = next((match for pattern in _NAMED if (match := pattern.match(mistake))), None)
    if named is None:
        return 0
    section, key, value = (named.groupdict().get(name) for name in ("section", "key", "value"))
    # An axis replaces what the base says.
    anywhere = ("", r"vary\.", r"runs\[\d+\]\.", r"search\.space\.", r"search\.", r"base\.")
    own = (rf"{re.escape(section)}\.", rf"{re.escape(section)}\.space\.") if section else anywhere
    for prefix in own:
        of_key = [place for place in places if re.fullmatch(prefix + re.escape(str(key)), place.key)]
        of_value = [place for place in of_key if value is not None and place.value == value.strip("'")]
        if of_value or (of_key and value is None):
            return (of_value or of_key)[0].line
    return 0


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
