"""Shots that are read once score as shots that are read with every instance, and as the whole text does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.reference import full_sequence_score
from helpers.toy import toy_task
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.errors import InputError
from rango.models.adapter import add_adapter
from rango.models.loading import Model, load_model
from rango.options import Form, LoRA, ScoringOptions
from rango.scoring.forward import Reader, rope_switches, shared_beginning
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import evaluate, score
from rango.scoring.trees import TokenTree, encode
from rango.tasks import few_shot

Checkpoint = Callable[..., Path]
SHOTS = 3
TASK = few_shot(toy_task(), shots=SHOTS, seed=0)
LONG: dict[str, dict[str, Any]] = {"gpt2": {"n_positions": 512}, "bloom": {}}


def long_model(checkpoint: Checkpoint, architecture: str, **changes: Any) -> Model:
    """A model whose context holds the shots."""
    return load_model(checkpoint(architecture, **LONG.get(architecture, {"max_position_embeddings": 512}), **changes))


def read_of(reader: Reader, trees: list[TokenTree], form: Form) -> tuple[np.ndarray, int]:
    scores = score(reader, trees, options=ScoringOptions(), form=form)
    return scores.values, scores.tokens


@pytest.mark.parametrize("form", ["cloze", "letter"])
@pytest.mark.parametrize(
    "architecture",
    ["phi", "phi3", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gpt2", "gpt_neox", "olmo2", "opt", "bloom"],
)
def test_scores_after_a_cached_prefix_equal_full_sequences(
    checkpoint: Checkpoint, architecture: str, form: Form
) -> None:
    model = long_model(checkpoint, architecture)
    trees = encode(model, TASK.test[:5], task=TASK, form=form)
    reader = probe_reader(model)
    assert reader.reads_prefix
    values, tokens = read_of(reader, trees, form)
    for row, tree in enumerate(trees):
        for choice in range(len(tree.branches)):
            assert values[row, choice] == pytest.approx(full_sequence_score(model, tree, choice), abs=3e-5)
    shared = shared_beginning(trees)
    assert shared > 80  # the shots
    again, all_tokens = read_of(replace(reader, reads_prefix=False), trees, form)
    np.testing.assert_allclose(values, again, atol=3e-5)
    rows = len(trees) if reader.reads_trees else int(np.isfinite(values).sum())
    assert tokens == all_tokens - (rows - 1) * shared


def test_the_prefix_is_shared_by_tokens_of_trunks() -> None:
    def trees(*trunks: tuple[int, ...]) -> list[TokenTree]:
        return [TokenTree("x", trunk, ((1,), (2,)), (1, 1), 0) for trunk in trunks]

    shots = tuple(range(20))
    assert shared_beginning(trees((*shots, 50, 51), (*shots, 60), (*shots, 50))) == 20
    assert shared_beginning(trees((*shots, 50), shots)) == 19  # a trunk keeps its last token
    assert shared_beginning(trees((*shots[:15], 50), (*shots[:15], 60))) == 0  # too short to be worth it
    assert shared_beginning(trees(shots)) == 0  # nobody to share with


@given(batch_tokens=st.integers(1, 2000), count=st.integers(2, 10))
@settings(max_examples=10, deadline=None)
def test_scores_after_a_prefix_do_not_depend_on_batches(checkpoint: Checkpoint, batch_tokens: int, count: int) -> None:
    model = long_model(checkpoint, "phi")
    reader = probe_reader(model)
    trees = encode(model, TASK.validation[:count], task=TASK, form="cloze")
    together = score(reader, trees, options=ScoringOptions(batch_tokens=batch_tokens), form="cloze").values
    for row, tree in enumerate(trees):
        alone = score(reader, [tree], options=ScoringOptions(), form="cloze").values[0]
        np.testing.assert_allclose(together[row, : len(tree.branches)], alone, atol=3e-5)


def test_a_window_shorter_than_shots_and_instance_reads_them_together(checkpoint: Checkpoint) -> None:
    model = long_model(checkpoint, "mistral", sliding_window=40)
    trees = encode(model, TASK.test[:3], task=TASK, form="cloze")
    reader = probe_reader(model)
    assert reader.reads_prefix
    values, tokens = read_of(reader, trees, "cloze")
    assert tokens > 3 * shared_beginning(trees)  # per choice, the shots each time
    assert values[0, 0] == pytest.approx(full_sequence_score(model, trees[0], 0), abs=3e-5)


def test_frequencies_that_change_with_the_length_read_them_together(checkpoint: Checkpoint) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    for original in (115, 500):
        model = long_model(checkpoint, "phi3", original_max_position_embeddings=original, rope_parameters=rope)
        assert rope_switches(model) == (original,)
        trees = encode(model, TASK.test[:3], task=TASK, form="cloze")
        assert 100 < shared_beginning(trees) < 115 < trees[0].path_length < 500
        values, _ = read_of(probe_reader(model), trees, "cloze")
        assert values[0, 0] == pytest.approx(full_sequence_score(model, trees[0], 0), abs=3e-5)


def test_recurrent_models_read_the_shots_with_every_instance(tmp_path: Path) -> None:
    from helpers.checkpoints import tiny_tokenizer
    from transformers import MambaConfig, MambaForCausalLM

    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4, initializer_range=0.2
    )
    MambaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    reader = probe_reader(model)
    assert not reader.reads_prefix
    trees = encode(model, TASK.test[:3], task=TASK, form="cloze")
    values, _ = read_of(reader, trees, "cloze")
    assert values[2, 1] == pytest.approx(full_sequence_score(model, trees[2], 1), abs=3e-5)


def test_the_prefix_is_read_with_the_adapter_as_it_is(checkpoint: Checkpoint) -> None:
    model = long_model(checkpoint, "llama")
    reader = probe_reader(model)
    trees = encode(model, TASK.test[:3], task=TASK, form="cloze")
    before, _ = read_of(reader, trees, "cloze")
    adapter = add_adapter(model, LoRA(targets=("k", "v")), seed=0)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    adapted, _ = read_of(reader, trees, "cloze")
    finite = np.isfinite(before)
    assert np.abs(adapted[finite] - before[finite]).min() > 1e-3
    assert adapted[1, 2] == pytest.approx(full_sequence_score(model, trees[1], 2), abs=3e-5)
    with adapter.disabled():
        np.testing.assert_array_equal(read_of(reader, trees, "cloze")[0], before)


def test_evaluate_with_shots(checkpoint: Checkpoint) -> None:
    model, plain = long_model(checkpoint, "phi"), toy_task()
    options = ScoringOptions(shots=SHOTS)
    found = evaluate(model, plain.test, task=plain, options=options)
    trees = encode(model, plain.test, task=TASK, form="cloze")
    scores = [full_sequence_score(model, trees[0], choice) for choice in range(len(trees[0].branches))]
    expected = torch.tensor(scores).log_softmax(0).numpy()
    np.testing.assert_allclose(found.log_posteriors[0, : len(scores)], expected, atol=3e-5)
    with pytest.raises(InputError, match="stands answered in the prompt as a shot"):
        evaluate(model, plain.train, task=plain, options=options)
