from __future__ import annotations

import itertools
import math
import re
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from rango.errors import InputError
from rango.reports.run.figures import learning_curve
from rango.reports.style import COLOURS, MARKERS, label_rows, line_looks, outlier_limit, panel, save_figure, svg_text
from rango.reports.svg import VARIABLES

Log = list[dict[str, Any]]


def test_drawing_leaves_matplotlib_as_it_was(log: Log) -> None:
    before = dict(mpl.rcParams)
    save_figure_text = svg_text(learning_curve(log, "train_loss"))
    assert save_figure_text
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_files_are_the_same_each_time(tmp_path: Path, log: Log, ending: str) -> None:
    for name in ("a", "b"):
        save_figure(learning_curve(log, "nce"), tmp_path / f"{name}.{ending}")
    first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("a", "b"))
    assert first == second


def test_unknown_ending_of_a_figure(tmp_path: Path, log: Log) -> None:
    with pytest.raises(
        InputError, match=r"figure\.bmp: ending '\.bmp' is not a figure's; expected \.svg, \.png or \.pdf"
    ):
        save_figure(learning_curve(log, "train_loss"), tmp_path / "figure.bmp")
    assert list(tmp_path.iterdir()) == []


def test_rows_of_names_stand_from_top_to_bottom() -> None:
    _, ax = panel()
    label_rows(ax, ["first", "second", "third"])
    names = {label.get_text(): y for label, y in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)}
    assert names == {"first": 2, "second": 1, "third": 0}


def test_colours_of_states_differ_for_colour_blind_readers_too() -> None:
    """Distance in CIELAB as seen with normal, protan and deutan sight (Machado et al. 2009, severity 1)."""
    sight = {
        "normal": np.eye(3),
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    }
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])

    def lab(colour: str, seen: Any) -> np.ndarray:
        share = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        xyz = to_xyz @ np.clip(np.asarray(seen) @ linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    sheet = (resources.files("rango.reports") / "page.css").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"(--[a-z-]+): (#[0-9a-f]{6})", block)) for block in sheet.split(":root {")[1:3]]
    palettes = [COLOURS, *({key: scheme[VARIABLES[colour]] for key, colour in COLOURS.items()} for scheme in schemes)]
    for palette in palettes:
        for one, other in itertools.combinations(palette, 2):
            for name, seen in sight.items():
                distance = np.linalg.norm(lab(palette[one], seen) - lab(palette[other], seen))
                assert distance > 15, (one, other, name, distance)
    assert len(set(MARKERS.values())) == len(MARKERS)


def test_systems_that_are_compared_have_looks_of_their_own_beside_those_of_states() -> None:
    looks = line_looks(["prior", "base", "one", "two", "three"])
    assert (looks["base"]["color"], looks["prior"]["color"]) == (COLOURS["base"], COLOURS["prior"])
    assert len({look["color"] for look in looks.values()}) == 5
    # The priors stand in some figures only, and change nobody's look.
    assert {key: look for key, look in looks.items() if key != "prior"} == line_looks(["base", "one", "two", "three"])
    assert len(line_looks([str(place) for place in range(20)])) == 20


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ([0.45, 0.5, 1.0, 18.8], 1.0),
        ([0.45, 0.5, 1.0, 2.9], None),
        ([0.01, 0.2, 0.25], None),  # one very good state flattens nothing
        ([0.4, 18.0], 0.4),
        ([0.4, math.inf], 0.4),
        ([math.nan, 0.4, 0.5, 9.0, 40.0], 0.5),
        ([0.0, 0.0, 5.0], None),
        ([], None),
    ],
)
def test_a_scale_ends_before_values_that_would_flatten_it(values: list[float], limit: float | None) -> None:
    assert outlier_limit(values) == limit


def test_named_points_leave_no_trace_in_files(log: Log) -> None:
    assert "values:" not in svg_text(learning_curve(log, "nce"))
