"""Pre-training from text to a folder that transformers loads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.pretraining import story, tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from rango.console import Screen
from rango.errors import InputError
from rango.files import read_yaml
from rango.language.corpus import consecutive_windows, read_sources, tokenise, train_tokenizer
from rango.language.options import PretrainConfig
from rango.language.pretrain import pretrain
from rango.language.trainer import token_losses
from rango.output_folder import only_writer


class TestFolder:
    def test_it_loads_and_has_learned(self, tmp_path: Path) -> None:
        texts = story()
        out = pretrain(texts, out=tmp_path / "deep" / "lm", config=tiny())
        assert out == tmp_path / "deep" / "lm"
        network = AutoModelForCausalLM.from_pretrained(out)
        tokenizer = AutoTokenizer.from_pretrained(out)
        assert type(network).__name__ == "PhiForCausalLM"
        record = read_yaml(out / "pretrain.yaml")
        assert record["parameters"] == network.num_parameters()
        assert record["tokens"] == 128 * 30
        assert [entry["step"] for entry in record["history"]] == [10, 20, 30]
        assert record["held_out"]["held_out_nats_per_token"] < 0.7 * math.log(300)
        perplexity = math.exp(record["held_out"]["held_out_nats_per_token"])
        assert record["held_out"]["held_out_perplexity"] == pytest.approx(perplexity, rel=1e-4)
        assert PretrainConfig.build(record["config"]) == tiny()
        assert record["texts"][0]["documents"] == len(texts)
        assert not list(out.parent.glob(".*"))
        assert not (out / "state.safetensors").exists()

        sources = read_sources(texts)
        corpus = tokenise(sources, train_tokenizer(sources, 300), context=16)
        assert tokenizer(texts[0])["input_ids"] == train_tokenizer(sources, 300)(texts[0])["input_ids"]
        batch = torch.from_numpy(consecutive_windows(corpus.held_out, context=16).astype(np.int64))
        with torch.no_grad():
            loss = token_losses(network, batch).item()
        assert loss == pytest.approx(record["held_out"]["held_out_nats_per_token"], abs=1e-5)
        bits = loss * batch[:, 1:].numel() / corpus.held_out_bytes / math.log(2)
        assert bits == pytest.approx(record["held_out"]["held_out_bits_per_byte"], abs=1e-5)

    @pytest.mark.parametrize("architecture", ["phi", "llama", "gpt2", "mistral", "qwen2"])
    @pytest.mark.parametrize("tied", [False, True])
    def test_every_architecture(self, tmp_path: Path, architecture: str, tied: bool) -> None:
        config = tiny(architecture=architecture, tie_embeddings=tied, tokens=256)
        out = pretrain(story(100), out=tmp_path / "lm", config=config)
        network, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        assert not info["missing_keys"]
        assert network.config.model_type == architecture
        assert network.config.max_position_embeddings == 16
        same = network.get_input_embeddings().weight is network.get_output_embeddings().weight
        assert same is tied

    def test_files_and_strings_give_the_same_model(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("\n".join(story(100)), encoding="utf-8")
        one = pretrain(story(100), out=tmp_path / "one", config=tiny(tokens=256))
        two = pretrain([tmp_path / "a.txt"], out=tmp_path / "two", config=tiny(tokens=256))
        assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()

    def test_the_seed_decides(self, tmp_path: Path) -> None:
        torch.manual_seed(7)
        before = torch.random.get_rng_state()
        paths = [
            pretrain(story(100), out=tmp_path / str(number), config=tiny(tokens=512, seed=seed))
            for number, seed in enumerate((0, 0, 1))
        ]
        first, same, other = (path.joinpath("model.safetensors").read_bytes() for path in paths)
        assert first == same
        assert first != other
        assert torch.equal(before, torch.random.get_rng_state())

    def test_a_budget_in_minutes_ends(self, tmp_path: Path) -> None:
        out = pretrain(story(100), out=tmp_path / "lm", config=tiny(tokens=None, minutes=0.005))
        record = read_yaml(out / "pretrain.yaml")
        assert 0.3 <= record["seconds"] < 5
        assert len(record["history"]) >= 1

    def test_what_is_said(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        pretrain(story(100), out=tmp_path / "lm", config=tiny(tokens=512, evaluate_every=2), screen=Screen())
        said = " ".join(capfd.readouterr().err.split())
        assert "tokens of text from 1 source, " in said
        assert "budget 512 tokens" in said
        assert "nats/token" in said
        assert "(perplexity " in said
        assert "bits/byte" in said
        assert " s left" in said
        assert "tokens/s, done" in said
        pretrain(story(100), out=tmp_path / "quiet", config=tiny(tokens=512))
        assert capfd.readouterr() == ("", "")


class TestBadInput:
    @pytest.mark.parametrize(
        ("texts", "changes", "message"),
        [
            ([], {}, "no text given"),
            (["a b c"] * 30, {}, "vocabulary is 300 but the text has pairs for only"),
            (story(100), {"context": 4096}, "context 4096 needs at least 40970"),
            (
                story(100),
                {"learning_rate": 1e30, "warmup": 0.0},
                r"the loss is (nan|inf) at step \d+; expected a finite",
            ),
            (
                story(100),
                {"learning_rate": 1e30, "warmup": 0.0, "tokens": 128},
                r"held-out loss (nan|inf) nats/token at step 1; expected less than 710: lower learning_rate",
            ),
            (
                story(100),
                {"learning_rate": 1e5, "warmup": 0.0, "tokens": 128},
                r"held-out loss \d\.\d+e\+\d+ nats/token at step 1; expected less than 710: lower learning_rate",
            ),
        ],
    )
    def test_nothing_is_left_behind(
        self, tmp_path: Path, texts: list[str], changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            pretrain(texts, out=tmp_path / "lm", config=tiny(**changes))
        assert not list(tmp_path.iterdir())


def test_one_process_writes_a_model(tmp_path: Path) -> None:
    out = tmp_path / "lm"
    with only_writer(out, tmp_path / ".lm.lock"), pytest.raises(InputError, match="lm is being written by process"):
        pretrain(story(), out=out, config=tiny())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".lm.unfinished").mkdir()
    (tmp_path / ".lm.unfinished" / "model.safetensors").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="model.safetensors leads out of"):
        pretrain(story(), out=out, config=tiny())
