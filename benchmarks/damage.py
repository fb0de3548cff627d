"""Flipped bits and cut files: how many of them give a wrong number without a word.

    python benchmarks/damage.py [--trials 2000] [--seed 0]

A study of one run makes a small model and a finished run; from its adapter a state is written as an interrupted run has
it. Of each kind of file `--trials` copies are damaged, three in four by one flipped bit and the others by a cut, and
read as Rango's commands read them. Refused: an error in words. Equal: what was read is what was written (the bit lay
where nothing is read). Wrong: anything else; an error that is no InputError is a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from kill import STUDY
from measuring import conditions, record

from rango.decisions import Calibrator
from rango.errors import InputError
from rango.models.loading import load_model
from rango.models.peft_format import load_adapter, read_adapter
from rango.training.checkpoint import load_state, save_state
from rango.training.run_folder import Run

Read = Callable[[], Any]


def make_run(folder: Path) -> tuple[Path, Path]:
    """A finished run with its calibrator, and the model that it adapts."""
    file = folder / "damage.json"
    runs = [{"lora.rank": 2, "adaptation": "lora+calibration"}]
    file.write_text(json.dumps({**STUDY, "name": "damage", "runs": runs, "seeds": [0]}))
    command = [sys.executable, "-m", "rango", "study", str(file), "--out", str(folder / "study"), "--quiet"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    [run] = (folder / "study" / "runs").iterdir()
    [model] = (folder / "study" / "models").iterdir()
    return run, model


def kinds(run: Path, model_folder: Path) -> dict[str, tuple[Path, Read]]:
    """For each kind of file one of them, and how it is read: as values that can be compared."""
    model = load_model(model_folder, device="cpu")
    adapter = load_adapter(model, run)
    optimizer = torch.optim.AdamW(adapter.parameters())
    sum(parameter.sum() for parameter in adapter.parameters()).backward()
    optimizer.step()
    state = run / "state.safetensors"
    from rango.training.training_run import Progress

    saved: Any = SimpleNamespace(key="run", adapter=adapter, optimizer=optimizer, progress=Progress())
    save_state(state, [saved])
    adapter.remove()

    def tensors(values: dict[str, torch.Tensor]) -> dict[str, Any]:
        return {name: (str(tensor.dtype), tensor.tolist()) for name, tensor in values.items()}

    def posteriors() -> Any:
        read = Run(run).posteriors("adapted")
        return read.log_posteriors.tolist(), read.labels.tolist(), read.ids, read.groups, read.choices

    def an_adapter() -> Any:
        stored = read_adapter(model, run)
        return tensors(dict(stored.state)), str(stored.lora)

    def a_state() -> Any:
        read = load_state(state)
        return dict(read.progress), tensors(dict(read.tensors))

    weights = run / "adapter" / "best"
    return {
        "posteriors": (run / "posteriors" / "test-adapted.parquet", posteriors),
        "adapter": (weights / "adapter_model.safetensors", an_adapter),
        "adapter's configuration": (weights / "adapter_config.json", an_adapter),
        "state": (state, a_state),
        "metrics": (run / "metrics.json", lambda: str(Run(run).metrics)),
        "log": (run / "log.jsonl", lambda: Run(run).log),
        "record": (run / "run.yaml", lambda: Run(run).record),
        "calibrator": (run / "calibrator.json", lambda: Calibrator.read(run / "calibrator.json").as_dict()),
    }


def damage(file: Path, read: Read, trials: int, generator: np.random.Generator) -> Counter[str]:
    """What became of `trials` damaged copies of a file."""
    whole, expected = file.read_bytes(), read()
    outcomes: Counter[str] = Counter()
    for trial in range(trials):
        if trial % 4 == 3:
            damaged = whole[: int(generator.integers(len(whole)))]
        else:
            flipped = bytearray(whole)
            flipped[int(generator.integers(len(whole)))] ^= 1 << int(generator.integers(8))
            damaged = bytes(flipped)
        file.write_bytes(damaged)
        try:
            outcomes["equal" if read() == expected else "wrong"] += 1
        except InputError:
            outcomes["refused"] += 1
        except Exception as error:
            outcomes["traceback"] += 1
            print(f"{file.name}: {type(error).__name__}: {error}", file=sys.stderr)
    file.write_bytes(whole)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    setting = conditions(dtype="float32", device="cpu")
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        run, model = make_run(Path(folder))
        for kind, (file, read) in kinds(run, model).items():
            rows[kind] = dict(damage(file, read, args.trials, np.random.default_rng(args.seed)))
            print(f"{kind:24} {rows[kind]}", flush=True)
    record("damage", {"trials": args.trials, "seed": args.seed, "rows": rows}, setting)
    if any(row.get("wrong") or row.get("traceback") for row in rows.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
