"""The table of a study, a row per configuration, and the same table as CSV for other programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from rango.decisions import METRICS, Posteriors
from rango.decisions.stated_costs import StatedCosts
from rango.errors import InputError
from rango.files import write_text
from rango.results.outcomes import Outcome, StudyResult
from rango.results.statistics import (
    Mark,
    MetricOverSeeds,
    SharedInstances,
    Side,
    Standing,
    check_selection,
    fitting_costs,
    losses,
    measure,
    only_value,
    rank,
)
from rango.rows import to_csv_cell
from rango.showing import Grid, Shown, count, short
from rango.studies.axes import CENTRE, TASK, Names, axis_names, axis_text, is_base, varied_axes
from rango.studies.study import Reference, check_metrics

Yardstick = Literal["base", "prior", "floor"]
"""What configurations are compared with: a base model that the study does not list, the class frequencies alone, or the
true posterior."""


@dataclass(frozen=True, eq=False)
class StudyRow:
    """One configuration."""

    axes: Mapping[str, object]
    """Axis → value."""
    seeds: tuple[int, ...]
    """The seeds that have posteriors."""
    n: int | None
    """Test instances; None where no seed has posteriors."""
    cells: Mapping[str, MetricOverSeeds]
    """Metric → what was measured; empty where no seed has posteriors."""
    block: int | None
    """Which block it belongs to; None where no seed has posteriors."""
    failures: Mapping[int, str]
    """Seed → why it has no posteriors."""
    facts: Mapping[str, float]
    """Numbers beside the metrics."""
    mark: Mark = ""
    p: float | None = None
    """p-value of the difference from the best of the block, Holm-corrected; None for the best itself."""
    against_base: Side | None = None
    """Whether it is significantly better or worse than its base model (`adaptation: none`); None where it has none."""
    pages: Mapping[str, str] = field(default_factory=dict)
    """As of its outcome."""


@dataclass(frozen=True, eq=False)
class Block:
    """The configurations that can be compared: the same task and the same test instances."""

    task: object
    """Value of the axis `task`; None where the study has no such axis."""
    n: int
    rows: tuple[int, ...]
    """Rows of the table, in order."""
    best: int | None
    """The row of the best; None where none has a finite value, and where none is better than the priors."""
    base: int | None
    """The row of the base model; None where the study does not list it."""
    bases: tuple[StudyRow, ...]
    """The base models that are no rows of the table: measured as the rows are, and never marked."""
    floor: Mapping[str, float]
    """Metric → its value for the true posterior; empty where that is not known."""
    prior: Mapping[str, float]
    """Metric → its value for the system that outputs the class frequencies of these instances."""

    @property
    def yardsticks(self) -> tuple[tuple[Yardstick, StudyRow], ...]:
        """What the configurations are compared with, as rows: unlisted base models, the priors, the true posterior."""
        rows: list[tuple[Yardstick, StudyRow]] = [("base", base) for base in self.bases]
        values: tuple[tuple[Yardstick, Mapping[str, float]], ...] = (("prior", self.prior), ("floor", self.floor))
        for kind, known in values:
            cells = {name: only_value(value) for name, value in known.items()}
            rows += [(kind, StudyRow({TASK: self.task}, (), self.n, cells, None, {}, {}))] if cells else []
        return tuple(rows)


@dataclass(frozen=True, eq=False, repr=False)
class StudyTable(Shown):
    """Rows, blocks and references without any rendering."""

    axes: tuple[str, ...]
    """Every axis, in the study's order."""
    metrics: tuple[str, ...]
    select: str
    """The metric by which the best was chosen."""
    rows: tuple[StudyRow, ...]
    blocks: tuple[Block, ...]
    references: tuple[Reference, ...]
    replicates: int
    """Bootstrap replicates behind the intervals; 0 where there are none."""
    first: tuple[str, ...] = ()
    """The metrics to show first, in this order."""
    costs: StatedCosts | None = None
    """What decisions cost, where there is an expected cost among the metrics."""

    @property
    def varied(self) -> tuple[str, ...]:
        """The axes with more than one value: what makes a row differ from the others."""
        return varied_axes([row.axes for row in self.rows])

    @property
    def fixed(self) -> dict[str, object]:
        """The axes with one value, and it."""
        varied = self.varied
        return {name: self.rows[0].axes.get(name) for name in self.axes if name not in varied}

    @cached_property
    def names(self) -> Names:
        """What the configurations are called."""
        return Names([row.axes for row in self.rows])

    def _facts(self) -> Iterator[str]:
        yield count(len(self.rows), "configuration")
        best = [self.rows[block.best].axes for block in self.blocks if block.best is not None]
        yield from (f"best by {self.select}: {self.names.of(axes)}" for axes in best)
        if self.failed:
            yield f"{len(self.failed)} with failed seeds"

    def _grid(self) -> Grid:
        names = list(dict.fromkeys((*self.first, self.select, *self.metrics)))[:4]
        rows = []
        for row in self.rows:
            cells = [short(row.cells[name].mean) if name in row.cells else "–" for name in names]
            rows.append([self.names.of(row.axes), row.mark, *cells])
        return Grid(["configuration", "", *names], rows)

    @property
    def has_centre(self) -> bool:
        """Whether the study changes one thing at a time: cells then have their change."""
        return any(cell.change is not None for row in self.rows for cell in row.cells.values())

    @property
    def failed(self) -> tuple[StudyRow, ...]:
        """The rows of which at least one seed has no posteriors."""
        return tuple(row for row in self.rows if row.failures)


