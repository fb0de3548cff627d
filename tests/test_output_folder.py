"""A folder that is written: by one process at a time, and never through a link that leads out of it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command import Capture, fails
from helpers.reports_run import RECORD, make_states, write_run
from helpers.studies_made import hostile_study

from rango.errors import InputError
from rango.files import write_text, write_yaml
from rango.options import EvaluateConfig, FinetuneConfig
from rango.output_folder import check_links, new_folder, only_writer
from rango.reports.run.page import write_report
from rango.reports.study.report import write_study
from rango.studies.execution import prepare
from rango.studies.study import Study
from rango.training.evaluation_of_run import check_evaluation_output
from rango.training.run_writer import open_output

HOLD = (
    "import sys, time; from pathlib import Path; from rango.output_folder import only_writer\n"
    "with only_writer(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


def test_the_second_process_is_told_who_writes_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "a" / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        message = rf"--out \S*run is being written by process {holder.pid} on \S+, begun .*; wait until it"
        with pytest.raises(InputError, match=message), only_writer(out):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    finally:
        holder.kill()
        holder.stdout.close()
    assert (out / ".lock").is_file()
    with only_writer(out):
        assert f"process {os.getpid()} " in (out / ".lock").read_text()
    assert list(out.iterdir()) == []


def test_nothing_is_left_of_a_folder_in_which_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bad data"), only_writer(tmp_path / "a" / "b"):
        raise InputError("bad data")
    with only_writer(tmp_path / "c", tmp_path / ".c.lock"):
        assert (tmp_path / ".c.lock").is_file()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_written_is_named_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left on device") as raised, only_writer(tmp_path / "out"):
        pass
    assert raised.value.filename == str(tmp_path / "out" / ".lock")
    assert not (tmp_path / "out").exists()


def test_a_lock_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="cannot be written to"), only_writer(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_links_that_stay_inside_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real" / "a").mkdir(parents=True)
    (tmp_path / "real" / "b").symlink_to("a")
    (tmp_path / "run").symlink_to("real")
    check_links(tmp_path / "run")
    check_links(tmp_path / "absent")
    (tmp_path / "real" / "a" / "c").symlink_to("../../outside")
    with pytest.raises(InputError, match=r"run/a/c leads out of \S*run, to \S*outside, and Rango does not write"):
        check_links(tmp_path / "run")
    check_links(tmp_path / "run", "report.html")
    with pytest.raises(InputError, match="leads out of"):
        check_links(tmp_path / "run", "a")


@pytest.mark.parametrize("name", ["log.jsonl", "adapter", ".run.yaml", "posteriors/test-base.parquet"])
def test_runs_evaluations_and_studies_with_such_links_are_refused(tmp_path: Path, name: str) -> None:
    run, task = tmp_path / "run", "simulated"
    config = FinetuneConfig(model="m", task=task)
    write_yaml(run / "run.yaml", {"config": config.model_dump(mode="json"), "fingerprints": {}})
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="leads out of"):
        open_output(run, config, {})
    with pytest.raises(InputError, match="leads out of"):
        check_evaluation_output(run, EvaluateConfig(model="m", task=task))
    with pytest.raises(InputError, match="leads out of"):
        prepare(Study(name="s", base={"model": "m", "task": task}), run)


def test_reports_do_not_follow_links_either(tmp_path: Path, capsys: Capture) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    run = write_run(tmp_path / "run", RECORD, make_states(30))
    (run / "report.html").symlink_to(precious)
    with pytest.raises(InputError, match=r"report.html leads out of"):
        write_report(run)
    assert "leads out of" in fails(capsys, "report", run)
    for name in ("table.csv", "figures", "figures/curves.pdf"):
        study = tmp_path / name.replace("/", "-")
        (study / name).parent.mkdir(parents=True)
        (study / name).symlink_to(precious)
        with pytest.raises(InputError, match="leads out of"):
            write_study(study, hostile_study(), replicates=0)
    assert precious.read_text() == "mine"


def test_the_path_that_the_user_gives_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "target").read_text() == "new"


def test_a_new_folder_is_whole_or_absent(tmp_path: Path) -> None:
    out, leftover = tmp_path / "out", tmp_path / ".out.killed.tmp"
    leftover.mkdir()
    with pytest.raises(FileNotFoundError), new_folder(out) as work:
        (work / "half.txt").write_text((work / "missing.txt").read_text())
    assert list(tmp_path.iterdir()) == []
    out.mkdir()  # an empty folder may stand there already
    with new_folder(out) as work:
        (work / "whole.txt").write_text("whole")
        with pytest.raises(InputError, match="is being written by process"), new_folder(out):
            pass
    assert [file.name for file in out.iterdir()] == ["whole.txt"]
    (tmp_path / "other").mkdir()
    assert out.stat().st_mode == (tmp_path / "other").stat().st_mode  # as any folder that the user makes
    with pytest.raises(InputError, match="exists already; give a folder that does not exist yet"), new_folder(out):
        pass
    assert [file.name for file in out.iterdir()] == ["whole.txt"]
