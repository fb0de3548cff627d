"""`rango evaluate`: the command that scores a model on a task, with or without an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli import Quiet
from rango.cli.resolve import resolve
from rango.files import check_writable
from rango.options import EvaluateConfig, EvaluateOptions, ModelOptions, TaskOptions


def evaluate(
    model: str | None = None,
    task: str | None = None,
    /,
    *,
    out: Path | None = None,
    options: Annotated[EvaluateOptions | None, Parameter(name="*")] = None,
    config: Path | None = None,
    quiet: Quiet = False,
) -> None:
    """Write the posteriors and metrics of a model on one split, with or without an adapter.

    Parameters
    ----------
    model
        Hub id, or folder with a transformers checkpoint.
    task
        socialiqa, hellaswag, simulated, simulated-continuations, or the path of a table.
    out
        The folder to write: posteriors/*.parquet, metrics.json, evaluation.yaml.
    config
        YAML file with the same keys; flags win.
    quiet
        No progress, only the result.
    """
    settings, apart = resolve(EvaluateConfig, config, options, model=model, task=task, out=out)
    from rango.console import Screen
    from rango.models.loading import load_model
    from rango.reports.run.terminal import print_result
    from rango.tasks import load_task
    from rango.training.evaluate import as_the_run, write_evaluation

    settings, notes = as_the_run(settings)
    check_writable(apart["out"])
    asked = load_task(settings.task, settings.pick(TaskOptions))
    base = load_model(settings.model, **dict(settings.pick(ModelOptions)))
    write_evaluation(base, asked, out=apart["out"], config=settings, screen=Screen(quiet=quiet), notes=notes)
    print_result(apart["out"], split=settings.split, shown=apart["out"] / "metrics.json")
