"""Yes/no questions and levels of the generated world: the labels follow the written posterior, which is the floor."""

from __future__ import annotations

import numpy as np
import pytest

from rango.decisions import Posteriors
from rango.tasks import Task, load_task
from rango.tasks.simulated import true_log_posteriors
from rango.tasks.simulated_levels import LEVELS
from rango.tasks.task import posteriors_of

NAMES = ("simulated-yes-no", "simulated-levels")


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return {name: load_task(name, train=20, validation=20, test=3_000) for name in NAMES}


def truth(task: Task) -> Posteriors:
    return posteriors_of(task.test, true_log_posteriors(task.test))


def test_types_and_words(tasks: dict[str, Task]) -> None:
    yes_no, levels = (tasks[name].test[0] for name in NAMES)
    assert (yes_no.type, yes_no.choices) == ("yes_no", ("no", "yes"))
    assert yes_no.question.startswith("Did ")
    assert (levels.type, levels.choices) == ("score", LEVELS)
    assert levels.question.startswith("How ")
    assert truth(tasks["simulated-levels"]).is_ordered
    assert not truth(tasks["simulated-yes-no"]).is_ordered


@pytest.mark.parametrize("name", NAMES)
def test_labels_follow_the_written_posterior(tasks: dict[str, Task], name: str) -> None:
    posteriors = truth(tasks[name])
    np.testing.assert_allclose(np.exp(posteriors.log_posteriors).sum(axis=1), 1)
    # The mean posterior is the share of each label, up to four standard errors.
    shares, n = posteriors.priors(), len(posteriors)
    gap = np.abs(np.exp(posteriors.log_posteriors).mean(axis=0) - shares)
    assert (gap < 4 * np.sqrt(shares * (1 - shares) / n)).all()
    assert posteriors.ece() < 0.04


@pytest.mark.parametrize("name", NAMES)
def test_the_true_posterior_is_the_floor(tasks: dict[str, Task], name: str) -> None:
    """No other posteriors of the same instances do better: flattened, sharpened, shifted by a level, or the priors."""
    floor = truth(tasks[name])
    logs = floor.log_posteriors
    shifted = np.roll(logs, 1, axis=1)
    scores = ["nce", "brier", *(["ranked_probability_score"] if floor.is_ordered else [])]
    for other in (0.6 * logs, 1.6 * logs, np.logaddexp(logs, shifted - 2), np.zeros_like(logs)):
        system = Posteriors.from_scores(other, floor.labels, types=floor.types)
        for score in scores:
            assert floor.metric(score) <= system.metric(score), score
        # Drawn labels may suit other medians by chance; in expectation they do not.
        if floor.is_ordered:
            ours, theirs = (Posteriors(p.log_posteriors, np.exp(logs), types=floor.types) for p in (floor, system))
            assert ours.metric("mean_absolute_error") <= theirs.metric("mean_absolute_error")
    assert floor.nce() < 0.95


def test_its_own_distribution_scores_as_the_expectation_of_its_labels(tasks: dict[str, Task]) -> None:
    """Soft labels that are the true posterior give the floor without the noise of drawn labels."""
    floor = truth(tasks["simulated-levels"])
    soft = Posteriors(floor.log_posteriors, np.exp(floor.log_posteriors), types=floor.types)
    for score in ("cross_entropy", "ranked_probability_score"):
        assert soft.metric(score) == pytest.approx(floor.metric(score), rel=0.05)
        assert soft.metric(score) == pytest.approx(soft.target_only().metric(score))
