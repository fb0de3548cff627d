"""From text files to windows of tokens: sources, a tokenizer, one stream with its end held out, windows of it.

source      <document> end <document> end ... <document> end | <last 1 %: held out>       T tokens
train       the first parts of all sources, one after the other                           (T,)
windows     [t0 t1 t2 t3] [t3 t4 t5 t6] ...    context 3: three inputs, and the targets one token later
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rango.errors import InputError
from rango.files import fingerprint, read_lines
from rango.language.options import MOST_BY_DEFAULT, SMALLEST_VOCABULARY, NGramOptions, PretrainConfig
from rango.rows import read_rows

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast


END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<unk>"
# "don't" is one word, every punctuation mark its own. A word holds the joiners and soft hyphens that are not seen, and
# each letter of a script without spaces is a word with its marks, as in UAX 29: a tokenizer has no dictionary.
_WITHOUT_SPACES = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Han}\p{Hiragana}"
_LETTERS = rf"[\w\u00AD\u200C\u200D&&[^{_WITHOUT_SPACES}]]+"
_WORD = rf"[{_WITHOUT_SPACES}]\p{{M}}*|{_LETTERS}(?:['’·״]{_LETTERS})*|[^\w\s]"
_HELD_OUT_SHARE = 0.01
_HELD_OUT_TOKENS = 50_000
_FEWEST_WINDOWS = 10
# Batches bound the memory that Python lists of ids take on the way to an array and back.
_BATCH_OF_DOCUMENTS = 1000

Tokens = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Source:
    """The documents of one file, in order."""

    name: str
    documents: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens to learn from and tokens held out."""

    train: Tokens
    """(T,) token ids; every document ends in the end-of-text token."""
    held_out: Tokens
    """(H,) token ids: the last part of each source."""
    held_out_bytes: int
    """UTF-8 bytes of the predicted tokens of the held-out text, one for each end of text."""
    starts: tuple[int, ...]
    """Where each source begins in `train`; the source before it ends in a document that is cut."""

    @property
    def train_parts(self) -> list[Tokens]:
        """`train`, source by source."""
        return np.split(self.train, self.starts[1:])


def arpa_file(texts: Sequence[Path | str | Source], config: PretrainConfig) -> Path | None:
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


