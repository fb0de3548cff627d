from __future__ import annotations

import pytest
from helpers.studies_made import changes_study, ladder_study, make_outcome, make_truth, placement_study

from rango.decisions import Posteriors
from rango.reports.study.findings import study_findings, verdict_sentences
from rango.results.outcomes import Outcome
from rango.results.table import study_table


def test_verdicts_in_words() -> None:
    first, _ = verdict_sentences(study_table(placement_study(250), select="nce", replicates=50))
    assert first == (
        "socialiqa: best by NCE: q,v (0.657). It is significantly better than the class frequencies alone (1.000). "
        "Every configuration is significantly better than the base model (0.874). "
        "Not significantly worse than the best: v; q,k,v,o; mlp."
    )
    (ladder,) = verdict_sentences(study_table(ladder_study(250), select="error_rate", replicates=50))
    assert ladder == (
        "Best by error rate: lora+calibration, train 5000 (0.284). "
        "It is significantly better than the class frequencies alone (0.652). "
        "It is significantly better than the base model (0.500). "
        "Significantly better than the base model: 13 of 20 configurations; "
        "not significantly different from the base model: 7 of 20 configurations. "
        "Not significantly worse than the best: lora, train 256; lora, train 1024; lora, train 5000; "
        "lora+calibration, train 1024."
    )


def test_the_changes_of_a_centre_are_counted_and_the_largest_named() -> None:
    _, changes = verdict_sentences(study_table(changes_study(), select="nce", replicates=100))
    assert changes == "2 of 4 changes of the centre move NCE significantly. These are train 64 (+0.139); k (+0.061)."


def test_nothing_is_said_of_changes_that_were_not_tested() -> None:
    assert len(verdict_sentences(study_table(changes_study(40), select="nce", replicates=0))) == 1


def test_verdicts_of_small_studies() -> None:
    truth = make_truth(300)
    one = make_outcome({"adaptation": "lora"}, truth, scale=0.9, noise=0.1, seeds=(0,))
    base = make_outcome({"adaptation": "none"}, truth, scale=0.1, noise=0.1, seeds=(0,))
    assert verdict_sentences(study_table([one], select="nce", replicates=9))[0].endswith(
        " of lora. It is significantly better than the class frequencies alone (1.000). "
        "There is no other configuration to compare it with."
    )
    both = verdict_sentences(study_table([base, one], select="nce", replicates=99))[0]
    assert both.startswith("Best by NCE: lora (0.")
    assert both.endswith(
        "It is significantly better than the base model (0.895). "
        "Every other configuration is significantly worse than the best."
    )
    same = Outcome({"adaptation": "lora"}, base.posteriors)
    assert verdict_sentences(study_table([base, same], select="nce", replicates=9))[0].endswith(
        "lora is not significantly different from the base model (0.895). "
        "No other configuration is significantly worse than the best."
    )
    empty = verdict_sentences(study_table([Outcome({}, {}, failures={0: "x"})], select="nce"))
    assert empty == ("No result. Seed 0: x.",)
    half = verdict_sentences(study_table([Outcome({}, {0: truth}, failures={1: "x"})], select="nce", replicates=0))
    assert half[-1] == "Seeds are missing. Seed 1: x."


def test_all_configurations_on_one_side_of_the_base_model_are_one_sentence() -> None:
    truth = make_truth(300)
    base = make_outcome({"adaptation": "none", "rank": None}, truth, scale=0.6, noise=0.1, seeds=(0,))
    ranks = (1, 8)
    worse = [Outcome({"adaptation": "lora", "rank": rank}, {0: wrong(truth)}) for rank in ranks]
    same = [Outcome({"adaptation": "lora", "rank": rank}, base.posteriors) for rank in ranks]
    (finding,) = study_findings(study_table([base, *worse], select="nce", replicates=99))
    assert finding.tone == "good"
    assert "Every configuration is significantly worse than the base model (0.627)." in finding.detail
    (finding,) = study_findings(study_table([base, *same], select="nce", replicates=99))
    assert finding.tone == "unclear"
    assert "No configuration is significantly different from the base model (0.627)." in finding.detail


@pytest.mark.parametrize("select", ["nce", "error_rate", "accuracy", "brier"])
def test_the_best_of_what_is_worse_than_the_priors_is_no_good_news(select: str) -> None:
    truth = make_truth(300)
    rows = [Outcome({"rank": rank}, {0: worse}) for rank, worse in ((1, wrong(truth)), (8, wrong(wrong(wrong(truth)))))]
    sharper = Posteriors.from_scores(3 * wrong(truth).log_posteriors, truth.labels, truth.ids)
    (finding,) = study_findings(study_table([*rows, Outcome({"rank": 9}, {0: sharper})], select=select, replicates=99))
    assert finding.tone == "bad"
    assert finding.headline.startswith("No configuration is better than the priors by ")
    assert "est value is " in finding.detail
    assert "of rank 1. It is significantly worse than the class frequencies alone (" in finding.detail


def test_an_unlisted_base_that_is_better_is_no_good_news() -> None:
    truth = make_truth(300)
    outcomes = [make_outcome({"rank": rank}, truth, scale=rank / 20, noise=0.1, seeds=(0,)) for rank in (1, 5)]
    base = make_outcome({"adaptation": "none"}, truth, scale=0.5, noise=0.1, seeds=(0,))
    (finding,) = study_findings(study_table(outcomes, select="nce", replicates=99, bases=[base]))
    assert finding.headline.startswith("Best by NCE: rank 5 (")
    assert finding.tone == "unclear"
    assert "Every configuration is significantly worse than the base model (" in finding.detail
    better = make_outcome({"rank": 9}, truth, scale=1.0, noise=0.0, seeds=(0,))
    (finding,) = study_findings(study_table([*outcomes, better], select="nce", replicates=99, bases=[base]))
    assert finding.tone == "good"
    assert "It is significantly better than the base model (" in finding.detail
    assert "significantly worse than the base model: rank 1; rank 5." in finding.detail


def test_the_best_may_be_no_better_than_the_priors() -> None:
    truth = make_truth(300)
    constant, bad = truth.prior_only(), wrong(truth)
    noisy = Posteriors.from_scores(constant.log_posteriors + 0.01 * truth.log_posteriors[::-1], truth.labels, truth.ids)
    outcomes = [Outcome({"rank": 1}, {0: noisy}), Outcome({"rank": 8}, {0: bad})]
    (finding,) = study_findings(study_table(outcomes, select="nce", replicates=99))
    assert finding.tone == "unclear"
    assert "It is not significantly better than the class frequencies alone (1.000)." in finding.detail


def wrong(truth: Posteriors) -> Posteriors:
    """Posteriors that are sure of the opposite."""
    return Posteriors.from_scores(-truth.log_posteriors, truth.labels, truth.ids)
