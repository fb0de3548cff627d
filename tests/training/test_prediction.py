"""Predictions: the columns that are added, the decisions by hand, and what is measured where there are labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rango import load_model
from rango.decisions import Costs, Posteriors, StatedCosts
from rango.errors import InputError
from rango.frames import frame_rows, new_frame
from rango.models.peft_format import load_adapter
from rango.scoring.orders import score_orders
from rango.scoring.probe import probe_reader
from rango.tasks import Instance, few_shot
from rango.training.finetune import finetune
from rango.training.prediction import Offered, Predictions, check_costs
from rango.training.run_folder import Run, parse_state

Checkpoint = Callable[..., Path]


def instance(number: int, choices: tuple[str, ...], label: int | None = None) -> Instance:
    return Instance(f"row:{number}", f"context {number}", "", choices, label, f"group {number}")


def predictions(costs: Costs, *labels: int | None) -> Predictions:
    """Two rows of the classes ham and spam, with posteriors 0.9, 0.1 and 0.6, 0.4."""
    instances = tuple(instance(n, ("ham", "spam"), label) for n, label in enumerate(labels))
    posteriors = Posteriors(np.log([[0.9, 0.1], [0.6, 0.4]]), None, choices=[("ham", "spam")] * 2)
    return Predictions(({"text": "a"}, {"text": "b"}), instances, posteriors, posteriors.match_costs(costs))


def test_decisions_by_hand() -> None:
    """Keeping spam costs 5, dropping ham 1: keep 5 × 0.1 = 0.5 against drop 0.9; keep 2.0 against drop 0.6."""
    costs = Costs([[0, 5], [1, 0]], classes=["spam", "ham"], decisions=["drop", "keep"])
    first, second = predictions(costs, None, None).table()
    assert first == {
        "text": "a",
        "probability_ham": pytest.approx(0.9),
        "probability_spam": pytest.approx(0.1),
        "decision": "keep",
        "expected_cost": pytest.approx(0.5),
        "runner_up": "drop",
        "runner_up_cost": pytest.approx(0.9),
    }
    assert (second["decision"], second["expected_cost"]) == ("drop", pytest.approx(0.6))


def test_only_rows_with_labels_are_measured() -> None:
    costs = Costs.zero_one(["ham", "spam"])
    assert predictions(costs, None, None).labelled is None
    labelled = predictions(costs, None, 1).labelled
    assert labelled is not None
    assert (len(labelled), labelled.labels.tolist(), labelled.ids) == (1, [1], ("row:1",))
    np.testing.assert_allclose(np.exp(labelled.log_posteriors), [[0.6, 0.4]])


def test_choices_that_differ_are_numbered() -> None:
    instances = [instance(0, ("a", "b")), instance(1, ("c", "d", "e"))]
    assert Offered.of(instances).added_columns([{}])[:3] == ("posterior_0", "posterior_1", "posterior_2")
    # A row with fewer of the same choices leaves them classes.
    instances = [instance(0, ("a", "b")), instance(1, ("a", "b", "c"))]
    assert Offered.of(instances).added_columns([{}])[:3] == ("probability_a", "probability_b", "probability_c")
    # One answer twice is two columns, of which a name would keep one.
    assert Offered.of([instance(0, ("a", "a", "b"))]).added_columns([{}])[:3] == (
        "posterior_0",
        "posterior_1",
        "posterior_2",
    )
    with pytest.raises(InputError, match="have a column runner_up already; rename it"):
        Offered.of(instances).added_columns([{"runner_up": 1}])


def test_costs_of_other_classes_are_refused_without_a_model() -> None:
    check_costs(StatedCosts.of(Costs.zero_one(["spam", "ham"])), [instance(0, ("ham", "spam"))])
    check_costs(StatedCosts(abstain=0.3), [instance(0, ("ham", "spam")), instance(1, ("a", "b", "c"))])
    with pytest.raises(InputError, match="eggs"):
        check_costs(StatedCosts.of(Costs.zero_one(["spam", "eggs"])), [instance(0, ("ham", "spam"))])


def test_a_run_answers_mappings_with_its_shots_and_refuses_another_base(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """With shots the run's own training instances stand in every prompt again, so its posteriors come back."""
    table = tmp_path / "table"
    table.mkdir()
    (table / "task.yaml").write_text("{prompt: '{text}. Mood:', choices: [happy, sad], label: mood}")
    (table / "rows.csv").write_text("text,mood\n" + "".join(f"Ann {n},{('happy', 'sad')[n % 2]}\n" for n in range(40)))
    from rango import load_task

    model = load_model(checkpoint("phi"))
    task = load_task(table, train=20, validation=8, test=8)
    run = finetune(model, task, out=tmp_path / "run", steps=2, shots=2, form="letter", objective="answer")
    rows = [{"text": instance.context.removesuffix(". Mood:")} for instance in task.test]
    answered = run.predict(rows, state="adapted", model=model)
    np.testing.assert_allclose(answered.posteriors.log_posteriors, run.posteriors("adapted").log_posteriors, atol=1e-5)
    for backend in ("pandas", "polars"):
        frame = new_frame({"text": [row["text"] for row in rows]}, backend)
        with_answers = run.predict(frame, state="adapted", model=model)
        assert type(with_answers) is type(frame)
        assert frame_rows(with_answers) == list(answered.table())
    assert frame_rows(answered.to_frame()) == list(answered.table())
    with pytest.raises(InputError, match="give the model that it was trained on"):
        run.predict(rows, model=load_model(checkpoint("phi", seed=1)))
    with pytest.raises(InputError, match="unknown state 'tuned'"):
        run.predict(rows, state="tuned")
    # Two choices have two orders: the mean over both is the same whoever asks, and the calibrator is of one.
    averaged = run.predict(rows, orders=2, model=model)
    adapter = load_adapter(model, run.path)
    shown = few_shot(task, shots=2, seed=0)
    both = score_orders(probe_reader(model), task.test, task=shown, options=run.config, orders=2)
    adapter.remove()
    np.testing.assert_allclose(averaged.posteriors.log_posteriors, both.posteriors.log_posteriors, atol=1e-6)
    assert np.abs(averaged.posteriors.log_posteriors - answered.posteriors.log_posteriors).max() > 1e-3
    assert averaged.notes[-1] == "up to 2 passes: the mean over orders of the options"
    with pytest.raises(InputError, match="was fitted for one order of the options; give the state adapted"):
        run.predict(rows, state="calibrated", orders=2, model=model)
    with pytest.raises(InputError, match="orders is 0; expected 1 to 1000"):
        run.predict(rows, orders=0, model=model)


def test_a_state_is_named_behind_a_colon_unless_the_folder_has_one(tmp_path: Path) -> None:
    for name in ("run", "run:base"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.yaml").write_text("{}")
    assert parse_state(f"{tmp_path}/run:adapted")[1] == "adapted"
    assert parse_state(f"{tmp_path}/run")[1] is None
    run, state = parse_state(f"{tmp_path}/run:base")
    assert isinstance(run, Run)
    assert (run.path.name, state) == ("run:base", None)
