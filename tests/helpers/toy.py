"""A small task with branches of different length, for tests of scoring and training."""

from __future__ import annotations

import numpy as np

from rango.options import Form, TaskOptions
from rango.tasks import Instance, Prompt, Task

NAMES = ("Tracy", "Ann", "Bo")
PLACES = ("town", "tea", "the old door")
ANSWERS = ("happy and calm", "go home", "sing", "ask why the fox jumps over it")


def write_prompt(instance: Instance, form: Form) -> Prompt:
    """Letter or cloze words of a toy instance."""
    if form == "cloze":
        return Prompt(
            f"{instance.context} Question: {instance.question} Answer:", tuple(f" {c}" for c in instance.choices)
        )
    letters = "ABCD"[: len(instance.choices)]
    listed = " ".join(f"{letter}. {choice}" for letter, choice in zip(letters, instance.choices, strict=True))
    return Prompt(f"{instance.context} {instance.question} {listed} Answer:", tuple(f" {letter}" for letter in letters))


def toy_instances(count: int, *, seed: int = 0, prefix: str = "") -> tuple[Instance, ...]:
    """Questions whose answer depends on the name, with three or four choices."""
    generator = np.random.default_rng(seed)
    instances = []
    for number in range(count):
        name = int(generator.integers(len(NAMES)))
        wrong = [answer for k, answer in enumerate(ANSWERS) if k != name]
        kept = [ANSWERS[name], *wrong[: int(generator.integers(2, 4))]]
        order = generator.permutation(len(kept))
        context = f"{NAMES[name]} had {PLACES[int(generator.integers(len(PLACES)))]} with Ann" + " again" * int(
            generator.integers(4)
        )
        instances.append(
            Instance(
                id=f"{prefix}{number}",
                context=context + ".",
                question="What will happen next?",
                choices=tuple(kept[k] for k in order),
                label=int(np.flatnonzero(order == 0)[0]),
                group=context,
            )
        )
    return tuple(instances)


def toy_task(*, train: int = 48, validation: int = 16, test: int = 24, form: Form = "cloze") -> Task:
    """The toy task with the given sizes."""
    return Task(
        name="toy",
        train=toy_instances(train, seed=1, prefix="train-"),
        validation=toy_instances(validation, seed=2, prefix="validation-"),
        test=toy_instances(test, seed=3, prefix="test-"),
        write_prompt=write_prompt,
        default_form=form,
        options=TaskOptions(train=train, validation=validation, test=test),
    )


CLASSES = ("happy", "tired", "hungry")


def class_task(*, train: int = 60, validation: int = 30, test: int = 30, noise: float = 0.2) -> Task:
    """Texts of three classes, each with a word of its own and some with another's; every instance has all classes."""
    words = (("smiled", "sang"), ("slept", "yawned"), ("ate", "cooked"))

    def instances(count: int, seed: int, prefix: str) -> tuple[Instance, ...]:
        generator = np.random.default_rng(seed)
        made = []
        for number in range(count):
            label = int(generator.integers(3))
            of = label if generator.random() > noise else int(generator.integers(3))
            word, name = generator.choice(words[of]), generator.choice(NAMES)
            made.append(
                Instance(
                    id=f"{prefix}{number}",
                    context=f"{name} {word} on day {number}.",
                    question="How did it feel?",
                    choices=CLASSES,
                    label=label,
                    group=f"{prefix}{number}",
                )
            )
        return tuple(made)

    return Task(
        name="classes",
        train=instances(train, 1, "train-"),
        validation=instances(validation, 2, "validation-"),
        test=instances(test, 3, "test-"),
        write_prompt=write_prompt,
        default_form="letter",
        options=TaskOptions(train=train, validation=validation, test=test),
    )
