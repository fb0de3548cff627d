"""Few-shot: training instances with their answers before every question."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rango.errors import InputError
from rango.tasks.instance import Instance
from rango.tasks.task import Task


def few_shot(task: Task, *, shots: int, seed: int) -> Task:
    """The task with `shots` of its training instances, answered, before every prompt; the task itself for 0.

    Only training instances are drawn, and those that are leave the training split: a model trained with them in its
    prompt would learn to copy. A smaller number of shots is the beginning of a larger one.

    Raises:
        InputError: more shots than training instances.
    """
    if not shots:
        return task
    if shots > len(task.train):
        raise InputError(
            f"shots is {shots} but the training split has {len(task.train)} instances; ask for fewer shots or for more "
            "training instances"
        )
    drawn = draw_shots(task.train, shots=shots, seed=seed)
    ids = {instance.id for instance in drawn}
    kept = tuple(instance for instance in task.train if instance.id not in ids)
    return replace(task, train=kept, shots=drawn, notes=(*task.notes, _note(task.train, drawn)))


def draw_shots(train: Sequence[Instance], *, shots: int, seed: int) -> tuple[Instance, ...]:
    """Draw `shots` instances, balanced over the labels: each round takes one of every label, in an order of its own.

    A label is the place of the right answer. So no place (or class, where the choices are the same for all instances)
    is right more than once more often than another, as long as the split has enough of each; a last round that is not
    full holds some labels only. Within a label, instances are drawn in the order of SHA-256(seed, id), as splits are.
    """
    waiting: dict[int, list[Instance]] = {}
    for instance in sorted(train, key=lambda instance: _rank(seed, "instance", instance.id), reverse=True):
        waiting.setdefault(instance.label, []).append(instance)
    drawn: list[Instance] = []
    turn = 0
    while len(drawn) < shots and any(waiting.values()):
        for label in sorted(waiting, key=lambda label: _rank(seed, f"round {turn}", str(label))):
            if waiting[label]:
                drawn.append(waiting[label].pop())
        turn += 1
    return tuple(drawn[:shots])


def _rank(seed: int, kind: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0shots\0{kind}\0{name}".encode()).digest()


def _note(train: Sequence[Instance], drawn: Sequence[Instance]) -> str:
    counts = Counter(instance.label for instance in drawn)
    labels = sorted({instance.label for instance in train})
    told = ", ".join(f"{label}: {counts[label]}" for label in labels)
    note = (
        f"{len(drawn)} training instance(s) stand answered in every prompt and leave the training split "
        f"(label: how many; {told})"
    )
    return note if len(drawn) >= len(labels) else f"{note}; fewer shots than labels"
