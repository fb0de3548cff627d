"""The public figures: each shows itself in a notebook, takes what `rango.metrics` takes, and refuses what it lacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.figure
import pytest
from helpers.made_posteriors import make
from helpers.reports_run import RECORD, make_states, write_run

import rango
from rango import Costs, figures
from rango.errors import InputError
from rango.reports.style import Figure


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("figures") / "run", RECORD, make_states(90))


SYSTEM = make(120, 2, sharpness=2.0)
OF_POSTERIORS: list[Callable[[], Figure]] = [
    lambda: figures.reliability(SYSTEM),
    lambda: figures.risk_coverage(SYSTEM),
    lambda: figures.risk_coverage({"mine": SYSTEM, "base": SYSTEM}, costs="abstain=0.3"),
    lambda: figures.cost_curve({"mine": SYSTEM}),
    lambda: figures.cost_curve(SYSTEM, family={w: Costs.class_weighted([1, w]) for w in (1, 5)}, label="weight"),
    lambda: figures.thresholds(SYSTEM, costs=Costs([[0, 1], [5, 0]])),
]


@pytest.mark.parametrize("draw", OF_POSTERIORS, ids=map(str, range(len(OF_POSTERIORS))))
def test_a_figure_is_matplotlib_s_and_shows_itself(draw: Callable[[], Figure]) -> None:
    figure = draw()
    assert isinstance(figure, matplotlib.figure.Figure)
    assert figure._repr_svg_().startswith("<svg")
    assert draw()._repr_svg_() == draw()._repr_svg_()


def test_figures_of_a_run_need_its_folder_only(run: Path) -> None:
    for source in (run, rango.Run(run)):
        assert figures.states(source).axes[0].get_xlabel().startswith("NCE")
        assert figures.learning_curves(source).axes[0].get_title(loc="left") == "Validation NCE"
    assert figures.learning_curves(run, metric="train_loss").axes[0].get_title(loc="left") == "Train loss"
    assert figures.reliability(f"{run}:base", name="base").axes[0].get_title(loc="left") == "Base model"
    with pytest.raises(InputError, match="unknown metric in the log 'mce'"):
        figures.learning_curves(run, metric="mce")
    with pytest.raises(InputError, match="unknown metric 'nec'"):
        figures.states(run, metric="nec")


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the family of costs is empty"):
        figures.cost_curve(SYSTEM, family={})
    with pytest.raises(InputError, match="no posteriors to draw"):
        figures.risk_coverage({})
    with pytest.raises(InputError):
        figures.study(tmp_path)
