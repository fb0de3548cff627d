"""Options of pre-training: what does not fit together is refused with the bad value and the fix."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers.pretraining import ngram, tiny

from rango.errors import InputError
from rango.language.options import PretrainConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, r"hidden 16 with 3 heads: expected a multiple of 12 \(4 x heads\)"),
        ({"minutes": 1.0}, r"tokens is 3840 and minutes is 1\.0: give one budget"),
        ({"vocabulary": 100}, "vocabulary is 100: input should be greater than or equal to 257"),
        (
            {"architecture": "bert"},
            "architecture is 'bert': expected phi, llama, gpt2, mistral, qwen2 or the path of a config.json",
        ),
        ({"seed": 2**63}, "seed is 9223372036854775808: input should be less than 9223372036854775808"),
        ({"learning_rate": math.inf}, "learning_rate is inf: input should be a finite number"),
        ({"learning_rate": math.nan}, "learning_rate is nan: input should be a finite number"),
        ({"hiden": 3}, r"unknown key in configuration 'hiden': did you mean 'hidden'\?"),
    ],
)
def test_numbers_and_names_of_networks(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tokens": 100},
            r"tokens \(100\) does not apply to model ngram, which has the ngram options, vocabulary and",
        ),
        ({"minutes": 1.5}, r"minutes \(1.5\) does not apply to model ngram"),
        ({"lstm": {"dropout": 0.1}}, r"lstm \(dropout 0.1\) does not apply to model ngram"),
        ({"context": 64}, r"context \(64\) does not apply to model ngram"),
        ({"order": 6}, "ngram.order is 6: input should be less than or equal to 5"),
        ({"k": 1.0}, "k is 1 but smoothing is kneser-ney: k is of add-k, leave it out"),
        ({"k": math.inf, "smoothing": "add-k"}, "ngram.k is inf: input should be"),
        (
            {"k": 1e308, "smoothing": "add-k"},
            r"ngram.k is 1e\+308: input should be less than or equal to 1000000000",
        ),
        ({"discount": 0.5, "smoothing": "add-k"}, "discount is 0.5 but smoothing is add-k: it is of kneser-ney"),
        ({"arpa": True, "smoothing": "add-k"}, "arpa with smoothing add-k: an ARPA file cannot say"),
        ({"smoothing": "katz"}, "ngram.smoothing is 'katz': input should be 'kneser-ney'"),
        ({"unit": "words", "tokenizer": "x"}, "the given tokenizer decides, leave ngram.unit out"),
        ({"model": "lstm", "order": 2}, r"ngram \(order 2\) does not apply to model lstm"),
        ({"model": "transformer", "order": 2}, r"ngram \(order 2\) does not apply to model transformer"),
        (
            {"model": "lstm", "order": 2, "unit": "words"},
            r"ngram \(order 2, unit words\) does not apply to model ls",
        ),
    ],
)
def test_options_of_ngrams(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ngram(**changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model": "lstm", "heads": 2},
            r"heads \(2\) does not apply to model lstm, which has hidden, layers and lstm.dropout; leave it out",
        ),
        ({"model": "lstm", "architecture": "llama"}, r"architecture \(llama\) does not apply to model lstm"),
        ({"model": "lstm", "layers": 4}, "layers is 4: expected 1 to 3 with model lstm"),
        ({"lstm": {"dropout": 0.1}}, r"lstm \(dropout 0.1\) does not apply to model transformer"),
        ({"lstm": {"drop": 0.1}}, "unknown key in configuration 'lstm.drop': did you mean 'lstm.dropout'"),
        ({"architecture": "a/config.json", "hidden": 64}, r"hidden \(64\) does not apply to architecture a/config"),
    ],
)
def test_options_that_do_not_apply_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PretrainConfig.build(values)


@pytest.mark.parametrize(
    ("values", "depth"), [({}, 4), ({"layers": 6}, 6), ({"model": "lstm"}, 2), ({"model": "lstm", "layers": 3}, 3)]
)
def test_the_number_of_layers_depends_on_the_kind_of_model(values: dict[str, Any], depth: int) -> None:
    assert PretrainConfig.build(values).depth == depth
