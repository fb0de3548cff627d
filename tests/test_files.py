"""Readers: whatever is wrong with a file is one line that names it, and where it can, the line."""

from __future__ import annotations

import gzip
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rango.decisions import read_posteriors
from rango.errors import InputError
from rango.files import model_file, parse_json, read_bytes, read_json, read_text, read_yaml
from rango.options import EvaluateConfig
from rango.rows import read_rows
from rango.tasks.table_config import TableConfig


def _rows(path: Path) -> list[Any]:
    return list(read_rows(path))


def _damaged() -> bytes:
    """A gzip file whose head is whole and whose body is not."""
    packed = bytearray(gzip.compress(bytes(range(256)) * 40))
    packed[20:40] = b"\xff" * 20
    return bytes(packed)


DIGITS = "9" * 5000
NESTED = "[" * 100_000
BAD: list[tuple[str, bytes, Callable[[Path], Any], str]] = [
    ("rows.jsonl.gz", _damaged(), _rows, "rows.jsonl.gz cannot be read (Error -3 while decompressing"),
    ("rows.jsonl.gz", gzip.compress(b"{}\n")[:-6], _rows, "rows.jsonl.gz cannot be read"),
    ("a.json", DIGITS.encode(), read_json, "a.json: a number has too many digits"),
    ("a.json", NESTED.encode(), read_json, "a.json: nested too deep"),
    ("a.json", b'{"a":\n1,}', read_json, "a.json:2: not JSON"),
    ("a.json", rb'{"a": "x \ud800"}', read_json, r"a.json: '\ud800' is half a surrogate pair; save the text as UTF-8"),
    ("rows.jsonl", b'{"a": 1}\n{"a": %s}' % DIGITS.encode(), _rows, "rows.jsonl:2: a number has too many digits"),
    ("rows.jsonl", b'{"a": 1}\n' + NESTED.encode(), _rows, "rows.jsonl:2: nested too deep"),
    ("rows.jsonl", b'{"a": 1}\n{"\\uDFff": 1}', _rows, r"rows.jsonl:2: '\udfff' is half a surrogate pair"),
    ("rows.jsonl", b'{"a": 1}\n{', _rows, "rows.jsonl:2: not JSON"),
    ("rows.csv", b'a,b\n1,"' + b"x" * 140_000, _rows, "rows.csv:2: not CSV (field larger than field limit (131072))"),
    ("rows.csv", b"a,b,a\n1,2,3\n", _rows, "rows.csv:1: column 'a' stands twice; give each column a name of its own"),
    ("rows.csv", b"a,b\n1,2\n3\n", _rows, "rows.csv:3: 1 values; expected 2 as in the first line"),
    ("a.yaml", b"a: 1\n? [b, c]\n: 2\n", read_yaml, "a.yaml:2: not YAML (found unhashable key)"),
    ("a.yaml", b"a: 1\nb: 2\na: 3\n", read_yaml, "a.yaml:3: not YAML ('a' stands twice)"),
    ("a.yaml", b"a: &x {b: *x}\n", read_yaml, "a.yaml:1: not YAML (found unconstructable recursive node)"),
    ("a.yaml", b'a: 1\nb: "\\ud800"\n', read_yaml, "a.yaml:2: not YAML (half a surrogate pair)"),
    ("a.yaml", b"a: " + NESTED[:5000].encode(), read_yaml, "a.yaml:1: not YAML (nested deeper than 50 levels)"),
    ("a.yaml", b"a: " + DIGITS.encode(), read_yaml, "a.yaml:1: a number has too many digits; shorten it"),
    ("a.yaml", b"a: 2024-13-45\n", read_yaml, "a.yaml: a value cannot be read ("),
    ("a.yaml", b"a: !!bool perhaps\n", read_yaml, "a.yaml: a value cannot be read ("),
    ("a.yaml", b"a: !!timestamp soon\n", read_yaml, "a.yaml: a value cannot be read ("),
    ("a.yaml", b"- 1\n", read_yaml, "a.yaml holds a list; expected `key: value` lines"),
]


