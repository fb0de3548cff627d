"""One configuration of a study, resolved: base and axes become the configuration of a run, spelt in one way.

A run's id is a hash of its configuration. So what a run does not use is left at its default, and what can be written in
several ways (`q,v` and `v,q`, 1e-3 and 0.001) is written in one: configurations that mean the same run share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from functools import cache
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from rango.errors import InputError
from rango.options import (
    PLACEMENTS,
    AdaptationOptions,
    FinetuneConfig,
    ModelOptions,
    ScoringOptions,
    TaskOptions,
    Way,
)
from rango.studies.axes import ADAPTATION, axis_text, default_of, field_of, flatten, unflatten
from rango.studies.study import Axes, Study

BASE_KEYS = {"model", "task", "seed"}.union(
    *(kind.model_fields for kind in (TaskOptions, ScoringOptions, ModelOptions))
)
"""The keys that decide the posteriors of a model that is not trained."""


BASELINE_KEYS: Mapping[Way, Set[str]] = {
    "tfidf": {"task", *TaskOptions.model_fields},
    "probe": {"model", "task", "form", "batch_tokens", *TaskOptions.model_fields, *ModelOptions.model_fields},
    "encoder": {"encoder", "task", "device", "batch_tokens", *TaskOptions.model_fields}
    | {"learning_rate", "weight_decay", "warmup", "decay", "clip", "epochs", "steps", "batch", "micro_batch"}
    | {"validate_every", "patience", "select"},
}
"""The keys that mean something to a baseline; it has the others at their defaults, and no value on their axes."""


def base_values(study: Study) -> dict[str, Any]:
    """The base of a study by dotted key. Runs keep the checkpoint that the study's metric selects, unless it says else.

    Cross-entropy and NCE, its quotient by a constant, choose alike: runs of both say NCE, so that studies share them.
    """
    return {"select": "nce" if study.select == "cross_entropy" else study.select, **flatten(study.base)}


def row_axes(study: Study, axes: Axes) -> dict[str, Any]:
    """The value of every axis: where a listed run does not name one, the base's value or the default.

    None for an axis that means nothing to a baseline.
    """
    base = base_values(study)
    values = {name: spelt(name, axes.get(name, base.get(name, default_of(name)))) for name in study.axes}
    way = str(axes.get(ADAPTATION, base.get(ADAPTATION))).removesuffix("+calibration")
    meant = next((keys | {ADAPTATION, "calibrator"} for name, keys in BASELINE_KEYS.items() if name == way), None)
    return {name: value if meant is None or name in meant else None for name, value in values.items()}


def spelt(key: str, value: Any) -> Any:
    """A value as the configuration reads it, plain enough for JSON.

    YAML takes `1e-3` for a word; the configuration takes it for a number, and so must a figure. A value that the
    configuration refuses is returned as it is: where it matters, the configuration has reported it.

    >>> spelt("learning_rate", "1e-3"), spelt("lora.rank", 8.0), spelt("lora.targets", ["v", "q"])
    (0.001, 8, 'q,v')
    >>> spelt("lora.rank_pattern", "mlp=16, k=4"), spelt("lora.rank_pattern", None)
    ('mlp=16,k=4', None)
    """
    adapter = _adapter(key)
    try:
        read = adapter.validate_python(value)
    except ValidationError:
        return value
    plain = adapter.dump_python(_in_order(read) if key == "lora.targets" else read, mode="json")
    # An empty list, such as no pattern of ranks, is `none`.
    return (axis_text(plain) if plain else None) if isinstance(plain, list) else plain


@cache
def _adapter(key: str) -> TypeAdapter[Any]:
    """What reads the value of one dotted key."""
    field = field_of(key)
    annotation: Any = field.annotation
    return TypeAdapter(Annotated[(annotation, *field.metadata)] if field.metadata else annotation)


def run_config(options: AdaptationOptions, values: Mapping[str, Any], *, seed: int, where: str) -> FinetuneConfig:
    """The configuration of a run, checked; what the adaptation does not use is left at its default.

    Args:
        options: how it is adapted.
        values: the other keys, dotted.
        seed: of the run, and of few-shot's choice of shots.
        where: the configuration in words, for messages.

    Raises:
        InputError: a value that no run accepts; few-shot without shots; an encoder without its name; a calibrator
            without validation instances of its own.
    """
    way = options.way
    kept = {**values, "seed": seed, "adaptation": "full" if way == "full" else "lora", "shots": 0}
    if way == "few-shot":
        if not values.get("shots"):
            raise InputError(f"{where}: few-shot needs shots, the number of training instances in the prompt")
        kept |= {"shots": values["shots"], "shots_seed": seed}
    if way in ("none", "few-shot"):
        # A base is not trained: keys that say how must neither matter nor contradict.
        kept = {key: value for key, value in kept.items() if key in BASE_KEYS}
    if way in BASELINE_KEYS:
        kept = {key: value for key, value in kept.items() if key in BASELINE_KEYS[way]}
        if way == "encoder":
            if not options.encoder:
                raise InputError(f"{where}: encoder is missing; give the Hub id or folder of one, such as BERT")
            kept |= {"model": options.encoder, "seed": seed, "adaptation": "full"}
        # Words alone need no model; its place names what gives the posteriors.
        kept = {"model": way, **kept}
    if way == "full":
        kept = {key: value for key, value in kept.items() if not key.startswith("lora.")}
    config = FinetuneConfig.build(unflatten(kept), where="")  # names key and value; many rows may share the mistake
    if options.calibrated and config.regime != "validation":
        raise InputError(
            f"{where}: adaptation is {options.adaptation} and regime is {config.regime}, which trains on the "
            f"validation instances that a calibrator is fitted on; use regime validation, or {way} without calibration"
        )
    # The one spelling: targets in the order of a layer, no rule and no smoothing without the objective that has them.
    changes: dict[str, Any] = {"lora": config.lora.model_copy(update={"targets": _in_order(config.lora.targets)})}
    if config.objective != "choice":
        changes |= {key: default_of(key) for key in ("rule", "label_smoothing")}
    return config.model_copy(update=changes)


def _in_order(targets: tuple[str, ...]) -> tuple[str, ...]:
    """Placements in the order of a layer, then what is named by hand."""
    return (*(name for name in PLACEMENTS if name in targets), *sorted(set(targets) - set(PLACEMENTS)))
