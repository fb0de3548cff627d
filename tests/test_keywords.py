"""The typed keywords are the options: no field is missing, none is more, and each takes what its option takes."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from rango.keywords import FinetuneOptions, LoRAKeywords, ProbeKeywords, TaskKeywords
from rango.options import FinetuneConfig, LoRA, ModelAndTask, TaskOptions
from rango.serving.probed_model import probe
from rango.training.probing import ProbeConfig


def kinds(annotation: Any) -> set[Any]:
    """The types of a union, without the checks that stand beside them."""
    if get_origin(annotation) is Annotated:
        return kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return {kind for part in get_args(annotation) for kind in kinds(part)}
    if get_origin(annotation) is tuple:
        return {tuple}
    return {annotation}


@pytest.mark.parametrize(
    ("keywords", "config"), [(TaskKeywords, TaskOptions), (LoRAKeywords, LoRA), (FinetuneOptions, FinetuneConfig)]
)
def test_keywords_are_the_fields_of_the_options(keywords: Any, config: Any) -> None:
    hints = get_type_hints(keywords)
    fields = get_type_hints(config, include_extras=True)
    names = set(config.model_fields) - (set(ModelAndTask.model_fields) if config is FinetuneConfig else set())
    assert set(hints) == names
    for name, hint in hints.items():
        assert kinds(fields[name]) <= kinds(hint), name
        # What is more is another spelling, in a dictionary or a text, of what the option takes.
        spellings = {str, LoRAKeywords} | {kind for kind in kinds(hint) if get_origin(kind) is not None}
        assert kinds(hint) - kinds(fields[name]) <= spellings, name


def test_the_options_of_a_probe_are_its_arguments_or_keywords() -> None:
    named = set(inspect.signature(probe).parameters)
    assert set(ProbeConfig.model_fields) <= named | set(get_type_hints(ProbeKeywords))


SNIPPET = """
from pathlib import Path
import rango
task = rango.load_task("simulated", train=10)
model = rango.load_model("gpt2")
run = rango.finetune(model, task, out=Path("run"), steps=20, lora={"rank": 2})
run = rango.finetune(model, task, out=Path("run"), stepz=20)
run = rango.finetune(model, task, out=Path("run"), steps="many")
run = rango.finetune(model, task, out=Path("run"), lora={"rang": 2})
task = rango.load_task("simulated", trian=10)
frame_of_run: rango.Run = run
"""


@pytest.mark.slow
def test_mypy_finds_a_misspelt_option(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(SNIPPET, encoding="utf-8")
    config = Path(__file__).resolve().parents[1] / "pyproject.toml"
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), str(tmp_path / "snippet.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=config.parent, timeout=900)
    lines = [line.split(": ", 2) for line in done.stdout.splitlines() if "error" in line and "snippet" in line]
    assert [place.rpartition(":")[2] for place, *_ in lines] == ["7", "8", "9", "10"], done.stdout
    assert "stepz" in done.stdout
    assert "trian" in done.stdout
