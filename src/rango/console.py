"""What a person sees while something runs, on stderr, and how a run that is asked to stop saves first."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Column
from rich.text import Text

from rango.errors import Interrupted

# Control characters, but for tab and line feed, as pictures: raw ones from data could move the cursor.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421}
_PICTURES |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_WIDE, _NARROW = 100, 80  # columns of a terminal for a long bar, and for any
_LOG_SECONDS = 60.0
_LONG_LOADING = 2.0  # seconds above which loading a model is worth a note


def short(number: float) -> str:
    """A count in at most five characters.

    >>> [short(number) for number in (0, 9_999, 14_336, 99_960, 999_900, 1_300_000)]
    ['0', '9999', '14.3k', '100k', '1M', '1.3M']
    """
    if number < 10_000:
        return str(int(number))
    rounded = float(f"{number:.3g}")
    scale, letter = max((scale, letter) for scale, letter in ((1e3, "k"), (1e6, "M"), (1e9, "G")) if scale <= rounded)
    return f"{rounded / scale:g}{letter}"


def duration(seconds: float) -> str:
    """A length of time as a person says it.

    >>> [duration(seconds) for seconds in (0.4, 59.6, 100, 5_000, 20_000)]
    ['0 s', '60 s', '100 s', '83 min', '5 h 33 min']
    """
    if seconds <= 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def visible(text: str) -> str:
    """A text from data as a terminal may print it: control characters become pictures of themselves.

    >>> visible("a\\x1b[31mb\\n")
    'a␛[31mb\\n'
    """
    return text.translate(_PICTURES)


class Terminal(Console):
    """A console that prints names and texts from data without obeying them: no control characters, no markup."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The segments of what is printed; colours are added to them later."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


class _Count(ProgressColumn):
    """Done of total, such as 14.3k/120k."""

    def render(self, task: Task) -> Text:
        total = short(task.total or 0)
        return Text(f"{short(task.completed):>{len(total)}}/{total}", style="progress.download")


class _Words(ProgressColumn):
    """The words beside the bar: cut before anything else is where the terminal is narrow."""

    def __init__(self) -> None:
        # Columns that may wrap are the first to give way; these words are cut instead, so that the bar stays one line.
        super().__init__(table_column=Column(no_wrap=False))

    def render(self, task: Task) -> Text:
        return Text(task.fields["words"], style="dim", no_wrap=True, overflow="ellipsis")


def progress_columns(width: int, *, counted: bool = True) -> list[ProgressColumn]:
    """The columns of a progress line for a terminal of this width; a narrow one shows no bar."""
    bar = [BarColumn(bar_width=24 if width >= _WIDE else 10)] if width >= _NARROW else []
    count = [_Count()] if counted else []
    return [TextColumn("{task.description}"), *bar, *count, _Words(), TimeRemainingColumn(compact=True)]


class Bar:
    """How far something is that takes long. This one is silent; see `Screen.bar`."""

    def advance(self, amount: float = 1, words: str | None = None, *, log: bool = False) -> None:
        """Move by `amount`; `words` replace those that say how it stands. With `log` they are worth a line in a log."""


