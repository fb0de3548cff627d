"""What stands in a folder, compared without what no two runs share, and whether a file is whole."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from rango.checksums import check_seal

# What differs between two undisturbed runs: when they began and how long they took, and digests of what says so.
TIMES = tuple(
    re.compile(pattern)
    for pattern in (
        rb"[0-9a-f]{64}",
        rb"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?",
        rb"seconds\w*(\"?: |</th><td>)[0-9.e-]+",
        rb"[0-9.]+ (s|min)\b",
    )
)
HALF = re.compile(r"\.\w{8}(\.tmp|\.parts)(?=/|$)|(?<=\.tmp)\w{6}$")  # of Rango and of safetensors
ENDS = {".html": b"</html>", ".svg": b"</svg>", ".pdf": b"%%EOF", ".png": b"IEND\xaeB`\x82", ".tex": b"\\end{tabular}"}
GROWING = ("log.jsonl", "answers.jsonl")  # a kill may cut their last line, which readers drop
UNCOMPARED = re.compile(r"(^|/)(logs|locks|failures)(/|$)|\.lock$")  # who works, and what workers print


def contents(folder: Path) -> dict[str, bytes]:
    """What stands in a folder: the bytes of each file, and of each folder none."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not UNCOMPARED.search(name):
            files[name] = b"" if path.is_dir() else path.read_bytes()
    return files


def comparable(files: dict[str, bytes]) -> dict[str, str]:
    """Contents without times, under names without what is drawn at random."""
    kept = {}
    for name, data in files.items():
        if name.endswith((".yaml", ".json", ".jsonl", ".html", ".md")):
            for pattern in TIMES:
                data = pattern.sub(b"", data)
        if name == "served/log.jsonl":  # it grows by the same questions each time
            data = b"\n".join(sorted({re.sub(rb'"id": "\w+/', b"", line) for line in data.split(b"\n")}))
        # A hidden file that nobody wrote to its end counts by its name: whatever it holds, it goes or is written anew.
        if HALF.search(name):
            name, data = HALF.sub(r".RANDOM\1", name), b""
        kept[name] = hashlib.sha256(data).hexdigest()
    return kept


def is_final(name: str) -> bool:
    """Whether a file has its name for good: neither hidden nor in the folder of an unfinished `predict`."""
    return not any(part.startswith(".") or part.endswith(".partial") for part in Path(name).parts)


def is_whole(path: Path) -> bool:
    """Whether a file can be read to its end, and is what its digest says where it has one."""
    import numpy as np
    import pyarrow.parquet as pq
    import yaml
    from safetensors import safe_open

    try:
        check_seal(path)
        if path.suffix == ".jsonl":
            lines = path.read_text().split("\n")
            return all(json.loads(line) is not None for line in lines[:-1]) and (not lines[-1] or path.name in GROWING)
        if path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                return all(file.get_slice(name) is not None for name in file.keys())  # noqa: SIM118 - not a mapping
        readers: dict[str, Callable[[], object]] = {
            ".json": lambda: json.loads(path.read_text()),
            ".yaml": lambda: yaml.safe_load(path.read_text()),
            ".parquet": lambda: pq.read_table(path),
            ".npz": lambda: np.load(path, allow_pickle=False),
            ".gz": lambda: gzip.decompress(path.read_bytes()),
            ".csv": lambda: len({len(row) for row in csv.reader(path.open(newline=""))}) == 1 or None,
        }
        if path.suffix in ENDS:
            return path.read_bytes().rstrip().endswith(ENDS[path.suffix])
        return path.suffix in readers and readers[path.suffix]() is not None
    except Exception:
        return False


def difference(wanted: dict[str, str], now: dict[str, str]) -> str:
    """The names in which two folders differ."""
    return ", ".join(sorted(name for name in {*wanted, *now} if wanted.get(name) != now.get(name)))