@pytest.mark.parametrize(("name", "content", "read", "message"), BAD, ids=[message[:45] for *_, message in BAD])
def test_a_bad_file_is_one_line(
    tmp_path: Path, name: str, content: bytes, read: Callable[[Path], Any], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_whole_surrogate_pairs_and_anchors_are_read(tmp_path: Path) -> None:
    assert parse_json(r'["\ud83d\ude00", "\\ud800"]', "here") == ["😀", r"\ud800"]
    (tmp_path / "a.yaml").write_text('a: &x {b: "\\U0001F600"}\nc: *x\n')
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"b": "😀"}, "c": {"b": "😀"}}


def test_a_key_that_stands_twice_is_refused_in_rows_alone() -> None:
    text = '{"votes": {"yes": 3, "no": 1, "yes": 4}}'
    assert parse_json(text, "config.json") == {"votes": {"yes": 4, "no": 1}}
    with pytest.raises(InputError, match="rows.jsonl:7: key 'yes' stands 2 times in one mapping; keep one of them"):
        parse_json(text, "rows.jsonl", line=7, keys_once=True)


def test_text_in_parquet_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"a\x8d")]
    )
    pq.write_table(pa.table({"id": broken, "label": [0], "logits": [[0.0, 1.0]]}), tmp_path / "p.parquet")
    for read in (_rows, read_posteriors):
        with pytest.raises(
            InputError, match=r"p\.parquet: a value cannot be read \('utf-8' codec can't decode byte 0x8d"
        ):
            read(tmp_path / "p.parquet")


def test_an_empty_or_missing_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b" \n")
    for name, message in (("empty", "is empty"), ("none", "does not exist"), (".", "is a folder")):
        with pytest.raises(InputError, match=message):
            read_bytes(tmp_path / name)


@pytest.mark.parametrize("word", ["no", "No", "NO", "yes", "on", "off", "y", "N"])
def test_words_of_yaml_1_1_stay_text(word: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"choices: [{word}, true, False]\nname: {word}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"choices": [word, True, False], "name": word}


def test_a_flag_may_still_be_yes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("choices: [no, yes]\nprompt: '{q}'\nlabel: gold\n")
    assert TableConfig.from_yaml(tmp_path / "a.yaml").choices == ("no", "yes")
    (tmp_path / "b.yaml").write_text("model: m\ntask: socialiqa\nadapter: a\nother_data: yes\n")
    assert EvaluateConfig.from_yaml(tmp_path / "b.yaml").other_data is True


def test_a_file_of_a_model_is_read_or_absent(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Base")
    assert model_file(str(tmp_path), "README.md") == tmp_path / "README.md"
    assert model_file(str(tmp_path), "tokenizer.model") is None
    assert model_file(str(tmp_path / "README.md"), "config.json") is None
    # Tests have no network: a repository that is not in the cache has no files.
    assert model_file("org/none", "config.json") is None
    assert model_file("no hub id", "config.json") is None


def test_text_as_spreadsheets_save_it_is_refused_with_what_to_choose_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text;label\nschön;a\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"a\.csv is UTF-16; save the file as UTF-8 \(Excel: CSV UTF-8\)") as raised:
        read_text(path)
    # The command in the message does what it says.
    subprocess.run(str(raised.value).partition("convert it: ")[2], shell=True, check=True)
    assert read_text(tmp_path / "a-utf8.csv") == "text;label\nschön;a\n"
    path.write_bytes("text;label\nschön;a\n".encode("cp1252"))
    with pytest.raises(
        InputError, match=r"a\.csv:2: byte 0xf6 at offset 14 is not UTF-8; .*\(Excel: CSV UTF-8\)"
    ) as raised:
        read_text(path)
    subprocess.run(str(raised.value).partition("Windows: ")[2], shell=True, check=True)
    assert read_text(tmp_path / "a-utf8.csv") == "text;label\nschön;a\n"
