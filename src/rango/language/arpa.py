r"""Back-off models in the ARPA format, as SRILM, KenLM and others read and write it.

    \data\
    ngram 1=4
    ngram 2=3

    \1-grams:
    -0.5228787	a	-0.2218487        log10 P, the words, log10 of the back-off weight (absent: 0)
    ...
    \end\

The start and the end of a document, one token here, are `<s>` as the first word of an n-gram and `</s>` as the last.
The other words are the tokenizer's tokens as its vocabulary spells them. -99 stands for a probability of zero. Fields
are apart by spaces and tabs only: a word may hold any other white space, such as a no-break space.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
_LINES_AT_ONCE = 100_000
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?|-inf", re.IGNORECASE | re.ASCII)
_SEPARATORS = re.compile(r"[ \t\r]+")
_WRITABLE = ("kneser-ney", "maximum-likelihood", "arpa")


def write_arpa(path: Path, model: Model) -> None:
    """Write an n-gram model; reading it back gives the same probabilities to 1e-6 nats.

    Raises:
        InputError: not an n-gram, a smoothing that the format cannot express, a token that it cannot spell.
    """
    network = model.network
    if not isinstance(network, NGramForCausalLM):
        raise InputError(f"{model.name} is a {type(network).__name__}; only an n-gram can be written as ARPA")
    config = network.config
    if config.smoothing not in _WRITABLE:
        raise InputError(
            f"smoothing {config.smoothing} cannot be written as ARPA, which cannot say how it backs off; "
            "use kneser-ney or maximum-likelihood"
        )
    words = [str(word) for word in model.tokenizer.convert_ids_to_tokens(list(range(config.vocab_size)))]
    for token, word in enumerate(words):
        if token != config.eos_token_id and (word in (START, END) or not word or re.search(r"[\0\t-\r ]", word)):
            raise InputError(
                f"token {token} is {word!r}, which an ARPA file cannot spell; use a tokenizer without such a token"
            )
    sizes = [config.entries[0] + 1, *config.entries[1:]]  # <s> and </s> are one token here
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("\\data\\\n" + "".join(f"ngram {n}={size}\n" for n, size in enumerate(sizes, 1)))
        # Part by part, because the lines of a large model need many times the memory of its arrays.
        for order in range(1, network.order + 1):
            file.write(f"\n\\{order}-grams:\n")
            for start in range(0, config.entries[order - 1], _LINES_AT_ONCE):
                file.writelines(_lines(network, words, order, start))
        file.write("\n\\end\\\n")


def _lines(network: NGramForCausalLM, words: list[str], order: int, start: int) -> Iterator[str]:
    """The lines of up to _LINES_AT_ONCE n-grams of one order, from `start` on."""
    end = network.config.eos_token_id
    stop = min(start + _LINES_AT_ONCE, network.config.entries[order - 1])
    # A key holds the last token and the index of the prefix: following the prefixes gives the tokens from the last on.
    index = torch.arange(start, stop)
    columns = []
    for n in range(order, 1, -1):
        keys = network.keys(n)[index].cpu()
        columns.append((keys % network.config.vocab_size).tolist())
        index = keys // network.config.vocab_size
    columns.append(index.tolist())
    logs = _log10(network.log_probabilities[order - 1][start:stop])
    weights = _log10(network.back_off[order - 1][start:stop]) if order < network.order else None
    for number, tokens in enumerate(zip(*reversed(columns), strict=True)):
        spelt = [words[token] for token in tokens]
        weight = "" if weights is None else f"\t{weights[number]:.9f}"
        if order == 1 and tokens[0] == end:
            yield f"{_ZERO:.0f}\t{START}{weight}\n"
            yield f"{logs[number]:.9f}\t{END}\n"
            continue
        if tokens[-1] == end:
            spelt[-1], weight = END, ""  # nothing follows the end of a document
        if tokens[0] == end:
            spelt[0] = START
        yield f"{logs[number]:.9f}\t{' '.join(spelt)}{weight}\n"


def _log10(values: torch.Tensor) -> list[float]:
    # Written with nine decimals: they give float32 back to the last bit, except so near zero that it does not matter.
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
    tables = _ArpaReader(path, tokenizer.get_vocab(), len(tokenizer), end).read()
    return Model(name=str(path), network=NGramForCausalLM.from_tables(tables), tokenizer=tokenizer)


class _Entries(NamedTuple):
    """The n-grams of one order, in the order of the file; logarithms in nats, a back-off weight that is absent is 0."""

    tokens: NDArray[np.int64]  # (count, order)
    log_probabilities: NDArray[np.float32]  # (count,)
    back_off: NDArray[np.float32]  # (count,)
    lines: NDArray[np.int64]  # (count,) the number of each one's line


class _ArpaReader:
    """One pass over the lines of a file; `number` is that of the current line, from 1."""

    def __init__(self, path: Path, vocabulary: dict[str, int], size: int, end: int) -> None:
        self.path, self.vocabulary, self.size, self.end = path, vocabulary, size, end
        self.lines = read_text(path).split("\n")
        self.number = 0
        # Which tokens are 1-grams as the first word of an n-gram, and as its last: <s> and </s> are one token here.
        self.opening, self.closing = (np.zeros(size, dtype=np.bool_) for _ in range(2))

    def read(self) -> NGramTables:
        # Programs write what made the model before the first heading; white space in headings and sizes as they like.
        while (line := _SEPARATORS.sub("", self._next_line())) != "\\data\\":
            if not line:
                raise self._error("the line \\data\\")
        sizes = self._read_sizes()
        keys: list[NDArray[np.int64]] = []
        logs: list[NDArray[np.float32]] = []
        weights: list[NDArray[np.float32]] = []
        # Each order after the one below, whose keys give the indices of the prefixes.
        for order, count in enumerate(sizes, start=1):
            self._expect(f"\\{order}-grams:")
            entries = self._read_entries(order, count, last=order == len(sizes))
            if order == 1:
                unigram_logs, unigram_weights = self._unigrams(entries)
                logs.append(unigram_logs)
                weights.append(unigram_weights)
            else:
                sorted_keys, by_key = self._sorted_keys(entries, keys)
                keys.append(sorted_keys)
                logs.append(entries.log_probabilities[by_key])
                weights.append(entries.back_off[by_key])
        self._expect("\\end\\")
        return NGramTables(self.size, self.end, "arpa", tuple(keys), tuple(logs), tuple(weights[:-1]))

    def _error(self, expected: str, number: int | None = None) -> InputError:
        """The error of a line, the current one where no number is given."""
        number = self.number if number is None else number
        line = self.lines[number - 1] if number <= len(self.lines) else "the end of the file"
        return InputError(f"{self.path}:{number}: {line[:60]!r}; expected {expected}")

    def _next_line(self) -> str:
        """The next line that is not blank; "" at the end of the file."""
        while self.number < len(self.lines):
            self.number += 1
            if line := self.lines[self.number - 1].strip(" \t\r"):
                return line
        self.number = len(self.lines) + 1
        return ""

    def _expect(self, heading: str) -> None:
        if _SEPARATORS.sub("", self._next_line()) != heading:
            raise self._error(f"the line {heading}")

    def _read_sizes(self) -> list[int]:
        """The number of n-grams of each order."""
        sizes: list[int] = []
        while match := re.fullmatch(r"ngram\s+([0-9]+)\s*=\s*([0-9]+)", self._next_line()):
            order, digits = len(sizes) + 1, match[2].lstrip("0")
            if match[1] != str(order):
                raise self._error(f"ngram {order}=COUNT")
            if not digits:
                raise self._error(f"at least one {order}-gram, or no line for them and longer ones")
            # Compared by length first: Python refuses to read thousands of digits.
            lines = len(self.lines)
            if len(digits) > len(str(lines)) or int(digits) > lines:
                raise self._error(f"at most {lines} {order}-grams, the number of lines in the file")
            sizes.append(int(digits))
        if not sizes:
            raise self._error("ngram 1=COUNT")
        self.number -= 1  # the line after the sizes opens the unigrams
        return sizes

    def _read_entries(self, order: int, count: int, *, last: bool) -> _Entries:
        """The n-grams of one order; only the last order has no back-off weights."""
        tokens = np.empty((count, order), dtype=np.int64)
        logs, weights = np.empty(count), np.zeros(count)
        lines = np.empty(count, dtype=np.int64)
        for row in range(count):
            fields = _SEPARATORS.split(self._next_line())
            if len(fields) not in ((order + 1,) if last else (order + 1, order + 2)):
                many = f"{order} word{'s' if order > 1 else ''}"
                weight = "" if last else " and perhaps log10 of a back-off weight"
                raise self._error(f"{order}-gram {row + 1} of {count}: log10 of a probability, {many}{weight}")
            logs[row] = self._log10_at_most(0, fields[0], "a probability")
            tokens[row] = [self._token(word, place, order) for place, word in enumerate(fields[1 : order + 1])]
            if len(fields) == order + 2:
                weights[row] = self._log10_at_most(99, fields[-1], "a back-off weight")
            lines[row] = self.number
        return _Entries(tokens, _nats(logs), _nats(weights), lines)

    def _log10_at_most(self, most: int, text: str, of: str) -> float:
        # float() alone would take 0_3 and the digits of every script.
        if not _NUMBER.fullmatch(text) or float(text) > most:
            raise self._error(f"log10 of {of}, at most {most}")
        return float(text)

    def _token(self, word: str, place: int, order: int) -> int:
        if word == START:
            if place:
                raise self._error("<s> as the first word only")
            return self.end
        if word == END:
            if place != order - 1:
                raise self._error("</s> as the last word only")
            return self.end
        token = self.vocabulary.get(word)
        if token is None or token == self.end:
            raise self._error(f"words of the tokenizer's vocabulary ({self.size} tokens), not {word!r}")
        return token

    def _unigrams(self, entries: _Entries) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(V,) log-probabilities and back-off weights by token, from the entries in the order of the file."""
        logs = np.full(self.size, -np.inf, dtype=np.float32)
        weights = np.zeros(self.size, dtype=np.float32)
        seen: set[str] = set()
        for row, (token, number) in enumerate(zip(entries.tokens[:, 0].tolist(), entries.lines.tolist(), strict=True)):
            word = _SEPARATORS.split(self.lines[number - 1].strip(" \t\r"))[1]
            if word in seen:
                raise self._error("each 1-gram once", number)
            seen.add(word)
            # Of the one token that is both, <s> gives the back-off weight and </s> the probability.
            if word != START:
                logs[token] = entries.log_probabilities[row]
                self.closing[token] = True
            if word != END:
                weights[token] = entries.back_off[row]
                self.opening[token] = True
        if END not in seen:
            raise self._error(f"{END} among the 1-grams, without which no document ends")
        return logs, weights

    def _sorted_keys(
        self, entries: _Entries, keys: list[NDArray[np.int64]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(count,) the keys of the n-grams, increasing, and (count,) the entry of each."""
        tokens, n = entries.tokens, entries.tokens.shape[1]
        # The first and the last word must be 1-grams; those between are the last words of shorter histories.
        unlisted = ~(self.opening[tokens[:, 0]] & self.closing[tokens[:, -1]])
        if unlisted.any():
            raise self._error("words that are 1-grams of the file", int(entries.lines[unlisted][0]))
        # The index of the history, one word longer with each table.
        index = tokens[:, 0]
        for place, table in enumerate(keys, start=1):
            history = index * self.size + tokens[:, place]
            index = np.searchsorted(table, history).clip(max=len(table) - 1)
            missing = table[index] != history
            if missing.any():
                number = int(entries.lines[missing][0])
                raise self._error(f"its first {n - 1} words to be one of the {n - 1}-grams", number)
        unsorted = index * self.size + tokens[:, -1]
        order = np.argsort(unsorted, kind="stable")
        by_key = unsorted[order]
        repeated = np.flatnonzero(by_key[1:] == by_key[:-1])
        if len(repeated):
            raise self._error(f"each {n}-gram once", int(entries.lines[order[repeated[0] + 1]]))
        return by_key, order


def _nats(log10: NDArray[np.float64]) -> NDArray[np.float32]:
    impossible = log10 <= _ZERO
    return np.where(impossible, -np.inf, np.where(impossible, 0.0, log10) * math.log(10)).astype(np.float32)
