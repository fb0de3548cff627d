from __future__ import annotations

from pathlib import Path

from helpers.studies_made import make_truth

from rango.decisions import Posteriors
from rango.decisions.stated_costs import StatedCosts
from rango.reports.study.latex import escaped, table_tex, write_tex
from rango.results.outcomes import Outcome
from rango.results.table import study_table
from rango.studies.study import Reference


def test_exact_text(tmp_path: Path) -> None:
    fair = Posteriors.from_probabilities([[0.5, 0.5], [0.5, 0.5]], [0, 1])
    better = Posteriors.from_probabilities([[0.75, 0.25], [0.25, 0.75]], [0, 1])
    outcomes = [
        Outcome({"task": "a_b", "lora.rank": 1}, {0: fair, 1: better}),
        Outcome({"task": "a_b", "lora.rank": 2}, {0: better, 1: better}),
        Outcome({"task": "a_b", "lora.rank": None}, {}, failures={0: "100% of {memory}"}),
    ]
    references = [Reference("model & co", {"task": "a_b"}, "error_rate", 0.25, "table_3")]
    table = study_table(outcomes, select="brier", references=references, replicates=0)
    expected = r"""\begin{tabular}{llll}
\toprule
rank & Brier $\downarrow$ & Error rate $\downarrow$ & NCE $\downarrow$ \\
\midrule
1 & 0.312 $\pm$0.265 & 0.250 $\pm$0.354 & 0.708 $\pm$0.414 \\
\textbf{2} & \textbf{0.125 $\pm$0.000} & \textbf{0.000 $\pm$0.000} & \textbf{0.415 $\pm$0.000} \\
-- & \multicolumn{3}{l}{no result: seed 0: 100\% of \{memory\}} \\
\textit{Prior only} & 0.500 & 0.500 & 1.000 \\
\textit{model \& co [1]} &  & 0.250 &  \\
\bottomrule
\end{tabular}
% $\downarrow$ lower is better
% mean of 2 seeds $\pm$ standard deviation over them
% 2 test instances
% Prior only: the class frequencies as the posterior of every instance
% bold: best by Brier score; $^{\approx}$: not significantly worse than the best
% [1] table\_3
"""
    assert table_tex(table) == expected
    write_tex(tmp_path / "table.tex", table)
    assert (tmp_path / "table.tex").read_text() == expected


def test_ties_are_marked_and_tasks_are_headings() -> None:
    one, other = make_truth(20), make_truth(30, name="h")
    outcomes = [
        Outcome({"task": task, "a": a}, {0: system}) for task, system in (("x", one), ("y#", other)) for a in "ab"
    ]
    text = table_tex(study_table(outcomes, select="nce", replicates=20))
    assert r"\multicolumn{4}{l}{\emph{x} (20 instances)} \\" in text
    assert r"\multicolumn{4}{l}{\emph{y\#} (30 instances)} \\" in text
    assert text.count("$^{\\approx}$ {\\scriptsize ") == 2
    assert text.count(r"\textbf{a} & \textbf{") == 2
    assert text.count(r"{\scriptsize ") == 12


def test_every_special_character_is_escaped() -> None:
    assert escaped("a\\b{c}$&#^_~%") == (r"a\textbackslash{}b\{c\}\$\&\#\textasciicircum{}\_\textasciitilde{}\%")
    assert escaped("two\nlines") == "two lines"


def test_named_metrics_come_first_and_the_mark_stands_at_the_one_that_selects() -> None:
    truth = make_truth(80)
    outcomes = [
        Outcome({"adaptation": way, "lora.dropout": dropout, "lora.rank": rank}, {0: truth})
        for way, dropout, rank in (("lora", 0.0, 1), ("lora", 0.0, 2), ("mc-dropout", 0.1, 1))
    ]
    names = ["ece", "normalised_expected_cost", "cross_entropy", "brier"]
    table = study_table(outcomes, select="cross_entropy", metrics=names, costs=StatedCosts(abstain=0.25), replicates=20)
    text = table_tex(table)
    assert text.splitlines()[2] == (
        r"adaptation & rank & ECE $\downarrow$ & Norm. cost $\downarrow$ & Cross-entropy $\downarrow$ & "
        r"Brier $\downarrow$ \\"
    )
    tied = text.splitlines()[5].split(" & ")
    assert [r"\approx" in cell for cell in tied] == [False, False, False, False, True, False]
    assert "scriptsize" not in tied[2], "an interval of ECE by resampling does not hold its value"
    assert "% costs: a wrong choice 1, abstaining 0.25\n" in text
    assert "% dropout 0 (lora), 0.1 (mc-dropout)\n" in text
