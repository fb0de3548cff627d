"""The LoRA layer and its adapters: nothing changes at first, parity with PEFT, merge and unmerge, bad input."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from rango.errors import InputError
from rango.models.adapter import add_adapter, add_bank
from rango.models.loading import Model, load_model
from rango.models.lora import Grouping, LoRALinear, linear_rows
from rango.models.peft_format import load_adapter
from rango.models.placement import parse_layers, place
from rango.options import LoRA

Checkpoint = Callable[..., Path]
ALL = ("q", "k", "v", "o", "mlp", "head")
FUSED = {"gpt2", "gpt_neox", "phi3"}
IDS = torch.arange(2, 26).reshape(2, 12)


def logits(model: Model | nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    network: Any = model.network if isinstance(model, Model) else model
    out: torch.Tensor = network(ids).logits
    return out


def shaken(model: Model, lora: LoRA, seed: int = 0) -> Any:
    """An adapter whose B is not zero."""
    adapter = add_adapter(model, lora, seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in adapter.layers.values():
            layer.weights(adapter.number)[1].normal_(std=0.3)
    return adapter


@pytest.mark.parametrize("architecture", ["phi", "llama", "mistral", "qwen2", "qwen3", "gpt2", "gemma2", "opt"])
def test_a_fresh_adapter_leaves_every_logit_bit_identical(checkpoint: Checkpoint, architecture: str) -> None:
    model = load_model(checkpoint(architecture))
    before = logits(model)
    add_adapter(model, LoRA(targets=ALL), seed=3)
    assert torch.equal(logits(model), before)


def test_hand_computed_update() -> None:
    base = nn.Linear(2, 2, bias=False)
    layer = LoRALinear(base)
    layer.add(rank=1, scaling=3.0)
    A, B = layer.weights()
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        A.copy_(torch.tensor([[1.0, 2.0]]))
        B.copy_(torch.tensor([[1.0], [-1.0]]))
    # A x = 1*1 + 2*10 = 21; 3 B A x = (63, -63); W0 x = (1, 10)
    assert layer(torch.tensor([[1.0, 10.0]])).tolist() == [[64.0, -53.0]]


def made_bank(ranks: dict[int, int], *, of: int) -> LoRALinear:
    """A layer of a bank of `of` that adapts the members in `ranks`, nothing zero."""
    bank = LoRALinear(nn.Linear(6, 5), Grouping(range(of)))
    for member, rank in ranks.items():
        bank.add(rank=rank, scaling=0.5 + member, adapter=member)
        for weight in bank.weights(member):
            nn.init.normal_(weight)
    return bank


@given(
    present=st.dictionaries(st.integers(0, 3), st.integers(1, 4), max_size=4),
    counts=st.one_of(st.none(), st.lists(st.integers(0, 3), min_size=4, max_size=4)),
)
@settings(max_examples=40, deadline=None)
def test_a_bank_equals_its_adapters_one_by_one(present: dict[int, int], counts: list[int] | None) -> None:
    torch.manual_seed(0)
    bank = made_bank(present, of=4)
    rows = counts or [2] * 4
    x = torch.randn(sum(rows), 7, 6, requires_grad=True)
    with bank.grouping.split(range(4), rows):
        together = bank(x)
    parts = []
    for member, part in enumerate(x.split(rows)):
        with bank.grouping.only(member):
            parts.append(bank(part))
    torch.testing.assert_close(together, torch.cat(parts), rtol=1e-5, atol=1e-5)
    wanted = [x, *(weight for member in present for weight in bank.weights(member))]
    mine = torch.autograd.grad(together.square().sum(), wanted, allow_unused=True, materialize_grads=True)
    theirs = torch.autograd.grad(torch.cat(parts).square().sum(), wanted, allow_unused=True, materialize_grads=True)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_a_bank_knows_its_rows_or_says_so() -> None:
    bank = made_bank({0: 2, 1: 3, 2: 1}, of=3)
    x = torch.randn(6, 6)
    with bank.grouping.split(range(3), [2, 2, 2]):
        assert torch.equal(bank(x), expected := bank(x))
    assert torch.equal(bank(x), expected), "without being told, a bank has equal shares"
    with bank.grouping.off():
        assert torch.equal(bank(x), bank.base(x))
    with bank.grouping.split(range(3), [1, 2, 2]), pytest.raises(ValueError, match="6 rows for a bank of 3 with"):
        bank(x)
    with pytest.raises(ValueError, match="one adapter at a time"):
        bank.rows(x, torch.tensor([0]))
    with pytest.raises(ValueError, match="only a single adapter"):
        bank.merge()


def test_adapters_of_a_bank_start_and_act_as_they_would_alone(checkpoint: Checkpoint) -> None:
    asked = [(LoRA(rank=2, targets=("q",)), 1), (LoRA(rank=4, alpha=5, targets=ALL), 0), (LoRA(layers="1"), 2)]
    model = load_model(checkpoint("phi"))
    plain = logits(model)
    bank = add_bank(model, asked)
    with torch.no_grad():
        for adapter in bank:
            for name, layer in adapter.layers.items():
                torch.manual_seed(adapter.number + len(name))
                layer.weights(adapter.number)[1].normal_(std=0.3)
    for adapter, (lora, seed) in zip(bank, asked, strict=True):
        other = load_model(checkpoint("phi"))
        single = add_adapter(other, lora, seed=seed)
        assert single.parameter_count() == adapter.parameter_count()
        single.load_state({k: v if "lora_B" in k else single.state()[k] for k, v in adapter.state().items()})
        with adapter.alone():
            assert torch.equal(logits(model), logits(other))
    for adapter in bank:
        adapter.remove()
    assert torch.equal(logits(model), plain)
    assert not any(isinstance(module, LoRALinear) for module in model.network.modules())


@given(rows=st.lists(st.integers(0, 9), min_size=1, max_size=6), adapted=st.booleans())
@settings(max_examples=25, deadline=None)
def test_chosen_rows_equal_the_whole_product(rows: list[int], adapted: bool) -> None:
    torch.manual_seed(1)
    linear: nn.Module = nn.Linear(4, 10)
    if adapted:
        linear = LoRALinear(linear)
        linear.add(rank=2, scaling=1.5)
        for weight in linear.weights():
            nn.init.normal_(weight)
    x = torch.randn(3, 4)
    torch.testing.assert_close(linear_rows(linear, x, torch.tensor(rows)), linear(x)[:, rows])


def peft_twin(folder: Path, adapter: Any, tmp_path: Path) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The same adapter, written by Rango and read by PEFT, with its trainable parameters by Rango's names."""
    adapter.save(tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on tied heads
        twin = peft.PeftModel.from_pretrained(load_model(folder).network, str(tmp_path / "adapter"), is_trainable=True)
    named = {
        name.removeprefix("base_model.model.").replace(".default", ""): parameter
        for name, parameter in twin.named_parameters()
        if "lora_" in name
    }
    return twin, named


@pytest.mark.parametrize("architecture", ["phi", "mistral", "gpt2", "qwen3"])
def test_outputs_gradients_and_ten_steps_equal_peft(checkpoint: Checkpoint, tmp_path: Path, architecture: str) -> None:
    folder = checkpoint(architecture)
    model = load_model(folder)
    adapter = shaken(model, LoRA(rank=3, alpha=5, targets=ALL))
    twin, named = peft_twin(folder, adapter, tmp_path)
    twin.eval()
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-5, atol=2e-5)
    mine = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    theirs = torch.optim.AdamW(list(named.values()), lr=1e-2)
    for step in range(10):
        for network, optimizer in ((model, mine), (twin, theirs)):
            optimizer.zero_grad()
            logits(network).log_softmax(-1)[:, :-1].gather(2, IDS[:, 1:, None]).mean().neg().backward()
        for name, layer in adapter.layers.items():
            for letter, found in zip("AB", layer.weights(), strict=True):
                expected = named[f"{name}.lora_{letter}.weight"]
                assert found.grad is not None
                assert expected.grad is not None
                torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-5, msg=f"{name} {step}")
        mine.step()
        theirs.step()
    for name, tensor in adapter.state().items():
        torch.testing.assert_close(tensor, named[name].detach(), rtol=1e-3, atol=1e-4)


