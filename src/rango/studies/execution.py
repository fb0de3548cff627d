"""Running a study: plan, say what there is to do, and start, watch and replace the workers of this machine."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from rango.errors import InputError, Interrupted, RunError
from rango.files import read_yaml, write_yaml
from rango.studies.optuna_search import Searcher
from rango.studies.plan import Job, Plan, own_model, plan_study
from rango.studies.queue import WorkItem, dissolve, form_banks, has_model, work_items
from rango.studies.store import Store
from rango.studies.study import Study

_WATCH_SECONDS = 0.25
_DEATHS = 2  # of workers in the same item, before the item is given up
_NOTHING = ""  # stands for the item of a worker that died outside of any


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
            # A worker that ends with 0 has found nothing left to do; any other end is a death.
            while any(process.exitcode != 0 for process in self._running) and not received:
                self.watch()
                time.sleep(_WATCH_SECONDS)
                self._replace_dead()
            if received:
                self._stop(received[0])
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

    def _replace_dead(self) -> None:
        """A worker that was killed is replaced; a item in which that happens twice is given up."""
        for number, process in enumerate(self._running):
            if process.is_alive() or not process.exitcode:
                continue
            self._count_death(number, process)
            self._running[number] = self._start(number)

    def _count_death(self, number: int, process: BaseProcess) -> None:
        assert process.exitcode is not None
        words = _exit_words(process.exitcode)
        found = self._units_of(process.pid)
        for item in found:
            self._deaths[item.id] += 1
            if self._deaths[item.id] >= _DEATHS:
                give_up(self.store, item, f"its worker died {_DEATHS} times ({words}); out of memory?")
        if not found:
            self._deaths[_NOTHING] += 1
            if self._deaths[_NOTHING] > _DEATHS * self.count:
                log = self.store.path / "logs" / f"worker-{number}.log"
                raise RunError(f"workers die before they begin anything ({words}); the reason is in {log}")

    def _units_of(self, pid: int | None) -> list[WorkItem]:
        """The units that a process of this machine holds claims on."""
        held = set()
        for file in self.store.claims.glob("*.claim"):
            try:
                owner = json.loads(file.read_text())
            except (OSError, ValueError):
                continue
            if (owner.get("host"), owner.get("pid")) == (socket.gethostname(), pid):
                held.add(file.stem)
        return [item for item in work_items(self.store.read_plan(), self.store) if item.id in held]

    def _stop(self, number: int) -> None:
        """Pass the signal on, and wait until everything is saved."""
        for process in self._running:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGTERM)
        for process in self._running:
            process.join(timeout=120)
        name = signal.Signals(number).name
        raise Interrupted(number, f"stopped by {name}; everything is saved, repeat the command to go on")


def give_up(store: Store, item: WorkItem, reason: str) -> None:
    """Leave a item in which workers die: a bank is divided into its runs, anything else has failed."""
    if not dissolve(store, item, why=reason):
        for name in item.unfinished_ids(store):
            store.write_failure(name, reason)


def _exit_words(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def run_worker(path: str, number: int, count: int, parent: int) -> None:
    """The main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells its workers when to stop
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked until here, so that Ctrl-C ends no import
    _die_with(parent)
    log = Path(path) / "logs" / f"worker-{number}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout = sys.stderr = log.open("a", buffering=1, encoding="utf-8")
    import torch

    from rango.console import Screen
    from rango.studies.optuna_search import Searcher
    from rango.studies.study import Study
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


