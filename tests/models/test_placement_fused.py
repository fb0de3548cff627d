"""Fused projections: q of one matrix for q, k and v is adapted as a q of its own would be, in every layout."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.adapters import logits, peft_twin, shaken
from helpers.architectures import tiny_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from rango.checksums import KEY
from rango.errors import InputError
from rango.models.adapter import add_adapter, add_bank
from rango.models.loading import load_model
from rango.models.lora import LoRALinear, weight_shape
from rango.models.peft_format import load_adapter
from rango.models.placement import place
from rango.options import LoRA

Checkpoint = Callable[..., Path]
Tensors = dict[str, torch.Tensor]
IDS = torch.arange(2, 18).reshape(2, 8)
QKV = ("q", "k", "v")


def thirds(parts: Tensors, _: Any) -> torch.Tensor:
    return torch.cat([parts[name] for name in QKV], dim=-1)


def by_head(parts: Tensors, config: Any) -> torch.Tensor:
    heads = [parts[name].unflatten(-1, (config.num_attention_heads, -1)) for name in QKV]
    return torch.cat(heads, dim=-1).flatten(-2)


def by_group(parts: Tensors, config: Any) -> torch.Tensor:
    """Falcon's new decoder: the queries of a group of heads, then the key and the value that they share."""
    heads = [parts[name].unflatten(-1, (config.num_kv_heads, -1)) for name in QKV]
    return torch.cat(heads, dim=-1).flatten(-2)


def codegen(parts: Tensors, _: Any) -> torch.Tensor:
    """Four shards of one another's query, value and key."""
    return torch.cat([parts[name].unflatten(-1, (4, -1)) for name in ("q", "v", "k")], dim=-1).flatten(-2)


def key_heads(config: Any) -> int:
    if config.model_type == "falcon":
        return int(config.num_kv_heads if config.new_decoder_architecture or not config.multi_query else 1)
    if config.model_type == "gpt_bigcode":
        return 1 if config.multi_query else int(config.num_attention_heads)
    return int(getattr(config, "num_key_value_heads", config.num_attention_heads))


# How the projections of each architecture are put together, written a second time and by hand.
FUSED: dict[str, tuple[str, dict[str, Any], Callable[[Tensors, Any], torch.Tensor]]] = {
    "phi3": ("phi3", {"num_key_value_heads": 2, "pad_token_id": 1}, thirds),
    "gpt2": ("gpt2", {}, thirds),
    "openai-gpt": ("openai-gpt", {}, thirds),
    "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "expansion_ratio": 2}, thirds),
    "gpt_neox": ("gpt_neox", {}, by_head),
    "bloom": ("bloom", {}, by_head),
    "persimmon": ("persimmon", {}, by_head),
    "falcon": ("falcon", {"multi_query": True, "new_decoder_architecture": False, "alibi": False}, thirds),
    "falcon-7b-less-mq": (
        "falcon",
        {"multi_query": False, "new_decoder_architecture": False, "alibi": True, "num_kv_heads": 4},
        by_head,
    ),
    "falcon-40b": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False}, by_group),
    "codegen": ("codegen", {}, codegen),
    "gpt_bigcode": ("gpt_bigcode", {"multi_query": True}, thirds),
    "gpt_bigcode-heads": ("gpt_bigcode", {"multi_query": False}, by_head),
}


