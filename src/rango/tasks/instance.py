"""One question: context, question, choices and label; and the words it is put into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from rango.errors import InputError
from rango.files import fingerprint

Form = Literal["letter", "cloze"]
"""letter: the choices are listed and the answer is a letter; cloze: the answer's text continues the prompt."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Instance:
    """One question with K choices; `label` is the number of the right one, from 0.

    Raises:
        InputError: a blank context, fewer than two choices, a blank choice, a label outside 0..K-1, or a true
            log-posterior of another length than the choices.
    """

    id: str
    context: str
    question: str
    choices: tuple[str, ...]
    label: int
    group: str
    """Instances that share a context share a group."""
    log_posterior: tuple[float, ...] | None = None
    """(K,) The true log-posterior over the choices in nats, where the sampling distribution is known."""
    fields: Mapping[str, str] | None = field(default=None, hash=False)
    """What else is known of the instance, such as HellaSwag's domain."""
    where: str = field(default="", compare=False)
    """File and line that it was read from, for messages; empty where it was made."""

    def __post_init__(self) -> None:
        count = len(self.choices)
        if count < 2:
            raise InputError(f"instance {self.id!r}: {count} choice(s); expected at least 2")
        for number, choice in enumerate(self.choices):
            if not choice.strip():
                raise InputError(f"instance {self.id!r}: choice {number} is blank; give it words")
        if not 0 <= self.label < count:
            raise InputError(
                f"instance {self.id!r}: label is {self.label} but there are {count} choices (valid: 0..{count - 1})"
            )
        if not (self.context.strip() or self.question.strip()):
            raise InputError(f"instance {self.id!r}: context and question are blank; give at least one of them words")
        if self.log_posterior is not None and len(self.log_posterior) != count:
            raise InputError(
                f"instance {self.id!r}: log_posterior has {len(self.log_posterior)} values; expected one for each of "
                f"the {count} choices"
            )


def named(instance: Instance) -> str:
    """How messages name an instance: file and line where it has them, and its id."""
    return f"{instance.where}: instance {instance.id!r}" if instance.where else f"instance {instance.id!r}"


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


@dataclass(frozen=True, slots=True)
class Templates:
    """A task's prompts, each form written once, over {context}, {question} and, in the letter form, {choices}."""

    letter: str
    cloze: str

    def __call__(self, instance: Instance, form: Form) -> Prompt:
        """The instance in words.

        Raises:
            InputError: the letter form of an instance with more than 26 choices.
        """
        if form == "cloze":
            trunk = self.cloze.format(context=instance.context, question=instance.question)
            return Prompt(trunk.strip(), tuple(f" {choice.strip()}" for choice in instance.choices))
        count = len(instance.choices)
        if count > len(LETTERS):
            raise InputError(f"{named(instance)}: {count} choices; the letter form has 26, use the cloze form")
        letters = LETTERS[:count]
        listed = "\n".join(f"{a}. {choice.strip()}" for a, choice in zip(letters, instance.choices, strict=True))
        trunk = self.letter.format(context=instance.context, question=instance.question, choices=listed)
        return Prompt(trunk.strip(), tuple(f" {letter}" for letter in letters))
