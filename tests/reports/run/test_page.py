from __future__ import annotations

import base64
import copy
import csv
import gzip
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.reports_run import HOSTILE, RECORD, write_run

from rango.decisions import Posteriors, summarise, write_posteriors
from rango.errors import InputError
from rango.files import read_json, write_json, write_yaml
from rango.reports.run.page import write_report
from rango.tasks.kept_texts import kept_texts_file

States = dict[str, Posteriors]
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, states: States) -> Path:
    """A page that tests only read."""
    return write_report(write_run(tmp_path_factory.mktemp("whole") / "run", RECORD, states))


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page(written.read_text(encoding="utf-8"))


def test_headline_and_bold_row_are_of_the_model_that_one_would_deploy(written: Path, states: States) -> None:
    text = written.read_text(encoding="utf-8")
    shown = re.findall(r'class="before">([\d.]+)</span>.*?<b>([\d.]+)</b>', text)
    expected = [(states["base"].nce(), states["calibrated"].nce())]
    expected += [(states["base"].error_rate(), states["calibrated"].error_rate())]
    assert shown == [(f"{before:.3f}", f"{after:.3f}") for before, after in expected]
    assert re.findall(r'<tr class="state-(\w+) deployed">', text) == ["calibrated"]


def test_page_tells_what_was_run_and_what_came_out(page: Page, written: Path) -> None:
    for words in (
        "phi-tiny adapted to simulated",
        "LoRA of rank 8 on q, v",
        "9,216 of 531,264 parameters trained (1.7%)",
        "1 min 35 s",
        "Adaptation helped.",
        "model is usable: better than the priors and than always the commonest class.",
        "of the distance from the priors to the floor.",
        "The adapted model is overconfident: its posteriors are not calibrated.",
        "the 600 test instances",
        "are right after adaptation only",
        "the same adaptation of a model with random weights",
        "lora.targets q, v",
        "data.validation bb02",
        "torch 2.13.0",
        "Best step by each metric on validation error_rate 200",
        "nce 140 (",
        "accuracy 20 (0.700)",
        "asked for 2,000 test instances, 600 exist: all taken",
        "Largest gains",
    ):
        assert words in page.text
    assert page.tags.count("figure") == 2 + 3 + 3 + 3
    adapted = read_json(written.parent / "metrics.json")["test"]["adapted"]["nce"]
    assert f"{adapted['value']:.3f} {adapted['low']:.3f} to {adapted['high']:.3f}" in page.text


