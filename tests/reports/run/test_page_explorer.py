"""The script of a run's page in Chromium: its numbers are Python's, it asks for nothing, and data stays text."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers.reports_run import HOSTILE, RECORD, write_run

from rango.decisions import Costs, Posteriors, decide
from rango.decisions.costs import naive_cost
from rango.reports.run.page import write_report
from rango.tasks.kept_texts import kept_texts_file

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the extra dev")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
States = dict[str, Posteriors]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def states_small(states: States) -> States:
    return {key: posteriors.take(np.arange(150)) for key, posteriors in states.items() if key in ("base", "adapted")}


@pytest.fixture(scope="module")
def tab(browser: Any, states_small: States, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page of a run whose texts and classes are hostile, with everything that it says or asks for."""
    run = write_run(tmp_path_factory.mktemp("explorer") / "run", RECORD, states_small)
    rows = [{"id": f"question-{row}", "context": f"{HOSTILE} number {row}.", "question": "?"} for row in range(150)]
    file = kept_texts_file(run, "test")
    file.parent.mkdir()
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.said, page.requests = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(write_report(run).as_uri())
    yield page
    page.close()


def outcome(tab: Any, key: str) -> str:
    return str(tab.inner_text(f'#outcome [data-key="{key}"] dd'))


def test_decisions_and_costs_are_those_of_python(tab: Any, states_small: States) -> None:
    generator, cases, expected = np.random.default_rng(7), [], []
    for case in range(30):
        key = ("base", "adapted")[case % 2]
        posteriors = states_small[key]
        matrix = generator.uniform(-1, 5, (3, int(generator.integers(2, 6)))).round(2)
        if case == 0:
            matrix = 1.0 - np.eye(3)
        costs = Costs(matrix)
        priors = None if case % 3 == 0 else generator.dirichlet([1.0, 1.0, 1.0])
        adapt = bool(case % 2) and priors is not None
        cases.append([key, matrix.tolist(), None if priors is None else priors.tolist(), adapt])
        used = posteriors.with_priors(priors) if adapt and priors is not None else posteriors
        shares = posteriors.priors() if priors is None else priors
        taken, naive = decide(used, costs=costs), float(naive_cost(shares, costs=costs))
        weights = (shares / posteriors.priors())[posteriors.labels]
        expected.append(
            {
                "decisions": taken.chosen.tolist(),
                "real": used.expected_cost(costs, priors=priors),
                "promised": float((weights * taken.expected_costs).mean()),
                "constantCost": naive,
                "normalised": used.normalised_expected_cost(costs, priors=priors) if naive > 0 else None,
            }
        )
    results = tab.evaluate(
        """cases => cases.map(([key, costs, priors, adapt]) => {
            const state = rango.states.find(s => s.key === key);
            const r = rango.explore({posteriors: state.posteriors, labels: rango.data.labels, costs, priors, adapt});
            return {decisions: Array.from(r.decisions), real: r.real, promised: r.promised,
                    constantCost: r.constantCost, normalised: Number.isNaN(r.normalised) ? null : r.normalised};
        })""",
        cases,
    )
    for result, wanted in zip(results, expected, strict=True):
        assert result["decisions"] == wanted["decisions"]
        for key in ("real", "promised", "constantCost", "normalised"):
            assert (result[key] is None) == (wanted[key] is None), key
            assert result[key] is None or result[key] == pytest.approx(wanted[key], rel=1e-9, abs=1e-12), key


def test_fields_change_decisions_costs_and_mistakes_at_once(tab: Any, states_small: States) -> None:
    adapted = states_small["adapted"]
    assert outcome(tab, "real") == f"{adapted.error_rate():.3f}"
    errors = int(adapted.error_rate() * len(adapted) + 0.5)
    assert tab.inner_text("#mistake-count").startswith(f"{errors} decisions")
    tab.check("#abstain")
    tab.get_by_label("Cost of bored with it all where grateful is right").fill("4")
    costs = Costs([[0, 4, 1, 0.3], [1, 0, 1, 0.3], [1, 1, 0, 0.3]])
    assert outcome(tab, "real") == f"{adapted.expected_cost(costs):.3f}"
    assert outcome(tab, "normalised") == f"{adapted.normalised_expected_cost(costs):.3f}"
    assert outcome(tab, "coverage") != "100.0%"
    assert "[0,4,1,0.3]" in tab.text_content("#yaml")
    tab.get_by_label("Prior of grateful").fill("0.8")
    # A field that holds no number changes nothing and says so.
    field = tab.get_by_label("Cost of grateful where bored with it all is right")
    before = outcome(tab, "real")
    field.fill("")
    assert (field.get_attribute("aria-invalid"), outcome(tab, "real")) == ("true", before)
    tab.click("#reset")
    tab.uncheck("#abstain")
    tab.select_option("#state", "base")
    assert outcome(tab, "real") == f"{states_small['base'].error_rate():.3f}"
    tab.select_option("#state", "adapted")


def test_mistakes_are_filtered_sorted_searched_and_paged(tab: Any, states_small: States) -> None:
    adapted = states_small["adapted"]
    wrong = np.flatnonzero(adapted.log_posteriors.argmax(axis=1) != adapted.labels)
    tab.select_option("#filter-true", "1")
    assert tab.inner_text("#mistake-count").startswith(f"{int((adapted.labels[wrong] == 1).sum())} decisions")
    tab.select_option("#filter-true", "")
    surest = wrong[adapted.log_posteriors[wrong].max(axis=1).argmax()]
    first = tab.locator("#mistake-list li").first
    assert f"{HOSTILE} number {surest}. ?" in first.inner_text()
    tab.click("#next")
    assert tab.get_attribute("#mistake-list", "start") == "11"
    tab.fill("#search", f"number {surest}.")
    assert tab.locator("#mistake-list li").count() == 1
    tab.fill("#search", "")


def test_it_asks_for_nothing_and_data_stays_text(tab: Any) -> None:
    assert tab.said == []
    assert len(tab.requests) == 1, "the page itself"
    assert tab.evaluate("document.querySelectorAll('li script, td script, th script, p script').length") == 0
    for width in (1280, 390):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth") == width
    # The policy refuses what it does not know.
    tab.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert tab.evaluate("window.ran") is None
    assert any("Content Security Policy" in said for said in tab.said)


def test_without_a_script_the_lists_are_on_the_page(browser: Any, tab: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(tab.url)
    assert page.locator("#mistake-list li").count() == 20
    assert not page.is_visible("#explorer")
    assert not page.is_visible("#mistake-controls")
    assert page.is_visible("text=The explorer needs JavaScript")
    context.close()
