"""The head of a model: from the states of positions that predict to log-probabilities of their targets.

    log P(t) = l_t - log Σ_v exp l_v        l = W s + b, a logit for each of V tokens of the vocabulary

Only the target's logit and one sum over the vocabulary are wanted, so the logits of all positions, the largest tensor
of a pass, are never held together. There are two ways. A frozen linear head is read in blocks of its vocabulary, and
the gradient of the states is computed along with the sum; any other head (adapted, trained, quantised) takes the
positions in slices, whose logits the backward pass computes again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from rango.models.loading import Model
from rango.models.lora import LoRALinear, linear_rows
from rango.scoring.batches import Batch

# Positions whose logits are computed at once where the head is taken as it is: 256 x a vocabulary of 51,200 is 50 MB.
_SLICE = 256
# Logits in a block of the vocabulary: 4 MB in float32 stay in a core's cache (a memory estimate, on the meta device, is
# that of a CPU); a GPU wants larger products, here of 64 MB.
_BLOCK = {"cpu": 2**20, "meta": 2**20}
_BLOCK_ON_GPU = 2**24
_NARROWEST_BLOCK = 512
# Positions from which attention's kernel takes 256 at once; with 64, below, its products are too small to pay.
_FEWEST_ATTENDED = 768
# What configurations call the bound of the logits.
_CAPS = ("final_logit_softcapping", "output_logit_soft_cap")


def log_probabilities(model: Model, batch: Batch, states: torch.Tensor) -> torch.Tensor:
    """log P(target) of each scored token over the whole vocabulary, (m,) float32, in nats.

    Args:
        model: whose head is applied.
        batch: which position predicts which targets.
        states: (u, H), at the positions that predict.
    """
    head, cap = _head(model), _cap(model)
    # With its adapters off an adapted head is the base's, and scores to the bit as the base did.
    if isinstance(head, LoRALinear) and head.merged is None and not head.grouping.members:
        head = head.base
    trained = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in head.parameters())
    # A subclass (quantised, parametrised) may compute something else than weight and bias say.
    if type(head) is nn.Linear and not trained:
        if torch.is_grad_enabled() and states.requires_grad:
            frozen: Any = _FrozenHead.apply
            values: torch.Tensor = frozen(states, head.weight, head.bias, batch.at, batch.targets, cap)
            return values
        return _in_blocks(states, head.weight, head.bias, batch.at, batch.targets, cap, gradient=False)[0]
    return log_probabilities_by_slices(model, batch, states)


def log_probabilities_by_slices(model: Model, batch: Batch, states: torch.Tensor) -> torch.Tensor:
    """The same for any head, and the reference of the faster way: the module itself, on a slice of positions."""
    head, cap = _head(model), _cap(model)

    def score(states: torch.Tensor, at: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return pick(_bounded(head(states).float(), cap), at, targets)

    parts = []
    for start in range(0, len(states), _SLICE):
        stop = min(start + _SLICE, len(states))
        scored = slice(batch.offsets[start], batch.offsets[stop])
        part = states[start:stop], batch.at[scored] - start, batch.targets[scored]
        if torch.is_grad_enabled() and len(states) > _SLICE:
            # Recompute the logits in the backward pass rather than keep (u, V) of them.
            parts.append(checkpoint(score, *part, use_reentrant=False))
        else:
            parts.append(score(*part))
    return torch.cat(parts)  # (m,)


def target_logits(model: Model, batch: Batch, states: torch.Tensor) -> torch.Tensor:
    """Logits of the scored tokens alone, (m,) float32; only the head's rows for the distinct targets are computed."""
    distinct, where = torch.unique(batch.targets, return_inverse=True)  # (D,), (m,)
    logits = _bounded(linear_rows(_head(model), states, distinct).float(), _cap(model))  # (u, D)
    return logits[batch.at, where]  # (m,)


