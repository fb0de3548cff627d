"""A task: instances in three splits, and the words that they are put into."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from rango.errors import InputError, unknown_name
from rango.files import fingerprint
from rango.options import SPLITS, Form, Split, TaskOptions
from rango.showing import Grid, Shown, count

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rango.decisions.instances import QuestionType
    from rango.decisions.posteriors import Posteriors

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SEPARATOR = "\n\n"
"""After each shot: a blank line, which ends one text before the next, and which tokenizers do not join to a word."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One question with K choices; `label` is the number of the right one, from 0, or None where it is not known.

    Raises:
        InputError: a blank context, fewer than two choices, a blank choice, a label outside 0..K-1, or a true
            log-posterior of another length than the choices.
    """

    id: str
    context: str
    question: str
    choices: tuple[str, ...]
    label: int | None
    group: str
    """Instances that share a context share a group."""
    log_posterior: tuple[float, ...] | None = None
    """(K,) The true log-posterior over the choices in nats, where the sampling distribution is known."""
    fields: Mapping[str, str] | None = field(default=None, hash=False)
    """What else is known of the instance, such as HellaSwag's domain."""
    prompt: Prompt | None = field(default=None, compare=False)
    """Its words, where they are those of another program; the task's templates write them when absent."""
    where: str = field(default="", compare=False)
    """File and line that it was read from, for messages; empty where it was made."""
    target: tuple[float, ...] | None = None
    """(K,) soft labels: the share of each choice, such as of annotators, which sum to one; then there is no `label`."""
    type: QuestionType = "choice"
    """What the choices are: names without an order (choice), no and yes (yes_no), or levels from the lowest (score)."""

    def __post_init__(self) -> None:
        n_choices = len(self.choices)
        if n_choices < 2:
            raise InputError(f"instance {self.id!r}: {count(n_choices, 'choice')}; expected at least 2")
        for number, choice in enumerate(self.choices):
            if not choice.strip():
                raise InputError(f"instance {self.id!r}: choice {number} is blank; give it words")
        if self.label is not None and not 0 <= self.label < n_choices:
            raise InputError(
                f"instance {self.id!r}: label is {self.label} but there are {n_choices} choices "
                f"(valid: 0..{n_choices - 1})"
            )
        if not (self.context.strip() or self.question.strip()):
            raise InputError(f"instance {self.id!r}: context and question are blank; give at least one of them words")
        if self.log_posterior is not None and len(self.log_posterior) != n_choices:
            raise InputError(
                f"instance {self.id!r}: log_posterior has {len(self.log_posterior)} values; expected one for each of "
                f"the {n_choices} choices"
            )
        if self.type == "yes_no" and n_choices != 2:
            raise InputError(f"instance {self.id!r}: {n_choices} choices; expected 2, as its type is yes_no")
        if self.target is not None:
            self._check_target(self.target)

    def _check_target(self, target: tuple[float, ...]) -> None:
        if self.label is not None:
            raise InputError(f"instance {self.id!r}: label and target are both given; keep one")
        if len(target) != len(self.choices) or not all(0 <= share <= 1 for share in target):
            raise InputError(
                f"instance {self.id!r}: target is {list(target)}; expected a share from 0 to 1 for each of the "
                f"{len(self.choices)} choices"
            )
        if abs(math.fsum(target) - 1) > 1e-6:
            raise InputError(f"instance {self.id!r}: target sums to {math.fsum(target):.6g}; expected 1")

    @property
    def answer(self) -> int:
        """The label, for whatever cannot do without.

        Raises:
            InputError: the instance has no label, or soft labels.
        """
        if self.target is not None:
            raise InputError(f"{named(self)} has soft labels, where one right choice is needed")
        if self.label is None:
            raise InputError(f"{named(self)} has no label; give the right choice")
        return self.label

    @property
    def is_labelled(self) -> bool:
        """Whether it is known what is right: one choice, or a share of each."""
        return self.label is not None or self.target is not None


def named(instance: Instance) -> str:
    """How messages name an instance: file and line where it has them, and its id."""
    return f"{instance.where}: instance {instance.id!r}" if instance.where else f"instance {instance.id!r}"


def unlabelled(instances: Sequence[Instance]) -> bool:
    """Whether the instances have no labels: a split has them for all of its instances or for none."""
    return not any(instance.is_labelled for instance in instances) if instances else False


