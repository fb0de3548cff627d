"""What an evaluation takes from a run's folder, and which data it refuses, without any model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from rango.errors import InputError
from rango.files import write_yaml
from rango.options import EvaluateConfig, FinetuneConfig
from rango.tasks import Task, load_task
from rango.training.evaluation_of_run import as_the_run, check_data, run_of

SIZES = {"train": 12, "validation": 6, "test": 6}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    moods = {"happy": "sings", "sad": "cries"}
    rows = [
        {"text": f"{name} {deed} on day {day}", "mood": mood}
        for day in range(6)
        for name in ("Ann", "Bo")
        for mood, deed in moods.items()
    ]
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.yaml").write_text(yaml.safe_dump({"prompt": "{text}. Mood:", "choices": [*moods], "label": "mood"}))
    return folder


@pytest.fixture
def run(tmp_path: Path, table: Path) -> Path:
    """The folder of a run that left the form to its task."""
    settings = {"model": "phi", "task": str(table), "normalise": "tokens", "shots": 2, "data_seed": 3, **SIZES}
    config = FinetuneConfig.build(settings)
    record = {
        "config": config.model_dump(mode="json"),
        "form": "letter",
        "fingerprints": {"task": load_task(str(table), config).fingerprint},
    }
    write_yaml(tmp_path / "run" / "run.yaml", record)
    return tmp_path / "run"


def config_of(table: Path, adapter: Path, **settings: Any) -> EvaluateConfig:
    return EvaluateConfig.build({"model": "phi", "task": str(table), "adapter": str(adapter), **settings})


def load(table: Path, **settings: Any) -> Task:
    return load_task(str(table), EvaluateConfig.build({"model": "phi", "task": str(table), **SIZES, **settings}))


def test_an_adapter_belongs_to_the_run_whose_folder_holds_it(run: Path, tmp_path: Path) -> None:
    for adapter in (run, run / "adapter" / "best", run / "adapter" / "last"):
        owner = run_of(adapter)
        assert owner is not None
        assert owner.path == run
    assert run_of(None) is None
    assert run_of(tmp_path / "downloaded") is None
    (run / "run.yaml").write_text("status: complete\n")
    with pytest.raises(InputError, match=r"run\.yaml has no config; expected a file that rango finetune wrote"):
        run_of(run)


def test_what_is_left_open_is_that_of_the_run(run: Path, table: Path) -> None:
    config, notes = as_the_run(config_of(table, run))
    assert (config.form, config.normalise, config.shots, config.data_seed) == ("letter", "tokens", 2, 3)
    assert {name: getattr(config, name) for name in SIZES} == SIZES
    (note,) = notes
    assert note.startswith(f"as in {run / 'run.yaml'}: form letter, normalise tokens, shots 2, ")
    given, _ = as_the_run(config_of(table, run, form="cloze", test=5))
    assert (given.form, given.test, given.normalise) == ("cloze", 5, "tokens"), "what is given stays"
    alone = EvaluateConfig.build({"model": "phi", "task": str(table)})
    assert as_the_run(alone) == (alone, ())


def test_another_task_keeps_its_own_data(run: Path, table: Path, tmp_path: Path) -> None:
    other = shutil.copytree(table, tmp_path / "other")
    rows = (other / "rows.jsonl").read_text()
    (other / "rows.jsonl").write_text(rows.replace("day", "night"))
    config, _ = as_the_run(config_of(other, run))
    assert (config.form, config.data_seed, config.train) == ("letter", 0, 5000)
    (note,) = check_data(load(other), config)
    assert note == f"the adapter of {run} was trained on another task, {table}"
    named, _ = as_the_run(config_of(Path("socialiqa"), run))
    assert named.data_seed == 0, "the name of a task is no path of a table"


def test_a_table_is_known_by_its_folder_its_file_or_its_content(run: Path, table: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(table, tmp_path / "copy")
    for place in (table, table / "rows.jsonl", copy):
        assert as_the_run(config_of(place, run))[0].data_seed == 3
        assert check_data(load(place, data_seed=3), config_of(place, run, data_seed=3, **SIZES)) == ()


def test_data_that_the_run_has_seen_are_refused(run: Path, table: Path) -> None:
    config = config_of(table, run, data_seed=4, **SIZES)
    expected = r"of the 6 test instances have contexts that .* trained or validated on \(data_seed is 4, there 3\)"
    with pytest.raises(InputError, match=expected):
        check_data(load(table, data_seed=4), config)
    (note,) = check_data(load(table, data_seed=4), config.model_copy(update={"other_data": True}))
    assert note == f"not the data of {run}: instances that it was trained on may be among these"
    training = config.model_copy(update={"split": "train"})
    assert check_data(load(table, data_seed=4), training) == (), "its training split claims nothing"


def test_a_table_that_has_changed_is_refused(run: Path, table: Path) -> None:
    rows = (table / "rows.jsonl").read_text()
    (table / "rows.jsonl").write_text(rows.replace("Bo", "Jo"))
    with pytest.raises(InputError, match=r"is not what .*run was trained on \(fingerprint [0-9a-f]+, now [0-9a-f]+\)"):
        check_data(load(table, data_seed=3), config_of(table, run, data_seed=3, **SIZES))
