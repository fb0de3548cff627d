"""Long helps in parts: every option stands in one, and the lines fit narrow terminals."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from rango.cli import app, main
from rango.cli.groups import show_in_groups
from rango.options import FinetuneConfig


def panels(capsys: pytest.CaptureFixture[str], *command: str) -> dict[str, str]:
    """Title of each part of a help -> its lines."""
    assert main([*command, "--help"]) == 0
    return dict(re.findall(r"╭─ ([^─]+) ─+╮\n(.*?)╰", capsys.readouterr().out, flags=re.DOTALL))


@pytest.mark.parametrize(
    ("command", "titles"),
    [
        ("finetune", ["Data", "Model", "Training", "LoRA", "Scoring", "Output", "Options"]),
        ("evaluate", ["Data", "Model", "Scoring", "Output", "Options"]),
        ("study", ["Study", "Work", "Output", "Options"]),
    ],
)
def test_every_option_stands_in_a_group(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, titles: list[str]
) -> None:
    monkeypatch.setattr(app, "console", Console(width=100))
    shown = panels(capsys, command)
    assert list(shown) == titles, "an option without a group stands under Parameters"
    assert re.findall("--[a-z.-]+", shown["Options"]) == ["--config"]


def test_options_stand_where_a_person_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "console", Console(width=60))
    shown = panels(capsys, "finetune")
    flags = {"Data": "--task --train", "Model": "--quantise", "Training": "--learning-rate", "LoRA": "--lora.rank"}
    flags |= {"Scoring": "--form --batch-tokens", "Output": "--out --quiet"}
    for title, flag in [(title, flag) for title, names in flags.items() for flag in names.split()]:
        assert [name for name, text in shown.items() if re.search(rf"{re.escape(flag)}[ \n]", text)] == [title], flag
    assert max(len(line) for text in shown.values() for line in text.splitlines()) == 60


@pytest.mark.parametrize("width", [60, 80])
def test_no_name_of_an_option_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr(app, "console", Console(width=width))
    lines = panels(capsys, "finetune")["Training"].splitlines()
    assert [line for line in lines if line.startswith("│   --no-gradient-checkpointing  ")]
    # A list is given or left out: there is no flag that empties one.
    assert "empty" not in panels(capsys, "finetune")["LoRA"]


def test_commands_stand_in_groups_in_the_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    shown = panels(capsys)
    assert list(shown) == ["Adapt", "Judge", "Data and models", "Language models", "Options"]
    names = re.findall(r"^│ (\w+)  ", shown["Adapt"], flags=re.MULTILINE)
    assert names[:3] == ["init", "finetune", "predict"]


def test_groups_are_given_once_and_change_nothing_else() -> None:
    show_in_groups(FinetuneConfig)
    before = {name: list(field.metadata) for name, field in FinetuneConfig.model_fields.items()}
    show_in_groups(FinetuneConfig)
    assert {name: list(field.metadata) for name, field in FinetuneConfig.model_fields.items()} == before
    assert FinetuneConfig.build({"model": "m", "task": "t", "batch": 2}).batch == 2
