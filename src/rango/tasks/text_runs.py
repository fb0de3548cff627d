"""Runs of eight words: which instances share them, and which contexts stand in a text that a model was pre-trained on.

    documents -> words -> a number for each run of 8 words -> TextRuns, sorted        text_runs.gz beside a model
                                                                 |
    contexts  -> words -> their numbers  ------------------------+-> at least half of them: the context stands there

The numbers alone are kept, about 2.8 bytes for each different run: a folder tells what its model has read without a
word of the text, wherever it is copied to.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rango.errors import InputError
from rango.files import atomic_path, read_bytes
from rango.tasks.task import Instance
from rango.unicode_words import parts_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RUNS_FILE = "text_runs.gz"

# The length of a run in words. In HellaSwag's validation file runs of 8 link 2,400 of 9,799 instances into groups of at
# most 63; runs of 6 are idiom ("is standing in front of a") and link 1,100 into two groups, and runs of 12 miss endings
# that were shortened.
RUN = 8
# Bits of a stored number: of runs that a text of ten million words lacks, one in 100,000 has the number of one it has.
_BITS = 40
_HEADER = b"runs of 8 words, 40 bits\n"
_WORDS_AT_ONCE = 1_000_000


def runs_of(texts: Iterable[str]) -> Iterator[NDArray[np.uint64]]:
    """The numbers of the runs of words of texts that follow one another, case and punctuation ignored, in blocks.

    A run may go on from one text to the next, such as the lines of a file. Equal runs have equal numbers, everywhere.
    """
    words: list[int] = []
    for text in texts:
        words.extend(map(_number_of, parts_of(text.casefold())))
        if len(words) >= _WORDS_AT_ONCE:
            yield _numbers(words)
            words = words[-RUN + 1 :]
    yield _numbers(words)


def shared_runs(texts: Iterable[str]) -> list[list[int]]:
    """Of each text by itself, the numbers of its runs that stand in another text too, or twice in this one.

    All texts are worked on at once: arrays of one text's few words cost more than their arithmetic.
    """
    import numpy as np

    words: list[int] = []
    ends = [0]
    for text in texts:
        words.extend(map(_number_of, parts_of(text.casefold())))
        ends.append(len(words))
    numbers = _numbers(words)
    # Runs that begin in one text and end in the next are of neither.
    whole = np.zeros(len(numbers), dtype=bool)
    for start, end in pairwise(ends):
        whole[start : max(start, end - RUN + 1)] = True
    different, counts = np.unique(numbers[whole], return_counts=True)
    kept = whole & np.isin(numbers, different[counts > 1])
    return [numbers[start:end][kept[start:end]].tolist() for start, end in pairwise(ends)]


@lru_cache(maxsize=2**18)
def _number_of(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())


def _numbers(words: Sequence[int]) -> NDArray[np.uint64]:
    """The numbers of the runs of 8 words, (words - 7,): the sum of h(word) times an odd number's power for each place,
    modulo 2^64; its bits are mixed, the highest kept."""
    import numpy as np  # here and below: the command line imports this file for its names alone

    hashes = np.array(words, dtype=np.uint64)  # (words,)
    count = max(len(hashes) - RUN + 1, 0)
    total = np.zeros(count, dtype=np.uint64)  # (words - 7,)
    for offset in range(RUN):
        total += hashes[offset : offset + count] * np.uint64(pow(0x9E3779B97F4A7C15, offset, 2**64))
    total ^= total >> np.uint64(33)
    total *= np.uint64(0xFF51AFD7ED558CCD)
    return total >> np.uint64(64 - _BITS)


@dataclass(frozen=True, eq=False)
class TextRuns:
    """The runs of words of a text, as sorted numbers without repetitions."""

    numbers: NDArray[np.uint64]

    @classmethod
    def of(cls, documents: Iterable[str]) -> TextRuns:
        """The runs of documents, in order."""
        import numpy as np

        return cls(np.unique(np.concatenate([np.unique(block) for block in runs_of(documents)])))

    @classmethod
    def read(cls, path: Path) -> TextRuns:
        """Read a file that `write` has written.

        Raises:
            InputError: it cannot be read, or is no such file.
        """
        import numpy as np

        data = read_bytes(path)
        count = max(len(data) - len(_HEADER), 0) // 5
        planes = np.frombuffer(data, dtype=np.uint8)[len(_HEADER) : len(_HEADER) + 5 * count].reshape(5, count)
        gaps = np.zeros(planes.shape[1], dtype=np.uint64)
        for place, plane in enumerate(planes):
            gaps |= plane.astype(np.uint64) << np.uint64(8 * place)
        numbers = np.cumsum(gaps, dtype=np.uint64)
        whole = data.startswith(_HEADER) and len(data) == len(_HEADER) + planes.size
        if not whole or (len(numbers) and (not gaps[1:].all() or numbers[-1] >> np.uint64(_BITS))):
            raise InputError(f"{path} is damaged; expected the runs of words that rango pretrain writes")
        return cls(numbers)

    def write(self, path: Path) -> None:
        """Write the numbers, compressed: the gap before each, all the lowest bytes first, then all the next ones."""
        import numpy as np

        gaps = np.diff(self.numbers, prepend=np.uint64(0))
        planes = np.stack([(gaps >> np.uint64(8 * place)).astype(np.uint8) for place in range(_BITS // 8)])
        # Without a time in its header, equal texts give equal files. A gap's low bytes are noise, which level 1 leaves.
        with atomic_path(path) as temporary:
            temporary.write_bytes(gzip.compress(_HEADER + planes.tobytes(), compresslevel=1, mtime=0))

    def holding(self, instances: Sequence[Instance]) -> list[Instance]:
        """The instances with at least half of their context's runs in the text; shorter contexts are passed over."""
        return [
            instance
            for instance, runs in zip(instances, map(_runs_of_context, instances), strict=True)
            if len(runs) and 2 * int(self._holds(runs).sum()) >= len(runs)
        ]

    def _holds(self, runs: NDArray[np.uint64]) -> NDArray[np.bool_]:
        import numpy as np

        if not len(self.numbers):
            return np.zeros(len(runs), dtype=bool)
        places = np.searchsorted(self.numbers, runs).clip(max=len(self.numbers) - 1)
        return np.asarray(self.numbers[places] == runs)


