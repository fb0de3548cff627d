"""A GGUF file as an ordinary checkpoint: dequantised once into a folder of the cache, and loaded from there afterwards.

    model.gguf ──▶ SHA-256 of its bytes ──▶ CACHE/gguf/HASH/ : config.json, model.safetensors, tokenizer.json

Whatever reads a model's folder (LoRA, quantising again, merging, export, another program) then needs to know nothing of
GGUF. transformers alone would read the file anew each time, three times over, and take minutes for a large vocabulary.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    GGUF_PRE_TOKENIZER_SPLITS,
    convert_gguf_tokenizer,
    get_gguf_tokenizer,
)
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

from rango.console import Screen
from rango.errors import InputError
from rango.files import UNFINISHED, place_refused
from rango.models.gguf import ROTARY_FACTORS, Header, cache_folder, check_gguf, find_gguf

# Part of the cache's key: to be raised with each change of what is written.
_VERSION = "1"
# The vocabularies that cut texts as GPT-2 does, with or without each digit by itself, of those that transformers does
# not know and would cut as GPT-2 does, unasked; the names are llama.cpp's (llama-vocab.cpp).
_AS_GPT2 = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais"})
_SINGLE_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
_HALF = {"F16": torch.float16, "BF16": torch.bfloat16}


def checkpoint_of(source: str) -> str:
    """The folder to load a model from: `source` itself, or the dequantised form of a GGUF file, made where it is not.

    Raises:
        InputError: a GGUF file that cannot be read, or no room for its dequantised form.
    """
    path = find_gguf(source)
    if path is None:
        return source
    parts, config = check_gguf(path)
    stats = [part.path.stat() for part in parts]
    key = _hash(tuple((part.path, stat.st_size, stat.st_mtime_ns) for part, stat in zip(parts, stats, strict=True)))
    folder = cache_folder() / "gguf" / key
    # The folder gets its name when everything is in it.
    if not folder.is_dir():
        _make(parts, config, folder, source)
    return str(folder)


@functools.lru_cache(maxsize=16)
def _hash(files: tuple[tuple[Path, int, int], ...]) -> str:
    """A hash of what files hold; size and time of a change are arguments so that a changed file is read again."""
    digest = hashlib.sha256(_VERSION.encode())
    for path, _, _ in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def stored_type(parts: tuple[Header, ...]) -> torch.dtype:
    """The type of the dequantised weights: the file's own where it holds numbers, float32 for those of blocks.

    A block's numbers are products of a scale and a small integer, which need more digits than a half type has.
    """
    types = {tensor.type.name for part in parts for tensor in part.tensors if len(tensor.shape) > 1}
    return _HALF.get(types.pop(), torch.float32) if len(types) == 1 else torch.float32


def _make(parts: tuple[Header, ...], config: dict[str, Any], folder: Path, source: str) -> None:
    """Write the folder unless another process does so meanwhile."""
    from filelock import FileLock

    dtype = stored_type(parts)
    needed = dtype.itemsize * sum(math.prod(tensor.shape) for part in parts for tensor in part.tensors)
    with place_refused(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return
        # What a killed process left; who holds the lock is the only writer.
        for leftover in folder.parent.glob(f".{folder.name}.*{UNFINISHED}"):
            shutil.rmtree(leftover)
        free = shutil.disk_usage(folder.parent).free
        if free < 1.05 * needed:
            raise InputError(
                f"model {source}: its dequantised form takes {_size(needed)} and {folder.parent} has {_size(free)} "
                "free; make room, or set RANGO_CACHE to a folder with more"
            )
        Screen().say(
            f"{source}: dequantising {_size(sum(part.path.stat().st_size for part in parts))} to {_size(needed)} in "
            f"{folder}, once (RANGO_CACHE names another place)"
        )
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=UNFINISHED))
        try:
            _network(parts, config, dtype).save_pretrained(temporary)
            _tokenizer(parts[0]).save_pretrained(temporary)
            # mkdtemp and safetensors give what only this user may read, and a cache may be shared.
            mask = os.umask(0)
            os.umask(mask)
            for file in temporary.iterdir():
                file.chmod(0o666 & ~mask)
            temporary.chmod(0o777 & ~mask)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def _network(parts: tuple[Header, ...], settings: dict[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    """The network with the dequantised weights of all parts.

    Raises:
        InputError: the file lacks a weight, or holds one that the architecture does not have.
    """
    import gguf

    path, architecture = parts[0].path, parts[0].architecture
    values = {key: value for key, value in settings.items() if key != "model_type"}
    for part in parts:
        for tensor in part.tensors:
            if tensor.name == ROTARY_FACTORS:
                values["rope_parameters"] |= llama3_factors(_numbers(part.path, tensor), settings, path)
    config = AutoConfig.for_model(settings["model_type"], dtype=dtype, **values)
    with torch.device("meta"):
        network: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    # The package gguf knows what each module of transformers is called in a file.
    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names: Any = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    modules = {}
    for name in network.state_dict():
        module, _, ending = name.rpartition(".")
        # A head that is always the embedding has no name in a file.
        if (called := names.get_name(module)) is not None:
            modules[f"{called}.{ending}"] = name
    kinds: dict[str, Any] = TENSOR_PROCESSORS
    processor = kinds.get(architecture, TensorProcessor)(config=values)
    state = {}
    for part in parts:
        for tensor in part.tensors:
            if tensor.name == ROTARY_FACTORS:
                continue
            if tensor.name not in modules:
                raise InputError(
                    f"model {path} holds {tensor.name}, which a {config.model_type} of transformers does not have; "
                    "give the model's folder or Hub id"
                )
            numbers = _numbers(part.path, tensor)
            if not np.isfinite(numbers).all():
                raise InputError(f"model {path}: {tensor.name} holds values that are no numbers; copy the file again")
            # GPT-2's output.weight is the one tensor that the processor puts away by itself.
            if tensor.name != "output.weight":
                # Undoes what llama.cpp's converter does: it permutes rows of q and k, and adds 1 to Gemma's norms.
                numbers = processor.process(numbers, tensor.name).weights
            state[modules[tensor.name]] = torch.from_numpy(np.array(numbers, order="C")).to(dtype)
    for name, parameter in network.state_dict().items():
        if name in state and state[name].shape != parameter.shape:
            raise InputError(
                f"model {path}: {name} has shape {tuple(state[name].shape)}; its settings mean {tuple(parameter.shape)}"
            )
    network.load_state_dict(state, strict=False, assign=True)
    network.tie_weights()
    absent = sorted(name for name, parameter in network.named_parameters() if parameter.is_meta)
    if absent:
        raise InputError(f"model {path} lacks {len(absent)} weights ({absent[0]}, ...); give the whole file")
    assert isinstance(network, PreTrainedModel)
    return network


def _numbers(path: Path, tensor: Any) -> np.ndarray:
    """A tensor's numbers in float32, in the order of torch."""
    from gguf.quants import dequantize, quant_shape_to_byte_shape

    raw = np.memmap(path, mode="r", dtype=np.uint8, offset=tensor.start, shape=(tensor.size,))
    shape = quant_shape_to_byte_shape(tensor.shape, tensor.type)
    return np.asarray(dequantize(np.asarray(raw).reshape(shape), tensor.type), dtype=np.float32).reshape(tensor.shape)


