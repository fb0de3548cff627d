"""Where rows come from: files, the Hub, and the places that messages name."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import pytest

from rango.errors import InputError
from rango.tasks.sources import Repository, Row, check_folder, file_rows, find_file, hub_rows, located, text_of


def test_rows_of_a_file_know_their_lines(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"a": "x"}\n\n{"a": "y"}\n'))
    path = tmp_path / "rows.jsonl.gz"
    assert list(file_rows(path)) == [Row(1, f"{path}:1", {"a": "x"}), Row(3, f"{path}:3", {"a": "y"})]


def test_the_first_name_wins_and_a_plain_file_before_a_compressed_one(tmp_path: Path) -> None:
    assert find_file(tmp_path, ["a.jsonl", "b.jsonl"]) is None
    (tmp_path / "b.jsonl").touch()
    assert find_file(tmp_path, ["a.jsonl", "b.jsonl"]) == tmp_path / "b.jsonl"
    (tmp_path / "a.jsonl.gz").touch()
    assert find_file(tmp_path, ["a.jsonl", "b.jsonl"]) == tmp_path / "a.jsonl.gz"
    (tmp_path / "a.jsonl").touch()
    assert find_file(tmp_path, ["a.jsonl", "b.jsonl"]) == tmp_path / "a.jsonl"


@pytest.mark.parametrize(("value", "seen"), [(None, "missing"), (" ", "' '"), (3, "3"), (["a"], "['a']")])
def test_text_is_stripped_or_refused(value: Any, seen: str) -> None:
    assert text_of(Row(1, "f:1", {"a": " two words\n"}), "a") == "two words"
    with pytest.raises(InputError, match=f"^{re.escape(f'f:1: a is {seen}; expected text')}$"):
        text_of(Row(1, "f:1", {"a": value}), "a")


def test_errors_of_a_block_get_its_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^f:7: too short$"), located("f:7"):
        raise InputError("too short")
    with pytest.raises(ValueError, match=r"^ours$"), located("f:7"):
        raise ValueError("ours")  # a fault of the program is no matter of the row
    with pytest.raises(InputError, match="data folder .*gone does not exist"):
        check_folder(tmp_path / "gone")


def test_the_hub_is_read_from_the_first_repository_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    class Split:
        def __init__(self, *values: str) -> None:
            self.values = values

        def to_list(self) -> list[dict[str, str]]:
            return [{"a": value} for value in self.values]

    def load(name: str, *, revision: str | None) -> dict[str, Split]:
        if name != "second":
            raise ConnectionError(f"{name} is down")
        assert revision == "r1"
        return {"train": Split("x", "y"), "validation": Split("z")}

    monkeypatch.setattr(datasets, "load_dataset", load)
    repositories = [Repository("first"), Repository("second", "r1"), Repository("third")]
    train, validation = hub_rows(repositories, ("train", "validation"), task="t", files="f")
    assert train == [Row(1, "second train row 1", {"a": "x"}), Row(2, "second train row 2", {"a": "y"})]
    assert validation == [Row(1, "second validation row 1", {"a": "z"})]
    expected = r"^t cannot be loaded from the Hub \(first: ConnectionError: first is down\); pass --data DIR with f$"
    with pytest.raises(InputError, match=expected):
        hub_rows([repositories[0], repositories[2]], ("train",), task="t", files="f")
