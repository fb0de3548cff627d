"""One run while it trains, alone or in a bank: its batches, optimizer, validations, checkpoints and log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from rango.decisions import DIRECTIONS
from rango.models import Adapter
from rango.scoring import Reader, TokenTree, as_posteriors, score
from rango.tasks import Form, Instance
from rango.training.checkpoint import Progress, State
from rango.training.objectives import DivergenceError, Part
from rango.training.options import FinetuneConfig
from rango.training.run import RunWriter
from rango.training.schedule import BatchPlan, learning_rate_factor

VALIDATION_METRICS = ("nce", "cross_entropy", "error_rate", "accuracy", "brier")

_START = {"step": 0, "seconds": 0.0, "tokens": 0}


@dataclass(frozen=True)
class Data:
    """What all members of a bank read."""

    reader: Reader
    form: Form
    train: Sequence[TokenTree]
    validation: Sequence[TokenTree]
    validation_instances: Sequence[Instance]


@dataclass
class Member:
    """A run with a configuration, an adapter and a run directory of its own."""

    key: str
    config: FinetuneConfig
    adapter: Adapter
    writer: RunWriter
    data: Data
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        """Set up the optimizer and the plan of batches."""
        config = self.config
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            self.adapter.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.plan = BatchPlan(
            [tree.input_length for tree in self.data.train],
            batch=config.batch,
            batch_tokens=config.train_tokens,
            seed=config.seed,
        )
        self.total = config.steps or (config.epochs or 3) * self.plan.steps_per_epoch
        self.every = config.validate_every or max(1, math.ceil(self.total / 20))
        self.validation_nce = math.nan

    @property
    def trains(self) -> bool:
        """Whether there is a step left to do: not at the end, not out of patience, not failed."""
        patience = self.config.patience
        waiting = patience is None or self.progress.waited < patience
        return self.progress.failed is None and self.progress.step < self.total and waiting

    @property
    def at_validation(self) -> bool:
        """Whether the step just done is followed by a validation."""
        return self.progress.step == self.total or self.progress.step % self.every == 0

    def resume(self, state: State | None) -> None:
        """Go on from a state, or from the beginning."""
        if state is not None:
            self.progress = state.progress_of(self.key)
            state.restore(self)
        self.writer.rewind_log(self.progress.step if state is not None else -1)

    def batch(self) -> list[TokenTree]:
        """The instances of the next step."""
        return [self.data.train[number] for number in self.plan.step(self.progress.step)]

    def part(self, trees: Sequence[TokenTree]) -> Part:
        """Some trees, collated for this run's objective."""
        config = self.config
        return Part(self.data.reader, trees, objective=config.objective, rule=config.rule, normalise=config.normalise)

    def update(self, loss: float, trees: Sequence[TokenTree]) -> dict[str, float]:
        """One optimizer step with the gradients that are there; returns its log record, without the time.

        Raises:
            DivergenceError: the loss is not finite. Nothing is changed then.
        """
        config = self.config
        if not math.isfinite(loss):
            raise self.divergence(f"the loss became {loss} at step {self.progress.step + 1}")
        factor = learning_rate_factor(self.progress.step, self.total, warmup=config.warmup, decay=config.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += sum(tree.input_length for tree in trees)
        return {"step": self.progress.step, "train_loss": loss, "learning_rate": config.learning_rate * factor}

    def timed(self, record: dict[str, float], seconds: float) -> dict[str, float]:
        """The record of a step that took `seconds`, complete."""
        self.progress.seconds += seconds
        return {**record, "seconds": round(self.progress.seconds, 3), "tokens": self.progress.tokens}

    def validate(self, record: dict[str, float] | None) -> None:
        """Measure on validation, and keep the best and the last checkpoint.

        Raises:
            DivergenceError: a score is not a number.
        """
        data, options = self.data, self.config
        with self.adapter.alone():
            scores = score(data.reader, data.validation, options=options, form=data.form)
        if np.isnan(scores.values).any():
            raise self.divergence(f"the scores on validation became nan at step {self.progress.step}")
        posteriors = as_posteriors(scores.values, data.validation_instances)
        values = {name: float(getattr(posteriors, name)()) for name in VALIDATION_METRICS}
        better = self._is_better(values[options.select])
        if better:
            self.progress.best_step, self.progress.best_value = self.progress.step, values[options.select]
            self.progress.waited = 0
            self.adapter.save(self.writer.path / "adapter" / "best")
        else:
            self.progress.waited += 1
        self.progress.validated_step = self.progress.step
        self.validation_nce = values["nce"]
        self.writer.append_log({**(record or _START), "validation": values, "best": better})
        self.adapter.save(self.writer.path / "adapter" / "last")

    def fail(self, error: DivergenceError) -> None:
        """Record why this run ends here. Its checkpoints stay as they were."""
        self.progress.failed = str(error)
        self.optimizer.zero_grad(set_to_none=True)

    def divergence(self, what: str) -> DivergenceError:
        """The error for a run that cannot go on because of `what`."""
        best = self.progress.best_step
        kept = f"the best checkpoint (step {best}) is kept in {self.writer.path / 'adapter' / 'best'}"
        return DivergenceError(
            f"{what} with learning rate {self.config.learning_rate:g}; {kept}; lower --learning-rate"
        )

    def _is_better(self, value: float) -> bool:
        best = self.progress.best_value
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value < best if DIRECTIONS[self.config.select] == "lower" else value > best
