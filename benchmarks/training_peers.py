"""Steps of LoRA against TRL and LitGPT too: the same network, the same instances in the same batches, the same loss.

    .venv-peers/bin/python benchmarks/training_peers.py [--task socialiqa --data DIR] [--model FOLDER]
        [--sides trainer trl litgpt] [--objectives choice answer tokens] [--rounds 5] [--steps 4] [--threads 2]
        [--dtype float32] [--device cpu] [--compiled default reduce-overhead]

`make bench-peers` makes the environment. Network, task, batches and Trainer + PEFT are those of benchmarks/training.py.
Each peer runs its own loop and reads trunk and right answer, padded to the longest row of a batch: TRL's SFTTrainer on
tokenised rows, completion-only beside `choice` and `answer` (its fused head, no checkpointing; without padding it needs
FlashAttention, hence a GPU), LitGPT's `finetune/lora.py` with whole batches as micro-batches and its chunked head.
Rounds alternate; the first step of each round warms up and is not counted, and a ratio is of the medians of the rounds.
The first loss of every side is printed: `choice` is a loss of its own, the others must agree. --compiled adds Rango
with each of its decoder layers compiled by torch in that mode; `reduce-overhead` takes CUDA graphs. Shapes differ from
batch to batch, so --warm-up steps of each round are not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from measuring import conditions, record
from torch.utils.data import DataLoader
from training import BATCH, PeerSide, RangoSide, step_clock, work, write_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rango.models.loading import load_model
from rango.scoring.trees import TokenTree, encode
from rango.tasks import Task, load_task
from rango.training.schedule import BatchPlan
from rango.training.trainer import recomputable_layers

LORA = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def row(tree: TokenTree, every_token: bool) -> dict[str, list[int]]:
    """Trunk and right answer as peers read them: `labels` is -100 where nothing is learnt."""
    ids = [*tree.trunk, *tree.branches[tree.answer]]
    first = 0 if every_token else len(tree.trunk)
    return {"input_ids": ids, "labels": [-100] * first + ids[first:]}


class TrlSide:
    """TRL's SFTTrainer on tokenised rows, in the order of the batches."""

    def __init__(self, folder: str, objective: str, dtype: str, device: str) -> None:
        from peft import LoraConfig, get_peft_model

        self.every_token, self.device = objective == "tokens", device
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(0)
        # TRL adds its head to the network before PEFT wraps it, so that the network is wrapped once and kept.
        self.network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device)
        self.lora: Any = LoraConfig(**LORA)
        self.wrap = get_peft_model

    def steps(self, batches: Sequence[Sequence[TokenTree]]) -> tuple[list[float], list[float], float]:
        """Seconds and seconds of processor of each step, and the first loss."""
        from trl import SFTConfig, SFTTrainer

        wall: list[float] = []
        cpu: list[float] = []
        losses: list[float] = []
        arguments = SFTConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=BATCH,
            max_steps=len(batches),
            learning_rate=2e-4,
            logging_steps=1,
            train_sampling_strategy="sequential",
            use_cpu=self.device == "cpu",
            bf16=False,
            gradient_checkpointing=False,  # its default saves memory and costs a third of the time
            max_length=None,
            padding_free=self.device == "cuda" and self.network.config._attn_implementation.startswith("flash"),
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        rows = [row(tree, self.every_token) for trees in batches for tree in trees]
        trainer = SFTTrainer(
            model=self.network,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=self.tokenizer,
            callbacks=[step_clock(wall, cpu, losses)],
            peft_config=None if hasattr(self.network, "peft_config") else self.lora,
        )
        self.network = trainer.model
        trainer.train()
        return wall, cpu, losses[0]


