"""`rango probe`: the command that asks a model the same questions in another way"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli.groups import OUTPUT, SCORING, Concurrency, PageLanguage, Quiet, show_in_groups
from rango.console import Screen, Terminal
from rango.decisions import Gate
from rango.errors import InputError
from rango.files import check_writable, fingerprint
from rango.models.sources import check_at_hand, check_source
from rango.reports.run.robustness import PROBE, probe_table
from rango.serving.endpoint import parse_endpoint
from rango.serving.endpoint_evaluation import check_client, check_patience, endpoint_scores
from rango.tasks.perturbations import read_wordings
from rango.training.probing import RESULT, ProbeConfig, check_probe_folder, model_scores, plan_probe
from rango.training.probing import probe as ask_variants

Settings = Annotated[
    ProbeConfig, Parameter(name="*", show_default=lambda value: "that of the run" if value == "" else value)
]

show_in_groups(ProbeConfig)


def probe(
    settings: Settings = ProbeConfig(),
    *,
    questions: Annotated[Path | None, Parameter(group=SCORING)] = None,
    gate: Annotated[Path | None, Parameter(group=SCORING)] = None,
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    language: PageLanguage = None,
    concurrency: Concurrency = None,
    quiet: Quiet = False,
) -> None:
    """Ask a run, a model or an endpoint the same questions in another way, and say how often its decision changes.

    MODEL may be a run, as RUN or RUN:STATE (calibrated, adapted, base): task, form and calibrator are then the run's.
    Changes: other orders of the options (permute), other names than A, B, C (rename), one irrelevant option (distract),
    the right option removed or replaced by "none of these" (remove), other words around the question (reword).

    Parameters
    ----------
    questions
        Wordings for reword, one on a line, with the places {question} and {context}.
    gate
        File that rango gate wrote: how often it passes on instances whose right option was removed.
    out
        The folder to write: probe.json, posteriors/*.parquet. RUN/probe when absent, which the page of the run shows.
    """
    wordings = None if questions is None else read_wordings(questions)
    if wordings is not None and settings.changes is not None and "reword" not in settings.changes:
        raise InputError(f"--questions is {questions} but reword is not among the changes; leave one of them out")
    chosen = None if gate is None else Gate.load(gate)
    if chosen is not None and settings.changes is not None and "remove" not in settings.changes:
        raise InputError(f"--gate is {gate} but remove is not among the changes; leave one of them out")
    if settings.changes is not None and "permute" not in settings.changes and "orders" in settings.model_fields_set:
        raise InputError(f"orders is {settings.orders} but permute is not among the changes; leave one of them out")
    endpoint = parse_endpoint(settings.model)
    patience = check_patience(endpoint, concurrency)
    plan = plan_probe(settings, wordings=wordings, endpoint_form=None if endpoint is None else endpoint.form)
    folder = out or (None if plan.run is None else plan.run.path / PROBE)
    if folder is None:
        raise InputError("--out is missing; give the folder to write (of a run it is RUN/probe)")
    check_writable(folder)
    on_the_page = plan.run is not None and folder == plan.run.path / PROBE
    if language is not None and not on_the_page:
        raise InputError("--language is of a run's page, which shows what stands in RUN/probe alone; leave it out")
    if chosen is not None:
        chosen.check_choices([instance.choices for instance in plan.instances])
    screen = Screen(quiet=quiet)
    # Bad input is refused above and below, before the seconds that a model takes.
    if endpoint is not None:
        check_client()
        record = plan.record(settings, fingerprint(endpoint.address, endpoint.name))
        check_probe_folder(folder, record)
        ask = endpoint_scores(endpoint, out=folder, screen=screen, patience=patience)
        result = ask_variants(plan, ask=ask, out=folder, record=record, gate=chosen, screen=screen)
    else:
        config = plan.config
        check_source(config.model, config.quantise)
        check_at_hand(config.model, config.device)
        loaded = screen.loading(config.model)
        from rango.models.loading import load_model
        from rango.models.peft_format import load_adapter

        model = load_model(config.model, dtype=config.dtype, device=config.device, quantise=config.quantise)
        loaded()
        record = plan.record(settings, model.fingerprint)
        check_probe_folder(folder, record)
        if plan.uses_adapter and config.adapter is not None:
            load_adapter(model, config.adapter)
        ask = model_scores(model, config, screen)
        result = ask_variants(plan, ask=ask, out=folder, record=record, gate=chosen, screen=screen)
    console = Terminal()
    console.print(probe_table(result, width=console.width))
    if on_the_page and plan.run is not None:
        # Figures take a second to load, which a mistake in the data need not wait for.
        from rango.reports.run.page import write_report

        print(write_report(plan.run.path, language=language or "en"))
    print(folder / RESULT)
