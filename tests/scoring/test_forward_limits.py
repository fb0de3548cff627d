"""Attention and frequencies that change with the length of a row: every architecture scores as on plain sequences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.architectures import LIMIT, NOT_BUILT_TINY, largest_difference, tiny_model, trees_around_the_limit
from helpers.toy import toy_task
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rango.errors import InputError
from rango.models.adapter import add_bank
from rango.options import LoRA
from rango.scoring.batches import join
from rango.scoring.forward import longest_padded_row, longest_tree_row, rope_switches
from rango.scoring.probe import probe_reader
from rango.scoring.trees import TokenTree

TASK = toy_task()
TREES = trees_around_the_limit()
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
    "original_max_position_embeddings": LIMIT,
}
MSCALE = {"short_mscale": 1.0, "long_mscale": 1.5}


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("gpt_neo", "window_size"),
        ("llama4_text", "attention_chunk_size"),
        ("mistral", "sliding_window"),
        ("gemma3_text", "sliding_window"),
        ("modernbert-decoder", "local_attention"),
        ("doge", "keep_window_size"),
        ("deepseek_v32", "index_topk"),
    ],
)
def test_attention_that_counts_places_is_right_on_both_sides_of_its_limit(architecture: str, name: str) -> None:
    model = tiny_model(architecture)
    assert getattr(model.network.config, name) == LIMIT
    reader = probe_reader(model)
    assert reader.reads_trees
    assert reader.window == longest_tree_row(model) == LIMIT
    assert f"changes beyond {LIMIT} tokens" in reader.notes[0]
    assert {reader.as_tree(tree) for tree in TREES} == {True, False}
    assert largest_difference(reader, TREES) < 1e-3
    assert largest_difference(replace(reader, window=None, reads_prefix=False), TREES) > 0.1  # what the limit is for


def test_a_row_longer_than_the_window_is_no_tree_though_each_path_is_shorter() -> None:
    reader = probe_reader(tiny_model("gpt_neo"))
    tree = TokenTree("x", tuple(range(3, 17)), ((20, 21, 22, 23, 24, 25), (30, 31, 32, 33, 34, 35, 36)), (1, 1), 0)
    assert tree.path_length < LIMIT < tree.input_length
    assert not reader.as_tree(tree)


@pytest.mark.parametrize(
    ("architecture", "rope"), [("phi3", LONGROPE), ("llama", LONGROPE), ("phimoe", LONGROPE | MSCALE)]
)
def test_frequencies_do_not_depend_on_who_shares_the_batch(architecture: str, rope: dict[str, Any]) -> None:
    changes = {"original_max_position_embeddings": LIMIT} if architecture == "phi3" else {}
    model = tiny_model(architecture, rope_parameters=rope, sliding_window=None, **changes)
    assert rope_switches(model) == (LIMIT,)
    reader = probe_reader(model)
    assert {reader.as_tree(tree) for tree in TREES} == {True, False}
    assert largest_difference(reader, TREES) < 1e-3


def test_runs_of_a_bank_keep_their_own_frequencies() -> None:
    """A bank counts rows, so a batch with texts on both sides of the switch keeps them all in both passes."""
    model = tiny_model("phi3", rope_parameters=LONGROPE, sliding_window=None, original_max_position_embeddings=LIMIT)
    reader = probe_reader(model)
    adapters = add_bank(model, [(LoRA(targets=("o",)), 0), (LoRA(targets=("o",)), 1)])
    for layer in adapters[0].layers.values():
        for number in (0, 1):
            torch.nn.init.normal_(layer.weights(number)[1], std=0.3)
    batches = [reader.collate([tree], read="choices", as_trees=reader.as_tree(tree)) for tree in (TREES[0], TREES[6])]
    joint = join(batches, pad=reader.pad())
    with torch.no_grad(), adapters[0].grouping.split((0, 1), [len(batch.tokens) for batch in batches]):
        together = reader.log_probabilities(joint)
    for number, part in enumerate(together.split([len(batch.targets) for batch in batches])):
        with torch.no_grad(), adapters[number].alone():
            torch.testing.assert_close(part, reader.log_probabilities(batches[number]), rtol=0, atol=1e-4)


def test_limits_are_read_for_each_kind_of_layer() -> None:
    rope = {"full_attention": LONGROPE, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    assert rope_switches(tiny_model("gemma3_text", rope_parameters=rope)) == (LIMIT,)
    assert longest_tree_row(tiny_model("llama")) is None
    assert longest_tree_row(tiny_model("qwen2", use_sliding_window=False)) is None
    assert longest_padded_row(tiny_model("mistral")) is None
    assert longest_padded_row(tiny_model("doge")) == LIMIT


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlnet"])
def test_what_reads_the_tokens_it_predicts_is_refused(architecture: str) -> None:
    with pytest.raises(InputError, match=f"{architecture} as configured also reads what follows a token"):
        probe_reader(tiny_model(architecture))


def test_an_encoder_configured_as_a_decoder_is_read() -> None:
    assert largest_difference(probe_reader(tiny_model("bert", is_decoder=True)), TREES) < 1e-3


def test_logits_that_are_bounded_after_the_head_are_bounded_where_it_is_applied_apart() -> None:
    """xLSTM's own name for the bound, and a model of images, which keeps it in the configuration of its text part."""
    multimodal = tiny_model("gemma4")
    multimodal.network.config.get_text_config().final_logit_softcapping = 2.0
    for model in (tiny_model("xlstm", output_logit_soft_cap=2.0), multimodal):
        reader = probe_reader(model)
        assert reader.splits_head
        assert largest_difference(reader, TREES) < 1e-3


def test_a_network_that_refuses_a_tree_by_assertion_is_read_per_choice() -> None:
    reader = probe_reader(tiny_model("xlm"))
    assert not reader.reads_trees
    assert largest_difference(reader, TREES) < 1e-3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
# Without a kernel of its own one architecture takes minutes; it was right when it was tried (docs/benchmarks.md).
@pytest.mark.parametrize("architecture", sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - {"kimi_linear"}))
def test_every_architecture_of_transformers_scores_as_on_plain_sequences(architecture: str) -> None:
    try:
        model = tiny_model(architecture)
        model.network(torch.arange(3, 23)[None].expand(2, -1))
    except Exception:
        # One that was built until now and is not any more is a fault, and no reason to skip.
        if architecture not in NOT_BUILT_TINY:
            raise
        pytest.skip(NOT_BUILT_TINY[architecture])
    try:
        reader = probe_reader(model)
    except InputError as error:
        assert "also reads what follows a token" in str(error)  # noqa: PT017
        return
    assert largest_difference(reader, TREES) < 2e-3
