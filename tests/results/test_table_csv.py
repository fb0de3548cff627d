from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest
from helpers.studies_made import changes_study, make_truth, placement_study

from rango.decisions import Posteriors
from rango.results.outcomes import Outcome
from rango.results.table import failure_text, study_table, table_csv, write_csv


def test_exact_text() -> None:
    fair = Posteriors.from_probabilities([[0.5, 0.5], [0.5, 0.5]], [0, 1])
    axes = {"lora.targets": ("q", "v"), "note": 'a "b", c', "train": None, "mc": True}
    outcomes = [Outcome(axes, {0: fair}), Outcome({**axes, "train": 16}, {}, failures={3: "out of\nmemory", 4: "NaN"})]
    lines = table_csv(study_table(outcomes, select="brier", replicates=0)).splitlines()
    metrics = ("error_rate", "nce", "cross_entropy", "brier", "ece", "accuracy")
    parts = ",".join(f"{name},{name}_spread,{name}_low,{name}_high" for name in metrics)
    assert lines[0] == f"kind,lora.targets,note,train,mc,seeds,n,{parts},mark,p,failed"
    values = f"0.5,,,,1.0,,,,{math.log(2)},,,,0.5,,,,0.0,,,,0.5,,,"
    assert lines[1] == f'configuration,"q,v","a ""b"", c",,true,1,2,{values},,,'
    assert lines[2] == f'configuration,"q,v","a ""b"", c",16,true,0,,{"," * 24},,seed 3: out of memory; seed 4: NaN'
    assert lines[3:] == [f"prior,,,,,,2,{values},,,"]


def test_numbers_come_back_as_they_were() -> None:
    table = study_table(placement_study(40), select="nce", replicates=20)
    lines = list(csv.DictReader(io.StringIO(table_csv(table))))
    rows = [line for line in lines if line["kind"] == "configuration"]
    priors = lines[len(rows) :]
    assert [(line["kind"], line["task"]) for line in priors] == [("prior", "socialiqa"), ("prior", "hellaswag")]
    assert [float(line["nce"]) for line in priors] == pytest.approx([1.0, 1.0])
    assert len(rows) == len(table.rows) == 16
    for line, row in zip(rows, table.rows, strict=True):
        for name, cell in row.cells.items():
            assert float(line[name]) == cell.mean
            assert line[f"{name}_spread"] == ("" if cell.spread is None else repr(cell.spread))
            assert float(line[f"{name}_low"]) == cell.low
        assert int(line["seeds"]) == len(row.seeds)
        assert line["mark"] == row.mark


def test_infinite_and_undefined(tmp_path: Path) -> None:
    sure = Posteriors.from_probabilities([[0.0, 1.0], [0.9, 0.1]], [0, 0])
    write_csv(tmp_path / "table.csv", study_table([Outcome({}, {0: sure})], select="brier", replicates=10))
    line, _prior = csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text()))
    assert (line["cross_entropy"], line["nce"], line["nce_low"]) == ("inf", "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_seeds_with_one_reason_share_it() -> None:
    outcome = Outcome({}, {0: make_truth(4)}, failures={1: "killed", 2: "killed", 3: "loss is NaN"})
    (row,) = study_table([outcome], select="nce", replicates=0).rows
    assert failure_text(row) == "seeds 1, 2: killed; seed 3: loss is NaN"


def test_held_out_loss_of_the_bases() -> None:
    facts = {"held_out_nats_per_token": 2.5, "held_out_bits_per_byte": 0.75, "seconds": 3.0}
    outcomes = [Outcome({"model": "a"}, {0: make_truth(4)}, facts=facts), Outcome({"model": "b"}, {0: make_truth(4)})]
    first, second, _prior = csv.DictReader(io.StringIO(table_csv(study_table(outcomes, select="nce", replicates=0))))
    assert (first["held_out_nats_per_token"], first["held_out_bits_per_byte"]) == ("2.5", "0.75")
    assert second["held_out_bits_per_byte"] == ""
    assert "seconds" not in first


def test_changes_from_a_centre_have_columns_of_their_own() -> None:
    table = study_table(changes_study(40), select="nce", replicates=20)
    lines = list(csv.DictReader(io.StringIO(table_csv(table))))
    assert [line["nce_change"] == "" for line in lines] == [False, True, False, False, False, False, True]
    change = table.rows[2].cells["nce"].change
    assert change is not None
    columns = ("nce_change", "nce_change_low", "nce_change_high", "nce_change_p")
    assert [float(lines[2][name]) for name in columns] == [change.value, change.low, change.high, change.p]
