"""Loading a causal language model from the Hub, a folder or a GGUF file; notes report the chosen device and dtype."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation
from transformers.utils import logging as transformers_logging

from rango.errors import InputError
from rango.files import ADAPTER_CONFIG, fingerprint
from rango.models.dequantised import checkpoint_of
from rango.models.lstm import LSTMConfig, LSTMForCausalLM
from rango.models.ngram import NGRAM, NGramConfig, NGramForCausalLM
from rango.models.quantisation import QuantisedLoading, quantised_layers, weight_sample
from rango.models.sources import check_source, check_tokenizer, check_unquantised, loading_error
from rango.options import Dtype, Quantisation
from rango.showing import Shown

# From here on transformers loads the folders of these two as those of its own architectures.
AutoConfig.register(LSTMConfig.model_type, LSTMConfig, exist_ok=True)
AutoConfig.register(NGRAM, NGramConfig, exist_ok=True)
AutoModelForCausalLM.register(LSTMConfig, LSTMForCausalLM, exist_ok=True)
AutoModelForCausalLM.register(NGramConfig, NGramForCausalLM, exist_ok=True)

# A tokenizer with a smaller share of the network's tokens may not be the network's: padding takes a few hundred.
_FEW_TOKENS = 0.9


@dataclass(frozen=True, eq=False, repr=False)
class Model(Shown):
    """A causal language model with its tokenizer, ready to score."""

    name: str
    """The Hub id, folder or GGUF file it was loaded from, as the user wrote it."""
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    notes: tuple[str, ...] = ()
    """What was chosen for the user, in words."""

    def _facts(self) -> Iterator[str]:
        yield repr(self.name)
        yield type(self.network).__name__
        yield f"{self.parameter_count:,} parameters"
        yield str(self.dtype).removeprefix("torch.") if self.quantise == "none" else self.quantise
        yield str(self.device)

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the frozen weights; of a quantised network that in which it computes."""
        return next(p.dtype for p in self.network.parameters() if p.is_floating_point())

    @property
    def quantise(self) -> Quantisation:
        """How the matrices are quantised."""
        return next((layer.kind for layer in quantised_layers(self.network).values()), "none")

    @property
    def parameter_count(self) -> int:
        """Parameters of the base network, tied ones once."""
        layers = quantised_layers(self.network).values()
        packed = sum(layer.in_features * layer.out_features - layer.weight.numel() for layer in layers)
        return packed + sum(p.numel() for name, p in self.network.named_parameters() if ".lora_" not in name)

    @property
    def context_length(self) -> int | None:
        """The longest sequence in tokens; None when the architecture sets no limit."""
        config = self.network.config.get_text_config()
        lengths = (getattr(config, key, None) for key in ("max_position_embeddings", "n_positions", "max_seq_len"))
        return next((length for length in lengths if isinstance(length, int)), None)

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of architecture and weights, whatever the files' layout, the dtype and the quantisation.

        It samples 64 numbers of every parameter, so that a large model costs no more than a look. Of a quantised matrix
        they were taken before it was quantised.
        """
        parts = [type(self.network).__name__]
        quantised = {f"{name}.weight": layer.sample for name, layer in quantised_layers(self.network).items()}
        for name, parameter in sorted(self.network.named_parameters()):
            if ".lora_" in name:  # an adapter does not make it another base
                continue
            shape, sample = quantised[name] if name in quantised else weight_sample(parameter)
            parts.append(f"{name.replace('.base.', '.')}{shape}{sample}")
        return fingerprint(*parts)

    @cached_property
    def special_prefix(self) -> tuple[int, ...]:
        """The tokens that the tokenizer puts before a text, such as Llama's <s>; empty for GPT-2 and Phi."""
        with_special = list(self.tokenizer("a", add_special_tokens=True)["input_ids"])
        plain = list(self.tokenizer("a", add_special_tokens=False)["input_ids"])
        for start in range(len(with_special) - len(plain) + 1):
            if with_special[start : start + len(plain)] == plain:
                return tuple(with_special[:start])
        return ()


