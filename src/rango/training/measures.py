"""From the posteriors of several model states to the numbers of metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rango.decisions import (
    Calibrator,
    Estimate,
    Posteriors,
    fit_calibrator,
    summarise,
    summarise_difference,
    summarise_prior_only,
)
from rango.errors import InputError
from rango.scoring import as_posteriors
from rango.tasks import Form, Instance, true_log_posteriors


def measure(states: Mapping[str, Posteriors], *, seed: int = 0) -> dict[str, dict[str, Estimate]]:
    """Every metric of every state with its 95 % bootstrap interval, and of the prior-only system.

    `prior` outputs the class frequencies of the same instances whatever the input: its NCE is 1 by definition.
    `difference` is adapted minus base on the same resampled instances.
    """
    any_state = next(iter(states.values()))
    found = {"prior": summarise_prior_only(any_state, seed=seed)}
    found |= {state: summarise(posteriors, seed=seed) for state, posteriors in states.items()}
    if "base" in states and "adapted" in states:
        found["difference"] = summarise_difference(states["base"], states["adapted"], seed=seed)
    return found


def true_posteriors(instances: Sequence[Instance]) -> Posteriors | None:
    """The posteriors that the instances' labels were drawn from; None where they are not known."""
    if any(instance.log_posterior is None for instance in instances):
        return None
    return as_posteriors(true_log_posteriors(instances), instances)


def calibrated_posteriors(
    validation: Posteriors, test: Posteriors, *, form: Form
) -> tuple[Calibrator | None, Posteriors, str | None]:
    """Test posteriors after a calibrator fitted on validation, and a note where the fit needs one.

    Letters are classes with a place each, so an affine calibrator may correct a preference for one of them. The order
    of a cloze task's choices means nothing: one temperature. Without a fit, the posteriors come back as they are.
    """
    try:
        calibrator = fit_calibrator(validation, method="affine" if form == "letter" else "temperature")
    except InputError as error:
        return None, test, f"calibration on validation is not possible: {error}"
    report = calibrator.report
    note = None if report is None or report.converged else f"the {calibrator.method} calibrator did not converge"
    return calibrator, calibrator.apply(test), note
