"""`rango evaluate`: the command that scores a model on a task, with or without an adapter."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli import check_shard
from rango.cli.groups import Concurrency, CostsText, Offload, Out, PageLanguage, Quiet, Shard, show_in_groups
from rango.console import Screen
from rango.decisions import StatedCosts
from rango.errors import InputError
from rango.files import FULL_RECORD, check_adapter_folder, check_writable
from rango.models.sources import check_at_hand, check_source
from rango.options import EvaluateConfig
from rango.serving.endpoint import parse_endpoint
from rango.serving.endpoint_evaluation import check_client, check_patience, evaluate_endpoint
from rango.tasks import few_shot, load_task
from rango.tasks.perturbations import check_orders
from rango.training.evaluation_of_run import as_the_run, check_evaluation_output, costs_for

# Only the model and the task are empty by default.
Settings = Annotated[
    EvaluateConfig,
    Parameter(name="*", show_default=lambda value: "that of --adapter RUN" if value == "" else value),
]

show_in_groups(EvaluateConfig)


def evaluate(
    settings: Settings = EvaluateConfig(),
    *,
    out: Out,
    costs: CostsText = None,
    language: PageLanguage = None,
    shard: Shard = False,
    offload: Offload = False,
    concurrency: Concurrency = None,
    quiet: Quiet = False,
) -> None:
    """Write the posteriors and metrics of a model on one split, with or without an adapter.

    MODEL may be an endpoint: systemone:URL#NAME (rango serve and others), or openai:URL#NAME where the server gives
    log-probabilities. Its key is that of TYPESAFE_API_KEY or OPENAI_API_KEY.
    Of a run (`--adapter RUN`) model, task, form, calibrator and costs are taken where nothing else is given.
    On several GPUs: `torchrun --nproc-per-node 2 -m rango evaluate …`.

    Parameters
    ----------
    out
        The folder to write: posteriors/*.parquet, metrics.json, evaluation.yaml, report.html.
    """
    if settings.adapter is not None:
        full = (check_adapter_folder(settings.adapter) / FULL_RECORD).is_file()
        check_shard(shard, offload, full=full)
    settings, notes = as_the_run(settings)
    endpoint = parse_endpoint(settings.model)
    patience = check_patience(endpoint, concurrency)
    if endpoint is None:
        check_source(settings.model, settings.quantise)
    elif offload or shard:
        option = "--offload" if offload else "--shard"
        raise InputError(f"{option} places layers on this machine, and {settings.model} is an endpoint; leave it out")
    check_shard(shard, offload, device=settings.device, quantise=settings.quantise)
    # The check makes the folder and removes it again: processes of one command would take it from each other.
    if os.environ.get("RANK", "0") == "0":
        check_writable(out)
    check_evaluation_output(out, settings)
    stated = None if costs is None else StatedCosts.read(costs)
    task = load_task(settings.task, settings)
    few_shot(task, shots=settings.shots, seed=settings.shots_seed)  # refuses more of them than the task has
    stated = costs_for(task, settings, stated)
    if endpoint is None:
        check_orders(settings.orders, settings.form or task.default_form)
        check_at_hand(settings.model, settings.device)
    # Bad input is refused above, before the seconds that these take.
    screen = Screen(quiet=quiet or os.environ.get("RANK", "0") != "0")
    if endpoint is not None:
        check_client()
        if evaluate_endpoint(endpoint, task, out=out, config=settings, screen=screen, costs=stated, patience=patience):
            _show(out, settings.split, language)
        else:
            print(out / "posteriors")
        return
    loaded = screen.loading(settings.model)
    from rango.models.loading import load_model
    from rango.training.distributed import launched
    from rango.training.evaluate import write_evaluation
    from rango.training.sharding import load_sharded

    with launched(settings.device, alone=offload) as (processes, device):
        load = partial(load_model, settings.model, dtype=settings.dtype, device=device, quantise=settings.quantise)
        base = load_sharded(load, device, processes, offload=offload) if shard or offload else load()
        loaded()
        metrics = write_evaluation(base, task, out=out, config=settings, screen=screen, notes=notes, costs=stated)
        if metrics:
            _show(out, settings.split, language)
        elif processes.is_main:
            print(out / "posteriors")


def _show(out: Path, split: str, language: PageLanguage) -> None:
    # Figures take a second to load, which a mistake in the data need not wait for.
    from rango.reports.run.page import write_report
    from rango.reports.run.terminal import print_result

    print_result(out, split=split, shown=write_report(out, language=language or "en"))
