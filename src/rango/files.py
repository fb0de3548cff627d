"""Checks of paths before long work, atomic writes, and readers whose errors name file and line.

Nothing is unpickled, so that no file that is read can run a program.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import fcntl
import glob
import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rango.checksums import FORMAT, FORMAT_KEY, KEY, UNSEALED, check_seal, seal
from rango.errors import InputError

if TYPE_CHECKING:
    import torch


# OSErrors that another place would not give; a full disk, for example, is no fault of the path.
_PLACE_ERRORS = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # JSON may spell half a character, which UTF-8 cannot write
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")  # how libraries written in Rust end the message of a system error
UNFINISHED = ".tmp"  # the ending of a hidden file or folder that is being written
PARTS = ".parts"  # in its place, the ending of a folder for a library that writes beside a file under names of its own
# Text and numbers pack to a tenth or a thirtieth of their size; what packs to a hundredth of much is hardly data.
_UNPACKED_RATIO, _UNPACKED_FREE = 100, 1 << 28
# The names of PEFT's configuration, and of the record beside a fully fine-tuned model.
ADAPTER_CONFIG, FULL_RECORD = "adapter_config.json", "full_finetuning.json"


def check_file(path: Path) -> None:
    """Raise InputError where there is no file to read."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a file")
    if not path.exists():
        raise InputError(f"{path} does not exist; give the path of an existing file")


