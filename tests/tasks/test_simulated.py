from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from scipy import stats

from rango.errors import InputError
from rango.tasks import Instance, Task, load_task, simulated_narratives, true_log_posteriors
from rango.tasks.simulated import Scene, draw_instance, draw_scene
from rango.tasks.simulated_world import EVENTS, KINDS, NAMES, Kind, conditional


def labels_of(task: Task) -> np.ndarray:
    return np.array([instance.label for instance in task.test])


def floor_of(log_p: np.ndarray) -> dict[str, float]:
    """Error rate, cross-entropy and NCE that the true posteriors have on average over labels drawn from them."""
    p = np.exp(log_p)
    loss, priors = -(p * log_p).sum(axis=1).mean(), p.mean(axis=0)
    nce = loss / -(priors * np.log(priors)).sum()
    return {"error_rate": float(1 - p.max(axis=1).mean()), "cross_entropy": float(loss), "nce": float(nce)}


def p_value(counts: Counter[str], outcomes: tuple[str, ...], expected: np.ndarray) -> float:
    """Of Pearson's chi-squared test; outcomes expected fewer than 5 times are pooled."""
    seen = np.array([counts[outcome] for outcome in outcomes], float)
    rare = expected < 5
    if rare.any():
        seen = np.append(seen[~rare], seen[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    return float(stats.chisquare(seen, expected).pvalue)


@pytest.fixture(scope="module")
def large() -> Task:
    return load_task("simulated", train=10, validation=10, test=12_000)


@pytest.fixture(scope="module")
def large_continuations() -> Task:
    return load_task("simulated-continuations", train=10, validation=10, test=6_000)


@pytest.mark.parametrize("n_choices", [3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_the_true_posterior_is_bayes_rule_by_enumeration(kind: Kind, n_choices: int) -> None:
    """Every way in which the sampling process can lead to the choices shown, weighed by its probability."""
    rng = random.Random(3)
    scene = draw_scene(rng)
    instance = draw_instance(rng, scene, kind, n_choices, identity="a")
    table = conditional(kind)
    nature = scene.relation if kind == "reaction" else scene.trait
    probability = {
        o: math.exp(v) for o, v in zip(table.outcomes, table.log_probabilities[scene.event][nature], strict=True)
    }
    joint = np.zeros(n_choices)
    for answer in table.outcomes:
        others = [outcome for outcome in table.outcomes if outcome != answer]
        sets = list(itertools.combinations(others, n_choices - 1))
        # Only the sets that hold the other choices lead here.
        for distractors in (s for s in sets if {answer, *s} == set(instance.choices)):
            for order in itertools.permutations((answer, *distractors)):
                if order == instance.choices:
                    joint[order.index(answer)] += probability[answer] / len(sets) / math.factorial(n_choices)
    assert instance.log_posterior is not None
    np.testing.assert_allclose(np.exp(instance.log_posterior), joint / joint.sum(), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_follow_the_conditional(kind: Kind) -> None:
    """Chi-squared over 20,000 answers in one scene."""
    rng = random.Random(5)
    scene = Scene(0, 1, 2, 3)
    table = conditional(kind)
    nature = scene.relation if kind == "reaction" else scene.trait
    expected = np.exp(table.log_probabilities[scene.event][nature]) * 20_000
    counts = Counter(
        i.choices[i.label] for i in (draw_instance(rng, scene, kind, 3, identity="a") for _ in range(20_000))
    )
    assert p_value(counts, table.outcomes, expected) > 1e-3


@pytest.mark.parametrize("name", ["large", "large_continuations"])
def test_label_frequencies_match_the_true_posterior(name: str, request: pytest.FixtureRequest) -> None:
    """In each bin of true probability, the share of right answers is that probability, within sampling error."""
    task: Task = request.getfixturevalue(name)
    p = np.exp(true_log_posteriors(task.test))
    right = np.arange(p.shape[1]) == labels_of(task)[:, None]
    for low in np.arange(0, 1, 0.1):
        inside = (p >= low) & (p < low + 0.1)
        z = (right[inside].sum() - p[inside].sum()) / math.sqrt((p[inside] * (1 - p[inside])).sum())
        assert abs(z) < 4


@pytest.mark.parametrize("name", ["large", "large_continuations"])
def test_the_closed_form_floor_is_what_is_sampled(name: str, request: pytest.FixtureRequest) -> None:
    task: Task = request.getfixturevalue(name)
    log_p = true_log_posteriors(task.test)
    p, labels, n = np.exp(log_p), labels_of(task), len(task.test)
    floor = floor_of(log_p)
    losses = -log_p[np.arange(n), labels]
    errors = log_p.argmax(axis=1) != labels
    # The variance over the labels alone is known: the instances are given.
    spread = math.sqrt((np.sum(p * log_p**2, axis=1) - np.sum(p * log_p, axis=1) ** 2).sum()) / n
    assert abs(losses.mean() - floor["cross_entropy"]) < 4 * spread
    best = p.max(axis=1)
    assert abs(errors.mean() - floor["error_rate"]) < 4 * math.sqrt((best * (1 - best)).sum()) / n


def test_the_floor_leaves_something_to_learn_and_something_to_chance(large: Task, large_continuations: Task) -> None:
    three, four = map(floor_of, map(true_log_posteriors, (large.test, large_continuations.test)))
    assert 0.15 < three["error_rate"] < 0.25
    assert 0.35 < three["nce"] < 0.5
    assert 0.2 < four["error_rate"] < 0.3
    assert 0.35 < four["nce"] < 0.5


@pytest.mark.parametrize("name", ["large", "large_continuations"])
def test_places_of_the_answer_are_uniform(name: str, request: pytest.FixtureRequest) -> None:
    counts = np.bincount(labels_of(request.getfixturevalue(name)))
    assert stats.chisquare(counts).pvalue > 1e-3


def test_one_stream_for_each_split() -> None:
    small = load_task("simulated", train=20, validation=10, test=30)
    large = load_task("simulated", train=40, validation=15, test=60)
    assert large.train[:20] == small.train
    assert large.validation[:10] == small.validation
    assert large.test[:30] == small.test
    assert load_task("simulated", train=20, validation=10, test=30, data_seed=1).test != small.test


@pytest.mark.parametrize("name", ["simulated", "simulated-continuations"])
def test_no_context_on_both_sides(name: str) -> None:
    task = load_task(name)
    assert [len(task.split(s)) for s in ("train", "validation", "test")] == [5000, 300, 2000]
    groups = [{i.group for i in part} for part in (task.train, task.validation, task.test)]
    assert sum(map(len, groups)) == len(set().union(*groups))
    # And across seeds: a context belongs to one split for good.
    other = load_task(name, data_seed=1)
    assert not {i.group for i in other.test} & groups[0]


def test_the_forms_of_the_two_tasks() -> None:
    question = load_task("simulated", train=50, validation=1, test=1).train
    assert {i.fields["kind"] for i in question if i.fields} == set(KINDS)
    assert {len(i.choices) for i in question} == {3}
    ending = load_task("simulated-continuations", train=50, validation=1, test=1).train
    assert {len(i.choices) for i in ending} == {4}
    assert all(i.question == "" and i.context.split()[-2] == "Then" for i in ending)
    assert all(i.context.split()[-1] in NAMES for i in ending)


def test_the_data_option_is_refused() -> None:
    with pytest.raises(InputError, match="data is 'x' but the task simulated is generated; leave the option out"):
        load_task("simulated", data="x")


def test_a_world_without_end_is_not_drawn_without_end() -> None:
    with pytest.raises(InputError, match="train is 999,999,999,999 but the task simulated, .* gives at most 1,000,000"):
        load_task("simulated", train=999_999_999_999)


def test_narratives_repeat_by_seed_and_are_short() -> None:
    lines = list(simulated_narratives(3000, seed=1))
    assert lines == list(simulated_narratives(3000, seed=1))
    assert lines[:5] != list(islice(simulated_narratives(5, seed=2), 5))
    words = {word.strip(".?:") for line in lines for word in line.split()}
    assert len(words) < 300
    assert 14 < np.mean([len(line.split()) for line in lines]) < 18
    share = np.mean(["Question:" in line for line in lines])
    assert abs(share - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 3000)


def test_narratives_tell_the_conditional() -> None:
    """What follows "fled from" tells feelings as P(feeling | event), over the traits."""
    table = conditional("feeling")
    log_p = np.array(table.log_probabilities)
    event = list(EVENTS).index("fled from")
    told = Counter(
        line.split(f"{line.split()[0]} felt ")[1].split(".")[0]
        for line in simulated_narratives(40_000, question_share=0.0)
        if " fled from a " in line and f"{line.split()[0]} felt " in line
    )
    expected = np.exp(log_p[event]).mean(axis=0) * sum(told.values())
    assert p_value(told, table.outcomes, expected) > 1e-3


def test_questions_among_the_narratives_tell_nothing_of_the_context() -> None:
    """Answers to "How did NAME feel?" are distributed alike after kind and after hostile events: the marginal."""
    table = conditional("feeling")
    lines = [line for line in simulated_narratives(20_000, question_share=1.0) if "the" not in line.split("did")[1]]
    feelings = [line for line in lines if line.split("Question: ")[1].startswith("How")]
    for event in (" a ", " insulted a ", " hugged a "):
        answers = Counter(line.split("Answer: ")[1] for line in feelings if event in line)
        expected = np.array(table.marginal) * sum(answers.values())
        assert p_value(answers, table.outcomes, expected) > 1e-3


def test_a_share_out_of_range() -> None:
    with pytest.raises(InputError, match="question_share is 1.5; expected a number between 0 and 1"):
        next(simulated_narratives(1, question_share=1.5))


def test_true_posteriors_of_instances_with_fewer_choices() -> None:
    half = (math.log(0.5), math.log(0.5))
    two = Instance("two", "c", "", ("a", "b"), 0, "g", log_posterior=half)
    three = Instance("three", "c", "", ("a", "b", "c"), 0, "g", log_posterior=(*half, -math.inf))
    np.testing.assert_array_equal(true_log_posteriors([two, three]), [[*half, -np.inf], [*half, -np.inf]])
    with pytest.raises(InputError, match="instance 'x' has no true posterior; only simulated tasks know it"):
        true_log_posteriors([two, Instance("x", "c", "", ("a", "b"), 0, "g")])
    with pytest.raises(InputError, match="no instances; expected at least one with a true posterior"):
        true_log_posteriors([])
