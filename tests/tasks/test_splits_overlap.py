"""Instances of one video or article are linked, chains too; real HellaSwag splits share no run of words."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from rango.tasks import Instance, load_task
from rango.tasks.splits import RUN, group_overlapping, instances_in_text


def instance(name: str, context: str, ending: str, group: str | None = None) -> Instance:
    return Instance(name, context, "", (ending, "something else"), 0, group or name)


def test_the_next_instance_of_a_video_is_linked_through_the_ending() -> None:
    first = instance("b", "A man stands on a roof.", "he takes the old tiles off with a long iron bar.")
    second = instance("a", "He takes the old tiles, off with a long iron bar! Then he", "throws them down one by one.")
    other = instance("c", "A dog runs in the snow.", "it catches the ball.")
    found = group_overlapping([first, other, second])
    assert [i.group for i in found] == ["a", "c", "a"]
    assert [i.id for i in found] == ["b", "c", "a"]


def test_links_make_chains_and_equal_contexts_link() -> None:
    runs = [[f"{letter}{n}" for n in range(RUN)] for letter in "xyz"]
    chain = [
        instance("3", " ".join(runs[0]), "end"),
        instance("2", " ".join(runs[0] + runs[1]), "end"),
        instance("1", " ".join(runs[1]), "end"),
        instance("4", "short", "end", group="same"),
        instance("5", "other", "end", group="same"),
        instance("6", " ".join(runs[2][:-1]), "end"),
    ]
    assert [i.group for i in group_overlapping(chain)] == ["1", "1", "1", "same", "same", "6"]


def test_contexts_in_a_text_to_pretrain_on_are_found() -> None:
    words = [f"w{k}" for k in range(40)]
    whole, other = instance("whole", " ".join(words[:20]).upper(), "x"), instance("other", " ".join(words[30:]), "x")
    part = instance("part", " ".join(words[12:20] + ["z"] * 20), "x")
    short = instance("short", "w1 w2", "x")
    # The context goes over the end of a line.
    lines = [f"Before. {' '.join(words[:9])},", f"{' '.join(words[9:20])}! After."]
    assert [one.id for one in instances_in_text([whole, other, part, short], lines)] == ["whole"]
    assert instances_in_text([], lines) == []


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
    assert instances_in_text([instance("it", context, "x")], text)
    # A run is words, not the pieces between marks.
    short = instance("short", "हिन्दी में लिखी किताबें", "x")
    assert not instances_in_text([short], ["वह हिन्दी में लिखी किताबें पढ़ती है।"])


def test_no_run_of_words_on_both_sides_of_a_real_cut(shared_data: Path) -> None:
    task = load_task("hellaswag", data=shared_data / "hellaswag")

    def runs(instances: tuple[Instance, ...]) -> set[tuple[str, ...]]:
        found = set()
        for one in instances:
            letters = "".join(c if c.isalnum() else " " for c in f"{one.context} {one.choices[one.label]}".casefold())
            words = letters.split()
            found |= {tuple(words[at : at + RUN + 1]) for at in range(len(words) - RUN)}
        return found

    sides = [runs(side) for side in (task.train, task.validation, task.test, task.rest)]
    for one, two in combinations(sides, 2):
        assert not one & two
