"""Streams of dropout masks: every number that names one counts."""

from __future__ import annotations

import torch

from rango.scoring.scorer import mask_seed


def draws(*numbers: int) -> list[float]:
    generator = torch.Generator().manual_seed(mask_seed(*numbers))
    drawn: list[float] = torch.rand(4, generator=generator).tolist()
    return drawn


def test_every_number_counts() -> None:
    # A seed shifted beyond 32 bits would be lost: the CPU's generator reads no further.
    named = [(seed, step, rank) for seed in (0, 1) for step in (0, 1) for rank in (0, 1)]
    assert len({tuple(draws(*numbers)) for numbers in named}) == len(named)
    assert draws(3, 4) == draws(3, 4)
