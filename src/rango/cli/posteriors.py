"""`rango metrics`, `calibrate`, `decide`, `compare`: commands on posteriors from anywhere; no model is loaded."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import Parameter
from rich.console import Console

from rango.decisions import (
    Calibrator,
    Costs,
    Estimate,
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
from rango.files import write_json, write_text
from rango.reports.run.terminal import metrics_table

Method: TypeAlias = Literal["temperature", "bias", "affine", "vector", "matrix", "isotonic", "histogram"]
Seed = Annotated[int, Parameter(help="Seed of the bootstrap and of folds.")]
CostsFile = Annotated[
    Path | None, Parameter(help="YAML file: classes, decisions, costs (row = true class); 0-1 if absent.")
]
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
    found = summarise(
        read_posteriors(file), costs=_costs(costs), priors=_priors(priors), replicates=replicates, seed=seed
    )
    if out is not None:
        write_json(out, _entries(found))
    _print(metrics_table({file.stem: found}))


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
    fitted = _fitted(fit, method, calibrator)
    raw = read_posteriors(apply)
    calibrated = fitted.apply(raw)
    write_posteriors(out, calibrated)
    _print(metrics_table({"raw": summarise(raw, seed=seed), "calibrated": summarise(calibrated, seed=seed)}))
    _say_fit(fitted, raw, seed)


def _fitted(fit: Path | None, method: Method | None, calibrator: Path | None) -> Calibrator:
    if fit is None:
        if calibrator is None:
            raise InputError("--fit is missing; give the posteriors to fit on, or --calibrator with a fitted one")
        if method is not None:
            raise InputError(f"--method {method} without --fit; a calibrator that is read has its own method")
        return Calibrator.read(calibrator)
    if method is None:
        raise InputError("--method is missing; give temperature, bias, affine, vector or matrix")
    fitted = fit_calibrator(read_posteriors(fit), method=method)
    if calibrator is not None:
        fitted.write(calibrator)
    return fitted


def _say_fit(fitted: Calibrator, raw: Posteriors, seed: int) -> None:
    report = fitted.report
    if report is not None:
        state = f"converged in {report.iterations} iterations" if report.converged else "DID NOT CONVERGE"
        _print(
            f"\n{fitted.method} fitted on {report.n:,} instances: loss {report.loss_before:.4f} to "
            f"{report.loss_after:.4f} nats, {state}" + (f" ({report.note})" if report.note else "")
        )
    try:
        found = calibration_loss(raw, method=fitted.method, seed=seed)
    except InputError as error:
        _print(f"calibration loss: not available ({error})")
        return
    _print(
        f"calibration loss of the raw cross-entropy (diagnosis, {found.folds}-fold cross-validation on the data "
        f"applied to): {found.raw:.4f} = {found.calibrated:.4f} discrimination {found.loss:+.4f} calibration "
        f"({found.relative:.1%})"
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
    source = file / "posteriors" / "test-adapted.parquet" if file.is_dir() else file
    posteriors, table = read_posteriors(source), Costs.from_yaml(costs)
    found = decide_all(posteriors, costs=table, priors=_priors(priors))
    rows = list(found.rows())
    _write_rows(out, rows)
    counts = {name: sum(row["decision"] == name for row in rows) for name in found.names}
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
    found = compare_systems(
        read_posteriors(a),
        read_posteriors(b),
        costs=_costs(costs),
        priors=_priors(priors),
        replicates=replicates,
        seed=seed,
    )
    if out is not None:
        write_json(out, found.as_dict())
    first, second = (a.stem, b.stem) if a.stem != b.stem else (str(a), str(b))
    _print(metrics_table({first: found.a, second: found.b, "difference": found.difference}))
    _print("\n" + found.sentence(names=(first, second)))


def _costs(file: Path | None) -> Costs | None:
    return None if file is None else Costs.from_yaml(file)


def _priors(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--priors is {text!r}; expected numbers with commas between, such as 0.2,0.3,0.5") from None


def _entries(found: dict[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.as_dict() for name, estimate in found.items()}


def _write_rows(out: Path, rows: list[dict[str, Any]]) -> None:
    if out.suffix == ".jsonl":
        write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    elif out.suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_text(out, text.getvalue())
    else:
        raise InputError(f"--out {out}: ending {out.suffix!r} is not known; expected .csv or .jsonl")


def _print(what: Any) -> None:
    Console(highlight=False, markup=False, emoji=False).print(what)
