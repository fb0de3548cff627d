"""Mutations of valid files: of their bytes, and of what they hold, so that the damage reaches what reads the values.

    mutate(whole, "rows.csv", random.Random("0/rows/17"), words)

Bytes     bits flipped, bytes cut out, put in, doubled, exchanged; numbers at the edges of what a type holds; words of
          the format; half surrogates, NUL, byte order marks, mixed line ends; brackets within brackets
Values    a JSON, YAML or JSONL value, a cell, a column, an array or a tensor's header is replaced, dropped, renamed or
          nested, and the file is written as a whole again: archives get their checksums, headers their lengths
"""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import random
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

NUMBERS = (
    *("0", "-0", "-0.0", "1", "-1", "2", "0.5", "1e308", "-1e308", "1e309", "1e-320", "NaN", "Infinity", "-Infinity"),
    *("inf", "nan", "9" * 400, "2147483648", "-2147483649", "9223372036854775807", "9223372036854775808"),
    *("18446744073709551616", "1_0", "0x1F", "٣", "1e5", "1,5", "1.", ".5", "+3", "007", "true", "null", "~", ""),
)
TEXTS = (
    *(
        "",
        " ",
        "\x00",
        "\ufeff",
        "\ud800",
        "\udfff\ud800",
        "\u2028",
        "\r",
        "\n",
        "\t",
        "\x1b[31m",
        "=1+1",
        "'",
        '"',
        "{",
    ),
    *(
        "{x}",
        "}",
        "%s",
        "../../etc/passwd",
        "é",
        "e\u0301",
        "\u202e",
        "<script>",
        "a" * 3000,
        "word " * 700,
    ),
    *("*", "&a", "!!python/object:os.system", "-", "---", "id", "label", "null", "A", "\U0001f600", "a\nb", "1e999"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 10**18, 2**63, -(2**63) - 1, 10**300, 0.5, -0.0, 1e308, -1e308, 1e-320),
    *(float("nan"), float("inf"), float("-inf"), [], {}, [[]], [None], [1, "a"], {"a": 1}, {"": None}, [0.5, 0.5]),
)
_BYTES = (
    *(b"\x00", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xff", b"\r", b"\r\n", b"\n"),
    *(
        b"\n\n",
        b'"',
        b"'",
        b",",
        b";",
        b"\t",
        b":",
        b"[",
        b"]",
        b"{",
        b"}",
        b"#",
        b"\\",
        b"\\u0000",
        b"\\ud800",
        b"\x85",
    ),
)
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_DEEP = "@deep@"  # stands for brackets within brackets, more than `json.dumps` could write

Words = Sequence[bytes]


def mutate(whole: bytes, name: str, rng: random.Random, words: Words, others: Sequence[bytes] = ()) -> bytes:
    """A changed copy of a file.

    Args:
        whole: the valid file.
        name: its name, whose ending says how it is built.
        rng: of this one input.
        words: what means something in the format.
        others: further valid files, of which parts may be taken.
    """
    if name.endswith(".gz") and rng.random() < 0.8:
        return gzip.compress(mutate(gzip.decompress(whole), name[:-3], rng, words), compresslevel=1, mtime=0)
    structure = next((change for ending, change in _STRUCTURES.items() if name.endswith(ending)), None)
    data = whole
    if structure is not None and rng.random() < 0.6:
        # What cannot be written, such as a column of two types in Parquet, is changed as bytes instead.
        try:
            data = structure(whole, rng, words)
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
            data = whole
        if data != whole and rng.random() < 0.8:
            return data
    for _ in range(1 + int(rng.expovariate(1.0))):
        data = rng.choice(_BYTE_CHANGES)(data, rng, words, others)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    return rng.randrange(len(data) + 1)


def _flip(data: bytes, rng: random.Random, _words: Words, _others: Sequence[bytes]) -> bytes:
    if not data:
        return b"\x01"
    changed = bytearray(data)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut_end(data: bytes, rng: random.Random, _words: Words, _others: Sequence[bytes]) -> bytes:
    return data[: _place(data, rng)]


def _cut_out(data: bytes, rng: random.Random, _words: Words, _others: Sequence[bytes]) -> bytes:
    start = _place(data, rng)
    return data[:start] + data[start + rng.choice((1, 1, 2, 4, 8, 64)) :]


def _insert(data: bytes, rng: random.Random, words: Words, _others: Sequence[bytes]) -> bytes:
    new = rng.choice(
        (
            lambda: rng.choice(_BYTES),
            lambda: rng.choice(words or _BYTES),
            lambda: rng.choice(TEXTS).encode("utf-8", "surrogatepass"),
            lambda: rng.randbytes(rng.choice((1, 2, 4, 16))),
            lambda: rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00" * 8, b"\xff" * 8)),
        )
    )()
    start = _place(data, rng)
    return data[:start] + new + data[start + rng.choice((0, 0, len(new))) :]


def _double(data: bytes, rng: random.Random, _words: Words, _others: Sequence[bytes]) -> bytes:
    start = _place(data, rng)
    chunk = data[start : start + rng.choice((1, 4, 16, 64, 1000))]
    place = rng.choice((start, _place(data, rng)))
    return data[:place] + chunk * rng.choice((1, 1, 2, 50)) + data[place:]


def _exchange(data: bytes, rng: random.Random, _words: Words, _others: Sequence[bytes]) -> bytes:
    first, second, third = sorted(_place(data, rng) for _ in range(3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def _number(data: bytes, rng: random.Random, _words: Words, _others: Sequence[bytes]) -> bytes:
    places = list(_NUMBER.finditer(data[:20_000]))
    if not places:
        return _insert(data, rng, _words, _others)
    place = rng.choice(places)
    return data[: place.start()] + rng.choice(NUMBERS).encode() + data[place.end() :]


def _lines(data: bytes, rng: random.Random, _words: Words, _others: Sequence[bytes]) -> bytes:
    """Lines dropped, doubled, exchanged, or ended as another system ends them."""
    lines = data.splitlines(keepends=True) or [b""]
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[first]
    elif kind == 1:
        lines.insert(second, lines[first])
    elif kind == 2:
        lines[first], lines[second] = lines[second], lines[first]
    else:
        ends = (b"\r\n", b"\r", b"\n\r", b"\x0c\n", b"\xe2\x80\xa8", b"\n\n")
        lines = [line.rstrip(b"\r\n") + rng.choice(ends) if rng.random() < 0.5 else line for line in lines]
    return b"".join(lines)


def _encode(data: bytes, rng: random.Random, _words: Words, _others: Sequence[bytes]) -> bytes:
    text = data.decode("utf-8", "replace")
    return text.encode(rng.choice(("utf-16", "utf-16-le", "utf-8-sig", "latin-1", "utf-32")), "replace")


def _deep(data: bytes, rng: random.Random, _words: Words, _others: Sequence[bytes]) -> bytes:
    opening, closing = rng.choice(
        ((b"[", b"]"), (b'{"a":', b"}"), (b"- ", b""), (b"{", b"}"), (b"(", b")"), (b" ", b""))
    )
    depth, start = rng.choice((40, 200, 5000, 60_000)), _place(data, rng)
    return data[:start] + opening * depth + closing * rng.choice((0, depth)) + data[start:]


def _splice(data: bytes, rng: random.Random, _words: Words, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others) if others else data
    return data[: _place(data, rng)] + other[_place(other, rng) :]


_BYTE_CHANGES: tuple[Callable[[bytes, random.Random, Words, Sequence[bytes]], bytes], ...] = (
    *(_flip, _flip, _cut_end, _cut_out, _cut_out, _insert, _insert, _insert, _double, _exchange, _number, _number),
    *(_number, _lines, _encode, _deep, _splice),
)


def changed_value(value: Any, rng: random.Random, words: Words) -> Any:
    """A JSON value of which one part is another: replaced, dropped, doubled, renamed, exchanged or nested."""
    slots = list(_slots(value))
    if not slots or rng.random() < 0.02:
        return _new(rng, words)
    holder, key = rng.choice(slots)
    kind = rng.randrange(10)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        # A key of another place, of the format or of nobody.
        holder[rng.choice([rng.choice(TEXTS), str(_word(rng, words)), str(rng.choice(slots)[1])])] = holder.pop(key)
    elif kind == 1:
        holder.insert(key, holder[key])
    elif kind == 2:
        other, place = rng.choice(slots)
        # A copy: a value within itself could not be written.
        holder[key] = json.loads(json.dumps(other[place]))
    elif kind == 3:
        holder[key] = rng.choice(([holder[key]], {"a": holder[key]}, str(holder[key]), [holder[key]] * 3, _DEEP))
    elif kind == 4 and isinstance(holder, dict):
        holder[str(_word(rng, words))] = _new(rng, words)
    else:
        holder[key] = _new(rng, words)
    return value


def _slots(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _slots(value[key])


def _word(rng: random.Random, words: Words) -> str:
    return rng.choice(words).decode("utf-8", "replace") if words else rng.choice(TEXTS)


def _new(rng: random.Random, words: Words) -> Any:
    return rng.choice(
        (lambda: copy.deepcopy(rng.choice(VALUES)), lambda: rng.choice(TEXTS), lambda: _word(rng, words))
    )()


def _json(value: Any, rng: random.Random) -> str:
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    if _DEEP in text:
        depth = rng.choice((10, 60, 900, 30_000))
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        text = text.replace(f'"{_DEEP}"', opening * depth + "1" + closing * depth)
    return text


def _change_json(whole: bytes, rng: random.Random, words: Words) -> bytes:
    value = json.loads(whole)
    for _ in range(1 + int(rng.expovariate(1.5))):
        value = changed_value(value, rng, words)
    return _json(value, rng).encode("utf-8", "surrogatepass")


def _change_yaml(whole: bytes, rng: random.Random, words: Words) -> bytes:
    import yaml

    value = changed_value(yaml.load(whole, yaml.CSafeLoader), rng, words)
    if rng.random() < 0.5:
        return _json(value, rng).encode("utf-8", "surrogatepass")
    return yaml.dump(value, Dumper=yaml.CSafeDumper, allow_unicode=True, sort_keys=False, encoding="utf-8")  # type: ignore[no-any-return]


def _change_lines(whole: bytes, rng: random.Random, words: Words) -> bytes:
    lines = whole.split(b"\n")
    number = rng.randrange(max(1, len(lines) - 1))
    rows = [json.loads(line) for line in lines if line.strip()]
    if rng.random() < 0.4:  # the same key of every row
        key = rng.choice(list(rows[0]) or [""])
        new = _new(rng, words)
        for row in rows:
            row[key] = new if rng.random() < 0.8 else _new(rng, words)
    else:
        rows[number % len(rows)] = changed_value(rows[number % len(rows)], rng, words)
    return "".join(_json(row, rng) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def _change_cells(whole: bytes, rng: random.Random, words: Words) -> bytes:
    text = whole.decode()
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    column = rng.randrange(len(rows[0]))
    kind = rng.randrange(6)
    if kind == 0:  # a heading
        rows[0][column] = rng.choice((_word(rng, words), rng.choice(TEXTS), rows[0][rng.randrange(len(rows[0]))]))
    elif kind == 1:  # a column less
        rows = [row[:column] + row[column + 1 :] for row in rows]
    elif kind == 2:  # a column more
        for row in rows:
            row.insert(column, rng.choice(NUMBERS))
        rows[0][column] = _word(rng, words)
    elif kind == 3:  # a column of one value
        value = rng.choice((rng.choice(NUMBERS), rng.choice(TEXTS), _word(rng, words)))
        rows[1:] = [[*row[:column], value, *row[column + 1 :]] for row in rows[1:]]
    else:
        for _ in range(rng.choice((1, 1, 2, 5))):
            row = rng.choice(rows)
            row[rng.randrange(len(row))] = rng.choice((rng.choice(NUMBERS), rng.choice(TEXTS), _word(rng, words)))
    out = io.StringIO(newline="")
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.writer(out, delimiter=rng.choice((delimiter, delimiter, ";", "\t")), quoting=quoting)
    writer.writerows(rows)
    return out.getvalue().encode("utf-8", "surrogatepass")


def odd_array(rng: random.Random, length: int) -> np.ndarray[Any, Any]:
    """An array of any type and shape, as other programs may write it."""
    sizes = rng.choice(((length,), (length, 2), (length, 3), (length, 0), (0,), (), (length + 1,), (length, 2, 2)))
    kind = rng.choice(
        ("f2", "f4", "f8", ">f8", "i1", "i8", "u8", "?", "U3", "S3", "M8[s]", "m8[ns]", "c16", "V4", "f16")
    )
    values = np.zeros(sizes, dtype=kind)
    with np.errstate(all="ignore"):
        if kind in ("f2", "f4", "f8", ">f8"):
            values = (values + rng.choice((0.0, 0.5, 1.0, -1e308, 1e308, np.nan, np.inf, -np.inf, -0.7))).astype(kind)
        elif kind in ("i1", "i8", "u8"):
            values = values + np.array(rng.choice((0, 1, 2, 127)), dtype=kind)
        elif kind in ("U3", "S3"):
            values[...] = rng.choice(("", "a", "1", "nan", "é"[: 1 if kind == "U3" else 0]))
    return values


def _change_npz(whole: bytes, rng: random.Random, words: Words) -> bytes:
    with np.load(io.BytesIO(whole)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    out, name = io.BytesIO(), rng.choice(list(arrays))
    kind = rng.randrange(5)
    if kind == 0:
        arrays[rng.choice((_word(rng, words), "x"))] = arrays.pop(name)
    elif kind == 1:
        del arrays[name]
    elif kind == 2:
        arrays[_word(rng, words)] = odd_array(rng, len(arrays[name]))
    elif kind == 3:
        arrays[name] = odd_array(rng, len(arrays[name]))
    else:
        # A member's own bytes, with the checksum that the archive wants: the header of NumPy's format is a Python text.
        with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(out, "w") as new:
            for entry in old.namelist():
                content = old.read(entry)
                new.writestr(entry, mutate(content, "member", rng, words) if entry == f"{name}.npy" else content)
        return out.getvalue()
    np.savez(out, **arrays)
    return out.getvalue()


def _change_parquet(whole: bytes, rng: random.Random, words: Words) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(whole))
    name = rng.choice(table.column_names)
    place, column = table.column_names.index(name), table.column(name).combine_chunks()
    kind, length = rng.randrange(6), len(table)
    try:
        if kind == 0:
            new = rng.choice((_word(rng, words), rng.choice(TEXTS), rng.choice(table.column_names)))
            names = [*table.column_names[:place], new, *table.column_names[place + 1 :]]
            table = table.rename_columns([each.encode("utf-8", "replace").decode() for each in names])
        elif kind == 1:
            table = table.remove_column(place)
        elif kind == 2:
            types = (pa.string(), pa.large_string(), pa.binary(), pa.float16(), pa.float32(), pa.int8(), pa.uint64())
            table = table.set_column(place, name, column.cast(rng.choice(types), safe=False))
        elif kind == 3:
            odd = (
                pa.nulls(length), pa.array([None] * length, pa.list_(pa.float64())), column.dictionary_encode(),
                pa.array([2**62] * length, pa.timestamp("us")), pa.array([10**6] * length, pa.date32()),
                pa.array([b"\xff\xfe"] * length, pa.binary()), pa.array([{"a": 1}] * length),
                pa.array([[("k", 1)]] * length, pa.map_(pa.string(), pa.int64())),
                pa.array([1] * length).cast(pa.decimal128(20)),
            )  # fmt: skip
            table = table.set_column(place, name, rng.choice(odd))
        elif kind == 4:
            table = table.slice(0, rng.choice((0, 1, length)))
        else:
            values = column.to_pylist()
            holder = {"rows": values}
            changed_value(holder, rng, words)
            table = table.set_column(place, name, pa.array(holder.get("rows", [])))
        out = io.BytesIO()
        pq.write_table(table, out, compression=rng.choice(("snappy", "none", "zstd")))
    except pa.ArrowException:
        return whole
    return out.getvalue()


def _change_safetensors(whole: bytes, rng: random.Random, words: Words) -> bytes:
    length = int.from_bytes(whole[:8], "little")
    header, data = whole[8 : 8 + length], whole[8 + length :]
    if rng.random() < 0.7:
        header = _change_json(header, rng, words)
    else:
        # Numbers of other size: not a number, infinite, or none at all.
        start = rng.randrange(max(1, len(data) - 4)) & ~3
        data = (
            data[:start]
            + rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f"))
            + data[start + 4 :]
        )
    return len(header).to_bytes(8, "little") + header + data


_STRUCTURES: dict[str, Callable[[bytes, random.Random, Words], bytes]] = {
    ".json": _change_json, ".yaml": _change_yaml, ".jsonl": _change_lines, ".csv": _change_cells, ".tsv": _change_cells,
    ".npz": _change_npz, ".parquet": _change_parquet, ".safetensors": _change_safetensors,
}  # fmt: skip
