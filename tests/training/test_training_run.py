"""One run without a model: phases, patience, the best checkpoint, the optimizer step by hand, and how runs end."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toy import toy_task
from helpers.training_runs import TRAIN, make_run, take_step

from rango.errors import DivergenceError
from rango.models.loading import load_model
from rango.training.finetune import finetune
from rango.training.run_folder import Run
from rango.training.training_run import TrainingRun

Checkpoint = Callable[..., Path]
QUICK: dict[str, Any] = {"steps": 12, "batch": 8, "learning_rate": 1e-2, "validate_every": 4, "lora": {"rank": 4}}

# Posteriors of the two validation instances, whose labels are 0 and 1, from best to worst.
GOOD, FAIR, POOR = ([[p, 1 - p], [1 - p, p]] for p in (0.9, 0.7, 0.4))
NAN = [[math.nan, 0.5], [0.5, 0.5]]


def weight(run: TrainingRun) -> list[float]:
    return list(run.adapter.state()["weight"].tolist())


def validate(run: TrainingRun, times: int) -> None:
    for _ in range(times):
        run.checkpoint(take_step(run))


def test_lengths_come_from_steps_or_epochs(tmp_path: Path) -> None:
    """Ten instances in batches of five are two steps an epoch; twenty validations are spread over a run."""
    assert make_run(tmp_path, steps=7).total == 7
    assert make_run(tmp_path, epochs=4).total == 8
    assert make_run(tmp_path).total == 6, "three epochs where neither is given"
    assert [make_run(tmp_path, steps=steps).every for steps in (7, 20, 21, 100)] == [1, 1, 2, 5]
    assert make_run(tmp_path, steps=7, validate_every=3).every == 3
    regimes = {name: make_run(tmp_path, steps=7, regime=name) for name in ("validation", "retrain", "all")}
    assert {name: run.most_steps for name, run in regimes.items()} == {"validation": 7, "retrain": 14, "all": 7}
    assert {name: len(run.trees) for name, run in regimes.items()} == {"validation": 10, "retrain": 10, "all": 12}


def test_one_step_by_hand(tmp_path: Path) -> None:
    """Adam's first step moves each weight by the learning rate against the sign of its gradient, whatever its size."""
    run = make_run(tmp_path, steps=4, learning_rate=0.1, warmup=0.5, clip=10.0)
    tokens = sum(tree.input_length for tree in run.batch())
    record = take_step(run, gradient=(0.3, -0.4), loss=0.5)
    assert record == {
        "step": 1,
        "train_loss": 0.5,
        "learning_rate": pytest.approx(0.05),
        "seconds": 0.25,
        "tokens": tokens,
    }
    assert weight(run) == pytest.approx([1 - 0.05, 2 + 0.05], abs=1e-6)
    assert run.adapter.parameters()[0].grad is None, "the next step begins with no gradient"


def test_a_group_of_parameters_learns_at_its_ratio_of_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = lambda self: [{"params": self.parameters(), "ratio": 4.0}]  # noqa: E731
    monkeypatch.setattr("helpers.training_runs.TwoNumbers.parameter_groups", groups)
    run = make_run(tmp_path, steps=4, learning_rate=0.1, warmup=0.5, clip=10.0)
    record = take_step(run, gradient=(0.3, -0.4))
    assert record is not None
    assert record["learning_rate"] == pytest.approx(0.05), "the log has the rate of A"
    assert weight(run) == pytest.approx([1 - 0.2, 2 + 0.2], abs=1e-6)


def test_gradients_are_clipped_to_the_norm(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=4, clip=0.5)
    take_step(run, gradient=(3.0, 4.0))
    moment = run.optimizer.state[run.adapter.parameters()[0]]["exp_avg"]
    torch.testing.assert_close(moment, 0.1 * torch.tensor([0.3, 0.4]), rtol=1e-5, atol=0)


def test_an_infinite_loss_changes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=4, learning_rate=0.1)
    run.adapter.parameters()[0].grad = torch.tensor([1.0, math.nan])
    assert run.update(math.inf, run.batch()) is None
    assert (weight(run), run.progress.step) == ([1.0, 2.0], 0)
    assert run.adapter.parameters()[0].grad is None
    assert not run.has_steps_left
    assert run.progress.failed == (
        "the loss became inf at step 1 with learning rate 0.1 and lora.alpha 16; no checkpoint had been made; "
        "lower --learning-rate or --lora.alpha"
    )
    full = make_run(tmp_path, steps=4, adaptation="full")
    assert full.update(math.nan, full.batch()) is None
    assert full.progress.failed == (
        "the loss became nan at step 1 with learning rate 0.0002; no checkpoint had been made; lower --learning-rate"
    )


