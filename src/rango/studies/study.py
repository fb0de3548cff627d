"""A study file: a base configuration, what is varied, seeds, and which metric selects."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticUndefined

from rango.config import Config, merge, underscored
from rango.errors import InputError, unknown_name
from rango.files import read_yaml
from rango.studies.adaptation import AdaptationOptions
from rango.studies.outcomes import Reference
from rango.studies.own_models import ModelSpec
from rango.studies.search import Search
from rango.training.options import FinetuneConfig, Selection

Axes = Mapping[str, Any]
"""Dotted key -> value: what tells one configuration of a study from another."""


def _seed_list(value: Any) -> Any:
    return (value,) if isinstance(value, int) else value


class Study(Config):
    """A study: every combination of `runs` and `vary`, each with every seed, on top of `base`."""

    name: str
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
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_seed_list), Field(min_length=1)] = (0,)
    """Seeds of each configuration."""
    select: Selection = "nce"
    """The metric that marks the best configuration."""
    models: Mapping[str, Annotated[ModelSpec, BeforeValidator(ModelSpec.flat)]] = {}
    """Small language models to pre-train first; `model: NAME` in the base means one of them."""
    references: tuple[Reference, ...] = ()
    """Figures from elsewhere to show beside the study's."""

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
    """Read and check a study file; every mistake in its keys is told at once.

    Args:
        path: YAML with the fields of `Study`, and optionally `tiny`: differences that make it small.
        tiny: apply them.
        changes: `KEY=VALUE`, a field of the study or a key of its base, such as `model=runs/lm` or `seeds=[0,1]`; or
            `models.NAME.KEY=VALUE`, such as `models.small.texts=[book.txt]`.

    Raises:
        InputError: unknown keys (with the nearest valid one), an empty axis, two axes for one key, no such file.
    """
    values = _one_spelling(read_yaml(path), where=str(path))
    small = values.pop("tiny", None)
    if tiny:
        if not isinstance(small, Mapping):
            raise InputError(f"{path} has no `tiny:` block; run the whole study, or add the differences that shrink it")
        values = _replace(values, small)
    for change in changes:
        values = _replace(values, _change(change))
    values.setdefault("name", path.stem)
    study = Study.build(values, where=str(path))
    problems = list(_problems(study))
    if problems:
        raise InputError(f"{path}: " + "; ".join(problems))
    return study


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
        joined = key in ("base", "models") and isinstance(value, Mapping)
        result[key] = merge(old, value) if joined and isinstance(old, Mapping) else value
    return result


def _change(text: str) -> dict[str, Any]:
    import yaml

    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise InputError(f"--set {text!r}: expected KEY=VALUE, such as model=runs/lm")
    if key.strip().startswith("models.") and key.strip().count(".") < 2:
        raise InputError(f"--set {text!r}: expected models.NAME.KEY=VALUE, such as models.small.texts=[book.txt]")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    head, _, inner = key.strip().partition(".")
    if head == "models" and inner:
        name, _, inner = inner.partition(".")  # a name may have hyphens
        return {"models": {name: unflatten({inner.replace("-", "_"): parsed})}}
    key = key.strip().replace("-", "_")
    return {key: parsed} if key in Study.model_fields else {"base": unflatten({key: parsed})}


def _problems(study: Study) -> Iterator[str]:
    """What is wrong with the keys of a study, before any value is looked at."""
    known = known_keys()
    places = [("base", list(flatten(study.base))), ("vary", list(study.vary))]
    places += [(f"runs[{number}]", list(flatten(run))) for number, run in enumerate(study.runs)]
    for place, keys in places:
        for key in keys:
            if key == "seed":
                yield f"{place}: seed is set by `seeds`; take it out"
            elif key not in known:
                yield str(unknown_name(f"key in {place}", key, known))
    for key, values in study.vary.items():
        if not values:
            yield f"vary: {key} has no values; give at least one, or take the axis out"
        in_runs = [number for number, run in enumerate(study.runs) if key in flatten(run)]
        if in_runs:
            yield f"{key} is varied twice, in vary and in runs[{in_runs[0]}]; keep one of them"
    if study.search is not None:
        yield from study.search.problems(known)
        if study.vary or study.runs:
            yield f"search and {'vary' if study.vary else 'runs'} are both given; a study has one of them"
        if len(study.seeds) > 1:
            yield (
                f"search: seeds are {list(study.seeds)}; a search takes one; try the best with more seeds in a grid, "
                "the same folder keeps their runs"
            )


def known_keys() -> list[str]:
    """Every dotted key that a base or an axis may name; `seed` is set by `seeds`."""
    return sorted({*_dotted(FinetuneConfig), *AdaptationOptions.model_fields} - {"seed"})


def default_of(key: str) -> Any:
    """What a dotted key is when neither base nor axis names it; None where it must be named.

    >>> default_of("lora.rank"), default_of("adaptation"), default_of("task")
    (8, 'lora', None)
    """
    kind: type[BaseModel] = AdaptationOptions if key in AdaptationOptions.model_fields else FinetuneConfig
    *path, name = key.split(".")
    for part in path:
        kind = kind.model_fields[part].annotation  # type: ignore[assignment]
    value = kind.model_fields[name].get_default()
    return None if value is PydanticUndefined else list(value) if isinstance(value, tuple) else value


def _dotted(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from _dotted(nested, f"{prefix}{name}.")
        else:
            yield prefix + name


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys.

    >>> flatten({"lora": {"rank": 2}, "steps": 10})
    {'lora.rank': 2, 'steps': 10}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}".replace("-", "_")
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


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
