"""`rango probe`: of a run, of a model, of an endpoint; what it prints and writes, and what it refuses in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command import SIZES, Capture, fails

import rango
from rango.cli import main
from rango.decisions import read_posteriors
from rango.errors import InputError
from rango.files import read_json, read_yaml
from rango.serving import asking
from rango.serving.asking import LoggedAnswer
from rango.serving.endpoint import Answer
from rango.serving.endpoint_evaluation import endpoint_scores
from rango.training.run_folder import Run

Checkpoint = Callable[..., Path]


@pytest.fixture(autouse=True)
def _few_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values do not depend on them, and intervals are tested in tests/decisions/test_robustness.py."""
    monkeypatch.setattr("rango.decisions.robustness.REPLICATES", 60)


def ran(capsys: Capture, *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def words(text: str) -> str:
    """What is printed, wherever lines break."""
    return " ".join(text.split())


@pytest.mark.usefixtures("plain_page")
def test_a_run_is_probed_in_its_own_folder(run: Path, capsys: Capture, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    out = ran(capsys, "probe", run, "--quiet")
    assert "none of these" in out
    assert "In the place of the right option" in out
    assert "right option removed" not in out, "it has no flips, and no row"
    assert "note: permute: the cloze form lists no options whose order could matter; left out" in words(out)
    assert "has every option that another instance has; left out" in words(out)
    assert "lacks {context}; the instances have no question beside their context; left out" in words(out)
    result = read_json(run / "probe/probe.json")
    assert result["status"] == "complete"
    assert set(result["changes"]) == {"remove-none", "remove"}
    # What it was compared with is what the run has stored.
    stored = Run(run).posteriors("calibrated")
    asked_again = read_posteriors(run / "probe/posteriors/test-original-calibrated.parquet")
    np.testing.assert_allclose(asked_again.log_posteriors, stored.log_posteriors, atol=1e-5)
    assert str(run / "report.html") in out
    # Repeated, it has nothing to ask; other changes are another probe.
    before = (run / "probe/probe.json").read_bytes()
    ran(capsys, "probe", run, "--quiet")
    assert (run / "probe/probe.json").read_bytes() == before
    assert "already holds other files" in fails(capsys, "probe", run, "--quiet", "--changes", "remove")
    # In Python it is the same probe, and the model that somebody has loaded is given back without the adapter.
    model = rango.load_model(read_yaml(run / "run.yaml")["config"]["model"])
    probed = rango.probe(run, loaded=model)
    assert (probed.folder, dict(probed.result)) == (run / "probe", result)
    rejected = result["changes"]["remove-none"]["rejected"]
    assert probed["remove-none"]["rejected"].value == rejected["value"]
    assert probed.posteriors("original-calibrated").ids == stored.ids
    assert repr(probed) == f"Probe({len(stored)} test instances, remove-none, remove)"
    assert "remove-none" in probed._repr_html_()
    own = rango.probe(f"{run}:adapted", changes="remove", limit=4, loaded=model, out=tmp_path / "adapted")
    np.testing.assert_allclose(
        own.posteriors().log_posteriors, Run(run).posteriors("adapted").log_posteriors[:4], atol=1e-5
    )
    with pytest.raises(InputError, match="unknown change 'permute' .known: remove, remove-none"):
        own["permute"]
    with pytest.raises(InputError, match="unknown variant 'reword-1'"):
        own.posteriors("reword-1")
    with pytest.raises(InputError, match="--orders is 3 but permute is not among the changes"):
        rango.probe(run, changes=("remove",), orders=3)
    wordings = tmp_path / "wordings.txt"
    wordings.write_text("Please read. {context}\n")
    options = ("--changes", "reword", "--questions", wordings, "--limit", "5", "--out", tmp_path / "own")
    ran(capsys, "probe", f"{run}:base", "--quiet", *options)
    # The posteriors of a change are a file that compare reads.
    files = [tmp_path / f"own/posteriors/test-{name}.parquet" for name in ("original", "reword-1")]
    assert "On 5 shared instances" in words(ran(capsys, "compare", *files))
    own = read_json(tmp_path / "own/probe.json")
    assert (own["n"], own["record"]["wordings"], own["calibrated"]) == (5, ["Please read. {context}"], False)
    base = read_posteriors(tmp_path / "own/posteriors/test-original.parquet")
    np.testing.assert_allclose(base.log_posteriors, Run(run).posteriors("base").log_posteriors[:5], atol=1e-5)


def test_a_model_is_probed_in_the_letter_form(
    checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("probe", checkpoint("phi"), table, *SIZES, "--form", "letter", "--orders", "2", "--quiet")
    outputs = {}
    for width in ("70", "130"):
        monkeypatch.setenv("COLUMNS", width)
        outputs[width] = ran(capsys, *command, "--out", tmp_path / "out")
        assert max(map(len, outputs[width].splitlines()[:20])) <= int(width)
    for title in ("other order (2)", "mean over 3 orders", "names 1, 2, 3", "names X, Y, Z"):
        assert title in outputs["130"]
        assert title.split()[0] in outputs["70"]
    result = read_json(tmp_path / "out/probe.json")
    flips = result["changes"]["permute"]["flips"]
    assert 0 <= flips["low"] <= flips["value"] <= flips["high"] <= 1
    assert flips["n"] == 40


def test_what_is_refused(run: Path, checkpoint: Checkpoint, table: Path, tmp_path: Path, capsys: Capture) -> None:
    model = (checkpoint("phi"), table, *SIZES)
    wordings = tmp_path / "wordings.txt"
    wordings.write_text("{question} {answer}\n")
    out = ("--out", tmp_path / "new")
    for arguments, message in (
        ((*model,), "--out is missing; give the folder to write"),
        ((*model, "--changes", "permutate", *out), "'permutate'"),
        ((*model, "--changes", "permute", *out), "permute: the cloze form lists no options whose order could matter"),
        ((*model, "--changes", "rename", *out), "rename: the cloze form has no names of options"),
        ((*model, "--questions", wordings, *out), "wordings.txt:1: {answer} is no place of a wording"),
        ((*model, "--questions", tmp_path / "no.txt", *out), "no.txt does not exist"),
        ((*model, "--orders", "0", *out), "orders"),
        ((run, "--gate", tmp_path / "gate.json", *out), "gate.json"),
        ((f"{run}:best", *out), "unknown state 'best'"),
        (("", *out), "MODEL is missing"),
        ((*model, "--split", "dev", *out), "split"),
    ):
        assert message in fails(capsys, "probe", *arguments), message
        assert not (tmp_path / "new").exists()
    wordings.write_text("{question} So?\n")
    assert "reword is not among the changes" in fails(
        capsys, "probe", *model, "--questions", wordings, "--changes", "remove", *out
    )
    assert "lacks {context}; the instances have no question" in fails(
        capsys, "probe", *model, "--questions", wordings, *out
    )


def test_an_endpoint_is_probed(table: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that gives the first option two thirds, in whatever order it is given."""

    def stub(*given: Any, **rest: Any) -> Any:
        instances, log = given[1], rest["log"]
        logs.append(log.name)
        shares = {size: np.log([2 / 3, *[1 / 3 / (size - 1)] * (size - 1)]) for size in (2, 3)}
        logged = {each.id: LoggedAnswer(Answer(tuple(shares[len(each.choices)]), "m"), 0.1) for each in instances}
        log.write_text(json.dumps({}))
        return logged, asking.Tally()

    logs: list[str] = []
    defaults: Callable[..., Any] = endpoint_scores
    monkeypatch.setitem(defaults.__kwdefaults__, "ask", stub)
    out = ran(capsys, "probe", "systemone:http://127.0.0.1:1#m", table, *SIZES, "--quiet", "--out", tmp_path / "out")
    result = read_json(tmp_path / "out/probe.json")
    assert result["changes"]["permute"]["flips"]["value"] == pytest.approx(0.8)
    assert set(result["changes"]) == {"permute", "averaged", "remove-none", "remove"}
    assert "those of an endpoint are fixed; left out" in words(out)
    assert logs[:2] == ["answers-original.jsonl", "answers-permute-1.jsonl"]
