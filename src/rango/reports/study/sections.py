"""The table of a study as sections of lines, and the words for its metrics and marks, for every renderer.

    Section: one block, the configurations of a task that can be compared
      Line "configuration"   q,v   0.673 ±0.009   0.586 to 0.748   ★
      Line "base"            Base model       where the study does not list it
      Line "prior"           Prior only       the class frequencies alone
      Line "floor"           True posterior   where it is known
      Line "reference"       a value that a source states

The terminal, LaTeX, the figures and the page all start from `sections`, so that they show the same rows in one order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rango.decisions import METRICS, Direction, Estimate, Metric, StatedCosts
from rango.reports.language import _, localised, ngettext
from rango.reports.tables import better, column_named, in_words, interval, number, state_named, without_twins
from rango.results.outcomes import Outcome
from rango.results.statistics import Mark, MetricOverSeeds, only_value
from rango.results.table import StudyRow, StudyTable, Yardstick, failure_text
from rango.studies.axes import CENTRE, TASK, Names, axis_text, is_base, short_name
from rango.studies.study import belongs

FACTS = (
    Metric("held_out_bits_per_byte", "Bits/byte", "lower", "what the base model needs of held-out text"),
    Metric("held_out_perplexity", "Perplexity", "lower", "of the base model on held-out text, per token"),
)
"""What is known of the base models, shown where they differ. Bits per byte compare across tokenizers, perplexities do
not."""


Kind = Literal["configuration", "reference"] | Yardstick
"""What a line shows. A reference is a system whose values a source states."""


@dataclass(frozen=True, eq=False)
class Line:
    """A configuration, or what configurations are compared with."""

    kind: Kind
    labels: tuple[str, ...]
    """For a configuration the values of the axes that vary; otherwise one name."""
    title: str
    """Its name in a sentence or beside a figure."""
    cells: Mapping[str, MetricOverSeeds]
    """Metric → what was measured; empty where no seed has a result."""
    mark: Mark = ""
    seeds: int = 0
    """How many seeds have a result."""
    failed: tuple[int, ...] = ()
    """The seeds without a result."""
    failure: str = ""
    """Why they have none, "" if all have one."""
    source: str = ""
    """Who states the values of a reference."""
    is_base: bool = False
    """Whether it is the model before any adaptation."""
    pages: Mapping[str, str] = field(default_factory=dict)
    """The pages of its runs, as of its outcome."""


@dataclass(frozen=True, eq=False)
class Section:
    """The lines of one block, which can be compared with each other."""

    title: str
    """The task, "" where the study has one only."""
    n: int | None
    """Test instances; None where every section has the same number, or where it is not known."""
    lines: tuple[Line, ...]


def sections(table: StudyTable) -> tuple[Section, ...]:
    """The table in sections: one for each block, then the configurations without result whose task has no block.

    Within a section: configurations in the study's order, then the yardsticks, then references.
    """
    result: list[Section] = []
    titled, same = TASK in table.varied, same_n(table)
    # Rows without any result belong to no block; they stand with the first block of their task.
    without_result: dict[str, list[int]] = {}
    for place, row in enumerate(table.rows):
        if row.block is None:
            without_result.setdefault(axis_text(row.axes.get(TASK)), []).append(place)
    for block in table.blocks:
        task = axis_text(block.task)
        places = sorted({*block.rows, *without_result.pop(task, ())})
        lines = [_configuration(table.rows[place], table) for place in places]
        for kind, row in block.yardsticks:
            name = yardstick_name(kind, row, table)
            lines.append(Line(kind, (name,), name, _cells(row), seeds=len(row.seeds), is_base=kind == "base"))
        # A system of a source is one line, with all the metrics that the source states of it.
        stated: dict[tuple[str, str], dict[str, MetricOverSeeds]] = {}
        for reference in table.references:
            if belongs(reference, block.task):
                system = stated.setdefault((reference.name, reference.source), {})
                system[reference.metric] = only_value(reference.value)
        lines += [Line("reference", (name,), name, cells, source=source) for (name, source), cells in stated.items()]
        result.append(Section(task if titled else "", block.n if same is None else None, tuple(lines)))
    for task, places in without_result.items():
        lines = [_configuration(table.rows[place], table) for place in places]
        result.append(Section(task if titled else "", None, tuple(lines)))
    return tuple(result)


def _configuration(row: StudyRow, table: StudyTable) -> Line:
    axes = shown_axes(table)
    return Line(
        "configuration",
        labels=tuple("–" if row.axes.get(name) is None else axis_text(row.axes[name]) for name in axes),
        title=label_of(row, table),
        cells=_cells(row) if row.cells else {},
        mark=row.mark,
        seeds=len(row.seeds),
        failed=tuple(row.failures),
        failure=failure_text(row),
        is_base=is_base(row.axes),
        pages=row.pages,
    )


def yardstick_name(kind: Yardstick, row: StudyRow, table: StudyTable) -> str:
    """What a yardstick is called in tables and figures, such as "Base model, lstm" where there are several."""
    if kind != "base":
        return state_named(kind).title
    listed = [each.axes for each in table.rows if is_base(each.axes)]
    name = Names([*listed, *(base.axes for block in table.blocks for base in block.bases)]).of(row.axes)
    name = name.replace("base model", _("base model"), 1)
    return name[0].upper() + name[1:]


def _cells(row: StudyRow) -> dict[str, MetricOverSeeds]:
    facts = {fact.name: only_value(row.facts[fact.name]) for fact in FACTS if fact.name in row.facts}
    return {**shown_cells(row), **facts}


def shown_cells(row: StudyRow) -> dict[str, MetricOverSeeds]:
    """What was measured, without the intervals that would mislead."""
    # On resampled instances ECE grows by the noise that it sums up: its interval would lie above its value.
    return {
        name: cell if METRICS[name].is_mean else replace(cell, low=None, high=None) for name, cell in row.cells.items()
    }


def shown_axes(table: StudyTable) -> tuple[str, ...]:
    """The axes that distinguish the rows of a section; the task is the section's title.

    An axis that follows from the adaptation is no column: `caption_parts` says once which value goes with which. None
    where one thing changes at a time: a row is then named by its change, and the rest of its values are the centre's.
    """
    if table.names.centre is not None:
        return ()
    return tuple(name for name in table.varied if name != TASK and name not in table.names.follows)


def shown_columns(table: StudyTable) -> tuple[Metric, ...]:
    """The metrics in order of importance: a renderer with little room takes the first ones.

    First the metrics that the study names, then the one that selects, those of the references, and the usual ones.
    After the first two (or those that the study names) stand the facts of the base models that differ.
    """
    wanted = dict.fromkeys((*table.first, table.select, *(each.metric for each in table.references), *METRICS))
    kept = without_twins(name for name in wanted if name in table.metrics)
    columns = [column_named(name) for name in dict.fromkeys((*table.first, *kept))]
    facts = [in_words(fact) for fact in FACTS if len({row.facts.get(fact.name) for row in table.rows}) > 1]

    # Perplexities compare only where all base models cut the held-out text into as many tokens: then the ratio of bits
    # per byte to nats per token is the same, but for 1 %, since windows of another length leave out other first tokens.
    pairs = ((row.facts.get("held_out_nats_per_token"), row.facts.get("held_out_bits_per_byte")) for row in table.rows)
    ratios = [bits / nats for nats, bits in pairs if nats and bits and math.isfinite(nats)]
    if not ratios or max(ratios) > 1.01 * min(ratios):
        facts = [fact for fact in facts if fact.name != "held_out_perplexity"]

    first = max(2, len(table.first))
    return (*columns[:first], *facts, *columns[first:])


def numeric_axis(table: StudyTable) -> str | None:
    """The axis to draw lines over: its values are numbers (or absent) and at least three; the one with most values."""
    chosen, most = None, 2
    for name in shown_axes(table):
        values = [row.axes.get(name) for row in table.rows if row.axes.get(name) is not None]
        if all(as_number(value) is not None for value in values) and len(set(values)) > most:
            chosen, most = name, len(set(values))
    return chosen


def as_number(value: object) -> float | None:
    """A value of an axis as a number, None for anything else: true and false are names here."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def sources(parts: Sequence[Section]) -> dict[str, int]:
    """Each source of the references, with its number from 1 in the order of the lines."""
    names = dict.fromkeys(line.source for part in parts for line in part.lines if line.source)
    return {source: number for number, source in enumerate(names, start=1)}