def llama3_factors(factors: np.ndarray, settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """The rotary settings of Llama 3.1 and later, from the factors (D/2,) that a file holds instead of them.

    The settings are found by trying those that Llama has, and compared with the factors: a guess is not enough.

    Raises:
        InputError: the factors are not those of Llama 3.
    """
    largest = float(factors.max())
    theta = settings["rope_parameters"]["rope_theta"]
    rotary = {"rope_type": "llama3", "factor": largest, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rotary |= {"original_max_position_embeddings": 8192}
    frequencies = theta ** -(np.arange(len(factors)) / len(factors))  # (D/2,)
    # The share of a frequency that stays: none for waves longer than the original context, all below a quarter of it.
    stays = np.clip((8192 * frequencies / (2 * np.pi) - 1.0) / (4.0 - 1.0), 0, 1)
    expected = 1 / (stays + (1 - stays) / largest)
    if not np.allclose(factors, expected, rtol=1e-4):
        raise InputError(
            f"model {path}: its rotary factors ({ROTARY_FACTORS}) are not those of Llama 3; give the model's folder or "
            "Hub id"
        )
    return rotary


def _tokenizer(header: Header) -> PreTrainedTokenizerFast:
    """The tokenizer of a file's vocabulary.

    Raises:
        InputError: a kind of vocabulary that is not read, or cut in a way that is not known.
    """
    architecture, vocabulary, settings = get_gguf_tokenizer(str(header.path))
    cut = vocabulary.get("pre_tokenizer_type")
    byte_level = vocabulary.get("tokenizer_type") == "gpt2"
    known = cut in _AS_GPT2 or cut in _SINGLE_DIGITS or cut in GGUF_PRE_TOKENIZER_SPLITS
    if vocabulary.get("tokenizer_type") not in ("gpt2", "llama") or (byte_level and not known):
        raise InputError(
            f"model {header.path}: a vocabulary of kind {vocabulary.get('tokenizer_type')!r} that cuts texts as "
            f"{cut!r} is not read; give the model's folder or Hub id"
        )
    backend, _ = convert_gguf_tokenizer(architecture, vocabulary)
    if cut in _SINGLE_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    tokenizer: Any = PreTrainedTokenizerFast
    built: PreTrainedTokenizerFast = tokenizer(
        tokenizer_object=backend,
        model_max_length=header.get("context_length"),
        clean_up_tokenization_spaces=False,
        **settings,
    )
    return built
