"""How does the held-out loss fall with parameters and tokens, and does the fitted law foretell the next size?

    python benchmarks/scaling.py --texts FILE... [--out runs/scaling] [--figure docs/figures/scaling.png]

Trains a grid of small Phi transformers from scratch (one tokenizer, one text, no token read twice), fits

    L(N, D) = E + A / N^a + B / D^b        (N parameters without embedding and head, D tokens, L in nats per token)

with and without its terms, says which of them the data carry, predicts the next size with an interval (bootstrap of the
residuals), trains that size, and compares. Runs that are recorded in OUT/runs.jsonl already are not trained again. Ends
with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import least_squares
from transformers import PreTrainedTokenizerFast

from rango.console import Screen
from rango.language.corpus import Corpus, read_sources, tokenise, train_tokenizer
from rango.language.options import PretrainConfig
from rango.language.trainer import Trainer

SIZES = ((64, 2), (96, 3), (128, 4), (192, 4))  # hidden size, layers
TOKENS = (250_000, 500_000, 1_000_000)
NEXT = ((256, 4), 1_000_000)
VOCABULARY, CONTEXT = 2048, 128
REPLICATES = 300
TERMS = {"E + A/N^a + B/D^b": "END", "A/N^a + B/D^b": "ND", "E + B/D^b": "ED", "E + A/N^a": "EN"}


@dataclass(frozen=True)
class Law:
    """A fitted law: log of the positive factors, exponents, and which terms it has."""

    terms: str
    values: np.ndarray
    residuals: np.ndarray  # of log L

    def loss(self, N: np.ndarray, D: np.ndarray) -> np.ndarray:
        return law(self.terms, self.values, N, D)

    @property
    def aicc(self) -> float:
        """Akaike's criterion for small samples; lower is better. The variance counts as a parameter."""
        n, k = len(self.residuals), len(self.values) + 1
        correction = 2 * k * (k + 1) / (n - k - 1)
        return n * math.log(float(np.mean(self.residuals**2))) + 2 * k + correction

    def named(self) -> dict[str, float]:
        """E, A, a, B, b, those that the law has."""
        found, at = {}, 0
        for term in self.terms:
            if term == "E":
                found["E"], at = math.exp(self.values[at]), at + 1
            else:
                factor, power = ("A", "a") if term == "N" else ("B", "b")
                found[factor], found[power], at = math.exp(self.values[at]), float(self.values[at + 1]), at + 2
        return found


def law(terms: str, values: np.ndarray, N: np.ndarray, D: np.ndarray) -> np.ndarray:
    total, at = np.zeros(np.broadcast(N, D).shape), 0
    for term in terms:
        if term == "E":
            total, at = total + math.exp(values[at]), at + 1
        else:
            x = np.asarray(N if term == "N" else D, dtype=float)
            total, at = total + np.exp(values[at] - values[at + 1] * np.log(x)), at + 2
    return total


def fit(terms: str, N: np.ndarray, D: np.ndarray, L: np.ndarray, near: np.ndarray | None = None) -> Law:
    """Least squares of log L from several starts, for the surface has flat valleys; exponents are kept in [0, 2].

    With `near`, from there and three others: from there alone a replicate would stay in the valley of the first fit,
    and the intervals would be too narrow.
    """
    random = np.random.default_rng(0)
    low, high, centre = [], [], []
    for term in terms:
        low += [-5.0] if term == "E" else [-5.0, 0.0]
        high += [2.5] if term == "E" else [25.0, 2.0]
        centre += [0.5] if term == "E" else [3.0, 0.3]
    best = None
    drawn = [np.array(centre) * random.uniform(0.3, 2.0, len(centre)) for _ in range(12)]
    for start in drawn if near is None else [near, *drawn[:3]]:
        inside = np.clip(start, np.array(low) + 0.01, np.array(high) - 0.01)
        found = least_squares(
            lambda v: np.log(law(terms, v, N, D)) - np.log(L), inside, bounds=(low, high), x_scale="jac", max_nfev=200
        )
        if best is None or found.cost < best.cost:
            best = found
    return Law(terms, best.x, best.fun)


def bootstrap(fitted: Law, N: np.ndarray, D: np.ndarray, where: tuple[float, float]) -> tuple[dict, np.ndarray]:
    """Percentile intervals of the law's numbers, and replicates of a new measurement at `where`.

    Residuals are scaled by sqrt(n / (n - k)), because a fit with k numbers makes them too small; a replicate of the
    measurement adds one of them to the replicate of the curve.
    """
    random = np.random.default_rng(1)
    n, k = len(N), len(fitted.values)
    residuals = fitted.residuals * math.sqrt(n / (n - k))
    curve = np.log(fitted.loss(N, D))
    numbers, measured = [], []
    for _ in range(REPLICATES):
        again = fit(fitted.terms, N, D, np.exp(curve + random.choice(residuals, n)), near=fitted.values)
        numbers.append(again.named())
        measured.append(float(again.loss(*map(np.array, where))) * math.exp(random.choice(residuals)))
    spans = {name: np.percentile([row[name] for row in numbers], [2.5, 97.5]).tolist() for name in numbers[0]}
    return spans, np.array(measured)


