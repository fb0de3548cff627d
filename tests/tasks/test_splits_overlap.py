"""Instances of one video or article are linked, chains too; real HellaSwag splits share no run of words."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

from rango.tasks import Instance, load_task
from rango.tasks.splits import group_overlapping
from rango.tasks.text_runs import RUN


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
