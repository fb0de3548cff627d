"""The small world of the simulated tasks, written by hand: who, what, and how much one thing goes with another.

Everything that happens, everyone's nature and everything that may follow is placed on six axes by hand, each from -2
to 2:

    goodwill   kind or hostile
    success    gaining or losing
    danger     frightening or safe
    energy     lively or quiet
    company    with people or away from them
    duty       dutiful or careless

The affinity of two things is the inner product of their places, so the tables of logits have rank six or less, and read
sensibly: who mocks a friend is likelier to feel smug than grateful.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from statistics import fmean, pstdev
from typing import Literal

Kind = Literal["feeling", "reaction", "action", "reason"]
KINDS: tuple[Kind, ...] = ("feeling", "reaction", "action", "reason")
"""What is asked: how the person felt, how the other one felt, what the person did next, why the person did it."""

Place = tuple[int, int, int, int, int, int]

# fmt: off
NAMES: tuple[str, ...] = (
    "Ada", "Alex", "Anna", "Ben", "Bella", "Carl", "Clara", "Dan", "Diana", "Eli",
    "Emma", "Eva", "Finn", "Fred", "Grace", "Hana", "Hugo", "Ida", "Ivan", "Jack",
    "Julia", "Karl", "Kim", "Lea", "Leo", "Lina", "Luke", "Maria", "Max", "Mia",
    "Nina", "Noah", "Olga", "Oscar", "Paul", "Rosa", "Ruth", "Sam", "Tom", "Vera",
)

TRAITS: dict[str, Place] = {
    "kind": (2, 0, 0, -1, 1, 1),
    "shy": (0, -1, 1, -1, -2, 0),
    "brave": (0, 1, -2, 1, 0, 1),
    "lazy": (0, -1, 0, -2, 0, -2),
    "vain": (-1, 2, 0, 1, 0, -1),
    "grumpy": (-2, -1, 0, 0, -1, 0),
    "honest": (1, 0, 0, 0, 0, 2),
    "cheerful": (1, 1, -1, 2, 2, -1),
}

EVENTS: dict[str, Place] = {
    "helped": (2, 1, 0, 0, 1, 2),
    "thanked": (2, 0, 0, -1, 1, 1),
    "praised": (2, 0, 0, 1, 1, 0),
    "rescued": (2, 2, 2, 2, 1, 2),
    "warned": (1, 0, 2, 1, 1, 2),
    "taught": (1, 1, 0, 0, 1, 2),
    "hugged": (2, 0, -1, 0, 2, -1),
    "forgave": (2, 0, -1, -1, 1, 1),
    "visited": (1, 0, -1, 0, 2, 0),
    "danced with": (1, 0, -1, 2, 2, -2),
    "sang with": (1, 0, -1, 2, 2, -1),
    "played with": (1, 0, -1, 2, 2, -2),
    "worked with": (0, 1, -1, 0, 1, 2),
    "studied with": (0, 1, -1, -1, 1, 2),
    "raced": (0, 1, 0, 2, 1, -1),
    "defeated": (-1, 2, 0, 2, 0, 0),
    "lost to": (0, -2, 0, 0, 0, 0),
    "disappointed": (-1, -2, 0, -1, 0, -2),
    "forgot": (-1, -1, -1, -1, -1, -2),
    "ignored": (-1, 0, 0, -1, -2, -1),
    "avoided": (-1, -1, 1, -1, -2, -1),
    "hid from": (0, -2, 2, -1, -2, -1),
    "fled from": (0, -2, 2, 2, -2, 0),
    "teased": (-1, 1, 0, 1, 1, -2),
    "mocked": (-2, 1, 0, 1, 0, -2),
    "insulted": (-2, 0, 0, 1, 0, -1),
    "fought": (-2, 0, 2, 2, 0, -1),
    "robbed": (-2, 1, 2, 1, -1, -2),
    "tricked": (-1, 2, 0, 0, 0, -2),
    "blamed": (-2, -1, 0, 0, 0, 0),
}

RELATIONS: dict[str, Place] = {
    "friend": (2, 0, -1, 0, 1, 0),
    "rival": (-2, 1, 0, 1, -1, 0),
    "brother": (1, 0, -1, 1, 1, -1),
    "teacher": (0, 1, 0, -1, 0, 2),
    "stranger": (0, 0, 1, -1, -2, 0),
    "neighbour": (1, 0, -1, -1, 0, 1),
    "boss": (-1, 1, 0, 0, -1, 2),
    "child": (1, -1, 1, 2, 1, -2),
}

FEELINGS: dict[str, Place] = {
    "happy": (1, 1, -1, 1, 1, 0),
    "proud": (0, 2, 0, 1, 0, 1),
    "calm": (1, 0, -2, -2, 0, 1),
    "sad": (0, -2, 0, -1, -1, 0),
    "angry": (-2, -1, 0, 2, 0, 0),
    "afraid": (0, -1, 2, 1, -1, 0),
    "ashamed": (0, -2, 0, -1, -1, -1),
    "guilty": (-1, -1, 0, -1, 0, -2),
    "bored": (0, 0, -2, -2, -1, -1),
    "tired": (0, 0, 0, -2, 0, 1),
    "excited": (0, 1, 1, 2, 1, -1),
    "grateful": (2, 0, 0, -1, 1, 1),
    "lonely": (0, -1, 0, -1, -2, 0),
    "hopeful": (1, 1, 0, 0, 0, 1),
    "nervous": (0, -1, 2, 1, 0, 1),
    "relieved": (1, 0, 1, -1, 0, 1),
    "hurt": (-1, -2, 1, 0, -1, 0),
    "loved": (2, 0, -1, 0, 2, 0),
    "smug": (-1, 2, -1, 0, 0, -2),
    "playful": (0, 0, -1, 2, 2, -2),
}

ACTIONS: dict[str, Place] = {
    "gave a gift": (2, 0, 0, 0, 1, 1),
    "told a joke": (1, 0, -1, 1, 2, -2),
    "said sorry": (1, -1, 0, -1, 1, 2),
    "ran away": (0, -2, 2, 2, -2, -1),
    "hid alone": (0, -2, 2, -1, -2, 0),
    "sang aloud": (1, 1, -1, 2, 1, -1),
    "cried quietly": (0, -2, 0, -1, -2, 0),
    "took a nap": (0, 0, -2, -2, -1, -1),
    "asked for help": (0, -1, 2, 0, 1, 1),
    "made tea": (1, 0, -2, -1, 1, 1),
    "wrote a letter": (1, 0, 0, -1, 0, 1),
    "kicked a stone": (-2, 0, 1, 2, -1, -1),
    "slammed the door": (-2, -1, 0, 2, -1, 0),
    "cleaned the house": (0, 0, -1, 0, -1, 2),
    "trained hard": (0, 1, 0, 2, 0, 2),
    "planned revenge": (-2, -1, 1, 0, -1, -1),
    "threw a party": (1, 2, -1, 2, 2, -2),
    "confessed everything": (1, 0, 0, 0, 1, 2),
    "read a book": (0, 0, -1, -2, -2, 1),
    "called the police": (-1, 0, 2, 1, 1, 2),
    "locked the gate": (-1, 0, 2, 0, -2, 1),
    "boasted loudly": (-1, 2, 0, 1, 1, -1),
    "went to bed": (0, -1, -1, -2, -1, 0),
    "bought new shoes": (0, 2, -1, 0, 0, -1),
}

REASONS: dict[str, Place] = {
    "to help": (2, 0, 0, 0, 1, 1),
    "to win": (-1, 2, 0, 2, 0, 0),
    "to hide": (0, -1, 2, -1, -2, 0),
    "to have fun": (0, 0, -1, 2, 2, -2),
    "to make peace": (1, 0, 0, -1, 1, 1),
    "to learn": (0, 1, -1, 0, 0, 2),
    "to get even": (-2, 0, 0, 1, 0, 0),
    "to become rich": (-1, 2, 1, 0, 0, -1),
    "to show off": (-1, 2, 0, 1, 1, -2),
    "to stay safe": (0, -1, 2, 0, -1, 1),
    "to find company": (1, 0, -1, 1, 2, 0),
    "to do right": (1, 0, 0, 0, 0, 2),
    "to feel strong": (-1, 1, 1, 2, -1, 0),
    "to avoid work": (0, -1, -1, -2, -1, -2),
    "to be alone": (-1, -1, 0, -1, -2, 0),
}

OUTCOMES: dict[Kind, dict[str, Place]] = {
    "feeling": FEELINGS,
    "reaction": FEELINGS,
    "action": ACTIONS,
    "reason": REASONS,
}

# The other one sees the event from the other side: what the person gains, the other one loses.
_OTHER_SIDE = (1.0, -1.0, 1.0, 0.5, 1.0, 0.0)
_SAME_SIDE = (1.0,) * 6
# Standard deviations of the two parts of the logits: large enough that an answer can be told, small enough that it
# cannot be known. Chosen so that three choices leave an error rate of about 0.2.
EVENT_SCALE = 1.9
NATURE_SCALE = 1.4


@dataclass(frozen=True, slots=True)
class Conditional:
    """P(outcome | event, nature) of one kind of question; the nature is the person's trait or the other's relation."""

    outcomes: tuple[str, ...]
    log_probabilities: tuple[tuple[tuple[float, ...], ...], ...]
    """(events, natures, outcomes), nats, normalised over the outcomes."""
    marginal: tuple[float, ...]
    """(outcomes,) P(outcome) when nothing is known: the mean over events and natures, which are uniform."""


@cache
def conditional(kind: Kind) -> Conditional:
    """The conditional of a kind: softmax over the outcomes of 1.9 · event part + 1.4 · nature part.

    Each part is the table of inner products of the hand-written places, divided by its standard deviation.
    """
    outcomes = OUTCOMES[kind]
    about_other = kind == "reaction"  # the other one's feelings depend on who that is, not on the person's trait
    event_part = _affinities(EVENTS.values(), outcomes.values(), _OTHER_SIDE if about_other else _SAME_SIDE)
    nature_part = _affinities((RELATIONS if about_other else TRAITS).values(), outcomes.values(), _SAME_SIDE)
    rows = tuple(
        tuple(
            _log_softmax([EVENT_SCALE * e + NATURE_SCALE * n for e, n in zip(event, nature, strict=True)])
            for nature in nature_part
        )
        for event in event_part
    )
    columns = zip(*(row for event in rows for row in event), strict=True)
    return Conditional(tuple(outcomes), rows, tuple(fmean(map(math.exp, column)) for column in columns))


def _affinities(things: Iterable[Place], outcomes: Iterable[Place], side: tuple[float, ...]) -> list[list[float]]:
    """(things, outcomes) inner products, divided by their standard deviation."""
    places = list(outcomes)
    table = [[math.fsum(s * a * b for s, a, b in zip(side, x, y, strict=True)) for y in places] for x in things]
    deviation = pstdev(value for row in table for value in row)
    return [[value / deviation for value in row] for row in table]


def _log_softmax(logits: list[float]) -> tuple[float, ...]:
    peak = max(logits)  # so that no exponential overflows
    log_norm = peak + math.log(math.fsum(math.exp(value - peak) for value in logits))
    return tuple(value - log_norm for value in logits)