def test_page_needs_nothing_from_outside(page: Page, written: Path) -> None:
    assert {"link", "img", "iframe", "object", "image"}.isdisjoint(page.tags)
    assert [value for name, value in page.attributes if name == "src"] == []
    assert all(value.startswith("#") for name, value in page.attributes if name.endswith("href"))
    text = written.read_text(encoding="utf-8")
    style, script = text.split("<style>")[1].split("</style>")[0], text.split("<script>")[1].split("</script>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert not {"fetch(", "innerHTML", "eval(", "import("} & set(re.findall(r"\w+\(|\w+", script))
    # The policy allows exactly this style and this script.
    policy = next(value for name, value in page.attributes if value.startswith("default-src 'none'"))
    for part, code in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{part} 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert not [name for name, _ in page.attributes if name == "style"]


def test_ids_are_unique_on_the_page(page: Page) -> None:
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_same_files_same_bytes(written: Path) -> None:
    first = written.read_bytes()
    assert write_report(written.parent).read_bytes() == first


def test_hostile_texts_stay_texts(tmp_path: Path, states: States) -> None:
    record: dict[str, Any] = copy.deepcopy(RECORD)
    record["model"]["name"] = record["config"]["model"] = f"owner/{HOSTILE[:8]}model"
    record["config"]["task"] = f'"><img src=x onerror=alert(1)>{HOSTILE}'
    record["notes"] = [HOSTILE]
    record["versions"][HOSTILE] = "{{ 7 * 7 }}"
    hostile = [HOSTILE + name for name in states["base"].ids]
    renamed = {
        key: Posteriors(p.log_posteriors, p.labels, hostile, None, p.choices)
        for key, p in states.items()
        if key != "prior"
    }
    page = page_of(write_run(tmp_path / "run", record, renamed))
    assert "img" not in page.tags
    assert page.tags.count("script") == 3, "the page's own: its words, its data, its code"
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) >= 4
    assert "{{ 7 * 7 }}" in page.text


def test_digests_are_in_the_record_and_not_on_the_page(tmp_path: Path, states: States) -> None:
    record = {**RECORD, "digests": {"texts.bin": "ab" * 32}, "machine": {"cores": 2}}
    shown = write_report(write_run(tmp_path / "run", record, states)).read_text()
    assert "abab" not in shown
    assert "texts.bin" not in shown
    assert "Machine" in shown


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("log.jsonl", "Learning curves: log.jsonl is not in the run directory."),
        ("metrics.json", "No verdict: there are no test metrics."),
        ("run.yaml", "an unnamed model adapted to an unnamed task"),
        ("posteriors/test-base.parquet", "posteriors/test-base.parquet is not in the run directory."),
        (
            "posteriors/test-adapted.parquet",
            "The adapted model: it is not known whether its posteriors are calibrated.",
        ),
        ("posteriors", "posteriors/test-adapted.parquet is not in the run directory."),
    ],
)
def test_missing_parts_are_named(run_dir: Path, part: str, words: str) -> None:
    path = run_dir / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert words in page_of(run_dir).text


def test_broken_parts_are_named_by_line_and_without_the_full_path(run_dir: Path) -> None:
    (run_dir / "log.jsonl").write_text('{"step": 1, "tra')
    (run_dir / "metrics.json").write_text("[]")
    (run_dir / "posteriors/test-base.parquet").write_text("no parquet")
    page = page_of(run_dir)
    assert "Learning curves: log.jsonl:1: not JSON" in page.text
    assert "metrics.json holds a list; expected a JSON object" in page.text
    assert str(run_dir) not in page.text


def test_a_cut_off_last_record_costs_that_record_only(run_dir: Path) -> None:
    with (run_dir / "log.jsonl").open("a") as file:
        file.write('{"step": 201, "tra')
    page = page_of(run_dir)
    assert page.tags.count("figure") == 11
    assert "log.jsonl:101: not JSON" in page.text


def test_a_run_of_a_task_without_floor_and_control(run_dir: Path) -> None:
    metrics = read_json(run_dir / "metrics.json")
    for state in ("floor", "control", "calibrated"):
        del metrics["test"][state]
        (run_dir / f"posteriors/test-{state}.parquet").unlink()
    write_json(run_dir / "metrics.json", metrics)
    page = page_of(run_dir)
    assert "The floor is" not in page.text, "what no real task can tell is not said"
    assert "Control" not in page.text
    assert "Notes" in page.words
    assert "test-floor.parquet" not in page.text


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_test_set_of_one_class_has_a_page_that_says_what_is_missing(
    tmp_path: Path, count: int, states: States
) -> None:
    rows = np.flatnonzero(states["base"].labels == 1)[:count]
    taken = {key: p.take(rows) for key, p in states.items()}
    taken["prior"] = taken["base"].prior_only()  # of these instances
    page = page_of(write_run(tmp_path / "run", RECORD, taken))
    assert "so nothing normalises; give instances with more than one label" in page.text
    assert "Whether adaptation helped is not known. NCE is undefined: the system that outputs the priors" in page.text
    reason = "NCE is undefined: the system that outputs the priors"
    assert f"The calibrated model is not shown to be usable. {reason}" in page.text
    assert page.tags.count("figure") == 11 - 2  # without NCE's intervals, and without the normalised cost
    assert "Error rate against coverage" in [value for name, value in page.attributes if name == "aria-label"]


def test_an_unfinished_run_says_so(run_dir: Path) -> None:
    write_yaml(run_dir / "run.yaml", {**RECORD, "status": "running", "notes": None})
    (run_dir / "metrics.json").unlink()
    assert "This run is not complete" in page_of(run_dir).text


def test_strange_records_do_not_break_the_page(run_dir: Path) -> None:
    strange = {
        "config": "text",
        "model": None,
        "versions": [1, 2],
        "notes": "one",
        "seconds": "long",
        "status": "complete",
    }
    write_yaml(run_dir / "run.yaml", strange)
    write_json(run_dir / "metrics.json", {"test": {"adapted": {"nce": {"value": float("inf"), "n": 3}}}})
    (run_dir / "posteriors" / "test-adapted.parquet").unlink()  # which says otherwise
    page = page_of(run_dir)
    assert "∞" in page.text
    assert "model is not usable: it rules out a right answer." in page.text


def test_folders_that_are_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder; give the folder of a run"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds neither run\.yaml nor metrics\.json; give the folder of a run"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_title_is_the_name_of_the_folder(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_dir)
    assert "<title>run: phi-tiny on simulated · Rango</title>" in write_report(Path()).read_text(encoding="utf-8")


def test_every_entry_of_the_contents_leads_to_a_section(page: Page) -> None:
    ids = {value for name, value in page.attributes if name == "id"}
    targets = {value[1:] for name, value in page.attributes if name == "href"}
    assert {"verdict", "result", "classes", "costs", "mistakes", "run"} <= targets
    assert targets <= ids


def test_a_page_says_what_was_asked(run_dir: Path, states: States) -> None:
    rows = [{"id": name, "context": f"Was it {HOSTILE} {name}?", "question": ""} for name in states["base"].ids]
    file = kept_texts_file(run_dir, "test")
    file.parent.mkdir()
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    page = page_of(run_dir)
    assert page.text.count(f"Was it {HOSTILE} question-") >= 20 + 6
    file.write_bytes(b"no gzip")
    page = page_of(run_dir)
    assert "instances/test.jsonl.gz cannot be read" in page.text
    assert str(run_dir) not in page.text


def test_numbers_are_on_the_page_as_csv(written: Path) -> None:
    text = written.read_text(encoding="utf-8").split('<pre id="csv"')[1].split(">", 1)[1].split("</pre>")[0]
    rows = {(row["state"], row["metric"]): row for row in csv.DictReader(io.StringIO(text))}
    stored = read_json(written.parent / "metrics.json")["test"]["adapted"]["nce"]
    adapted = rows["adapted", "nce"]
    assert [float(adapted[key]) for key in ("value", "low", "high")] == [stored[k] for k in ("value", "low", "high")]
    assert (adapted["n"], adapted["direction"]) == ("600", "lower")


def test_choices_of_their_own_show_a_bias_for_places(tmp_path: Path, states: States) -> None:
    words = [[f"{row}a", f"{row}b", f"{row}c"] for row in range(600)]
    own = {
        key: Posteriors(states[key].log_posteriors, states[key].labels, states[key].ids, None, words)
        for key in ("base", "adapted")
    }
    text = page_of(write_run(tmp_path / "run", RECORD, own)).text
    assert "Each instance has choices of its own, so that there are no classes to confuse." in text
    assert "A wrong choice costs 1, a right one nothing." in text
    assert "Confusion matrix" not in text


def test_page_of_an_evaluation_has_what_was_measured_and_no_training(tmp_path: Path, states: States) -> None:
    folder, adapted = tmp_path / "evaluation", states["adapted"].take(np.arange(60))
    record = {"status": "complete", "config": {"model": "base", "task": "simulated", "split": "validation", "seed": 0}}
    write_yaml(folder / "evaluation.yaml", record)
    measured = {key: summarise(p, replicates=20) for key, p in (("prior", adapted.prior_only()), ("adapted", adapted))}
    entries = {key: {name: value.as_dict() for name, value in row.items()} for key, row in measured.items()}
    write_json(folder / "metrics.json", {"validation": entries})
    write_posteriors(folder / "posteriors" / "validation-adapted.parquet", adapted)
    kept_texts_file(folder, "validation").parent.mkdir()
    line = json.dumps({"id": adapted.ids[0], "context": "An evaluated text.", "question": "?"})
    kept_texts_file(folder, "validation").write_bytes(gzip.compress(line.encode()))
    page = page_of(folder)
    for words in (
        "base evaluated on simulated",
        "validation split",
        "the 60 validation instances",
        "An evaluated text.",
    ):
        assert words in page.text
    for words in ("adapted to", "Learning", "Adaptation", "base → adapted", "not in the run directory", "to the floor"):
        assert words not in page.text
    prior, value = (measured[key]["nce"].value for key in ("prior", "adapted"))
    assert f"NCE, priors → model {prior:.3f} → {value:.3f}" in page.text
    assert "Cost explorer" in page.text