def test_what_peft_writes_loads_here(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("phi")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "dense"], init_lora_weights=False)
    twin = peft.get_peft_model(load_model(folder).network, config)
    twin.save_pretrained(str(tmp_path))
    model = load_model(folder)
    load_adapter(model, tmp_path)
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["phi", "gpt2", "gemma2"])
def test_merge_gives_the_same_logits_and_unmerge_gives_the_weights_back(
    checkpoint: Checkpoint, architecture: str
) -> None:
    model = load_model(checkpoint(architecture))
    network: Any = model.network
    embeddings = network.get_input_embeddings().weight.clone()
    base = {name: parameter.clone() for name, parameter in network.named_parameters()}
    adapter = shaken(model, LoRA(targets=ALL))
    adapted = logits(model)
    adapter.merge()
    torch.testing.assert_close(logits(model), adapted, rtol=1e-4, atol=1e-4)
    assert torch.equal(network.get_input_embeddings().weight, embeddings), "a tied head took the embeddings along"
    with pytest.raises(ValueError, match="not merged yet"):
        adapter.merge()
    adapter.unmerge()
    for name, parameter in network.named_parameters():
        plain = name.replace(".base.", ".")
        if plain in base:
            assert torch.equal(parameter, base[plain]), name
    with pytest.raises(ValueError, match="not merged"):
        adapter.unmerge()


