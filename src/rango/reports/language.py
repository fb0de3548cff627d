"""The words and numbers of a page in the language of its reader: gettext catalogs, and each locale's own numbers.

    with speaking("es"):
        _("Adaptation helped")        "La adaptación ayudó"
        localised("1,234.5")          "1.234,5"

English is the source text, in the code and in the templates; a catalog LANGUAGE.po beside this file has the others. The
terminal and what other programs read stay English with plain numbers: metrics.json, CSV, LaTeX, run.yaml.
"""

from __future__ import annotations

import functools
import gettext as catalogs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from importlib import resources
from typing import Any, Literal, TypeAlias, get_args

from rango.errors import unknown_name

Language: TypeAlias = Literal["en", "es"]
"""The languages that a page can be written in."""

# A context variable, as web frameworks have it: whatever a page draws or writes is in its language, and what is written
# outside of a page is English without knowing of the others.
_LANGUAGE: ContextVar[Language] = ContextVar("language", default="en")


@contextmanager
def speaking(language: Language) -> Iterator[None]:
    """Write words and numbers in this language inside the block.

    Raises:
        InputError: an unknown language.
    """
    if language not in get_args(Language):
        raise unknown_name("language", language, get_args(Language))
    token = _LANGUAGE.set(language)
    try:
        yield
    finally:
        _LANGUAGE.reset(token)


def spoken() -> Language:
    """The language of the page that is being written, English outside of one."""
    return _LANGUAGE.get()


def _(message: str, **fields: Any) -> str:
    """A text in the language of the page, with its fields filled in: `%(name)s`, as gettext writes them.

    A percent sign is doubled where there are fields, and single where there are none.
    """
    text = _catalog(spoken()).gettext(message) if message else ""
    return text % fields if fields else text


def ngettext(one: str, many: str, count: int, **fields: Any) -> str:
    """A text in its form for this count, which it may name as `%(count)s`.

    >>> ngettext("%(count)s seed", "%(count)s seeds", 3)
    '3 seeds'
    """
    return _catalog(spoken()).ngettext(one, many, count) % {"count": localised(f"{count:,}"), **fields}


def localised(text: str) -> str:
    """A number that Python has written, such as 1,234.50 or −0.4, with the signs of the language; no digit changes.

    >>> with speaking("es"):
    ...     localised("12,345.50"), localised("−0.429"), localised("∞")
    ('12.345,50', '−0,429', '∞')
    """
    if spoken() == "en":
        return text
    # Babel is loaded only for a page that is not English.
    from babel.numbers import format_decimal

    digits = text.lstrip("+-−")
    if not digits.replace(",", "").replace(".", "").isdecimal():
        return text
    decimals = len(digits.partition(".")[2])
    pattern = "#,##0" + ("." + "0" * decimals if decimals else "")
    written = format_decimal(Decimal(digits.replace(",", "")), format=pattern, locale=spoken())
    return text[: len(text) - len(digits)] + written


def percent(share: float, *, digits: int = 0) -> str:
    """A share as a percentage.

    >>> percent(0.256), percent(0.256, digits=1)
    ('26%', '25.6%')
    """
    return _("{}%").replace("{}", localised(f"{100 * share:.{digits}f}"))


def integer(number: float) -> str:
    """A whole number with its thousands separated.

    >>> integer(12345)
    '12,345'
    """
    return localised(f"{number:,.0f}")


@functools.cache
def _catalog(language: Language) -> catalogs.NullTranslations:
    if language == "en":
        return catalogs.NullTranslations()
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    source, packed = resources.files("rango.reports") / f"{language}.po", io.BytesIO()
    with source.open("rb") as file:
        write_mo(packed, read_po(file, locale=language))
    packed.seek(0)
    return catalogs.GNUTranslations(packed)
