"""The table of a study for a paper: LaTeX with booktabs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rango.decisions import Metric
from rango.files import write_text
from rango.reports.study.sections import (
    Line,
    caption_parts,
    mark_words,
    sections,
    shown_axes,
    shown_columns,
    sources,
    span_text,
    value_text,
)
from rango.reports.tables import column_named, heading
from rango.results.table import StudyTable
from rango.studies.axes import short_name

# In LaTeX's old font encoding OT1 the characters < > | " would be printed as others.
_ESCAPES = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    letter: rf"\text{name}{{}}"
    for letter, name in {
        "\\": "backslash",
        "~": "asciitilde",
        "^": "asciicircum",
        "<": "less",
        ">": "greater",
        "|": "bar",
        '"': "quotedbl",
    }.items()
}
# The symbols that this module itself writes; texts of the user are escaped instead.
_SYMBOLS = {"±": r"$\pm$", "−": "$-$", "∞": r"$\infty$", "–": "--", "↓": r"$\downarrow$", "↑": r"$\uparrow$"}
_TIED = r"$^{\approx}$"


def escaped(text: str) -> str:
    r"""Text as LaTeX shows it; line breaks become spaces.

    >>> escaped("50% of a_b {x}")
    '50\\% of a\\_b \\{x\\}'
    """
    return "".join(_ESCAPES.get(letter, letter) for letter in " ".join(text.split()))


def table_tex(table: StudyTable) -> str:
    r"""The table as a `tabular` to `\input`; the document needs `\usepackage{booktabs}`.

    The best of each task is bold, what is not significantly worse has an ≈; each mean has its standard deviation over
    seeds and, small, its interval over test instances. What the numbers are stands after the table as comments, to be
    used in a caption.
    """
    # The width of a paper has room for three metrics; a study that names more wants them all.
    columns = shown_columns(table)[: max(3, len(table.first))]
    axes, parts = shown_axes(table), sections(table)
    numbers = sources(parts)
    # One column of names even where no axis varies.
    names = max(1, len(axes))
    width = names + len(columns)
    headings = [escaped(short_name(name, axes)) for name in axes] or [""]
    heads = [*headings, *(_symbols(heading(column)) for column in columns)]
    lines = [rf"\begin{{tabular}}{{{'l' * width}}}", r"\toprule", _row(heads)]
    for part in parts:
        lines.append(r"\midrule")
        if part.title:
            count = "" if part.n is None else f" ({part.n:,} instances)"
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escaped(part.title)}}}{count}}} \\")
        lines += [_row(_cells(line, columns, names, numbers.get(line.source), table.select)) for line in part.lines]
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = caption_parts(table, columns)
    if mark_words(table):
        best = f"bold: best by {column_named(table.select).words}"
        notes.append(rf"{best}; {_TIED}: not significantly worse than the best")
    lines += [f"% {_symbols(note)}" for note in notes]
    lines += [f"% [{number}] {escaped(source)}" for source, number in numbers.items()]
    return "\n".join(lines) + "\n"


def write_tex(path: Path, table: StudyTable) -> None:
    """Write `table_tex` atomically."""
    write_text(path, table_tex(table))


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cells(line: Line, columns: Sequence[Metric], names: int, source: int | None, select: str) -> list[str]:
    if line.kind == "configuration":
        labels = ["--" if label == "–" else escaped(label) for label in line.labels] or [escaped(line.title)]
        if not line.cells:
            # The row has the reason in place of numbers.
            return [*labels, rf"\multicolumn{{{len(columns)}}}{{l}}{{no result: {escaped(line.failure)}}}"]
    else:
        cite = "" if source is None else f" [{source}]"
        title = rf"\textit{{{escaped(line.title)}{cite}}}"
        labels = [title if names == 1 else rf"\multicolumn{{{names}}}{{l}}{{{title}}}"]
    bold = line.mark == "best"
    # The mark belongs to the metric that selects; where that is not shown, it stands at the first.
    marked = select if any(column.name == select for column in columns) else columns[0].name
    values = []
    for column in columns:
        cell = line.cells.get(column.name)
        if cell is None:
            values.append("")
            continue
        text, span = _symbols(value_text(cell)), span_text(cell)
        mark = _TIED if line.mark == "tied" and column.name == marked else ""
        text = rf"\textbf{{{text}}}" if bold else text + mark
        values.append(text + (rf" {{\scriptsize {_symbols(span)}}}" if span else ""))
    return [*(rf"\textbf{{{label}}}" if bold else label for label in labels), *values]


def _symbols(text: str) -> str:
    return "".join(_SYMBOLS.get(letter, letter) for letter in text.replace("%", r"\%"))
