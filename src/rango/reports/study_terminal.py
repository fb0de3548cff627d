"""The table of a study for the terminal: configurations with their marks, as many metrics as fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from rango.decisions import Estimate
from rango.reports.study_sections import (
    FACTS,
    Line,
    Section,
    caption_parts,
    mark_words,
    same_seeds,
    sections,
    short_name,
    shown_axes,
    shown_columns,
    sources,
)
from rango.reports.study_words import verdict_sentences
from rango.reports.tables import Column, interval, number
from rango.studies.measuring import Measured
from rango.studies.outcomes import axis_text
from rango.studies.table import StudyTable

_VALUE_WIDTH = 16  # "0.193 to 0.229" under "0.210 ±0.012", and the space between columns
_LINE_WIDTH = 30  # both on one line
_FACT_WIDTH = 12  # "Bits/byte ↓" and the space
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
    parts = sections(table)
    axes = shown_axes(table)
    widths = _label_widths(axes, parts)
    other = 5 + (0 if same_seeds(table) is not None else 7)
    label = _label_width(widths, parts, available=width - other - 2 * _VALUE_WIDTH)
    room = width - other - label
    columns = shown_columns(table)
    in_line = room >= 2 * _LINE_WIDTH + _FACT_WIDTH * sum(column in FACTS for column in columns)
    columns = _fitting(columns, room, metric=_LINE_WIDTH if in_line else _VALUE_WIDTH)
    rendered = _render(table, parts, columns, label=label, widths=widths, in_line=in_line)
    captions = [*caption_parts(table, columns), mark_words(table)]
    below: list[RenderableType] = [Text(" · ".join(part for part in captions if part), style="dim")]
    below += [Text(f"[{count}] {source}", style="dim") for source, count in sources(parts).items()]
    if table.fixed:
        below.append(Text(" · ".join(f"{key} {axis_text(v)}" for key, v in table.fixed.items()), style="dim"))
    return Group(rendered, *below, Text(), *(Text(sentence) for sentence in verdict_sentences(table)))


def _fitting(columns: Sequence[Column], room: int, *, metric: int) -> tuple[Column, ...]:
    """The columns from the left that fit into `room`, at least two; a metric is `metric` wide, a fact no interval."""
    kept = 0
    for column in columns:
        room -= _FACT_WIDTH if column in FACTS else metric
        if room < 0 and kept >= 2:
            break
        kept += 1
    return tuple(columns[:kept])


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
    wanted = max(sum(widths) + len(_GAP) * (len(widths) - 1), min(24, max(names, default=0)), *titles, 8)
    return max(12, min(wanted, available))


def _count(part: Section) -> str:
    return "" if part.n is None else f"  {part.n:,} instances"


def _render(
    table: StudyTable,
    parts: Sequence[Section],
    columns: Sequence[Column],
    *,
    label: int,
    widths: Sequence[int],
    in_line: bool,
) -> RichTable:
    axes, numbers = shown_axes(table), sources(parts)
    with_seeds = same_seeds(table) is None
    rendered = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    rendered.add_column("", width=1)
    heading = _padded([short_name(name, axes) for name in axes], widths, label)
    rendered.add_column(Text(heading), width=label, overflow="fold")
    if with_seeds:
        rendered.add_column("seeds", justify="right", no_wrap=True)
    for column in columns:
        rendered.add_column(f"{column.title} {column.arrow}".rstrip(), justify="left", no_wrap=True)
    for part in parts:
        if part.title:
            rendered.add_row("", Text(part.title, style="bold").append(_count(part), style="dim"))
        for line in part.lines:
            cells = [_cell(line, column.key, in_line=in_line) for column in columns]
            seeds = [Text(str(line.seeds) if line.kind == "configuration" else "")] if with_seeds else []
            rendered.add_row(_SIGNS.get(line.mark, ""), _label(line, widths, label, numbers), *seeds, *cells)
        if part is not parts[-1]:
            rendered.add_section()
    return rendered


def _padded(texts: Sequence[str], widths: Sequence[int], label: int) -> str:
    joined = _GAP.join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()
    # Too wide to stand in columns: commas, and the terminal breaks the line.
    return joined if len(joined) <= label else ", ".join(texts)


def _label(line: Line, widths: Sequence[int], label: int, numbers: Mapping[str, int]) -> Text:
    if line.kind == "configuration":
        text = Text(_padded(line.labels, widths, label), style="bold" if line.mark == "best" else "")
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


def value_text(cell: Measured) -> str:
    """The mean, with the spread over seeds where there is one: "0.210 ±0.012"."""
    return number(cell.mean) if cell.spread is None else f"{number(cell.mean)} ±{number(cell.spread)}"


def span_text(cell: Measured) -> str:
    """The interval over instances in words, "" where there is none."""
    if math.isnan(cell.mean):
        return ""
    return interval(Estimate(cell.mean, cell.low, cell.high, 0, "none"))
