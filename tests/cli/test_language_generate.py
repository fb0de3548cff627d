"""`rango generate`: the continuation alone on the standard output, the rest on stderr; bad input in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import without_loading

from rango.cli import main
from rango.language.generate import generate
from rango.language.options import GenerateOptions
from rango.models.loading import load_model

Checkpoint = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("architecture", ["phi", "rango_lstm"])
def test_the_continuation_is_printed(checkpoint: Checkpoint, capsys: Capture, architecture: str) -> None:
    folder = checkpoint(architecture)
    flags = ["--temperature", "0.8", "--top-p", "0.9", "--seed", "3", "--max-tokens", "12"]
    expected = generate(
        load_model(folder), "Bo sings", options=GenerateOptions(temperature=0.8, top_p=0.9, seed=3, max_tokens=12)
    )
    text = "".join(expected)
    assert main(["generate", str(folder), "Bo sings", *flags]) == 0
    captured = capsys.readouterr()
    assert captured.out == text + "\n"
    assert "Bo sings" in captured.err
    assert "tokens/s" in captured.err
    assert main(["generate", str(folder), "Bo sings", *flags, "--quiet"]) == 0
    assert capsys.readouterr() == (text + "\n", "")


def test_a_file_has_the_same_keys(checkpoint: Checkpoint, tmp_path: Path, capsys: Capture) -> None:
    settings = f"model: {checkpoint('phi')}\nprompt: Bo\nmax-tokens: 5\ntemperature: 0\n"
    (tmp_path / "generate.yaml").write_text(settings)
    assert main(["generate", "--config", str(tmp_path / "generate.yaml"), "--quiet"]) == 0
    from_file = capsys.readouterr().out
    flags = ["--max-tokens", "5", "--temperature", "0", "--quiet"]
    assert main(["generate", str(checkpoint("phi")), "Bo", *flags]) == 0
    assert capsys.readouterr().out == from_file


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MODEL is missing"),
        (["MODEL"], "PROMPT is missing; give it on the command line or as `prompt:` in --config"),
        (["MODEL", "a", "--top-p", "2"], "top-p"),
        (["MODEL", "a", "--tempreature", "1"], "--temperature"),
        (["MODEL", "a", "--temperature", "inf"], "temperature is 'inf': input should be a finite number"),
        (
            ["MODEL", "a", "--seed", str(2**64)],
            "seed is '18446744073709551616': input should be less than 92233720368547",
        ),
        (["MODEL", "x\udcff"], "the prompt: byte 0xff at character 2 is not UTF-8; give UTF-8 text"),
        (["NONE/x/y", "a"], "does not exist; expected a Hub id or a folder"),
        (["MODEL", "tea " * 300], "reads at most 128"),
        (["MODEL", "a", "--adapter", "NONE"], "holds no adapter_config.json"),
    ],
)
def test_bad_input(arguments: list[str], message: str, checkpoint: Checkpoint, capsys: Capture) -> None:
    places = {"MODEL": str(checkpoint("phi"))}
    capsys.readouterr()  # what transformers says when it writes the checkpoint
    assert main(["generate", *(places.get(argument, argument) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert message.replace("-", "_") in captured.err.replace("-", "_")
    assert without_loading(captured.err).count("\n") == 1
    assert captured.out == ""
