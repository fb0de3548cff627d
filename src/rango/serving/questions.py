"""What a question becomes: an instance in the words of a run, and whether it is the run's own question

A run's calibrator was fitted on its own task, and its costs are those of its own choices. So they are used for a
question only where it is that task: the same labels, asked of a state and in words as in training. Everything else is
answered too, in the same style of words and uncalibrated, and the answer says why.

No file before this one knows of HTTP, and this one needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rango.errors import InputError
from rango.options import Form
from rango.serving.wire import ChoiceQuestion, NoulQuestion, Question, ScoreQuestion, as_text
from rango.tasks import Instance
from rango.tasks.sources import Row
from rango.tasks.table import further_instances
from rango.tasks.table_config import TableConfig
from rango.tasks.task import LETTERS, Templates, context_group

_YES_NO = (("yes", "no"), ("true", "false"))


@dataclass(frozen=True, eq=False)
class TrainedTask:
    """What a run was trained to answer."""

    words: Templates
    form: Form
    classes: tuple[str, ...] | None
    """The choices of every instance; None where each has its own."""
    n_choices: int
    """The most choices of any instance."""
    table: TableConfig | None = None
    foreign: str | None = None
    """Why no question is the run's own, such as words that only another program writes."""
    yes_no: tuple[str, ...] | None = None
    """The two choices of its yes-or-no questions in their order, where all of them have the same."""

    @property
    def asks_question(self) -> bool:
        """Whether its words have a place for a question, so that instances differ in it."""
        return "{question}" in self.words.letter


@dataclass(frozen=True, eq=False)
class Prepared:
    """One question, ready to be scored."""

    question: Question
    instance: Instance | None
    """None where there is one answer alone: nothing is to be scored then."""
    form: Form
    names: tuple[str, ...]
    """What the answer calls each choice of the instance: its label, true and false, or the number of the level."""
    foreign: str | None
    """Why it is not the run's own question, in words; None where it is."""


def ask(name: str, question: Question, *, state: Any, task: TrainedTask) -> Prepared:
    """Put one question about a state into the words of a run.

    Raises:
        InputError: state and question are blank.
    """
    texts, descriptions, names = _options(question, task)
    instructions = "" if question.instructions is None else as_text(question.instructions).strip()
    context, foreign = _context(state, task)
    # What the prompt of a table says already, a client may say again: a yes-or-no question cannot be sent without.
    said = task.table is not None and instructions in task.table.prompt
    foreign = foreign or _foreign(question, texts, descriptions, "" if said else instructions, task)
    if foreign is None:
        instructions = "" if said else instructions
        # Letters are given out in the order of training; the answer has that of the request.
        places = [texts.index(text) for text in task.classes or texts]
        texts, names = tuple(texts[place] for place in places), tuple(names[place] for place in places)
    else:
        context = as_text(state) if task.table is not None else context
    # 26 letters are as many as the letter form has.
    form: Form = "cloze" if len(texts) > len(LETTERS) else task.form
    described = any(descriptions) or isinstance(question, ScoreQuestion)
    if foreign is not None and described and form == "letter":
        texts = tuple(
            f"{text}: {description}" if description else text
            for text, description in zip(texts, descriptions, strict=True)
        )
    elif foreign is not None and described:
        # Long descriptions would be improbable continuations: they are listed, and the answer is their name.
        if isinstance(question, ScoreQuestion):
            texts, descriptions = names, texts
        lines = (f"{text}: {about}" if about else text for text, about in zip(texts, descriptions, strict=True))
        instructions = "\n".join(filter(None, (instructions, *lines)))
    if instructions and not task.asks_question:
        context, instructions = f"{context}\n{instructions}" if context.strip() else instructions, ""
    if len(texts) < 2:
        return Prepared(question, None, form, names, foreign or "there is one answer alone")
    instance = Instance(
        id=f"question {name}",
        context=context,
        question=instructions,
        choices=texts,
        label=None,
        group=context_group(context),
    )
    return Prepared(question, instance, form, names, foreign)


