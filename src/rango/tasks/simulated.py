"""A generated world whose sampling distribution is written down, so that the true posterior is known."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate, islice
from typing import TYPE_CHECKING, NamedTuple

from rango.errors import InputError
from rango.options import SPLITS, Split, TaskOptions
from rango.tasks.simulated_world import EVENTS, KINDS, NAMES, RELATIONS, TRAITS, Kind, conditional
from rango.tasks.task import Instance, Task, Templates, context_group

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


QUESTION_TEMPLATES = Templates(
    letter="{context}\nQuestion: {question}\n{choices}\nAnswer:",
    cloze="{context} Question: {question} Answer:",
)
CONTINUATION_TEMPLATES = Templates(
    letter="{context}\nWhat comes next?\n{choices}\nAnswer:",
    cloze="{context}",
)

_TRAITS, _EVENTS, _RELATIONS = tuple(TRAITS), tuple(EVENTS), tuple(RELATIONS)
_QUESTIONS: dict[Kind, str] = {
    "feeling": "How did {name} feel?",
    "reaction": "How did the {relation} feel?",
    "action": "What did {name} do next?",
    "reason": "Why did {name} do this?",
}
_SENTENCES: dict[Kind, str] = {
    "feeling": "{name} felt {outcome}.",
    "reaction": "The {relation} felt {outcome}.",
    "action": "Then {name} {outcome}.",
    "reason": "{name} did this {outcome}.",
}
# A context belongs to one split for good, by its hash: of 256 shares, test has 64, validation 32, train the rest.
_SIDES: dict[Split, range] = {"test": range(64), "validation": range(64, 96), "train": range(96, 256)}


class Scene(NamedTuple):
    """Who did what to whom: numbers into the tables of the world."""

    name: int
    trait: int
    event: int
    relation: int

    def words(self) -> dict[str, str]:
        """The words for the templates."""
        return {"name": NAMES[self.name], "relation": _RELATIONS[self.relation]}

    def text(self) -> str:
        """The context in words."""
        name = NAMES[self.name]
        return f"{name} is {_TRAITS[self.trait]}. {name} {_EVENTS[self.event]} a {_RELATIONS[self.relation]}."


def load_simulated(options: TaskOptions) -> Task:
    """Questions on a generated world whose true posterior is known, in SocialIQA's form; three answers."""
    return _load("simulated", options, QUESTION_TEMPLATES, kinds=KINDS, n_choices=3)


def load_simulated_continuations(options: TaskOptions) -> Task:
    """What someone of the generated world did next, in HellaSwag's form; four endings."""
    return _load("simulated-continuations", options, CONTINUATION_TEMPLATES, kinds=("action",), n_choices=4)


def _load(name: str, options: TaskOptions, templates: Templates, *, kinds: tuple[Kind, ...], n_choices: int) -> Task:
    if options.data is not None:
        raise InputError(f"data is {str(options.data)!r} but the task {name} is generated; leave the option out")
    sizes = {"train": options.train, "validation": options.validation, "test": options.test}
    drawn = {
        split: tuple(islice(_instances(split, kinds, n_choices, options.data_seed), sizes[split])) for split in SPLITS
    }
    return Task(
        name=name,
        train=drawn["train"],
        validation=drawn["validation"],
        test=drawn["test"],
        write_prompt=templates,
        default_form="cloze",
        options=options,
    )


def _instances(split: Split, kinds: tuple[Kind, ...], n_choices: int, seed: int) -> Iterator[Instance]:
    """Instances of a split without end. Each split has its own stream, so that no size changes another split."""
    rng = random.Random(f"{split} {len(kinds)} {n_choices} {seed}")
    number = 0
    while True:
        scene = draw_scene(rng)
        if _side(scene.text()) not in _SIDES[split]:
            continue
        yield draw_instance(rng, scene, rng.choice(kinds), n_choices, identity=f"{split}:{number}")
        number += 1


def draw_scene(rng: random.Random) -> Scene:
    """Someone, something and someone else, uniformly."""
    return Scene(*(rng.randrange(len(table)) for table in (NAMES, TRAITS, EVENTS, RELATIONS)))


def draw_instance(rng: random.Random, scene: Scene, kind: Kind, n_choices: int, *, identity: str) -> Instance:
    """One instance: the answer from the world, the distractors uniformly from the rest, shuffled."""
    nature = _nature(kind, scene)
    outcomes, log_probabilities = conditional(kind).outcomes, conditional(kind).log_probabilities[scene.event][nature]
    cumulative = _cumulative(kind, scene.event, nature)
    answer = rng.choices(range(len(outcomes)), cum_weights=cumulative)[0]
    shown = [answer, *rng.sample([k for k in range(len(outcomes)) if k != answer], n_choices - 1)]
    rng.shuffle(shown)
    restricted = [log_probabilities[k] for k in shown]
    log_norm = math.log(math.fsum(map(math.exp, restricted)))
    context = scene.text()
    question = _QUESTIONS[kind].format(**scene.words())
    if n_choices == 4:
        context, question = f"{context} Then {NAMES[scene.name]}", ""
    return Instance(
        id=identity,
        context=context,
        question=question,
        choices=tuple(outcomes[k] for k in shown),
        label=shown.index(answer),
        group=context_group(context),
        log_posterior=tuple(value - log_norm for value in restricted),
        fields={"kind": kind},
    )


