"""The loop of pre-training a network: optimizer steps over windows of the text until the budget is spent.

    epoch       windows (n, context + 1) of the training text, cut and shuffled by seed and epoch
    step        the next batch_tokens // context windows: loss, gradients, clipping, AdamW
    measure     every evaluate_every steps and at the end: the held-out loss, into the history
    save        every save_minutes and on a signal: weights, moments and position, from which a repeated command goes on

Fine-tuning (`rango.training.trainer`) steps several runs over instances; it shares the state file and the cosine.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rango.console import Screen, SignalGuard, duration
from rango.errors import DivergenceError, InputError
from rango.language.corpus import Corpus, Tokens, consecutive_windows, end_of_text, windows
from rango.language.model_folder import held_out_measures, writing
from rango.language.networks import build_network
from rango.language.options import PretrainConfig
from rango.language.text_scores import MOST_NATS
from rango.models.full_finetuning import FullTuning
from rango.models.loading import Model, choose_device, limit_threads, multiplies_bfloat16
from rango.scoring.scorer import mask_seed
from rango.training.checkpoint import load_state, save_state
from rango.training.schedule import cosine_factor

# Passes over the text when no budget is given: a small model still learns in the third.
_DEFAULT_PASSES = 3
_BETAS = (0.9, 0.95)
_FINAL_SHARE = 0.1  # of the peak learning rate, where warm-up starts and the cosine ends
_EVALUATION_TOKENS = 8192  # per forward pass
# On a CPU the logits of so many positions at once stay near the processor between head and softmax.
_HEAD_ROWS = 256
# Up to this length plain matrix products are faster on a CPU than the fused attention's backward pass.
_SHORT_CONTEXT = 512


def rate_factor(spent: float, *, warmup: float) -> float:
    """The share of the peak learning rate when the share `spent` (0 to 1) of the budget is spent.

    Linear warm-up from a tenth, then half a cosine down to a tenth. The budget may be minutes, so that the schedule
    follows shares, not steps as in fine-tuning.

    >>> [round(rate_factor(spent, warmup=0.1), 3) for spent in (0.0, 0.05, 0.1, 0.55, 1.0)]
    [0.1, 0.55, 1.0, 0.55, 0.1]
    """
    if spent < warmup:
        return _FINAL_SHARE + (1 - _FINAL_SHARE) * spent / warmup
    return cosine_factor(min(1.0, (spent - warmup) / (1 - warmup)), 1, floor=_FINAL_SHARE)


def token_losses(
    network: PreTrainedModel, batch: torch.Tensor, *, reduction: str = "mean", apart: bool = True
) -> torch.Tensor:
    """-log P(token | tokens before it in its window), in nats.

    Args:
        network: a causal language model.
        batch: (n, context + 1) windows; the first column is only read, the others are predicted.
        reduction: `mean`, `sum`, or `none` for (n * context,) losses.
        apart: apply the head to the flattened hidden states, because the model's own loss would shift, pad and copy
            the logits. False takes the network's own logits, for architectures that scale or cap what the head gives.
    """
    targets = batch[:, 1:].flatten()  # (n * context,)
    if not apart:
        logits = network(input_ids=batch[:, :-1], use_cache=False).logits.flatten(0, 1)  # (n * context, V)
        return nn.functional.cross_entropy(logits, targets, reduction=reduction)
    hidden = network.base_model(input_ids=batch[:, :-1], use_cache=False).last_hidden_state  # (n, context, hidden)
    hidden = hidden.flatten(0, 1)  # (n * context, hidden)
    head: nn.Module = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    rows = _HEAD_ROWS if batch.device.type == "cpu" else len(hidden)
    losses = torch.cat(
        [
            nn.functional.cross_entropy(head(states), part, reduction="none")
            for states, part in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
        ]
    )  # (n * context,)
    return losses if reduction == "none" else losses.sum() / (len(losses) if reduction == "mean" else 1)


@dataclass
class Position:
    """How far a pre-training is: with the weights and moments, all that a resume needs."""

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
    """One pre-training of a network: its weights, optimizer and position.

    Args:
        config: size, budget and schedule; the size of the vocabulary is that of the tokenizer.
        corpus: tokens to learn from and tokens held out.
        tokenizer: whose end-of-text token stands between documents.
        state_file: where the state is saved; if it is there, training goes on from it.
    """

    key = "network"  # the name of this run in the state file

    def __init__(
        self, config: PretrainConfig, corpus: Corpus, *, tokenizer: PreTrainedTokenizerFast, state_file: Path
    ) -> None:
        self.config, self.corpus, self.state_file = config, corpus, state_file
        self.device = choose_device(config.device)
        sized = config.model_copy(update={"vocabulary": len(tokenizer)})
        self.network = build_network(sized, end_of_text=end_of_text(tokenizer))
        self.network.to(self.device)  # type: ignore[arg-type]
        if self.device.type == "cpu":
            limit_threads(self.network)
        self.model = Model(name=config.model, network=self.network, tokenizer=tokenizer)
        if self.device.type == "cpu" and config.model == "transformer" and config.context <= _SHORT_CONTEXT:
            self.network.set_attn_implementation("eager")
        self._head_apart = not config.architecture_file
        # The type of the matrix products; weights and moments are float32 whatever it is.
        fastest = torch.bfloat16 if multiplies_bfloat16(self.device) else torch.float32
        self.dtype: torch.dtype = fastest if config.dtype == "auto" else getattr(torch, config.dtype)
        # Every parameter is trained; there are no weights from before to go back to.
        self.adapter = FullTuning(self.model, base={})
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self.network.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
                {"params": [p for p in self.network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=_BETAS,
            fused=True,
        )
        self.progress = Position()
        # None: the budget is in minutes.
        self.token_budget = config.tokens or (None if config.minutes else _DEFAULT_PASSES * len(corpus.train))
        self._held_out = consecutive_windows(corpus.held_out, context=config.context)  # (h, context + 1)
        self._epoch: tuple[int, Tokens] | None = None  # the number of the current epoch, and its windows
        if state_file.exists():
            try:
                state = load_state(state_file, advice="repeat the command to begin anew")
            except InputError:
                state_file.unlink()
                raise
            self.progress = Position(**state.progress[self.key])
            state.restore(self)

    @property
    def spent(self) -> float:
        """The share of the budget that is spent; 1 or more at the end."""
        if self.token_budget is not None:
            return self.progress.tokens / self.token_budget
        assert self.config.minutes is not None
        return self.progress.seconds / (60 * self.config.minutes)

    def run(self, screen: Screen) -> None:
        """Train until the budget is spent."""
        begun = time.monotonic() - self.progress.seconds
        saved = time.monotonic()
        budget = self.token_budget or 60 * (self.config.minutes or 0)
        self.network.train()
        unit, done = "tokens" if self.token_budget else "s", min(1.0, self.spent) * budget
        with (
            SignalGuard("the state is saved; repeat the command to go on") as guard,
            screen.bar("pre-training", budget, done=done, unit=unit) as bar,
        ):
            guard.hold()  # a signal waits for the end of a step: a step is short, and half a step cannot be saved
            while (before := self.spent) < 1:
                loss = self._step()
                self.progress.seconds = time.monotonic() - begun
                last = self.spent >= 1
                if last or self.progress.step % self.config.evaluate_every == 0:
                    screen.say(self._evaluate())
                # The last state needs no saving: the finished folder follows.
                if guard.received or (not last and time.monotonic() - saved > 60 * self.config.save_minutes):
                    with writing(self.state_file.parent):
                        save_state(self.state_file, [self])
                    saved = time.monotonic()
                guard.check()
                speed = self.progress.tokens / self.progress.seconds
                moved = (min(1.0, self.spent) - before) * budget
                bar.advance(moved, f"loss {loss:.3f}, {speed:,.0f} tokens/s")

    def _step(self) -> float:
        """One optimizer step; returns the mean loss of its batch before the update, in nats per token."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate_factor(self.spent, warmup=self.config.warmup)
        batch = self._next_batch()
        with torch.random.fork_rng(), self._autocast():
            # Dropout's masks are a function of seed and step, so that a resumed run draws the same.
            torch.manual_seed(mask_seed(self.config.seed, self.progress.step))
            loss = token_losses(self.network, batch, apart=self._head_apart)  # ()
        value = loss.item()
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value} at step {self.progress.step + 1}; expected a finite number")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        self.progress.losses.append(value)
        self.progress.step += 1
        self.progress.tokens += batch[:, 1:].numel()
        return value

    def _next_batch(self) -> torch.Tensor:
        """(n, context + 1) windows of the next step; the position moves past them."""
        position, config = self.progress, self.config
        if self._epoch is None or self._epoch[0] != position.epoch:
            order = windows(self.corpus.train, context=config.context, seed=config.seed, epoch=position.epoch)
            self._epoch = (position.epoch, order)
        rows = self._epoch[1]
        count = min(len(rows), max(1, config.batch_tokens // config.context))
        batch = rows[position.row : position.row + count]
        position.row += count
        if position.row + count > len(rows):  # the rest is no whole batch; the next epoch draws it anew
            position.epoch, position.row = position.epoch + 1, 0
        return self._tensor(batch)

    def _tensor(self, rows: Tokens) -> torch.Tensor:
        return torch.from_numpy(rows.astype(np.int64)).to(self.device)

    def _autocast(self) -> torch.autocast:
        """Within the block matrices are multiplied in the chosen type; sums, softmax and the loss stay in float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def _diverged(self, what: str) -> DivergenceError:
        return DivergenceError(f"{what}: lower learning_rate (now {self.config.learning_rate:g})")

    def _evaluate(self) -> str:
        """Measure the held-out loss, add it to the history and return a sentence about it."""
        position = self.progress
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
            f"{remaining_time(position.seconds, self.spent)}"
        )

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss over the held-out windows, in nats per token."""
        self.network.train(False)
        rows = max(1, _EVALUATION_TOKENS // self.config.context)
        total = 0.0
        for start in range(0, len(self._held_out), rows):
            batch = self._tensor(self._held_out[start : start + rows])  # (rows, context + 1)
            with self._autocast():
                total += float(token_losses(self.network, batch, reduction="sum", apart=self._head_apart))
        self.network.train()
        return total / self._held_out[:, 1:].size


def remaining_time(seconds: float, spent: float) -> str:
    """The time that the rest of the budget takes, in words, if the share `spent` of it took `seconds`.

    >>> remaining_time(100.0, 0.25), remaining_time(30.0, 0.5), remaining_time(30.0, 1.0)
    ('5 min left', '30 s left', 'done')
    """
    if spent >= 1:
        return "done"
    return f"{duration(seconds * (1 - spent) / spent)} left"
