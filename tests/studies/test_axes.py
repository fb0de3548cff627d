"""Axes: dotted keys, and what configurations are called beside others."""

from __future__ import annotations

from typing import Any

from rango.studies.axes import Names, flatten, known_keys, unflatten


class TestKeys:
    def test_nesting_and_dots_are_the_same(self) -> None:
        nested = {"lora": {"rank": 2, "targets": "q"}, "steps": 3}
        assert unflatten(flatten(nested)) == nested

    def test_each_known_key_is_listed_once(self) -> None:
        known = known_keys()
        assert len(known) == len(set(known))
        assert {"adaptation", "lora.rank", "shots"} <= set(known)
        assert "seed" not in known


class TestNames:
    def test_the_values_that_vary_with_their_axis_where_a_number_needs_it(self) -> None:
        among = [{"task": "a", "lora.rank": rank, "lora.targets": "q"} for rank in (4, 8)]
        assert [Names(among).of(axes) for axes in among] == ["rank 4", "rank 8"]
        assert Names(among).of(among[0], without=["lora.rank"]) == "the configuration"

    def test_a_base_has_no_rank_and_full_fine_tuning_its_own_learning_rate(self) -> None:
        among: list[dict[str, Any]] = [
            {"adaptation": "none", "lora.rank": None, "learning_rate": None},
            {"adaptation": "lora", "lora.rank": 4, "learning_rate": 1e-3},
            {"adaptation": "lora", "lora.rank": 8, "learning_rate": 1e-3},
            {"adaptation": "full", "lora.rank": None, "learning_rate": 1e-5},
        ]
        names = Names(among)
        assert names.follows == {"learning_rate": {"none": None, "lora": 1e-3, "full": 1e-5}}
        assert [names.of(axes) for axes in among] == ["base model", "lora, rank 4", "lora, rank 8", "full"]

    def test_where_one_thing_is_changed_at_a_time_a_name_is_the_change(self) -> None:
        centre = {"adaptation": "lora", "lora.targets": "q,v", "lora.rank": 8, "learning_rate": 5e-4, "train": 5000}
        changes: list[dict[str, Any]] = [
            {},
            {"lora.targets": "q"},
            {"lora.rank": 1, "learning_rate": 1e-3},
            {"train": 64},
            {"objective": "answer"},
        ]
        centre["objective"] = "choice"
        among = [centre | change for change in changes]
        assert [Names(among).of(axes) for axes in among] == [
            *("centre", "q", "rank 1, learning rate 0.001", "train 64", "objective answer")
        ]
        assert Names(among).of_centre() == "q,v, rank 8, learning rate 0.0005, train 5000, objective choice"
        # Four changes in one configuration are no change of the centre: then every value is named.
        among.append(centre | {"lora.targets": "k", "lora.rank": 2, "learning_rate": 1e-3, "train": 64})
        assert Names(among).of(among[1]) == "q, rank 8, learning rate 0.0005, train 5000, choice"

    def test_of_several_bases_the_one_that_was_adapted_says_so(self) -> None:
        among = [{"model": model, "adaptation": "none"} for model in ("a", "b")]
        among.append({"model": "b", "adaptation": "lora"})
        assert [Names(among).of(axes) for axes in among] == ["base model, a", "base model, b", "b, lora"]
