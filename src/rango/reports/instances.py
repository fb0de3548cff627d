"""Single instances worth a look: where adaptation gained or lost most, and where the model was surest and wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rango.decisions import Posteriors


@dataclass(frozen=True)
class Choice:
    """One choice of an instance: its words, whether it is right, its posterior before and after."""

    text: str
    right: bool
    before: float
    after: float


@dataclass(frozen=True)
class Shown:
    """One instance with its choices."""

    id: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Selection:
    """A few instances under one heading."""

    title: str
    instances: tuple[Shown, ...]


def telling_instances(base: Posteriors, adapted: Posteriors, *, count: int = 3) -> tuple[Selection, ...]:
    """The largest gains and losses of the right choice's posterior, and the surest mistakes; ties in file order.

    Empty where the two files do not hold the same instances with words for their choices.
    """
    if adapted.choices is None or base.ids != adapted.ids or not np.array_equal(base.labels, adapted.labels):
        return ()
    before, after = np.exp(base.log_posteriors), np.exp(adapted.log_posteriors)
    rows = np.arange(len(adapted.labels))
    gain = after[rows, adapted.labels] - before[rows, adapted.labels]
    confidence = after.max(axis=1) * (after.argmax(axis=1) != adapted.labels)

    def shown(row: int) -> Shown:
        words = adapted.choices[row] if adapted.choices else ()
        label = int(adapted.labels[row])
        return Shown(
            adapted.ids[row],
            tuple(
                Choice(text, k == label, float(before[row, k]), float(after[row, k])) for k, text in enumerate(words)
            ),
        )

    def best(title: str, value: np.ndarray) -> Selection:
        order = np.argsort(-value, kind="stable")[:count]
        return Selection(title, tuple(shown(int(row)) for row in order if value[row] > 0))

    selections = (
        best("Largest gains", gain),
        best("Largest losses", -gain),
        best("Surest mistakes", confidence),
    )
    return tuple(selection for selection in selections if selection.instances)
