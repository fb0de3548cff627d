"""Pre-training of an n-gram: one count over the text, then the probabilities, then the held-out loss."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from rango.errors import InputError
from rango.models import Model, write_arpa
from rango.models.ngram import NGramForCausalLM
from rango.models.ngram_counts import count_ngrams
from rango.models.ngram_smoothing import smooth
from rango.training.corpus import Corpus, Source, how_many, tokenise
from rango.training.model_folder import Pretrained, held_out_measures
from rango.training.ngram_options import NGramOptions
from rango.training.pretrain_options import PretrainConfig
from rango.training.progress import Screen

ARPA = "model.arpa"
_PLACES = 200_000  # looked up at once


def pretrain_ngram(
    config: PretrainConfig, sources: Sequence[Source], tokenizer: PreTrainedTokenizerFast, *, work: Path, screen: Screen
) -> Pretrained:
    """Count the training text and measure the held-out loss on the same tokens as a network's.

    Raises:
        InputError: text shorter than ten n-grams, or an order larger than the longest document.
    """
    begun = time.perf_counter()
    options = config.ngram
    corpus = tokenise(sources, tokenizer, context=options.order, option="ngram.order")
    _refuse_short_documents(corpus, options.order, end=_end(tokenizer))
    counts = count_ngrams(corpus.train_parts, order=options.order, vocabulary=len(tokenizer), end=_end(tokenizer))
    tables = smooth(counts, smoothing=options.smoothing, k=options.k or 1.0, discount=options.discount)
    network = NGramForCausalLM.from_tables(tables)
    seconds = time.perf_counter() - begun
    measured = _held_out(network, corpus, options)
    entries = network.config.entries
    screen.say(
        f"{' + '.join(f'{size:,}' for size in entries)} n-grams of 1 to {options.order} tokens ({options.smoothing}) "
        f"from {len(corpus.train):,} tokens of {how_many(sources)} in {seconds:.1f} s, held out "
        f"{measured['held_out_nats_per_token']:.3f} nats/token, {measured['held_out_bits_per_byte']:.3f} bits/byte"
    )
    if options.arpa:
        write_arpa(work / ARPA, Model(name=config.model, network=network, tokenizer=tokenizer))
    facts = {
        "parameters": network.num_parameters(),
        "entries": list(entries),
        "discounts": [[round(part, 6) for part in triple] for triple in tables.discounts],
        "device": "cpu",
        "dtype": "float32",
        "tokens": len(corpus.train),
        "seconds": round(seconds, 1),
        "held_out": measured,
    }
    return Pretrained(network, corpus, facts)


def _end(tokenizer: PreTrainedTokenizerFast) -> int:
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    return end


def _refuse_short_documents(corpus: Corpus, order: int, *, end: int) -> None:
    longest = max(
        int(np.diff(np.flatnonzero(np.concatenate([[True], part == end, [True]]))).max()) - 1
        for part in corpus.train_parts
    )
    if order > longest:
        raise InputError(
            f"ngram.order is {order} but the longest document has {longest} tokens; lower the order or add text"
        )


def _held_out(network: NGramForCausalLM, corpus: Corpus, options: NGramOptions) -> dict[str, float]:
    """Mean of -log P over the held-out tokens but the first, which has no history; infinite if one is impossible."""
    reach = options.order - 1
    count = (len(corpus.held_out) - 1) // options.order * options.order
    tokens = torch.from_numpy(corpus.held_out[: count + 1].astype(np.int64))
    total = 0.0
    for start in range(1, count + 1, _PLACES):
        first = max(0, start - max(1, reach))
        part = network.sequence_log_probabilities(tokens[None, first : start + _PLACES])[0]
        total -= float(part[start - first - 1 :].double().sum())
    return held_out_measures(total / count, count, corpus)
