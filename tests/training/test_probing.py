"""A probe of models whose answers are known: by place alone, by text alone; resumed, refused, and of real networks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rango.decisions import Affine, Gate, Posteriors, Temperature, read_posteriors
from rango.decisions.gates import GateChoice
from rango.errors import InputError
from rango.files import read_json
from rango.options import Form
from rango.tasks import Instance, Task, load_task
from rango.tasks.task import posteriors_of
from rango.training.probing import ProbeConfig, ProbePlan, plan_probe, probe

SIZES: dict[str, Any] = {"task": "simulated", "train": 12, "validation": 12, "test": 30, "form": "letter"}


@pytest.fixture(autouse=True)
def _few_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values do not depend on them, and intervals are tested in tests/decisions/test_robustness.py."""
    monkeypatch.setattr("rango.decisions.robustness.REPLICATES", 60)


def settings(**options: Any) -> ProbeConfig:
    return ProbeConfig.build({"model": "none", **SIZES, **options})


def scored(instances: Sequence[Instance], score: Any) -> Posteriors:
    scores = np.full((len(instances), max(len(one.choices) for one in instances)), -np.inf)
    for row, one in enumerate(instances):
        scores[row, : len(one.choices)] = [score(place, text) for place, text in enumerate(one.choices)]
    return posteriors_of(instances, scores)


def by_place(instances: Sequence[Instance], _task: Task, _form: Form, _name: str) -> Posteriors:
    """The first place has odds of 4, 2, 1, 1/2 to the next ones."""
    return scored(instances, lambda place, _: np.log([4.0, 2.0, 1.0, 0.5][place]))


def by_text(instances: Sequence[Instance], _task: Task, _form: Form, _name: str) -> Posteriors:
    """Every text has a score of its own, wherever it stands."""
    return scored(instances, lambda _, text: int(hashlib.sha256(text.encode()).hexdigest()[:6], 16) / 2**22)


def run(out: Path, ask: Any, *, gate: Gate | None = None, plan: ProbePlan | None = None, **options: Any) -> Any:
    config = settings(**options)
    plan = plan or plan_probe(config)
    return probe(plan, ask=ask, out=out, record=plan.record(config, "model"), gate=gate)


def test_a_model_that_looks_at_places_alone_flips_exactly_where_its_place_gets_another_choice(tmp_path: Path) -> None:
    result = run(tmp_path / "out", by_place)
    changes = result["changes"]
    assert result["status"] == "complete"
    # Of the five other orders of three choices one keeps the first choice first.
    assert changes["permute"]["flips"]["value"] == pytest.approx(0.8)
    by_variant = changes["permute"]["by_variant"]
    assert sorted(by_variant) == [f"permute-{n}" for n in range(1, 6)]
    # The two rotations always move it, and so does every order of the second round but the one in its place.
    assert by_variant["permute-1"] == by_variant["permute-2"] == 1.0
    # Names, words and one option at the end move no choice.
    for change in ("rename-numbers", "rename-neutral", "reword", "distract"):
        assert changes[change]["flips"]["value"] == 0.0, change
    assert changes["distract"]["mass"]["value"] == pytest.approx(0.5 / 7.5)
    labels = np.array([one.label for one in plan_probe(settings()).instances])
    assert changes["remove-none"]["rejected"]["value"] == pytest.approx((labels == 0).mean())
    assert changes["remove"]["max_posterior"]["value"] == pytest.approx(4 / 6)
    assert changes["remove"]["max_posterior_before"]["value"] == pytest.approx(4 / 7)
    # Over all orders nothing is left of its preference: the shares are equal, and the NCE is that of ln 3.
    mean = changes["averaged"]
    shares = np.array([4, 2, 1]) / 7
    before = -np.log(shares[labels]).mean()
    priors = np.bincount(labels, minlength=3) / len(labels)
    entropy = -(priors * np.log(priors)).sum()
    assert mean["nce"]["value"] == pytest.approx((np.log(3) - before) / entropy)
    # Over the five other orders the label stands at every place in turn but where it stood at first.
    others = [(2 * np.log(shares).sum() - np.log(shares[label])) / 5 for label in labels]
    assert changes["permute"]["nce"]["value"] == pytest.approx((-np.mean(others) - before) / entropy)


def test_a_model_that_ignores_places_never_flips(tmp_path: Path) -> None:
    changes = run(tmp_path / "out", by_text)["changes"]
    for change in ("permute", "averaged", "rename-numbers", "rename-neutral", "reword"):
        assert changes[change]["flips"]["value"] == 0.0
        assert changes[change]["nce"]["value"] == pytest.approx(0.0, abs=1e-12)
        assert changes[change]["error_rate"]["value"] == 0.0
        assert changes[change]["flips"]["low"] == 0.0 < changes[change]["flips"]["high"]
    # An irrelevant option takes probability from all alike: decisions change only for its own sake.
    original = read_posteriors(tmp_path / "out/posteriors/test-original.parquet")
    distracted = read_posteriors(tmp_path / "out/posteriors/test-distract.parquet")
    odds = original.log_posteriors[:, :2] - original.log_posteriors[:, 1:]
    np.testing.assert_allclose(distracted.log_posteriors[:, :2] - distracted.log_posteriors[:, 1:3], odds)
    taken = (distracted.log_posteriors.argmax(axis=1) == 3).mean()
    assert changes["distract"]["flips"]["value"] == pytest.approx(taken)


