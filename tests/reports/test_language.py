"""The catalogs of the pages: complete, with the same fields, and no English left on a Spanish page."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from babel.messages.extract import extract_from_file
from babel.messages.pofile import read_po
from babel.numbers import parse_decimal
from helpers.reports_run import RECORD, write_run
from helpers.studies_made import hostile_study

from rango.decisions import METRICS, Posteriors, compare
from rango.errors import InputError
from rango.files import read_json
from rango.reports import language
from rango.reports.language import _, integer, localised, ngettext, percent, speaking
from rango.reports.run.comparison import write_comparison
from rango.reports.run.page import write_report
from rango.reports.study.page import render_study_page
from rango.reports.study.sections import FACTS, metric_title
from rango.reports.tables import STATES, duration, number
from rango.results.table import study_table

ROOM = Path(language.__file__).parent
FIELD = re.compile(r"%\(\w+\)[sr]|\{\w*\}|%%|<[^>]+>|--\w+")


def texts_of_the_source() -> set[str | tuple[str, ...]]:
    """Every text that code and templates ask for, and the words of metrics and states, which they ask for by value."""
    texts: set[str | tuple[str, ...]] = set()
    for file in ROOM.rglob("*.py"):
        rows = extract_from_file("python", file, keywords={"_": None, "ngettext": (1, 2)})
        texts |= {row[1] for row in rows}
    options = dict.fromkeys(("trimmed", "trim_blocks", "lstrip_blocks"), "true") | {"silent": "false"}
    for file in ROOM.rglob("*.html"):
        keywords = {"_": None, "gettext": None, "ngettext": (1, 2)}
        texts |= {row[1] for row in extract_from_file("jinja2.ext:babel_extract", file, keywords, options=options)}
    for metric in (*METRICS.values(), *FACTS):
        texts |= {metric.title, metric.meaning, metric.words} - {""}
    return texts | {text for state in STATES for text in (state.title, state.meaning)}


@pytest.fixture(scope="module")
def catalog() -> dict[Any, Any]:
    with (ROOM / "es.po").open("rb") as file:
        return {message.id: message for message in read_po(file, abort_invalid=True) if message.id}


def test_the_catalog_has_every_text_of_code_and_templates_and_no_other(catalog: dict[Any, Any]) -> None:
    wanted = texts_of_the_source()
    assert len(wanted) > 250
    assert wanted - set(catalog) == set(), "add these to src/rango/reports/es.po"
    assert set(catalog) - wanted == set(), "remove these from src/rango/reports/es.po"


def test_translations_are_whole_and_have_the_fields_of_their_texts(catalog: dict[Any, Any]) -> None:
    for text, message in catalog.items():
        originals, written = ([each] if isinstance(each, str) else list(each) for each in (text, message.string))
        assert len(originals) == len(written), text
        assert all(written), f"{text!r} has no translation"
        assert not message.fuzzy, text
        for original, translation in zip(originals, written, strict=True):
            assert sorted(FIELD.findall(original)) == sorted(FIELD.findall(translation)), text


def words_of(page: str) -> str:
    """The texts that a reader sees or hears, one a line, without what is marked as English and the names of options."""
    page = re.sub(r'<(\w+) lang="en">.*?</\1>', "", page.partition("<body>")[2], flags=re.DOTALL)
    scripted = [text for words in re.findall(r'id="words">(.*?)</script>', page) for text in json.loads(words).values()]
    page = re.sub(r'<script.*?</script>|<div class="facts">.*?</section>', "", page, flags=re.DOTALL)
    texts = [*re.findall(r'(?:title|aria-label)="([^"]*)"', page), *re.split(r"<[^>]+>", page), *scripted]
    return "\n".join(dict.fromkeys(" ".join(html.unescape(text).split()) for text in texts))


def check_no_english(page: str, catalog: dict[Any, Any], *, but: set[str] = frozenset()) -> None:
    """No sentence of the catalog stands on the page untranslated, whatever its fields are filled with."""
    assert '<html lang="es">' in page
    words = words_of(page)
    for text, message in catalog.items():
        for original in [text] if isinstance(text, str) else text:
            # Words that are the same in both languages, and names of options, are no English.
            if original in but or original in message.string or len(re.sub(FIELD, "", original).strip()) < 3:
                continue
            parts = re.split(r"%\(\w+\)[sr]|\{\w*\}|<[^>]+>", original.replace("%%", "%"))
            assert not re.search(f"^{'.*'.join(map(re.escape, parts))}$", words, re.MULTILINE), original


def test_the_spanish_page_of_a_run_holds_no_english(
    tmp_path: Path, states: dict[str, Posteriors], catalog: dict[Any, Any]
) -> None:
    small = {key: posteriors.take(np.arange(120)) for key, posteriors in states.items() if key != "control"}
    small["prior"] = small["base"].prior_only()  # of these instances
    run = write_run(tmp_path / "run", RECORD, small)
    page = write_report(run, language="es").read_text(encoding="utf-8")
    check_no_english(page, catalog)
    for words in ("La adaptación ayudó", "9.216 de 531.264 parámetros entrenados (1,7\xa0%)", "Coste de abstenerse"):
        assert words in page
    # The table has the digits of metrics.json with the signs of the language, the CSV all of them with a point.
    stored = read_json(run / "metrics.json")["test"]["adapted"]["nce"]
    row = page.partition('<tr class="state-adapted')[2].partition("</tr>")[0]
    cells = [float(parse_decimal(cell, locale="es")) for cell in re.findall(r"<td>([\d.,]+)<small>", row)]
    assert cells[1] == round(stored["value"], 3)
    assert f"\nadapted,nce,{stored['value']!r},{stored['low']!r},{stored['high']!r},120,lower\n" in page


def test_the_spanish_page_of_a_study_holds_no_english(catalog: dict[Any, Any]) -> None:
    study = hostile_study()
    table = study_table(study.outcomes, select=study.select, references=study.references, replicates=20)
    page = render_study_page(study, table, language="es")
    check_no_english(page, catalog, but={"none"})
    for words in ("socialiqa: la mejor según NCE", "7 configuraciones", "modelo base", "Exactitud (mayor es mejor)"):
        assert words in page
    assert metric_title("nce") == "NCE (lower is better)", "outside of a page words are English again"


def test_the_spanish_page_of_a_comparison_holds_no_english(
    tmp_path: Path, states: dict[str, Posteriors], catalog: dict[Any, Any]
) -> None:
    first, second = (states[key].take(np.arange(60)) for key in ("base", "adapted"))
    systems, compared = {"uno": first, "dos": second}, {"dos": compare(first, second, replicates=20)}
    page = write_comparison(tmp_path / "page.html", systems, compared, replicates=20, language="es").read_text("utf-8")
    check_no_english(page, catalog)
    assert "dos es mejor que uno." in page
    assert "60 instancias compartidas. La p de la NCE" in words_of(page)


def test_numbers_keep_their_digits_in_every_language() -> None:
    values = [0.42914, -0.4, 1234.5, 12345.6789, 1e6, 0.0002, float("inf"), float("nan")]
    english = [number(value) for value in values]
    with speaking("es"):
        spanish = [number(value) for value in values]
        assert [integer(1234), integer(12345), percent(0.256, digits=1)] == ["1.234", "12.345", "25,6\xa0%"]
        assert [duration(8.2), localised("+0.5"), ngettext("%(count)s seed", "%(count)s seeds", 1)] == [
            "8,2 s",
            "+0,5",
            "1 semilla",
        ]
    assert spanish == ["0,429", "−0,400", "1.234,500", "12.345,679", "1.000.000,000", "0,0002", "∞", "–"]
    assert english[:3] == ["0.429", "−0.400", "1234.500"]


def test_an_unknown_language_is_refused_and_english_is_the_default() -> None:
    with pytest.raises(InputError, match="language 'fr'"), speaking("fr"):  # type: ignore[arg-type]
        pass
    assert _("Verdict") == "Verdict"
    with speaking("es"):
        assert _("Verdict") == "Veredicto"
        with speaking("en"):
            assert _("Verdict") == "Verdict"
    assert _("95% interval") == "95% interval"