def same_seeds(table: StudyTable) -> int | None:
    """How many seeds every configuration has, or None where the numbers differ."""
    counts = {len(row.seeds) for row in table.rows if row.cells}
    return counts.pop() if len(counts) == 1 else None


def same_n(table: StudyTable) -> int | None:
    """How many test instances every block has, or None where the numbers differ."""
    counts = {block.n for block in table.blocks}
    return counts.pop() if len(counts) == 1 else None


def value_text(cell: MetricOverSeeds) -> str:
    """The mean, with the spread over seeds where there is one: "0.210 ±0.012"."""
    return number(cell.mean) if cell.spread is None else f"{number(cell.mean)} ±{number(cell.spread)}"


def span_text(cell: MetricOverSeeds) -> str:
    """The interval over instances in words, "" where there is none."""
    return "" if math.isnan(cell.mean) else interval(Estimate(cell.mean, cell.low, cell.high, 0, "none"))


def label_of(row: StudyRow | Outcome, table: StudyTable, *, without: Sequence[str] = ()) -> str:
    """The name of a row in a sentence or legend, see `Names`; `without` names axes to leave out."""
    name = table.names.of(row.axes, without=without)
    if name == CENTRE:
        return _("centre")
    # The rest of a name is what stands in the study's file.
    return name.replace("base model", _("base model"), 1) if is_base(row.axes) else name


