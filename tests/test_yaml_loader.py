"""YAML in Rango's files: no value that a person did not mean, and none too large to be looked at."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from rango.config import Config
from rango.errors import InputError
from rango.files import read_yaml
from rango.yaml_loader import key_places

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
)


class Rates(Config):
    """Some options."""

    rate: float = 1.0
    steps: int | None = None
    many: tuple[float, ...] = ()
    name: str = ""
    either: int | str = 0


def refusal(path: Path, text: str) -> str:
    (path / "a.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        Rates.from_yaml(path / "a.yaml")
    assert len(str(error.value)) < 1500
    return str(error.value).replace(f"{path}/", "")


@pytest.mark.parametrize("number", ["1_000", "010", "0x1F", "0b11", "1:30", "1:30.5", "1_0.5", "007"])
def test_what_only_yaml_takes_for_a_number_is_refused(tmp_path: Path, number: str) -> None:
    assert refusal(tmp_path, f"name: x\nrate: {number}\n").startswith(f"a.yaml:2: {number} is a number only for YAML; ")


def test_decimal_numbers_and_quoted_texts_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [0, -12, +3, 1.5, .5, 2., 1.5e+3, -.inf]\nb: '1_000'\nc: 1e-4\nd: 1_0 x\n")
    values = read_yaml(tmp_path / "a.yaml")
    assert values["a"] == [0, -12, 3, 1.5, 0.5, 2.0, 1500.0, -float("inf")]
    assert (values["b"], values["c"], values["d"]) == ("1_000", "1e-4", "1_0 x")


@pytest.mark.parametrize("line", ["rate: 1_0e-1", "rate: '1_0'", "steps: '1_000'", "many: [1, '2_0.5']"])
def test_underscores_make_no_number(tmp_path: Path, line: str) -> None:
    assert "write numbers without _" in refusal(tmp_path, line)


def test_a_text_may_look_like_such_a_number() -> None:
    assert Rates.build({"name": "1_0e-1", "either": "1_0"}).name == "1_0e-1"
    assert Rates.build({"rate": "1e-1", "steps": "10"}).rate == 0.1


@pytest.mark.parametrize("key", ["1", "2.5", "true", "null", "2024-01-01"])
def test_a_key_is_a_text(tmp_path: Path, key: str) -> None:
    text = f"rate: 1\nmany:\n  {key}: 1\n"
    assert refusal(tmp_path, text) == f"a.yaml:3: the key {key} is not a word; put it in quotes"


@pytest.mark.parametrize("place", ["rate: *a8", "name: *a8", "many: *a8", "other: *a8", "<<: {rate: *a8}"])
def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path, place: str) -> None:
    begun = time.process_time()
    assert re.search(r"its aliases stand for \d\.\d+e\+09 values; write out", refusal(tmp_path, BOMB + place + "\n"))
    assert time.process_time() - begun < 2


def test_ordinary_aliases_and_merges_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {rate: 2}\nb: {<<: *a, name: x}\nc: [*a, *a]\n")
    assert read_yaml(tmp_path / "a.yaml")["b"] == {"rate": 2, "name": "x"}


@pytest.mark.parametrize("levels", [60, 100_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_deep_nesting_is_refused_where_it_begins(tmp_path: Path, levels: int, brackets: str) -> None:
    started = time.process_time()
    text = f"name: x\nrate: {brackets[0] * levels}{brackets[1] * levels}\n"
    assert refusal(tmp_path, text).startswith("a.yaml:2: not YAML (nested deeper than 50 levels)")
    assert time.process_time() - started < 1


def test_where_keys_and_values_stand() -> None:
    text = "base: {steps: 2}\nvary:\n  lora.rank:\n    - 1\n    - [2, 3]\nruns:\n  - {train: 5}\nempty:\n"
    assert [(place.key, place.line, place.value) for place in key_places(text)] == [
        ("base", 1, None),
        ("base.steps", 1, None),
        ("base.steps", 1, "2"),
        ("vary", 2, None),
        ("vary.lora.rank", 3, None),
        ("vary.lora.rank", 4, "1"),
        ("vary.lora.rank", 5, "2"),
        ("vary.lora.rank", 5, "3"),
        ("runs", 6, None),
        ("runs[0].train", 7, None),
        ("runs[0].train", 7, "5"),
        ("empty", 8, None),
        ("empty", 8, ""),
    ]
    assert key_places("") == []


def test_a_long_value_is_cut_in_the_message_and_its_end_kept(tmp_path: Path) -> None:
    message = refusal(tmp_path, f"rate: {'x' * 100_000}\n")
    assert message.startswith("a.yaml: rate is 'xxx")
    assert message.endswith("expected a number")
