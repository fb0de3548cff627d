"""`rango monitor`: what a log of decisions shows, alarms over time, and limits that a new model must keep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from rango.cli.groups import CostsText
from rango.cli.posteriors import Replicates, Seed, check_outputs, show
from rango.commands import monitor as monitor_log
from rango.console import Terminal, visible
from rango.decisions import Baseline
from rango.errors import InputError, RunError
from rango.files import write_json
from rango.reports.monitoring import alarm_sentences, cost_sentence, monitoring_table, shift_sentence
from rango.reports.tables import number


def monitor(
    log: Annotated[str, Parameter(help="Decisions as rango predict writes them, a posteriors file, RUN or RUN:STATE.")],
    *,
    labels: Path | None = None,
    by: str | None = None,
    period: str | None = None,
    time: str | None = None,
    label: str | None = None,
    id: str | None = None,
    costs: CostsText = None,
    training_priors: Annotated[
        str | None, Parameter(help="Class priors behind the posteriors: 0.2,0.8 or no=0.2,yes=0.8.")
    ] = None,
    alpha: float = 0.05,
    precision: float = 0.02,
    check: Path | None = None,
    save_baseline: Path | None = None,
    margin: float = 0.0,
    out: Path | None = None,
    replicates: Replicates = 1000,
    seed: Seed = 0,
) -> None:
    """Say what a log of decisions shows, in all, by period and by group, and whether its limits still hold.

    The alarms are tests over time: looked at every day, they are ever false with the probability --alpha at most.
    Labels may come late and be few, but they must not be chosen by their outcome.
    Where LOG has a column act (yes or no), error and costs are of the decisions that were acted on.

    Parameters
    ----------
    labels
        File with id and label of the decisions whose outcome is known, in the order in which it became known.
    by
        Column of LOG with groups to report one by one.
    period
        Report each day, week or month, or each so many rows: day, week, month or a number.
    time
        Column of LOG with times: ISO 8601, or seconds since 1970.
    label
        Column with labels, empty where unknown, of --labels where it is given; label when absent.
    id
        Column with ids; id when absent.
    alpha
        Probability that any alarm is ever raised falsely.
    precision
        Say how many labels fix the calibration gap to this much on either side.
    check
        Baseline file: exit with 1 where its limits are broken. They are tested by alarms over time, or, on the
        baseline's own instances, by paired comparison.
    save_baseline
        JSON file (.json) to write the metrics of the labelled decisions to, with limits for --check.
    margin
        With --save-baseline, the share of a value by which it may become worse: 0.05 allows 5 %.
    out
        JSON file (.json) to write the report to.
    """
    # A large log takes a while: what cannot be written is refused before it is read.
    for path in (out, save_baseline):
        if path is not None and path.suffix.lower() != ".json":
            raise InputError(f"{path}: ending {path.suffix!r} is not known; the file is JSON, expected .json")
    check_outputs({"--out": out, "--save-baseline": save_baseline}, log, labels, costs, check)
    if not 0 < precision < 1:
        raise InputError(f"precision is {precision:g}; expected a number between 0 and 1, such as 0.02")
    if save_baseline is None and margin:
        raise InputError("--margin without --save-baseline; the margin of --check is in its file")
    baseline = None if check is None else Baseline.load(check)
    named: Any = {"labels": labels, "label": label, "id": id, "costs": costs, "replicates": replicates, "seed": seed}
    report = monitor_log(
        log,
        time=time,
        by=by,
        period=period,
        training_priors=training_priors,
        baseline=baseline,
        save_to=save_baseline,
        margin=margin,
        alpha=alpha,
        **named,
    )
    for note in report.notes:
        show(f"note: {visible(note)}")
    show(monitoring_table(report, width=Terminal().width))
    for sentence in (*alarm_sentences(report), cost_sentence(report), shift_sentence(report)):
        if sentence:
            show(visible(sentence))
    # Without replicates the gap has no interval, and where all instances are alike one of no width: both say nothing.
    gap = report.whole.estimates.get("calibration_gap")
    if gap is not None and gap.low is not None and gap.high is not None and gap.high > gap.low:
        needed = report.labels_needed(precision)
        show(
            f"{needed:,} labels fix the gap to ± {precision:g}; the {gap.n:,} here fix it to "
            f"± {number((gap.high - gap.low) / 2)}"
        )
    if save_baseline is not None:
        show(str(save_baseline))
    if out is not None:
        write_json(out, report.as_dict())
        show(str(out))
    # The report is written also where limits are broken, and these lines stand last, where a log of CI is read first.
    for sentence in report.broken if check is not None else ():
        show(visible(f"BROKEN: {sentence}"))
    if check is not None:
        tested = len(report.checks) or len(report.alarms)
        if report.broken:
            raise RunError(f"{len(report.broken)} of the {tested} limits of {check} are broken")
        show(f"none of the {tested} limits of {check} is broken")
