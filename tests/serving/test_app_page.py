"""The page of the server in Chromium: what it shows is what the run answers, data stays text, and nothing leaves."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from rango.serving.app import make_app
from rango.serving.engine import Engine

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the extra dev")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
HOSTILE = "<script>1</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    """A server on a port of its own, in a thread."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_app(engine), port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def tab(address: str) -> Iterator[Any]:
    """The page on a telephone, with everything that it says, asks for and is answered."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.said, page.requests, page.replies = [], [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("response", lambda response: page.replies.append(response))
        page.goto(address)
        page.wait_for_selector("#model option", state="attached")  # the policy lets no test evaluate text
        yield page
        browser.close()


def ask(tab: Any, state: str, options: str | None = None) -> dict[str, Any]:
    """Ask by hand; the answer that the server gave."""
    tab.fill("#state", state)
    if options is not None:
        tab.fill("#options", options)
    with tab.expect_response("**/v1/systemone") as reply:
        tab.click("button")
    tab.wait_for_selector("#answer td, #answer .error")
    assert not tab.query_selector("#answer .error"), tab.inner_text("#answer")
    answer: dict[str, Any] = json.loads(reply.value.text())["answers"]["asked"]
    return answer


def test_posterior_decision_and_calibration_are_those_of_the_answer(tab: Any, engine: Engine) -> None:
    about = tab.inner_text("#about")
    assert "LoRA of" in about
    assert "Calibration error (ECE) on its test" in about
    answer = ask(tab, "Ann sings on day 3")
    shown = tab.inner_text("#answer")
    rows = tab.eval_on_selector_all("#answer tr", "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))")
    assert [(row[0], row[1]) for row in rows] == [
        (label, f"{share:.4f}") for label, share in answer["probabilities"].items()
    ]
    assert [row[0] for row in rows] == list(engine.runs["moods"].task.classes or ())
    assert f"Decision: {answer['decision']}, expected cost {answer['expected_cost']:.4f}" in shown
    assert f"Calibrated by the {answer['calibrator']}" in shown


def test_what_is_typed_stays_text_and_no_request_leaves(tab: Any, address: str) -> None:
    answer = ask(tab, "Ann", f"sings {HOSTILE}\ncries\n10\n2")
    assert set(answer["probabilities"]) == {f"sings {HOSTILE}", "cries", "10", "2"}
    shown = tab.inner_text("#answer")
    assert f"sings {HOSTILE}" in shown
    # Labels that are numbers keep their places too.
    labels = tab.eval_on_selector_all("#answer tr", "rows => rows.map(row => row.cells[0].innerText)")
    assert labels == [f"sings {HOSTILE}", "cries", "10", "2"]
    assert "Not calibrated" in shown
    assert "not the run's own question" in shown
    assert tab.eval_on_selector_all("script, img", "nodes => nodes.map(node => node.tagName)") == ["SCRIPT"]
    assert tab.said == []
    assert {url.removeprefix(address) for url in tab.requests} <= {"/", "/v1/models", "/v1/systemone", "/favicon.ico"}


def test_a_telephone_shows_all_of_it(tab: Any) -> None:
    """Nothing is wider than the window, letters can be read, and fields are high enough for a finger."""
    ask(tab, "Ann sings", "a" * 80 + "\nb\nc")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    sizes = tab.eval_on_selector_all(
        "button, input, select, textarea", "nodes => nodes.map(node => node.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 36
    fonts = tab.eval_on_selector_all(
        "body, .note, td, label", "nodes => nodes.map(n => parseFloat(getComputedStyle(n).fontSize))"
    )
    assert min(fonts) >= 14


def test_a_refusal_is_shown_where_the_answer_would_be(tab: Any) -> None:
    for options, words in (("same\nsame ", "Two options are called same"), ("", "questions.asked")):
        tab.fill("#options", options)
        tab.click("button")
        tab.wait_for_selector(f"#answer .error:has-text('{words}')")
        assert words in tab.inner_text("#answer")
        assert not tab.query_selector_all("#answer table")
