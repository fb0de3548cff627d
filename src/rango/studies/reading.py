"""A study directory as outcomes, for tables, figures and page: stored posteriors and logs, no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rango.errors import RunError
from rango.studies.outcomes import Outcome, Reference


class OutcomeReader(Protocol):
    """What `rango report STUDY` needs of the store."""

    def __call__(self, path: Path) -> tuple[Sequence[Outcome], Sequence[Reference], str, str]:
        """The outcomes in the study's order, the references, the metric that selects, the study's name."""
        ...


def read_outcomes(path: Path) -> tuple[Sequence[Outcome], Sequence[Reference], str, str]:
    """The outcomes of a study directory.

    Raises:
        RunError: always, until the store is there.
    """
    raise RunError(f"{path}: a study directory cannot be read yet")
