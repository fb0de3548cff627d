"""`rango predict`: the answers of a run for rows that came later."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from cyclopts import Parameter

from rango import __version__
from rango.cli.groups import CostsText, Quiet
from rango.cli.posteriors import check_output, place_note, print_costs, show
from rango.console import Screen, visible
from rango.decisions import Gate, StatedCosts
from rango.errors import InputError
from rango.models.sources import check_at_hand, check_source
from rango.reports.run.findings import usable_finding
from rango.reports.tables import number
from rango.rows import check_written
from rango.training.prediction_pipe import PIPE, predict_pipe
from rango.training.prediction_stream import Answered, Totals, predict_file, run_identity
from rango.training.run_folder import parse_state

if TYPE_CHECKING:
    from rango.models.loading import Model


def predict(
    run: Annotated[str, Parameter(help="A run directory, or RUN:STATE with calibrated, adapted or base.")],
    rows: Annotated[Path, Parameter(allow_leading_hyphen=True)],
    *,
    costs: CostsText = None,
    gate: Path | None = None,
    orders: int = 1,
    out: Annotated[Path | None, Parameter(allow_leading_hyphen=True)] = None,
    device: str = "auto",
    quiet: Quiet = False,
) -> None:
    """Answer new rows with a run: every column kept, probabilities, decision, expected cost and runner-up added.

    Model, form, adapter and calibrator are the run's, and its costs where none are given. Rows need no label; with
    labels the real cost is printed too. A gate adds a column act (yes or no): the decision is then the best one that
    acts, under the gate's costs where it has any.

    Parameters
    ----------
    rows
        New rows with the columns of the run's own (JSONL, CSV, TSV, Parquet), or - for JSONL on stdin, answered on
        stdout as it comes.
    gate
        File that rango gate wrote, which says when to act on a decision and when to pass the row on.
    orders
        Average the posteriors over this many orders of the options, at as many times the cost; all K! where there are
        no more. In the letter form only, and without the run's calibrator, which was fitted for one order.
    out
        The file to write: .csv, .jsonl or .parquet; or - for JSONL on stdout, where a stopped command cannot be gone on
        with.
    device
        Where to compute: auto, cpu, cuda or cuda:N.
    """
    piped = PIPE in (str(rows), str(out))
    if out is None and not piped:
        raise InputError("--out is missing; give the file to write, or - for stdout")
    if str(rows) == PIPE and str(out or PIPE) != PIPE:
        raise InputError(
            f"--out is {out}, but rows on stdin are answered on stdout; leave --out out, or give a file of rows"
        )
    folder, state = parse_state(run)
    chosen = None if gate is None else Gate.load(gate)
    if out is not None and not piped:
        check_written(out)
        check_output(out, rows, costs, gate)
    given, predictor = None if costs is None else StatedCosts.read(costs), folder.predictor(state, orders=orders)
    stated, config = predictor.stated(given, chosen), folder.config
    screen = Screen(quiet=quiet)

    def load() -> Model:
        # Bad input is refused before, without the seconds that torch takes.
        check_source(config.model, config.quantise)
        check_at_hand(config.model, device)
        loaded = screen.loading(config.model)
        from rango.models.loading import load_model

        model = load_model(config.model, dtype=config.dtype, device=device, quantise=config.quantise)
        loaded()
        return model

    if piped:
        source = sys.stdin.buffer if str(rows) == PIPE else rows
        answered = predict_pipe(
            predictor, source, sys.stdout.buffer, load=load, costs=given, gate=chosen, screen=screen
        )
    else:
        assert out is not None
        settings = {
            "version of Rango": __version__,
            "run": run_identity(predictor),
            "--costs": None if stated is None else stated.as_dict(),
            "--gate": None if chosen is None else chosen.as_dict(),
            "--orders": orders,
            "--device": device,
            "--out": out.suffix,
        }
        answered = predict_file(
            predictor, rows, out, load=load, settings=settings, costs=given, gate=chosen, screen=screen
        )
    kind = state or ("adapted and calibrated" if predictor.calibrator is not None else "adapted, not calibrated")
    if orders > 1 and (folder.path / "calibrator.json").is_file() and state is None:
        kind += ", because its calibrator was fitted for one order of the options"
    used = "an error costs 1" if stated is None else stated.words
    if stated is not None and costs is None:
        used += " (the run's)" if chosen is None else " (the gate's, of the decisions that act)"
    for note in (*answered.notes, f"{folder.path}, {kind}, {used}", place_note(answered.offered.standing(), stated)):
        if note:
            screen.say(f"· {visible(note)}")
    # Rows without labels cannot show that a model is worth nothing; the run's own test could.
    states = folder.contents(()).metrics.get("test")
    finding = usable_finding(states, state) if isinstance(states, Mapping) and states else None
    if finding is not None and finding.tone != "good":
        screen.say(f"· Warning, from the run's own test: {finding.sentence}")
    # Beside answers on stdout there is no place for what is said of them.
    if piped and quiet:
        return
    with contextlib.redirect_stdout(sys.stderr) if piped else contextlib.nullcontext():
        for line in _decision_lines(answered.totals, gated=chosen is not None):
            show(line)
        _print_measured(answered, chosen)
        if not piped:
            print(out)


def _decision_lines(totals: Totals, *, gated: bool) -> Iterator[str]:
    """How often each decision was taken, and what the posteriors promise of rows acted on and of rows passed on."""
    passed, acted = counts = totals.taken.sum(axis=1).tolist()
    means = [number(cost / count) if count else "" for cost, count in zip(totals.expected, counts, strict=True)]
    if not gated:
        yield f"{acted:,} decisions: {_shares(totals, 1)}"
        yield f"mean expected cost {means[1]}, as the posteriors forecast it"
        return
    yield f"{acted:,} of {passed + acted:,} decisions are acted on, the rest passed on"
    if acted:
        yield f"acted on: {_shares(totals, 1)}; mean expected cost {means[1]}, as the posteriors forecast it"
    if passed:
        yield f"passed on: {_shares(totals, 0)}; to act on these would cost {means[0]} on average, as they forecast it"


def _shares(totals: Totals, side: int) -> str:
    counts = zip(totals.names, totals.taken[side].tolist(), strict=True)
    return ", ".join(f"{visible(name)} {count:,}" for name, count in counts)


def _print_measured(answered: Answered, gate: Gate | None) -> None:
    """What the decisions cost by the labels, where rows have them; with a gate, those that are acted on."""
    measured = answered.measured
    if measured is None:
        return
    if len(measured) < answered.totals.labelled:
        show(f"measured on {len(measured):,} of {answered.totals.labelled:,} rows with labels, drawn at random")
    system = "these posteriors"
    if gate is not None:
        acts = gate.decide(measured).acts
        show(f"of the rows with labels {int(acts.sum()):,} of {len(acts):,} are acted on")
        if not acts.any():
            return
        measured, system = measured.take(np.flatnonzero(acts)), "the decisions acted on"
    print_costs(measured, StatedCosts.of(answered.costs), system)