def test_the_best_checkpoint_is_kept_and_put_back(tmp_path: Path) -> None:
    run = make_run(tmp_path, posteriors=[FAIR, GOOD, POOR, GOOD], steps=8, learning_rate=0.1)
    run.checkpoint(None)
    validate(run, 1)
    best = weight(run)
    validate(run, 2)
    assert (run.progress.best_step, run.progress.waited) == (1, 2), "an equal value later is not better"
    assert run.progress.best_value == pytest.approx(-math.log(0.9) / math.log(2))
    log = Run(tmp_path).log
    assert [(record["step"], record["best"]) for record in log] == [(0, True), (1, True), (2, False), (3, False)]
    assert log[1]["validation"]["nce"] == run.progress.best_value
    assert (log[0]["seconds"], log[0]["tokens"]) == (0.0, 0)
    assert weight(run) != best
    run.conclude()
    assert weight(run) == pytest.approx(best)


@pytest.mark.parametrize(("select", "best"), [("nce", 1), ("accuracy", 0), ("error_rate", 0), ("brier", 1)])
def test_which_checkpoint_is_best_depends_on_the_metric(tmp_path: Path, select: str, best: int) -> None:
    """Both checkpoints decide rightly, so accuracy and error rate see no gain in the second."""
    run = make_run(tmp_path, posteriors=[FAIR, GOOD, POOR], steps=8, select=select)
    validate(run, 3)
    assert run.progress.best_step == best + 1


def test_calibrated_nce_chooses_what_separates_best_whatever_its_scale(tmp_path: Path) -> None:
    """Three instances of four are right at both steps. The sure step loses by NCE and wins after a temperature."""
    unsure = [[0.6, 0.4], [0.4, 0.6], [0.4, 0.6], [0.6, 0.4]]
    # Its one mistake is nearer to one half than its right answers are.
    sure = [[1 - 1e-9, 1e-9], [1e-9, 1 - 1e-9], [1 - 1e-9, 1e-9], [1e-5, 1 - 1e-5]]
    best = {}
    for select in ("nce", "calibrated_nce"):
        run = make_run(tmp_path / select, posteriors=[unsure, sure], labels=(0, 1, 0, 0), steps=8, select=select)
        validate(run, 2)
        best[select] = run.progress.best_step
        values = [record["validation"] for record in Run(tmp_path / select).log]
        assert values[0]["nce"] < values[1]["nce"]
        assert values[0]["calibrated_nce"] > values[1]["calibrated_nce"]
    assert best == {"nce": 1, "calibrated_nce": 2}


def test_patience_counts_calibrated_nce_too(tmp_path: Path) -> None:
    """Posteriors that are right half of the time are worth nothing at any temperature, however sure they are."""
    right, useless = [[0.6, 0.4], [0.4, 0.6]], [[0.9, 0.1], [0.9, 0.1]]
    run = make_run(tmp_path, posteriors=[right, useless, useless], steps=9, select="calibrated_nce", patience=2)
    steps = 0
    while run.has_steps_left:
        validate(run, 1)
        steps += 1
    assert steps == 3
    assert run.progress.best_step == 1


def test_scores_that_are_not_numbers_end_the_run_and_keep_the_best(tmp_path: Path) -> None:
    run = make_run(tmp_path, posteriors=[GOOD, NAN], steps=8)
    run.checkpoint(None)
    validate(run, 1)
    assert run.progress.failed is not None
    assert run.progress.failed.startswith("the scores on validation became nan at step 1 with learning rate 0.0002")
    assert f"the best checkpoint (step 0) is kept in {tmp_path / 'adapter' / 'best'}; lower" in run.progress.failed
    assert [record["step"] for record in Run(tmp_path).log] == [0], "the step is not logged as validated"
    assert run.progress.validated_step == 0


def test_patience_counts_validations_without_a_better_one(tmp_path: Path) -> None:
    run = make_run(tmp_path, posteriors=[FAIR, POOR, GOOD, POOR, POOR], steps=9, patience=2)
    steps = 0
    while run.has_steps_left:
        validate(run, 1)
        steps += 1
    assert (steps, run.progress.best_step, run.progress.waited) == (5, 3, 2)


