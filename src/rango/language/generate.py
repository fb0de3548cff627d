"""Continuing a text: one token after the other is drawn from what the model says, and shown as soon as it is whole."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch

from rango.errors import InputError
from rango.language.options import GenerateOptions
from rango.language.text_scores import check_characters
from rango.models.loading import Model, accepts

Stop = Literal["end of text", "max_tokens", "context"]

# What networks call the memory of the tokens they have read: transformers' names by version, and recurrent models'.
_MEMORIES = ("cache", "past_key_values", "cache_params", "state")
_REPLACEMENT = "\ufffd"  # what an incomplete UTF-8 sequence is decoded to


class Generation:
    """A continuation while it is written: iterating gives pieces of text, and the other attributes tell the rest."""

    def __init__(self, model: Model, prompt: str, options: GenerateOptions) -> None:
        self.prompt_tokens = _encode(model, prompt)
        self.tokens: list[int] = []
        """The tokens written so far, without an end of text."""
        self.stopped: Stop | None = None
        """Why it ended: end of text, max_tokens, or the model's context is full; None before."""
        self.seconds = 0.0
        """Seconds spent in the network and in drawing."""
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
        options, limit = self._options, self._model.context_length
        ends = _ends(self._model)
        random = torch.Generator().manual_seed(options.seed)
        steps = _Steps(self._model)
        ids = list(self.prompt_tokens)
        while self.stopped is None:
            begun = time.perf_counter()
            token = draw(steps.logits(ids), options, random)
            self.seconds += time.perf_counter() - begun
            if token in ends:
                self.stopped = "end of text"
                return
            ids.append(token)
            self.tokens.append(token)
            if len(self.tokens) == options.max_tokens:
                self.stopped = "max_tokens"
            elif len(ids) == limit:
                self.stopped = "context"
            yield token


def generate(model: Model, prompt: str, *, options: GenerateOptions | None = None) -> Generation:
    """Continue a text.

    The next token is drawn from softmax(logits / temperature), restricted to the nucleus of `top_p` (arXiv:1904.09751);
    at temperature 0 it is the most probable one. Nothing is computed before the result is iterated.

    Args:
        model: any model whose forward pass takes `input_ids` and gives `logits`; what it remembers of the tokens it
            has read is used where it offers that.
        prompt: the text to continue; the empty text begins where a document begins, after an end of text.
        options: temperature, top_p, max_tokens and seed (device, dtype and adapter are for who loads the model).

    Raises:
        InputError: the prompt fills the model's context, has no token at all, or characters that are no text.
    """
    return Generation(model, prompt, options or GenerateOptions())


def draw(logits: torch.Tensor, options: GenerateOptions, random: torch.Generator) -> int:
    """One token from logits (V,); one uniform number is taken from `random` unless the temperature is 0.

    Raises:
        InputError: no token has a probability, as after a history that an unsmoothed model has never seen.
    """
    logits = logits.double().cpu()
    best = float(logits.max())
    if not torch.isfinite(logits.max()):
        raise InputError(
            f"the model gives no probabilities here (the largest logit is {best}); "
            "expected a finite one: use a smoothed model or another prompt"
        )
    if options.temperature == 0:
        return int(logits.argmax())
    # A tiny temperature makes huge numbers, but only below the best logit: they fall to -inf, never up to it.
    probabilities = ((logits - best) / options.temperature).softmax(-1)
    kept = nucleus(probabilities, options.top_p)
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
    """The text of tokens as it grows; a character of several tokens comes when its last byte is there.

    Together the pieces are what the tokens add to the text of `context` (a word's leading space may depend on it).
    """
    seen = list(context)
    # The text of seen[start:done] is out already. It is decoded again, as the start of what follows depends on it.
    start, done = max(0, len(seen) - 8), len(seen)

    def text(first: int, last: int) -> str:
        decoded: str = tokenizer.decode(seen[first:last], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return decoded

    for token in tokens:
        seen.append(token)
        piece = text(start, len(seen))[len(text(start, done)) :]
        if piece and not piece.endswith(_REPLACEMENT):
            yield piece
            start, done = done, len(seen)
    rest = text(start, len(seen))[len(text(start, done)) :]
    if rest:
        yield rest


class _Steps:
    """The logits after a growing sequence, each token read once where the network remembers what it has read."""

    def __init__(self, model: Model) -> None:
        self._network: Any = model.network
        self._device = model.device
        self._real = len(model.tokenizer)
        self._options: dict[str, Any] = {}
        if accepts(model.network, "logits_to_keep"):
            self._options["logits_to_keep"] = 1
        self._memory = next((name for name in _MEMORIES if accepts(model.network, name)), None)
        if accepts(model.network, "use_cache"):
            self._options["use_cache"] = self._memory is not None
        self._kept: Any = None
        self._network.train(False)

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Logits (V,) of the token after `ids`, whose beginning is that of the call before."""
        options, read = dict(self._options), ids
        if self._memory is not None and self._kept is not None:
            options[self._memory], read = self._kept, ids[-1:]
        output = self._network(input_ids=torch.tensor([list(read)], device=self._device), **options)
        if self._memory is not None:
            self._kept = getattr(output, self._memory, None)
        # Rows beyond the tokenizer are padding of the matrix: no text belongs to them.
        last: torch.Tensor = output.logits[0, -1, : self._real]
        return last


def _encode(model: Model, prompt: str) -> list[int]:
    check_characters(prompt, "the prompt")
    ids = [*model.special_prefix, *model.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    if not ids:
        beginning = next(
            (token for token in (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id) if token is not None), None
        )
        if not isinstance(beginning, int):
            raise InputError("the prompt is empty and the tokenizer has no token that begins a text; give a prompt")
        ids = [beginning]
    return ids


def _ends(model: Model) -> set[int]:
    """The tokens that end a text, by the tokenizer and by the network's own generation settings."""
    settings = getattr(model.network, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    found = [model.tokenizer.eos_token_id, *(named if isinstance(named, (list, tuple)) else [named])]
    return {token for token in found if isinstance(token, int)}
