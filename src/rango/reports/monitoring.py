"""What a log of decisions shows, in the terminal: a table of its parts, its alarms, and the shift of the priors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich import box
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from rango.decisions import Estimate
from rango.decisions.monitoring import Monitoring, Part
from rango.reports.tables import interval, number

_COUNTS_WIDTH, _VALUE_WIDTH = 22, 17
"""Columns of the terminal that the two counts take, and that a value with its interval below it takes."""


@dataclass(frozen=True)
class Column:
    """A number that the table of parts shows."""

    name: str
    """Its key in the estimates of a part."""
    title: str
    meaning: str


COLUMNS = (
    Column("error_rate", "Error rate ↓", "share whose most probable choice is wrong"),
    Column(
        "calibration_gap",
        "Gap",
        "mean posterior of the most probable choice less the share that is right: 0 is calibrated",
    ),
    Column("expected_cost", "Real cost ↓", "mean cost of the decisions by their labels"),
    Column("cost_gap", "Real − promised", "that less what the posteriors had promised for the same decisions"),
    Column("nce", "NCE ↓", "cross-entropy divided by the entropy of the priors"),
    Column("calibration_loss", "Cal. loss ↓", "nats of the cross-entropy that a temperature would take away"),
    Column("ece", "ECE ↓", "mean gap of confidence and accuracy over 15 bins"),
)
"""What is shown of each part, the most important first: a narrow terminal has room for the first ones only."""


def parts_of(monitoring: Monitoring) -> Mapping[str, Part]:
    """The whole log, its periods and its groups, by name."""
    # A group may be called as a period is.
    groups = {f"group {name}": part for name, part in monitoring.groups.items()}
    return {"all": monitoring.whole, **monitoring.periods, **groups}


def columns_of(monitoring: Monitoring) -> list[Column]:
    """The columns of which the whole log has a value."""
    return [column for column in COLUMNS if column.name in monitoring.whole.estimates]


def monitoring_table(monitoring: Monitoring, *, width: int = 80) -> Group:
    """The table of parts. What does not fit is left out from the right; error rate and gap never are."""
    parts = parts_of(monitoring)
    room = width - _COUNTS_WIDTH - max(map(len, parts))
    columns = columns_of(monitoring)[: max(2, room // _VALUE_WIDTH)]
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 1))
    table.add_column("", overflow="fold")
    # The share stands below the count, where it takes no room from the metrics.
    decisions = "Decisions" if monitoring.whole.passed_on is None else "Decisions\npassed on"
    for title in (decisions, "Labels", *(column.title for column in columns)):
        table.add_column(title, justify="right", no_wrap=True)
    for name, part in parts.items():
        cells = [_cell(part.estimates.get(column.name)) for column in columns]
        counted = Text(f"{part.n:,}")
        if part.passed_on is not None:
            counted.append("\n").append(number(part.passed_on), style="dim")
        table.add_row(Text(name), counted, f"{part.labelled:,}", *cells)
    return Group(table, Text("95% bootstrap intervals below the values", style="dim"))


def _cell(estimate: Estimate | None) -> Text:
    text = Text(number(estimate.value if estimate else None))
    if span := interval(estimate):
        text.append("\n").append(span, style="dim")
    return text


def alarm_sentences(monitoring: Monitoring) -> Iterator[str]:
    """Each alarm in words, and what the bound of them all is."""
    # The highest evidence counts, not the present one: an alarm that was raised is not taken back.
    for alarm in monitoring.alarms:
        test = alarm.test
        if alarm.raised:
            yield (
                f"ALARM, {alarm.claim}: refuted by {test.alarm:,} labels, the last of id {alarm.raised_at} (evidence "
                f"{test.highest:.3g}, alarm from {test.threshold:g})"
            )
        else:
            yield (
                f"no alarm, {alarm.claim}: evidence against it {test.evidence:.3g}, at most {test.highest:.3g} so far "
                f"(alarm from {test.threshold:g})"
            )
    tests = "it is" if len(monitoring.alarms) == 1 else f"any of the {len(monitoring.alarms)} is"
    if monitoring.alarms:
        yield (
            f"the probability that {tests} ever raised falsely is at most {monitoring.alpha:.0%}, however often "
            "somebody looks"
        )


def shift_sentence(monitoring: Monitoring) -> str:
    """The shares of the classes among decisions without labels beside those of training; "" where not estimated."""
    priors = monitoring.whole.priors
    if not priors:
        return ""
    # One share is called moved where its interval lies beside that of training; the intervals are not joint ones.
    n = next(iter(priors.values())).n
    shares, moved = [], []
    for name, share in priors.items():
        before = monitoring.training_priors[name]
        shares.append(f"{name} {number(share.value)} ({interval(share)}; before {number(before)})")
        if share.low is not None and share.high is not None and not share.low <= before <= share.high:
            moved.append(name)
    verdict = f"moved: {', '.join(moved)}" if moved else "none has moved significantly"
    which = "decisions without labels" if monitoring.whole.labelled < monitoring.whole.n else "decisions"
    return f"class shares of {n:,} {which}, by their posteriors: {', '.join(shares)}; {verdict}"


def cost_sentence(monitoring: Monitoring) -> str:
    """What the decisions promised to cost and what they cost; "" without costs."""
    real, gap = (monitoring.whole.estimates.get(name) for name in ("expected_cost", "cost_gap"))
    promised = monitoring.whole.estimates.get("promised_cost")
    if real is None or gap is None or promised is None:
        return ""
    acted = "" if monitoring.whole.acted_on is None else " that were acted on"
    span, verdict = interval(real), "not significantly different"
    if gap.low is not None and gap.high is not None and not gap.low <= 0 <= gap.high:
        verdict = "significantly more" if gap.value > 0 else "significantly less"
    return (
        f"the {real.n:,} decisions with labels{acted} promised a mean cost of {number(promised.value)} and cost "
        f"{number(real.value)}{f' ({span})' if span else ''}: {verdict}"
    )
