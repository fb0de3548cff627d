"""An evaluation of one split: its metrics and files, and the output folders that it refuses."""

from __future__ import annotations

import contextlib
import errno
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.toy import toy_task

from rango.console import Screen
from rango.decisions import read_posteriors
from rango.errors import InputError
from rango.files import read_json, read_yaml
from rango.models.loading import load_model
from rango.options import EvaluateConfig, ScoringOptions
from rango.scoring.orders import score_orders
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import evaluate
from rango.training.evaluate import check_not_empty, measure, true_posteriors, write_evaluation
from rango.training.run_folder import Run

Checkpoint = Callable[..., Path]
QUIET = Screen(quiet=True)


def test_true_posteriors_are_there_only_where_every_instance_has_one() -> None:
    instances = toy_task().test[:2]
    assert true_posteriors(instances) is None
    known = [
        replace(one, log_posterior=tuple(np.log([0.5, *[0.5 / (len(one.choices) - 1)] * (len(one.choices) - 1)])))
        for one in instances
    ]
    assert true_posteriors([known[0], instances[1]]) is None
    floor = true_posteriors(known)
    assert floor is not None
    assert floor.ids == tuple(one.id for one in instances)
    np.testing.assert_allclose(np.exp(floor.log_posteriors[:, 0]), 0.5)


def test_files_of_an_evaluation(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model, task = load_model(checkpoint("phi")), toy_task(test=6)
    config = EvaluateConfig(model="phi", task="toy", seed=5)
    metrics = write_evaluation(model, task, out=tmp_path / "out", config=config, screen=QUIET)
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"posteriors/test-base.parquet", "instances/test.jsonl.gz", "metrics.json", "evaluation.yaml"}
    expected = evaluate(model, task.test, task=task)
    stored = read_posteriors(tmp_path / "out" / "posteriors" / "test-base.parquet")
    np.testing.assert_array_equal(stored.log_posteriors, expected.log_posteriors)
    assert metrics == measure({"base": expected}, seed=5)
    assert read_json(tmp_path / "out" / "metrics.json")["test"]["base"]["nce"]["value"] == metrics["base"]["nce"].value
    record = read_yaml(tmp_path / "out" / "evaluation.yaml")
    assert EvaluateConfig.build(record["config"]) == config
    assert record["fingerprints"] == {"model": model.fingerprint, "task": task.fingerprint}
    assert record["tokens"] > 0
    assert "letter_mass" not in record, "the cloze form has no letters"


