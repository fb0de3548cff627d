"""Which network pre-training begins with: the LSTM, and the architecture of a config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.pretraining import TINY, lstm, story, tiny
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.activations import ACT2FN

from rango.cli import main
from rango.errors import InputError
from rango.files import read_yaml
from rango.language.corpus import consecutive_windows, read_sources, tokenise, train_tokenizer
from rango.language.networks import build_network
from rango.language.options import PretrainConfig
from rango.language.pretrain import pretrain
from rango.language.trainer import Trainer
from rango.models.loading import load_model


class TestLSTM:
    def test_it_is_trained_by_the_same_loop(self, tmp_path: Path) -> None:
        out = pretrain(story(), out=tmp_path / "lm", config=lstm(lstm={"dropout": 0.1}))
        model = load_model(out)
        assert type(model.network).__name__ == "LSTMForCausalLM"
        record = read_yaml(out / "pretrain.yaml")
        assert record["parameters"] == model.parameter_count
        assert record["history"][-1]["held_out_nats_per_token"] < record["history"][0]["held_out_nats_per_token"]
        assert PretrainConfig.build(record["config"]) == lstm(lstm={"dropout": 0.1})

    @pytest.mark.parametrize(("layers", "depth"), [(None, 2), (1, 1), (3, 3)])
    def test_layers(self, layers: int | None, depth: int) -> None:
        network = build_network(lstm(layers=layers), end_of_text=0)
        assert network.config.num_hidden_layers == depth

    def test_from_the_command_line(self, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text("\n".join(story()), encoding="utf-8")
        flags = "--model lstm --hidden 16 --layers 1 --lstm.dropout 0.1 --vocabulary 300 --context 16 --tokens 2000"
        command = ["pretrain", str(tmp_path / "text.txt"), "--out", str(tmp_path / "lm"), *flags.split(), "--quiet"]
        assert main(command) == 0
        assert read_yaml(tmp_path / "lm" / "pretrain.yaml")["config"]["lstm"] == {"dropout": 0.1}


SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def made_trainer(config: PretrainConfig, state_file: Path) -> Trainer:
    sources = read_sources(story(100))
    tokenizer = train_tokenizer(sources, 300)
    return Trainer(config, tokenise(sources, tokenizer, context=16), tokenizer=tokenizer, state_file=state_file)


def write_config(folder: Path, **values: Any) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return str(path)


def from_file(path: str, **changes: Any) -> PretrainConfig:
    sizes = {key: value for key, value in TINY.items() if key not in ("hidden", "layers", "heads")}
    return PretrainConfig.build(sizes | {"architecture": path, "tokens": 256} | changes)


def test_fused_activation_is_phis_own() -> None:
    config = tiny()
    network = build_network(config, end_of_text=0)
    batch = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        fused = network(batch).logits
        for layer in network.base_model.layers:
            layer.mlp.activation_fn = ACT2FN["gelu_new"]
        assert torch.allclose(fused, network(batch).logits, atol=1e-6)


class TestArchitectureFile:
    # Gemma 2 caps its logits after the head; Granite scales them; GPT-2 names its sizes in its own way.
    @pytest.mark.parametrize(
        "values",
        [
            {"model_type": "gemma2", **SMALL, "num_key_value_heads": 1, "head_dim": 8, "final_logit_softcapping": 0.5},
            {"model_type": "granite", **SMALL, "num_key_value_heads": 1, "logits_scaling": 4.0},
            {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "torch_dtype": "float16"},
            {"model_type": "gpt_neox", **SMALL},
        ],
        ids=lambda values: values["model_type"],
    )
    def test_any_causal_model(self, tmp_path: Path, values: dict[str, Any]) -> None:
        config = from_file(write_config(tmp_path, **values))
        trainer = made_trainer(config, tmp_path / "state")
        with torch.no_grad():  # as after training: at the start all logits are so small that a cap does nothing
            for parameter in trainer.network.parameters():
                parameter.mul_(8)
            batch = torch.from_numpy(consecutive_windows(trainer.corpus.held_out, context=16).astype("int64"))
            expected = -trainer.network.train(False)(batch[:, :-1]).logits.double().log_softmax(-1)
        picked = expected.gather(-1, batch[:, 1:, None])
        assert trainer.held_out_loss() == pytest.approx(picked.mean().item(), rel=1e-5)
        out = pretrain(story(100), out=tmp_path / "lm", config=config)
        loaded = AutoModelForCausalLM.from_pretrained(out)
        assert (loaded.config.model_type, loaded.config.vocab_size) == (values["model_type"], 300)
        assert loaded.config.max_position_embeddings == 16
        assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.float32}

    def test_another_file_is_another_pre_training(self, tmp_path: Path) -> None:
        values = {"model_type": "gpt_neox", **SMALL}
        config = from_file(write_config(tmp_path, **values))
        out = pretrain(story(100), out=tmp_path / "lm", config=config)
        assert pretrain(story(100), out=out, config=config) == out
        write_config(tmp_path, **values, rotary_pct=0.5)
        with pytest.raises(InputError, match="already holds something else"):
            pretrain(story(100), out=out, config=config)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"hidden_size": 16}, "has no `model_type`; expected the config.json of a transformers causal model"),
            ({"model_type": "nonsense"}, "transformers makes no network of it"),
            ({"model_type": "gpt_neox", **SMALL, "num_attention_heads": 3}, "transformers makes no network of it"),
            ({"model_type": "bert", **SMALL}, "a bert sees the tokens that it should predict"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, values: dict[str, Any], message: str) -> None:
        config = from_file(write_config(tmp_path, **values))
        with pytest.raises(InputError, match=message):
            pretrain(story(100), out=tmp_path / "lm", config=config)
        assert [path.name for path in tmp_path.iterdir()] == ["config.json"]

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"none\.json does not exist"):
            pretrain(story(100), out=tmp_path / "lm", config=from_file(str(tmp_path / "none.json")))
