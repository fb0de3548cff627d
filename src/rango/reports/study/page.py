"""The page of a study: one self-contained HTML file, from its outcomes alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from rango.reports.language import Language, _, integer, localised, ngettext, speaking
from rango.reports.study.figures import curve_names, curve_words, panel_metrics, study_curves, study_figures
from rango.reports.study.findings import study_findings
from rango.reports.study.sections import (
    caption_parts,
    costs_words,
    full_label,
    mark_words,
    numeric_axis,
    same_n,
    same_seeds,
    sections,
    shown_axes,
    shown_columns,
    sources,
    span_text,
    value_text,
)
from rango.reports.style import render
from rango.reports.svg import Drawing, drawn
from rango.reports.tables import column_named, duration
from rango.results.outcomes import Outcome, StudyResult
from rango.results.table import StudyTable
from rango.studies.axes import TASK, axis_text, short_name


def render_study_page(study: StudyResult, table: StudyTable, *, language: Language = "en") -> str:
    """The page of a study as HTML; every text from the study is escaped. The same outcomes give the same bytes."""
    with speaking(language):
        return _page(study, table)


def _page(study: StudyResult, table: StudyTable) -> str:
    axes, columns, parts = shown_axes(table), shown_columns(table), sections(table)
    with_seeds = same_seeds(table) is None
    headings = [short_name(name, axes) for name in axes] or [_("configuration")]
    content: dict[str, Any] = {
        "name": study.name,
        "about": study.about,
        "summary": list(_summary(table)),
        "findings": study_findings(table),
        "headings": headings,
        "columns": columns,
        "sections": parts,
        "with_seeds": with_seeds,
        "with_pages": any(row.pages for row in table.rows),
        "marks": {"best": ("★", _("best")), "tied": ("≈", _("not significantly worse than the best"))},
        "width": len(headings) + with_seeds + len(columns) + any(row.pages for row in table.rows),
        "sources": sources(parts),
        "caption": " · ".join(part for part in (*caption_parts(table, columns), mark_words(table)) if part),
        "drawings": list(_drawings(table)),
        "figure_caption": _caption(table),
        "curves": list(_curves(table, study.outcomes)),
        "facts": list(_facts(study, table)),
        "notes": list(_notes(table)),
    }
    return render("study/page.html", content, value_text=value_text, span_text=span_text)


def _caption(table: StudyTable) -> str:
    if table.has_centre:
        return _(
            "Each dot is the difference of a configuration from the centre (dotted line), on the same test instances, "
            "with its paired 95% interval. Full: significant after Holm's correction over all of them (5%); hollow: "
            "not significant. The square is the base model."
        )
    return _caption_of_dots(table) if numeric_axis(table) is None else _caption_of_lines()


def _caption_of_dots(table: StudyTable) -> str:
    if any(block.best is not None for block in table.blocks):
        marks = _(
            "Full: the best of its task, or not significantly worse. Hollow: significantly worse than the best, a base "
            "model that the study does not list (square), or a value that a source states (diamond)."
        )
    else:
        marks = _("None is full, because none is better than the class frequencies. The square is the base model.")
    return _(
        "Each dot is the mean over seeds with its 95%% interval over test instances; the faint dots below it are "
        "single seeds. %(marks)s The dotted line is that of the class frequencies alone. A value at the edge, before "
        "→, lies far beyond it.",
        marks=marks,
    )


def _caption_of_lines() -> str:
    return _(
        "Each line is the mean over seeds; its band is the 95% interval of this mean over test instances. A value "
        "after ↑ lies far above the panel."
    )


def _summary(table: StudyTable) -> Iterator[str]:
    count = len(table.rows)
    yield ngettext("%(count)s configuration", "%(count)s configurations", count)
    seeds, n = same_seeds(table), same_n(table)
    runs = sum(len(row.seeds) for row in table.rows)
    if seeds is None:
        yield ngettext("%(count)s result", "%(count)s results", runs)
    else:
        yield ngettext("%(count)s seed", "%(count)s seeds", seeds)
    if n is not None:
        yield ngettext("%(count)s test instance", "%(count)s test instances", n)
    yield _("selected by %(metric)s", metric=column_named(table.select).words)


def _drawings(table: StudyTable) -> Iterator[Drawing]:
    """One figure for each task and metric, so that a phone can stack them."""
    for place, block in enumerate(table.blocks):
        for metric in panel_metrics(table):
            # The table with one block and one metric has exactly one figure.
            (figure,) = study_figures(replace(table, blocks=(block,)), metrics=(metric,)).values()
            words, task = column_named(metric).words, axis_text(block.task)
            title = _("%(metric)s of each configuration", metric=words)
            if TASK in table.varied:
                title = _("%(metric)s of each configuration on %(task)s", metric=words, task=task)
            if table.has_centre:
                title = _("Changes of %(metric)s from the centre", metric=words)
                title += f" ({task})" if TASK in table.varied else ""
            yield drawn(figure, title, prefix=f"study-{place}-{metric}")


def _curves(table: StudyTable, outcomes: Sequence[Outcome]) -> Iterator[Drawing]:
    """One figure of learning curves for each task and curve."""
    names = curve_names(table, outcomes)
    # The places number the tasks, because a name is no valid id in HTML.
    for place, task in enumerate(dict.fromkeys(axis_text(outcome.axes.get(TASK)) for outcome in outcomes)):
        of_task = [outcome for outcome in outcomes if axis_text(outcome.axes.get(TASK)) == task]
        for name in names:
            figure = study_curves(table, of_task, names=[name])
            if figure is not None:
                title = _("%(curve)s over steps", curve=curve_words(name))
                yield drawn(figure, title, prefix=f"curve-{place}-{name}")


def _facts(study: StudyResult, table: StudyTable) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What varied, what did not, and what each configuration cost."""
    varied = {name: list(dict.fromkeys(axis_text(row.axes.get(name)) for row in table.rows)) for name in table.varied}
    if varied:
        yield _("Varied"), [(name, "; ".join(values)) for name, values in varied.items()]
    if table.fixed:
        yield _("The same for all"), [(name, axis_text(value)) for name, value in table.fixed.items()]
    seeds = sorted({seed for outcome in study.outcomes for seed in (*outcome.posteriors, *outcome.failures)})
    settings = [("select", table.select), (_("seeds"), ", ".join(map(str, seeds)))]
    if table.costs is not None:
        settings.append((_("costs"), costs_words(table.costs).partition(": ")[2]))
    if table.replicates:
        settings.append((_("bootstrap replicates"), integer(table.replicates)))
    yield _("Study"), settings
    titles = {
        "trainable_parameters": _("Trainable parameters"),
        "seconds": _("Time of a run"),
        "held_out_perplexity": _("Perplexity of the base on held-out text"),
        "held_out_nats_per_token": _("The same in nats per token"),
        "held_out_bits_per_byte": _("The same in bits per byte"),
    }
    # Numbers beside the metrics: a group for each, a line for each row.
    for key in dict.fromkeys(key for row in table.rows for key in row.facts):
        rows = [row for row in table.rows if key in row.facts]
        pairs = []
        for row in rows:
            value = row.facts[key]
            text = localised(f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}")
            pairs.append((full_label(row, table), duration(value) if key == "seconds" else text))
        yield titles.get(key, key.replace("_", " ").capitalize()), pairs


def _notes(table: StudyTable) -> Iterator[str]:
    """Why a value is infinite or undefined, each reason once."""
    # The seeds of a configuration often share a reason, and so do its metrics.
    for row in table.rows:
        for reason in dict.fromkeys(cell.note for cell in row.cells.values() if cell.note):
            yield f"{full_label(row, table)}: {reason}."
