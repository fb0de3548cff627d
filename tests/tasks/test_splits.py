from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rango.errors import InputError
from rango.options import TaskOptions
from rango.tasks.splits import Cut, cut, draw_order, take, take_whole
from rango.tasks.task import Instance


def pool(groups: list[int], *, prefix: str = "", start: int = 0) -> list[Instance]:
    """One instance for each number; equal numbers share a context."""
    return [
        Instance(f"{prefix}{k}", f"context {g}", "", ("a", "b"), 0, f"g{g}", fields={"domain": "xy"[g % 2]})
        for k, g in enumerate(groups, start)
    ]


def groups_of(instances: tuple[Instance, ...]) -> set[str]:
    return {instance.group for instance in instances}


def parts_of(parts: Cut) -> tuple[tuple[Instance, ...], ...]:
    return parts.train, parts.validation, parts.test, parts.rest


POOLS = st.lists(st.integers(0, 60), min_size=12, max_size=150)
SIZES = st.integers(1, 60)
SEEDS = st.integers(0, 5)


def try_cut(train: list[Instance], options: TaskOptions, **pools: list[Instance]) -> Cut:
    try:
        return cut(train, options, **pools)
    except InputError:
        assume(False)
        raise


@given(POOLS, SIZES, SIZES, SIZES, SEEDS)
@settings(max_examples=60, deadline=None)
def test_no_context_on_both_sides_of_a_carved_cut(
    groups: list[int], train: int, validation: int, test: int, seed: int
) -> None:
    options = TaskOptions(train=train, validation=validation, test=test, data_seed=seed)
    parts = parts_of(try_cut(pool(groups), options))
    for i, one in enumerate(parts):
        for other in parts[:i]:
            assert not groups_of(one) & groups_of(other)
    ids = [instance.id for part in parts for instance in part]
    assert len(ids) == len(set(ids)) <= len(groups)


@given(POOLS, POOLS, SIZES, SEEDS)
@settings(max_examples=60, deadline=None)
def test_no_context_of_an_official_test_pool_is_trained_on(
    groups: list[int], test_groups: list[int], size: int, seed: int
) -> None:
    options = TaskOptions(train=size, validation=size, test=size, data_seed=seed)
    test_pool = pool(test_groups, prefix="t")
    parts = try_cut(pool(groups), options, test=test_pool)
    held = {instance.group for instance in test_pool}
    assert not held & (groups_of(parts.train) | groups_of(parts.validation) | groups_of(parts.rest))
    dropped = sum(f"g{g}" in held for g in groups)
    said = [note for note in parts.notes if "dropped" in note]
    of = f"{dropped} training instance{'s' if dropped > 1 else ''}"
    assert said == ([f"{of} dropped for a context that occurs in the test split"] if dropped else [])
    assert len(parts.test) == min(size, len(test_pool))


@given(POOLS, SIZES, SIZES, SEEDS, st.randoms())
@settings(max_examples=60, deadline=None)
def test_the_training_size_changes_no_other_split(
    groups: list[int], small: int, large: int, seed: int, random: object
) -> None:
    shuffled = pool(groups)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    small, large = sorted((small, large))
    one = try_cut(pool(groups), TaskOptions(train=small, validation=2, test=4, data_seed=seed))
    other = cut(pool(groups), TaskOptions(train=large, validation=2, test=4, data_seed=seed))
    assert (one.validation, one.test) == (other.validation, other.test)
    assert one.train == other.train[: len(one.train)]
    # Nor does the order of the rows, but for the order inside a context.
    again = cut(shuffled, TaskOptions(train=large, validation=2, test=4, data_seed=seed))
    assert [i.group for i in again.train] == [i.group for i in other.train]
    assert [i.group for i in again.test] == [i.group for i in other.test]