class _TerminalBar(Bar):
    """A line that is drawn again and again, with a few words beside the bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, amount: float = 1, words: str | None = None, *, log: bool = False) -> None:  # noqa: ARG002
        fields = {} if words is None else {"words": words}
        self._progress.update(self._task, advance=amount, **fields)  # type: ignore[arg-type]


class _LogBar(Bar):
    """Where nothing can be drawn again: a whole line at most once a minute, and for what is worth one."""

    def __init__(self, screen: Screen, label: str, total: float, *, done: float, unit: str) -> None:
        self._screen, self._label, self._total, self._unit = screen, label, total, unit
        self._first = self._done = done
        self._words = ""
        self._begun = self._last = screen.clock()

    def advance(self, amount: float = 1, words: str | None = None, *, log: bool = False) -> None:
        self._done += amount
        self._words = self._words if words is None else words
        now = self._screen.clock()
        if not log and now - self._last < _LOG_SECONDS:
            return
        self._last = now
        count = f"{self._done:,.0f} of {self._total:,.0f} {self._unit}" if self._unit else ""
        # What an earlier command has done says nothing of how fast this one is.
        moved, rest = self._done - self._first, self._total - self._done
        pace = (now - self._begun) / moved if moved > 0 else 0.0
        step = f"{pace:.2g} s a step" if pace and self._unit == "steps" else ""
        remaining = f"{duration(pace * rest)} left" if pace and rest > 0 else ""
        self._screen.say(f"{self._label}: {', '.join(filter(None, (count, self._words, step, remaining)))}")


class Screen:
    """Where progress goes: a terminal, a log, or nowhere when quiet."""

    def __init__(self, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.quiet = quiet
        self.clock = clock
        self.console = Terminal(stderr=True, quiet=quiet)

    def say(self, sentence: str) -> None:
        """Print one sentence."""
        self.console.print(sentence, soft_wrap=True)

    def loading(self, model: str) -> Callable[[], None]:
        """Say that a model is being loaded, before anything that takes time; call what is returned when it is."""
        self.say(f"Loading {model} ...")
        begun = self.clock()

        def loaded() -> None:
            if (seconds := self.clock() - begun) > _LONG_LOADING:
                self.say(f"· loaded in {seconds:.1f} s")

        return loaded

    @contextlib.contextmanager
    def bar(self, label: str, total: float, *, done: float = 0, unit: str = "", passing: bool = False) -> Iterator[Bar]:
        """How far something is, for the length of the block: a bar on a terminal, elsewhere a line once a minute.

        Args:
            label: what is being done.
            total: where it ends.
            done: where it begins, if an earlier command has done a part.
            unit: what is counted, in the plural; nothing where the words beside the bar have a count of their own.
            passing: take the bar off the terminal at the end of the block.
        """
        if self.quiet:
            yield Bar()
        elif not self.console.is_terminal:
            yield _LogBar(self, label, total, done=done, unit=unit)
        else:
            columns = progress_columns(self.console.width, counted=bool(unit))
            with Progress(*columns, console=self.console, transient=passing) as progress:
                yield _TerminalBar(progress, progress.add_task(label, total=total, completed=int(done), words=""))


class SignalGuard:
    """Within the block, SIGINT and SIGTERM raise `Interrupted`, but never between `hold` and `release`.

    A training step and the writing of its state are held: the signal is remembered, and `check` raises it when the
    caller has saved. Outside the main thread, where Python gives no signals, it does nothing.
    """

    def __init__(self, advice: str) -> None:
        self._advice = advice
        self._received: int | None = None
        self._held = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            # Ctrl-C in a terminal, and what a batch system sends before it kills.
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """From here a signal is remembered instead of raised."""
        self._held = True

    def release(self) -> None:
        """From here a signal is raised at once; one that was remembered is raised now."""
        self._held = False
        self.check()

    @property
    def received(self) -> bool:
        """Whether a signal waits."""
        return self._received is not None

    def stop(self) -> None:
        """Raise `Interrupted`, also if the signal went to another process of the same run."""
        self._received = self._received or signal.SIGTERM
        self.check()

    def check(self) -> None:
        """Raise `Interrupted` if a signal waits."""
        if self._received is not None:
            name = signal.Signals(self._received).name
            raise Interrupted(self._received, f"stopped by {name}; {self._advice}")

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        # Python calls this between any two instructions: raising inside a step would leave half of it done.
        self._received = number
        if not self._held:
            self.check()


def end_with_parent(parent: int) -> None:
    """From here this process ends when `parent`, which started it, has ended, also when that was killed.

    Nobody would collect its work, and it would be in the way of a repeated command.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
