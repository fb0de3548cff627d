"""The options of LoRA: how placements are written, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rango.errors import InputError
from rango.options import LoRA


def test_lora_configuration_is_checked() -> None:
    assert LoRA.build({"targets": "q, v,o"}).targets == ("q", "v", "o")
    with pytest.raises(InputError, match=r"rank is 0: input should be greater than or equal to 1"):
        LoRA.build({"rank": 0})
    with pytest.raises(InputError, match=r"unknown key in configuration 'rnk': did you mean 'rank'\?"):
        LoRA.build({"rnk": 4})
    with pytest.raises(InputError, match=r"targets"):
        LoRA.build({"targets": "q,z"})


@pytest.mark.parametrize("value", ["mlp=16,k=4", ["mlp=16", "k=4"], {"mlp": 16, "k": 4}])
def test_a_pattern_is_text_a_list_or_a_mapping(value: Any) -> None:
    assert LoRA.build({"rank_pattern": value}).rank_pattern == ("mlp=16", "k=4")


def test_equal_alphas_are_spelt_in_one_way() -> None:
    assert LoRA.build({"alpha_pattern": "q=8.0,k=1e-3,v=1.50"}).alpha_pattern == ("q=8", "k=0.001", "v=1.5")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("mlp", "'mlp': expected NAME=NUMBER above 0, such as mlp=16"),
        ("=4", "'=4': expected NAME=NUMBER above 0"),
        ("q=0", "'q=0': expected NAME=NUMBER above 0"),
        ("q=-2", "'q=-2': expected NAME=NUMBER above 0"),
        ("q=1_0", "'q=1_0': expected NAME=NUMBER above 0"),
        ("q=1e999", "'q=1e999': expected NAME=NUMBER above 0"),
        ("q=1.5", "'q=1.5': a rank is a whole number"),
        ("(q=2", r"'\(q=2': \(q is no regular expression"),
    ],
)
def test_an_entry_of_a_pattern_that_means_nothing_is_refused(entry: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LoRA.build({"rank_pattern": entry})


def test_the_first_entry_that_fits_a_module_counts() -> None:
    lora = LoRA.build({"rank_pattern": r"layers\.1\.mlp\.fc1=2,mlp=16,fc2=32", "alpha_pattern": "k=4", "rank": 8})
    assert lora.rank_of("model.layers.0.mlp.fc2", "mlp") == 16, "a placement"
    assert lora.rank_of("model.layers.1.mlp.fc1", "mlp") == 2, "the end of a module's name"
    assert lora.rank_of("model.layers.11.mlp.fc1", "mlp") == 16, "11 is not 1"
    assert lora.rank_of("model.layers.0.mlp.fc2") == 32
    assert lora.rank_of("model.layers.0.self_attn.q_proj", "q") == 8
    assert lora.scaling_of("model.layers.0.self_attn.q_proj", "q") == 16 / 8
    assert lora.scaling_of("model.layers.0.self_attn.k_proj", "k") == 4 / 8
    assert lora.scaling_of("model.layers.0.mlp.fc2", "mlp") == 16 / 16


def test_rank_stabilised_scaling_divides_by_the_root_of_each_rank() -> None:
    lora = LoRA(rank=4, alpha=6, rslora=True, rank_pattern=("mlp=9",))
    assert lora.scaling_of("a.q_proj", "q") == 3
    assert lora.scaling_of("a.fc1", "mlp") == 2
    assert LoRA(rank=2, rslora=True, alpha=1).scaling_of("q") == 1 / math.sqrt(2)
