"""Single instances on the page of a run: extreme ones, mistakes, and what its script needs of all of them.

The script computes decisions and costs from posteriors by the definitions of `rango.decisions`. It gets them unrounded,
so that its decisions are Python's; a test set that is too large for a page is thinned, and the page says so.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from rango.decisions import Costs, Posteriors
from rango.reports.language import _
from rango.reports.run.classes import MOST_CLASSES
from rango.reports.tables import state_named
from rango.tasks.kept_texts import KeptText, shortened

MOST_BYTES = 2_300_000
"""Of the script's data; with figures and tables the page stays below 3 MB."""

_STATIC = 20
"""Mistakes that the page lists for readers without a script, and in print."""
_SHOWN, _SHOWN_CHOICE = 400, 120
"""Characters of a text, and of a choice, that the page shows."""
_EXPLORED = ("calibrated", "adapted", "base", "control", "ngram", "floor")
"""The states that can be explored, the one that would be deployed first; the priors decide the same everywhere."""


@dataclass(frozen=True)
class Choice:
    """One choice of an instance: its words, whether it is right, its posterior before and after."""

    text: str
    right: bool
    before: float
    after: float


@dataclass(frozen=True)
class Mistake:
    """One instance that a model gets wrong."""

    id: str
    text: str
    """What was asked; "" where the run keeps no texts."""
    right: str
    decided: str
    confidence: float


def extreme_instances(base: Posteriors, adapted: Posteriors, *, count: int = 3) -> dict[str, dict[str, list[Choice]]]:
    """The largest gains and losses of the right choice's posterior; ties in file order.

    Returns:
        Title → id of the instance → its choices; empty where the two do not hold the same instances with words.
    """
    choices = adapted.choices
    if choices is None or base.targets is not None or adapted.targets is not None or base.ids != adapted.ids:
        return {}
    if not np.array_equal(base.labels, adapted.labels):
        return {}
    before, after = np.exp(base.log_posteriors), np.exp(adapted.log_posteriors)  # (N, K)
    instances = np.arange(len(adapted.labels))
    gain = after[instances, adapted.labels] - before[instances, adapted.labels]  # (N,)

    # The stable sort leaves ties in the order of the file, so that the same run gives the same page.
    selections = {}
    for title, value in ((_("Largest gains"), gain), (_("Largest losses"), -gain)):
        order = np.argsort(-value, kind="stable")[:count]
        examples = {
            adapted.ids[row]: [
                Choice(text, bool(k == adapted.labels[row]), float(before[row, k]), float(after[row, k]))
                for k, text in enumerate(choices[row])
            ]
            for row in order
            if value[row] > 0
        }
        if examples:
            selections[title] = examples
    return selections


def shown_text(texts: Mapping[str, KeptText], identity: str) -> str:
    """What was asked of an instance, as long as a page shows it; "" where it is not known."""
    return shortened(texts[identity].text, _SHOWN) if identity in texts else ""


def surest_mistakes(posteriors: Posteriors, texts: Mapping[str, KeptText]) -> list[Mistake]:
    """The mistakes of which the model was surest, most sure first; ties in file order."""
    logs, labels = posteriors.log_posteriors, posteriors.labels
    decided = logs.argmax(axis=1)  # (N,)
    confidence = np.exp(logs.max(axis=1))  # (N,)
    order = np.argsort(-np.where(decided == labels, -1.0, confidence), kind="stable")[:_STATIC]
    return [
        Mistake(
            posteriors.ids[row],
            shown_text(texts, posteriors.ids[row]),
            _word(posteriors, row, labels[row]),
            _word(posteriors, row, decided[row]),
            float(confidence[row]),
        )
        for row in order
        if decided[row] != labels[row]
    ]


@dataclass(frozen=True)
class Disagreement:
    """One instance on which two systems prefer different choices."""

    id: str
    text: str
    right: str
    decided: tuple[tuple[str, str, float, bool], ...]
    """Of each system: its name, its choice, its confidence, and whether that is right."""


