"""The recipes in examples/clusters: each is read, and its own command is run by several workers at once."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rango.cli import app

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = ROOT / "examples" / "clusters"
RECIPES = ("slurm.sh", "skypilot.yaml", "kubernetes.yaml")
WORKERS = 3


def script(recipe: str) -> str:
    """What a worker of the recipe runs, as a script of the shell."""
    text = (CLUSTERS / recipe).read_text(encoding="utf-8")
    if recipe == "slurm.sh":
        return text
    content: dict[str, Any] = yaml.safe_load(text)
    if recipe == "skypilot.yaml":
        return str(content["run"])
    (container,) = content["spec"]["template"]["spec"]["containers"]
    return shlex.join(container["command"])


def variables(recipe: str, worker: int, study: Path, out: Path) -> dict[str, str]:
    """What the scheduler and its user would set for one worker."""
    own = {"STUDY": str(study), "OUT": str(out)}
    return {
        "slurm.sh": {**own, "SLURM_ARRAY_TASK_ID": str(worker), "SLURM_ARRAY_JOB_ID": "17"},
        "skypilot.yaml": {
            **own,
            "SKYPILOT_NODE_RANK": str(worker),
            "SKYPILOT_NUM_NODES": str(WORKERS),
            "SKYPILOT_NUM_GPUS_PER_NODE": "1",
        },
        "kubernetes.yaml": {"JOB_COMPLETION_INDEX": str(worker)},
    }[recipe]


def with_paths(recipe: str, study: Path, out: Path) -> str:
    """The script, with the two paths of the Job, which stand in its command, replaced by ours."""
    command = script(recipe)
    if recipe == "kubernetes.yaml":
        command = command.replace("/study/study.yaml", str(study)).replace("/shared/runs/study", str(out))
    return command


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_command_of_a_recipe_is_one_that_rango_knows(recipe: str) -> None:
    (line,) = re.findall(r"^.*?(rango study .*?)(?: &)?$", script(recipe).replace("exec ", ""), flags=re.MULTILINE)
    tokens = [re.sub(r"\$\{?(\w+).*\}?", r"\1", part) for part in shlex.split(line)]
    command, bound, _ = app.parse_args(tokens[1:], exit_on_error=False, print_error=False)
    assert command.__name__ == "study"
    assert bound.arguments["bank"] == "off", "one worker's bank would be all that there is for the others"
    assert bound.arguments["out"] is not None


def test_the_script_for_slurm_asks_for_what_the_documentation_says() -> None:
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)", script("slurm.sh"), flags=re.MULTILINE))
    assert options["array"] == "0-7"
    assert options["signal"] == "B:TERM@120", "the batch shell has become the command, which saves on SIGTERM"
    assert "requeue" in options
    subprocess.run(["bash", "-n", CLUSTERS / "slurm.sh"], check=True)


def test_the_job_is_indexed_and_writes_one_volume() -> None:
    job = yaml.safe_load((CLUSTERS / "kubernetes.yaml").read_text(encoding="utf-8"))["spec"]
    assert (job["completionMode"], job["completions"]) == ("Indexed", job["parallelism"])
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # required with backoffLimitPerIndex
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert mounts["shared"] == "/shared"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_several_workers_of_a_recipe_do_one_study(recipe: str, checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    study, out = tmp_path / "study.yaml", tmp_path / "shared" / "runs"
    base = {"model": str(checkpoint("phi")), "task": "simulated", "form": "cloze", "train": 12, "validation": 12}
    base |= {"test": 10, "steps": 12, "batch": 4, "device": "cpu", "dtype": "float32"}
    study.write_text(yaml.safe_dump({"name": "s", "base": base, "vary": {"lora.rank": [1, 2, 3, 4, 5]}}))
    binary = tmp_path / "bin" / "rango"  # the package under test, whatever is installed
    binary.parent.mkdir()
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -m rango "$@"\n')
    binary.chmod(0o755)
    path = f"{binary.parent}{os.pathsep}{os.environ['PATH']}"
    shared = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            ["bash", "-c", with_paths(recipe, study, out)],
            env={**shared, **variables(recipe, worker, study, out)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for worker in range(WORKERS)
    ]  # fmt: skip
    ends = [worker.communicate(timeout=400) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * WORKERS, [error[-1500:] for _, error in ends]
    # Each of them shows the whole table, whoever did the work.
    assert all("Prior only" in output for output, _ in ends)
    with (out / "table.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "configuration"]
    assert [bool(row["nce"]) for row in rows] == [True] * 5
    assert (out / "report.html").stat().st_size > 10_000
    assert not list((out / "locks").glob("*.lock"))
    assert not [entry for entry in out.rglob("*") if entry.name.endswith(".unfinished")]