def test_sizes_are_exact_when_there_is_enough() -> None:
    parts = cut(pool([k // 2 for k in range(20_000)]), TaskOptions())
    assert [len(part) for part in parts_of(parts)][:3] == [5000, 300, 2000]
    assert parts.notes == ()
    assert len(parts.rest) == 20_000 - 7300


def test_exactly_enough_is_enough() -> None:
    parts = cut(pool(list(range(7300))), TaskOptions())
    assert [len(part) for part in parts_of(parts)] == [5000, 300, 2000, 0]


def test_a_small_pool_is_shared_out() -> None:
    parts = cut(pool(list(range(730))), TaskOptions())
    assert [len(part) for part in parts_of(parts)] == [438, 146, 146, 0]
    assert parts.notes == (
        "asked for 5,000 training instances, 438 exist: all taken",
        "asked for 300 validation instances, 146 taken as this split's share of 730",
        "asked for 2,000 test instances, 146 taken as this split's share of 730",
    )


@pytest.mark.parametrize(
    ("n", "asked", "given"),
    [
        (100, (60, 20, 20), (60, 20, 20)),  # all fit
        (100, (1, 1, 98), (1, 1, 98)),
        (100, (5000, 20, 30), (50, 20, 30)),  # half of the pool
        (100, (5000, 30, 60), (60, 20, 20)),  # more: at most a fifth each
        (100, (11, 30, 60), (11, 20, 20)),
        (3, (5000, 300, 2000), (1, 1, 1)),
    ],
)
def test_carved_sizes(n: int, asked: tuple[int, int, int], given: tuple[int, int, int]) -> None:
    train, validation, test = asked
    parts = cut(pool(list(range(n))), TaskOptions(train=train, validation=validation, test=test))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == given


def test_fewer_test_instances_than_asked_for_are_all_taken() -> None:
    parts = cut(pool(list(range(1000))), TaskOptions(train=100), test=pool(list(range(1000, 1020)), prefix="t"))
    assert len(parts.test) == 20
    assert "asked for 2,000 test instances, 20 exist: all taken" in parts.notes
    assert len(parts.validation) == 300


def test_three_official_pools() -> None:
    parts = cut(
        pool([0, 1, 2, 3, 4]),
        TaskOptions(train=3, validation=2, test=2),
        validation=pool([3, 5, 6], prefix="v"),
        test=pool([5, 7, 8], prefix="t"),
    )
    assert groups_of(parts.train) <= {"g0", "g1", "g2", "g4"}
    assert groups_of(parts.validation) == {"g3", "g6"}
    assert parts.notes == (
        "1 validation instance dropped for a context that occurs in the test split",
        "1 training instance dropped for a context that occurs in the validation split",
    )


def test_seeds_differ_and_repeat() -> None:
    options = TaskOptions(train=50, validation=10, test=20)
    zero, again = (cut(pool(list(range(500))), options) for _ in range(2))
    one = cut(pool(list(range(500))), options.model_copy(update={"data_seed": 1}))
    assert zero == again
    assert len(groups_of(zero.test) & groups_of(one.test)) < 10


def test_every_context_is_drawn_equally_often() -> None:
    """400 seeds, 40 of 100 contexts each: counts of mean 160 and standard deviation 9.8."""
    counts = Counter(
        group[0].group for seed in range(400) for group in draw_order(pool(list(range(100))), seed=seed)[:40]
    )
    assert all(abs(counts[f"g{k}"] - 160) < 4.5 * 9.8 for k in range(100))


@given(st.lists(st.integers(0, 200), min_size=1, max_size=200, unique=True), SEEDS)
@settings(max_examples=60, deadline=None)
def test_every_front_holds_the_strata_in_proportion(groups: list[int], seed: int) -> None:
    order = draw_order(pool(groups), seed=seed, stratum=lambda instance: (instance.fields or {})["domain"])
    share = sum(g % 2 for g in groups) / len(groups)
    seen = 0
    for count, group in enumerate(order, 1):
        seen += int(group[0].group[1:]) % 2
        assert abs(seen - share * count) <= 1.0 + 1e-9


def test_taking_cuts_the_last_context() -> None:
    order = [pool([1, 1, 1]), pool([2, 2])]
    taken, touched = take(order, 2)
    assert (len(taken), touched) == (2, 1)
    taken, touched = take(order, 9)
    assert (len(taken), touched) == (5, 2)


def test_one_context_cannot_be_cut() -> None:
    with pytest.raises(InputError, match="9 instances with 1 contexts to train on cannot be cut into three splits"):
        cut(pool([1] * 9), TaskOptions())


def test_two_hundred_thousand_rows_are_cut_in_linear_time() -> None:
    many = pool([k // 3 for k in range(200_000)])
    start = time.process_time()
    parts = cut(
        many, TaskOptions(train=150_000, validation=300, test=2000), stratum=lambda i: (i.fields or {})["domain"]
    )
    assert len(parts.test) == 2000
    # About 0.5 s on one core; anything quadratic takes minutes.
    assert time.process_time() - start < 20


def test_a_table_whose_groups_are_large_loses_no_instance() -> None:
    """20 groups of 7: a fifth is 28 instances, which are 4 groups; a size that is given is kept, and cuts a group."""
    instances = pool([k // 7 for k in range(140)])
    parts = cut(instances, TaskOptions(), whole=True)
    assert [len(part) for part in parts_of(parts)] == [84, 28, 28, 0]
    assert parts.notes == ("no sizes were given: cut into 84 training, 28 validation and 28 test instances",)
    (note,) = cut(pool(range(8000)), TaskOptions(), whole=True).notes
    assert note == (
        "no sizes were given: cut into 5,000 training, 300 validation and 2,000 test instances; 700 are not used "
        "(--train and --test take more)"
    )
    asked = cut(instances, TaskOptions(test=10), whole=True)
    assert (len(asked.test), len(asked.validation)) == (10, 28)


def test_whole_groups_come_as_near_to_a_size_as_they_can() -> None:
    groups = [pool([k] * size) for k, size in enumerate((5, 90, 4, 2))]
    taken, remaining = take_whole(groups, 10)
    assert (len(taken), [len(group) for group in remaining]) == (11, [90])
    # A split needs an instance even where every group is too large.
    assert len(take_whole(groups[1:2], 10)[0]) == 90