def disagreements(
    systems: Mapping[str, Posteriors], texts: Mapping[str, KeptText], *, count: int = 10
) -> tuple[int, list[Disagreement]]:
    """How often two systems on the same instances prefer different choices, and where they are surest of it."""
    first, second = systems.values()
    choices = [system.log_posteriors.argmax(axis=1) for system in (first, second)]  # (N,) each
    confidences = [np.exp(system.log_posteriors.max(axis=1)) for system in (first, second)]
    differ = choices[0] != choices[1]
    order = np.argsort(-np.where(differ, confidences[0] + confidences[1], -1.0), kind="stable")
    total = int(differ.sum())
    if first.targets is not None:  # no choice is right or wrong
        return total, []
    rows = []
    for row in order[: min(count, total)]:
        label = int(first.labels[row])
        decided = tuple(
            (name, _word(first, row, int(choice[row])), float(confidence[row]), bool(choice[row] == label))
            for name, choice, confidence in zip(systems, choices, confidences, strict=True)
        )
        text = shown_text(texts, first.ids[row])
        rows.append(Disagreement(first.ids[row], text, _word(first, row, label), decided))
    return total, rows


def _word(posteriors: Posteriors, row: int, k: int) -> str:
    """The words of choice k of an instance, or its place where the file has no words."""
    return shortened(posteriors.choices[row][k], _SHOWN_CHOICE) if posteriors.choices else str(k + 1)


def explorer_data(
    states: Mapping[str, Posteriors], texts: Mapping[str, KeptText], costs: Costs | None
) -> dict[str, Any] | None:
    """What the script of the page gets; None where no state can be explored.

    Args:
        states: posteriors by state or by the name of a system, with labels.
        texts: what was asked, by id.
        costs: of the run; 0–1 costs where it has none.
    """
    # Systems that are compared have names of their own.
    keys = (*_EXPLORED, *(key for key in states if key not in (*_EXPLORED, "prior")))
    kept = {key: states[key] for key in keys if key in states}
    first = next(iter(kept.values()), None)
    # Only states of the same instances can be switched between.
    kept = {key: p for key, p in kept.items() if first is not None and p.ids == first.ids}
    if first is None or len(first) == 0 or first.targets is not None:
        return None
    names, k = first.column_names, first.n_choices
    instances = [
        {
            "id": first.ids[row],
            "text": shown_text(texts, first.ids[row]),
            # Names of classes stand in the data once.
            **({} if names else {"choices": [_word(first, row, column) for column in range(_width(first, row))]}),
        }
        for row in range(len(first))
    ]
    size = len(json.dumps(instances)) + len(kept) * len(first) * k * 8 * 4 // 3
    share = min(1.0, MOST_BYTES / size)
    rows = np.unique(np.linspace(0, len(first) - 1, max(1, int(share * len(first)))).round().astype(np.int64))
    used = costs if costs is not None and costs.matrix.shape[0] == k else Costs.zero_one(names or k)
    # Costs without names mean the classes by place.
    decisions = used.decisions
    if names and not used.named and decisions[:k] == tuple(map(str, range(k))):
        decisions = (*names, *decisions[k:])
    return {
        "total": len(first),
        "names": names,
        # With many classes, or none, costs are an error's and that of abstaining.
        "matrix": names is not None and k <= MOST_CLASSES,
        "costs": used.matrix.tolist(),
        "decisions": decisions,
        "labels": first.labels[rows].tolist(),
        "instances": [instances[row] for row in rows],
        "states": [
            {"key": key, "title": state_named(key).title, "posteriors": _packed(p.log_posteriors[rows])}
            for key, p in kept.items()
        ],
    }


def _width(posteriors: Posteriors, row: int) -> int:
    return len(posteriors.choices[row]) if posteriors.choices else posteriors.n_choices


def _packed(log_posteriors: np.ndarray) -> str:
    """Posteriors (n, K) as base64 of little-endian float64, row after row."""
    return base64.b64encode(np.exp(log_posteriors).astype("<f8").tobytes()).decode()


def as_script_json(value: Any) -> Markup:
    """JSON that can stand inside a script element: no text in it can end the element or begin another."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    # The three signs with which an element could end or begin are written as escapes.
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704