def check_ending(path: Path) -> str:
    """The kind of a text file, `txt` or `jsonl`; InputError for a file of another ending."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind not in ("txt", "jsonl"):
        raise InputError(f"{path}: ending {path.suffix!r} is not known; expected .txt, .txt.gz, .jsonl or .jsonl.gz")
    return kind


def read_sources(texts: Iterable[Path | str | Source]) -> list[Source]:
    """Read text files (paths), or take documents as they are (strings); sources that are read already stay.

    Raises:
        InputError: nothing given; a file that is missing, empty, not UTF-8 or of an unknown ending; a JSONL line
            without a string under `text`.
    """
    items = list(texts)
    sources = [item for item in items if isinstance(item, Source)]
    if items and len(sources) == len(items):
        return sources
    paths = [item for item in items if isinstance(item, Path)]
    if not items:
        raise InputError("no text given; expected at least one .txt, .txt.gz, .jsonl or .jsonl.gz file")
    if len(paths) == len(items):
        return [_source(path.name, str(path), _read_documents(path)) for path in paths]
    if paths:
        raise InputError(f"texts mix paths and strings (first path: {paths[0]}); give one kind")
    return [_source("documents", "documents", map(str, items))]


def count_sources(sources: Sequence[Source]) -> str:
    """The number of sources in words, such as `1 source`."""
    return f"{len(sources)} source{'s' if len(sources) != 1 else ''}"


def _read_documents(path: Path) -> Iterator[str]:
    """The documents of a file: its lines, or the `text` of its lines of JSON."""
    if check_ending(path) == "txt":
        yield from read_lines(path)
        return
    for number, row in read_rows(path):
        text = row.get("text")
        if not isinstance(text, str):
            raise InputError(f"{path}:{number}: `text` is {text!r}; expected a string in every line")
        yield text


def _source(name: str, where: str, texts: Iterable[str]) -> Source:
    """The documents that are not blank; `where` names them in messages."""
    documents = tuple(document for text in texts if (document := text.strip()))
    if not documents:
        raise InputError(f"{where} has no text; expected at least one line that is not blank")
    try:
        return Source(name, documents, fingerprint(*documents))
    except UnicodeEncodeError as error:  # a string can hold half a surrogate pair; what is read from a file cannot
        broken = error.object[error.start]
        raise InputError(f"{where}: {broken!r} is half a surrogate pair; save the text as UTF-8") from None


def make_tokenizer(config: PretrainConfig, sources: Sequence[Source]) -> PreTrainedTokenizerFast:
    """The tokenizer of a configuration: that of another model, or one that is trained on the text."""
    if config.tokenizer is not None:
        return read_tokenizer(config.tokenizer)
    if config.model == "ngram" and config.ngram.unit == "words":
        return train_word_tokenizer(sources, config.vocabulary)
    return train_tokenizer(sources, config.vocabulary)


def train_tokenizer(sources: Sequence[Source], vocabulary: int | None = None) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (arXiv:1508.07909, on bytes as in GPT-2) with exactly `vocabulary` tokens.

    Without a size it has 8000 tokens, or as many as the text has pairs for: each stands in it twice at least.

    No text is out of vocabulary, and `decode(encode(text)) == text`. The same text gives the same tokenizer.

    Raises:
        InputError: `vocabulary` is below 257, or above what the text has pairs for.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=train_bpe(sources, vocabulary),
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
    )


def train_bpe(sources: Sequence[Source], vocabulary: int | None) -> Tokenizer:
    """What `train_tokenizer` wraps for transformers, which a check of a text need not load."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocabulary is not None and vocabulary < SMALLEST_VOCABULARY:
        raise InputError(f"vocabulary is {vocabulary}; expected at least {SMALLEST_VOCABULARY}: 256 bytes, end of text")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary or MOST_BY_DEFAULT,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for source in sources for text in source.documents), trainer)
    trained = tokenizer.get_vocab_size()
    if vocabulary is not None and trained < vocabulary:
        raise InputError(
            f"vocabulary is {vocabulary} but the text has pairs for only {trained} tokens; lower vocabulary, leave it "
            "out or add text"
        )
    return tokenizer


def train_word_tokenizer(sources: Sequence[Source], vocabulary: int | None = None) -> PreTrainedTokenizerFast:
    """Words and punctuation marks as tokens, at most `vocabulary` (8000) of them with the end of text and <unk>.

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
        vocab_size=vocabulary or MOST_BY_DEFAULT, min_frequency=2, special_tokens=special, show_progress=False
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
        InputError: no folder, no tokenizer in it, none in tokenizer.json, or one without an end-of-text token.
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


def end_of_text(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that ends a document and stands before the first; every tokenizer of a pre-training has one."""
    token = tokenizer.eos_token_id
    assert isinstance(token, int)
    return token


