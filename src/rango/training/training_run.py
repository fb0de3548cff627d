"""One run while it trains, alone or in a bank: its batches, optimizer, validations, checkpoints and log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rango.decisions import METRICS
from rango.errors import DivergenceError
from rango.models.adapter import TrainableModel
from rango.options import FinetuneConfig, Form
from rango.scoring.forward import Reader
from rango.scoring.scorer import as_posteriors
from rango.scoring.trees import TokenTree
from rango.tasks import Instance
from rango.training.bank import OnValidation
from rango.training.checkpoint import Progress, State
from rango.training.distributed import ALONE, ProcessGroup
from rango.training.objectives import Part
from rango.training.run_folder import RunWriter
from rango.training.schedule import BatchPlan, learning_rate_factor

_START = {"step": 0, "seconds": 0.0, "tokens": 0}


@dataclass(frozen=True)
class Data:
    """What all members of a bank read."""

    reader: Reader
    form: Form
    train: Sequence[TokenTree]
    validation: Sequence[TokenTree]
    validation_instances: Sequence[Instance]
    processes: ProcessGroup = ALONE


@dataclass
class TrainingRun:
    """A run with a configuration, an adapter and a run directory of its own."""

    key: str
    config: FinetuneConfig
    adapter: TrainableModel
    writer: RunWriter
    data: Data
    on_validation: OnValidation | None = None
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        """Set up the first phase."""
        self._begin()
        config = self.config
        self.total = config.steps or (config.epochs or 3) * self.plan.steps_per_epoch
        self.every = config.validate_every or max(1, math.ceil(self.total / 20))
        self.validation_nce = math.nan

    def _begin(self) -> None:
        """Instances, plan of batches and optimizer of the phase that `progress` is in."""
        config, data = self.config, self.data
        self.trees = data.train if self.validates else (*data.train, *data.validation)
        self.plan = BatchPlan(
            [tree.input_length for tree in self.trees],
            batch=config.batch,
            batch_tokens=config.train_tokens,
            seed=config.seed,
        )
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            self.adapter.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    @property
    def validates(self) -> bool:
        """Whether validation instances are measured on in this phase; in the other phases they are trained on."""
        return self.config.regime != "all" and self.progress.retrained_from is None

    @property
    def most_steps(self) -> int:
        """Steps that the run takes at most, over its phases."""
        return self.total * (2 if self.config.regime == "retrain" else 1)

    def goes_on(self) -> bool:
        """Whether there is a step left to do; at the end of a search for the number of steps, retraining begins."""
        if self.config.regime == "retrain" and self.validates and self._is_over() and not self._has_ended:
            self.progress.retrained_from = self.progress.step
            self.adapter.reset(self.config.seed)
            self._begin()
        return not self._is_over()

    def _is_over(self) -> bool:
        patience = self.config.patience if self.validates else None
        waited = patience is not None and self.progress.waited >= patience
        return self._has_ended or self._step_of_phase >= self._length_of_phase or waited

    @property
    def _has_ended(self) -> bool:
        """Whether it came to an end before its time."""
        return self.progress.failed is not None or self.progress.pruned

    @property
    def _step_of_phase(self) -> int:
        return self.progress.step - (self.progress.retrained_from or 0)

    @property
    def _length_of_phase(self) -> int:
        return self.total if self.progress.retrained_from is None else self.progress.best_step or 0

    @property
    def at_checkpoint(self) -> bool:
        """Whether the step just done is followed by a validation or, where nothing is validated, by a checkpoint."""
        return self._step_of_phase == self._length_of_phase or self._step_of_phase % self.every == 0

    def resume(self, state: State | None) -> None:
        """Go on from a state, or from the beginning."""
        if state is not None:
            self.progress = state.progress_of(self.key)
            self._begin()
            state.restore(self)
        self.writer.rewind_log(self.progress.step if state is not None else -1)

    def batch(self) -> list[TokenTree]:
        """The instances of the next step."""
        return [self.trees[number] for number in self.plan.step(self._step_of_phase)]

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
        factor = learning_rate_factor(self._step_of_phase, self.total, warmup=config.warmup, decay=config.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += sum(tree.input_length for tree in trees)
        record = {"step": self.progress.step, "train_loss": loss, "learning_rate": config.learning_rate * factor}
        return record if self.progress.retrained_from is None else {**record, "retrain": self._step_of_phase}

    def timed(self, record: dict[str, float], seconds: float) -> dict[str, float]:
        """The record of a step that took `seconds`, complete."""
        self.progress.seconds += seconds
        return {**record, "seconds": round(self.progress.seconds, 3), "tokens": self.progress.tokens}

    def checkpoint(self, record: dict[str, float] | None) -> None:
        """Log a step, measure on validation where that is honest, and keep the best and the last checkpoint.

        Raises:
            DivergenceError: a score is not a number.
        """
        found = self._validate() if self.validates else {}
        self.progress.validated_step = self.progress.step
        self.writer.append_log({**(record or _START), **found})
        self.writer.write_adapter(self.adapter, "last")
        if found and self.on_validation is not None and self._step_of_phase < self._length_of_phase:
            self.progress.pruned = self.on_validation(self.progress.step, found["validation"])

    def conclude(self) -> None:
        """Put the result into the network: the best checkpoint, or the last step where nothing was selected."""
        if self.validates:
            self.adapter.load(self.writer.path / "adapter" / "best")
            return
        for which in ("best", "last"):
            self.writer.write_adapter(self.adapter, which)

    def _validate(self) -> dict[str, Any]:
        data, options = self.data, self.config
        with self.adapter.alone():
            scores = data.processes.score(data.reader, data.validation, options=options, form=data.form)
        if np.isnan(scores.values).any():
            raise self.divergence(f"the scores on validation became nan at step {self.progress.step}")
        posteriors = as_posteriors(scores.values, data.validation_instances)
        values = {metric.name: posteriors.metric(metric.name) for metric in METRICS.values() if metric.on_validation}
        better = self._is_better(values[options.select])
        if better:
            self.progress.best_step, self.progress.best_value = self.progress.step, values[options.select]
            self.progress.waited = 0
            self.writer.write_adapter(self.adapter, "best")
        else:
            self.progress.waited += 1
        self.validation_nce = values["nce"]
        return {"validation": values, "best": better}

    def fail(self, error: DivergenceError) -> None:
        """Record why this run ends here. Its checkpoints stay as they were."""
        self.progress.failed = str(error)
        self.optimizer.zero_grad(set_to_none=True)

    def divergence(self, what: str) -> DivergenceError:
        """The error for a run that cannot go on because of `what`."""
        config = self.config
        strength, advice = f"learning rate {config.learning_rate:g}", "lower --learning-rate"
        if config.adaptation == "lora":  # the other factor of the update
            strength, advice = f"{strength} and lora.alpha {config.lora.alpha:g}", f"{advice} or --lora.alpha"
        return DivergenceError(f"{what} with {strength}; {self._kept()}; {advice}")

    def _kept(self) -> str:
        """Which checkpoint there is to go back to."""
        folder, progress = self.writer.path / "adapter", self.progress
        if progress.best_step is not None:
            return f"the best checkpoint (step {progress.best_step}) is kept in {folder / 'best'}"
        if progress.validated_step is not None:
            return f"the last checkpoint (step {progress.validated_step}) is kept in {folder / 'last'}"
        return "no checkpoint had been made"

    def _is_better(self, value: float) -> bool:
        best = self.progress.best_value
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value < best if METRICS[self.config.select].direction == "lower" else value > best
