"""The probability of whole texts, token by token: the chain rule, log P(text) = sum over t of log P(t | before t).

A text is read as an instance of a task is, as a tree of one branch. Before it stands the token that begins a document:
the tokenizer's own prefix (Llama's <s>), else its beginning-of-text or end-of-text token, which is also what
pre-training puts between documents. A model with none of them does not score a text's first token.

    tokens      <end> El niño come manzana hoy    context 4: a window has at most four tokens
    window 1    <end>|El niño come                before the bar the trunk, only read; after it the branch, scored
    window 2             niño come|manzana hoy    each token of a later window sees at least half a context
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rango.errors import InputError
from rango.language.options import check_readable
from rango.models.loading import Model
from rango.options import ScoringOptions
from rango.scoring.batches import collate
from rango.scoring.forward import Reader, check_numbers
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import batches_by_tokens
from rango.scoring.trees import TokenTree

_SHORTEST_CONTEXT = 4
MOST_NATS = math.log(sys.float_info.max)
"""Nats per token, 709.8: beyond it the perplexity is no number."""


@dataclass(frozen=True, eq=False)
class TextScore:
    """The log-probabilities that a model gives to one text of T tokens."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """(T) the characters of each token: `text[start:end]`. Tokens that share a character each have it. The span of the
    end of text, if it is scored, is empty."""
    log_probabilities: NDArray[np.float64]
    """(T,) log P(token | tokens before it), nats; NaN for a first token that nothing predicts."""
    unknown: tuple[int, ...] = ()
    """Numbers of the tokens that the tokenizer does not know: their probability is that of any unknown one."""
    windows: int = 1
    """1, or more when the text is longer than the model's context."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """The characters of each token."""
        return tuple(self.text[start:end] for start, end in self.spans)

    @property
    def scored(self) -> int:
        """Number of tokens that were scored: all, or all but the first."""
        return int(np.count_nonzero(~np.isnan(self.log_probabilities)))

    @property
    def scored_bytes(self) -> int:
        """UTF-8 bytes of the scored text."""
        first = np.isnan(self.log_probabilities[:1]).any()
        return len(self.text[self.spans[0][1] if first else 0 :].encode())

    @property
    def log_probability(self) -> float:
        """log P(text), nats: the sum over the scored tokens."""
        return float(np.nansum(self.log_probabilities))

    @property
    def perplexity(self) -> float:
        """exp(-log P(text) / scored tokens), per token; NaN when none was scored."""
        return perplexity(self.log_probability, self.scored)

    @property
    def bits_per_byte(self) -> float:
        """-log2 P(text) / bytes: comparable between tokenizers; NaN when none was scored."""
        return bits_per_byte(self.log_probability, self.scored_bytes)


def perplexity(log_probability: float, tokens: int) -> float:
    """exp(-log P / tokens): the size of a vocabulary of equal tokens that would be as hard to predict.

    It is infinite beyond float64 and for an impossible text, and NaN without tokens.

    >>> round(perplexity(10 * math.log(1 / 8), 10), 6)
    8.0
    >>> perplexity(-math.inf, 10)
    inf
    """
    nats = -log_probability / tokens if tokens else math.nan
    return math.inf if nats >= MOST_NATS else math.exp(nats)


def bits_per_byte(log_probability: float, size: int) -> float:
    """-log2 P / bytes; NaN without bytes.

    >>> bits_per_byte(16 * math.log(0.5), 8)
    2.0
    """
    return -log_probability / math.log(2) / size if size else math.nan


def beginning(model: Model) -> tuple[int, ...]:
    """The tokens that stand before a text and predict its first one; empty for a model that has none."""
    if model.special_prefix:
        return model.special_prefix
    for token in (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id):
        if isinstance(token, int):
            return (token,)
    return ()


def ending(model: Model) -> tuple[int, ...]:
    """The token that closes a text; empty for a model that has none."""
    token = model.tokenizer.eos_token_id
    return (token,) if isinstance(token, int) else ()