def tokenise(
    sources: Sequence[Source], tokenizer: PreTrainedTokenizerFast, *, context: int, option: str = "context"
) -> Corpus:
    """Encode all documents and hold out the last 1 % of each source (at most 50,000 tokens in all).

    Every source gives a part, so that the held-out loss stands for the whole text. It gives its end, so that
    neighbouring sentences are not on both sides. At least one window of `context` tokens is held out from any text.

    Args:
        sources: the documents.
        tokenizer: with an end-of-text token.
        context: tokens of a window.
        option: the name of the option that sets `context`, for the message.

    Raises:
        InputError: the text is shorter than ten windows.
    """
    streams = [_encode(source.documents, tokenizer) for source in sources]
    total = sum(len(stream) for stream in streams)
    if total < _FEWEST_WINDOWS * (context + 1):
        raise InputError(
            f"the text has {total} tokens; {option} {context} needs at least {_FEWEST_WINDOWS * (context + 1)}: "
            f"add text or lower {option}"
        )

    # Each source is cut at its own end, by the same share.
    share = max(min(_HELD_OUT_SHARE, _HELD_OUT_TOKENS / total), (context + 1) / total)
    cuts = [len(stream) - math.ceil(share * len(stream)) for stream in streams]
    held_out = np.concatenate([stream[cut:] for stream, cut in zip(streams, cuts, strict=True)])
    train = np.concatenate([stream[:cut] for stream, cut in zip(streams, cuts, strict=True)])

    # The bytes of the tokens that whole windows predict: not the first token, nor the rest after the last window.
    sizes = np.concatenate(
        [
            _last_token_bytes(source.documents, tokenizer, len(stream) - cut)
            for source, stream, cut in zip(sources, streams, cuts, strict=True)
        ]
    )  # (H,)
    predicted = slice(1, 1 + (len(held_out) - 1) // context * context)
    starts = tuple(int(start) for start in np.cumsum([0, *cuts[:-1]]))
    return Corpus(train, held_out, int(sizes[predicted].sum()), starts)


def _encode(documents: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> Tokens:
    """(T,) tokens of the documents, an end of text after each."""
    parts: list[Tokens] = []
    for start in range(0, len(documents), _BATCH_OF_DOCUMENTS):
        batch = list(documents[start : start + _BATCH_OF_DOCUMENTS])
        encodings = tokenizer.backend_tokenizer.encode_batch(batch, add_special_tokens=False)
        ids = [token for encoding in encodings for token in (*encoding.ids, tokenizer.eos_token_id)]
        parts.append(np.asarray(ids, dtype=np.int32))
    return np.concatenate(parts)


def _last_token_bytes(documents: Sequence[str], tokenizer: PreTrainedTokenizerFast, count: int) -> NDArray[np.int64]:
    """(count,) UTF-8 bytes of each of the last tokens of the documents.

    A token has the bytes from its first character to that of the next token, so that a document's tokens share all its
    bytes, also the spaces that a tokenizer drops. The end of text has one byte.
    """
    parts: list[NDArray[np.int64]] = []
    missing = count
    # Backwards from the last document until there are enough tokens.
    for document in reversed(documents):
        if missing <= 0:
            break
        offsets = tokenizer.backend_tokenizer.encode(document, add_special_tokens=False).offsets
        ends = np.cumsum([0, *(len(character.encode()) for character in document)])  # (characters + 1,) in bytes
        starts = [0, *(start for start, _ in offsets[1:]), len(document)] if offsets else [0]
        parts.append(np.append(np.diff(ends[starts]), 1))  # (tokens + 1,)
        missing -= len(parts[-1])
    return np.concatenate(parts[::-1])[-count:]


def documents(stream: Tokens, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
    """The documents of a stream as text; where the end of a source was held out, the last word may be cut."""
    bounds = [0, *(np.flatnonzero(stream == tokenizer.eos_token_id) + 1).tolist(), len(stream)]
    parts = list(pairwise(bounds))
    for first in range(0, len(parts), _BATCH_OF_DOCUMENTS):
        batch = [stream[start:end].tolist() for start, end in parts[first : first + _BATCH_OF_DOCUMENTS]]
        yield from tokenizer.backend_tokenizer.decode_batch(batch, skip_special_tokens=True)


def windows(stream: Tokens, *, context: int, seed: int, epoch: int) -> NDArray[np.int32]:
    """One epoch: (n, context + 1) windows in an order drawn from seed and epoch.

    The first `context` columns are inputs, the last `context` are targets. The last token of a window is the first of
    the next, so each token is predicted once. Where the first window begins is drawn too, so that each epoch cuts the
    text in other places.
    """
    random = np.random.default_rng((seed, epoch))
    spare = len(stream) - (context + 1)
    start = int(random.integers(min(context, spare + 1)))
    in_order = consecutive_windows(stream[start:], context=context)  # (n, context + 1)
    return in_order[random.permutation(len(in_order))]


def consecutive_windows(stream: Tokens, *, context: int) -> NDArray[np.int32]:
    """(n, context + 1) windows in the order of the text; n = (tokens - 1) // context, a rest is left out."""
    count = (len(stream) - 1) // context
    index = np.arange(count)[:, None] * context + np.arange(context + 1)[None, :]  # (n, context + 1)
    rows: Tokens = stream[index]
    return rows
