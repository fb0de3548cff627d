r"""Back-off models in the ARPA format, as SRILM, KenLM and others read and write it.

    \data\
    ngram 1=4
    ngram 2=3

    \1-grams:
    -0.5228787	a	-0.2218487        log10 P, the words, log10 of the back-off weight (absent: 0)
    ...
    \end\

The start and the end of a document, one token here, are `<s>` as the first word of an n-gram and `</s>` as the last.
The other words are the tokenizer's tokens as its vocabulary spells them. -99 stands for a probability of zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rango.errors import InputError
from rango.files import atomic_path, read_text
from rango.models.loading import Model
from rango.models.ngram import NGramForCausalLM, NGramTables

START, END = "<s>", "</s>"
_ZERO = -99.0
_CHUNK = 100_000
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?|-inf", re.IGNORECASE | re.ASCII)
_WRITABLE = ("kneser-ney", "maximum-likelihood", "arpa")


def write_arpa(path: Path, model: Model) -> None:
    """Write an n-gram model; reading it back gives the same probabilities to 1e-6 nats.

    Raises:
        InputError: not an n-gram, a smoothing that the format cannot express, a token that it cannot spell.
    """
    network = model.network
    if not isinstance(network, NGramForCausalLM):
        raise InputError(f"{model.name} is a {type(network).__name__}; only an n-gram can be written as ARPA")
    if network.config.smoothing not in _WRITABLE:
        raise InputError(
            f"smoothing {network.config.smoothing} cannot be written as ARPA, which cannot say how it backs off; "
            "use kneser-ney or maximum-likelihood"
        )
    words = _spelling(model.tokenizer, network.config.vocab_size, end=network.config.eos_token_id)
    entries = network.config.entries
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        sizes = [entries[0] + 1, *entries[1:]]  # <s> and </s> are one token here
        file.write("\\data\\\n" + "".join(f"ngram {n}={size}\n" for n, size in enumerate(sizes, 1)))
        for order in range(1, network.order + 1):
            file.write(f"\n\\{order}-grams:\n")
            for start in range(0, entries[order - 1], _CHUNK):
                file.writelines(_lines(network, words, order, start))
        file.write("\n\\end\\\n")


def _spelling(tokenizer: PreTrainedTokenizerBase, size: int, *, end: int) -> list[str]:
    words = [str(word) for word in tokenizer.convert_ids_to_tokens(list(range(size)))]
    for index, word in enumerate(words):
        if index != end and (word in (START, END) or not word or re.search(r"\s", word)):
            raise InputError(
                f"token {index} is {word!r}, which an ARPA file cannot spell; use a tokenizer without such a token"
            )
    return words


def _lines(network: NGramForCausalLM, words: list[str], order: int, start: int) -> Iterator[str]:
    """The lines of up to _CHUNK n-grams of one order, from `start` on."""
    end = network.config.eos_token_id
    stop = min(start + _CHUNK, network.config.entries[order - 1])
    index = torch.arange(start, stop)
    columns = []
    for n in range(order, 1, -1):
        keys = network.keys(n)[index].cpu()
        columns.append((keys % network.config.vocab_size).tolist())
        index = keys // network.config.vocab_size
    columns.append(index.tolist())
    logs = _log10(network.log_probabilities[order - 1][start:stop])
    weights = _log10(network.back_off[order - 1][start:stop]) if order < network.order else None
    for place, tokens in enumerate(zip(*reversed(columns), strict=True)):
        spelt = [words[token] for token in tokens]
        weight = "" if weights is None else f"\t{weights[place]:.9f}"
        if order == 1 and tokens[0] == end:
            yield f"{_ZERO:.0f}\t{START}{weight}\n"
            yield f"{logs[place]:.9f}\t{END}\n"
            continue
        if tokens[-1] == end:
            spelt[-1], weight = END, ""  # nothing follows the end of a document
        if tokens[0] == end:
            spelt[0] = START
        yield f"{logs[place]:.9f}\t{' '.join(spelt)}{weight}\n"


# Nine decimals give float32 back to the last bit, but for numbers so near zero that it does not matter.
def _log10(values: torch.Tensor) -> list[float]:
    logs: list[float] = (values.detach().cpu().double() / math.log(10)).clamp(min=_ZERO).tolist()
    return logs


def read_arpa(path: Path, tokenizer: PreTrainedTokenizerBase) -> Model:
    """Read a back-off model over a tokenizer's vocabulary, `.gz` too. Tokens that the file lacks have probability 0.

    Raises:
        InputError: a tokenizer without an end-of-text token, or a line that is not as the format says (named with its
            number and what was expected there): also a word that the tokenizer lacks, no </s>, an n-gram twice, or one
            with a history or a word that is not in the file.
    """
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise InputError("the tokenizer has no end-of-text token, which ARPA's <s> and </s> stand for; set eos_token")
    tables = _Reading(path, tokenizer.get_vocab(), len(tokenizer), end).tables()
    return Model(name=str(path), network=NGramForCausalLM.from_tables(tables), tokenizer=tokenizer)


class _Reading:
    """One pass over the lines of a file; `number` is that of the current line."""

    def __init__(self, path: Path, vocabulary: dict[str, int], size: int, end: int) -> None:
        self.path, self.vocabulary, self.size, self.end = path, vocabulary, size, end
        self.lines = read_text(path).split("\n")
        self.number = 0
        # Which tokens are 1-grams as the first word of an n-gram, and as its last: <s> and </s> are one token here.
        self.opening, self.closing = (np.zeros(size, dtype=np.bool_) for _ in range(2))

    def tables(self) -> NGramTables:
        self._skip_to("\\data\\", "the line \\data\\")
        sizes = self._sizes()
        keys: list[NDArray[np.int64]] = []
        logs: list[NDArray[np.float32]] = []
        weights: list[NDArray[np.float32]] = []
        for order in range(1, len(sizes) + 1):
            self._expect(f"\\{order}-grams:")
            tokens, values, backs, where = self._entries(order, sizes[order - 1], last=order == len(sizes))
            if order == 1:
                unigrams, back = self._unigrams(tokens, values, backs, where)
                logs.append(unigrams)
            else:
                self._check_listed(tokens, where)
                found, by_key = self._sorted_keys(tokens, keys, where)
                keys.append(found)
                logs.append(values[by_key])
                back = backs[by_key]
            if order < len(sizes):
                weights.append(back)
        self._expect("\\end\\")
        return NGramTables(self.size, self.end, "arpa", tuple(keys), tuple(logs), tuple(weights))

    def _fail(self, expected: str, number: int | None = None) -> InputError:
        number = self.number if number is None else number
        line = self.lines[number - 1] if number <= len(self.lines) else "the end of the file"
        return InputError(f"{self.path}:{number}: {line[:60]!r}; expected {expected}")

    def _next(self) -> str:
        """The next line that is not blank; "" at the end of the file."""
        while self.number < len(self.lines):
            self.number += 1
            if line := self.lines[self.number - 1].strip():
                return line
        self.number = len(self.lines) + 1
        return ""

    def _skip_to(self, wanted: str, what: str) -> None:
        while (line := self._next()) != wanted:
            if not line:
                raise self._fail(what)

    def _expect(self, wanted: str) -> None:
        if self._next() != wanted:
            raise self._fail(f"the line {wanted}")

    def _sizes(self) -> list[int]:
        sizes: list[int] = []
        while match := re.fullmatch(r"ngram ([0-9]+)\s*=\s*([0-9]+)", self._next()):
            order, digits = len(sizes) + 1, match[2].lstrip("0")
            if match[1] != str(order):
                raise self._fail(f"ngram {order}=COUNT")
            if not digits:
                raise self._fail(f"at least one {order}-gram, or no line for them and longer ones")
            # Compared by length first: Python refuses to read thousands of digits.
            lines = len(self.lines)
            if len(digits) > len(str(lines)) or int(digits) > lines:
                raise self._fail(f"at most {lines} {order}-grams, the number of lines in the file")
            sizes.append(int(digits))
        if not sizes:
            raise self._fail("ngram 1=COUNT")
        self.number -= 1  # the line after the sizes opens the unigrams
        return sizes

    def _entries(
        self, order: int, count: int, *, last: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """(count, order) tokens, log-probabilities and back-off weights in nats, and line numbers of one order."""
        tokens = np.empty((count, order), dtype=np.int64)
        logs, backs = np.empty(count), np.zeros(count)
        where = np.empty(count, dtype=np.int64)
        for place in range(count):
            line = self._next()
            parts = line.split()
            if len(parts) not in ((order + 1,) if last else (order + 1, order + 2)):
                many = f"{order} word{'s' if order > 1 else ''}"
                weight = "" if last else " and perhaps log10 of a back-off weight"
                raise self._fail(f"{order}-gram {place + 1} of {count}: log10 of a probability, {many}{weight}")
            logs[place] = self._number_in(parts[0], "log10 of a probability, at most 0")
            if logs[place] > 0:
                raise self._fail("log10 of a probability, at most 0")
            tokens[place] = [self._token(word, at, order) for at, word in enumerate(parts[1 : order + 1])]
            if len(parts) == order + 2:
                backs[place] = self._number_in(parts[-1], "log10 of a back-off weight, at most 99")
                if backs[place] > -_ZERO:
                    raise self._fail("log10 of a back-off weight, at most 99")
            where[place] = self.number
        return tokens, _nats(logs), _nats(backs), where

    def _number_in(self, text: str, what: str) -> float:
        # float() alone would take 0_3 and the digits of every script.
        if not _NUMBER.fullmatch(text):
            raise self._fail(what)
        return float(text)

    def _token(self, word: str, at: int, order: int) -> int:
        if word == START:
            if at:
                raise self._fail("<s> as the first word only")
            return self.end
        if word == END:
            if at != order - 1:
                raise self._fail("</s> as the last word only")
            return self.end
        token = self.vocabulary.get(word)
        if token is None or token == self.end:
            raise self._fail(f"words of the tokenizer's vocabulary ({self.size} tokens), not {word!r}")
        return token

    def _unigrams(
        self, tokens: NDArray[np.int64], logs: NDArray[np.float32], backs: NDArray[np.float32], where: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        values = np.full(self.size, -np.inf, dtype=np.float32)
        weights = np.zeros(self.size, dtype=np.float32)
        seen: set[str] = set()
        for token, log, back, number in zip(tokens[:, 0].tolist(), logs, backs, where.tolist(), strict=True):
            word = self.lines[number - 1].split()[1]
            if word in seen:
                raise self._fail("each 1-gram once", number)
            seen.add(word)
            if word != START:
                values[token] = log
                self.closing[token] = True
            if word != END:
                weights[token] = back
                self.opening[token] = True
        if END not in seen:
            raise self._fail(f"{END} among the 1-grams, without which no document ends")
        return values, weights

    def _check_listed(self, tokens: NDArray[np.int64], where: NDArray[np.int64]) -> None:
        """Refuse n-grams (count, order) whose first or last word is no 1-gram; those between are histories' last."""
        unlisted = ~(self.opening[tokens[:, 0]] & self.closing[tokens[:, -1]])
        if unlisted.any():
            raise self._fail("words that are 1-grams of the file", int(where[unlisted][0]))

    def _sorted_keys(
        self, tokens: NDArray[np.int64], keys: list[NDArray[np.int64]], where: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The keys of the n-grams, increasing, and the entry that each belongs to."""
        index = tokens[:, 0]
        for place, table in enumerate(keys, start=1):
            wanted = index * self.size + tokens[:, place]
            index = np.searchsorted(table, wanted).clip(max=len(table) - 1)
            missing = table[index] != wanted
            if missing.any():
                n = tokens.shape[1]
                raise self._fail(f"its first {n - 1} words to be one of the {n - 1}-grams", int(where[missing][0]))
        found = index * self.size + tokens[:, -1]
        order = np.argsort(found, kind="stable")
        found = found[order]
        twice = np.flatnonzero(found[1:] == found[:-1])
        if len(twice):
            raise self._fail(f"each {tokens.shape[1]}-gram once", int(where[order[twice[0] + 1]]))
        return found, order


def _nats(log10: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.where(log10 <= _ZERO, -np.inf, log10 * math.log(10)).astype(np.float32)
