"""The options of LoRA: how placements are written, and what is refused."""

from __future__ import annotations

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
