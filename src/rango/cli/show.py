"""`rango tasks`, `rango report` and `rango verify`: the commands that only read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli.groups import CostsText, PageLanguage
from rango.console import visible
from rango.decisions import StatedCosts
from rango.errors import InputError, RunError
from rango.options import SPLITS, TaskOptions
from rango.showing import count
from rango.tasks import TASKS, load_task
from rango.tasks import show as show_prompts


def tasks(
    task: str | None = None,
    *,
    show: int = 0,
    texts: Annotated[list[Path] | None, Parameter(negative=(), consume_multiple=True)] = None,
    options: Annotated[TaskOptions, Parameter(name="*")] = TaskOptions(),
) -> None:
    """List the tasks, or show one: its splits, and its prompts in both forms.

    Parameters
    ----------
    task
        The task to show: a name from the list, or the path of a table.
    show
        How many instances to print, as the model gets them.
    texts
        Files of text to pre-train on (.txt, or .jsonl with a field `text`): how many contexts of each split stand in
        them. A model that has read the test contexts is no fair base.
    """
    if task is None:
        given = [f"--{name.replace('_', '-')}" for name in sorted(options.model_fields_set)]
        given += ["--show"] * (show != 0) + ["--texts"] * (texts is not None)
        if given:
            raise InputError(f"{given[0]} is about a task, and none is named; give TASK, or leave it out")
        for name, loader in sorted(TASKS.items()):
            print(f"{name:26}{(loader.__doc__ or '').strip().splitlines()[0]}")
        print(f"{'PATH':26}A table of your own: rows.jsonl, .csv or .parquet beside a task.yaml.")
        return
    if show < 0:
        raise InputError(f"--show is {show}; expected 0 or more")
    if texts is not None and not texts:
        raise InputError("--texts has no file; give .txt or .jsonl files to pre-train on")
    loaded = load_task(task, options)
    print(visible(show_prompts(loaded, show)))
    if texts:
        from rango.language.corpus import read_sources
        from rango.tasks.text_runs import TextRuns

        runs = TextRuns.of(document for source in read_sources(texts) for document in source.documents)
        for split in SPLITS:
            instances = loaded.split(split)
            known = runs.holding(instances)
            example = f", such as that of instance {known[0].id!r}" if known else ""
            print(visible(f"{split}: {len(known):,} of {len(instances):,} contexts stand in the texts{example}"))


def report(
    run: Path,
    *,
    costs: CostsText = None,
    runs: Annotated[bool, Parameter(negative=())] = False,
    language: PageLanguage = None,
) -> None:
    """Write the page of a run or an evaluation again, or tables, figures and page of a study, from stored files.

    Costs are kept with a run: its metrics of costs are computed again. A study is shown with them this once; with
    --runs its runs keep them, as they keep the study's own.

    Parameters
    ----------
    run
        The folder of a run, of an evaluation, or of a study.
    runs
        Of a study, the page of each of its runs too; its table then links to them.
    """
    stated = None if costs is None else StatedCosts.read(costs)
    # Only a study's folder has a study.yaml; what else the folder may be, `Run` says.
    if not (run / "study.yaml").exists():
        from rango.training.measurement import balance_of_run, state_costs
        from rango.training.run_folder import Run

        folder = Run(run)  # refuses what is no run before matplotlib is loaded
        if runs:
            raise InputError(f"--runs is for a study, and {run} is a run; leave --runs out")
        if stated is not None:
            state_costs(folder, stated)
        from rango.reports.run.page import write_report

        page = write_report(run, language=language or "en")
        if stated is not None and (balance := balance_of_run(folder, split=folder.split)) is not None:
            from rango.reports.run.findings import cost_finding

            print(visible(cost_finding(balance, f"the model of {run}").sentence))
        print(page)
        return
    from rango.reports.study.report import write_run_pages, write_study_report

    if runs:
        for page, fault in write_run_pages(run, costs=stated, language=language or "en"):
            print(visible(f"{page}: no page: {fault}" if fault else str(page)))
    write_study_report(run, costs=stated, language=language or "en").print()


def verify(folder: Path) -> None:
    """Say whether a run, an evaluation or a study is as it was written, and its metrics those of its posteriors.

    Exits with 1 where something is damaged, missing or does not agree, with a line for each.

    Parameters
    ----------
    folder
        The folder of a run, an evaluation or a study.
    """
    from rango.training.verification import verify as look_at

    checked = look_at(folder)
    for fault in checked.faults:
        print(visible(fault))
    print(
        f"{count(checked.whole, 'file')} as written, {count(checked.unknown, 'file')} without a digest; "
        f"{count(checked.values, 'metric')} as the posteriors give them"
    )
    if checked.faults:
        raise RunError(f"{folder} has {count(len(checked.faults), 'fault')}; take what is damaged from a copy")
