"""The page of a comparison: two systems or more on the same instances, each beside the first.

It is the page of a run without what was trained, with two sections of its own: differences, with intervals and tests,
and the instances on which two systems decide otherwise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rango.decisions import Costs, Estimate, Metric, Posteriors, cost_balance
from rango.decisions.metrics import logarithmic_rule
from rango.decisions.pairing import align_by_id
from rango.decisions.significance import holm, paired_bootstrap
from rango.decisions.summary import Comparison, summarise_prior_only
from rango.errors import InputError
from rango.files import write_text
from rango.reports.language import Language, _, integer, speaking
from rango.reports.run import figures, findings, instances
from rango.reports.run.page import instances_words, interval_drawings, posteriors_parts, table_csv
from rango.reports.style import line_looks, render
from rango.reports.svg import drawing
from rango.reports.tables import column_named, estimate_notes, interval, number, result_rows, usual_columns
from rango.tasks.kept_texts import KeptText, kept_texts_file, read_kept_texts
from rango.training.run_folder import Run
from rango.training.systems import System


@dataclass(frozen=True)
class DifferenceRow:
    """A metric of the first system, of the second, and their difference."""

    column: Metric
    first: Estimate
    second: Estimate
    difference: Estimate
    p_value: float | None
    """Of no difference; None for a metric without a test, NaN where it has no value."""

    @property
    def p(self) -> str:
        """The p-value in words, "" where there is none."""
        if self.p_value is None or math.isnan(self.p_value):
            return "" if self.p_value is None else "–"
        return findings.p_number(self.p_value)


@dataclass(frozen=True)
class Difference:
    """One system beside the first."""

    name: str
    rows: tuple[DifferenceRow, ...]


def write_comparison(
    path: Path,
    systems: Mapping[str, Posteriors],
    comparisons: Mapping[str, Comparison],
    *,
    costs: Costs | None = None,
    texts: Mapping[str, KeptText] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    language: Language = "en",
) -> Path:
    """Write the page of a comparison.

    Args:
        path: the HTML file.
        systems: posteriors with labels by name, on the same instances; the first is what the others are compared with.
        comparisons: of each other system with the first, by its name, without target priors.
        costs: of decisions, as the comparisons had them.
        texts: what was asked, by id, as far as it is known.
        replicates: of the bootstrap, as the comparisons had them.
        seed: of the bootstrap.
        language: of the page.

    Raises:
        InputError: systems on other instances; a name that the page uses itself.
    """
    if reserved := {"prior", "difference"} & set(systems):
        raise InputError(f"a system is called {reserved.pop()!r}, as a row of the page is; give its file another name")
    with speaking(language):
        page = _page(systems, comparisons, costs=costs, texts=texts or {}, replicates=replicates, seed=seed)
    write_text(path, page)
    return path


def _page(
    systems: Mapping[str, Posteriors],
    comparisons: Mapping[str, Comparison],
    *,
    costs: Costs | None,
    texts: Mapping[str, KeptText],
    replicates: int,
    seed: int,
) -> str:
    names, first = tuple(systems), next(iter(systems.values()))
    aligned = {name: align_by_id(first, posteriors) for name, posteriors in systems.items()}
    prior = summarise_prior_only(first, costs=costs, replicates=replicates, seed=seed)
    estimates = {"prior": prior, names[0]: comparisons[names[1]].a}
    estimates |= {name: comparison.b for name, comparison in comparisons.items()}
    states = {key: {name: cell.as_dict() for name, cell in row.items()} for key, row in estimates.items()}
    table = result_rows({"test": states}, with_costs=costs is not None)
    differences = _differences(aligned, comparisons, with_costs=costs is not None, replicates=replicates, seed=seed)
    verdict = [_finding(names[0], difference, comparisons[difference.name]) for difference in differences]
    verdict += [findings.usable_finding(states, name) for name in names]
    if costs is not None:
        for name, posteriors in aligned.items():
            balance = cost_balance(posteriors, costs=costs, replicates=replicates, seed=seed)
            verdict.append(findings.cost_finding(balance, name))
    looks = line_looks(names)
    # Classes and mistakes are of the system with the best posteriors.
    best = min(names, key=lambda name: estimates[name]["nce"].value)
    content = {
        "names": names,
        "summary": [
            f"{integer(len(first))} {instances_words('shared')}",
            *([_("costs are stated")] if costs is not None else []),
        ],
        "split": "shared",
        "measured_on": instances_words("shared"),
        "evaluation": True,
        "headline": [],
        "findings": verdict,
        "table": table,
        "csv": table_csv(table),
        "paired": "",
        "intervals": list(interval_drawings(table)),
        "curves": [],
        "reliability": [
            drawing(
                _("Reliability diagram, %(state)s", state=name),
                partial(figures.reliability_diagram, posteriors, name, look=looks[name]),
                prefix=f"reliability-{place}",
            )
            for place, (name, posteriors) in enumerate(aligned.items())
        ],
        **posteriors_parts(aligned, best, texts, costs),
        "selections": {},
        "probed": None,
        "facts": None,
        "notes": list(estimate_notes(states)),
        "differences": differences,
        "resolution": findings.resolution_sentence(aligned, costs),
        "disagreements": [
            (name, *instances.disagreements({names[0]: first, name: aligned[name]}, texts)) for name in names[1:]
        ],
    }
    return render(
        "run/comparison.html",
        content,
        script="run/explorer.js",
        script_json=instances.as_script_json,
        question=lambda identity: instances.shown_text(texts, identity),
        signed=partial(number, sign=True),
        signed_interval=partial(interval, sign=True),
    )


def _differences(
    systems: Mapping[str, Posteriors],
    comparisons: Mapping[str, Comparison],
    *,
    with_costs: bool,
    replicates: int,
    seed: int,
) -> list[Difference]:
    """The usual metrics of each system beside the first; p-values of several are corrected together."""
    first = next(iter(systems.values()))
    raw: dict[str, list[float]] = {"nce": []}
    # Error rates against soft labels have no exact test: their interval is shown alone.
    if exact := [c.mcnemar.p for c in comparisons.values() if c.mcnemar is not None]:
        raw["error_rate"] = exact
    for name in comparisons:
        losses = [system.losses(logarithmic_rule) for system in (first, systems[name])]
        try:
            test = paired_bootstrap(*losses, groups=first.groups, replicates=max(1, replicates), seed=seed)
            raw["nce"].append(test.p)
        except InputError:  # an infinite loss has no mean to test; in Holm's rule it counts as no difference
            raw["nce"].append(1.0)
    adjusted = {metric: holm(values) for metric, values in raw.items()}
    differences = []
    for place, (name, comparison) in enumerate(comparisons.items()):
        rows = []
        for metric in usual_columns(with_costs=with_costs):
            p = float(adjusted[metric][place]) if metric in adjusted else None
            cells = (comparison.a[metric], comparison.b[metric], comparison.difference[metric])
            if metric == "nce" and not math.isfinite(cells[2].value):
                p = math.nan
            rows.append(DifferenceRow(column_named(metric), *cells, p))
        differences.append(Difference(name, tuple(rows)))
    return differences


def _finding(first: str, difference: Difference, comparison: Comparison) -> findings.Finding:
    """Which of two systems has the better posteriors, by NCE, with the sentence of the comparison."""
    row = next(row for row in difference.rows if row.column.name == "nce")
    low, high = row.difference.low, row.difference.high
    # The corrected test too must call it a difference: several comparisons find some by their number.
    decided = low is not None and high is not None and not low <= 0 <= high
    names = {"name": difference.name, "first": first}
    detail = _detail(first, difference, comparison)
    if row.p_value is None or math.isnan(row.p_value):
        headline = _("NCE of %(name)s and %(first)s cannot be compared", **names)
        return findings.Finding("comparison", "unclear", headline, detail)
    if not decided or row.p_value >= 0.05:
        headline = _("%(name)s and %(first)s do not differ significantly in NCE", **names)
        return findings.Finding("comparison", "unclear", headline, detail)
    better = row.difference.value < 0
    headline = (
        _("%(name)s is better than %(first)s", **names) if better else _("%(name)s is worse than %(first)s", **names)
    )
    return findings.Finding("comparison", "good" if better else "bad", headline, detail)


def _detail(first: str, difference: Difference, comparison: Comparison) -> str:
    """The numbers behind the finding: NCE with its interval, and who alone is right how often."""
    row = next(row for row in difference.rows if row.column.name == "nce")
    span = interval(row.difference, sign=True)
    test = comparison.mcnemar
    of_nce = _(
        "NCE of %(first)s %(a)s, of %(second)s %(b)s: %(change)s%(bounds)s.",
        first=first,
        second=difference.name,
        a=number(row.first.value),
        b=number(row.second.value),
        change=number(row.difference.value, sign=True),
        bounds=" " + _("(95%% interval %(span)s)", span=span) if span else "",
    )
    if test is None:
        return of_nce
    if not (test.only_a_right or test.only_b_right or comparison.difference["error_rate"].value):
        alike = _("%(first)s and %(second)s are right on the same instances.", first=first, second=difference.name)
        return f"{of_nce} {alike}"
    of_errors = _(
        "Only %(first)s is right on %(a)s instances, only %(second)s on %(b)s (McNemar's exact test of equal "
        "error rates: %(p)s).",
        first=first,
        second=difference.name,
        a=integer(test.only_a_right),
        b=integer(test.only_b_right),
        p=findings.p_text(test.p),
    )
    return f"{of_nce} {of_errors}"


def texts_beside(systems: Sequence[System]) -> dict[str, KeptText]:
    """What was asked of the instances of posteriors, by id, where a run keeps it beside them.

    Args:
        systems: posteriors files, runs, RUN or RUN:STATE; others have no texts.
    """
    texts: dict[str, KeptText] = {}
    places = [system.path if isinstance(system, Run) else system for system in systems]
    for source in (os.fspath(place) for place in places if isinstance(place, str | os.PathLike)):
        folder = Path(source) if Path(source).is_dir() else Path(source.rpartition(":")[0] or source)
        if folder.is_file() and folder.parent.name == "posteriors":
            files = [kept_texts_file(folder.parent.parent, folder.stem.partition("-")[0])]
        else:
            files = [kept_texts_file(folder, "test")]
        for file in files:
            if file.is_file():
                texts |= read_kept_texts(file)
    return texts
