"""What it shows: tables for the terminal, figures, and the page of a run, from stored files and without the model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Tables for the terminal must not wait for matplotlib, so each name is imported when it is first used.
_PUBLIC = {
    "difference_sentence": "rango.reports.words",
    "learning_curves": "rango.reports.figures",
    "reliability_diagram": "rango.reports.figures",
    "result_rows": "rango.reports.tables",
    "result_table": "rango.reports.terminal",
    "save_figure": "rango.reports.canvas",
    "state_intervals": "rango.reports.figures",
    "write_report": "rango.reports.page",
}

__all__ = [*_PUBLIC]

if TYPE_CHECKING:
    from rango.reports.canvas import save_figure as save_figure
    from rango.reports.figures import learning_curves as learning_curves
    from rango.reports.figures import reliability_diagram as reliability_diagram
    from rango.reports.figures import state_intervals as state_intervals
    from rango.reports.page import write_report as write_report
    from rango.reports.tables import result_rows as result_rows
    from rango.reports.terminal import result_table as result_table
    from rango.reports.words import difference_sentence as difference_sentence


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'rango.reports' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
