"""Which runs are served: their names, and what is refused before a model is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rango.errors import InputError
from rango.serving.served_run import read_served


def test_a_run_is_called_as_its_folder_or_as_one_says(runs: dict[str, Path]) -> None:
    served = read_served([str(runs["moods"]), f"raw:1={runs['moods']}:base", str(runs["yes"])])
    assert {name: run.state for name, run in served.items()} == {
        "moods": "calibrated",
        "raw:1": "base",
        "yes": "calibrated",
    }
    moods = served["moods"]
    assert (moods.task.form, moods.task.classes) == ("cloze", ("happy", "sad", "angry"))
    assert moods.entry["rango"]["costs"] == "costs: a wrong choice 1, abstaining 0.4"
    assert moods.entry["release_date"].count("-") == 2
    assert "base model" in served["raw:1"].entry["description"]
    assert served["yes"].entry["rango"]["prompt"] == "{text} {again}\nAnn?"


def test_what_cannot_be_served_is_refused_without_a_model(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run to serve"):
        read_served([])
    with pytest.raises(InputError, match="two runs are called moods; give one of them another name: moods-2="):
        read_served([str(runs["moods"]), str(runs["moods"])])
    with pytest.raises(InputError, match="is not a folder"):
        read_served([str(tmp_path / "nothing")])
    other = tmp_path / "other"
    shutil.copytree(runs["moods"], other)
    _, record = (other / "run.yaml").read_text().split("\n", 1)  # without the digest of what is changed now
    fingerprint = next(line for line in record.splitlines() if line.strip().startswith("model: ") and "/" not in line)
    (other / "run.yaml").write_text(record.replace(fingerprint, "  model: 'ff'"))
    with pytest.raises(InputError, match="moods has base .* and other has ff: runs are served together on one base"):
        read_served([str(runs["moods"]), str(other)])
    (other / "run.yaml").write_text(record.replace("status: complete", "status: running"))
    with pytest.raises(InputError, match="is not complete"):
        read_served([str(other)])
