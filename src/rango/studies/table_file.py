"""`table.csv`: a study's table for other programs, one line per configuration."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from rango.files import write_text
from rango.studies.outcomes import axis_text
from rango.studies.table import StudyRow, StudyTable

# Seconds are left out: the same study gives the same file.
_FACTS = ("held_out_nats_per_token", "held_out_perplexity", "held_out_bits_per_byte")


def table_csv(table: StudyTable) -> str:
    """The table as CSV, in the order of the study.

    Columns: the axes (lists joined by commas, absent values empty) · `seeds` and `n`, how many · for each metric its
    mean over seeds under its own name, and NAME_spread (standard deviation over seeds), NAME_low and NAME_high (95 %
    interval over test instances) · what the base models need of held-out text, where it is known · `mark`: best, tied
    (not told from the best), told, or empty · `p` against the best, Holm-corrected · `failed`: seeds that gave nothing
    and why. What is undefined is empty, what is infinite is `inf`.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    parts = ("", "_spread", "_low", "_high")
    values = [f"{metric}{part}" for metric in table.metrics for part in parts]
    facts = [name for name in _FACTS if any(name in row.facts for row in table.rows)]
    writer.writerow([*table.axes, "seeds", "n", *values, *facts, "mark", "p", "failed"])
    for row in table.rows:
        axes = ["" if row.axes.get(name) is None else axis_text(row.axes[name]) for name in table.axes]
        numbers = [_number(value) for metric in table.metrics for value in _four(row, metric)]
        counts = [str(len(row.seeds)), "" if row.n is None else str(row.n)]
        numbers += [_number(row.facts.get(name)) for name in facts]
        writer.writerow([*axes, *counts, *numbers, row.mark, _number(row.p), failure_text(row)])
    return buffer.getvalue()


def write_csv(path: Path, table: StudyTable) -> None:
    """Write `table_csv` atomically."""
    write_text(path, table_csv(table))


def failure_text(row: StudyRow) -> str:
    """Which seeds of a row gave nothing and why, in one line; "" if all gave something.

    Seeds with one reason share it.
    """
    reasons: dict[str, list[int]] = {}
    for seed, reason in row.failures.items():
        reasons.setdefault(" ".join(reason.split()), []).append(seed)
    parts = []
    for reason, seeds in reasons.items():
        parts.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}: {reason}")
    return "; ".join(parts)


def _four(row: StudyRow, metric: str) -> tuple[float | None, ...]:
    cell = row.cells.get(metric)
    return (None,) * 4 if cell is None else (cell.mean, cell.spread, cell.low, cell.high)


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(float(value))
