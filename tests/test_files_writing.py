"""Files are written whole or not at all; links, pipes and folders stay what they are."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.command import Capture
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rango.checksums import FORMAT_KEY, KEY
from rango.cli import main
from rango.errors import InputError
from rango.files import atomic_path, check_writable, check_writable_file, write_tensors, write_text


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "half \ud800")
    assert file.read_text() == "old"
    assert [entry.name for entry in file.parent.iterdir()] == ["a.txt"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name, target in (("known", "there/a.txt"), ("dangling", "there/b.txt")):
        (tmp_path / name).symlink_to(target)
        write_text(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / target).read_text() == "new"


def test_a_pipe_gets_the_content_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(pipe, "new")
        assert os.read(reader, 100) == b"new"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_folders_and_places_below_files_are_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "text")
    with pytest.raises(InputError, match="is a folder; give the path of a file"):
        check_writable_file(tmp_path)
    for place in ("a.txt/b.txt", "a.txt/b/c"):
        with pytest.raises(InputError, match="cannot be written to .*; give another place"):
            write_text(tmp_path / place, "text")
    check_writable_file(tmp_path / "b" / "c")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("place", "message"), [("", "is a folder; give the path of a file"), ("a.txt/b.txt", "cannot be written to")]
)
@pytest.mark.parametrize("command", ["score-text", "spell"])
def test_commands_refuse_a_place_before_the_work(
    command: str, place: str, message: str, tmp_path: Path, capsys: Capture
) -> None:
    text = tmp_path / "a.txt"
    text.write_text("the quick fox")
    given = str(text) if command == "score-text" else "the fox"
    assert main([command, str(tmp_path / "no model"), given, "--out", str(tmp_path / place)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_equal_tensors_and_metadata_give_equal_bytes(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(6.0).reshape(2, 3),
        "a.weight": torch.ones(4, dtype=torch.bfloat16),
        "ü": torch.ones(1),
    }
    tensors["b"] = tensors["b"].reshape(2, 3).T  # not contiguous
    metadata = {"format": "pt", "base_fingerprint": "0f", 'progress "é"': '{"text": "tab\\t\x1f\x7f/😀"}\n'}
    backwards = dict(reversed(metadata.items()))
    # The library's own order of the metadata is random: 25 files that happen to agree are one case in 6 ** 24.
    for number in range(25):
        write_tensors(tmp_path / f"{number}", tensors, metadata=metadata if number % 2 else backwards)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    with safe_open(tmp_path / "0", framework="pt") as file:
        assert {key: text for key, text in file.metadata().items() if key not in (KEY, FORMAT_KEY)} == metadata
        assert sorted(file.keys()) == sorted(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor)
            assert file.get_tensor(name).dtype == tensor.dtype


def test_beside_the_order_of_the_metadata_the_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), "n": torch.arange(3)}
    write_tensors(tmp_path / "ours", tensors, metadata={})
    with safe_open(tmp_path / "ours", framework="pt") as file:
        save_file(tensors, tmp_path / "theirs", metadata=file.metadata())
    ours, theirs = ((tmp_path / name).read_bytes() for name in ("ours", "theirs"))
    size = 8 + int.from_bytes(ours[:8], "little")
    assert json.loads(ours[8:size]) == json.loads(theirs[8:size])
    assert ours[size:] == theirs[size:]


def test_nothing_stays_of_tensors_whose_writer_was_killed(tmp_path: Path) -> None:
    """The library has a file of its own beside the one that it is given: a state of gigabytes would stay for ever."""
    file = tmp_path / "state.safetensors"
    program = (
        "import os, sys, torch, safetensors.torch; from pathlib import Path; from rango.files import write_tensors\n"
        "def save(tensors, path, metadata): (Path(path).parent / '.tmpAbC123').write_text('half'); os._exit(9)\n"
        "safetensors.torch.save_file = save\n"
        "write_tensors(Path(sys.argv[1]), {'w': torch.ones(2)}, metadata={})"
    )
    assert subprocess.run([sys.executable, "-c", program, str(file)], check=False).returncode == 9
    assert any(path.name == ".tmpAbC123" for path in tmp_path.rglob("*"))
    write_tensors(file, {"w": torch.ones(2)}, metadata={})
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_folder_of_tensors_that_cannot_be_removed_is_an_error_and_goes_with_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "state.safetensors"

    def refuse(path: object, **_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("os.rmdir", refuse)
        with pytest.raises(OSError, match="Read-only file system") as caught:
            write_tensors(file, {"w": torch.ones(2)}, metadata={})
    assert caught.value.filename == str(file)
    assert [entry.suffix for entry in tmp_path.iterdir()] == [".parts"]
    write_tensors(file, {"w": torch.ones(2)}, metadata={})
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.safetensors"]


def test_looking_at_a_place_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "c").mkdir()
    check_writable(tmp_path / "c")
    assert (tmp_path / "c").is_dir()


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    file, other = tmp_path / "a*.txt", tmp_path / "abc.txt"
    program = (
        "import os, sys; from pathlib import Path; from rango.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary: temporary.write_text('half'); os._exit(9)"
    )
    for target in (file, other):
        assert subprocess.run([sys.executable, "-c", program, str(target)], check=False).returncode == 9
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_path(file) as living:  # another writer of the same file, which is at work
        living.write_text("first")
        write_text(file, "second")
        assert living.exists()
    assert file.read_text() == "first"
    assert sorted(entry.name[:9] for entry in tmp_path.iterdir()) == [".abc.txt.", "a*.txt"]
    write_text(other, "whole")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a*.txt", "abc.txt"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),  # what tokenizers raise
    ],
)
def test_a_full_disk_names_the_file_and_leaves_the_old_one(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {"w": torch.ones(2)}
    write_tensors(tmp_path / "state", tensors, metadata={})
    before = (tmp_path / "state").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_tensors(tmp_path / "state", {"w": torch.zeros(2)}, metadata={})
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "state"))
    assert (tmp_path / "state").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_device_is_named(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "p.csv").write_text("label,posterior_0,posterior_1\n0,0.5,0.5\n1,0.25,0.75\n")
    assert main(["metrics", str(tmp_path / "p.csv"), "--replicates", "10", "--out", "/dev/full"]) == 1
    assert capsys.readouterr().err == "rango: /dev/full: No space left on device\n"
