"""`rango verify` on a run, an evaluation and a study: what is whole, damaged, missing, or does not agree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.toy import toy_task

from rango.checksums import digests
from rango.cli import main
from rango.decisions import write_posteriors
from rango.errors import InputError
from rango.files import read_yaml, write_json, write_yaml
from rango.models.loading import load_model
from rango.reports.tables import STATES
from rango.showing import short
from rango.training.finetune import finetune
from rango.training.run_folder import Run, posteriors_file
from rango.training.verification import verify


@pytest.fixture(scope="module")
def finished(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verified") / "run"
    task = toy_task(train=12, validation=9, test=15)
    finetune(load_model(checkpoint("phi"), device="cpu"), task, out=folder, steps=2, batch=4, validate_every=1)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_finished_run_is_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked = verify(run)
    assert checked.faults == ()
    assert checked.unknown == 0
    states = [posteriors for split in Run(run).metrics.values() for posteriors in split]
    assert checked.values >= 5 * len([state for state in states if state in ("base", "adapted", "calibrated")])
    assert main(["verify", str(run)]) == 0
    assert f"{checked.whole} files as written, 0 files without a digest" in capsys.readouterr().out
    assert set(read_yaml(run / "run.yaml")["digests"]) >= {
        "log.jsonl",
        "metrics.json",
        "adapter/best/adapter_config.json",
    }


def test_each_kind_of_file_is_missed_and_its_damage_seen(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [file for file in run.rglob("*") if file.is_file()]
    assert len(files) > 8
    for file in files:
        whole = file.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        file.write_bytes(flipped)
        faults = verify(run).faults
        assert any(str(file) in fault for fault in faults), file
        file.write_bytes(whole)
    shutil.rmtree(run / "instances")  # which anyone may do
    (run / "metrics.json").unlink()
    assert main(["verify", str(run)]) == 1
    printed = capsys.readouterr()
    assert f"{run / 'metrics.json'} is missing; {run / 'run.yaml'} lists it" in printed.out
    assert "has 1 fault; take what is damaged from a copy" in printed.err


def test_readers_refuse_what_was_changed(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["test"]["base"]["nce"]["value"] = 0.1
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=r"metrics.json is damaged or changed: .* that .*run.yaml lists"):
        _ = Run(run).metrics
    (run / "log.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"log.jsonl is damaged or changed"):
        _ = Run(run).log


def test_posteriors_of_another_run_are_not_taken_for_its_own(run: Path) -> None:
    files = [posteriors_file(run, state, "test") for state in ("base", "adapted")]
    shutil.copyfile(files[1], files[0])  # whole, with a digest of its own that fits
    with pytest.raises(InputError, match=r"test-base.parquet is damaged or changed: .* that .*run.yaml lists"):
        Run(run).posteriors("base")
    shown = Run(run).contents(["base", "adapted"])
    assert set(shown.posteriors) == {"adapted"}
    assert "damaged or changed" in shown.missing["posteriors/test-base.parquet"]


def test_metrics_of_other_posteriors_are_seen(run: Path) -> None:
    # Written as Rango writes them, by somebody who took the posteriors of another run.
    other = Run(run).posteriors("adapted")
    write_posteriors(posteriors_file(run, "base", "test"), other)
    record = read_yaml(run / "run.yaml")
    del record["digests"]
    write_yaml(run / "run.yaml", record)
    faults = verify(run).faults
    assert any("metrics.json: test.base.cross_entropy is" in fault for fault in faults)
    write_json(run / "metrics.json", {"test": {"base": {"nce": {"value": 1}}}})
    assert any("expected a file that Rango wrote" in fault for fault in verify(run).faults)


def test_costs_that_are_stated_later_keep_the_run_whole(run: Path) -> None:
    assert main(["report", str(run), "--costs", "abstain=0.3"]) == 0
    checked = verify(run)
    assert checked.faults == ()
    assert read_yaml(run / "run.yaml")["costs"] == {"abstain": 0.3}


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert "holds neither run.yaml nor metrics.json" in capsys.readouterr().err


def test_a_report_shows_no_metrics_that_its_posteriors_do_not_give(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The digests hold, since somebody has written both. The page leaves the metrics out and says which is another."""
    states = [state.key for state in STATES]
    assert "metrics.json" not in Run(run).contents(states).missing
    metrics = json.loads((run / "metrics.json").read_text())
    true = metrics["test"]["adapted"]["nce"]["value"]
    metrics["test"]["adapted"]["nce"]["value"] = true - 0.25
    write_json(run / "metrics.json", metrics)
    record = read_yaml(run / "run.yaml")
    write_yaml(run / "run.yaml", {**record, "digests": {**record["digests"], **digests(run, ["metrics.json"])}})

    contents = Run(run).contents(states)
    assert contents.metrics == {}
    assert contents.missing["metrics.json"].startswith(
        f"metrics.json: test.adapted.nce is {true - 0.25:.6g}, and the posteriors give {true:.6g}"
    )
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert f"test.adapted.nce is {true - 0.25:.6g}" in page
    assert short(true - 0.25) not in page.replace(f"{true - 0.25:.6g}", "")
    # A comparison computes from the posteriors, whatever stands in metrics.json.
    out = run.parent / "compared.json"
    assert main(["compare", f"{run}:base", f"{run}:adapted", "--out", str(out), "--replicates", "20"]) == 0
    assert f"{true:.6f}"[:6] in out.read_text()
    capsys.readouterr()
