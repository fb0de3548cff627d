"""The recurrent model is one more causal language model: same folder, same scorer, same adapters; parity with numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toy import toy_task
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from rango.errors import InputError
from rango.models.adapter import add_adapter
from rango.models.loading import load_model
from rango.models.lstm import LSTMConfig, LSTMForCausalLM
from rango.models.peft_format import load_adapter
from rango.options import LoRA, ScoringOptions
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import score
from rango.scoring.trees import encode

Checkpoint = Callable[..., Path]
TASK = toy_task()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def by_hand(network: LSTMForCausalLM, ids: list[int]) -> np.ndarray:
    """log P(token | tokens before it) after each token, (t, V): the gates' equations, token by token, in float64."""
    weights = {name: value.double().numpy() for name, value in network.state_dict().items()}
    H, layers = network.config.hidden_size, network.config.num_hidden_layers
    h, c = np.zeros((layers, H)), np.zeros((layers, H))
    rows = []
    for token in ids:
        x = weights["model.embed_tokens.weight"][token]
        for layer in range(layers):
            w, u, a, b = (
                weights[f"model.lstm.{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            gates = w @ x + a + u @ h[layer] + b
            take, forget, new, give = gates[:H], gates[H : 2 * H], gates[2 * H : 3 * H], gates[3 * H :]
            c[layer] = sigmoid(forget) * c[layer] + sigmoid(take) * np.tanh(new)
            h[layer] = sigmoid(give) * np.tanh(c[layer])
            x = h[layer]
        logits = weights["model.embed_tokens.weight"] @ x
        rows.append(logits - np.log(np.exp(logits).sum()))
    return np.array(rows)


class TestNetwork:
    @pytest.mark.parametrize("layers", [1, 2, 3])
    def test_parity_with_the_equations(self, checkpoint: Checkpoint, layers: int) -> None:
        network: Any = load_model(checkpoint("rango_lstm", num_hidden_layers=layers)).network
        ids = [5, 17, 17, 300, 2, 41]
        with torch.no_grad():
            found = network(torch.tensor([ids])).logits[0].double().log_softmax(-1).numpy()
        np.testing.assert_allclose(found, by_hand(network, ids), atol=2e-6)

    def test_the_folder_loads_as_any_other(self, checkpoint: Checkpoint) -> None:
        folder = checkpoint("rango_lstm")
        model = load_model(folder)
        assert isinstance(AutoConfig.from_pretrained(folder), LSTMConfig)
        for network in (AutoModelForCausalLM.from_pretrained(folder), LSTMForCausalLM.from_pretrained(folder)):
            assert all(torch.equal(a, b) for a, b in zip(network.parameters(), model.network.parameters(), strict=True))
        assert model.context_length is None
        assert model.parameter_count == 400 * 32 + 2 * 4 * (2 * 32 * 32 + 2 * 32) - 8 * 32  # the head is the embedding

    def test_the_output_is_tied(self, checkpoint: Checkpoint) -> None:
        network: Any = load_model(checkpoint("rango_lstm")).network
        assert network.get_output_embeddings().weight is network.get_input_embeddings().weight
        assert network.get_decoder() is network.base_model

    @given(cut=st.integers(1, 5))
    @settings(max_examples=5, deadline=None)
    def test_going_on_from_a_state_is_reading_the_whole(self, checkpoint: Checkpoint, cut: int) -> None:
        network: Any = load_model(checkpoint("rango_lstm")).network
        ids = torch.tensor([[5, 17, 17, 300, 2, 41], [1, 2, 3, 4, 5, 6]])
        with torch.no_grad():
            first = network(ids[:, :cut], use_cache=True)
            rest = network(ids[:, cut:], cache=first.cache).logits
            whole = network(ids, logits_to_keep=6 - cut)
        torch.testing.assert_close(rest, whole.logits)
        assert network(ids, use_cache=False).cache is None

    def test_the_loss_of_labels_is_that_of_transformers(self, checkpoint: Checkpoint) -> None:
        network: Any = load_model(checkpoint("rango_lstm")).network
        ids = torch.tensor([[5, 17, 17, 300, 2, 41]])
        expected = -by_hand(network, ids[0].tolist())[np.arange(5), ids[0, 1:].numpy()].mean()
        assert network(ids, labels=ids).loss.item() == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize("beams", [1, 3])
    def test_transformers_generates_with_the_state_as_without(self, checkpoint: Checkpoint, beams: int) -> None:
        network: Any = load_model(checkpoint("rango_lstm")).network
        ids = torch.tensor([[5, 17, 9]])
        one, two = (
            network.generate(ids, do_sample=False, num_beams=beams, max_new_tokens=12, use_cache=kept, pad_token_id=0)
            for kept in (True, False)
        )
        assert torch.equal(one, two)

    def test_padding_before_a_text_is_refused(self, checkpoint: Checkpoint) -> None:
        network: Any = load_model(checkpoint("rango_lstm")).network
        ids = torch.tensor([[0, 5, 17], [4, 5, 6]])
        with pytest.raises(ValueError, match="padding before a text"):
            network(ids, attention_mask=torch.tensor([[0, 1, 1], [1, 1, 1]]))
        after = network(ids, attention_mask=torch.tensor([[1, 1, 0], [1, 1, 1]])).logits
        assert torch.equal(after, network(ids).logits)

    def test_remembers_at_the_start(self) -> None:
        torch.manual_seed(0)
        lstm = LSTMForCausalLM(LSTMConfig(vocab_size=20, hidden_size=8)).model.lstm
        for layer in range(2):
            gates = getattr(lstm, f"bias_ih_l{layer}").detach() + getattr(lstm, f"bias_hh_l{layer}").detach()
            assert gates.view(4, 8).tolist() == [[0.0] * 8, [1.0] * 8, [0.0] * 8, [0.0] * 8]


class TestScoring:
    def test_the_score_of_each_choice_is_the_equations(self, checkpoint: Checkpoint) -> None:
        model = load_model(checkpoint("rango_lstm"))
        reader = probe_reader(model)
        assert not reader.reads_trees
        assert "read per choice" in reader.notes[0]
        trees = encode(model, TASK.test[:3], task=TASK, form="cloze")
        values = score(reader, trees, options=ScoringOptions(), form="cloze").values
        for row, tree in enumerate(trees):
            for choice, branch in enumerate(tree.branches):
                ids = [*tree.trunk, *branch]
                steps = by_hand(model.network, ids)  # type: ignore[arg-type]
                expected = sum(steps[at - 1, ids[at]] for at in range(len(tree.trunk), len(ids)))
                assert values[row, choice] == pytest.approx(expected, abs=2e-5)

    @given(batch_tokens=st.integers(1, 2000), count=st.integers(1, 8))
    @settings(max_examples=8, deadline=None)
    def test_scores_do_not_depend_on_batches_or_padding(
        self, checkpoint: Checkpoint, batch_tokens: int, count: int
    ) -> None:
        model = load_model(checkpoint("rango_lstm"))
        reader = probe_reader(model)
        trees = encode(model, TASK.train[:count], task=TASK, form="cloze")
        one_by_one = score(reader, trees, options=ScoringOptions(batch_tokens=1), form="cloze").values
        together = score(reader, trees, options=ScoringOptions(batch_tokens=batch_tokens), form="cloze").values
        np.testing.assert_allclose(together, one_by_one, atol=2e-5)


class TestAdapter:
    def test_the_head_takes_one(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        model = load_model(checkpoint("rango_lstm"))
        trees = encode(model, TASK.test[:3], task=TASK, form="cloze")
        options = ScoringOptions()
        base = score(probe_reader(model), trees, options=options, form="cloze").values
        adapter = add_adapter(model, LoRA(targets=("head",)), seed=0)
        assert list(adapter.layers) == ["lm_head"]
        np.testing.assert_array_equal(score(probe_reader(model), trees, options=options, form="cloze").values, base)
        torch.nn.init.normal_(adapter.layers["lm_head"].weights()[1], std=0.3)
        adapted = score(probe_reader(model), trees, options=options, form="cloze").values
        assert not np.allclose(adapted, base, atol=0.01)
        adapter.save(tmp_path)
        again = load_model(checkpoint("rango_lstm"))
        load_adapter(again, tmp_path)
        np.testing.assert_array_equal(score(probe_reader(again), trees, options=options, form="cloze").values, adapted)

    def test_other_placements_are_refused_in_words(self, checkpoint: Checkpoint) -> None:
        model = load_model(checkpoint("rango_lstm"))
        with pytest.raises(InputError, match="placement 'q': rango_lstm has no such projection; it has head"):
            add_adapter(model, LoRA(), seed=0)
