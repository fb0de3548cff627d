"""Study files: YAML, the small variant, and changes on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.studies_plan import BASE, write

from rango.cli import main
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


class TestLinesOfMistakes:
    def refusal(self, path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
        assert main(["study", str(path), "--dry-run", *options]) == 2
        return capsys.readouterr().err.replace(f"{path.parent}/", "").splitlines()

    def test_one_mistake_is_one_line_and_several_are_counted(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "a.yaml"
        path.write_text(FIELDS)
        assert self.refusal(path, capsys) == [
            "rango: a.yaml:1: rank belongs under `base:`, as lora.rank",
            "rango: a.yaml:2: steps belongs under `base:`",
            "rango: a.yaml:3: unknown key 'axes': did you mean 'vary'?",
            "rango: a.yaml:5: unknown key in base 'lerning_rate': did you mean 'learning_rate'?",
            "rango: a.yaml:6: unknown key 'seed': did you mean 'seeds'? It is a list, such as [0, 1, 2]",
            "rango: 5 mistakes in a.yaml; nothing was started",
        ]
        path.write_text("grid: {lora.rank: [1]}\n")
        assert self.refusal(path, capsys) == ["rango: a.yaml:1: unknown key 'grid': did you mean 'vary'?"]

    def test_a_value_is_named_where_it_stands(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "a.yaml"
        path.write_text(VALUES)
        lines = self.refusal(path, capsys)
        assert lines[0].startswith("rango: a.yaml:1: objective is 'anwser': ")
        assert lines[0].endswith("; did you mean 'answer'?")
        assert lines[1:] == [
            "rango: a.yaml:5: lora.rank is 0: input should be greater than or equal to 1",
            "rango: 2 mistakes in a.yaml; nothing was started",
        ]
        # What --set gives stands in no line of the file, and the small variant has lines of its own.
        lines = self.refusal(path, capsys, "--tiny", "--set", "vary.lora.rank=[-1]")
        assert lines == [
            "rango: a.yaml:6: objective is 'x': input should be 'tokens', 'answer' or 'choice'",
            "rango: a.yaml: lora.rank is -1: input should be greater than or equal to 1",
            "rango: 2 mistakes in a.yaml; nothing was started",
        ]

    def test_what_is_no_mistake_of_the_file_has_no_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write(tmp_path / "a.yaml")
        (error,) = self.refusal(path, capsys, "--out", str(path))
        assert error == "rango: --out a.yaml is a file; give a folder"


FIELDS = """\
rank: 8
steps: 3
axes: {lora.rank: [1]}
base:
  lerning_rate: 1
seed: 0
"""
VALUES = """\
base: {model: tiny, task: simulated, objective: anwser}
vary:
  lora.rank:
    - 1
    - 0
tiny: {base: {objective: x}}
"""


@pytest.mark.parametrize("path", sorted((ROOT / "studies").rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_read(path: Path) -> None:
    for tiny in (False, True):
        study = read_study(path, tiny=tiny)
        assert study.about
        assert len(list(study.combinations())) >= 2
