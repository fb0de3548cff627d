"""`rango probe`: the command that asks a model the same questions in another way"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli.groups import OUTPUT, SCORING, Concurrency, PageLanguage, Quiet, show_in_groups
from rango.console import Screen, Terminal
from rango.errors import InputError
from rango.reports.run.robustness import PROBE, probe_table
from rango.serving.probed_model import probe as ask_in_other_ways
from rango.training.probing import RESULT, ProbeConfig, run_of

Settings = Annotated[
    ProbeConfig, Parameter(name="*", show_default=lambda value: "that of the run" if value == "" else value)
]

show_in_groups(ProbeConfig)


def probe(
    settings: Settings = ProbeConfig(),
    *,
    questions: Annotated[Path | None, Parameter(group=SCORING)] = None,
    gate: Annotated[Path | None, Parameter(group=SCORING)] = None,
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    language: PageLanguage = None,
    concurrency: Concurrency = None,
    quiet: Quiet = False,
) -> None:
    """Ask a run, a model or an endpoint the same questions in another way, and say how often its decision changes.

    MODEL may be a run, as RUN or RUN:STATE (calibrated, adapted, base): task, form and calibrator are then the run's.
    Changes: other orders of the options (permute), other names than A, B, C (rename), one irrelevant option (distract),
    the right option removed or replaced by "none of these" (remove), other words around the question (reword).

    Parameters
    ----------
    questions
        Wordings for reword, one on a line, with the places {question} and {context}.
    gate
        File that rango gate wrote: how often it passes on instances whose right option was removed.
    out
        The folder to write: probe.json, posteriors/*.parquet. RUN/probe when absent, which the page of the run shows.
    """
    run, _ = run_of(settings.model)
    folder = out or (None if run is None else run.path / PROBE)
    if folder is None and settings.model:
        raise InputError("--out is missing; give the folder to write (of a run it is RUN/probe)")
    on_the_page = run is not None and folder == run.path / PROBE
    if language is not None and not on_the_page:
        raise InputError("--language is of a run's page, which shows what stands in RUN/probe alone; leave it out")
    probed = ask_in_other_ways(
        questions=questions,
        gate=gate,
        out=folder,
        concurrency=concurrency,
        screen=Screen(quiet=quiet),
        **settings.model_dump(exclude_unset=True),
    )
    console = Terminal()
    console.print(probe_table(dict(probed.result), width=console.width))
    if run is not None and on_the_page:
        # Figures take a second to load, which a mistake in the data need not wait for.
        from rango.reports.run.page import write_report

        print(write_report(run.path, language=language or "en"))
    print(probed.folder / RESULT)