def score_texts(
    model: Model, texts: Sequence[str], *, closed: bool = False, options: ScoringOptions | None = None
) -> list[TextScore]:
    """Log-probability of every token of every text.

    A text longer than the model's context is scored in windows that overlap by half: each token once, with at least
    half a context before it.

    Args:
        model: any kind that `load_model` reads.
        texts: each is taken for a document of its own.
        closed: score the end-of-text token after each text too (what pre-training measures), where there is one.
        options: `batch_tokens`; the result does not depend on it.

    Raises:
        InputError: a blank text, half a surrogate pair, a tokenizer without character positions.
    """
    for number, text in enumerate(texts, start=1):
        check_readable(text, f"text {number}")
    if not texts:
        return []
    before, after = beginning(model), ending(model) if closed else ()
    encodings = _encode(model, texts)
    # One tree for each window; a text's windows stand next to each other.
    trees: list[TokenTree] = []
    owners: list[int] = []
    for number, (ids, _) in enumerate(encodings):
        path = (*before, *ids, *after)
        for trunk, branch in windows(path, first=max(1, len(before)), context=model.context_length):
            trees.append(TokenTree(f"text {number + 1}", trunk, (branch,), (1,), 0))
            owners.append(number)
    scored = _log_probabilities(probe_reader(model), trees, options or ScoringOptions())
    parts: list[list[NDArray[np.float64]]] = [[] for _ in texts]
    for owner, values in zip(owners, scored, strict=True):
        parts[owner].append(values)
    unknown = unknown_token(model)
    unpredicted = np.full(0 if before else 1, np.nan)  # the first token, where nothing stands before the text
    scores = []
    for text, (ids, spans), windowed in zip(texts, encodings, parts, strict=True):
        spans = (*spans, *[(len(text), len(text))] * len(after))
        unknown_places = tuple(place for place, token in enumerate(ids) if token == unknown)
        values = np.concatenate([unpredicted, *windowed])  # (T,)
        assert len(spans) == len(values)
        scores.append(TextScore(text, spans, values, unknown_places, max(1, len(windowed))))
    return scores


@torch.inference_mode()
def _log_probabilities(
    reader: Reader, trees: Sequence[TokenTree], options: ScoringOptions
) -> list[NDArray[np.float64]]:
    """log P of each token of each tree's only branch."""
    reader.model.network.train(False)
    values: list[NDArray[np.float64]] = [np.empty(0)] * len(trees)
    for numbers in batches_by_tokens(reader, trees, budget=options.batch_tokens):
        chosen = [trees[number] for number in numbers]
        batch = collate(chosen, read="choices", as_trees=reader.as_tree(chosen[0]), pad=reader.pad())
        joined = (
            reader.log_probabilities(batch.to(reader.model.device)).double().cpu().numpy()
        )  # (tokens of all branches,)
        # One branch a tree: scored tokens stand in the order of the trees, then of the text.
        ends = np.cumsum([len(tree.branches[0]) for tree in chosen])
        for number, part in zip(numbers, np.split(joined, ends[:-1]), strict=True):
            check_numbers(reader.model, part, trees[number].id)
            values[number] = part
    return values


def windows(path: Sequence[int], *, first: int, context: int | None) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut a path of tokens into (trunk, branch) windows: a trunk is only read, a branch is scored. There may be none.

    Args:
        path: tokens, the first `first` of which are not scored.
        first: at least 1.
        context: the longest trunk + branch; None for no limit.

    >>> windows(range(9), first=1, context=6)
    [((0,), (1, 2, 3, 4, 5)), ((3, 4, 5), (6, 7, 8))]
    """
    least = max(_SHORTEST_CONTEXT, first + 1)
    if context is not None and context < least:
        raise InputError(f"the model's context is {context} tokens; expected at least {least}")
    parts = []
    done, start = first, 0
    while done < len(path):
        stop = len(path) if context is None else min(len(path), start + context)
        parts.append((tuple(path[start:done]), tuple(path[done:stop])))
        done = stop
        if context is not None:
            start = done - context // 2
    return parts


def _encode(model: Model, texts: Sequence[str]) -> list[tuple[tuple[int, ...], tuple[tuple[int, int], ...]]]:
    """The ids of each text's tokens, and the characters (start, end) of each token."""
    if not model.tokenizer.is_fast:
        raise InputError(f"{model.name}: its tokenizer gives no character positions; save it as tokenizer.json")
    encoded: Any = model.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    encodings = []
    for number, (ids, spans) in enumerate(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True), start=1):
        if not ids:
            raise InputError(f"text {number}: {texts[number - 1][:40]!r} has no token that the model knows")
        encodings.append((tuple(ids), tuple((int(start), int(end)) for start, end in spans)))
    return encodings


def unknown_token(model: Model) -> int | None:
    """The id of the tokenizer's token for unknown words; None for a tokenizer that knows all bytes.

    Such tokenizers often name their end of text as the unknown token too; it then only means an end of text.
    """
    token = model.tokenizer.unk_token_id
    others = (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id)
    return token if isinstance(token, int) and token not in others else None
