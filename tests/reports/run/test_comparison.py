"""The page of a comparison: its numbers are those of `compare`, and its list shows where systems disagree."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.reports_run import HOSTILE

from rango.decisions import Posteriors, write_posteriors
from rango.decisions.significance import holm
from rango.decisions.summary import Comparison, compare
from rango.errors import InputError
from rango.reports.run.comparison import texts_beside, write_comparison
from rango.reports.run.findings import resolution_sentence
from rango.reports.run.instances import disagreements
from rango.tasks.kept_texts import KeptText, kept_texts_file

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
Systems = dict[str, Posteriors]


@pytest.fixture(scope="module")
def systems(states: dict[str, Posteriors]) -> Systems:
    names = {"one": "base", "two": "adapted", HOSTILE: "calibrated"}
    return {name: states[key].take(np.arange(120)) for name, key in names.items()}


@pytest.fixture(scope="module")
def comparisons(systems: Systems) -> dict[str, Comparison]:
    return {name: compare(systems["one"], systems[name], replicates=100) for name in ("two", HOSTILE)}


@pytest.fixture(scope="module")
def written(systems: Systems, comparisons: dict[str, Comparison], tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = {name: KeptText(f"{HOSTILE} {name}.", "?") for name in systems["one"].ids}
    path = tmp_path_factory.mktemp("comparison") / "page.html"
    return write_comparison(path, systems, comparisons, texts=texts, replicates=100)


def test_numbers_are_those_of_the_comparison_and_p_is_corrected(
    written: Path, systems: Systems, comparisons: dict[str, Comparison]
) -> None:
    page = written.read_text(encoding="utf-8")
    for comparison in comparisons.values():
        difference = comparison.difference["nce"]
        assert (
            f"{difference.value:+.3f}<small>{difference.low:+.3f} to {difference.high:+.3f}".replace("-", "−") in page
        )
    p = holm([comparison.mcnemar.p for comparison in comparisons.values()])
    for value in p:
        assert f"<td>{'&lt; 0.001' if value < 0.001 else f'{value:.3f}'}</td>" in page
    assert "two is better than one." in page
    assert "Holm" in page
    assert resolution_sentence(systems) in page
    assert HOSTILE not in page
    assert "Learning" not in page


def test_disagreements_are_counted_and_the_surest_come_first() -> None:
    choices = [["cat", "dog"]] * 3
    one = Posteriors(np.log([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]]), [0, 1, 0], ["a", "b", "c"], None, choices)
    two = Posteriors(np.log([[0.3, 0.7], [0.1, 0.9], [0.7, 0.3]]), [0, 1, 0], ["a", "b", "c"], None, choices)
    total, rows = disagreements({"one": one, "two": two}, {"b": KeptText("Who barks", "?")})
    assert (total, [row.id for row in rows]) == (2, ["a", "b"])
    assert rows[1].text == "Who barks ?"
    assert [(name, word, right) for name, word, _, right in rows[1].decided] == [
        ("one", "cat", False),
        ("two", "dog", True),
    ]
    assert disagreements({"one": one, "two": one}, {}) == (0, [])


def test_texts_stand_beside_posteriors_and_reserved_names_are_refused(
    tmp_path: Path, systems: Systems, comparisons: dict[str, Comparison]
) -> None:
    file = tmp_path / "run" / "posteriors" / "test-base.parquet"
    write_posteriors(file, systems["one"])
    kept = kept_texts_file(tmp_path / "run", "test")
    kept.parent.mkdir()
    kept.write_bytes(gzip.compress(json.dumps({"id": "a", "context": "x", "question": "y"}).encode()))
    expected = {"a": KeptText("x", "y")}
    assert texts_beside([str(file)]) == texts_beside([f"{tmp_path / 'run'}:base"]) == expected
    assert texts_beside([str(tmp_path / "elsewhere.csv")]) == {}
    with pytest.raises(InputError, match="a system is called 'prior'"):
        write_comparison(tmp_path / "p.html", {"prior": systems["one"], "two": systems["two"]}, comparisons)


def test_a_loss_that_is_infinite_has_no_p_and_no_winner(tmp_path: Path) -> None:
    choices = [["cat", "dog"]] * 4
    sure = Posteriors.from_probabilities(
        [[1.0, 0.0], [0.0, 1.0], [0.4, 0.6], [1.0, 0.0]], [0, 1, 0, 1], "abcd", None, choices
    )
    mild = Posteriors.from_probabilities([[0.7, 0.3]] * 4, [0, 1, 0, 1], "abcd", None, choices)
    comparison = {"mild": compare(sure, mild, replicates=20)}
    page = write_comparison(tmp_path / "p.html", {"sure": sure, "mild": mild}, comparison, replicates=20).read_text()
    assert "mild and sure do not differ significantly in NCE" not in page
    assert "NCE of mild and sure cannot be compared." in page
    assert "<td>–</td>" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_its_list_shows_where_two_systems_disagree_and_asks_for_nothing(written: Path, systems: Systems) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the extra dev")
    said: list[str] = []
    requests: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab: Any = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(written.as_uri())
        tab.select_option("#state", "one")
        tab.select_option("#other", "two")
        differ = int((systems["one"].log_posteriors.argmax(1) != systems["two"].log_posteriors.argmax(1)).sum())
        assert tab.inner_text("#mistake-count").startswith(f"{differ} instances on which two decides otherwise")
        assert "two: " in tab.locator("#mistake-list li").first.inner_text()
        for width in (1280, 390):
            tab.set_viewport_size({"width": width, "height": 900})
            assert tab.evaluate("document.documentElement.scrollWidth") == width
        browser.close()
    assert (said, len(requests)) == ([], 1)