def litgpt_config(folder: str) -> Any:
    """LitGPT's description of a Phi or a Llama, from transformers'."""
    from litgpt.lora import Config

    theirs = AutoConfig.from_pretrained(folder)
    rope = theirs.rope_parameters
    shared = {
        "name": f"{theirs.model_type}-benchmark",
        "block_size": theirs.max_position_embeddings,
        "vocab_size": theirs.vocab_size,
        "padded_vocab_size": theirs.vocab_size,
        "n_layer": theirs.num_hidden_layers,
        "n_head": theirs.num_attention_heads,
        "n_query_groups": theirs.num_key_value_heads or theirs.num_attention_heads,
        "n_embd": theirs.hidden_size,
        "intermediate_size": theirs.intermediate_size,
        "rope_base": int(rope["rope_theta"]),
        "rotary_percentage": rope.get("partial_rotary_factor", 1.0),
    }
    lora = {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "lora_query": True, "lora_value": True}
    if theirs.model_type == "phi":
        own = {"shared_attention_norm": True, "lm_head_bias": True, "gelu_approximate": "tanh"}
        return Config(**shared, **lora, **own, norm_eps=theirs.layer_norm_eps)
    own = {"parallel_residual": False, "bias": False, "norm_class_name": "RMSNorm", "mlp_class_name": "LLaMAMLP"}
    return Config(**shared, **lora, **own, norm_eps=theirs.rms_norm_eps)


class LitGptSide:
    """The loop of LitGPT's `finetune/lora.py`, on whole batches as micro-batches."""

    def __init__(self, folder: str, objective: str, dtype: str, device: str) -> None:
        import lightning
        from litgpt.lora import GPT, mark_only_lora_as_trainable
        from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama, copy_weights_phi

        self.every_token, self.folder = objective == "tokens", Path(folder)
        config = litgpt_config(folder)
        weights = dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict())
        copied: dict[str, torch.Tensor] = {}
        if config.name.startswith("phi"):
            copy_weights_phi(config, {}, copied, weights)
        else:
            copy_weights_hf_llama(config, {}, copied, weights)
        self.fabric = lightning.Fabric(
            accelerator="cpu" if device == "cpu" else "gpu",
            devices=1,
            precision="32-true" if dtype == "float32" else "bf16-true",
        )
        with self.fabric.init_module():
            network = GPT(config)
        mark_only_lora_as_trainable(network)
        self.network = self.fabric.setup_module(network)
        network.load_state_dict(copied, strict=False)
        trainable = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = self.fabric.setup_optimizers(torch.optim.AdamW(trainable, lr=2e-4))
        self.scheduler = torch.optim.lr_scheduler.ConstantLR(self.optimizer, factor=1.0)

    def steps(self, batches: Sequence[Sequence[TokenTree]]) -> tuple[list[float], list[float], float]:
        """As the other side."""
        from litgpt.args import EvalArgs, TrainArgs
        from litgpt.data.base import get_sft_collate_fn
        from litgpt.finetune import lora

        wall, cpu, losses = [], [], []

        def log(metrics: dict[str, Any], step: int | None = None) -> None:
            del step
            if "iter_time" in metrics:
                wall.append(metrics["iter_time"])
                cpu.append(time.process_time() - started.pop())
                losses.append(metrics["loss"])
                started.append(time.process_time())

        rows = [
            {key: torch.tensor(value) for key, value in row(tree, self.every_token).items()}
            | {"token_counts": {"raw": len(tree.trunk), "raw_plus_prompt_template": len(tree.trunk)}}
            for trees in batches
            for tree in trees
        ]
        # LitGPT's collator pads on the right to the longest row; its loop looks at no mask, as it needs none.
        collate: Any = get_sft_collate_fn()
        self.fabric.log_dict = log  # type: ignore[method-assign]
        lora.Tokenizer = lambda _: None  # it is used for samples alone, and these are off
        started = [time.process_time()]
        lora.fit(
            fabric=self.fabric,
            model=self.network,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            train_dataloader=DataLoader(rows, batch_size=BATCH, collate_fn=collate),  # type: ignore[arg-type]
            val_dataloader=DataLoader(rows[:1], collate_fn=collate),  # type: ignore[arg-type]
            devices=1,
            checkpoint_dir=self.folder,
            out_dir=Path(tempfile.mkdtemp()),
            train=TrainArgs(
                save_interval=None,
                log_interval=1,
                global_batch_size=BATCH,
                micro_batch_size=BATCH,
                lr_warmup_steps=None,
                epochs=1,
                max_steps=len(batches),
            ),
            eval=EvalArgs(interval=10**9, max_new_tokens=1),
            data=None,
        )
        return wall, cpu, losses[0]


SIDES = {"trainer": PeerSide, "trl": TrlSide, "litgpt": LitGptSide}