def table_of_study(study: StudyResult, *, replicates: int = 1000) -> StudyTable:
    """The table of a study as its folder says it: selection, references, metrics and costs are the study's."""
    return study_table(
        study.outcomes,
        select=study.select,
        references=study.references,
        metrics=study.metrics,
        costs=study.costs,
        bases=study.bases,
        replicates=replicates,
    )


def study_table(
    outcomes: Sequence[Outcome],
    *,
    select: str,
    references: Sequence[Reference] = (),
    replicates: int = 1000,
    seed: int = 0,
    metrics: Sequence[str] = (),
    costs: StatedCosts | None = None,
    bases: Sequence[Outcome] = (),
) -> StudyTable:
    """Measure every configuration; mark the best of each block and those not significantly worse than the best.

    For each metric: the mean over seeds, the standard deviation over seeds, and a 95 % bootstrap interval of the mean
    over test instances (whole groups where there are any). Within a block the configuration with the best mean of
    `select` is compared with each other one by a paired bootstrap of the loss behind it, averaged over seeds; the
    p-values are corrected by Holm's rule over the block, and below 0.05 a configuration is significantly worse. In a
    block where no configuration is better than the priors, none is marked.

    Args:
        outcomes: the configurations, each with the posteriors of its seeds.
        select: the metric that chooses; one that is a mean over instances, so not "ece".
        references: figures that publications state; they are kept beside the rows and never ranked.
        replicates: bootstrap replicates; 0 for no intervals. The comparisons draw more where there are many.
        seed: of the bootstrap.
        metrics: those to show first, measured beside the usual ones.
        costs: for the expected costs, measured where they fit the number of choices.
        bases: the base models that are no configurations; they are measured and compared, and never marked.

    Raises:
        InputError: no outcomes, negative replicates, a metric that cannot select, an unknown metric or one of costs
            without any, costs that fit no configuration.
    """
    if not outcomes:
        raise InputError("the study has no configurations; expected at least one outcome")
    if replicates < 0:
        raise InputError(f"replicates is {replicates}; expected 0 (no intervals) or more")
    check_selection(select, costs=costs)
    first = tuple(check_metrics(tuple(metrics)))
    if costs is None and (priced := [name for name in first if METRICS[name].needs_costs]):
        raise InputError(f"metrics has {priced[0]} but there are no costs; give costs")
    choices = {system.n_choices for outcome in outcomes for system in outcome.posteriors.values()}
    if costs is not None:
        costs.check_fits(choices)
    # With costs also what they make of the posteriors, divided by the best constant decision to compare across tasks.
    usual = [m.name for m in METRICS.values() if m.usual]
    of_costs = [m.name for m in METRICS.values() if costs and m.needs_costs and m.reference is not None]
    measured = tuple(dict.fromkeys((*usual, *of_costs, select, *first)))

    # Every configuration has a row; those with posteriors are then measured, a block at a time.
    names = Names([outcome.axes for outcome in outcomes])
    rows = [StudyRow(o.axes, tuple(o.posteriors), None, {}, None, o.failures, o.facts, pages=o.pages) for o in outcomes]
    blocks = []
    for number, (places, unlisted) in enumerate(_blocks(outcomes, bases)):
        members = [*(outcomes[place] for place in places), *unlisted]
        systems = [outcome.posteriors for outcome in members]
        instances = SharedInstances.of([system for seeds in systems for system in seeds.values()])
        # All configurations of a block are measured and compared on the same draws of its instances.
        centre = next((row for row, outcome in enumerate(members) if names.of(outcome.axes) == CENTRE), None)
        cells = measure(
            systems,
            instances=instances,
            metrics=measured,
            costs=costs,
            replicates=replicates,
            seed=seed,
            centre=centre,
        )
        any_system = next(iter(systems[0].values()))
        zeros = np.zeros((len(instances.ids), any_system.n_choices))
        constant, used = Posteriors.from_scores(zeros, instances.labels).prior_only(), fitting_costs(any_system, costs)
        standings = [Standing()] * len(members)
        # Costs may be those of another task of the study: then nothing in this block can be ranked by them.
        if all(select in cell for cell in cells):
            sign = -1.0 if METRICS[select].direction == "higher" else 1.0
            means = [sign * cell[select].mean for cell in cells[: len(places)]]
            standings = rank(
                [losses(seeds, select=select, instances=instances, costs=costs) for seeds in systems],
                # Without a mean, an unlisted base can neither be the best nor be compared with it.
                [*means, *[math.nan] * len(unlisted)],
                base=_bases(members),
                instances=instances,
                replicates=replicates,
                seed=seed,
            )
            # The best of what is worth less than the class frequencies is no recommendation.
            limit = sign * constant.metric(select, costs=used)
            if not any(limit - mean > 1e-9 for mean in means):
                standings = [Standing(against_base=standing.against_base) for standing in standings]
        for place, cell, standing in zip(places, cells, standings, strict=False):
            rows[place] = replace(rows[place], n=len(instances.ids), cells=cell, block=number, **vars(standing))
        # The true posterior belongs to the instances, which are those of every configuration of the block.
        floors = [outcome.floor for outcome in members if outcome.floor is not None][:1]
        blocks.append(
            Block(
                task=members[0].axes.get(TASK),
                n=len(instances.ids),
                rows=places,
                best=next((place for place in places if rows[place].mark == "best"), None),
                base=next((place for place in places if is_base(outcomes[place].axes)), None),
                bases=tuple(
                    StudyRow(base.axes, tuple(base.posteriors), len(instances.ids), cell, number, {}, base.facts)
                    for base, cell in zip(unlisted, cells[len(places) :], strict=True)
                ),
                floor={name: f.metric(name, costs=fitting_costs(f, costs)) for f in floors for name in cells[0]},
                prior={name: constant.metric(name, costs=used) for name in cells[0]},
            )
        )
    axes = axis_names([outcome.axes for outcome in outcomes])
    return StudyTable(axes, measured, select, tuple(rows), tuple(blocks), tuple(references), replicates, first, costs)


