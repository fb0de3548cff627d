"""What the README tells people to type works: its commands parse, its Python runs, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rango.cli import app
from rango.demo import BASE
from rango.language.pretrain import pretrain
from rango.tasks import simulated_narratives

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "rango"
    function, bound, _ = app.parse_args(arguments, print_error=False, exit_on_error=False)
    assert function.__name__ == arguments[0].replace("-", "_")
    assert bound.arguments


def test_the_two_commands_are_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    assert re.search(r"^exec make test$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    small = BASE.model_copy(update={"tokens": 20_000, "hidden": 32, "layers": 1})
    pretrain(simulated_narratives(2000), out=Path("runs/demo-base"), config=small)
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line]) <= 7
    exec(compile(code, "README.md", "exec"), {})
    assert re.fullmatch(r"error 0\.\d+ -> 0\.\d+, NCE \d\.\d+ -> \d\.\d+\n", capsys.readouterr().out)


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)", README):
        assert (ROOT / link).exists(), link


def test_the_true_output_of_the_demo_is_shown() -> None:
    output = README.split("`make demo` ends with this")[1].split("```")[1]
    for words in ("Error rate", "NCE", "Prior", "Base", "Adapted", "95% intervals"):
        assert words.casefold() in output.casefold()
