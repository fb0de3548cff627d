"""An n-gram that was counted elsewhere: from an ARPA file and a tokenizer to a folder as pre-training makes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from rango.errors import InputError
from rango.files import fingerprint, read_bytes
from rango.models import read_arpa
from rango.models.ngram import NGramForCausalLM
from rango.training.corpus import Source
from rango.training.model_folder import Pretrained
from rango.training.ngram_options import NGramOptions
from rango.training.pretrain_options import PretrainConfig
from rango.training.progress import Screen


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
