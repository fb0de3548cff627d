"""What a model is and where it can be adapted, from its configuration alone: no weights are loaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from rango.errors import InputError
from rango.models.dequantised import stored_type
from rango.models.gguf import configuration, find_gguf, read_parts
from rango.models.loading import Model, fuse_activations, loading
from rango.models.lora import weight_shape
from rango.models.ngram import NGRAM
from rango.models.placement import ARCHITECTURES, Site, ending, linear_maps, place
from rango.models.sources import check_source
from rango.options import ALL_LINEAR

_SAFETENSORS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class PlacementSize:
    """What one placement adapts and trains."""

    name: str
    modules: tuple[str, ...]
    """The linear maps by the ends of their names; a slice of a fused one is named behind a colon."""
    updates: int
    """How many updates, over all layers."""
    per_rank: int
    """Numbers trained at rank 1; r times as many at rank r."""


@dataclass(frozen=True)
class ModelDescription:
    """A model in numbers."""

    model: str
    architecture: str
    """The class of transformers."""
    model_type: str
    """The name in configurations, under which the table of placements has it."""
    parameters: int
    """Tied ones once."""
    layers: int | None
    width: int | None
    """Numbers of a hidden state."""
    vocabulary: int
    context: int | None
    """The longest sequence in tokens; None where the architecture sets no limit."""
    stored: str | None
    """The type of the stored weights; None where neither configuration nor weights say it."""
    tied: bool
    """Whether the head is the matrix of the embeddings."""
    placements: tuple[PlacementSize, ...]


def describe(source: str) -> ModelDescription:
    """Describe a model by its configuration: a Hub id, a folder, a GGUF file or a short name of one.

    Raises:
        InputError: no such model, or no causal language model.
    """
    config, stored = read_configuration(source)
    network = empty_network(config, source)
    text = config.get_text_config()
    head = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    embeddings: Any = network.get_input_embeddings()
    return ModelDescription(
        model=source,
        architecture=type(network).__name__,
        model_type=str(text.model_type),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        layers=getattr(text, "num_hidden_layers", None),
        width=getattr(text, "hidden_size", None),
        vocabulary=int(text.vocab_size),
        context=Model(source, network, None).context_length,  # type: ignore[arg-type]
        stored=stored,
        tied=head is not None and embeddings is not None and head.weight is embeddings.weight,
        placements=() if text.model_type == NGRAM else tuple(_placements(network)),
    )


def _placements(network: nn.Module) -> Iterable[PlacementSize]:
    """The placements of the table, then all-linear; without a table, the ends of module names."""
    linear = linear_maps(network)
    kind = network.config.get_text_config().model_type  # type: ignore[union-attr, operator]
    names = [*ARCHITECTURES.get(kind, dict.fromkeys(ending(name) for name in linear)), "head", ALL_LINEAR]
    for name in names:
        try:
            yield size_of(name, place(network, (name,), None), linear)
        except InputError:  # a variant of the architecture lacks it
            continue


def size_of(name: str, sites: Iterable[Site], linear: dict[str, nn.Module]) -> PlacementSize:
    """What updates at these places train: at rank 1 a row of A and a column of B each."""
    modules: dict[str, None] = {}
    updates = numbers = 0
    for site in sites:
        outputs, inputs = weight_shape(linear[site.name])
        modules[f"{ending(site.name)}:{site.part}" if site.part else ending(site.name)] = None
        numbers += inputs + (site.slice.count() if site.slice else outputs)
        updates += 1
    return PlacementSize(name, tuple(modules), updates, numbers)


def read_configuration(source: str) -> tuple[PreTrainedConfig, str | None]:
    """The configuration of a model, and the type of its stored weights.

    Raises:
        InputError: no such model.
    """
    check_source(source, described=True)
    with loading(source):
        path = find_gguf(source)
        if path is not None:
            parts = read_parts(path)
            values = configuration(parts)
            types = sorted({tensor.type.name for part in parts for tensor in part.tensors if len(tensor.shape) > 1})
            config = AutoConfig.for_model(values.pop("model_type"), dtype=stored_type(parts), **values)
            return config, f"GGUF {', '.join(types)}"
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    dtype = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    return config, str(dtype).removeprefix("torch.") if dtype is not None else _dtype_of_weights(Path(source))


def _dtype_of_weights(folder: Path) -> str | None:
    """The type of the first matrix in a folder's safetensors file, from its header."""
    for file in sorted(folder.glob("*.safetensors"))[:1]:
        with file.open("rb") as opened:
            try:
                (length,) = struct.unpack("<Q", opened.read(8))
                tensors = json.loads(opened.read(length)) if length < 100_000_000 else {}
            except (struct.error, ValueError):  # cut off: a description needs no whole weights
                return None
        for name, tensor in tensors.items():
            if name != "__metadata__" and len(tensor["shape"]) > 1:
                return _SAFETENSORS.get(str(tensor["dtype"]), str(tensor["dtype"]))
    return None


def empty_network(
    config: PreTrainedConfig, source: str, *, dtype: torch.dtype | None = None, attention: str = "eager"
) -> PreTrainedModel:
    """The network of a configuration on the meta device: shapes without numbers.

    Raises:
        InputError: transformers has no causal language model of this kind.
    """
    with loading(source), torch.device("meta"):
        network: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, attn_implementation=attention
        )
    fuse_activations(network)
    network.train(False)
    return network