def test_a_hook_may_end_a_run_early_but_not_after_its_last_step(tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []

    def hook(step: int, metrics: Any) -> bool:
        seen.append((step, metrics["accuracy"]))
        return step == 2

    run = make_run(tmp_path, posteriors=[GOOD, POOR], steps=5, on_validation=hook)
    validate(run, 2)
    assert seen == [(1, 1.0), (2, 0.0)]
    assert run.progress.pruned
    assert not run.has_steps_left
    last = make_run(tmp_path, posteriors=[GOOD, GOOD], steps=2, on_validation=lambda step, _: step == 2)
    validate(last, 2)
    assert not last.progress.pruned


def test_retraining_begins_anew_for_as_many_steps_as_the_search_found(tmp_path: Path) -> None:
    run = make_run(tmp_path, posteriors=[POOR, GOOD, FAIR], steps=3, regime="retrain", learning_rate=0.1)
    validate(run, 2)
    assert not run.search_is_over
    validate(run, 1)
    assert run.search_is_over, "all steps of the search are done"
    assert not run.has_steps_left
    before = weight(run)
    assert (weight(run), run.search_is_over) == (before, True), "asking changes nothing"
    run.begin_retraining()
    assert weight(run) == [1.0, 2.0]
    assert not run.optimizer.state, "and no moments of the search"
    assert len(run.trees) == len(TRAIN) + 2
    assert not run.validates
    record = take_step(run)
    assert (record["step"], record["retrain"], run.at_checkpoint) == (4, 1, True)
    assert run.has_steps_left
    take_step(run)
    assert not run.has_steps_left, "the best step of the search was the second"
    assert not run.search_is_over
    run.conclude()
    assert (tmp_path / "adapter" / "best" / "weight.json").read_text() == str(weight(run))


def test_retraining_has_no_steps_where_the_base_was_best(tmp_path: Path) -> None:
    run = make_run(tmp_path, posteriors=[GOOD, POOR], steps=1, regime="retrain")
    run.checkpoint(None)
    validate(run, 1)
    assert run.search_is_over
    run.begin_retraining()
    assert not run.has_steps_left


def test_without_validation_checkpoints_are_kept_and_nothing_is_chosen(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=4, regime="all", validate_every=3)
    flags = []
    while run.has_steps_left:
        record = take_step(run)
        flags.append(run.at_checkpoint)
        if run.at_checkpoint:
            run.checkpoint(record)
    assert flags == [False, False, True, True], "every third step, and the last"
    assert run.progress.best_step is None
    assert not any("validation" in record for record in Run(tmp_path).log)
    run.conclude()
    kept = {which: (tmp_path / "adapter" / which / "weight.json").read_text() for which in ("best", "last")}
    assert kept["best"] == kept["last"] == str(weight(run))


def test_an_impossible_right_answer_is_never_the_best(tmp_path: Path) -> None:
    """With one label among the instances NCE is undefined; an infinite cross-entropy is a value like others."""
    impossible = [[0.0, 1.0], [1.0, 0.0]]
    run = make_run(tmp_path, posteriors=[impossible, FAIR], steps=4, select="cross_entropy")
    validate(run, 2)
    assert run.progress.best_value == pytest.approx(-math.log(0.7))


def test_patience_stops_early(checkpoint: Checkpoint, tmp_path: Path) -> None:
    settings = {**QUICK, "steps": 40, "validate_every": 1, "learning_rate": 1e-9, "patience": 3}
    run = finetune(load_model(checkpoint("phi")), toy_task(), out=tmp_path / "run", **settings, select="error_rate")
    assert run.record["steps"] == 3
    assert run.record["best_step"] == 0


def test_the_run_says_how_many_steps_it_may_take(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Of the instances in batches of 8 a pass has a step each; the regime retrain may take twice as many."""
    model, task = load_model(checkpoint("phi")), toy_task()
    options: dict[str, Any] = {key: value for key, value in QUICK.items() if key != "steps"} | {"epochs": 2}
    expected = 2 * math.ceil(len(task.train) / 8)
    assert finetune(model, task, out=tmp_path / "a", **options).record["most_steps"] == expected
    assert finetune(model, task, out=tmp_path / "b", regime="retrain", **options).record["most_steps"] == 2 * expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {},
            "the scores on validation became nan at step 0 with .* lora.alpha 1e\\+300; no checkpoint had been made; ",
        ),
        ({"regime": "all"}, "the loss became nan at step 1 with .*; the last checkpoint .step 0. is kept in .*last; "),
    ],
)
def test_a_divergence_names_only_checkpoints_that_are_there(
    checkpoint: Checkpoint, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    settings = {**QUICK, "lora": {"rank": 4, "alpha": 1e300}, **change}
    with pytest.raises(DivergenceError, match=message + "lower --learning-rate or --lora.alpha"):
        finetune(load_model(checkpoint("phi")), toy_task(), out=tmp_path / "run", **settings)
    there = [path.name for path in (tmp_path / "run").glob("adapter/*")]
    assert there == (["last"] if change else [])