def posteriors_of(instances: Sequence[Instance], scores: NDArray[np.float64]) -> Posteriors:
    """Log-softmax of scores (N, K) in nats, with the instances' labels, ids, groups and choices.

    Raises:
        InputError: an instance all of whose scores are -inf.
    """

    from rango.decisions.posteriors import Posteriors

    return Posteriors.from_scores(
        scores,
        None if unlabelled(instances) else truth_of(instances),
        ids=tuple(instance.id for instance in instances),
        groups=tuple(instance.group for instance in instances),
        choices=tuple(instance.choices for instance in instances),
        types=tuple(instance.type for instance in instances),
    )


def truth_of(instances: Sequence[Instance]) -> NDArray[np.int64] | NDArray[np.float64]:
    """The labels of instances (N,), or their targets (N, K) where some have soft labels.

    Raises:
        InputError: an instance without a label.
    """
    import numpy as np

    if all(instance.target is None for instance in instances):
        return np.array([instance.answer for instance in instances])
    targets = np.zeros((len(instances), max(len(instance.choices) for instance in instances)))
    for row, instance in zip(targets, instances, strict=True):
        if instance.target is None:
            row[instance.answer] = 1.0
        else:
            row[: len(instance.target)] = instance.target
    return targets


def context_group(context: str) -> str:
    """The group of a context: a hash of its words, blind to case and white space.

    >>> context_group("Sam  ran home.") == context_group("sam ran home. ")
    True
    """
    return fingerprint(" ".join(context.split()).casefold())


@dataclass(frozen=True, slots=True)
class Prompt:
    """An instance in words: the trunk, which ends without white space, and branches, each beginning with its space.

    The space belongs to the branch because tokenizers with a byte-level or SentencePiece vocabulary hold " word" as
    one token: a trunk that ends in a space would split the pair where no training text does.
    """

    trunk: str
    branches: tuple[str, ...]
    characters: tuple[int, ...] | None = None
    """What scores by character are divided by; the lengths of the branches without outer spaces when absent."""


@dataclass(frozen=True, slots=True)
class Templates:
    """A task's prompts, each form written once, over {context}, {question} and, in the letter form, {choices}."""

    letter: str
    cloze: str
    names: str = LETTERS
    """What the options are called in the letter form, a character each."""

    def __call__(self, instance: Instance, form: Form) -> Prompt:
        """The instance in words.

        Raises:
            InputError: the letter form of an instance with more choices than there are names, 26.
        """
        if form == "cloze":
            trunk = self.cloze.format(context=instance.context, question=instance.question)
            return Prompt(trunk.strip(), tuple(f" {choice.strip()}" for choice in instance.choices))
        count = len(instance.choices)
        if count > len(self.names):
            most = len(self.names)
            raise InputError(f"{named(instance)}: {count} choices; the letter form has {most}, use the cloze form")
        letters = self.names[:count]
        listed = "\n".join(f"{a}. {choice.strip()}" for a, choice in zip(letters, instance.choices, strict=True))
        trunk = self.letter.format(context=instance.context, question=instance.question, choices=listed)
        return Prompt(trunk.strip(), tuple(f" {letter}" for letter in letters))


