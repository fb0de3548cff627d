"""Tables of metrics for the terminal: as many columns as fit, intervals under the values where it is narrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from rango.console import Terminal
from rango.decisions import CostBalance, Estimate
from rango.reports.run.findings import verdict_sentences
from rango.reports.tables import column_named, heading, interval, number, result_rows, split_metrics, usual_columns
from rango.training.measurement import balance_of_run, deployed_state
from rango.training.run_folder import Run, read_metrics

_TITLE_WIDTH = 19
_VALUE_WIDTH = 16  # a value above its interval: "0.193 to 0.229", and the space between columns
_LINE_WIDTH = 24  # a value and its interval on one line


def result_table(
    metrics: Mapping[str, Any], *, split: str = "test", width: int = 80, balance: CostBalance | None = None
) -> Group:
    """The result of a run for the terminal: a row per state, a column per metric, and the verdict in words.

    Args:
        metrics: the content of a metrics.json.
        split: which split of it.
        width: columns of the terminal; wider ones get more metrics, narrow ones the interval under the value. What
            does not fit is left out from the right; the first two metrics never are, nor expected costs with them:
            where they do not fit side by side, the last ones stand in a table below.
        balance: what acting on the model that one would deploy costs, where costs are stated.

    Returns:
        Something to `rich.print`.

    Raises:
        InputError: the split is not in the metrics.
    """
    least = 2 if balance is None else 3
    in_line = width >= _TITLE_WIDTH + least * _LINE_WIDTH + 4
    fits = (width - _TITLE_WIDTH - 4) // (_LINE_WIDTH if in_line else _VALUE_WIDTH)
    # Only metrics that have a value take up room: on instances of one class NCE leaves its place to the next.
    with_values = [column.name for column in result_rows(metrics, split=split, with_costs=balance is not None).columns]
    table = result_rows(metrics, split=split, columns=with_values[: max(least, fits)])

    deployed = deployed_state(row.state.key for row in table.rows)
    styles = ["bold" if row.state.key == deployed else "" for row in table.rows]
    # Names of states come from the file: as Text they are not read as rich's markup.
    titles = [Text(row.state.title, style) for row, style in zip(table.rows, styles, strict=True)]
    cells = [
        [_cell(cell, style, in_line=in_line) for cell in row.cells]
        for row, style in zip(table.rows, styles, strict=True)
    ]
    columns = [(heading(column), of_rows) for column, *of_rows in zip(table.columns, *cells, strict=True)]
    if table.n is None:
        columns.append(("N", [Text("–" if row.n is None else f"{row.n:,}") for row in table.rows]))
    rendered = _tables(titles, columns, width=width, justify="left" if in_line else "right")

    arrows = {column.direction: column.arrow for column in table.columns if column.arrow}
    caption = [f"{arrow} {direction} is better" for direction, arrow in arrows.items()]
    intervals = any(interval(cell) for row in table.rows for cell in row.cells)
    count = f"{table.n:,} " if table.n is not None else ""
    caption.append(f"95% intervals over {count}{split} instances" if intervals else f"{count}{split} instances")
    parts: list[RenderableType] = [*rendered, Text(" · ".join(caption), style="dim")]
    parts += [Text(), *map(Text, verdict_sentences(metrics, split=split, balance=balance))]
    return Group(*parts)


def metrics_table(
    systems: Mapping[str, Mapping[str, Estimate]], *, level: float = 0.95, with_costs: bool = False, width: int = 80
) -> Group:
    """Every metric of one or more systems, a row per metric, a column per system with the interval under the value.

    The systems that do not fit into the width stand in tables below the first one.

    Args:
        systems: estimates by system's title and metric's name. A title `difference` is shown with signs.
        level: nominal coverage of the intervals, for the caption.
        with_costs: whether costs were stated: expected costs then stand below NCE.
        width: columns of the terminal.
    """
    first = next(iter(systems.values()))
    names = tuple(dict.fromkeys((*usual_columns(with_costs=True), *first)) if with_costs else first)
    titles = [Text(heading(column_named(name))) for name in names]
    columns = [
        (title, [_cell(estimates[name], sign=title == "difference") for name in names])
        for title, estimates in systems.items()
    ]
    tables = _tables(titles, columns, width=width)
    notes = dict.fromkeys(e.note for estimates in systems.values() for e in estimates.values() if e.note)
    n = next(iter(first.values())).n
    caption = Text(f"{n:,} instances · {level:.0%} bootstrap intervals · ↓ lower, ↑ higher is better", style="dim")
    return Group(*tables, caption, *(Text(f"note: {note}") for note in notes))


def _tables(
    titles: Sequence[Text],
    columns: Sequence[tuple[str, Sequence[Text]]],
    *,
    width: int,
    justify: JustifyMethod = "right",
) -> list[RichTable]:
    """Rows with titles as tables of so many columns as fit; the columns that do not fit stand in tables below."""
    tables: list[tuple[RichTable, list[Sequence[Text]]]] = []
    room = 0
    for title, cells in columns:
        # A column holds its heading, unless that is long, and its widest interval; three spaces are between columns.
        needed = max(min(len(title), _VALUE_WIDTH), *(line.cell_len for cell in cells for line in cell.split()))
        if not tables or room < needed + 3:
            table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 1))
            table.add_column("", no_wrap=True)
            tables.append((table, [titles]))
            room = width - max(text.cell_len for text in titles)
        room -= needed + 3
        # Folded, not cut: what is cut off may be what makes two names differ.
        tables[-1][0].add_column(title, justify=justify, overflow="fold", min_width=needed)
        tables[-1][1].append(cells)
    for table, rows in tables:
        for row in zip(*rows, strict=True):
            table.add_row(*row)
    return [table for table, _ in tables]


def _cell(cell: Estimate | None, style: str = "", *, in_line: bool = False, sign: bool = False) -> Text:
    text = Text(number(cell.value if cell else None, sign=sign), style)
    if span := interval(cell, sign=sign):
        text.append("  " if in_line else "\n").append(span, style="dim")
    return text


def print_result(folder: Path, *, split: str, shown: Path) -> None:
    """Print the table of a folder's metrics.json, the verdict, and the path of the file to look at next."""
    console, metrics = Terminal(), read_metrics(folder / "metrics.json")
    if split_metrics(metrics, split=split):
        balance = balance_of_run(Run(folder), split=split)
        console.print(result_table(metrics, split=split, width=console.width, balance=balance))
    else:
        console.print(f"Nothing is measured on {split}, whose instances have no labels; their posteriors are written.")
    console.print(f"\n{shown}", soft_wrap=True)
