"""Configurations: what a run does not use is left out, and what it uses has one spelling."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.studies_plan import BASE, kinds, plan

from rango.errors import InputError
from rango.files import fingerprint
from rango.options import FinetuneConfig


class TestSpelling:
    def test_what_a_listed_run_does_not_name_is_told_as_it_is(self) -> None:
        runs = [{"adaptation": "none"}, {"lora.rank": 2}, {"lora.targets": "q"}, {"normalise": "tokens"}]
        planned = plan(base={"lora": {"targets": "v"}}, runs=runs)
        assert [tuple(row.axes.values()) for row in planned.rows] == [
            ("none", 8, "v", "none"),
            ("lora", 2, "v", "none"),
            ("lora", 8, "q", "none"),
            ("lora", 8, "v", "tokens"),
        ]

    def test_values_are_told_as_the_configuration_reads_them(self) -> None:
        # YAML takes 1e-3 for a word.
        planned = plan(vary={"learning_rate": ["1e-4", "1e-3", 0.001], "lora.rank": [8, 8.0, "8", 4]})
        assert [tuple(row.axes.values()) for row in planned.rows] == [(1e-4, 8), (1e-4, 4), (1e-3, 8), (1e-3, 4)]
        assert {type(row.axes["learning_rate"]) for row in planned.rows} == {float}

    def test_targets_have_one_order(self) -> None:
        planned = plan(vary={"lora.targets": ["q,v", "v,q", ["v", "q"], "head,mlp,o"]})
        assert [row.axes["lora.targets"] for row in planned.rows] == ["q,v", "o,mlp,head"]
        runs = [job.config.lora.targets for job in planned.jobs if job.kind == "run"]
        assert runs == [("q", "v"), ("o", "mlp", "head")]

    def test_the_variants_of_lora_are_axes(self) -> None:
        patterns = [None, "", "mlp=16, k=4.0", ["mlp=16", "k=4"]]
        planned = plan(vary={"lora.rank_pattern": patterns, "lora.dora": [False, True], "lora.init": ["pissa"]})
        rows = [tuple(row.axes.values()) for row in planned.rows]
        assert rows == [(ranks, dora, "pissa") for ranks in (None, "mlp=16,k=4") for dora in (False, True)]
        runs = {(job.config.lora.rank_pattern, job.config.lora.dora) for job in planned.jobs if job.kind == "run"}
        assert runs == {(ranks, dora) for ranks in ((), ("mlp=16", "k=4")) for dora in (False, True)}

    def test_the_rule_belongs_to_choice(self) -> None:
        planned = plan(vary={"objective": ["answer", "choice"], "rule": ["logarithmic", "brier"]})
        rows = [tuple(row.axes.values()) for row in planned.rows]
        assert rows == [("answer", None), ("choice", "logarithmic"), ("choice", "brier")]
        assert kinds(planned)["run"] == 3

    def test_the_metric_of_the_study_chooses_checkpoints(self) -> None:
        def chosen(**values: Any) -> set[str]:
            return {job.config.select for job in plan(**values).jobs if job.kind == "run"}

        assert chosen(select="accuracy") == {"accuracy"}
        assert chosen(select="accuracy", base={"select": "brier"}) == {"brier"}
        assert chosen(select="accuracy", vary={"select": ["nce", "brier"]}) == {"nce", "brier"}
        assert chosen(select="cross_entropy") == {"nce"}  # they order alike, and share runs

    def test_a_run_in_the_one_spelling_is_hashed_as_it_stands(self) -> None:
        """Otherwise runs that are recorded would be trained again."""
        values = {**BASE, "rule": "brier", "lora": {"targets": "q,k,v"}}
        config = FinetuneConfig.build(values)
        (_, run) = plan(base=values).jobs
        assert run.config == config
        assert run.id == fingerprint("run", config.model_dump_json())


class TestRefusals:
    def test_what_trains_nothing_may_be_calibrated_in_any_regime(self) -> None:
        assert plan(base={"adaptation": "calibration", "regime": "all"}).rows[0].cells[0].calibrator == "temperature"

    @pytest.mark.parametrize(
        ("base", "message"),
        [
            ({"adaptation": "few-shot"}, "few-shot needs shots"),
            ({"adaptation": "mc-dropout"}, r"mc-dropout needs lora.dropout above 0; it is 0.0"),
            ({"adaptation": "lore"}, "adaptation is 'lore'"),
            ({"task": "simulatd"}, "did you mean 'simulated'"),
            (
                {"adaptation": "lora+calibration", "regime": "all"},
                "adaptation is lora.calibration and regime is all.*use regime validation, or lora without calibration",
            ),
            (
                {"adaptation": "mc-dropout+calibration", "regime": "retrain", "lora": {"dropout": 0.1}},
                "regime is retrain, which trains on the validation instances",
            ),
            ({"adaptation": "ensemble+calibration", "regime": "all"}, "or ensemble without calibration"),
            ({"adaptation": "full+calibration", "regime": "retrain"}, "or full without calibration"),
        ],
    )
    def test_messages(self, base: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            plan(base=base)
