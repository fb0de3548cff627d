"""Two processes of one run, through gloo: the losses and the adapter of one; a fault in one ends both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.ranks_worker import interrupted_once, run_all
from helpers.torchrun import start, torchrun
from safetensors.torch import load_file

from rango.training.distributed import ProcessGroup, launched
from rango.training.run_folder import Run

Checkpoint = Callable[..., Path]
NAMES = ("tokens", "full", "bank-0", "bank-1")


def trained(run: Run) -> dict[str, torch.Tensor]:
    (file,) = (run.path / "adapter" / "last").glob("*model.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def both(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The runs of one process, and of two that are stopped once in the middle."""
    folder = tmp_path_factory.mktemp("ranks")
    run_all(checkpoint("phi"), folder / "one")
    assert start(interrupted_once, 2, checkpoint("phi"), folder / "two") == [0, 0]
    return folder / "one", folder / "two"


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_as_one(both: tuple[Path, Path], name: str) -> None:
    one, two = (Run(folder / name) for folder in both)
    losses = [[record.get("train_loss", 0.0) for record in run.log] for run in (one, two)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=1e-5)
    mine, alone = trained(two), trained(one)
    assert set(mine) == set(alone)
    for key, tensor in alone.items():
        if not key.endswith("k_proj.bias"):  # the softmax cancels it: its gradient is rounding, which Adam magnifies
            torch.testing.assert_close(mine[key], tensor, rtol=0, atol=1e-5, msg=key)
    np.testing.assert_allclose(
        two.posteriors("adapted").log_posteriors, one.posteriors("adapted").log_posteriors, rtol=0, atol=1e-4
    )
    assert [r.get("best") for r in two.log] == [r.get("best") for r in one.log]
    assert {p.name for p in two.path.rglob("*")} == {p.name for p in one.path.rglob("*")}
    assert two.metrics["test"]["adapted"]["nce"].value == pytest.approx(
        one.metrics["test"]["adapted"]["nce"].value, abs=1e-4
    )


def test_a_fault_in_one_process_ends_both(checkpoint: Checkpoint, tmp_path: Path) -> None:
    worker = Path(__file__).parents[1] / "helpers" / "ranks_worker.py"
    done = torchrun(worker, checkpoint("phi"), tmp_path / "run")
    assert done.returncode != 0
    assert "out of memory, say" in done.stderr
    assert not Run(tmp_path / "run" / "tokens").complete


def test_one_process_alone_is_all_there_is() -> None:
    alone = ProcessGroup.current()
    assert (alone.rank, alone.size, alone.is_main) == (0, 1, True)
    assert alone.share([1, 2, 3]) == [1, 2, 3]
    assert ProcessGroup(1, 2).share([1, 2, 3]) == [2]
    assert alone.broadcast("x") == "x"
    assert alone.any(True)
    assert not alone.any(False)
    with launched("auto") as (processes, device):
        assert (processes, device) == (alone, "auto"), "without torchrun nothing is started"
