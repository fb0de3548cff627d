"""Quantised bases: the frozen matrices of a network in 8 or 4 bits, while everything else keeps its type.

    int8   a number of -127 to 127 for each weight, and a float32 scale for each row (arXiv:2208.07339)
    nf4    one of 16 quantiles of the normal distribution, and a float32 scale for each 64 weights (arXiv:2305.14314)

bitsandbytes quantises and dequantises. The product is Rango's own: y = W x with W dequantised, so that a quantised
network is the same function on every device, in every batch, in training and in scoring.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.core_model_loading import ConversionOps
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name, should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from rango.options import Quantisation

_NF4_BLOCK = 64  # weights that share a scale


class QuantisedLinear(nn.Linear):
    """A frozen linear map y = W x + b whose W (out, in) is kept in 8 or 4 bits.

    `weight` holds the packed numbers: (out, in) int8, or (out * in / 2, 1) uint8 with two weights in a byte.
    """

    kind: Quantisation
    dtype: torch.dtype
    """The type of the network: of the inputs, and of W when it is dequantised."""
    sample: tuple[tuple[int, ...], list[float]]
    """What the fingerprint takes of the matrix that was quantised, see `weight_sample`."""

    def __init__(self, replaced: nn.Module, kind: Quantisation, dtype: torch.dtype) -> None:
        """Take the place of a Linear or of GPT-2's Conv1D, still without weights."""
        weight = replaced.weight
        assert isinstance(weight, torch.Tensor)
        self.transposed = isinstance(replaced, Conv1D)
        """Whether the checkpoint stores (in, out)."""
        outputs, inputs = reversed(weight.shape) if self.transposed else weight.shape
        super().__init__(inputs, outputs, bias=replaced.bias is not None, device="meta", dtype=dtype)
        self.kind, self.dtype = kind, dtype
        scales = outputs if kind == "int8" else -(-inputs * outputs // _NF4_BLOCK)
        self.register_buffer("scale", torch.empty(scales, dtype=torch.float32, device="meta"))
        self.requires_grad_(False)

    @torch.no_grad()
    def quantise(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The packed numbers and the scales of a matrix, which is given as the checkpoint stores it.

        Raises:
            ValueError: the matrix has another shape than the layer.
        """
        stored = (self.in_features, self.out_features) if self.transposed else (self.out_features, self.in_features)
        if weight.shape != stored:
            raise ValueError(f"a matrix {tuple(weight.shape)} for a layer of {stored}")
        # As the plain network would have it, so that both have one fingerprint.
        self.sample = weight_sample(weight.to(self.dtype))
        matrix = (weight.T if self.transposed else weight).contiguous()  # (out, in)
        functional = _bitsandbytes()
        if self.kind == "int8":
            packed, scale, _ = functional.int8_vectorwise_quant(matrix.half())  # (out, in), (out,)
            return packed, scale
        packed, state = functional.quantize_4bit(
            matrix, blocksize=_NF4_BLOCK, quant_type="nf4", compress_statistics=False
        )
        return packed, state.absmax  # (out * in / 2, 1), (out * in / 64,)

    @torch.no_grad()
    def dequantise(self, dtype: torch.dtype) -> torch.Tensor:
        """W, (out, in)."""
        functional = _bitsandbytes()
        if self.kind == "int8":
            matrix: torch.Tensor = functional.int8_vectorwise_dequant(self.weight, self.scale)
            return matrix.to(dtype)
        # A row for each block: bitsandbytes 0.50 gives wrong numbers on a CPU with AVX-512 where a row ends inside one.
        size = self.out_features * self.in_features
        shape = (size // _NF4_BLOCK, _NF4_BLOCK) if size % _NF4_BLOCK == 0 else (1, size)
        state = functional.QuantState(self.scale, shape, blocksize=_NF4_BLOCK, quant_type="nf4", dtype=dtype)
        matrix = functional.dequantize_4bit(self.weight, state)
        return matrix.view(self.out_features, self.in_features)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """W x + b, (..., out)."""
        y: torch.Tensor = _Product.apply(input, self)  # type: ignore[no-untyped-call]
        return y

    def plain(self) -> nn.Linear:
        """An ordinary linear map that computes the same."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.dequantise(self.dtype), requires_grad=False)
        linear.bias = self.bias
        return linear.train(self.training)


class _Product(torch.autograd.Function):
    """W x + b for a frozen quantised W, which is dequantised for the forward pass and again for the backward pass.

    Ordinary autograd would keep every dequantised matrix in between: the memory that quantising is to save.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: QuantisedLinear) -> torch.Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.dequantise(x.dtype), layer.bias)  # (..., out)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.dequantise(gradient.dtype), None  # (..., in)


def weight_sample(weight: torch.Tensor) -> tuple[tuple[int, ...], list[float]]:
    """What a model's fingerprint takes of one parameter: its shape, and 64 of its numbers or all of fewer."""
    flat = weight.detach().reshape(-1)
    # bfloat16 is what float32, float16 and bfloat16 copies of the same weights have in common.
    sample = flat[:: max(1, flat.numel() // 64)][:64].to(torch.bfloat16).float().cpu()  # (64,) at most
    return tuple(weight.shape), sample.tolist()


def quantised_layers(network: nn.Module) -> dict[str, QuantisedLinear]:
    """The quantised linear maps of a network by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantisedLinear)}


def dequantise_network(network: nn.Module) -> None:
    """Put ordinary linear maps in the place of all quantised ones; the network computes the same as before."""
    for name, layer in quantised_layers(network).items():
        network.set_submodule(name, layer.plain())


class QuantisedLoading(QuantizationConfigMixin):
    """Given to `from_pretrained` as `quantization_config`: matrices are quantised one by one as they are read."""

    quant_method = "rango"  # type: ignore[assignment]

    def __init__(self, kind: Quantisation) -> None:
        self.kind = kind


@register_quantizer("rango")
class _Quantiser(HfQuantizer):
    """Replaces linear maps before the weights are read, and quantises each weight when it is read.

    The head, what is tied to it, and what the architecture keeps in float32 stay as they are.
    """

    quantization_config: QuantisedLoading

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        kept = self.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
        for name, module in list(model.named_modules()):
            linear = isinstance(module, Conv1D) or type(module) is nn.Linear
            if linear and should_convert_module(name, kept):
                layer = QuantisedLinear(module, self.quantization_config.kind, module.weight.dtype)
                model.set_submodule(name, layer)

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        module, name = get_module_from_name(model, param_name)
        return isinstance(module, QuantisedLinear) and name == "weight"

    def get_quantize_ops(self) -> ConversionOps:
        return _Quantise()

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return True


class _Quantise(ConversionOps):
    def convert(self, input_dict: dict[str, Any], *_: Any, model: Any = None, **__: Any) -> dict[str, Any]:
        converted: dict[str, torch.Tensor] = {}
        for name, values in input_dict.items():
            layer, _name = get_module_from_name(model, name)
            packed, scale = layer.quantise(values[0] if isinstance(values, list) else values)
            converted |= {name: packed, f"{name.removesuffix('weight')}scale": scale}
        return converted


def _bitsandbytes() -> Any:
    """bitsandbytes' functions, imported at the first use.

    Where the package `kernels` is installed, bitsandbytes would load compiled code from the Hub on import, for a fused
    product that Rango does not use. It warns where that fails.
    """
    if "bitsandbytes.functional" not in sys.modules:
        with _without_kernels():
            importlib.import_module("bitsandbytes.functional")
    return sys.modules["bitsandbytes.functional"]


@contextlib.contextmanager
def _without_kernels() -> Iterator[None]:
    logger, before = logging.getLogger("bitsandbytes"), sys.modules.get("kernels")
    level = logger.level
    logger.setLevel(logging.ERROR)
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        logger.setLevel(level)
        del sys.modules["kernels"]
        if before is not None:
            sys.modules["kernels"] = before
