"""What is printed where a terminal has no UTF-8: ASCII signs, texts as they are or escaped, and no traceback."""

from __future__ import annotations

import errno
import io
import sys
from pathlib import Path

import pytest

from rango.cli import main
from rango.cli.streams import use_encodable_signs

LOCALE = ("LC_ALL", "LC_CTYPE", "LANG", "PYTHONIOENCODING")


class Printed:
    """Both streams as a program's caller has them: bytes in one encoding."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, encoding: str, **environment: str) -> None:
        for name in LOCALE:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        self.bytes = {name: io.BytesIO() for name in ("stdout", "stderr")}
        self.streams = {name: io.TextIOWrapper(buffer, encoding=encoding) for name, buffer in self.bytes.items()}
        for name, stream in self.streams.items():
            monkeypatch.setattr(sys, name, stream)

    def read(self) -> bytes:
        for stream in self.streams.values():
            stream.flush()
        return b"".join(buffer.getvalue() for buffer in self.bytes.values())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Posteriors of two systems with a class that is not ASCII, costs, and a table of texts."""
    folder = tmp_path_factory.mktemp("streams")
    rows = ["id,label,posterior_sí,posterior_no", *(f"{n},{'sí' if n % 3 else 'no'},0.7,0.3" for n in range(12))]
    (folder / "a.csv").write_text("\n".join(rows), encoding="utf-8")
    (folder / "b.csv").write_text("\n".join(rows).replace("0.7,0.3", "0.6,0.4"), encoding="utf-8")
    costs = "classes: [sí, no]\ndecisions: [sí, no, pass on]\ncosts: [[0, 1, 0.3], [1, 0, 0.3]]\n"
    (folder / "costs.yaml").write_text(costs, encoding="utf-8")
    texts = [f"año {n} con lluvia ↓,{'sí' if n % 2 else 'no'}" for n in range(60)]
    (folder / "rows.csv").write_text("\n".join(["texto,label", *texts]), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("encoding", "environment", "kept"),
    [
        ("ascii", {}, b"a\\xf1o v - +- | ~ ... ^[ \\u0e01"),
        ("cp1252", {}, "año v - ± · ~ … ^[ \\u0e01".encode("cp1252")),
        ("utf-8", {"LC_ALL": "C"}, "año v - +- | ~ ... ^[ ก".encode()),
        ("utf-8", {"LANG": "POSIX"}, "año v - +- | ~ ... ^[ ก".encode()),
        ("utf-8", {"LC_ALL": "C", "PYTHONIOENCODING": "utf-8"}, "año ↓ − ± · ≈ … ␛ ก".encode()),
        ("utf-8", {"LC_ALL": "C.UTF-8"}, "año ↓ − ± · ≈ … ␛ ก".encode()),
        ("utf-8", {}, "año ↓ − ± · ≈ … ␛ ก".encode()),
    ],
)
def test_signs_become_ascii_where_the_terminal_lacks_them(
    monkeypatch: pytest.MonkeyPatch, encoding: str, environment: dict[str, str], kept: bytes
) -> None:
    printed = Printed(monkeypatch, encoding, **environment)
    use_encodable_signs()
    print("año ↓ − ± · ≈ … ␛ ก", end="")
    assert printed.read() == kept


@pytest.mark.parametrize(("encoding", "environment"), [("utf-8", {}), ("ascii", {}), ("utf-8", {"LC_ALL": "C"})])
def test_the_bytes_of_a_path_go_out_as_they_came_in(
    monkeypatch: pytest.MonkeyPatch, encoding: str, environment: dict[str, str]
) -> None:
    printed = Printed(monkeypatch, encoding, **environment)
    use_encodable_signs()
    print("runs/\udcff \ud800", end="")
    assert printed.read() == b"runs/\xff \\ud800"


@pytest.mark.parametrize(
    ("encoding", "environment"), [("ascii", {}), ("cp1252", {}), ("utf-8", {"LC_ALL": "C"})], ids=["ascii", "ansi", "C"]
)
def test_commands_print_tables_errors_and_help(
    monkeypatch: pytest.MonkeyPatch, place: Path, tmp_path: Path, encoding: str, environment: dict[str, str]
) -> None:
    printed = Printed(monkeypatch, encoding, COLUMNS="80", **environment)
    a, b, costs = (str(place / name) for name in ("a.csv", "b.csv", "costs.yaml"))
    commands = {
        ("metrics", a, b, "--replicates", "20"): 0,
        ("compare", a, b, "--replicates", "20"): 0,
        ("decide", a, "--costs", costs, "--out", str(tmp_path / "d.csv"), "--replicates", "20"): 0,
        ("init", str(place / "rows.csv"), "--force"): 0,
        ("tasks", str(place / "rows.csv"), "--show", "1"): 0,
        ("tasks", "ñandú"): 2,
    }
    for command, code in commands.items():
        assert main(command) == code, printed.read().decode(encoding)
    text = printed.read()
    assert b"NCE v" in text
    assert b"v lower, ^ higher is better" in text
    # The class is a text: escaped where the encoding has no code for it, itself elsewhere.
    assert {"ascii": b"s\\xed", "cp1252": b"s\xed", "utf-8": b"s\xc3\xad"}[encoding] in text
    assert all(sign not in text.decode(encoding) for sign in "─↑−")


def test_help_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = Printed(monkeypatch, "ascii", COLUMNS="80")
    for name in ("finetune", "study", "score-text"):
        assert main([name, "--help"]) == 0
    text = printed.read().decode("ascii")
    # What is no sign of the table would stand as an escape.
    assert "\\u" not in text
    assert "\\x" not in text


class FullDisk(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("stderr", [FullDisk(), None])
def test_a_mistake_that_nobody_can_read_has_its_exit_code(
    stderr: io.StringIO | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    assert main(["metrics", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().out == ""
