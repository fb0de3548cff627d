"""Tables as plain data: which rows and columns a result has, and how a number is written. Renderers come after.

A terminal, the HTML page and a study's CSV or LaTeX all start from the same `Table`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rango.decisions import METRICS, Direction, Estimate, Metric
from rango.errors import InputError
from rango.reports.language import _, localised, spoken


@dataclass(frozen=True)
class State:
    """A state of the model as a row: its key in metrics.json, its title, one line of explanation."""

    key: str
    title: str
    meaning: str


@dataclass(frozen=True)
class Row:
    """One state with its estimates, in the order of the table's columns; None where there is none."""

    state: State
    n: int | None
    cells: tuple[Estimate | None, ...]


@dataclass(frozen=True)
class Table:
    """Rows and columns without any rendering."""

    columns: tuple[Metric, ...]
    rows: tuple[Row, ...]

    @property
    def n(self) -> int | None:
        """The number of instances, if it is the same in every row."""
        counts = {row.n for row in self.rows}
        return counts.pop() if len(counts) == 1 else None


STATES = (
    State("prior", "Prior only", "answers with the class priors and ignores the question; its NCE is 1 by definition"),
    State("ngram", "n-gram", "counts of which token follows the last few, over the base model's text; never adapted"),
    State("base", "Base model", "the model as it came, before any adaptation"),
    State(
        "control",
        "Control",
        "the same adaptation of a model with random weights: what it teaches by itself, without pre-training",
    ),
    State("adapted", "Adapted model", "after adaptation, at the checkpoint that validation chose, or the last"),
    State("calibrated", "Adapted, calibrated", "the adapted posteriors, calibrated on validation instances"),
    State(
        "floor",
        "True posterior",
        "the distribution that the labels were drawn from; no system can be expected to do better",
    ),
    State(
        "labels",
        "Soft labels",
        "outputs each instance's own distribution: the floor that disagreement between annotators sets",
    ),
)