def simulated_narratives(lines: int, *, seed: int = 0, question_share: float = 0.05) -> Iterator[str]:
    """Plain text of the world, one short story a line, to pre-train on; independent of every split's labels.

    A story is a context and two of the four things told of it, each drawn from P(· | context): about 16 words.
    The share `question_share` of the lines is in the cloze form of `simulated`, with an answer from the marginal
    P(answer) of its kind, whatever the context: a model learns from them how a question is put, and nothing about what
    the answer depends on.

    Args:
        lines: how many.
        seed: of the random generator.
        question_share: of the lines, between 0 and 1.

    Raises:
        InputError: a share outside 0..1.
    """
    if not 0 <= question_share <= 1:
        raise InputError(f"question_share is {question_share}; expected a number between 0 and 1")
    rng = random.Random(f"narratives {seed}")
    for _ in range(lines):
        scene = draw_scene(rng)
        if rng.random() < question_share:
            yield _uninformed_question(rng, scene, rng.choice(KINDS))
        else:
            # The reason comes first: "did this" then points at the event, not at what came next.
            told = sorted(rng.sample(KINDS, 2), key=lambda kind: kind != "reason")
            yield " ".join([scene.text(), *(_sentence(rng, scene, kind) for kind in told)])


def _sentence(rng: random.Random, scene: Scene, kind: Kind) -> str:
    outcomes, cumulative = conditional(kind).outcomes, _cumulative(kind, scene.event, _nature(kind, scene))
    return _SENTENCES[kind].format(**scene.words(), outcome=rng.choices(outcomes, cum_weights=cumulative)[0])


def _uninformed_question(rng: random.Random, scene: Scene, kind: Kind) -> str:
    table = conditional(kind)
    answer = rng.choices(table.outcomes, weights=table.marginal)[0]
    question = _QUESTIONS[kind].format(**scene.words())
    return f"{QUESTION_TEMPLATES.cloze.format(context=scene.text(), question=question)} {answer}"


def _nature(kind: Kind, scene: Scene) -> int:
    return scene.relation if kind == "reaction" else scene.trait


@cache
def _cumulative(kind: Kind, event: int, nature: int) -> tuple[float, ...]:
    return tuple(accumulate(map(math.exp, conditional(kind).log_probabilities[event][nature])))


def _side(context: str) -> int:
    return hashlib.sha256(context.encode()).digest()[0]


# numpy is imported where it is used: the command line reads this room before it knows what is asked of it.


def true_log_posteriors(instances: Sequence[Instance]) -> Array:
    """(N, K) the true log-posteriors of the instances in nats; -inf where an instance has fewer choices.

    Raises:
        InputError: no instances, or one whose true posterior is not known.
    """
    import numpy as np

    if not instances:
        raise InputError("no instances; expected at least one with a true posterior")
    rows = np.full((len(instances), max(len(instance.choices) for instance in instances)), -np.inf)
    for row, instance in zip(rows, instances, strict=True):
        if instance.log_posterior is None:
            raise InputError(f"instance {instance.id!r} has no true posterior; only simulated tasks know it")
        row[: len(instance.choices)] = instance.log_posterior
    return rows


def expected_scores(log_posteriors: Array, true: Array) -> dict[str, float]:
    """Error rate, cross-entropy and NCE that the posteriors have on average over labels drawn from the true ones.

    With p_i the true posterior, q_i the one in question and d_i = argmax_k q_ik (the first on ties):

        error_rate    = (1/N) Σ_i (1 - p_i(d_i))
        cross_entropy = -(1/N) Σ_i Σ_k p_ik ln q_ik                  (nats; a term with p_ik = 0 counts 0)
        nce           = cross_entropy / H(π),   π_k = (1/N) Σ_i p_ik   the expected priors

    At q = p these are the floor: no posterior has a lower expected cross-entropy or error rate.
    All three: lower is better. On labels actually drawn, the metrics of `Posteriors` scatter around these values.

    Args:
        log_posteriors: (N, K) the posteriors in question, nats.
        true: (N, K) the true ones, nats.

    Raises:
        InputError: the shapes differ or are not (N, K).
    """
    import numpy as np

    q, p = np.asarray(log_posteriors, dtype=np.float64), np.exp(np.asarray(true, dtype=np.float64))
    if q.shape != p.shape or q.ndim != 2 or not q.size:
        raise InputError(f"log_posteriors {q.shape} and true {p.shape}; expected the same shape (N, K)")
    hit = p[np.arange(len(p)), q.argmax(axis=1)]
    loss = -_dot(p, q).mean()
    priors = p.mean(axis=0)
    entropy = -_dot(priors, np.log(priors, out=np.zeros_like(priors), where=priors > 0))
    return {
        "error_rate": float(1 - hit.mean()),
        "cross_entropy": float(loss),
        "nce": float(loss / entropy),
    }


def _dot(p: Array, log_q: Array) -> Array:
    """Σ_k p_k log q_k over the last axis, where 0 · (-inf) counts 0."""
    import numpy as np

    products = np.multiply(p, log_q, out=np.zeros_like(p), where=p > 0)
    total: Array = products.sum(axis=-1)
    return total
