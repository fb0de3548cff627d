"""What follows from a study, in sentences: the best of each task, what is not significantly worse, and the base model.

A configuration is significantly worse than another where a paired bootstrap of their losses, corrected by Holm's rule
over the block, has p < 0.05: see `rango.results.statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rango.decisions import METRICS
from rango.reports.run.findings import Finding, Tone
from rango.reports.study.sections import full_label, label_of
from rango.reports.tables import column_named, number
from rango.results.table import Block, StudyRow, StudyTable, failure_text
from rango.studies.axes import TASK, axis_text, is_base

_NAMED = 6
"""More configurations than this are counted, not listed: nobody reads a sentence with thirty names."""


def study_findings(table: StudyTable) -> tuple[Finding, ...]:
    """For each task its best configuration, what is not significantly worse, and the comparison with the base model.

    Then the configurations without results. A finding is good where something is significant, unclear where nothing is.
    """
    findings = [_best_of_block(table, block) for block in table.blocks]
    if table.failed:
        findings.append(_failed(table))
    return tuple(findings) or (Finding("study", "unclear", "Nothing to compare", "No configuration has posteriors."),)


def verdict_sentences(table: StudyTable) -> tuple[str, ...]:
    """The findings as lines for the terminal."""
    return tuple(f"{finding.headline}. {finding.detail}".strip() for finding in study_findings(table))


def _best_of_block(table: StudyTable, block: Block) -> Finding:
    title = column_named(table.select).words
    task = f"{axis_text(block.task)}: " if TASK in table.varied else ""
    head = f"{task}best by {title}" if task else f"Best by {title}"
    best = _lowest(table, block)
    if best is None:
        reason = "No configuration has a finite value." if block.rows else ""
        return Finding("best", "unclear", f"{head}: not known", reason)
    name, value = label_of(best, table), number(best.cells[table.select].mean)
    tone, against_priors = _against_priors(table, block, best)
    against_base = _against_base(table, block, best)
    if len(block.rows) == 1:
        # One configuration is compared with nothing but the yardsticks.
        sentences = [against_priors, against_base, "There is no other configuration to compare it with."]
        tone = "bad" if tone == "bad" else "unclear"
        head = f"{task}{title} {value} of {name}"
    elif block.best is None:
        end = "lowest" if METRICS[table.select].direction == "lower" else "highest"
        head = f"{task}no configuration is better than the priors by {title}"
        head = head if task else f"{head[0].upper()}{head[1:]}"
        sentences = [f"The {end} value is {value}, of {name}.", against_priors, against_base]
    else:
        # Rows without a mark could not be compared: they are neither tied nor worse.
        marks = [table.rows[place].mark for place in block.rows]
        tied = [place for place, mark in zip(block.rows, marks, strict=True) if mark == "tied"]
        if not tied and "worse" not in marks:
            detail = "No other configuration has a value to compare with it."
        elif not tied:
            detail = "Every other configuration is significantly worse than the best."
        elif "worse" not in marks:
            detail = "No other configuration is significantly worse than the best."
        else:
            detail = f"Not significantly worse than the best: {_listed(table, tied)}."
        # The best of what is worth nothing is no good news, and neither is a best that adaptation did not improve.
        if tone == "good" and ("worse" not in marks or best.against_base in ("open", "worse")):
            tone = "unclear"
        head = f"{head}: {name} ({value})"
        sentences = [against_priors, against_base, detail]
    return Finding("best", tone, head, " ".join(filter(None, sentences)))


def _lowest(table: StudyTable, block: Block) -> StudyRow | None:
    """The best configuration of a block whether or not it is better than the priors; None without a finite value."""
    rows = [table.rows[place] for place in block.rows if table.select in table.rows[place].cells]
    finite = [row for row in rows if math.isfinite(row.cells[table.select].mean)]
    sign = -1.0 if METRICS[table.select].direction == "higher" else 1.0
    return min(finite, key=lambda row: sign * row.cells[table.select].mean, default=None)


def _against_priors(table: StudyTable, block: Block, best: StudyRow) -> tuple[Tone, str]:
    """Whether the best is significantly better than the class frequencies alone, as a tone and as a sentence.

    The calibration error cannot say: that of the class frequencies is 0.
    """
    metric, cell = METRICS[table.select], best.cells[table.select]
    prior = block.prior.get(table.select, math.nan)
    if not metric.is_mean or math.isnan(prior) or cell.low is None or cell.high is None:
        return "good" if block.best is not None else "unclear", ""
    what = f"the class frequencies alone ({number(prior)})"
    if cell.low <= prior <= cell.high:
        return "unclear", f"It is not significantly better than {what}."
    if (cell.low > prior) == (metric.direction == "higher"):
        return "good", f"It is significantly better than {what}."
    return "bad", f"It is significantly worse than {what}."


def _against_base(table: StudyTable, block: Block, best: StudyRow) -> str:
    """The comparison of the best, and of all, with the base model as sentences; "" where there is no base model."""
    words = {
        "better": "significantly better than",
        "worse": "significantly worse than",
        "open": "not significantly different from",
    }
    by_side = {side: [place for place in block.rows if table.rows[place].against_base == side] for side in words}
    compared = {side: places for side, places in by_side.items() if places}
    total = sum(map(len, compared.values()))
    if not compared:
        return ""
    # Only one base has one value for the whole sentence.
    listed = [table.rows[place] for place in block.rows if is_base(table.rows[place].axes)]
    bases = [row.cells[table.select].mean for row in (*listed, *block.bases) if table.select in row.cells]
    base = f"the base model ({number(bases[0])})" if len(bases) == 1 else "its base model"
    if len(compared) == 1:
        ((side, places),) = compared.items()
        only = table.rows[places[0]]
        subject = "Every configuration" if total > 1 else "It" if only is best else label_of(only, table)
        # "Every ... is not ..." can be read in two ways.
        if side == "open" and total > 1:
            return f"No configuration is significantly different from {base}."
        return f"{subject} is {words[side]} {base}."
    # Otherwise the configurations are on several sides: first the best, then a clause for each side.
    of_best = "" if best.against_base is None else f"It is {words[best.against_base]} {base}. "
    clauses = [f"{words[side]} the base model: {_listed(table, places, of=total)}" for side, places in compared.items()]
    sentence = "; ".join(clauses)
    return f"{of_best}{sentence[0].upper()}{sentence[1:]}."


def _listed(table: StudyTable, places: Sequence[int], *, of: int = 0) -> str:
    """The names of these rows, or their number (out of `of`) where they are many."""
    if len(places) > _NAMED:
        return f"{len(places)} of {of} configurations" if of else f"{len(places)} configurations"
    return "; ".join(label_of(table.rows[place], table) for place in places)


def _failed(table: StudyTable) -> Finding:
    if len(table.rows) == 1:
        # The only configuration has no name that would distinguish it.
        headline = "Seeds are missing" if table.rows[0].seeds else "No result"
        text = failure_text(table.rows[0])
        return Finding("failed", "bad", headline, f"{text[0].upper()}{text[1:]}.")
    reasons = [f"{full_label(row, table)} ({failure_text(row)})" for row in table.failed]
    count = len(reasons)
    headline = f"{count} configuration{'s' * (count != 1)} lack{'s' * (count == 1)} seeds"
    return Finding("failed", "bad", headline, "; ".join(reasons) + ".")
