"""Scoring choices against lm-evaluation-harness: the same network, texts and choices, in processes that take turns.

    python benchmarks/scoring.py --harness VENV/bin/python --data ../shared/data [--work cloze letter] [--model MODEL]
                                 [--instances 200] [--rounds 5] [--threads 2] [--dtype float32|fast]
                                 [--device cpu] [--batch-size 32]

Cloze is HellaSwag (four endings), letter is SocialIQA (three letters of one token). Without --model: Phi's architecture
(hidden 512, 8 layers, vocabulary 51,200) with random weights. Rango's side is `rango evaluate MODEL TASK --data DIR`
from the shell to its page; the harness reads Rango's own texts of the same instances from a small file, so that it does
not read the task's data, and scores them with `simple_evaluate` in the environment of its own Python (`make
bench-peers`). Scoring alone is what each program spends between the tokens and the log-likelihoods. Both sides print
accuracy. Seconds of the clock suppose idle cores; seconds of the processor are printed beside them. Share: 2 FLOP for
each weight of a layer and token read, and for each weight of the head and scored position (of a letter: its rows only),
against the rate at which the machine multiplies matrices. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORK = {"cloze": "hellaswag", "letter": "socialiqa"}
SOURCE = Path(__file__).parents[1] / "src"


def harness_scores(folder: str, rows: str, dtype: str, device: str, batch_size: str, threads: str) -> dict[str, Any]:
    """In the harness's own environment: log-likelihoods of the rows' choices, accuracy, and seconds of scoring."""
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    model_args: dict[str, Any] = {"pretrained": folder, "dtype": dtype}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        model_args["prefix_token_id"] = 0  # the harness wants one for empty prompts, of which there are none
    torch.set_num_threads(int(threads))
    spent = [0.0, 0.0]
    original = HFLM._loglikelihood_tokens

    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter(), time.process_time()
        answers = original(self, *args, **kwargs)
        spent[0] += time.perf_counter() - started[0]
        spent[1] += time.process_time() - started[1]
        return answers

    HFLM._loglikelihood_tokens = timed
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "texts.yaml").write_text(
            "task: texts\ndataset_path: json\noutput_type: multiple_choice\ntest_split: test\ntarget_delimiter: ''\n"
            f"dataset_kwargs:\n  data_files:\n    test: {rows}\n"
            "doc_to_text: '{{prompt}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: label\n"
            "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
        )
        results = lm_eval.simple_evaluate(
            model="hf",
            model_args=model_args,
            tasks=["texts"],
            task_manager=TaskManager(include_path=place, include_defaults=False),
            device=device,
            batch_size=int(batch_size),
        )
    assert results is not None
    samples = sorted(results["samples"]["texts"], key=lambda sample: sample["doc_id"])
    return {
        "log_likelihoods": [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples],
        "accuracy": results["results"]["texts"]["acc,none"],
        "scoring_s": spent[0],
        "scoring_cpu_s": spent[1],
    }


def run(command: Sequence[str], environment: dict[str, str]) -> tuple[str, float, float]:
    """Output of a process, and its seconds by the clock and of processors."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(args: argparse.Namespace, form: Any, folder: str) -> dict[str, Any]:
    """Both sides in alternating rounds."""
    import numpy as np
    from training import write_model

    from rango.models.dequantised import checkpoint_of
    from rango.models.loading import load_model
    from rango.options import ScoringOptions
    from rango.scoring.probe import probe_reader
    from rango.scoring.scorer import score
    from rango.scoring.trees import encode
    from rango.tasks import load_task

    sizes = {"train": 1000, "validation": 20, "test": args.instances}
    task = load_task(WORK[form], data=args.data / WORK[form], **sizes)
    source = args.model or folder
    if args.model is None:
        write_model(Path(folder), task)
    checkpoint = checkpoint_of(source)
    rows = Path(folder) / "rows.jsonl"
    prompts = [task.prompt(instance, form) for instance in task.test]
    values = [
        {"prompt": prompt.trunk, "choices": list(prompt.branches), "label": instance.answer}
        for prompt, instance in zip(prompts, task.test, strict=True)
    ]
    rows.write_text("".join(json.dumps(value) + "\n" for value in values))
    model = load_model(checkpoint, dtype=args.dtype, device=args.device)
    reader, trees = probe_reader(model), encode(model, task.test, task=task, form=form)
    labels = np.array([instance.answer for instance in task.test])

    network: Any = model.network
    layers = sum(p.numel() for name, p in network.named_parameters() if p.ndim == 2 and ".layers." in name)
    head = network.get_output_embeddings().weight.numel() if form == "cloze" else 0
    tokens = sum(tree.input_length for tree in trees)
    scored = sum(len(branch) for tree in trees for branch in tree.branches)
    flop = 2.0 * layers * tokens + 2.0 * head * scored

    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    out = Path(folder) / "out"
    rango = [sys.executable, "-m", "rango", "evaluate", source, WORK[form], "--data", str(args.data / WORK[form])]
    rango += ["--form", form, "--dtype", args.dtype, "--device", args.device, "--out", str(out), "--quiet"]
    rango += [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    harness = [args.harness, __file__, "worker", checkpoint, str(rows), args.dtype, args.device]
    harness += [str(args.batch_size), str(args.threads)]
    spent: dict[str, dict[str, list[float]]] = {"rango": {}, "harness": {}}

    def note(side: str, **seconds: float) -> None:
        for kind, value in seconds.items():
            spent[side].setdefault(kind, []).append(value)

    score(reader, trees[:4], options=ScoringOptions(), form=form)  # the first products of a process are slow
    for number in range(args.rounds):
        started = time.perf_counter(), time.process_time()
        own = score(reader, trees, options=ScoringOptions(), form=form).values
        note("rango", scoring=time.perf_counter() - started[0], scoring_cpu=time.process_time() - started[1])
        answer, whole, whole_cpu = run(harness, environment)
        theirs = json.loads(answer.splitlines()[-1])
        note("harness", scoring=theirs["scoring_s"], scoring_cpu=theirs["scoring_cpu_s"])
        if number < args.whole_rounds:
            note("harness", whole=whole, whole_cpu=whole_cpu)
            shutil.rmtree(out, ignore_errors=True)
            _, whole, whole_cpu = run(rango, environment | {"PYTHONPATH": str(SOURCE)})
            note("rango", whole=whole, whole_cpu=whole_cpu)

    result: dict[str, Any] = {"work": form, "instances": args.instances, "tokens": tokens, "gflop": round(flop / 1e9)}
    result["largest_difference"] = float(np.abs(own - np.array(theirs["log_likelihoods"])).max())
    for side, seconds in spent.items():
        of_side = own if side == "rango" else np.array(theirs["log_likelihoods"])
        result[side] = {kind: round(statistics.median(all_rounds), 2) for kind, all_rounds in seconds.items()}
        result[side]["instances_per_s"] = round(args.instances / result[side]["scoring"], 2)
        result[side]["accuracy"] = round(float((of_side.argmax(axis=1) == labels).mean()), 4)
    result["rango"]["share"] = round(flop / result["rango"]["scoring"] / (args.gflops * 1e9), 3)
    for kind in result["rango"].keys() & {"scoring", "scoring_cpu", "whole", "whole_cpu"}:
        result[f"{kind}_ratio"] = round(result["harness"][kind] / result["rango"][kind], 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harness", required=True, help="a Python in whose environment lm-eval is installed")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--work", nargs="+", choices=list(WORK), default=list(WORK))
    parser.add_argument("--model", help="a folder or smollm2-135m")
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--whole-rounds", type=int, default=5, help="rounds in which whole processes are compared too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", help="or bfloat16, or fast: what this machine multiplies faster")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=32, help="the harness's")
    args = parser.parse_args()

    import torch
    from measuring import conditions, fast_type, record

    torch.set_num_threads(args.threads)
    args.dtype = fast_type(args.device) if args.dtype == "fast" else args.dtype
    setting = conditions(dtype=args.dtype, device=args.device, threads=args.threads)
    args.gflops = setting["matrix_gflops"]
    for form in args.work:
        with tempfile.TemporaryDirectory() as folder:
            result = compare(args, form, folder)
        print(f"{form}: " + ", ".join(f"{key} {value}" for key, value in result.items() if key.endswith("ratio")))
        for side in ("rango", "harness"):
            print(f"  {side:8s} {result[side]}")
        record("scoring", {"model": args.model or "phi-512-8", "batch_size": args.batch_size, **result}, setting)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        print(json.dumps(harness_scores(*sys.argv[2:8])))
    else:
        main()
