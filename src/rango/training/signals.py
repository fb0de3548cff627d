"""SIGINT and SIGTERM: a run that is asked to stop saves first."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from rango.errors import Interrupted


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
        self._received = number
        if not self._held:
            self.check()
