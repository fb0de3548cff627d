"""Token trees: their sizes by hand, and what cannot be put into tokens without changing what is scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.toy import toy_instances, toy_task, write_prompt

from rango.errors import InputError
from rango.models.loading import Model, load_model
from rango.options import Form, ScoringOptions
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import score
from rango.scoring.trees import TokenTree, encode
from rango.tasks import Prompt, few_shot

Checkpoint = Callable[..., Path]
TASK = toy_task()


def test_sizes_by_hand() -> None:
    tree = TokenTree("x", (1, 2, 3), ((4, 5), (6,), (7, 8, 9)), characters=(9, 2, 5), label=1)
    assert tree.path_length == 6  # 3 + 3
    assert tree.input_length == 6  # 3 + 1 + 0 + 2: the last token of a branch is never read
    assert tree.lengths("none") == (1, 1, 1)
    assert tree.lengths("tokens") == (2, 1, 3)
    assert tree.lengths("characters") == (9, 2, 5)
    assert tree.after(2) == TokenTree("x", (3,), tree.branches, tree.characters, 1)


def test_a_path_is_the_text_that_the_model_would_read(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    instances = TASK.test[:3]
    for instance, tree in zip(instances, encode(model, instances, task=TASK, form="cloze"), strict=True):
        words = write_prompt(instance, "cloze")
        for text, branch, characters in zip(words.branches, tree.branches, tree.characters, strict=True):
            whole = model.tokenizer(words.trunk + text, add_special_tokens=False)["input_ids"]
            assert list(tree.trunk + branch) == whole
            assert characters == len(text) - 1
        assert (tree.id, tree.label) == (instance.id, instance.label)
    assert encode(model, [], task=TASK, form="cloze") == []


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


def test_shots_that_do_not_fit_are_refused(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    with pytest.raises(
        InputError, match=r"tokens long with 3 shots before it, .* reads at most 128; take fewer shots, shorten"
    ):
        encode(model, TASK.test, task=few_shot(TASK, shots=3, seed=0), form="cloze")
