"""How much memory training takes: a training step is run on the meta device, where tensors have sizes and no numbers.

    weights       of the network, frozen in their type, or trained in float32
    adapter       A and B, in float32
    optimizer     Adam's two moments of every trained number
    activations   the rest of the peak: what the backward pass needs, gradients of states, logits, the optimizer's step

The step is the network's own code, so no architecture needs a formula of its own. On a CPU the heap has gaps between
tensors, which follow no formula at all: a process of its own asks malloc for every tensor's bytes, as training does:

    tensor of the meta device ──▶ bytes from malloc, never written, freed with it ──▶ what malloc then has of the system
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import multiprocessing
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.masking_utils import sdpa_mask

from rango.errors import InputError, first_line
from rango.models.adapter import add_adapter
from rango.models.description import empty_network, read_configuration
from rango.models.loading import Model, choose_device, choose_dtype
from rango.models.placement import layer_of, linear_maps
from rango.models.quantisation import QuantisedLinear
from rango.options import MemoryOptions, Quantisation, parse_size
from rango.scoring.batches import collate
from rango.scoring.forward import Reader
from rango.scoring.trees import TokenTree
from rango.training.objectives import SCORED
from rango.training.trainer import recomputing

# Of a CPU, measured: Python, torch and transformers, and bitsandbytes where weights are quantised. A GPU's context is
# not counted, as torch does not count it.
_PROCESS, _BITSANDBYTES = 420 * 2**20, 55 * 2**20
# Where malloc cannot be asked (macOS, musl): the gaps between tensors, as a share of the activations.
_GAPS = 0.55
# malloc is asked what it has after each so many new bytes: for an answer it walks over all gaps.
_LOOK = 2**20
# What is said to fit does so even if its estimate is too low by as much as benchmarks/memory.py allows.
_MARGIN = 1.15
# The attention of a GPU, which keeps no probabilities, stands under this name among those of transformers.
_FUSED = "rango_fused"
# Names of factors that a network multiplies its logits by, outside of the head: its head is not applied apart.
_SCALED_LOGITS = ("logit_scale", "logits_scaling", "lm_head_multiplier")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of a training step."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    process: int
    """Of a CPU: the program itself, and gaps between tensors."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())


