"""A base cut over two and four processes, through gloo: the losses, states and adapter of one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.shard_worker import look_inside, start, train, train_until
from helpers.torchrun import torchrun
from helpers.toy import toy_task
from safetensors.torch import load_file
from torch import distributed as dist
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from rango.cli import main
from rango.decisions import read_posteriors
from rango.errors import InputError
from rango.models.loading import load_model
from rango.models.lora import device_of
from rango.models.peft_format import load_adapter
from rango.options import ScoringOptions
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import evaluate, score
from rango.scoring.trees import encode
from rango.training.distributed import ProcessGroup, launched
from rango.training.run_folder import Run, posteriors_file
from rango.training.sharding import check_passes, decoder_layers, load_sharded, shard_layers

Checkpoint = Callable[..., Path]
NAMES = ("retrained", "bank-0", "bank-1")


@pytest.fixture(scope="module")
def both(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The runs of one process, and of two that stop in the middle, whose work four take to the end."""
    folder, base = tmp_path_factory.mktemp("sharded"), checkpoint("phi")
    train(load_model(base, device="cpu"), folder / "one", ProcessGroup())
    assert start(partial(train_until, step=3), 2, base, folder / "cut") == [0, 0]
    assert not Run(folder / "cut" / "retrained").complete
    assert start(train, 4, base, folder / "cut") == [0] * 4
    return folder / "one", folder / "cut"


