"""Trees on the disk: equal to those in memory, tree by tree, score by score and step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.toy import toy_instances, toy_task

from rango.errors import InputError
from rango.models.loading import Model, load_model
from rango.options import Form, ScoringOptions
from rango.scoring import trees as trees_module
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import score
from rango.scoring.trees import StoredTrees, after, encode, input_lengths
from rango.tasks import Instance, few_shot

TASK = toy_task()
INSTANCES = toy_instances(30)


@pytest.fixture
def model(checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Model:
    """A model whose tokens are kept from the first instance on, in several calls of the tokenizer."""
    monkeypatch.setenv("RANGO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trees_module, "KEPT_FROM", 1)
    monkeypatch.setattr(trees_module, "_AT_ONCE", 7)
    return load_model(checkpoint("phi"))


def in_memory(model: Model, instances: tuple[Instance, ...], form: Form, task: Any = TASK) -> list[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees_module, "KEPT_FROM", 10**9)
        trees = encode(model, instances, task=task, form=form)
    assert isinstance(trees, list)
    return trees


@pytest.mark.parametrize("form", ["letter", "cloze"])
def test_stored_trees_are_those_in_memory(model: Model, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model.__dict__, "special_prefix", (0,))
    stored, plain = encode(model, INSTANCES, task=TASK, form=form), in_memory(model, INSTANCES, form)
    assert isinstance(stored, StoredTrees)
    assert list(stored) == plain
    assert list(stored[3:20:4][1:]) == plain[3:20:4][1:]
    assert (stored[-1], stored[4:][-1]) == (plain[-1], plain[-1])
    assert list(after(stored[1::2], 2)) == after(plain[1::2], 2)
    with pytest.raises(IndexError):
        stored[30]
    for view, listed in ((stored, plain), (after(stored[2::3], 2), after(plain[2::3], 2))):
        assert input_lengths(view).tolist() == [tree.input_length for tree in listed]
        assert view.path_lengths().tolist() == [tree.path_length for tree in listed]  # type: ignore[attr-defined]


def test_scores_are_the_same_also_after_shots_and_in_parts(model: Model) -> None:
    task = few_shot(TASK, shots=2, seed=0)
    reader, options = probe_reader(model), ScoringOptions(batch_tokens=300)
    stored, plain = encode(model, INSTANCES, task=task, form="cloze"), in_memory(model, INSTANCES, "cloze", task)
    for part in ((0, 1), (1, 2)):
        one, two = (score(reader, trees, options=options, form="cloze", part=part) for trees in (stored, plain))
        np.testing.assert_array_equal(one.values, two.values)
        assert one.tokens == two.tokens


def test_labels_are_those_of_the_instances_at_hand_and_words_decide_what_is_kept(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode(model, INSTANCES, task=TASK, form="letter")
    relabelled = tuple(replace(one, id=f"new {one.id}", label=(one.answer + 1) % 3) for one in INSTANCES)
    again = encode(model, relabelled, task=TASK, form="letter")
    assert [tree.trunk for tree in again] == [tree.trunk for tree in first]
    assert [(tree.id, tree.label) for tree in again] == [(one.id, one.label) for one in relabelled]
    kept = tmp_path / "cache" / "tokens"
    assert len([folder for folder in kept.iterdir() if folder.is_dir()]) == 1
    # Another order, another form and other shots are other words.
    encode(model, INSTANCES[::-1], task=TASK, form="letter")
    encode(model, INSTANCES, task=TASK, form="cloze")
    encode(model, INSTANCES, task=few_shot(TASK, shots=1, seed=0), form="letter")
    model.tokenizer.add_tokens(["brown"])  # type: ignore[no-untyped-call]
    assert encode(model, INSTANCES, task=TASK, form="letter")[0].id == "0"
    assert len([folder for folder in kept.iterdir() if folder.is_dir()]) == 5
    # Of all these the last one stays where the limit allows no other.
    monkeypatch.setenv("RANGO_CACHE_LIMIT", "1KB")
    encode(model, INSTANCES[1:], task=TASK, form="letter")
    assert len([folder for folder in kept.iterdir() if folder.is_dir()]) == 1


def test_what_cannot_be_encoded_is_refused_and_not_kept(model: Model, tmp_path: Path) -> None:
    long = replace(INSTANCES[9], context="fox " * 200)
    for _ in range(2):  # the second time the tokens come from the cache
        with pytest.raises(InputError, match=r"instance '9' is \d+ tokens long, .* reads at most 128; shorten"):
            encode(model, (*INSTANCES[:9], long, *INSTANCES[10:]), task=TASK, form="letter")
    merged = replace(TASK, write_prompt=lambda *words: replace(TASK.write_prompt(*words), trunk="the quick bro"))
    wrong = replace(merged, write_prompt=lambda *words: replace(merged.write_prompt(*words), branches=("wn", "x", "y")))
    for _ in range(2):
        with pytest.raises(InputError, match="does not keep the end of the prompt"):
            encode(model, INSTANCES, task=wrong, form="cloze")
    assert len([folder for folder in (tmp_path / "cache/tokens").iterdir() if folder.is_dir()]) == 1


def test_without_a_cache_the_trees_are_in_memory(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("RANGO_CACHE", str(tmp_path / "file"))
    assert encode(model, INSTANCES, task=TASK, form="letter") == in_memory(model, INSTANCES, "letter")
    assert "tokens are held in memory, as they cannot be kept on the disk" in capsys.readouterr().err


def test_of_a_private_table_nothing_is_kept(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    private = replace(TASK, table={"private": True})
    stored = encode(model, INSTANCES, task=private, form="letter")
    assert isinstance(stored, StoredTrees)
    assert list(stored) == in_memory(model, INSTANCES, "letter")
    assert not list((tmp_path / "temporary").iterdir())
    assert not (tmp_path / "cache").exists()
