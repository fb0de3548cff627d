"""A tree's scores equal the full sequences' for every architecture; nothing depends on batches; traps are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.reference import full_sequence_score
from helpers.toy import toy_task
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.models.loading import load_model
from rango.options import Form, ScoringOptions
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import batches_by_tokens, cached_tokens, evaluate, score, score_split
from rango.scoring.trees import encode

Checkpoint = Callable[..., Path]
TASK = toy_task()


@pytest.mark.parametrize("form", ["cloze", "letter"])
@pytest.mark.parametrize(
    "architecture",
    [
        "phi",
        "phi3",
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma2",
        "gpt2",
        "gpt_neox",
        "olmo2",
        "opt",
        "bloom",
        "rango_lstm",
    ],
)
def test_tree_scores_equal_full_sequences(checkpoint: Checkpoint, architecture: str, form: Form) -> None:
    model = load_model(checkpoint(architecture))
    trees = encode(model, TASK.test[:6], task=TASK, form=form)
    reader = probe_reader(model)
    assert reader.reads_trees == (architecture not in ("bloom", "rango_lstm")), reader.notes
    values = score(reader, trees, options=ScoringOptions(), form=form).values
    for row, tree in enumerate(trees):
        for choice in range(len(tree.branches)):
            assert values[row, choice] == pytest.approx(full_sequence_score(model, tree, choice), abs=2e-5)
        assert np.all(values[row, len(tree.branches) :] == -np.inf)


def test_a_pass_on_a_cpu_holds_what_its_caches_do(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(checkpoint("phi"))
    reader = probe_reader(model)
    trees = encode(model, TASK.test, task=TASK, form="cloze")
    (together,) = batches_by_tokens(reader, trees, budget=100_000)
    assert sorted(together) == list(range(len(trees)))
    whole = score(reader, trees, options=ScoringOptions(), form="cloze").values

    widest = 4 * model.network.config.intermediate_size
    monkeypatch.setattr("rango.scoring.scorer._FEWEST_TOKENS", 1)
    monkeypatch.setattr("rango.scoring.scorer._CACHED_BYTES", 200 * widest)
    assert cached_tokens(model) == 200
    batches = list(batches_by_tokens(reader, trees, budget=100_000))
    assert len(batches) > 1
    for numbers in batches:
        assert len(numbers) * max(trees[number].input_length for number in numbers) <= 200
    parts = score(reader, trees, options=ScoringOptions(), form="cloze").values
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    assert list(map(len, batches_by_tokens(reader, trees, budget=1))) == [1] * len(trees)


@given(batch_tokens=st.integers(1, 3000), count=st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_scores_do_not_depend_on_batches_or_padding(checkpoint: Checkpoint, batch_tokens: int, count: int) -> None:
    model = load_model(checkpoint("phi"))
    reader = probe_reader(model)
    trees = encode(model, TASK.train[:count], task=TASK, form="cloze")
    one_by_one = score(reader, trees, options=ScoringOptions(batch_tokens=1), form="cloze").values
    together = score(reader, trees, options=ScoringOptions(batch_tokens=batch_tokens), form="cloze").values
    np.testing.assert_allclose(together, one_by_one, atol=2e-5)


def test_length_normalisation_by_hand(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    trees = encode(model, TASK.test[:3], task=TASK, form="cloze")
    reader = probe_reader(model)
    raw = score(reader, trees, options=ScoringOptions(), form="cloze").values
    by_tokens = score(reader, trees, options=ScoringOptions(normalise="tokens"), form="cloze").values
    by_characters = score(reader, trees, options=ScoringOptions(normalise="characters"), form="cloze").values
    for row, instance in enumerate(TASK.test[:3]):
        for k, choice in enumerate(instance.choices):
            assert by_characters[row, k] == pytest.approx(raw[row, k] / len(choice))
            assert by_tokens[row, k] == pytest.approx(raw[row, k] / len(trees[row].branches[k]))


def test_the_share_of_probability_on_the_letters(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    trees = encode(model, TASK.test[:4], task=TASK, form="letter")
    scores = score(probe_reader(model), trees, options=ScoringOptions(), form="letter")
    assert scores.letter_mass is not None
    np.testing.assert_allclose(scores.letter_mass, np.exp(scores.values).sum(axis=1))
    assert np.all((scores.letter_mass > 0) & (scores.letter_mass < 1))


def test_evaluate_gives_posteriors_in_the_order_of_the_instances(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    posteriors = evaluate(model, TASK.test, task=TASK)
    assert posteriors.ids == tuple(instance.id for instance in TASK.test)
    assert posteriors.labels.tolist() == [instance.label for instance in TASK.test]
    np.testing.assert_allclose(np.exp(posteriors.log_posteriors).sum(axis=1), 1)
    reversed_order = evaluate(model, TASK.test[::-1], task=TASK)
    np.testing.assert_allclose(reversed_order.log_posteriors[::-1], posteriors.log_posteriors, atol=1e-5)


def test_half_precision_stays_close(checkpoint: Checkpoint) -> None:
    full = evaluate(load_model(checkpoint("phi")), TASK.test, task=TASK)
    half = evaluate(load_model(checkpoint("phi"), dtype="bfloat16"), TASK.test, task=TASK)
    finite = np.isfinite(full.log_posteriors)
    assert np.abs(full.log_posteriors[finite] - half.log_posteriors[finite]).max() < 0.5


def test_a_split_is_scored_as_evaluate_scores_it(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    reader, options, instances = probe_reader(model), ScoringOptions(form="letter"), TASK.test[:6]
    split = score_split(reader, instances, task=TASK, options=options)
    expected = evaluate(model, instances, task=TASK, options=options)
    np.testing.assert_array_equal(split.posteriors.log_posteriors, expected.log_posteriors)
    trees = encode(model, instances, task=TASK, form="letter")
    scores = score(reader, trees, options=options, form="letter")
    assert scores.letter_mass is not None
    assert split.letter_mass == float(scores.letter_mass.mean())
    assert split.tokens == scores.tokens
    assert score_split(reader, instances, task=TASK, options=ScoringOptions(form="cloze")).letter_mass is None
    # Trees that are there already are not made again, and another scorer gets them.
    given = score_split(reader, instances, task=TASK, options=options, trees=trees, scorer=lambda *_, **__: scores)
    np.testing.assert_array_equal(given.posteriors.log_posteriors, expected.log_posteriors)
    assert given.seconds == scores.seconds
