"""Does `--prompt lm-eval` give what lm-evaluation-harness gives: the log-likelihood of each choice, acc and acc_norm?

    python benchmarks/harness_parity.py --harness VENV/bin/python [--instances 100] [--record FILE]

Rango scores the first test instances of SocialIQA and HellaSwag in float32. The harness, in the environment of its own
Python (`pip install lm-eval[hf]==0.4.13`), scores the same rows with its own tasks, in float32 and in float64: over the
forty tokens of an ending its float32 sums are themselves 2e-4 nats from its float64 ones. Data: ../shared/data, or
--data. Prints the largest differences and both programs' metrics; `--record` writes the harness's float64 numbers,
without any text, for the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

TASKS = {"socialiqa": ("social_iqa", "siqa/siqa.yaml"), "hellaswag": ("hellaswag", "hellaswag/hellaswag.yaml")}


def harness_scores(folder: str, rows: str, include: str, dtype: str) -> dict[str, Any]:
    """In the harness's own environment: log-likelihoods of the rows' choices by its own task, and its metrics."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as place:
        # The published task in all but where its rows are; SocialIQA's lists no acc_norm.
        source = Path(lm_eval.__file__).parent / "tasks" / include
        files = "\n".join(f"    {split}: {rows}" for split in ("train", "validation"))
        metrics = "\n".join(
            f"  - metric: {name}\n    aggregation: mean\n    higher_is_better: true" for name in ("acc", "acc_norm")
        )
        (Path(place) / "parity.yaml").write_text(
            f"include: {source}\ntask: parity\ntag: []\ndataset_path: json\ndataset_kwargs:\n  data_files:\n{files}\n"
            f"metric_list:\n{metrics}\n"
        )
        results = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": folder, "dtype": dtype},
            tasks=["parity"],
            task_manager=TaskManager(include_path=place, include_defaults=False),
            device="cpu",
            batch_size=4,
            bootstrap_iters=0,
        )
    assert results is not None
    samples = sorted(results["samples"]["parity"], key=lambda sample: sample["doc_id"])
    return {
        "log_likelihoods": [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples],
        "acc": results["results"]["parity"]["acc,none"],
        "acc_norm": results["results"]["parity"]["acc_norm,none"],
    }


def as_published(row: dict[str, Any]) -> dict[str, Any]:
    """A row of HellaSwag with the columns that the published file has and shared copies may lack: ctx_a and ctx_b."""
    if "ctx_a" in row:
        return row
    beginning, dot, last = row["ctx"].rpartition(". ")
    parts = (beginning + dot[:1], last) if dot and row.get("domain") == "activitynet" else (row["ctx"], "")
    return {"activity_label": row["activity_label"], "ctx_a": parts[0], "ctx_b": parts[1]} | {
        key: row[key] for key in ("endings", "label", "domain") if key in row
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harness", required=True, help="a Python in whose environment lm-eval is installed")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()

    from rango.models.dequantised import checkpoint_of
    from rango.models.loading import load_model
    from rango.options import ScoringOptions
    from rango.scoring.probe import probe_reader
    from rango.scoring.scorer import score
    from rango.scoring.trees import encode
    from rango.tasks import hellaswag, socialiqa
    from rango.tasks.harness import ready_made
    from rango.tasks.sources import file_rows, find_file
    from rango.tasks.task import Task

    model = load_model(options.model, dtype="float32", device="cpu")
    reader = probe_reader(model)
    recorded: dict[str, Any] = {"model": options.model, "fingerprint": model.fingerprint, "harness": "0.4.13"}
    with tempfile.TemporaryDirectory() as place:
        for name, (published, include) in TASKS.items():
            folder = options.data / name
            if name == "socialiqa":
                rows = socialiqa.folder_rows(folder, "dev")[: options.instances]
                instances = tuple(socialiqa.read_row(row, "dev", prompts="lm-eval") for row in rows)
            else:
                path = find_file(folder, hellaswag.VALIDATION_FILES)
                assert path is not None
                rows = [row._replace(values=as_published(row.values)) for row in file_rows(path)][: options.instances]
                instances = tuple(hellaswag.read_row(row, "validation", prompts="lm-eval") for row in rows)
            file = Path(place) / f"{name}.jsonl"
            file.write_text("".join(json.dumps(row.values) + "\n" for row in rows))
            command = [options.harness, __file__, "worker", checkpoint_of(options.model), str(file), include]
            theirs: dict[str, dict[str, Any]] = {}
            for dtype in ("float32", "float64"):
                answer = subprocess.run([*command, dtype], check=True, capture_output=True, text=True).stdout
                theirs[dtype] = json.loads(answer.splitlines()[-1])

            task = Task(name, (), (), instances, ready_made)
            trees = encode(model, instances, task=task, form="cloze")
            labels = np.array([instance.answer for instance in instances])
            own = {}
            for metric, normalise in (("acc", "none"), ("acc_norm", "characters")):
                scores = score(reader, trees, options=ScoringOptions(normalise=normalise), form="cloze").values
                own[metric] = float((scores.argmax(axis=1) == labels).mean())
                if normalise == "none":
                    differences = {
                        dtype: float(np.abs(scores - np.array(answers["log_likelihoods"])).max())
                        for dtype, answers in theirs.items()
                    }
            largest = ", ".join(f"{value:.1e} nats from its {dtype}" for dtype, value in differences.items())
            print(f"{published}: {len(rows)} instances; largest difference of a log-likelihood: {largest}")
            for metric, value in own.items():
                print(f"  {metric:9} rango {value:.4f}, lm-eval {theirs['float32'][metric]:.4f}")
            recorded[name] = {"ids": [instance.id for instance in instances], **theirs["float64"]}
    if options.record is not None:
        options.record.write_text(json.dumps(recorded) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(harness_scores(*sys.argv[2:6])))
    else:
        main()
