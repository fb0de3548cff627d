"""Tables for the terminal: as many columns as fit, intervals under the values where it is narrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from rango.decisions import Estimate, Metric
from rango.files import read_json
from rango.reports.run.findings import verdict_sentences
from rango.reports.tables import Row, Table, column_named, interval, number, result_rows, split_metrics

_TITLE_WIDTH = 19
_VALUE_WIDTH = 16  # a value above its interval: "0.193 to 0.229", and the space between columns
_LINE_WIDTH = 24  # a value and its interval on one line


def result_table(
    metrics: Mapping[str, Any], *, split: str = "test", width: int = 80, columns: Sequence[str] | None = None
) -> Group:
    """The result of a run for the terminal: a row per state, a column per metric, and the verdict in words.

    Args:
        metrics: the content of a metrics.json.
        split: which split of it.
        width: columns of the terminal; wider ones get more metrics, narrow ones the interval under the value.
        columns: metrics in order of importance, None for the usual ones; those that do not fit are left out, the first
            two never.

    Returns:
        Something to `rich.print`.

    Raises:
        InputError: the split is not in the metrics.
    """
    in_line = width >= _TITLE_WIDTH + 2 * _LINE_WIDTH + 4
    fits = (width - _TITLE_WIDTH - 4) // (_LINE_WIDTH if in_line else _VALUE_WIDTH)
    # Of those that have a value: on instances of one class NCE leaves its place to the next.
    there = [column.name for column in result_rows(metrics, split=split, columns=columns).columns]
    table = result_rows(metrics, split=split, columns=there[: max(2, fits)])
    parts: list[RenderableType] = [_render(table, in_line=in_line), _caption(table, split)]
    if split_metrics(metrics, split=split).get("difference"):
        parts += [Text(), *map(Text, verdict_sentences(metrics, split=split))]
    return Group(*parts)


def _render(table: Table, *, in_line: bool) -> RichTable:
    rendered = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 1))
    rendered.add_column("", no_wrap=True)
    for column in table.columns:
        rendered.add_column(_heading(column), justify="left" if in_line else "right", no_wrap=True)
    if table.n is None:
        rendered.add_column("N", justify="right", no_wrap=True)
    for row in table.rows:
        rendered.add_row(*_cells(row, in_line=in_line, with_n=table.n is None))
    return rendered


def _heading(column: Metric) -> str:
    return f"{column.title} {column.arrow}".rstrip()


def _cells(row: Row, *, in_line: bool, with_n: bool) -> list[Text]:
    style = "bold" if row.state.key == "adapted" else ""
    cells = [Text(row.state.title, style=style)]
    for cell in row.cells:
        text = Text(number(cell.value if cell else None), style=style)
        if span := interval(cell):
            text.append("  " if in_line else "\n")
            text.append(span, style="dim")
        cells.append(text)
    if with_n:
        cells.append(Text("–" if row.n is None else f"{row.n:,}"))
    return cells


def _caption(table: Table, split: str) -> Text:
    arrows = {column.direction: column.arrow for column in table.columns if column.arrow}
    parts = [f"{arrow} {direction} is better" for direction, arrow in arrows.items()]
    intervals = any(interval(cell) for row in table.rows for cell in row.cells)
    count = f"{table.n:,} " if table.n is not None else ""
    parts.append(f"95% intervals over {count}{split} instances" if intervals else f"{count}{split} instances")
    return Text(" · ".join(parts), style="dim")


def metrics_table(systems: Mapping[str, Mapping[str, Estimate]], *, level: float = 0.95) -> Group:
    """Every metric of one or more systems, a row per metric, a column per system with the interval under the value.

    Args:
        systems: estimates by system's title and metric's name. A title `difference` is shown with signs.
        level: nominal coverage of the intervals, for the caption.
    """
    rendered = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 1))
    rendered.add_column("")
    for title in systems:
        rendered.add_column(title, justify="right")
    first = next(iter(systems.values()))
    for name in first:
        column = column_named(name)
        cells = [Text(f"{column.title} {column.arrow}".rstrip())]
        for title, found in systems.items():
            text = Text(number(found[name].value, sign=title == "difference"))
            if span := interval(found[name], sign=title == "difference"):
                text.append(f"\n{span}", style="dim")
            cells.append(text)
        rendered.add_row(*cells)
    notes = dict.fromkeys(e.note for found in systems.values() for e in found.values() if e.note)
    n = next(iter(first.values())).n
    caption = Text(f"{n:,} instances · {level:.0%} bootstrap intervals · ↓ lower, ↑ higher is better", style="dim")
    return Group(rendered, caption, *(Text(f"note: {note}") for note in notes))


def print_result(folder: Path, *, split: str, shown: Path) -> None:
    """Print the table of a folder's metrics.json and the path of the file to look at next."""
    console = Console(highlight=False)
    console.print(result_table(read_json(folder / "metrics.json"), split=split, width=console.width))
    console.print(f"\n{shown}", soft_wrap=True, markup=False)
