"""The tokenizer of a pre-training: trained on the text, by pieces or by words, or that of an existing model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rango.errors import InputError
from rango.training.corpus import END_OF_TEXT, Source, train_tokenizer
from rango.training.pretrain_options import PretrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

UNKNOWN = "<unk>"
_WORD = r"\w+(?:['’]\w+)*|[^\w\s]"  # "don't" is one word; every punctuation mark is its own


def make_tokenizer(config: PretrainConfig, sources: Sequence[Source]) -> PreTrainedTokenizerFast:
    """The tokenizer that a configuration asks for."""
    if config.tokenizer is not None:
        return read_tokenizer(config.tokenizer)
    if config.model == "ngram" and config.ngram.unit == "words":
        return train_word_tokenizer(sources, config.vocabulary)
    return train_tokenizer(sources, config.vocabulary)


def train_word_tokenizer(sources: Sequence[Source], vocabulary: int) -> PreTrainedTokenizerFast:
    """Words and punctuation marks as tokens, at most `vocabulary` of them with the end of text and <unk>.

    The most frequent words have a token of their own; a word that the text has once only, or that is beyond the
    vocabulary, is <unk>, so that the text itself shows how probable an unknown word is.

    Raises:
        InputError: no word stands twice in the text.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    special = [END_OF_TEXT, UNKNOWN]
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator((text for source in sources for text in source.documents), trainer)
    if tokenizer.get_vocab_size() <= len(special):
        raise InputError("no word stands twice in the text, so all would be <unk>; add text or use --ngram.unit tokens")
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, unk_token=UNKNOWN
    )


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of an existing model folder.

    Raises:
        InputError: no tokenizer there, one without an end-of-text token, or one that is not in tokenizer.json.
    """
    from transformers import PreTrainedTokenizerFast

    from rango.models.loading import load_tokenizer

    if not folder.is_dir():
        raise InputError(f"tokenizer {folder} is not a folder; give the folder of an existing model")
    tokenizer = load_tokenizer(str(folder))
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(f"tokenizer {folder} has no tokenizer.json; give a folder with a fast tokenizer")
    if not isinstance(tokenizer.eos_token_id, int):
        raise InputError(f"tokenizer {folder} has no end-of-text token; give one with eos_token in its configuration")
    return tokenizer
