"""A study file: a base configuration, what is varied, seeds, and which metric selects."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from rango.config import Config, Seed, faulty_fields, merge, mistakes, underscored
from rango.errors import InputError
from rango.files import read_yaml
from rango.studies.keys import flatten, unflatten
from rango.studies.mistakes import key_problems
from rango.studies.outcomes import Reference
from rango.studies.own_models import ModelSpec
from rango.studies.search import Search
from rango.studies.study_costs import StudyCosts, stated_costs, stated_metrics
from rango.training.options import Selection

Axes = Mapping[str, Any]
"""Dotted key -> value: what tells one configuration of a study from another."""


def _seed_list(value: Any) -> Any:
    values = (value,) if isinstance(value, int) else value
    if isinstance(values, list | tuple):
        if any(isinstance(seed, bool) for seed in values):
            raise ValueError(f"{list(values)} are no seeds; give whole numbers, such as [0, 1, 2]")
        if len(set(map(str, values))) < len(values):
            raise ValueError(f"{list(values)} has one seed twice; give each once")
    return values


def _file_name(value: str) -> str:
    if not value.strip() or value.startswith(".") or set(value) & set("/\\\0"):
        raise ValueError(f"{value!r} cannot name a folder; give a word, such as placement")
    return value


class Study(Config):
    """A study: every combination of `runs` and `vary`, each with every seed, on top of `base`."""

    name: Annotated[str, AfterValidator(_file_name)]
    """A word for the study, used in titles."""
    about: str = ""
    """The question that it answers, in a sentence."""
    base: Mapping[str, Any] = {}
    """Keys of `rango finetune`, and `adaptation`, `members`, `samples`, `calibrator`."""
    vary: Mapping[str, tuple[Any, ...]] = {}
    """Dotted key -> its values: a grid."""
    runs: tuple[Mapping[str, Any], ...] = ()
    """Listed differences from the base, where a grid would hold combinations that nobody wants."""
    search: Search | None = None
    """Instead of vary and runs: each next configuration is chosen by what the earlier ones gave on validation."""
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_seed_list), Field(min_length=1)] = (0,)
    """Seeds of each configuration."""
    select: Selection = "nce"
    """The metric that marks the best configuration."""
    metrics: Annotated[tuple[str, ...], BeforeValidator(stated_metrics)] = ()
    """Metrics that tables and figures show first, in this order; the usual ones follow where there is room."""
    costs: Annotated[StudyCosts | None, BeforeValidator(stated_costs)] = None
    """What decisions cost: the path of a costs file, its content, or `abstain: COST`."""
    models: Mapping[str, Annotated[ModelSpec, BeforeValidator(ModelSpec.flat)]] = {}
    """Small language models to pre-train first; `model: NAME` in the base means one of them."""
    references: tuple[Reference, ...] = ()
    """Figures from elsewhere to show beside the study's."""

    @classmethod
    def build(cls, values: Mapping[str, Any], *, where: str = "configuration") -> Self:
        """Check a mapping; what is wrong with the keys of base and axes is told together with it."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            # A file has the keys of `rango pretrain` beside a model's own, not under `options`.
            told = [each.replace(".options.", ".") for each in mistakes(error, where=where, model=cls)]
            faulty = faulty_fields(error)
        rest = cls.model_validate({"name": "rest"} | {key: value for key, value in values.items() if key not in faulty})
        raise InputError(*told, *key_problems(rest))

    def combinations(self) -> Iterator[Axes]:
        """The axes' values of each configuration, listed ones outermost; of a search, the ends of its space."""
        if self.search is not None:
            yield from self.search.corners()
            return
        grid = [dict(zip(self.vary, values, strict=True)) for values in itertools.product(*self.vary.values())]
        for listed in self.runs or ({},):
            for values in grid:
                yield {**flatten(listed), **values}

    @property
    def axes(self) -> tuple[str, ...]:
        """The keys that vary, in the order of the file."""
        if self.search is not None:
            return tuple(self.search.space)
        listed = [key for run in self.runs for key in flatten(run)]
        return tuple(dict.fromkeys([*listed, *self.vary]))


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
    values = _one_spelling(read_yaml(path), where=str(path))
    small = values.pop("tiny", None)
    if tiny:
        if not isinstance(small, Mapping):
            raise InputError(f"{path} has no `tiny:` block; run the whole study, or add the differences that shrink it")
        values = _replace(values, small)
    for change in changes:
        values = _changed(values, change)
    values.setdefault("name", path.stem)
    return Study.build(values, where=str(path))


def _one_spelling(values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The keys of a run's configuration with `_` for `-`, so that a change finds the key that it changes."""
    result = dict(values)
    for key, value in values.items():
        if key in ("base", "vary") and isinstance(value, Mapping):
            result[key] = underscored(value, where=where)
        elif key == "tiny" and isinstance(value, Mapping):
            result[key] = _one_spelling(value, where=where)
        elif key == "runs" and isinstance(value, list):
            result[key] = [underscored(run, where=where) if isinstance(run, Mapping) else run for run in value]
    return result


def _replace(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `values`: base and models key by key, lists and axes as a whole."""
    result = dict(values)
    for key, value in over.items():
        old = result.get(key)
        if key in ("base", "models") and isinstance(value, Mapping) and isinstance(old, Mapping):
            dotted = flatten(value)  # `lora.rank` gives way to `lora: {rank: …}`
            value = merge(
                {name: inner for name, inner in old.items() if "." not in str(name) or name not in dotted}, value
            )
        result[key] = value
    return result


def _changed(values: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The values of a study file with one `KEY=VALUE` on top."""
    key, sign, value = text.partition("=")
    head, _, inner = key.strip().replace("-", "_").partition(".")
    if not sign or not head:
        raise InputError(f"--set {text!r}: expected KEY=VALUE, such as model=runs/lm")
    parsed = _parsed(value)
    if head == "models" and inner:
        name, _, inner = key.strip().partition(".")[2].partition(".")  # a name may have hyphens
        if not inner:
            raise InputError(f"--set {text!r}: expected models.NAME.KEY=VALUE, such as models.small.texts=[book.txt]")
        return _replace(values, {"models": {name: unflatten({inner.replace("-", "_"): parsed})}})
    if head == "search" and inner:
        axis = inner.removeprefix("space.")
        nested = {inner: parsed} if axis == inner else {"space": {axis: parsed}}
        return {**values, "search": merge(_mapping(values, "search"), nested)}
    if head == "vary" and inner:
        return {**values, "vary": {**_mapping(values, "vary"), inner: parsed}}
    if head in Study.model_fields and not inner:
        return _replace(values, _one_spelling({head: parsed}, where=f"--set {head}"))
    return _replace(values, {"base": unflatten({f"{head}.{inner}" if inner else head: parsed})})


def _mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}


def _parsed(value: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value
