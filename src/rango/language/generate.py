"""Continuing a text: one token after the other is drawn, and shown as soon as its last character is complete.

ids       prompt tokens, then the tokens written so far
logits    (V,) after ids; the network keeps what it has read, so each token is read once
draw      softmax(logits / temperature), the nucleus of it, one token
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch

from rango.errors import InputError
from rango.language.options import GenerateOptions, check_characters
from rango.language.text_scores import beginning
from rango.models.loading import Model, accepts
from rango.scoring.forward import check_numbers

Stop = Literal["end of text", "max_tokens", "context"]

# What networks call the memory of the tokens they have read: transformers' names by version, and recurrent models'.
_MEMORIES = ("cache", "past_key_values", "cache_params", "state")
_REPLACEMENT = "\ufffd"  # what an incomplete UTF-8 sequence is decoded to


class Generation:
    """A continuation while it is written: iterating gives pieces of text; the attributes say how it went and ended."""

    def __init__(self, model: Model, prompt: str, options: GenerateOptions) -> None:
        check_characters(prompt, "the prompt")
        ids = [*model.special_prefix, *model.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        self.prompt_tokens: list[int] = ids or list(beginning(model))
        if not self.prompt_tokens:
            raise InputError("the prompt is empty and the tokenizer has no token that begins a text; give a prompt")
        self.tokens: list[int] = []
        """The tokens written so far, without an end of text."""
        self.stopped: Stop | None = None
        """Why it ended: end of text, max_tokens, or the model's context is full; None before."""
        self.seconds = 0.0
        """Seconds spent in the network and in drawing, without the reader of the pieces."""
        self._model, self._options = model, options
        limit = model.context_length
        if limit is not None and len(self.prompt_tokens) >= limit:
            raise InputError(
                f"the prompt has {len(self.prompt_tokens)} tokens and {model.name} reads at most {limit}, of which "
                "the continuation needs at least one; shorten the prompt"
            )

    def __iter__(self) -> Iterator[str]:
        return whole_pieces(self._model.tokenizer, self.prompt_tokens, self._draw())

    @property
    def text(self) -> str:
        """The continuation so far."""
        return "".join(whole_pieces(self._model.tokenizer, self.prompt_tokens, self.tokens))

    def _draw(self) -> Iterator[int]:
        """Draw tokens until the text ends; `tokens`, `seconds` and `stopped` are kept up to date."""
        model, options = self._model, self._options
        # The tokens that end a text, by the tokenizer and by the network's own generation settings.
        named = getattr(getattr(model.network, "generation_config", None), "eos_token_id", None)
        ends = {model.tokenizer.eos_token_id, *(named if isinstance(named, (list, tuple)) else [named])} - {None}
        random = torch.Generator().manual_seed(options.seed)
        steps = _Steps(model)
        ids = list(self.prompt_tokens)
        while self.stopped is None:
            begun = time.perf_counter()
            logits = steps.logits(ids)  # (V,)
            if logits.isnan().any():
                check_numbers(model, logits.float().cpu().numpy(), f"token {len(ids) + 1}")
            token = draw(logits, options, random)
            self.seconds += time.perf_counter() - begun
            if token in ends:
                self.stopped = "end of text"
                return
            ids.append(token)
            self.tokens.append(token)
            if len(self.tokens) == options.max_tokens:
                self.stopped = "max_tokens"
            elif len(ids) == model.context_length:
                self.stopped = "context"
            yield token


def generate(model: Model, prompt: str, *, options: GenerateOptions | None = None) -> Generation:
    """Continue a text.

    The next token is drawn from softmax(logits / temperature), restricted to the nucleus of `top_p` (arXiv:1904.09751);
    at temperature 0 it is the most probable one. Nothing is computed before the result is iterated.

    Args:
        model: any model whose forward pass takes `input_ids` and gives `logits`, with a cache or a state or without.
        prompt: the text to continue; the empty text begins where a document begins, after an end of text.
        options: temperature, top_p, max_tokens and seed (device, dtype and adapter are read where the model is loaded).

    Raises:
        InputError: the prompt fills the model's context, has no token at all, or characters that are no text.
    """
    return Generation(model, prompt, options or GenerateOptions())


