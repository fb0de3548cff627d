"""The training loop: steps, validations, the best and the last checkpoint, early stopping, exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rango.decisions import DIRECTIONS
from rango.models import Adapter
from rango.scoring import Reader, TokenTree, as_posteriors, score
from rango.tasks import Form, Instance
from rango.training.checkpoint import Progress, load_state, save_state
from rango.training.objectives import DivergenceError, count_terms, loss_sum
from rango.training.options import FinetuneConfig
from rango.training.progress import Bar, Screen
from rango.training.run import RunWriter
from rango.training.schedule import BatchPlan, learning_rate_factor
from rango.training.signals import SignalGuard

VALIDATION_METRICS = ("nce", "cross_entropy", "error_rate", "accuracy", "brier")

_START = {"step": 0, "seconds": 0.0, "tokens": 0}


@dataclass
class Trainer:
    """Trains one adapter. `run` may be called on a fresh or on a half-finished run directory."""

    reader: Reader
    adapter: Adapter
    config: FinetuneConfig
    form: Form
    train: Sequence[TokenTree]
    validation: Sequence[TokenTree]
    validation_instances: Sequence[Instance]
    writer: RunWriter
    screen: Screen
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        """Set up the optimizer and the plan of batches."""
        config = self.config
        self.optimizer = torch.optim.AdamW(
            self.adapter.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.plan = BatchPlan(
            [tree.input_length for tree in self.train],
            batch=config.batch,
            batch_tokens=config.train_tokens,
            seed=config.seed,
        )
        self.total = config.steps or (config.epochs or 3) * self.plan.steps_per_epoch
        self._validation_nce = math.nan
        self.every = config.validate_every or max(1, math.ceil(self.total / 20))

    @property
    def state_file(self) -> Path:
        """Where the state for a resume is."""
        return self.writer.path / "state" / "state.safetensors"

    def run(self, guard: SignalGuard) -> None:
        """Train to the end, or to the end of patience, from where the run directory stands."""
        if self.state_file.is_file():
            self.progress = load_state(self.state_file, self.adapter, self.optimizer)
            self.writer.rewind_log(self.progress.step)
            self.screen.say(f"Going on after step {self.progress.step} of {self.total}.")
        else:
            self.writer.rewind_log(-1)
        guard.hold()
        with self.screen.bar("training", self.total) as bar:
            bar.advance(self.progress.step)
            if self.progress.validated_step is None:
                self._validate(None, bar)
            while self.progress.step < self.total and not self._out_of_patience():
                record = self._step()
                last = self.progress.step == self.total
                if last or self.progress.step % self.every == 0:
                    self._validate(record, bar)
                else:
                    self.writer.append_log(record)
                bar.advance(1, self._words(record))
                if guard.received:
                    save_state(self.state_file, self.adapter, self.optimizer, self.progress)
                    guard.check()
        guard.release()

    def _step(self) -> dict[str, float]:
        """One optimizer step; returns its log record.

        Raises:
            DivergenceError: the loss is not finite. The checkpoints stay as they were.
        """
        started = time.perf_counter()
        config, step = self.config, self.progress.step
        trees = [self.train[number] for number in self.plan.step(step)]
        factor = learning_rate_factor(step, self.total, warmup=config.warmup, decay=config.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        # Dropout's masks are a function of seed and step, so that a resumed run draws the same.
        torch.manual_seed((config.seed << 32) + step)
        loss, tokens = self._gradients(trees)
        if not math.isfinite(loss):
            raise self._divergence(loss)
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += tokens
        self.progress.seconds += time.perf_counter() - started
        return {
            "step": self.progress.step,
            "train_loss": loss,
            "learning_rate": config.learning_rate * factor,
            "seconds": round(self.progress.seconds, 3),
            "tokens": self.progress.tokens,
        }

    def _gradients(self, trees: Sequence[TokenTree]) -> tuple[float, int]:
        """Accumulate the gradients of the batch's mean loss, micro-batch by micro-batch."""
        config = self.config
        terms = count_terms(trees, config.objective)
        size = config.micro_batch or len(trees)
        self._switch_dropout_on()
        total = torch.zeros((), device=self.reader.model.device)
        for start in range(0, len(trees), size):
            part = trees[start : start + size]
            loss = loss_sum(self.reader, part, objective=config.objective, rule=config.rule, normalise=config.normalise)
            (loss / terms).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return float(total) / terms, sum(tree.input_length for tree in trees)

    def _switch_dropout_on(self) -> None:
        """Of the adapter alone: the frozen network stays as it is when it is evaluated."""
        self.reader.model.network.train(False)
        for layer in self.adapter.layers.values():
            layer.train()

    def _validate(self, record: dict[str, float] | None, bar: Bar) -> None:
        """Measure on validation, keep the best and the last checkpoint, and write what a resume needs."""
        options = self.config
        scores = score(self.reader, self.validation, options=options, form=self.form)
        posteriors = as_posteriors(scores.values, self.validation_instances)
        values = {name: float(getattr(posteriors, name)()) for name in VALIDATION_METRICS}
        value = values[options.select]
        better = self._is_better(value)
        if better:
            self.progress.best_step, self.progress.best_value = self.progress.step, value
            self.progress.waited = 0
            self.adapter.save(self.writer.path / "adapter" / "best")
        else:
            self.progress.waited += 1
        self.progress.validated_step = self.progress.step
        self._validation_nce = values["nce"]
        bar.advance(0)
        self.writer.append_log({**(record or _START), "validation": values, "best": better})
        self.adapter.save(self.writer.path / "adapter" / "last")
        save_state(self.state_file, self.adapter, self.optimizer, self.progress)

    def _is_better(self, value: float) -> bool:
        best = self.progress.best_value
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value < best if DIRECTIONS[self.config.select] == "lower" else value > best

    def _out_of_patience(self) -> bool:
        return self.config.patience is not None and self.progress.waited >= self.config.patience

    def _words(self, record: dict[str, float]) -> str:
        rate = self.progress.tokens / max(self.progress.seconds, 1e-9)
        return f"loss {record['train_loss']:.3f} · val NCE {self._validation_nce:.3f} · {rate:,.0f} tokens/s"

    def _divergence(self, loss: float) -> DivergenceError:
        best = self.progress.best_step
        kept = f"the best checkpoint (step {best}) is kept in {self.writer.path / 'adapter' / 'best'}"
        return DivergenceError(
            f"the loss became {loss} at step {self.progress.step + 1} with learning rate "
            f"{self.config.learning_rate:g}; {kept}; lower --learning-rate"
        )
