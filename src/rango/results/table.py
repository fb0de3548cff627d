"""The table of a study, a row per configuration, and the same table as CSV for other programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from rango.decisions import METRICS, Posteriors
from rango.decisions.stated_costs import StatedCosts
from rango.errors import InputError
from rango.files import write_text
from rango.results.outcomes import Outcome
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
    rank,
)
from rango.rows import to_csv_cell
from rango.studies.axes import ADAPTATION, TASK, Names, axis_names, axis_text, is_base, varied_axes
from rango.studies.study import Reference, check_metrics


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


@dataclass(frozen=True, eq=False)
class Block:
    """The configurations that can be compared: the same task and the same test instances."""

    task: object
    """Value of the axis `task`; None where the study has no such axis."""
    n: int
    rows: tuple[int, ...]
    """Rows of the table, in order."""
    best: int | None
    """The row of the best; None where none has a finite value."""
    base: int | None
    """The row of the base model; None where there is none."""
    floor: Mapping[str, float]
    """Metric → its value for the true posterior; empty where that is not known."""
    prior: Mapping[str, float]
    """Metric → its value for the system that outputs the class frequencies of these instances."""


@dataclass(frozen=True, eq=False)
class StudyTable:
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

    @property
    def failed(self) -> tuple[StudyRow, ...]:
        """The rows of which at least one seed has no posteriors."""
        return tuple(row for row in self.rows if row.failures)


def study_table(
    outcomes: Sequence[Outcome],
    *,
    select: str,
    references: Sequence[Reference] = (),
    replicates: int = 1000,
    seed: int = 0,
    metrics: Sequence[str] = (),
    costs: StatedCosts | None = None,
) -> StudyTable:
    """Measure every configuration; mark the best of each block and those not significantly worse than the best.

    For each metric: the mean over seeds, the standard deviation over seeds, and a 95 % bootstrap interval of the mean
    over test instances (whole groups where there are any). Within a block the configuration with the best mean of
    `select` is compared with each other one by a paired bootstrap of the loss behind it, averaged over seeds; the
    p-values are corrected by Holm's rule over the block, and below 0.05 a configuration is significantly worse.

    Args:
        outcomes: the configurations, each with the posteriors of its seeds.
        select: the metric that chooses; one that is a mean over instances, so not "ece".
        references: figures that publications state; they are kept beside the rows and never ranked.
        replicates: bootstrap replicates; 0 for no intervals. The comparisons draw more where there are many.
        seed: of the bootstrap.
        metrics: those to show first, measured beside the usual ones.
        costs: for the expected costs, measured where they fit the number of choices.

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
    rows = [StudyRow(o.axes, tuple(o.posteriors), None, {}, None, o.failures, o.facts) for o in outcomes]
    blocks = []
    for number, places in enumerate(_blocks(outcomes)):
        members = [outcomes[place] for place in places]
        systems = [outcome.posteriors for outcome in members]
        instances = SharedInstances.of([system for seeds in systems for system in seeds.values()])
        # All configurations of a block are measured and compared on the same draws of its instances.
        cells = measure(systems, instances=instances, metrics=measured, costs=costs, replicates=replicates, seed=seed)
        bases = _bases([outcome.axes for outcome in members])
        standings = [Standing()] * len(members)
        # Costs may be those of another task of the study: then nothing in this block can be ranked by them.
        if all(select in cell for cell in cells):
            sign = -1.0 if METRICS[select].direction == "higher" else 1.0
            standings = rank(
                [losses(seeds, select=select, instances=instances, costs=costs) for seeds in systems],
                [sign * cell[select].mean for cell in cells],
                base=bases,
                instances=instances,
                replicates=replicates,
                seed=seed,
            )
        for place, cell, standing in zip(places, cells, standings, strict=True):
            rows[place] = replace(rows[place], n=len(instances.ids), cells=cell, block=number, **vars(standing))
        # The true posterior belongs to the instances, which are those of every configuration of the block.
        floors = [outcome.floor for outcome in members if outcome.floor is not None][:1]
        any_system = next(iter(systems[0].values()))
        zeros = np.zeros((len(instances.ids), any_system.n_choices))
        constant, used = Posteriors.from_scores(zeros, instances.labels).prior_only(), fitting_costs(any_system, costs)
        blocks.append(
            Block(
                task=members[0].axes.get(TASK),
                n=len(instances.ids),
                rows=places,
                best=next((place for place in places if rows[place].mark == "best"), None),
                base=next((place for place in places if is_base(outcomes[place].axes)), None),
                floor={name: f.metric(name, costs=fitting_costs(f, costs)) for f in floors for name in cells[0]},
                prior={name: constant.metric(name, costs=used) for name in cells[0]},
            )
        )
    axes = axis_names([outcome.axes for outcome in outcomes])
    return StudyTable(axes, measured, select, tuple(rows), tuple(blocks), tuple(references), replicates, first, costs)


def _blocks(outcomes: Sequence[Outcome]) -> list[tuple[int, ...]]:
    """Places of the outcomes that share task and test instances, blocks and members in order."""
    # Seeds may have different test instances: a block needs the same ones over all seeds together.
    blocks: dict[tuple[str, frozenset[str]], list[int]] = {}
    for place, outcome in enumerate(outcomes):
        if outcome.posteriors:
            ids = frozenset(name for system in outcome.posteriors.values() for name in system.ids)
            blocks.setdefault((axis_text(outcome.axes.get(TASK)), ids), []).append(place)
    return [tuple(places) for places in blocks.values()]


def _bases(axes: Sequence[Mapping[str, object]]) -> list[int | None]:
    """For each configuration the one without adaptation that shares most of its other values; None for that itself."""
    bases = [row for row, values in enumerate(axes) if is_base(values)]

    def shared(one: Mapping[str, object], other: Mapping[str, object]) -> int:
        return sum(axis_text(one[name]) == axis_text(other.get(name)) for name in one if name != ADAPTATION)

    return [
        None if row in bases or not bases else max(bases, key=lambda base: shared(values, axes[base]))
        for row, values in enumerate(axes)
    ]


# Facts that the table gives. Seconds are left out: the same study gives the same file.
_FACTS = ("held_out_nats_per_token", "held_out_perplexity", "held_out_bits_per_byte")


def table_csv(table: StudyTable) -> str:
    """The table as CSV, in the order of the study.

    Columns: the axes (lists joined by commas, absent values empty) · `seeds` and `n`, how many · for each metric its
    mean over seeds under its own name, and NAME_spread (standard deviation over seeds), NAME_low and NAME_high (95 %
    interval over test instances) · what the base models need of held-out text, where it is known · `mark`: best, tied
    (not significantly worse than the best), worse, or empty · `p` against the best, Holm-corrected · `failed`: seeds
    without posteriors and why. What is undefined is empty, what is infinite is `inf`.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    values = [f"{metric}{part}" for metric in table.metrics for part in ("", "_spread", "_low", "_high")]
    facts = [name for name in _FACTS if any(name in row.facts for row in table.rows)]
    writer.writerow([*table.axes, "seeds", "n", *values, *facts, "mark", "p", "failed"])
    for row in table.rows:
        numbers: list[float | None] = []
        for metric in table.metrics:
            cell = row.cells.get(metric)
            numbers += (None,) * 4 if cell is None else (cell.mean, cell.spread, cell.low, cell.high)
        numbers += [row.facts.get(name) for name in facts]
        writer.writerow(
            [
                *("" if row.axes.get(name) is None else to_csv_cell(axis_text(row.axes[name])) for name in table.axes),
                len(row.seeds),
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
