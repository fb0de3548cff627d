"""`rango models`: what a model is, where it can be adapted, and what memory its training takes."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter

from rango.console import Terminal, visible
from rango.errors import InputError
from rango.models.sources import check_at_hand, check_source
from rango.options import ALL_LINEAR, MemoryOptions


def models(
    model: str | None = None,
    *,
    memory: Annotated[bool, Parameter(negative=())] = False,
    options: Annotated[MemoryOptions, Parameter(name="*")] = MemoryOptions(),
    json_: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """List the architectures with their placements, or show a model: sizes, placements, and what each trains.

    Nothing is loaded but the model's configuration, so of a folder only config.json is needed.

    Parameters
    ----------
    model
        Hub id, folder with a transformers checkpoint, or GGUF file.
    memory
        Estimate the memory of training too: weights, adapter, optimizer and activations.
    json_
        Print one JSON object.
    """
    # A limit has no other use than to be compared with the estimate.
    memory = memory or options.limit is not None
    # What is shown without an estimate depends on the rank and on how the weights are held.
    given = options.model_fields_set - {"lora", "quantise"}
    given |= {f"lora.{name}" for name in options.lora.model_fields_set - {"rank"}}
    if given and not memory:
        option = min(given).replace("_", "-")
        raise InputError(f"--{option} is of the estimate of memory; give --memory too, or leave it out")
    if model is None:
        if memory:
            raise InputError("--memory has no model whose memory could be estimated; give MODEL")
        _list_architectures(as_json=json_)
        return
    # What a folder's files show is refused before torch is imported below.
    check_source(model, options.quantise, described=True)
    check_at_hand(model)
    from rango.models.description import describe

    description = describe(model)
    shown: dict[str, Any] = asdict(description)
    for placement in shown["placements"]:
        placement["trained"] = placement["per_rank"] * options.lora.rank
    if memory:
        from rango.training.memory import advise

        estimate, advice = advise(model, options)
        shown["memory"] = {**estimate, "limit": options.limit, "advice": advice}
    if json_:
        print(json.dumps(shown))
        return
    _print_model(shown, rank=options.lora.rank)
    if memory:
        _print_memory(shown["memory"], options)


def _list_architectures(*, as_json: bool) -> None:
    from rango.models.placement import ARCHITECTURES

    placements = {name: [*ends, "head"] for name, ends in sorted(ARCHITECTURES.items())}
    if as_json:
        print(json.dumps(placements))
        return
    for name, each in placements.items():
        print(f"{name:16}{', '.join(each)}")
    print(
        f"{'any other':16}head, {ALL_LINEAR}, or linear maps by the end of their names (rango models MODEL lists them)"
    )


def _print_model(shown: dict[str, Any], *, rank: int) -> None:
    layers = f", {shown['layers']} layers of {shown['width']:,}" if shown["layers"] and shown["width"] else ""
    lines = {
        "model": shown["model"],
        "architecture": f"{shown['architecture']} ({shown['model_type']}){layers}",
        "parameters": f"{shown['parameters']:,}",
        "vocabulary": f"{shown['vocabulary']:,} tokens",
        "context": f"{shown['context']:,} tokens" if shown["context"] else "no limit",
        "stored as": shown["stored"] or "not stated",
        "head": "tied to the embeddings" if shown["tied"] else "a matrix of its own",
    }
    for name, text in lines.items():
        print(visible(f"{name:14}{text}"))
    if not shown["placements"]:
        print("placements    none: an n-gram has no linear maps that LoRA could adapt")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("placement", "updates", "trained at r = 1", f"at r = {rank}", "linear maps"):
        table.add_column(heading, justify="left" if heading in ("placement", "linear maps") else "right")
    for placement in shown["placements"]:
        numbers = (placement["updates"], placement["per_rank"], placement["trained"])
        # The names of all linear maps would fill the screen with what the other rows say.
        modules = ", ".join(placement["modules"]) if placement["name"] != ALL_LINEAR else "every one of the layers"
        table.add_row(placement["name"], *(f"{number:,}" for number in numbers), modules)
    print()
    Terminal(soft_wrap=True).print(table)


def _print_memory(memory: dict[str, Any], options: MemoryOptions) -> None:
    kind = "full fine-tuning" if options.adaptation == "full" else f"LoRA r {options.lora.rank} on {memory['targets']}"
    print(visible(f"\ntraining memory, {kind}, {memory['dtype']}, {memory['tokens']:,} tokens a forward pass"))
    for name in ("weights", "adapter", "gradients", "optimizer", "activations", "process"):
        print(f"  {name:14}{memory[name] / 2**20:>12,.0f} MiB")
    print(f"  {'at the most':14}{memory['total'] / 2**20:>12,.0f} MiB")
    if memory["advice"]:
        print(visible(memory["advice"]))
