"""A study's own models: one tokenizer for several, in the right order, whatever goes wrong with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rango.errors import InputError
from rango.files import read_yaml
from rango.models.loading import load_model
from rango.results.outcomes import read_outcomes
from rango.studies.plan import Plan, plan_study
from rango.studies.pretrained_models import ModelSpec, plan_models
from rango.studies.queue import work_items
from rango.studies.store import Store
from rango.studies.study import Study
from rango.studies.study_file import read_study
from rango.studies.worker import Worker

ROOT = Path(__file__).resolve().parents[2]
BIGRAM = {"model": "ngram", "ngram": {"order": 2}, "vocabulary": 300}
MODELS: dict[str, dict[str, Any]] = {
    "second": {"model": "ngram", "tokenizer": "first"},
    "first": {"texts": "simulated", "lines": 400, **BIGRAM},
}
BASE = {"task": "simulated", "adaptation": "none", "train": 10, "validation": 10, "test": 20, "form": "cloze"}


def specs(**models: dict[str, Any]) -> dict[str, ModelSpec]:
    return {name: ModelSpec.build(ModelSpec.flat(values)) for name, values in models.items()}


def planned(out: Path, models: dict[str, dict[str, Any]] = MODELS) -> Plan:
    values = {"name": "s", "base": BASE, "models": models, "vary": {"model": ["second", "first"]}}
    return plan_study(Study.build(values), out)


class TestPlanning:
    def test_the_model_whose_tokenizer_is_taken_comes_first(self) -> None:
        folders = plan_models(specs(**MODELS))
        assert list(folders) == ["first", "second"]
        folder, first = folders["first"]
        _, second = folders["second"]
        assert second.tokenizer_of == folder
        assert second.options.tokenizer is None
        assert (second.texts, second.lines) == (first.texts, first.lines) == ("simulated", 400)

    @pytest.mark.parametrize("name", ["../../x", "/x", "a/b", "", ".x", "a\\b", "a\x1b[31m", "a\nb"])
    def test_a_path_is_no_name(self, name: str) -> None:
        with pytest.raises(InputError, match="cannot name a folder; give a word, such as small"):
            plan_models(specs(**{name: MODELS["first"]}))
        assert plan_models(specs(**{"größe 2.5-b": MODELS["first"]}))

    def test_texts_of_its_own_stay(self) -> None:
        folders = plan_models(specs(first=MODELS["first"], second={**MODELS["second"], "texts": "a.txt"}))
        assert (folders["second"][1].texts, folders["second"][1].lines) == ("a.txt", 70_000)

    def test_another_tokenizer_is_another_model(self) -> None:
        changed = {**MODELS, "first": {**MODELS["first"], "vocabulary": 320}}
        one, other = (plan_models(specs(**models)) for models in (MODELS, changed))
        assert one["second"][0] != other["second"][0]

    def test_a_folder_is_no_name(self) -> None:
        (_, spec) = plan_models(specs(a={**MODELS["first"], "tokenizer": "runs/first"}))["a"]
        assert (str(spec.options.tokenizer), spec.tokenizer_of) == ("runs/first", None)

    def test_a_study_that_is_moved_keeps_its_models(self) -> None:
        here, there = (planned(Path(out)) for out in ("a", "b/c"))
        assert here.models == there.models
        assert [job.id for job in here.jobs] == [job.id for job in there.jobs]
        assert Plan.model_validate_json(here.model_dump_json()) == here

    def test_only_what_is_used_is_planned(self, tmp_path: Path) -> None:
        """A model that no configuration names is not pre-trained, nor are its texts asked for."""
        models = {
            **MODELS,
            "other": {**BIGRAM, "texts": "nowhere.txt"},
            "third": {"model": "ngram", "tokenizer": "second"},
        }
        assert [name.partition("-")[0] for name in planned(tmp_path, models).models] == ["first", "second"]

    def test_all_missing_texts_are_told_before_anything_runs(self, tmp_path: Path) -> None:
        there = tmp_path / "there.txt"
        there.write_text("a\n")
        models = {
            "second": {**BIGRAM, "texts": ["no.txt", str(there)]},
            "first": {**BIGRAM, "texts": "nor.jsonl"},
        }
        expected = "no.txt does not exist; give the path of an existing text; models: nor.jsonl does not exist"
        with pytest.raises(InputError, match=expected):
            planned(tmp_path / "out", models)

    @pytest.mark.parametrize(
        ("models", "message"),
        [
            (
                {"a": {**BIGRAM, "tokenizer": "b"}, "b": {**BIGRAM, "tokenizer": "a"}},
                "models: a -> b -> a: each takes the tokenizer of the next; let one of them train its own",
            ),
            ({"a": {**BIGRAM, "tokenizer": "a"}}, "models: a -> a: each takes"),
            ({"a": BIGRAM}, "models.a: texts is missing; give `simulated`, text files, or as tokenizer another model"),
        ],
    )
    def test_mistakes(self, models: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=message):
            planned(tmp_path, {"first": MODELS["first"], "second": MODELS["first"], **models})


def test_a_text_too_small_for_its_vocabulary_is_refused_before_anything_runs(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog sat on the log\n" * 20)
    small = {**MODELS["first"], "texts": str(text), "vocabulary": 8000}
    with pytest.raises(
        InputError, match=r"models\.first: vocabulary is 8000 but the text has pairs for only \d+ tokens"
    ):
        planned(tmp_path / "out", {**MODELS, "first": small})
    planned(tmp_path / "out", {**MODELS, "first": {**small, "vocabulary": 260}})


class TestWork:
    def test_the_ladder_is_computed_and_read(self, tmp_path: Path) -> None:
        plan, store = planned(tmp_path), Store(tmp_path)
        store.write_plan(plan)
        Worker(store, plan).work()
        first, second = (load_model(tmp_path / "models" / name) for name in plan.models)
        assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()
        facts = [outcome.facts for outcome in read_outcomes(tmp_path).outcomes]
        held_out = [read_yaml(tmp_path / "models" / name / "pretrain.yaml")["held_out"] for name in plan.models]
        assert facts == held_out[::-1]  # the axis has the second before the first
        shutil.rmtree(tmp_path / "models")
        assert [outcome.facts for outcome in read_outcomes(tmp_path).outcomes] == facts, "tables need no model"
        assert facts[0]["held_out_bits_per_byte"] < facts[1]["held_out_bits_per_byte"]

    def test_it_waits_and_falls_with_it(self, tmp_path: Path) -> None:
        plan, store = planned(tmp_path), Store(tmp_path)
        first, second, *_ = work_items(plan, store)
        assert (first.ready(store, plan), second.ready(store, plan)) == (("yes", ""), ("no", ""))
        store.write_failure(first.id, "no memory")
        assert second.ready(store, plan) == ("never", "no memory")
        Worker(store, plan).work()
        assert store.failure(second.id) == "what it builds on failed: no memory"
        assert {store.status(job) for job in plan.jobs} == {"failed"}


def test_a_key_of_a_model_may_be_set() -> None:
    path = ROOT / "studies" / "ladder-of-models-real.yaml"
    changes = ["models.transformer.texts=[a.txt, b.jsonl]", "models.transformer.batch-tokens=512", "data=/d/{task}"]
    study = read_study(path, changes=changes)
    spec = study.models["transformer"]
    assert (spec.texts, spec.options.batch_tokens, spec.options.hidden) == (("a.txt", "b.jsonl"), 512, 256)
    assert study.base["data"] == "/d/{task}"
    assert plan_models(study.models)["trigram"][1].texts == ("a.txt", "b.jsonl")
    with pytest.raises(InputError, match="--set 'models.transformer=1': expected models.NAME.KEY=VALUE"):
        read_study(path, changes=["models.transformer=1"])
