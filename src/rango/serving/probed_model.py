"""`rango.probe`: a run, a model or an endpoint is asked the same questions in another way.

    MODEL ── run_of ──> a run: its base is loaded, and its adapter put on it ──┐
          ── parse_endpoint ──> an endpoint ──────────────────────────────────┼── plan_probe, probe ──> Probe
          ── else ──> a model that is loaded ─────────────────────────────────┘

What is wrong with model, task or options is found before anything is loaded or asked.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from rango.console import Screen
from rango.decisions import Gate
from rango.errors import InputError
from rango.files import check_writable, fingerprint
from rango.keywords import ProbeKeywords
from rango.models.sources import check_at_hand, check_source
from rango.options import Split
from rango.serving.endpoint import parse_endpoint
from rango.serving.endpoint_evaluation import check_client, check_patience, endpoint_scores
from rango.tasks.perturbations import read_wordings
from rango.training.probing import Probe, ProbeConfig, check_probe_folder, model_scores, plan_probe
from rango.training.probing import probe as ask_variants
from rango.training.run_folder import Run

if TYPE_CHECKING:
    from rango.models.loading import Model


def probe(
    model: Run | str | os.PathLike[str] = "",
    task: str | os.PathLike[str] = "",
    *,
    changes: Iterable[str] | str | None = None,
    orders: int | None = None,
    questions: Sequence[str] | str | os.PathLike[str] | None = None,
    gate: Gate | str | os.PathLike[str] | None = None,
    split: Split = "test",
    limit: int | None = None,
    seed: int = 0,
    concurrency: int | None = None,
    loaded: Model | None = None,
    out: str | os.PathLike[str] | None = None,
    screen: Screen | None = None,
    **options: Unpack[ProbeKeywords],
) -> Probe:
    """Ask the same questions in another way: how often does the decision change, and what does that cost?

    Args:
        model: a run, RUN or RUN:STATE, a model as `rango.load_model` takes it, or an endpoint.
        task: of a run its own when absent.
        changes: among permute, rename, distract, remove, reword; all that are possible when absent.
        orders: how many other orders of the options permute asks for; 5 when absent.
        questions: wordings for reword, with the places {question} and {context}, or a file of them.
        gate: how often it passes on instances whose right option was removed; or its file.
        split: whose instances are changed.
        limit: only the first instances.
        seed: of orders, irrelevant options and the bootstrap.
        concurrency: requests at a time to an endpoint; 8 when absent.
        loaded: the base model, where it is loaded already.
        out: the folder to write; of a run RUN/probe when absent, which its page shows, and else a temporary one.
        screen: where progress is shown; nowhere by default.
        options: those of `ProbeConfig`, such as form and test.

    Raises:
        InputError: as `plan_probe`; an option that only matters with another one; `out` holds other files.
        RunError: an endpoint cannot be reached.
    """
    named = model.path if isinstance(model, Run) else model
    given: dict[str, Any] = {"model": os.fspath(named), "task": os.fspath(task), "split": split, "seed": seed}
    given |= {"changes": changes if changes is None or isinstance(changes, str) else tuple(changes), "limit": limit}
    # What is at its default is left to the run, whose own it then is.
    defaults = ProbeConfig.model_fields
    given = {name: value for name, value in given.items() if value != defaults[name].default} | options
    settings = ProbeConfig.build(given if orders is None else {**given, "orders": orders})
    # What would be passed over in silence is more likely a slip of the changes than of the option.
    for option, value, change in (
        ("orders", orders, "permute"),
        ("gate", gate, "remove"),
        ("questions", questions, "reword"),
    ):
        if value is not None and settings.changes is not None and change not in settings.changes:
            shown = value if isinstance(value, int | str | os.PathLike) else "given"
            raise InputError(f"--{option} is {shown} but {change} is not among the changes; leave one of them out")
    wordings = read_wordings(Path(questions)) if isinstance(questions, str | os.PathLike) else questions
    passes = gate if gate is None or isinstance(gate, Gate) else Gate.load(Path(gate))
    endpoint = parse_endpoint(settings.model)
    patience = check_patience(endpoint, concurrency)
    plan = plan_probe(settings, wordings=wordings, endpoint_form=None if endpoint is None else endpoint.form)
    folder = None if out is None else Path(out)
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="rango-probe-")) if plan.run is None else plan.run.path / "probe"
    check_writable(folder)
    if passes is not None:
        passes.check_choices([instance.choices for instance in plan.instances])
    screen = screen or Screen(quiet=True)
    # Bad input is refused above and below, before the seconds that a model takes.
    if endpoint is not None:
        check_client()
        record = plan.record(settings, fingerprint(endpoint.address, endpoint.name))
        check_probe_folder(folder, record)
        ask = endpoint_scores(endpoint, out=folder, screen=screen, patience=patience)
        result = ask_variants(plan, ask=ask, out=folder, record=record, gate=passes, screen=screen)
        return Probe(folder, result)
    config = plan.config
    if loaded is None:
        check_source(config.model, config.quantise)
        check_at_hand(config.model, config.device)
        is_loaded = screen.loading(config.model)
        from rango.models.loading import load_model

        loaded = load_model(config.model, dtype=config.dtype, device=config.device, quantise=config.quantise)
        is_loaded()
    from rango.models.peft_format import load_adapter

    record = plan.record(settings, loaded.fingerprint)
    check_probe_folder(folder, record)
    adapter = None
    if plan.uses_adapter and config.adapter is not None:
        adapter = load_adapter(loaded, config.adapter)
    try:
        ask = model_scores(loaded, config, screen)
        result = ask_variants(plan, ask=ask, out=folder, record=record, gate=passes, screen=screen)
    finally:
        # A model that somebody else has loaded is given back as it was.
        if adapter is not None:
            adapter.remove()
    return Probe(folder, result)
