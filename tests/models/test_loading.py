"""Loading real checkpoints; bad folders and devices refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from helpers.adapters import logits
from helpers.checkpoints import tiny_tokenizer, write_checkpoint
from helpers.spelling_corpus import SPANISH, sentences
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.activations import FastGELUActivation, NewGELUActivation

from rango.errors import InputError
from rango.language.options import PretrainConfig
from rango.language.pretrain import pretrain
from rango.models import loading
from rango.models.loading import choose_device, choose_dtype, load_model

Checkpoint = Callable[..., Path]


@pytest.mark.parametrize(
    "architecture", ["phi", "phi3", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gpt2", "gpt_neox", "olmo2", "opt"]
)
def test_architectures_load_through_the_real_code(checkpoint: Checkpoint, architecture: str) -> None:
    model = load_model(checkpoint(architecture))
    assert model.network.config.model_type == architecture
    assert model.context_length == 128
    assert model.dtype == torch.float32
    assert "dtype float32 (chosen)" in model.notes[0]
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert not model.network.training


def test_gelu_in_one_kernel_is_the_published_formula(checkpoint: Checkpoint) -> None:
    """Against the module of transformers, which writes the formula out, on the whole network and on a grid."""
    folder = checkpoint("gpt2")
    fused, plain = load_model(folder), AutoModelForCausalLM.from_pretrained(folder)
    kinds = [{type(module).__name__ for module in network.modules()} for network in (fused.network, plain)]
    assert "NewGELUActivation" in kinds[1] - kinds[0]
    ids = torch.arange(60).reshape(4, 15)
    torch.testing.assert_close(fused.network(ids).logits, plain(ids).logits, rtol=1e-5, atol=1e-5)

    grid = torch.linspace(-12, 12, 10_001, requires_grad=True)
    for formula in (NewGELUActivation(), FastGELUActivation()):
        network = nn.Sequential(formula)
        (expected_slope,) = torch.autograd.grad(network(grid).sum(), grid)
        expected = network(grid)
        loading.fuse_activations(network)
        (slope,) = torch.autograd.grad(network(grid).sum(), grid)
        torch.testing.assert_close(network(grid), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(slope, expected_slope, rtol=1e-5, atol=1e-5)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model folder .* has no config\.json; expected a Hub id or a folder"):
        load_model(tmp_path)
    with pytest.raises(InputError, match=r"model folder .*/missing does not exist; expected a Hub id or a folder"):
        load_model(tmp_path / "missing")
    with pytest.raises(InputError, match=r"model folder missing/ does not exist; expected a Hub id or a folder"):
        load_model("missing/")


def test_a_hub_that_cannot_be_reached_is_one_line() -> None:
    with pytest.raises(InputError, match=r"model 'nobody/nothing' cannot be loaded \(.*\); give a Hub id") as error:
        load_model("nobody/nothing")
    assert "\n" not in str(error.value)


def test_a_model_that_is_no_causal_language_model_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("phi"), tmp_path / "copy"))
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(InputError, match=r"model '.*' cannot be loaded"):
        load_model(folder)


def test_a_checkpoint_that_lacks_weights_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("phi"), tmp_path / "copy"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.self_attn.q_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights \(model\.layers\.1\.self_attn\.q_proj\.weight"):
        load_model(folder)


def test_a_config_that_would_leave_layers_out_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("llama"), tmp_path / "copy"))
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # an old buffer changes nothing
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    load_model(folder)
    config = json.loads((folder / "config.json").read_text())
    shorter = {key: value for key, value in config.items() if key != "layer_types"}
    (folder / "config.json").write_text(json.dumps(shorter | {"num_hidden_layers": config["num_hidden_layers"] - 1}))
    with pytest.raises(InputError, match=r"config.json has no place for \d+ weights of the checkpoint \(model.layers."):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda config: {"entries": config["entries"][:2]}, r"no place for \d weights of the checkpoint \("),
        (lambda _: {"eos_token_id": 7}, "texts of the n-grams end in token 7, by config.json, and .* tokenizer in 0"),
    ],
)
def test_an_n_gram_with_a_config_of_another_is_refused(
    changes: Callable[[dict[str, Any]], dict[str, Any]], message: str, tmp_path: Path
) -> None:
    config = PretrainConfig.build({"model": "ngram", "vocabulary": 340, "ngram": {"order": 3}})
    folder = pretrain(sentences(SPANISH), out=tmp_path / "lm", config=config)
    load_model(folder)
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stored | changes(stored)))
    with pytest.raises(InputError, match=message):
        load_model(folder)


def test_a_cut_off_checkpoint_is_one_line(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("phi"), tmp_path / "copy"))
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match=r"model\.safetensors is damaged: [\d,]+ bytes, its header says ") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[]", '{"model_type": "phi", "hidden_size": "wide"}', '{"model_type": 3}'])
def test_a_configuration_of_other_things_is_one_line(checkpoint: Checkpoint, tmp_path: Path, content: str) -> None:
    folder = Path(shutil.copytree(checkpoint("phi"), tmp_path / "copy"))
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"cannot be loaded \(.*; give a Hub id or a folder") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"_attn_implementation": "sdpa"},
        {"_attn_implementation": {"": "sdpa"}},
        {"_attn_implementation": "kernels-community/flash-attn"},
        {"attn_implementation": "flash_attention_2"},
        {"_experts_implementation": "grouped_mm"},
        {"return_dict": False},
    ],
    ids=str,
)
def test_a_configuration_does_not_choose_how_attention_is_computed(
    checkpoint: Checkpoint, tmp_path: Path, values: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(checkpoint("llama"), tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    model = load_model(folder, device="cpu")
    assert model.network.config._attn_implementation == "eager"
    assert torch.equal(logits(model), logits(load_model(checkpoint("llama"), device="cpu")))


def test_a_model_folder_that_also_holds_an_adapter_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(checkpoint("llama"), tmp_path / "both"))
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(load_model(folder).network, config).save_pretrained(str(folder))
    with pytest.raises(InputError, match=r"model folder .*both also holds an adapter .*; move the adapter's files to"):
        load_model(folder)
    # A repository of the Hub is seen only when it is loaded.
    monkeypatch.setattr(loading, "check_source", lambda *_: None)
    with pytest.raises(
        InputError, match=r"model .*both also holds an adapter \(adapter_config\.json\), which would be on"
    ):
        load_model(folder)


def test_an_adapter_or_run_given_as_the_model_is_named(tmp_path: Path) -> None:
    for file, kind in (("adapter_config.json", "an adapter"), ("run.yaml", "a run")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / file).write_text("{}")
        with pytest.raises(
            InputError, match=f"is {kind}, not a model; give its base model as the model and this as --ad"
        ):
            load_model(tmp_path / kind)


def test_a_tokenizer_that_fails_in_use_is_one_line(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("phi"), tmp_path / "copy"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": [1]}))
    with pytest.raises(InputError, match=r"cannot be loaded \("):
        load_model(folder)


@pytest.mark.parametrize("architecture", ["phi", "llama", "gpt2", "rango_lstm"])
def test_a_folder_without_a_tokenizer_is_refused(checkpoint: Checkpoint, tmp_path: Path, architecture: str) -> None:
    for file in checkpoint(architecture).iterdir():
        if file.name in ("config.json", "model.safetensors", "tokenizer_config.json"):
            shutil.copy(file, tmp_path)
    with pytest.raises(InputError, match=r"model folder .* has no tokenizer; put the model's tokenizer\.json into it"):
        load_model(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match="has no tokenizer; put"):
        load_model(tmp_path)


@pytest.mark.parametrize("architecture", ["phi", "gpt2", "rango_lstm"])
def test_a_tokenizer_with_more_tokens_is_refused(checkpoint: Checkpoint, tmp_path: Path, architecture: str) -> None:
    folder = Path(shutil.copytree(checkpoint(architecture), tmp_path / "copy"))
    model = load_model(folder)
    model.tokenizer.add_tokens(["<new>"])
    model.tokenizer.save_pretrained(folder)
    size = len(model.tokenizer)
    with pytest.raises(InputError) as caught:
        load_model(folder)
    assert str(caught.value) == (
        f"model {folder}: the tokenizer has token {size - 1} ('<new>') and the network knows tokens 0 to {size - 2}; "
        "put the tokenizer that the network was trained with into the folder"
    )


@pytest.mark.parametrize(("rows", "noted"), [(0, False), (20, False), (100, True)])
def test_a_tokenizer_with_far_fewer_tokens_is_noted(tmp_path: Path, rows: int, noted: bool) -> None:
    size = len(tiny_tokenizer())
    notes = load_model(write_checkpoint(tmp_path / "lm", vocab_size=size + rows)).notes[1:]
    told = f"the tokenizer has {size} tokens and the network {size + rows}: see that they belong together"
    assert notes == ((told,) if noted else ())


def test_devices_never_fall_back_silently() -> None:
    assert choose_device("cpu").type == "cpu"
    for name in ("tpux", "meta", "mps", ""):
        with pytest.raises(InputError, match=f"device '{name}' is not known; expected auto, cpu, cuda or cuda:N"):
            choose_device(name)
    count = torch.cuda.device_count()
    with pytest.raises(InputError, match=f"device 'cuda:{count}': this machine has {count} CUDA devices"):
        choose_device(f"cuda:{count}")


def test_dtype_is_taken_as_asked() -> None:
    assert choose_dtype("bfloat16", torch.device("cpu"), stored=torch.float32) == torch.bfloat16
    assert choose_dtype("auto", torch.device("cpu"), stored=torch.float32) == torch.float32


def test_fingerprints_tell_models_apart(checkpoint: Checkpoint) -> None:
    first, again, other = (load_model(checkpoint("phi", seed=seed)) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_a_panic_of_a_library_in_rust_is_an_error_and_a_signal_stays_one() -> None:
    panic = type("PanicException", (BaseException,), {})
    with (
        pytest.raises(InputError, match=r"'folder' cannot be loaded \(slice index starts at 2"),
        loading.loading("folder"),
    ):
        raise panic("slice index starts at 2 but ends at 1")
    with pytest.raises(KeyboardInterrupt), loading.loading("folder"):
        raise KeyboardInterrupt
