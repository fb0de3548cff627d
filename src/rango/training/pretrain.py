"""Pre-training of a small causal language model and its tokenizer, from text files to a folder transformers loads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from rango.files import fingerprint
from rango.scoring import WordList, count_words, write_words
from rango.scoring.word_list import WORDS_FILE
from rango.training.corpus import Corpus, Source, documents, how_many, read_sources, tokenise
from rango.training.model_folder import STATE, Pretrained, is_complete, refuse_place, work_folder, write_folder
from rango.training.networks import architecture_text
from rango.training.pretrain_arpa import arpa_file, arpa_source, read_counted
from rango.training.pretrain_loop import Trainer
from rango.training.pretrain_ngram import pretrain_ngram
from rango.training.pretrain_options import PretrainConfig
from rango.training.progress import Screen
from rango.training.vocabularies import make_tokenizer, read_tokenizer

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
    refuse_place(place)
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
