"""MC dropout: the masks are the adapter's alone, a function of the seed, and their posteriors are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toy import toy_task

from rango.console import Screen
from rango.decisions import read_posteriors
from rango.errors import InputError
from rango.models.adapter import Adapter, add_adapter
from rango.models.loading import Model, load_model
from rango.options import EvaluateConfig, LoRA, ScoringOptions
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import DropoutPasses, Scores, score, score_samples, score_split
from rango.scoring.trees import encode
from rango.training.evaluate import write_evaluation

Checkpoint = Callable[..., Path]
TASK = toy_task()


def with_adapter(model: Model, dropout: float) -> Adapter:
    adapter = add_adapter(model, LoRA(targets=("q", "v"), dropout=dropout), seed=0)
    torch.manual_seed(1)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return adapter


@pytest.fixture(scope="module")
def adapted(checkpoint: Checkpoint) -> Iterator[tuple[Model, Adapter]]:
    # Dropout of the network itself, which has to stay off.
    model = load_model(checkpoint("phi", attention_dropout=0.5, resid_pdrop=0.5, embd_pdrop=0.5))
    adapter = with_adapter(model, 0.3)
    yield model, adapter
    adapter.remove()


def samples(model: Model, adapter: Adapter, count: int, *, seed: int = 0, batch_tokens: int = 4096) -> list[Scores]:
    trees = encode(model, TASK.test[:6], task=TASK, form="cloze")
    options = ScoringOptions(batch_tokens=batch_tokens)
    dropout = DropoutPasses(adapter, count, seed)
    return score_samples(probe_reader(model), trees, dropout=dropout, options=options, form="cloze")


def test_passes_differ_and_are_repeated_by_the_seed(adapted: tuple[Model, Adapter]) -> None:
    first = samples(*adapted, 3)
    assert not np.allclose(first[0].values, first[1].values)
    for one, other in zip(first, samples(*adapted, 3), strict=True):
        np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(samples(*adapted, 2)[1].values, first[1].values)  # more passes change none
    assert not np.allclose(samples(*adapted, 1, seed=1)[0].values, first[0].values)


def test_only_the_adapter_drops_out_and_is_left_as_it_was(adapted: tuple[Model, Adapter]) -> None:
    model, adapter = adapted
    trees = encode(model, TASK.test[:6], task=TASK, form="cloze")
    plain = score(probe_reader(model), trees, options=ScoringOptions(), form="cloze")
    with adapter.disabled():  # nothing is left that could drop out
        base = samples(model, adapter, 2)
    np.testing.assert_array_equal(base[0].values, base[1].values)
    state = torch.get_rng_state()
    samples(model, adapter, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in model.network.modules())
    again = score(probe_reader(model), trees, options=ScoringOptions(), form="cloze")
    np.testing.assert_array_equal(again.values, plain.values)


def test_the_mean_is_that_of_probabilities(adapted: tuple[Model, Adapter]) -> None:
    model, adapter = adapted
    passes = samples(model, adapter, 4)
    dropout = DropoutPasses(adapter, count=4, seed=0)
    split = score_split(probe_reader(model), TASK.test[:6], task=TASK, options=ScoringOptions(), dropout=dropout)
    each = [np.exp(one.values) / np.exp(one.values).sum(axis=1, keepdims=True) for one in passes]
    np.testing.assert_allclose(np.exp(split.posteriors.log_posteriors), np.mean(each, axis=0), atol=1e-12)
    assert split.posteriors.ids == tuple(instance.id for instance in TASK.test[:6])
    assert split.tokens == sum(one.tokens for one in passes)


def test_an_adapter_without_dropout_is_refused(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("phi"))
    adapter = with_adapter(model, 0.0)
    with pytest.raises(InputError, match=r"the adapter has dropout 0, .*train one with --lora.dropout 0.1"):
        samples(model, adapter, 2)


def test_evaluation_with_mc_dropout(adapted: tuple[Model, Adapter], tmp_path: Path, checkpoint: Checkpoint) -> None:
    model, adapter = adapted
    adapter.save(tmp_path / "adapter")
    fresh = load_model(checkpoint("phi", attention_dropout=0.5, resid_pdrop=0.5, embd_pdrop=0.5))
    config = EvaluateConfig(model="phi", task="toy", adapter=tmp_path / "adapter", mc_dropout=3, seed=7)
    write_evaluation(fresh, TASK, out=tmp_path / "out", config=config, screen=Screen(quiet=True))
    dropout = DropoutPasses(adapter, count=3, seed=7)
    expected = score_split(probe_reader(model), TASK.test, task=TASK, options=ScoringOptions(), dropout=dropout)
    written = read_posteriors(tmp_path / "out" / "posteriors" / "test-adapted.parquet")
    np.testing.assert_allclose(written.log_posteriors, expected.posteriors.log_posteriors, atol=1e-9)


def test_an_evaluation_that_cannot_drop_out_writes_nothing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    adapter = with_adapter(model, 0.0)
    adapter.save(tmp_path / "adapter")
    adapter.remove()
    config = EvaluateConfig(model="phi", task="toy", adapter=tmp_path / "adapter", mc_dropout=3)
    with pytest.raises(InputError, match="the adapter has dropout 0"):
        write_evaluation(model, TASK, out=tmp_path / "out", config=config, screen=Screen(quiet=True))
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="mc_dropout is 3 but there is no adapter whose dropout could be on"):
        EvaluateConfig.build({"model": "phi", "task": "toy", "mc_dropout": 3})
