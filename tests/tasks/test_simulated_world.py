"""The tables of the simulated world: normalised, as computed by hand, and sensible to read."""

from __future__ import annotations

import numpy as np
import pytest

from rango.tasks.simulated_world import EVENTS, KINDS, OUTCOMES, RELATIONS, TRAITS, Kind, conditional


@pytest.mark.parametrize("kind", KINDS)
def test_the_conditional_is_normalised_and_every_outcome_possible(kind: Kind) -> None:
    table = conditional(kind)
    log_p = np.array(table.log_probabilities)
    natures = RELATIONS if kind == "reaction" else TRAITS
    assert log_p.shape == (len(EVENTS), len(natures), len(OUTCOMES[kind]))
    np.testing.assert_allclose(np.exp(log_p).sum(axis=-1), 1, rtol=1e-12)
    np.testing.assert_allclose(table.marginal, np.exp(log_p).mean(axis=(0, 1)), rtol=1e-12)
    # Centred over the outcomes, the logits are inner products on six axes.
    flat = log_p.reshape(-1, log_p.shape[-1])
    assert np.linalg.matrix_rank(flat - flat.mean(axis=1, keepdims=True), tol=1e-8) <= 6


def test_the_conditional_by_hand() -> None:
    """P(felt smug | mocked, vain) from the tables, step by step."""
    table = conditional("feeling")
    events, traits, feelings = (np.array(list(t.values()), float) for t in (EVENTS, TRAITS, OUTCOMES["feeling"]))
    a, b = events @ feelings.T, traits @ feelings.T
    logits = 1.9 * (a / a.std())[list(EVENTS).index("mocked")] + 1.4 * (b / b.std())[list(TRAITS).index("vain")]
    expected = np.exp(logits) / np.exp(logits).sum()
    row = table.log_probabilities[list(EVENTS).index("mocked")][list(TRAITS).index("vain")]
    np.testing.assert_allclose(np.exp(row), expected, rtol=1e-10)
    assert table.outcomes[int(expected.argmax())] == "smug"


def test_the_world_reads_sensibly() -> None:
    def best(kind: Kind, event: str, nature: str) -> str:
        natures = RELATIONS if kind == "reaction" else TRAITS
        row = conditional(kind).log_probabilities[list(EVENTS).index(event)][list(natures).index(nature)]
        return conditional(kind).outcomes[row.index(max(row))]

    assert best("feeling", "fled from", "shy") == "afraid"
    assert best("reaction", "insulted", "rival") == "angry"
    assert best("action", "fled from", "shy") in ("ran away", "hid alone")
    assert best("reason", "danced with", "cheerful") == "to have fun"
    assert best("reason", "defeated", "vain") == "to win" or best("reason", "defeated", "vain") == "to show off"
