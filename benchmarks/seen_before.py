"""Has a base seen a task's training file? Zero-shot scores of training and test instances, and of changed ones.

    python benchmarks/seen_before.py --task socialiqa --data DIR [--models smollm2-135m gemma3-270m] [--instances 1000]
                                     [--normalise characters] [--dtype bfloat16] [--seed 0]

Three looks at as many instances of the training file as of the test file, before any adaptation:

    scores     error rate, NCE and log P of the right answer for each byte (cloze form). What was read in pre-training
               should be answered better than what was not, if both are of one kind.
    reworded   the same with the words of every choice in another order. What is known by heart loses more by that than
               what is merely plausible: the loss of the right answer's log P on training minus that on test.
    listed     log P of the prompt in which the choices are listed (letter form), with the choices as published minus
               its mean over their other orders. Without a memory of the file the published order is one among many: the
               test of exchangeability of Oren et al. (2023, arXiv:2310.17623), here with training beside test.

Intervals are 95 %: contexts of both splits are drawn again, apart from one another. A difference of scores alone shows
nothing, as the splits may differ in kind; all three together would. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import torch
from measuring import conditions, record
from validation_shift import drawn_means, group_numbers, losses

from rango.language.text_scores import score_texts
from rango.models.loading import Model, load_model
from rango.options import ScoringOptions
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import as_posteriors, score
from rango.scoring.trees import encode
from rango.tasks import Instance, Task, load_task
from rango.tasks.perturbations import permuted

DRAWS = 2000


def shuffled(instance: Instance, seed: int) -> Instance:
    """The instance with the words of each choice in another order, where there are two words that differ."""
    chance = random.Random(f"{seed} {instance.id}")
    choices = []
    for choice in instance.choices:
        words = choice.split()
        mixed = list(words)
        while len(set(words)) > 1 and mixed == words:
            chance.shuffle(mixed)
        choices.append(" ".join(mixed))
    return replace(instance, choices=tuple(choices), prompt=None)


def cloze(model: Model, task: Task, instances: Sequence[Instance], normalise: Any) -> dict[str, np.ndarray]:
    """Of each instance: error, NCE, and log P of the right answer for each UTF-8 byte, in nats; and its group."""
    trees = encode(model, instances, task=task, form="cloze")
    reader = probe_reader(model)
    scored = score(reader, trees, options=ScoringOptions(form="cloze", normalise=normalise), form="cloze")
    posteriors = as_posteriors(scored.values, instances)
    sums = score(reader, trees, options=ScoringOptions(form="cloze", normalise="none"), form="cloze").values
    sizes = [len(instance.choices[instance.answer].encode()) for instance in instances]
    nats = sums[np.arange(len(instances)), [instance.answer for instance in instances]] / np.array(sizes)  # (N,)
    return {**losses(posteriors), "nats a byte": nats, "group": group_numbers(posteriors)}


def listed(model: Model, task: Task, instances: Sequence[Instance]) -> np.ndarray:
    """Log P of each prompt as published minus its mean over the other orders of the choices, (N,), in nats."""
    orders = list(permutations(range(len(instances[0].choices))))
    texts = []
    for instance in instances:
        texts += [task.prompt(permuted(instance, order), "letter").trunk for order in orders]
    values = np.array([text.log_probability for text in score_texts(model, texts)])
    values = values.reshape(len(instances), len(orders))  # (N, K!), the published order first
    difference: np.ndarray = values[:, 0] - values[:, 1:].mean(axis=1)
    return difference


def interval(
    train: np.ndarray, test: np.ndarray, groups: Sequence[np.ndarray], generator: np.random.Generator
) -> dict[str, float]:
    """Both means, and training − test with its interval."""
    drawn = [drawn_means(values, group, DRAWS, generator) for values, group in zip((train, test), groups, strict=True)]
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    means = float(train.mean()), float(test.mean())
    return {"train": means[0], "test": means[1], "difference": means[0] - means[1], "low": low, "high": high}


def look(model: Model, task: Task, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """All rows of one base."""
    generator = np.random.default_rng(args.seed)
    splits = [task.train, task.test]
    plain = [cloze(model, task, split, args.normalise) for split in splits]
    mixed = [cloze(model, task, [shuffled(i, args.seed) for i in split], args.normalise) for split in splits]
    groups = [values["group"] for values in plain]
    rows = {}
    for name in ("error_rate", "nce", "nats a byte"):
        rows[name] = interval(plain[0][name], plain[1][name], groups, generator)
        rows[f"{name}, reworded"] = interval(mixed[0][name], mixed[1][name], groups, generator)
        lost = [after[name] - before[name] for before, after in zip(plain, mixed, strict=True)]
        rows[f"{name}, reworded − as published"] = interval(lost[0], lost[1], groups, generator)
    orders = [listed(model, task, split) for split in splits]
    rows["log P as published − other orders"] = interval(orders[0], orders[1], groups, generator)
    for split, values, group in zip(("train", "test"), orders, groups, strict=True):
        low, high = np.quantile(drawn_means(values, group, DRAWS, generator), [0.025, 0.975])
        rows[f"the same, {split} alone"] = {"difference": float(values.mean()), "low": low, "high": high}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="socialiqa")
    parser.add_argument("--data")
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gemma3-270m"])
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--normalise", default="characters")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = {"train": args.instances, "validation": 20, "test": args.instances}
    task = load_task(args.task, data=args.data, **sizes)
    setting = conditions(dtype=args.dtype, device="cpu", threads=args.threads)
    results = {}
    for name in args.models:
        results[name] = look(load_model(name, dtype=args.dtype), task, args)
        print(f"\n{name}, {args.task}, {args.instances} instances of each file")
        for row, values in results[name].items():
            means = f"{values['train']:9.4f} {values['test']:9.4f}" if "train" in values else " " * 19
            print(f"  {row:44} {means} {values['difference']:+.4f} ({values['low']:+.4f} to {values['high']:+.4f})")
        if any(math.isnan(values["difference"]) for values in results[name].values()):
            raise SystemExit(f"{name}: a score is no number")
    record("seen_before", {**vars(args), "results": results}, setting)


if __name__ == "__main__":
    main()