def full_label(row: StudyRow, table: StudyTable) -> str:
    """The name of a row with its task before it, where the study has several."""
    return f"{axis_text(row.axes.get(TASK))}, {label_of(row, table)}" if TASK in table.varied else label_of(row, table)


def metric_title(metric: str) -> str:
    """A metric as the label of an axis, with the better direction.

    >>> metric_title("cross_entropy")
    'Cross-entropy (lower is better)'
    """
    column = column_named(metric)
    return f"{column.words[0].upper()}{column.words[1:]} ({better(column.direction)})"


def caption_parts(table: StudyTable, columns: Sequence[Metric]) -> list[str]:
    """What the numbers of the table are, in a few words each."""
    arrows: dict[Direction, str] = {column.direction: column.arrow for column in columns if column.arrow}
    parts = [f"{arrow} {better(direction)}" for direction, arrow in arrows.items()]
    seeds, n = same_seeds(table), same_n(table)
    count = _("the seeds") if seeds is None else ngettext("%(count)s seed", "%(count)s seeds", seeds)
    if any(cell.spread is not None for row in table.rows for cell in row.cells.values()):
        parts.append(_("mean of %(seeds)s ± standard deviation over them", seeds=count))
    elif seeds == 1:
        parts.append(_("one seed, so no spread over seeds"))
    instances = ngettext("%(count)s test instance", "%(count)s test instances", n or 0) if n else _("test instances")
    if table.replicates:
        bare = [column.title for column in columns if column.name in METRICS and not column.is_mean]
        spans = _("95%% intervals of the mean over %(instances)s", instances=instances)
        parts.append(spans + (" " + _("(not of %(metric)s)", metric=bare[0]) if bare else ""))
    else:
        parts.append(instances)
    if table.costs is not None and any(column.needs_costs for column in columns):
        parts.append(costs_words(table.costs))
    names = {fact.name for fact in FACTS}
    parts += [f"{column.title}: {column.meaning}" for column in columns if column.name in names]
    if centre := table.names.of_centre():
        parts.append(_("centre: %(values)s", values=centre))
    if table.blocks:
        meaning = _("the class frequencies as the posterior of every instance")
        parts.append(f"{state_named('prior').title}: {meaning}")

    # Axes that follow from the adaptation, such as "dropout 0.1 (mc-dropout), 0 (other)".
    for name, values in table.names.follows.items():
        by_value: dict[str, list[str]] = {}
        for adaptation, value in values.items():
            if value is not None and adaptation != "none":
                by_value.setdefault(axis_text(value), []).append(adaptation)
        usual = max(by_value, key=lambda text: len(by_value[text]), default="")
        rare = {text: who for text, who in by_value.items() if text != usual or len(who) == 1}
        words = [f"{text} ({', '.join(adaptations)})" for text, adaptations in rare.items()]
        if len(by_value.get(usual, ())) > 1:
            words.append(_("%(value)s (other)", value=usual) if words else usual)
        if words:
            parts.append(f"{short_name(name, table.axes)} {', '.join(words)}")
    return parts


def costs_words(costs: StatedCosts) -> str:
    """What costs what, in a few words."""
    if costs.abstain is not None:
        return _("costs: a wrong choice 1, abstaining %(cost)s", cost=localised(f"{costs.abstain:g}"))
    if costs.distance is not None:
        if costs.distance == "squared":
            return _("costs: the squared number of levels between decision and right level")
        return _("costs: the number of levels between decision and right level")
    choices, decisions = costs.matrix.matrix.shape
    return _("costs: a matrix of %(choices)s choices and %(decisions)s decisions", choices=choices, decisions=decisions)


def mark_words(table: StudyTable) -> str:
    """What the marks mean, "" where nothing is marked."""
    marks = {row.mark for row in table.rows}
    if "best" not in marks:
        return ""
    metric = column_named(table.select).words
    several = len(table.blocks) > 1
    best = _("best of each task by %(metric)s", metric=metric) if several else _("best by %(metric)s", metric=metric)
    best = f"★ {best}"
    tied = ", ≈ " + _("not significantly worse than the best (paired bootstrap, Holm-corrected, 5%)")
    return best + (tied if "tied" in marks else "")