def _options(question: Question, task: TrainedTask) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The choices as texts, what they mean (blank where that is not said), and what the answer calls them."""
    if isinstance(question, ChoiceQuestion):
        labels = tuple(question.criteria)
        about = tuple("" if text is None else as_text(text).strip() for text in question.criteria.values())
        return tuple(label.strip() for label in labels), about, labels
    if isinstance(question, ScoreQuestion):
        levels = tuple(as_text(level).strip() for level in question.criteria)
        return levels, ("",) * len(levels), tuple(map(str, range(len(levels))))
    assert isinstance(question, NoulQuestion)
    criteria = question.criteria
    about = tuple(
        "" if text is None else as_text(text).strip()
        for text in ((None, None) if criteria is None else (criteria.true, criteria.false))
    )
    # A run whose classes are yes and no, in whatever order and spelling, is asked in its own.
    for yes, no in _YES_NO:
        own = task.classes or task.yes_no or ()
        known = {label.casefold(): label for label in own}
        if len(known) == 2 and known.keys() == {yes, no}:
            # What only repeats the label describes nothing: `rango evaluate` says with it which answer is yes.
            about = tuple("" if text in known else text for text in about)
            order = {"true": (known[yes], about[0]), "false": (known[no], about[1])}
            names = tuple("true" if label == known[yes] else "false" for label in own)
            return tuple(order[name][0] for name in names), tuple(order[name][1] for name in names), names
    return _YES_NO[0], about, ("true", "false")


def _context(state: Any, task: TrainedTask) -> tuple[str, str | None]:
    """The text of a state, and why it is none that the run was trained on."""
    if task.table is None:
        return as_text(state), None if isinstance(state, str) else "the run was trained on plain texts"
    prompt = stated_prompt(task.table, state)
    if prompt is None:
        return as_text(state), f"the state does not have what the run's prompt names ({task.table.prompt!r})"
    return prompt, None


def _foreign(
    question: Question, texts: Sequence[str], descriptions: Sequence[str], instructions: str, task: TrainedTask
) -> str | None:
    """Why a question is not the run's own, apart from its state."""
    if task.foreign is not None:
        return task.foreign
    if task.classes is not None and set(texts) != set(task.classes):
        shown = ", ".join(task.classes[:5]) + (", …" if len(task.classes) > 5 else "")
        return f"the run was trained on the labels {shown}"
    if task.classes is None and len(texts) != task.n_choices and tuple(texts) != task.yes_no:
        return f"the run was trained on {task.n_choices} choices"
    if isinstance(question, ScoreQuestion) and task.classes is not None and tuple(texts) != task.classes:
        return f"the run was trained on the levels in the order {', '.join(task.classes)}"
    if any(descriptions):
        return "the run was trained on labels without descriptions"
    if task.asks_question and not instructions:
        return "the run was trained on states with a question"
    if instructions and not task.asks_question:
        return "the run was trained on states without instructions"
    return None


def stated_prompt(config: TableConfig, state: Any) -> str | None:
    """The prompt that a state means: the columns of an object filled in, or a text; None where it is neither.

    A text that has the form of the prompt is taken as it is. Otherwise it is what the prompt's only column holds.

    >>> config = TableConfig(prompt="Ticket: {text}\\nTopic:", choices=("bill", "bug"), label="topic")
    >>> stated_prompt(config, "It crashes.") == stated_prompt(config, {"text": "It crashes."})
    True
    """
    pieces = re.split(r"\{([^{}]*)\}", config.prompt.strip())  # what stands between columns, and columns, in turn
    if isinstance(state, str):
        # Doubled braces are braces, which this pattern does not know.
        if "{{" in config.prompt:
            return None
        if re.fullmatch("(.+)".join(map(re.escape, pieces[::2])), state.strip(), re.DOTALL):
            return state.strip()
        columns = set(pieces[1::2])
        state = dict.fromkeys(columns, state) if len(columns) == 1 else {}
    if not isinstance(state, dict):
        return None
    # Only the prompt is wanted: what else a row has, its label too, may be missing here or be wrong.
    plain = config.model_copy(update={"choices": _YES_NO[0]})
    row = Row(1, "state", {name: value for name, value in state.items() if name != config.label})
    try:
        (instance,) = further_instances(plain, [row], source=Path("state"))
    except InputError:
        return None
    return instance.context
