from __future__ import annotations

import gzip
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from rango.errors import InputError
from rango.tasks import load_task, socialiqa
from rango.tasks.sources import Repository

SIZES = {"train": 6, "validation": 2, "test": 4}


def row(number: int) -> dict[str, str]:
    return {
        "context": f"Sam met friend number {number}.",
        "question": "How would Sam feel as a result?",
        "answerA": "glad",
        "answerB": "sore",
        "answerC": "late",
    }


def write_folder(folder: Path, *, train: int = 12, dev: int = 5) -> Path:
    for part, start, count in (("train", 0, train), ("dev", 100, dev)):
        lines = [json.dumps(row(start + k)) for k in range(count)]
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
        (folder / f"{part}-labels.lst").write_text("".join(f"{k % 3 + 1}\n" for k in range(count)))
    return folder


def test_folder(tmp_path: Path) -> None:
    task = load_task("socialiqa", data=write_folder(tmp_path), **SIZES)
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [6, 2, 4]
    assert len(task.rest) == 4
    by_id = {i.id: i for i in (*task.train, *task.validation, *task.test, *task.rest)}
    assert by_id["train:2"].context == "Sam met friend number 1."
    assert {i.id: i.label for i in task.train} == {i.id: (int(i.id[6:]) - 1) % 3 for i in task.train}
    assert all(i.id.startswith("dev:") for i in task.test)


