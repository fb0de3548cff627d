"""Banks: which runs may be trained together in one pass over one frozen base.

A bank of six runs reads the base's weights once per step instead of six times, and each run ends as it would alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rango.decisions import StatedCosts
from rango.errors import InputError
from rango.files import fingerprint
from rango.options import FinetuneConfig
from rango.training.loggers import Logger

FREE = {
    *("lora", "regime", "objective", "rule", "learning_rate", "weight_decay", "warmup", "decay", "clip"),
    *("epochs", "steps", "validate_every", "patience", "select", "seed"),
}
"""The keys in which runs of one bank may differ. The others decide what is read, so they must agree."""


OnValidation = Callable[[int, Mapping[str, float]], bool]
"""Called after each validation but that of the last step, with the step and the metrics; True ends the run there, as
`pruned`. Called again with the same values, as after an interruption, it must return the same."""


@dataclass(frozen=True)
class TrainingJob:
    """One run to train: its directory and its configuration."""

    out: Path
    config: FinetuneConfig
    on_validation: OnValidation | None = None
    """Whether to end it early."""
    costs: StatedCosts | None = None
    """What mistakes cost, for its metrics; no part of what makes it another run."""
    loggers: Sequence[Logger | str] = ()
    """What follows it while it trains; no part of what makes it another run either."""
    group: str | None = None
    """The study that it belongs to, for the loggers."""


def bankable(configs: Sequence[FinetuneConfig]) -> str | None:
    """Why these runs cannot be trained in one pass over one base; None when they can.

    One run always can. Several may differ in the keys of `FREE`; dropout draws its masks from one stream whose numbers
    depend on everything drawn before, so a run with dropout would not be what it is alone.
    """
    if len(configs) < 2:
        return None
    # What a batch holds and how it is read must agree; the first key that differs is reason enough.
    first = configs[0]
    for config in configs[1:]:
        for name in type(first).model_fields:
            if name not in FREE and getattr(first, name) != getattr(config, name):
                return f"{name} differs ({getattr(first, name)!r} and {getattr(config, name)!r})"
    if first.adaptation == "full":
        return "full fine-tuning changes the base that the others would share"
    if any(config.lora.dropout for config in configs):
        return "lora.dropout is not 0: the masks of a run would not be those it draws alone"
    # Equal runs would share one key in the state file.
    if len({run_key(config) for config in configs}) < len(configs):
        return "two of the runs have the same configuration"
    return None


def check_bankable(jobs: Sequence[TrainingJob]) -> None:
    """Raise InputError for jobs that cannot be one bank: for the reason of `bankable`, none, or two in one folder."""
    if not jobs:
        raise InputError("a bank has no jobs; give at least one")
    if len({job.out.resolve() for job in jobs}) < len(jobs):
        raise InputError("two jobs of a bank have the same output folder; give each its own")
    reason = bankable([job.config for job in jobs])
    if reason is not None:
        raise InputError(f"these {len(jobs)} runs cannot be one bank: {reason}; train them apart")


def run_key(config: FinetuneConfig) -> str:
    """A hash of the configuration, which names a run of a bank in their state file.

    The model, which all of them share, is left out: the state in a study folder that was moved together with its models
    still fits.
    """
    return fingerprint(json.dumps(config.model_dump(mode="json", exclude={"model"}), sort_keys=True))
