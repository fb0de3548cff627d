"""The table of a study for the terminal: configurations with their marks, as many metrics as fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from rango.decisions import Estimate
from rango.reports.study.findings import verdict_sentences
from rango.reports.study.sections import (
    FACTS,
    Line,
    Section,
    caption_parts,
    following_words,
    mark_words,
    same_seeds,
    sections,
    shown_axes,
    shown_columns,
    sources,
)
from rango.reports.tables import Column, interval, number
from rango.results.statistics import MetricOverSeeds
from rango.results.table import StudyTable
from rango.studies.axes import axis_text, short_name

_NARROW = 12  # of the column of labels, at least
_SPACE = 2  # after every column but the last
_SIGNS = {"best": "★", "tied": "≈"}
_GAP = "  "


def study_result_table(table: StudyTable, *, width: int = 80) -> Group:
    """The result of a study for the terminal, with what its numbers are and what they say.

    Args:
        table: from `study_table`.
        width: columns of the terminal; wider ones get more metrics, narrow ones the interval under the value. What
            does not fit is left out from the right; the first two metrics never are.

    Returns:
        Something to `rich.print`.
    """
    parts, columns = sections(table), shown_columns(table)
    widths = _label_widths(shown_axes(table), parts)
    room = width - 3 - (0 if same_seeds(table) is not None else 7)
    stacked, in_line = (_value_widths(parts, columns, in_line=way) for way in (False, True))
    # The metrics that the study names come before labels that stand in columns of their own.
    wanted = _fitting(stacked[: max(2, len(table.first))], room - _NARROW)
    label = _label_width(widths, parts, available=room - sum(stacked[:wanted]))
    room -= label
    facts = sum(column in FACTS for column in columns)
    values = in_line if sum(in_line[: wanted + facts]) <= room else stacked
    columns = columns[: _fitting(values, room)]
    labels = _Labels(table, widths, label)
    rendered = _render(table, parts, columns, labels, in_line=values is in_line)
    captions = [*caption_parts(table, columns), *following_words(table), mark_words(table)]
    below: list[RenderableType] = [Text(" · ".join(part for part in captions if part), style="dim")]
    below += [Text(f"[{count}] {source}", style="dim") for source, count in sources(parts).items()]
    if table.fixed:
        below.append(Text(" · ".join(f"{key} {axis_text(v)}" for key, v in table.fixed.items()), style="dim"))
    return Group(rendered, *below, Text(), *(Text(sentence) for sentence in verdict_sentences(table)))


@dataclass(frozen=True)
class _Labels:
    """The column of labels: axes under each other where they fit in all rows, else a name for each row."""

    table: StudyTable
    widths: Sequence[int]
    width: int

    @property
    def in_columns(self) -> bool:
        return bool(self.widths) and sum(self.widths) + len(_GAP) * (len(self.widths) - 1) <= self.width

    @property
    def heading(self) -> str:
        axes = shown_axes(self.table)
        if self.in_columns:
            return self._padded([short_name(name, axes) for name in axes])
        return "configuration" if axes else ""

    def of(self, line: Line) -> str:
        return self._padded(line.labels) if self.in_columns else line.title

    def _padded(self, texts: Sequence[str]) -> str:
        return _GAP.join(text.ljust(width) for text, width in zip(texts, self.widths, strict=True)).rstrip()


def _value_widths(parts: Sequence[Section], columns: Sequence[Column], *, in_line: bool) -> list[int]:
    """The width of each column with the space before it; `in_line`: the interval beside the value, not under it."""
    found = []
    for column in columns:
        cells = [cell for part in parts for line in part.lines if (cell := line.cells.get(column.key)) is not None]
        pairs = [(len(value_text(cell)), len(span_text(cell))) for cell in cells]
        joined = [value + span + len(_GAP) * bool(span) if in_line else max(value, span) for value, span in pairs]
        found.append(max([len(_heading(column)), *joined]) + _SPACE)
    return found


def _heading(column: Column) -> str:
    return f"{column.title} {column.arrow}".rstrip()


def _fitting(widths: Sequence[int], room: int) -> int:
    """How many columns from the left fit into `room`, at least two."""
    kept = 0
    for width in widths:
        room -= width
        if room < 0 and kept >= 2:
            break
        kept += 1
    return kept


def _label_widths(axes: Sequence[str], parts: Sequence[Section]) -> list[int]:
    """The width of each axis inside the column of labels, so that values stand under each other."""
    lines = [line.labels for part in parts for line in part.lines if line.kind == "configuration"]
    return [
        max(len(short_name(name, axes)), *(len(labels[place]) for labels in lines)) for place, name in enumerate(axes)
    ]


def _label_width(widths: Sequence[int], parts: Sequence[Section], *, available: int) -> int:
    names = [
        len(line.labels[0]) + 4 * bool(line.source)
        for part in parts
        for line in part.lines
        if line.kind != "configuration"
    ]
    titles = [len(part.title + _count(part)) for part in parts]
    if not widths:
        names += [len(line.title) for part in parts for line in part.lines]
    wanted = max(sum(widths) + len(_GAP) * (len(widths) - 1), min(24, max(names, default=0)), *titles, 8)
    return max(_NARROW, min(wanted, available))


def _count(part: Section) -> str:
    return "" if part.n is None else f"  {part.n:,} instances"


def _render(
    table: StudyTable,
    parts: Sequence[Section],
    columns: Sequence[Column],
    labels: _Labels,
    *,
    in_line: bool,
) -> RichTable:
    numbers = sources(parts)
    with_seeds = same_seeds(table) is None
    rendered = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    rendered.add_column("", width=1)
    rendered.add_column(Text(labels.heading), width=labels.width, overflow="fold")
    if with_seeds:
        rendered.add_column("seeds", justify="right", no_wrap=True)
    for column in columns:
        rendered.add_column(_heading(column), justify="left", no_wrap=True)
    for part in parts:
        if part.title:
            rendered.add_row("", Text(part.title, style="bold").append(_count(part), style="dim"))
        for line in part.lines:
            cells = [_cell(line, column.key, in_line=in_line) for column in columns]
            seeds = [Text(str(line.seeds) if line.kind == "configuration" else "")] if with_seeds else []
            rendered.add_row(_SIGNS.get(line.mark, ""), _label(line, labels, numbers), *seeds, *cells)
        if part is not parts[-1]:
            rendered.add_section()
    return rendered


def _label(line: Line, labels: _Labels, numbers: Mapping[str, int]) -> Text:
    if line.kind == "configuration":
        text = Text(labels.of(line), style="bold" if line.mark == "best" else "")
        if line.failed:
            # Why stands below the table, where a long reason has the whole width.
            seeds = ", ".join(map(str, line.failed))
            text.append(f"\nno seed{'s' * (len(line.failed) > 1)} {seeds}", style="not bold red")
        return text
    return Text(f"{line.labels[0]} [{numbers[line.source]}]" if line.source else line.labels[0], style="dim")


def _cell(line: Line, metric: str, *, in_line: bool) -> Text:
    cell = line.cells.get(metric)
    style = "bold" if line.mark == "best" else "" if line.kind == "configuration" else "dim"
    if cell is None:
        return Text("–" if line.kind == "configuration" else "", style=style)
    text = Text(value_text(cell), style=style)
    if span := span_text(cell):
        text.append("  " if in_line else "\n")
        text.append(span, style="not bold dim")
    return text


def value_text(cell: MetricOverSeeds) -> str:
    """The mean, with the spread over seeds where there is one: "0.210 ±0.012"."""
    return number(cell.mean) if cell.spread is None else f"{number(cell.mean)} ±{number(cell.spread)}"


def span_text(cell: MetricOverSeeds) -> str:
    """The interval over instances in words, "" where there is none."""
    if math.isnan(cell.mean):
        return ""
    return interval(Estimate(cell.mean, cell.low, cell.high, 0, "none"))
