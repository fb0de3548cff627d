"""TF-IDF with logistic regression, of classes and of choices that are texts of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.toy import class_task, toy_task
from sklearn.feature_extraction.text import TfidfVectorizer

from rango.baselines.tfidf import choice_features, fit_tfidf
from rango.errors import InputError
from rango.tasks import Instance


def instance(context: str, *choices: str) -> Instance:
    return Instance("a", context, "", choices, 0, "a")


def test_the_features_of_a_choice_by_hand() -> None:
    """Two words of one weight have 1/√2 each; what the context shares stands a second time in the right half."""
    vectorizer = TfidfVectorizer(vocabulary=["dog", "cat", "sun"]).fit(["dog cat sun"])
    rows = choice_features(
        vectorizer, [instance("the dog ran, the dog slept", "dog cat", "sun"), instance("x", "a", "b")]
    )
    half = np.sqrt(0.5)
    expected = [[half, half, 0, half, 0, 0], [0, 0, 1, 0, 0, 0], [0] * 6, [0] * 6]
    np.testing.assert_allclose(rows.toarray(), expected)


def test_words_of_a_class_are_learnt() -> None:
    task = class_task(train=200, validation=60, test=100)
    posteriors = fit_tfidf(task).posteriors["test"]
    assert posteriors.nce() < 0.75
    # A fifth of the texts have the words of any class: two thirds of those are wrong.
    assert posteriors.error_rate() < 0.25
    assert posteriors.ids == tuple(instance.id for instance in task.test)


def test_words_of_choices_are_learnt() -> None:
    """The right choice is the only one that has a word of its context."""
    rng = np.random.default_rng(0)
    words = [f"word{n}" for n in range(20)]

    def instances(count: int) -> tuple[Instance, ...]:
        made = []
        for number in range(count):
            first, second, third = rng.permutation(words)[:3]
            label = int(rng.integers(2))
            choices = (first, second) if label == 0 else (second, first)
            made.append(Instance(f"{number}", f"There is {first} and {third}", "", choices, label, f"{number}"))
        return tuple(made)

    task = replace(toy_task(), train=instances(300), validation=instances(50), test=instances(50))
    fitted = fit_tfidf(task)
    assert task.classes is None
    assert fitted.posteriors["test"].error_rate() < 0.1


def test_nothing_is_random_and_test_instances_change_nothing() -> None:
    task = class_task()
    first, second = fit_tfidf(task), fit_tfidf(replace(task, test=task.test[:5]))
    np.testing.assert_array_equal(
        first.posteriors["validation"].log_posteriors, second.posteriors["validation"].log_posteriors
    )
    np.testing.assert_allclose(
        first.posteriors["test"].log_posteriors[:5], second.posteriors["test"].log_posteriors, atol=1e-12
    )


def test_texts_without_words_are_refused() -> None:
    task = class_task()
    bare = replace(task, train=tuple(replace(one, context="!?", question="...") for one in task.train))
    with pytest.raises(InputError, match="the training instances of classes hold no words; tfidf needs texts of words"):
        fit_tfidf(bare)