def check_writable(folder: Path) -> None:
    """Raise InputError where a folder cannot be made or written to, before long work; leaves nothing behind."""
    made: list[Path] = []
    with place_refused(folder):
        try:
            made = [place for place in (folder, *folder.parents) if not place.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        finally:
            # The innermost first; a folder into which another process has written meanwhile stays.
            for place in made:
                with contextlib.suppress(OSError):
                    place.rmdir()


def check_writable_file(path: Path) -> None:
    """Raise InputError where a file cannot be written, before any work is spent on its content."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of a file")
    check_writable(path.parent)


@contextlib.contextmanager
def place_refused(folder: Path) -> Iterator[None]:
    """Turn an OSError of the block into an InputError where another place would do, as with a missing permission."""
    try:
        yield
    except OSError as error:
        if error.errno not in _PLACE_ERRORS:
            raise
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise InputError(f"{folder} cannot be written to ({reason}); give another place") from None


def model_file(source: str, name: str) -> Path | None:
    """A file of a model's folder or Hub repository; None where it has none, or where the Hub cannot be reached."""
    folder = Path(source)
    if folder.exists():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import hf_hub_download

    # Whatever goes wrong (no such file, no network, a name that is no Hub id), the file is not to be had.
    with contextlib.suppress(Exception):
        return Path(hf_hub_download(source, name))
    return None


def check_adapter_folder(folder: Path) -> Path:
    """The folder that holds the adapter itself: that of a run's best checkpoint, or `folder`.

    Raises:
        InputError: neither an adapter in PEFT's format nor a fully fine-tuned model is in it.
    """
    best = folder / "adapter" / "best"
    place = best if best.is_dir() else folder
    if not any((place / name).is_file() for name in (ADAPTER_CONFIG, FULL_RECORD)):
        hint = "" if place.exists() else "there is no such folder; "
        if (place / "config.json").is_file():
            hint = "it is a whole model, give it as the model itself; "
        raise InputError(
            f"{folder} holds no {ADAPTER_CONFIG}; {hint}give a run directory or an adapter folder in PEFT's format"
        )
    return place


def holds_files(folder: Path) -> bool:
    """Whether a folder exists and holds anything but hidden files, which a killed process leaves behind."""
    return folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` when the block ends without an error.

    Write, fsync, rename: a reader sees the old file or the whole new one, never a part. A link stays one: the file that
    it names is replaced. A device or a pipe stays too: what was made is copied into it at the end. What killed
    processes left of earlier attempts is removed.

    Raises:
        InputError: `path` is a folder, or no file can be made there.
        OSError: the disk is full, for example; it names `path`, whichever library writes.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of a file")
    # A device such as /dev/stdout cannot be replaced by a rename, and nothing else can be made in its folder.
    special = path.exists() and not path.is_file()
    target = path if special else Path(os.path.realpath(path))
    with place_refused(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _temporary_file(target, None if special else target.parent)
    try:
        with naming_file(path, temporary):
            yield temporary
            if special:
                with temporary.open("rb") as written, target.open("wb") as file:
                    shutil.copyfileobj(written, file)
                return
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            # mkstemp gives 0600; a result is to be as readable as any file the user makes. The mask can only be read by
            # setting another.
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            temporary.replace(target)
            remove_leftovers(target)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _temporary_file(target: Path, folder: Path | None) -> tuple[int, Path]:
    """An open file to write `target` into; the lock on it says that its process lives, see `remove_leftovers`."""
    while True:
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{target.name}.", suffix=UNFINISHED)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Another writer of the same target may have taken the file for a leftover before it was locked.
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)


def remove_leftovers(target: Path) -> None:
    """Remove the hidden files that killed processes left beside `target` while they wrote it."""
    hidden = f".{glob.escape(target.name)}.*"
    for file in target.parent.glob(hidden + UNFINISHED):
        # A living writer holds the lock; the error leaves its file alone.
        with contextlib.suppress(OSError), file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()
    for parts in target.parent.glob(hidden + PARTS):
        # Its file was there before it, and goes after it where its process can.
        if not parts.with_suffix(UNFINISHED).exists():
            shutil.rmtree(parts, ignore_errors=True)


@contextlib.contextmanager
def naming_file(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn errors of the disk in the block into OSErrors that name `path`.

    Writing to a full disk names no file, and safetensors and tokenizers then raise errors that are no OSErrors.
    """
    try:
        yield
    except OSError as error:
        # The hidden file and the folder beside it (see `write_tensors`) share all of their name but its ending.
        hidden = None if temporary is None else str(temporary.with_suffix(""))
        if error.filename is not None and (hidden is None or not str(error.filename).startswith(hidden)):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except Exception as error:
        number = _RUST_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, sealed: bool = False) -> None:
    """Write JSON atomically, indented; infinite values as `Infinity`, as Python reads them back.

    Sealed, an object carries digest and version of its file (see `checksums`), which `read_json` checks and leaves out.
    """
    with atomic_path(path) as temporary:
        kept = {KEY: UNSEALED, FORMAT_KEY: FORMAT, **value} if sealed else value
        temporary.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if sealed:
            seal(temporary, ".json")


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSONL atomically, a line for each row; infinite values as in `write_json`."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_yaml(path: Path, value: Mapping[str, Any]) -> None:
    """Write YAML atomically, keys in the given order; the first line carries the file's digest (see `checksums`)."""
    import yaml

    with atomic_path(path) as temporary:
        text = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)
        temporary.write_text(f"# {KEY}={UNSEALED} {FORMAT_KEY}={FORMAT}\n{text}", encoding="utf-8")
        seal(temporary, ".yaml")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], *, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically: the same bytes whenever tensors and metadata are the same.

    Its metadata carries the digest of the file (see `checksums`), which `read_tensors` checks.

    The library sorts the tensors by type and name, but writes the metadata in the random order of a Rust hash map. So
    the header is written again, in place, with the metadata sorted by key.
    """
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {**metadata, KEY: UNSEALED, FORMAT_KEY: str(FORMAT)}
        # The library writes beside the file that it is given, under a name that nobody could know for a leftover.
        parts = temporary.with_suffix(PARTS)
        parts.mkdir()
        try:
            save_file(whole, parts / temporary.name, metadata=metadata)
            (parts / temporary.name).replace(temporary)
            parts.rmdir()
        except BaseException:
            shutil.rmtree(parts, ignore_errors=True)
            raise
        with temporary.open("r+b") as file:
            # The file begins with the length of the header, 8 bytes, and the header: JSON, padded with spaces.
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            header["__metadata__"] = dict(sorted(metadata.items()))
            text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
            assert len(text) <= length
            file.seek(8)
            file.write(text.ljust(length))
        seal(temporary, ".safetensors")


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        InputError: the file is not what the digest says that it carries.
        SafetensorError: it is no safetensors file.
    """
    from safetensors import safe_open

    check_seal(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = dict(file.metadata() or {})
    for key in (KEY, FORMAT_KEY):
        metadata.pop(key, None)
    return tensors, metadata


def unpacked_limit(path: Path) -> int:
    """The bytes that a compressed file may unpack to: 256 MB, or 100 times its size where that is more."""
    return max(_UNPACKED_FREE, _UNPACKED_RATIO * path.stat().st_size)


def check_unpacked(path: Path, size: int) -> None:
    """Raise InputError where a compressed file unpacks to more than its limit: no small file may fill the memory."""
    if size > unpacked_limit(path):
        raise InputError(
            f"{path} unpacks to more than {unpacked_limit(path) >> 20:,} MB, {_UNPACKED_RATIO} times its size or more; "
            "unpack it yourself and give the plain file"
        )


def read_bytes(path: Path) -> bytes:
    """Read a whole file, unpacking `.gz`; errors as in `read_text`, and where it unpacks to too much."""
    check_file(path)
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                data = file.read(unpacked_limit(path) + 1)
            check_unpacked(path, len(data))
        else:
            data = path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); check the file") from None
    if not data.strip():
        raise InputError(f"{path} is empty; expected at least one line")
    return data


def read_text(path: Path) -> str:
    """Read UTF-8 text, unpacking `.gz`.

    Raises:
        InputError: the file is missing, a folder, unreadable, empty or not UTF-8 (names the byte).
    """
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise not_utf8(path, data[:2], line=line, offset=error.start, byte=data[error.start]) from None


def not_utf8(path: Path, beginning: bytes, *, line: int, offset: int, byte: int) -> InputError:
    """The error for a file that is not UTF-8: its first two bytes, and the byte at fault with its line and offset."""
    # What Excel calls "Unicode text" is UTF-16, which its first two bytes say: no single byte is at fault there.
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return InputError(f"{path} is UTF-16; {_to_utf8(path, 'UTF-16')}")
    return InputError(
        f"{path}:{line}: byte {byte:#04x} at offset {offset} is not UTF-8; "
        f"{_to_utf8(path, 'WINDOWS-1252', ' where it is from Windows')}"
    )


def _to_utf8(path: Path, encoding: str, condition: str = "") -> str:
    """How to make a file UTF-8: by hand, and where it is no archive by a command that can be copied."""
    advice = "save the file as UTF-8 (Excel: CSV UTF-8)"
    if path.suffix == ".gz":
        return advice
    converted = path.with_name(f"{path.stem}-utf8{path.suffix}")
    command = f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(converted))}"
    return f"{advice}, or convert it{condition}: {command}"


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without their ends; errors as in `read_text`.

    A line ends as an editor ends it. `str.splitlines` would also cut at a form feed or a Unicode line separator, in the
    middle of a document, and line numbers would no longer be those that an editor shows.
    """
    return read_text(path).replace("\r\n", "\n").split("\n")


def read_json(path: Path) -> Any:
    """Read JSON; a syntax error names the line.

    Raises:
        InputError: as `read_text` and `parse_json`; the file is not what the digest says that it carries.
    """
    value = parse_json(read_text(path), str(path))
    if isinstance(value, dict) and value.pop(KEY, None) is not None:
        value.pop(FORMAT_KEY, None)
        check_seal(path)
    return value


def read_versioned(path: Path, *, kind: str, form: str, version: int, command: str, again: str) -> Mapping[str, Any]:
    """The object of a JSON file that says of what format and version it is.

    Args:
        path: the file.
        kind: what it holds, for messages.
        form: what its `format` has to be.
        version: what its `version` has to be. Another may mean something else by the same key, and would give a wrong
            number without a word.
        command: what writes such a file.
        again: how to come by a new one.

    Raises:
        InputError: as `read_json`; another format or version.
    """
    entry = read_json(path)
    if not isinstance(entry, Mapping) or entry.get("format") != form:
        raise InputError(f"{path} is no {kind}; expected a file that {command} wrote")
    if entry.get("version") != version:
        stated = entry.get("version")
        raise InputError(f"{path} has version {stated!r} of a {kind}'s format, expected {version}; {again}")
    return entry


def parse_json(text: str, where: str, *, line: int | None = None, keys_once: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: JSON.
        where: the file, for messages.
        line: the line of the file that `text` is; None for the whole file.
        keys_once: refuse a key that stands twice in a mapping, of which Python keeps the last in silence. Files of
            models from elsewhere may have such keys.

    Raises:
        InputError: no JSON, a key that stands twice where that is refused, a number too long or nested too deep for
            Python, half a surrogate pair (no UTF-8 text).
    """
    place = where if line is None else f"{where}:{line}"
    try:
        value = (_KEYS_ONCE if keys_once else _PLAIN).decode(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise InputError(f"{where}:{line or error.lineno}: not JSON ({error.msg}); fix the line") from None
    except UnicodeEncodeError as error:
        broken = error.object[error.start]
        raise InputError(f"{place}: {broken!r} is half a surrogate pair; save the text as UTF-8") from None
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    except RecursionError:
        raise InputError(f"{place}: nested too deep; expected an ordinary JSON value") from None
    except ValueError:
        raise InputError(f"{place}: a number has too many digits; shorten it or put it in quotation marks") from None
    return value


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"key {twice!r} stands {keys.count(twice)} times in one mapping; keep one of them")
    return entries


def _whole_number(text: str) -> int:
    if len(text) > 308:
        raise ValueError  # beyond the largest float
    return int(text)


# Made once: rows are read by the million.
_PLAIN = json.JSONDecoder(parse_int=_whole_number)
_KEYS_ONCE = json.JSONDecoder(parse_int=_whole_number, object_pairs_hook=_mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping with text keys; what is wrong names the line. See `yaml_loader` for the limits.

    Raises:
        InputError: as `read_text`; no such mapping; the file is not what the digest says that it carries.
    """
    import yaml

    from rango.yaml_loader import parse_yaml

    text = read_text(path)
    check_seal(path)
    try:
        value = parse_yaml(text)
    except yaml.MarkedYAMLError as error:
        place = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else f"{path}"
        problem = str(error.problem)
        # What Rango refuses, and not the parser, says itself what to do.
        raise InputError(f"{place}: {problem if ';' in problem else f'not YAML ({problem}); fix the line'}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())}); fix the file") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}; expected `key: value` lines")
    return value


def fingerprint(*parts: str | bytes) -> str:
    """A short content hash: the first 16 hex digits of SHA-256 over the length-prefixed parts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:16]
