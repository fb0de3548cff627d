"""A tree's scores equal the full sequences' for every architecture; nothing depends on batches; traps are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.reference import full_sequence_score
from helpers.toy import toy_instances, toy_task, write_prompt
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.errors import InputError
from rango.models.adapter import add_adapter
from rango.models.loading import Model, load_model
from rango.options import Form, LoRA, ScoringOptions
from rango.scoring.batches import collate
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import evaluate, score, score_split
from rango.scoring.trees import encode
from rango.tasks import Prompt

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


def test_bloom_is_read_per_choice_and_says_so(checkpoint: Checkpoint) -> None:
    assert "bloom cannot read token trees" in probe_reader(load_model(checkpoint("bloom"))).notes[0]


def test_a_sliding_window_shorter_than_the_instance_is_read_per_choice(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("mistral", sliding_window=12))
    reader = probe_reader(model)
    trees = encode(model, TASK.test[:4], task=TASK, form="cloze")
    assert not any(reader.as_tree(tree) for tree in trees)
    assert "sliding window of 12 tokens" in reader.notes[0]
    values = score(reader, trees, options=ScoringOptions(), form="cloze").values
    assert values[0, 0] == pytest.approx(full_sequence_score(model, trees[0], 0), abs=2e-5)


@given(batch_tokens=st.integers(1, 3000), count=st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_scores_do_not_depend_on_batches_or_padding(checkpoint: Checkpoint, batch_tokens: int, count: int) -> None:
    model = load_model(checkpoint("phi"))
    reader = probe_reader(model)
    trees = encode(model, TASK.train[:count], task=TASK, form="cloze")
    one_by_one = score(reader, trees, options=ScoringOptions(batch_tokens=1), form="cloze").values
    together = score(reader, trees, options=ScoringOptions(batch_tokens=batch_tokens), form="cloze").values
    np.testing.assert_allclose(together, one_by_one, atol=2e-5)


def test_an_adapted_head_scores_the_same_split_or_whole(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("gemma2"))  # tied head, capped logits
    adapter = add_adapter(model, LoRA(targets=("q", "head")), seed=0)
    for layer in adapter.layers.values():
        torch.nn.init.normal_(layer.weights()[1], std=0.3)
    reader = probe_reader(model)
    assert reader.splits_head
    trees = encode(model, TASK.test[:5], task=TASK, form="letter")
    batch = collate(trees, read="choices", as_trees=True, pad=0)
    whole = replace(reader, splits_head=False)
    torch.testing.assert_close(reader.log_probabilities(batch), whole.log_probabilities(batch), rtol=0, atol=1e-5)
    differences = reader.choice_logits(batch) - reader.log_probabilities(batch)
    for instance in range(5):
        spread = differences[batch.owners // batch.shape[1] == instance]
        assert spread.max() - spread.min() < 1e-5  # logits and log-probabilities differ by one constant per instance


def test_a_fresh_adapter_with_dropout_is_read_as_trees(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    adapter = add_adapter(model, LoRA(dropout=0.5), seed=0)
    for layer in adapter.layers.values():
        torch.nn.init.normal_(layer.weights()[1], std=0.3)
    reader = probe_reader(model)
    assert reader.reads_trees
    assert reader.splits_head


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


def test_special_tokens_come_first(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(checkpoint("llama"))
    monkeypatch.setitem(model.__dict__, "special_prefix", (0,))
    tree = encode(model, TASK.test[:1], task=TASK, form="cloze")[0]
    assert tree.trunk[0] == 0
    assert model.tokenizer.decode(list(tree.trunk[1:])) == write_prompt(TASK.test[0], "cloze").trunk


class Words:
    """A task-like object whose prompt is given."""

    shots = ()

    def __init__(self, trunk: str, *branches: str) -> None:
        self.words = Prompt(trunk, branches)

    def prompt(self, _instance: Any, _form: Form) -> Prompt:
        return self.words


def refused(model: Model, words: Words, form: Form = "cloze") -> str:
    with pytest.raises(InputError) as error:
        encode(model, toy_instances(1), task=words, form=form)  # type: ignore[arg-type]
    return str(error.value)


def test_white_space_traps_are_refused_in_words(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    # " Tracy" is one token, so a trunk that ends in a space is not a prefix of the whole
    assert "does not keep the end of the prompt" in refused(model, Words("the quick ", "fox", "dog"))
    assert "begin the choice with a space" in refused(model, Words("the quick bro", "wn fox", "w"))
    assert "the letter form needs one token" in refused(model, Words("Answer:", " A", " fox dog"), "letter")
    twins = refused(model, Words("Answer:", " A", " A"), "letter")
    assert "choices 0 (' A') and 1 (' A') are the same tokens; choices must differ for the tokenizer" in twins


def test_an_answer_that_the_data_repeats_is_scored_twice(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    words: Any = Words("Answer:", " the fox", " a dog", " the fox")
    trees = encode(model, toy_instances(1), task=words, form="cloze")
    values = score(probe_reader(model), trees, options=ScoringOptions(), form="cloze").values[0]
    assert values[0] == pytest.approx(values[2], abs=1e-6)
    assert values[0] != pytest.approx(values[1], abs=1e-3)


def test_an_instance_longer_than_the_context_is_refused(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    message = refused(model, Words("fox " * 200 + "ends", " A", " B"))
    assert "instance '0' is " in message
    assert "reads at most 128; shorten the instance" in message


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
