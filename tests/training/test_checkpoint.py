"""A state file gives back every run of a bank bit for bit, or says in one line that it cannot be read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training_runs import make_run, take_step
from safetensors.torch import save

from rango.errors import InputError
from rango.training.checkpoint import Progress, load_state, save_state
from rango.training.training_run import TrainingRun

ONE = {"a": torch.zeros(2)}


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", save(ONE)[:-3], save(ONE), save(ONE, metadata={"progress": "{"}), save(ONE, metadata={"x": "1"})],
    ids=["empty", "junk", "cut", "no metadata", "no JSON", "no progress"],
)
def test_a_damaged_state_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"state\.safetensors is damaged \(.*\); delete the run's folder and begin"):
        load_state(tmp_path / "state.safetensors")
    with pytest.raises(InputError, match=r"state\.safetensors is damaged \(.*\); pretrain again$"):
        load_state(tmp_path / "state.safetensors", advice="pretrain again")


def trained(folder: Path, key: str, *, steps: int) -> TrainingRun:
    run = make_run(folder, steps=9, learning_rate=0.1, weight_decay=0.2)
    run.key = key
    for step in range(steps):
        take_step(run, gradient=(0.3 + step, -0.4))
    return run


def moments(run: TrainingRun) -> dict[str, Any]:
    return dict(run.optimizer.state[run.adapter.parameters()[0]])


def test_two_runs_go_through_one_file_and_go_on_to_the_same_bits(tmp_path: Path) -> None:
    runs = [trained(tmp_path / "a", "a", steps=2), trained(tmp_path / "b", "b", steps=3)]
    runs[1].progress.best_step, runs[1].progress.best_value = 2, 0.1 + 0.2
    save_state(tmp_path / "state", runs)
    state = load_state(tmp_path / "state")
    for run in runs:
        fresh = make_run(tmp_path / "fresh", steps=9, learning_rate=0.1, weight_decay=0.2)
        fresh.key = run.key
        fresh.resume(state)
        assert fresh.progress == run.progress, "numbers survive JSON exactly"
        for name, value in moments(run).items():
            assert torch.equal(moments(fresh)[name], value), name
        for both in (run, fresh):
            take_step(both, gradient=(0.01, 0.7))
        assert torch.equal(fresh.adapter.state()["weight"], run.adapter.state()["weight"])


def test_a_run_before_its_first_step_has_no_moments_to_save(tmp_path: Path) -> None:
    save_state(tmp_path / "state", [trained(tmp_path / "run", "key", steps=0)])
    state = load_state(tmp_path / "state")
    assert set(state.tensors) == {"key/adapter/weight"}
    fresh = trained(tmp_path / "run", "key", steps=1)
    fresh.resume(state)
    assert fresh.adapter.state()["weight"].tolist() == [1.0, 2.0]
    assert not fresh.optimizer.state
    assert fresh.progress == Progress()


def test_names_that_begin_alike_are_not_mixed_up(tmp_path: Path) -> None:
    """Key 1 is a beginning of key 10."""
    runs = [trained(tmp_path / key, key, steps=steps) for key, steps in (("1", 1), ("10", 4))]
    save_state(tmp_path / "state", runs)
    fresh = copy.deepcopy(runs[1])
    fresh.key = "1"
    load_state(tmp_path / "state").restore(fresh)
    assert torch.equal(fresh.adapter.state()["weight"], runs[0].adapter.state()["weight"])
    assert float(moments(fresh)["step"]) == 1


def test_a_state_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path / "run", "key", steps=1)
    save_state(tmp_path / "state", [run])
    before = (tmp_path / "state").read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_state(tmp_path / "state", [trained(tmp_path / "run", "key", steps=2)])
    assert (tmp_path / "state").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("progress", ["3", "[]", '{"run": 3}', '{"run": [1]}'])
def test_counters_that_are_none_are_damage(progress: str, tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(save({"a": torch.ones(2)}, metadata={"progress": progress}))
    with pytest.raises(InputError, match=r"state\.safetensors is damaged \(its counters are no counters by run\)"):
        load_state(tmp_path / "state.safetensors")
