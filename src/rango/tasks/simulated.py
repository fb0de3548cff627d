"""A generated world whose sampling distribution is written down, so that the true posterior is known."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate, islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rango.errors import InputError
from rango.options import SPLITS, Split, TaskOptions
from rango.tasks.simulated_world import EVENTS, KINDS, NAMES, RELATIONS, TRAITS, Kind, conditional
from rango.tasks.task import Instance, Task, Templates, context_group

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUESTION_TEMPLATES = Templates(
    letter="{context}\nQuestion: {question}\n{choices}\nAnswer:",
    cloze="{context} Question: {question} Answer:",
)
CONTINUATION_TEMPLATES = Templates(
    letter="{context}\nWhat comes next?\n{choices}\nAnswer:",
    cloze="{context}",
)

# A million instances take a minute to draw and 0.8 GB.
MOST_INSTANCES = 1_000_000
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


class Draw(Protocol):
    """What makes an instance of a scene."""

    def __call__(self, rng: random.Random, scene: Scene, kind: Kind, n_choices: int, *, identity: str) -> Instance:
        """Draw an instance."""


def load_simulated(options: TaskOptions) -> Task:
    """Questions on a generated world whose true posterior is known, in SocialIQA's form; three answers."""
    return load_world("simulated", options, QUESTION_TEMPLATES, kinds=KINDS, n_choices=3)


def load_simulated_continuations(options: TaskOptions) -> Task:
    """What someone of the generated world did next, in HellaSwag's form; four endings."""
    return load_world("simulated-continuations", options, CONTINUATION_TEMPLATES, kinds=("action",), n_choices=4)


def load_world(
    name: str,
    options: TaskOptions,
    templates: Templates,
    *,
    kinds: tuple[Kind, ...],
    n_choices: int,
    draw: Draw | None = None,
) -> Task:
    """A task on the generated world; `draw` makes the instance of a scene, `draw_instance` when absent.

    Raises:
        InputError: a data folder, or too many instances.
    """
    if options.data is not None:
        raise InputError(f"data is {str(options.data)!r} but the task {name} is generated; leave the option out")
    for split in SPLITS:
        if (size := getattr(options, split)) > MOST_INSTANCES:
            raise InputError(
                f"{split} is {size:,} but the task {name}, whose world never ends, gives at most {MOST_INSTANCES:,} "
                "instances of a split; ask for fewer"
            )
    made = draw_instance if draw is None else draw
    streams = {split: _instances(split, kinds, n_choices, options.data_seed, made) for split in SPLITS}
    drawn = {split: tuple(islice(stream, getattr(options, split))) for split, stream in streams.items()}
    return Task(
        name=name,
        train=drawn["train"],
        validation=drawn["validation"],
        test=drawn["test"],
        write_prompt=templates,
        options=options,
    )


def _instances(split: Split, kinds: tuple[Kind, ...], n_choices: int, seed: int, draw: Draw) -> Iterator[Instance]:
    """Instances of a split without end. Each split has its own stream, so that no size changes another split."""
    rng = random.Random(f"{split} {len(kinds)} {n_choices} {seed}")
    number = 0
    while True:
        scene = draw_scene(rng)
        if hashlib.sha256(scene.text().encode()).digest()[0] not in _SIDES[split]:
            continue
        yield draw(rng, scene, rng.choice(kinds), n_choices, identity=f"{split}:{number}")
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
    # Bayes: every other choice is a distractor with the same probability, whichever one is the answer, so the posterior
    # is the conditional over all outcomes, restricted to the choices shown.
    restricted = [log_probabilities[k] for k in shown]
    log_norm = math.log(math.fsum(map(math.exp, restricted)))
    context = scene.text()
    question = _QUESTIONS[kind].format(**scene.words())
    if n_choices == 4:  # HellaSwag's form: the context goes on, and nothing is asked
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
            kind = rng.choice(KINDS)
            answer = rng.choices(conditional(kind).outcomes, weights=conditional(kind).marginal)[0]
            question = _QUESTIONS[kind].format(**scene.words())
            yield f"{QUESTION_TEMPLATES.cloze.format(context=scene.text(), question=question)} {answer}"
        else:
            # The reason comes first: "did this" then points at the event, not at what came next.
            kinds = sorted(rng.sample(KINDS, 2), key=lambda kind: kind != "reason")
            yield " ".join([scene.text(), *(_sentence(rng, scene, kind) for kind in kinds)])


def _sentence(rng: random.Random, scene: Scene, kind: Kind) -> str:
    outcomes, cumulative = conditional(kind).outcomes, _cumulative(kind, scene.event, _nature(kind, scene))
    return _SENTENCES[kind].format(**scene.words(), outcome=rng.choices(outcomes, cum_weights=cumulative)[0])


def _nature(kind: Kind, scene: Scene) -> int:
    return scene.relation if kind == "reaction" else scene.trait


@cache
def _cumulative(kind: Kind, event: int, nature: int) -> tuple[float, ...]:
    return tuple(accumulate(map(math.exp, conditional(kind).log_probabilities[event][nature])))


def true_log_posteriors(instances: Sequence[Instance]) -> NDArray[np.float64]:
    """(N, K) the true log-posteriors of the instances in nats; -inf where an instance has fewer choices.

    Raises:
        InputError: no instances, or one whose true posterior is not known.
    """
    import numpy as np  # here: the command line imports this file for its names alone

    if not instances:
        raise InputError("no instances; expected at least one with a true posterior")
    rows = np.full((len(instances), max(len(instance.choices) for instance in instances)), -np.inf)
    for row, instance in zip(rows, instances, strict=True):
        if instance.log_posterior is None:
            raise InputError(f"instance {instance.id!r} has no true posterior; only simulated tasks know it")
        row[: len(instance.choices)] = instance.log_posterior
    return rows
