"""The table and the sentences of a probe.json, and files that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rango.errors import InputError
from rango.reports.language import speaking
from rango.reports.run.page import render_page
from rango.reports.run.robustness import probe_table, read_robustness, robustness
from rango.training.run_folder import RunContents


def entry(value: float, half: float = 0.05, **rest: Any) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": 40, "direction": "lower", **rest}


RESULT: dict[str, Any] = {
    "status": "complete",
    "split": "test",
    "n": 40,
    "form": "letter",
    "calibrated": True,
    "changes": {
        "permute": {
            "variants": ["permute-1", "permute-2"], "n": 40, "calibrated": True, "flips": entry(0.25),
            "nce": entry(0.125), "error_rate": entry(0.1), "by_variant": {"permute-1": 0.2, "permute-2": 0.3},
        },
        "averaged": {
            "variants": [], "n": 40, "calibrated": True, "passes": 3, "flips": entry(0.15), "nce": entry(-0.07),
            "error_rate": entry(-0.02),
        },
        "distract": {
            "variants": ["distract"], "n": 40, "calibrated": False, "flips": entry(0.05), "nce": entry(0.02),
            "error_rate": entry(0.0), "mass": entry(0.08),
        },
        "remove": {
            "variants": ["remove"], "n": 40, "calibrated": True, "max_posterior": entry(0.71),
            "max_posterior_before": entry(0.82), "passed_on": entry(0.4),
        },
        "remove-none": {
            "variants": ["remove-none"], "n": 40, "calibrated": True, "rejected": entry(0.33),
            "max_posterior": entry(0.6), "nce": entry(0.5), "error_rate": entry(0.4),
        },
    },
    "notes": ["reword: no question; left out"],
}  # fmt: skip


def printed(width: int) -> str:
    console = Console(width=width, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(probe_table(RESULT, width=width))
    return capture.get()


def test_rows_and_sentences() -> None:
    shown = robustness(RESULT)
    titles = ["other order (2)", "mean over 3 orders", "one irrelevant option", "none of these"]
    assert [row.title for row in shown.rows] == titles
    assert shown.rows[3].flips is None, "another answer is right, so that no decision is kept"
    assert shown.sentences == (
        "The irrelevant option has 0.080 (0.030 to 0.130) of the probability.",
        "Without the right option the model gives its choice a mean probability of 0.710 (0.660 to 0.760); with it, "
        "0.820 (0.770 to 0.870).",
        "The gate passes on 0.400 (0.350 to 0.450) of the instances without their right option.",
        "In the place of the right option, “none of these” is chosen in 0.330 (0.280 to 0.380) of the instances.",
        "Not calibrated, and compared with the same model uncalibrated: one irrelevant option.",
    )
    with speaking("es"):
        assert robustness(RESULT).rows[0].title == "otro orden (2)"
        assert robustness(RESULT).sentences[0].startswith("La opción ajena tiene 0,080")


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_table_fits_the_terminal(width: int) -> None:
    lines = printed(width).splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "0.250" in text
    assert "+0.125" in text
    assert "−0.070" in text
    assert "note: reword: no question; left out" in text
    row = next(line for line in lines if "0.250" in line)
    assert ("0.200 to 0.300" in row) == (width == 140)


def test_a_probe_that_is_not_complete_or_not_readable(tmp_path: Path) -> None:
    assert read_robustness(tmp_path) is None
    file = tmp_path / "probe/probe.json"
    file.parent.mkdir()
    file.write_text('{"status": "running"}')
    assert read_robustness(tmp_path) is None
    file.write_text(json.dumps(RESULT))
    shown = read_robustness(tmp_path)
    assert shown is not None
    assert shown.n == 40
    low = {**RESULT, "changes": {"permute": {"nce": {"low": 1}}}}
    for broken in ("[]", "{}", json.dumps(low), json.dumps({**RESULT, "n": float("inf")})):
        file.write_text(broken)
        with pytest.raises(InputError, match=r"probe\.json: cannot be read .*; expected a file of rango probe"):
            read_robustness(tmp_path)


def test_the_page_shows_what_was_probed_in_the_language_of_its_reader() -> None:
    run = RunContents({}, (), {}, {}, {}, evaluation=True)
    assert 'id="robustness"' not in render_page(run)
    page = render_page(run, probed=robustness(RESULT))
    section = page.partition('<section id="robustness">')[2].partition("</section>")[0]
    assert section.count("<tr>") == 5
    assert "<td>+0.125<small>+0.075 to +0.175</small></td>" in section
    assert "The same 40 test instances, asked in another way." in section
    with speaking("es"):
        spanish = render_page(run, probed=robustness(RESULT))
    assert "<h2>Robustez</h2>" in spanish
    assert "+0,125<small>" in spanish
