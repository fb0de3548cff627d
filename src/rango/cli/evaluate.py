"""`rango evaluate`: the command that scores a model on a task, with or without an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli import Quiet
from rango.files import check_adapter_folder, check_writable
from rango.models.sources import check_source
from rango.options import EvaluateConfig
from rango.tasks import load_task
from rango.training.evaluation_of_run import as_the_run, check_evaluation_output


def evaluate(settings: Annotated[EvaluateConfig, Parameter(name="*")], *, out: Path, quiet: Quiet = False) -> None:
    """Write the posteriors and metrics of a model on one split, with or without an adapter.

    Parameters
    ----------
    out
        The folder to write: posteriors/*.parquet, metrics.json, evaluation.yaml.
    """
    if settings.adapter is not None:
        check_adapter_folder(settings.adapter)
    settings, notes = as_the_run(settings)
    check_source(settings.model, settings.quantise)
    check_writable(out)
    check_evaluation_output(out, settings)
    task = load_task(settings.task, settings)
    # Bad input is refused above, before the seconds that these take.
    from rango.console import Screen
    from rango.models.loading import load_model
    from rango.reports.run.terminal import print_result
    from rango.training.evaluate import write_evaluation

    base = load_model(settings.model, dtype=settings.dtype, device=settings.device, quantise=settings.quantise)
    metrics = write_evaluation(base, task, out=out, config=settings, screen=Screen(quiet=quiet), notes=notes)
    if metrics:
        print_result(out, split=settings.split, shown=out / "metrics.json")
    else:
        print(out / "posteriors")