@pytest.fixture(scope="module")
def offloaded(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs of one process whose layers wait in main memory."""
    folder = tmp_path_factory.mktemp("offloaded")
    with launched("cpu", alone=True) as (alone, device):
        load = partial(load_model, checkpoint("phi"), device=device)
        train(load_sharded(load, device, alone, offload=True), folder, alone)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_sharded_processes_train_as_one(both: tuple[Path, Path], name: str) -> None:
    assert_same_run(*(Run(folder / name) for folder in both))


@pytest.mark.parametrize("name", NAMES)
def test_layers_that_wait_in_main_memory_train_as_others(both: tuple[Path, Path], offloaded: Path, name: str) -> None:
    assert_same_run(Run(both[0] / name), Run(offloaded / name))


def assert_same_run(one: Run, cut: Run) -> None:
    assert cut.complete
    losses = [[record.get("train_loss", 0.0) for record in run.log] for run in (one, cut)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=1e-6)
    alone, sharded = (load_file(run.path / "adapter" / "best" / "adapter_model.safetensors") for run in (one, cut))
    assert set(alone) == set(sharded)
    for key, tensor in alone.items():
        torch.testing.assert_close(sharded[key], tensor, rtol=0, atol=1e-6, msg=key)
    for state in ("base", "adapted"):
        np.testing.assert_allclose(
            cut.posteriors(state).log_posteriors, one.posteriors(state).log_posteriors, rtol=0, atol=1e-5
        )
    assert {p.name for p in cut.path.rglob("*")} == {p.name for p in one.path.rglob("*")}
    kept = [
        {k: v for k, v in run.record.items() if k in ("fingerprints", "trainable_parameters")} for run in (one, cut)
    ]
    assert kept[0] == kept[1]


def test_what_is_offloaded_is_only_the_layers(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    policies: list[Any] = []

    def shard(module: Any, *, offload_policy: Any, **others: Any) -> Any:
        policies.append(offload_policy)
        return fully_shard(module, offload_policy=offload_policy, **others)

    monkeypatch.setattr("rango.training.sharding.fully_shard", shard)
    with launched("cpu", alone=True) as (alone, device):
        model = load_sharded(partial(load_model, checkpoint("phi"), device=device), device, alone, offload=True)
        assert model.notes[-1].startswith("offloaded: the decoder layers wait in main memory, and cpu holds one or two")
        for name, parameter in model.network.named_parameters():
            assert isinstance(parameter, DTensor) == (".layers." in name), name
    assert len(policies) == 1 + model.network.config.num_hidden_layers  # the decoder is their root
    assert all(isinstance(policy, CPUOffloadPolicy) for policy in policies)
    assert not dist.is_initialized()


def test_an_adapter_lies_where_offloaded_weights_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    class Waiting(DTensor):
        """A weight that waits in main memory for a GPU, on a machine without one."""

        device_mesh = SimpleNamespace(device_type="cuda")  # type: ignore[assignment]

    weight: Any = torch.Tensor._make_subclass(Waiting, torch.zeros(2, 2))
    monkeypatch.setattr("torch.accelerator.current_device_index", lambda: 1)
    linear: Any = SimpleNamespace(parameters=lambda: iter([weight]))
    assert device_of(linear) == torch.device("cuda", 1)


def test_the_adapter_of_a_sharded_run_is_an_ordinary_one(both: tuple[Path, Path], checkpoint: Checkpoint) -> None:
    cut, task = Run(both[1] / "bank-1"), toy_task(train=23, validation=9, test=15)
    model = load_model(checkpoint("phi"), device="cpu")
    adapter = load_adapter(model, cut.path)
    again = evaluate(model, task.test, task=task, options=ScoringOptions(form="letter"))
    adapter.remove()
    np.testing.assert_allclose(again.log_posteriors, cut.posteriors("adapted").log_posteriors, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_process_holds_its_share_and_scores_as_one(checkpoint: Checkpoint, tmp_path: Path, architecture: str) -> None:
    base = checkpoint(architecture, tie_word_embeddings=True)
    assert start(look_inside, 4, base, tmp_path) == [0] * 4
    model, task = load_model(base, device="cpu"), toy_task(test=3)
    trees = encode(model, task.test, task=task, form="cloze")
    expected = score(probe_reader(model), trees, options=ScoringOptions(), form="cloze")
    inside = sum(p.numel() for layer in decoder_layers(model.network) for p in layer.parameters())
    for rank in range(4):
        values = json.loads((tmp_path / f"{rank}.json").read_text())
        np.testing.assert_allclose(values["scores"], expected.values, rtol=0, atol=1e-5)
        assert values["all"] == model.parameter_count
        # Rows that four does not divide leave a process a little more or less than a quarter.
        assert values["held"] == pytest.approx(model.parameter_count - inside * 3 / 4, abs=inside / 10)
        assert "sharded over 4 processes" in values["notes"][-1]


def test_a_part_of_the_trees_is_scored_as_in_the_whole(checkpoint: Checkpoint) -> None:
    model, task = load_model(checkpoint("phi"), device="cpu"), toy_task(test=5)
    trees, reader = encode(model, task.test, task=task, form="letter"), probe_reader(model)
    whole = score(reader, trees, options=ScoringOptions(), form="letter")
    part = score(reader, trees, options=ScoringOptions(batch_tokens=1), form="letter", part=(1, 3))
    assert whole.letter_mass is not None
    assert part.letter_mass is not None
    np.testing.assert_allclose(part.values, whole.values[1::3], rtol=0, atol=1e-5)
    np.testing.assert_allclose(part.letter_mass, whole.letter_mass[1::3], rtol=0, atol=1e-6)
    none = score(reader, trees[:2], options=ScoringOptions(), form="letter", part=(2, 3))
    assert none.values.shape == (0, whole.values.shape[1])
    assert none.tokens == 0


@pytest.mark.slow
def test_the_commands_under_torchrun(checkpoint: Checkpoint, tmp_path: Path) -> None:
    sizes = ["--train", "12", "--validation", "8", "--test", "9", "--device", "cpu", "--dtype", "float32"]
    named = [str(checkpoint("phi")), "simulated", *sizes]
    run = [*named, "--steps", "3", "--batch", "4", "--objective", "answer", "--select", "cross_entropy"]
    commands = {
        "run": ["finetune", *run],
        "base": ["evaluate", *named],
        "adapted": ["evaluate", *named, "--adapter", str(tmp_path / "run")],
    }
    for out, command in commands.items():
        done = torchrun("-m", "rango", *command, "--shard", "--out", tmp_path / out)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "nce" in done.stdout.lower()
        alone = [part.replace(str(tmp_path / "run"), str(tmp_path / "run-alone")) for part in command]
        assert main([*alone, "--out", str(tmp_path / f"{out}-alone"), "--quiet"]) == 0
    for out, state in (("run", "adapted"), ("base", "base"), ("adapted", "adapted")):
        one, cut = (read_posteriors(posteriors_file(tmp_path / name, state, "test")) for name in (f"{out}-alone", out))
        np.testing.assert_allclose(cut.log_posteriors, one.log_posteriors, rtol=0, atol=1e-5)


def test_texts_beyond_a_switch_of_frequencies_are_refused() -> None:
    module = type("Cut", (FSDPModule, torch.nn.Module), {})
    network = SimpleNamespace(
        modules=lambda: [object.__new__(module)],
        config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(to_dict=dict)),
    )
    two = ProcessGroup(0, 2)
    reader: Any = SimpleNamespace(model=SimpleNamespace(name="m", network=network), rope_switches=(40,))
    check_passes(reader, [SimpleNamespace(path_length=40)], two)  # type: ignore[list-item]
    check_passes(reader, [SimpleNamespace(path_length=41)], ProcessGroup())  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"m is sharded and reads texts of more than 40 tokens in passes.*has 41"):
        check_passes(reader, [SimpleNamespace(path_length=41)], two)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("size", "more", "message"),
    [
        ("1", [], "this one is alone; start it with torchrun"),
        ("2", ["--adaptation", "full"], "--shard cuts a frozen base, and full fine-tuning has none"),
        ("2", ["--quantise", "nf4"], "--shard cannot cut matrices in nf4; leave --quantise or --shard out"),
        ("1", ["--offload", "--device", "cpu"], "for a GPU, and the device is cpu; leave --offload out"),
        ("1", ["--offload", "--lora.dora"], "leave lora.dora or --offload out"),
    ],
)
def test_what_cannot_be_sharded_is_refused(
    size: str, more: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    how = [] if "--offload" in more else ["--shard"]
    assert main(["finetune", "m", "simulated", "--out", "o", *how, *more]) == 2
    assert message in capsys.readouterr().err


def test_a_model_without_decoder_layers_is_refused(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint("rango_lstm"), device="cpu")
    nowhere: Any = None
    with pytest.raises(InputError, match="rango_lstm has no decoder layers to cut into shares; leave --shard out"):
        shard_layers(model, nowhere, torch.device("cpu"))
