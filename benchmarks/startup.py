"""How long a command takes to answer when it need not compute: help, a refusal, a file of posteriors, a finished run.

    python benchmarks/startup.py [--repetitions 10] [--only NAME ...] [--model]

Every command runs as a process of its own, in turn with the others, in a folder with a tiny model, a small file of
posteriors and a finished run. Printed are medians of the seconds on the clock and of the processor (the process with
its children), beside the goal. `python -c pass` is the floor under all of them. With --model also what scoring with a
tiny model takes, and of that the import of torch and of transformers. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

from measuring import conditions, record

TASK = "--train 8 --validation 8 --test 8 --form cloze"
LM = "--hidden 16 --layers 1 --heads 2 --vocabulary 270 --context 128 --tokens 2000 --batch-tokens 512"
FINISHED = f"finetune model simulated {TASK} --steps 1 --out run"
# What is measured: name, arguments of `rango`, seconds aimed at, exit code.
ANSWERS: list[tuple[str, str, float | None, int]] = [
    ("help", "--help", 0.3, 0),
    ("version", "--version", 0.3, 0),
    ("help of finetune", "finetune --help", None, 0),
    ("tasks", "tasks", None, 0),
    ("metrics FILE", "metrics POSTERIORS.csv", 1.0, 0),
    ("finetune, finished run", FINISHED, 1.0, 0),
    ("finetune", "finetune ./NOWHERE simulated --out new", 1.5, 2),
    ("predict", "predict ./NOWHERE rows.jsonl --out new.csv", 1.5, 2),
    ("study", "study NOWHERE.yaml", 1.5, 2),
    ("export", "export NOWHERE --out new", 1.5, 2),
    ("init", "init NOWHERE.csv", 1.5, 2),
    ("demo", "demo --out POSTERIORS.csv/demo", 1.5, 2),
    ("evaluate", "evaluate ./NOWHERE simulated --out new", 1.5, 2),
    ("metrics", "metrics NOWHERE.csv", 1.5, 2),
    ("compare", "compare NOWHERE.csv NOWHERE.csv", 1.5, 2),
    ("calibrate", "calibrate --fit NOWHERE.csv --apply NOWHERE.csv --method temperature --out new.csv", 1.5, 2),
    ("decide", "decide NOWHERE.csv --costs abstain=0.3 --out new.csv", 1.5, 2),
    ("gate", "gate NOWHERE.csv --costs abstain=0.3", 1.5, 2),
    ("plan", "plan NOWHERE.csv", 1.5, 2),
    ("report", "report NOWHERE", 1.5, 2),
    ("tasks of a folder", "tasks ./NOWHERE", 1.5, 2),
    ("models", "models ./NOWHERE", 1.5, 2),
    ("pretrain", "pretrain NOWHERE.txt --out new", 1.5, 2),
    ("generate", "generate ./NOWHERE Ann", 1.5, 2),
    ("score-text", "score-text ./NOWHERE POSTERIORS.csv", 1.5, 2),
    ("spell", "spell ./NOWHERE Ann", 1.5, 2),
]
RANGO = (sys.executable, "-m", "rango")


def prepare(folder: Path) -> None:
    """A model, a finished run and 1,000 posteriors of three choices."""
    import numpy as np

    rng = np.random.default_rng(0)
    posteriors, labels = rng.dirichlet(np.ones(3), size=1000), rng.integers(3, size=1000)
    rows = [
        f"{number},{label},{','.join(map(str, p))}"
        for number, (label, p) in enumerate(zip(labels, posteriors, strict=True))
    ]
    (folder / "POSTERIORS.csv").write_text(
        "\n".join(["id,label,probability_0,probability_1,probability_2", *rows]) + "\n"
    )
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / "text.txt").write_text("Ann sings in the rain. Bo asks why.\n" * 200)
    for arguments in (f"pretrain text.txt --out model {LM}", FINISHED):
        done = subprocess.run([*RANGO, *arguments.split()], cwd=folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"rango {arguments}: {done.stderr}")


def measure(command: list[str], folder: Path, code: int) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != code:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode} instead of {code}: {done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--only", nargs="+", help="names of the first column")
    parser.add_argument("--model", action="store_true")
    given = parser.parse_args()
    python = [sys.executable, "-c"]
    commands = {"python -c pass": ([*python, "pass"], None, 0)}
    commands |= {name: ([*RANGO, *arguments.split()], goal, code) for name, arguments, goal, code in ANSWERS}
    if given.model:
        commands["import torch"] = ([*python, "import torch"], None, 0)
        commands["import transformers' Phi"] = ([*python, "from transformers import PhiForCausalLM"], None, 0)
        commands["evaluate, 8 instances"] = (
            [*RANGO, "evaluate", "model", "simulated", *TASK.split(), "--out", "evaluation"], None, 0
        )  # fmt: skip
    if given.only:
        commands = {name: command for name, command in commands.items() if name in given.only}
    setting = conditions(dtype="float32", device="cpu", threads=1)
    libraries = ("cyclopts", "pydantic", "numpy", "matplotlib")
    print(", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in libraries)]))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        # The first round fills the caches of the disk and is not counted. Commands take turns, so that a busy moment of
        # the machine falls on all of them.
        for number in range(given.repetitions + 1):
            for name, (command, _, code) in commands.items():
                shutil.rmtree(Path(folder) / "evaluation", ignore_errors=True)
                both = measure(command, Path(folder), code)
                if number > 0:
                    times[name].append(both)
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    for name, (wall, processor) in medians.items():
        goal = commands[name][1]
        aim = "" if goal is None else f"  goal {goal} s{'' if wall <= goal else ', missed'}"
        print(f"{name:24} {wall:6.2f} s, processor {processor:6.2f} s{aim}")
    seconds = {name: [round(wall, 3), round(processor, 3)] for name, (wall, processor) in medians.items()}
    record("startup", {"repetitions": given.repetitions, "wall_and_processor_seconds": seconds}, setting)


if __name__ == "__main__":
    main()
