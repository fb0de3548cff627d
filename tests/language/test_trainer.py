"""The loop of pre-training: losses, steps, schedule, and a resume that changes nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.pretraining import lstm, story, tiny
from safetensors.torch import load_file

from rango.console import Screen
from rango.errors import InputError, Interrupted
from rango.files import read_yaml
from rango.language.corpus import consecutive_windows, read_sources, tokenise, train_tokenizer
from rango.language.networks import build_network
from rango.language.options import PretrainConfig
from rango.language.pretrain import pretrain
from rango.language.trainer import Trainer, rate_factor, token_losses
from rango.training.checkpoint import save_state


def make_trainer(folder: Path, **changes: Any) -> Trainer:
    sources = read_sources(story(100))
    tokenizer = train_tokenizer(sources, 300)
    corpus = tokenise(sources, tokenizer, context=16)
    return Trainer(tiny(**changes), corpus, tokenizer=tokenizer, state_file=folder / "state.safetensors")


class TestLoss:
    @pytest.mark.parametrize("architecture", ["phi", "gpt2", "qwen2"])
    def test_parity_with_the_networks_own_logits(self, architecture: str) -> None:
        network = build_network(tiny(architecture=architecture), end_of_text=0)
        batch = torch.randint(0, 300, (3, 17), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            losses = token_losses(network, batch, reduction="none").view(3, 16)
            expected = -network(batch[:, :-1]).logits.double().log_softmax(-1)
        picked = expected.gather(-1, batch[:, 1:, None]).squeeze(-1)
        assert torch.allclose(losses.double(), picked, atol=1e-5)

    def test_only_matrices_decay(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path)
        decayed, free = trainer.optimizer.param_groups
        assert decayed["weight_decay"] > 0
        assert all(p.ndim > 1 for p in decayed["params"])
        assert free["weight_decay"] == 0
        assert len(decayed["params"]) + len(free["params"]) == len([*trainer.network.parameters()])

    def test_reductions_agree(self) -> None:
        network = build_network(tiny(), end_of_text=0)
        batch = torch.randint(0, 300, (3, 17), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            none, mean, total = (token_losses(network, batch, reduction=kind) for kind in ("none", "mean", "sum"))
        assert none.shape == (48,)
        assert torch.allclose(none.sum(), total)
        assert torch.allclose(none.mean(), mean)


class TestSteps:
    def test_the_schedule_by_hand(self) -> None:
        # Warm-up from a tenth to 1 over the first quarter, then half a cosine down to a tenth, which stays.
        factors = [rate_factor(spent, warmup=0.25) for spent in (0.0, 0.125, 0.25, 0.625, 1.0, 1.5)]
        assert factors == pytest.approx([0.1, 0.55, 1.0, 0.55, 0.1, 0.1])
        assert rate_factor(0.0, warmup=0.0) == 1.0

    def test_an_epoch_gives_each_whole_batch_once(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path)
        rows: list[tuple[int, ...]] = []
        while trainer.progress.epoch == 0:
            batch = trainer._next_batch()
            assert batch.shape == (8, 17)  # 128 tokens in windows of 16
            rows += [tuple(row) for row in batch.tolist()]
        available = len(consecutive_windows(trainer.corpus.train, context=16))
        assert available - 8 <= len(rows) <= available
        assert trainer.progress.row == 0


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


class TestResume:
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

        monkeypatch.setattr(Trainer, "_evaluate", fail)
        with pytest.raises(OSError, match="no space"):
            pretrain(story(100), out=tmp_path / "lm", config=tiny(save_minutes=0))
        assert not (tmp_path / "lm").exists()
        assert (tmp_path / ".lm.unfinished" / "state.safetensors").exists()

    def test_a_damaged_state_goes_with_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = tiny(tokens=256, save_minutes=0)

        def fail(*_: Any) -> None:
            raise OSError("no space")

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_evaluate", fail)
            with pytest.raises(OSError, match="no space"):
                pretrain(story(100), out=tmp_path / "lm", config=config)
        state = tmp_path / ".lm.unfinished" / "state.safetensors"
        state.write_bytes(state.read_bytes()[:-9])
        with pytest.raises(InputError, match=r"state\.safetensors is damaged.*; repeat the command to begin anew"):
            pretrain(story(100), out=tmp_path / "lm", config=config)
        assert not state.exists()

    def test_weights_moments_and_position_come_back(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path)
        for _ in range(3):
            trainer._step()
        save_state(trainer.state_file, [trainer])
        again = make_trainer(tmp_path)
        assert again.progress == trainer.progress
        for one, other in zip(trainer.network.parameters(), again.network.parameters(), strict=True):
            assert torch.equal(one, other)
            states = (trainer.optimizer.state[one], again.optimizer.state[other])
            assert states[0].keys() == states[1].keys() == {"step", "exp_avg", "exp_avg_sq"}
            assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        assert [trainer._step() for _ in range(2)] == [again._step() for _ in range(2)]
