"""The LoRA layer: a frozen linear map plus a low-rank update, for one adapter or for a bank of several."""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


class LoRALinear(nn.Module):
    """A frozen linear map W₀ with a low-rank update: y = W₀ x + s B A x, s = alpha / r (arXiv:2106.09685, eq. 3).

    The layer holds a bank of n adapters; an ordinary run is a bank of one. The rows of a batch are grouped by adapter:
    rows 0 .. b/n - 1 belong to the first, and so on.

    Shapes:
        x: (b, ..., in) with b divisible by n; y: (b, ..., out)
        lora_A: (n, r, in); lora_B: (n, out, r); scaling: (n,)

    B starts at zero, so a fresh adapter adds exactly 0 and changes no output.
    """

    lora_A: nn.Parameter  # noqa: N815 - the paper's A and B, PEFT's names
    lora_B: nn.Parameter  # noqa: N815
    scaling: torch.Tensor

    def __init__(self, base: nn.Module, *, rank: int, scaling: list[float], dropout: float = 0.0) -> None:
        super().__init__()
        outputs, inputs = weight_shape(base)
        device = next(base.parameters()).device
        self.base = base
        self.dropout = nn.Dropout(dropout) if dropout else None
        # fp32 whatever the base's type: Adam's small steps vanish in half precision.
        self.lora_A = nn.Parameter(torch.zeros(len(scaling), rank, inputs, device=device, dtype=torch.float32))
        self.lora_B = nn.Parameter(torch.zeros(len(scaling), outputs, rank, device=device, dtype=torch.float32))
        self.register_buffer("scaling", torch.tensor(scaling, dtype=torch.float32, device=device), persistent=False)
        self.enabled = True
        self.merged: torch.Tensor | None = None

    def initialise(self, adapter: int, generator: torch.Generator) -> None:
        """Draw A from N(0, 1/(3 in)) and set B to zero.

        The variance is that of the reference implementation's uniform draw, so learning rates carry over.
        """
        inputs = self.lora_A.shape[2]
        noise = torch.randn(self.lora_A.shape[1:], generator=generator) / (3 * inputs) ** 0.5
        with torch.no_grad():
            self.lora_A[adapter].copy_(noise)
            self.lora_B[adapter].zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """W₀ x + s B A x; W₀ x alone when the update is merged into W₀ or switched off."""
        y: torch.Tensor = self.base(x)
        if not self.enabled or self.merged is not None:
            return y
        return y + self.update(x).to(y.dtype)

    def update(self, x: torch.Tensor) -> torch.Tensor:
        """The update s B A x alone, (b, ..., out)."""
        if self.dropout is not None:
            x = self.dropout(x)
        A, B = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        if A.shape[0] == 1:
            # s multiplies the r numbers of A x, not the `out` numbers of B A x: less work, same product.
            return (x @ A[0].T * self.scaling[0].to(x.dtype)) @ B[0].T
        n = A.shape[0]
        grouped = x.reshape(n, -1, x.shape[-1])
        low = torch.bmm(grouped, A.transpose(1, 2)) * self.scaling.to(x.dtype)[:, None, None]
        return torch.bmm(low, B.transpose(1, 2)).reshape(*x.shape[:-1], B.shape[1])

    def rows(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Outputs `rows` alone, without computing the others: (m, in) and (K,) row numbers give (m, K)."""
        y = linear_rows(self.base, hidden, rows)
        if not self.enabled or self.merged is not None:
            return y
        A, B = self.lora_A[0].to(hidden.dtype), self.lora_B[0, rows].to(hidden.dtype)
        return y + (hidden @ A.T * self.scaling[0].to(hidden.dtype)) @ B.T

    def merge(self) -> None:
        """Add s B A to W₀, in fp32, keeping a copy of W₀ so that `unmerge` gives it back to the bit.

        Raises:
            ValueError: merged already, or a bank of more than one.
        """
        if self.merged is not None or self.lora_A.shape[0] != 1:
            raise ValueError("only a single adapter that is not merged yet can be merged")
        weight = self.base.weight
        assert isinstance(weight, torch.Tensor)
        update = self.scaling[0] * (self.lora_B[0] @ self.lora_A[0])
        if isinstance(self.base, Conv1D):
            update = update.T
        self.merged = weight.detach().clone()
        with torch.no_grad():
            weight.copy_((weight.float() + update).to(weight.dtype))

    def unmerge(self) -> None:
        """Give W₀ back, bit for bit.

        Raises:
            ValueError: not merged.
        """
        if self.merged is None:
            raise ValueError("the adapter is not merged")
        weight = self.base.weight
        assert isinstance(weight, torch.Tensor)
        with torch.no_grad():
            weight.copy_(self.merged)
        self.merged = None


def weight_shape(linear: nn.Module) -> tuple[int, int]:
    """(out, in) of a Linear or of GPT-2's Conv1D, which stores its weight transposed."""
    weight = linear.weight
    assert isinstance(weight, torch.Tensor)
    rows, columns = weight.shape
    return (columns, rows) if isinstance(linear, Conv1D) else (rows, columns)


def linear_rows(linear: nn.Module, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Outputs `rows` of a linear map, adapted or not: (m, in) and (K,) give (m, K)."""
    if isinstance(linear, LoRALinear):
        return linear.rows(hidden, rows)
    assert isinstance(linear, nn.Linear)
    bias = linear.bias[rows] if linear.bias is not None else None
    return nn.functional.linear(hidden, linear.weight[rows], bias)
