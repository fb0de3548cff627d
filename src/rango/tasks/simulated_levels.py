"""Yes/no questions and questions of five levels on the generated world, with the true posterior of every instance.

Both ask of an outcome X, such as a feeling, that is the true one in half of the instances and drawn uniformly from the
other n − 1 ones otherwise. With p = P(X | scene), Bayes' rule gives the probability that X is the true one,

    θ = p / (p + (1 − p) / (n − 1))

    yes/no   "Did Ada feel happy?"         P(yes) = θ
    levels   "How happy did Ada feel?"     level ~ Binomial(4, θ): a likelier feeling is felt more strongly
"""

from __future__ import annotations

import math
import random
from typing import Literal

from rango.options import TaskOptions
from rango.tasks.simulated import QUESTION_TEMPLATES, Scene, load_world
from rango.tasks.simulated_world import NAMES, RELATIONS, Kind, conditional
from rango.tasks.task import Instance, Task, context_group

LEVELS = ("not at all", "a little", "somewhat", "very", "extremely")
"""The answers of a question of levels, from the lowest."""
_YES_NO = {
    "feeling": "Did {name} feel {outcome}?",
    "reaction": "Did the {relation} feel {outcome}?",
}
_HOW_MUCH = {
    "feeling": "How {outcome} did {name} feel?",
    "reaction": "How {outcome} did the {relation} feel?",
}
_KINDS: tuple[Kind, ...] = ("feeling", "reaction")


def load_simulated_yes_no(options: TaskOptions) -> Task:
    """Yes/no questions about feelings in the generated world, of the type yes_no: the choices are no and yes."""
    return load_world("simulated-yes-no", options, QUESTION_TEMPLATES, kinds=_KINDS, n_choices=2, draw=draw_yes_no)


def load_simulated_levels(options: TaskOptions) -> Task:
    """How strongly something was felt in the generated world, of the type score: five levels."""
    return load_world("simulated-levels", options, QUESTION_TEMPLATES, kinds=_KINDS, n_choices=5, draw=draw_level)


def draw_yes_no(rng: random.Random, scene: Scene, kind: Kind, n_choices: int, *, identity: str) -> Instance:
    """A question whose answer is yes with probability θ."""
    assert n_choices == 2
    outcome, theta = _outcome(rng, scene, kind)
    posterior = (math.log1p(-theta), math.log(theta))
    return _instance(rng, scene, kind, _YES_NO[kind], outcome, ("no", "yes"), posterior, "yes_no", identity)


def draw_level(rng: random.Random, scene: Scene, kind: Kind, n_choices: int, *, identity: str) -> Instance:
    """A question whose level is Binomial(4, θ), which is unimodal: neighbours of the likeliest level come next."""
    outcome, theta = _outcome(rng, scene, kind)
    most = n_choices - 1
    posterior = tuple(
        math.log(math.comb(most, k)) + k * math.log(theta) + (most - k) * math.log1p(-theta) for k in range(n_choices)
    )
    return _instance(rng, scene, kind, _HOW_MUCH[kind], outcome, LEVELS, posterior, "score", identity)


def _outcome(rng: random.Random, scene: Scene, kind: Kind) -> tuple[str, float]:
    """The outcome that is asked about, and the probability θ that it is the true one."""
    nature = scene.relation if kind == "reaction" else scene.trait
    outcomes, log_probabilities = conditional(kind).outcomes, conditional(kind).log_probabilities[scene.event][nature]
    shares = [math.exp(value) for value in log_probabilities]
    (shown,) = rng.choices(range(len(outcomes)), weights=shares)
    if rng.random() < 0.5:
        shown = rng.choice([k for k in range(len(outcomes)) if k != shown])
    other = (1 - shares[shown]) / (len(outcomes) - 1)
    return outcomes[shown], shares[shown] / (shares[shown] + other)


def _instance(
    rng: random.Random,
    scene: Scene,
    kind: Kind,
    question: str,
    outcome: str,
    choices: tuple[str, ...],
    log_posterior: tuple[float, ...],
    kind_of_choices: Literal["yes_no", "score"],
    identity: str,
) -> Instance:
    """The instance, with a label drawn from its own posterior."""
    (label,) = rng.choices(range(len(choices)), weights=[math.exp(value) for value in log_posterior])
    words = {"name": NAMES[scene.name], "relation": tuple(RELATIONS)[scene.relation], "outcome": outcome}
    return Instance(
        id=identity,
        context=scene.text(),
        question=question.format(**words),
        choices=choices,
        label=label,
        group=context_group(scene.text()),
        log_posterior=log_posterior,
        fields={"kind": kind},
        type=kind_of_choices,
    )
