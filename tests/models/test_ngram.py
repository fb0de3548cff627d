"""N-grams: cases by hand, parity with brute force and nltk, sums to one, the transformers face."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.counted_ngrams import END, SMOOTHINGS, made_documents, network
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from rango.errors import InputError
from rango.language.ngram_estimation import Smoothing
from rango.models.ngram import NGramConfig, NGramForCausalLM
from rango.models.placement import place


class TestLaws:
    @given(seed=st.integers(0, 100), order=st.integers(1, 5), smoothing=st.sampled_from(SMOOTHINGS))
    @settings(max_examples=40, deadline=None)
    def test_looked_up_tokens_equal_the_distributions(self, seed: int, order: int, smoothing: Smoothing) -> None:
        model = network(made_documents(), order, smoothing=smoothing)
        tokens = torch.from_numpy(np.random.default_rng(seed).integers(0, 9, (3, 8)))
        dense = model(tokens).logits[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
        assert torch.allclose(model.sequence_log_probabilities(tokens), dense, atol=1e-6)

    def test_only_the_last_tokens_matter_and_padding_does_not(self) -> None:
        model = network(made_documents(), 3)
        tokens = torch.tensor([[4, 3, 1, 2, 1]])
        last = model(tokens, logits_to_keep=1).logits
        assert torch.equal(last, model(tokens[:, -2:]).logits[:, -1:])
        padded = torch.tensor([[END, END, 2, 1]])
        masked = model(padded, attention_mask=torch.tensor([[0, 0, 1, 1]])).logits[:, -2:]
        assert torch.equal(masked, model(torch.tensor([[2, 1]])).logits)


class TestNetwork:
    def test_saved_and_loaded_it_is_the_same_in_any_dtype(self, tmp_path: Path) -> None:
        model = network(made_documents(), 4)
        model.save_pretrained(tmp_path)
        loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, output_loading_info=True)
        assert not any(info.values())
        tokens = torch.tensor([[1, 2, 3, 1]])
        assert torch.equal(model(tokens).logits, loaded(tokens).logits)
        assert loaded.config.entries == model.config.entries

    def test_it_generates_what_it_counted(self) -> None:
        model = network([[1, 2, 3, 4]] * 5, 3, smoothing="maximum-likelihood")
        prompt = torch.tensor([[1, 2]])
        made = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=3, pad_token_id=END)
        assert made.tolist() == [[1, 2, 3, 4, END]]

    def test_what_cannot_follow_is_minus_infinity(self) -> None:
        model = network([[1, 2]], 2, smoothing="maximum-likelihood")
        assert model(torch.tensor([[1]])).logits[0, 0].tolist() == [-math.inf, -math.inf, 0.0] + [-math.inf] * 6


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            *(
                ({"eos_token_id": end}, "expected the end-of-text token, 0 to 3")
                for end in (None, -1, 4, [0], "0", 0.0)
            ),
            *(({"vocab_size": size}, "expected 4, the first of entries") for size in (3, 0, "4", None)),
            *(({"smoothing": name}, "expected one of kneser-ney") for name in ("none", None, 3)),
            *(({"entries": entries}, "expected the number of n-grams") for entries in (4, None, [True])),
        ],
    )
    def test_a_config_that_would_change_probabilities_is_refused(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=f"{next(iter(changes))} is .*; {message}"):
            NGramForCausalLM(NGramConfig(**{"vocab_size": 4, "entries": [4, 2]} | changes))

    @pytest.mark.parametrize("entries", [[], ["a"], [-1]])
    def test_entries_that_are_no_counts(self, entries: list[Any]) -> None:
        with pytest.raises(ValueError, match="expected the number of n-grams of each order"):
            NGramForCausalLM(NGramConfig(vocab_size=4, entries=entries))

    def test_lora_has_nothing_to_adapt(self) -> None:
        with pytest.raises(InputError, match="the model is an n-gram: a table .* has no linear layers for LoRA"):
            place(network(made_documents(), 2), ["q"], None)
