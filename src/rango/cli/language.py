"""`rango generate`, `rango score-text` and `rango spell`: continuing a text, and what a model makes of one."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from rango.cli.posteriors import check_output
from rango.console import Screen, Terminal, visible
from rango.errors import InputError
from rango.files import (
    check_adapter_folder,
    read_lines,
    write_json_lines,
)
from rango.language.options import GenerateOptions, SpellingOptions, check_characters, check_readable
from rango.language.words import read_words
from rango.models.sources import check_at_hand, check_source
from rango.options import ModelOptions
from rango.unicode_words import words_of

if TYPE_CHECKING:
    from rango.language.spelling.checker import SpellingCheck
    from rango.language.text_scores import TextScore
    from rango.models.loading import Model

_LONG_TEXT = 200  # words from which on `spell` shows a progress bar

_ENDINGS = {
    "end of text": "the end of the text",
    "max_tokens": "--max-tokens",
    "context": "the length of the model's context",
}


def generate(
    model: str,
    prompt: str,
    *,
    options: Annotated[GenerateOptions, Parameter(name="*")] = GenerateOptions(),
    quiet: Annotated[bool, Parameter(negative=(), help="Only the continuation.")] = False,
) -> None:
    """Continue a text with a model: the continuation goes to the standard output as it is written.

    Parameters
    ----------
    model
        Hub id, or folder with a transformers checkpoint, an LSTM or another model of rango pretrain.
    prompt
        The text to continue; "" begins a new text.
    """
    check_source(model, options.quantise)
    check_characters(prompt, "the prompt")
    if options.adapter is not None:
        check_adapter_folder(options.adapter)
    check_at_hand(model, options.device)
    screen = Screen(quiet=quiet)
    is_loaded = screen.loading(model)
    from rango.language.generate import generate as continue_text
    from rango.models.loading import load_model
    from rango.models.peft_format import load_adapter

    loaded = load_model(model, dtype=options.dtype, device=options.device, quantise=options.quantise)
    is_loaded()
    adapter = load_adapter(loaded, options.adapter) if options.adapter is not None else None
    generation = continue_text(loaded, prompt, options=options)
    screen.say(f"{model}: {'; '.join([*loaded.notes, *(adapter.notes if adapter else ())])}")
    # On a terminal the prompt stands before its continuation; the standard output has the continuation alone.
    screen.console.print(prompt, end="", style="bold", markup=False, soft_wrap=True)
    try:
        for piece in generation:
            # A file or a program gets the text as it is; a terminal would obey what is in it.
            print(visible(piece) if sys.stdout.isatty() else piece, end="", flush=True)
    finally:  # also when it is stopped by a signal
        print(flush=True)
    count, ending = len(generation.tokens), _ENDINGS.get(generation.stopped or "", "")
    screen.say(f"{count} tokens, {count / generation.seconds:,.0f} tokens/s, ended by {ending}")


def score_text(
    model: str,
    file: Path,
    *,
    threshold: str = "5%",
    out: Path | None = None,
    options: Annotated[ModelOptions, Parameter(name="*")] = ModelOptions(),
) -> None:
    """Print log-probability and perplexity of every line of a text file, with its improbable tokens marked.

    Each line is a document of its own; blank ones are passed over. A line longer than the model's context is scored in
    windows that overlap by half.

    Parameters
    ----------
    model
        Hub id, or folder of a language model.
    file
        UTF-8 text, a document a line.
    threshold
        Which tokens are marked: a share of all, such as 5%, or those with -log P above so many nats, such as 8.
    out
        JSONL file to write, a line per text: tokens, their characters and log-probabilities (nats; null where nothing
        predicts a token, and with "impossible": true where the model gives it probability 0).
    """
    nats, share = _threshold(threshold)
    if out is not None:
        check_output(out, file)
    check_source(model, options.quantise)
    lines = _numbered_lines(file)
    check_at_hand(model, options.device)
    is_loaded = Screen().loading(model)
    from rango.language.printing import improbable_below, print_scores
    from rango.language.text_scores import score_texts
    from rango.models.loading import load_model

    loaded = load_model(model, dtype=options.dtype, device=options.device, quantise=options.quantise)
    is_loaded()
    scores = score_texts(loaded, list(lines.values()))
    if out is not None:
        write_json_lines(out, [_score_row(number, score) for number, score in zip(lines, scores, strict=True)])
    below = improbable_below(scores, nats=nats, share=share)
    print_scores(Terminal(), scores, lines=list(lines), below=below, notes=_notes(loaded, list(lines), scores))


def spell(
    model: str,
    text: str | None = None,
    *,
    file: Path | None = None,
    words: Path | None = None,
    spelling: Annotated[SpellingOptions, Parameter(name="*")] = SpellingOptions(),
    out: Path | None = None,
    options: Annotated[ModelOptions, Parameter(name="*")] = ModelOptions(),
) -> None:
    """Flag words in improbable places of a text, and offer more probable ones within two edits.

    Parameters
    ----------
    model
        Hub id, or folder of a language model.
    text
        The text to check.
    file
        UTF-8 text to check instead, line by line.
    words
        Known words, one a line with its count (word, tab, count); the model's own words.txt if absent.
    out
        JSONL file to write, a line per text: every word with its alternatives and log-odds (nats; null where there is
        nothing to compare, and where the model gives probability 0 to what "impossible" names: "typed" or "others").
    """
    if (text is None) == (file is None):
        raise InputError("give the text to check, or --file FILE" + (", not both" if text is not None else ""))
    if out is not None:
        check_output(out, file, words)
    check_source(model, options.quantise)
    lines = _numbered_lines(file) if file is not None else {1: text or ""}
    # Every line is checked before the model is loaded for the first of them.
    for number, line in lines.items():
        check_readable(line, f"line {number}" if file is not None else "the text")
    known = read_words(words) if words is not None else None
    check_at_hand(model, options.device)
    is_loaded = Screen().loading(model)
    from rango.language.printing import print_spelling
    from rango.language.spelling.checker import SpellChecker
    from rango.models.loading import load_model

    loaded = load_model(model, dtype=options.dtype, device=options.device, quantise=options.quantise)
    is_loaded()
    checker = SpellChecker(loaded, words=known, options=spelling)
    total = sum(1 for line in lines.values() for _ in words_of(line))
    with Screen(quiet=total < _LONG_TEXT).bar("words", total) as bar:
        checks = checker.check(list(lines.values()), progress=bar.advance)
    if out is not None:
        write_json_lines(out, [_check_row(number, check) for number, check in zip(lines, checks, strict=True)])
    names = [f"line {number}" if file is not None else None for number in lines]
    print_spelling(Terminal(), checks, names=names, threshold=spelling.threshold, notes=checker.words.notes)


def _numbered_lines(file: Path) -> dict[int, str]:
    """The lines of a file that hold text, without the spaces around it, by their numbers from 1."""
    return {number: line.strip() for number, line in enumerate(read_lines(file), start=1) if line.strip()}


def _threshold(text: str) -> tuple[float | None, float | None]:
    """`--threshold` as (nats, None) or (None, share)."""
    percent = text.endswith("%")
    plain = re.fullmatch(r"[0-9]*\.?[0-9]+%?", text)  # float() alone would take 1_0 for 10
    value = float(text.removesuffix("%")) if plain else -1.0
    if not (0 <= value <= 100 if percent else 0 <= value < float("inf")):
        raise InputError(f"--threshold is {text!r}; expected nats such as 8, or a share of the tokens such as 5%")
    return (None, value / 100) if percent else (value, None)


def _notes(model: Model, numbers: Sequence[int], scores: Sequence[TextScore]) -> list[str]:
    """What a reader must know to compare these numbers with others."""
    from rango.language.text_scores import beginning

    before = beginning(model)
    name = model.tokenizer.decode(list(before)) if before else ""
    notes = [
        f"The first token of a line is predicted from {name}."
        if before
        else "The model has no token that begins a text: the first token of a line is not scored."
    ]
    long = [str(number) for number, score in zip(numbers, scores, strict=True) if score.windows > 1]
    if long:
        listed = ", ".join(long[:5]) + (f" and {len(long) - 5:,} more" if len(long) > 5 else "")
        notes.append(
            f"Longer than the context of {model.context_length:,} tokens, scored in overlapping windows: line {listed}."
        )
    if unknown := sum(len(score.unknown) for score in scores):
        notes.append(
            f"{unknown:,} tokens are unknown to the tokenizer ({model.tokenizer.unk_token}); the probability of each "
            "is that of any unknown one."
        )
    return notes


def _score_row(line: int, score: TextScore) -> dict[str, Any]:
    return {
        "line": line,
        "text": score.text,
        "log_probability": _finite(score.log_probability),
        "perplexity": _finite(score.perplexity),
        "bits_per_byte": _finite(score.bits_per_byte),
        "impossible": score.log_probability == -math.inf,
        "tokens": [
            {
                "text": token,
                "start": start,
                "end": end,
                "log_probability": _finite(float(value)),
                "impossible": bool(value == -math.inf),
            }
            for token, (start, end), value in zip(score.tokens, score.spans, score.log_probabilities, strict=True)
        ],
    }


def _check_row(line: int, check: SpellingCheck) -> dict[str, Any]:
    return {
        "line": line,
        "text": check.text,
        "corrected": check.corrected,
        "words": [
            {
                "word": word.word,
                "start": word.start,
                "end": word.end,
                "known": word.known,
                "flagged": word.flagged,
                "log_odds": None if word.log_odds is None else _finite(word.log_odds),
                "impossible": {math.inf: "typed", -math.inf: "others"}.get(word.log_odds or 0.0),
                "alternatives": [
                    {"word": one.word, "probability": one.probability, "distance": one.distance}
                    for one in word.alternatives
                ],
            }
            for word in check.words
        ],
    }


def _finite(value: float) -> float | None:
    """A number that every JSON reader takes: JSON knows neither infinity nor NaN."""
    return value if math.isfinite(value) else None
