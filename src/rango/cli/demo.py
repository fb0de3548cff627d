"""`rango demo`: the whole job without any input."""

from __future__ import annotations

from pathlib import Path

from rango.cli.groups import Quiet
from rango.files import check_writable


def demo(*, out: Path = Path("runs/demo"), seed: int = 0, quiet: Quiet = False) -> None:
    """Run the whole job on the simulated task and a tiny model, in minutes, without any input.

    Parameters
    ----------
    out
        The run directory to write; the models stand beside it.
    seed
        Of the simulated world's text and questions, of pre-training and of adaptation.
    """
    from rango.console import Screen
    from rango.demo import run_demo
    from rango.reports.run.terminal import print_result

    check_writable(out)
    run = run_demo(out, seed=seed, screen=Screen(quiet=quiet))
    print_result(run.path, split="test", shown=run.path / "report.html")
