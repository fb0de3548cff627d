"""Running a study on this machine.

prepare: plan, nothing is written ──▶ describe: say what there is to do ──▶ run_study
run_study: begin (study.yaml, plan.json, banks/) ──▶ Workers, each a process of run_worker ──▶ index.json
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from rango.console import end_with_parent
from rango.errors import InputError, Interrupted, RunError
from rango.files import read_yaml, write_yaml
from rango.options import BASELINES
from rango.output_folder import check_links
from rango.studies.optuna_search import Searcher
from rango.studies.plan import Plan, own_model, plan_study
from rango.studies.queue import WorkItem, divide_bank, form_banks, items_of_process
from rango.studies.store import Store
from rango.studies.study import Study

Bank = Literal["auto", "on", "off"]

DEATHS = 2
"""Deaths of workers in the same item, after which the item is given up."""

_WATCH_SECONDS = 0.25
_SHOWN_BASES = 6

_ENTRIES = {
    "study.yaml", "plan.json", "runs", "bases", "baselines", "models", "locks", "logs", "banks", "index.json",
    "failures", "search.json",
}  # fmt: skip
"""What a study folder may hold before its plan is written."""


def prepare(study: Study, out: Path, *, workers: int = 1, ray: str | None = None) -> tuple[Plan, Store]:
    """Plan a study and check that `out` may hold it; nothing is written.

    Raises:
        InputError: mistakes in the study, all at once; `out` holds something else; a search on several workers or on
            Ray, as each trial builds on the earlier ones.
    """
    if out.is_file():
        raise InputError(f"--out {out} is a file; give a folder")
    check_links(out)
    others = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith(".")) if out.is_dir() else []
    if others and not (out / "plan.json").is_file() and set(others) - _ENTRIES:
        raise InputError(f"--out {out} already holds other files ({others[0]}); give a folder that does not exist yet")
    store = Store(out)
    if study.search is None:
        return plan_study(study, out), store
    searcher = Searcher(study, store)
    searcher.check()
    if workers > 1 or ray is not None:
        raise InputError("a search runs its trials one after the other; leave --workers and --ray out")
    return searcher.plan(), store


def describe(plan: Plan, store: Store) -> list[str]:
    """What there is to do, in sentences."""

    def count(number: int, word: str) -> str:
        return f"{number} {word}{'s' * (number != 1)}"

    runs = [job for job in plan.jobs if job.kind == "run"]
    bases = [job for job in plan.jobs if job.kind == "base"]
    cells = sum(len(row.cells) for row in plan.rows)
    done = store.counts(runs)
    lines = [
        f"{plan.name}: {count(len(plan.rows), 'configuration')}, {count(cells, 'result')} over all seeds",
        f"  {count(len(runs), 'fine-tuning run')}: {done['done']} there already, {done['started']} to go on with, "
        f"{done['waiting']} to start, {done['failed']} failed",
        f"  {count(len(bases), 'scoring')} of a base model, shared: {store.counts(bases)['done']} there already",
    ]
    if baselines := [job for job in plan.jobs if job.kind in BASELINES]:
        kinds = ", ".join(dict.fromkeys(job.kind for job in baselines))
        finished = store.counts(baselines)["done"]
        lines.append(f"  {count(len(baselines), 'baseline')} ({kinds}): {finished} there already")
    # Which runs share a base; a study over many tasks or models lists the largest shares alone.
    shares: Counter[tuple[str, str]] = Counter()
    for job in runs:
        own = own_model(job, plan)
        model = Path(job.config.model).name if own is None else own.rpartition("-")[0]
        shares[model, Path(job.config.task).name] += 1
    shown = shares.most_common(_SHOWN_BASES)
    lines += [f"  {count(number, 'run')} on the base {model} for {task}" for (model, task), number in shown]
    if rest := len(runs) - sum(number for _, number in shown):
        lines.append(f"  {count(rest, 'run')} on {count(len(shares) - len(shown), 'other base')}")
    if plan.models:
        complete = sum(store.has_model(name) for name in plan.models)
        lines.append(f"  {count(len(plan.models), 'language model')} to pre-train: {complete} there already")
    failed = [job for job in plan.jobs if store.status(job) == "failed"]
    lines += [f"  failed: {job.id}: {store.failure(job.id)} (--retry tries it again)" for job in failed]
    return [*lines, *(f"· {note}" for note in plan.notes)]


def run_study(
    study: Study,
    plan: Plan,
    store: Store,
    *,
    workers: int = 1,
    bank: Bank = "auto",
    retry: bool = False,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Do what is left of a prepared study. What fails is remembered and does not stop the rest.

    Args:
        study: for the record in the folder.
        plan: what `prepare` returned.
        store: likewise.
        workers: processes on this machine.
        bank: train runs that share a base in one pass: on, off, or auto (those that compute on CUDA).
        retry: try again what failed.
        watch: called a few times a second.

    Raises:
        Interrupted: a signal; everything is saved.
    """
    begin(study, plan, store, workers=workers, bank=bank, retry=retry)
    try:
        Workers(store, plan, workers, watch).run()
    finally:
        store.rebuild_index(store.read_plan())  # a search has made it longer


