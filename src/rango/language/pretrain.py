"""Pre-training of a small language model and its tokenizer, from text to a folder that transformers loads.

    text files    -> sources -> tokenizer -> corpus -> a network, trained by gradients   \
                                                    -> an n-gram, counted and smoothed    -> the folder
    an ARPA file, and the tokenizer of its words    -> an n-gram, as it stands in the file /
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

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
    arpa_file,
    count_sources,
    documents,
    end_of_text,
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
    is_written,
    work_folder,
    write_folder,
    writing,
)
from rango.language.networks import architecture_text
from rango.language.ngram_estimation import count_ngrams, smooth
from rango.language.options import MOST_BY_DEFAULT, PretrainConfig
from rango.language.trainer import Trainer
from rango.language.words import WORDS_FILE, count_words, write_words
from rango.models.loading import Model
from rango.models.ngram import NGramForCausalLM
from rango.tasks.text_runs import RUNS_FILE, TextRuns

_ARPA_FILE = "model.arpa"
_TOKENS_AT_ONCE = 200_000  # of held-out text that an n-gram scores: the tables of their histories fit into memory


def pretrain(
    texts: Iterable[Path | str | Source], *, out: Path, config: PretrainConfig, screen: Screen | None = None
) -> Path:
    """Train a small causal language model and its tokenizer; `rango.load_model` loads `out`.

    A network minimises the mean of -log P(token | tokens before it in its window), in nats, with AdamW; transformers'
    `AutoModelForCausalLM` loads it. An n-gram is counted, or read from an ARPA file.

    Args:
        texts: text files (.txt, .jsonl with a `text` field, also .gz), their sources, or documents as strings; or for
            an n-gram one ARPA file (.arpa, .arpa.gz), over the words of the `tokenizer` that `config` names.
        out: the folder to make: config.json, model.safetensors, tokenizer files, `pretrain.yaml`, and of a text
            `words.txt` (its words and their counts) and `text_runs.gz` (by which test contexts in it are known). It
            appears when all is complete; until then the work stands in a
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
        RunError: a file of the folder cannot be written; what was saved before stays.
    """
    screen = screen or Screen(quiet=True)
    place = out.resolve()
    check_place(place)
    items = list(texts)
    arpa = arpa_file(items, config)
    # An ARPA file has no documents: it is a source by its bytes alone.
    sources = read_sources(items) if arpa is None else [Source(arpa.name, (), fingerprint(read_bytes(arpa)))]

    # A hash of everything that decides the result: a repeated call goes on with, or leaves, only what has the same.
    parts = [config.model_dump_json(), architecture_text(config), *(source.fingerprint for source in sources)]
    if config.tokenizer is not None:
        parts.append(read_tokenizer(config.tokenizer).backend_tokenizer.to_str())
    identity = fingerprint(*parts)
    if is_complete(place, identity):
        screen.say(f"{out} is complete already, with this configuration and text")
        return out

    with work_folder(place, identity) as work:
        if is_written(work):
            screen.say(f"{out} was complete when the last command was stopped: it only gets its name")
            return out
        tokenizer = make_tokenizer(config, sources)
        if config.tokenizer is None and config.vocabulary is None and len(tokenizer) < MOST_BY_DEFAULT:
            screen.say(f"· the vocabulary is {len(tokenizer):,} tokens: the text has no more that stand in it twice")
        if arpa is not None:
            made = _read_ngram(arpa, tokenizer, screen=screen)
        elif config.model == "ngram":
            made = _count_ngram(config, sources, tokenizer, work=work, screen=screen)
        else:
            made = _train_network(config, sources, tokenizer, work=work, screen=screen)
        with writing(work):
            if made.corpus is not None:
                write_words(work / WORDS_FILE, count_words(_training_texts(sources, made.corpus, tokenizer)))
                # Of all the text, also what is held out: to whoever tests the model later, it is known text.
                TextRuns.of(text for source in sources for text in source.documents).write(work / RUNS_FILE)
            write_folder(work, made, config=config, sources=sources, identity=identity)
    return out


def _training_texts(sources: Sequence[Source], corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> Iterable[str]:
    """The training text, document by document, without what is held out."""
    if tokenizer.unk_token_id in (None, tokenizer.eos_token_id):
        return documents(corpus.train, tokenizer)
    # Unknown words are lost in the tokens: read the documents of each source, up to the one that was cut.
    ends = [int((part == tokenizer.eos_token_id).sum()) for part in corpus.train_parts]
    return (text for source, end in zip(sources, ends, strict=True) for text in source.documents[: end + 1])


def _train_network(
    config: PretrainConfig, sources: Sequence[Source], tokenizer: PreTrainedTokenizerFast, *, work: Path, screen: Screen
) -> Pretrained:
    """Train a transformer or an LSTM by gradients, from the state in the work folder if there is one."""
    corpus = tokenise(sources, tokenizer, context=config.context)
    trainer = Trainer(config, corpus, tokenizer=tokenizer, state_file=work / STATE)
    position, dtype = trainer.progress, str(trainer.dtype).removeprefix("torch.")
    budget = f"{trainer.token_budget:,} tokens" if trainer.token_budget else f"{config.minutes:g} minutes of wall clock"
    resumed = f"; goes on from step {position.step:,}" if position.step else ""
    screen.say(
        f"{trainer.model.parameter_count:,} parameters ({trainer.network.config.model_type}), {len(corpus.train):,} "
        f"tokens of text from {count_sources(sources)}, {len(corpus.held_out):,} held out, budget {budget}, on "
        f"{trainer.device} in {dtype}{resumed}"
    )
    trainer.run(screen)
    facts = {
        "parameters": trainer.model.parameter_count,
        "device": str(trainer.device),
        "dtype": dtype,
        "tokens": position.tokens,
        "steps": position.step,
        "seconds": round(position.seconds, 1),
        "held_out": {key: value for key, value in position.history[-1].items() if key.startswith("held_out")},
        "history": position.history,
    }
    return Pretrained(trainer.model, corpus, facts)


def _count_ngram(
    config: PretrainConfig, sources: Sequence[Source], tokenizer: PreTrainedTokenizerFast, *, work: Path, screen: Screen
) -> Pretrained:
    """Count and smooth the training text, and measure the held-out loss.

    Raises:
        InputError: text shorter than ten n-grams, or an order larger than the longest document.
    """
    begun = time.perf_counter()
    options, end = config.ngram, end_of_text(tokenizer)
    corpus = tokenise(sources, tokenizer, context=options.order, option="ngram.order")
    longest = max(
        int(np.diff(np.flatnonzero(np.concatenate([[True], part == end, [True]]))).max()) - 1
        for part in corpus.train_parts
    )
    if options.order > longest:
        raise InputError(
            f"ngram.order is {options.order} but the longest document has {longest} tokens; lower the order or add text"
        )
    counts = count_ngrams(corpus.train_parts, order=options.order, vocabulary=len(tokenizer), end=end)
    tables = smooth(counts, smoothing=options.smoothing, k=options.k or 1.0, discount=options.discount)
    network = NGramForCausalLM.from_tables(tables)
    seconds = time.perf_counter() - begun

    held_out = _held_out_loss(network, corpus)
    screen.say(
        f"{_sizes(network)} n-grams of 1 to {options.order} tokens ({options.smoothing}) "
        f"from {len(corpus.train):,} tokens of {count_sources(sources)} in {seconds:.1f} s, held out "
        f"{held_out['held_out_nats_per_token']:.3f} nats/token, {held_out['held_out_bits_per_byte']:.3f} bits/byte"
    )
    model = Model(name=config.model, network=network, tokenizer=tokenizer)
    if options.arpa:
        write_arpa(work / _ARPA_FILE, model)
    facts = {
        "parameters": network.num_parameters(),
        "entries": list(network.config.entries),
        "discounts": [[round(part, 6) for part in triple] for triple in tables.discounts],
        "device": "cpu",
        "dtype": "float32",
        "tokens": len(corpus.train),
        "seconds": round(seconds, 1),
        "held_out": held_out,
    }
    return Pretrained(model, corpus, facts)


def _held_out_loss(network: NGramForCausalLM, corpus: Corpus) -> dict[str, float]:
    """The held-out loss on whole windows of N tokens, so that it is measured as a network's with that context.

    The first token has no history and is only read. The loss is infinite if a token is impossible.
    """
    count = (len(corpus.held_out) - 1) // network.order * network.order
    tokens = torch.from_numpy(corpus.held_out[: count + 1].astype(np.int64))  # (1 + count,)
    total = 0.0
    # Each part begins with the N - 1 tokens before it, at least one, whose own losses are left out.
    for start in range(1, count + 1, _TOKENS_AT_ONCE):
        first = max(0, start - max(1, network.order - 1))
        values = network.sequence_log_probabilities(tokens[None, first : start + _TOKENS_AT_ONCE])[0]
        total -= float(values[start - first - 1 :].double().sum())
    return held_out_measures(total / count, count, corpus)


def _read_ngram(file: Path, tokenizer: PreTrainedTokenizerFast, *, screen: Screen) -> Pretrained:
    """Read the n-grams of an ARPA file; no text is held out, so no loss is measured."""
    model = read_arpa(file, tokenizer)
    network = model.network
    assert isinstance(network, NGramForCausalLM)
    screen.say(f"{_sizes(network)} n-grams of 1 to {network.order} tokens, read from {file}; nothing is held out")
    facts = {
        "parameters": network.num_parameters(),
        "entries": list(network.config.entries),
        "device": "cpu",
        "dtype": "float32",
    }
    return Pretrained(model, None, facts)


def _sizes(network: NGramForCausalLM) -> str:
    """The number of n-grams of each order, such as `300 + 38 + 53`."""
    return " + ".join(f"{size:,}" for size in network.config.entries)
