"""`rango plan`: how many instances show a difference, what today's show, and how many fix a temperature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli.groups import CostsText
from rango.cli.posteriors import Source, check_output, read_source, show, stated_costs, table_of
from rango.decisions import plan_sample, temperature_instances
from rango.decisions.sample_size import PlannedMetric
from rango.errors import InputError
from rango.files import write_json
from rango.reports.tables import number

_TITLES = {"nce": "NCE", "error_rate": "error rate", "expected_cost": "expected cost"}


def plan(
    a: Source,
    b: Annotated[str | None, Parameter(help="A second system on the same instances, as the one to compare.")] = None,
    *,
    difference: float = 0.02,
    metric: PlannedMetric = "nce",
    costs: CostsText = None,
    power: float = 0.8,
    level: float = 0.95,
    precision: float = 0.1,
    out: Path | None = None,
) -> None:
    """Say how many instances are needed: to see a difference on test, and to fit a temperature on validation.

    Parameters
    ----------
    a
        Posteriors of a pilot with labels, or RUN, or RUN:STATE.
    difference
        The difference to be seen, in the unit of the metric.
    metric
        What is compared: nce, error_rate or expected_cost.
    power
        Probability that a true difference of that size is seen.
    level
        One minus the probability that a difference is seen where there is none.
    precision
        Half the width of the interval of a temperature, as a share of it.
    out
        JSON file to write the plan to.
    """
    if out is not None:
        check_output(out, a, b, costs)
    if costs is not None and metric != "expected_cost":
        raise InputError(f"--costs is for the metric expected_cost, and this is {metric}; leave one of them out")
    sources = (a,) if b is None else (a, b)
    stated = stated_costs(costs, *sources) if metric == "expected_cost" else None
    systems = [read_source(source) for source in sources]
    table = table_of(stated, systems[0])
    planned = plan_sample(*systems, difference=difference, metric=metric, costs=table, power=power, level=level)
    title = _TITLES[metric]
    show(
        f"{planned.instances:,} test instances show a difference of {difference:g} in {title} with a power of "
        f"{power:.0%} (paired, two-sided, level {level:.0%})"
    )
    show(f"the {planned.pilot:,} of the pilot show a difference of {number(planned.resolution)} with that power")
    if not planned.paired:
        show(
            "note: from one system nothing is known of how it errs together with another; the number holds for "
            "two that err independently, and two that agree need fewer: give the posteriors of both"
        )
    entry = planned.as_dict()
    try:
        entry["temperature_instances"] = needed = temperature_instances(systems[0], precision=precision, level=level)
        show(f"{needed:,} validation instances fix a temperature to ± {precision:.0%} (level {level:.0%})")
    except InputError as error:
        if not 0 < precision < 1:
            raise
        entry["temperature_instances"] = None
        show(f"validation instances for a temperature: not available ({error})")
    if out is not None:
        write_json(out, entry)
