from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rango.errors import InputError
from rango.tasks import load_task
from rango.tasks.hellaswag import FILES, clean, domain, words_of
from rango.tasks.task import Instance

SIZES = {"train": 6, "validation": 2, "test": 4}


def official(number: int) -> dict[str, Any]:
    """A row with the fields of the official files."""
    wikihow = number % 2 == 1
    return {
        "ind": number,
        "activity_label": "Baking",
        "ctx_a": f"A baker opens oven {number}.",
        "ctx_b": "he",
        "ctx": f"[header] How to bake bread {number} [title] Knead. [step] Wait"
        if wikihow
        else f"Oven {number} opens. he",
        "endings": [f"[title] Take {k}. [step] Serve it." if wikihow else f"takes {k}." for k in range(4)],
        "split": "val",
        "split_type": "indomain",
        "source_id": f"{'wikihow' if wikihow else 'activitynet'}~{number}",
        "label": str(number % 4) if number % 3 else number % 4,
    }


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_official_files(tmp_path: Path) -> None:
    write(tmp_path / "hellaswag_train.jsonl", [official(k) for k in range(30)])
    write(tmp_path / "hellaswag_val.jsonl", [official(k) for k in range(25, 45)])
    task = load_task("hellaswag", data=tmp_path, **SIZES)
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [6, 2, 4]
    assert all(i.id.startswith("validation:") for i in task.test)
    assert all(i.id.startswith("training:") for i in (*task.train, *task.validation, *task.rest))
    assert "5 training instances dropped for a context that occurs in the test split" in task.notes
    assert {i.label for i in task.rest} == {0, 1, 2, 3}
    assert {domain(i) for i in task.rest} == {"activitynet", "wikihow"}
    wikihow = next(i for i in task.rest if domain(i) == "wikihow")
    assert re.fullmatch(r"How to bake bread \d+\. Knead\. Wait", wikihow.context)
    assert wikihow.choices[1] == "Take 1. Serve it."
    letter, cloze = task.prompt(wikihow, "letter"), task.prompt(wikihow, "cloze")
    assert cloze.trunk == wikihow.context
    assert cloze.branches[1] == " Take 1. Serve it."
    assert letter.trunk.startswith(f"{wikihow.context}\nWhat comes next?\nA. Take 0. Serve it.\nB. ")
    assert letter.trunk.endswith("\nAnswer:")


def test_the_hub_gives_the_same_as_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    train, val = ([official(k) | {"label": str(k % 4)} for k in part] for part in (range(30), range(25, 45)))
    write(tmp_path / "hellaswag_train.jsonl", train)
    write(tmp_path / "hellaswag_val.jsonl", val)
    asked = []

    def load(name: str, *, revision: str | None) -> datasets.DatasetDict:
        asked.append((name, revision))
        return datasets.DatasetDict(
            {"train": datasets.Dataset.from_list(train), "validation": datasets.Dataset.from_list(val)}
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_task("hellaswag", **SIZES).fingerprint == load_task("hellaswag", data=tmp_path, **SIZES).fingerprint
    assert asked == [("Rowan/hellaswag", None)]


def test_no_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(name: str, *, revision: str | None) -> None:
        raise OSError(f"{name} {revision} is not cached")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=re.escape(f"not cached); pass --data DIR with {FILES}")):
        load_task("hellaswag")


def test_one_file_alone_is_cut_in_three(tmp_path: Path) -> None:
    path = write(tmp_path / "some.jsonl", [official(k) for k in range(40)])
    task = load_task("hellaswag", data=path, **SIZES)
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [6, 2, 4]
    assert task.notes[1] == (
        "no official training file: the three splits are cut from the validation file, stratified by domain"
    )
    # Half of the rows are WikiHow, and so is half of each split.
    assert [sum(domain(i) == "wikihow" for i in part) for part in (task.train, task.test)] == [3, 2]


def test_contexts_without_ctx_are_joined(tmp_path: Path) -> None:
    rows = [{k: v for k, v in official(n).items() if k != "ctx"} for n in range(40)]
    task = load_task("hellaswag", data=write(tmp_path / "v.jsonl", rows), **SIZES)
    assert re.fullmatch(r"A baker opens oven \d+\. he", task.test[0].context)


