"""Scored and checked texts on a terminal and in a pipe: what is marked, and how rows break."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from rango.language.printing import improbable_below, improbable_spans, marked, print_scores, print_spelling
from rango.language.spelling.checker import Alternative, SpellingCheck, WordCheck
from rango.language.text_scores import TextScore

SCORE = TextScore("a big cat sat", ((0, 1), (1, 5), (5, 9), (9, 13)), np.array([-1.0, -9.0, -8.0, -2.0]))
OFFERS = (Alternative("movement", 0.9, 1), Alternative("moment", 0.05, 1), Alternative("cement", 0.005, 2))
FLAGGED = WordCheck(0, 7, "movemnt", False, 5.0, OFFERS, True)


def spelling(*words: WordCheck) -> SpellingCheck:
    return SpellingCheck(" ".join(word.word for word in words), words)


def shown(check: SpellingCheck, *, width: int, terminal: bool) -> str:
    console = Console(width=width, force_terminal=terminal, record=True, highlight=False, file=io.StringIO())
    print_spelling(console, [check], names=[None], threshold=0.0)
    return console.export_text()


def test_improbable_tokens_are_joined_without_white_space() -> None:
    assert improbable_spans(SCORE, below=-5) == [(2, 5), (6, 9)]
    pieces = TextScore("a manzna", ((0, 1), (1, 4), (4, 8)), np.array([-1.0, -9.0, -8.0]))
    assert improbable_spans(pieces, below=-5) == [(2, 8)]
    assert marked(SCORE.text, [(2, 5), (6, 9)], colour=False).plain == "a [big] [cat] sat"
    coloured = marked(SCORE.text, [(2, 5)], colour=True)
    assert [(span.start, span.end) for span in coloured.spans] == [(2, 5)]
    assert coloured.plain == SCORE.text
    assert improbable_spans(SCORE, below=improbable_below([SCORE], nats=None, share=0.25)) == [(2, 5)]
    assert len(improbable_spans(SCORE, below=improbable_below([SCORE], nats=None, share=1.0))) == 4
    assert improbable_spans(SCORE, below=improbable_below([SCORE], nats=8.5, share=None)) == [(2, 5)]
    assert improbable_spans(SCORE, below=improbable_below([SCORE], nats=None, share=0.0)) == []


def test_words_are_marked_whole() -> None:
    text = "Donaudampf, don't x9-y ¡no!"
    #       0         10        20
    spans = ((0, 3), (3, 5), (5, 10), (10, 11), (11, 15), (15, 17), (17, 19), (19, 20), (20, 21), (21, 22), (22, 27))

    def marks(*improbable: int) -> str:
        values = np.array([-9.0 if number in improbable else -1.0 for number in range(len(spans))])
        return marked(text, improbable_spans(TextScore(text, spans, values), below=-5), colour=False).plain

    assert marks(1) == marks(0, 2) == "[Donaudampf], don't x9-y ¡no!"
    assert marks(5) == "Donaudampf, [don't] x9-y ¡no!"
    assert marks(3, 7) == "Donaudampf[,] don't [x9]-y ¡no!"
    assert marks(8, 9, 10) == "Donaudampf, don't x9[-y] [¡no!]"


def test_a_word_with_marks_is_marked_whole() -> None:
    text = "यह हिन्दी है"
    score = TextScore(text, ((0, 2), (2, 5), (5, 9), (9, 12)), np.array([-1.0, -1.0, -9.0, -1.0]))
    assert marked(text, improbable_spans(score, below=-5), colour=False).plain == "यह [हिन्दी] है"


@pytest.mark.parametrize("width", [80, 140])
def test_rows_fit_the_terminal(width: int) -> None:
    console = Console(width=width, force_terminal=True, record=True, highlight=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    long = TextScore("word " * 80, ((0, 400),), np.array([-3.0]))
    print_scores(console, [SCORE, long], lines=[1, 2], below=-5, notes=["A note."])
    console.file.close()
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= width
    assert "[big" not in shown


def test_offers_are_plain_lines_in_a_pipe() -> None:
    lines = shown(spelling(FLAGGED), width=40, terminal=False).splitlines()
    assert lines[1] == "  movemnt  movement 90%, moment 5%, cement < 1%  not in the list"
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("width", [60, 80])
def test_offers_break_between_words_only(width: int) -> None:
    offers = shown(spelling(FLAGGED), width=width, terminal=True).splitlines()[1:4]
    text = "\n".join(offers)
    assert all(one in text for one in ("movement 90%", "moment 5%", "cement < 1%", "not in the list"))
    assert max(map(len, offers)) <= width


def test_a_word_list_of_another_language_is_told() -> None:
    def check(*known: bool) -> SpellingCheck:
        return spelling(*[WordCheck(5 * n, 5 * n + 4, "niño", k, None, (), False) for n, k in enumerate(known)])

    said = "3 of 4 words are not in the word list: it seems to be of another language than the text"
    assert said in " ".join(shown(check(False, False, False, True), width=60, terminal=True).split())
    assert "another language" not in shown(check(False, False, True, True), width=200, terminal=True)
    assert "another language" not in shown(check(False, False, False), width=200, terminal=True)
