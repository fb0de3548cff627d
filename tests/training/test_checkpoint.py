"""A state that cannot be gone on from is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from rango.errors import InputError
from rango.training.checkpoint import load_state

ONE = {"a": torch.zeros(2)}


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", save(ONE)[:-3], save(ONE), save(ONE, metadata={"progress": "{"}), save(ONE, metadata={"x": "1"})],
    ids=["empty", "junk", "cut", "no metadata", "no JSON", "no progress"],
)
def test_a_damaged_state_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"state\.safetensors is damaged \(.*\); delete the run's folder and begin"):
        load_state(tmp_path / "state.safetensors")
