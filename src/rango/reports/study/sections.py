"""A study's table as sections of lines, ready for any renderer: terminal, LaTeX, page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rango.decisions import Direction
from rango.reports.tables import Column, column_named
from rango.results.outcomes import Outcome
from rango.results.statistics import Mark, MetricOverSeeds
from rango.results.table import StudyRow, StudyTable, failure_text
from rango.studies.axes import TASK, axis_text, is_base, short_name
from rango.studies.study import Reference, belongs
from rango.studies.study_costs import COST_METRICS

_IMPORTANT = (
    "error_rate",
    "nce",
    "cross_entropy",
    "normalised_expected_cost",
    "brier",
    "ece",
    "accuracy",
)
FACTS = (
    Column(
        "held_out_bits_per_byte",
        "Bits/byte",
        "lower",
        "what the base model needs of held-out text",
    ),
    Column(
        "held_out_perplexity",
        "Perplexity",
        "lower",
        "of the base model on held-out text, per token",
    ),
)
"""What is known of the base models, shown where it differs. Bits, unlike perplexities, compare across tokenizers."""
# Resampled, it grows by the noise that it sums up: its interval would lie above its value.
_WITHOUT_INTERVAL = ("ece",)
# Each says what the other says.
_TWINS = {"error_rate": "accuracy", "accuracy": "error_rate"}


@dataclass(frozen=True, eq=False)
class Line:
    """A configuration, the true posterior, or a figure that a source states."""

    kind: Literal["configuration", "floor", "reference"]
    labels: tuple[str, ...]
    """The values of the axes that vary, for a configuration; otherwise one name."""
    title: str
    """What it is called in a sentence or beside a figure."""
    cells: Mapping[str, MetricOverSeeds]
    mark: Mark = ""
    seeds: int = 0
    failure: str = ""
    """Why seeds are missing, "" if none is."""
    source: str = ""
    """Of a reference."""
    is_base: bool = False
    """Whether it is the model as it came."""
    failed: tuple[int, ...] = ()
    """The seeds that are missing."""


@dataclass(frozen=True, eq=False)
class Section:
    """The lines of one block: what can be compared."""

    title: str
    """The task, "" where the study has one only."""
    n: int | None
    """Test instances, None where they are those of every section or not known."""
    lines: tuple[Line, ...]


def shown_axes(table: StudyTable) -> tuple[str, ...]:
    """The axes that tell the rows of a section apart; the task is the section's title.

    What follows from the adaptation is no column of its own: `following_words` says it once.
    """
    return tuple(name for name in table.varied if name != TASK and name not in table.names.follows)


def following_words(table: StudyTable) -> list[str]:
    """For each axis that follows from the adaptation, which value goes with which, what has none left out.

    Such as "dropout 0.1 (mc-dropout), 0 (other)".
    """
    found = []
    for name, values in table.names.follows.items():
        by_value: dict[str, list[str]] = {}
        for adaptation, value in values.items():
            if value is not None and adaptation != "none":
                by_value.setdefault(axis_text(value), []).append(adaptation)
        usual = max(by_value, key=lambda text: len(by_value[text]), default="")
        parts = [f"{text} ({', '.join(who)})" for text, who in by_value.items() if text != usual or len(who) == 1]
        if len(by_value.get(usual, ())) > 1:
            parts.append(f"{usual} (other)" if parts else usual)
        if parts:
            found.append(f"{short_name(name, table.axes)} {', '.join(parts)}")
    return found


def shown_columns(table: StudyTable) -> tuple[Column, ...]:
    """The metrics in order of importance.

    Those that the study names, what selects, what the references speak of, then the usual ones. After the first two (or
    those that the study names), what is known of the base models where they differ.
    """
    stated = (reference.metric for reference in table.references)
    wanted = dict.fromkeys((*table.first, table.select, *stated, *_IMPORTANT))
    kept: list[str] = []
    for name in wanted:
        if name in table.first or (name in table.metrics and _TWINS.get(name) not in kept):
            kept.append(name)
    columns = [column_named(name) for name in kept]
    facts = [fact for fact in FACTS if len({row.facts.get(fact.key) for row in table.rows}) > 1]
    if not _one_tokenizer(table):
        facts = [fact for fact in facts if fact.key != "held_out_perplexity"]
    first = max(2, len(table.first))
    return (*columns[:first], *facts, *columns[first:])


def _one_tokenizer(table: StudyTable) -> bool:
    """Whether all base models cut the held-out text into as many tokens, to 1 %, so that their perplexities compare.

    Windows of another length leave out other first tokens, which changes the number a little.
    """
    pairs = ((row.facts.get("held_out_nats_per_token"), row.facts.get("held_out_bits_per_byte")) for row in table.rows)
    per_byte = [bits / nats for nats, bits in pairs if nats and bits and math.isfinite(nats)]
    return bool(per_byte) and max(per_byte) <= 1.01 * min(per_byte)


def sections(table: StudyTable) -> tuple[Section, ...]:
    """The table in sections: a block each, then what gave nothing and belongs to no block.

    Within a section: configurations in the study's order, the true posterior, references.
    """
    titled = TASK in table.varied
    found = []
    placed: set[int] = set()
    for block in table.blocks:
        task = axis_text(block.task)
        lost = [
            place
            for place, row in enumerate(table.rows)
            if row.block is None and place not in placed and axis_text(row.axes.get(TASK)) == task
        ]
        rows = sorted({*block.rows, *lost})
        placed |= set(rows)
        lines = [_line(table.rows[place], table) for place in rows]
        if block.floor:
            cells = {name: _alone(value) for name, value in block.floor.items()}
            lines.append(Line("floor", ("True posterior",), "True posterior", cells))
        lines += _references(table.references, block.task)
        found.append(Section(task if titled else "", block.n if same_n(table) is None else None, tuple(lines)))
    rest = [row for place, row in enumerate(table.rows) if row.block is None and place not in placed]
    for task in dict.fromkeys(axis_text(row.axes.get(TASK)) for row in rest):
        lines = [_line(row, table) for row in rest if axis_text(row.axes.get(TASK)) == task]
        found.append(Section(task if titled else "", None, tuple(lines)))
    return tuple(found)


def _line(row: StudyRow, table: StudyTable) -> Line:
    axes = shown_axes(table)
    labels = tuple("–" if row.axes.get(name) is None else axis_text(row.axes[name]) for name in axes)
    facts = {fact.key: _alone(row.facts[fact.key]) for fact in FACTS if fact.key in row.facts}
    return Line(
        "configuration",
        labels,
        label_of(row, table),
        {**shown_cells(row), **facts} if row.cells else {},
        row.mark,
        len(row.seeds),
        failure_text(row),
        "",
        is_base(row.axes),
        tuple(row.failures),
    )


def shown_cells(row: StudyRow) -> dict[str, MetricOverSeeds]:
    """What was measured, without the intervals that would mislead."""
    return {
        name: replace(cell, low=None, high=None) if name in _WITHOUT_INTERVAL else cell
        for name, cell in row.cells.items()
    }


def _references(references: Sequence[Reference], task: object) -> Iterator[Line]:
    """One line for each system of a source, with all the metrics it states."""
    found: dict[tuple[str, str], dict[str, MetricOverSeeds]] = {}
    for reference in references:
        if belongs(reference, task):
            cells = found.setdefault((reference.name, reference.source), {})
            cells[reference.metric] = _alone(reference.value)
    for (name, source), cells in found.items():
        yield Line("reference", (name,), name, cells, source=source)


def _alone(value: float) -> MetricOverSeeds:
    return MetricOverSeeds(value, None, None, None, (value,))


def label_of(row: StudyRow | Outcome, table: StudyTable, *, without: Sequence[str] = ()) -> str:
    """What a row is called in a sentence or legend, see `Names`; `without` names axes to leave out."""
    return table.names.of(row.axes, without=without)


def metric_words(metric: str) -> str:
    """A metric inside a sentence.

    >>> metric_words("nce"), metric_words("error_rate"), metric_words("cross_entropy")
    ('NCE', 'error rate', 'cross-entropy')
    """
    words = {
        "brier": "Brier score",
        "normalised_brier": "normalised Brier score",
        "cross_entropy": "cross-entropy",
    }
    title = column_named(metric).title
    return words.get(metric, title if title.isupper() else metric.replace("_", " "))


def metric_title(metric: str) -> str:
    """A metric as the label of an axis: its words, and which way is better.

    >>> metric_title("cross_entropy")
    'Cross-entropy (lower is better)'
    """
    words = metric_words(metric)
    return f"{words[0].upper()}{words[1:]} ({column_named(metric).direction} is better)"


def as_number(value: object) -> float | None:
    """A value of an axis of numbers, None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def numeric_axis(table: StudyTable) -> str | None:
    """The axis to draw lines over: all its values are numbers (or absent), three of them at least; the longest one."""
    best, most = None, 2
    for name in shown_axes(table):
        values = {row.axes.get(name) for row in table.rows if not isinstance(row.axes.get(name), list | dict | set)}
        present = {value for value in values if value is not None}
        whole = all(as_number(row.axes.get(name)) is not None or row.axes.get(name) is None for row in table.rows)
        if whole and len(present) > most:
            best, most = name, len(present)
    return best


