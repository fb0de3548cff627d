"""Instances whose texts overlap: one continues the other, so a cut between them would give answers away.

HellaSwag takes several instances from one video or article, and the context of one can hold the right ending of
another. Contexts that are equal do not show that; a shared run of words does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rango.tasks.instance import Instance

# Words. In HellaSwag's validation file runs of 8 link 2,400 of 9,799 instances into groups of at most 63; runs of 6 are
# idiom ("is standing in front of a") and link 1,100 into two groups, and runs of 12 miss endings that were shortened.
RUN = 8

_WORD = re.compile(r"\w+")


def group_overlapping(instances: Sequence[Instance]) -> list[Instance]:
    """The instances with one group for all that are linked by shared runs of words, in context and right answer.

    Two instances are linked when they share a run of `RUN` words (case and punctuation ignored), or their context;
    linked ones share the first group name, in alphabetical order, of any of them.
    """
    parent = list(range(len(instances)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    first: dict[int | str, int] = {}
    for number, instance in enumerate(instances):
        keys: list[int | str] = [instance.group, *_runs(f"{instance.context} {instance.choices[instance.label]}")]
        for key in keys:
            one, two = root(first.setdefault(key, number)), root(number)
            parent[max(one, two)] = min(one, two)
    names: dict[int, str] = {}
    for number, instance in enumerate(instances):
        top = root(number)
        names[top] = min(names.get(top, instance.group), instance.group)
    return [replace(instance, group=names[root(number)]) for number, instance in enumerate(instances)]


def _runs(text: str) -> Iterable[int]:
    """A number for each run of `RUN` words; equal runs have equal numbers within one process."""
    words = _WORD.findall(text.casefold())
    return (hash(tuple(words[start : start + RUN])) for start in range(len(words) - RUN + 1))
