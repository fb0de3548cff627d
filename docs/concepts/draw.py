"""The pictures of the concept pages, drawn with the figures of a run's page, on a made-up world whose truth is known.

    python docs/concepts/draw.py [FOLDER]

The world has three classes. A point is the centre of its class plus noise, so that its true posterior is known. The
other systems are that posterior, distorted: their answers are the same, what they claim about them is not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rango.decisions import Posteriors, summarise
from rango.reports.run.figures import abstention_costs, cost_curves, reliability_diagram, risk_coverage_curves
from rango.reports.style import BLUE, DASHED, INK, ORANGE, panel, save_figure, styled

FIGURES = Path(__file__).parent / "figures"


def world(instances: int = 2000, *, seed: int = 0) -> Posteriors:
    """True posteriors of three classes in a plane, with labels drawn from them."""
    generator = np.random.default_rng(seed)
    centres = np.array([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])
    labels = generator.integers(3, size=instances)
    points = centres[labels] + generator.normal(scale=0.8, size=(instances, 2))
    scores = points @ centres.T / 0.8**2 - (centres**2).sum(axis=1) / (2 * 0.8**2)
    return Posteriors.from_scores(scores, labels)


def with_temperature(posteriors: Posteriors, temperature: float) -> Posteriors:
    """The same answers, surer of themselves (temperature below 1) or less sure (above 1)."""
    return Posteriors.from_scores(posteriors.log_posteriors / temperature, posteriors.labels)


@styled
def losses() -> Figure:
    """What each rule charges for a probability that was given to the right one of two classes."""
    figure, ax = panel()
    share = np.linspace(0.01, 1.0, 200)
    ax.plot(share, -np.log(share), color=BLUE, label="logarithmic, −ln q")
    ax.plot(share, 2 * (1 - share) ** 2, color=ORANGE, label="Brier, 2 (1 − q)²")
    ax.plot(share, share < 0.5, color=INK, linestyle=DASHED, label="error, q < ½")
    ax.set_title("Loss of one instance")
    ax.set_xlabel("probability q of the right class")
    ax.set_ylim(0, 4)
    ax.legend(frameon=False)
    return figure


@styled
def sizes(posteriors: Posteriors) -> Figure:
    """The interval of one system's NCE on test sets of several sizes."""
    figure, ax = panel()
    counts = [60, 200, 600, 2000]
    for y, count in enumerate(reversed(counts)):
        estimate = summarise(posteriors.take(np.arange(count)), metrics=("nce",))["nce"]
        assert estimate.low is not None
        assert estimate.high is not None
        ax.plot([estimate.low, estimate.high], [y, y], color=BLUE)
        ax.plot([estimate.value], [y], color=BLUE, marker="o")
    ax.set_yticks(range(len(counts)), [f"{count:,}" for count in reversed(counts)])
    ax.set_ylabel("test instances")
    ax.set_xlabel("NCE with its 95 % interval")
    ax.set_title("One system, four test sets")
    return figure


def draw(folder: Path) -> None:
    """Write every picture into the folder."""
    true = world()
    sure, shy = with_temperature(true, 1 / 3), with_temperature(true, 3)
    systems = {"Calibrated": true, "Overconfident": sure, "Underconfident": shy}
    figures = {
        "reliability-calibrated": reliability_diagram(true, "Calibrated"),
        "reliability-overconfident": reliability_diagram(sure, "Overconfident"),
        "losses": losses(),
        "coverage": risk_coverage_curves({"Calibrated": true, "Sure at random": unrelated_confidence(true)}),
        "costs": cost_curves(systems, family=abstention_costs(3), label="cost of passing on"),
        "intervals": sizes(true),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")


def unrelated_confidence(posteriors: Posteriors, *, seed: int = 1) -> Posteriors:
    """The same answers, each with the confidence of an instance drawn at random: sure of the wrong ones too."""
    order = np.random.default_rng(seed).permutation(len(posteriors))
    ranked = np.sort(posteriors.log_posteriors, axis=1)[order]  # (N, K), of other instances
    places = posteriors.log_posteriors.argsort(axis=1).argsort(axis=1)
    return Posteriors(np.take_along_axis(ranked, places, axis=1), posteriors.labels)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURES)
