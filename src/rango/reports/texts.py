"""Scored texts and spelling for the terminal: improbable places in colour, or in [brackets] without colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from rango.scoring import SpellingCheck, TextScore, WordCheck
from rango.scoring.sequences import bits_per_byte, perplexity

_MARK = "bold red"
_OFFERED = 3


def improbable_below(scores: Sequence[TextScore], *, nats: float | None, share: float | None) -> float:
    """The log-probability (nats) under which a token is marked.

    Args:
        scores: the texts.
        nats: mark tokens with -log P above this.
        share: else mark this share of all tokens, the least probable ones.
    """
    if nats is not None:
        return -nats
    values = np.concatenate([score.log_probabilities for score in scores])
    values = np.sort(values[~np.isnan(values)])
    marked = math.ceil((share or 0.0) * len(values))
    return float(values[marked]) if marked < len(values) else math.inf


def improbable_spans(score: TextScore, *, below: float) -> list[tuple[int, int]]:
    """Characters of the tokens less probable than `below` and of the impossible ones, whatever `below` is: neighbours
    joined, white space at their ends left out.
    """
    joined: list[tuple[int, int]] = []
    for (start, end), value in zip(score.spans, score.log_probabilities, strict=True):
        start += len(score.text[start:end]) - len(score.text[start:end].lstrip())
        if not _improbable(value, below) or start >= end:
            continue
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return [(start, start + len(score.text[start:end].rstrip())) for start, end in joined]


def _improbable(value: float, below: float) -> bool:
    return value < below or value == -math.inf


def marked(text: str, spans: Iterable[tuple[int, int]], *, colour: bool) -> Text:
    """A text with some of its characters in colour, or in brackets."""
    spans = list(spans)
    if colour:
        shown = Text(text)
        for start, end in spans:
            shown.stylize(_MARK, start, end)
        return shown
    parts, done = [], 0
    for start, end in spans:
        parts.append(f"{text[done:start]}[{text[start:end]}]")
        done = end
    return Text("".join([*parts, text[done:]]))


def print_scores(
    console: Console, scores: Sequence[TextScore], *, lines: Sequence[int], below: float, notes: Sequence[str] = ()
) -> None:
    """Print a row per text (line, log-probability, perplexity, the text with improbable tokens marked) and a total."""
    colour = has_colour(console)
    total = sum(score.log_probability for score in scores)
    tokens = sum(score.scored for score in scores)
    size = sum(score.scored_bytes for score in scores)
    rows = [
        (str(line), f"{score.log_probability:,.1f}", f"{score.perplexity:,.1f}",
         marked(score.text, improbable_spans(score, below=below), colour=colour))
        for line, score in zip(lines, scores, strict=True)
    ]  # fmt: skip
    values = [value for score in scores for value in score.log_probabilities]
    count = sum(_improbable(value, below) for value in values)
    summary = Text(f"{tokens:,} tokens, {bits_per_byte(total, size):.3f} bits per byte")
    rows.append(("total", f"{total:,.1f}", f"{perplexity(total, tokens):,.1f}", summary))
    _print_rows(console, ("line", "log P", "perplexity", "text"), rows)
    how = "in colour" if colour else "in [brackets]"
    first = f"{how}: {count:,} of {tokens:,} tokens, {_which(below)}. log P in nats, perplexity per token."
    impossible = values.count(-math.inf)
    ruled_out = (
        f"{impossible:,} of these {count:,} tokens are impossible for the model (probability 0), and with them their "
        "texts; a smoothed model, such as Kneser-Ney, rules nothing out."
    )
    console.print()
    for note in (first, *([ruled_out] if impossible else []), *notes):
        console.print(Text(note, style="dim"), soft_wrap=not console.is_terminal)


def _which(below: float) -> str:
    """Which tokens are marked, in words."""
    if below == -math.inf:
        return "the impossible ones"
    return f"-log P above {-below:.1f} nats" if below < math.inf else "all tokens"


def _print_rows(console: Console, head: Sequence[str], rows: Sequence[tuple[str, str, str, Text]]) -> None:
    if not console.is_terminal:  # a pipe: one line a text, however long
        widths = [max(len(row[k]) for row in [*rows, head]) for k in range(3)]
        for first, second, third, text in [(*head[:3], Text(head[3])), *rows]:
            cells = [f"{cell:>{width}}" for cell, width in zip((first, second, third), widths, strict=True)]
            console.print(Text("  ".join([*cells, ""])) + text, soft_wrap=True)
        return
    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in head[:3]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(head[3], overflow="fold")
    for number, row in enumerate(rows, start=1):
        if number == len(rows):
            table.add_row()
        table.add_row(*row, style="bold" if number == len(rows) else None)
    console.print(table)


def print_spelling(
    console: Console, checks: Sequence[SpellingCheck], *, names: Sequence[str | None], threshold: float
) -> None:
    """Print each text with its flagged words marked, what may have been meant, and the text put right."""
    colour = has_colour(console)
    for check, place in zip(checks, names, strict=True):
        spans = [(word.start, word.end) for word in check.flagged]
        if place is not None and not spans:
            continue  # of a file only the lines with something to say
        shown = marked(check.text, spans, colour=colour)
        if place is not None:
            shown = Text.assemble((f"{place}  ", "dim"), shown)
        console.print(shown, soft_wrap=not console.is_terminal)
        if spans:
            console.print(_offers(check.flagged))
            if check.corrected != check.text:
                right = Text.assemble(("put right: ", "dim"), check.corrected)
                console.print(Padding(right, (0, 0, 0, 2), expand=False), soft_wrap=not console.is_terminal)
            console.print()
    words = sum(len(check.words) for check in checks)
    flagged = sum(len(check.flagged) for check in checks)
    unlisted = list(dict.fromkeys(word.word for check in checks for word in check.unlisted))
    console.print(
        Text(f"{flagged:,} of {words:,} words flagged: log-odds of another word above {threshold:g} nats", style="dim")
    )
    if unlisted:
        names_shown = ", ".join(unlisted[:10]) + (f" and {len(unlisted) - 10:,} more" if len(unlisted) > 10 else "")
        console.print(Text(f"not in the word list, and no listed word within two edits: {names_shown}", style="dim"))


def _offers(words: Sequence[WordCheck]) -> Padding:
    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for word in words:
        offers = [f"{one.word} {_percent(one.probability)}" for one in word.alternatives[:_OFFERED]]
        why = "improbable here" if word.known else "not in the list"
        table.add_row(Text(word.word, style="bold"), Text(", ".join(offers)), Text(why, style="dim"))
    return Padding(table, (0, 0, 0, 2))


def _percent(share: float) -> str:
    return "< 1%" if share < 0.01 else "> 99%" if share > 0.99 else f"{share:.0%}"


def has_colour(console: Console) -> bool:
    """Whether the console shows colours: a terminal that is not told otherwise (NO_COLOR, TERM=dumb)."""
    return console.is_terminal and console.color_system is not None and not console.no_color
