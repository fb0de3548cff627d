"""`rango finetune`: the command that adapts a model to a task."""

from __future__ import annotations

import os
from functools import partial
from typing import Annotated

from cyclopts import Parameter

from rango.cli import check_shard
from rango.cli.groups import CostsText, LogTo, Offload, Out, PageLanguage, Quiet, Shard, show_in_groups
from rango.console import Screen
from rango.decisions import StatedCosts
from rango.files import check_writable
from rango.models.sources import check_at_hand, check_source
from rango.options import FinetuneConfig
from rango.tasks import few_shot, load_task
from rango.training.loggers import parse_loggers
from rango.training.measurement import state_costs
from rango.training.prediction import check_costs
from rango.training.run_writer import check_output, check_task, is_newer, remove_state

show_in_groups(FinetuneConfig)


def finetune(
    settings: Annotated[FinetuneConfig, Parameter(name="*")],
    *,
    out: Out,
    costs: CostsText = None,
    log_to: LogTo = None,
    language: PageLanguage = None,
    shard: Shard = False,
    offload: Offload = False,
    quiet: Quiet = False,
) -> None:
    """Adapt a model to a task with LoRA, and measure base and adapted model on the test split.

    The best checkpoint on validation is kept, with the last one. Repeating the command goes on with an unfinished run.
    Costs and language make no other run: of a finished one they change metrics and page.
    On several GPUs: `torchrun --nproc-per-node 2 -m rango finetune …`.

    Parameters
    ----------
    out
        The run directory to write.
    """
    full = settings.adaptation == "full"
    dora = settings.lora.dora and not full
    check_shard(shard, offload, device=settings.device, full=full, quantise=settings.quantise, dora=dora)
    loggers = parse_loggers(log_to)
    check_source(settings.model, settings.quantise)
    # The check makes the folder and removes it again: processes of one run would take it from each other.
    if os.environ.get("RANK", "0") == "0":
        check_writable(out)
    stated = None if costs is None else StatedCosts.read(costs)
    task = load_task(settings.task, settings)
    # Refuses more shots than the task has.
    check_task(settings, few_shot(task, shots=settings.shots, seed=settings.shots_seed))
    if stated is not None:
        check_costs(stated, task.test)
    run = check_output(out, settings, task)
    # The model would be loaded only to see that it is still the same.
    if run is not None and run.complete and not is_newer(settings.model, run):
        from rango.reports.run.terminal import print_result

        if os.environ.get("RANK", "0") == "0":
            # The last command may have been stopped between the record and the end.
            remove_state(out)
            news = "nothing to do"
            if stated is not None and state_costs(run, stated):
                news = "metrics and page have new costs"
            elif language is not None:
                news = f"the page is written in {language!r}"
            elif not (out / "report.html").exists():
                news = "its page is written"
            Screen(quiet=quiet).say(f"{out} is complete with this configuration: {news}.")
            if news != "nothing to do":
                from rango.reports.run.page import write_report

                write_report(out, language=language or "en")
            print_result(out, split="test", shown=out / "report.html")
        return
    check_at_hand(settings.model, settings.device)
    # Bad input is refused above, before the seconds that these take.
    screen = Screen(quiet=quiet or os.environ.get("RANK", "0") != "0")
    loaded = screen.loading(settings.model)
    from rango.models.loading import load_model
    from rango.reports.run.page import write_report
    from rango.reports.run.terminal import print_result
    from rango.training.distributed import launched
    from rango.training.finetune import finetune as train
    from rango.training.sharding import load_sharded

    with launched(settings.device, alone=offload) as (processes, device):
        load = partial(load_model, settings.model, dtype=settings.dtype, device=device, quantise=settings.quantise)
        base = load_sharded(load, device, processes, offload=offload) if shard or offload else load()
        loaded()
        run = train(base, task, out=out, config=settings, screen=screen, costs=stated, loggers=loggers)
        if processes.is_main:
            print_result(run.path, split="test", shown=write_report(run.path, language=language or "en"))
            screen.say(f"rango export {out} --out DIR hands it on: as an adapter with its card, or --merge as a model.")
