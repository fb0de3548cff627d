"""How objects show themselves: one line as text, a small table in a notebook, and never more than a screen.

    Task('tickets', 600 train, 200 validation, 200 test, 5 choices)      __repr__: the name of the class and its facts
    the same facts, and below them a grid of numbers                     _repr_html_

The HTML takes its colours and its font from the notebook, so that it can be read on light and on dark paper. Every text
is escaped, and nothing in it runs. Showing an object never raises: what cannot be read is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

_LONGEST = 80
"""Characters of one text that are shown: a name or a cell may hold a whole page."""
_MOST_ROWS, _MOST_COLUMNS = 20, 12
_TABLE = "border-collapse:collapse;margin:.3em 0;color:inherit;background:transparent"
_CELL = "padding:.1em .7em;text-align:right;white-space:nowrap;background:none"


@dataclass(frozen=True)
class Grid:
    """Texts in rows and columns; the first column names the rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_text(self) -> str:
        """The grid for a terminal, with columns of equal width.

        >>> print(Grid(["", "value"], [["NCE", "0.412"], ["accuracy", "0.9"]]).as_text())
                  value
        NCE       0.412
        accuracy    0.9
        """
        lines = [self.columns, *self.rows]
        widths = [max(len(line[place]) for line in lines) for place in range(len(self.columns))]
        texts = []
        for first, *rest in lines:
            cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
            texts.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
        return "\n".join(texts)

    def as_html(self) -> str:
        """The grid as a table, cut to what can be looked at."""
        columns = list(self.columns[:_MOST_COLUMNS])
        head = "".join(f'<th style="{_CELL}">{escape(_cut(name))}</th>' for name in columns)
        body = []
        for row in self.rows[:_MOST_ROWS]:
            cells = [f'<td style="{_CELL}">{escape(_cut(cell))}</td>' for cell in row[1:_MOST_COLUMNS]]
            body.append(f'<tr><th style="{_CELL};text-align:left">{escape(_cut(row[0]))}</th>{"".join(cells)}</tr>')
        cut = len(self.rows) - _MOST_ROWS
        more = f"<div>… and {cut:,} more rows</div>" if cut > 0 else ""
        if len(self.columns) > _MOST_COLUMNS:
            more += f"<div>… and {len(self.columns) - _MOST_COLUMNS:,} more columns</div>"
        return f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>{more}'


class Shown:
    """What shows itself by `_facts`, short phrases, and by a grid where it has numbers to compare.

    A dataclass that takes this in needs `repr=False`, or its own `__repr__` would come first.
    """

    __slots__ = ()

    def _facts(self) -> Iterator[str]:
        """What it is, in phrases of a few words; reading them must cost nothing."""
        raise NotImplementedError

    def _grid(self) -> Grid | None:
        """The numbers below the facts in a notebook; None where there are none."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(_phrases(self._facts))})"

    def _repr_html_(self) -> str:
        facts = " · ".join(map(escape, _phrases(self._facts)))
        try:
            grid = self._grid()
        except ValueError:
            grid = None
        head = f"<b>{escape(type(self).__name__)}</b> {facts}"
        return f'<div style="color:inherit">{head}{"" if grid is None else grid.as_html()}</div>'


def _phrases(facts: Callable[[], Iterator[str]]) -> list[str]:
    """The facts up to the first that cannot be stated: a folder that has gone must not break a notebook's cell."""
    phrases = []
    try:
        for fact in facts():
            phrases.append(_cut(fact))
    except ValueError:
        phrases.append("not all can be read")
    return phrases


def _cut(text: str) -> str:
    # A line break or a control character from data would end the line, or worse.
    plain = "".join(letter if letter.isprintable() else " " for letter in text[: _LONGEST + 1])
    return plain if len(text) <= _LONGEST else plain[:_LONGEST] + "…"


def count(number: int, word: str, plural: str = "") -> str:
    """A number with its word, in the plural where it is one.

    >>> count(1, "choice"), count(2000, "instance"), count(2, "class", "classes")
    ('1 choice', '2,000 instances', '2 classes')
    """
    return f"{number:,} {word if number == 1 else plural or word + 's'}"


def short(value: float | None) -> str:
    """A number in three decimals, a dash for one that is undefined.

    >>> short(0.41234), short(float("nan")), short(float("inf"))
    ('0.412', '–', '∞')
    """
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3f}".replace("-", "−") if math.isfinite(value) else "∞" if value > 0 else "−∞"
