"""The chain rule over texts: equal to the plain forward pass, whatever the batches; windows cover each token once."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.checkpoints import TEXT
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rango.errors import InputError
from rango.language.text_scores import TextScore, score_texts, windows
from rango.models.loading import Model, load_model
from rango.options import ScoringOptions

Checkpoint = Callable[..., Path]
TEXTS = [*TEXT, "el niño come", "a"]


@torch.no_grad()
def plain(model: Model, ids: list[int]) -> list[float]:
    """log P of ids[1:] the slow way."""
    network: Any = model.network
    logs = network(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [float(logs[at - 1, ids[at]]) for at in range(1, len(ids))]


@pytest.mark.parametrize("architecture", ["phi", "gpt2", "bloom"])
def test_every_token_has_the_probability_of_the_plain_forward_pass(checkpoint: Checkpoint, architecture: str) -> None:
    model = load_model(checkpoint(architecture))
    end = model.tokenizer.eos_token_id
    for score, closed in zip(score_texts(model, TEXTS), score_texts(model, TEXTS, closed=True), strict=True):
        ids = model.tokenizer(score.text)["input_ids"]
        np.testing.assert_allclose(score.log_probabilities, plain(model, [end, *ids]), atol=2e-5)
        np.testing.assert_allclose(closed.log_probabilities, plain(model, [end, *ids, end]), atol=2e-5)
        assert "".join(score.tokens) == score.text or "ñ" in score.text
        assert closed.tokens == (*score.tokens, "")


@given(batch_tokens=st.integers(1, 400), order=st.permutations(range(len(TEXTS))))
@settings(max_examples=10, deadline=None)
def test_scores_do_not_depend_on_batches_or_order(checkpoint: Checkpoint, batch_tokens: int, order: list[int]) -> None:
    model = load_model(checkpoint("phi"))
    alone = [score_texts(model, [text])[0] for text in TEXTS]
    together = score_texts(model, [TEXTS[k] for k in order], options=ScoringOptions(batch_tokens=batch_tokens))
    for k, score in zip(order, together, strict=True):
        np.testing.assert_allclose(score.log_probabilities, alone[k].log_probabilities, atol=2e-5)


def test_sums_by_hand() -> None:
    score = TextScore("añb", ((0, 1), (1, 2), (2, 3)), np.log([0.5, 0.25, 0.125]))
    assert score.log_probability == pytest.approx(-6 * math.log(2))
    assert score.perplexity == pytest.approx(4)  # 2 bits a token
    assert score.bits_per_byte == pytest.approx(6 / 4)  # ñ has two bytes
    unscored = TextScore("añb", score.spans, np.array([math.nan, *score.log_probabilities[1:]]))
    assert (unscored.scored, unscored.scored_bytes) == (2, 3)
    assert unscored.perplexity == pytest.approx(2**2.5)
    assert math.isnan(TextScore("a", ((0, 1),), np.array([math.nan])).perplexity)


@given(length=st.integers(1, 60), first=st.integers(1, 3), context=st.integers(4, 20))
def test_windows_score_each_token_once_with_half_a_context_before_it(length: int, first: int, context: int) -> None:
    cut = windows(range(length), first=first, context=context)
    assert [token for _, branch in cut for token in branch] == list(range(first, length))
    for number, (trunk, branch) in enumerate(cut):
        assert [*trunk, *branch] == list(range(trunk[0], branch[-1] + 1))
        assert len(trunk) + len(branch) <= context
        assert len(trunk) == (first if number == 0 else context // 2)
    assert len(cut) <= 1 or windows(range(length), first=first, context=None) == [
        (tuple(range(first)), tuple(range(first, length)))
    ]


def test_a_text_longer_than_the_context_is_read_in_windows(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))  # reads 128 tokens
    text = " ".join(TEXT * 3)
    score = score_texts(model, [text])[0]
    ids = [model.tokenizer.eos_token_id, *model.tokenizer(text)["input_ids"]]
    assert len(ids) > 200
    assert score.windows == 1 + math.ceil((len(ids) - 128) / 64)
    expected = plain(model, ids[:128])
    for start in range(64, len(ids) - 64, 64):
        expected += plain(model, ids[start : start + 128])[63:]
    np.testing.assert_allclose(score.log_probabilities, expected, atol=2e-5)


def test_without_a_token_before_the_text_the_first_is_not_scored(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    model.tokenizer.eos_token = None
    score = score_texts(model, [TEXT[0], "a"])
    ids = model.tokenizer(TEXT[0])["input_ids"]
    assert math.isnan(score[0].log_probabilities[0])
    np.testing.assert_allclose(score[0].log_probabilities[1:], plain(model, ids), atol=2e-5)
    assert score[1].scored == 0


def test_tokens_unknown_to_the_tokenizer_are_told(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    words = Tokenizer(models.WordLevel({"<s>": 0, "<unk>": 1, "the": 2, "fox": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="<unk>")
    score = score_texts(Model("words", model.network, tokenizer), ["the ñandú fox"])[0]
    assert (score.tokens, score.unknown) == (("the", "ñandú", "fox"), (1,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" \n", "text 2 is blank; give at least one word"),
        ("a\ud800", "text 2: U+D800, half a surrogate pair, at character 2 is not UTF-8"),
        ("a\udcff", "text 2: byte 0xff at character 2 is not UTF-8"),
    ],
)
def test_what_is_no_text_is_refused(checkpoint: Checkpoint, text: str, message: str) -> None:
    model = load_model(checkpoint("phi"))
    with pytest.raises(InputError, match=message.replace("+", r"\+")):
        score_texts(model, ["fine", text])
    assert score_texts(model, []) == []


def test_a_context_too_short_for_windows_is_refused() -> None:
    with pytest.raises(InputError, match="context is 3 tokens; expected at least 4"):
        windows(range(9), first=1, context=3)
