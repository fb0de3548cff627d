"""What a person sees while something runs: sentences and one progress bar at a time, on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """A running progress bar; `advance` moves it and shows a few words beside it."""

    def __init__(self, progress: Progress | None, task: int) -> None:
        self._progress = progress
        self._task = task

    def advance(self, amount: float = 1, words: str | None = None) -> None:
        """Move by `amount` and, if given, replace the words beside the bar."""
        if self._progress is not None:
            fields = {} if words is None else {"words": words}
            self._progress.update(self._task, advance=amount, **fields)  # type: ignore[arg-type]


class Screen:
    """Where progress goes: a terminal, or nowhere when quiet."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, quiet=quiet)

    def say(self, sentence: str) -> None:
        """Print one sentence."""
        self.console.print(sentence, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def bar(self, label: str, total: float) -> Iterator[Bar]:
        """A progress bar from 0 to `total` for the length of the block; it stays as a line when done."""
        if self.quiet or not self.console.is_terminal:
            yield Bar(None, 0)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=10 if self.console.width < 100 else 24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}", style="dim"),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=self.console) as progress:
            yield Bar(progress, progress.add_task(label, total=total, words=""))
