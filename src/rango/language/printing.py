"""Scored texts and checked spelling for the terminal: improbable places in colour, or in [brackets] without colours.

In a pipe each text is one line, however long, without colours; on a terminal a table folds the texts.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from rango.language.spelling.checker import SpellingCheck, WordCheck
from rango.language.text_scores import TextScore, bits_per_byte, perplexity
from rango.unicode_words import replaced, segments_of

_MARK = "bold red"
_OFFERED = 3
# In fewer words, the share that the list lacks says nothing of the language.
_FEWEST_WORDS = 4


def improbable_below(scores: Sequence[TextScore], *, nats: float | None, share: float | None) -> float:
    """The log-probability under which a token is marked: -`nats`, or without it what marks `share` of all tokens."""
    if nats is not None:
        return -nats
    values = np.concatenate([score.log_probabilities for score in scores])  # (tokens of all texts,)
    values = np.sort(values[~np.isnan(values)])
    marked = math.ceil((share or 0.0) * len(values))
    return float(values[marked]) if marked < len(values) else math.inf


def improbable_spans(score: TextScore, *, below: float) -> list[tuple[int, int]]:
    """Spans of the words that have a token less probable than `below`, or an impossible one whatever `below` is.

    A word is marked as a whole. Neighbours are joined, and white space at the ends is left out.
    """
    words = list(segments_of(score.text))
    ends = [end for _, end in words]
    joined: list[tuple[int, int]] = []
    for (start, end), value in zip(score.spans, score.log_probabilities, strict=True):
        start += len(score.text[start:end]) - len(score.text[start:end].lstrip())
        if not _improbable(value, below) or start >= end:
            continue
        # Widen the token to the words that it touches.
        for first, last in words[bisect_right(ends, start) :]:
            if first >= end:
                break
            start, end = min(start, first), max(end, last)
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return [(start, start + len(score.text[start:end].rstrip())) for start, end in joined]


def _improbable(value: float, below: float) -> bool:
    return value < below or value == -math.inf


def marked(text: str, spans: Iterable[tuple[int, int]], *, colour: bool) -> Text:
    """A text with the characters of `spans` in colour, or in brackets."""
    if not colour:
        return Text(replaced(text, ((span, f"[{text[slice(*span)]}]") for span in spans)))
    shown = Text(text)
    for start, end in spans:
        shown.stylize(_MARK, start, end)
    return shown


def print_scores(
    console: Console, scores: Sequence[TextScore], *, lines: Sequence[int], below: float, notes: Sequence[str] = ()
) -> None:
    """Print a row per text (line, log-probability, perplexity, the text with improbable tokens marked) and a total."""
    colour = has_colour(console)
    rows = [
        (str(line), f"{score.log_probability:,.1f}", f"{score.perplexity:,.1f}",
         marked(score.text, improbable_spans(score, below=below), colour=colour))
        for line, score in zip(lines, scores, strict=True)
    ]  # fmt: skip
    total = sum(score.log_probability for score in scores)
    tokens = sum(score.scored for score in scores)
    size = sum(score.scored_bytes for score in scores)
    summary = Text(f"{tokens:,} tokens, {bits_per_byte(total, size):.3f} bits per byte")
    rows.append(("total", f"{total:,.1f}", f"{perplexity(total, tokens):,.1f}", summary))
    _print_rows(console, ("line", "log P", "perplexity", "text"), rows)

    values = [value for score in scores for value in score.log_probabilities]
    count = sum(_improbable(value, below) for value in values)
    impossible = values.count(-math.inf)
    which = "all tokens"
    if below < math.inf:
        which = "the impossible ones" if below == -math.inf else f"-log P above {-below:.1f} nats"
    first = (
        f"{'in colour' if colour else 'in [brackets]'}: {count:,} of {tokens:,} tokens, {which}. "
        "log P in nats, perplexity per token."
    )
    ruled_out = (
        f"{impossible:,} of these {count:,} tokens are impossible for the model (probability 0), and with them their "
        "texts; a smoothed model, such as Kneser-Ney, rules nothing out."
    )
    console.print()
    _print_notes(console, [first, *([ruled_out] if impossible else []), *notes])


def _print_notes(console: Console, notes: Sequence[str]) -> None:
    for note in notes:
        console.print(Text(note, style="dim"), soft_wrap=not console.is_terminal)


def _print_rows(console: Console, head: Sequence[str], rows: Sequence[tuple[str, str, str, Text]]) -> None:
    if not console.is_terminal:
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
    console: Console,
    checks: Sequence[SpellingCheck],
    *,
    names: Sequence[str | None],
    threshold: float,
    notes: Sequence[str] = (),
) -> None:
    """Print each text with its flagged words marked, the words that may have been meant, and the corrected text.

    A text with a name, such as `line 3`, is a line of a file, and is printed only if it has flagged words.
    """
    colour = has_colour(console)
    for check, name in zip(checks, names, strict=True):
        if name is not None and not check.flagged:
            continue
        shown = marked(check.text, [(word.start, word.end) for word in check.flagged], colour=colour)
        if name is not None:
            shown = Text.assemble((f"{name}  ", "dim"), shown)
        console.print(shown, soft_wrap=not console.is_terminal)
        if not check.flagged:
            continue
        _print_offers(console, check.flagged)
        if check.corrected != check.text:
            corrected = Text.assemble(("put right: ", "dim"), check.corrected)
            if console.is_terminal:
                console.print(Padding(corrected, (0, 0, 0, 2), expand=False))
            else:
                console.print(Text("  ") + corrected, soft_wrap=True)
        console.print()

    # The summary is of all texts together.
    words = [word for check in checks for word in check.words]
    flagged = sum(word.flagged for word in words)
    notes = [f"{flagged:,} of {len(words):,} words flagged: log-odds of another word above {threshold:g} nats", *notes]
    unlisted = list(dict.fromkeys(word.word for check in checks for word in check.unlisted))
    if unlisted:
        listed = ", ".join(unlisted[:10]) + (f" and {len(unlisted) - 10:,} more" if len(unlisted) > 10 else "")
        notes.append(f"not in the word list, and no listed word within two edits: {listed}")
    unknown = sum(not word.known for word in words)
    if len(words) >= _FEWEST_WORDS and 2 * unknown > len(words):
        notes.append(
            f"{unknown:,} of {len(words):,} words are not in the word list: it seems to be of another language than "
            "the text. Choose a model of the text's language, or give its words with --words FILE."
        )
    _print_notes(console, notes)


def _print_offers(console: Console, words: Sequence[WordCheck]) -> None:
    """Print a row per flagged word: the words that may have been meant, and why it is flagged."""
    rows = [
        (
            word.word,
            [f"{other.word} {_percent(other.probability)}" for other in word.alternatives[:_OFFERED]],
            "improbable here" if word.known else "not in the list",
        )
        for word in words
    ]
    if not console.is_terminal:
        for word, offers, why in rows:
            console.print(Text(f"  {word}  {', '.join(offers)}  {why}"), soft_wrap=True)
        return
    others = max(len(word) for word, _, _ in rows) + max(len(why) for _, _, why in rows)
    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for word, offers, why in rows:
        lines = _in_lines(offers, width=console.width - others - 6)  # an indent and two gaps of two
        table.add_row(Text(word, style="bold"), Text("\n".join(lines)), Text(why, style="dim"))
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _in_lines(offers: Sequence[str], *, width: int) -> list[str]:
    """Offers with commas between them, in lines that break between offers only.

    >>> _in_lines(["movement 71%", "moment < 1%", "moved < 1%"], width=28)
    ['movement 71%, moment < 1%,', 'moved < 1%']
    """
    lines: list[str] = []
    for number, offer in enumerate(offers):
        piece = offer + ("," if number < len(offers) - 1 else "")
        if lines and len(lines[-1]) + 1 + len(piece) <= width:
            lines[-1] += f" {piece}"
        else:
            lines.append(piece)
    return lines


def _percent(share: float) -> str:
    return "< 1%" if share < 0.01 else "> 99%" if share > 0.99 else f"{share:.0%}"


def has_colour(console: Console) -> bool:
    """Whether the console shows colours: a terminal, unless NO_COLOR or TERM=dumb forbids them."""
    return console.is_terminal and console.color_system is not None and not console.no_color
