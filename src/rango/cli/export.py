"""`rango export`: the command that hands a run on, as an adapter or a whole model with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli.groups import Quiet
from rango.options import ExportOptions
from rango.reports.run.export import check_export
from rango.reports.run.export import export as write


def export(
    run: Path,
    *,
    settings: Annotated[ExportOptions, Parameter(name="*")] = ExportOptions(),
    out: Path,
    quiet: Quiet = False,
) -> None:
    """Write a run for other programs: its adapter in PEFT's format or the merged model, with a model card.

    Parameters
    ----------
    run
        A complete run directory.
    out
        The folder to write. The same command again leaves it as it is, a model card that was edited too, and only
        pushes.
    """
    check_export(run, out, settings)
    from rango.console import Screen

    print(write(run, out=out, options=settings, screen=Screen(quiet=quiet)))
