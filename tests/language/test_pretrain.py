"""Pre-training from text to a folder that transformers loads."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.pretraining import lstm, story, tiny
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.activations import ACT2FN

from rango.console import Screen
from rango.errors import InputError, Interrupted
from rango.files import read_yaml
from rango.language import trainer as pretrain_loop
from rango.language.corpus import Corpus, consecutive_windows, read_sources, tokenise, train_tokenizer
from rango.language.model_folder import held_out_measures, work_folder
from rango.language.networks import build_network
from rango.language.options import PretrainConfig
from rango.language.pretrain import pretrain
from rango.language.trainer import Trainer, token_losses


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


class TestLoss:
    def test_a_perplexity_beyond_all_numbers_is_infinite(self) -> None:
        corpus = Corpus(np.zeros(9, np.int32), np.zeros(9, np.int32), held_out_bytes=8, starts=(0,))
        measured = {nats: held_out_measures(nats, 8, corpus)["held_out_perplexity"] for nats in (2.0, 710.0, math.inf)}
        assert measured == {2.0: 7.3891, 710.0: math.inf, math.inf: math.inf}

    @pytest.mark.parametrize("architecture", ["phi", "gpt2", "qwen2"])
    def test_parity_with_the_networks_own_logits(self, architecture: str) -> None:
        network = build_network(tiny(architecture=architecture), end_of_text=0)
        batch = torch.randint(0, 300, (3, 17), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            losses = token_losses(network, batch, reduction="none").view(3, 16)
            expected = -network(batch[:, :-1]).logits.double().log_softmax(-1)
        picked = expected.gather(-1, batch[:, 1:, None]).squeeze(-1)
        assert torch.allclose(losses.double(), picked, atol=1e-5)

    def test_fused_activation_is_phis_own(self) -> None:
        config = tiny()
        network = build_network(config, end_of_text=0)
        batch = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            fused = network(batch).logits
            for layer in network.base_model.layers:
                layer.mlp.activation_fn = ACT2FN["gelu_new"]
            assert torch.allclose(fused, network(batch).logits, atol=1e-6)

    def test_only_matrices_decay(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path)
        decayed, free = trainer.optimizer.param_groups
        assert decayed["weight_decay"] > 0
        assert all(p.ndim > 1 for p in decayed["params"])
        assert free["weight_decay"] == 0
        assert len(decayed["params"]) + len(free["params"]) == len([*trainer.network.parameters()])


def make_trainer(folder: Path, **changes: Any) -> Trainer:
    sources = read_sources(story(100))
    tokenizer = train_tokenizer(sources, 300)
    corpus = tokenise(sources, tokenizer, context=16)
    return Trainer(tiny(**changes), corpus, tokenizer=tokenizer, state_file=folder / "state.safetensors")


class TestInterruption:
    @pytest.mark.parametrize("config", [tiny(), lstm(lstm={"dropout": 0.2})], ids=lambda config: str(config.model))
    def test_a_stopped_run_goes_on_to_the_same_model(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: PretrainConfig
    ) -> None:
        config = config.model_copy(update={"tokens": 128 * 24, "save_minutes": 0})
        whole = pretrain(story(100), out=tmp_path / "whole", config=config)
        step = Trainer._step

        def stop_at_13(self: Trainer) -> float:
            loss = step(self)
            if self.progress.step == 13:
                os.kill(os.getpid(), signal.SIGTERM)
            return loss

        monkeypatch.setattr(Trainer, "_step", stop_at_13)
        with pytest.raises(Interrupted, match="stopped by SIGTERM; the state is saved; repeat the command to go on"):
            pretrain(story(100), out=tmp_path / "cut", config=config)
        assert not (tmp_path / "cut").exists()
        monkeypatch.setattr(Trainer, "_step", step)

        with pytest.raises(InputError, match="unfinished pre-training with another configuration or text"):
            pretrain(story(100), out=tmp_path / "cut", config=tiny(tokens=999))
        torch.rand(7)  # the global stream stands elsewhere now, as in another process
        cut = pretrain(story(100), out=tmp_path / "cut", config=config)
        one, two = (load_file(folder / "model.safetensors") for folder in (whole, cut))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
        history = [read_yaml(folder / "pretrain.yaml")["history"] for folder in (whole, cut)]
        for entry in (*history[0], *history[1]):
            del entry["seconds"]
        assert history[0] == history[1]

    def test_a_crash_leaves_no_folder_and_the_last_saved_state(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError("no space")

        monkeypatch.setattr(pretrain_loop.Trainer, "_evaluate", fail)
        with pytest.raises(OSError, match="no space"):
            pretrain(story(100), out=tmp_path / "lm", config=tiny(save_minutes=0))
        assert not (tmp_path / "lm").exists()
        assert (tmp_path / ".lm.unfinished" / "state.safetensors").exists()

    def test_a_state_without_its_record_is_not_used(self, tmp_path: Path) -> None:
        clean = pretrain(story(100), out=tmp_path / "clean", config=tiny(tokens=256))
        stray = tmp_path / ".lm.unfinished" / "state.safetensors"
        stray.parent.mkdir()
        stray.write_bytes(b"of another run")
        out = pretrain(story(100), out=tmp_path / "lm", config=tiny(tokens=256))
        assert (out / "model.safetensors").read_bytes() == (clean / "model.safetensors").read_bytes()

    def test_a_damaged_state_goes_with_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = tiny(tokens=256, save_minutes=0)

        def fail(*_: Any) -> None:
            raise OSError("no space")

        with monkeypatch.context() as patch:
            patch.setattr(pretrain_loop.Trainer, "_evaluate", fail)
            with pytest.raises(OSError, match="no space"):
                pretrain(story(100), out=tmp_path / "lm", config=config)
        state = tmp_path / ".lm.unfinished" / "state.safetensors"
        state.write_bytes(state.read_bytes()[:-9])
        with pytest.raises(InputError, match=r"state\.safetensors is damaged \(.*\); repeat the command to begin anew"):
            pretrain(story(100), out=tmp_path / "lm", config=config)
        assert not state.exists()

    def test_repeating_a_finished_command_leaves_it(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        out = pretrain(story(100), out=tmp_path / "lm", config=tiny(tokens=256))
        before = (out / "pretrain.yaml").stat().st_mtime_ns
        assert pretrain(story(100), out=out, config=tiny(tokens=256), screen=Screen()) == out
        assert (out / "pretrain.yaml").stat().st_mtime_ns == before
        assert "is complete already" in " ".join(capfd.readouterr().err.split())


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"heads": 3}, r"hidden 16 with 3 heads: expected a multiple of 12 \(4 x heads\)"),
            ({"minutes": 1.0}, r"tokens is 3840 and minutes is 1\.0: give one budget"),
            ({"vocabulary": 100}, "vocabulary is 100: input should be greater than or equal to 257"),
            (
                {"architecture": "bert"},
                "architecture is 'bert': expected phi, llama, gpt2, mistral, qwen2 or the path of a config.json",
            ),
            ({"seed": 2**63}, "seed is 9223372036854775808: input should be less than 9223372036854775808"),
            ({"learning_rate": math.inf}, "learning_rate is inf: input should be a finite number"),
            ({"learning_rate": math.nan}, "learning_rate is nan: input should be a finite number"),
            ({"hiden": 3}, r"unknown key in configuration 'hiden': did you mean 'hidden'\?"),
        ],
    )
    def test_configuration(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            tiny(**changes)

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

    def test_a_folder_that_holds_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
        with pytest.raises(InputError, match=r"something else \(notes\.txt\); give another folder, or empty this one"):
            pretrain(story(100), out=tmp_path, config=tiny())
        with pytest.raises(InputError, match="notes.txt is a file; give a folder that does not exist yet"):
            pretrain(story(100), out=tmp_path / "notes.txt", config=tiny())
        out = pretrain(story(100), out=tmp_path / "lm", config=tiny(tokens=256))
        with pytest.raises(InputError, match="already holds something else"):
            pretrain(story(100), out=out, config=tiny(tokens=512))

    @pytest.mark.parametrize("hidden", [".git/HEAD", ".env", ".lm.unfinished/state.safetensors"])
    def test_a_hidden_file_is_something_else(self, tmp_path: Path, hidden: str) -> None:
        kept = tmp_path / "lm" / hidden
        kept.parent.mkdir(parents=True)
        kept.write_bytes(b"mine")
        with pytest.raises(InputError, match=r"lm already holds something else \(\.[a-z.]+\); give another folder"):
            pretrain(story(100), out=tmp_path / "lm", config=tiny(tokens=256))
        assert kept.read_bytes() == b"mine"

    def test_what_comes_into_the_folder_meanwhile_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "lm").mkdir()
        with pytest.raises(OSError, match="not empty"), work_folder(tmp_path / "lm", "x"):
            (tmp_path / "lm" / "late.txt").write_text("mine", encoding="utf-8")
        assert (tmp_path / "lm" / "late.txt").exists()

    @pytest.mark.parametrize(
        ("out", "message"),
        [
            (".", "is the current folder, which cannot be replaced; give a folder in it or elsewhere"),
            ("../here", "is the current folder"),
            ("/", "^/ is a mount point, which cannot be replaced; give a folder in it or elsewhere"),
            ("file/x/lm", "file is a file, so .*/file/x/lm cannot be in it; give a folder that does not exist yet"),
        ],
    )
    def test_a_place_for_no_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, message: str
    ) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        Path("file").touch()
        with pytest.raises(InputError, match=message):
            pretrain(story(100), out=Path(out), config=tiny(tokens=256))
        assert [path.name for path in tmp_path.rglob("*")] == ["here", "file"]

    def test_a_relative_place_and_a_link(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("disk").mkdir()
        Path("link").symlink_to("disk")
        assert pretrain(story(100), out=Path("link/../link"), config=tiny(tokens=256)) == Path("link/../link")
        assert Path("link").is_symlink()
        assert Path("disk/config.json").is_file()

    def test_folders_made_for_a_refused_one_go(self, tmp_path: Path) -> None:
        (tmp_path / "q").mkdir()
        with pytest.raises(InputError, match="the text has"):
            pretrain(story(100), out=tmp_path / "q" / "r" / "s" / "lm", config=tiny(context=4096))
        assert [path.name for path in tmp_path.rglob("*")] == ["q"]

    def test_an_empty_folder_is_filled(self, tmp_path: Path) -> None:
        assert (pretrain(story(100), out=tmp_path, config=tiny(tokens=256)) / "config.json").is_file()


def test_without_a_budget_the_text_is_read_three_times(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, tokens=None)
    assert trainer.token_budget == 3 * len(trainer.corpus.train)
    assert make_trainer(tmp_path, tokens=None, minutes=1.0).token_budget is None


def test_products_in_bfloat16_learn_as_float32_does(tmp_path: Path) -> None:
    sources = read_sources(story())
    tokenizer = train_tokenizer(sources, 300)
    corpus = tokenise(sources, tokenizer, context=16)
    losses = {}
    for dtype in ("float32", "bfloat16"):
        trainer = Trainer(tiny(dtype=dtype), corpus, tokenizer=tokenizer, state_file=tmp_path / dtype)
        assert trainer.dtype is getattr(torch, dtype)
        trainer.run(Screen(quiet=True))
        assert {parameter.dtype for parameter in trainer.network.parameters()} == {torch.float32}
        losses[dtype] = trainer.held_out_loss()
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
