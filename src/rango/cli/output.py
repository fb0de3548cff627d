"""What a command prints when it is done: the result table and where the files are."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rango.files import read_json
from rango.reports import result_table


def print_result(folder: Path, *, split: str, shown: Path) -> None:
    """Print the table of a folder's metrics.json and the path of the file to look at next."""
    console = Console(highlight=False)
    console.print(result_table(read_json(folder / "metrics.json"), split=split, width=console.width))
    console.print(f"\n{shown}", soft_wrap=True, markup=False)
