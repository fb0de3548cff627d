"""What the states of a model are worth on a split, and what changes where costs are stated later. No model is needed.

posteriors of base, adapted, calibrated, floor ── measure ──> metrics.json
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rango.checksums import digests
from rango.decisions import (
    METRICS,
    CostBalance,
    Estimate,
    Posteriors,
    StatedCosts,
    cost_balance,
    summarise,
    summarise_difference,
    summarise_prior_only,
)
from rango.files import read_yaml, write_json, write_yaml
from rango.output_folder import only_writer
from rango.training.run_folder import Run, RunContents, read_metrics
from rango.training.run_writer import as_json

_NO_SYSTEM = ("prior", "difference", "labels")
"""What metrics.json has beside the states that have posteriors."""


def measure(
    states: Mapping[str, Posteriors],
    *,
    seed: int = 0,
    costs: StatedCosts | None = None,
    metrics: Iterable[str] | None = None,
) -> dict[str, dict[str, Estimate]]:
    """Every metric of every state with its 95 % bootstrap interval, and of the prior-only system.

    `prior` outputs the class frequencies of the same instances whatever the input: its NCE is 1 by definition, and its
    expected cost is that of the best constant decision. `labels`, where labels are soft, outputs each instance's own
    distribution: no system has a lower expected score. `difference` is adapted minus base on the same resampled
    instances.

    Args:
        states: the posteriors of each state on the same instances.
        seed: of the bootstrap.
        costs: of decisions; 0-1 costs when absent.
        metrics: names from METRICS; None for all that have a meaning for the instances.

    Raises:
        InputError: costs of other choices.
    """
    # All states are of the same instances, and the prior-only system looks at their labels alone.
    any_state = next(iter(states.values()))
    matrix = None if costs is None else costs.for_posteriors(any_state)
    options: dict[str, Any] = {"seed": seed, "costs": matrix, "metrics": None if metrics is None else tuple(metrics)}
    measured: dict[str, dict[str, Estimate]] = {"prior": summarise_prior_only(any_state, **options)}
    measured |= {state: summarise(posteriors, **options) for state, posteriors in states.items()}
    if any_state.targets is not None:
        measured["labels"] = summarise(any_state.target_only(), **options)
    if "base" in states and "adapted" in states:
        measured["difference"] = summarise_difference(states["base"], states["adapted"], **options)
    return measured


def deployed_state(states: Iterable[str]) -> str:
    """Which of the states one would deploy: the calibrated one where there is one, else the adapted, else the base."""
    present = set(states)
    return next((state for state in ("calibrated", "adapted", "base") if state in present), "adapted")


def balance_of_run(run: Run, *, split: str = "test") -> CostBalance | None:
    """What acting on the model that one would deploy costs; None where no costs are stated or nothing is measured.

    Raises:
        InputError: posteriors or costs that cannot be read.
    """
    states = read_metrics(run.path / "metrics.json").get(split)
    if run.stated_costs is None or not states:
        return None
    posteriors = run.posteriors(deployed_state(states), split)
    seed = read_yaml(run.record_file)["config"]["seed"]
    return cost_balance(posteriors, costs=run.stated_costs.for_posteriors(posteriors), seed=seed)


def balance_of_contents(run: RunContents) -> CostBalance | None:
    """As `balance_of_run`, of what could be read; None where costs or the posteriors to act on are missing."""
    posteriors = run.posteriors.get(deployed_state(run.posteriors))
    if run.costs is None or posteriors is None:
        return None
    config = run.record.get("config")
    seed = config.get("seed") if isinstance(config, Mapping) else None
    return cost_balance(posteriors, costs=run.costs, seed=seed if isinstance(seed, int) else 0)


def state_costs(run: Run, costs: StatedCosts) -> bool:
    """State what mistakes cost in a finished run or evaluation: its record and its metrics of costs change, no more.

    Returns:
        Whether anything changed; False where these costs were stated before.

    Raises:
        InputError: the run is not complete, lacks posteriors that it has metrics of, or has other choices.
    """
    if run.stated_costs == costs:
        return False
    with only_writer(run.path):
        record = read_yaml(run.record_file)
        seed = record["config"]["seed"]
        measured = read_metrics(run.path / "metrics.json")
        of_costs = [metric.name for metric in METRICS.values() if metric.needs_costs]
        for split, states in measured.items():
            posteriors = {state: run.posteriors(state, split) for state in states if state not in _NO_SYSTEM}
            # Without labels nothing was measured, and the costs are for decisions to come.
            if not posteriors:
                continue
            again = as_json({split: measure(posteriors, seed=seed, costs=costs, metrics=of_costs)})[split]
            for state, estimates in again.items():
                states[state] = {**states[state], **estimates}
        # The costs come last: a command that was killed before finds others in the record, and does all of it again.
        # Meanwhile the record lists no digest of the metrics, neither of the old ones nor of the new.
        listed = {name: digest for name, digest in record.get("digests", {}).items() if name != "metrics.json"}
        write_yaml(run.record_file, {**record, "digests": listed})
        write_json(run.path / "metrics.json", measured)
        listed |= digests(run.path, ["metrics.json"])
        write_yaml(run.record_file, {**record, "costs": costs.as_dict(), "digests": listed})
    return True
