"""What a study says, in sentences: the best of each task, what is not told from it, and how all stand to the base."""

from __future__ import annotations

from collections.abc import Sequence

from rango.reports.run.findings import Finding
from rango.reports.study.sections import label_of, metric_words
from rango.reports.tables import number
from rango.results.table import Block, StudyTable, failure_text
from rango.studies.axes import TASK, axis_text

# More names than this are a count: a sentence with thirty of them is read by nobody.
_NAMED = 6


def study_findings(table: StudyTable) -> tuple[Finding, ...]:
    """For each task: which configuration is best and what is not told from it; how the others stand to the base model.

    Then what failed. A finding is good where something is told, open where nothing is.
    """
    found: list[Finding] = []
    for block in table.blocks:
        found += _of_block(table, block)
    if table.failed:
        found.append(_failed(table))
    if not found:
        found.append(Finding("study", "open", "Nothing to compare", "No configuration has posteriors."))
    return tuple(found)


def verdict_sentences(table: StudyTable) -> tuple[str, ...]:
    """The findings as lines for the terminal."""
    return tuple(f"{finding.headline}. {finding.detail}".strip() for finding in study_findings(table))


def _of_block(table: StudyTable, block: Block) -> list[Finding]:
    title = metric_words(table.select)
    head = f"{axis_text(block.task)}: best" if TASK in table.varied else "Best"
    if block.best is None:
        reason = "No configuration has a finite value." if block.rows else ""
        return [Finding("best", "open", f"{head} by {title}: not known", reason)]
    best = table.rows[block.best]
    value = number(best.cells[table.select].mean)
    if len(block.rows) == 1:
        task = f"{axis_text(block.task)}: " if TASK in table.varied else ""
        return [
            Finding("best", "open", f"{task}{title} {value} of {label_of(best, table)}", "Nothing to hold it against.")
        ]
    headline = f"{head} by {title}: {label_of(best, table)} ({value})"
    tied = [place for place in block.rows if table.rows[place].mark == "tied"]
    told = sum(table.rows[place].mark == "worse" for place in block.rows)
    if not tied:
        detail = "Every other configuration is told from it."
    elif not told:
        detail = "No other configuration is told from it."
    else:
        detail = f"Not told from it: {_listed(table, tied)}."
    against = _against_base(table, block)
    return [Finding("best", "good" if told else "open", headline, f"{detail} {against}".strip())]


def _against_base(table: StudyTable, block: Block) -> str:
    """How the configurations stand to the base model, in one or two sentences; "" where there is none."""
    by_side = {
        side: [place for place in block.rows if table.rows[place].against_base == side]
        for side in ("better", "worse", "open")
    }
    better, worse, unclear = by_side["better"], by_side["worse"], by_side["open"]
    total = len(better) + len(worse) + len(unclear)
    if not total:
        return ""
    if total == 1:
        word = "better than" if better else "worse than" if worse else "not told from"
        return f"{_listed(table, better + worse + unclear)}: {word} the base model."
    if len(better) == total:
        return "Everything is better than the base model."
    if len(worse) == total:
        return "Everything is worse than the base model."
    if len(unclear) == total:
        return "Nothing is told from the base model."
    words = ((better, "better than"), (worse, "worse than"), (unclear, "not told from"))
    told = [f"{word} the base model: {_listed(table, places, of=total)}" for places, word in words if places]
    sentence = "; ".join(told)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _listed(table: StudyTable, places: Sequence[int], *, of: int = 0) -> str:
    """The names of some rows; of many, how many they are out of `of`."""
    if len(places) > _NAMED:
        return f"{len(places)} of {of} configurations" if of else f"{len(places)} configurations"
    return "; ".join(label_of(table.rows[place], table) for place in places)


def _failed(table: StudyTable) -> Finding:
    if len(table.rows) == 1:
        # It has no name that would tell it from others.
        headline = "Seeds are missing" if table.rows[0].seeds else "No result"
        text = failure_text(table.rows[0])
        return Finding("failed", "bad", headline, f"{text[0].upper()}{text[1:]}.")
    parts = []
    for row in table.failed:
        task = f"{axis_text(row.axes.get(TASK))}, " if TASK in table.varied else ""
        parts.append(f"{task}{label_of(row, table)} ({failure_text(row)})")
    count = len(parts)
    headline = f"{count} configuration{'s' * (count != 1)} lack{'s' * (count == 1)} seeds"
    return Finding("failed", "bad", headline, "; ".join(parts) + ".")
