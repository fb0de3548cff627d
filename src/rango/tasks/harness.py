"""The prompts of lm-evaluation-harness (0.4.13), so that scores here are those that it reports for the same instances.

    acc         the choice of the largest log P(choice | prompt)            --prompt lm-eval
    acc_norm    the same, divided by the choice's number of characters      --prompt lm-eval --normalise characters

    Q: Tracy had tea with Ann. How would Tracy feel afterwards?      Making tea: A woman boils water. She
    A:│ happy and calm                                                │ pours it into a cup.

The texts are put together as the harness does it, letter by letter: `tasks/siqa/siqa.yaml`, `tasks/hellaswag/utils.py`,
and `LM._encode_pair`, which moves white space at the end of a prompt to the beginning of the choice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rango.errors import InputError
from rango.options import Form
from rango.tasks.sources import Row
from rango.tasks.task import Instance, Prompt, named


def ready_made(instance: Instance, form: Form) -> Prompt:
    """The prompt that an instance was read with.

    Raises:
        InputError: the letter form, which the harness does not have for these tasks.
    """
    if form != "cloze":
        raise InputError(f"{named(instance)}: the prompts of lm-eval are of the cloze form; leave --form letter out")
    assert instance.prompt is not None
    return instance.prompt


def socialiqa_prompt(row: Row) -> Prompt:
    """The task `social_iqa` of the harness: `Q: {context} {question}` and `A:` on the next line.

    Raises:
        InputError: a column that is missing.
    """
    context, question, *answers = _texts(row, ("context", "question", "answerA", "answerB", "answerC"))
    return _prompt(f"Q: {context} {question}\nA:", answers)


def hellaswag_prompt(row: Row) -> Prompt:
    """The task `hellaswag` of the harness: the activity, a colon, and the text, whose last sentence gets a capital.

    Raises:
        InputError: a column that is missing.
    """
    activity, beginning, last = _texts(row, ("activity_label", "ctx_a", "ctx_b"))
    # `capitalize` also makes small letters of all others; so does the harness.
    query = _without_brackets(f"{activity}: {beginning} {last.capitalize()}")
    return _prompt(query, [_without_brackets(ending) for ending in row.values["endings"]])


def _texts(row: Row, columns: Sequence[str]) -> list[str]:
    """The columns as they stand in the data: the harness does not strip them.

    Raises:
        InputError: a column that is missing or no text.
    """
    for column in columns:
        if not isinstance(row.values.get(column), str):
            raise InputError(
                f"{row.where}: {column} is missing; --prompt lm-eval needs {', '.join(columns)} as published"
            )
    return [row.values[column] for column in columns]


def _without_brackets(text: str) -> str:
    """The harness's `preprocess`, which treats white space otherwise than `hellaswag.clean`."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _prompt(text: str, choices: Sequence[str]) -> Prompt:
    # A choice's length is that of its own text: neither the space before it counts, nor what the prompt gave up.
    trunk = text.rstrip()
    space = text[len(trunk) :]
    return Prompt(trunk, tuple(f"{space} {choice}" for choice in choices), tuple(len(choice) for choice in choices))