def _blocks(outcomes: Sequence[Outcome], bases: Sequence[Outcome]) -> list[tuple[tuple[int, ...], list[Outcome]]]:
    """Places of the outcomes that share task and test instances, with the unlisted bases of each block, in order."""

    def shared(outcome: Outcome) -> tuple[str, frozenset[str]]:
        # Seeds may have different test instances: a block needs the same ones over all seeds together.
        ids = frozenset(name for system in outcome.posteriors.values() for name in system.ids)
        return axis_text(outcome.axes.get(TASK)), ids

    blocks: dict[tuple[str, frozenset[str]], list[int]] = {}
    for place, outcome in enumerate(outcomes):
        if outcome.posteriors:
            blocks.setdefault(shared(outcome), []).append(place)
    return [(tuple(places), [base for base in bases if shared(base) == key]) for key, places in blocks.items()]


def _bases(members: Sequence[Outcome]) -> list[int | None]:
    """For each configuration the base model that its runs began with, None for a base model itself.

    Where that is not known, it is the one that shares most of its other values.
    """
    bases = [row for row, outcome in enumerate(members) if is_base(outcome.axes)]

    def likeness(outcome: Outcome, base: Outcome) -> tuple[bool, int]:
        alike = [axis_text(value) == axis_text(base.axes.get(name)) for name, value in outcome.axes.items()]
        return outcome.base == base.base, sum(alike)

    return [
        None if row in bases or not bases else max(bases, key=lambda base: likeness(outcome, members[base]))
        for row, outcome in enumerate(members)
    ]