def test_files_of_a_stopped_probe_are_not_computed_again(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", by_text)
    names: list[str] = []

    def stops(instances: Sequence[Instance], task: Task, form: Form, name: str) -> Posteriors:
        if len(names) == 3:
            raise KeyboardInterrupt
        names.append(name)
        return by_text(instances, task, form, name)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", stops)
    assert read_json(tmp_path / "out/probe.json")["status"] == "running"
    done, names = names, []

    def goes_on(instances: Sequence[Instance], task: Task, form: Form, name: str) -> Posteriors:
        names.append(name)
        return by_text(instances, task, form, name)

    assert run(tmp_path / "out", goes_on) == whole
    assert not set(done) & set(names)
    assert read_json(tmp_path / "out/probe.json") == read_json(tmp_path / "whole/probe.json")
    with pytest.raises(InputError, match="already holds other files"):
        run(tmp_path / "out", by_text, orders=2)


def test_a_calibrator_of_letters_goes_by_place_and_leaves_one_option_more_alone(tmp_path: Path) -> None:
    """A bias that makes the odds of the places equal leaves a model of places without any preference."""
    plan = plan_probe(settings())
    equal = Affine(scale=1.0, bias=tuple(-np.log([4.0, 2.0, 1.0])))
    object.__setattr__(plan, "calibrator", equal)
    result = run(tmp_path / "out", by_place, plan=plan)
    for name in ("original-calibrated", "permute-3", "reword-1", "remove-none"):
        posteriors = read_posteriors(tmp_path / f"out/posteriors/test-{name}.parquet")
        np.testing.assert_allclose(np.exp(posteriors.log_posteriors), 1 / 3)
    removed = read_posteriors(tmp_path / "out/posteriors/test-remove.parquet", need_labels=False)
    np.testing.assert_allclose(np.sort(np.exp(removed.log_posteriors), axis=1), [[0, 0.5, 0.5]] * 30)
    assert result["calibrated"]
    assert {name for name, numbers in result["changes"].items() if not numbers["calibrated"]} == {"distract"}
    distracted = read_posteriors(tmp_path / "out/posteriors/test-distract.parquet")
    np.testing.assert_allclose(np.exp(distracted.log_posteriors), [np.array([4, 2, 1, 0.5]) / 7.5] * 30)
    assert result["changes"]["distract"]["flips"]["value"] == 0.0
    # A temperature says something of any number of options.
    object.__setattr__(plan, "calibrator", Temperature(scale=2.0))
    result = run(tmp_path / "other", by_place, plan=plan)
    assert result["changes"]["distract"]["calibrated"]
    assert result["changes"]["distract"]["mass"]["value"] == pytest.approx(0.25 / 21.25)


def test_a_gate_says_how_often_it_passes_on_what_cannot_be_right(tmp_path: Path) -> None:
    for limit, share in ((0.4, 0.0), (0.3, 1.0)):
        gate = Gate("max_error", limit, GateChoice(10, "x", None, None, 0.0), n_choices=3)
        changes = run(tmp_path / f"{limit}", by_place, gate=gate, changes=("remove",))["changes"]
        assert changes["remove"]["passed_on"]["value"] == share  # its confidence is 4/6, its doubt 1/3
        assert set(changes) == {"remove", "remove-none"}


def test_what_cannot_be_probed_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    wrong: dict[str, dict[str, Any]] = {
        r"changes\.0 is 'x': input should be 'permute'": {"changes": "x"},
        "permute: the cloze form lists no options": {"form": "cloze", "changes": "permute"},
        "MODEL is missing": {"model": ""},
        "prompt is lm-eval, whose words are fixed": {"task": "socialiqa", "prompt": "lm-eval"},
    }
    for message, options in wrong.items():
        with pytest.raises(InputError, match=message):
            plan_probe(settings(**options))
    assert settings(changes="permute, remove").changes == ("permute", "remove")
    plan = plan_probe(settings(form="cloze"))
    assert {variant.change for variant in plan.variants} == {"distract", "remove", "remove-none", "reword"}
    assert [note.partition(":")[0] for note in plan.notes] == ["permute", "rename"]
    assert len(plan_probe(settings(limit=4)).instances) == 4
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file is a file"):
        run(tmp_path / "file", by_text)


def test_soft_labels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_task("simulated", train=12, validation=12, test=3)
    soft = tuple(replace(one, label=None, log_posterior=None, target=(0.5, 0.5, 0.0)) for one in task.test)
    monkeypatch.setattr("rango.training.probing.load_task", lambda *_: replace(task, test=soft))
    with pytest.raises(InputError, match="has soft labels, where one right choice is needed"):
        plan_probe(settings())