def draw(logits: torch.Tensor, options: GenerateOptions, random: torch.Generator) -> int:
    """One token from logits (V,); one uniform number is taken from `random` unless the temperature is 0.

    Raises:
        InputError: no token has a probability, as after a history that an unsmoothed model has never seen.
    """
    logits = logits.double().cpu()  # (V,)
    best = float(logits.max())
    if not math.isfinite(best):
        raise InputError(
            f"the model gives no probabilities here (the largest logit is {best}); "
            "expected a finite one: use a smoothed model or another prompt"
        )
    if options.temperature == 0:
        return int(logits.argmax())
    # A tiny temperature makes huge numbers, but only below the best logit: they fall to -inf, never up to it.
    probabilities = ((logits - best) / options.temperature).softmax(-1)  # (V,)
    kept = nucleus(probabilities, options.top_p)  # (kept tokens,)
    cumulative = probabilities[kept].cumsum(-1)
    place = torch.rand((), dtype=torch.float64, generator=random) * cumulative[-1]
    return int(kept[min(int(torch.searchsorted(cumulative, place, right=True)), len(kept) - 1)])


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The smallest set of tokens, the most probable first, whose probabilities sum to at least `top_p`.

    >>> nucleus(torch.tensor([0.1, 0.5, 0.1, 0.3]), 0.75).tolist()
    [1, 3]

    Args:
        probabilities: (V,) that sum to one.
        top_p: the share to reach, in (0, 1]; 1 keeps every token that has a probability.

    Returns:
        Token numbers, by falling probability; equal ones by number.
    """
    ordered, order = probabilities.sort(descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    kept = ordered > 0 if top_p == 1 else before < top_p
    return order[: max(1, int(kept.sum()))]


def whole_pieces(tokenizer: Any, context: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
    """The text of tokens as it grows; a character of several tokens comes with the token that holds its last byte.

    Together the pieces are what the tokens add to the text of `context` (a word's leading space may depend on it).
    """
    seen = list(context)
    # The text of seen[start:done] was given already. It is decoded again, because the text of the next token can
    # depend on the tokens before it (a leading space).
    start, done = max(0, len(seen) - 8), len(seen)

    def decode(last: int) -> str:
        text: str = tokenizer.decode(seen[start:last], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    for token in tokens:
        seen.append(token)
        piece = decode(len(seen))[len(decode(done)) :]
        if piece and not piece.endswith(_REPLACEMENT):
            yield piece
            start, done = done, len(seen)
    # A text can end within a character.
    if rest := decode(len(seen))[len(decode(done)) :]:
        yield rest


class _Steps:
    """The logits after a growing sequence; a network that keeps a memory reads each token once."""

    def __init__(self, model: Model) -> None:
        self._network: Any = model.network
        self._device = model.device
        self._vocabulary = len(model.tokenizer)
        self._arguments: dict[str, Any] = {"logits_to_keep": 1} if accepts(model.network, "logits_to_keep") else {}
        self._memory_name = next((name for name in _MEMORIES if accepts(model.network, name)), None)
        if accepts(model.network, "use_cache"):
            self._arguments["use_cache"] = self._memory_name is not None
        self._memory: Any = None
        self._network.train(False)

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Logits (V,) of the token after `ids`: the `ids` of the call before and one token more."""
        arguments = dict(self._arguments)
        if self._memory_name is not None and self._memory is not None:
            arguments[self._memory_name], ids = self._memory, ids[-1:]
        output = self._network(input_ids=torch.tensor([list(ids)], device=self._device), **arguments)
        if self._memory_name is not None:
            self._memory = getattr(output, self._memory_name, None)
        # Rows beyond the tokenizer are padding of the matrix: no text belongs to them.
        last: torch.Tensor = output.logits[0, -1, : self._vocabulary]  # (V,)
        return last
