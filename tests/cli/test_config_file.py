"""`--config FILE.yaml`: the same keys as flags, flags that win, all mistakes at once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from helpers.command import Capture, fails

from rango.cli import main
from rango.console import Screen


def test_small_commands_take_a_file_too(run: Path, tmp_path: Path, capsys: Capture) -> None:
    file = run / "posteriors" / "test-adapted.parquet"
    settings = {
        "sources": [str(file)],
        "priors": [0.2, 0.3, 0.5],
        "replicates": 100,
        "out": str(tmp_path / "yaml.json"),
    }
    (tmp_path / "metrics.yaml").write_text(yaml.safe_dump(settings))
    flags = ["--priors", "0.2,0.3,0.5", "--replicates", "100", "--out", str(tmp_path / "flags.json")]
    assert main(["metrics", "--config", str(tmp_path / "metrics.yaml")]) == 0
    assert main(["metrics", str(file), *flags]) == 0
    assert (tmp_path / "yaml.json").read_bytes() == (tmp_path / "flags.json").read_bytes()
    assert (
        main(["metrics", str(file), "--config", str(tmp_path / "metrics.yaml"), "--out", str(tmp_path / "o.json")]) == 0
    )
    assert (tmp_path / "o.json").is_file()
    (tmp_path / "metrics.yaml").write_text(yaml.safe_dump({**settings, "prior": "x"}))
    assert "'prior': did you mean 'priors'?" in fails(capsys, "metrics", "--config", tmp_path / "metrics.yaml")
    assert "--config has no file" in fails(capsys, "demo", "--config")


@pytest.mark.parametrize(
    ("command", "settings", "message"),
    [
        ("finetune", {"model": "m", "task": "t", "out": 3}, "out is 3: expected a path, as text"),
        ("evaluate", {"model": "m", "task": "t", "out": ["a"]}, "out is ['a']: expected a path, as text"),
        ("evaluate", {"model": 3, "task": "t", "out": "a"}, "model is 3"),
        ("pretrain", {"texts": 3, "out": "a"}, "texts.0 is 3: expected a path, as text"),
        ("pretrain", {"texts": ["a.txt", 3], "out": "a"}, "texts.1 is 3: expected a path, as text"),
        ("pretrain", {"texts": "none.txt", "out": "OUT"}, "none.txt does not exist"),
        ("finetune", {"learning-rate": 0.1, "learning_rate": 0.2}, "learning_rate stands twice, spelt with - and with"),
        ("finetune", {"lora": {"a-b": 1, "a_b": 2}}, "a_b stands twice, spelt with - and with _; keep one of them"),
        ("tasks", {"data-seed": 1, "data_seed": 2}, "data_seed stands twice, spelt with - and with _"),
        ("study", {"file": "STUDY"}, "learning_rate stands twice, spelt with - and with _"),
    ],
)
def test_a_file_with_values_of_the_wrong_kind(
    command: str, settings: dict[str, Any], message: str, tmp_path: Path, capsys: Capture
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("base: {}\nruns:\n- {learning-rate: 0.1, learning_rate: 0.2}\n")
    places = {"STUDY": str(study), "OUT": str(tmp_path / "out")}
    settings = {key: places.get(value, value) if isinstance(value, str) else value for key, value in settings.items()}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(settings))
    assert message in fails(capsys, command, "--config", tmp_path / "x.yaml")
    assert not (tmp_path / "out").exists()


def test_one_text_or_a_list_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[Any], dict[str, Any]]] = []
    monkeypatch.setattr("rango.language.pretrain.pretrain", lambda texts, **named: calls.append((texts, named)))
    text, out = tmp_path / "a.txt", tmp_path / "model"
    text.write_text("Ann sings.\n")
    for texts in (str(text), [str(text)]):
        (tmp_path / "x.yaml").write_text(
            yaml.safe_dump({"texts": texts, "out": str(out), "model": "lstm", "lstm": {"dropout": 0.5}})
        )
        assert main(["pretrain", "--config", str(tmp_path / "x.yaml"), "--hidden", "16"]) == 0
        files, named = calls.pop()
        assert ([file.name for file in files], named["out"]) == ([text.name], out)
        assert (named["config"].lstm.dropout, named["config"].hidden) == (0.5, 16)


def test_a_config_file_in_either_form_and_flags_that_win(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("task: simulated\nshow: 1\ntrain: 9\n")
    for form in (["--config", str(file)], [f"--config={file}"]):
        assert main(["tasks", *form, "--train=8", "--validation", "4", "--test", "6"]) == 0
        shown = capsys.readouterr().out
        assert "train 8, validation 4, test 6" in shown
        assert shown.count("letter form") == 1
    calls: list[tuple[Path, int, bool]] = []

    def run_demo(out: Path, *, seed: int, screen: Screen) -> SimpleNamespace:
        calls.append((out, seed, screen.quiet))
        return SimpleNamespace(path=out)

    monkeypatch.setattr("rango.demo.run_demo", run_demo)
    monkeypatch.setattr("rango.reports.run.terminal.print_result", lambda *_, **__: None)
    file.write_text(f"seed: 4\nquiet: true\nout: {tmp_path / 'demo'}\n")
    assert main(["demo", "--seed=3", f"--config={file}"]) == 0
    assert main(["demo", "--config", str(file)]) == 0
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0  # a file is not remembered
    assert calls == [(tmp_path / "demo", 3, True), (tmp_path / "demo", 4, True), (tmp_path / "demo", 0, False)]
    for empty in (["--config"], ["--config="]):
        assert "--config has no file; give the path of a YAML file" in fails(capsys, "demo", *empty)


def test_all_mistakes_of_a_file_at_once(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("{model: 3, lora: {rnk: 2, rank: 0}, steps: x, outt: a, other-data: true}\n")
    line = fails(capsys, "finetune", "--config", file)
    for mistake in (
        "model is 3: expected a text",
        "unknown key 'lora.rnk': did you mean 'lora.rank'?",
        "lora.rank is 0: input should be greater than or equal to 1",
        "steps is 'x': expected a whole number",
        "unknown key 'outt': did you mean 'out'?",
        "unknown key 'other_data'",
    ):
        assert mistake in line


def test_all_that_is_missing_at_once(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("task: simulated\n")
    for arguments, names in (((), ("MODEL", "TASK", "--out")), (("--config", file), ("MODEL", "--out"))):
        line = fails(capsys, "finetune", *arguments)
        assert [part.split()[0] for part in line.removeprefix("rango: ").split("; ") if "missing" in part] == [*names]
    assert "--seed has no value; give one behind it" in fails(capsys, "finetune", "m", "t", "--seed")


@pytest.mark.parametrize("number", ["1_0", "0x10", "10.7", "1e2", "١٠", " 3"])
def test_a_flag_takes_a_number_as_a_person_writes_it(number: str, capsys: Capture) -> None:
    for flags in (("tasks", "simulated", "--show"), ("tasks", "simulated", "--train"), ("metrics", "x", "--seed")):
        assert f"{flags[-1]} is {number!r}; expected a whole number in plain digits" in fails(capsys, *flags, number)
    if number in ("1_0", "١٠", " 3"):
        line = fails(capsys, "study", "x", "--ray", "local", "--gpus", number)
        assert f"--gpus is {number!r}; expected a number in plain digits, such as 0.5" in line
        assert f"--threshold is {number!r}; expected nats" in fails(
            capsys, "score-text", "m", "x", "--threshold", number
        )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seed", "-1"), "for --seed. Must be >= 0"),
        (("--replicates", "-1"), "for --replicates. Must be >= 0"),
        (("--replicates", "9999999999999"), "for --replicates. Must be <= 1000000"),
    ],
)
def test_a_number_that_nothing_can_be_done_with_is_refused(
    flags: tuple[str, ...], message: str, capsys: Capture
) -> None:
    assert message in fails(capsys, "metrics", "x.csv", *flags)


@pytest.mark.parametrize("costs", [{"abstain": 0.3}, "abstain=0.3", "costs.yaml"])
def test_costs_are_a_mapping_a_rule_or_a_path(costs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("costs.yaml").write_text("abstain: 0.3\n")
    Path("p.csv").write_text("label,posterior_0,posterior_1\n" + "0,0.9,0.1\n1,0.4,0.6\n" * 20)
    Path("x.yaml").write_text(yaml.safe_dump({"costs": costs}))
    assert main(["decide", "p.csv", "--out", "d.csv", "--config", "x.yaml"]) == 0
    assert "abstain" in Path("d.csv").read_text()
