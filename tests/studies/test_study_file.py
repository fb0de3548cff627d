"""Study files: combinations, and mistakes that are all told before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rango.errors import InputError
from rango.studies.axes import flatten, known_keys, unflatten
from rango.studies.plan import plan_study
from rango.studies.study import Study
from rango.studies.study_file import read_study

ROOT = Path(__file__).resolve().parents[2]
BASE = {"model": "m", "task": "simulated", "steps": 10}


def write(path: Path, **values: Any) -> Path:
    path.write_text(yaml.safe_dump({"base": BASE, **values}, sort_keys=False))
    return path


class TestCombinations:
    def test_grid_and_list(self) -> None:
        study = Study(name="s", runs=({"lora": {"targets": "q"}}, {"lora.targets": "v"}), vary={"lora.rank": (1, 2)})
        assert list(study.combinations()) == [
            {"lora.targets": "q", "lora.rank": 1},
            {"lora.targets": "q", "lora.rank": 2},
            {"lora.targets": "v", "lora.rank": 1},
            {"lora.targets": "v", "lora.rank": 2},
        ]
        assert study.axes == ("lora.targets", "lora.rank")

    def test_nothing_varied_is_one_configuration(self) -> None:
        assert list(Study(name="s").combinations()) == [{}]

    def test_nesting_and_dots_are_the_same(self) -> None:
        nested = {"lora": {"rank": 2, "targets": "q"}, "steps": 3}
        assert unflatten(flatten(nested)) == nested


class TestReading:
    def test_name_is_the_file_where_none_is_given(self, tmp_path: Path) -> None:
        assert read_study(write(tmp_path / "rank.yaml")).name == "rank"

    def test_changes_win(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.yaml", seeds=[0], tiny={"base": {"steps": 2}, "seeds": [0, 1]})
        study = read_study(path, tiny=True, changes=["model=other", "lora.rank=4", "seeds=[5]", "learning-rate=1e-3"])
        assert study.base == {**BASE, "steps": 2, "model": "other", "lora": {"rank": 4}, "learning_rate": "1e-3"}
        assert study.seeds == (5,)

    def test_tiny_needs_a_block(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="has no `tiny:` block"):
            read_study(write(tmp_path / "a.yaml"), tiny=True)

    def test_all_mistakes_at_once(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "a.yaml",
            base={**BASE, "lerning_rate": 1},
            vary={"lora.rnk": [1], "steps": [], "seed": [1], "train": [10]},
            runs=[{"train": 5}],
        )
        with pytest.raises(InputError) as caught:
            plan_study(read_study(path), tmp_path / "out")
        message = str(caught.value)
        assert message.startswith("study a: ")
        assert "unknown key in base 'lerning_rate': did you mean 'learning_rate'?" in message
        assert "unknown key in vary 'lora.rnk': did you mean 'lora.rank'?" in message
        assert "vary: steps has no values" in message
        assert "vary: seed is set by `seeds`" in message
        assert "train is varied twice, in vary and in runs[0]" in message

    def test_each_known_key_is_listed_once(self) -> None:
        known = known_keys()
        assert len(known) == len(set(known))
        assert {"adaptation", "lora.rank", "shots"} <= set(known)
        assert "seed" not in known

    def test_a_key_that_stands_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        path.write_text("base: {}\nvary:\n  lora.rank: [1]\n  lora.rank: [2]\n")
        with pytest.raises(InputError, match=r"a.yaml:4: not YAML \('lora.rank' stands twice\)"):
            read_study(path)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"vray": {}}, "unknown key in .* 'vray': did you mean 'vary'"),
            ({"seeds": []}, "seeds"),
            ({"seeds": [-1]}, "seeds"),
            ({"select": "acuracy"}, "select is 'acuracy'"),
            ({"seeds": [0, 0, 1]}, r"seeds: \[0, 0, 1\] has one seed twice; give each once"),
            ({"seeds": True}, r"seeds: \[True\] are no seeds; give whole numbers, such as \[0, 1, 2\]"),
            ({"name": "../x"}, "name: '../x' cannot name a folder; give a word, such as placement"),
            ({"name": ""}, "name: '' cannot name a folder"),
            ({"vary": {"lora.rank": 8}}, r"vary.lora.rank is 8: expected a list, such as \[8\]"),
            ({"base": 3}, "base is 3: expected keys and values, such as {rank: 8}"),
            ({"vary": {1: [2]}}, "vary: the key 1 is not a word; put it in quotes"),
            (
                {"search": {"space": {"steps": {"low": 1, "high": "a"}}}},
                "search.space.steps.high is 'a': expected a number",
            ),
            ({"models": {"m": {"hiden": 1}}}, "unknown key in .* 'models.m.hiden': did you mean 'models.m.hidden'?"),
        ],
    )
    def test_fields_of_the_study(self, tmp_path: Path, values: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            read_study(write(tmp_path / "a.yaml", **values))

    def test_fields_and_keys_at_once(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.yaml", base={"lora.rnk": 1}, seeds=[], selct="nce")
        expected = r"seeds is \[\]: expected at least 1; unknown key 'selct'.*; unknown key in base 'lora.rnk'"
        with pytest.raises(InputError, match=expected):
            read_study(path)

    def test_one_key_in_two_spellings(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.yaml", base={**BASE, "lora": {"rank": 2}, "lora.rank": 4})
        with pytest.raises(InputError, match="base: lora.rank stands twice; keep one of them"):
            plan_study(read_study(path), tmp_path / "out")

    def test_hyphens_are_underscores(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.yaml", base={**BASE, "learning-rate": 1}, vary={"validate-every": [1, 2]})
        study = read_study(path, changes=["learning-rate=2"])
        assert read_study(path, changes=["vary={weight-decay: [0]}"]).vary == {"weight_decay": (0,)}
        assert study.base == {**BASE, "learning_rate": 2}
        assert study.vary == {"validate_every": (1, 2)}

    def test_an_axis_and_a_search_may_be_set(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.yaml", base={**BASE, "lora.rank": 1}, vary={"steps": [1], "seed": [2]})
        study = read_study(path, changes=["vary.steps=[3, 4]", "vary.lora.alpha=[1]", "lora.rank=8"])
        assert study.vary == {"steps": (3, 4), "seed": (2,), "lora.alpha": (1,)}
        assert study.base == {**BASE, "lora": {"rank": 8}}
        path = write(tmp_path / "b.yaml", search={"trials": 9, "space": {"steps": [1, 2], "batch": [1]}})
        search = read_study(path, changes=["search.trials=3", "search.space.lora.rank=[4]"]).search
        assert search is not None
        assert (search.trials, dict(search.space)) == (3, {"steps": (1, 2), "batch": (1,), "lora.rank": (4,)})

    def test_set_needs_a_value(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="--set 'steps': expected KEY=VALUE"):
            read_study(write(tmp_path / "a.yaml"), changes=["steps"])


@pytest.mark.parametrize("path", sorted((ROOT / "studies").rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_read(path: Path) -> None:
    for tiny in (False, True):
        study = read_study(path, tiny=tiny)
        assert study.about
        assert len(list(study.combinations())) >= 2


class TestMetricsAndCosts:
    def test_a_costs_file_is_read_and_kept(self, tmp_path: Path) -> None:
        matrix = {"classes": ["a", "b"], "decisions": ["a", "b", "ask"], "costs": [[0, 1, 0.3], [5, 0, 0.3]]}
        file = tmp_path / "costs.yaml"
        file.write_text(yaml.safe_dump(matrix))
        for stated in (str(file), matrix):
            costs = read_study(write(tmp_path / "a.yaml", costs=stated, metrics="expected_cost")).costs
            assert costs is not None
            assert costs.costs == ((0.0, 1.0, 0.3), (5.0, 0.0, 0.3))
            assert costs.decisions == ("a", "b", "ask")

    def test_decisions_are_the_classes_of_a_square_matrix(self, tmp_path: Path) -> None:
        stated = {"classes": ["a", "b"], "costs": [[0, 1], [2, 0]]}
        costs = read_study(write(tmp_path / "a.yaml", costs=stated)).costs
        assert costs is not None
        assert costs.decisions == ("a", "b")

    @pytest.mark.parametrize("costs", [{"abstain": 0.3}, {"costs": [[0, 1, 0.2], [1, 0, 0.2]]}])
    def test_what_is_stored_reads_back_equal(self, tmp_path: Path, costs: dict[str, Any]) -> None:
        study = read_study(write(tmp_path / "a.yaml", costs=costs, metrics=["ece", "expected_cost"]))
        stored = study.model_dump(mode="json", exclude_defaults=True)
        assert Study.build(stored) == study

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"metrics": ["cross_entropi"]}, "unknown metric 'cross_entropi': did you mean 'cross_entropy'"),
            ({"metrics": ["ece", "nce", "ece"]}, "ece is named twice; name each metric once"),
            ({"metrics": ["expected_cost"]}, "metrics has expected_cost but there are no costs; give costs, such as"),
            ({"costs": "no/such.yaml"}, "no/such.yaml"),
            ({"costs": {"cost": [[0, 1], [1, 0]]}}, "unknown key in costs 'cost': did you mean 'costs'"),
            ({"costs": {"costs": [[0, 1], [1]]}}, "give rows of one length"),
            ({"costs": {"abstain": 1.5}}, "abstain is 1.5: input should be less than 1"),
            ({"costs": {"abstain": 0.3, "costs": [[0, 1], [1, 0]]}}, "abstain and costs are both given"),
            ({"costs": 3}, "costs is 3"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, values: dict[str, Any], words: str) -> None:
        with pytest.raises(InputError) as error:
            plan_study(read_study(write(tmp_path / "a.yaml", **values)), tmp_path / "out")
        assert words in str(error.value)
        assert "\n" not in str(error.value)
