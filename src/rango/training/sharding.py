"""A frozen base whose decoder layers no device holds all of (FSDP2): cut over processes, or kept in main memory.

process 0   embeddings, norm, head, A, B   first rows of each matrix of layer 0, 1, ...
process 1   embeddings, norm, head, A, B   last rows of each matrix of layer 0, 1, ...

A pass gathers one layer after the other, in all processes at once, and drops it again. So all of them have to make the
same passes: `score` and `accumulate_gradients` see to that. Offloaded, each share waits in main memory, that of one
process alone too, and is copied to the GPU when its layer is gathered.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from transformers import PreTrainedModel

from rango.errors import InputError
from rango.models.loading import Model, choose_device
from rango.scoring.forward import Reader, longest_padded_row
from rango.scoring.trees import TokenTree
from rango.training.distributed import ProcessGroup


def load_sharded(load: Callable[..., Model], device: str, processes: ProcessGroup, *, offload: bool = False) -> Model:
    """Load a model in every process, keep this process's share of its layers on `device`, and give it back.

    The processes of a machine load one after the other, so that its main memory holds one whole model at a time beside
    the shares, and a GPU never more than its share and one layer. Loading takes as many times as long as the machine
    has processes; the files are read from the disk once, if they fit into the memory's cache.

    Args:
        load: `load_model` with its arguments but `keep_on_cpu`.
        device: where this process computes.
        processes: those of the run, all of which call this.
        offload: keep the shares in main memory, page-locked where a GPU reads them.

    Raises:
        InputError: the architecture has no decoder layers to cut.
    """
    place = choose_device(device)
    mesh = init_device_mesh(place.type, (processes.size,))
    turn = int(os.environ.get("LOCAL_RANK", processes.rank))
    model = None
    for number in range(max(processes.gather(turn)) + 1):
        if number == turn:
            model = load(keep_on_cpu=True)
            shard_layers(model, mesh, place, offload=offload)
        processes.barrier()
    assert model is not None
    # Memory that is first taken under inference_mode can never be trained with: take it now, by gathering each once.
    for module in model.network.modules():
        if isinstance(module, FSDPModule):
            module.unshard()
            module.reshard()
    note = f"sharded over {processes.size} processes: each holds its share of every decoder layer"
    if offload:
        whose = "" if processes.size == 1 else f" in {processes.size} shares"
        note = f"offloaded: the decoder layers wait in main memory{whose}, and {place} holds one or two at a time"
    sharded = replace(model, notes=(*model.notes, note))
    vars(sharded)["fingerprint"] = model.fingerprint  # that of the whole weights, which cannot be computed any more
    return sharded


def shard_layers(model: Model, mesh: DeviceMesh, device: torch.device, *, offload: bool = False) -> None:
    """Cut the decoder layers of a frozen model over the processes of `mesh`, and bring all else to `device` whole.

    Embeddings and head stay whole: a choice needs a few rows of the head, and gathering it for each batch would cost
    more than the memory it takes, which is 4 to 14 % of a model with 7 or 8 billion parameters.

    Raises:
        InputError: the architecture has no decoder layers to cut.
    """
    assert model.fingerprint  # computed now, of the whole weights, and cached
    network: Any = model.network
    layers = decoder_layers(network)
    if not layers:
        kind = network.config.model_type
        option = "--offload" if offload else "--shard"
        raise InputError(f"model {model.name}: {kind} has no decoder layers to cut into shares; leave {option} out")
    policy = CPUOffloadPolicy(pin_memory=device.type == "cuda") if offload else OffloadPolicy()
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, offload_policy=policy)
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    whole = {parameter for parameter in network.parameters() if id(parameter) not in inside}
    # The decoder is the root: it gathers the next layer while one computes.
    fully_shard(network.get_decoder(), mesh=mesh, ignored_params=whole, offload_policy=policy)
    # `network.to` would bring what is offloaded along.
    for tensor in (*whole, *network.buffers()):
        tensor.data = tensor.data.to(device)


def decoder_layers(network: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers: what transformers never splits between two devices, as far as it stands in a list."""
    names = set(network._no_split_modules or ())
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    return [layer for layers in lists for layer in layers if type(layer).__name__ in names]


def check_passes(reader: Reader, trees: Iterable[TokenTree], processes: ProcessGroup) -> None:
    """Raise InputError where a batch of a sharded model would need more passes in one process than in another.

    A batch takes one pass, unless its texts stand on two sides of a length at which the network changes.
    """
    if processes.size == 1 or not any(isinstance(module, FSDPModule) for module in reader.model.network.modules()):
        return
    padded = longest_padded_row(reader.model)
    limits = [*reader.rope_switches, *([] if padded is None else [padded])]
    longest = max((tree.path_length for tree in trees), default=0)
    if limits and longest > min(limits):
        raise InputError(
            f"{reader.model.name} is sharded and reads texts of more than {min(limits)} tokens in passes of their own, "
            f"but a text has {longest}; shorten the texts, or leave --shard out"
        )
