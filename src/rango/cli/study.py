"""`rango study`: many runs from one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from rango.cli.groups import OUTPUT, STUDY, WORK, LogTo, PageLanguage, Quiet
from rango.errors import InputError, RunError
from rango.files import check_writable


def study(
    file: Annotated[Path, Parameter(group=STUDY)],
    *,
    tiny: Annotated[bool, Parameter(group=STUDY, negative=())] = False,
    change: Annotated[tuple[str, ...], Parameter(group=STUDY, name="--set", negative=())] = (),
    costs: Annotated[str | None, Parameter(group=STUDY)] = None,
    log_to: LogTo = None,
    workers: Annotated[int, Parameter(group=WORK)] = 1,
    bank: Annotated[Literal["auto", "on", "off"], Parameter(group=WORK)] = "auto",
    ray: Annotated[str | None, Parameter(group=WORK)] = None,
    gpus: Annotated[float | None, Parameter(group=WORK)] = None,
    dry_run: Annotated[bool, Parameter(group=WORK, negative=())] = False,
    retry: Annotated[bool, Parameter(group=WORK, negative=())] = False,
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    language: PageLanguage = None,
    quiet: Quiet = False,
) -> None:
    """Run every configuration of a study file, and show them in one table.

    Repeating the command goes on where it stopped: finished runs stay, others go on, new ones are added.

    Parameters
    ----------
    file
        The study: base, vary or runs, seeds, select.
    out
        The folder of the study; runs/NAME when absent.
    workers
        Processes on this machine.
    ray
        Run on a Ray cluster instead: its address, or `local`.
    gpus
        With --ray, GPUs of each task: 0.5 lets two share one; one where the cluster has any when absent.
    bank
        Train runs that share a base in one pass, at most eight: on a GPU only (auto), always (on), never (off).
    tiny
        Apply the file's `tiny:` block: the same study, small.
    change
        KEY=VALUE: another value for a key of the base (model=runs/lm) or of the study (seeds=[0,1]); may be repeated.
    costs
        What mistakes cost, in place of the file's own: a costs file, or abstain=0.3 where an error costs 1.
    dry_run
        Say what would be done, and stop.
    retry
        Try again what failed.
    """
    # More processes than this are a slip, and would take the machine with them.
    if not 1 <= workers <= 1024:
        raise InputError(f"--workers is {workers}; expected 1 to 1024")
    if workers > 1 and ray is not None:
        raise InputError(f"--workers is {workers} processes on this machine, and --ray runs elsewhere; leave one out")
    if gpus is not None and ray is None:
        raise InputError("--gpus is for tasks on a Ray cluster; give --ray ADDRESS too, or leave it out")
    if gpus is not None and not 0 <= gpus < float("inf"):
        raise InputError(f"--gpus is {gpus}; expected 0 or more, such as 0.5")
    from rango.studies.execution import describe, prepare, run_study
    from rango.studies.study_file import naming_lines, read_study

    # What is asked is checked as a whole, without any model, before it is shown or begun.
    try:
        wanted = read_study(file, tiny=tiny, changes=change, costs=costs, log_to=log_to)
        folder = out or Path("runs") / wanted.name
        plan, store = prepare(wanted, folder, workers=workers, ray=ray)
    except InputError as error:
        raise naming_lines(error, file, tiny=tiny, changes=change) from None
    if not dry_run:
        check_writable(folder)

    from rango.console import Terminal, visible
    from rango.reports.study.report import write_study_report
    from rango.studies.live_table import LiveTable
    from rango.studies.optuna_search import Searcher
    from rango.studies.ray_cluster import run_on_ray

    console = Terminal(stderr=True, quiet=quiet)
    for line in describe(plan, store):
        console.print(line, soft_wrap=True)
    if wanted.search is not None:
        chosen = len(Searcher(wanted, store).chosen())
        console.print(f"  a search ({wanted.search.sampler}): {chosen} of {wanted.search.trials} trials chosen so far")
    if dry_run:
        return
    watch = LiveTable(store, plan, console, search=wanted.search is not None)
    try:
        if ray is None:
            run_study(wanted, plan, store, workers=workers, bank=bank, retry=retry, watch=watch)
        else:
            run_on_ray(wanted, plan, store, address=ray, bank=bank, retry=retry, gpus=gpus, watch=watch)
    finally:
        watch.stop()

    # Failed jobs do not hide the results of the others: first the table, then what failed.
    write_study_report(folder, language=language or "en").print()
    if wanted.search is not None:
        print(visible(Searcher(wanted, store).best_words()))
    plan = store.read_plan()  # a search has made it longer
    failed = [job for job in plan.jobs if store.status(job) == "failed"]
    if failed:
        raise RunError(f"{len(failed)} of {len(plan.jobs)} jobs failed; rango study … --retry tries them again")
