"""One worker: takes what can be done next, does it, remembers failures, until nothing is left to do.

Any number of workers may run on one study folder, on one machine or on several that share it. Interrupted work goes on
where it was saved; a failure does not stop the rest.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rango.baselines.encoder import fit_encoder
from rango.baselines.probe import fit_probe
from rango.baselines.tfidf import fit_tfidf
from rango.console import Screen
from rango.errors import Interrupted
from rango.language.pretrain import pretrain
from rango.models.adapter import Adapter
from rango.models.loading import Model, load_model
from rango.models.peft_format import load_adapter
from rango.options import BASELINES, Dtype, Quantisation, Split
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import DropoutPasses, evaluate, score_split
from rango.studies.plan import MODELS, Job, Plan
from rango.studies.queue import WorkItem, divide_bank, lock_item, work_items
from rango.studies.store import Store
from rango.tasks import Task, load_task, simulated_narratives
from rango.training.bank import OnValidation, TrainingJob
from rango.training.evaluate import true_posteriors
from rango.training.finetune import finetune, finetune_bank
from rango.training.run_writer import RunWriter, versions

POLL_SECONDS = 0.2
_BELOW = "what it builds on failed: "


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
    _group: str | None = None
    _loaded: tuple[Model, Task] | None = None
    """What the last item of this group needed: loading takes longer than many a run."""
    _model: tuple[str, Dtype, str, Quantisation] | None = None
    """Source of the loaded model: groups may differ in the task alone, as with several training sizes."""

    def work(self) -> None:
        """Do items until none is left.

        Raises:
            Interrupted: a signal came; the item that was being done is saved.
        """
        while (outcome := self.do_next()) != "nothing":
            if outcome == "wait":
                time.sleep(POLL_SECONDS)

    def work_on(self, plan: Plan) -> None:
        """Do the unfinished items of another plan, with what is loaded."""
        self.plan = plan
        self.work()

    def do_next(self) -> Literal["done", "wait", "nothing"]:
        """Do one item; "wait" when others do all that is left, "nothing" when nothing is left."""
        unfinished = [item for item in self._work_items() if item.unfinished(self.store)]
        # Items of the group whose model and task are loaded come first.
        for item in sorted(unfinished, key=lambda item: item.group != self._group):
            ready, reason = item.ready(self.store, self.plan)
            lock = lock_item(self.store.lock_file(item.id)) if ready != "no" else None
            if lock is None:
                continue
            try:
                # Between the look and the lock another worker may have finished the item, or divided the bank.
                if item not in self._work_items() or not item.unfinished(self.store):
                    pass
                elif ready == "never":
                    self._fail(item, _BELOW + reason.removeprefix(_BELOW))
                else:
                    self._do(item)
            finally:
                lock.release()
            return "done"
        return "wait" if unfinished else "nothing"

    def _work_items(self) -> Iterator[WorkItem]:
        for item in work_items(self.plan, self.store):
            if self.only is None or item.group is None or item.group in self.only:
                yield item

    def _fail(self, item: WorkItem, reason: str, details: str = "") -> None:
        for name in item.unfinished(self.store):
            self.store.write_failure(name, reason, details=details)

    def _do(self, item: WorkItem) -> None:
        try:
            if item.kind == "model":
                self._pretrain(item.id)
            elif item.kind == "base":
                self._score_base(item.jobs[0])
            elif item.kind in BASELINES:
                self._fit(item.jobs[0])
            else:
                self._train(item)
        except Interrupted:
            raise
        # Whatever ends one item (bad data, divergence, memory) must not end the others.
        except Exception as error:
            self._loaded, self._group = None, None  # a fault may have left the model in any state
            reason = str(error) or type(error).__name__
            if not divide_bank(item, self.store, reason=reason):
                self._fail(item, reason, traceback.format_exc())

    def _pretrain(self, name: str) -> None:
        """Pre-train one of the study's own models."""
        spec, folder = self.plan.models[name], self.store.path / MODELS
        options = spec.options
        if spec.tokenizer_of is not None:
            options = options.model_copy(update={"tokenizer": folder / spec.tokenizer_of})
        texts: Sequence[Path] | Iterator[str] = spec.files
        if spec.simulated:
            assert spec.lines is not None
            texts = simulated_narratives(spec.lines, seed=options.seed)
        pretrain(texts, out=folder / name, config=options, screen=self.screen)

    def _load(self, job: Job) -> tuple[Model, Task]:
        """The model and task of a job, from memory where the last item had them."""
        if self._loaded is None or self._group != job.group:
            source = self.store.model(job, self.plan), job.config.dtype, job.config.device, job.config.quantise
            model = self._loaded[0] if self._loaded is not None and self._model == source else None
            self._loaded = None  # frees the old base before the new one is read
            task = load_task(job.config.task, job.config)
            self._loaded = model or load_model(source[0], dtype=source[1], device=source[2], quantise=source[3]), task
            self._model, self._group = source, job.group
        return self._loaded

    def _score_base(self, job: Job) -> None:
        """Store the posteriors of an unadapted base, and the true ones where the task knows them."""
        model, task = self._load(job)
        self.store.keep_held_out(job, self.plan)
        for split in ("validation", "test"):
            posteriors = evaluate(model, task.split(split), task=task, options=job.config)
            floor = true_posteriors(task.split(split))
            if floor is not None:
                self.store.write_posteriors(job, split, "floor", floor)
            # Last, since a base counts as done when it has these.
            self.store.write_posteriors(job, split, "base", posteriors)

    def _fit(self, job: Job) -> None:
        """Fit a baseline, and store its posteriors, the true ones where the task knows them, and its record."""
        started = time.perf_counter()
        record = {"config": job.config.model_dump(mode="json"), "baseline": job.kind, "versions": versions()}
        writer = RunWriter(self.store.folder(job), {**record, **self.store.record(job)})
        if job.kind == "probe":
            model, task = self._load(job)
            writer.begin()
            fitted = fit_probe(model, task, job.config)
            self.store.keep_held_out(job, self.plan)
        else:
            task = load_task(job.config.task, job.config)
            writer.begin()
            encoder = job.kind == "encoder"
            fitted = fit_encoder(task, job.config, writer, self.screen) if encoder else fit_tfidf(task)
        for split, posteriors in fitted.posteriors.items():
            writer.write_posteriors("fitted", split, posteriors)
            if (floor := true_posteriors(task.split(split))) is not None:
                writer.write_posteriors("floor", split, floor)
        # Seconds of an interrupted attempt are not counted: only an encoder goes on, and its log has them.
        writer.finish(
            seconds=round(time.perf_counter() - started, 1),
            trainable_parameters=fitted.trainable_parameters,
            fingerprints={"task": task.fingerprint},
            notes=[*fitted.notes, *task.notes],
            **fitted.facts,
        )

    def _train(self, item: WorkItem) -> None:
        """Train a run or a bank, and store the posteriors with dropout on that some cells read."""
        jobs = [job for job in item.jobs if self.store.status(job) != "failed"]
        model, task = self._load(jobs[0])
        base_job = self.plan.job(jobs[0].base)
        base = {split: self.store.posteriors(base_job, split, "base") for split in ("validation", "test")}
        for job in jobs:
            self.store.relocate(job)
        if item.kind == "bank":
            bank = [
                TrainingJob(self.store.folder(job), job.config, loggers=self.plan.log_to, group=self.plan.name)
                for job in jobs
            ]
            finetune_bank(model, task, bank, state=self.store.bank_state(item.id), base=base, screen=self.screen)
        elif not self.store.is_trained(jobs[0]):
            (job,) = jobs
            finetune(
                model, task, out=self.store.folder(job), config=job.config, base=base, screen=self.screen,
                on_validation=self.prunes(job), loggers=self.plan.log_to, group=self.plan.name,
            )  # fmt: skip
        for job in jobs:
            record = self.store.record(job)
            # In a bank a run that diverges ends alone; a single one has raised.
            if record.get("status") == "failed":
                self.store.write_failure(job.id, str(record.get("reason")))
            else:
                self._sample(job, model, task)

    def _sample(self, job: Job, model: Model, task: Task) -> None:
        """Store posteriors with dropout on, for the cells that read them."""
        # A regime other than `validation` has trained on the validation instances: posteriors there would be too good.
        splits: tuple[Split, ...] = ("validation", "test") if job.config.regime == "validation" else ("test",)
        options = job.config
        for count in job.samples:
            adapter = load_adapter(model, self.store.folder(job))
            assert isinstance(adapter, Adapter)  # only LoRA has dropout, as the plan has checked
            reader, dropout = probe_reader(model), DropoutPasses(adapter, count, job.config.seed)
            try:
                for split in splits:
                    scored = score_split(reader, task.split(split), task=task, options=options, dropout=dropout)
                    self.store.write_posteriors(job, split, f"mc-dropout-{count}", scored.posteriors)
            finally:
                adapter.remove()
