"""What a reader of `fuzz_readers` hands over, and files that several of them make."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # its helpers make tiny models, logs and runs

CLASSES = ("happy", "sad", "angry")
LOGS = np.log([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5], [0.5, 0.3, 0.2]])


@dataclass(frozen=True)
class Prepared:
    """A folder of valid files."""

    files: Sequence[Path]
    """Those that are mutated, one at a time."""
    read: Callable[[Path], Any]
    """Reads the one that was mutated, with whatever belongs to it."""
    words: Sequence[bytes] = ()
    """What means something in the format."""


def table_files(folder: Path, name: str, endings: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[Path]:
    """A table in each of the formats."""
    files = []
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for ending in endings:
        file = folder / f"{name}.{ending}"
        if ending == "npz":
            np.savez(file, **{key: np.array(values) for key, values in columns.items()})
        elif ending == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table({key: list(values) for key, values in columns.items()}), file)
        elif ending.startswith("jsonl"):
            write_packed(file, "".join(json.dumps(row) + "\n" for row in rows))
        else:
            sign = "\t" if ending.startswith("tsv") else ","
            lines = [sign.join(columns), *(sign.join(str(value) for value in row.values()) for row in rows)]
            write_packed(file, "\n".join(lines) + "\n")
        files.append(file)
    return files


def write_packed(file: Path, text: str) -> None:
    import gzip

    data = text.encode()
    file.write_bytes(gzip.compress(data, mtime=0) if file.suffix == ".gz" else data)


def rewrite_unsealed(files: Sequence[Path]) -> None:
    import pyarrow.parquet as pq

    for file in files:
        pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)


def unsealed_yaml(file: Path) -> None:
    """A YAML file without its digest, which would refuse every change before it is looked at."""
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if "rango-sha256" not in line))
