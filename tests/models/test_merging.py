"""Merged checkpoints: the logits of base and adapter in transformers, the base's own files, equal bytes, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.adapters import ALL, logits, shaken
from helpers.gguf_files import write_gguf
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rango.errors import RunError
from rango.files import read_json
from rango.models.adapter import Adapter, add_adapter
from rango.models.full_finetuning import add_full
from rango.models.loading import load_model
from rango.models.merging import TOLERANCE, stored_dtype, write_merged
from rango.options import LoRA

Checkpoint = Callable[..., Path]
TIED = {"tie_word_embeddings": True}


def adapted(base: Path, folder: Path, *, targets: tuple[str, ...] = ALL, scale: float = 1.0) -> torch.Tensor:
    """Write an adapter that acts, and return the logits of base and adapter."""
    model = load_model(base)
    adapter = shaken(model, LoRA.build({"targets": targets}))
    with torch.no_grad():
        for name, parameter in adapter.named_parameters().items():
            parameter.mul_(scale if "lora_B" in name else 1.0)
    adapter.save(folder)
    with torch.no_grad():
        return logits(model)


@torch.no_grad()
def logits_of(folder: Path) -> torch.Tensor:
    """As transformers alone loads it."""
    network: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return logits(network.eval())


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {}),
        ("llama", TIED),
        ("qwen2", TIED),
        ("gpt2", TIED),
        ("phi", {}),
        ("phi3", {}),
        ("gpt_neox", {}),
        ("gemma2", TIED),
        ("olmo2", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "tied" if value else "untied",
)
def test_transformers_loads_the_logits_of_base_and_adapter(
    checkpoint: Checkpoint, tmp_path: Path, architecture: str, changes: dict[str, Any]
) -> None:
    base = checkpoint(architecture, **changes)
    expected = adapted(base, tmp_path / "adapter")
    written = write_merged(str(base), tmp_path / "adapter", tmp_path / "merged")
    torch.testing.assert_close(logits_of(tmp_path / "merged"), expected, rtol=0, atol=1e-5)
    assert written.difference < 1e-5
    # The head was adapted: it is a matrix of its own now, and config.json says so.
    assert read_json(tmp_path / "merged" / "config.json")["tie_word_embeddings"] is False
    names = load_file(tmp_path / "merged" / "model.safetensors").keys()
    assert sum(name in ("lm_head.weight", "embed_out.weight") for name in names) == 1


@pytest.mark.parametrize(
    "lora",
    [{"dora": True}, {"init": "pissa"}, {"rslora": True, "rank_pattern": "mlp=3", "alpha_pattern": "v=5"}],
    ids=str,
)
def test_every_kind_of_adapter_is_merged(checkpoint: Checkpoint, tmp_path: Path, lora: dict[str, Any]) -> None:
    base = checkpoint("llama")
    model = load_model(base)
    adapter = add_adapter(model, LoRA.build({"targets": "q,v,mlp", "rank": 4, **lora}), seed=0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        expected = logits(model)
    adapter.save(tmp_path / "adapter")
    write_merged(str(base), tmp_path / "adapter", tmp_path / "merged")
    torch.testing.assert_close(logits_of(tmp_path / "merged"), expected, rtol=0, atol=1e-5)


def test_a_tied_head_that_is_not_adapted_stays_tied(checkpoint: Checkpoint, tmp_path: Path) -> None:
    base = checkpoint("llama", **TIED)
    expected = adapted(base, tmp_path / "adapter", targets=("q", "mlp"))
    write_merged(str(base), tmp_path / "adapter", tmp_path / "merged")
    torch.testing.assert_close(logits_of(tmp_path / "merged"), expected, rtol=0, atol=1e-5)
    before = load_file(base / "model.safetensors")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    assert before.keys() == after.keys()
    assert "lm_head.weight" not in after
    # What is not adapted is the base's to the bit.
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "gate_proj", "up_proj", "down_proj"}
    assert read_json(tmp_path / "merged" / "config.json")["tie_word_embeddings"] is True


def test_a_gguf_file_is_merged_as_it_is_dequantised(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANGO_CACHE", str(tmp_path / "cache"))
    plain = load_model(checkpoint("llama", **TIED))
    base = write_gguf(tmp_path / "base.gguf", plain.network, plain.tokenizer)
    expected = adapted(base, tmp_path / "adapter", targets=("q", "mlp"))
    write_merged(str(base), tmp_path / "adapter", tmp_path / "merged")
    torch.testing.assert_close(logits_of(tmp_path / "merged"), expected, rtol=0, atol=1e-5)
    config = read_json(tmp_path / "merged" / "config.json")
    # transformers 4 and other programs read the second.
    assert config["rope_parameters"]["rope_theta"] == config["rope_theta"] == 10000.0
    ids = AutoTokenizer.from_pretrained(tmp_path / "merged")("Tracy had tea")["input_ids"]
    assert ids == plain.tokenizer("Tracy had tea")["input_ids"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_base_keeps_its_type(tmp_path: Path, checkpoint: Checkpoint, dtype: Any) -> None:
    base = checkpoint("llama", dtype=getattr(torch, dtype))
    adapted(base, tmp_path / "adapter", targets=("q", "v"))
    written = write_merged(str(base), tmp_path / "adapter", tmp_path / "merged")
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    assert written.dtype == dtype
    assert 0 < written.difference < TOLERANCE[written.dtype]  # type: ignore[index]
    # Each weight is the fp32 sum, rounded once.
    update = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    name = "model.layers.1.self_attn.v_proj"
    low, high = (update[f"base_model.model.{name}.lora_{letter}.weight"] for letter in "AB")
    before = load_file(base / "model.safetensors")[f"{name}.weight"]
    expected = (before.float() + 2.0 * (high @ low)).to(before.dtype)
    assert torch.equal(tensors[f"{name}.weight"], expected)


def test_rounding_that_loses_the_adapter_is_noted(tmp_path: Path, checkpoint: Checkpoint) -> None:
    base = checkpoint("llama", dtype=torch.bfloat16)
    adapted(base, tmp_path / "adapter", targets=("q",), scale=1e-4)
    written = write_merged(str(base), tmp_path / "adapter", tmp_path / "bf16")
    assert any("of what the adapter changes; --dtype float32 keeps all of it" in note for note in written.notes)
    exact = write_merged(str(base), tmp_path / "adapter", tmp_path / "fp32", dtype="float32")
    assert exact.notes == ()
    assert read_json(tmp_path / "fp32" / "config.json")["dtype"] == "float32"


def test_shards_are_whole_and_the_bytes_are_equal_when_repeated(tmp_path: Path, checkpoint: Checkpoint) -> None:
    base = checkpoint("llama", **TIED)
    expected = adapted(base, tmp_path / "adapter")
    for name in ("a", "b"):
        write_merged(str(base), tmp_path / "adapter", tmp_path / name, shard_size="50KB")
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert len([name for name in files if name.startswith("model-0")]) > 2
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    index = read_json(tmp_path / "a" / "model.safetensors.index.json")["weight_map"]
    for shard in set(index.values()):
        with safe_open(tmp_path / "a" / shard, framework="pt") as file:
            assert set(file.keys()) == {name for name, place in index.items() if place == shard}
    torch.testing.assert_close(logits_of(tmp_path / "a"), expected, rtol=0, atol=1e-5)


def test_the_files_of_the_base_are_its_own(tmp_path: Path, checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("llama"))
    model.network.save_pretrained(tmp_path / "base")
    model.tokenizer.save_pretrained(tmp_path / "base")
    # As transformers 4 wrote it, with a key that transformers passes over, and code of the repository.
    config = read_json(tmp_path / "base" / "config.json")
    del config["rope_parameters"], config["dtype"]
    config |= {"rope_theta": 5000.0, "torch_dtype": "float32", "mine": [1], "auto_map": {"AutoConfig": "code.py"}}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "tokenizer.model").write_bytes(b"sentences")
    (tmp_path / "base" / "generation_config.json").write_text('{"temperature": 0.7, "top_p": 0.9}')
    expected = adapted(tmp_path / "base", tmp_path / "adapter", targets=("q",))
    write_merged(str(tmp_path / "base"), tmp_path / "adapter", tmp_path / "merged")
    written = read_json(tmp_path / "merged" / "config.json")
    del config["auto_map"]
    assert written == config
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "base" / name).read_bytes(), name
    torch.testing.assert_close(logits_of(tmp_path / "merged"), expected, rtol=0, atol=1e-5)
    ids = AutoTokenizer.from_pretrained(tmp_path / "merged")("Tracy had tea")["input_ids"]
    assert ids == model.tokenizer("Tracy had tea")["input_ids"]


def test_the_stored_type_is_that_of_config_or_of_the_weights(tmp_path: Path, checkpoint: Checkpoint) -> None:
    base = checkpoint("gpt2", dtype=torch.bfloat16)
    assert stored_dtype(str(base)) == "bfloat16"
    (tmp_path / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    config = read_json(base / "config.json")
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert stored_dtype(str(tmp_path)) == "bfloat16"


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_full_fine_tuning_is_written_as_it_was_trained(tmp_path: Path, checkpoint: Checkpoint, dtype: Any) -> None:
    base = checkpoint("qwen2", **TIED)
    model = load_model(base)
    full = add_full(model)
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.add_(0.01)
        expected = logits(model)
    full.save(tmp_path / "best")
    written = write_merged(str(base), tmp_path / "best", tmp_path / "out", dtype=dtype)
    assert written.dtype == ("float32" if dtype == "auto" else dtype)
    assert written.rounding is None
    atol = 1e-6 if dtype == "auto" else 0.3
    torch.testing.assert_close(logits_of(tmp_path / "out").float(), expected, rtol=0, atol=atol)
    assert not (tmp_path / "out" / "full_finetuning.json").exists()


def test_a_checkpoint_that_is_not_base_and_adapter_is_refused(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = checkpoint("llama")
    adapted(base, tmp_path / "adapter")
    monkeypatch.setattr(Adapter, "merge", lambda self, *, keep: None)  # noqa: ARG005 - as it is called
    with pytest.raises(
        RunError, match=r"does not give the logits of base and adapter \(they differ by .* of the largest"
    ):
        write_merged(str(base), tmp_path / "adapter", tmp_path / "merged")


def test_where_other_programs_read_it_otherwise_is_noted(tmp_path: Path, checkpoint: Checkpoint) -> None:
    base = checkpoint("gemma2", **TIED)
    adapted(base, tmp_path / "head")
    (note,) = write_merged(str(base), tmp_path / "head", tmp_path / "a").notes
    assert "llama.cpp's converter leaves its head out and vLLM refuses it" in note
    adapted(base, tmp_path / "q", targets=("q", "k", "v"))
    assert write_merged(str(base), tmp_path / "q", tmp_path / "b").notes == ()
    lstm = checkpoint("rango_lstm")
    adapted(lstm, tmp_path / "lstm", targets=("head",))
    (note,) = write_merged(str(lstm), tmp_path / "lstm", tmp_path / "c").notes
    assert "the architecture rango_lstm is Rango's own" in note


PEAK = """
import resource, sys, torch
from pathlib import Path
from rango.models.merging import write_merged
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_merged(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), shard_size="40MB")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_one_copy_of_the_model_is_in_memory(tmp_path: Path, checkpoint: Checkpoint) -> None:
    wide = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6, "num_attention_heads": 16}
    base = checkpoint("llama", **wide, num_key_value_heads=16)
    adapted(base, tmp_path / "adapter")
    size = (base / "model.safetensors").stat().st_size
    assert size > 300e6
    command = [sys.executable, "-c", PEAK, str(base), str(tmp_path / "adapter"), str(tmp_path / "merged")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert int(done.stdout) * 1024 < 1.6 * size
