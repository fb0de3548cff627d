"""The training loop: the runs of a bank step together over one frozen base; an ordinary run is a bank of one.

batch of run 0 ┐                             ┌ head and loss of run 0 → backward → gradient of its states
batch of run 1 ┼ join → one forward → states ┼ head and loss of run 1 → backward → gradient of its states
batch of run 2 ┘                             └ head and loss of run 2 → backward → gradient of its states
                                               one backward through the shared pass → one update of each run
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from rango.console import Screen, SignalGuard
from rango.errors import RunError
from rango.models.adapter import Adapter
from rango.scoring.batches import join
from rango.scoring.forward import Reader
from rango.scoring.scorer import mask_seed
from rango.scoring.trees import TokenTree
from rango.training.checkpoint import load_state, save_state
from rango.training.distributed import ALONE, ProcessGroup
from rango.training.kept_states import KeptStates, keep_states
from rango.training.objectives import MicroBatch, count_terms
from rango.training.training_run import TrainingRun


@dataclass
class Trainer:
    """Trains the runs of a bank. `train` may be called on fresh or on half-finished run directories."""

    reader: Reader
    runs: Sequence[TrainingRun]
    state_file: Path
    """Where the state of all runs is saved for a resume."""
    screen: Screen
    processes: ProcessGroup = ALONE
    kept: KeptStates | None = None
    """States of frozen layers below the first adapted one, of a run that trains alone."""

    def train(self, guard: SignalGuard) -> None:
        """Train every run to its end, from where the state file stands.

        A run whose loss diverges is marked as failed; the others go on.
        """
        self._resume()
        self._keep_states()
        self.processes.barrier()  # before the main process overwrites the state that the others read
        # From here on a signal waits until the step is done and saved.
        guard.hold()
        total, done = (max(steps) for steps in zip(*((r.most_steps, r.progress.step) for r in self.runs), strict=True))
        with self.screen.bar("training", total, done=done, unit="steps") as bar:
            # A fresh run is validated before its first step: the base may already be the best.
            fresh = [run for run in self.runs if run.progress.validated_step is None]
            for run in fresh:
                run.checkpoint(None)
            if fresh:
                bar.advance(0, _validation(fresh[0]), log=True)
                self._save()
            # Each round is one step of every run that still trains, and validations where they are due.
            while active := self._active_runs():
                records = self._step(active)
                validated = self._record(active, records)
                bar.advance(1, self._describe(active, records), log=validated)
                if self.processes.any(guard.received):
                    self._save()
                    guard.stop()
        guard.release()

    def _resume(self) -> None:
        state = load_state(self.state_file) if self.state_file.is_file() else None
        for run in self.runs:
            run.resume(state)
        if state is not None:
            steps = max(run.progress.step for run in self.runs)
            self.screen.say(f"Going on after step {steps} of {max(run.most_steps for run in self.runs)}.")

    def _keep_states(self) -> None:
        # The runs of a bank begin at different layers of one pass.
        alone = len(self.runs) == 1 and self.processes.size == 1
        self.kept = keep_states(self.runs[0]) if alone else None

    def _active_runs(self) -> list[TrainingRun]:
        """The runs with steps left to do; one that has found its number of steps begins to retrain."""
        for run in self.runs:
            if run.search_is_over:
                run.begin_retraining()
                self._keep_states()
        return [run for run in self.runs if run.has_steps_left]

    def _step(self, active: Sequence[TrainingRun]) -> list[dict[str, float] | None]:
        """Take one optimizer step of every active run; returns their log records, None for one that diverged."""
        started = time.perf_counter()
        batches = [run.batch() for run in active]
        losses = None
        while losses is None:
            # Dropout's masks are a function of seed and step, so that a resumed run draws the same.
            torch.manual_seed(mask_seed(active[0].config.seed, active[0].progress.step, self.processes.rank))
            try:
                losses = accumulate_gradients(self.reader, active, batches, self.processes, self.kept)
            except RuntimeError as error:
                # Other processes wait for this one's sums, and cannot be told to begin the step again.
                if self.processes.size > 1 or not is_out_of_memory(error):
                    raise
            # Only here is the error gone, and with it the tensors of the pass that did not fit.
            if losses is None:
                self._halve(active, batches)
        records = [run.update(loss, trees) for run, loss, trees in zip(active, losses, batches, strict=True)]
        # The pass is shared, so every run is charged an equal share of its time.
        share = (time.perf_counter() - started) / len(active)
        return [
            None if record is None else run.add_time(record, share) for run, record in zip(active, records, strict=True)
        ]

    def _halve(self, active: Sequence[TrainingRun], batches: Sequence[Sequence[TokenTree]]) -> None:
        """Let a pass hold half as many instances from here on, with the same loss of the whole batch.

        Raises:
            RunError: a pass holds one instance of each run already.
        """
        sizes = [run.pass_size or len(trees) for run, trees in zip(active, batches, strict=True)]
        if max(sizes) == 1:
            raise RunError(
                "out of memory with one instance in a pass; gradient_checkpointing, quantise nf4 and offload need less"
            )
        for run, size in zip(active, sizes, strict=True):
            run.pass_size = max(1, size // 2)
            run.optimizer.zero_grad(set_to_none=True)  # of the passes of this step that did fit
            note = f"out of memory with {size} instances in a pass; from step {run.progress.step + 1} it holds "
            run.writer.write_note(f"{note}{run.pass_size}, and the loss is that of the same batch")
        if self.reader.model.device.type == "cuda":
            torch.cuda.empty_cache()
        self.screen.say(
            f"Out of memory: a pass holds {active[0].pass_size} instances from here on, for the same steps "
            f"(--micro-batch {active[0].pass_size} begins so)."
        )

    def _record(self, active: Sequence[TrainingRun], records: Sequence[dict[str, float] | None]) -> bool:
        """Log a step, validate where it is time, and save what a resume needs after that; whether one was validated."""
        validated = False
        for run, record in zip(active, records, strict=True):
            if record is not None and run.at_checkpoint:
                run.checkpoint(record)
                validated = True
            elif record is not None:
                run.writer.append_log(record)
        if validated:
            self._save()
        return validated

    def _save(self) -> None:
        if self.processes.is_main:
            save_state(self.state_file, self.runs)

    def _describe(self, active: Sequence[TrainingRun], records: Sequence[dict[str, float] | None]) -> str:
        """Loss and validation of the first run that has not diverged, and the rate of all, for the progress bar."""
        seconds = sum(run.progress.seconds for run in self.runs)
        rate = sum(run.progress.tokens for run in self.runs) / max(seconds, 1e-9)
        for run, record in zip(active, records, strict=True):
            if record is not None:
                parts = (f"loss {record['train_loss']:.3f}", _validation(run), f"{rate:,.0f} tokens/s")
                return " · ".join(filter(None, parts))
        return ""


def _validation(run: TrainingRun) -> str:
    """The last validation of a run; "" where there is none."""
    return f"val NCE {run.validation_nce:.3f}" if math.isfinite(run.validation_nce) else ""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a pass did not fit: into a GPU, or into what a CPU's allocator may take."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def accumulate_gradients(
    reader: Reader,
    runs: Sequence[TrainingRun],
    batches: Sequence[Sequence[TokenTree]],
    processes: ProcessGroup = ALONE,
    kept: KeptStates | None = None,
) -> list[float]:
    """Add the gradients of each run's mean loss on its batch to its parameters; returns the losses.

    The batches are read micro-batch by micro-batch, as each run's configuration says; the result does not depend on
    their size. Of several processes each reads its part of every batch; the sums are those of the whole batch in all.
    With `kept` states, which one run alone may have, the pass begins at the first adapted layer.
    """
    terms = [count_terms(trees, run.config.objective) for run, trees in zip(runs, batches, strict=True)]
    totals = [torch.zeros((), device=reader.model.device) for _ in runs]
    reader.model.network.train(False)
    for run in runs:
        run.adapter.enable_dropout()
    # Cut this process's part of each batch into micro-batches.
    chunks: list[list[Sequence[TokenTree]]] = []
    for run, trees in zip(runs, batches, strict=True):
        own = processes.share(trees)
        size = run.pass_size or max(1, len(own))
        chunks.append([own[start : start + size] for start in range(0, len(own), size)])
    # The first micro-batches of all runs share a pass, then the second ones; a run with fewer drops out of the last.
    for round_ in zip_longest(*chunks):
        present = [number for number, trees in enumerate(round_) if trees is not None]
        losses = _backward(
            reader,
            [runs[number] for number in present],
            [runs[number].micro_batch(round_[number]) for number in present],
            [terms[number] for number in present],
            kept,
        )
        for number, loss in zip(present, losses, strict=True):
            totals[number] += loss
    # A base that is cut over the processes takes all of them for each pass. The first one's part is the largest: who
    # made fewer passes than it reads along, with a weight of 1 / infinity.
    largest = [-(-len(trees) // processes.size) for trees in batches]
    passes = max(-(-size // (run.pass_size or size)) for run, size in zip(runs, largest, strict=True))
    for _ in range(passes - max(map(len, chunks))):
        _backward(reader, runs[:1], [runs[0].micro_batch(batches[0][:1])], [math.inf])
    for run in runs:
        processes.sum_gradients(run.adapter.parameters())
    return [total / count for total, count in zip(processes.sum(torch.stack(totals)).tolist(), terms, strict=True)]


def _backward(
    reader: Reader,
    runs: Sequence[TrainingRun],
    micro_batches: Sequence[MicroBatch],
    terms: Sequence[float],
    kept: KeptStates | None = None,
) -> list[torch.Tensor]:
    """Read all rows in one pass and add the gradients of each run's loss / terms; returns the summed losses.

    The graph is cut at the states that the head reads. Each run's head and loss then go forward and backward on their
    own: the logits of one are freed before the next ones are made, and an adapted head sees one adapter's rows only.
    """
    joint = join([micro_batch.batch for micro_batch in micro_batches], pad=reader.pad())
    again = runs[0].config.gradient_checkpointing
    # All hold in the backward pass too: what is computed again there must see the same rows, layers and positions.
    with (
        _sharing(runs, micro_batches),
        recomputing(reader.model.network) if again else contextlib.nullcontext(),
        reader.narrowing.at(joint),
        kept.at(micro_batches[0].trees, joint) if kept is not None else contextlib.nullcontext(),
    ):
        states = reader.states(joint)  # (u, H): u positions that predict, of all runs
        leaf = states.detach().requires_grad_(states.requires_grad)
        pieces = torch.split(leaf, [len(micro_batch.batch.rows) for micro_batch in micro_batches])
        losses = []
        # Collect in `leaf.grad` what each run's loss asks of its states, then go back through the shared pass once.
        for run, micro_batch, piece, count in zip(runs, micro_batches, pieces, terms, strict=True):
            with run.adapter.alone():
                loss = micro_batch.loss(piece)
                (loss / count).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        # With an adapter in the head alone, nothing below it is trained.
        if leaf.grad is not None:
            states.backward(leaf.grad)  # type: ignore[no-untyped-call]
    return losses


def _sharing(runs: Sequence[TrainingRun], micro_batches: Sequence[MicroBatch]) -> AbstractContextManager[None]:
    """Within the block every adapter changes the rows of its own run only."""
    if len(runs) == 1:
        return runs[0].adapter.alone()
    adapters = [run.adapter for run in runs if isinstance(run.adapter, Adapter)]
    rows = [len(micro_batch.batch.tokens) for micro_batch in micro_batches]
    return adapters[0].grouping.split([adapter.number for adapter in adapters], rows)


@contextlib.contextmanager
def recomputing(network: nn.Module) -> Iterator[None]:
    """Within the block each layer keeps only its input in the forward pass and is computed again in the backward pass.

    Dropout draws the same masks both times. transformers' own switch acts in training mode only, in which the base's
    dropout would be on.
    """
    layers: list[Any] = recomputable_layers(network)
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # that of the class is back


def recomputable_layers(network: nn.Module) -> list[nn.Module]:
    """The layers that gradient checkpointing computes again; none in a network that has no such layers, as an LSTM."""
    return [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
