"""Writes everything that a study shows from its stored posteriors: tables, figures, page. No model is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rango.console import Terminal
from rango.decisions import StatedCosts
from rango.errors import InputError
from rango.files import write_text
from rango.output_folder import check_links
from rango.reports.language import Language
from rango.reports.study.figures import study_figures
from rango.reports.study.latex import write_tex
from rango.reports.study.page import render_study_page
from rango.reports.study.terminal import study_result_table
from rango.reports.style import save_figure
from rango.results.outcomes import REPORT, StudyResult, read_outcomes
from rango.results.table import StudyTable, table_of_study, write_csv
from rango.showing import Grid, Shown
from rango.studies.store import Store
from rango.training.measurement import state_costs
from rango.training.run_folder import Run


@dataclass(frozen=True, eq=False, repr=False)
class StudyReport(Shown):
    """What was written, and the table behind it."""

    table: StudyTable
    page: Path
    files: tuple[Path, ...]
    """table.csv, table.tex, figures/*.png, figures/*.pdf and the page."""

    def _facts(self) -> Iterator[str]:
        yield repr(str(self.page))
        yield from self.table._facts()

    def _grid(self) -> Grid:
        return self.table._grid()

    def print(self) -> None:
        """Print the table, fitted to the console, and the path of the page to look at next."""
        console = Terminal()
        console.print(study_result_table(self.table, width=console.width))
        console.print(f"\n{self.page}", soft_wrap=True)


def write_study_report(
    folder: Path, *, replicates: int = 1000, costs: StatedCosts | None = None, language: Language = "en"
) -> StudyReport:
    """Read a study folder and write its table.csv, table.tex, figures/ and report.html.

    Args:
        folder: of the study.
        replicates: bootstrap replicates of the intervals.
        costs: to show it with in place of its own.
        language: of the page; the other files are for other programs and stay English.

    Raises:
        InputError: the folder is no study, or costs that fit none of its tasks.
    """
    study = read_outcomes(folder)
    return write_study(
        folder, study if costs is None else replace(study, costs=costs), replicates=replicates, language=language
    )


def write_run_pages(
    folder: Path, *, costs: StatedCosts | None = None, language: Language = "en"
) -> Iterator[tuple[Path, str]]:
    """Write the page of each complete run of a study, to which the table of the study then links.

    A run keeps the costs of the study, or those that are given, where they fit its task.

    Yields:
        Each page as soon as it is written, or the folder of a run that cannot have one and why.

    Raises:
        InputError: the folder is no study.
    """
    from rango.reports.run.page import write_report

    store = Store(folder)
    plan = store.read_plan()
    stated = costs or plan.costs
    for job in plan.jobs:
        if job.kind == "run" and store.is_trained(job):
            # The matrix of a study may fit one of its tasks and not the others.
            with contextlib.suppress(InputError):
                if stated is not None:
                    state_costs(Run(store.folder(job)), stated)
            try:
                yield write_report(store.folder(job), language=language), ""
            except InputError as error:
                yield store.folder(job), str(error)


def write_study(folder: Path, study: StudyResult, *, replicates: int = 1000, language: Language = "en") -> StudyReport:
    """Write the files of a study from its outcomes. The same outcomes give the same bytes."""
    table = table_of_study(study, replicates=replicates)
    files = [folder / "table.csv", folder / "table.tex"]
    check_links(folder, "table.csv", "table.tex", "figures", REPORT)
    write_csv(files[0], table)
    write_tex(files[1], table)
    # PNG for documents and the web, PDF for papers.
    for name, figure in study_figures(table, study.outcomes).items():
        for ending in ("png", "pdf"):
            files.append(folder / "figures" / f"{name}.{ending}")
            save_figure(figure, files[-1])
    page = folder / REPORT
    write_text(page, render_study_page(study, table, language=language))
    return StudyReport(table, page, (*files, page))
