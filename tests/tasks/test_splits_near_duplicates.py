from __future__ import annotations

import json
import random
from pathlib import Path

from rango.tasks import Instance, load_task
from rango.tasks.splits import near_duplicates

WORDS = [f"word{k}" for k in range(400)]


def text(seed: int, length: int = 30) -> list[str]:
    return random.Random(seed).choices(WORDS, k=length)


def instance(name: str, words: list[str]) -> Instance:
    return Instance(name, " ".join(words), "", ("a", "b"), 0, name)


def jaccard(one: str, two: str) -> float:
    runs = [{side[k : k + 5] for k in range(len(side) - 4)} for side in (one, two)]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


def test_the_pairs_are_those_of_a_comparison_of_all_with_all() -> None:
    rng = random.Random(0)
    train = [instance(f"train{k}", text(k)) for k in range(150)]
    test = []
    for k in range(150):
        words = text(k)
        for _ in range(k % 6):  # from equal to five other words
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        test.append(instance(f"test{k}", words))
    close = {one.id for one in test if any(jaccard(one.context, two.context) >= 0.8 for two in train)}
    found = {one.id for one, _ in near_duplicates([test, train])[0, 1]}
    assert found <= close
    assert len(found) >= 0.95 * len(close) > 20


def test_case_and_white_space_do_not_count_and_short_texts_are_passed_over() -> None:
    long, short = text(1), ["What", "is", "7", "plus", "8?"]
    one = [instance("a", [word.upper() + " " for word in long]), instance("b", short)]
    two = [instance("c", long), instance("d", short)]
    pairs = near_duplicates([one, [], two])
    assert {key: [(x.id, y.id) for x, y in found] for key, found in pairs.items()} == {(0, 2): [("a", "c")]}
    assert near_duplicates([one, []]) == {}


def test_a_table_says_how_many_there_are_and_shows_one(tmp_path: Path) -> None:
    """The template, which all prompts share, makes no two texts alike."""
    template = "This is a long template which every prompt of the table shares with every other one: {text} So?"
    (tmp_path / "task.yaml").write_text(
        json.dumps({"prompt": template, "choices": ["no", "yes"], "label": "y", "splits": "part"})
    )
    rows = [{"text": " ".join(text(k)), "y": "yes", "part": "train"} for k in range(8)]
    rows += [{"text": " ".join(text(k)), "y": "no", "part": "validation"} for k in range(20, 24)]
    rows += [{"text": " ".join([*text(k), "again"]), "y": "no", "part": "test"} for k in (3, 5, 30, 31, 32)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = [note for note in load_task(tmp_path).notes if "nearly the same" in note]
    assert len(notes) == 1
    assert notes[0].startswith("2 of 5 test instances nearly the same as one of the training split (such as ")
    assert "rows.jsonl:1" in notes[0]
    assert "rows.jsonl:4" in notes[0] or "rows.jsonl:6" in notes[0]
