"""A task: named instances in three splits and a way to put them into words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rango.config import Config, Seed
from rango.errors import InputError, unknown_name
from rango.files import fingerprint
from rango.tasks.instance import Form, Instance, Prompt

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

SEPARATOR = "\n\n"
"""After each shot: a blank line, which ends one text before the next, and which tokenizers do not join to a word."""

Words = Literal["right", "all"]
"""What HellaSwag's limit of 100 words counts: context and right ending, or context and all four endings."""


class TaskOptions(Config):
    """Which data, and how much of it."""

    data: Path | None = None
    """Folder with the task's files; the Hub when absent."""
    train: Annotated[int, Field(ge=1)] = 5000
    """Training instances: a random subset."""
    validation: Annotated[int, Field(ge=1)] = 300
    """Validation instances: a random subset, carved from the official training split."""
    test: Annotated[int, Field(ge=1)] = 2000
    """Test instances: a random subset of the official validation split."""
    data_seed: Seed = 0
    """Seed of the random subsets."""
    words: Words = "right"
    """HellaSwag keeps instances under 100 words, counting the context and the right ending (right) or all four
    endings (all)."""


@dataclass(frozen=True, eq=False)
class Task:
    """Named instances in three splits, and their prompts.

    Within a split the instances stand in the order in which they were drawn: with the same seed, a smaller split is
    the beginning of a larger one.
    """

    name: str
    """What `load_task` was given: a task's name or the path of a table."""
    train: tuple[Instance, ...]
    validation: tuple[Instance, ...]
    test: tuple[Instance, ...]
    write_prompt: Callable[[Instance, Form], Prompt]
    default_form: Form = "cloze"
    notes: tuple[str, ...] = ()
    """What a user should be told: instances asked for that do not exist, contexts dropped."""
    options: TaskOptions = field(default_factory=TaskOptions)
    rest: tuple[Instance, ...] = ()
    """Train-side instances in none of the splits, no context of which occurs in any split: text to pre-train on."""
    shots: tuple[Instance, ...] = ()
    """Instances that stand answered before every prompt, see `few_shot`; in none of the splits."""

    def split(self, name: str) -> tuple[Instance, ...]:
        """The instances of a split.

        Raises:
            InputError: a name other than train, validation and test.
        """
        if name not in SPLITS:
            raise unknown_name("split", name, SPLITS)
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def prompt(self, instance: Instance, form: Form) -> Prompt:
        """The instance in words, after the shots, if any.

        Raises:
            InputError: the instance is a shot itself: its answer would stand in its own prompt.
        """
        prompt = self.write_prompt(instance, form)
        if not self.shots:
            return prompt
        if any(instance.id == shot.id for shot in self.shots):
            raise InputError(
                f"instance {instance.id!r} stands answered in the prompt as a shot; leave it out or draw other shots"
            )
        answered = [(self.write_prompt(shot, form), shot.label) for shot in self.shots]
        before = "".join(words.trunk + words.branches[label] + SEPARATOR for words, label in answered)
        return Prompt(before + prompt.trunk, prompt.branches)

    @cached_property
    def n_choices(self) -> int:
        """K: the largest number of choices of any instance."""
        return max(len(instance.choices) for split in SPLITS for instance in self.split(split))

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of the contents of the three splits: what is asked and what is right, in order."""
        return self.fingerprint_of(*SPLITS)

    def fingerprint_of(self, *splits: Split) -> str:
        """A short hash of the contents of some splits."""
        return fingerprint(*(part for split in splits for part in (split, *map(_content, self.split(split)))))


def _content(instance: Instance) -> str:
    return repr((instance.id, instance.context, instance.question, instance.choices, instance.label, instance.group))


def task_text(task: Task, split: Literal["train", "validation", "test", "rest"]) -> Iterator[str]:
    """Plain text of a split, one line an instance: the cloze trunk and the right branch; for pre-training.

    Raises:
        InputError: an unknown split.
    """
    for instance in task.rest if split == "rest" else task.split(split):
        prompt = task.prompt(instance, "cloze")
        yield " ".join((prompt.trunk + prompt.branches[instance.label]).split())


def show(task: Task, n: int, *, split: Split = "train") -> str:
    """The prompts of the first `n` instances of a split in both forms, as the model gets them; `*` marks the answer.

    A branch is shown in quotation marks, because the space it begins with is part of it.
    """
    sizes = ", ".join(f"{name} {len(task.split(name)):,}" for name in SPLITS)
    lines = [f"{task.name}: {sizes}; {task.n_choices} choices; default form {task.default_form}"]
    lines += [f"note: {note}" for note in task.notes]
    forms: tuple[Form, ...] = ("letter", "cloze")
    for instance in task.split(split)[: max(n, 0)]:
        for form in forms:
            prompt = task.prompt(instance, form)
            lines += ["", f"--- {split} {instance.id}, {form} form ---", prompt.trunk]
            lines += [
                f"  {'*' if number == instance.label else ' '} {branch!r}"
                for number, branch in enumerate(prompt.branches)
            ]
    return "\n".join(lines)
