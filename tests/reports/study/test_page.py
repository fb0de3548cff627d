from __future__ import annotations

import re

import pytest
from helpers.studies_made import changes_study, hostile_study, make_outcome, make_truth

from rango.decisions import Posteriors
from rango.reports.study.page import render_study_page
from rango.reports.study.sections import span_text, value_text
from rango.results.outcomes import Outcome, StudyResult
from rango.results.table import study_table


def rendered(study: StudyResult) -> str:
    table = study_table(study.outcomes, select=study.select, references=study.references, replicates=40)
    return render_study_page(study, table)


@pytest.fixture(scope="module")
def page() -> str:
    return rendered(hostile_study())


def words(page: str) -> str:
    """The text of the page without markup, styles and figures."""
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<(style|svg).*?</\1>", "", page, flags=re.DOTALL)).split())


def test_the_page_needs_nothing_from_elsewhere_and_every_text_is_escaped(page: str) -> None:
    text = words(page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r'(src|href)="(?!#)', page), "the page needs nothing from elsewhere"
    for part in (
        "placement &amp; co study",
        "Where should LoRA go?",
        "7 configurations 14 results 60 test instances selected by NCE",
        "socialiqa: best by NCE",
        "1 configuration lacks seeds.",
        "as the reference thesis quotes it",
        "1 min 35 s",
        "9,216",
        "no result: seed 0:",
    ):
        assert part in text
    assert page.count("<figure>") == 8
    assert page.count('title="best"') == 2
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_a_study_of_single_changes_shows_differences_from_the_centre() -> None:
    page = rendered(StudyResult("changes", "", "nce", tuple(changes_study(80)), ()))
    assert "Changes of error rate from the centre" in page
    assert "Changes of NCE from the centre" in page
    assert "Full: significant after Holm's correction over all of them (5%)" in words(page).replace("&#39;", "'")


def test_the_contents_lead_to_the_sections(page: str) -> None:
    anchors = re.findall(r'<a href="#([a-z]+)">', page)
    assert anchors == ["verdict", "result", "figures", "learning", "run", "metrics"]
    assert all(page.count(f'<section id="{anchor}"') == 1 for anchor in anchors)
    assert '<th scope="col">runs</th>' not in page, "no run of this study has a page"


def test_points_have_their_values_on_hover_and_in_a_table(page: str) -> None:
    table = study_table(hostile_study().outcomes, select="nce", replicates=40)
    cell = table.rows[1].cells["nce"]
    hover = f"<title>configuration lora, q · NCE {value_text(cell)} · 95% interval {span_text(cell)}</title>"
    assert hover in page
    assert f"<td>lora, q</td><td>{value_text(cell)}</td><td>{span_text(cell)}</td>" in page
    assert "<title>configuration Prior only · NCE 1.000</title>" in page


def test_a_row_links_to_the_pages_of_its_runs() -> None:
    truth = make_truth(30)
    outcomes = [make_outcome({"a": name}, truth, scale=0.5, noise=0.2, seeds=(0,)) for name in "xy"]
    pages = {"seed 0, member 0": "runs/a/report.html", "seed 0, member 1": "runs/b c/report.html"}
    linked = Outcome(**{**vars(outcomes[0]), "pages": pages})
    page = rendered(StudyResult("s", "", "nce", (linked, outcomes[1]), ()))
    assert '<a href="runs/a/report.html">seed 0, member 0</a>, <a href="runs/b%20c/report.html">seed 0, mem' in page
    assert page.count('<th scope="col">runs</th>') == 1


def test_marks_of_the_table_are_explained(page: str) -> None:
    assert page.count('title="not significantly worse than the best"') == page.count('class="mark"') - 2
    assert "★ best of each task by NCE" in words(page)


def test_hollow_dots_have_the_colour_of_the_paper(page: str) -> None:
    assert 'fill="var(--paper)"' in page
    assert "#ffffff" not in page.split("</style>")[1]


def test_no_dot_is_called_full_where_nothing_beats_the_priors(page: str) -> None:
    assert "Full: the best of its task" in words(page)
    truth = make_truth(60)
    blind = Posteriors.from_scores(-3 * truth.log_posteriors, truth.labels, truth.ids)
    rows = tuple(Outcome({"placement": name}, {0: blind}, facts={"held_out_perplexity": 98.6}) for name in "qv")
    text = words(rendered(StudyResult("s", "", "nce", rows, ())))
    assert "None is full, because none is better than the class frequencies." in text
    assert "Full:" not in text
    assert "Perplexity of the base on held-out text q 98.6 v 98.6" in text


def test_what_was_run_and_why_a_value_is_infinite_are_on_the_page() -> None:
    never = Posteriors.from_probabilities([[0.0, 1.0], [0.9, 0.1]], [0, 0])
    outcome = Outcome({"rank": 1, "train": 9}, {3: never})
    text = words(rendered(StudyResult("s", "", "nce", (outcome,), ())))
    assert "The same for all rank 1 train 9" in text
    assert "Study select nce seeds 3 bootstrap replicates 40" in text
    assert "Notes the configuration: " in text


def test_the_axes_that_varied_are_listed_with_their_values() -> None:
    outcomes = tuple(make_outcome({"rank": rank}, make_truth(30), scale=0.5, noise=0.2) for rank in (1, 8, 64))
    text = words(rendered(StudyResult("s", "", "nce", outcomes, ())))
    assert "Varied rank 1; 8; 64" in text
    assert "Each line is the mean over seeds" in text
