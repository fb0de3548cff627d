"""Fine-tuning on soft labels and on ordered levels: what is written, what the page shows, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.toy import class_task

from rango.errors import InputError
from rango.models.loading import load_model
from rango.reports.run.page import write_report
from rango.tasks import Instance, Task
from rango.training.finetune import finetune
from rango.training.run_folder import Run

Checkpoint = Callable[..., Path]
QUICK: dict[str, Any] = {"steps": 6, "batch": 8, "learning_rate": 1e-2, "validate_every": 3, "lora": {"rank": 2}}
CHOICE: dict[str, Any] = {**QUICK, "objective": "choice"}


def typed(task: Task, *, soft: bool, ordered: bool) -> Task:
    """The task with levels for choices, and three of four annotators for each label."""

    def made(instance: Instance) -> Instance:
        shares = [0.0] * len(instance.choices)
        shares[instance.answer] = 0.75
        shares[(instance.answer + 1) % len(shares)] = 0.25
        truth: dict[str, Any] = {"label": None, "target": tuple(shares)} if soft else {}
        return replace(instance, **truth, type="score" if ordered else "choice")

    splits = {name: tuple(map(made, task.split(name))) for name in ("train", "validation", "test")}
    return replace(task, **splits)


@pytest.fixture(scope="module")
def finished(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Run:
    task = typed(class_task(), soft=True, ordered=True)
    settings = {**CHOICE, "rule": "ranked", "select": "ranked_probability_score"}
    return finetune(load_model(checkpoint("phi")), task, out=tmp_path_factory.mktemp("run") / "run", **settings)


def test_a_run_on_soft_levels_learns_and_shows_its_floor(finished: Run) -> None:
    test = finished.metrics["test"]
    score = "ranked_probability_score"
    assert test["adapted"][score].value < test["base"][score].value
    assert test["labels"][score].value <= test["adapted"][score].value
    assert test["labels"]["error_rate"].value == pytest.approx(0.25)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert test["labels"]["cross_entropy"].value == pytest.approx(entropy)
    assert all(score in record["validation"] for record in finished.log if "validation" in record)
    posteriors = finished.posteriors("adapted", "test")
    assert posteriors.targets is not None
    assert posteriors.is_ordered


def test_the_page_of_a_run_on_soft_labels_says_what_it_can(finished: Run) -> None:
    page = write_report(finished.path).read_text(encoding="utf-8")
    for text in ("Soft labels", "RPS", "MAE"):
        assert text in page
    assert "McNemar&#39;s test needs one right choice" in page or "McNemar's test needs one right choice" in page


def test_what_cannot_take_soft_labels_or_levels_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    soft, plain = typed(class_task(), soft=True, ordered=False), class_task()
    with pytest.raises(InputError, match="objective is answer, which reads one right answer, but instance"):
        finetune(model, soft, out=tmp_path / "a", **{**QUICK, "objective": "answer"})
    with pytest.raises(InputError, match="rule is ranked, which is for ordered levels, but instance"):
        finetune(model, plain, out=tmp_path / "b", **{**CHOICE, "rule": "ranked"})
    with pytest.raises(InputError, match="select is mean_absolute_error, which is for ordered levels, but instance"):
        finetune(model, plain, out=tmp_path / "c", **{**CHOICE, "select": "mean_absolute_error"})
    with pytest.raises(InputError, match="costs are distance=absolute, but the choices of instance"):
        finetune(model, plain, out=tmp_path / "d", costs="distance=absolute", **CHOICE)
    for options, says in (({"label_smoothing": 0.1}, "label_smoothing is 0.1"), ({"rule": "brier"}, "rule is brier")):
        with pytest.raises(InputError, match=f"{says} and objective is answer, which would ignore it"):
            finetune(model, plain, out=tmp_path / "e", **{**QUICK, "objective": "answer", **options})