def test_disabled_and_removed_adapters_leave_the_base(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    before = logits(model)
    adapter = shaken(model, LoRA())
    assert not torch.equal(logits(model), before)
    with adapter.disabled():
        assert torch.equal(logits(model), before)
    adapter.remove()
    assert torch.equal(logits(model), before)
    assert not any(isinstance(module, LoRALinear) for module in model.network.modules())


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(16, 4))
    layer.add(rank=2, scaling=1.0, dropout=0.5)
    for weight in layer.weights():
        nn.init.normal_(weight)
    x = torch.randn(8, 16)
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))
    many = torch.stack([layer.update(x) for _ in range(4000)]).mean(0)
    layer.eval()
    torch.testing.assert_close(many, layer.update(x), rtol=0, atol=0.5)  # the mean is kept; values reach 10
    assert layer.update(x).abs().max() > 5


def test_the_start_of_a_layer_does_not_depend_on_the_others(checkpoint: Checkpoint) -> None:
    one, two = (load_model(checkpoint("phi")) for _ in range(2))
    few = add_adapter(one, LoRA(targets=("v",)), seed=5).state()
    many = add_adapter(two, LoRA(targets=ALL), seed=5).state()
    assert all(torch.equal(tensor, many[name]) for name, tensor in few.items())


def test_a_subset_of_layers(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("phi")
    model = load_model(folder)
    adapter = shaken(model, LoRA(targets=("q", "head"), layers="1"))
    assert list(adapter.layers) == ["model.layers.1.self_attn.q_proj", "lm_head"]
    twin, _ = peft_twin(folder, adapter, tmp_path)
    torch.testing.assert_close(logits(model), logits(twin), rtol=1e-5, atol=1e-5)


def test_layer_lists() -> None:
    assert parse_layers("0-2, 4", 5) == {0, 1, 2, 4}
    with pytest.raises(InputError, match=r"lora\.layers is '0-x': '0-x' is not a layer or a range; write for example"):
        parse_layers("0-x", 4)
    with pytest.raises(InputError, match=r"lora\.layers is '2-5': 2-5 is outside the model's layers 0\.\.3"):
        parse_layers("2-5", 4)


def test_fused_projections_are_adapted_together_or_refused(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("gpt2"))
    assert place(model.network, ("q", "k", "v"), None) == ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]
    with pytest.raises(
        InputError, match=r"placement 'q': gpt2 computes q, k, v in one matrix \(attn\.c_attn\); name all"
    ):
        place(model.network, ("q", "v"), None)


def test_bad_placements_are_refused_in_words(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    with pytest.raises(InputError, match="unknown placement 'w'"):
        place(model.network, ("w",), None)
    model.network.config.model_type = "mamba"
    with pytest.raises(InputError, match=r"architecture 'mamba' is not in the placement table"):
        place(model.network, ("q",), None)
    model.network.config.model_type = "gpt_neo"
    with pytest.raises(InputError, match=r"placement 'q': this PhiForCausalLM \(gpt_neo\) has no linear module named"):
        place(model.network, ("q",), None)


def test_lora_configuration_is_checked() -> None:
    assert LoRA.build({"targets": "q, v,o"}).targets == ("q", "v", "o")
    with pytest.raises(InputError, match=r"rank is 0: input should be greater than or equal to 1"):
        LoRA.build({"rank": 0})
    with pytest.raises(InputError, match=r"unknown key in configuration 'rnk': did you mean 'rank'\?"):
        LoRA.build({"rnk": 4})
    with pytest.raises(InputError, match=r"targets"):
        LoRA.build({"targets": "q,z"})


def test_adapters_of_another_model_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    adapter = add_adapter(model, LoRA(), seed=0)
    adapter.save(tmp_path)
    with pytest.raises(InputError, match="carries an adapter already"):
        add_adapter(model, LoRA(), seed=0)
    with pytest.raises(InputError, match="adapts another base model: it was made for .*fingerprint"):
        load_adapter(load_model(checkpoint("phi", seed=1)), tmp_path)
    with pytest.raises(InputError, match="holds no adapter_config.json"):
        load_adapter(model, tmp_path / "nothing")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="is not a safetensors file"):
        load_adapter(load_model(checkpoint("phi")), tmp_path)