def train(
    size: tuple[int, int], tokens: int, corpus: Corpus, tokenizer: PreTrainedTokenizerFast, out: Path
) -> dict[str, float]:
    hidden, layers = size
    config = PretrainConfig(
        hidden=hidden,
        layers=layers,
        vocabulary=VOCABULARY,
        context=CONTEXT,
        tokens=tokens,
        batch_tokens=1024,
        learning_rate=round(0.003 * math.sqrt(64 / hidden), 6),  # smaller steps for wider networks
        warmup=0.05,
        evaluate_every=10**9,
        save_minutes=10**6,
        device="cpu",
    )
    trainer = Trainer(config, corpus, tokenizer=tokenizer, state_file=out / "unused")
    began, cpu = time.perf_counter(), time.process_time()
    trainer.run(Screen(quiet=True))
    outside = sum(p.numel() for name, p in trainer.network.named_parameters() if "embed" in name or "lm_head" in name)
    return {
        "hidden": hidden,
        "layers": layers,
        "parameters": trainer.model.parameter_count - outside,
        "all_parameters": trainer.model.parameter_count,
        "tokens": trainer.progress.tokens,
        "loss": trainer.held_out_loss(),
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def figure(rows: list[dict[str, float]], check: dict[str, float], fitted: Law, span: np.ndarray, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    sizes = sorted({row["parameters"] for row in rows})
    budgets = sorted({row["tokens"] for row in rows})
    panels, axes = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True, layout="constrained")
    for axis, key, other, groups in (
        (axes[0], "parameters", "tokens", budgets),
        (axes[1], "tokens", "parameters", sizes),
    ):
        x = np.geomspace(min(row[key] for row in rows) / 1.15, max(check[key], *(r[key] for r in rows)) * 1.15, 100)
        colours = plt.get_cmap("viridis")(np.linspace(0.1, 0.8, len(groups)))
        for colour, group in zip(colours, groups, strict=True):
            points = [row for row in rows if row[other] == group]
            axis.plot([row[key] for row in points], [row["loss"] for row in points], "o", color=colour)
            N, D = (x, group) if key == "parameters" else (group, x)
            axis.plot(x, fitted.loss(np.array(N), np.array(D)), "-", color=colour, lw=1.2, label=f"{group / 1e6:.2g} M")
        low, middle, high = span
        axis.errorbar(
            check[key], middle, yerr=[[middle - low], [high - middle]], color="0.45", capsize=4, label="predicted, 95 %"
        )
        axis.plot(check[key], check["loss"], "*", color="crimson", ms=12, label="trained after", zorder=3)
        axis.set_xscale("log")
        axis.set_xlabel("parameters without embedding and head" if key == "parameters" else "training tokens")
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        ticks = sorted({*(sizes if key == "parameters" else budgets), check[key]})
        axis.set_xticks(ticks, [f"{tick / 1e6:.2g} M" for tick in ticks])
        axis.minorticks_off()
        lines = [line for line in axis.get_lines() if line.get_label().endswith(" M")]
        shown = {"handles": lines, "title": "tokens"} if key == "parameters" else {"title": "parameters"}
        corner = "lower left" if key == "parameters" else "upper right"
        axis.legend(**shown, loc=corner, frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(bottom=check["loss"] - 0.1)
    axes[0].set_ylabel("held-out loss (nats per token; lower is better)")
    path.parent.mkdir(parents=True, exist_ok=True)
    panels.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/scaling.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sources = read_sources(arguments.texts)
    tokenizer = train_tokenizer(sources, VOCABULARY)
    corpus = tokenise(sources, tokenizer, context=CONTEXT)
    print(f"{len(corpus.train):,} tokens of text, {len(corpus.held_out):,} held out", flush=True)
    record = arguments.out / "runs.jsonl"
    record.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []

    def run(size: tuple[int, int], tokens: int) -> dict[str, float]:
        for row in done:
            if (row["hidden"], row["layers"], row["asked"]) == (*size, tokens):
                return row
        row = train(size, tokens, corpus, tokenizer, arguments.out) | {"asked": tokens}
        with record.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        return row

    rows = [run(size, tokens) for tokens in TOKENS for size in SIZES]
    N, D, L = (np.array([row[key] for row in rows], dtype=float) for key in ("parameters", "tokens", "loss"))
    laws = {name: fit(terms, N, D, L) for name, terms in TERMS.items()}
    for name, found in sorted(laws.items(), key=lambda item: item[1].aicc):
        error = math.sqrt(float(np.mean(found.residuals**2)))
        print(f"{name:20} AICc {found.aicc:8.1f}   rms error {100 * error:.2f} %   {found.named()}")
    chosen = min(laws, key=lambda name: laws[name].aicc)
    check = run(*NEXT)  # trained after the law is fitted; the fit does not see it
    where = float(check["parameters"]), float(check["tokens"])
    report = {"benchmark": "scaling", "law": chosen, "loss": check["loss"], "parameters": where[0], "tokens": where[1]}
    for name in dict.fromkeys((chosen, "E + A/N^a + B/D^b")):
        spans, measured = bootstrap(laws[name], N, D, where)
        span = np.percentile(measured, [2.5, 50, 97.5])
        span[1] = float(laws[name].loss(*map(np.array, where)))
        shown = {
            key: [round(value, 3), *(round(v, 3) for v in spans[key])] for key, value in laws[name].named().items()
        }
        print(f"{name}: {shown}\n  predicts {span[1]:.4f} [{span[0]:.4f}, {span[2]:.4f}], measured {check['loss']:.4f}")
        if name == chosen:
            report |= {"fitted": shown, "predicted": span.round(4).tolist()}
            figure(rows, check, laws[name], span, arguments.figure)
    print("\n| parameters | tokens | held-out loss | the law | CPU seconds |\n|---|---|---|---|---|")
    for row in [*rows, check]:
        said = float(laws[chosen].loss(np.array(float(row["parameters"])), np.array(float(row["tokens"]))))
        numbers = f"{row['parameters']:,} | {row['tokens']:,} | {row['loss']:.4f} | {said:.4f}"
        print(f"| {numbers} | {row['cpu_seconds']:.0f} |")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
