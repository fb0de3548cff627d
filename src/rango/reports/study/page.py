"""The page of a study: one self-contained HTML file, from its outcomes alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from rango.reports.run.page import duration
from rango.reports.study.figures import curve_names, panel_metrics, study_curves, study_figures
from rango.reports.study.findings import study_findings
from rango.reports.study.sections import (
    caption_parts,
    following_words,
    label_of,
    mark_words,
    metric_words,
    numeric_axis,
    same_n,
    same_seeds,
    sections,
    shown_axes,
    shown_columns,
    sources,
)
from rango.reports.study.terminal import span_text, value_text
from rango.reports.style import Drawing, drawing
from rango.reports.templates import render
from rango.results.outcomes import Outcome, StudyResult
from rango.results.table import StudyTable
from rango.studies.axes import TASK, axis_text, short_name

_DOTS = (
    "Each dot is the mean over seeds with its 95% interval over test instances; the faint dots below it are single "
    "seeds. Full: the best of its task or not told from it. Hollow: told from the best, or a figure that a source "
    "states (diamond)."
)
_LINES = "Each line is the mean over seeds; its band is the 95% interval of this mean over test instances."


def render_study_page(study: StudyResult, table: StudyTable) -> str:
    """The page of a study as HTML; every text from the study is escaped. The same outcomes give the same bytes."""
    return render("study/page.html", _content(study, table), value_text=value_text, span_text=span_text)


def _content(study: StudyResult, table: StudyTable) -> dict[str, Any]:
    axes, columns, parts = shown_axes(table), shown_columns(table), sections(table)
    with_seeds = same_seeds(table) is None
    headings = [short_name(name, axes) for name in axes] or ["configuration"]
    captions = [*caption_parts(table, columns), *following_words(table), mark_words(table)]
    return {
        "name": study.name,
        "about": study.about,
        "summary": list(_summary(table)),
        "findings": study_findings(table),
        "headings": headings,
        "columns": columns,
        "sections": parts,
        "with_seeds": with_seeds,
        "width": len(headings) + with_seeds + len(columns),
        "sources": sources(parts),
        "caption": " · ".join(part for part in captions if part),
        "drawings": list(_drawings(table)),
        "figure_caption": _DOTS if numeric_axis(table) is None else _LINES,
        "curves": list(_curves(table, study.outcomes)),
        "facts": list(_facts(study, table)),
        "notes": list(_notes(table)),
    }


def _summary(table: StudyTable) -> Iterator[str]:
    count = len(table.rows)
    yield f"{count} configuration{'s' * (count != 1)}"
    seeds, n = same_seeds(table), same_n(table)
    runs = sum(len(row.seeds) for row in table.rows)
    yield f"{runs} results" if seeds is None else f"{seeds} seed{'s' * (seeds != 1)}"
    if n is not None:
        yield f"{n:,} test instances"
    yield f"selected by {metric_words(table.select)}"


def _drawings(table: StudyTable) -> Iterator[Drawing]:
    """One figure for each task and metric, so that a phone can stack them."""
    for place, block in enumerate(table.blocks):
        alone = replace(table, blocks=(block,))
        for metric in panel_metrics(table):
            (figure,) = study_figures(alone, metrics=(metric,)).values()
            task = f" on {axis_text(block.task)}" if TASK in table.varied else ""
            title = f"{metric_words(metric)} of each configuration{task}"
            yield drawing(title, partial(_same, figure), prefix=f"study-{place}-{metric}")


def _curves(table: StudyTable, outcomes: Sequence[Outcome]) -> Iterator[Drawing]:
    names = curve_names(table, outcomes)
    for place, task in enumerate(dict.fromkeys(axis_text(outcome.axes.get(TASK)) for outcome in outcomes)):
        members = [outcome for outcome in outcomes if axis_text(outcome.axes.get(TASK)) == task]
        for name in names:
            figure = study_curves(table, members, names=[name])
            if figure is not None:
                words = "train loss" if name == "train_loss" else f"validation {metric_words(name)}"
                yield drawing(f"{words} over steps", partial(_same, figure), prefix=f"curve-{place}-{name}")


def _same(figure: Figure) -> Figure:
    return figure


def _facts(study: StudyResult, table: StudyTable) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What varied, what did not, and what each configuration cost."""
    varied = {name: list(dict.fromkeys(axis_text(row.axes.get(name)) for row in table.rows)) for name in table.varied}
    if varied:
        yield "What varied", [(name, "; ".join(values)) for name, values in varied.items()]
    if table.fixed:
        yield "What did not", [(name, axis_text(value)) for name, value in table.fixed.items()]
    seeds = sorted({seed for outcome in study.outcomes for seed in (*outcome.posteriors, *outcome.failures)})
    yield "Study", [("select", table.select), ("seeds", ", ".join(map(str, seeds))), *_settings(table)]
    for key in dict.fromkeys(key for row in table.rows for key in row.facts):
        pairs = []
        for row in table.rows:
            if key in row.facts:
                task = f"{axis_text(row.axes.get(TASK))}: " if TASK in table.varied else ""
                pairs.append((f"{task}{label_of(row, table)}", _fact(key, row.facts[key])))
        yield key.replace("_", " ").capitalize(), pairs


def _settings(table: StudyTable) -> Iterator[tuple[str, str]]:
    if table.costs is not None:
        yield "costs", table.costs.words.removeprefix("costs: ")
    if table.replicates:
        yield "bootstrap replicates", f"{table.replicates:,}"


def _fact(key: str, value: float) -> str:
    if key == "seconds":
        return duration(value)
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def _notes(table: StudyTable) -> Iterator[str]:
    """Why a value is infinite or undefined, each reason once."""
    for row in table.rows:
        reasons = dict.fromkeys(cell.note for cell in row.cells.values() if cell.note)
        task = f"{axis_text(row.axes.get(TASK))}, " if TASK in table.varied else ""
        for reason in reasons:
            yield f"{task}{label_of(row, table)}: {reason}."
