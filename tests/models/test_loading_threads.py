"""CPU threads: no more than a network can feed, unless somebody says how many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers.pretraining import story
from torch import nn

from rango.language.options import PretrainConfig
from rango.language.pretrain import pretrain
from rango.models import loading
from rango.models.loading import feedable_threads, limit_threads, load_model

SMALL, LARGE = nn.Linear(96, 384), nn.Linear(2048, 2048)


@pytest.fixture(autouse=True)
def four_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that nobody has told how many threads to use, with four of them."""
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(loading, "_threads_taken", {})
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_the_largest_inner_matrix_decides() -> None:
    per_thread = loading._ENTRIES_A_THREAD
    assert feedable_threads(nn.Linear(1, per_thread - 1), 4) == 1
    assert feedable_threads(nn.Linear(1, 2 * per_thread), 4) == 2
    assert feedable_threads(nn.Sequential(nn.Linear(1, 3), nn.Linear(1, 3 * per_thread)), 4) == 3
    assert feedable_threads(nn.Linear(1, 9 * per_thread), 4) == 4, "never more than there are"
    assert feedable_threads(nn.Identity(), 4) == 1


def test_embeddings_and_head_do_not_count(checkpoint: Callable[..., Path]) -> None:
    network = load_model(checkpoint("phi")).network
    network.resize_token_embeddings(100_000)
    assert feedable_threads(network, 4) == 1


def test_an_ngram_has_no_matrix(tmp_path: Path) -> None:
    counted = pretrain(story(), out=tmp_path / "ngram", config=PretrainConfig(model="ngram", vocabulary=300))
    assert feedable_threads(load_model(counted).network, 4) == 1


def test_a_larger_network_gets_the_threads_back() -> None:
    assert limit_threads(SMALL) == 1
    assert torch.get_num_threads() == 1
    assert limit_threads(LARGE) == 4
    assert torch.get_num_threads() == 4


def test_what_the_user_sets_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_threads(SMALL)
    torch.set_num_threads(2)
    assert limit_threads(LARGE) == 2, "set in between"
    torch.set_num_threads(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert limit_threads(SMALL) == 4


def test_loading_says_so(checkpoint: Callable[..., Path]) -> None:
    model = load_model(checkpoint("phi"), device="cpu")
    assert torch.get_num_threads() == 1
    assert "one CPU thread" in model.notes[0]
