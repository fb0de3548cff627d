"""`rango metrics`, `calibrate`, `decide` and `compare`: results, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.command import Capture, fails
from helpers.made_posteriors import make

from rango.cli import main
from rango.decisions import Costs, Posteriors, decide, fit_calibrator, read_posteriors, write_posteriors
from rango.decisions.calibrators import Temperature
from rango.errors import InputError
from rango.training.run_folder import Run


def test_metrics_calibrate_decide_compare(run: Path, tmp_path: Path, capsys: Capture) -> None:
    files = {
        name: run / "posteriors" / f"{name}.parquet" for name in ("test-base", "test-adapted", "validation-adapted")
    }
    assert main(["metrics", str(files["test-adapted"]), "--out", str(tmp_path / "metrics.json")]) == 0
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["nce"]["value"] == pytest.approx(Run(run).metrics["test"]["adapted"]["nce"].value)
    fit = ["--fit", str(files["validation-adapted"]), "--method", "temperature"]
    calibrator = ["--calibrator", str(tmp_path / "calibrator.json")]
    apply = ["--apply", str(files["test-adapted"]), "--out"]
    assert main(["calibrate", *fit, *apply, str(tmp_path / "one.parquet"), *calibrator]) == 0
    assert main(["calibrate", *apply, str(tmp_path / "two.parquet"), *calibrator]) == 0
    one, two = (read_posteriors(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    np.testing.assert_array_equal(one.log_posteriors, two.log_posteriors)
    printed = " ".join(capsys.readouterr().out.split())
    assert "calibration loss" in printed
    assert "; 95% interval " in printed
    classes = ["happy", "sad", "angry"]
    costs = {
        "classes": classes,
        "decisions": [*classes, "ask"],
        "costs": [[0, 1, 1, 0.3], [1, 0, 1, 0.3], [9, 9, 0, 0.3]],
    }
    (tmp_path / "costs.yaml").write_text(yaml.safe_dump(costs))
    command = ["decide", str(run), "--costs", str(tmp_path / "costs.yaml"), "--out", str(tmp_path / "decisions.csv")]
    assert main(command) == 0
    lines = (tmp_path / "decisions.csv").read_text().splitlines()
    assert lines[0] == "id,decision,expected_cost,runner_up,runner_up_cost"
    assert len(lines) == 21
    assert (
        main(["compare", str(files["test-base"]), str(files["test-adapted"]), "--out", str(tmp_path / "c.json")]) == 0
    )
    shown = " ".join(capsys.readouterr().out.split())
    sentence = json.loads((tmp_path / "c.json").read_text())["sentence"]
    assert sentence.replace("the first", "test-base").replace("the second", "test-adapted") in shown
    assert json.loads((tmp_path / "c.json").read_text())["sentence"].startswith("On 20 shared instances")


CLASSES = ["billing", "technical", "account"]
COSTS = {
    "classes": CLASSES,
    "decisions": [*CLASSES, "human"],
    "costs": [[0, 1, 1, 0.4], [1, 0, 1, 0.4], [4, 4, 0, 0.4]],
}


def overconfident(n: int = 300) -> Posteriors:
    """Posteriors that are three times as sure as they should be, over three named classes."""
    rng = np.random.default_rng(5)
    truth = Posteriors.from_scores(rng.normal(size=(n, 3)), np.zeros(n, dtype=int))
    labels = (rng.random((n, 1)) > np.exp(truth.log_posteriors).cumsum(axis=1)).sum(axis=1).clip(0, 2)
    ids = [f"q{row}" for row in range(n)]
    return Posteriors.from_scores(3 * truth.log_posteriors, labels, ids, choices=[CLASSES] * n)


def without_labels(posteriors: Posteriors) -> Posteriors:
    return Posteriors(posteriors.log_posteriors, None, posteriors.ids, choices=posteriors.choices)


def decided(*arguments: object) -> list[str]:
    """The decisions that `rango decide` writes to its last argument."""
    out = Path(str(arguments[-1]))
    assert main(["decide", *map(str, arguments[:-1]), "--out", str(out), "--replicates", "100"]) == 0
    return [line.split(",")[1] for line in out.read_text().splitlines()[1:]]


def test_decide_says_what_the_decisions_really_cost(tmp_path: Path, capsys: Capture) -> None:
    posteriors = overconfident()
    write_posteriors(tmp_path / "p.parquet", posteriors)
    (tmp_path / "costs.yaml").write_text(yaml.safe_dump(COSTS))
    decided(tmp_path / "p.parquet", "--costs", tmp_path / "costs.yaml", tmp_path / "d.csv")
    shown = " ".join(capsys.readouterr().out.split())
    costs = Costs.from_yaml(tmp_path / "costs.yaml")
    forecast = decide(posteriors, costs=costs).expected_costs.mean()
    real, ratio = posteriors.expected_cost(costs), posteriors.normalised_expected_cost(costs)
    assert f"mean expected cost {forecast:.3f}, as the posteriors forecast it" in shown
    always = "always deciding 'human'"
    assert f"Warning: Under these costs acting on these posteriors costs significantly more than {always}" in shown
    assert f"It costs {real:.3f} on average (95% interval " in shown
    assert f"the posteriors promise {forecast:.3f}, and {always} costs 0.400: {ratio:.3f} times that (95%" in shown
    assert ratio > 1 > forecast / 0.4


def test_decide_needs_no_labels(tmp_path: Path, capsys: Capture) -> None:
    posteriors = overconfident()
    write_posteriors(tmp_path / "p.parquet", posteriors)
    (tmp_path / "costs.yaml").write_text(yaml.safe_dump(COSTS))
    costs = ["--costs", tmp_path / "costs.yaml"]
    expected = decided(tmp_path / "p.parquet", *costs, tmp_path / "d.csv")
    for ending in ("parquet", "csv", "jsonl", "npz"):
        write_posteriors(tmp_path / f"u.{ending}", without_labels(posteriors))
        capsys.readouterr()
        assert decided(tmp_path / f"u.{ending}", *costs, tmp_path / "d.csv") == expected
        assert "acting on" not in capsys.readouterr().out
    unlabelled, to = tmp_path / "u.parquet", ["--out", tmp_path / "d.csv"]
    message = fails(capsys, "decide", unlabelled, *costs, "--priors", "0.2,0.3,0.5", *to)
    assert "without labels the priors behind the posteriors are not known; give the training priors" in message
    decided(unlabelled, *costs, "--priors", "0.2,0.3,0.5", "--training-priors", "0.4,0.3,0.3", tmp_path / "d.csv")
    message = fails(capsys, "decide", unlabelled, *costs, "--training-priors", "0.2,0.3,0.5", *to)
    assert "--training-priors without --priors" in message
    assert "has no column label" in fails(capsys, "metrics", unlabelled)


def test_costs_and_priors_are_matched_by_name(tmp_path: Path, capsys: Capture) -> None:
    posteriors = overconfident()
    write_posteriors(tmp_path / "p.parquet", posteriors)
    order = [2, 0, 1]
    files = {
        "costs": COSTS,
        "other": {**COSTS, "classes": [CLASSES[k] for k in order], "costs": [COSTS["costs"][k] for k in order]},
        "wrong": {**COSTS, "classes": ["billing", "technic", "account"]},
        "place": {key: COSTS[key] for key in ("decisions", "costs")},
    }
    for name, costs in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(costs))
    p, d = tmp_path / "p.parquet", tmp_path / "d.csv"
    expected = decided(p, "--costs", tmp_path / "costs.yaml", d)
    assert decided(p, "--costs", tmp_path / "other.yaml", d) == expected
    capsys.readouterr()
    assert decided(p, "--costs", tmp_path / "place.yaml", d) == expected
    assert "taken in the order of the choices (billing, technical, account)" in capsys.readouterr().out
    message = fails(capsys, "decide", p, "--costs", tmp_path / "wrong.yaml", "--out", d)
    assert "unknown class of the costs 'technic': did you mean 'technical'?" in message
    write_posteriors(tmp_path / "n.parquet", Posteriors(posteriors.log_posteriors, posteriors.labels))
    decided(tmp_path / "n.parquet", "--costs", tmp_path / "costs.yaml", d)
    assert "in order, because the posteriors name no choices" in capsys.readouterr().out
    for command in (["metrics", tmp_path / "n.parquet"], ["compare", tmp_path / "n.parquet", tmp_path / "n.parquet"]):
        options = ["--costs", tmp_path / "costs.yaml", "--replicates", 20]
        assert main([*map(str, [*command, *options])]) == 0
        assert "in order, because the posteriors name no choices" in capsys.readouterr().out

    with_costs = ["--costs", tmp_path / "costs.yaml"]
    by_place = decided(p, *with_costs, "--priors", "0.2,0.3,0.5", d)
    assert decided(p, *with_costs, "--priors", "account=0.5, billing=0.2,technical=0.3", d) == by_place
    for priors, message in (
        ("acount=0.5,billing=0.2,technical=0.3", "unknown class in --priors 'acount': did you mean 'account'?"),
        ("account=0.5,billing=0.5", "expected each of billing, technical, account once"),
        ("0.5,billing=0.5,0", "expected numbers with commas between"),
        ("1_0e-1,0,0", "expected numbers with commas between"),
    ):
        assert message in fails(capsys, "decide", p, *with_costs, "--priors", priors, "--out", d)


def test_two_files_are_compared_by_the_names_of_their_columns(tmp_path: Path, capsys: Capture) -> None:
    posteriors = overconfident(60)
    other = posteriors.replaced(
        Posteriors.from_scores(0.5 * posteriors.log_posteriors, posteriors.labels).log_posteriors
    )
    write_posteriors(tmp_path / "a.parquet", posteriors)
    write_posteriors(tmp_path / "b.parquet", other)
    order = [2, 0, 1]
    moved = Posteriors(
        other.log_posteriors[:, order],
        np.argsort(order)[other.labels],
        other.ids,
        choices=[[CLASSES[k] for k in order]] * len(other),
    )
    write_posteriors(tmp_path / "moved.parquet", moved)
    (tmp_path / "costs.yaml").write_text(yaml.safe_dump(COSTS))
    written = {}
    for name in ("b", "moved"):
        capsys.readouterr()
        command = ["compare", *(str(tmp_path / f"{file}.parquet") for file in ("a", name)), "--replicates", "50"]
        out = tmp_path / f"{name}.json"
        assert main([*command, "--costs", str(tmp_path / "costs.yaml"), "--out", str(out)]) == 0
        assert ("they were matched by their names" in capsys.readouterr().out) == (name == "moved")
        written[name] = json.loads(out.read_text())
    assert written["moved"]["sentence"] == written["b"]["sentence"]
    for part in ("b", "difference"):
        for name, estimate in written["b"][part].items():
            values = [written["moved"][part][name][key] for key in ("value", "low", "high")]
            assert values == pytest.approx([estimate[key] for key in ("value", "low", "high")])
    line = fails(
        capsys, "decide", tmp_path / "a.parquet", "--costs", tmp_path / "costs.yaml", "--out", tmp_path / "d.csv",
        "--priors", "0.3,0.3,0.4", "--training-priors", "1_0,0,0",
    )  # fmt: skip
    assert "--training-priors is '1_0,0,0'" in line


def test_decide_takes_the_calibrated_posteriors_of_a_run(run: Path, tmp_path: Path, capsys: Capture) -> None:
    classes = ["happy", "sad", "angry"]
    (tmp_path / "costs.yaml").write_text(yaml.safe_dump({**COSTS, "classes": classes, "decisions": [*classes, "ask"]}))
    costs = ["--costs", tmp_path / "costs.yaml"]
    written = decided(run, *costs, tmp_path / "d.csv")
    assert "test, adapted and calibrated" in capsys.readouterr().out
    assert written == decided(run / "posteriors" / "test-calibrated.parquet", *costs, tmp_path / "d.csv")
    # Without the stored posteriors the stored calibrator makes them; without both the adapted ones are named.
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "posteriors" / "test-calibrated.parquet").unlink()
    assert decided(copy, *costs, tmp_path / "d.csv") == written
    assert "adapted and calibrated" in capsys.readouterr().out
    (copy / "calibrator.json").unlink()
    decided(copy, *costs, tmp_path / "d.csv")
    assert "adapted, not calibrated" in capsys.readouterr().out
    record = yaml.safe_load((copy / "run.yaml").read_text())
    (copy / "run.yaml").write_text(yaml.safe_dump({**record, "status": "running"}))
    message = fails(capsys, "decide", copy, *costs, "--out", tmp_path / "d.csv")
    assert "is not complete; repeat its command to go on" in message


def test_decide_takes_an_evaluation_without_labels(tmp_path: Path, capsys: Capture) -> None:
    posteriors = overconfident(30)
    write_posteriors(tmp_path / "e" / "posteriors" / "test-base.parquet", without_labels(posteriors))
    (tmp_path / "e" / "metrics.json").write_text('{"test": {}}')
    (tmp_path / "costs.yaml").write_text(yaml.safe_dump(COSTS))
    assert len(decided(tmp_path / "e", "--costs", tmp_path / "costs.yaml", tmp_path / "d.csv")) == 30
    assert "test, base, not calibrated" in capsys.readouterr().out
    with pytest.raises(InputError, match="these instances have no labels"):
        Run(tmp_path / "e").posteriors("base").nce()


def test_calibrate_needs_labels_only_to_fit(tmp_path: Path, capsys: Capture) -> None:
    posteriors = overconfident(400)
    fit, apply = posteriors.take(range(200)), posteriors.take(range(200, 400))
    for name, part in (("fit", fit), ("apply", apply), ("unlabelled", without_labels(apply))):
        write_posteriors(tmp_path / f"{name}.parquet", part)
    flags = ["--fit", str(tmp_path / "fit.parquet"), "--method", "affine", "--out", str(tmp_path / "c.parquet")]
    assert main(["calibrate", *flags, "--apply", str(tmp_path / "apply.parquet")]) == 0
    labelled = read_posteriors(tmp_path / "c.parquet")
    capsys.readouterr()
    assert main(["calibrate", *flags, "--apply", str(tmp_path / "unlabelled.parquet")]) == 0
    shown = capsys.readouterr().out
    assert "200 instances without labels are calibrated; what that is worth needs labels" in shown
    assert "calibration loss" not in shown
    again = read_posteriors(tmp_path / "c.parquet", need_labels=False)
    assert not again.has_labels
    assert (again.log_posteriors == labelled.log_posteriors).all()


def test_calibrate_refuses_to_fit_on_what_it_is_applied_to(tmp_path: Path, capsys: Capture) -> None:
    posteriors = overconfident(100)
    files = {
        "a": posteriors,
        "overlap": posteriors.take(range(90, 100)).replaced(posteriors.log_posteriors[:10]),
        "n": Posteriors(posteriors.log_posteriors, posteriors.labels),
    }
    for name, part in files.items():
        write_posteriors(tmp_path / f"{name}.parquet", part)

    def command(fit: str, apply: str, out: str = "c") -> list[object]:
        flags = ["--fit", tmp_path / f"{fit}.parquet", "--apply", tmp_path / f"{apply}.parquet"]
        return ["calibrate", *flags, "--method", "temperature", "--out", tmp_path / f"{out}.parquet"]

    for fit, apply in (("a", "a"), ("a", "n"), ("n", "n")):
        assert "--fit and --apply hold the same posteriors; fit on instances" in fails(capsys, *command(fit, apply))
    message = fails(capsys, *command("a", "overlap"))
    assert "10 of the 10 ids in --apply are in --fit too, the first 'q90'" in message
    assert not (tmp_path / "c.parquet").exists()
    assert "is one of the inputs, which would be overwritten" in fails(capsys, *command("a", "overlap", "a"))


def test_no_result_is_written_over_an_input(tmp_path: Path, capsys: Capture) -> None:
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path in paths:
        write_posteriors(path, overconfident(40))
    a, b = paths
    before = [path.read_bytes() for path in paths]
    fit = ["calibrate", "--fit", a, "--apply", b, "--out", tmp_path / "c.parquet", "--calibrator", a]
    for command in (["metrics", a, b, "--out", b], ["compare", a, b, "--out", b], ["compare", a, b, "--page", a], fit):
        message = fails(capsys, *command)
        assert f"{command[-2]} {command[-1]} is one of the inputs, which would be overwritten" in message
    assert [path.read_bytes() for path in paths] == before
    old = tmp_path / "old.json"
    Temperature(scale=2.0).write(old)
    message = fails(capsys, *fit[:-1], old, "--towards", old)
    assert f"--calibrator {old} is one of the inputs, which would be overwritten" in message
    one = tmp_path / "one.json"
    assert f"--out and --calibrator are both {one}" in fails(capsys, *fit[:-3], one, "--calibrator", one)


def test_two_files_of_one_name_have_different_headings(tmp_path: Path, capsys: Capture) -> None:
    posteriors = overconfident(40)
    long = "an-extraordinarily-long-name-of-a-run-that-fits-no-column-of-any-terminal"
    files = [tmp_path / f"{long}-{seed}" / "posteriors" / "test-adapted.parquet" for seed in (1, 2)]
    for file in [*files, tmp_path / "difference.parquet"]:
        write_posteriors(file, posteriors)
    assert main(["compare", *map(str, files), "--replicates", "20"]) == 0
    shown = capsys.readouterr().out
    assert f"of {long}-1 and {long}-2 do not differ" in " ".join(shown.split())
    heading = "".join(shown.split("\u2500")[0].split())
    assert heading.count("-1") == heading.count("-2") == 1
    assert main(["compare", str(files[0]), str(files[0]), "--replicates", "20"]) == 0
    assert "test-adapted (1) and test-adapted (2) do not" in " ".join(capsys.readouterr().out.split())
    assert main(["compare", str(files[0]), str(tmp_path / "difference.parquet"), "--replicates", "20"]) == 0


def test_control_characters_from_data_are_shown_not_obeyed(tmp_path: Path, capsys: Capture) -> None:
    posteriors = overconfident(60)
    names = ["\x1b[31mred", "b\x07ell", "[bold]c"]
    named = Posteriors(posteriors.log_posteriors, posteriors.labels, choices=[names] * 60)
    file = str(tmp_path / "p\x1b]0;title.parquet")
    write_posteriors(file, named)
    (tmp_path / "costs.yaml").write_text(json.dumps({**COSTS, "classes": names, "decisions": [*names, "ask\x9b2J"]}))
    assert main(["metrics", file, "--replicates", "20"]) == 0
    decided(file, "--costs", tmp_path / "costs.yaml", tmp_path / "d.csv")
    assert main(["metrics", str(tmp_path / "\x1b[2Jnone.csv")]) == 2
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert "\u241b[31mred" in shown
    assert "[bold]c" in shown
    assert not [c for c in shown if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160]


def test_compare_refuses_other_instances(run: Path, tmp_path: Path, capsys: Capture) -> None:
    one = Run(run).posteriors("base")
    write_posteriors(tmp_path / "b.parquet", Posteriors(one.log_posteriors, one.labels, ids=("x", *one.ids[1:])))
    assert "x" in fails(capsys, "compare", run / "posteriors" / "test-base.parquet", tmp_path / "b.parquet")


def test_one_choice_has_no_metrics(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "p.jsonl").write_text('{"label": 0, "posteriors": [1.0]}\n' * 4)
    assert "has 1 column; expected at least two choices" in fails(capsys, "metrics", tmp_path / "p.jsonl")


def test_a_result_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    rows = [{"label": k % 2, "posteriors": [0.6, 0.4]} for k in range(6)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = ["metrics", tmp_path / "p.jsonl", "--replicates", 100, "--out"]
    assert "cannot be written to (it is a file); give another" in fails(capsys, *few, tmp_path / "p.jsonl" / "m.json")
    assert "is a folder; give the path of a file" in fails(capsys, *few, tmp_path)


def test_how_a_foreign_file_was_understood_is_said(tmp_path: Path, capsys: Capture) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("id;Label;P0;P1\n=a;1;0,1;0,9\n=b;0;0,8;0,2\n")
    two.write_text("id,label,posterior_0,posterior_1\n=b,0,0.7,0.3\n=a,1,0.2,0.8\n")
    assert main(["compare", str(one), str(two)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for note in ("P0, P1: read as posteriors", "read as decimal commas", "they were matched by their ids"):
        assert note in printed
    (tmp_path / "costs.yaml").write_text("classes: [a, b]\ndecisions: [=a, b]\ncosts: [[0, 1], [1, 0]]\n")
    out = tmp_path / "decisions.csv"
    assert main(["decide", str(two), "--costs", str(tmp_path / "costs.yaml"), "--out", str(out)]) == 0
    assert [line.split(",")[:2] for line in out.read_text().splitlines()[1:]] == [["'=b", "'=a"], ["'=a", "b"]]


def test_a_hole_in_a_table_is_bad_input(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "p.csv").write_text("label,posterior_0,posterior_1,posterior_2\n1,,0.4,0.6\n")
    assert "p.csv:2: posterior_0 is empty" in fails(capsys, "metrics", tmp_path / "p.csv")


def test_a_run_stands_wherever_a_posteriors_file_goes(run: Path, tmp_path: Path, capsys: Capture) -> None:
    """RUN means what one would act on, RUN:STATE any state; what was taken is printed."""
    best = "calibrated" if (run / "posteriors" / "test-calibrated.parquet").is_file() else "adapted"
    base, adapted = (run / "posteriors" / f"test-{state}.parquet" for state in ("base", "adapted"))
    few = ("--replicates", "50")
    assert main(["metrics", str(run), f"{run}:base", str(adapted), *few, "--out", str(tmp_path / "m.json")]) == 0
    printed = capsys.readouterr().out
    assert f"note: {run}, test, {'adapted and calibrated' if best == 'calibrated' else 'adapted, not cal'}" in printed
    assert f"note: {run}, test, base, not calibrated" in printed
    written = json.loads((tmp_path / "m.json").read_text())
    values = [row["nce"]["value"] for row in written.values()]
    assert values == [Run(run).posteriors(state).nce() for state in (best, "base", "adapted")]
    # The same numbers as of the files themselves.
    outputs = []
    for pair in ((base, adapted), (f"{run}:base", f"{run}:adapted")):
        assert main(["compare", *map(str, pair), *few, "--out", str(tmp_path / "c.json")]) == 0
        outputs.append(json.loads((tmp_path / "c.json").read_text())["difference"])
    assert outputs[0] == outputs[1]
    command = ["calibrate", "--fit", str(run), "--apply", str(run), "--method", "temperature"]
    assert main([*command, "--out", str(tmp_path / "calibrated.parquet")]) == 0
    expected = fit_calibrator(Run(run).posteriors("adapted", "validation"), method="temperature")
    np.testing.assert_array_equal(
        read_posteriors(tmp_path / "calibrated.parquet").log_posteriors,
        expected.apply(Run(run).posteriors("adapted")).log_posteriors,
    )
    capsys.readouterr()
    assert "there are: test-adapted" in fails(capsys, "metrics", f"{run}:tuned")
    assert "SOURCES is missing" in fails(capsys, "metrics")


def test_compare_of_three_systems_writes_each_beside_the_first_and_a_page(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = [tmp_path / f"{name}.csv" for name in ("one", "two", "three")]
    for place, file in enumerate(files):
        rows = [f"i{row},{row % 2},{(0.2 + 0.1 * place, 0.6)[row % 2]}" for row in range(30)]
        lines = [f"{row},{1 - float(row.rpartition(',')[2]):.2f}" for row in rows]
        file.write_text("id,label,p_1,p_0\n" + "\n".join(lines) + "\n")
    out, page = tmp_path / "c.json", tmp_path / "c.html"
    few = ["--replicates", "20"]
    assert main(["compare", *map(str, files), *few, "--out", str(out), "--page", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "cross-entropy of three" in printed
    assert printed.rstrip().endswith(str(page))
    assert list(json.loads(out.read_text())) == ["two", "three"]
    assert "Differences" in page.read_text()
    page.unlink()
    line = fails(capsys, "compare", *files, "--page", page, "--priors", "0.5,0.5")
    assert "leave --priors out" in line
    assert not page.exists()


def test_a_calibrator_is_fitted_again_from_few_labels(tmp_path: Path, capsys: Capture) -> None:
    made = {
        name: make(rows, seed=seed) for seed, (name, rows) in enumerate({"old": 400, "few": 60, "test": 200}.items())
    }
    for name, posteriors in made.items():
        ids = [f"{name}{row}" for row in range(len(posteriors))]
        write_posteriors(tmp_path / f"{name}.csv", Posteriors(posteriors.log_posteriors, posteriors.labels, ids))
    old, new, out = tmp_path / "old.json", tmp_path / "new.json", tmp_path / "out.csv"
    apply = ["calibrate", "--apply", str(tmp_path / "test.csv"), "--out", str(out)]
    assert main([*apply, "--fit", str(tmp_path / "old.csv"), "--method", "temperature", "--calibrator", str(old)]) == 0
    # Two thirds of the labels are not known yet.
    lines = (tmp_path / "few.csv").read_text().splitlines()
    head, place = lines[0].split(","), lines[0].split(",").index("label")
    rows = [line.split(",") for line in lines[1:]]
    rows = [
        [("" if row % 3 and k == place else cell) for k, cell in enumerate(cells)] for row, cells in enumerate(rows)
    ]
    few = tmp_path / "few.csv"
    few.write_text("\n".join(",".join(row) for row in [head, *rows]) + "\n")
    towards = [*apply, "--fit", str(few), "--towards", str(old), "--calibrator", str(new)]
    capsys.readouterr()
    assert main(towards) == 0
    printed = capsys.readouterr().out
    assert "the old calibrator counts as " in printed
    assert "labels fix a temperature to ± 10%; here are 20" in printed
    scales = [json.loads(path.read_text())["scale"] for path in (old, new)]
    assert scales[0] != scales[1]
    few.write_text("\n".join(",".join("" if k == place else cell for k, cell in enumerate(row)) for row in rows))
    few.write_text(",".join(head) + "\n" + few.read_text() + "\n")
    assert main(towards) == 0
    assert "no label is known yet, so that the old calibrator stays as it is" in capsys.readouterr().out
    assert json.loads(new.read_text()) == json.loads(old.read_text())
    assert main([*apply, "--fit", str(tmp_path / "old.csv"), "--towards", "identity", "--method", "affine"]) == 0
    assert "--towards without --fit" in fails(capsys, *apply, "--towards", str(old), "--calibrator", str(old))
    assert "--method affine with --towards" in fails(capsys, *towards, "--method", "affine")
    assert "precision is 7; expected a share" in fails(capsys, *towards, "--precision", "7")
