"""Learning rates and batches, by hand and by their laws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.training.schedule import BatchPlan, cosine_factor, learning_rate_factor


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=90),
    batch=st.integers(1, 12),
    budget=st.one_of(st.none(), st.integers(40, 200)),
    seed=st.integers(0, 5),
)
@settings(deadline=None)
def test_each_epoch_holds_each_instance_once(lengths: list[int], batch: int, budget: int | None, seed: int) -> None:
    plan = BatchPlan(lengths, batch=batch, batch_tokens=budget, seed=seed)
    again = BatchPlan(lengths, batch=batch, batch_tokens=budget, seed=seed)
    steps = plan.steps_per_epoch
    for epoch in (0, 1):
        assert sorted(number for numbers in plan.epoch(epoch) for number in numbers) == list(range(len(lengths)))
    assert [plan.step(s) for s in range(steps + 1)] == [again.step(s) for s in reversed(range(steps + 1))][::-1]
    assert plan.step(steps) == plan.epoch(1)[0]
    for numbers in plan.epoch(0):
        if budget is None:
            assert len(numbers) <= batch
        else:
            assert len(numbers) * max(lengths[n] for n in numbers) <= budget


def test_sorting_by_length_saves_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 100, (512,), generator=generator).tolist()
    plan = BatchPlan(lengths, batch=16, batch_tokens=None, seed=0)
    padded = sum(len(b) * max(lengths[n] for n in b) for b in plan.epoch(0))
    assert padded < 1.1 * sum(lengths)


def test_batches_by_hand() -> None:
    """Seven instances are one chunk: sorted by length and cut, only the order of the batches is random."""
    lengths = [9, 2, 7, 4, 3, 8, 5]  # sorted: numbers 1 4 3 6 2 5 0
    plan = BatchPlan(lengths, batch=3, batch_tokens=None, seed=0)
    assert plan.steps_per_epoch == 3
    assert sorted(plan.epoch(0)) == [[0], [1, 4, 3], [6, 2, 5]]
    assert plan.step(3 * 5 + 1) == plan.epoch(5)[1]


def test_batches_under_a_token_budget_by_hand() -> None:
    """A batch costs its size times its longest instance: 2 + 3 + 4 are read as 3 x 4 = 12, and 4 x 5 is over 16."""
    lengths = [9, 2, 7, 4, 3, 8, 5]
    plan = BatchPlan(lengths, batch=3, batch_tokens=16, seed=0)
    assert sorted(plan.epoch(0)) == [[0], [1, 4, 3], [5], [6, 2]]
    assert plan.steps_per_epoch == 4
    over = BatchPlan([50, 50], batch=3, batch_tokens=16, seed=0)
    assert sorted(over.epoch(0)) == [[0], [1]], "an instance over the budget is read alone"


def test_the_order_is_that_of_the_seed_and_the_epoch() -> None:
    lengths = list(range(1, 65))
    plans = [BatchPlan(lengths, batch=4, batch_tokens=None, seed=seed) for seed in (0, 0, 1)]
    assert plans[0].epoch(0) == plans[1].epoch(0)
    assert plans[0].epoch(0) != plans[2].epoch(0)
    assert plans[0].epoch(0) != plans[0].epoch(1)


def test_learning_rate_factors() -> None:
    cosine = [learning_rate_factor(step, 100, warmup=0.1, decay="cosine") for step in range(100)]
    assert cosine[0] == pytest.approx(0.1)
    assert cosine[9] == cosine[10] == 1
    assert cosine[55] == pytest.approx(0.5)
    assert cosine[99] < 0.001
    assert learning_rate_factor(99, 100, warmup=0, decay="constant") == 1


def test_learning_rate_factors_by_hand() -> None:
    """Six steps, a third of them warm-up: 1/2, 1, then cos from step 2 on over four steps."""
    factors = [learning_rate_factor(step, 6, warmup=1 / 3, decay="cosine") for step in range(6)]
    r = math.sqrt(0.5)
    assert factors == pytest.approx([0.5, 1, 1, (1 + r) / 2, 0.5, (1 - r) / 2])
    constant = [learning_rate_factor(step, 6, warmup=1 / 3, decay="constant") for step in range(6)]
    assert constant == pytest.approx([0.5, 1, 1, 1, 1, 1])
    assert learning_rate_factor(0, 1, warmup=0.05, decay="cosine") == 1, "one step is taken at the whole rate"


def test_half_a_cosine_ends_at_its_floor() -> None:
    assert [cosine_factor(done, 2, floor=0.2) for done in (0, 1, 2)] == pytest.approx([1, 0.6, 0.2])
    values = [cosine_factor(done, 50) for done in range(51)]
    assert values == sorted(values, reverse=True)
