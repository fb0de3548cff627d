"""`rango.probe`: of a run on a model that is loaded already, and what is refused before any is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rango
from rango.errors import InputError
from rango.training.run_folder import Run


@pytest.fixture(autouse=True)
def _few_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rango.decisions.robustness.REPLICATES", 60)


def test_a_run_is_probed_on_a_loaded_model_which_is_given_back_as_it_was(
    runs: dict[str, Path], checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Two options have one other order, and the mean over both is what `predict --orders 2` gives."""
    run, model = Run(runs["yes"]), rango.load_model(checkpoint("phi"))
    sizes: Any = {"train": 30, "validation": 12, "test": 20}
    options: Any = {**sizes, "changes": "permute", "orders": 4, "out": tmp_path / "probe", "loaded": model}
    probed = rango.probe(f"{run.path}:adapted", **options)
    assert (probed.folder, probed.changes) == (tmp_path / "probe", ("permute", "averaged"))
    np.testing.assert_allclose(probed.posteriors().log_posteriors, run.posteriors("adapted").log_posteriors, atol=1e-5)
    flips = probed["permute"]["flips"]
    assert flips.low is not None
    assert flips.low <= flips.value <= 1
    # The columns of the changed instances are those of the original: yes and no, wherever they stood.
    both = [np.exp(probed.posteriors(name).log_posteriors) for name in ("original", "permute-1")]
    rows = rango.load_task(runs["yes"].parent / "yes-table", **sizes).test
    texts = [
        dict(zip(("text", "again"), one.context.removesuffix("\nAnn?").rsplit(" No ", 1), strict=True)) for one in rows
    ]
    asked = [{"text": row["text"], "again": f"No {row['again']}"} for row in texts]
    mean = run.predict(asked, state="adapted", orders=2, model=model).posteriors
    np.testing.assert_allclose(np.exp(mean.log_posteriors), sum(both) / 2, atol=1e-5)
    # Without an adapter on it, the model can take the next one.
    rango.load_adapter(model, runs["moods"]).remove()


def test_what_only_matters_with_something_else_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    out: Any = {"out": tmp_path / "out", "test": 4}
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("--orders is 3 but permute is not among the changes", {"changes": ["remove"], "orders": 3}),
        ("--gate is gate.json but remove is not among the changes", {"changes": "permute", "gate": "gate.json"}),
        (
            "--questions is given but reword is not among the changes",
            {"changes": "remove", "questions": ["{question}"]},
        ),
        ("--concurrency is 2 but MODEL is no endpoint", {"concurrency": 2}),
        ("there is no adapter whose run could have seen data", {"other_data": True}),
        ("'formm': did you mean 'form'", {"formm": "letter"}),
    ]
    for message, options in wrong:
        with pytest.raises(InputError, match=message):
            rango.probe("nowhere/model", "simulated", **out, **options)
    assert not (tmp_path / "out").exists()
