"""What can be wrong with a model's files or with the Hub: one line each, with what to do."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file

from rango.errors import InputError
from rango.models.loading import load_model, load_network
from rango.models.sources import check_at_hand, check_source, loading_error

Checkpoint = Callable[..., Path]
# The HTTP library of huggingface_hub, which changed its name.
httpx: Any = importlib.import_module(errors.HTTPError.__module__.partition(".")[0])


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A copy of a checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoint("phi"), tmp_path / "copy"))


def shard(folder: Path) -> list[str]:
    """Cut the weights of a checkpoint into three files with an index; returns their names."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    places = {name: names[number % 3] for number, name in enumerate(tensors)}
    for file in names:
        part = {name: tensor for name, tensor in tensors.items() if places[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return names


def test_a_whole_checkpoint_passes_and_torch_is_not_needed(folder: Path) -> None:
    check_source(str(folder))
    shard(folder)
    check_source(str(folder))
    load_model(folder, device="cpu")
    check_source("org/name")  # whether the Hub has it is not asked
    assert not any("torch" in name for name in vars(sys.modules["rango.models.sources"]))


def test_missing_and_damaged_shards_are_named(folder: Path) -> None:
    first, second, third = shard(folder)
    weights = (folder / third).read_bytes()
    (folder / third).write_bytes(weights[:-100])
    message = rf"copy/{third} is damaged: {len(weights) - 100:,} bytes, its header says {len(weights):,}; download it"
    with pytest.raises(InputError, match=message):
        check_source(str(folder))
    (folder / third).write_bytes(weights[:20])
    with pytest.raises(InputError, match=rf"{third} is cut off or no safetensors file \(20 bytes\); download it again"):
        check_source(str(folder))
    (folder / third).write_bytes((2).to_bytes(8, "little") + b"[]")
    with pytest.raises(InputError, match=rf"{third} is no safetensors file: its header is damaged"):
        check_source(str(folder))
    (folder / third).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    with pytest.raises(InputError, match=rf"{third} is a pointer of Git LFS, not the file itself; run git lfs pull"):
        check_source(str(folder))
    (folder / third).unlink()
    with pytest.raises(InputError, match=rf"lacks 1 of the 3 files of its weights \({third}\); download them again"):
        load_model(folder)
    (folder / first).unlink()
    (folder / second).unlink()
    with pytest.raises(InputError, match=rf"lacks 3 of the 3 files of its weights \({first}, \.\.\.\)"):
        check_source(str(folder))
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    with pytest.raises(InputError, match=r"index\.json has no weight_map of tensors to files; download it again"):
        check_source(str(folder))


def test_pickles_are_refused_with_the_line_that_converts_them(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    check_source(str(folder))  # the weights are there as safetensors too
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError) as caught:
        check_source(str(folder))
    message = str(caught.value)
    assert "has its weights as a pickle only (pytorch_model.bin), and reading a pickle can run code" in message
    assert (
        f".from_pretrained('{folder}').save_pretrained('copy-safe') for kind in (M, T)]\" and give copy-safe" in message
    )
    # The advice works: its line makes a folder that loads.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        exec(message.split('python -c "')[1].split('" and give')[0])
    load_model(folder.parent / "copy-safe", device="cpu")
    with pytest.raises(InputError, match="has no weights as safetensors, and reading a pickle can run code"):
        load_network(str(folder), torch.float32, torch.device("cpu"))  # as of a repository of the Hub
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"has no weights; expected model\.safetensors or model\.safetensors\.index"):
        check_source(str(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"copy/config\.json:1: not JSON \(.*\); fix the line"),
        ("[]", r"cannot be loaded \(config\.json holds a list, not an object\); give a Hub id"),
        (
            '{"model_type": "phi", "quantization_config": {"quant_method": "gptq", "bits": 4}}',
            r"is stored quantised \(gptq\); give the model that it was made from, with --quantise nf4 or int8",
        ),
    ],
)
def test_configurations_that_cannot_be_used(folder: Path, content: str, message: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=message):
        check_source(str(folder))


def test_code_of_a_repository_is_never_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XForCausalLM"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": own}))
    for name in ("configuration_x.py", "modeling_x.py"):
        (folder / name).write_text("raise SystemExit('run')\n")
    load_model(folder, device="cpu")  # an architecture that transformers has is taken from there
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "x", "auto_map": own}))
    with pytest.raises(InputError, match=r"\(its architecture is code in its own repository, which is never run\)"):
        load_model(folder, device="cpu")


def response(status: int) -> Any:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/org/name"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            errors.GatedRepoError("403", response=response(403)),
            "its repository is gated); ask for access at https://huggingface.co/org/name and log in with hf auth login",
        ),
        (
            errors.RepositoryNotFoundError("404", response=response(404)),
            "the Hub has no such repository, or it is private); check the spelling, log in with hf auth login, or give",
        ),
        (
            errors.LocalEntryNotFoundError("no"),
            "the Hub cannot be reached, and the model is not in the local cache); ch",
        ),
        (httpx.ConnectError("refused"), "the Hub cannot be reached, and the model is not in the local cache); check"),
        (
            errors.OfflineModeIsEnabled("off"),
            "it is not in the local cache, and HF_HUB_OFFLINE forbids asking the Hub); ",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_hub_answers(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def raise_error(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("transformers.utils.hub.is_offline_mode", lambda: False)
    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", raise_error)
    with pytest.raises(InputError) as caught:
        load_model("org/name")
    assert f"model 'org/name' cannot be loaded ({message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_little_memory_has_its_own_advice() -> None:
    message = str(loading_error("m", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.")))
    assert "'m' cannot be loaded (the memory is too small for it); use --quantise nf4, --device cpu or" in message
    assert "'m' cannot be loaded (KeyError); give a Hub id or a folder" in str(loading_error("m", KeyError()))


def test_what_is_not_to_be_had_is_refused_before_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_at_hand(str(folder), "auto")
    with pytest.raises(InputError, match="model 'org/none' cannot be loaded"):
        check_at_hand("org/none")
    monkeypatch.setattr("rango.models.sources._GPU_DRIVERS", ())
    with pytest.raises(InputError, match="device 'cuda:1': this machine has 0 CUDA devices; use --device cpu"):
        check_at_hand(str(folder), "cuda:1")
    monkeypatch.setattr("rango.models.sources._GPU_DRIVERS", ("null",))
    check_at_hand(str(folder), "cuda:1")  # how many devices there are, torch says


@pytest.mark.parametrize("values", [{"num_hidden_layers": 2**63}, {"text_config": {"n_routed_experts": 20_000}}])
def test_more_layers_than_any_network_has_are_refused(folder: Path, values: dict[str, Any]) -> None:
    """They would be made one after another, on the meta device too."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    for described in (True, False):
        with pytest.raises(InputError, match=r"in config\.json is .*; expected at most 10,000"):
            check_source(str(folder), described=described)