@dataclass(frozen=True, eq=False, repr=False)
class Task(Shown):
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
    """What a user should know: instances asked for that do not exist, contexts dropped."""
    options: TaskOptions = field(default_factory=TaskOptions)
    rest: tuple[Instance, ...] = ()
    """Train-side instances in none of the splits, no context of which occurs in any split: text to pre-train on."""
    shots: tuple[Instance, ...] = ()
    """Instances that stand answered before every prompt, see `few_shot`; in none of the splits."""
    table: Mapping[str, Any] | None = None
    """How rows become instances, where the task is a table: the keys of its task.yaml."""

    def _facts(self) -> Iterator[str]:
        yield repr(self.name)
        sizes = {name: len(self.split(name)) for name in SPLITS}
        yield from (f"{size:,} {name}" for name, size in sizes.items() if size)
        if any(sizes.values()):
            yield count(self.n_choices, "choice") if self.classes is None else ", ".join(self.classes)
        yield f"{self.default_form} form"

    def _grid(self) -> Grid | None:
        """How often each class is right in each split, or each place where choices are the instances' own."""
        kept = {name: split for name in SPLITS if (split := self.split(name)) and split[0].label is not None}
        if not kept:
            return None
        counts = [Counter(instance.label for instance in split) for split in kept.values()]
        names = self.classes or [f"choice {place}" for place in range(self.n_choices)]
        rows = [[name, *(f"{split[place]:,}" for split in counts)] for place, name in enumerate(names)]
        return Grid(["right answer", *kept], rows)

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
        # A shot is what the model would have read had it answered rightly: the trunk and the right branch.
        answered = [(self.write_prompt(shot, form), shot.answer) for shot in self.shots]
        before = "".join(words.trunk + words.branches[label] + SEPARATOR for words, label in answered)
        return replace(prompt, trunk=before + prompt.trunk)

    @cached_property
    def n_choices(self) -> int:
        """K: the largest number of choices of any instance."""
        return max(len(instance.choices) for split in SPLITS for instance in self.split(split))

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        """The choices, where all instances have the same ones in the same order; None where choices are their own."""
        kinds = {instance.choices for split in SPLITS for instance in self.split(split)}
        return next(iter(kinds)) if len(kinds) == 1 else None

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of the contents of the three splits: what is asked and what is right, in order."""
        return self.fingerprint_of(*SPLITS)

    def fingerprint_of(self, *splits: Split) -> str:
        """A short hash of the contents of the given splits."""
        parts: list[str] = []
        for split in splits:
            contents = ((i.id, i.context, i.question, i.choices, i.label, i.group) for i in self.split(split))
            parts += [split, *map(repr, contents)]
            # Only where there are any, so that plain instances keep the hash that runs have written down.
            typed = ((i.id, i.type, i.target) for i in self.split(split) if i.type != "choice" or i.target is not None)
            parts += map(repr, typed)
        return fingerprint(*parts)


def task_text(task: Task, split: Literal["train", "validation", "test", "rest"]) -> Iterator[str]:
    """Plain text of a split, one line an instance: the cloze trunk and the right branch; for pre-training.

    Raises:
        InputError: an unknown split.
    """
    for instance in task.rest if split == "rest" else task.split(split):
        prompt = task.prompt(instance, "cloze")
        yield " ".join((prompt.trunk + prompt.branches[instance.answer]).split())


def show(task: Task, n: int, *, split: Split | None = None) -> str:
    """The prompts of the first `n` instances of a split in both forms, as the model gets them.

    `*` marks the answer; where labels are soft, each choice has its share.

    The split is the first that has instances, unless one is given.
    A branch is shown in quotation marks, because the space it begins with is part of it.
    """
    sizes = ", ".join(f"{name} {len(task.split(name)):,}" for name in SPLITS)
    lines = [f"{task.name}: {sizes}; {task.n_choices} choices; default form {task.default_form}"]
    lines += [f"note: {note}" for note in task.notes]
    chosen: Split = next((name for name in SPLITS if task.split(name)), "train") if split is None else split
    forms: tuple[Form, ...] = ("cloze",) if task.options.prompt == "lm-eval" else ("letter", "cloze")
    for instance in task.split(chosen)[: max(n, 0)]:
        for form in forms:
            if form == "letter" and len(instance.choices) > len(LETTERS):
                lines += ["", f"--- {chosen} {instance.id}: {len(instance.choices)} choices, too many for letters ---"]
                continue
            prompt = task.prompt(instance, form)
            lines += ["", f"--- {chosen} {instance.id}, {form} form ---", prompt.trunk]
            marks = ["*" if number == instance.label else " " for number in range(len(prompt.branches))]
            if instance.target is not None:
                marks = [f"{share:.2f}" for share in instance.target]
            lines += [f"  {mark} {branch!r}" for mark, branch in zip(marks, prompt.branches, strict=True)]
    return "\n".join(lines)


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
    counts = Counter(instance.answer for instance in drawn)
    labels = sorted({instance.answer for instance in task.train})
    note = (
        f"{count(len(drawn), 'training instance')} answered in every prompt, and no longer in the training split "
        f"(label: how many; {', '.join(f'{label}: {counts[label]}' for label in labels)})"
    )
    note += "; fewer shots than labels" if len(drawn) < len(labels) else ""
    return replace(task, train=kept, shots=drawn, notes=(*task.notes, note))


def draw_shots(train: Sequence[Instance], *, shots: int, seed: int) -> tuple[Instance, ...]:
    """Draw `shots` instances, balanced over the labels: each round takes one of every label, in an order of its own.

    A label is the place of the right answer. So no place (or class, where the choices are the same for all instances)
    is right more than once more often than another, as long as the split has enough of each; a last round that is not
    full holds some labels only. Within a label, instances are drawn in the order of SHA-256(seed, id), as splits are.
    """
    # Each label's instances, the next to be drawn last, so that `pop` takes it.
    waiting: dict[int, list[Instance]] = {}
    for instance in sorted(train, key=lambda instance: _rank(seed, "instance", instance.id), reverse=True):
        waiting.setdefault(instance.answer, []).append(instance)
    # One round after the other. Each round has its own order of labels: a round that is cut short favours none.
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
