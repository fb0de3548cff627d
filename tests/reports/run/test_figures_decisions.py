from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from scipy.special import expit

from rango.decisions import Costs, Posteriors, gate, judge
from rango.decisions.risk import risk_coverage
from rango.errors import InputError
from rango.reports.run.figures import abstention_costs, cost_curves, gate_curve, risk_coverage_curves, threshold_plot
from rango.reports.style import CYCLE, svg_text

States = dict[str, Posteriors]


def line(ax: Axes, start: str) -> tuple[np.ndarray, np.ndarray]:
    drawn = next(line for line in ax.lines if str(line.get_label()).startswith(start))
    return np.asarray(drawn.get_xdata()), np.asarray(drawn.get_ydata())


@pytest.fixture(scope="module")
def two() -> States:
    generator = np.random.default_rng(3)
    odds = generator.normal(size=2000) * 2
    labels = (generator.random(2000) < expit(odds)).astype(int)
    scores = np.column_stack([np.zeros(2000), odds])
    return {"floor": Posteriors.from_scores(scores, labels), "adapted": Posteriors.from_scores(2.5 * scores, labels)}


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


def test_the_true_posterior_is_cheapest_at_the_bayes_threshold(two: States) -> None:
    costs = Costs([[0, 1], [4, 0]], classes=["no", "yes"])
    ax = threshold_plot(two, costs=costs).axes[0]
    assert ax.get_xlabel() == "threshold on the posterior of 'yes'"
    assert "Bayes threshold 0.20" in [str(entry.get_label()) for entry in ax.lines]
    shares, expected = line(ax, "True posterior")
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    # Deciding "yes" always costs 1 for each "no"; deciding "no" always costs 4 for each "yes".
    share = two["floor"].priors()
    np.testing.assert_allclose((expected[0], expected[-1]), (share[0], 4 * share[1]))
    best = float(shares[expected.argmin()])
    assert best == pytest.approx(0.2, abs=0.1)


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


def test_a_gate_stands_on_its_curve(two: States) -> None:
    """Its point has the coverage and error of the judgement, and the curve ends at the error rate."""
    fit, test = two["floor"].take(np.arange(1000)), two["floor"].take(np.arange(1000, 2000))
    chosen = gate(fit, max_error=0.1, replicates=0)
    judgement = judge(chosen, test, replicates=0)
    figure = gate_curve(chosen, judgement, test)
    ax = figure.axes[0]
    curve = np.asarray(ax.lines[0].get_xdata()), np.asarray(ax.lines[0].get_ydata())
    assert (curve[0][-1], curve[1][-1]) == pytest.approx((1.0, test.error_rate()))
    point = ax.containers[0].lines[0]  # type: ignore[attr-defined]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (judgement.coverage.value, judgement.error.value)
    assert svg_text(figure) == svg_text(gate_curve(chosen, judgement, test))


def test_without_a_gate_the_curve_is_that_of_the_surest(two: States) -> None:
    posteriors = two["floor"].take(np.arange(300))
    line = gate_curve(None, None, posteriors).axes[0].lines[0]
    curve = risk_coverage(posteriors)
    for coverage, risk in zip(line.get_xdata()[::40], line.get_ydata()[::40], strict=True):  # type: ignore[index]
        assert risk == pytest.approx(float(np.interp(coverage, curve.coverage, curve.risk)))


def test_what_lies_beyond_the_scale_is_said_in_the_legend(two: States) -> None:
    bad = Posteriors(np.log([[1 - 1e-9, 1e-9]] * 40), [0] * 20 + [1] * 20)
    figure = cost_curves({"base": bad, "adapted": two["floor"]}, family=abstention_costs(2), label="cost")
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[0].startswith("Base model up to ")
    assert words[1] == "Adapted model"