class Split(nn.Module):
    """Projections of their own, whose outputs stand where the fused matrix has them."""

    def __init__(self, fused: nn.Module, config: Any, join: Callable[[Tensors, Any], torch.Tensor]) -> None:
        super().__init__()
        outputs, inputs = weight_shape(fused)
        heads, keys = config.num_attention_heads, key_heads(config)
        size = outputs // (heads + 2 * keys)
        counts = {"q": heads * size, "k": keys * size, "v": keys * size}
        numbered = dict(zip(QKV, torch.arange(outputs).split(list(counts.values())), strict=True))
        where = join(numbered, config)  # (out,): which output of q, k, v one after the other each fused output is
        weight: Any = fused.weight.T if isinstance(fused, Conv1D) else fused.weight
        rows, bias = torch.empty_like(weight), torch.zeros(outputs)
        rows[where] = weight
        if fused.bias is not None:
            bias[where] = fused.bias  # type: ignore[index]
        self.parts, start = nn.ModuleDict(), 0
        for name, count in counts.items():
            part = nn.Linear(inputs, count)
            part.weight.data, part.bias.data = rows[start : start + count], bias[start : start + count]
            self.parts[name] = part
            start += count
        self.join, self.config = join, config
        self.weight = fused.weight  # some networks look at its type

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.join({name: part(x) for name, part in self.parts.items()}, self.config)


