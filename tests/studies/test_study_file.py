"""Study files: YAML, the small variant, and changes on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.studies_plan import BASE, write

from rango.errors import InputError
from rango.studies.study_file import read_study

ROOT = Path(__file__).resolve().parents[2]


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

    def test_a_key_that_stands_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        path.write_text("base: {}\nvary:\n  lora.rank: [1]\n  lora.rank: [2]\n")
        with pytest.raises(InputError, match=r"a.yaml:4: not YAML \('lora.rank' stands twice\)"):
            read_study(path)

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
