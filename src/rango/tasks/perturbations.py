"""Changed instances: the same questions with their options in another order, under other names, one more or one fewer.

    instances ── variants_of ──> Variant: changed instances ── a model ──> posteriors ── put_back ──> columns as before

`orders_of` also says in which orders posteriors are averaged (`rango evaluate --orders`).
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from rango.errors import InputError
from rango.files import read_text
from rango.options import Form
from rango.tasks.task import Instance, Prompt, Task, Templates, named, truth_of

if TYPE_CHECKING:
    from rango.decisions.instances import QuestionType
    from rango.decisions.posteriors import Posteriors

Change: TypeAlias = Literal["permute", "rename", "distract", "remove", "reword"]
CHANGES: tuple[Change, ...] = get_args(Change)

NONE_OF_THESE = "none of these"
"""The option that stands in the place of the right one."""

NAMES = {"numbers": "123456789", "neutral": "XYZWVUTSRQPONMLKJIHGFEDCBA"}
"""Other names of the options than A, B, C: numbers of one digit, and letters that no list begins with."""

WORDINGS = (
    "Which answer fits best? {question}",
    "{question} Choose the most plausible answer.",
    "Think about the situation, then answer. {question}",
)
"""Wordings of a question where none are given."""

Order: TypeAlias = tuple[int, ...]
"""The choice that stands at each place: (2, 0, 1) shows the third choice first."""
Words: TypeAlias = Callable[[Instance, Form], Prompt]


@dataclass(frozen=True, eq=False)
class Variant:
    """One change of many instances."""

    name: str
    """Of its file: permute-1, rename-numbers, …"""
    change: str
    """What its results stand under: permute, rename-numbers, distract, remove, remove-none, reword."""
    instances: tuple[Instance, ...]
    """As they are asked, with the ids of the originals."""
    originals: tuple[Instance, ...]
    """What they were made of; all instances, but for those that cannot be changed in this way."""
    orders: tuple[Order, ...]
    """The choice of the original at each place; the number of its choices for an option that is not its own."""
    words: Words | None = None
    """Writes the prompts, where the task's own words do not."""

    def task(self, task: Task) -> Task:
        """The task that puts these instances into words."""
        return task if self.words is None else replace(task, write_prompt=self.words)

    def put_back(self, posteriors: Posteriors) -> Posteriors:
        """Posteriors of the changed instances (N, places) in the columns of the originals."""
        return put_back(posteriors, self.orders, self.originals)


def orders_of(instance: Instance, count: int, *, seed: int) -> list[Order]:
    """At most `count` different orders of the choices of an instance, the one that it has first.

    They come in rounds of K rotations: after a whole round every choice has stood at every place once, so that a model
    that answers by the place alone is averaged to equal shares. A smaller number is the beginning of a larger one; K!
    or more are all orders.

    >>> two = Instance("7", "Sam ran.", "Why?", ("to win", "to lose"), 0, "g")
    >>> orders_of(two, 5, seed=0)
    [(0, 1), (1, 0)]
    """
    n_choices = len(instance.choices)
    wanted, chance = min(count, math.factorial(n_choices)), _chance(seed, "orders", instance.id)
    first = tuple(range(n_choices))
    orders: dict[Order, None] = {}
    while len(orders) < wanted:
        if first not in orders:
            shifts = (0, *chance.sample(range(1, n_choices), n_choices - 1))
            orders |= dict.fromkeys(first[shift:] + first[:shift] for shift in shifts)
        first = tuple(chance.sample(range(n_choices), n_choices))
    return list(orders)[:wanted]


def permuted(instance: Instance, order: Order) -> Instance:
    """The instance with its choices in another order."""
    true, shares = instance.log_posterior, instance.target
    # Levels in another order are none: an endpoint would be told that the scale is another one.
    scrambled = instance.type == "score" and order != tuple(range(len(order)))
    return replace(
        instance,
        type="choice" if scrambled else instance.type,
        choices=tuple(instance.choices[choice] for choice in order),
        label=None if instance.label is None else order.index(instance.label),
        log_posterior=None if true is None else tuple(true[choice] for choice in order),
        target=None if shares is None else tuple(shares[choice] for choice in order),
        prompt=None,
    )