def replaced(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize("targets", [("q",), ("v", "k"), QKV], ids=",".join)
def test_logits_and_gradients_are_those_of_split_projections(kind: str, targets: tuple[str, ...]) -> None:
    architecture, changes, join = FUSED[kind]
    model = tiny_model(architecture, **changes)
    split: Any = copy.deepcopy(model.network)
    plain = logits(model, IDS)
    adapter = shaken(model, LoRA(rank=3, alpha=5, targets=targets))
    assert not torch.allclose(logits(model, IDS), plain, atol=1e-3)
    modules = dict.fromkeys(site.name for site in place(split, targets, None))
    for name in modules:
        parts = Split(split.get_submodule(name), split.config, join)
        replaced(split, name, parts)
        for part in targets:
            layer = LoRALinear(parts.parts[part])
            layer.add(rank=3, scaling=5 / 3)
            for own, given in zip(layer.weights(), adapter.layers[name].weights(0, part), strict=True):
                own.data.copy_(given.data)  # the shapes agree: as many numbers are trained
            parts.parts[part] = layer
    torch.testing.assert_close(logits(model, IDS), logits(split, IDS), rtol=1e-4, atol=1e-4)
    for network in (model.network, split):
        logits(network, IDS).log_softmax(-1)[:, :-1].gather(2, IDS[:, 1:, None]).mean().neg().backward()
    for name in modules:
        for part in targets:
            layers = split.get_submodule(name).parts[part].weights()
            for own, given in zip(layers, adapter.layers[name].weights(0, part), strict=True):
                torch.testing.assert_close(given.grad, own.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "kind", ["phi3", "gpt2", "gpt_neox", "falcon", "falcon-7b-less-mq", "falcon-40b", "gpt_bigcode", "persimmon"]
)
def test_the_layout_is_the_one_that_the_network_computes_attention_with(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fused matrix gives the numbers of its own outputs, and attention is asked which of them are its q, k, v.

    At the first position rotary embeddings change nothing, and q and k are not normed.
    """
    architecture, changes, _ = FUSED[kind]
    config = tiny_model(architecture, **{**changes, "alibi": False} if "falcon" in kind else changes).network.config
    network: Any = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    sites = place(network, QKV, "0")
    seen: list[Tensors] = []
    attend = nn.functional.scaled_dot_product_attention

    def record(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any) -> torch.Tensor:
        tensors = zip(QKV, (query, key, value), strict=True)
        seen.append({name: x.flatten().round().long().unique() for name, x in tensors})
        return attend(query, key, value, **options)

    class Numbers(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.arange(outputs, dtype=torch.float32).expand(*x.shape[:-1], outputs)

    outputs, _ = weight_shape(network.get_submodule(sites[0].name))
    numbers: Any = Numbers()
    numbers.weight = network.get_submodule(sites[0].name).weight
    replaced(network, sites[0].name, numbers)
    if kind == "persimmon":  # it norms q and k, which this test cannot see through
        attention = network.get_submodule(sites[0].name.rpartition(".")[0])
        attention.q_layernorm = attention.k_layernorm = nn.Identity()
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", record)
    network(torch.tensor([[5]]))
    for site in sites:
        assert site.slice is not None
        assert seen[0][site.part].tolist() == site.slice.index(outputs).tolist(), site.part


def test_gate_and_up_of_one_matrix_are_two_updates(checkpoint: Checkpoint) -> None:
    network: Any = load_model(checkpoint("phi3")).network
    sites = place(network, ("mlp",), "0")
    assert [(site.name.rpartition(".")[2], site.part) for site in sites] == [
        *(("gate_up_proj", part) for part in ("gate", "up")),
        ("down_proj", ""),
    ]
    mlp = network.model.layers[0].mlp
    x = torch.randn(2, 32)
    gate, up = (mlp.gate_up_proj(x)[:, site.slice.index(96)] for site in sites[:2] if site.slice)
    torch.testing.assert_close(mlp.down_proj(up * mlp.activation_fn(gate)), mlp(x))


def test_q_trains_as_many_numbers_in_every_architecture(checkpoint: Checkpoint) -> None:
    counts = {
        architecture: add_adapter(load_model(checkpoint(architecture)), LoRA(rank=1, targets=("q",)), seed=0)
        for architecture in ("llama", "phi3", "gpt2", "gpt_neox", "bloom")
    }
    assert {adapter.parameter_count() for adapter in counts.values()} == {2 * (32 + 32)}
    assert {adapter.module_count() for adapter in counts.values()} == {2}


def test_a_module_whole_and_in_part_is_refused(checkpoint: Checkpoint) -> None:
    network = load_model(checkpoint("gpt2")).network
    assert len(place(network, ("attn.c_attn",), None)) == 2
    with pytest.raises(InputError, match=r"adapts transformer\.h\.0\.attn\.c_attn whole and in part \(q\); leave"):
        place(network, ("q", "attn.c_attn"), None)
    with pytest.raises(InputError, match=r"lora\.targets v,all-linear adapts .* whole and in part \(v\)"):
        place(network, ("v", "all-linear"), None)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "phi3", "bloom"])
@pytest.mark.parametrize("targets", [("q",), ("q", "v", "mlp", "head")], ids=",".join)
def test_peft_and_rango_read_the_file_with_the_same_logits(
    checkpoint: Checkpoint, tmp_path: Path, architecture: str, targets: tuple[str, ...]
) -> None:
    folder = checkpoint(architecture)
    model = load_model(folder)
    adapter = shaken(model, LoRA(rank=2, alpha=5, targets=targets))
    twin, _ = peft_twin(folder, adapter, tmp_path)
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-5, atol=1e-5)
    # The run's own checkpoint gives its slices back to the bit, in place and in a network loaded again.
    saved = adapter.state()
    adapter.reset(9)
    adapter.load(tmp_path / "adapter")
    other: Any = load_adapter(load_model(folder), tmp_path / "adapter")
    for state in (adapter.state(), other.state()):
        assert state.keys() == saved.keys()
        assert all(torch.equal(tensor, saved[name]) for name, tensor in state.items())
    assert torch.equal(logits(other.model), logits(model))


def test_parts_of_one_matrix_may_have_ranks_of_their_own(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("gpt2")
    lora = LoRA(rank=6, targets=("q", "v"), rank_pattern=("v=4",), alpha_pattern=("q=5",))
    adapter = shaken(model := load_model(folder), lora)
    layer = next(iter(adapter.layers.values()))
    assert ([len(layer.weights(0, part)[0]) for part in "qv"], layer.scaling) == ([6, 4], {0: {"q": 5 / 6, "v": 4.0}})
    twin, _ = peft_twin(folder, adapter, tmp_path)
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-5, atol=1e-5)
    other: Any = load_adapter(load_model(folder), tmp_path / "adapter")
    assert other.plans() == adapter.plans()
    torch.testing.assert_close(other.state(), adapter.state(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "phi3"])
def test_merging_touches_the_slices_alone(checkpoint: Checkpoint, architecture: str) -> None:
    model = load_model(checkpoint(architecture))
    before = {name: weight.clone() for name, weight in model.network.named_parameters()}
    adapter = shaken(model, LoRA(targets=("q", "v")))
    adapted = logits(model)
    adapter.merge()
    torch.testing.assert_close(logits(model), adapted, rtol=1e-4, atol=1e-4)
    k = {site.name: site.slice for site in place(load_model(checkpoint(architecture)).network, ("k",), None)}
    for name, layer in adapter.layers.items():
        own: Any = layer.base
        pair = own.weight, before[f"{name}.weight"]
        merged, plain = (weight.T if isinstance(own, Conv1D) else weight for weight in pair)
        kept = torch.eq(merged, plain).all(dim=1)  # (out,)
        assert k[name] is not None
        assert kept.nonzero().flatten().tolist() == k[name].index(len(kept)).tolist()
    adapter.unmerge()
    for name, weight in model.network.named_parameters():
        if "lora_" not in name:
            assert torch.equal(weight, before[name.replace(".base.", ".")])


def test_a_bank_of_slices_equals_its_adapters_one_by_one(checkpoint: Checkpoint) -> None:
    asked = [(LoRA(rank=2, targets=t), n) for n, t in enumerate([("q",), ("q", "v"), ("attn.c_attn",), ("mlp",)])]
    folder = checkpoint("gpt2")
    model = load_model(folder)
    bank = add_bank(model, asked)
    torch.manual_seed(0)
    for adapter in bank:
        for name, parameter in adapter.named_parameters().items():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
    ids = torch.arange(2, 66).reshape(8, 8)
    for rows in ([2, 2, 2, 2], [1, 3, 2, 2]):
        with bank[0].grouping.split(range(4), rows):
            together = logits(model, ids)
        for adapter, part, own in zip(bank, together.split(rows), ids.split(rows), strict=True):
            with adapter.alone():
                torch.testing.assert_close(part, logits(model, own), rtol=1e-4, atol=1e-5)
            single: Any = add_adapter(load_model(folder), adapter.lora, seed=0)
            single.load_state(adapter.state())
            torch.testing.assert_close(part, logits(single.model, own), rtol=1e-4, atol=1e-5)


def test_slices_that_do_not_fit_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    shaken(load_model(checkpoint("gpt2")), LoRA(targets=("q", "v"))).save(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = {key: text for key, text in opened.metadata().items() if key != KEY}
    name = "transformer.h.1.attn.c_attn"
    written = json.loads(metadata["slices"])
    q = {"rank": 8, "scaling": 2.0, "slice": {"blocks": 1, "start": 0, "stop": 32}}
    assert written[name] == {"q": q, "v": {**q, "slice": {"blocks": 1, "start": 64, "stop": 96}}}
    outside = {"slice": {"blocks": 1, "start": 64, "stop": 97}}
    changed = [{**written, name: {"q": {**q, **outside}, "v": q}}]
    changed += [{**written, name: {"q": {**q, **c}, "v": {**q, **c}}} for c in ({"rank": 4}, {"scaling": 3.0})]
    message = r"the slices in adapter_model\.safetensors's metadata do not fit its weights; the adapter is damaged"
    for text in ("{", "[]", json.dumps({"nowhere": {"q": q}}), *map(json.dumps, changed)):
        save_file(load_file(file), file, metadata={**metadata, "slices": text})
        with pytest.raises(InputError, match=message):
            load_adapter(load_model(checkpoint("gpt2")), tmp_path)
    # A number outside of the slices would be lost.
    tensors = load_file(file)
    tensors["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"][40, 0] = 1.0
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(InputError, match="do not fit its weights"):
        load_adapter(load_model(checkpoint("gpt2")), tmp_path)
