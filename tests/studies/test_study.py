"""Studies: combinations, and mistakes in fields and keys that are all reported before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.studies_plan import BASE, write

from rango.errors import InputError
from rango.studies.plan import plan_study
from rango.studies.study import Study
from rango.studies.study_file import read_study


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


class TestMistakes:
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
            ({"vary": {1: [2]}}, r"a.yaml:\d+: the key 1 is not a word; put it in quotes"),
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