class _Mallinfo(ctypes.Structure):
    """What glibc's `mallinfo2` returns."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _bytes_of_malloc() -> int | None:
    """What malloc has of the system, gaps included; None where it is not glibc's (2.33 or later)."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return None
    mallinfo.restype = _Mallinfo
    answer = mallinfo()
    return int(answer.arena + answer.hblkhd)  # the heap, and what stands outside of it


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the meta tensors that are alive, and their peak.

    With `shadows` malloc is asked for the same bytes at the same moments, so that it leaves the gaps of a real step.
    They are never written, and what is never written takes no memory.
    """

    def __init__(self, *, shadows: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self._unseen = 0
        self.held: int | None = 0 if shadows else None
        """The most that malloc had of the system; None where it was not asked."""
        self._known: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()
        self._before = _bytes_of_malloc() or 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count(leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        return result

    def count(self, tensors: Any) -> int:
        """Count tensors whose memory is not counted yet; returns their bytes."""
        before = self.now
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if tensor.device.type == "meta" and storage not in self._known:
                self._known[storage] = None
                size = storage.nbytes()
                self.now += size
                weakref.finalize(storage, self._free, size, self._shadow(size))
        self.peak = max(self.peak, self.now)
        return self.now - before

    def _shadow(self, size: int) -> list[torch.UntypedStorage]:
        if self.held is None:
            return []
        try:
            shadow = [torch.UntypedStorage(size)]  # type: ignore[no-untyped-call]
        except RuntimeError:  # this machine limits even what is only asked for
            self.held = None
            return []
        self._unseen += size
        if self._unseen >= _LOOK:
            self._unseen = 0
            self.held = max(self.held, (_bytes_of_malloc() or 0) - self._before)
        return shadow

    def _free(self, size: int, shadow: list[torch.UntypedStorage]) -> None:
        self.now -= size
        shadow.clear()


def estimate_memory(config: PreTrainedConfig, options: MemoryOptions, *, name: str) -> MemoryEstimate:
    """The memory of a training step of `options.tokens` tokens, in rows of `options.length`.

    Raises:
        InputError: a placement that the model lacks, a device that is not there, or a network whose forward pass needs
            numbers.
    """
    device = choose_device(options.device)
    # A forked process is not to use what CUDA has begun.
    if device.type == "cpu" and _bytes_of_malloc() is not None and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        # malloc leaves other gaps in a heap that has some already: each estimate starts from this one, and leaves none.
        with contextlib.suppress(BrokenExecutor), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, none of which the step needs
            with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
                return pool.submit(_estimate, config, options, name, device, shadows=True).result()
    return _estimate(config, options, name, device, shadows=False)


def _estimate(
    config: PreTrainedConfig, options: MemoryOptions, name: str, device: torch.device, *, shadows: bool
) -> MemoryEstimate:
    dtype = dtype_of(config, options)
    network: Any = empty_network(
        _without_switches(config), name, dtype=dtype, attention="eager" if device.type == "cpu" else _FUSED
    )
    if options.quantise != "none":
        for at, module in linear_maps(network).items():
            if layer_of(at) is not None:
                network.set_submodule(at, _QuantisedOnMeta(module, options.quantise, dtype))
    model = Model(name, network, None)  # type: ignore[arg-type]
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    live = _Live(shadows=shadows)
    with _on_meta(name), live:
        weights = live.count((*network.parameters(), *network.buffers()))
        if options.adaptation == "full":
            # The base's own weights are kept on the CPU: on a GPU they are not part of what is counted.
            kept = weights if device.type == "cpu" else 0
            weights = kept + sum(4 * parameter.numel() for parameter in network.parameters())
            for parameter in network.parameters():
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
            trained = list(network.parameters())
            live.now += kept
        else:
            trained = add_adapter(model, options.lora, seed=0).parameters()
            live.count(trained)
        numbers = 4 * sum(parameter.numel() for parameter in trained)
        optimizer = torch.optim.AdamW(trained, foreach=device.type == "cuda")
        # Adam makes its moments in the first step, so the peak is that of the second.
        for _ in range(2):
            live.peak = live.now
            _step(model, options)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    adapter = numbers if options.adaptation == "lora" else 0
    # In a full fine-tuning the weights are what is trained; gradients and moments are counted beside them.
    activations = max(0, live.peak - (weights + adapter + numbers + 2 * numbers))
    process = 0
    if device.type == "cpu":
        gaps = int(_GAPS * activations) if live.held is None else max(0, live.held - live.peak)
        process = _PROCESS + gaps + (_BITSANDBYTES if options.quantise != "none" else 0)
    return MemoryEstimate(
        weights=weights,
        adapter=adapter,
        gradients=numbers,
        optimizer=2 * numbers,
        activations=activations,
        process=process,
    )


def dtype_of(config: PreTrainedConfig, options: MemoryOptions) -> torch.dtype:
    """The type of the weights, chosen as `load_model` does."""
    return choose_dtype(options.dtype, choose_device(options.device), stored=getattr(config, "dtype", None))


@contextlib.contextmanager
def _on_meta(name: str) -> Iterator[None]:
    """Give what only numbers can decide, such as the expert of a token, as an InputError."""
    try:
        yield
    except InputError:
        raise
    # Each network fails in its own way: a mask of another shape is a ValueError, a missing number a TypeError.
    except Exception as error:
        raise InputError(
            f"the memory of {name} cannot be estimated: its forward pass does not run on shapes without numbers, as of "
            f"most mixtures of experts and of networks that choose which keys to keep ({first_line(error)[:200]}); "
            "train a few steps with --micro-batch 1 and watch the memory"
        ) from None


def _without_switches(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration with plain rotary frequencies: those that depend on the longest position ask for its number."""
    changed = copy.deepcopy(config)
    rope = getattr(changed.get_text_config(), "rope_parameters", None) or {}
    for settings in (rope, *(inner for inner in rope.values() if isinstance(inner, dict))):
        if settings.get("rope_type") in ("longrope", "dynamic"):
            settings["rope_type"] = "default"
    return changed


