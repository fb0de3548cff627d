"""What a person names as a system and says about it, in Python and on the command line: posteriors, costs, priors.

    posteriors, a file of them, a data frame, a run, RUN or RUN:STATE ── read_system ──> Posteriors, and notes
    a log, and labels that came later                                 ── read_log    ──> DecisionLog, or as LongLog
    --costs, or what the runs among the systems state                 ── read_costs  ──> StatedCosts
    0.2,0.8   no=0.2,yes=0.8   {"no": 0.2, "yes": 0.8}                ── read_priors ──> numbers in column order

Notes are sentences for whoever reads the numbers: which posteriors of a run were taken, how a file was understood.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union, Unpack, cast

from numpy.typing import ArrayLike

from rango.decisions import Calibrator, Costs, DecisionLog, Posteriors, StatedCosts, read_posteriors
from rango.decisions.decision_log import LogColumns
from rango.decisions.long_logs import CostsFor, LongLog
from rango.errors import InputError, unknown_name
from rango.frames import is_frame
from rango.options import Split
from rango.training.run_folder import Run, parse_state, posteriors_file

if TYPE_CHECKING:
    from narwhals.typing import IntoDataFrame

System: TypeAlias = Union[Posteriors, Run, str, "os.PathLike[str]", "IntoDataFrame"]
"""Posteriors, or where they are: a file, a data frame, a run, or the text RUN or RUN:STATE."""
AnyCosts: TypeAlias = Union[Costs, StatedCosts, Mapping[str, Any], str, "os.PathLike[str]"]
"""Costs, or what states them: a costs file, its content, or the text `abstain=COST`."""
AnyTable: TypeAlias = Union[str, "os.PathLike[str]", "IntoDataFrame"]
"""A file with columns, or a data frame."""
AnyPriors: TypeAlias = Mapping[str, float] | str | ArrayLike
"""Class priors by name, or as numbers in the order of the columns, also as a text."""

BEST = ("calibrated", "adapted", "base")
"""Which posteriors of a run are meant where none are named: those that one would act on."""
RAW = ("adapted", "base")
"""The same where posteriors are calibrated."""


def read_system(
    source: System, *, need_labels: bool = True, split: Split = "test", states: tuple[str, ...] = BEST
) -> tuple[Posteriors, tuple[str, ...]]:
    """The posteriors of a system, and in words how they were understood.

    Args:
        source: of a run, the first of `states` that it has, unless it is RUN:STATE.
        need_labels: False for what needs no labels.
        split: of a run.
        states: of a run, in the order of preference.

    Raises:
        InputError: as `read_posteriors`; a run that is not complete, or lacks the state; labels that are missing.
    """
    if isinstance(source, Posteriors):
        if need_labels:
            _ = source.votes  # raises where there are no labels
        return source, source.notes
    run, state = _run_of(source)
    if run is None:
        if is_frame(source):
            posteriors = Posteriors.from_frame(cast("IntoDataFrame", source), need_labels=need_labels)
            return posteriors, posteriors.notes
        file = os.fspath(cast("str | os.PathLike[str]", source))
        posteriors = read_posteriors(file, need_labels=need_labels)
        return posteriors, tuple(f"{file}: {note}" for note in posteriors.notes)
    if (run.path / "run.yaml").is_file() and not run.complete:
        raise InputError(f"{run.path} is not complete; repeat its command to go on")
    named, calibrator = state is not None, run.path / "calibrator.json"
    if state is None:
        state = next((name for name in states if posteriors_file(run.path, name, split).is_file()), states[-1])
    stored = posteriors_file(run.path, state, split).is_file()
    if state == "calibrated" and calibrator.is_file() and not stored:
        # Those of test alone are stored; a gate is chosen on those of validation.
        posteriors = Calibrator.read(calibrator).apply(run.posteriors("adapted", split))
    else:
        posteriors = run.posteriors(state, split)
    used = state
    if state == "calibrated":
        used = "adapted and calibrated"
    elif state == "adapted" and not named and states is BEST and calibrator.is_file():
        # A folder may lack the calibrated posteriors, but not what makes them.
        posteriors = Calibrator.read(calibrator).apply(posteriors)
        used = "adapted and calibrated"
    elif state in BEST:
        used = f"{state}, not calibrated"
    if need_labels and not posteriors.has_labels:
        raise InputError(f"{source}: the instances of {split} have no labels; what is measured needs them")
    return posteriors, (f"{run.path}, {split}, {used}",)


def read_log(
    log: System,
    *,
    labels: AnyTable | None = None,
    split: Split = "test",
    states: tuple[str, ...] = BEST,
    **columns: Unpack[LogColumns],
) -> DecisionLog:
    """The decisions of a file or a frame, with what its columns say; of posteriors or a run, those of its instances.

    Arguments as in `DecisionLog.from_table`; of a run as in `read_system`.

    Raises:
        InputError: as `DecisionLog.read` and `read_system`; columns of what has none.
    """
    if is_file(log) or is_frame(log):
        tables: Any = [os.fspath(one) if isinstance(one, os.PathLike) else one for one in (log, labels)]
        return DecisionLog.read(*tables, **columns)
    named = {"--labels": labels} | {f"--{'id' if key == 'name' else key}": name for key, name in columns.items()}
    if given := [option for option, value in named.items() if value is not None]:
        raise InputError(f"{given[0]} is for a log with columns; a run and posteriors have none, leave it out")
    posteriors, notes = read_system(log, need_labels=False, split=split, states=states)
    return replace(DecisionLog.of(posteriors), notes=notes)


def read_long_log(
    log: System,
    *,
    labels: AnyTable | None = None,
    period: str | None = None,
    costs_for: CostsFor = lambda _: None,
    sample: bool = False,
    **columns: Unpack[LogColumns],
) -> LongLog:
    """The decisions of a log as `monitor` takes them: of a file, in memory that does not depend on its length.

    Arguments as in `LongLog.read`.

    Raises:
        InputError: as `read_log` and `LongLog.read`.
    """
    if is_file(log) and (labels is None or isinstance(labels, str | os.PathLike)):
        path, beside = (None if one is None else Path(os.fspath(cast("str", one))) for one in (log, labels))
        assert path is not None
        return LongLog.read(path, beside, period=period, costs_for=costs_for, sample=sample, **columns)
    return LongLog.of(read_log(log, labels=labels, **columns), period)


def is_file(log: System) -> bool:
    """Whether a system is the path of a file, and no run."""
    return isinstance(log, str | os.PathLike) and _run_of(log)[0] is None


def _run_of(source: System) -> tuple[Run | None, str | None]:
    """The run that a system is, with its state where one is named; None where it is no run."""
    if isinstance(source, Run):
        return source, None
    if not isinstance(source, str | os.PathLike):
        return None, None
    text = os.fspath(source)
    folder = text if Path(text).is_dir() else text.rpartition(":")[0]
    return parse_state(text) if folder and Path(folder).is_dir() else (None, None)


def system_names(*systems: System) -> tuple[str, ...]:
    """Short names that differ: what stands last in each path, or where that is one, what differs before it.

    What has no path is called by its place.
    """
    sources = []
    for place, system in enumerate(systems, start=1):
        source = system.path if isinstance(system, Run) else system
        sources.append(os.fspath(source) if isinstance(source, str | os.PathLike) else f"system {place}")
    shortest = tuple(Path(source).stem for source in sources)
    if len(set(shortest)) == len(shortest) and not {"difference", "prior"} & set(shortest):
        return shortest
    paths = [list(Path(source).absolute().parts) for source in sources]
    # What all paths begin with, and what all end with, tells nothing.
    while all(paths) and len({path[0] for path in paths}) == 1:
        for path in paths:
            del path[0]
    while all(len(path) > 1 for path in paths) and len({path[-1] for path in paths}) == 1:
        for path in paths:
            del path[-1]
    names = tuple("/".join(path) for path in paths)
    if all(names) and len(set(names)) == len(names):
        return names
    return tuple(f"{stem} ({number})" for number, stem in enumerate(shortest, start=1))


def read_costs(costs: AnyCosts | None, *systems: System) -> tuple[StatedCosts | None, tuple[str, ...]]:
    """The costs that are given, or else those that the runs among the systems state; None where nobody states any.

    Raises:
        InputError: as `StatedCosts.of`; runs that state different costs.
    """
    if costs is not None:
        return StatedCosts.of(os.fspath(costs) if isinstance(costs, os.PathLike) else costs), ()
    stated: dict[str, StatedCosts] = {}
    for run, _ in map(_run_of, systems):
        if run is not None and run.stated_costs is not None:
            stated[str(run.path)] = run.stated_costs
    if len(set(stated.values())) > 1:
        raise InputError(f"{' and '.join(stated)} state different costs; say with --costs which of them count")
    for folder, those in stated.items():
        return those, (f"{those.words}, as {folder} states",)
    return None, ()


def read_priors(priors: AnyPriors | None, posteriors: Posteriors, *, option: str = "priors") -> ArrayLike | None:
    """Class priors in the order of the columns: numbers in that order, or by name in any.

    Raises:
        InputError: a text that is no list of numbers, a name that is no class, or a class that is not named once.

    >>> import numpy as np
    >>> posteriors = Posteriors(np.log([[0.8, 0.2]]), None, choices=[["no", "yes"]])
    >>> read_priors("yes=0.1,no=0.9", posteriors), read_priors({"yes": 0.1, "no": 0.9}, posteriors)
    ([0.9, 0.1], [0.9, 0.1])
    """
    if isinstance(priors, Mapping):
        values: list[tuple[str | None, float]] = list(priors.items())
    elif isinstance(priors, str):
        # float() alone would take 1_0 for 10.
        pairs = [re.fullmatch(r"\s*(?:(.*?)\s*=\s*)?([-+.0-9eE]+)\s*", part) for part in priors.split(",")]
        try:
            values = [(pair[1], float(pair[2])) for pair in pairs if pair]
        except ValueError:
            values = []
        if len(values) < len(pairs) or len({name is None for name, _ in values}) > 1:
            expected = "numbers with commas between, such as 0.2,0.3,0.5, or a=0.2,…"
            raise InputError(f"{option} is {priors!r}; expected {expected}")
    else:
        return priors
    by_name = dict(values)
    if None in by_name:
        return [value for _, value in values]
    columns = posteriors.column_names
    if columns is None:
        raise InputError(f"{option} is {priors!r}, but the posteriors name no classes; give numbers in column order")
    for name in by_name:
        if name not in columns:
            raise unknown_name(f"class in {option}", str(name), columns)
    if len(by_name) < len(columns) or len(values) > len(by_name):
        raise InputError(f"{option} is {priors!r}; expected each of {', '.join(columns)} once")
    return [by_name[name] for name in columns]
