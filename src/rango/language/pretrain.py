"""Pre-training of a small language model and its tokenizer, from text files to a folder transformers loads."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from rango.console import Screen
from rango.errors import InputError
from rango.files import fingerprint, read_bytes
from rango.language.arpa import read_arpa, write_arpa
from rango.language.corpus import (
    Corpus,
    Source,
    documents,
    how_many,
    make_tokenizer,
    read_sources,
    read_tokenizer,
    tokenise,
)
from rango.language.model_folder import (
    STATE,
    Pretrained,
    check_place,
    held_out_measures,
    is_complete,
    work_folder,
    write_folder,
)
from rango.language.networks import architecture_text
from rango.language.ngram_estimation import count_ngrams, smooth
from rango.language.options import NGramOptions, PretrainConfig
from rango.language.trainer import Trainer
from rango.language.words import WORDS_FILE, WordList, count_words, write_words
from rango.models.loading import Model
from rango.models.ngram import NGramForCausalLM


def arpa_file(texts: Sequence[Path | str], config: PretrainConfig) -> Path | None:
    """The ARPA file (.arpa, .arpa.gz) that is given instead of text; None for text.

    Raises:
        InputError: other texts beside it, another kind of model, no tokenizer, or options for counting.
    """
    files = [text for text in texts if isinstance(text, Path) and text.name.removesuffix(".gz").endswith(".arpa")]
    if not files:
        return None
    file = files[0]
    if len(texts) > 1:
        raise InputError(f"{file} is a whole model and {len(texts) - 1} other texts are given; give it alone")
    if config.model != "ngram":
        raise InputError(f"{file} holds n-grams and model is {config.model}; give --model ngram")
    if config.tokenizer is None:
        raise InputError(f"{file}: which tokenizer has its words as tokens? Give --tokenizer FOLDER, that of a model")
    if config.ngram != NGramOptions():
        raise InputError(f"{file}: its n-grams are counted and smoothed already; leave the ngram options out")
    return file


def arpa_source(file: Path) -> Source:
    """The file as the source of a model: it has no documents."""
    return Source(file.name, (), fingerprint(read_bytes(file)))


def read_counted(file: Path, tokenizer: PreTrainedTokenizerFast, *, screen: Screen) -> Pretrained:
    """Read the n-grams; nothing is held out, so nothing is measured.

    Raises:
        InputError: as in `rango.models.read_arpa`.
    """
    network = read_arpa(file, tokenizer).network
    assert isinstance(network, NGramForCausalLM)
    sizes = " + ".join(f"{size:,}" for size in network.config.entries)
    screen.say(f"{sizes} n-grams of 1 to {network.order} tokens, read from {file}; nothing is held out")
    facts = {
        "parameters": network.num_parameters(),
        "entries": list(network.config.entries),
        "device": "cpu",
        "dtype": "float32",
    }
    return Pretrained(network, None, facts)


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
    _check_documents(corpus, options.order, end=_end(tokenizer))
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


def _check_documents(corpus: Corpus, order: int, *, end: int) -> None:
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


__all__ = ["PretrainConfig", "pretrain"]


def pretrain(
    texts: Sequence[Path] | Iterable[str], *, out: Path, config: PretrainConfig, screen: Screen | None = None
) -> Path:
    """Train a small causal language model and its tokenizer; `rango.load_model` loads `out`.

    A network minimises the mean of -log P(token | tokens before it in its window), in nats, with AdamW; transformers'
    `AutoModelForCausalLM` loads it. An n-gram is counted, or read from an ARPA file.

    Args:
        texts: text files (.txt, .jsonl with a `text` field, also .gz), or documents as strings; or for an n-gram
            one ARPA file (.arpa, .arpa.gz), over the words of the `tokenizer` that `config` names.
        out: the folder to make: config.json, model.safetensors, tokenizer files, `pretrain.yaml`, and of a text
            `words.txt` (its words and their counts). It appears when all is complete; until then the work stands in a
            hidden folder beside it, from which the same call goes on after an interruption. A complete folder of the
            same configuration and text is left as it is.
        config: size, budget, schedule. With a `tokens` budget and the same seed, machine and number of threads the
            result is the same to the last bit, also across an interruption.
        screen: where progress is shown; silent when absent.

    Returns:
        `out`.

    Raises:
        InputError: bad text, a vocabulary that does not fit it, a folder that holds something else (a hidden file
            too) or is the current one, a loss that is no longer finite (nothing is left behind).
        Interrupted: a signal came; the state is saved.
    """
    screen = screen or Screen(quiet=True)
    place = out.resolve()
    check_place(place)
    given: list[Path | str] = list(texts)
    arpa = arpa_file(given, config)
    sources = read_sources(given) if arpa is None else [arpa_source(arpa)]
    identity = _identity(config, sources)
    if is_complete(place, identity):
        screen.say(f"{out} is complete already, with this configuration and text")
        return out
    learn = pretrain_ngram if config.model == "ngram" else _pretrain_network
    with work_folder(place, identity) as work:
        tokenizer = make_tokenizer(config, sources)
        if arpa is None:
            made = learn(config, sources, tokenizer, work=work, screen=screen)
        else:
            made = read_counted(arpa, tokenizer, screen=screen)
        if made.corpus is not None:
            write_words(work / WORDS_FILE, _words(sources, made.corpus, tokenizer))
        write_folder(work, made, tokenizer, config=config, sources=sources, identity=identity)
    return out


def _identity(config: PretrainConfig, sources: Sequence[Source]) -> str:
    """A hash of all that decides the result."""
    given = () if config.tokenizer is None else (read_tokenizer(config.tokenizer).backend_tokenizer.to_str(),)
    texts = (source.fingerprint for source in sources)
    return fingerprint(config.model_dump_json(), architecture_text(config), *texts, *given)


def _words(sources: Sequence[Source], corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> WordList:
    """The words of the training text."""
    if tokenizer.unk_token_id in (None, tokenizer.eos_token_id):
        return count_words(documents(corpus.train, tokenizer))
    # Tokens that may be unknown words do not give the text back: read it at its source, up to the cut document.
    ends = [int((part == tokenizer.eos_token_id).sum()) for part in corpus.train_parts]
    return count_words(text for source, end in zip(sources, ends, strict=True) for text in source.documents[: end + 1])


def _pretrain_network(
    config: PretrainConfig, sources: Sequence[Source], tokenizer: PreTrainedTokenizerFast, *, work: Path, screen: Screen
) -> Pretrained:
    """Train a network by gradients."""
    corpus = tokenise(sources, tokenizer, context=config.context)
    sized = config.model_copy(update={"vocabulary": len(tokenizer)})
    trainer = Trainer(sized, corpus, end_of_text=_end_of_text(tokenizer), state_file=work / STATE)
    screen.say(_opening(config, trainer, sources))
    trainer.run(screen)
    return Pretrained(trainer.network, corpus, _facts(trainer))


def _end_of_text(tokenizer: PreTrainedTokenizerFast) -> int:
    token = tokenizer.eos_token_id
    assert isinstance(token, int)
    return token


def _opening(config: PretrainConfig, trainer: Trainer, sources: Sequence[Source]) -> str:
    corpus, position = trainer.corpus, trainer.position
    budget = f"{trainer.token_budget:,} tokens" if trainer.token_budget else f"{config.minutes:g} minutes of wall clock"
    resumed = f"; goes on from step {position.step:,}" if position.step else ""
    return (
        f"{trainer.parameters:,} parameters ({trainer.network.config.model_type}), {len(corpus.train):,} tokens of "
        f"text from {how_many(sources)}, {len(corpus.held_out):,} held out, budget {budget}, on {trainer.device} "
        f"in {str(trainer.dtype).removeprefix('torch.')}{resumed}"
    )


def _facts(trainer: Trainer) -> dict[str, Any]:
    position, last = trainer.position, trainer.position.history[-1]
    return {
        "parameters": trainer.parameters,
        "device": str(trainer.device),
        "dtype": str(trainer.dtype).removeprefix("torch."),
        "tokens": position.tokens,
        "steps": position.step,
        "seconds": round(position.seconds, 1),
        "held_out": {key: value for key, value in last.items() if key.startswith("held_out")},
        "history": position.history,
    }
