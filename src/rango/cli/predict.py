"""`rango predict`: the answers of a run for rows that came later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli.groups import CostsText, Quiet
from rango.cli.posteriors import check_output, place_note, print_costs, print_decisions
from rango.console import Screen, visible
from rango.decisions import Gate, StatedCosts
from rango.models.sources import check_at_hand, check_source
from rango.reports.run.findings import usable_finding
from rango.rows import check_written, write_rows
from rango.tasks.registry import load_further
from rango.tasks.sources import file_rows
from rango.training.prediction import added_columns, check_costs
from rango.training.run_folder import parse_state


def predict(
    run: Annotated[str, Parameter(help="A run directory, or RUN:STATE with calibrated, adapted or base.")],
    rows: Path,
    *,
    costs: CostsText = None,
    gate: Path | None = None,
    out: Path,
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
        New rows with the columns of the run's own (JSONL, CSV, TSV, Parquet).
    gate
        File that rango gate wrote, which says when to act on a decision and when to pass the row on.
    out
        The file to write: .csv, .jsonl or .parquet.
    device
        Where to compute: auto, cpu, cuda or cuda:N.
    """
    check_written(out)
    folder, state = parse_state(run)
    check_output(out, rows, costs)
    chosen = None if gate is None else Gate.load(gate)
    if chosen is not None:
        check_output(out, gate)
    given, predictor = None if costs is None else StatedCosts.read(costs), folder.predictor(state)
    stated = predictor.stated(given, chosen)
    # Bad input is refused above and below, before the seconds that torch takes.
    source = folder.path / "run.yaml"
    read = list(file_rows(rows))
    task = load_further(
        folder.config.task, read, table=folder.record.get("table"), source=source, prompts=folder.config.prompt
    )
    values = [row.values for row in read]
    added_columns(values, task.test, gated=chosen is not None)
    if chosen is not None:
        chosen.check_choices([instance.choices for instance in task.test])
    if stated is not None:
        check_costs(stated, task.test)
    check_source(folder.config.model, folder.config.quantise)
    check_at_hand(folder.config.model, device)
    screen = Screen(quiet=quiet)
    loaded = screen.loading(folder.config.model)
    from rango.models.loading import load_model

    model = load_model(folder.config.model, dtype=folder.config.dtype, device=device, quantise=folder.config.quantise)
    loaded()
    screen.say(f"Scoring {len(task.test):,} rows ...")
    predictions = predictor.predict(task, values, model=model, costs=given, gate=chosen, screen=screen)
    write_rows(out, list(predictions.table()))
    kind = state or ("adapted and calibrated" if predictor.calibrator is not None else "adapted, not calibrated")
    used = "an error costs 1" if stated is None else stated.words
    if stated is not None and costs is None:
        used += " (the run's)" if chosen is None else " (the gate's, of the decisions that act)"
    for note in (*predictions.notes, f"{folder.path}, {kind}, {used}", place_note(predictions.posteriors, stated)):
        if note:
            screen.say(f"· {visible(note)}")
    # Rows without labels cannot show that a model is worth nothing; the run's own test could.
    states = folder.contents(()).metrics.get("test")
    finding = usable_finding(states, state) if isinstance(states, Mapping) and states else None
    if finding is not None and finding.tone != "good":
        screen.say(f"· Warning, from the run's own test: {finding.sentence}")
    print_decisions(predictions.decisions)
    if predictions.acts is not None:
        screen.say(
            f"{int(predictions.acts.sum()):,} of {len(predictions.acts):,} decisions are acted on, the rest passed on"
        )
    if predictions.labelled is not None:
        print_costs(predictions.labelled, StatedCosts.of(predictions.costs), "these posteriors")
    print(out)