def test_the_training_subset_is_text_only(tmp_path: Path) -> None:
    write(tmp_path / "hellaswag_val.jsonl", [official(k) for k in range(40)])
    write(tmp_path / "hellaswag_train_subset.jsonl", [official(k) for k in range(35, 50)])
    task = load_task("hellaswag", data=tmp_path, **SIZES)
    subset = [i for i in task.rest if i.id.startswith("training-subset:")]
    assert len(subset) == 10
    assert "10 instances of the training subset serve as text to pre-train on only" in task.notes
    assert not {i.group for i in subset} & {i.group for part in (task.train, task.validation, task.test) for i in part}


def with_words(context: int, *endings: int) -> Instance:
    texts = tuple(" ".join(["w"] * n) for n in (context, *endings))
    return Instance("a", texts[0], "", texts[1:], 0, "g")


def test_words_by_hand() -> None:
    instance = with_words(90, 9, 5, 6, 7)
    assert words_of(instance, "right") == 99
    assert words_of(instance, "all") == 117


@pytest.mark.parametrize(("words", "kept"), [("right", 40), ("all", 20)])
def test_the_limit_is_below_a_hundred(tmp_path: Path, words: str, kept: int) -> None:
    """Even rows have 90 words with the right ending and 93 in all, odd rows 99 and 105; the last has 100."""
    rows = [
        {
            "ctx": f"c{k} " + f"w{k} " * (89 if k % 2 else 80),  # words of its own: nothing links two rows
            "endings": [f"w{k} " * 9, *["w " * (1 + k % 2)] * 3],
            "label": 0,
        }
        for k in range(40)
    ]
    rows.append({"ctx": "c40 " + "w " * 90, "endings": ["w " * 9, "x", "x", "x"], "label": 0})
    task = load_task("hellaswag", data=write(tmp_path / "v.jsonl", rows), words=words, train=6, validation=1, test=4)
    counted = "context and right ending" if words == "right" else "context and all four endings"
    assert task.notes[0] == f"kept {kept} of 41 validation instances: those under 100 words of {counted}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 4}, "label is 4; expected 0, 1, 2 or 3"),
        ({"label": ""}, "label is missing (the official test file has none); expected 0, 1, 2 or 3"),
        ({"label": None}, "label is missing (the official test file has none)"),
        ({"endings": ["a", "b", "c"]}, "3 endings; expected 4 texts"),
        ({"endings": "abcd"}, "no list of endings; expected 4 texts"),
        ({"endings": ["a", "b", "[step]", "d"]}, "instance 'validation:2': choice 2 is blank; give it words"),
        ({"ctx": None}, "ctx is missing; expected text"),
    ],
)
def test_a_bad_row_names_file_and_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "v.jsonl", [official(k) | (change if k == 1 else {}) for k in range(5)])
    with pytest.raises(InputError, match=re.escape(f"v.jsonl:2: {message}")):
        load_task("hellaswag", data=path)


def test_a_folder_without_the_validation_file(tmp_path: Path) -> None:
    write(tmp_path / "hellaswag_train.jsonl", [official(0)])
    with pytest.raises(InputError, match=re.escape(f"holds no hellaswag_val.jsonl; expected {FILES}")):
        load_task("hellaswag", data=tmp_path)


def test_markers_are_removed_by_the_rule_of_the_data(shared_data: Path) -> None:
    path = shared_data / "hellaswag" / "hellaswag_train_subset.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert len(rows) == 1154
    for row in rows:
        assert clean(row["ctx_raw"]) == " ".join(row["ctx"].split())
        assert [clean(e) for e in row["endings_raw"]] == [" ".join(e.split()) for e in row["endings"]]


@pytest.mark.parametrize(("words", "share"), [("right", 0.9758), ("all", 0.2898)])
def test_the_real_data(shared_data: Path, words: str, share: float) -> None:
    task = load_task("hellaswag", data=shared_data / "hellaswag", words=words)
    kept = round(share * 10_042)
    assert task.notes[0].startswith(f"kept {kept:,} of 10,042 validation instances: those under 100 words")
    sizes = [len(task.split(name)) for name in ("train", "validation", "test")]
    assert sizes == ([5000, 300, 2000] if words == "right" else [2024, 300, 582])
    splits = [{i.group for i in part} for part in (task.train, task.validation, task.test, task.rest)]
    assert sum(map(len, splits)) == len(set().union(*splits))
    if words == "right":
        # 3,243 of the 9,799 instances kept are ActivityNet's.
        for part in (task.train, task.validation, task.test):
            assert sum(domain(i) == "activitynet" for i in part) / len(part) == pytest.approx(
                3243 / 9799, abs=63 / len(part)
            )  # groups are drawn whole, of up to 63
