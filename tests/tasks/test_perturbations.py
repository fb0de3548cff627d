"""Changed instances: what is asked after each change, and that putting back undoes it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.toy import class_task, toy_task

from rango.errors import InputError
from rango.tasks import Instance, load_task
from rango.tasks.perturbations import (
    CHANGES,
    NONE_OF_THESE,
    WORDINGS,
    Variant,
    check_orders,
    orders_of,
    permuted,
    put_back,
    read_wordings,
    variants_of,
)
from rango.tasks.socialiqa import TEMPLATES
from rango.tasks.task import posteriors_of

TASK = replace(toy_task(test=16, form="letter"), write_prompt=TEMPLATES)


def variants(changes: tuple[Any, ...] | None = None, **options: Any) -> dict[str, Variant]:
    settings = {"names_options": True, "lists_options": True, "orders": 5, **options}
    task = settings.pop("task", TASK)
    made, notes = variants_of(task, settings.pop("instances", task.test), changes=changes, **settings)
    assert notes == []
    return {variant.name: variant for variant in made}


def of_size(choices: int) -> Instance:
    return Instance("x", "Sam ran.", "Why?", tuple(f"answer {k}" for k in range(choices)), 0, "g")


@pytest.mark.parametrize("choices", [2, 3, 4, 5])
def test_orders_come_in_rounds_in_which_every_choice_stands_at_every_place(choices: int) -> None:
    every = orders_of(of_size(choices), 10_000, seed=3)
    assert sorted(every) == sorted(permutations(range(choices)))
    assert every[0] == tuple(range(choices))
    for start in range(0, len(every), choices):
        for place in range(choices):
            assert {order[place] for order in every[start : start + choices]} == set(range(choices))
    for count in range(1, len(every) + 1):
        assert orders_of(of_size(choices), count, seed=3) == every[:count]


def test_orders_depend_on_seed_and_instance_alone() -> None:
    orders = [orders_of(replace(of_size(5), id=str(n)), 3, seed=0)[1:] for n in range(30)]
    assert len({tuple(one) for one in orders}) == 12  # every pair of the four rotations
    assert orders_of(of_size(5), 4, seed=0) != orders_of(of_size(5), 4, seed=1)
    big = orders_of(of_size(26), 60, seed=0)
    assert len(set(big)) == 60


def test_putting_back_undoes_a_permutation() -> None:
    generator = np.random.default_rng(0)
    scores = np.full((len(TASK.test), 4), -np.inf)
    for row, one in enumerate(TASK.test):
        scores[row, : len(one.choices)] = generator.normal(size=len(one.choices))
    straight = posteriors_of(TASK.test, scores)
    for number in range(1, 6):
        orders = [orders_of(one, 6, seed=1)[number] for one in TASK.test]
        shown = [permuted(one, order) for one, order in zip(TASK.test, orders, strict=True)]
        moved = np.full_like(scores, -np.inf)
        for row, order in enumerate(orders):
            moved[row, : len(order)] = scores[row, list(order)]
            # What is right stays right.
            assert shown[row].choices[shown[row].answer] == TASK.test[row].choices[TASK.test[row].answer]
        back = put_back(posteriors_of(shown, moved), orders, TASK.test)
        np.testing.assert_allclose(back.log_posteriors, straight.log_posteriors, rtol=1e-14)
        np.testing.assert_array_equal(back.labels, straight.labels)
        assert (back.ids, back.choices, back.groups) == (straight.ids, straight.choices, straight.groups)


def test_a_true_posterior_goes_with_its_choices() -> None:
    true = tuple(np.log([0.5, 0.3, 0.2]))
    one = replace(of_size(3), log_posterior=true)
    assert permuted(one, (2, 0, 1)).log_posterior == (true[2], true[0], true[1])


def test_soft_labels_and_levels_go_with_their_choices() -> None:
    one = replace(of_size(3), label=None, target=(0.5, 0.3, 0.2), type="score")
    order = (2, 0, 1)
    shown = permuted(one, order)
    # Levels that are scrambled are no scale; where they stand in their order again, they are.
    assert (shown.target, shown.type) == ((0.2, 0.5, 0.3), "choice")
    assert permuted(one, (0, 1, 2)).type == "score"
    back = put_back(posteriors_of([shown], np.log([[0.1, 0.6, 0.3]])), [order], [one])
    assert back.targets is not None
    np.testing.assert_allclose(back.targets, [one.target])
    np.testing.assert_allclose(np.exp(back.log_posteriors), [[0.6, 0.3, 0.1]])
    assert back.is_ordered
    yes_no = Instance("y", "Sam ran.", "Tired?", ("no", "yes"), 1, "h", type="yes_no")
    made = variants(("distract", "remove"), instances=[yes_no, of_size(3)])
    assert made["distract"].instances[0].type == made["remove-none"].instances[0].type == "choice"


def test_permuted_variants_hold_the_instances_that_have_so_many_orders() -> None:
    made = variants(("permute",), orders=7)
    sizes = Counter(len(one.choices) for one in TASK.test)
    assert {len(variant.instances) for variant in made.values()} == {len(TASK.test), sizes[4]}
    assert [len(made[f"permute-{n}"].instances) for n in (5, 6, 7)] == [len(TASK.test), sizes[4], sizes[4]]


def test_renamed_options_have_their_names_in_list_and_branches() -> None:
    made = variants(("rename",))
    one = TASK.test[0]
    prompts = {name: variant.task(TASK).prompt(one, "cloze") for name, variant in made.items()}
    assert f"\n1. {one.choices[0]}\n2. {one.choices[1]}\n" in prompts["rename-numbers"].trunk
    assert prompts["rename-numbers"].branches[:3] == (" 1", " 2", " 3")
    assert f"\nX. {one.choices[0]}\nY. {one.choices[1]}\n" in prompts["rename-neutral"].trunk
    assert TASK.prompt(one, "letter").branches[:3] == (" A", " B", " C")
    many = [of_size(10)]
    assert set(variants(("rename",), instances=many)) == {"rename-neutral"}


def test_an_irrelevant_option_is_of_another_group_and_stands_last() -> None:
    instances = load_task("simulated", train=20, validation=10, test=12).test
    made = variants(("distract",), instances=instances)["distract"]
    for one, changed, order in zip(instances, made.instances, made.orders, strict=True):
        assert changed.choices[:-1] == one.choices
        assert changed.choices[-1] not in one.choices
        assert changed.label == one.label
        assert order == tuple(range(len(one.choices) + 1))
        givers = {other.group for other in instances if changed.choices[-1] in other.choices}
        assert givers - {one.group}
    more = variants(("distract",), instances=instances, seed=1)["distract"]
    assert [one.choices[-1] for one in more.instances] != [one.choices[-1] for one in made.instances]
    # The rest of the instances changes nothing for one of them.
    few = variants(("distract",), instances=instances[:2], pool=instances)["distract"]
    assert few.instances == made.instances[:2]


def test_the_right_option_is_removed_or_replaced() -> None:
    made = variants(("remove",))
    for one, replaced, bare, order in zip(
        TASK.test, made["remove-none"].instances, made["remove"].instances, made["remove"].orders, strict=True
    ):
        assert replaced.choices[one.answer] == NONE_OF_THESE
        assert [c for k, c in enumerate(replaced.choices) if k != one.answer] == list(bare.choices)
        assert (replaced.label, bare.label) == (one.label, None)
        assert one.answer not in order
    scores = np.full((len(TASK.test), 3), -np.inf)
    for row, changed in enumerate(made["remove"].instances):
        scores[row, : len(changed.choices)] = 0.0
    back = made["remove"].put_back(posteriors_of(made["remove"].instances, scores))
    assert not back.has_labels
    for row, one in enumerate(TASK.test):
        wrong = len(one.choices) - 1
        expected = [0.0 if k == one.answer else 1 / wrong for k in range(len(one.choices))]
        np.testing.assert_allclose(np.exp(back.log_posteriors[row, : len(one.choices)]), expected)
    assert back.choices == tuple(one.choices for one in TASK.test)
    # Of two options one remains, which is no question.
    two = [of_size(2)]
    assert set(variants(("remove",), instances=two)) == {"remove-none"}


def test_wordings_stand_around_the_question_or_the_whole_prompt() -> None:
    made = variants(("reword",))
    assert [made[f"reword-{n}"].instances[0].question for n in (1, 2, 3)] == [
        wording.format(question=TASK.test[0].question) for wording in WORDINGS
    ]
    odd = replace(TASK.test[0], question="Who {context} what?", context="A {question} b")
    own = variants(("reword",), instances=[odd], wordings=["{context} | {question}"])["reword-1"].instances[0]
    assert (own.context, own.question) == (odd.context, "A {question} b | Who {context} what?")
    bare = replace(odd, question=" ", context="Text: good. Mood:")
    own = variants(("reword",), instances=[bare], wordings=["Please read. {context}"])["reword-1"].instances[0]
    assert (own.context, own.question) == ("Please read. Text: good. Mood:", " ")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("permute", {"lists_options": False}, "permute: the cloze form lists no options"),
        ("rename", {"names_options": False}, "rename: the cloze form has no names of options"),
        ("rename", {"task": toy_task()}, "rename: the prompts of toy are not written by templates"),
        ("distract", {"task": class_task()}, "distract: instance 'test-0' has every option that another"),
        (
            "remove",
            {"instances": [replace(of_size(3), choices=("a", "None of  these", "c"))]},
            "remove: instance 'x' offers 'none of these' already",
        ),
        ("reword", {"wordings": ["{context}"]}, r"the wording '\{context\}' lacks \{question\}; the instances have a"),
        (
            "reword",
            {"instances": [replace(of_size(3), question="")]},
            r"lacks \{context\}; the instances have no question beside their context",
        ),
    ],
)
def test_a_change_that_is_not_possible_is_refused_by_name_and_left_out_otherwise(
    change: Any, options: dict[str, Any], message: str
) -> None:
    settings = {"names_options": True, "lists_options": True, "orders": 1, "task": TASK, **options}
    task = settings.pop("task")
    instances = settings.pop("instances", task.test)
    with pytest.raises(InputError, match=message):
        variants_of(task, instances, changes=(change,), **settings)
    if "wordings" in options:
        return
    made, notes = variants_of(task, instances, changes=None, **settings)
    assert [note for note in notes if note.startswith(change) and note.endswith("; left out")]
    assert made
    assert not [variant for variant in made if variant.change.startswith(change)]


def test_a_wording_of_a_file_is_not_left_out() -> None:
    with pytest.raises(InputError, match="lacks"):
        variants(None, wordings=["{context}"])


def test_all_changes_are_made_of_a_real_task() -> None:
    task = load_task("simulated", train=20, validation=10, test=10)
    made = variants(task=task)
    assert {name.partition("-")[0] for name in made} == set(CHANGES)
    for variant in made.values():
        assert len(variant.instances) == len(variant.originals) == len(variant.orders) == 10


def test_wordings_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "wordings.txt"
    path.write_text("\n  Please: {question}\n{context} So, {question}\n")
    assert read_wordings(path) == ("Please: {question}", "{context} So, {question}")
    wrong = {
        "\n \n": "wordings.txt is empty; expected at least one line",
        "Please.": "1: the wording has no place for the question",
        "{question} {answer}": r"1: \{answer\} is no place of a wording",
        "{question}\n\n{question}": "3: the wording stands on line 1 already",
    }
    for text, message in wrong.items():
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_wordings(path)


def test_orders_of_the_cloze_form_are_refused() -> None:
    check_orders(1, "cloze")
    check_orders(math.factorial(5), "letter")
    with pytest.raises(InputError, match="orders is 3, but the cloze form lists no options"):
        check_orders(3, "cloze")
