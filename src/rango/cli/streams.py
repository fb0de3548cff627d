"""What stdout and stderr do with a character that they have no code for: ASCII in its place, and never a traceback.

"NCE ↓  0.81 ±0.02 · n − 1"  ── encoding ascii ──>  "NCE v  0.81 +-0.02 | n - 1"
"año ↓"                      ── encoding cp1252 ─>  "año v"
"año ↓"                      ── locale C, UTF-8 ─>  "año v"      signs are for terminals, texts are somebody's data

Files are UTF-8 whatever the terminal is.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from functools import partial
from typing import Any

# A sign of one column stands for one of one column where it can, so that tables stay straight.
_SIGNS = {
    **dict.fromkeys("─━╸╺│┌┐└┘├┤┬┴┼╭╮╰╯", "-"),
    **dict.fromkeys("−–—‐‑", "-"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”«»", '"'),
    **{"↓": "v", "↑": "^", "→": "->", "←": "<-", "≈": "~", "★": "*", "·": "|", "•": "*", "…": "...", "�": "?"},
    **{
        "±": "+-",
        "×": "x",
        "∞": "inf",
        "≤": "<=",
        "≥": ">=",
        "≠": "!=",
        "√": "sqrt",
        "Σ": "sum",
        "\N{NO-BREAK SPACE}": " ",
    },
    # The pictures that control characters have become, in the caret notation of terminals.
    **{chr(0x2400 + code): f"^{chr(0x40 + code)}" for code in range(32)},
    "\N{SYMBOL FOR DELETE}": "^?",
}


def use_encodable_signs() -> None:
    """Let stdout and stderr replace what they cannot encode, and use ASCII signs too where the locale is C.

    A locale that is C or POSIX by the environment says that the terminal is no more than ASCII, although Python then
    writes UTF-8; where the environment names no locale, Python's judgement counts.
    """
    codecs.register_error("rango-signs", partial(_replace, texts_as_utf8=False))
    codecs.register_error("rango-signs-in-utf8", partial(_replace, texts_as_utf8=True))
    locale = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    # PYTHONIOENCODING is a decision about these streams alone.
    only_ascii = locale in ("C", "POSIX") and "PYTHONIOENCODING" not in os.environ
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue  # in a notebook, or captured by a program
        if only_ascii and stream.encoding.lower().replace("-", "") == "utf8":
            stream.reconfigure(encoding="ascii", errors="rango-signs-in-utf8")
        elif stream.errors in ("strict", "surrogateescape", "backslashreplace"):
            stream.reconfigure(errors="rango-signs")


def _replace(error: UnicodeError, *, texts_as_utf8: bool) -> tuple[str | bytes, int]:
    """An error handler of codecs: what stands for the first character that could not be encoded, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character: Any = error.object[error.start]
    after = error.start + 1
    if character in _SIGNS:
        return _SIGNS[character], after
    # A byte of a file's name that is no text: it goes out as it came in.
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), after
    if texts_as_utf8 and not "\ud800" <= character <= "\udfff":
        return character.encode(), after
    return character.encode("ascii", "backslashreplace").decode(), after