# Facts that the table gives. Seconds are left out: the same study gives the same file.
_FACTS = ("held_out_nats_per_token", "held_out_perplexity", "held_out_bits_per_byte")


def table_csv(table: StudyTable) -> str:
    """The table as CSV, in the order of the study.

    Columns: `kind` · the axes (lists joined by commas, absent values empty) · `seeds` and `n`, how many · for each
    metric its mean over seeds under its own name, and NAME_spread (standard deviation over seeds), NAME_low and
    NAME_high (95 % interval over test instances) · what the base models need of held-out text, where it is known ·
    `mark`: best, tied (not significantly worse than the best), worse, or empty · `p` against the best, Holm-corrected ·
    `failed`: seeds without posteriors and why. What is undefined is empty, what is infinite is `inf`. Where one thing
    changes at a time, behind NAME_high also NAME_change, _low, _high and _p: the difference from the centre.

    The rows of kind `configuration` are the study's own. Behind them come, for each task, what they are compared with:
    `base` (a base model that the study does not list), `prior` (the class frequencies alone) and `floor` (the true
    posterior, where it is known).
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    parts: tuple[str, ...] = ("", "_spread", "_low", "_high")
    if table.has_centre:
        parts += ("_change", "_change_low", "_change_high", "_change_p")
    values = [f"{metric}{part}" for metric in table.metrics for part in parts]
    facts = [name for name in _FACTS if any(name in row.facts for row in table.rows)]
    writer.writerow(["kind", *table.axes, "seeds", "n", *values, *facts, "mark", "p", "failed"])
    configurations = [("configuration", row) for row in table.rows]
    for kind, row in (*configurations, *(pair for block in table.blocks for pair in block.yardsticks)):
        numbers: list[float | None] = []
        for metric in table.metrics:
            cell = row.cells.get(metric)
            own = (None,) * 4 if cell is None else (cell.mean, cell.spread, cell.low, cell.high)
            change = cell.change if cell is not None else None
            changed = (None,) * 4 if change is None else (change.value, change.low, change.high, change.p)
            numbers += (*own, *changed)[: len(parts)]
        numbers += [row.facts.get(name) for name in facts]
        writer.writerow(
            [
                kind,
                *("" if row.axes.get(name) is None else to_csv_cell(axis_text(row.axes[name])) for name in table.axes),
                len(row.seeds) if row.seeds or kind == "configuration" else "",
                row.n,
                *map(_number, numbers),
                row.mark,
                _number(row.p),
                to_csv_cell(failure_text(row)),
            ]
        )
    return buffer.getvalue()


def _number(value: float | None) -> str:
    # All digits, so that reading the file gives the same numbers again.
    return "" if value is None or math.isnan(value) else repr(float(value))


def write_csv(path: Path, table: StudyTable) -> None:
    """Write `table_csv` atomically."""
    write_text(path, table_csv(table))


def failure_text(row: StudyRow) -> str:
    """Which seeds of a row have no posteriors and why, in one line; "" if all have some.

    Seeds with one reason share it.
    """
    # A reason may have line breaks, such as those of a traceback; a cell of the table has one line.
    reasons: dict[str, list[int]] = {}
    for seed, reason in row.failures.items():
        reasons.setdefault(" ".join(reason.split()), []).append(seed)
    parts = [f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}: {why}" for why, seeds in reasons.items()]
    return "; ".join(parts)