def test_other_kinds_of_adapter_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("llama")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], use_dora=True)
    peft.get_peft_model(load_model(folder).network, config).save_pretrained(str(tmp_path / "dora"))
    with pytest.raises(InputError, match="use_dora is True, which Rango does not read"):
        load_adapter(load_model(folder), tmp_path / "dora")
    plain = peft.LoraConfig(r=2, target_modules=["q_proj"])
    peft.get_peft_model(load_model(folder).network, plain).save_pretrained(str(tmp_path / "plain"))
    with pytest.raises(InputError, match=r"adapts model\.layers\.0\.self_attn\.q_proj, which .* does not have"):
        load_adapter(load_model(checkpoint("gpt2")), tmp_path / "plain")
    wide = load_model(checkpoint("llama", hidden_size=64))
    with pytest.raises(InputError, match=r"with shape \(32, 32\), but in .* it is \(64, 64\)"):
        load_adapter(wide, tmp_path / "plain")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["q_proj"], "lora_bias": True}, "lora_bias is True, which Rango does not read"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "holds model.embed_tokens.base_layer.weight, which Rango"),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [3]}, "trainable_token_indices is "),
        ({"target_modules": ["q_proj"], "init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes"),
        ({"target_modules": ["q_proj"], "init_lora_weights": "olora"}, "init_lora_weights is 'olora', which changes"),
    ],
    ids=["bias", "embeddings", "tokens", "pissa", "olora"],
)
def test_an_adapter_of_peft_that_would_be_half_read_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """Each gives other logits than Rango would: read without what is refused here, it would be wrong in silence."""
    folder = checkpoint("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=2, **options)
        peft.get_peft_model(load_model(folder).network, config).save_pretrained(str(tmp_path))
    model = load_model(folder)
    before = logits(model)
    with pytest.raises(InputError, match=re.escape(message)):
        load_adapter(model, tmp_path)
    assert torch.equal(logits(model), before)


def test_embeddings_saved_with_an_adapter_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("llama")
    twin = peft.get_peft_model(load_model(folder).network, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    twin.save_pretrained(str(tmp_path), save_embedding_layers=True)
    with pytest.raises(InputError, match=r"holds lm_head\.weight, which Rango does not read; expected lora_A and"):
        load_adapter(load_model(folder), tmp_path)


def _set(key: str, value: Any) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], object]:
    return lambda config, _: config.update({key: value})


def _drop(key: str) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], object]:
    return lambda config, _: config.pop(key)


Q = "base_model.model.model.layers.0.self_attn.q_proj"
DAMAGED: list[tuple[Callable[[dict[str, Any], dict[str, torch.Tensor]], object], str]] = [
    (_drop("r"), "adapter_config.json: r is missing; expected a configuration that PEFT or Rango wrote"),
    (_drop("lora_alpha"), "adapter_config.json: lora_alpha is missing"),
    (_drop("peft_type"), "holds a None adapter; expected LORA"),
    (_set("r", 4), "q_proj has rank 2, but adapter_config.json says r 4; they must agree"),
    (_set("bias", "all"), "bias is 'all', which Rango does not read"),
    (_set("alpha_pattern", {"q_proj": 3}), "alpha_pattern is {'q_proj': 3}, which Rango does not read"),
    (lambda _, state: state.pop(f"{Q}.lora_B.weight"), "q_proj with shape no lora_B"),
    (lambda _, state: state.update({f"{Q}.lora_B.weight": torch.zeros(32)}), "q_proj with shape (32, 32), but in"),
    (lambda _, state: state.update({f"{Q}.lora_A.weight": torch.tensor(1.0)}), "q_proj with shape (32), but in"),
    (lambda _, state: state.update({f"{Q}.lora_A.bias": torch.zeros(2)}), "q_proj.lora_A.bias, which Rango does not"),
    (lambda _, state: state.pop(f"{Q}.lora_A.weight"), "q_proj.lora_B.weight, which Rango does not read"),
    (lambda _, state: state.clear(), "holds no lora_A weights; the adapter is damaged"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGED, ids=[message[:40] for _, message in DAMAGED])
def test_a_damaged_adapter_is_one_line(checkpoint: Checkpoint, tmp_path: Path, damage: Any, message: str) -> None:
    model = load_model(checkpoint("phi"))
    add_adapter(model, LoRA(rank=2), seed=0).save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    state = load_file(tmp_path / "adapter_model.safetensors")
    damage(config, state)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match=re.escape(message)) as error:
        load_adapter(load_model(checkpoint("phi")), tmp_path)
    assert "\n" not in str(error.value)


def test_an_adapter_configuration_that_is_no_object_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(InputError, match=r"adapter_config\.json holds a list; expected a JSON object"):
        load_adapter(load_model(checkpoint("phi")), tmp_path)


def test_the_adapter_stays_float32_on_a_half_precision_base(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"), dtype="bfloat16")
    before = logits(model)
    adapter = add_adapter(model, LoRA(), seed=0)
    assert torch.equal(logits(model), before)
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}
    assert model.fingerprint == load_model(checkpoint("phi")).fingerprint
