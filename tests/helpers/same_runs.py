"""Whether two run directories hold the same result, apart from the clock."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file

from rango.training.run_folder import Run


def weights(run: Run, which: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run.path / "adapter" / which / "adapter_model.safetensors")


def same_result(one: Run, two: Run) -> None:
    for which in ("best", "last"):
        first, second = weights(one, which), weights(two, which)
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert one.posteriors("adapted").log_posteriors.tobytes() == two.posteriors("adapted").log_posteriors.tobytes()

    def timeless(run: Run) -> list[dict[str, Any]]:
        return [{k: v for k, v in record.items() if k != "seconds"} for record in run.log]

    assert timeless(one) == timeless(two)
