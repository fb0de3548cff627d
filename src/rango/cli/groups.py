"""The parts of a long `--help`: data, model, training, LoRA, scoring, and what is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter
from cyclopts.help import DefaultFormatter

from rango.config import Config
from rango.options import (
    EvaluateConfig,
    LoRA,
    ModelOptions,
    ScoringOptions,
    TaskOptions,
    TrainingOptions,
)
from rango.reports.language import Language

if TYPE_CHECKING:
    from cyclopts.help import ColumnSpec, HelpEntry
    from rich.console import Console, ConsoleOptions


def _columns(
    console: Console,
    options: ConsoleOptions,  # noqa: ARG001
    entries: list[HelpEntry],
) -> tuple[ColumnSpec, ...]:
    """The columns of a part of the help. The names get the width of the longest: one cut in two cannot be copied."""
    from cyclopts.help.specs import AsteriskColumn, ColumnSpec, DescriptionColumn, NameRenderer

    longest = max(len(word) for entry in entries for word in " ".join(entry.display_labels_with_metavar).split())
    # Names that do not fit into a line stand in the next, two spaces further in.
    width = max(round(0.35 * console.width), longest + 2)
    names = ColumnSpec(NameRenderer(width), style="cyclopts.name", min_width=min(width, longest + 2), max_width=width)
    marks = (AsteriskColumn,) if any(entry.required for entry in entries) else ()
    return (*marks, names, DescriptionColumn)


STUDY, DATA, MODEL, TRAINING, LORA, SCORING, WORK, OUTPUT = (
    Group(name, sort_key=place, help_formatter=DefaultFormatter(column_specs=_columns))
    for place, name in enumerate(("Study", "Data", "Model", "Training", "LoRA", "Scoring", "Work", "Output"))
)

_CLASSES: dict[type, Group] = {
    TaskOptions: DATA,
    ModelOptions: MODEL,
    TrainingOptions: TRAINING,
    LoRA: LORA,
    ScoringOptions: SCORING,
    EvaluateConfig: SCORING,
}
# Fields of the commands' own classes, and those that belong elsewhere than the rest of their class.
_FIELDS = {
    **dict.fromkeys(("task", "split", "other_data", "limit"), DATA),
    **dict.fromkeys(("model", "adapter"), MODEL),
    **dict.fromkeys(("mc_dropout", "costs", "changes", "orders", "seed"), SCORING),
    **dict.fromkeys(("lora",), LORA),
}

Out = Annotated[Path, Parameter(group=OUTPUT)]
Quiet = Annotated[bool, Parameter(negative=(), group=OUTPUT, help="No progress, only the result.")]
Shard = Annotated[
    bool,
    Parameter(
        negative=(),
        group=MODEL,
        help="Cut the frozen layers over the processes that torchrun started (FSDP2), for a model that no GPU holds.",
    ),
]

Offload = Annotated[
    bool,
    Parameter(
        negative=(),
        group=MODEL,
        help="Keep the frozen layers in main memory and bring each to the GPU when it computes (FSDP2), for a model "
        "that is larger than the GPU; with torchrun every process keeps its share.",
    ),
]

Concurrency = Annotated[
    int | None, Parameter(group=SCORING, help="Requests at a time, where MODEL is an endpoint; 8 when absent.")
]

PageLanguage = Annotated[
    Language | None,
    Parameter(
        name="--language",
        group=OUTPUT,
        help="Of the page: en or es; English when absent. The other files and the terminal stay English.",
    ),
]

CostsText = Annotated[
    str | None,
    Parameter(
        name="--costs",
        group=SCORING,
        help="What mistakes cost: a costs file (classes, decisions, costs; row = true class), or abstain=0.3 where an "
        "error costs 1.",
    ),
]

LogTo = Annotated[
    str | None,
    Parameter(
        name="--log-to",
        group=OUTPUT,
        help="Also show the run in these while it trains: a comma-separated list among tensorboard, wandb, mlflow, "
        "trackio.",
    ),
]


def show_in_groups(model: type[Config]) -> None:
    """Let `--help` show each field of a command's options in the group of the class that it comes from."""
    for name, field in model.model_fields.items():
        # The class that states a field is the last of the line to know it.
        owner = [one for one in model.__mro__ if name in getattr(one, "__annotations__", {})][-1]
        group = _FIELDS.get(name) or _CLASSES.get(owner)
        if group is not None and not any(isinstance(mark, Parameter) for mark in field.metadata):
            field.metadata = [*field.metadata, Parameter(group=group)]  # a new list: a subclass shares the old one
