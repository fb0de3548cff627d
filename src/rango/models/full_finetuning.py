"""Full fine-tuning: every parameter of the network is trained, where LoRA trains a small part of them."""

from __future__ import annotations

import contextlib
import glob
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rango.errors import InputError
from rango.files import FULL_RECORD, UNFINISHED, atomic_path, naming_file, write_json
from rango.models.adapter import TrainableModel, check_unadapted
from rango.models.loading import Model, load_network, quiet_transformers


@dataclass(frozen=True, eq=False)
class FullTuning(TrainableModel):
    """A network whose parameters are all trained, in float32. It is changed in place; `remove` gives it back.

    The base weights are kept on the CPU in their own type. The network's own dropout stays off, as with LoRA.
    """

    model: Model
    base: Mapping[str, torch.Tensor]
    """The weights before, by parameter name; tied ones once."""

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """All parameters in the network's order, tied ones once."""
        return dict(self.model.network.named_parameters())

    def module_count(self) -> int:
        """How many modules have parameters of their own."""
        return sum(any(True for _ in module.parameters(recurse=False)) for module in self.model.network.modules())

    def reset(self, seed: int) -> None:  # noqa: ARG002 - nothing is drawn
        """Start afresh: the base weights."""
        self.load_state(self.base)

    def save(self, folder: Path) -> None:
        """Write a transformers checkpoint with its tokenizer, each file whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        # A run is one process's alone: what looks like the folder made below is a whole model that a killed one left.
        for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.*{UNFINISHED}"):
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", suffix=UNFINISHED) as written:
            with quiet_transformers(), naming_file(folder):
                # One file of weights: several would not be replaced as one. Its metadata have one key, so that equal
                # weights give equal bytes.
                self.model.network.save_pretrained(written, max_shard_size="1000GB")
                self.model.tokenizer.save_pretrained(written)
            # Each file is moved over the old one at once: a killed run leaves whole files.
            for file in sorted(Path(written).iterdir()):
                with atomic_path(folder / file.name) as temporary:
                    file.replace(temporary)
        record = {"base_model_name_or_path": self.model.name, "base_fingerprint": self.model.fingerprint}
        write_json(folder / FULL_RECORD, record)

    def load(self, folder: Path) -> None:
        """Copy the weights from a checkpoint of this same network.

        Raises:
            InputError: it is damaged, or lacks weights.
        """
        network = load_network(str(folder), torch.float32, torch.device("cpu"))
        self.load_state({name: parameter.detach() for name, parameter in network.named_parameters()})

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Within the block the network is as it is: no other adaptation shares it."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the network is the base model, in its own type."""
        tuned = {name: parameter.data for name, parameter in self.named_parameters().items()}
        self._put_base()
        try:
            yield
        finally:
            for name, parameter in self.named_parameters().items():
                parameter.data = tuned[name]

    def enable_dropout(self) -> None:
        """Do nothing: full fine-tuning has no dropout of its own."""

    def remove(self) -> None:
        """Give the network its weights back, in their own type, frozen."""
        self._put_base()
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None

    def _put_base(self) -> None:
        for name, parameter in self.named_parameters().items():
            parameter.data = self.base[name].to(parameter.device)


def add_full(model: Model) -> FullTuning:
    """Make every parameter of the model's network trainable, in float32: Adam's small steps vanish in half precision.

    Raises:
        InputError: the network carries an adapter already, or is quantised.
    """
    check_unadapted(model)
    if model.quantise != "none":
        raise InputError(f"{model.name} is quantised ({model.quantise}): its weights cannot be replaced; load it plain")
    assert model.fingerprint  # computed now, of the base weights, and cached
    full = FullTuning(model, {name: p.detach().cpu().clone() for name, p in model.network.named_parameters()})
    for parameter in full.parameters():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return full