def load_model(
    name: str | Path,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    quantise: Quantisation = "none",
    keep_on_cpu: bool = False,
) -> Model:
    """Load a transformers causal language model and its tokenizer. Code from the Hub is never run.

    Args:
        name: a Hub id, a folder with config.json, weights and tokenizer, a GGUF file or a short name of one.
        dtype: of the frozen weights. `auto`: bfloat16 (or float16 on older cards) on a GPU; on a CPU float32, or
            bfloat16 when the checkpoint is stored in half precision and the processor multiplies bfloat16 natively.
        device: `auto` (a GPU when there is one), `cpu`, `cuda`, `cuda:1`, ...
        quantise: `int8` or `nf4` (see `models/quantisation.py`), or `none`.
        keep_on_cpu: leave the weights in main memory, for who brings them to the device in parts.

    Raises:
        InputError: no such model, no causal language model, a checkpoint that lacks weights, no such device, a token of
            the tokenizer that the network does not know.
    """
    check_source(str(name), quantise)
    chosen_device = choose_device(device)
    with loading(str(name)):
        source = checkpoint_of(str(name))
    with loading(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    chosen_dtype = choose_dtype(dtype, chosen_device, stored=getattr(config, "dtype", None))
    tokenizer = load_tokenizer(source)
    network = load_network(source, chosen_dtype, chosen_device, quantise, keep_on_cpu=keep_on_cpu)
    if config.model_type == NGRAM:
        chosen_dtype = network.dtype  # its tables stay float32
    threads = ""
    if chosen_device.type == "cpu" and limit_threads(network) == 1:
        threads = ", one CPU thread"
    notes = (
        f"device {chosen_device} ({'asked for' if device != 'auto' else 'chosen'}){threads}, "
        f"dtype {str(chosen_dtype).removeprefix('torch.')} ({'asked for' if dtype != 'auto' else 'chosen'})",
        *_speed_note(chosen_dtype, chosen_device),
        *_quantised_note(network),
        *_check_vocabulary(source, network, tokenizer),
    )
    return Model(name=str(name), network=network, tokenizer=tokenizer, notes=notes)


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer from the Hub or a folder; errors as in `load_model`."""
    if Path(source).is_dir():
        check_tokenizer(Path(source))
    with loading(source):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        tokenizer("a")  # a tokenizer can be so damaged that it loads and fails in use
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def load_network(
    source: str,
    dtype: torch.dtype,
    device: torch.device,
    quantise: Quantisation = "none",
    *,
    keep_on_cpu: bool = False,
) -> PreTrainedModel:
    """Load the network alone, frozen; errors and `keep_on_cpu` as in `load_model`."""
    # Each matrix is quantised on the device as it is read: the plain network may fit into no memory of this machine.
    quantising: dict[str, Any] = {}
    if quantise != "none":
        quantising = {"quantization_config": QuantisedLoading(quantise)}
        if device.type != "cpu":
            quantising["device_map"] = {"": device}
    # Plain matrix products beat the fused kernel's backward pass on a CPU for the short sequences of choice tasks.
    attention = "eager" if device.type == "cpu" else "sdpa"
    with loading(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        check_unquantised(source, config.to_dict())
        # What config.json says of these goes before the arguments: it could fetch a kernel of the Hub, or give tuples.
        config._attn_implementation, config._experts_implementation, config.return_dict = attention, None, True
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation=attention,
            output_loading_info=True,
            **quantising,
        )
        network, info = loaded
        # With PEFT installed, transformers puts an adapter beside the weights into the network: of a repository too.
        if getattr(network, "peft_config", None):
            raise InputError(
                f"model {source} also holds an adapter ({ADAPTER_CONFIG}), which would be on in the base model; "
                "give the base as the model and the adapter as --adapter"
            )
        missing = sorted(info["missing_keys"])
        # transformers draws them at random and only warns.
        if missing:
            raise InputError(
                f"model {source}: the checkpoint lacks {len(missing)} weights ({missing[0]}, ...); they would be random"
            )
        # A config.json with fewer layers, or shorter n-grams, loads as another model. Weights of other kinds that an
        # architecture has no place for, such as old buffers, are harmless.
        places = {re.sub(r"\d+", "0", name) for name in network.state_dict()}
        dropped = sorted(name for name in info["unexpected_keys"] if re.sub(r"\d+", "0", name) in places)
        if dropped:
            raise InputError(
                f"model {source}: config.json has no place for {len(dropped)} weights of the checkpoint "
                f"({dropped[0]}, ...); put back the config.json that it was saved with"
            )
        if quantise != "none":
            # To transformers it is a plain network again: what it does with its own quantised ones is not for this.
            network.hf_quantizer.remove_quantization_config(network)
            if not quantised_layers(network):
                raise InputError(f"quantise is {quantise!r}, but model {source} has no linear maps; leave it out")
        if not keep_on_cpu:
            network.to(device)
    network.eval()
    fuse_activations(network)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    assert isinstance(network, PreTrainedModel)
    return network


def fuse_activations(network: nn.Module) -> None:
    """Compute GELU's tanh approximation, which Phi and GPT-2 write out in eight steps, by one kernel.

    The steps read and write the widest tensor of a layer eight times, which on a CPU takes longer than half its matrix
    products. The values are the same but for rounding.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, (NewGELUActivation, FastGELUActivation)):
                setattr(module, name, GELUTanh())


