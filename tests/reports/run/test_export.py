"""A run handed on: adapter and model give its posteriors, the folder is whole or absent, the Hub gets what is right."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from helpers.adapters import logits
from helpers.toy import toy_task
from transformers import AutoModelForCausalLM

from rango import export
from rango.errors import InputError, RunError
from rango.files import read_json, read_yaml, write_yaml
from rango.models.loading import load_model
from rango.models.peft_format import load_adapter
from rango.scoring.scorer import evaluate
from rango.training.finetune import finetune
from rango.training.run_folder import Run

Checkpoint = Callable[..., Path]


@pytest.fixture(scope="module")
def base(checkpoint: Checkpoint) -> Path:
    return checkpoint("llama", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("exported") / "run"
    settings: dict[str, Any] = {"lora": {"rank": 2, "targets": "q,v,head"}, "learning_rate": 0.01}
    return finetune(load_model(base), toy_task(), out=out, steps=6, batch=8, **settings)


@pytest.fixture(scope="module")
def full_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("exported") / "full"
    return finetune(load_model(base), toy_task(), out=out, adaptation="full", steps=2, batch=4)


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_the_adapter_loads_in_peft_with_the_same_logits(run: Run, base: Path, tmp_path: Path) -> None:
    out = export(run, out=tmp_path / "adapter")
    assert names(out) == {
        *("adapter_config.json", "adapter_model.safetensors", "calibrator.json", "run.yaml", "README.md"),
    }
    model = load_model(base)
    load_adapter(model, run.path)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on tied heads
        network: Any = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
        twin = peft.PeftModel.from_pretrained(network, str(out)).eval()
        torch.testing.assert_close(logits(twin), logits(model), rtol=0, atol=1e-5)
    assert (out / "calibrator.json").read_bytes() == (run.path / "calibrator.json").read_bytes()


def test_the_merged_model_gives_the_posteriors_of_the_run(run: Run, tmp_path: Path) -> None:
    out = export(run.path, out=tmp_path / "merged", merge=True)
    assert {"model.safetensors", "config.json", "tokenizer.json", "calibrator.json", "README.md"} <= names(out)
    assert "adapter_config.json" not in names(out)
    posteriors = evaluate(load_model(out), toy_task().test, task=toy_task())
    expected = run.posteriors("adapted")
    np.testing.assert_allclose(posteriors.log_posteriors, expected.log_posteriors, rtol=0, atol=1e-5)


def test_full_fine_tuning_is_a_whole_model_whatever_is_asked(full_run: Run, tmp_path: Path) -> None:
    out = export(full_run, out=tmp_path / "full")
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names(out)
    assert "full_finetuning.json" not in names(out)
    posteriors = evaluate(load_model(out), toy_task().test, task=toy_task())
    np.testing.assert_array_equal(posteriors.log_posteriors, full_run.posteriors("adapted").log_posteriors)
    assert "fine-tuned from" in (out / "README.md").read_text()


@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "model"])
def test_equal_runs_give_equal_bytes(run: Run, tmp_path: Path, merge: bool) -> None:
    for name in ("a", "b"):
        export(run, out=tmp_path / name, merge=merge)
    assert names(tmp_path / "a") == names(tmp_path / "b")
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_same_export_again_stays_as_it_is(run: Run, tmp_path: Path) -> None:
    out = export(run, out=tmp_path / "out")
    (out / "README.md").write_text("edited")
    assert export(run, out=out) == out
    assert (out / "README.md").read_text() == "edited"
    for other in ({"merge": True}, {"state": "last"}, {"license": "mit"}):
        with pytest.raises(InputError, match="already holds other files"):
            export(run, out=out, **other)


def test_an_interrupted_export_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> str:
        raise KeyboardInterrupt

    leftover = tmp_path / ".out.killed.tmp"
    leftover.mkdir()
    monkeypatch.setattr("rango.reports.run.export.render_card", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(run, out=tmp_path / "out", merge=True)
    assert list(tmp_path.iterdir()) == []


def test_the_last_checkpoint_is_given_without_results(run: Run, tmp_path: Path) -> None:
    out = export(run, out=tmp_path / "last", state="last")
    assert "calibrator.json" not in names(out)
    assert (out / "adapter_model.safetensors").read_bytes() == (
        run.path / "adapter" / "last" / "adapter_model.safetensors"
    ).read_bytes()
    card = (out / "README.md").read_text()
    assert "model-index" not in card
    assert "Nothing was measured of this checkpoint" in card


def test_the_record_has_no_paths_of_this_machine(run: Run, base: Path, tmp_path: Path) -> None:
    out = export(run, out=tmp_path / "merged", merge=True)
    for file in out.iterdir():
        assert str(base.parent).encode() not in file.read_bytes(), file.name
    adapter = export(run, out=tmp_path / "adapter", base_model="org/base")
    for file in adapter.iterdir():
        assert str(base.parent).encode() not in file.read_bytes(), file.name
    assert read_json(adapter / "adapter_config.json")["base_model_name_or_path"] == "org/base"
    assert read_yaml(adapter / "run.yaml")["config"]["model"] == "org/base"
    # Without a better name the adapter keeps the one that PEFT finds the base by.
    own = export(run, out=tmp_path / "own")
    assert read_json(own / "adapter_config.json")["base_model_name_or_path"] == str(base)


def test_what_cannot_be_exported_is_refused(run: Run, tmp_path: Path) -> None:
    def refused(message: str, folder: Path = run.path, out: Path = tmp_path / "out", **options: Any) -> None:
        with pytest.raises(InputError, match=message):
            export(folder, out=out, **options)
        assert not (tmp_path / "out").exists()

    study = tmp_path / "study"
    study.mkdir()
    (study / "study.yaml").write_text("")
    refused(r"study is a study, and an ensemble in it is several models; give one of its runs, \S*runs/ID", study)
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / "metrics.json").write_text("{}")
    refused("is an evaluation, which has no model of its own", evaluation)
    unfinished = Path(shutil.copytree(run.path, tmp_path / "unfinished"))
    write_yaml(unfinished / "run.yaml", {**run.record, "status": "running"})
    refused(r"unfinished is not complete \(status running\); repeat its command", unfinished)
    refused("dtype is bfloat16 but an adapter is written as it was trained, in float32; give --merge", dtype="bfloat16")
    refused("is inside the run", out=run.path / "export")
    refused("base_model is '/a/b/c'; expected a Hub id", base_model="/a/b/c")
    gone = Path(shutil.copytree(run.path, tmp_path / "gone"))
    write_yaml(gone / "run.yaml", {**run.record, "config": {**run.part("config"), "model": "./GONE"}})
    refused("model folder ./GONE does not exist", gone, merge=True)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    write_yaml(gone / "run.yaml", {**run.record, "config": {**run.part("config"), "model": str(broken)}})
    refused("model folder .*broken has no weights", gone, merge=True)
    shutil.rmtree(gone / "adapter" / "best")
    refused("holds no adapter", gone)


class Hub:
    """What `HfApi` does, written down; class attributes, as the command makes its own."""

    calls: list[tuple[str, Any]]
    private: bool | None
    files: list[str]
    failing: str

    def whoami(self) -> dict[str, str]:
        self._call("whoami")
        return {"name": "me"}

    def repo_exists(self, repo_id: str) -> bool:
        self._call("repo_exists", repo_id)
        return self.private is not None

    def repo_info(self, _: str) -> Any:
        return type("Info", (), {"private": self.private})

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self._call("create_repo", (repo_id, private, exist_ok))

    def list_repo_files(self, _: str) -> list[str]:
        return self.files

    def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> None:
        self._call("upload_folder", (repo_id, sorted(names(Path(folder_path)))))

    def _call(self, name: str, value: Any = None) -> None:
        self.calls.append((name, value))
        if name == self.failing:
            raise OSError(f"{name} says no\nand more")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    Hub.calls, Hub.private, Hub.files, Hub.failing = [], None, [".gitattributes"], ""
    return Hub


ASKED: dict[str, Any] = {"push_to_hub": "me/mood", "base_model": "org/base"}


def test_a_push_is_private_and_of_the_whole_folder(run: Run, tmp_path: Path, hub: type[Hub]) -> None:
    out = export(run, out=tmp_path / "out", **ASKED)
    assert [name for name, _ in hub.calls] == ["whoami", "repo_exists", "create_repo", "upload_folder"]
    assert hub.calls[2][1] == ("me/mood", True, True)
    assert hub.calls[3][1] == ("me/mood", sorted(names(out)))
    # Again, and public: the folder stays, and is pushed.
    hub.private = False
    export(run, out=out, public=True, **ASKED)
    assert hub.calls[-2][1] == ("me/mood", False, True)
    assert hub.calls[-1][1] == ("me/mood", sorted(names(out)))


def test_nothing_is_pushed_where_a_check_fails(
    run: Run, tmp_path: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def refused(message: str, kind: type[Exception] = InputError, **options: Any) -> None:
        with pytest.raises(kind, match=message):
            export(run, out=out, **{**ASKED, **options})
        assert "upload_folder" not in [name for name, _ in hub.calls]
        assert not out.exists()

    refused("push_to_hub is 'mood'; expected ORG/NAME", push_to_hub="mood")
    refused(r"the adapter's base is \S+, which nobody else has; give its Hub id", base_model=None)
    hub.private = False
    refused("me/mood is public, and a push is private unless asked; give --public")
    hub.private, hub.failing = None, "whoami"
    refused(r"me/mood on the Hub cannot be pushed to \(whoami says no\); nothing is written", RunError)
    hub.failing = ""
    monkeypatch.setattr("rango.models.merging.TOLERANCE", {"float32": 0.0})
    refused("does not give the logits of base and adapter", RunError, merge=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("HF_HUB_OFFLINE is set")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    refused("there is no token; set HF_TOKEN")


def test_a_failed_push_is_one_line_and_the_folder_stays(run: Run, tmp_path: Path, hub: type[Hub]) -> None:
    out = tmp_path / "out"
    hub.failing = "upload_folder"
    with pytest.raises(
        RunError, match=r"me/mood could not be pushed \(upload_folder says no\); the export is whole in"
    ):
        export(run, out=out, **ASKED)
    hub.failing, hub.calls = "", []
    hub.files = [".gitattributes", "README.md", "config.json"]
    # A whole model beside an adapter would load as another model.
    with pytest.raises(InputError, match=r"me/mood holds config\.json, which would be mixed with what is in"):
        export(run, out=out, **ASKED)
    assert "upload_folder" not in [name for name, _ in hub.calls]
    hub.files = ["adapter_model.safetensors"]
    export(run, out=out, **ASKED)
    assert hub.calls[-1][0] == "upload_folder"