def put_back(posteriors: Posteriors, orders: Sequence[Order], originals: Sequence[Instance]) -> Posteriors:
    """Posteriors of changed instances with column k for choice k of the original, -inf where it was not offered.

    Labels are those of the originals; there are none where the right choice of some instance was not offered.

    Args:
        posteriors: (N, places), of the changed instances.
        orders: (N,) the choice that stood at each place.
        originals: (N,) the instances before the change.
    """
    import numpy as np  # here: the command line imports this file for its names alone

    from rango.decisions.posteriors import Posteriors

    width = max(max(len(original.choices), 1 + max(order)) for original, order in zip(originals, orders, strict=True))
    logs = np.full((len(originals), width), -np.inf)  # (N, K)
    choices: list[tuple[str, ...]] = []
    types: list[QuestionType] = []
    for row, (original, order) in enumerate(zip(originals, orders, strict=True)):
        logs[row, list(order)] = posteriors.log_posteriors[row, : len(order)]
        # What was offered in a choice's place, or beside the choices, has that column.
        offered = dict(zip(order, posteriors.choices[row], strict=True)) if posteriors.choices is not None else {}
        texts = {**dict(enumerate(original.choices)), **offered}
        choices.append(tuple(texts[column] for column in sorted(texts)))
        # Levels that are back in their order are a scale again, unless one of them is another.
        types.append(original.type if choices[-1] == original.choices else "choice")
    known = all(
        original.target is not None or original.label in order
        for original, order in zip(originals, orders, strict=True)
    )
    return Posteriors(
        logs,
        truth_of(originals) if known else None,
        ids=tuple(original.id for original in originals),
        groups=tuple(original.group for original in originals),
        choices=choices,
        types=types,
    )


def check_orders(orders: int, form: Form) -> None:
    """Raise InputError where posteriors are to be averaged over orders that no prompt shows."""
    if orders > 1 and form == "cloze":
        raise InputError(
            f"orders is {orders}, but the cloze form lists no options whose order could matter; use --form letter, or "
            "leave orders out"
        )


def variants_of(
    task: Task,
    instances: Sequence[Instance],
    *,
    changes: Iterable[Change] | None,
    lists_options: bool,
    names_options: bool,
    orders: int,
    wordings: Sequence[str] | None = None,
    pool: Sequence[Instance] = (),
    seed: int = 0,
) -> tuple[list[Variant], list[str]]:
    """The changes of instances that are probed.

    Args:
        task: whose words ask the instances.
        instances: with labels.
        changes: names from CHANGES; None for all that are possible.
        lists_options: whether what is asked lists the options: the letter form, and endpoints that get them as a list.
        names_options: whether the task's words name them, and the names can be others: the letter form of a model.
        orders: how many other orders.
        wordings: templates over {question} and {context}; WORDINGS when absent.
        pool: instances that irrelevant options are taken from; the instances themselves when empty.
        seed: of the orders and of the irrelevant options.

    Returns:
        The variants, and a sentence for each change that is not possible.

    Raises:
        InputError: a change that is named and not possible.
    """
    makers: dict[Change, Callable[[], list[Variant]]] = {
        "permute": lambda: _permute(instances, lists_options=lists_options, orders=orders, seed=seed),
        "rename": lambda: _rename(task, instances, names_options=names_options),
        "distract": lambda: _distract(instances, pool or instances, seed=seed),
        "remove": lambda: _remove(instances),
        "reword": lambda: _reword(instances, wordings or WORDINGS),
    }
    variants, notes = [], []
    for change in CHANGES if changes is None else dict.fromkeys(changes):
        try:
            variants += makers[change]()
        except InputError as error:
            # What a file of wordings says wrong is no property of the task.
            if changes is not None or (change == "reword" and wordings):
                raise
            notes.append(f"{error}; left out")
    return variants, notes


def _permute(instances: Sequence[Instance], *, lists_options: bool, orders: int, seed: int) -> list[Variant]:
    if not lists_options:
        raise InputError("permute: the cloze form lists no options whose order could matter")
    every = [orders_of(instance, orders + 1, seed=seed) for instance in instances]
    variants = []
    # Instances of few choices have fewer orders than others, and are not part of the last variants.
    for number in range(1, max(map(len, every))):
        pairs = [(one, own[number]) for one, own in zip(instances, every, strict=True) if number < len(own)]
        originals, changed = zip(*((one, permuted(one, order)) for one, order in pairs), strict=True)
        own_orders = tuple(order for _, order in pairs)
        variants.append(Variant(f"permute-{number}", "permute", changed, originals, own_orders))
    return variants


def _rename(task: Task, instances: Sequence[Instance], *, names_options: bool) -> list[Variant]:
    words = task.write_prompt
    if not names_options:
        raise InputError("rename: the cloze form has no names of options, and those of an endpoint are fixed")
    if not isinstance(words, Templates):
        raise InputError(f"rename: the prompts of {task.name} are not written by templates with names")
    orders = tuple(tuple(range(len(instance.choices))) for instance in instances)
    most = max(map(len, orders))
    variants = []
    for kind, names in NAMES.items():
        # Of two digits, the first would be the beginning of another name.
        if most <= len(names):
            renamed = _InLetterForm(replace(words, names=names))
            name = f"rename-{kind}"
            variants.append(Variant(name, name, tuple(instances), tuple(instances), orders, words=renamed))
    return variants


