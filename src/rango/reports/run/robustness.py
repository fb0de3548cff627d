"""What `rango probe` found out, as a table for the terminal and the page: flips, changes of metrics, and sentences.

Everything is read from a probe.json; no model and no posteriors are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from rango.decisions import Estimate
from rango.errors import InputError
from rango.files import read_json
from rango.reports.language import _
from rango.reports.tables import interval, number

PROBE = "probe"
"""The folder of a run that `rango probe` writes."""

_WIDE = 96  # columns of a terminal from which on an interval stands beside its value


@dataclass(frozen=True)
class ProbeRow:
    """One change of the instances."""

    title: str
    flips: Estimate | None
    nce: Estimate | None
    """NCE of the changed instances minus that of the same instances as they were."""
    error_rate: Estimate | None


@dataclass(frozen=True)
class Robustness:
    """What a table and a page show of a probe."""

    rows: tuple[ProbeRow, ...]
    sentences: tuple[str, ...]
    n: int
    split: str
    notes: tuple[str, ...]


def read_robustness(run: Path) -> Robustness | None:
    """What was found out of a run; None where it was not probed, or the probe is not complete.

    Raises:
        InputError: RUN/probe/probe.json cannot be read.
    """
    file = run / PROBE / "probe.json"
    if not file.is_file():
        return None
    result = read_json(file)
    if isinstance(result, Mapping) and result.get("status") == "running":
        return None
    try:
        return robustness(result)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{file}: cannot be read ({type(error).__name__}: {error}); expected a file of rango probe"
        ) from None


def robustness(result: Mapping[str, Any]) -> Robustness:
    """The rows and sentences of a probe.json."""
    changes: Mapping[str, Any] = result["changes"]
    rows, sentences, uncalibrated = [], [], []
    for name, numbers in changes.items():
        estimates = {
            key: Estimate.from_dict(value)
            for key, value in numbers.items()
            if isinstance(value, Mapping) and "low" in value
        }
        if "nce" in estimates:
            cells = (estimates.get(key) for key in ("flips", "nce", "error_rate"))
            rows.append(ProbeRow(_title(name, numbers), *cells))
        sentences += list(_sentences(name, estimates))
        if result["calibrated"] and not numbers["calibrated"]:
            uncalibrated.append(_title(name, numbers))
    if uncalibrated:
        sentences.append(
            _(
                "Not calibrated, and compared with the same model uncalibrated: %(names)s.",
                names=", ".join(uncalibrated),
            )
        )
    notes = tuple(map(str, result.get("notes") or ()))
    return Robustness(tuple(rows), tuple(sentences), int(result["n"]), str(result["split"]), notes)


def _title(name: str, numbers: Mapping[str, Any]) -> str:
    """What was changed, in words."""
    count = len(numbers["variants"])
    titles = {
        "permute": _("other order (%(count)s)", count=count),
        "averaged": _("mean over %(count)s orders", count=numbers.get("passes", 0)),
        "rename-numbers": _("names 1, 2, 3"),
        "rename-neutral": _("names X, Y, Z"),
        "distract": _("one irrelevant option"),
        "remove-none": _("none of these"),
        "remove": _("right option removed"),
        "reword": _("other wording (%(count)s)", count=count),
    }
    return titles.get(name, name)


def _sentences(name: str, estimates: Mapping[str, Estimate]) -> Iterator[str]:
    if name == "distract":
        yield _("The irrelevant option has %(share)s of the probability.", share=_span(estimates["mass"]))
    if name == "remove-none":
        yield _(
            "In the place of the right option, “none of these” is chosen in %(share)s of the instances.",
            share=_span(estimates["rejected"]),
        )
    if name == "remove":
        yield _(
            "Without the right option the model gives its choice a mean probability of %(share)s; with it, %(before)s.",
            share=_span(estimates["max_posterior"]),
            before=_span(estimates["max_posterior_before"]),
        )
        if "passed_on" in estimates:
            yield _(
                "The gate passes on %(share)s of the instances without their right option.",
                share=_span(estimates["passed_on"]),
            )


def _span(estimate: Estimate) -> str:
    ends = interval(estimate)
    return f"{number(estimate.value)} ({ends})" if ends else number(estimate.value)


def probe_table(result: Mapping[str, Any], *, width: int = 80) -> Group:
    """The table of a probe.json for the terminal; on a narrow one, intervals stand under their values."""
    shown, in_line = robustness(result), width >= _WIDE
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 1))
    table.add_column("", overflow="fold")
    for heading in ("flips", "NCE", "error rate"):
        table.add_column(heading, justify="left" if in_line else "right", no_wrap=True)
    for row in shown.rows:
        cells = [
            _cell(row.flips, in_line),
            _cell(row.nce, in_line, sign=True),
            _cell(row.error_rate, in_line, sign=True),
        ]
        table.add_row(Text(row.title), *cells)
    caption = Text(
        f"{shown.n:,} {shown.split} instances · flips: share decided otherwise · NCE and error rate: changed minus "
        "original, paired · 95% intervals",
        style="dim",
    )
    sentences = [Text(sentence) for sentence in shown.sentences]
    return Group(table, caption, Text(), *sentences, *(Text(f"note: {note}") for note in shown.notes))


def _cell(estimate: Estimate | None, in_line: bool, *, sign: bool = False) -> Text:
    text = Text(number(None if estimate is None else estimate.value, sign=sign))
    if estimate is not None and (ends := interval(estimate, sign=sign)):
        text.append("  " if in_line else "\n").append(ends, style="dim")
    return text
