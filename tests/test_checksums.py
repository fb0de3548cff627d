"""Files that carry their own digest: every flipped bit and every cut is noticed, in each kind of file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from rango.checksums import FORMAT_KEY, KEY, UNSEALED, check_digest, check_seal, digests, file_digest, seal
from rango.decisions import Posteriors, read_posteriors, write_posteriors
from rango.errors import InputError, LaterVersionError
from rango.files import read_json, read_tensors, read_yaml, write_json, write_tensors, write_yaml

POSTERIORS = Posteriors(
    np.log([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]), [0, 1, 1], ids=["a", "b", "c"], groups=["g", "g", "h"]
)
VALUES = {"nce": 0.5, "notes": ["one", "two"], "seed": 3}
TENSORS = {"a": torch.arange(12, dtype=torch.float32).reshape(3, 4), "b": torch.ones(2)}
KINDS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "posteriors.parquet": (lambda path: write_posteriors(path, POSTERIORS), lambda path: read_posteriors(path)),
    "run.yaml": (lambda path: write_yaml(path, VALUES), read_yaml),
    "calibrator.json": (lambda path: write_json(path, VALUES, sealed=True), read_json),
    "weights.safetensors": (lambda path: write_tensors(path, TENSORS, metadata={"base": "x"}), read_tensors),
}


def numbers(value: object) -> object:
    """What was read, so that it can be compared."""
    if isinstance(value, Posteriors):
        return (value.log_posteriors.tolist(), value.labels.tolist(), value.ids, value.groups)
    if isinstance(value, tuple):
        tensors, metadata = value
        return ({name: (str(t.dtype), t.tolist()) for name, t in tensors.items()}, metadata["base"])
    assert isinstance(value, dict)
    return {name: value[name] for name in VALUES}  # beside them there may be a mark whose name was hit


def test_the_digest_is_that_of_the_file_with_zeros_in_its_place(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    write_yaml(file, {"seed": 1})
    first, rest = file.read_text().split("\n", 1)
    assert first.startswith(f"# {KEY}=")
    digest, version = first.removeprefix(f"# {KEY}=").split()
    assert rest == "seed: 1\n"
    assert version == f"{FORMAT_KEY}=1"
    assert digest == hashlib.sha256(f"# {KEY}={'0' * 64} {version}\nseed: 1\n".encode()).hexdigest()


@pytest.mark.parametrize("name", KINDS)
def test_what_was_written_is_read_by_rango_and_by_others(tmp_path: Path, name: str) -> None:
    write, read = KINDS[name]
    write(tmp_path / name)
    assert check_seal(tmp_path / name)
    read(tmp_path / name)
    if name.endswith("yaml"):
        assert yaml.safe_load((tmp_path / name).read_text()) == VALUES
    elif name.endswith("json"):
        assert read_json(tmp_path / name) == VALUES
        assert {KEY, FORMAT_KEY, *VALUES} == set(json.loads((tmp_path / name).read_text()))
    elif name.endswith("safetensors"):
        assert read_tensors(tmp_path / name)[1] == {"base": "x"}
        assert torch.equal(load_file(tmp_path / name)["a"], TENSORS["a"])
    # The same content gives the same bytes.
    before = (tmp_path / name).read_bytes()
    write(tmp_path / name)
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("name", KINDS)
def test_no_flipped_bit_and_no_cut_gives_another_number(tmp_path: Path, name: str) -> None:
    write, read = KINDS[name]
    file = tmp_path / name
    write(file)
    whole, expected = file.read_bytes(), numbers(read(file))
    draw = np.random.default_rng(0)
    damaged = [whole[: draw.integers(1, len(whole))] for _ in range(20)]
    for place in draw.integers(0, len(whole), 100):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(draw.integers(8))
        damaged.append(bytes(flipped))
    noticed = 0
    for content in damaged:
        file.write_bytes(content)
        try:
            again = numbers(read(file))
        except Exception:
            noticed += 1
            continue
        # Where the name of the mark was hit, there is no digest to compare with, and what the file holds is whole.
        assert again == expected
        assert KEY.encode() not in content
    assert noticed >= 100


def test_what_a_person_changed_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    write_yaml(file, {"seed": 1})
    file.write_text(file.read_text().replace("seed: 1", "seed: 2"))
    with pytest.raises(InputError, match=r"run.yaml is damaged.*or delete its first line if you have changed it"):
        read_yaml(file)
    file.write_text(file.read_text().split("\n", 1)[1])
    assert read_yaml(file) == {"seed": 2}
    broken = tmp_path / "calibrator.json"
    broken.write_text(json.dumps({KEY: "no digest", "method": "temperature"}))
    with pytest.raises(InputError, match=r"damaged.*\(unreadable…\)"):
        read_json(broken)


def test_a_file_without_a_place_cannot_be_sealed_and_one_without_a_mark_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("seed: 1\n")
    assert not check_seal(file)
    with pytest.raises(ValueError, match="no place for a digest"):
        seal(file, ".yaml")
    file.write_text(f"# {KEY}={UNSEALED}\n")
    seal(file, ".yaml")
    assert check_seal(file)
    (tmp_path / "empty.yaml").touch()
    assert not check_seal(tmp_path / "empty.yaml")


def test_a_listed_file_is_the_listed_one(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text("{}\n")
    listed = digests(tmp_path, ["log.jsonl", "absent"])
    assert listed == {"log.jsonl": hashlib.sha256(b"{}\n").hexdigest()} == {"log.jsonl": file_digest(file)}
    check_digest(file, listed, name="log.jsonl", record=tmp_path / "run.yaml")
    check_digest(file, {}, name="log.jsonl", record=tmp_path / "run.yaml")
    file.write_text("[]\n")
    with pytest.raises(InputError, match=r"log.jsonl is damaged or changed: .* that .*run.yaml lists"):
        check_digest(file, listed, name="log.jsonl", record=tmp_path / "run.yaml")


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_a_later_version_is_refused_and_one_of_an_older_is_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, read = KINDS[name]
    # A later version, whose digest is right: nothing is damaged.
    with monkeypatch.context() as later:
        for module in ("rango.files", "rango.decisions.posteriors_io"):
            later.setattr(f"{module}.FORMAT", 27)
        write(tmp_path / name)
    with pytest.raises(
        LaterVersionError, match=rf"{name} has version 27 of Rango's files, and this Rango reads versions"
    ):
        read(tmp_path / name)
    # An older one has a digest and no version, and is 1.
    with monkeypatch.context() as older:
        for module in ("rango.files", "rango.decisions.posteriors_io"):
            older.setattr(f"{module}.FORMAT_KEY", "other-format")
        write(tmp_path / name)
    assert check_seal(tmp_path / name)
    assert numbers(read(tmp_path / name))


def test_a_run_of_a_later_version_is_refused_with_every_file_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics and the log have no version of their own: it is that of their record."""
    from rango.training.run_folder import Run

    monkeypatch.setattr("rango.files.FORMAT", 2)
    write_yaml(tmp_path / "run.yaml", {"status": "complete"})
    write_json(tmp_path / "metrics.json", {"test": {}})
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    run = Run(tmp_path)
    for part in ("record", "metrics", "log"):
        with pytest.raises(LaterVersionError, match=r"run\.yaml has version 2 of Rango's files"):
            getattr(run, part)