def pick(logits: torch.Tensor, at: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log P(target) of each scored token, (m,), from the logits of the positions, (u, V)."""
    return logits[at, targets] - logits.logsumexp(dim=-1)[at]  # (m,)


class _FrozenHead(torch.autograd.Function):
    """log P(target) with the gradient of the states, for a head whose own weights need none.

    The forward pass also computes e = E[W c] under the softmax of each position, a vector of the size of its state,
    where c is the slope of the bound (1 without one). The gradient of a state for any gradient g of the outputs is then

        Σ_j g_j (c_t W_t - e)        over the position's targets t_j

    so the backward pass does not touch the vocabulary. Liger's fused linear cross-entropy (arXiv:2410.10989) computes
    the gradient in the forward pass too, for the mean over the targets alone.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        at: torch.Tensor,
        targets: torch.Tensor,
        cap: float | None,
    ) -> torch.Tensor:
        values, expected, slopes = _in_blocks(states, weight, bias, at, targets, cap, gradient=True)
        ctx.save_for_backward(weight, at, targets, expected, slopes)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, at, targets, expected, slopes = ctx.saved_tensors
        of_position = torch.zeros(len(expected), device=gradient.device).index_add_(0, at, gradient)  # (u,)
        states = expected * -of_position[:, None]  # (u, H)
        states.index_add_(0, at, weight[targets].float() * (gradient * slopes)[:, None])
        return states.to(weight.dtype), None, None, None, None, None


def _in_blocks(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    at: torch.Tensor,
    targets: torch.Tensor,
    cap: float | None,
    *,
    gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log P(target) (m,); with `gradient` E[W c] (u, H) and the slope c of each target (m,), else empty tensors.

    The sum over the vocabulary, and the weighted sum of its rows, are kept relative to the largest logit so far and
    scaled down when a block brings a larger one, as in FlashAttention's softmax (arXiv:2205.14135).
    """
    count = len(states)
    of_target = (states[at].float() * weight[targets].float()).sum(dim=1)  # (m,)
    of_target = of_target if bias is None else of_target + bias[targets].float()
    # Rounded as the products below are, or the target's term could be larger than the whole sum.
    of_target = _bounded(of_target.to(states.dtype).float(), cap)
    plain = cap is None and states.device.type == "cpu" and states.dtype == torch.float32
    if gradient and plain and count >= _FEWEST_ATTENDED:
        expected, sums = _attended(states, weight, bias)
        return of_target - sums[at], expected, torch.ones_like(of_target)
    largest = states.new_full((count, 1), -torch.inf, dtype=torch.float32)
    total = torch.zeros_like(largest)
    expected = states.new_zeros(states.shape if gradient else (0,), dtype=torch.float32)  # (u, H)
    width = max(_NARROWEST_BLOCK, _BLOCK.get(states.device.type, _BLOCK_ON_GPU) // max(1, count))
    for start in range(0, len(weight), width):
        rows = weight[start : start + width]
        logits = nn.functional.linear(states, rows, None if bias is None else bias[start : start + width])
        logits = _bounded(logits.float(), cap)  # (u, width)
        slopes = 1 - (logits / cap).square() if gradient and cap is not None else None
        higher = torch.maximum(largest, logits.amax(dim=1, keepdim=True))  # (u, 1)
        scale = (largest - higher).exp_()
        weights = logits.sub_(higher).exp_()
        total.mul_(scale).add_(weights.sum(dim=1, keepdim=True))
        if gradient:
            weights = weights if slopes is None else weights.mul_(slopes)
            product = weights.to(rows.dtype) @ rows  # (u, H)
            expected.mul_(scale).add_(product)
        largest = higher
    values = of_target - (largest + total.log())[at, 0]  # (m,)
    if not gradient:
        return values, expected, values.new_zeros(0)
    return values, expected.div_(total), torch.ones_like(values) if cap is None else 1 - (of_target / cap).square()


def _attended(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """E[W] (u, H) and log Σ exp l (u,), by torch's attention for a CPU: states are queries, W keys and values.

    One kernel goes through the blocks in the cache, where the loop of `_in_blocks` starts a dozen for each, whose
    threads wait for each other.
    """
    keys = weight[None, None]  # (1, 1, V, H)
    mask = None if bias is None else bias[None, None, None]  # (1, 1, 1, V)
    expected, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        states[None, None], keys, keys, 0.0, False, attn_mask=mask, scale=1.0
    )
    return expected[0, 0], sums.reshape(-1)


def _head(model: Model) -> nn.Module:
    network: Any = model.network
    head: nn.Module = network.get_output_embeddings()
    return head


def _cap(model: Model) -> float | None:
    # Gemma 2 and xLSTM bound their logits after the head, in the part of their forward pass that is not used here;
    # a model of images keeps the bound in the configuration of its text part.
    config: Any = model.network.config.get_text_config()
    return next((float(value) for name in _CAPS if (value := getattr(config, name, None)) is not None), None)


def _bounded(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    return logits if cap is None else torch.tanh(logits / cap) * cap
