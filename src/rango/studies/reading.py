"""Reads a study folder back: what each configuration and seed gave, from stored posteriors and without any model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rango.errors import InputError
from rango.studies.outcomes import Outcome, Reference


@dataclass(frozen=True, eq=False)
class StudyResult:
    """A study as its tables and figures see it."""

    name: str
    about: str
    select: str
    outcomes: tuple[Outcome, ...]
    references: tuple[Reference, ...]


def read_outcomes(path: Path) -> StudyResult:
    """Read a study folder.

    Raises:
        InputError: it is none.
    """
    raise InputError(f"{path} cannot be read as a study yet; give the folder of a run")
