"""`rango metrics`, `calibrate`, `decide`, `compare`: commands on posteriors from anywhere; no model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter, validators
from numpy.typing import ArrayLike

from rango.cli.groups import CostsText, PageLanguage
from rango.commands import calibrate as fit_and_apply
from rango.console import Terminal, visible
from rango.decisions import (
    Calibrator,
    Costs,
    Estimate,
    Posteriors,
    StatedCosts,
    calibration_loss,
    cost_balance,
    summarise,
    temperature_instances,
    write_posteriors,
)
from rango.decisions import compare as compare_systems
from rango.decisions import decide as decide_all
from rango.decisions.calibrators import MethodChoice
from rango.decisions.pairing import align_by_id
from rango.decisions.risk import Decisions
from rango.errors import InputError
from rango.files import check_writable_file, write_json
from rango.options import Split
from rango.reports.run.findings import cost_finding, resolution_sentence
from rango.reports.run.terminal import metrics_table
from rango.reports.tables import number
from rango.rows import check_written, write_rows
from rango.training.systems import read_costs, read_priors, read_system, system_names

Seed = Annotated[int, Parameter(help="Seed of the bootstrap and of folds.", validator=validators.Number(gte=0))]
Source = Annotated[str, Parameter(help="A posteriors file, or RUN, or RUN:STATE (base, adapted, calibrated, floor).")]
Priors = Annotated[str | None, Parameter(help="Class priors to measure or decide under: 0.2,0.8 or no=0.2,yes=0.8.")]
# A million replicates move no digit that is shown.
Replicates = Annotated[int, Parameter(help="Bootstrap replicates.", validator=validators.Number(gte=0, lte=1_000_000))]


def metrics(
    sources: Annotated[
        list[str], Parameter(help="Posteriors files, or RUN, or RUN:STATE.", negative=(), consume_multiple=True)
    ],
    *,
    costs: CostsText = None,
    priors: Priors = None,
    out: Path | None = None,
    replicates: Replicates = 1000,
    seed: Seed = 0,
) -> None:
    """Print every metric of posteriors, with 95 % bootstrap intervals; of several, side by side.

    Parameters
    ----------
    sources
        Posteriors (Parquet, CSV, JSONL or NPZ with label and one of posteriors, log_posteriors, logits), or RUN, or
        RUN:STATE.
    out
        JSON file to write the metrics to; of several sources, under the name of each.
    """
    if out is not None:
        check_output(out, *sources, costs)
    stated, names = stated_costs(costs, *sources), system_names(*sources)
    estimates: dict[str, dict[str, Estimate]] = {}
    notes: dict[str, None] = {}
    systems = dict(zip(names, map(read_source, sources), strict=True))
    for name, posteriors in systems.items():
        weights, table = read_priors(priors, posteriors, option="--priors"), table_of(stated, posteriors)
        estimates[name] = summarise(posteriors, costs=table, priors=weights, replicates=replicates, seed=seed)
        notes[place_note(posteriors, stated)] = None  # once, where it is the same for all
    # The labels' own distributions are the floor of what any system can reach on them.
    soft = next((posteriors for posteriors in systems.values() if posteriors.targets is not None), None)
    if soft is not None:
        weights, table = read_priors(priors, soft, option="--priors"), table_of(stated, soft)
        floor = summarise(soft.target_only(), costs=table, priors=weights, replicates=replicates, seed=seed)
        estimates["labels"] = floor
        names = (*names, "labels")
    if out is not None:
        written = {name: {key: value.as_dict() for key, value in row.items()} for name, row in estimates.items()}
        write_json(out, written if len(names) > 1 else written[names[0]])
    show(metrics_table(estimates, with_costs=stated is not None, width=Terminal().width))
    for note in filter(None, notes):
        show(f"note: {note}")
    for name, posteriors in systems.items():
        if stated is not None:
            weights = read_priors(priors, posteriors, option="--priors")
            print_costs(posteriors, stated, name, weights, replicates=replicates, seed=seed)


def calibrate(
    *,
    fit: Source | None = None,
    apply: Source,
    method: MethodChoice | None = None,
    out: Path,
    calibrator: Path | None = None,
    towards: str | None = None,
    precision: float | None = None,
    costs: CostsText = None,
    seed: Seed = 0,
) -> None:
    """Fit a calibrator on held-out posteriors, apply it to others, and say what calibration was worth.

    Parameters
    ----------
    fit
        Posteriors to fit on: validation data, never the data applied to; of RUN, those of its adapted model on
        validation. Without it, --calibrator is applied.
    apply
        Posteriors to calibrate; of RUN, those of its adapted model on test.
    method
        How posteriors are transformed. auto, when absent, takes affine where all instances have the same choices and
        there is enough evidence for it, and temperature elsewhere.
    out
        Posteriors file to write.
    calibrator
        JSON file to write the fitted calibrator to, or to read it from when --fit is absent.
    towards
        JSON file of the calibrator in use, or identity: --fit may then have few labels, and the new fit is held near
        the old one as firmly as they suggest.
    precision
        With --towards, say how many labels fix a temperature to this share of it; 0.1 when absent.
    """
    # Without instances to fit on, --calibrator is read.
    fitted_to, read_from = (None, calibrator) if fit is None else (calibrator, None)
    check_outputs({"--out": out, "--calibrator": fitted_to}, fit, apply, towards, costs, read_from)
    if precision is not None and towards is None:
        raise InputError("--precision is about the labels of --towards; give the old calibrator too, or leave it out")
    precision = 0.1 if precision is None else precision
    if not 0 < precision < 1:
        raise InputError(f"precision is {precision:g}; expected a share between 0 and 1, such as 0.1")
    # Instances to calibrate need no labels; those to fit on do.
    stated = stated_costs(costs, apply)
    done = fit_and_apply(fit=fit, apply=apply, method=method, calibrator=calibrator, towards=towards)
    _print_notes(done.notes)
    raw, calibrated, fitted = done.raw, done.posteriors, done.calibrator
    table = table_of(stated, raw)
    if fit is not None and calibrator is not None:
        fitted.write(calibrator)
    write_posteriors(out, calibrated)
    if raw.has_labels:
        systems = {"raw": raw, "calibrated": calibrated}
        estimates = {name: summarise(system, costs=table, seed=seed) for name, system in systems.items()}
        show(metrics_table(estimates, with_costs=table is not None, width=Terminal().width))
        for name, system in systems.items():
            if stated is not None:
                print_costs(system, stated, f"the {name} posteriors", seed=seed)
    else:
        show(f"{len(raw):,} instances without labels are calibrated; what that is worth needs labels")
    if (fitted.choices is None) != (raw.column_names is None) and fitted.method != "temperature":
        side = "the calibrator" if fitted.choices is None else "the posteriors"
        show(f"note: the columns are taken by place, because {side} name no classes")
    _print_fit(fitted, raw, seed)
    if done.fitted_on is not None and towards is not None:
        try:
            needed = temperature_instances(done.fitted_on, precision=precision)
        except InputError as error:
            show(f"labels that would fix a temperature: not available ({error})")
        else:
            show(f"{needed:,} labels fix a temperature to ± {precision:.0%}; here are {len(done.fitted_on):,}")


def _print_fit(fitted: Calibrator, raw: Posteriors, seed: int) -> None:
    """Say whether the fit converged, and what share of the raw cross-entropy is calibration loss."""
    report = fitted.report
    if report is not None:
        state = f"converged in {report.iterations} iterations" if report.converged else "DID NOT CONVERGE"
        show(
            f"\n{fitted.method} fitted on {report.n:,} instances: loss {number(report.loss_before)} to "
            f"{number(report.loss_after)} nats, {state}" + (f" ({report.note})" if report.note else "")
        )
    if not raw.has_labels:
        return
    try:
        parts = calibration_loss(raw, method=fitted.method, seed=seed)
    except InputError as error:  # too few instances to cross-validate: the calibrated file is of use all the same
        show(f"calibration loss: not available ({error})")
        return
    interval = parts.note or "no interval"
    if parts.low is not None and parts.high is not None:
        interval = f"95% interval {number(parts.low, sign=True)} to {number(parts.high, sign=True)}"
    show(
        f"calibration loss of the raw cross-entropy (diagnosis, {parts.folds}-fold cross-validation on the data "
        f"applied to): {number(parts.raw)} = {number(parts.calibrated)} discrimination "
        f"{number(parts.loss, sign=True)} calibration ({parts.relative:.1%}; {interval})"
    )


def decide(
    source: Source,
    *,
    costs: CostsText = None,
    priors: Priors = None,
    training_priors: Annotated[
        str | None, Parameter(help="Class priors behind the posteriors; the shares of the labels if absent.")
    ] = None,
    out: Path,
    replicates: Replicates = 1000,
    seed: Seed = 0,
) -> None:
    """Write the Bayes decision of each instance, its expected cost and the runner-up; with labels, say what they cost.

    Without --costs they are decided under the costs that RUN states.

    Parameters
    ----------
    source
        Posteriors with labels or without, or RUN, or RUN:STATE.
    out
        The file to write: .csv, .jsonl or .parquet.
    """
    check_written(out)
    check_output(out, source, costs)
    stated = stated_costs(costs, source)
    if stated is None:
        raise InputError(f"--costs is missing, and {source} states none; give a costs file, or abstain=0.3")
    posteriors = read_source(source, need_labels=False)
    target = read_priors(priors, posteriors, option="--priors")
    training = read_priors(training_priors, posteriors, option="--training-priors")
    if target is not None:
        posteriors = posteriors.with_priors(target, training_priors=training)
    elif training is not None:
        raise InputError("--training-priors without --priors; give the priors to decide under too")
    matched = stated.for_posteriors(posteriors)
    decisions = decide_all(posteriors, costs=matched)
    rows = list(decisions.rows())
    write_rows(out, rows)
    if note := place_note(posteriors, stated):
        show(f"note: {note}")
    print_decisions(decisions)
    if posteriors.has_labels:
        print_costs(posteriors, stated, "these posteriors", target, replicates=replicates, seed=seed)


def print_decisions(decisions: Decisions) -> None:
    """How often each decision was taken, and what the posteriors promise."""
    counts = np.bincount(decisions.chosen, minlength=len(decisions.names))
    shares = ", ".join(f"{visible(name)} {count:,}" for name, count in zip(decisions.names, counts, strict=True))
    show(f"{len(decisions.ids):,} decisions: {shares}")
    show(f"mean expected cost {number(float(decisions.expected_costs.mean()))}, as the posteriors forecast it")


def place_note(posteriors: Posteriors, stated: StatedCosts | None) -> str:
    """That costs and choices are matched by place, and why; "" where they are matched by name."""
    if stated is None or stated.is_rule:
        return ""
    costs = stated.matrix
    if posteriors.column_names is None and costs.named:
        why = "name no choices" if posteriors.choices is None else "have other choices for each instance"
        return f"the rows of the costs are taken as columns 0, 1, … in order, because the posteriors {why}"
    if posteriors.column_names is not None and posteriors.match_costs(costs).classes != posteriors.column_names:
        names = ", ".join(posteriors.column_names)
        return f"the rows of the costs are taken in the order of the choices ({names}), because they name no classes"
    return ""


def print_costs(
    posteriors: Posteriors,
    stated: StatedCosts,
    system: str,
    priors: ArrayLike | None = None,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> None:
    """What acting on a system costs by the labels, beside its promise and the best single decision for all."""
    costs = stated.for_posteriors(posteriors)
    balance = cost_balance(posteriors, costs=costs, priors=priors, replicates=replicates, seed=seed)
    show(visible(cost_finding(balance, system).sentence), wrap=True)


def check_output(out: Path, *inputs: Path | str | None, option: str = "--out") -> None:
    """Raise InputError where `out` cannot be written, or is one of the inputs, which would be lost."""
    check_writable_file(out)
    # Costs of a file for --config come as their content, which is no name.
    for path in (Path(source) for source in inputs if source is not None and not str(source).startswith("{")):
        if out.exists() and path.exists() and out.samefile(path):
            raise InputError(f"{option} {out} is one of the inputs, which would be overwritten; give another file")


def check_outputs(outputs: Mapping[str, Path | None], *inputs: Path | str | None) -> None:
    """`check_output` of the file of each option; InputError too where two options name the same file."""
    named: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is not None:
            check_output(path, *inputs, option=option)
            first = named.setdefault(path.resolve(), option)
            if first != option:
                raise InputError(f"{first} and {option} are both {path}; give each a file of its own")


def compare(
    a: Source,
    b: Source,
    *others: Source,
    costs: CostsText = None,
    priors: Priors = None,
    out: Path | None = None,
    page: Path | None = None,
    language: PageLanguage = None,
    replicates: Replicates = 1000,
    seed: Seed = 0,
) -> None:
    """Compare systems on the same instances: difference of every metric, exact McNemar test, and a sentence.

    Without labels, say how far the two agree.

    Parameters
    ----------
    a
        Posteriors of the first system.
    b
        Posteriors of the second.
    others
        Posteriors of further systems; each is compared with the first.
    out
        JSON file to write the comparison to; of more than two systems, under the name of each but the first.
    page
        HTML file to write: differences, disagreements, reliability and a cost explorer.
    """
    check_outputs({"--out": out, "--page": page}, a, b, *others, costs)
    if page is not None and priors is not None:
        raise InputError("--page shows the instances as they are; leave --priors out, or --page")
    if language is not None and page is None:
        raise InputError("--language is of the page; give --page FILE too, or leave it out")
    sources = (a, b, *others)
    # Two systems without labels can still be asked how far they agree; more of them, or a page, need labels.
    measured = bool(others) or page is not None
    names, stated = system_names(*sources), stated_costs(costs, *sources)
    systems = {name: read_source(each, need_labels=measured) for name, each in zip(names, sources, strict=True)}
    first, *rest = systems.values()
    if not any(posteriors.has_labels for posteriors in systems.values()):
        for option, value in (("--costs", costs), ("--priors", priors)):
            if value is not None:
                raise InputError(f"{option} is for what labels measure, and there are none; leave it out")
        return _print_agreement(first, rest[0], out)
    weights, table = read_priors(priors, first, option="--priors"), table_of(stated, first)
    options: dict[str, Any] = {"costs": table, "replicates": replicates, "seed": seed}
    comparisons = {name: compare_systems(first, systems[name], priors=weights, **options) for name in names[1:]}
    if out is not None:
        written = {name: comparison.as_dict() for name, comparison in comparisons.items()}
        write_json(out, written if others else written[names[1]])
    for name, comparison in comparisons.items():
        shown = {names[0]: comparison.a, name: comparison.b, "difference": comparison.difference}
        show(metrics_table(shown, with_costs=stated is not None, width=Terminal().width))
        show("\n" + comparison.sentence(names=(names[0], name)), wrap=True)
        show(resolution_sentence({names[0]: first, name: systems[name]}, table), wrap=True)
    for note in dict.fromkeys(
        [*_matching_notes(names, list(systems.values())), *(place_note(one, stated) for one in systems.values())]
    ):
        if note:
            show(f"note: {note}")
    if stated is not None:
        for name, posteriors in systems.items():
            weights = read_priors(priors, posteriors, option="--priors")
            print_costs(posteriors, stated, name, weights, replicates=replicates, seed=seed)
    if page is not None:
        # Figures take a second to load, which bad input need not wait for.
        from rango.reports.run.comparison import texts_beside, write_comparison

        texts = texts_beside(sources)
        print(write_comparison(page, systems, comparisons, texts=texts, language=language or "en", **options))


def _print_agreement(a: Posteriors, b: Posteriors, out: Path | None) -> None:
    """How far two systems without labels agree."""
    one, other = np.exp(a.log_posteriors), np.exp(align_by_id(a, b).log_posteriors)  # (N, K)
    same, distance = one.argmax(axis=1) == other.argmax(axis=1), 0.5 * np.abs(one - other).sum(axis=1)
    agreement = {"n": len(one), "same_choice": float(same.mean()), "total_variation": float(distance.mean())}
    if out is not None:
        write_json(out, agreement)
    show(
        f"{len(one):,} instances without labels, so that neither can be called better: the two prefer the same "
        f"choice on {int(same.sum()):,}; their posteriors differ by {number(agreement['total_variation'])} on "
        "average (total variation: 0 equal, 1 disjoint)",
        wrap=True,
    )


def _matching_notes(names: Sequence[str], systems: Sequence[Posteriors]) -> Iterator[str]:
    """What was matched by name because it stands in another order than in the first system."""
    first, *rest = systems
    for name, other in zip(names[1:], rest, strict=True):
        where = "in the second file" if len(rest) == 1 else f"in {name}"
        if first.ids != other.ids:
            yield f"the instances stand in another order {where}; they were matched by their ids"
        columns = (first.column_names, other.column_names)
        if None not in columns and columns[0] != columns[1]:
            yield f"the choices stand in another order {where}; they were matched by their names"


def read_source(source: str, *, need_labels: bool = True, split: Split = "test") -> Posteriors:
    """The posteriors of a file, of RUN or of RUN:STATE; how they were understood is printed."""
    posteriors, notes = read_system(source, need_labels=need_labels, split=split)
    _print_notes(notes)
    return posteriors


def stated_costs(text: str | None, *sources: str) -> StatedCosts | None:
    """What `--costs` states, or else the runs among the sources, which is printed; None where nobody does."""
    stated, notes = read_costs(text, *sources)
    _print_notes(notes)
    return stated


def table_of(stated: StatedCosts | None, posteriors: Posteriors) -> Costs | None:
    """The costs that are stated, with a row for each column of the posteriors."""
    return None if stated is None else stated.for_posteriors(posteriors)


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        show(f"note: {note}")


def show(what: Any, *, wrap: bool = False) -> None:
    """Print a text, or a table, as the terminal can show it; a text goes on beyond the width unless `wrap` is given."""
    Terminal().print(what, soft_wrap=isinstance(what, str) and not wrap)
