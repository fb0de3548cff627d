"""The LoRA layer. It holds the updates of one adapter or of several, a bank, whose rows share a batch.

    x (b, in) ──┬── W₀, frozen ─────────────── (b, out) ──┐
                ├── rows of adapter 0: s₀ B₀ A₀ x ────────┼── + ── y (b, out)
                └── rows of adapter 1: s₁ B₁ A₁ x ────────┘

`Grouping` says which rows belong to which adapter. Where one matrix computes q, k and v, an update of q alone has the
outputs of q; its `Slice` says which of the matrix's outputs these are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils.rnn import pad_sequence
from transformers.pytorch_utils import Conv1D

from rango.models.quantisation import QuantisedLinear


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


@dataclass(frozen=True)
class Slice:
    """Some outputs of a linear map: in each of `blocks` equal blocks, those from `start` to before `stop`.

    Attention's fused projections are all of this kind. In Phi-3, one block is [q q q q, k k, v v]; in GPT-NeoX each
    head is a block [q, k, v]:

    >>> Slice(blocks=1, start=4, stop=6).index(8).tolist(), Slice(blocks=2, start=2, stop=3).index(6).tolist()
    ([4, 5], [2, 5])
    """

    blocks: int
    start: int
    stop: int

    def count(self) -> int:
        """How many outputs the slice has."""
        return self.blocks * (self.stop - self.start)

    def fits(self, outputs: int) -> bool:
        """Whether a map of so many outputs has this slice."""
        return self.blocks > 0 and outputs % self.blocks == 0 and 0 <= self.start < self.stop <= outputs // self.blocks

    def index(self, outputs: int) -> torch.Tensor:
        """The numbers of the slice's outputs among `outputs`, (n,), in the map's order."""
        return torch.arange(outputs).view(self.blocks, -1)[:, self.start : self.stop].reshape(-1)

    def widen(self, y: torch.Tensor, outputs: int) -> torch.Tensor:
        """The slice's outputs at their places among zeros: (..., n) gives (..., outputs)."""
        blocks = y.reshape(*y.shape[:-1], self.blocks, self.stop - self.start)
        return nn.functional.pad(blocks, (self.start, outputs // self.blocks - self.stop)).flatten(-2)


class LoRALinear(nn.Module):
    """A frozen linear map W₀ with low-rank updates: y = W₀ x + s B A x, s = alpha / r (arXiv:2106.09685, eq. 3).

    The layer holds the updates of each adapter of a bank that adapts it; an ordinary run is a bank of one. Which rows
    of a batch belong to which adapter is in `grouping`, shared by all layers of the network. An adapter has one update
    of all outputs, or one of each slice that it adapts, with an A and a B of its own: what it would have if the slices
    were linear maps of their own.

    Shapes:
        x: (b, ..., in); y: (b, ..., out)
        A of adapter i: (r_i, in); B: (out, r_i), or (n, r_i) for a slice of n outputs. They are parameters of their
        own: ranks, learning rates and gradient norms differ by adapter

    B starts at zero, so a fresh adapter adds exactly 0 and changes no output.

    With PiSSA (arXiv:2404.02948) W₀ keeps what its start B₀ A₀ leaves of it, y = (W₀ − s B₀ A₀) x + s B A x, which is
    computed as an update of W₀ of twice the rank (see `pair`): W₀ is never written to.

    With DoRA (arXiv:2402.09353, eq. 5) each row of V = W₀ + s B A is brought to a learnt norm m,
    y = m/‖V‖ · V x, where ‖V‖ counts as a constant in the gradient, as the paper's section 4.3 proposes.
    """

    def __init__(self, base: nn.Module, grouping: Grouping | None = None) -> None:
        super().__init__()
        self.base = base
        self.grouping = grouping or Grouping()
        self.lora_A = nn.ParameterDict()  # the paper's A and B, PEFT's names
        self.lora_B = nn.ParameterDict()
        self.lora_magnitude = nn.ParameterDict()
        """DoRA's m of each update, (out,) or (n,); empty without DoRA."""
        self.lora_start_A, self.lora_start_B = nn.ParameterDict(), nn.ParameterDict()
        """PiSSA's A₀ and B₀ of each update, frozen; empty without PiSSA."""
        self.slices: dict[int, dict[str, Slice | None]] = {}
        """Of each adapter, the slices that it adapts by their names; all outputs are None, named ""."""
        self.scaling: dict[int, dict[str, float]] = {}
        self.dropout: dict[int, float] = {}
        self.merged: torch.Tensor | None = None
        self.quantised: tuple[QuantisedLinear, ...] = ()
        """The base of a merged layer where it is quantised; in a tuple, so that it is no part of the network then."""
        self._norms: torch.Tensor | None = None  # of the rows of W₀, where DoRA scales slices of them
        self._small: dict[str, tuple[object, torch.Tensor]] = {}

    def add(
        self,
        *,
        rank: int,
        scaling: float,
        dropout: float = 0.0,
        adapter: int = 0,
        part: str = "",
        piece: Slice | None = None,
        dora: bool = False,
        pissa: bool = False,
    ) -> None:
        """Make room for one update of an adapter, all zeros: of all outputs, or of the slice `piece` named `part`.

        PiSSA's start is computed from W₀ now.
        """
        outputs, inputs = weight_shape(self.base)
        rows = outputs if piece is None else piece.count()
        device = device_of(self.base)
        # fp32 whatever the base's type: Adam's small steps vanish in half precision.
        A = torch.zeros(rank, inputs, device=device, dtype=torch.float32)
        B = torch.zeros(rows, rank, device=device, dtype=torch.float32)
        key = f"{adapter}{part}"
        self.lora_A[key], self.lora_B[key] = nn.Parameter(A), nn.Parameter(B)
        if pissa:
            A, B = principal_pair(matrix_of(self.base)[output_numbers(piece, outputs)], rank, scaling)
            self.lora_start_A[key] = nn.Parameter(A.contiguous(), requires_grad=False)
            self.lora_start_B[key] = nn.Parameter(B.contiguous(), requires_grad=False)
        if dora:
            self.lora_magnitude[key] = nn.Parameter(torch.zeros(rows, device=device, dtype=torch.float32))
            if piece is not None and self._norms is None:
                self._norms = row_norms(matrix_of(self.base).float())
        self.slices.setdefault(adapter, {})[part] = piece
        self.scaling.setdefault(adapter, {})[part] = scaling
        self.dropout[adapter] = dropout

    def drop(self, adapter: int) -> None:
        """Forget the updates of one adapter."""
        for part in self.slices.pop(adapter):
            for held in (self.lora_A, self.lora_B, self.lora_magnitude, self.lora_start_A, self.lora_start_B):
                if f"{adapter}{part}" in held:
                    del held[f"{adapter}{part}"]
        del self.scaling[adapter], self.dropout[adapter]

    def weights(self, adapter: int = 0, part: str = "") -> tuple[nn.Parameter, nn.Parameter]:
        """A (r, in) and B (out, r) of one adapter; of one of its slices of n outputs, A (r, in) and B (n, r)."""
        return self.lora_A[f"{adapter}{part}"], self.lora_B[f"{adapter}{part}"]

    def pair(self, adapter: int = 0, part: str = "") -> tuple[torch.Tensor, torch.Tensor]:
        """The A and B whose product is added to W₀: those of `weights` or, with PiSSA, two of rank 2 r.

        B A − B₀ A₀ = [B − B₀, B₀] · [A; A − A₀]: in this form nothing large cancels, so that in half precision too
        small steps of A and B are seen, and a start that was not trained gives exactly 0.
        """
        key = f"{adapter}{part}"
        A, B = self.weights(adapter, part)
        if key not in self.lora_start_A:
            return A, B
        A0, B0 = self.lora_start_A[key], self.lora_start_B[key]
        return torch.cat([A, A - A0]), torch.cat([B - B0, B0], dim=1)  # (2 r, in), (n, 2 r)

    def take(self, A: torch.Tensor, B: torch.Tensor, adapter: int = 0, part: str = "") -> None:
        """Set A and B, and PiSSA's start, to what `pair` gave."""
        own_A, own_B = self.weights(adapter, part)
        with torch.no_grad():
            own_A.copy_(A[: len(own_A)])
            own_B.copy_(B[:, : len(own_A)])
            if f"{adapter}{part}" in self.lora_start_A:
                self.lora_start_A[f"{adapter}{part}"].copy_(A[: len(own_A)] - A[len(own_A) :])
                self.lora_start_B[f"{adapter}{part}"].copy_(B[:, len(own_A) :])
                own_B.add_(self.lora_start_B[f"{adapter}{part}"])

    def joint_magnitude(self, adapter: int) -> torch.Tensor | None:
        """DoRA's m of all outputs, (out,): where the adapter has slices, the others keep the norm that they have."""
        if not self._has_magnitudes(adapter):
            return None
        # Without slices all of it is the adapter's own.
        joint: torch.Tensor = (
            self.lora_magnitude[str(adapter)].detach().clone() if self._norms is None else self._norms.clone()
        )
        for part, piece in self.slices[adapter].items():
            joint[output_numbers(piece, len(joint))] = self.lora_magnitude[f"{adapter}{part}"].detach()
        return joint

    def _has_magnitudes(self, adapter: int) -> bool:
        return any(f"{adapter}{part}" in self.lora_magnitude for part in self.slices[adapter])

    def initialise(self, generator: torch.Generator, adapter: int = 0, part: str = "") -> None:
        """Draw A from N(0, 1/(3 in)) and set B to zero, or both to PiSSA's start; DoRA's magnitudes to norms of W₀.

        The variance is that of the reference implementation's uniform draw, so learning rates carry over.
        """
        key = f"{adapter}{part}"
        A, B = self.weights(adapter, part)
        noise = torch.randn(A.shape, generator=generator) / (3 * A.shape[1]) ** 0.5
        with torch.no_grad():
            A.copy_(self.lora_start_A.get(key, noise))
            B.copy_(self.lora_start_B.get(key, torch.zeros_like(B)))
            if key in self.lora_magnitude:
                self.lora_magnitude[key].copy_(row_norms(self.directions(adapter, part)))

    def directions(self, adapter: int, part: str = "", rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """V = W₀ + s B A of one update in float32, without DoRA's magnitudes: (n, in), or of its chosen `rows`."""
        W = matrix_of(self.base)[output_numbers(self.slices[adapter][part], weight_shape(self.base)[0])]
        A, B = self.pair(adapter, part)
        return torch.addmm(W[rows].float(), B[rows], A, alpha=self.scaling[adapter][part])  # (n, in)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """W₀ x + s B A x; W₀ x alone when the update is merged into W₀ or no adapter of this layer is at work."""
        y: torch.Tensor = self.base(x)
        members = self.grouping.members
        if self.merged is not None or not any(member in self.scaling for member in members):
            return y
        if len(members) == 1:
            return y + self.update(x, members[0], y).to(y.dtype)
        return self._add_bank(x, y)

    def update(self, x: torch.Tensor, adapter: int = 0, y: torch.Tensor | None = None) -> torch.Tensor:
        """What one adapter alone adds to the base's output, each update at the outputs of its slice, (b, ..., out).

        DoRA reads the base's output `y`, which is computed where it is not given.
        """
        updates = []
        for part, piece in self.slices[adapter].items():
            update = self._update(x, adapter, part)  # (b, ..., n)
            if f"{adapter}{part}" in self.lora_magnitude:
                y = self.base(x) if y is None else y
                update = self._scaled(update, y[..., output_numbers(piece, y.shape[-1])], adapter, part)
            updates.append(self._widen(update, piece))
        return sum(updates[1:], updates[0])  # (b, ..., out)

    def _scaled(
        self, update: torch.Tensor, y: torch.Tensor, adapter: int, part: str, rows: torch.Tensor | slice = slice(None)
    ) -> torch.Tensor:
        """DoRA's m/‖V‖ V x − W₀ x from s B A x and the base's y, of all of a slice's outputs or of `rows`: (..., n).

        Dropout acts in s B A x only. PEFT's drops inputs of W₀ x too, for which it computes a second product with W₀.
        """
        with torch.no_grad():
            norms = row_norms(self.directions(adapter, part, rows))  # (n,)
        factor: torch.Tensor = self.lora_magnitude[f"{adapter}{part}"][rows] / norms  # (n,)
        bias = self.base.bias
        if bias is not None:
            assert isinstance(bias, torch.Tensor)
            y = y - bias[output_numbers(self.slices[adapter][part], len(bias))][rows]
        # The factor is near 1: how much it differs is computed before it is rounded to half precision.
        return (factor - 1).to(y.dtype) * y + factor.to(update.dtype) * update  # (..., n)

    def _update(self, x: torch.Tensor, adapter: int, part: str) -> torch.Tensor:
        if self.dropout[adapter]:
            x = nn.functional.dropout(x, self.dropout[adapter], self.training)
        A, B = (weight.to(x.dtype) for weight in self.pair(adapter, part))  # (r, in), (n, r)
        # s multiplies the r numbers of A x, not the `n` numbers of B A x: less work, same product.
        low = x @ A.T * self.scaling[adapter][part]  # (b, ..., r)
        return low @ B.T  # (b, ..., n)

    def _widen(self, update: torch.Tensor, piece: Slice | None) -> torch.Tensor:
        return update if piece is None else piece.widen(update, weight_shape(self.base)[0])

    def _add_bank(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """y plus each adapter's update on its own rows."""
        spans = self.grouping.spans(len(x))
        counts = [stop - start for _, start, stop in spans]
        mine = [number for number, (member, _, _) in enumerate(spans) if member in self.scaling]
        members = [spans[number][0] for number in mine]
        # Unequal shares do not fit one batched product, each adapter's dropout draws a mask, and DoRA reads y.
        if len(set(counts)) > 1 or any(self.dropout[member] or self._has_magnitudes(member) for member in members):
            parts, rows = list(torch.split(y, counts)), torch.split(x, counts)
            for number, member in zip(mine, members, strict=True):
                parts[number] = parts[number] + self.update(rows[number], member, parts[number]).to(y.dtype)
            return torch.cat(parts)  # (b, ..., out)
        # Equal shares: one batched product for each slice, over the adapters that adapt it.
        for part, piece in {item: None for member in members for item in self.slices[member].items()}:
            having = [n for n in mine if (part, piece) in self.slices[spans[n][0]].items()]
            y = self._add_together(x, y, having, part, piece)
        return y  # (b, ..., out)

    def _add_together(
        self, x: torch.Tensor, y: torch.Tensor, mine: list[int], part: str, piece: Slice | None
    ) -> torch.Tensor:
        """y plus the updates of one slice by the adapters of the groups `mine`, where all groups have equal rows."""
        members = [self.grouping.members[number] for number in mine]
        groups = len(self.grouping.members)
        if len(mine) == groups:
            return y + self._widen(self._together(x, members, part), piece).reshape(y.shape).to(y.dtype)
        # Whole groups are picked and added to in place: splits would cost a tensor of zeros each in the backward pass.
        index = self._kept(f"index {part}", mine, torch.long, x.device)
        picked = x.reshape(groups, -1, x.shape[-1]).index_select(0, index)  # (n, positions, in)
        update = self._widen(self._together(picked, members, part), piece).to(y.dtype)  # (n, positions, out)
        return y.reshape(groups, -1, y.shape[-1]).index_add_(0, index, update).reshape(y.shape)

    def _together(self, x: torch.Tensor, members: list[int], part: str) -> torch.Tensor:
        """Updates of n adapters with equal rows in two batched products, (n, positions, outputs of the slice).

        Smaller ranks are padded with zeros to the largest, R, which adds exact zeros to the sums.
        """
        pairs = [self.pair(member, part) for member in members]
        A = pad_sequence([a for a, _ in pairs], batch_first=True).to(x.dtype)  # (n, R, in)
        B = pad_sequence([b.T for _, b in pairs], batch_first=True).to(x.dtype)  # (n, R, out)
        low = torch.bmm(x.reshape(len(members), -1, x.shape[-1]), A.transpose(1, 2))  # (n, positions, R)
        scaling = [self.scaling[member][part] for member in members]
        low = low * self._kept(f"scaling {part}", scaling, x.dtype, x.device)[:, None, None]
        return torch.bmm(low, B)  # (n, positions, out)

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
        A, B = self.pair(members[0])
        low = hidden @ A.to(hidden.dtype).T * self.scaling[members[0]][""]  # (m, r)
        update = low @ B[rows].to(hidden.dtype).T  # (m, K)
        if str(members[0]) in self.lora_magnitude:
            update = self._scaled(update, y, members[0], "", rows)
        return y + update  # (m, K)

    def merge(self, *, keep: bool = True) -> None:
        """Put the adapter into W₀, in fp32, and `keep` a copy of W₀ so that `unmerge` gives it back to the bit.

        Only the rows of the adapter's slices are written. The sum with a quantised W₀ is held as an ordinary matrix: in
        so few bits a small update would vanish.

        Raises:
            ValueError: merged already, or a bank of more than one.
        """
        if self.merged is not None or len(self.scaling) != 1:
            raise ValueError("only a single adapter that is not merged yet can be merged")
        if isinstance(self.base, QuantisedLinear):
            self.quantised, self.base = (self.base,), self.base.plain()
        weight = self.base.weight
        assert isinstance(weight, torch.Tensor)
        [adapter] = self.scaling
        self.merged = weight.detach().clone() if keep else weight.new_empty(0)
        with torch.no_grad():
            matrix = weight.T if isinstance(self.base, Conv1D) else weight  # (out, in), a view
            for part, piece in self.slices[adapter].items():
                V = self.directions(adapter, part)  # (n, in)
                if f"{adapter}{part}" in self.lora_magnitude:
                    V *= (self.lora_magnitude[f"{adapter}{part}"] / row_norms(V))[:, None]
                matrix[output_numbers(piece, len(matrix))] = V.to(matrix.dtype)

    def unmerge(self) -> None:
        """Give W₀ back, bit for bit.

        Raises:
            ValueError: not merged, or merged without a copy.
        """
        if self.merged is None:
            raise ValueError("the adapter is not merged")
        if not self.merged.numel():
            raise ValueError("the adapter was merged without keeping a copy of the weights")
        weight = self.base.weight
        assert isinstance(weight, torch.Tensor)
        with torch.no_grad():
            weight.copy_(self.merged)
        self.merged = None
        if self.quantised:
            (self.base,), self.quantised = self.quantised, ()


def weight_shape(linear: nn.Module) -> tuple[int, int]:
    """(out, in) of a Linear or of GPT-2's Conv1D, which stores its weight transposed."""
    if isinstance(linear, Conv1D):
        return int(linear.nf), int(linear.nx)
    assert isinstance(linear, nn.Linear)
    return linear.out_features, linear.in_features


def stored_transposed(linear: nn.Module) -> bool:
    """Whether the checkpoint stores the matrix as (in, out), quantised or not."""
    return isinstance(linear, Conv1D) or (isinstance(linear, QuantisedLinear) and linear.transposed)


def matrix_of(linear: nn.Module) -> torch.Tensor:
    """The weight of a Linear or a Conv1D, (out, in). It may be a copy: a quantised map is dequantised.

    Of a map that is cut over processes it is the whole, for which all of them have to ask.
    """
    if isinstance(linear, QuantisedLinear):
        return linear.dequantise(linear.dtype)
    weight = linear.weight
    assert isinstance(weight, torch.Tensor)
    if isinstance(weight, DTensor):  # cut over processes, each of which comes here
        weight = weight.full_tensor()
    return weight.T if isinstance(linear, Conv1D) else weight


def device_of(linear: nn.Module) -> torch.device:
    """Where a linear map computes: weights that wait in main memory are brought to the device of their mesh."""
    weight = next(linear.parameters())
    if isinstance(weight, DTensor) and weight.device_mesh.device_type != "cpu":
        return torch.device(weight.device_mesh.device_type, torch.accelerator.current_device_index())
    return weight.device


def row_norms(matrix: torch.Tensor) -> torch.Tensor:
    """The norm of each row, (n,); 1 for a row of zeros, such as a token that no text has: its outputs stay 0 then."""
    norms: torch.Tensor = torch.linalg.vector_norm(matrix, dim=1)
    return norms.masked_fill(norms == 0, 1.0)


def output_numbers(piece: Slice | None, outputs: int) -> torch.Tensor | slice:
    """An index of the outputs that a slice has; of all of them where there is no slice."""
    return slice(None) if piece is None else piece.index(outputs)


def principal_pair(matrix: torch.Tensor, rank: int, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """PiSSA's start, A (r, in) and B (out, r): s B A is the best approximation of rank r to a matrix (out, in).

    With the singular values S of the matrix U S V: A = √(S/s) V and B = U √(S/s), cut to the first r
    (arXiv:2404.02948, eq. 2 and 3).
    """
    U, S, V = torch.linalg.svd(matrix.float(), full_matrices=False)
    root = (S[:rank] / scaling).sqrt()
    return root[:, None] * V[:rank], U[:, :rank] * root


def linear_rows(linear: nn.Module, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Outputs `rows` of a linear map, adapted or not: (m, in) and (K,) give (m, K)."""
    if isinstance(linear, LoRALinear):
        return linear.rows(hidden, rows)
    assert isinstance(linear, nn.Linear)
    bias = linear.bias[rows] if linear.bias is not None else None
    return nn.functional.linear(hidden, linear.weight[rows], bias)  # (m, K)