@dataclass(frozen=True)
class _InLetterForm:
    """Lists the options under their names in any form: a name may be several tokens, which the letter form refuses."""

    words: Templates

    def __call__(self, instance: Instance, form: Form) -> Prompt:  # noqa: ARG002 - as `Task.write_prompt` is called
        return self.words(instance, "letter")


def _distract(instances: Sequence[Instance], pool: Sequence[Instance], *, seed: int) -> list[Variant]:
    """One more option, the last one: an answer to another question, so that no other option changes its place."""
    answers = [(other.group, choice) for other in pool for choice in other.choices]
    changed, orders = [], []
    for instance in instances:
        own = {_plain(choice) for choice in instance.choices}
        start = _chance(seed, "distract", instance.id).randrange(len(answers))
        others = (
            choice
            for group, choice in (*answers[start:], *answers[:start])
            if group != instance.group and _plain(choice) not in own
        )
        irrelevant = next(others, None)
        if irrelevant is None:
            raise InputError(f"distract: {named(instance)} has every option that another instance has")
        more = (*instance.choices, irrelevant)
        changed.append(replace(instance, choices=more, log_posterior=None, prompt=None, type="choice"))
        orders.append(tuple(range(len(more))))
    return [Variant("distract", "distract", tuple(changed), tuple(instances), tuple(orders))]


def _remove(instances: Sequence[Instance]) -> list[Variant]:
    """The right option removed: "none of these" in its place, and nothing."""
    rejecting, orders = [], []
    for instance in instances:
        if NONE_OF_THESE in map(_plain, instance.choices):
            raise InputError(f"remove: {named(instance)} offers {NONE_OF_THESE!r} already")
        offered = list(instance.choices)
        offered[instance.answer] = NONE_OF_THESE
        rejecting.append(replace(instance, choices=tuple(offered), log_posterior=None, prompt=None, type="choice"))
        orders.append(tuple(range(len(offered))))
    variants = [Variant("remove-none", "remove-none", tuple(rejecting), tuple(instances), tuple(orders))]
    # One option alone is no question.
    several = [instance for instance in instances if len(instance.choices) > 2]
    wrong = [tuple(k for k in range(len(one.choices)) if k != one.answer) for one in several]
    bare = tuple(
        replace(
            one,
            choices=tuple(one.choices[k] for k in order),
            label=None,
            log_posterior=None,
            prompt=None,
            type="choice",
        )
        for one, order in zip(several, wrong, strict=True)
    )
    return [*variants, *([Variant("remove", "remove", bare, tuple(several), tuple(wrong))] if several else [])]


def _reword(instances: Sequence[Instance], wordings: Sequence[str]) -> list[Variant]:
    """Other words around the question; around the whole prompt where instances have no question of their own."""
    asks = all(instance.question.strip() for instance in instances)
    place = "{question}" if asks else "{context}"
    variants = []
    for number, wording in enumerate(wordings, start=1):
        if place not in wording:
            what = "the instances have a question" if asks else "the instances have no question beside their context"
            raise InputError(f"reword: the wording {wording!r} lacks {place}; {what}")
        texts = [_worded(wording, instance) for instance in instances]
        changed = tuple(
            replace(one, question=text, prompt=None) if asks else replace(one, context=text, prompt=None)
            for one, text in zip(instances, texts, strict=True)
        )
        orders = tuple(tuple(range(len(instance.choices))) for instance in instances)
        variants.append(Variant(f"reword-{number}", "reword", changed, tuple(instances), orders))
    return variants


def _worded(wording: str, instance: Instance) -> str:
    places = {"{question}": instance.question.strip(), "{context}": instance.context.strip()}
    # In one pass: braces in an instance's own text are no places.
    return re.sub(r"\{question\}|\{context\}", lambda match: places[match[0]], wording)


def read_wordings(path: Path) -> tuple[str, ...]:
    """The wordings of a file, one on a line; blank lines count for nothing.

    Raises:
        InputError: an empty file, a wording twice, a line without a place, or with one that no wording has.
    """
    lines: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        wording = line.strip()
        if not wording:
            continue
        places = re.findall(r"\{[^{}]*\}", wording)
        if odd := [place for place in places if place not in ("{question}", "{context}")]:
            raise InputError(f"{path}:{number}: {odd[0]} is no place of a wording; use {{question}} and {{context}}")
        if not places:
            raise InputError(f"{path}:{number}: the wording has no place for the question; write {{question}}")
        if wording in lines:
            raise InputError(f"{path}:{number}: the wording stands on line {lines[wording]} already; leave one out")
        lines[wording] = number
    return tuple(lines)


def _plain(text: str) -> str:
    """A text as it is compared with others: without case and outer or double spaces."""
    return " ".join(text.split()).casefold()


def _chance(seed: int, kind: str, name: str) -> random.Random:
    """A stream of its own for each instance and purpose, which neither other instances nor their number change."""
    return random.Random(hashlib.sha256(f"{seed}\0{kind}\0{name}".encode()).digest())
