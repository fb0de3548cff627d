"""A GGUF file loads as the network that it was written from, once, and whatever it holds is read or refused."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.adapters import logits
from helpers.gguf_files import Blocks, rounded, write_gguf
from safetensors.torch import load_file

from rango.errors import InputError
from rango.models import dequantised
from rango.models.dequantised import checkpoint_of, llama3_factors
from rango.models.loading import load_model

Checkpoint = Callable[..., Path]
CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-untied": {"architecture": "llama", "tie_word_embeddings": False},
    "llama-tied": {"architecture": "llama", "tie_word_embeddings": True},
    "llama-theta": {"architecture": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "gemma2": {"sliding_window": 4},
    "gemma3": {"architecture": "gemma3_text", "sliding_window": 4},
    "gpt2": {},
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANGO_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("case", CASES)
def test_a_gguf_file_is_the_network_that_it_was_written_from(checkpoint: Checkpoint, tmp_path: Path, case: str) -> None:
    settings = {"architecture": case, **CASES[case]}
    base = load_model(checkpoint(settings.pop("architecture"), **settings))
    file = write_gguf(tmp_path / "model.gguf", base.network, base.tokenizer)
    model = load_model(file)
    # Exact but for Gemma's norms, to which 1 is added and taken away again.
    torch.testing.assert_close(logits(model), logits(base), rtol=0, atol=1e-5)
    assert model.name == str(file)
    assert model.network.config.model_type == base.network.config.model_type
    assert model.context_length == base.context_length
    text = "Tracy had tea, 12 times!"
    assert model.tokenizer(text)["input_ids"] == base.tokenizer(text)["input_ids"]
    assert model.tokenizer.eos_token_id == base.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("blocks", "stored", "tolerance"),
    [
        (Blocks.Q8_0, torch.float32, 0),
        (Blocks.Q4_0, torch.float32, 0),
        (Blocks.Q5_1, torch.float32, 0),
        # The vectors, which such a file holds in float32, are rounded to the type of the matrices.
        (Blocks.F16, torch.float16, 0.01),
        (Blocks.BF16, torch.bfloat16, 0.1),
    ],
)
def test_blocks_are_dequantised_as_their_format_says(
    checkpoint: Checkpoint, tmp_path: Path, blocks: Blocks, stored: torch.dtype, tolerance: float
) -> None:
    base = load_model(checkpoint("qwen2", intermediate_size=64))
    file = write_gguf(tmp_path / "model.gguf", base.network, base.tokenizer, blocks=blocks)
    rounded(base.network, blocks)
    model = load_model(file, dtype="float32")
    torch.testing.assert_close(logits(model), logits(base), rtol=0, atol=tolerance)
    weights = load_file(Path(checkpoint_of(str(file))) / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {stored}


def test_the_folder_is_made_once_and_again_when_the_file_changes(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_model(checkpoint("llama"))
    file = write_gguf(tmp_path / "model.gguf", base.network, base.tokenizer)
    first = checkpoint_of(str(file))
    assert "dequantising" in capsys.readouterr().err
    assert checkpoint_of(str(file)) == first
    assert capsys.readouterr().err == ""
    # A copy is the same model; other weights under the same name are another one.
    assert checkpoint_of(str(shutil.copy(file, tmp_path / "copy.gguf"))) == first
    with torch.no_grad():
        base.network.model.norm.weight.add_(1)
    write_gguf(file, base.network, base.tokenizer)
    assert checkpoint_of(str(file)) != first


def test_two_at_once_make_one_folder(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_model(checkpoint("llama"))
    file = write_gguf(tmp_path / "model.gguf", base.network, base.tokenizer)
    made: list[int] = []
    network = dequantised._network

    def counted(*arguments: Any) -> Any:
        made.append(1)
        return network(*arguments)

    monkeypatch.setattr(dequantised, "_network", counted)
    threads = [threading.Thread(target=checkpoint_of, args=(str(file),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_what_a_killed_process_left_goes_and_a_failure_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_model(checkpoint("llama"))
    file = write_gguf(tmp_path / "model.gguf", base.network, base.tokenizer)
    folder = Path(checkpoint_of(str(file)))
    shutil.rmtree(folder)
    leftover = folder.with_name(f".{folder.name}.killed.tmp")
    leftover.mkdir()

    def fail(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dequantised, "_tokenizer", fail)
        with pytest.raises(KeyboardInterrupt):
            checkpoint_of(str(file))
    assert [entry.name for entry in folder.parent.iterdir()] == [f".{folder.name}.lock"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    with pytest.raises(InputError, match=r"its dequantised form takes 0 MB and .* has 0 MB free; make room, or set"):
        checkpoint_of(str(file))


def test_split_files_are_one_model_and_a_missing_part_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    base = load_model(checkpoint("llama"))
    write_gguf(tmp_path / "model.gguf", base.network, base.tokenizer, split=9)
    parts = sorted(tmp_path.glob("model-0*.gguf"))
    assert len(parts) == 3
    for part in parts[:2]:
        torch.testing.assert_close(logits(load_model(part)), logits(base), rtol=0, atol=1e-6)
    parts[2].rename(tmp_path / "other")
    with pytest.raises(InputError, match=r"one of 3 parts and model-00003-of-00003\.gguf is missing beside it"):
        load_model(parts[0])
    shutil.move(parts[0], tmp_path / "renamed.gguf")
    with pytest.raises(InputError, match=r"one of 3 parts; give it its name again: NAME-00001-of-00003\.gguf"):
        load_model(tmp_path / "renamed.gguf")


def test_the_rotary_factors_of_llama_3_become_its_settings(checkpoint: Checkpoint, tmp_path: Path) -> None:
    scaled = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0}
    scaled |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    base = load_model(checkpoint("llama", head_dim=16, rope_parameters=scaled))
    plain = 500_000.0 ** -(torch.arange(8) / 8)
    factors = (plain / base.network.model.rotary_emb.inv_freq).numpy().astype(np.float32)
    assert factors.max() > 31
    assert factors.min() == pytest.approx(1)
    file = write_gguf(tmp_path / "model.gguf", base.network, base.tokenizer, add={"rope_freqs.weight": factors})
    model = load_model(file)
    assert model.network.config.rope_parameters["rope_type"] == "llama3"
    torch.testing.assert_close(logits(model), logits(base), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match=r"rotary factors \(rope_freqs\.weight\) are not those of Llama 3"):
        llama3_factors(factors * 2, {"rope_parameters": {"rope_theta": 500_000.0}}, file)


def test_each_digit_by_itself_where_the_vocabulary_says_so(checkpoint: Checkpoint, tmp_path: Path) -> None:
    base = load_model(checkpoint("llama"))
    file = write_gguf(tmp_path / "model.gguf", base.network, base.tokenizer, pre="smollm")
    tokenizer = load_model(file).tokenizer
    assert tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in 1984")[-4:] == [
        ("1", (3, 4)), ("9", (4, 5)), ("8", (5, 6)), ("4", (6, 7))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": "blk.1.ffn_up.weight"}, r"lacks 1 weights \(model\.layers\.1\.mlp\.up_proj\.weight, \.\.\.\)"),
        ({"add": {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}}, r"attn_sinks\.weight, which a llama of"),
        ({"add": {"rope_freqs.weight": np.array([1, 5, 2, 3], np.float32)}}, "are not those of Llama 3"),
        ({"extra": {"logit_scale": 0.5}}, r"setting llama\.logit_scale is not read, and without it the network"),
        ({"extra": {"rope.scaling.type": "yarn"}}, "rotary positions scaled by 'yarn' are not read"),
        ({"pre": "unheard-of"}, "of kind 'gpt2' that cuts texts as 'unheard-of' is not read"),
        ({"tokenizer": None}, "has no tokenizer; give a file with one"),
    ],
)
def test_what_would_make_another_network_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    base = load_model(checkpoint("llama"))
    tokenizer = changes.pop("tokenizer", base.tokenizer)
    file = write_gguf(tmp_path / "model.gguf", base.network, tokenizer, **changes)
    with pytest.raises(InputError, match=message) as error:
        load_model(file)
    assert "\n" not in str(error.value)


def test_values_that_are_no_numbers_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    base = load_model(checkpoint("llama"))
    with torch.no_grad():
        base.network.model.norm.weight[3] = float("nan")
    file = write_gguf(tmp_path / "model.gguf", base.network, base.tokenizer)
    with pytest.raises(InputError, match=r"output_norm\.weight holds values that are no numbers"):
        load_model(file)
