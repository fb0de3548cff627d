"""The harness's prompts, letter by letter; with the real model, its log-likelihoods and its acc and acc_norm."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command import Capture, fails

from rango.errors import InputError
from rango.models.gguf import WHEELS, find_gguf
from rango.models.loading import load_model
from rango.options import ScoringOptions
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import score
from rango.scoring.trees import encode
from rango.tasks import few_shot, hellaswag, load_task, show, socialiqa
from rango.tasks.harness import hellaswag_prompt, ready_made, socialiqa_prompt
from rango.tasks.sources import Row, file_rows
from rango.tasks.task import Instance, Prompt, Task

DATA = Path(__file__).parents[2].parent / "shared" / "data"
RECORDED = Path(__file__).parent / "recorded" / "harness_smollm2.json"


def row(**values: Any) -> Row:
    return Row(1, "file.jsonl:1", values)


def test_socialiqa_is_asked_as_the_harness_asks_it() -> None:
    values = {"context": "Bo ran. ", "question": "Why?", "answerA": "a", "answerB": "to win ", "answerC": "B, too"}
    # The white space of the data stays, and a choice's characters are all of its own.
    expected = Prompt("Q: Bo ran.  Why?\nA:", (" a", " to win ", " B, too"), (1, 7, 6))
    assert socialiqa_prompt(row(**values)) == expected
    with pytest.raises(InputError, match=r"file\.jsonl:1: question is missing; --prompt lm-eval needs context, quest"):
        socialiqa_prompt(row(context="Bo ran."))


def test_hellaswag_is_asked_as_the_harness_asks_it() -> None:
    endings = ["[step] Wait.", "go  home", " sing [title] Now", "x"]
    values = {
        "activity_label": "Tea",
        "ctx_a": "[header] How [title] Boil it.",
        "ctx_b": "he And Ann",
        "endings": endings,
    }
    prompt = hellaswag_prompt(row(**values))
    assert prompt.trunk == "Tea:  How. Boil it. He and ann".replace("  ", " ")
    assert prompt.branches == ("  Wait.", " go home", " sing. Now", " x")
    assert prompt.characters == (6, 7, 9, 1)
    # White space at the end of a prompt is moved to the choice, whose length does not count it.
    values |= {"ctx_a": "Boil it. [step]", "ctx_b": "", "endings": ["a", "b", "c", "d"]}
    moved = hellaswag_prompt(row(**values))
    assert (moved.trunk, moved.branches[0], moved.characters) == ("Tea: Boil it.", "  a", (1, 1, 1, 1))
    with pytest.raises(InputError, match="ctx_a is missing; --prompt lm-eval needs activity_label, ctx_a, ctx_b as"):
        hellaswag_prompt(row(activity_label="Tea", ctx="Boil it."))


def made(folder: Path, count: int = 12) -> Path:
    names = ("train", "dev")
    for name in names:
        rows = [
            {"context": f"{name} {n} had tea.", "question": "Why?", "answerA": f"a{n}", "answerB": "b ", "answerC": "c"}
            for n in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(values) + "\n" for values in rows))
        (folder / f"{name}-labels.lst").write_text("2\n" * count)
    return folder


def test_the_option_changes_the_words_alone(tmp_path: Path) -> None:
    sizes = {"data": made(tmp_path), "train": 6, "validation": 4, "test": 8}
    own, theirs = (load_task("socialiqa", prompt=prompt, **sizes) for prompt in ("own", "lm-eval"))
    assert own.fingerprint == theirs.fingerprint
    prompt = theirs.prompt(theirs.test[0], "cloze")
    assert prompt.trunk == f"Q: {theirs.test[0].context} Why?\nA:"
    assert prompt.branches[1] == " b "
    # Shots are answered in the same words, with a blank line behind each as in the harness.
    shot = few_shot(theirs, shots=1, seed=0).prompt(theirs.test[0], "cloze")
    assert shot.trunk.endswith(f"A: b \n\n{prompt.trunk}")
    assert shot.characters == prompt.characters
    assert "cloze form" in show(theirs, 1)
    assert "letter form" not in show(theirs, 1)
    with pytest.raises(InputError, match="the prompts of lm-eval are of the cloze form; leave --form letter out"):
        theirs.prompt(theirs.test[0], "letter")


def test_a_task_that_the_harness_does_not_have_is_refused(capsys: Capture, tmp_path: Path) -> None:
    line = fails(capsys, "evaluate", "x/y", "simulated", "--prompt", "lm-eval", "--out", tmp_path / "out")
    assert "prompt is lm-eval but lm-evaluation-harness has no task simulated: only socialiqa and hellaswag" in line


def instances_of(name: str, count: int) -> tuple[Instance, ...]:
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} in ../shared/data")
    if name == "socialiqa":
        rows = socialiqa.folder_rows(DATA / name, "dev")[:count]
        return tuple(socialiqa.read_row(row, "dev", prompts="lm-eval") for row in rows)
    instances = []
    for read in islice(file_rows(DATA / name / "hellaswag_val.jsonl.gz"), count):
        # The copy has the two parts of the context joined; see benchmarks/harness_parity.py.
        beginning, dot, last = read.values["ctx"].rpartition(". ")
        activity = bool(dot) and read.values["domain"] == "activitynet"
        parts = {"ctx_a": beginning + ".", "ctx_b": last} if activity else {"ctx_a": read.values["ctx"], "ctx_b": ""}
        values = {key: value for key, value in read.values.items() if key != "ctx"} | parts
        instances.append(hellaswag.read_row(read._replace(values=values), "validation", prompts="lm-eval"))
    return tuple(instances)


@pytest.mark.parametrize("count", [4, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["socialiqa", "hellaswag"])
def test_a_real_model_scores_as_in_the_harness(name: str, count: int) -> None:
    try:
        find_gguf("smollm2-135m")
    except InputError:
        pytest.skip(f"no model smollm2-135m: {WHEELS['smollm2-135m'].install}")
    recorded = json.loads(RECORDED.read_text())
    model = load_model("smollm2-135m", dtype="float32", device="cpu")
    assert model.fingerprint == recorded["fingerprint"]
    instances = instances_of(name, count)
    assert [instance.id for instance in instances] == recorded[name]["ids"][:count]
    trees = encode(model, instances, task=Task(name, (), (), instances, ready_made), form="cloze")
    scores = score(probe_reader(model), trees, options=ScoringOptions(), form="cloze").values  # (N, K)
    np.testing.assert_allclose(scores, recorded[name]["log_likelihoods"][:count], rtol=0, atol=1e-4)
    if count == len(recorded[name]["ids"]):
        labels = np.array([instance.answer for instance in instances])
        lengths = np.array([tree.lengths("characters") for tree in trees])
        assert (scores.argmax(axis=1) == labels).mean() == pytest.approx(recorded[name]["acc"])
        assert ((scores / lengths).argmax(axis=1) == labels).mean() == pytest.approx(recorded[name]["acc_norm"])