Metrics = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""State -> metric -> {"value", "low", "high", "n", "direction"}: one split of a metrics.json."""


def split_metrics(metrics: Mapping[str, Any], *, split: str = "test") -> Metrics:
    """The states of one split of a metrics.json.

    Raises:
        InputError: the split is not there, or is not a mapping.
    """
    states = metrics.get(split)
    if not isinstance(states, Mapping):
        raise InputError(f"metrics have no split {split!r} (they have: {', '.join(map(str, metrics)) or 'nothing'})")
    return states


def estimate(states: Metrics, state: str, metric: str) -> Estimate | None:
    """One number of a metrics.json as an Estimate; None where the state, the metric or its value is not there."""
    entry = states.get(state, {}).get(metric)
    if not isinstance(entry, Mapping) or entry.get("value") is None or math.isnan(entry["value"]):
        return None
    return Estimate(
        float(entry["value"]),
        entry.get("low"),
        entry.get("high"),
        int(entry.get("n", 0)),
        entry.get("direction", "none"),
        entry.get("note"),
    )


def estimate_notes(states: Metrics) -> tuple[str, ...]:
    """What must be known to read single numbers (why one is undefined or infinite), each once."""
    notes: dict[str, None] = {}
    for state, metrics in states.items():
        for metric, entry in metrics.items():
            if isinstance(entry, Mapping) and (note := entry.get("note")):
                notes[f"{state_named(state).title}, {column_named(metric).title}: {note}"] = None
    return tuple(notes)


def state_named(key: str) -> State:
    """The state with this key; one that is not known keeps its key as title."""
    state = next((state for state in STATES if state.key == key), State(key, key, ""))
    return State(key, _(state.title), _(state.meaning))


def column_named(key: str) -> Metric:
    """The metric with this key; one that is not known keeps its key as title."""
    return in_words(METRICS.get(key, Metric(key, key, "none", "", words=key.replace("_", " "))))


def in_words(metric: Metric) -> Metric:
    """A metric with its title, its meaning and its name in sentences in the language of the page."""
    if spoken() == "en":
        return metric
    return replace(metric, title=_(metric.title), meaning=_(metric.meaning), words=_(metric.words))


def better(direction: Direction) -> str:
    """Which values of a metric are better, in words."""
    words = {"lower": _("lower is better"), "higher": _("higher is better"), "none": _("neither end is better")}
    return words[direction]


def heading(column: Metric) -> str:
    """A metric as the heading of a column, with an arrow to the better end."""
    return f"{column.title} {column.arrow}".rstrip()


def without_twins(names: Iterable[str]) -> list[str]:
    """The metrics without those whose twin came before them: one of error rate and accuracy is enough."""
    kept: list[str] = []
    for name in names:
        if column_named(name).twin not in kept:
            kept.append(name)
    return kept


LEVELS = tuple(metric.name for metric in METRICS.values() if metric.needs_order)
"""The metrics that only ordered levels have."""


def usual_columns(*, with_costs: bool = False) -> list[str]:
    """The metrics that a table of results shows, in its order; where costs are stated, expected costs beside NCE."""
    names = without_twins(metric.name for metric in METRICS.values() if metric.usual)
    if not with_costs:
        return names
    of_costs = ["expected_cost", "normalised_expected_cost"]
    place = names.index("nce") + 1
    return [*names[:place], *of_costs, *names[place:]]


def result_rows(
    metrics: Mapping[str, Any],
    *,
    split: str = "test",
    columns: Sequence[str] | None = None,
    with_costs: bool = False,
) -> Table:
    """The result of a run: one row per state in the order prior, ngram, base, control, adapted, calibrated, floor.

    Args:
        metrics: the content of a metrics.json.
        split: which split of it.
        columns: metrics to show, None for the usual ones; those that no state has are left out.
        with_costs: whether costs were stated, and so belong to the usual ones.

    Raises:
        InputError: the split is not there.
    """
    states = split_metrics(metrics, split=split)
    wanted = [*usual_columns(with_costs=with_costs), *LEVELS] if columns is None else columns
    # The states that are known in their order, then others in the file's; a difference is no state.
    order = dict.fromkeys((*(state.key for state in STATES), *states))
    present = [key for key in order if key != "difference" and states.get(key)]
    kept = tuple(column_named(name) for name in wanted if any(estimate(states, state, name) for state in present))
    rows = []
    for key in present:
        cells = tuple(estimate(states, key, column.name) for column in kept)
        # An entry without its n reads as 0; the other metrics of the state know it.
        counts = [cell.n for cell in cells if cell is not None]
        rows.append(Row(state_named(key), max(counts, default=None), cells))
    return Table(kept, tuple(rows))


def number(value: float | None, *, sign: bool = False) -> str:
    """A number as it is written everywhere: three decimals, a true minus, an infinity sign, a dash for none.

    >>> number(0.4291), number(-0.4, sign=True), number(-0.0002, sign=True), number(float("inf")), number(None)
    ('0.429', '−0.400', '−0.0002', '∞', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    # A small number keeps one digit, because 0.000 would read as exactly zero; what is smaller is rounding error.
    digits = 4 if 5e-5 <= abs(value) < 5e-4 else 3
    value = 0.0 if abs(value) < 5e-5 else value
    text = f"{value:+.{digits}f}" if sign and value else f"{value:.{digits}f}"
    return localised(text.replace("-", "−"))


def interval(cell: Estimate | None, *, sign: bool = False) -> str:
    """The interval of an estimate in words, "" where it has none or where it is the value itself.

    >>> interval(Estimate(value=0.5, low=0.4, high=0.6, n=10, direction="lower"))
    '0.400 to 0.600'
    """
    if cell is None or cell.low is None or cell.high is None:
        return ""
    # The mean of equal numbers is that number but for rounding.
    if all(math.isclose(cell.value, end, rel_tol=1e-12) for end in (cell.low, cell.high)):
        return ""
    return _("%(low)s to %(high)s", low=number(cell.low, sign=sign), high=number(cell.high, sign=sign))


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(8.2), duration(95), duration(3700)
    ('8.2 s', '1 min 35 s', '1 h 1 min')
    """
    if seconds < 60:
        return f"{localised(f'{seconds:.1f}')} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
