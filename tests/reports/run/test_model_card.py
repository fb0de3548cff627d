"""The model card: the Hub's fields hold the run's numbers, its Python gives its posteriors, nothing is invented."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from rango.files import write_yaml
from rango.models.loading import load_model
from rango.options import Form
from rango.reports.run.export import export
from rango.reports.run.model_card import Exported, prompt_template, render_card
from rango.tasks import TASKS, Instance, load_task
from rango.training.finetune import finetune
from rango.training.run_folder import Run

Checkpoint = Callable[..., Path]
SIZES = {"train": 30, "validation": 12, "test": 20}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables") / "moods"
    folder.mkdir()
    deeds = {"happy": "smiles and sings", "sad": "cries at home", "angry": "shouts at the door"}
    rows = [
        {"text": f"{name} {deed} on day {day}", "mood": mood}
        for day in range(12)
        for name in ("Ann", "Bo")
        for mood, deed in deeds.items()
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"prompt": "{text}. Mood:", "choices": [*deeds], "label": "mood"}
    (folder / "task.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def base(checkpoint: Checkpoint) -> Path:
    return checkpoint("phi", max_position_embeddings=512)


@pytest.fixture(scope="module")
def runs(base: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run in each form; the letter form is calibrated by an affine map, and cloze scores are means over tokens."""
    task = load_task(str(table), **SIZES)
    out = tmp_path_factory.mktemp("cards")
    settings: dict[str, Any] = {"steps": 4, "batch": 8, "learning_rate": 0.01}
    return {
        "letter": finetune(load_model(base), task, out=out / "letter", form="letter", **settings),
        "cloze": finetune(load_model(base), task, out=out / "cloze", form="cloze", normalise="tokens", **settings),
    }


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def test_the_fields_of_the_hub_hold_the_numbers_of_the_run(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["letter"]
    card = card_of(export(run, out=tmp_path / "out", base_model="org/base", license="mit"))
    assert (card.data.library_name, card.data.base_model, card.data.license) == ("peft", "org/base", "mit")
    assert card.data.to_dict()["base_model_relation"] == "adapter"
    results = {(result.metric_type, ", calibrated" in result.metric_name): result for result in card.data.eval_results}
    for calibrated, state in ((False, "adapted"), (True, "calibrated")):
        for name in ("nce", "error_rate", "cross_entropy"):
            estimate, result = run.metrics["test"][state][name], results[name, calibrated]
            assert result.metric_value == pytest.approx(estimate.value, abs=1e-6)
            assert result.metric_args == {"interval_95": [estimate.low, estimate.high]}
            assert (result.dataset_name, result.dataset_split) == ("moods", "test")
            assert result.dataset_args == {"instances": 20, "data_seed": 0}
    merged = card_of(export(run, out=tmp_path / "merged", merge=True))
    assert (merged.data.library_name, merged.data.base_model, merged.data.license) == ("transformers", None, None)


def test_the_text_has_the_table_the_data_and_what_the_model_was_asked(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["letter"]
    text = card_of(export(run, out=tmp_path / "out")).text
    nce = run.metrics["test"]["adapted"]["nce"]
    (row,) = re.findall(r"^\| Adapted model \|.*$", text, flags=re.MULTILINE)
    assert f"{nce.value:.3f} ({nce.low:.3f} to {nce.high:.3f})" in row
    assert row.endswith("| 20 |")
    for fingerprint in run.record["fingerprints"].values():
        assert f"`{fingerprint}`" in text
    assert "train 30, validation 12, test 20; drawn with data-seed 0" in text
    assert "````text\n{text}. Mood:\n{choices}\nAnswer:\n````" in text
    assert "--max-lora-rank 8 " in text


@pytest.mark.parametrize("form", ["letter", "cloze"])
@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "model"])
def test_the_python_of_the_card_gives_the_posteriors_of_the_run(
    runs: dict[str, Run], table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Form, merge: bool
) -> None:
    run, task = runs[form], load_task(str(table), **SIZES)
    out = export(run, out=tmp_path / "out", merge=merge)
    loading, calibrating = re.findall(r"```python\n(.*?)```", card_of(out).text, flags=re.DOTALL)
    monkeypatch.chdir(out)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # files that the card leaves open
        exec(compile(loading.replace('"THIS"', repr(os.fspath(out))), "README.md", "exec"), names)
        for number, instance in enumerate(task.test[:3]):
            prompt = task.prompt(instance, form)
            names |= {"prompt": prompt.trunk, "choices": [branch.removeprefix(" ") for branch in prompt.branches]}
            exec(compile(calibrating, "README.md", "exec"), names)
            for state, values in (("adapted", names["s"]), ("calibrated", names["calibrated"])):
                expected = run.posteriors(state).log_posteriors[number]
                np.testing.assert_allclose(values.numpy(), expected, rtol=0, atol=1e-4)


