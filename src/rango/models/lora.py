"""The LoRA layer. It holds the updates of one adapter or of several, a bank, whose rows share a batch.

    x (b, in) ──┬── W₀, frozen ─────────────── (b, out) ──┐
                ├── rows of adapter 0: s₀ B₀ A₀ x ────────┼── + ── y (b, out)
                └── rows of adapter 1: s₁ B₁ A₁ x ────────┘

`Grouping` says which rows belong to which adapter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers.pytorch_utils import Conv1D


class Grouping:
    """What the LoRA layers of one network share: the adapters at work now, and how many rows each of them has.

    A batch holds the rows of the first member, then those of the second, and so on. With one member all rows are its
    own; with none the network is the base model. The rows of a bank are equal shares unless `split` says otherwise.
    """

    def __init__(self, members: Sequence[int] = (0,)) -> None:
        self.members: tuple[int, ...] = tuple(members)
        self.rows: tuple[int, ...] | None = None

    def spans(self, rows: int) -> list[tuple[int, int, int]]:
        """(member, first row, row after the last) for a batch of `rows` rows.

        Raises:
            ValueError: the rows cannot be shared out like that.
        """
        counts = self.rows or (rows // len(self.members),) * len(self.members)
        if sum(counts) != rows:
            raise ValueError(f"{rows} rows for a bank of {len(self.members)} with {self.rows or 'equal'} rows each")
        spans, start = [], 0
        for member, count in zip(self.members, counts, strict=True):
            spans.append((member, start, start + count))
            start += count
        return spans

    def only(self, member: int) -> contextlib.AbstractContextManager[None]:
        """Within the block every row belongs to `member`."""
        return self._set((member,), None)

    def off(self) -> contextlib.AbstractContextManager[None]:
        """Within the block no adapter acts."""
        return self._set((), None)

    def split(self, members: Sequence[int], rows: Sequence[int]) -> contextlib.AbstractContextManager[None]:
        """Within the block the batch is `rows[i]` rows of each `members[i]`, in that order."""
        return self._set(tuple(members), tuple(rows) if len(members) > 1 else None)

    @contextlib.contextmanager
    def _set(self, members: tuple[int, ...], rows: tuple[int, ...] | None) -> Iterator[None]:
        before = self.members, self.rows
        self.members, self.rows = members, rows
        try:
            yield
        finally:
            self.members, self.rows = before


class LoRALinear(nn.Module):
    """A frozen linear map W₀ with low-rank updates: y = W₀ x + s B A x, s = alpha / r (arXiv:2106.09685, eq. 3).

    The layer holds one update for each adapter of a bank that adapts it; an ordinary run is a bank of one. Which rows
    of a batch belong to which adapter is in `grouping`, shared by all layers of the network.

    Shapes:
        x: (b, ..., in); y: (b, ..., out)
        lora_A[i]: (r_i, in); lora_B[i]: (out, r_i) of adapter i, parameters of their own: ranks, learning rates and
        gradient norms differ by adapter

    B starts at zero, so a fresh adapter adds exactly 0 and changes no output.
    """

    def __init__(self, base: nn.Module, grouping: Grouping | None = None) -> None:
        super().__init__()
        self.base = base
        self.grouping = grouping or Grouping()
        self.lora_A = nn.ParameterDict()  # the paper's A and B, PEFT's names
        self.lora_B = nn.ParameterDict()
        self.scaling: dict[int, float] = {}
        self.dropout: dict[int, float] = {}
        self.merged: torch.Tensor | None = None
        self._small: dict[str, tuple[object, torch.Tensor]] = {}

    def add(self, *, rank: int, scaling: float, dropout: float = 0.0, adapter: int = 0) -> None:
        """Make room for the update of one adapter, all zeros."""
        outputs, inputs = weight_shape(self.base)
        device = next(self.base.parameters()).device
        # fp32 whatever the base's type: Adam's small steps vanish in half precision.
        self.lora_A[str(adapter)] = nn.Parameter(torch.zeros(rank, inputs, device=device, dtype=torch.float32))
        self.lora_B[str(adapter)] = nn.Parameter(torch.zeros(outputs, rank, device=device, dtype=torch.float32))
        self.scaling[adapter] = scaling
        self.dropout[adapter] = dropout

    def drop(self, adapter: int) -> None:
        """Forget the update of one adapter."""
        del self.lora_A[str(adapter)], self.lora_B[str(adapter)], self.scaling[adapter], self.dropout[adapter]

    def weights(self, adapter: int = 0) -> tuple[nn.Parameter, nn.Parameter]:
        """A (r, in) and B (out, r) of one adapter."""
        return self.lora_A[str(adapter)], self.lora_B[str(adapter)]

    def initialise(self, generator: torch.Generator, adapter: int = 0) -> None:
        """Draw A from N(0, 1/(3 in)) and set B to zero.

        The variance is that of the reference implementation's uniform draw, so learning rates carry over.
        """
        A, B = self.weights(adapter)
        noise = torch.randn(A.shape, generator=generator) / (3 * A.shape[1]) ** 0.5
        with torch.no_grad():
            A.copy_(noise)
            B.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """W₀ x + s B A x; W₀ x alone when the update is merged into W₀ or no adapter of this layer is at work."""
        y: torch.Tensor = self.base(x)
        members = self.grouping.members
        if self.merged is not None or not any(member in self.scaling for member in members):
            return y
        if len(members) == 1:
            return y + self.update(x, members[0]).to(y.dtype)
        return self._add_bank(x, y)

    def update(self, x: torch.Tensor, adapter: int = 0) -> torch.Tensor:
        """The update s B A x of one adapter alone, (b, ..., out)."""
        if self.dropout[adapter]:
            x = nn.functional.dropout(x, self.dropout[adapter], self.training)
        A, B = (weight.to(x.dtype) for weight in self.weights(adapter))  # (r, in), (out, r)
        # s multiplies the r numbers of A x, not the `out` numbers of B A x: less work, same product.
        low = x @ A.T * self.scaling[adapter]  # (b, ..., r)
        return low @ B.T  # (b, ..., out)

    def _add_bank(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """y plus each adapter's update on its own rows."""
        spans = self.grouping.spans(len(x))
        counts = [stop - start for _, start, stop in spans]
        mine = [number for number, (member, _, _) in enumerate(spans) if member in self.scaling]
        members = [spans[number][0] for number in mine]
        # Unequal shares do not fit one batched product, and each adapter's dropout draws its own mask.
        if len(set(counts)) > 1 or any(self.dropout[member] for member in members):
            parts, rows = list(torch.split(y, counts)), torch.split(x, counts)
            for number, member in zip(mine, members, strict=True):
                parts[number] = parts[number] + self.update(rows[number], member).to(y.dtype)
            return torch.cat(parts)  # (b, ..., out)
        if len(mine) == len(spans):
            return y + self._together(x, members).reshape(y.shape).to(y.dtype)
        # Whole groups are picked and added to in place: slices would cost a tensor of zeros each in the backward pass.
        index = self._kept("index", mine, torch.long, x.device)
        picked = x.reshape(len(spans), -1, x.shape[-1]).index_select(0, index)  # (n, positions, in)
        update = self._together(picked, members).to(y.dtype)  # (n, positions, out)
        return y.reshape(len(spans), -1, y.shape[-1]).index_add_(0, index, update).reshape(y.shape)

    def _together(self, x: torch.Tensor, members: list[int]) -> torch.Tensor:
        """Updates of n adapters with equal rows in two batched products, (n, positions, out).

        Smaller ranks are padded with zeros to the largest, R, which adds exact zeros to the sums.
        """
        pairs = [self.weights(member) for member in members]
        A = pad_sequence([a for a, _ in pairs], batch_first=True).to(x.dtype)  # (n, R, in)
        B = pad_sequence([b.T for _, b in pairs], batch_first=True).to(x.dtype)  # (n, R, out)
        low = torch.bmm(x.reshape(len(members), -1, x.shape[-1]), A.transpose(1, 2))  # (n, positions, R)
        scaling = self._kept("scaling", [self.scaling[member] for member in members], x.dtype, x.device)  # (n,)
        return torch.bmm(low * scaling[:, None, None], B)  # (n, positions, out)

    def _kept(self, name: str, values: Sequence[float], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """A small tensor, made once: copying it to a GPU at each step would wait for the GPU."""
        key = (tuple(values), dtype, device)
        if name not in self._small or self._small[name][0] != key:
            self._small[name] = key, torch.tensor(values, dtype=dtype, device=device)
        return self._small[name][1]

    def rows(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Outputs `rows` alone, without computing the others: (m, in) and (K,) row numbers give (m, K).

        Raises:
            ValueError: several adapters are at work; each reads its own hidden states.
        """
        y = linear_rows(self.base, hidden, rows)  # (m, K)
        members = self.grouping.members
        if len(members) > 1:
            raise ValueError("chosen rows are computed for one adapter at a time")
        if self.merged is not None or not members or members[0] not in self.scaling:
            return y
        A, B = self.weights(members[0])
        low = hidden @ A.to(hidden.dtype).T * self.scaling[members[0]]  # (m, r)
        return y + low @ B[rows].to(hidden.dtype).T  # (m, K)

    def merge(self) -> None:
        """Add s B A to W₀, in fp32, keeping a copy of W₀ so that `unmerge` gives it back to the bit.

        Raises:
            ValueError: merged already, or a bank of more than one.
        """
        if self.merged is not None or len(self.scaling) != 1:
            raise ValueError("only a single adapter that is not merged yet can be merged")
        weight = self.base.weight
        assert isinstance(weight, torch.Tensor)
        [(adapter, scaling)] = self.scaling.items()
        A, B = self.weights(adapter)
        update = scaling * (B @ A)  # (out, in)
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
    return nn.functional.linear(hidden, linear.weight[rows], bias)  # (m, K)