def _die_with(parent: int) -> None:
    """End this process soon after its parent, also when the parent was killed: nobody would collect its work."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


Bank = Literal["auto", "on", "off"]
_SHOWN_SHARES = 6

_OURS = {
    "study.yaml",
    "plan.json",
    "runs",
    "bases",
    "models",
    "claims",
    "logs",
    "banks",
    "index.json",
    "failures",
    "search.json",
}


def prepare(study: Study, out: Path) -> tuple[Plan, Store]:
    """Plan a study and check that `out` may hold it; nothing is written.

    Raises:
        InputError: mistakes in the study, all at once; `out` holds something else.
    """
    if out.is_file():
        raise InputError(f"--out {out} is a file; give a folder")
    others = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith(".")) if out.is_dir() else []
    if others and not (out / "plan.json").is_file() and set(others) - _OURS:
        raise InputError(f"--out {out} already holds other files ({others[0]}); give a folder that does not exist yet")
    store = Store(out)
    if study.search is None:
        return plan_study(study, out), store
    searcher = Searcher(study, store)
    searcher.check()
    return searcher.plan(), store


def check_parallel_search(study: Study, *, workers: int = 1, ray: str | None = None) -> None:
    """Raise InputError where a search is to run on several workers or on Ray: each trial builds on the earlier ones."""
    if study.search is not None and (workers > 1 or ray is not None):
        raise InputError("a search runs its trials one after the other; leave --workers and --ray out")


def describe(plan: Plan, store: Store) -> list[str]:
    """What there is to do, in sentences."""
    runs = [job for job in plan.jobs if job.kind == "run"]
    bases = [job for job in plan.jobs if job.kind == "base"]
    cells = sum(len(row.cells) for row in plan.rows)
    done = store.counts(runs)
    lines = [
        f"{plan.name}: {_count(len(plan.rows), 'configuration')}, {_count(cells, 'result')} over all seeds",
        f"  {_count(len(runs), 'fine-tuning run')}: {done['done']} there already, {done['started']} to go on with, "
        f"{done['waiting']} to start, {done['failed']} failed",
        f"  {_count(len(bases), 'scoring')} of a base model, shared: {store.counts(bases)['done']} there already",
        *_shares(plan, runs),
    ]
    if plan.models:
        there = sum(has_model(store, name) for name in plan.models)
        lines.append(f"  {_count(len(plan.models), 'language model')} to pre-train: {there} there already")
    failed = [job for job in plan.jobs if store.status(job) == "failed"]
    lines += [f"  failed: {job.id}: {store.failure(job.id)} (--retry tries it again)" for job in failed]
    return [*lines, *(f"· {note}" for note in plan.notes)]


def _shares(plan: Plan, runs: Sequence[Job]) -> Iterator[str]:
    """Which runs share a base: how many there are for each model and task."""

    def name(run: Job) -> str:
        own = own_model(run, plan)
        return Path(run.config.model).name if own is None else own.rpartition("-")[0]

    found = Counter((name(run), Path(run.config.task).name) for run in runs)
    for (model, task), count in found.most_common(_SHOWN_SHARES):
        yield f"  {_count(count, 'run')} on the base {model} for {task}"
    rest = found.total() - sum(count for _, count in found.most_common(_SHOWN_SHARES))
    if rest:
        yield f"  {_count(rest, 'run')} on {_count(len(found) - _SHOWN_SHARES, 'other base')}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


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
        bank: train runs that share a base in one pass: auto (where a short measurement says that it pays), on, off.
        retry: try again what failed.
        watch: called a few times a second.

    Raises:
        Interrupted: a signal; everything is saved.
    """
    check_parallel_search(study, workers=workers)
    begin(study, plan, store, workers=workers, bank=bank, retry=retry)
    try:
        Workers(store, plan, workers, watch).run()
    finally:
        store.rebuild_index(store.read_plan())  # a search has made it longer


def begin(study: Study, plan: Plan, store: Store, *, workers: int, bank: Bank, retry: bool) -> None:
    """Write what workers read: study, plan and banks."""
    write_yaml(store.path / "study.yaml", study.model_dump(mode="json", exclude_defaults=True))
    store.write_plan(plan)
    if retry:
        store.forget_failures()
    if study.search is None:
        store.take_up_pruned([job for job in plan.jobs if job.kind == "run"])
    if bank != "off" and study.search is None:
        form_banks(plan, store, workers=workers, measure=bank == "auto")
