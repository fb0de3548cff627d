"""A continuation is drawn as said: greedy equals transformers', top-p keeps the fewest tokens, seeds decide, bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.checkpoints import tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.errors import InputError
from rango.language.generate import Generation, draw, generate, nucleus, whole_pieces
from rango.language.options import GenerateOptions
from rango.models.adapter import add_adapter
from rango.models.loading import Model, load_model
from rango.options import LoRA

Checkpoint = Callable[..., Path]
PROMPT = "Tracy had tea with"


def written(model: Model, prompt: str = PROMPT, **options: Any) -> Generation:
    generation = generate(model, prompt, options=GenerateOptions.build({"max_tokens": 20, **options}))
    assert "".join(generation) == generation.text
    return generation


ARCHITECTURES = ["phi", "llama", "mistral", "gemma2", "gpt2", "gpt_neox", "opt", "bloom", "rango_lstm"]


class TestGreedy:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_parity_with_transformers(self, checkpoint: Checkpoint, architecture: str) -> None:
        model = load_model(checkpoint(architecture))
        found = written(model, temperature=0).tokens
        network: Any = model.network
        ids = torch.tensor([model.tokenizer(PROMPT)["input_ids"]])
        expected = network.generate(ids, do_sample=False, max_new_tokens=20, pad_token_id=0)[0, ids.shape[1] :].tolist()
        assert found == [token for token in expected if token != model.tokenizer.eos_token_id]

    @pytest.mark.parametrize("architecture", ["phi", "rango_lstm"])
    def test_it_is_the_loop_over_argmax_without_memory(self, checkpoint: Checkpoint, architecture: str) -> None:
        model = load_model(checkpoint(architecture))
        network: Any = model.network
        ids = list(model.tokenizer(PROMPT)["input_ids"])
        start = len(ids)
        for _ in range(20):
            ids.append(
                int(network(torch.tensor([ids]), use_cache=False).logits[0, -1, : len(model.tokenizer)].argmax())
            )
        assert written(model, temperature=0).tokens == ids[start:]

    def test_a_window_shorter_than_the_text(self, checkpoint: Checkpoint) -> None:
        model = load_model(checkpoint("mistral", sliding_window=4))
        network: Any = model.network
        ids = list(model.tokenizer(PROMPT)["input_ids"])
        start = len(ids)
        for _ in range(20):
            ids.append(int(network(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert written(model, temperature=0).tokens == ids[start:]

    def test_a_network_with_the_least_interface(self, checkpoint: Checkpoint) -> None:
        model = load_model(checkpoint("phi"))

        class Least(torch.nn.Module):
            """What an n-gram offers: token numbers in, the last logits out, nothing remembered."""

            config, generation_config = model.network.config, None

            def __init__(self) -> None:
                super().__init__()
                self.inner = model.network

            def forward(self, input_ids: torch.Tensor, logits_to_keep: int = 0) -> Any:
                return SimpleNamespace(logits=self.inner(input_ids, use_cache=False).logits[:, -logits_to_keep:])

        least: Any = Least()
        assert written(replace(model, network=least), seed=3).tokens == written(model, seed=3).tokens


class TestDrawing:
    @given(
        values=st.lists(st.floats(0, 1), min_size=1, max_size=30).filter(lambda values: sum(values) > 1e-3),
        top_p=st.floats(0.01, 0.999),
    )
    def test_the_nucleus_is_the_smallest_set(self, values: list[float], top_p: float) -> None:
        probabilities = torch.tensor(values, dtype=torch.float64) / sum(values)
        kept = nucleus(probabilities, top_p).tolist()
        assert len(set(kept)) == len(kept) >= 1
        mass = float(probabilities[kept].sum())
        assert mass >= top_p - 1e-12
        assert mass - float(probabilities[kept[-1]]) < top_p + 1e-12  # without its last one it is too small
        rest = [k for k in range(len(values)) if k not in kept]
        assert all(probabilities[k] <= probabilities[kept[-1]] for k in rest)  # and no other set reaches further

    def test_the_nucleus_by_hand(self) -> None:
        probabilities = torch.tensor([0.125, 0.5, 0.125, 0.25])
        assert nucleus(probabilities, 0.5).tolist() == [1]
        assert nucleus(probabilities, 0.75).tolist() == [1, 3]
        assert nucleus(probabilities, 0.76).tolist() == [1, 3, 0]
        assert nucleus(torch.tensor([0.0, 1.0]), 1.0).tolist() == [1]

    @pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.8)])
    def test_frequencies_are_the_tempered_probabilities(self, temperature: float, top_p: float) -> None:
        logits = torch.tensor([2.0, 1.0, 0.0, -1.0, float("-inf")])
        expected = np.exp(np.array([2.0, 1.0, 0.0, -1.0]) / temperature)
        expected = np.append(expected / expected.sum(), 0)
        if top_p == 0.8:
            expected[expected.cumsum() - expected >= 0.8] = 0
            expected /= expected.sum()
        random = torch.Generator().manual_seed(0)
        options = GenerateOptions(temperature=temperature, top_p=top_p)
        counts = np.bincount([draw(logits, options, random) for _ in range(4000)], minlength=5) / 4000
        np.testing.assert_allclose(counts, expected, atol=4 * 0.5 / 4000**0.5)
        assert all(counts[expected == 0] == 0)

    def test_a_cold_draw_is_the_greedy_one(self) -> None:
        logits = torch.tensor([1.0, 5.0, 4.9])
        random = torch.Generator().manual_seed(0)
        assert {draw(logits, GenerateOptions(temperature=1e-320), random) for _ in range(20)} == {1}

    @pytest.mark.parametrize("bad", [float("nan"), float("-inf"), float("inf")])
    def test_no_probabilities(self, bad: float) -> None:
        with pytest.raises(InputError, match="the model gives no probabilities here"):
            draw(torch.tensor([bad, bad]), GenerateOptions(), torch.Generator())

    @pytest.mark.parametrize("architecture", ["phi", "rango_lstm"])
    def test_the_seed_decides(self, checkpoint: Checkpoint, architecture: str) -> None:
        model = load_model(checkpoint(architecture))
        one, same, other = (written(model, seed=seed).tokens for seed in (1, 1, 2))
        assert one == same != other
        narrow = written(model, seed=1, top_p=1e-6).tokens
        assert narrow == written(model, temperature=0).tokens


class TestEnd:
    def test_the_end_of_the_text_is_not_shown(self, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
        model = load_model(checkpoint("phi"))
        whole = written(model, temperature=0)
        assert whole.stopped == "max_tokens"
        fifth = whole.tokens[4]
        cut = whole.tokens.index(fifth)
        monkeypatch.setattr(model.network.generation_config, "eos_token_id", [fifth])
        early = written(model, temperature=0)
        assert (early.tokens, early.stopped) == (whole.tokens[:cut], "end of text")

    def test_the_context_fills_up(self, checkpoint: Checkpoint) -> None:
        model = load_model(checkpoint("phi", max_position_embeddings=16))
        generation = written(model, max_tokens=100)
        assert generation.stopped in ("context", "end of text")
        assert len(generation.tokens) + len(generation.prompt_tokens) <= 16
        with pytest.raises(InputError, match=r"the prompt has \d+ tokens and .* reads at most 16"):
            generate(model, PROMPT * 5)

    def test_an_lstm_has_no_limit(self, checkpoint: Checkpoint) -> None:
        generation = written(load_model(checkpoint("rango_lstm")), max_tokens=300, seed=4)
        assert len(generation.tokens) == 300 or generation.stopped == "end of text"

    def test_an_empty_prompt_begins_a_text(self, checkpoint: Checkpoint) -> None:
        model = load_model(checkpoint("phi"))
        generation = written(model, prompt="")
        assert generation.prompt_tokens == [model.tokenizer.eos_token_id]

    def test_an_adapter_changes_what_is_written(self, checkpoint: Checkpoint) -> None:
        model = load_model(checkpoint("phi"))
        before = written(model, seed=1).tokens
        adapter = add_adapter(model, LoRA(targets=("q", "v", "head")), seed=0)
        assert written(model, seed=1).tokens == before
        for layer in adapter.layers.values():
            torch.nn.init.normal_(layer.weights()[1], std=0.5)
        assert written(model, seed=1).tokens != before


class TestPieces:
    tokenizer = tiny_tokenizer()

    @given(text=st.text(max_size=30), start=st.sampled_from(["", "tea ", "é", "日本"]))
    @settings(deadline=None)
    def test_pieces_are_whole_and_make_the_text(self, text: str, start: str) -> None:
        context, ids = self.tokenizer(start)["input_ids"], self.tokenizer(text)["input_ids"]
        pieces = list(whole_pieces(self.tokenizer, context, ids))
        assert "".join(pieces) == self.tokenizer.decode(ids, skip_special_tokens=True)
        if "\ufffd" not in text:
            assert not any("\ufffd" in piece for piece in pieces)

    @given(ids=st.lists(st.integers(1, 256), max_size=20))
    @settings(deadline=None)
    def test_any_bytes_at_all(self, ids: list[int]) -> None:
        assert "".join(whole_pieces(self.tokenizer, [], ids)) == self.tokenizer.decode(ids)

    def test_a_character_of_four_tokens_comes_at_once(self) -> None:
        ids = self.tokenizer("a🦎b")["input_ids"]
        assert len(ids) == 6

        def one_by_one() -> Iterator[int]:
            yield from ids

        assert list(whole_pieces(self.tokenizer, [], one_by_one())) == ["a", "🦎", "b"]

    def test_half_a_character_at_the_end_is_shown_as_such(self) -> None:
        ids = self.tokenizer("a🦎")["input_ids"][:-1]
        assert next(iter(whole_pieces(self.tokenizer, [], ids))) == "a"
        assert "".join(whole_pieces(self.tokenizer, [], ids)) == self.tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1}, "temperature is -1: input should be greater than or equal to 0"),
        ({"top_p": 0}, "top_p is 0: input should be greater than 0"),
        ({"max_tokens": 0}, "max_tokens is 0: input should be greater than or equal to 1"),
        ({"temprature": 1}, "did you mean 'temperature'"),
    ],
)
def test_bad_options(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GenerateOptions.build(values)
