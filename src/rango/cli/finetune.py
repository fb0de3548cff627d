"""`rango finetune`: the command that adapts a model to a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli import Quiet
from rango.cli.resolve import resolve
from rango.files import check_writable
from rango.options import FinetuneConfig, FinetuneOptions, TaskOptions


def finetune(
    model: str | None = None,
    task: str | None = None,
    /,
    *,
    out: Path | None = None,
    options: Annotated[FinetuneOptions | None, Parameter(name="*")] = None,
    config: Path | None = None,
    quiet: Quiet = False,
) -> None:
    """Adapt a model to a task with LoRA, and measure base and adapted model on the test split.

    The best checkpoint on validation is kept, with the last one. Repeating the command goes on with an unfinished run.
    On several GPUs: `torchrun --nproc-per-node 2 -m rango finetune …`.

    Parameters
    ----------
    model
        Hub id, or folder with a transformers checkpoint.
    task
        socialiqa, hellaswag, simulated, simulated-continuations, or the path of a table.
    out
        The run directory to write.
    config
        YAML file with the same keys; flags win.
    quiet
        No progress, only the result.
    """
    settings, apart = resolve(FinetuneConfig, config, options, model=model, task=task, out=out)
    from rango.console import Screen
    from rango.models.loading import load_model
    from rango.reports.run.page import write_report
    from rango.reports.run.terminal import print_result
    from rango.tasks import load_task
    from rango.training.distributed import launched
    from rango.training.finetune import finetune as train

    with launched(settings.device) as (processes, device):
        screen = Screen(quiet=quiet or not processes.is_main)
        if processes.is_main:
            check_writable(apart["out"])
        asked = load_task(settings.task, settings.pick(TaskOptions))
        base = load_model(settings.model, dtype=settings.dtype, device=device)
        run = train(base, asked, out=apart["out"], config=settings, screen=screen)
        if processes.is_main:
            print_result(run.path, split="test", shown=write_report(run.path))
