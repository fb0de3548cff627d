"""Tied heads: adapting, training and merging `head` never touches the embeddings, whatever the architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.adapters import logits, shaken
from helpers.architectures import tiny_model
from transformers import AutoModelForCausalLM

from rango.models.placement import ARCHITECTURES
from rango.options import LoRA

IDS = torch.arange(2, 18).reshape(2, 8)
# Its head is never tied.
UNTIED = {"rango_lstm"}
FEW = ("bloom", "cohere", "falcon", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mpt", "opt", "phi3", "qwen2")


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in sorted(ARCHITECTURES)],
)
def test_a_tied_head_is_adapted_and_merged_beside_the_embeddings(architecture: str, tmp_path: Path) -> None:
    if architecture in UNTIED:
        pytest.skip("has a head of its own")
    model = tiny_model(architecture, tie_word_embeddings=True)
    network: Any = model.network
    network.tie_weights()
    embeddings = network.get_input_embeddings().weight
    if network.get_output_embeddings().weight is not embeddings:
        pytest.skip("does not tie its head")
    before, fingerprint = embeddings.detach().clone(), model.fingerprint
    adapter = shaken(model, LoRA(targets=("head",), rank=2))
    # A step of training reaches the head's update alone.
    logits(model, IDS).log_softmax(-1)[:, :-1].gather(2, IDS[:, 1:, None]).mean().neg().backward()
    assert embeddings.grad is None
    assert all(parameter.grad is not None for parameter in adapter.parameters())
    adapted = logits(model, IDS).detach()
    adapter.merge()
    torch.testing.assert_close(logits(model, IDS), adapted, rtol=1e-4, atol=1e-4)
    assert torch.equal(network.get_input_embeddings().weight, before)
    adapter.unmerge()
    torch.testing.assert_close(logits(model, IDS), adapted, rtol=1e-4, atol=1e-4)
    # What is merged and removed is an ordinary checkpoint, which loads with a head of its own.
    adapter.merge()
    adapter.remove()
    network.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(loaded.get_input_embeddings().weight, before)
    torch.testing.assert_close(logits(loaded, IDS), adapted, rtol=1e-4, atol=1e-4)
    assert fingerprint != model.__class__(model.name, loaded, model.tokenizer).fingerprint