def _runs_of_context(instance: Instance) -> NDArray[np.uint64]:
    """The different runs of a context; of a table's prompts the template is left out, which all of them share."""
    import numpy as np

    return np.unique(np.concatenate(list(runs_of([(instance.fields or {}).get("text") or instance.context]))))


def pretraining_notes(model: str, instances: Sequence[Instance], *, split: str) -> tuple[str, ...]:
    """How many of a split's contexts stand in the text that a model was pre-trained on, as a sentence.

    Args:
        model: what the model was loaded from; nothing is said unless its folder holds the runs of its text.
        instances: of the split.
        split: its name.
    """
    file = Path(model) / RUNS_FILE
    if not file.is_file():
        return ()
    try:
        known = TextRuns.read(file).holding(instances)
    except InputError as error:
        return (f"whether {split} contexts stand in the text that {model} was pre-trained on is not known: {error}",)
    short = sum(not len(_runs_of_context(instance)) for instance in instances)
    text = f"{len(known):,} of {len(instances):,} {split} contexts stand in the text that {model} was pre-trained on"
    if known:
        # A generated world says the same again by chance, and no answer of it can be remembered.
        drawn = all(instance.log_posterior is not None for instance in known)
        meaning = "their answers were drawn anew" if drawn else "what it knows of them may be memory"
        text += f" (such as that of {known[0].id!r}): {meaning}"
    return (text + (f"; {short:,} of less than {RUN} words were not looked for" if short else ""),)