def test_an_answer_that_is_named_twice_is_said(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    assert not load_task("socialiqa", data=folder, **SIZES).notes
    rows = (folder / "dev.jsonl").read_text().replace('"late"', '"sore "')
    (folder / "dev.jsonl").write_text(rows)
    task = load_task("socialiqa", data=folder, **SIZES)
    assert task.notes[0].startswith("4 instances with one answer twice, as published")
    assert all(len(instance.choices) == 3 for instance in task.test)


def test_prompts_by_hand(tmp_path: Path) -> None:
    task = load_task("socialiqa", data=write_folder(tmp_path), **SIZES)
    first = next(i for i in (*task.train, *task.validation, *task.rest) if i.id == "train:1")
    letter, cloze = task.prompt(first, "letter"), task.prompt(first, "cloze")
    assert letter.trunk == (
        "Sam met friend number 0.\nQuestion: How would Sam feel as a result?\nA. glad\nB. sore\nC. late\nAnswer:"
    )
    assert letter.branches == (" A", " B", " C")
    assert cloze.trunk == "Sam met friend number 0. Question: How would Sam feel as a result? Answer:"
    assert cloze.branches == (" glad", " sore", " late")


def test_compressed_files_are_read(tmp_path: Path) -> None:
    plain = load_task("socialiqa", data=write_folder(tmp_path), **SIZES)
    path = tmp_path / "train.jsonl"
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert load_task("socialiqa", data=tmp_path, **SIZES).fingerprint == plain.fingerprint


@pytest.mark.parametrize("name", ["train.jsonl", "train-labels.lst", "dev.jsonl", "dev-labels.lst"])
def test_a_missing_file_names_what_is_expected(tmp_path: Path, name: str) -> None:
    (write_folder(tmp_path) / name).unlink()
    with pytest.raises(InputError, match=re.escape(f"holds no {name}; expected {socialiqa.FILES}")):
        load_task("socialiqa", data=tmp_path)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data folder .*nowhere does not exist; give the folder that holds the task's"):
        load_task("socialiqa", data=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("label", "message"),
    [("4", "label is 4; expected 1, 2 or 3"), ("A", "label is A; expected 1, 2 or 3"), ("0", "label is 0; expected")],
)
def test_a_label_out_of_range_names_file_and_line(tmp_path: Path, label: str, message: str) -> None:
    (write_folder(tmp_path) / "dev-labels.lst").write_text(f"1\n2\n{label}\n1\n2\n")
    with pytest.raises(InputError, match=re.escape(f"dev-labels.lst:3: {message}")):
        load_task("socialiqa", data=tmp_path)


def test_a_missing_label_is_a_missing_line(tmp_path: Path) -> None:
    (write_folder(tmp_path) / "dev-labels.lst").write_text("1\n2\n\n1\n2\n")
    with pytest.raises(
        InputError, match=r"dev-labels\.lst has 4 labels but .*dev\.jsonl has 5 rows; expected one label"
    ):
        load_task("socialiqa", data=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answerC": None}, "dev.jsonl:2: answerC is missing; expected text"),
        ({"answerC": "  "}, "dev.jsonl:2: answerC is '  '; expected text"),
        ({"context": 7}, "dev.jsonl:2: context is 7; expected text"),
    ],
)
def test_a_row_with_a_hole(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_folder(tmp_path)
    lines = [json.dumps(row(k) | (change if k == 1 else {})) for k in range(5)]
    (tmp_path / "dev.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=re.escape(message)):
        load_task("socialiqa", data=tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    (write_folder(tmp_path) / "train.jsonl").write_text("")
    with pytest.raises(InputError, match=r"train\.jsonl is empty; expected at least one line"):
        load_task("socialiqa", data=tmp_path)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (write_folder(tmp_path) / "train.jsonl").write_bytes(json.dumps(row(1)).encode() + b"\n\xe9\n")
    with pytest.raises(
        InputError, match=r"train\.jsonl:2: byte 0xe9 at offset \d+ is not UTF-8; save the file as UTF-8"
    ):
        load_task("socialiqa", data=tmp_path)


def write_hub(folder: Path) -> None:
    """The layout and columns of the Hub's copy: one Parquet file a split, the label as text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True)
    for split, start, count in (("train", 0, 12), ("validation", 100, 5)):
        rows = [row(start + k) | {"label": str(k % 3 + 1)} for k in range(count)]
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet")


def test_the_hub_and_the_folder_give_the_same_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_hub(tmp_path / "hub")
    # The first repository does not exist: the second one serves.
    repositories = (Repository(str(tmp_path / "gone")), Repository(str(tmp_path / "hub")))
    monkeypatch.setattr(socialiqa, "HUB", repositories)
    folder = tmp_path / "folder"
    folder.mkdir()
    from_hub = load_task("socialiqa", **SIZES)
    from_folder = load_task("socialiqa", data=write_folder(folder), **SIZES)
    assert from_hub.fingerprint == from_folder.fingerprint


def test_no_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def fail(name: str, *, revision: str | None) -> None:
        asked.append((name, revision))
        raise ConnectionError("could not reach\nthe Hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    expected = (
        "socialiqa cannot be loaded from the Hub (lighteval/siqa: ConnectionError: could not reach the Hub); "
        f"pass --data DIR with {socialiqa.FILES}"
    )
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        load_task("socialiqa")
    assert asked == [("lighteval/siqa", None), ("allenai/social_i_qa", "refs/convert/parquet")]


def test_the_real_data(shared_data: Path) -> None:
    start = time.process_time()
    task = load_task("socialiqa", data=shared_data / "socialiqa")
    seconds = time.process_time() - start
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [5000, 300, 1954]
    assert task.notes == (
        "asked for 2,000 test instances, 1,954 exist: all taken",
        "9 instances with one answer twice, as published: the two share its probability",
    )
    assert [sum(i.label == k for i in task.test) for k in range(3)] == [643, 654, 657]
    assert len(task.rest) > 28_000
    splits = [{i.group for i in part} for part in (task.train, task.validation, task.test, task.rest)]
    assert sum(map(len, splits)) == len(set().union(*splits))
    first = next(i for i in task.test if i.id == "dev:1")
    assert first.label == 2
    assert first.context == "Tracy didn't go home that evening and resisted Riley's attacks."
    # 0.6 s on one free core.
    assert seconds < 10