def _step(model: Model, options: MemoryOptions) -> None:
    """Forward and backward of one micro-batch, as the trainer does them."""
    network: Any = model.network
    # Three choices, each a sixteenth of the row, behind a trunk of the rest; a branch's last token is not read, and of
    # the other objectives' the right branch alone.
    branch = (1,) * max(2, options.length // 16)
    trunk = (1,) * (options.length - (3 if options.objective == "choice" else 1) * (len(branch) - 1))
    trees = [TokenTree("t", trunk, (branch,) * 3, (1, 1, 1), 0)] * rows_of(options)
    scaled = any(hasattr(network.config.get_text_config(), name) for name in _SCALED_LOGITS)
    reader = Reader(model=model, reads_trees=True, window=None, splits_head=not scaled)
    batch = collate(trees, read=SCORED[options.objective], as_trees=True, pad=0).to(torch.device("meta"))
    if batch.visible is None:  # transformers would look at the numbers of the positions to make the mask itself
        rows, length = batch.tokens.shape
        visible = torch.ones(rows, 1, length, length, dtype=torch.bool, device="meta")
        batch = replace(batch, visible=visible, positions=torch.zeros_like(batch.tokens))
    with recomputing(network) if options.gradient_checkpointing else contextlib.nullcontext():
        states = reader.states(batch)
        leaf = states.detach().requires_grad_(states.requires_grad)
        reader.log_probabilities(batch, leaf).sum().backward()  # type: ignore[no-untyped-call]
        if leaf.grad is not None:
            states.backward(leaf.grad)  # type: ignore[no-untyped-call]


def rows_of(options: MemoryOptions) -> int:
    """Instances of a micro-batch."""
    return max(1, options.tokens // options.length)


class _QuantisedOnMeta(QuantisedLinear):
    """A quantised map without numbers, which makes the tensors that bitsandbytes makes on a CPU."""

    def __init__(self, replaced: nn.Module, kind: Quantisation, dtype: torch.dtype) -> None:
        super().__init__(replaced, kind, dtype)
        size = self.out_features * self.in_features
        packed = torch.empty(size if kind == "int8" else size // 2, dtype=torch.int8, device="meta")
        shape = (self.out_features, self.in_features) if kind == "int8" else (-1, 1)
        self.weight = nn.Parameter(packed.view(shape), requires_grad=False)

    def dequantise(self, dtype: torch.dtype) -> torch.Tensor:
        """W, (out, in)."""
        if self.kind == "int8":
            scale: torch.Tensor = self.scale  # type: ignore[assignment]
            return (self.weight * scale[:, None] * 1.0).to(dtype)
        return torch.empty(self.out_features, self.in_features, dtype=dtype, device="meta")


class _FusedAttention(torch.autograd.Function):
    """What a fused kernel keeps for the backward pass: its inputs, its output and a number for each query."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Outputs of the shape of the queries, (b, heads, t, d)."""
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *_gradients: torch.Tensor) -> Any:
        """Gradients of the shapes of the inputs."""
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def _fused_attention(
    _module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    groups = query.shape[1] // key.shape[1]
    # transformers repeats keys and values for the kernels that it calls with a mask.
    key, value = (tensor.repeat_interleave(groups, dim=1) if groups > 1 else tensor for tensor in (key, value))
    output: torch.Tensor = _FusedAttention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(_FUSED, _fused_attention)
AttentionMaskInterface.register(_FUSED, sdpa_mask)


def advise(name: str, options: MemoryOptions) -> tuple[dict[str, Any], str | None]:
    """The estimate in a flat record and, where `options.limit` is too little, the nearest setting that fits.

    Fewer tokens in a forward pass, and computing layers again, change nothing but the time, so they come first; then
    LoRA instead of every weight, a type of fewer bytes, and weights of four bits. What is said to fit has an estimate
    of `limit` / 1.15 at most, as the estimates may be too low by 15 %.
    """
    config, _ = read_configuration(name)
    estimate = estimate_memory(config, options, name=name)
    record = {
        **asdict(estimate),
        "total": estimate.total,
        "dtype": "float32" if options.adaptation == "full" else str(dtype_of(config, options)).removeprefix("torch."),
        "tokens": rows_of(options) * options.length,
        "targets": ",".join(options.lora.targets),
    }
    limit = parse_size(options.limit) if options.limit else None
    if limit is None:
        return record, None
    if estimate.total * _MARGIN <= limit:
        return record, f"It fits into {options.limit}."
    verdict = "may not fit" if estimate.total <= limit else "does not fit"
    limit = int(limit / _MARGIN)
    again: dict[str, Any] = {"gradient_checkpointing": True}
    smaller: list[dict[str, Any]] = [{}, again]
    if options.adaptation == "full":
        smaller.append({**again, "adaptation": "lora"})
    if options.dtype in ("auto", "float32"):
        smaller.append({**again, "adaptation": "lora", "dtype": "bfloat16"})
    smaller.append({**again, "adaptation": "lora", "quantise": "nf4"})
    for changes in smaller:
        new = {key: value for key, value in changes.items() if value != getattr(options, key)}
        flags = " ".join(
            f"--{key.replace('_', '-')}" + (f" {value}" if value is not True else "") for key, value in new.items()
        )
        rows, least = _most_rows(config, options.model_copy(update=changes), limit, name=name)
        if rows:
            setting = f"{flags} --micro-batch {rows}".strip()
            return record, (
                f"It {verdict} into {options.limit}. What fits: {setting} ({rows * options.length:,} tokens a "
                f"forward pass, {least / 2**20:,.0f} MiB)."
            )
    return record, (
        f"It {verdict} into {options.limit}, and neither does one row of {options.length} tokens in the smallest "
        f"setting ({least / 2**20:,.0f} MiB); choose a smaller model or shorter rows."
    )


def _most_rows(config: PreTrainedConfig, options: MemoryOptions, limit: int, *, name: str) -> tuple[int, int]:
    """The most rows of a forward pass that fit, at most those of the options, with their bytes; (0, bytes of one)."""

    def total(rows: int) -> int:
        changed = options.model_copy(update={"tokens": rows * options.length})
        return estimate_memory(config, changed, name=name).total

    one, most = total(1), rows_of(options)
    if one > limit or most == 1:
        return int(one <= limit), one
    # Memory grows by about as much for each row: a few steps of interpolation find the last that fits.
    fits, fails, sizes = 1, most + 1, {1: one, most: total(most)}
    while fails - fits > 1:
        known = fails if fails in sizes else most
        slope = (sizes[known] - sizes[fits]) / (known - fits) if known > fits else 1
        guess = fits + int((limit - sizes[fits]) / max(slope, 1))
        middle = min(max(guess, fits + 1), fails - 1)
        sizes[middle] = sizes.get(middle) or total(middle)
        if sizes[middle] <= limit:
            fits = middle
        else:
            fails = middle
    return fits, sizes[fits]
