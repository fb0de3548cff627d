"""A run directory is read strictly by `Run`, tolerantly by `Run.contents`, and written whole by `RunWriter`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.run_record import CONFIG, FINGERPRINTS, POSTERIORS, RECORD

from rango.decisions import Estimate, Posteriors, write_posteriors
from rango.errors import InputError
from rango.files import write_json, write_yaml
from rango.training.run_folder import Run, read_log
from rango.training.run_writer import RunWriter, open_output


def test_what_the_writer_stores_is_what_the_reader_gives(writer: RunWriter) -> None:
    estimate = Estimate(0.5, 0.25, 0.75, 2, "lower")
    writer.append_log({"step": 0})
    writer.write_posteriors("base", "test", POSTERIORS)
    writer.write_letter_mass("base", 0.9)
    writer.write_metrics({"test": {"base": {"nce": estimate}}})
    (writer.path / "state").mkdir()
    assert not Run(writer.path).complete
    writer.finish(steps=2)
    run = Run(writer.path)
    assert run.complete
    assert run.config == CONFIG
    assert (run.record["most_steps"], run.record["steps"], run.record["letter_mass"]) == (2, 2, {"base": 0.9})
    assert run.log == [{"step": 0}]
    assert run.metrics == {"test": {"base": {"nce": estimate}}}
    np.testing.assert_array_equal(run.posteriors("base").log_posteriors, POSTERIORS.log_posteriors)
    assert not (writer.path / "state").exists(), "what only a resume needs goes with the end"


def test_what_is_not_there_is_named(writer: RunWriter, tmp_path: Path) -> None:
    run = Run(writer.path)
    with pytest.raises(InputError, match=r"has no metrics\.json; the run is not complete, repeat its command"):
        _ = run.metrics
    with pytest.raises(InputError, match=r"has no posteriors test-base; there are: none"):
        run.posteriors("base")
    writer.write_posteriors("floor", "test", POSTERIORS)
    with pytest.raises(InputError, match=r"has no posteriors test-base; there are: test-floor"):
        run.posteriors("base")
    with pytest.raises(InputError, match=r"run\.yaml has no versions; expected a file that rango finetune wrote"):
        run.part("versions")
    with pytest.raises(InputError, match=r"nowhere is not a folder; give the folder of a run"):
        Run(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds neither run\.yaml nor metrics\.json; give the folder of a run"):
        Run(tmp_path)
    write_json(tmp_path / "metrics.json", {})
    with pytest.raises(InputError, match=r"holds no run\.yaml; expected the output folder of rango finetune"):
        _ = Run(tmp_path).record


BROKEN_METRICS: list[tuple[dict[str, Any], str]] = [
    ({"test": 3}, "metrics.json: test is a int; expected an object of states"),
    ({"test": {"base": [1]}}, "metrics.json: test.base is a list; expected an object of metrics"),
    ({"test": {"base": {"nce": 1.0}}}, "metrics.json: test.base.nce is a float; expected an object of numbers"),
    ({"test": {"base": {"nce": {"low": "x"}}}}, "metrics.json: test.base.nce.low is 'x'; expected a number"),
]


@pytest.mark.parametrize(("metrics", "message"), BROKEN_METRICS)
def test_metrics_of_another_shape_are_noted_by_contents_and_raised_by_the_property(
    tmp_path: Path, metrics: dict[str, Any], message: str
) -> None:
    write_json(tmp_path / "metrics.json", metrics)
    contents = Run(tmp_path).contents(())
    assert contents.metrics == {}
    assert contents.missing["metrics.json"] == message
    with pytest.raises(InputError, match=message.rpartition(": ")[2]):
        _ = Run(tmp_path).metrics


def test_metrics_as_they_should_be_are_read(tmp_path: Path) -> None:
    metrics = {"test": {"base": {"nce": {"value": 0.5, "low": None, "note": "one class"}}}, "validation": {}}
    write_json(tmp_path / "metrics.json", metrics)
    contents = Run(tmp_path).contents(())
    assert contents.metrics == metrics
    assert "metrics.json" not in contents.missing


def test_contents_keep_what_can_be_read_and_name_the_rest(writer: RunWriter) -> None:
    writer.append_log({"step": 0})
    with (writer.path / "log.jsonl").open("a") as file:
        file.write('{"step": 1, "tr')
    writer.write_posteriors("base", "test", POSTERIORS)
    (writer.path / "posteriors" / "test-adapted.parquet").write_text("no parquet")
    contents = Run(writer.path).contents(["base", "adapted", "floor"])
    assert contents.log == ({"step": 0},)
    assert contents.record["status"] == "running"
    assert list(contents.posteriors) == ["base"]
    assert contents.missing["metrics.json"] == "metrics.json is not in the run directory"
    assert contents.missing["posteriors/test-floor.parquet"].endswith("is not in the run directory")
    assert contents.missing["log.jsonl"].startswith("log.jsonl:2: not JSON")
    assert "is not a Parquet file" in contents.missing["posteriors/test-adapted.parquet"]
    assert not any(str(writer.path) in reason for reason in contents.missing.values())


def test_reading_a_run_needs_no_model_library() -> None:
    program = "import sys, rango.training.run_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seconds", "soon"), ("seconds", float("inf")), ("fingerprints", ["a"]), ("letter_mass", 0.5), ("notes", "one"),
        ("best_step", "x"), ("best_step", True), ("status", ["complete"]), ("config", 3),
    ],
)  # fmt: skip
def test_a_damaged_record_is_one_line(writer: RunWriter, key: str, value: object) -> None:
    write_yaml(writer.path / "run.yaml", {**RECORD, key: value})
    with pytest.raises(InputError, match=f"run.yaml: {key} is .*; expected .*, as rango finetune writes it"):
        open_output(writer.path, CONFIG, FINGERPRINTS)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("", [1]), ("base", None), ("base.nce", 0.5), ("base.nce", {}), ("base.nce.low", "x"), ("base.nce.value", []),
        ("base.nce.n", None), ("base.nce.n", -1), ("base.nce.note", {}), ("base.nce.mean", 1.0),
    ],
)  # fmt: skip
def test_damaged_metrics_are_one_line(writer: RunWriter, place: str, value: object) -> None:
    metrics: dict[str, Any] = {"test": {"base": {"nce": Estimate(0.5, 0.25, 0.75, 2, "lower").as_dict()}}}
    *path, last = f"test.{place}".rstrip(".").split(".")
    inner = metrics
    for key in path:
        inner = inner[key]
    inner[last] = value
    write_json(writer.path / "metrics.json", metrics)
    with pytest.raises(InputError, match=r"metrics.json: .*; expected"):
        _ = Run(writer.path).metrics


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000, '{"step": "x"}', '{"step": 1, "validation": [1]}', '{"step": 1, "validation": {"nce": "low"}}',
        "3", "{}", f'{{"step": 1{"0" * 400}}}', '{"step": -1}',
    ],
)  # fmt: skip
def test_a_damaged_log_ends_where_it_is_damaged_and_the_report_says_so(writer: RunWriter, line: str) -> None:
    writer.append_log({"step": 0})
    with (writer.path / "log.jsonl").open("a") as file:
        file.write(line + "\n")
    assert read_log(writer.path) == [{"step": 0}]
    contents = Run(writer.path).contents([])
    assert contents.log == ({"step": 0},)
    assert contents.missing["log.jsonl"].startswith("log.jsonl:2: ")


def test_stated_costs_are_those_of_the_choices(tmp_path: Path) -> None:
    """A rule or a matrix with rows in another order becomes one row for each column; a run without costs has none."""
    (tmp_path / "run.yaml").write_text("status: complete\n")
    assert Run(tmp_path).costs is None
    posteriors = Posteriors(np.log([[0.9, 0.1]]), [0], choices=[("no", "yes")])
    (tmp_path / "run.yaml").write_text("costs: {abstain: 0.3}\n")
    with pytest.raises(InputError, match="has no posteriors yet"):
        _ = Run(tmp_path).costs
    write_posteriors(tmp_path / "posteriors" / "test-base.parquet", posteriors)
    costs = Run(tmp_path).costs
    assert costs is not None
    assert (costs.classes, costs.decisions) == (("no", "yes"), ("no", "yes", "abstain"))
    (tmp_path / "run.yaml").write_text("costs: {classes: [yes, no], costs: [[0, 5], [2, 0]]}\n")
    assert Run(tmp_path).contents(["base"]).costs.matrix.tolist() == [[2, 0], [0, 5]]  # type: ignore[union-attr]
    # Costs of other choices cost the page its costs only, with the reason.
    (tmp_path / "run.yaml").write_text("costs: {classes: [a, b], costs: [[0, 5], [2, 0]]}\n")
    contents = Run(tmp_path).contents(["base"])
    assert contents.costs is None
    assert "unknown class of the costs 'a'" in contents.missing["run.yaml"]
    # An evaluation has its own record, in which letter_mass is a number.
    (tmp_path / "run.yaml").rename(tmp_path / "evaluation.yaml")
    (tmp_path / "evaluation.yaml").write_text("letter_mass: 0.9\ncosts: {abstain: 0.2}\n")
    (tmp_path / "metrics.json").write_text("{}")
    assert Run(tmp_path).costs.decisions == ("no", "yes", "abstain")  # type: ignore[union-attr]


def test_a_study_is_not_taken_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="is a study; give one of its runs, a folder in .*runs"):
        Run(tmp_path)
