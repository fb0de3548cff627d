"""`rango metrics`, `calibrate`, `decide`, `compare`: commands on posteriors from anywhere; no model is loaded."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import Parameter
from rich.console import Console

from rango.decisions import (
    Calibrator,
    Costs,
    Posteriors,
    calibration_loss,
    fit_calibrator,
    read_posteriors,
    summarise,
    write_posteriors,
)
from rango.decisions import compare as compare_systems
from rango.decisions import decide as decide_all
from rango.errors import InputError
from rango.files import check_writable_file, write_json, write_json_lines, write_text
from rango.reports.run.terminal import metrics_table

Method: TypeAlias = Literal["temperature", "bias", "affine", "vector", "matrix", "isotonic", "histogram"]
Seed = Annotated[int, Parameter(help="Seed of the bootstrap and of folds.")]
CostsFile = Annotated[Path | None, Parameter(help="YAML: classes, decisions, costs (row = true class); 0-1 if absent.")]
Priors = Annotated[str | None, Parameter(help="Class priors to measure or decide under, such as 0.2,0.3,0.5.")]
Replicates = Annotated[int, Parameter(help="Bootstrap replicates.")]


def metrics(
    file: Path,
    *,
    costs: CostsFile = None,
    priors: Priors = None,
    out: Path | None = None,
    replicates: Replicates = 1000,
    seed: Seed = 0,
) -> None:
    """Print every metric of a posteriors file, with 95 % bootstrap intervals.

    Parameters
    ----------
    file
        Parquet, CSV, JSONL or NPZ with label and one of posteriors, log_posteriors, logits.
    out
        JSON file to write the metrics to.
    """
    if out is not None:
        check_writable_file(out)
    estimates = summarise(
        read_posteriors(file), costs=_costs(costs), priors=_priors(priors), replicates=replicates, seed=seed
    )
    if out is not None:
        write_json(out, {name: estimate.as_dict() for name, estimate in estimates.items()})
    _print(metrics_table({file.stem: estimates}))


def calibrate(
    *,
    fit: Path | None = None,
    apply: Path,
    method: Method | None = None,
    out: Path,
    calibrator: Path | None = None,
    seed: Seed = 0,
) -> None:
    """Fit a calibrator on held-out posteriors, apply it to others, and say what calibration was worth.

    Parameters
    ----------
    fit
        Posteriors file to fit on: validation data, never the data applied to. Without it, --calibrator is applied.
    apply
        Posteriors file to calibrate.
    method
        How posteriors are transformed; temperature where the order of the choices means nothing, affine where
        column k is always class k.
    out
        Posteriors file to write.
    calibrator
        JSON file to write the fitted calibrator to, or to read it from when --fit is absent.
    """
    check_writable_file(out)
    fitted = _read_or_fit(fit, method, calibrator)
    raw = read_posteriors(apply)
    calibrated = fitted.apply(raw)
    write_posteriors(out, calibrated)
    _print(metrics_table({"raw": summarise(raw, seed=seed), "calibrated": summarise(calibrated, seed=seed)}))
    _print_fit(fitted, raw, seed)


def _read_or_fit(fit: Path | None, method: Method | None, calibrator: Path | None) -> Calibrator:
    """The calibrator that `calibrate` applies: read from its file, or fitted and written to it."""
    if fit is None:
        if calibrator is None:
            raise InputError("--fit is missing; give the posteriors to fit on, or --calibrator with a fitted one")
        if method is not None:
            raise InputError(f"--method {method} without --fit; a calibrator that is read has its own method")
        return Calibrator.read(calibrator)
    if method is None:
        raise InputError("--method is missing; give temperature, bias, affine, vector or matrix")
    if calibrator is not None:
        check_writable_file(calibrator)
    fitted = fit_calibrator(read_posteriors(fit), method=method)
    if calibrator is not None:
        fitted.write(calibrator)
    return fitted


def _print_fit(fitted: Calibrator, raw: Posteriors, seed: int) -> None:
    """Say whether the fit converged, and what share of the raw cross-entropy is calibration loss."""
    report = fitted.report
    if report is not None:
        state = f"converged in {report.iterations} iterations" if report.converged else "DID NOT CONVERGE"
        _print(
            f"\n{fitted.method} fitted on {report.n:,} instances: loss {report.loss_before:.4f} to "
            f"{report.loss_after:.4f} nats, {state}" + (f" ({report.note})" if report.note else "")
        )
    try:
        parts = calibration_loss(raw, method=fitted.method, seed=seed)
    except InputError as error:  # too few instances to cross-validate: the calibrated file is of use all the same
        _print(f"calibration loss: not available ({error})")
        return
    _print(
        f"calibration loss of the raw cross-entropy (diagnosis, {parts.folds}-fold cross-validation on the data "
        f"applied to): {parts.raw:.4f} = {parts.calibrated:.4f} discrimination {parts.loss:+.4f} calibration "
        f"({parts.relative:.1%})"
    )


def decide(
    file: Path,
    *,
    costs: Annotated[Path, Parameter(help="YAML file: classes, decisions, costs (row = true class).")],
    priors: Priors = None,
    out: Path,
) -> None:
    """Write the Bayes decision of each instance, its expected cost and the runner-up.

    Parameters
    ----------
    file
        A posteriors file, or a run directory (the adapted model on test).
    out
        .csv or .jsonl to write.
    """
    if out.suffix not in (".csv", ".jsonl"):
        raise InputError(f"--out {out}: ending {out.suffix!r} is not known; expected .csv or .jsonl")
    check_writable_file(out)
    table = Costs.from_yaml(costs)
    # A run directory stands for its result, what the adapted model says on test.
    source = file / "posteriors" / "test-adapted.parquet" if file.is_dir() else file
    decisions = decide_all(read_posteriors(source), costs=table, priors=_priors(priors))
    rows = list(decisions.rows())
    if out.suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_text(out, text.getvalue())
    else:
        write_json_lines(out, rows)
    counts = {name: sum(row["decision"] == name for row in rows) for name in decisions.names}
    shares = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    mean = sum(row["expected_cost"] for row in rows) / len(rows)
    _print(f"{len(rows):,} decisions: {shares}\nmean expected cost {mean:.4f}")


def compare(
    a: Path,
    b: Path,
    *,
    costs: CostsFile = None,
    priors: Priors = None,
    out: Path | None = None,
    replicates: Replicates = 1000,
    seed: Seed = 0,
) -> None:
    """Compare two systems on the same instances: difference of every metric, exact McNemar test, and a sentence.

    Parameters
    ----------
    a
        Posteriors file of the first system.
    b
        Posteriors file of the second.
    out
        JSON file to write the comparison to.
    """
    if out is not None:
        check_writable_file(out)
    pair = read_posteriors(a), read_posteriors(b)
    comparison = compare_systems(*pair, costs=_costs(costs), priors=_priors(priors), replicates=replicates, seed=seed)
    if out is not None:
        write_json(out, comparison.as_dict())
    # Files of two runs often have one name: then their paths tell them apart.
    first, second = (a.stem, b.stem) if a.stem != b.stem else (str(a), str(b))
    _print(metrics_table({first: comparison.a, second: comparison.b, "difference": comparison.difference}))
    _print("\n" + comparison.sentence(names=(first, second)))


def _costs(file: Path | None) -> Costs | None:
    return None if file is None else Costs.from_yaml(file)


def _priors(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--priors is {text!r}; expected numbers with commas between, such as 0.2,0.3,0.5") from None


def _print(what: Any) -> None:
    # No markup: names from files may hold square brackets.
    Console(highlight=False, markup=False, emoji=False).print(what)