def compare(args: argparse.Namespace, task: Task, objective: str, rate: float) -> dict[str, Any]:
    """Rango and the chosen sides, in alternating rounds."""
    model = load_model(args.model, dtype=args.dtype, device=args.device)
    trees = encode(model, task.train, task=task, form="letter")
    plan = BatchPlan([len(tree.trunk) for tree in trees], batch=BATCH, batch_tokens=None, seed=0)
    batches = [[trees[number] for number in numbers] for numbers in plan.epoch(0)]
    rounds = [batches[at * args.steps : (at + 1) * args.steps] for at in range(args.rounds)]
    sides: dict[str, Any] = {"rango": RangoSide(model, trees, objective, tempfile.mkdtemp(), args.dtype)}
    for mode in args.compiled:
        compiled = load_model(args.model, dtype=args.dtype, device=args.device)
        sides[f"rango, {mode}"] = RangoSide(compiled, trees, objective, tempfile.mkdtemp(), args.dtype)
        for layer in recomputable_layers(compiled.network):
            layer.compile(mode=mode, dynamic=mode == "default")
    sides |= {name: SIDES[name](args.model, objective, args.dtype, args.device) for name in args.sides}
    counts = work(model, sides["rango"].reader, [batch for part in rounds for batch in part[args.warm_up :]], objective)
    rows: dict[str, Any] = {name: {"wall": [], "cpu": [], "medians": []} for name in sides}
    for number, part in enumerate(rounds, start=1):
        for name, side in sides.items():
            # Trainers print what they log.
            with contextlib.redirect_stdout(io.StringIO()):
                wall, cpu, loss = side.steps(part)
            rows[name]["wall"] += wall[args.warm_up :]
            rows[name]["cpu"] += cpu[args.warm_up :]
            rows[name]["medians"].append(statistics.median(wall[args.warm_up :]))
            rows[name].setdefault("first_loss", round(loss, 4))
        # A run that is cut short has said what it saw.
        seen = {name: (round(row["medians"][-1], 2), round(row["cpu"][-1], 2)) for name, row in rows.items()}
        print(f"  {objective}, round {number}, seconds a step and of processor: {seen}", flush=True)
    for row in rows.values():
        seconds, processor, medians = row.pop("wall"), row.pop("cpu"), row.pop("medians")
        row["instances_per_s"] = round(BATCH / statistics.median(medians), 2)
        row["tokens_per_s"] = round(sum(tokens for tokens, _ in counts) / sum(seconds))
        row["cpu_s_per_step"] = round(statistics.median(processor), 3)
        row["share"] = round(sum(flop for _, flop in counts) / sum(seconds) / rate, 3)
    speeds = {name: row["instances_per_s"] for name, row in rows.items()}
    ratios = {name: round(speeds["rango"] / speed, 2) for name, speed in speeds.items() if name != "rango"}
    return {"objective": objective, "ratios": ratios, **rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="simulated")
    parser.add_argument("--data")
    parser.add_argument("--model")
    parser.add_argument("--sides", nargs="*", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--objectives", nargs="+", default=["choice", "answer", "tokens"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compiled", nargs="*", choices=["default", "reduce-overhead"], default=[])
    parser.add_argument("--warm-up", type=int, default=1)
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    setting = conditions(dtype=args.dtype, device=args.device, threads=args.threads)
    sizes = {"train": 1000, "validation": 20, "test": 20}
    task = load_task(args.task, data=args.data, **sizes) if args.data else load_task(args.task, **sizes)
    named = {key: getattr(args, key) for key in ("task", "model", "rounds", "steps", "warm_up")}
    with tempfile.TemporaryDirectory() as folder:
        if args.model is None:
            args.model = folder
            write_model(Path(folder), task)
        print(f"{args.task}, letter form, LoRA r 8 on q and v, batches of {BATCH}, {args.rounds} rounds")
        results = [compare(args, task, objective, 1e9 * setting["matrix_gflops"]) for objective in args.objectives]
    for result in results:
        print(f"{result['objective']}: times {result['ratios']}")
        for name in ("rango", *result["ratios"]):
            print(f"  {name:22} {result[name]}")
    record("training_peers", {**named, "results": results}, setting)


if __name__ == "__main__":
    main()
