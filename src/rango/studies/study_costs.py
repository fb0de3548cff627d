"""What decisions cost in a study: one matrix, or a rule that fits tasks of any number of choices."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from rango.config import Config
from rango.decisions import METRICS, Costs
from rango.errors import InputError, unknown_name
from rango.files import read_yaml


class StudyCosts(Config):
    """Costs as a study file states them: `abstain`, or `classes`, `decisions` and `costs` as in a costs file.

    >>> StudyCosts(abstain=0.3).fitting(2).as_dict()["costs"]
    [[0.0, 1.0, 0.3], [1.0, 0.0, 0.3]]
    """

    abstain: Annotated[float, Field(gt=0, lt=1)] | None = None
    """A wrong choice costs 1, a right one nothing, no choice this: for tasks of any number of choices."""
    classes: tuple[str, ...] | None = None
    """The choices, as the rows of `costs`."""
    decisions: tuple[str, ...] | None = None
    """The decisions, as the columns of `costs`."""
    costs: tuple[tuple[float, ...], ...] | None = None
    """(K, D): row = right choice, column = decision; for tasks of K choices."""

    @model_validator(mode="before")
    @classmethod
    def _matrix(cls, values: Any) -> Any:
        """A matrix is checked as that of a costs file, whose messages are better."""
        if not isinstance(values, Mapping):
            return values
        # A stored study has None where nothing was stated.
        stated = {key: value for key, value in values.items() if value is not None}
        if "abstain" not in stated:
            return Costs.from_mapping(stated).as_dict()
        if len(stated) > 1:
            other = next(key for key in stated if key != "abstain")
            raise InputError(f"abstain and {other} are both given; a matrix has a column for abstaining, keep one")
        return values

    def fitting(self, choices: int) -> Costs | None:
        """The costs of a task with so many choices; None where these are of another number."""
        if self.abstain is not None:
            return Costs.zero_one(choices).with_abstention(self.abstain)
        assert self.costs is not None
        if len(self.costs) != choices:
            return None
        return Costs(self.costs, classes=self.classes, decisions=self.decisions)

    @property
    def words(self) -> str:
        """What costs what, in a few words."""
        if self.abstain is not None:
            return f"costs: a wrong choice 1, abstaining {self.abstain:g}"
        assert self.costs is not None
        assert self.decisions is not None
        return f"costs: a matrix of {len(self.costs)} choices and {len(self.decisions)} decisions"


def read_costs(value: Any) -> Any:
    """What stands under `costs:`. A path is read here, so that its content is stored and the file not needed again."""
    return read_yaml(Path(value)) if isinstance(value, str) else value


def check_metrics(names: Any) -> Any:
    """Check what stands under `metrics:`, a name or a list.

    Raises:
        InputError: an unknown name, or one that stands there twice.
    """
    # Anything but names is left to pydantic, which says what it expects.
    listed = [names] if isinstance(names, str) else names
    for name in listed if isinstance(listed, list | tuple) else ():
        if name not in METRICS:
            raise unknown_name("metric", str(name), METRICS)
        if listed.count(name) > 1:
            raise InputError(f"{name} is named twice; name each metric once")
    return listed


def check_costs(costs: StudyCosts | None, choices: Collection[int]) -> None:
    """Raise InputError where there are costs but they fit no task, of which `choices` are the numbers of choices."""
    if costs is None or not choices or any(costs.fitting(number) is not None for number in choices):
        return
    assert costs.costs is not None
    raise InputError(
        f"costs have {len(costs.costs)} classes but the tasks have {', '.join(map(str, sorted(choices)))} choices; "
        "give one row for each choice, or abstain: COST for tasks of any size"
    )
