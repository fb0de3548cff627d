"""What is wrong with the keys of a study, before any value is looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rango.decisions import DIRECTIONS
from rango.errors import unknown_name
from rango.studies.keys import dotted_items, flatten, known_keys
from rango.studies.study_costs import COST_METRICS

if TYPE_CHECKING:
    from rango.studies.study import Study


def key_problems(study: Study) -> list[str]:
    """A line for each mistake in the keys of base, axes, search and references."""
    return [*_unknown(study), *_clashes(study), *_of_search(study), *_of_references(study), *_of_costs(study)]


def sound_part(study: Study) -> Study:
    """The study without the keys that are wrong, so that what is wrong with the rest can be found as well."""
    known = set(known_keys())

    def kept(values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in flatten(values).items() if key in known}

    listed = {key for run in study.runs for key in flatten(run)}
    vary = {key: values for key, values in study.vary.items() if key in known and values and key not in listed}
    runs = tuple(kept(run) for run in study.runs)
    search = study.search
    if search is not None:
        space = {key: axis for key, axis in search.space.items() if key in known and axis}
        search = search.model_copy(update={"space": space})
    return study.model_copy(update={"base": kept(study.base), "vary": vary, "runs": runs, "search": search})


def _places(study: Study) -> Iterator[tuple[str, list[str]]]:
    yield "base", [key for key, _ in dotted_items(study.base)]
    yield "vary", list(study.vary)
    for number, run in enumerate(study.runs):
        yield f"runs[{number}]", [key for key, _ in dotted_items(run)]


def _unknown(study: Study) -> Iterator[str]:
    known = known_keys()
    for place, keys in _places(study):
        for key in keys:
            if key == "seed":
                yield f"{place}: seed is set by `seeds`; take it out"
            elif key not in known:
                yield str(unknown_name(f"key in {place}", key, known))


def _clashes(study: Study) -> Iterator[str]:
    for place, keys in _places(study):
        for key, count in Counter(keys).items():
            if count > 1:
                yield f"{place}: {key} stands twice; keep one of them"
    for key, values in study.vary.items():
        if not values:
            yield f"vary: {key} has no values; give at least one, or take the axis out"
        in_runs = [number for number, run in enumerate(study.runs) if key in flatten(run)]
        if in_runs:
            yield f"{key} is varied twice, in vary and in runs[{in_runs[0]}]; keep one of them"


def _of_search(study: Study) -> Iterator[str]:
    if study.search is None:
        return
    yield from study.search.problems(known_keys())
    if study.vary or study.runs:
        yield f"search and {'vary' if study.vary else 'runs'} are both given; a study has one of them"
    if len(study.seeds) > 1:
        yield (
            f"search: seeds are {list(study.seeds)}; a search takes one; try the best with more seeds in a grid, "
            "the same folder keeps their runs"
        )


def _of_references(study: Study) -> Iterator[str]:
    known = known_keys()
    for reference in study.references:
        if reference.metric not in DIRECTIONS:
            yield str(unknown_name(f"metric of reference {reference.name!r}", reference.metric, DIRECTIONS))
        for key in reference.where:
            if key not in known:
                yield str(unknown_name(f"key in where of reference {reference.name!r}", key, known))


def _of_costs(study: Study) -> Iterator[str]:
    wanted = [name for name in study.metrics if name in COST_METRICS]
    if wanted and study.costs is None:
        yield f"metrics has {wanted[0]} but there are no costs; give costs, such as {{abstain: 0.3}}"
