"""One run while it trains, alone or in a bank: its batches, optimizer, validations, checkpoints and log.

A run has one phase, or two in the regime `retrain`: a search for the number of steps, then training anew for as many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset

from rango.decisions import METRICS, measurable
from rango.models.adapter import TrainableModel
from rango.options import FinetuneConfig, Form
from rango.scoring.forward import Reader
from rango.scoring.scorer import as_posteriors
from rango.scoring.trees import TokenTree, input_lengths
from rango.tasks import Instance
from rango.training.bank import OnValidation
from rango.training.checkpoint import Progress, State
from rango.training.distributed import ALONE, ProcessGroup
from rango.training.objectives import MicroBatch
from rango.training.run_writer import RunWriter
from rango.training.schedule import BatchPlan, learning_rate_factor


@dataclass(frozen=True)
class BankData:
    """What all runs of a bank read."""

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
    """Names the run in the state file of its bank."""
    config: FinetuneConfig
    adapter: TrainableModel
    writer: RunWriter
    data: BankData
    on_validation: OnValidation | None = None
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        """Begin the first phase."""
        self._begin_phase()
        config = self.config
        self.total = config.steps or (config.epochs or 3) * self.plan.steps_per_epoch
        # About twenty validations in a run show its course; the last step is always followed by one.
        self.every = config.validate_every or max(1, math.ceil(self.total / 20))
        self.validation_nce = math.nan
        self.pass_size = config.micro_batch
        """Instances of a forward pass; all of a batch where it is None. It shrinks where the memory runs out."""

    def _begin_phase(self) -> None:
        """Make the instances, the plan of batches and the optimizer of the phase that `progress` is in."""
        # A phase inherits no moments: an optimizer that had seen other steps would make retraining another run.
        config, data = self.config, self.data
        # Neither copied nor made now: the trees of a large task are on the disk.
        parts: Any = [data.train, data.validation]
        joined: Any = ConcatDataset(parts)
        self.trees: Sequence[TokenTree] = data.train if self.validates else joined
        self.plan = BatchPlan(
            input_lengths(self.trees),
            batch=config.batch,
            batch_tokens=config.train_tokens,
            seed=config.seed,
        )
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            self.adapter.parameter_groups(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def resume(self, state: State | None) -> None:
        """Continue from a saved state, or begin where there is none."""
        if state is not None:
            self.progress = Progress(**state.progress[self.key])
            self._begin_phase()
            state.restore(self)
        # Steps after the saved state are done again, and logged again.
        self.writer.rewind_log(self.progress.step if state is not None else -1)

    def begin_retraining(self) -> None:
        """Begin the second phase of the regime `retrain`: a fresh adapter on train and validation."""
        self.progress.retrained_from = self.progress.step
        self.adapter.reset(self.config.seed)
        self._begin_phase()

    @property
    def validates(self) -> bool:
        """Whether this phase measures on the validation instances; a phase that does not trains on them."""
        return self.config.regime != "all" and self.progress.retrained_from is None

    @property
    def most_steps(self) -> int:
        """Steps that the run takes at most, over its phases."""
        return self.total * (2 if self.config.regime == "retrain" else 1)

    @property
    def has_steps_left(self) -> bool:
        """Whether there is another step to do in this phase."""
        if self._ended_early:
            return False
        patience = self.config.patience if self.validates else None
        if patience is not None and self.progress.waited >= patience:
            return False
        return self._step_of_phase < self._length_of_phase

    @property
    def search_is_over(self) -> bool:
        """Whether the regime `retrain` knows its number of steps, so that `begin_retraining` is due."""
        searches = self.config.regime == "retrain" and self.validates
        return searches and not self.has_steps_left and not self._ended_early

    @property
    def at_checkpoint(self) -> bool:
        """Whether the step just done is followed by a validation or, where nothing is validated, by a checkpoint."""
        return self._step_of_phase == self._length_of_phase or self._step_of_phase % self.every == 0

    @property
    def _ended_early(self) -> bool:
        return self.progress.failed is not None or self.progress.pruned

    @property
    def _step_of_phase(self) -> int:
        return self.progress.step - (self.progress.retrained_from or 0)

    @property
    def _length_of_phase(self) -> int:
        return self.total if self.progress.retrained_from is None else self.progress.best_step or 0

    def batch(self) -> list[TokenTree]:
        """The instances of the next step."""
        return [self.trees[number] for number in self.plan.step(self._step_of_phase)]

    def micro_batch(self, trees: Sequence[TokenTree]) -> MicroBatch:
        """A part of a batch, collated for this run's objective."""
        config = self.config
        return MicroBatch(
            self.data.reader,
            trees,
            objective=config.objective,
            rule=config.rule,
            normalise=config.normalise,
            label_smoothing=config.label_smoothing,
        )

    def update(self, loss: float, trees: Sequence[TokenTree]) -> dict[str, float] | None:
        """Take one optimizer step with the accumulated gradients of a batch.

        Returns:
            The step's record for the log, without times; `add_time` completes it. None where the loss is not finite:
            the run has then failed, and its weights are as they were.
        """
        config = self.config
        if not math.isfinite(loss):
            self._fail(f"the loss became {loss} at step {self.progress.step + 1}")
            return None
        # In retraining too the schedule spans the whole length, so that each step has the rate it had in the search.
        factor = learning_rate_factor(self._step_of_phase, self.total, warmup=config.warmup, decay=config.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor * group["ratio"]
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += sum(tree.input_length for tree in trees)
        record = {"step": self.progress.step, "train_loss": loss, "learning_rate": config.learning_rate * factor}
        return record if self.progress.retrained_from is None else {**record, "retrain": self._step_of_phase}

    def add_time(self, record: dict[str, float], seconds: float) -> dict[str, float]:
        """Count the seconds of a step and complete its record with the times so far."""
        self.progress.seconds += seconds
        return {**record, "seconds": round(self.progress.seconds, 3), "tokens": self.progress.tokens}

    def checkpoint(self, record: dict[str, float] | None) -> None:
        """Log a step, measure on validation if this phase validates, and keep the best and the last checkpoint.

        The run fails where a score is not a number. `record` is of the step just done; None before the first.
        """
        validation = self._validate() if self.validates else {}
        if self.progress.failed is not None:
            return
        self.progress.validated_step = self.progress.step
        self.writer.append_log({**(record or {"step": 0, "seconds": 0.0, "tokens": 0}), **validation})
        self.writer.write_adapter(self.adapter, "last")
        # After the last step there is nothing left to end early.
        if validation and self.on_validation is not None and self._step_of_phase < self._length_of_phase:
            self.progress.pruned = self.on_validation(self.progress.step, validation["validation"])

    def _validate(self) -> dict[str, Any]:
        """Measure on validation and keep the adapter if it is the best so far; returns what the log says of it."""
        data, options = self.data, self.config
        # In a bank the other runs' adapters are in the network too.
        with self.adapter.alone():
            scores = data.processes.score(data.reader, data.validation, options=options, form=data.form)
        if np.isnan(scores.values).any():
            self._fail(f"the scores on validation became nan at step {self.progress.step}")
            return {}
        posteriors = as_posteriors(scores.values, data.validation_instances)
        values = {name: posteriors.metric(name) for name in measurable(posteriors) if METRICS[name].on_validation}
        better = self._is_better(values[options.select])
        if better:
            self.progress.best_step, self.progress.best_value = self.progress.step, values[options.select]
            self.progress.waited = 0
            self.writer.write_adapter(self.adapter, "best")
        else:
            self.progress.waited += 1
        self.validation_nce = values["nce"]
        return {"validation": values, "best": better}

    def _is_better(self, value: float) -> bool:
        # An undefined value is never the best; of equal values the earlier one stays.
        best = self.progress.best_value
        if math.isnan(value) or best is None:
            return not math.isnan(value)
        return value < best if METRICS[self.config.select].direction == "lower" else value > best

    def conclude(self) -> None:
        """Put the result into the network: the best checkpoint, or the last step where nothing was selected."""
        if self.validates:
            self.adapter.load(self.writer.path / "adapter" / "best")
            return
        for which in ("best", "last"):
            self.writer.write_adapter(self.adapter, which)

    def _fail(self, what: str) -> None:
        """End this run because of `what`; the reason that is recorded names the kept checkpoint and a remedy."""
        config, progress, folder = self.config, self.progress, self.writer.path / "adapter"
        strength, advice = f"learning rate {config.learning_rate:g}", "lower --learning-rate"
        if config.adaptation == "lora":  # alpha multiplies the update as well
            strength, advice = f"{strength} and lora.alpha {config.lora.alpha:g}", f"{advice} or --lora.alpha"
        kept = "no checkpoint had been made"
        if progress.best_step is not None:
            kept = f"the best checkpoint (step {progress.best_step}) is kept in {folder / 'best'}"
        elif progress.validated_step is not None:
            kept = f"the last checkpoint (step {progress.validated_step}) is kept in {folder / 'last'}"
        progress.failed = f"{what} with {strength}; {kept}; {advice}"
        self.optimizer.zero_grad(set_to_none=True)
