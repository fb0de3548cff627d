"""The commands as functions: the same names and options, with objects for what a command prints and writes.

    rango metrics FILE            rango.metrics(source)         Summary: every metric with its interval
    rango decide FILE             rango.decide(source)          Decisions
    rango compare A B             rango.compare(a, b)           Comparison; of more systems, one for each but the first
    rango gate RUN                rango.gate(run)               Gate, and rango.judge(gate, run) says what it does
    rango calibrate               rango.calibrate(fit, apply)   Calibration: the posteriors, and the calibrator
    rango predict RUN new.csv     rango.predict(run, frame)     the frame with more columns
    rango monitor LOG             rango.monitor(log)            Monitoring; rango.save_baseline(log) makes its limits
    rango study FILE.yaml         rango.study(file)             StudyReport

A source is posteriors, a file of them, a data frame, a `Run`, or the text RUN or RUN:STATE. Of a run the posteriors are
taken that one would act on: the calibrated ones where it has a calibrator.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from rango import decisions
from rango.decisions import Baseline, Calibrator, Gate, Judgement, Monitoring, Posteriors, fit_calibrator
from rango.decisions.calibration import Calibration
from rango.decisions.calibrators import MethodChoice
from rango.decisions.pairing import check_held_out
from rango.decisions.risk import Decisions
from rango.decisions.summary import Comparison, Summary, summarise
from rango.errors import InputError, RunError
from rango.files import check_writable_file
from rango.training.run_folder import Run, parse_state
from rango.training.systems import (
    RAW,
    AnyCosts,
    AnyPriors,
    AnyTable,
    System,
    read_costs,
    read_log,
    read_long_log,
    read_priors,
    read_system,
    system_names,
)

if TYPE_CHECKING:
    from narwhals.typing import IntoDataFrameT

    from rango.models.loading import Model
    from rango.reports.language import Language
    from rango.reports.study.report import StudyReport
    from rango.studies.study import Study
    from rango.training.prediction import Predictions


def metrics(
    source: System,
    *,
    costs: AnyCosts | None = None,
    priors: AnyPriors | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> Summary:
    """Every metric of posteriors with its 95 % bootstrap interval: `rango.metrics(posteriors)["nce"]` is one of them.

    Args:
        source: with labels.
        costs: of decisions; those of the run when absent, or else 0-1 costs.
        priors: class priors to measure under; those of the labels when absent.
        replicates: bootstrap replicates; 0 for no intervals, which is quick.
        seed: of the bootstrap.

    Raises:
        InputError: as `read_posteriors` and `summarise`.
    """
    posteriors, _ = read_system(source)
    stated, _ = read_costs(costs, source)
    weights = read_priors(priors, posteriors)
    matrix = None if stated is None else stated.for_posteriors(posteriors)
    return summarise(posteriors, costs=matrix, priors=weights, replicates=replicates, seed=seed)


def decide(
    source: System,
    *,
    costs: AnyCosts | None = None,
    priors: AnyPriors | None = None,
    training_priors: AnyPriors | None = None,
) -> Decisions:
    """The Bayes decision of each instance, what it is expected to cost, and the runner-up.

    Args:
        source: with labels or without.
        costs: of decisions; those of the run when absent.
        priors: class priors to decide under; the posteriors as they are when absent.
        training_priors: class priors behind the posteriors; the shares of the labels when absent.

    Raises:
        InputError: no costs; as `read_posteriors` and `rango.decisions.decide`.
    """
    stated, _ = read_costs(costs, source)
    if stated is None:
        raise InputError("costs are missing, and no run states them; give a costs file, Costs, or abstain=0.3")
    posteriors, _ = read_system(source, need_labels=False)
    target = read_priors(priors, posteriors)
    training = read_priors(training_priors, posteriors, option="training_priors")
    if target is None and training is not None:
        raise InputError("training_priors without priors; give the priors to decide under too")
    matrix = stated.for_posteriors(posteriors)
    return decisions.decide(posteriors, costs=matrix, priors=target, training_priors=training)


@overload
def compare(
    a: System,
    b: System,
    *,
    costs: AnyCosts | None = ...,
    priors: AnyPriors | None = ...,
    page: str | os.PathLike[str] | None = ...,
    language: Language = ...,
    replicates: int = ...,
    seed: int = ...,
) -> Comparison: ...


@overload
def compare(
    a: System,
    b: System,
    c: System,
    /,
    *others: System,
    costs: AnyCosts | None = ...,
    priors: AnyPriors | None = ...,
    page: str | os.PathLike[str] | None = ...,
    language: Language = ...,
    replicates: int = ...,
    seed: int = ...,
) -> dict[str, Comparison]: ...


def compare(
    a: System,
    b: System,
    *others: System,
    costs: AnyCosts | None = None,
    priors: AnyPriors | None = None,
    page: str | os.PathLike[str] | None = None,
    language: Language = "en",
    replicates: int = 1000,
    seed: int = 0,
) -> Comparison | dict[str, Comparison]:
    """Two systems on the same instances: the difference b − a of every metric, exact McNemar test, and a sentence.

    Args:
        a: with labels.
        b: the same instances.
        others: further systems; each is compared with the first.
        costs: of decisions; those of the runs when absent, or else 0-1 costs.
        priors: class priors to measure under; those of the labels when absent.
        page: HTML file to write: differences, disagreements, reliability and a cost explorer.
        language: of the page: en or es.
        replicates: bootstrap replicates.
        seed: of the bootstrap.

    Returns:
        The comparison; with further systems, one for each but the first, by its name.

    Raises:
        InputError: as `metrics`; ids or labels that differ; a page under other priors.
    """
    if page is not None:
        check_writable_file(Path(page))
        if priors is not None:
            raise InputError("page shows the instances as they are; leave priors out, or page")
    sources = (a, b, *others)
    names = system_names(*sources)
    systems = {name: read_system(source)[0] for name, source in zip(names, sources, strict=True)}
    first = systems[names[0]]
    stated, _ = read_costs(costs, *sources)
    weights = read_priors(priors, first)
    matrix = None if stated is None else stated.for_posteriors(first)
    options: dict[str, Any] = {"costs": matrix, "replicates": replicates, "seed": seed}
    comparisons = {name: decisions.compare(first, systems[name], priors=weights, **options) for name in names[1:]}
    if page is not None:
        # Figures take a second to load, which a comparison without a page need not wait for.
        from rango.reports.run.comparison import texts_beside, write_comparison

        write_comparison(Path(page), systems, comparisons, texts=texts_beside(sources), language=language, **options)
    return comparisons if others else comparisons[names[1]]


def gate(
    source: System,
    *,
    costs: AnyCosts | None = None,
    max_error: float | None = None,
    precision: Mapping[str, float] | None = None,
    pass_on: str | None = None,
    level: float = 0.95,
    replicates: int = 200,
    seed: int = 0,
) -> Gate:
    """Choose when to act on posteriors and when to pass an instance on; see `rango.decisions.gate`.

    Args:
        source: with labels, held out from training and from what the gate will be judged on; of a run its validation
            split.
        costs: with a decision that passes on; those of the run where no aim is given.
        max_error: the largest error rate among the instances that are acted on, a fraction.
        precision: class → least share that is right among the instances acted on as that class.
        pass_on: the decision of the costs that passes on; when absent the only one that names no class.
        level: with what probability the bound of an error holds.
        replicates: bootstrap samples that show how sure the choice is.
        seed: of the bootstrap.

    Raises:
        InputError: as `metrics` and `rango.decisions.gate`.
    """
    posteriors, _ = read_system(source, split="validation")
    stated, _ = read_costs(costs, *([source] if max_error is None and not precision else []))
    aim: dict[str, Any] = {"costs": stated, "max_error": max_error, "precision": precision, "pass_on": pass_on}
    return decisions.gate(posteriors, **aim, level=level, replicates=replicates, seed=seed)


def judge(gate: Gate, source: System, *, replicates: int = 1000, seed: int = 0) -> Judgement:
    """What a gate does on instances with labels: coverage, error and cost with intervals.

    Args:
        gate: of these choices.
        source: other instances than the gate was chosen on; of a run its test split.
        replicates: bootstrap replicates of the intervals of costs.
        seed: of the bootstrap.

    Raises:
        InputError: as `metrics` and `rango.decisions.judge`.
    """
    return decisions.judge(gate, read_system(source)[0], replicates=replicates, seed=seed)


def monitor(
    log: System,
    *,
    labels: AnyTable | None = None,
    time: str | None = None,
    by: str | None = None,
    label: str | None = None,
    id: str | None = None,
    period: str | None = None,
    costs: AnyCosts | None = None,
    training_priors: AnyPriors | None = None,
    baseline: Baseline | str | os.PathLike[str] | None = None,
    save_to: str | os.PathLike[str] | None = None,
    margin: float = 0.0,
    alpha: float = 0.05,
    replicates: int = 1000,
    seed: int = 0,
) -> Monitoring:
    """What a log of decisions shows, in all, by period and by group, with alarms that may be looked at every day.

    Args:
        log: what `predict` gives or writes, or any posteriors; a run's test split.
        labels: id and label of the decisions whose outcome is known, in the order in which it became known. They must
            not be chosen by their outcome.
        time: the column of the log with times.
        by: the column of the log with groups.
        label: the column with labels; "label" when absent.
        id: the column with ids; "id" when absent.
        period: day, week, month, or a number of rows.
        costs: of decisions; those of the run or of the baseline when absent.
        training_priors: class priors behind the posteriors, for their shift; those of the baseline when absent.
        baseline: limits to test, or their file.
        save_to, margin: a JSON file for the `save_baseline` of these decisions; the log is read once for both.
        alpha: the probability that any alarm is ever raised falsely.
        replicates: bootstrap replicates of the intervals.
        seed: of the bootstrap.

    Raises:
        InputError: no labels; columns of a log in a source that has none; as `rango.decisions.monitor`.
    """
    if save_to is not None:
        check_writable_file(Path(save_to))
    stated, notes = read_costs(costs, log)
    limits = baseline if baseline is None or isinstance(baseline, Baseline) else Baseline.load(os.fspath(baseline))

    def costs_for(posteriors: Posteriors) -> decisions.Costs | None:
        if stated is not None:
            return stated.for_posteriors(posteriors)
        return None if limits is None else limits.costs

    columns: dict[str, Any] = {"labels": labels, "time": time, "by": by, "label": label, "name": id}
    columns |= {"period": period and str(period), "sample": training_priors is not None or limits is not None}
    known = read_long_log(log, **columns, costs_for=costs_for)
    posteriors, options = known.log.posteriors, cast("Any", {"replicates": replicates, "seed": seed})
    own = None if stated is None else stated.for_posteriors(posteriors)
    priors = read_priors(training_priors, posteriors, option="training_priors")
    known = replace(known, log=replace(known.log, notes=(*known.log.notes, *notes)))
    report = decisions.monitor(known, costs=own, baseline=limits, training_priors=priors, alpha=alpha, **options)
    if save_to is not None:
        Baseline.of(known.log, costs=own, margin=margin, **options).write(os.fspath(save_to))
    return report


def save_baseline(
    log: System,
    path: str | os.PathLike[str] | None = None,
    *,
    labels: AnyTable | None = None,
    label: str | None = None,
    id: str | None = None,
    costs: AnyCosts | None = None,
    margin: float = 0.0,
    replicates: int = 1000,
    seed: int = 0,
) -> Baseline:
    """What the labelled decisions of a log are worth, with limits for later logs and other models.

    Args:
        log: as in `monitor`, and so are `labels`, `label`, `id`, `costs`, `replicates` and `seed`.
        path: the JSON file to write; nothing is written when absent.
        margin: the share of a value by which it may become worse.

    Raises:
        InputError: as `monitor` and `Baseline.of`.
    """
    if path is not None:
        check_writable_file(Path(path))
    known = read_long_log(log, labels=labels, label=label, name=id).log
    stated, _ = read_costs(costs, log)
    matrix = None if stated is None else stated.for_posteriors(known.posteriors)
    baseline = Baseline.of(known, costs=matrix, margin=margin, replicates=replicates, seed=seed)
    if path is not None:
        baseline.write(os.fspath(path))
    return baseline


def calibrate(
    *,
    fit: System | None = None,
    apply: System,
    method: MethodChoice | None = None,
    calibrator: Calibrator | str | os.PathLike[str] | None = None,
    towards: Calibrator | str | os.PathLike[str] | None = None,
) -> Calibration:
    """Fit a calibrator on held-out posteriors and apply it to others.

    Args:
        fit: validation data, never what is applied to; of a run, the posteriors of its adapted model on validation.
        apply: posteriors to calibrate, with labels or without; of a run, those of its adapted model on test.
        method: auto (when absent), temperature, bias, affine, vector or matrix; isotonic and histogram for two classes.
        calibrator: a fitted one, or its file, to apply in place of `fit` and `method`.
        towards: the calibrator in use, or its file, or "identity": `fit` may then have few labels, or a log of
            which a part has labels, and the fit is held at it as firmly as they suggest (`decisions.recalibrate`).

    Raises:
        InputError: neither `fit` nor `calibrator`; instances that are both fitted on and applied to; as
            `fit_calibrator` and `Calibrator.apply`.
    """
    raw, notes = read_system(apply, need_labels=False, states=RAW)
    fitting: Posteriors | None = None
    if fit is None:
        if calibrator is None:
            raise InputError("--fit is missing; give the posteriors to fit on, or --calibrator with a fitted one")
        if towards is not None:
            raise InputError("--towards without --fit; give the labels that move the old calibrator")
        if method is not None:
            raise InputError(f"--method {method} without --fit; a calibrator that is read has its own method")
        fitted = calibrator if isinstance(calibrator, Calibrator) else Calibrator.read(Path(calibrator))
    elif towards is not None:
        if method is not None and towards != "identity":
            raise InputError(f"--method {method} with --towards; the new calibrator is of the kind of the old one")
        few = read_log(fit, split="validation", states=RAW)
        fitting = few.labelled if len(few.arrival) else None
        if fitting is not None:
            check_held_out(fitting, raw)
        if towards == "identity":
            towards = decisions.identity_calibrator(few.posteriors, method or "auto")
        old = towards if isinstance(towards, Calibrator) else Calibrator.read(Path(towards))
        fitted, notes = decisions.recalibrate(fitting, old), (*notes, *few.notes)
        if fitting is None:
            notes = (*notes, "no label is known yet, so that the old calibrator stays as it is")
    else:
        fitting, further = read_system(fit, split="validation", states=RAW)
        check_held_out(fitting, raw)
        fitted, notes = fit_calibrator(fitting, method=method or "auto"), (*notes, *further)
    return Calibration(raw, fitted.apply(raw), fitted, notes, fitting)


@overload
def predict(
    run: Run | str | os.PathLike[str],
    rows: IntoDataFrameT,
    *,
    costs: AnyCosts | None = ...,
    gate: Gate | None = ...,
    orders: int = ...,
    device: str | None = ...,
    model: Model | None = ...,
) -> IntoDataFrameT: ...


@overload
def predict(
    run: Run | str | os.PathLike[str],
    rows: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
    *,
    costs: AnyCosts | None = ...,
    gate: Gate | None = ...,
    orders: int = ...,
    device: str | None = ...,
    model: Model | None = ...,
) -> Predictions: ...


def predict(
    run: Run | str | os.PathLike[str],
    rows: Any,
    *,
    costs: AnyCosts | None = None,
    gate: Gate | None = None,
    orders: int = 1,
    device: str | None = None,
    model: Model | None = None,
) -> Any:
    """Answers of a run for new rows: of a data frame the same kind of frame with more columns, else `Predictions`.

    Args:
        run: a run, its folder, or the text RUN:STATE (calibrated, adapted or base).
        rows: a data frame, a file, or mappings, with the columns of the run's own rows; labels may be missing.
        costs: of decisions; the run's when absent, or else 0-1 costs.
        gate: says which decisions are acted on, in a column `act`; it has its own costs.
        orders: average over this many orders of the options, without the run's calibrator, which is of one order.
        device: where to compute; as the run did when absent.
        model: the base model, where it is loaded already.

    Raises:
        InputError: as `Run.predict`.
    """
    folder, state = (run, None) if isinstance(run, Run) else parse_state(os.fspath(run))
    stated, _ = read_costs(costs)
    return folder.predict(rows, costs=stated, gate=gate, state=state, orders=orders, device=device, model=model)


def study(
    file: str | os.PathLike[str] | Study,
    *,
    tiny: bool = False,
    change: Iterable[str] = (),
    workers: int = 1,
    bank: Literal["auto", "on", "off"] = "auto",
    retry: bool = False,
    costs: str | None = None,
    log_to: str | None = None,
    out: str | os.PathLike[str] | None = None,
) -> StudyReport:
    """Run every configuration of a study on this machine, and write its table, figures and page.

    Repeating goes on where it stopped. What fails does not stop the rest: `StudyReport.table.failed` names it.

    Args:
        file: the study file, or a study.
        tiny: apply the file's `tiny:` block: the same study, small.
        change: KEY=VALUE, as --set.
        workers: processes on this machine.
        bank: train runs that share a base in one pass: on a GPU only (auto), always (on), never (off).
        retry: try again what failed.
        costs: of decisions: a costs file or `abstain=COST`, in place of the file's own.
        log_to: names of loggers, in place of the file's own.
        out: the folder of the study; runs/NAME when absent.

    Raises:
        InputError: mistakes in the study, all at once; `out` holds something else.
        RunError: nothing was measured.
        Interrupted: a signal; everything is saved.
    """
    if not 1 <= workers <= 1024:
        raise InputError(f"workers is {workers}; expected 1 to 1024")
    from rango.studies.execution import prepare, run_study
    from rango.studies.study_file import read_study

    if isinstance(file, str | os.PathLike):
        wanted = read_study(Path(file), tiny=tiny, changes=tuple(change), costs=costs, log_to=log_to)
    elif tiny or tuple(change) or costs is not None or log_to is not None:
        raise InputError("tiny, change, costs and log_to are for a study file; a Study has its own, leave them out")
    else:
        wanted = file
    folder = Path("runs") / wanted.name if out is None else Path(out)
    plan, store = prepare(wanted, folder, workers=workers)
    run_study(wanted, plan, store, workers=workers, bank=bank, retry=retry)
    # Bad input is refused above, before the second that figures take to load.
    from rango.reports.study.report import write_study_report

    report = write_study_report(folder)
    if not report.table.blocks:
        reasons = "; ".join(dict.fromkeys(why for row in report.table.rows for why in row.failures.values()))
        raise RunError(f"{folder}: nothing was measured ({reasons}); retry=True tries again what failed")
    return report