def test_a_folder_is_written_again_only_by_the_same_evaluation(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model, task = load_model(checkpoint("phi")), toy_task(test=4)
    config = EvaluateConfig(model="phi", task="toy", form="letter")
    write_evaluation(model, task, out=tmp_path / "out", config=config, screen=QUIET)
    before = (tmp_path / "out" / "metrics.json").read_bytes()
    assert 0 < read_yaml(tmp_path / "out" / "evaluation.yaml")["letter_mass"] <= 1
    write_evaluation(model, task, out=tmp_path / "out", config=config, screen=QUIET)
    assert (tmp_path / "out" / "metrics.json").read_bytes() == before
    other = EvaluateConfig(model="phi", task="toy", form="cloze")
    with pytest.raises(InputError, match="out already holds other files; give a folder that does not exist yet"):
        write_evaluation(model, task, out=tmp_path / "out", config=other, screen=QUIET)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file is a file; give a folder that does not exist yet"):
        write_evaluation(model, task, out=tmp_path / "file", config=other, screen=QUIET)


def test_shots_may_leave_nothing() -> None:
    check_not_empty(toy_task(test=1).test, shots=4)
    with pytest.raises(InputError, match="the 4 shots are the whole training split; ask for fewer"):
        check_not_empty((), shots=4)


def test_evaluation_with_shots(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model, task = load_model(checkpoint("phi", max_position_embeddings=512)), toy_task(train=12, validation=6, test=6)
    config = EvaluateConfig(model="phi", task="toy", shots=3, shots_seed=5, split="train")
    write_evaluation(model, task, out=tmp_path, config=config, screen=QUIET)
    record = read_yaml(tmp_path / "evaluation.yaml")
    assert (record["config"]["shots"], record["config"]["shots_seed"]) == (3, 5)
    assert record["fingerprints"]["task"] == task.fingerprint


def test_the_mean_over_orders_is_written_and_stands_in_the_record(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model, task = load_model(checkpoint("phi")), toy_task(test=6)
    config = EvaluateConfig(model="phi", task="toy", form="letter", orders=3, seed=2)
    write_evaluation(model, task, out=tmp_path / "out", config=config, screen=QUIET)
    options = ScoringOptions(form="letter")
    reader = probe_reader(model)
    expected = score_orders(reader, task.test, task=task, options=options, orders=3, seed=2)
    stored = Run(tmp_path / "out").posteriors("base")
    np.testing.assert_array_equal(stored.log_posteriors, expected.posteriors.log_posteriors)
    record = read_yaml(tmp_path / "out" / "evaluation.yaml")
    assert (record["config"]["orders"], record["tokens"]) == (3, expected.tokens)
    one = evaluate(model, task.test, task=task, options=options)
    assert not np.allclose(np.exp(stored.log_posteriors), np.exp(one.log_posteriors), atol=1e-6)
    # Another number of orders is another evaluation.
    other = config.model_copy(update={"orders": 2})
    with pytest.raises(InputError, match="already holds other files"):
        write_evaluation(model, task, out=tmp_path / "out", config=other, screen=QUIET)
    cloze = EvaluateConfig(model="phi", task="toy", orders=2)
    with pytest.raises(InputError, match="orders is 2, but the cloze form lists no options"):
        write_evaluation(model, task, out=tmp_path / "cloze", config=cloze, screen=QUIET)
    with pytest.raises(InputError, match="mc_dropout is 2 and orders is 3: give one of them"):
        EvaluateConfig.build({**config.model_dump(), "mc_dropout": 2, "adapter": "x"})


class Killed(BaseException):
    """The process ends here: no `except Exception` may go on."""


@pytest.mark.parametrize("before_rename", [True, False])
def test_a_killed_evaluation_is_repeated_with_the_same_result(
    before_rename: bool, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = load_model(checkpoint("phi")), toy_task(test=4)
    config = EvaluateConfig(model="phi", task="toy")

    def run(out: Path) -> None:
        write_evaluation(model, task, out=out, config=config, screen=QUIET)

    run(tmp_path / "whole")
    replace_file = Path.replace
    # Killed before or behind each rename, which is what makes a file appear.
    for number in itertools.count():
        out, renames = tmp_path / f"out{number}", itertools.count()

        def killed(self: Path, target: Path, renames: Iterator[int] = renames, number: int = number) -> Path:
            this = next(renames) == number
            if this and before_rename:
                raise Killed
            renamed = replace_file(self, target)
            if this:
                raise Killed
            return renamed

        with monkeypatch.context() as patched, contextlib.suppress(Killed):
            patched.setattr(Path, "replace", killed)
            run(out)
            break
        run(out)
        for name in ("metrics.json", "posteriors/test-base.parquet"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        assert read_yaml(out / "evaluation.yaml")["status"] == "complete"
        assert {path.name for path in out.iterdir()} == {"posteriors", "instances", "metrics.json", "evaluation.yaml"}
    assert number == 5


def test_metrics_of_before_do_not_stand_beside_new_posteriors(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config = load_model(checkpoint("phi")), EvaluateConfig(model="phi", task="toy")
    write_evaluation(model, toy_task(test=4), out=tmp_path, config=config, screen=QUIET)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rango.training.run_writer.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        write_evaluation(model, toy_task(test=6), out=tmp_path, config=config, screen=QUIET)
    assert read_yaml(tmp_path / "evaluation.yaml")["status"] == "running"
    with pytest.raises(InputError, match="holds neither run.yaml nor metrics.json"):
        Run(tmp_path)
