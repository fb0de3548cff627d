"""The loop of pre-training: a fresh network, its loss over windows, optimizer steps until the budget is spent."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from rango.console import Screen, SignalGuard
from rango.errors import InputError
from rango.files import write_tensors
from rango.language.corpus import Corpus, Tokens, consecutive_windows, windows
from rango.language.model_folder import MOST_NATS, held_out_measures
from rango.language.networks import build_network
from rango.language.options import PretrainConfig
from rango.models.loading import choose_device, multiplies_bfloat16
from rango.scoring.scorer import mask_seed

# Passes over the text when no budget is given: a small model still learns in the third.
_DEFAULT_PASSES = 3
_BETAS = (0.9, 0.95)
_FINAL_SHARE = 0.1  # of the peak learning rate, where warm-up starts and the cosine ends
_EVALUATION_TOKENS = 8192  # per forward pass
# On a CPU the logits of so many positions at once stay near the processor between head and softmax.
_HEAD_ROWS = 256
# Up to this length plain matrix products are faster on a CPU than the fused attention's backward pass.
_SHORT_CONTEXT = 512


def token_losses(
    network: PreTrainedModel, batch: torch.Tensor, *, reduction: str = "mean", apart: bool = True
) -> torch.Tensor:
    """-log P(token | tokens before it), in nats, of windows (n, context + 1): the first column is only read.

    The head is applied to the flattened hidden states: the model's own loss would shift, pad and copy the logits.
    Some architectures scale or cap what the head gives: with `apart` false the network's own logits are taken.
    """
    targets = batch[:, 1:].flatten()
    if not apart:
        logits = network(input_ids=batch[:, :-1], use_cache=False).logits.flatten(0, 1)
        return nn.functional.cross_entropy(logits, targets, reduction=reduction)
    hidden = network.base_model(input_ids=batch[:, :-1], use_cache=False).last_hidden_state.flatten(0, 1)
    head: nn.Module = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    rows = _HEAD_ROWS if batch.device.type == "cpu" else len(hidden)
    losses = torch.cat(
        [
            nn.functional.cross_entropy(head(states), part, reduction="none")
            for states, part in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
        ]
    )
    return losses if reduction == "none" else losses.sum() / (len(losses) if reduction == "mean" else 1)


@dataclass
class Position:
    """Where a training run is."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    epoch: int = 0
    row: int = 0
    """Windows of this epoch that are done."""
    losses: list[float] = field(default_factory=list)
    """Of the steps since the last entry in the history."""
    history: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """One training run: network, optimizer, state."""

    def __init__(self, config: PretrainConfig, corpus: Corpus, *, end_of_text: int, state_file: Path) -> None:
        self.config, self.corpus, self.state_file = config, corpus, state_file
        self.device = choose_device(config.device)
        self.network = build_network(config, end_of_text=end_of_text)
        self.network.to(self.device)  # type: ignore[arg-type]
        self._apart = not config.architecture_file
        if self.device.type == "cpu" and config.model == "transformer" and config.context <= _SHORT_CONTEXT:
            self.network.set_attn_implementation("eager")
        self.parameters = sum(p.numel() for p in self.network.parameters())
        self.dtype = _product_type(config, self.device)
        self.position = Position()
        # None: the budget is in minutes.
        self.token_budget = config.tokens or (None if config.minutes else _DEFAULT_PASSES * len(corpus.train))
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self.network.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
                {"params": [p for p in self.network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=_BETAS,
            fused=True,
        )
        self._held_out = consecutive_windows(corpus.held_out, context=config.context)
        self._epoch: tuple[int, Tokens] | None = None
        if state_file.exists():
            self._load()

    def run(self, screen: Screen) -> None:
        """Train until the budget is spent."""
        begun = time.monotonic() - self.position.seconds
        saved = time.monotonic()
        budget = self.token_budget or 60 * (self.config.minutes or 0)
        label = "pre-training" if self.token_budget else "pre-training (s)"
        self.network.train()
        with SignalGuard("the state is saved; repeat the command to go on") as guard, screen.bar(label, budget) as bar:
            guard.hold()  # a signal waits for the end of a step: a step is short, and half a step cannot be saved
            bar.advance(self.progress * budget)
            while (before := self.progress) < 1:
                loss = self._step()
                self.position.seconds = time.monotonic() - begun
                last = self.progress >= 1
                if last or self.position.step % self.config.evaluate_every == 0:
                    screen.say(self._evaluate())
                if guard.received or (not last and time.monotonic() - saved > 60 * self.config.save_minutes):
                    self.save()
                    saved = time.monotonic()
                guard.check()
                speed = self.position.tokens / self.position.seconds
                moved = (min(1.0, self.progress) - before) * budget
                bar.advance(moved, f"loss {loss:.3f}, {speed:,.0f} tokens/s")

    @property
    def progress(self) -> float:
        """Share of the budget that is spent; 1 or more at the end."""
        if self.token_budget is not None:
            return self.position.tokens / self.token_budget
        assert self.config.minutes is not None
        return self.position.seconds / (60 * self.config.minutes)

    def _step(self) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate_factor(self.progress, warmup=self.config.warmup)
        batch = self._next_batch()
        with torch.random.fork_rng(), self._products():
            # Dropout's masks are a function of seed and step, so that a resumed run draws the same.
            torch.manual_seed(mask_seed(self.config.seed, self.position.step))
            loss = token_losses(self.network, batch, apart=self._apart)
        value = loss.item()
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value} at step {self.position.step + 1}; expected a finite number")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        self.position.losses.append(value)
        self.position.step += 1
        self.position.tokens += batch[:, 1:].numel()
        return value

    def _diverged(self, what: str) -> InputError:
        return InputError(f"{what}: lower learning_rate (now {self.config.learning_rate:g})")

    def _products(self) -> torch.autocast:
        """Within the block matrices are multiplied in the chosen type; sums, softmax and the loss stay in float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def _next_batch(self) -> torch.Tensor:
        position, config = self.position, self.config
        if self._epoch is None or self._epoch[0] != position.epoch:
            order = windows(self.corpus.train, context=config.context, seed=config.seed, epoch=position.epoch)
            self._epoch = (position.epoch, order)
        all_rows = self._epoch[1]
        count = min(len(all_rows), max(1, config.batch_tokens // config.context))
        rows = all_rows[position.row : position.row + count]
        position.row += count
        if position.row + count > len(all_rows):  # what is left is no whole batch; the next epoch draws it anew
            position.epoch, position.row = position.epoch + 1, 0
        return self._tensor(rows)

    def _tensor(self, rows: Tokens) -> torch.Tensor:
        return torch.from_numpy(rows.astype(np.int64)).to(self.device)

    def _evaluate(self) -> str:
        """Record the held-out loss and put it into a sentence."""
        position = self.position
        nats = self.held_out_loss()
        # The last step's update is seen here only: the loss is measured before each update.
        if not nats < MOST_NATS:
            raise self._diverged(
                f"held-out loss {nats:.4g} nats/token at step {position.step}; expected less than {MOST_NATS:.0f}"
            )
        tokens = self._held_out[:, 1:].size
        measures = held_out_measures(nats, tokens, self.corpus)
        train = sum(position.losses) / len(position.losses)
        position.losses.clear()
        position.history.append(
            {
                "step": position.step,
                "tokens": position.tokens,
                "seconds": round(position.seconds, 1),
                "train_loss": round(train, 6),
                **measures,
            }
        )
        return (
            f"step {position.step:,}: {position.tokens:,} tokens (epoch {position.epoch + 1}), train {train:.3f}, "
            f"held out {nats:.3f} nats/token (perplexity {measures['held_out_perplexity']:,.1f}), "
            f"{measures['held_out_bits_per_byte']:.3f} bits/byte, {position.tokens / position.seconds:,.0f} tokens/s, "
            f"{_time_left(position.seconds, self.progress)}"
        )

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss over the held-out windows, in nats per token."""
        self.network.train(False)
        rows = max(1, _EVALUATION_TOKENS // self.config.context)
        total = 0.0
        for start in range(0, len(self._held_out), rows):
            batch = self._tensor(self._held_out[start : start + rows])
            with self._products():
                total += float(token_losses(self.network, batch, reduction="sum", apart=self._apart))
        self.network.train()
        return total / self._held_out[:, 1:].size

    def save(self) -> None:
        """Write weights, moments and position in one file, so that the state is whole or absent."""
        tensors = {f"weights/{name}": p for name, p in self.network.named_parameters()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer/{key}/{name}"] = value
        write_tensors(self.state_file, tensors, metadata={"position": json.dumps(asdict(self.position))})

    def _load(self) -> None:
        try:
            with safe_open(self.state_file, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                self.position = Position(**json.loads(file.metadata()["position"]))
        except (SafetensorError, LookupError, TypeError, ValueError) as error:
            # What is unfinished goes with this error, see `pretrain`.
            raise InputError(f"{self.state_file} is damaged ({error}); repeat the command to begin anew") from None
        for name, parameter in self.network.named_parameters():
            parameter.data.copy_(tensors[f"weights/{name}"])
            self.optimizer.state[parameter] = {
                key: tensors[f"optimizer/{key}/{name}"].to(self.device) for key in ("step", "exp_avg", "exp_avg_sq")
            }


def _time_left(seconds: float, progress: float) -> str:
    """What remains when `seconds` brought the run to `progress`, in words.

    >>> _time_left(100.0, 0.25), _time_left(30.0, 0.5), _time_left(30.0, 1.0)
    ('5 min left', '30 s left', 'done')
    """
    if progress >= 1:
        return "done"
    left = seconds * (1 - progress) / progress
    return f"{left / 60:.0f} min left" if left > 100 else f"{left:.0f} s left"


def _product_type(config: PretrainConfig, device: torch.device) -> torch.dtype:
    if config.dtype == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]


def rate_factor(progress: float, *, warmup: float) -> float:
    """Share of the peak learning rate when `progress` (0 to 1) of the budget is spent.

    Linear warm-up from a tenth, then half a cosine down to a tenth.

    >>> [round(rate_factor(progress, warmup=0.1), 3) for progress in (0.0, 0.05, 0.1, 0.55, 1.0)]
    [0.1, 0.55, 1.0, 0.55, 0.1]
    """
    if progress < warmup:
        return _FINAL_SHARE + (1 - _FINAL_SHARE) * progress / warmup
    fallen = min(1.0, (progress - warmup) / (1 - warmup))
    return _FINAL_SHARE + (1 - _FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * fallen))
