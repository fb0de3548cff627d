"""The errors a user can meet, each one line: the value, what was expected, the fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_LONGEST = 400  # characters of one mistake, beside the paths in it
_LINE_ENDS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
_LONG_WORD = re.compile(r"[^\s/]{100,}")


class InputError(ValueError):
    """Bad input or configuration: one mistake or several. The command line prints them on one line and exits with 2."""

    def __init__(self, *mistakes: str) -> None:
        self.mistakes = tuple(map(_in_short, mistakes))
        super().__init__("; ".join(self.mistakes))


def _in_short(mistake: str) -> str:
    """A mistake in one line, without most of a value that is as long as its file and may have lines of its own."""
    line = _LINE_ENDS.sub(" ", mistake)
    if len(line) <= _LONGEST:
        return line
    line = _LONG_WORD.sub(lambda word: f"{word[0][:60]} ... {word[0][-20:]}", line)
    # Paths count for nothing, because a person copies them. The remedy stands at the end.
    most = _LONGEST + min(sum(len(word) for word in line.split() if "/" in word), _LONGEST)
    return line if len(line) <= most else f"{line[: most - 125]} ... {line[-120:]}"


class FileMistakes(InputError):  # noqa: N818 - mistakes are errors
    """Several mistakes of one file. The command line prints each on a line of its own, and then how many they are."""

    def __init__(self, file: object, *mistakes: str) -> None:
        super().__init__(*mistakes)
        self.file = file


class LaterVersionError(InputError):
    """A file of a later version of Rango, which this one may read wrongly."""


class RunError(RuntimeError):
    """A fault while running that no input check could foresee. The command line exits with 1."""


class Interrupted(RuntimeError):  # noqa: N818 - a signal is not an error
    """A signal asked the run to stop; everything is saved. The command line exits with 128 + signal."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none, as MemoryError and EOFError often do.

    >>> first_line(EOFError()), first_line(OSError("no more"))
    ('EOFError', 'no more')
    """
    return next(iter(str(error).splitlines()), type(error).__name__)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name outside a known list, with the nearest known name and then all of them.

    >>> str(unknown_name("task", "socialqa", ["hellaswag", "socialiqa"]))
    "unknown task 'socialqa': did you mean 'socialiqa'? (known: hellaswag, socialiqa)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else ""
    return InputError(f"unknown {kind} {name!r}{hint} (known: {', '.join(names)})")


class DivergenceError(InputError):
    """The loss became NaN or infinite: a configuration that cannot be trained, such as too high a learning rate."""