@contextlib.contextmanager
def loading(source: str) -> Iterator[None]:
    """Load quietly, and give an error of whichever library trips over a damaged folder as an InputError."""
    try:
        with quiet_transformers():
            yield
    except InputError:
        raise
    except BaseException as error:
        # A panic of the tokenizers, which are written in Rust, is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise loading_error(source, error) from None


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own progress bars and advice off the terminal within the block; errors still raise."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def choose_device(device: str) -> torch.device:
    """The torch device of a name; `auto` takes a GPU when there is one.

    Raises:
        InputError: the name is unknown or the device is not there. It never falls back silently.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(f"device {device!r} is not known; expected auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    return chosen


def choose_dtype(dtype: Dtype, device: torch.device, *, stored: torch.dtype | None) -> torch.dtype:
    """The type of the frozen weights; the rule of `auto` is in `load_model`."""
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float16
    half = stored in (torch.float16, torch.bfloat16)
    return torch.bfloat16 if half and multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively; elsewhere it is emulated and slow."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _speed_note(dtype: torch.dtype, device: torch.device) -> tuple[str, ...]:
    """What to know of a type that the processor emulates. Its products take 10 to 200 times as long as float32's."""
    native = dtype == torch.float32 or (device.type == "cuda" and dtype == torch.float16)
    if dtype == torch.bfloat16:
        native = multiplies_bfloat16(device)
    elif dtype == torch.float16 and device.type == "cpu":
        native = bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    name = str(dtype).removeprefix("torch.")
    where = "processor" if device.type == "cpu" else "card"
    return (
        () if native else (f"this {where} only emulates {name}, many times slower than float32: use --dtype float32",)
    )


def _quantised_note(network: PreTrainedModel) -> tuple[str, ...]:
    layers = quantised_layers(network)
    if not layers:
        return ()
    size = sum(layer.in_features * layer.out_features for layer in layers.values())
    rest = sum(p.numel() for p in network.parameters() if p.is_floating_point())
    kind = next(iter(layers.values())).kind
    return (f"{kind}: {len(layers)} matrices with {size / (size + rest):.0%} of the parameters, the rest as they are",)


def _check_vocabulary(source: str, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Raise InputError for a tokenizer that is not the network's; returns a note where it has far fewer tokens.

    An n-gram's probabilities are over exactly the tokenizer's vocabulary; a network's matrices may be padded.
    """
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if network.config.model_type == NGRAM:
        counted = int(network.config.vocab_size)
        if counted != highest + 1:
            raise InputError(
                f"model {source}: the n-grams are over a vocabulary of {counted} tokens, the tokenizer has "
                f"{highest + 1}; put the tokenizer that the n-grams were counted with into the folder"
            )
        if network.config.eos_token_id != tokenizer.eos_token_id:
            raise InputError(
                f"model {source}: texts of the n-grams end in token {network.config.eos_token_id}, by config.json, and "
                f"those of the tokenizer in {tokenizer.eos_token_id}; put back the files that were saved together"
            )
        return ()
    rows = getattr(network.get_input_embeddings(), "num_embeddings", None)
    if not isinstance(rows, int):  # an architecture without a matrix of embeddings
        return ()
    if highest >= rows:
        token = tokenizer.convert_ids_to_tokens(highest)
        raise InputError(
            f"model {source}: the tokenizer has token {highest} ({token!r}) and the network knows tokens 0 to "
            f"{rows - 1}; put the tokenizer that the network was trained with into the folder"
        )
    if highest + 1 < _FEW_TOKENS * rows:
        return (f"the tokenizer has {highest + 1:,} tokens and the network {rows:,}: see that they belong together",)
    return ()


def accepts(network: nn.Module, argument: str) -> bool:
    """Whether the network's forward pass has an argument of that name."""
    return argument in inspect.signature(network.forward).parameters


_ENTRIES_A_THREAD = 125_000
"""Entries of a network's largest inner matrix that keep one CPU thread busy; see `benchmarks/threads.py`."""

_threads_taken: dict[str, int] = {}
"""The threads before `limit_threads` lowered them, and to how many it did; empty where it never has."""


def feedable_threads(network: torch.nn.Module, available: int) -> int:
    """How many CPU threads the matrices of a network can feed, at least one.

    Threads share one matrix product after the other and meet after each. In a small network they wait for longer than
    they compute, and they wait by spinning: beside another process that wants the cores, a step takes many times as
    long.
    """
    # Embeddings are looked up, and the head is applied to few tokens: neither keeps threads busy.
    vocabulary = getattr(getattr(network, "config", None), "vocab_size", None)
    entries = [p.numel() for p in network.parameters() if p.dim() == 2 and vocabulary not in p.shape]
    return max(1, min(available, max(entries, default=0) // _ENTRIES_A_THREAD))


def limit_threads(network: torch.nn.Module) -> int:
    """Lower torch's CPU threads to what the network can feed, and raise them again for a larger one; returns how many.

    OMP_NUM_THREADS and MKL_NUM_THREADS win, and so does whoever has called `torch.set_num_threads` in between.
    """
    current = torch.get_num_threads()
    if {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys():
        return current
    allowed = _threads_taken["before"] if current == _threads_taken.get("after") else current
    chosen = feedable_threads(network, allowed)
    _threads_taken.update(before=allowed, after=chosen)
    torch.set_num_threads(chosen)
    return chosen