def sources(parts: Sequence[Section]) -> dict[str, int]:
    """Each source of the references, with its number from 1 in the order of the lines."""
    found = dict.fromkeys(line.source for part in parts for line in part.lines if line.source)
    return {source: number for number, source in enumerate(found, start=1)}


def same_seeds(table: StudyTable) -> int | None:
    """How many seeds every configuration has, or None where they differ."""
    counts = {len(row.seeds) for row in table.rows if row.cells}
    return counts.pop() if len(counts) == 1 else None


def same_n(table: StudyTable) -> int | None:
    """How many test instances every block has, or None where they differ."""
    counts = {block.n for block in table.blocks}
    return counts.pop() if len(counts) == 1 else None


def caption_parts(table: StudyTable, columns: Sequence[Column]) -> list[str]:
    """What the numbers are, in a few words each."""
    arrows: dict[Direction, str] = {column.direction: column.arrow for column in columns if column.arrow}
    parts = [f"{arrow} {direction} is better" for direction, arrow in arrows.items()]
    seeds, n = same_seeds(table), same_n(table)
    count = "the seeds" if seeds is None else f"{seeds} seed{'s' * (seeds != 1)}"
    if any(cell.spread is not None for row in table.rows for cell in row.cells.values()):
        parts.append(f"mean of {count} ± standard deviation over them")
    elif seeds == 1:
        parts.append("one seed, so no spread over seeds")
    instances = "test instances" if n is None else f"{n:,} test instances"
    if table.replicates:
        bare = [column.title for column in columns if column.key in _WITHOUT_INTERVAL]
        parts.append(f"95% intervals of the mean over {instances}" + (f" (not of {bare[0]})" if bare else ""))
    else:
        parts.append(instances)
    if table.costs is not None and any(column.key in COST_METRICS for column in columns):
        parts.append(table.costs.words)
    return [*parts, *(f"{fact.title}: {fact.meaning}" for fact in FACTS if fact in columns)]


def mark_words(table: StudyTable) -> str:
    """What the marks mean, "" where nothing is marked."""
    marks = {row.mark for row in table.rows}
    if "best" not in marks:
        return ""
    title = metric_words(table.select)
    each = " of each task" if len(table.blocks) > 1 else ""
    tied = ", ≈ not told from it (paired bootstrap, Holm-corrected, 5%)" if "tied" in marks else ""
    return f"★ best{each} by {title}{tied}"
