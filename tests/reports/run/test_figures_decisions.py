from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes

from rango.decisions import Costs, Posteriors
from rango.errors import InputError
from rango.reports.run.figures import abstention_costs, cost_curves, risk_coverage_curves
from rango.reports.style import CYCLE, svg_text

States = dict[str, Posteriors]


def line(ax: Axes, start: str) -> tuple[np.ndarray, np.ndarray]:
    found = next(line for line in ax.lines if str(line.get_label()).startswith(start))
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


def test_full_coverage_has_the_error_rate(states: States) -> None:
    ax = risk_coverage_curves({"base": states["base"], "adapted": states["adapted"]}).axes[0]
    for key, start in (("base", "Base model (area"), ("adapted", "Adapted model (area")):
        coverage, risk = line(ax, start)
        assert coverage[-1] == 1.0
        assert risk[-1] == pytest.approx(states[key].error_rate())
        assert coverage[0] >= 0.02


def test_coverage_of_constant_posteriors_is_one_point(states: States) -> None:
    coverage, risk = line(risk_coverage_curves({"prior": states["prior"]}).axes[0], "Prior only")
    np.testing.assert_allclose((coverage, risk), ([1.0], [states["prior"].error_rate()]))


def test_coverage_with_costs(states: States) -> None:
    costs = Costs.class_weighted([1, 2, 3])
    ax = risk_coverage_curves({"adapted": states["adapted"]}, costs=costs).axes[0]
    assert ax.get_ylabel() == "mean cost of the answered"
    assert line(ax, "Adapted")[1][-1] == pytest.approx(states["adapted"].expected_cost(costs))


def test_cost_curves_show_the_expected_cost_of_each_member(states: States) -> None:
    family = abstention_costs(3, points=5)
    assert max(family) == pytest.approx(2 / 3)
    for normalised in (True, False):
        ax = cost_curves({"adapted": states["adapted"]}, family=family, label="cost", normalised=normalised).axes[0]
        points, values = line(ax, "Adapted")
        for point, value in zip(points, values, strict=True):
            costs = family[float(point)]
            adapted = states["adapted"]
            exact = adapted.normalised_expected_cost(costs) if normalised else adapted.expected_cost(costs)
            assert value == pytest.approx(exact)


def test_names_without_a_colour_get_one_each(states: States) -> None:
    figure = risk_coverage_curves({"rank 4": states["base"], "rank 8": states["adapted"], "floor": states["floor"]})
    colours = [str(entry.get_color()) for entry in figure.axes[0].lines]
    assert len(set(colours)) == 3
    assert set(colours) <= set(CYCLE)


def test_many_points_are_thinned_and_bytes_are_the_same(states: States) -> None:
    def drawn() -> str:
        return svg_text(risk_coverage_curves({"adapted": states["adapted"]}))

    assert len(risk_coverage_curves({"adapted": states["adapted"]}).axes[0].lines[0].get_xdata()) <= 400
    assert drawn() == drawn()


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(InputError, match="no posteriors to draw; give at least one state"):
        risk_coverage_curves({})


@pytest.mark.parametrize("count", [1, 5])
def test_instances_of_one_class_have_no_normalised_cost_but_an_error_rate(count: int) -> None:
    one = {"adapted": Posteriors.from_probabilities([[0.6, 0.3, 0.1]] * count, [0] * count)}
    family = abstention_costs(3)
    expected = f"costs nothing on the {count} instances of 'Adapted model', so nothing normalises; give instances with"
    with pytest.raises(InputError, match=expected):
        cost_curves(one, family=family, label="cost")
    assert "<svg" in svg_text(cost_curves(one, family=family, label="cost", normalised=False))
    assert "<svg" in svg_text(risk_coverage_curves(one))
