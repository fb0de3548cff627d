"""`rango finetune`, `rango evaluate`, `rango pretrain`: the commands that need a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli.resolve import resolve
from rango.files import need_writable
from rango.models.options import ModelOptions
from rango.tasks import TaskOptions
from rango.training.options import EvaluateConfig, EvaluateOptions, FinetuneConfig, FinetuneOptions
from rango.training.pretrain_options import PretrainConfig

Quiet = Annotated[bool, Parameter(negative=())]


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
    from rango.cli.output import print_result
    from rango.models import load_model
    from rango.reports import write_report
    from rango.tasks import load_task
    from rango.training import Screen, launched
    from rango.training import finetune as train

    with launched(settings.device) as (ranks, device):
        screen = Screen(quiet=quiet or not ranks.first)
        if ranks.first:
            need_writable(apart["out"])
        asked = load_task(settings.task, settings.pick(TaskOptions))
        base = load_model(settings.model, dtype=settings.dtype, device=device)
        run = train(base, asked, out=apart["out"], config=settings, screen=screen)
        if ranks.first:
            print_result(run.path, split="test", shown=write_report(run.path))


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
    from rango.cli.output import print_result
    from rango.models import load_model
    from rango.tasks import load_task
    from rango.training import Screen, as_the_run, write_evaluation

    settings, notes = as_the_run(settings)
    need_writable(apart["out"])
    asked = load_task(settings.task, settings.pick(TaskOptions))
    base = load_model(settings.model, **dict(settings.pick(ModelOptions)))
    write_evaluation(base, asked, out=apart["out"], config=settings, screen=Screen(quiet=quiet), notes=notes)
    print_result(apart["out"], split=settings.split, shown=apart["out"] / "metrics.json")


def pretrain(
    texts: list[Path] | None = None,
    /,
    *,
    out: Path | None = None,
    options: Annotated[PretrainConfig | None, Parameter(name="*")] = None,
    config: Path | None = None,
    quiet: Quiet = False,
) -> None:
    """Train a small causal language model and its tokenizer from text files; writes a folder that transformers loads.

    Parameters
    ----------
    texts
        Text files: .txt, or .jsonl with a field `text`; also with .gz. Or one .arpa file, with --model ngram and the
        --tokenizer whose tokens are its words.
    out
        The folder to write.
    config
        YAML file with the same keys; flags win.
    quiet
        No progress.
    """
    settings, apart = resolve(PretrainConfig, config, options, texts=texts or None, out=out)
    from rango.training import Screen
    from rango.training import pretrain as train

    need_writable(apart["out"].parent)
    folder = train(apart["texts"], out=apart["out"], config=settings, screen=Screen(quiet=quiet))
    print(folder)