def test_an_adapter_of_a_gguf_file_is_loaded_by_what_reads_it(runs: dict[str, Run]) -> None:
    made = Exported("adapter", False, "base.gguf", False, "base.gguf", None, True, True, adapter_config={"r": 8})
    use = render_card(runs["letter"], made).split("## Use")[1]
    assert "base = load_model('base.gguf')" in use
    assert "`rango export RUN --merge` writes a whole model for them" in use
    assert "vllm serve" not in use


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_numbers_of_a_quantised_base_are_said_to_be_that(runs: dict[str, Run], tmp_path: Path, kind: str) -> None:
    run = runs["letter"]
    write_yaml(tmp_path / "run.yaml", {**run.record, "config": {**run.part("config"), "quantise": "nf4"}})
    (tmp_path / "metrics.json").write_bytes((run.path / "metrics.json").read_bytes())
    made = Exported(kind, False, "base", False, "base", None, False, True, adapter_config={"r": 8})
    results = render_card(Run(tmp_path), made).split("## Results")[1].split("## Data")[0]
    assert "The base's matrices were held in nf4 while this was measured." in results
    assert "unquantised" in results
    assert "while this was measured" not in render_card(run, made)


def test_a_licence_is_what_is_known_and_never_invented(runs: dict[str, Run], tmp_path: Path) -> None:
    def licence(source: Path) -> str:
        made = Exported("adapter", False, "base", False, str(source), None, False, True, adapter_config={"r": 8})
        return render_card(runs["letter"], made).split("## Licence")[1]

    unknown = licence(tmp_path)
    assert "This adapter: none is stated by whoever exported it" in unknown
    assert "`base`: not known here; see its own card" in unknown
    assert "Data: not known here" in unknown
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: gemma\n---\n# Base\n")
    assert "`base`: other (gemma), as its own card says" in licence(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    assert "`base`: not known here" in licence(tmp_path)


def test_texts_of_a_run_are_no_markup(runs: dict[str, Run], tmp_path: Path) -> None:
    note = "a | b <script>alert(1)</script> [x](y)\n# heading"
    run = runs["letter"]
    hostile = tmp_path / "run"
    hostile.mkdir()
    write_yaml(hostile / "run.yaml", {**run.record, "notes": [note]})
    (hostile / "metrics.json").write_bytes((run.path / "metrics.json").read_bytes())
    made = Exported("adapter", False, "base", False, "base", None, False, True, adapter_config={"r": 8})
    (line,) = [line for line in render_card(Run(hostile), made).splitlines() if "script" in line]
    assert line == r"- a \| b \<script\>alert(1)\</script\> \[x\](y) \# heading"


def test_what_others_would_read_wrongly_is_said(runs: dict[str, Run]) -> None:
    def use(config: dict[str, Any]) -> str:
        made = Exported("adapter", False, "base", False, "base", None, False, True, adapter_config=config)
        return render_card(runs["letter"], made).split("## Use")[1]

    plain = use({"r": 33, "use_dora": False, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}})
    assert "--max-lora-rank 64 " in plain
    assert "convert_lora_to_gguf.py" in plain
    for other in ({"use_dora": True}, {"alpha_pattern": {"q": 3}}, {"rank_pattern": {"q": 33}}):
        assert "vLLM does not load this kind of adapter, or scales it wrongly" in use({"r": 8, **other})
    for other in ({"use_dora": True}, {"use_rslora": True}, {"alpha_pattern": {"q": 3}}):
        assert "llama.cpp's converter would scale this adapter wrongly" in use({"r": 8, **other})
    assert "--max-lora-rank 8 " in use({"r": 8, "use_rslora": True})


@pytest.mark.parametrize("form", ["letter", "cloze"])
@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_prompt_is_that_of_the_task(name: str, form: Form) -> None:
    template = prompt_template(name, form)
    assert template is not None
    if name.startswith("simulated"):
        task = load_task(name, train=5, validation=5, test=5)
        instance = Instance("i", "{context}", "{question}", ("{a}", "{b}"), 0, "g")
        listed = "A. {a}\nB. {b}"
        assert task.write_prompt(instance, form).trunk == template.replace("{choices}", listed).strip()


def test_a_table_that_is_gone_has_no_prompt(table: Path, tmp_path: Path) -> None:
    assert prompt_template(str(table), "cloze") == "{text}. Mood:"
    assert prompt_template(str(table / "rows.jsonl"), "cloze") == "{text}. Mood:"
    assert prompt_template(str(tmp_path / "gone"), "cloze") is None
