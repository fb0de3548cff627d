"""Contexts in a text that a model was pre-trained on: found in every script, kept as numbers, said later."""

from __future__ import annotations

import gzip
import math
import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from rango.errors import InputError
from rango.tasks import Instance
from rango.tasks.text_runs import RUN, RUNS_FILE, TextRuns, pretraining_notes, runs_of, shared_runs


def instance(name: str, context: str, ending: str) -> Instance:
    return Instance(name, context, "", (ending, "something else"), 0, name)


def test_contexts_in_a_text_to_pretrain_on_are_found() -> None:
    words = [f"w{k}" for k in range(40)]
    whole, other = instance("whole", " ".join(words[:20]).upper(), "x"), instance("other", " ".join(words[30:]), "x")
    part = instance("part", " ".join(words[12:20] + ["z"] * 20), "x")
    short = instance("short", "w1 w2", "x")
    # The context goes over the end of a line.
    lines = [f"Before. {' '.join(words[:9])},", f"{' '.join(words[9:20])}! After."]
    assert [one.id for one in TextRuns.of(lines).holding([whole, other, part, short])] == ["whole"]
    assert TextRuns.of(lines).holding([]) == []


@pytest.mark.parametrize(
    "context",
    [
        "她今天早上很早就起床了，因为她要坐火车去北京看望她的奶奶。",
        "เด็กนักเรียนไปโรงเรียนทุกวันเพราะว่าพวกเขาชอบเรียนภาษาไทย",
        "राम ने आज सुबह बाज़ार से हिन्दी की एक नई किताब खरीदी और उसे घर ले गया।",
    ],
)
def test_contexts_of_every_script_are_found(context: str) -> None:
    text = [f"… {context[: len(context) // 2]}", f"{context[len(context) // 2 :]} …"] if " " in context else [context]
    assert TextRuns.of(text).holding([instance("it", context, "x")])
    # A run is words, not the pieces between marks.
    short = instance("short", "हिन्दी में लिखी किताबें", "x")
    assert not TextRuns.of(["वह हिन्दी में लिखी किताबें पढ़ती है।"]).holding([short])


def test_numbers_are_those_of_the_words_however_they_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(0)
    words = [generator.choice("abcdef") for _ in range(400)]
    texts = [" ".join(words[start:end]) for start, end in pairwise([0, 3, 50, 51, 200, 400])]
    (whole,) = runs_of(texts)
    runs = [tuple(words[at : at + RUN]) for at in range(len(words) - RUN + 1)]
    assert len(whole) == len(runs)
    # One number for one run, in every order of its words another.
    assert len(dict(zip(runs, whole.tolist(), strict=True))) == len(set(whole.tolist())) == len(set(runs))
    monkeypatch.setattr("rango.tasks.text_runs._WORDS_AT_ONCE", 30)
    np.testing.assert_array_equal(np.concatenate(list(runs_of(texts))), whole)
    assert whole[0] == next(runs_of([" ".join(words[:RUN]).upper() + "!"]))[0]
    assert not len(next(runs_of(["only seven words stand in this text"])))


def test_shared_runs_are_those_of_each_text_that_stand_twice() -> None:
    generator = random.Random(0)
    texts = [" ".join(generator.choice("abc") for _ in range(generator.randrange(25))) for _ in range(60)]
    texts += ["", "only seven words stand in this text", *texts[:2]]
    runs = [next(runs_of([text])).tolist() for text in texts]
    counts = Counter(number for of_one in runs for number in of_one)
    assert shared_runs(texts) == [[number for number in of_one if counts[number] > 1] for of_one in runs]
    assert any(map(len, shared_runs(texts)))
    assert not all(count > 1 for count in counts.values())
    assert shared_runs([]) == []
    assert shared_runs(["no run"]) == [[]]


def test_the_file_gives_the_numbers_back(tmp_path: Path) -> None:
    for name, text in (("none", "too short"), ("one", "a b c d e f g h"), ("many", " ".join(map(str, range(5000))))):
        runs = TextRuns.of([text])
        runs.write(tmp_path / f"{name}.gz")
        np.testing.assert_array_equal(TextRuns.read(tmp_path / f"{name}.gz").numbers, runs.numbers)
    # About 2.5 bytes for each of a million different runs; the file is the same for the same text.
    first = (tmp_path / "many.gz").read_bytes()
    TextRuns.of([" ".join(map(str, range(5000)))]).write(tmp_path / "many.gz")
    assert (tmp_path / "many.gz").read_bytes() == first


@pytest.mark.parametrize(
    "content",
    # gzip writes the time of day, which would give each process of a parallel run other tests.
    [b"no gzip", *(gzip.compress(unpacked, mtime=0) for unpacked in (b"abcd", bytes(20), b""))],
    ids=["no gzip", "short", "zeros", "empty"],
)
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / RUNS_FILE).write_bytes(content)
    with pytest.raises(InputError, match=RUNS_FILE):
        TextRuns.read(tmp_path / RUNS_FILE)
    (note,) = pretraining_notes(str(tmp_path), [instance("a", "x", "y")], split="test")
    assert "whether test contexts stand in the text that" in note
    assert RUNS_FILE in note


def test_what_a_model_has_read_is_told(tmp_path: Path) -> None:
    contexts = [f"person {k} goes to the market on day {k} of the year" for k in range(20)]
    instances = [instance(f"i{k}", context, "x") for k, context in enumerate(contexts)] + [instance("s", "Short.", "x")]
    assert pretraining_notes("nobody/model", instances, split="test") == ()
    TextRuns.of([contexts[3], "something else", contexts[7].upper()]).write(tmp_path / RUNS_FILE)
    assert pretraining_notes(str(tmp_path), instances, split="test") == (
        f"2 of 21 test contexts stand in the text that {tmp_path} was pre-trained on (such as that of 'i3'): what it "
        "knows of them may be memory; 1 of less than 8 words were not looked for",
    )
    TextRuns.of(["no context stands in here"]).write(tmp_path / RUNS_FILE)
    (note,) = pretraining_notes(str(tmp_path), instances[:-1], split="validation")
    assert note == f"0 of 20 validation contexts stand in the text that {tmp_path} was pre-trained on"


def test_answers_that_are_drawn_anew_cannot_be_remembered(tmp_path: Path) -> None:
    context = "one two three four five six seven eight nine"
    TextRuns.of([context]).write(tmp_path / RUNS_FILE)
    read = instance("a", context, "x")
    (note,) = pretraining_notes(str(tmp_path), [read], split="test")
    assert note.endswith("what it knows of them may be memory")
    drawn = replace(read, log_posterior=(math.log(0.5),) * len(read.choices))
    (note,) = pretraining_notes(str(tmp_path), [drawn], split="test")
    assert note.endswith("their answers were drawn anew")
