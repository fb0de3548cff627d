"""Panels of a study's figures: a row for each metric, a column for each task, one legend below all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rango.studies.table import StudyTable

_PANELS = 3


def panel_metrics(table: StudyTable) -> tuple[str, ...]:
    """The metrics to draw: the first that the study names, or errors and what the posteriors are worth.

    Errors in the direction that the references use.
    """
    if table.first:
        return table.first[:_PANELS]
    errors = ("error_rate", "accuracy")
    stated = {reference.metric for reference in table.references} | {table.select}
    first = "accuracy" if "accuracy" in stated and "error_rate" not in stated else "error_rate"
    second = table.select if table.select not in errors else "nce"
    return first, second


def panel_grid(
    heights: Sequence[float], tasks: int, *, width: float, margin: float = 0.0
) -> tuple[Figure, list[list[Axes]]]:
    """Axes by metric and task. With one task the metrics stand side by side.

    Args:
        heights: of the panels of each metric, inches.
        tasks: how many.
        width: of a panel, inches.
        margin: more width on the left for labels, inches.
    """
    rows, columns = (1, len(heights)) if tasks == 1 else (len(heights), tasks)
    height = max(heights) if tasks == 1 else sum(heights)
    figure = Figure(figsize=(margin + width * columns, height), layout="constrained")
    places = figure.add_gridspec(rows, columns, height_ratios=None if tasks == 1 else list(heights))
    axes = [[figure.add_subplot(places[row, column]) for column in range(columns)] for row in range(rows)]
    return figure, [[ax] for ax in axes[0]] if tasks == 1 else axes


def finish(figure: Figure, *, columns: int = 4) -> Figure:
    """Put one legend of all panels below them, each name once; none where no line has a name."""
    handles: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        longest = max(len(label) for label in handles)
        fit = max(1, min(columns, int(figure.get_figwidth() / (0.6 + 0.075 * longest)), len(handles)))
        figure.set_figheight(figure.get_figheight() + 0.12 + 0.19 * -(-len(handles) // fit))
        figure.legend(handles=list(handles.values()), labels=list(handles), loc="outside lower center", ncols=fit)
    return figure