def begin(
    study: Study, plan: Plan, store: Store, *, workers: int, bank: Bank, retry: bool, cuda: bool | None = None
) -> None:
    """Write what workers read: study, plan and banks. The options are those of `run_study`.

    `cuda` says whether `device: auto` means CUDA where the workers run; this machine is asked when it is None.
    """
    write_yaml(store.path / "study.yaml", study.model_dump(mode="json", exclude_defaults=True))
    store.write_plan(plan)
    if retry:
        store.forget_failures()
    if study.search is not None:
        return  # its trials come one after the other, and a pruned one is a result
    runs = [job for job in plan.jobs if job.kind == "run"]
    store.resume_pruned(runs)
    if bank == "auto":
        # Small steps leave a GPU idle, which a bank fills. On a CPU a bank of ordinary size is slower than its runs
        # (0.7 to 0.9 times as fast, docs/benchmarks.md).
        if cuda is None:
            from rango.models.loading import choose_device

            cuda = choose_device("auto").type == "cuda"
        runs = [job for job in runs if job.config.device.startswith("cuda") or (job.config.device == "auto" and cuda)]
    if bank != "off" and runs:
        form_banks(runs, store, workers=workers)


@dataclass
class Workers:
    """`count` processes that work on one study folder until nothing is left."""

    store: Store
    plan: Plan
    count: int
    watch: Callable[[], None] = lambda: None
    """Called a few times a second, to show how far things are."""
    _running: list[BaseProcess] = field(default_factory=list)
    _deaths: Counter[str] = field(default_factory=Counter)
    """Item -> deaths in it. Kept in memory alone: killing a whole study must never give up a run."""
    _idle_deaths: int = 0
    """Deaths outside of any item."""

    def run(self) -> None:
        """Work until every item is done or failed.

        Raises:
            Interrupted: SIGINT or SIGTERM; the workers saved what they were doing.
            RunError: workers die before they begin anything.
        """
        received: list[int] = []
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, lambda number, _frame: received.append(number))
        try:
            self._running = [self._start(number) for number in range(self.count)]
            # A worker that ends with 0 has nothing left to do; any other end is a death.
            while any(process.exitcode != 0 for process in self._running) and not received:
                self.watch()
                time.sleep(_WATCH_SECONDS)
                for worker, process in enumerate(self._running):
                    if process.exitcode:
                        self._count_death(process)
                        self._running[worker] = self._start(worker)
            if received:
                # The signal is passed on, and everything is saved before this process says so.
                for process in self._running:
                    if process.is_alive() and process.pid is not None:
                        os.kill(process.pid, signal.SIGTERM)
                for process in self._running:
                    process.join(timeout=120)
                words = f"stopped by {signal.Signals(received[0]).name}"
                raise Interrupted(received[0], f"{words}; everything is saved, repeat the command to go on")
        finally:
            for process in self._running:
                if process.is_alive():
                    process.kill()
                process.join()
            for number, handler in before.items():
                signal.signal(number, handler)
        self.watch()

    def _start(self, number: int) -> BaseProcess:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        arguments = (str(self.store.path), number, self.count, os.getpid())
        process = context.Process(target=run_worker, args=arguments, name=f"rango-worker-{number}")
        resource_tracker.ensure_running()  # begun by the first start, it would unblock what is blocked here
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()  # the child inherits the block, and needs it: it imports for seconds before its first line
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return process

    def _count_death(self, process: BaseProcess) -> None:
        """Charge a death to the items that the worker held; an item in which workers die again is given up."""
        code = process.exitcode
        assert code is not None
        words = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        items = items_of_process(self.store.read_plan(), self.store, process.pid)
        for item in items:
            self._deaths[item.id] += 1
            if self._deaths[item.id] >= DEATHS:
                give_up(self.store, item, f"its worker died {DEATHS} times ({words}); out of memory?")
        if not items:
            self._idle_deaths += 1
            if self._idle_deaths > DEATHS * self.count:
                log = log_file(self.store.path, process.pid)
                reason = f"; the reason is in {log}" if log.is_file() else ""  # else the worker has said it
                raise RunError(f"workers die before they begin anything ({words}){reason}")


def give_up(store: Store, item: WorkItem, reason: str) -> None:
    """Leave an item in which workers die: a bank is divided into its runs, anything else has failed."""
    if not divide_bank(item, store, reason=reason):
        for name in item.unfinished(store):
            store.write_failure(name, reason)


def log_file(study: Path, process: int | None) -> Path:
    """What a worker prints. Machines that share a folder number their workers alike: the name has host and process."""
    return study / "logs" / f"worker-{socket.gethostname()}-{process}.log"


def run_worker(path: str, number: int, count: int, parent: int) -> None:
    """The main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells its workers when to stop
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked until here, so that Ctrl-C ends no import
    end_with_parent(parent)
    log = log_file(Path(path), os.getpid())
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout = sys.stderr = log.open("a", buffering=1, encoding="utf-8")
    except OSError as error:  # there is no log that could have the reason
        sys.exit(f"rango: a worker cannot write {error.filename or log}: {error.strerror}")
    import torch

    from rango.console import Screen
    from rango.studies.worker import Worker

    # No more than the user allows (OMP_NUM_THREADS), which torch has read.
    torch.set_num_threads(max(1, min(torch.get_num_threads(), len(os.sched_getaffinity(0)) // count)))
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    store = Store(Path(path))
    try:
        worker = Worker(store, store.read_plan(), screen=Screen())
        study = Study.build(read_yaml(store.path / "study.yaml"), where=str(store.path / "study.yaml"))
        if study.search is None:
            worker.work()
        else:
            searcher = Searcher(study, store)
            worker.prunes = searcher.prunes
            searcher.run(worker.work_on)
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(128 + error.signal_number)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
