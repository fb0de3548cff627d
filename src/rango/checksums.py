"""Files that carry the SHA-256 of their own bytes, so that damage is noticed before a number is read from them.

    # rango-sha256=9f86d081884c7d65… rango-format=1
                   64 hex digits; where they stand counts as zeros while the digest is computed

The mark stands in the first line of a YAML file, under keys of a JSON object, and in the metadata of safetensors and
Parquet files. Other programs read past it. A file without a mark is taken as it is: it is older, or somebody else's.
What cannot carry a mark (logs, and files with a fixed shape) is listed with its digest in the record of its folder,
whose version is that of the whole folder.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from rango.errors import InputError, LaterVersionError

KEY = "rango-sha256"
FORMAT_KEY, FORMAT = "rango-format", 1
"""The version of Rango's files: another where a file of before would be read wrongly. Without one it is 1."""
_DIGITS = 64
UNSEALED = "0" * _DIGITS
"""What stands in the place of the digest until `seal` has computed it."""
# Between the name and the digits there may be what a format puts there: quotation marks, a colon, a length.
_FORMAT_MARK = re.compile(rb"rango-format[^0-9]{1,16}([0-9]{1,9})")
_MARK = re.compile(rb"rango-sha256[^0-9a-f]{1,16}([0-9a-f]{64})")
_LAST = (".parquet",)  # the metadata of these stand at the end, of all others in front of what they hold
_WINDOW = 1 << 24  # bytes at that end in which a mark is looked for
_BLOCK = 1 << 22


def seal(path: Path, kind: str) -> None:
    """Put the digest of a file into the place that its writer has left for it.

    Args:
        path: the file, which may have another name while it is written.
        kind: the ending of its name.

    Raises:
        ValueError: it has no such place.
    """
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        place = _place(content, kind)
        if not place:
            raise ValueError(f"{path} has no place for a digest")
        content[place : place + _DIGITS] = _digest(content, place).encode()


def check_seal(path: Path) -> bool:
    """Whether a file carries a digest; what it holds is as it was written then.

    Raises:
        InputError: the file is not what its digest says, or a later version of Rango wrote it.
        OSError: it cannot be read.
    """
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = _place(content, path.suffix)
        if place is None:
            return False
        written = content[place : place + _DIGITS].decode() if place else "unreadable"
        if not place or written != _digest(content, place):
            hint = ", or delete its first line if you have changed it" if path.suffix == ".yaml" else ""
            raise InputError(
                f"{path} is damaged: its bytes do not have the SHA-256 that it carries ({written[:12]}…); "
                f"take it from a copy{hint}"
            )
        start = _find(content, path.suffix, FORMAT_KEY)
        stated = _FORMAT_MARK.match(content, start) if start >= 0 else None
        # It may mean something else by the same name, and would give a wrong number without a word.
        if stated is not None and int(stated[1]) > FORMAT:
            raise LaterVersionError(
                f"{path} has version {int(stated[1])} of Rango's files, and this Rango reads versions up to {FORMAT}; "
                "update it (pip install -U rango-lm)"
            )
    return True


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The digests of those of the named files of a folder that are there."""
    return {name: file_digest(folder / name) for name in names if (folder / name).is_file()}


def check_digest(path: Path, listed: Mapping[str, str], *, name: str, record: Path) -> None:
    """Raise InputError where a file is not what its folder's record says; a file that is not listed passes.

    Args:
        path: the file.
        listed: the digests of the record.
        name: of the file in that list.
        record: the file that holds the list, for the message.
    """
    if name in listed and path.is_file() and file_digest(path) != listed[name]:
        raise InputError(
            f"{path} is damaged or changed: its bytes do not have the SHA-256 that {record} lists; "
            f"take it from a copy, or repeat the command that wrote it into another folder"
        )


def _place(content: mmap.mmap, kind: str) -> int | None:
    """Where the digits of the mark begin; None where there is no mark, 0 where its digits cannot be read."""
    start = _find(content, kind, KEY)
    if start < 0:
        return None
    mark = _MARK.match(content, start)
    return mark.start(1) if mark else 0


def _find(content: mmap.mmap, kind: str, key: str) -> int:
    """Where a name of the mark begins; -1 where it does not stand at the end where a file of this kind has it."""
    last = max(0, len(content) - _WINDOW)
    return content.rfind(key.encode(), last) if kind in _LAST else content.find(key.encode(), 0, _WINDOW)


def _digest(content: mmap.mmap, place: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, place, _BLOCK):
        digest.update(content[start : min(start + _BLOCK, place)])
    digest.update(UNSEALED.encode())
    for start in range(place + _DIGITS, len(content), _BLOCK):
        digest.update(content[start : start + _BLOCK])
    return digest.hexdigest()
