"""`rango models`: the list of architectures, one model, JSON, and the memory of its training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import fails

from rango.cli import main
from rango.models.placement import ARCHITECTURES

Checkpoint = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


def test_architectures_are_listed_with_their_placements(capsys: Capture) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ARCHITECTURES) + 1
    assert "gpt2            q, k, v, o, mlp, head" in lines
    assert "mixtral         q, k, v, o, head" in lines
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["phi3"] == ["q", "k", "v", "o", "mlp", "head"]


def test_a_model_is_shown_with_what_each_placement_trains(checkpoint: Checkpoint, capsys: Capture) -> None:
    folder = str(checkpoint("gpt2"))
    assert main(["models", folder, "--lora.rank", "4"]) == 0
    text = capsys.readouterr().out
    assert "architecture  GPT2LMHeadModel (gpt2), 2 layers of 32" in text
    assert "head          tied to the embeddings" in text
    (q,) = [line.split() for line in text.splitlines() if line.startswith("q ")]
    assert q == ["q", "2", "128", "512", "attn.c_attn:q"]
    assert main(["models", folder, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {each["name"]: each["trained"] for each in shown["placements"]}["q"] == 8 * 128


def test_memory_is_estimated_and_a_limit_is_advised_on(checkpoint: Checkpoint, capsys: Capture) -> None:
    folder = str(checkpoint("llama"))
    asked = ["models", folder, "--limit", "8GiB", "--tokens", "256", "--device", "cpu"]
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert "training memory, LoRA r 8 on q,v, float32, 256 tokens a forward pass" in text
    assert "It fits into 8GiB." in text
    assert main([*asked, "--json"]) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    parts = ("weights", "adapter", "gradients", "optimizer", "activations", "process")
    assert memory["total"] == sum(memory[part] for part in parts)
    assert (memory["limit"], memory["advice"]) == ("8GiB", "It fits into 8GiB.")


def test_bad_input_is_one_line(checkpoint: Checkpoint, tmp_path: Path, capsys: Capture) -> None:
    assert "--memory has no model" in fails(capsys, "models", "--memory")
    assert "does not exist; expected a Hub id or a folder" in fails(capsys, "models", tmp_path / "nothing")
    assert "limit" in fails(capsys, "models", checkpoint("phi"), "--limit", "8")
    assert "did you mean 'self_attn.q_proj'?" in fails(
        capsys, "models", checkpoint("phi"), "--memory", "--lora.targets", "self_atn.q_proj", "--device", "cpu"
    )
