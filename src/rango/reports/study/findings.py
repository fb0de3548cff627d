"""What follows from a study, in sentences: the best of each task, what is not significantly worse, and the base model.

A configuration is significantly worse than another where a paired bootstrap of their losses, corrected by Holm's rule
over the block, has p < 0.05: see `rango.results.statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rango.decisions import METRICS
from rango.reports.language import _, ngettext
from rango.reports.run.findings import Finding, Tone
from rango.reports.study.sections import full_label, label_of
from rango.reports.tables import column_named, number
from rango.results.statistics import ALPHA, Side
from rango.results.table import Block, StudyRow, StudyTable, failure_text
from rango.studies.axes import TASK, axis_text, is_base

_NAMED = 6
"""More configurations than this are counted, not listed: nobody reads a sentence with thirty names."""


def study_findings(table: StudyTable) -> tuple[Finding, ...]:
    """For each task its best configuration, what is not significantly worse, and the comparison with the base model.

    Then what changes of the centre move, and the configurations without results. A finding is good where something is
    significant, unclear where nothing is.
    """
    findings = [_best_of_block(table, block) for block in table.blocks]
    # Without intervals nothing was tested, and nothing can be said of significance.
    if table.has_centre and table.replicates:
        findings += [_changes_of_block(table, block) for block in table.blocks]
    if table.failed:
        findings.append(_failed(table))
    return tuple(findings) or (
        Finding("study", "unclear", _("Nothing to compare"), _("No configuration has posteriors.")),
    )


def verdict_sentences(table: StudyTable) -> tuple[str, ...]:
    """The findings as lines for the terminal."""
    return tuple(f"{finding.headline}. {finding.detail}".strip() for finding in study_findings(table))


def _best_of_block(table: StudyTable, block: Block) -> Finding:
    title = column_named(table.select).words
    task = f"{axis_text(block.task)}: " if TASK in table.varied else ""

    def heading(text: str) -> str:
        """The text behind the task, or as the beginning of a sentence."""
        return f"{task}{text}" if task else f"{text[0].upper()}{text[1:]}"

    best = _lowest(table, block)
    if best is None:
        reason = _("No configuration has a finite value.") if block.rows else ""
        return Finding("best", "unclear", heading(_("best by %(metric)s: not known", metric=title)), reason)
    name, value = label_of(best, table), number(best.cells[table.select].mean)
    tone, against_priors = _against_priors(table, block, best)
    against_base = _against_base(table, block, best)
    if len(block.rows) == 1:
        # One configuration is compared with nothing but the yardsticks.
        sentences = [against_priors, against_base, _("There is no other configuration to compare it with.")]
        tone = "bad" if tone == "bad" else "unclear"
        head = f"{task}" + _("%(metric)s %(value)s of %(name)s", metric=title, value=value, name=name)
    elif block.best is None:
        head = heading(_("no configuration is better than the priors by %(metric)s", metric=title))
        if METRICS[table.select].direction == "lower":
            end = _("The lowest value is %(value)s, of %(name)s.", value=value, name=name)
        else:
            end = _("The highest value is %(value)s, of %(name)s.", value=value, name=name)
        sentences = [end, against_priors, against_base]
    else:
        # Rows without a mark could not be compared: they are neither tied nor worse.
        marks = [table.rows[place].mark for place in block.rows]
        tied = [place for place, mark in zip(block.rows, marks, strict=True) if mark == "tied"]
        if not tied and "worse" not in marks:
            detail = _("No other configuration has a value to compare with it.")
        elif not tied:
            detail = _("Every other configuration is significantly worse than the best.")
        elif "worse" not in marks:
            detail = _("No other configuration is significantly worse than the best.")
        else:
            detail = _("Not significantly worse than the best: %(names)s.", names=_listed(table, tied))
        # The best of what is worth nothing is no good news, and neither is a best that adaptation did not improve.
        if tone == "good" and ("worse" not in marks or best.against_base in ("open", "worse")):
            tone = "unclear"
        head = heading(_("best by %(metric)s: %(name)s (%(value)s)", metric=title, name=name, value=value))
        sentences = [against_priors, against_base, detail]
    return Finding("best", tone, head, " ".join(filter(None, sentences)))


def _changes_of_block(table: StudyTable, block: Block) -> Finding:
    """Which single changes move the metric that selects, significantly after Holm's correction over all of them."""
    words, task = column_named(table.select).words, f"{axis_text(block.task)}: " if TASK in table.varied else ""
    rows = [table.rows[place] for place in block.rows if not is_base(table.rows[place].axes)]
    changes = [(row, row.cells[table.select].change) for row in rows if table.select in row.cells]
    tested = [(row, change) for row, change in changes if change is not None and change.p is not None]
    moved = [(row, change) for row, change in tested if change.p is not None and change.p < ALPHA]
    head = ngettext(
        "%(moved)s of %(count)s change of the centre moves %(metric)s significantly",
        "%(moved)s of %(count)s changes of the centre move %(metric)s significantly",
        len(tested),
        moved=len(moved),
        metric=words,
    )
    # The largest first: what is not named is smaller than what is.
    moved.sort(key=lambda pair: -abs(pair[1].value))
    names = "; ".join(f"{label_of(row, table)} ({number(change.value, sign=True)})" for row, change in moved[:_NAMED])
    detail = _("These are %(names)s.", names=names) if names else ""
    if len(moved) > _NAMED:
        detail = _("The largest are %(names)s.", names=names)
    return Finding("changes", "good" if moved else "unclear", f"{task}{head}", detail)


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
    priors = number(prior)
    if cell.low <= prior <= cell.high:
        sentence = _("It is not significantly better than the class frequencies alone (%(priors)s).", priors=priors)
        return "unclear", sentence
    if (cell.low > prior) == (metric.direction == "higher"):
        return "good", _("It is significantly better than the class frequencies alone (%(priors)s).", priors=priors)
    return "bad", _("It is significantly worse than the class frequencies alone (%(priors)s).", priors=priors)


