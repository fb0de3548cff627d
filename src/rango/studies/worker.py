"""One worker: claims what can be done next, does it, remembers failures, until nothing is left to do.

Any number of workers may run on one study folder, on one machine or on several that share it. What is interrupted is
gone on with where it was saved; what fails does not stop the rest.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rango.console import Screen
from rango.decisions import Posteriors
from rango.errors import Interrupted
from rango.language.pretrain import pretrain
from rango.models.adapter import Adapter
from rango.models.loading import Model, load_model
from rango.models.peft_format import load_adapter
from rango.options import ModelOptions, ScoringOptions, Split, TaskOptions
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import DropoutPasses, evaluate, score_split
from rango.studies.plan import MODELS, Job, Plan
from rango.studies.pretrained_models import ModelSpec
from rango.studies.queue import BANKS, Claim, WorkItem, claim, dissolve, work_items, write_bank
from rango.studies.store import Store
from rango.tasks import Task, load_task, simulated_narratives
from rango.training.bank import BankJob, OnValidation
from rango.training.bank_choice import choose_bank
from rango.training.evaluate import true_posteriors
from rango.training.finetune import finetune, finetune_bank

_BELOW = "what it builds on failed: "
POLL_SECONDS = 0.2


@dataclass
class Worker:
    """Works on a study folder with a plan."""

    store: Store
    plan: Plan
    only: frozenset[str] | None = None
    """Groups this worker keeps to; all when None."""
    screen: Screen = field(default_factory=lambda: Screen(quiet=True))
    prunes: Callable[[Job], OnValidation | None] = lambda _: None
    """What ends a run early."""
    _claim: Claim | None = None
    """What it is doing now."""
    _group: str | None = None
    _loaded: tuple[Model, Task] | None = None
    _model: tuple[str, ModelOptions] | None = None
    """What the loaded model was loaded from: groups may differ in the task alone, as with several training sizes."""

    def work(self) -> None:
        """Do units until none is left.

        Raises:
            Interrupted: a signal came; what was being done is saved.
        """
        while (found := self._next()) is not None:
            if found == "wait":
                time.sleep(POLL_SECONDS)

    def work_on(self, plan: Plan) -> None:
        """Do what is left of another plan, with what is loaded."""
        self.plan = plan
        self.work()

    def _next(self) -> str | None:
        """Do one item; "wait" when all that is left is being done elsewhere, None when nothing is left."""
        left = [item for item in self._work_items() if not item.finished(self.store)]
        # Those of the group that is loaded first.
        for item in sorted(left, key=lambda item: item.group != self._group):
            ready = item.waits_for(self.store, self.plan)
            if ready == "others":
                continue
            held = self._claim = claim(self.store.claims, item.id)
            if held is None:
                continue
            try:
                # Between the look and the claim another worker may have finished the item, or cut the bank anew.
                if item not in self._work_items() or item.finished(self.store):
                    pass
                elif ready == "failed":
                    cause = item.cause(self.store, self.plan).removeprefix(_BELOW)
                    self._fail(item, _BELOW + cause)
                else:
                    self._do(item)
            finally:
                held.release()
            return "done"
        return "wait" if left else None

    def _work_items(self) -> Iterator[WorkItem]:
        for item in work_items(self.plan, self.store):
            if self.only is None or item.group is None or item.group in self.only:
                yield item

    def _fail(self, item: WorkItem, reason: str, details: str = "") -> None:
        for name in item.unfinished_ids(self.store):
            self.store.write_failure(name, reason, details=details)

    def _do(self, item: WorkItem) -> None:
        try:
            if item.kind == "model":
                self._pretrain(item.id)
            elif item.kind == "base":
                self._score_base(item.jobs[0])
            elif item.kind == "measure":
                self._measure(item)
            else:
                self._train(item)
        except Interrupted:
            raise
        # Whatever ends one item (bad data, divergence, memory) must not end the others.
        except Exception as error:
            self._loaded, self._group = None, None
            if self._claim is not None and not self._claim.is_held():
                return  # taken over while this machine was out of reach: its new owner says what comes of it
            reason = str(error) or type(error).__name__
            # In a bank it may be the fault of one run, or of their number.
            if not dissolve(self.store, item, why=reason):
                self._fail(item, reason, traceback.format_exc())

    def _pretrain(self, name: str) -> None:
        spec = self.plan.models[name]
        folder, options = self.store.path / MODELS, spec.options
        if spec.tokenizer_of is not None:
            options = options.model_copy(update={"tokenizer": folder / spec.tokenizer_of})
        pretrain(_texts(spec), out=folder / name, config=options, screen=self.screen)

    def _load(self, job: Job) -> tuple[Model, Task]:
        if self._loaded is None or self._group != job.group:
            wanted = self.store.model(job, self.plan), job.config.pick(ModelOptions)
            model = self._loaded[0] if self._loaded is not None and self._model == wanted else None
            self._loaded = None  # frees the old base before the new one is read
            task = load_task(job.config.task, job.config.pick(TaskOptions))
            self._loaded = model or load_model(wanted[0], **dict(wanted[1])), task
            self._model, self._group = wanted, job.group
        return self._loaded

    def _score_base(self, job: Job) -> None:
        model, task = self._load(job)
        self.store.keep_held_out(job, self.plan)
        for split in ("validation", "test"):
            options = job.config.pick(ScoringOptions)
            posteriors = evaluate(model, task.split(split), task=task, options=options)
            floor = true_posteriors(task.split(split))
            if floor is not None:
                self.store.write_posteriors(job, split, "floor", floor)
            self.store.write_posteriors(job, split, "base", posteriors)

    def _measure(self, item: WorkItem) -> None:
        """Find out how many of a bank's runs are best trained in one pass, and write it down."""
        model, task = self._load(item.jobs[0])
        choice = choose_bank(model, task, self._bank_jobs(item.jobs))
        names = [job.id for job in item.jobs]
        write_bank(self.store.path / BANKS / f"{item.id}.json", names, size=choice.size, why=choice.reason)

    def _bank_jobs(self, jobs: Sequence[Job]) -> list[BankJob]:
        return [BankJob(out=self.store.folder(job), config=job.config) for job in jobs]

    def _train(self, item: WorkItem) -> None:
        jobs = [job for job in item.jobs if self.store.status(job) != "failed"]
        model, task = self._load(jobs[0])
        base = self.plan.job(jobs[0].base)
        for job in jobs:
            self.store.relocate(job)
        splits = {split: self.store.posteriors(base, split, "base") for split in ("validation", "test")}
        if item.kind == "bank":
            finetune_bank(
                model, task, self._bank_jobs(jobs), state=item.state(self.store), base=splits, screen=self.screen
            )
        elif not self.store.is_trained(jobs[0]):
            folder = self.store.folder(jobs[0])
            prunes = self.prunes(jobs[0])
            finetune(
                model, task, out=folder, config=jobs[0].config, base=splits, screen=self.screen, on_validation=prunes
            )
        for job in jobs:
            failed = self.store.record(job).get("status") == "failed"
            if failed:
                self.store.write_failure(job.id, str(self.store.record(job).get("reason")))
            else:
                self._sample(job, model, task)

    def _sample(self, job: Job, model: Model, task: Task) -> None:
        """Posteriors with dropout on, for the cells that read them; on validation unless that was trained on."""
        splits: tuple[Split, ...] = ("validation", "test") if job.config.regime == "validation" else ("test",)
        for count in job.samples:
            adapter = load_adapter(model, self.store.folder(job))
            assert isinstance(adapter, Adapter)  # only LoRA has dropout, as the plan has checked
            try:
                for split in splits:
                    found = self._samples(job, task, model, adapter, split=split, count=count)
                    self.store.write_posteriors(job, split, f"mc-dropout-{count}", found)
            finally:
                adapter.remove()

    def _samples(self, job: Job, task: Task, model: Model, adapter: Adapter, *, split: Split, count: int) -> Posteriors:
        dropout = DropoutPasses(adapter, count, job.config.seed)
        options = job.config.pick(ScoringOptions)
        return score_split(
            probe_reader(model), task.split(split), task=task, options=options, dropout=dropout
        ).posteriors


def _texts(spec: ModelSpec) -> list[Path] | Iterator[str]:
    """What a model is pre-trained on."""
    if spec.simulated:
        assert spec.lines is not None
        return simulated_narratives(spec.lines, seed=spec.options.seed)
    return list(spec.files)
