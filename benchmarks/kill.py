"""Does a study that is killed again and again end with the same table, to the last byte, as one left in peace?

    python benchmarks/kill.py [--kills 20] [--bank on|off|auto] [--workers 1] [--seed 0] [--out runs/bench-kill]

A small study (a model it pre-trains, a base, a bank of six runs, a run with dropout) is started as a process group of
its own and the whole group is killed with SIGKILL at a random moment, then the same command is repeated. A study that
reaches its end before its moment is compared, and the next begins afresh. One thread for each worker. Ends with one
line of JSON; exit code 1 if a table differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

STUDY = {
    "name": "kill",
    "models": {
        "lm": {"texts": "simulated", "lines": 500, "hidden": 16, "layers": 1, "heads": 2, "vocabulary": 300,
               "context": 128, "tokens": 20000, "batch_tokens": 512, "device": "cpu", "dtype": "float32"},
    },
    "base": {"model": "lm", "task": "simulated", "form": "cloze", "train": 40, "validation": 20, "test": 20,
             "steps": 30, "batch": 4, "validate_every": 3, "learning_rate": 0.01, "device": "cpu", "dtype": "float32"},
    "runs": [{"lora.rank": 1}, {"lora.rank": 2}, {"lora.rank": 4},
             {"lora.rank": 2, "lora.dropout": 0.1, "adaptation": "mc-dropout"}],
    "seeds": [0, 1],
}  # fmt: skip


def start(file: Path, out: Path, log: Path, options: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rango", "study", str(file), "--out", str(out), "--quiet", *options]
    with log.open("ab") as stream:
        return subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.wait() != 0:
        raise SystemExit(f"the study ended with {process.returncode}; see {log}")


def stage(out: Path) -> str:
    """What was being done: a killed worker leaves the lock of its item."""
    held = [file.stem for file in (out / "locks").glob("*.lock")]
    kinds = {"models": "model", "bases": "base", "runs": "run"}
    for name in held:
        for folder, kind in kinds.items():
            if name.startswith("lm-") or (out / folder / name).exists():
                return "model" if name.startswith("lm-") else kind
    return "bank or base" if held else "between"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--bank", choices=["on", "off", "auto"], default="on")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-kill"))
    arguments = parser.parse_args()
    options = ["--bank", arguments.bank, "--workers", str(arguments.workers)]
    out, generator = arguments.out, random.Random(arguments.seed)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    file, log = out / "kill.yaml", out / "log.txt"
    file.write_text(json.dumps(STUDY))
    began = time.perf_counter()
    finish(start(file, out / "peace", log, options), log)
    whole = time.perf_counter() - began
    expected = (out / "peace" / "table.csv").read_bytes()
    kills, equal, rounds, stages, unfinished = 0, 0, 0, [], True
    while kills < arguments.kills or unfinished:
        folder = out / str(rounds)
        process = start(file, folder, log, options)
        try:
            if kills < arguments.kills:
                process.wait(timeout=generator.uniform(0.2 * whole, whole))
            finish(process, log)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            stages.append(stage(folder))
            unfinished = True
            kills += 1
            print(f"kill {kills}: {stages[-1]}", flush=True)
            continue
        rounds, unfinished = rounds + 1, False
        equal += (folder / "table.csv").read_bytes() == expected
        print(f"study {rounds} at its end after {kills} kills, {equal} of {rounds} tables equal", flush=True)
    found = {name: stages.count(name) for name in sorted(set(stages))}
    figures: dict[str, object] = {"bank": arguments.bank, "workers": arguments.workers}
    figures |= {"kills": kills, "studies": rounds, "equal": equal, "seconds_undisturbed": round(whole, 1)}
    print(json.dumps({"benchmark": "kill", **figures, "killed_in": found}))
    sys.exit(equal != rounds)


if __name__ == "__main__":
    main()