def _against_base(table: StudyTable, block: Block, best: StudyRow) -> str:
    """The comparison of the best, and of all, with the base model as sentences; "" where there is no base model."""
    sides: tuple[Side, ...] = ("better", "worse", "open")
    by_side = {side: [place for place in block.rows if table.rows[place].against_base == side] for side in sides}
    compared = {side: places for side, places in by_side.items() if places}
    total = sum(map(len, compared.values()))
    if not compared:
        return ""
    # Only one base has one value for the whole sentence.
    listed = [table.rows[place] for place in block.rows if is_base(table.rows[place].axes)]
    bases = [row.cells[table.select].mean for row in (*listed, *block.bases) if table.select in row.cells]
    base = _("the base model (%(value)s)", value=number(bases[0])) if len(bases) == 1 else _("its base model")
    it = {
        "better": _("It is significantly better than %(base)s.", base=base),
        "worse": _("It is significantly worse than %(base)s.", base=base),
        "open": _("It is not significantly different from %(base)s.", base=base),
    }
    if len(compared) == 1:
        ((side, places),) = compared.items()
        only = table.rows[places[0]]
        fields = {"name": label_of(only, table), "base": base}
        named = {
            "better": _("%(name)s is significantly better than %(base)s.", **fields),
            "worse": _("%(name)s is significantly worse than %(base)s.", **fields),
            "open": _("%(name)s is not significantly different from %(base)s.", **fields),
        }
        # "Every ... is not ..." can be read in two ways.
        every = {
            "better": _("Every configuration is significantly better than %(base)s.", base=base),
            "worse": _("Every configuration is significantly worse than %(base)s.", base=base),
            "open": _("No configuration is significantly different from %(base)s.", base=base),
        }
        return (every if total > 1 else it if only is best else named)[side]
    # Otherwise the configurations are on several sides: first the best, then a clause for each side.
    of_best = "" if best.against_base is None else f"{it[best.against_base]} "
    names = {side: _listed(table, places, of=total) for side, places in compared.items()}
    words = {
        "better": _("significantly better than the base model: %(names)s", names=names.get("better")),
        "worse": _("significantly worse than the base model: %(names)s", names=names.get("worse")),
        "open": _("not significantly different from the base model: %(names)s", names=names.get("open")),
    }
    sentence = "; ".join(words[side] for side in compared)
    return f"{of_best}{sentence[0].upper()}{sentence[1:]}."


def _listed(table: StudyTable, places: Sequence[int], *, of: int = 0) -> str:
    """The names of these rows, or their number (out of `of`) where they are many."""
    if len(places) > _NAMED:
        if of:
            return _("%(count)s of %(total)s configurations", count=len(places), total=of)
        return ngettext("%(count)s configuration", "%(count)s configurations", len(places))
    return "; ".join(label_of(table.rows[place], table) for place in places)


def _failed(table: StudyTable) -> Finding:
    if len(table.rows) == 1:
        # The only configuration has no name that would distinguish it.
        headline = _("Seeds are missing") if table.rows[0].seeds else _("No result")
        text = failure_text(table.rows[0])
        return Finding("failed", "bad", headline, f"{text[0].upper()}{text[1:]}.")
    reasons = [f"{full_label(row, table)} ({failure_text(row)})" for row in table.failed]
    count = len(reasons)
    headline = ngettext("%(count)s configuration lacks seeds", "%(count)s configurations lack seeds", count)
    return Finding("failed", "bad", headline, "; ".join(reasons) + ".")
