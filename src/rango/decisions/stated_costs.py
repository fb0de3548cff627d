"""What a person states about costs: a matrix, or a rule that fits any number of choices.

abstain=0.3              errors cost 1, being right nothing, and passing an instance on 0.3
distance=absolute        choices that are ordered levels: an error costs the levels between, or `squared` their square
costs.yaml               classes, decisions and costs (row = true class, column = decision), or `abstain: 0.3`, or
                         `distance: absolute`

`StatedCosts` is what a run, an evaluation and a study keep; `Costs` are what it means for given choices.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

from rango.decisions.costs import Costs
from rango.decisions.posteriors import Posteriors
from rango.errors import InputError, unknown_name
from rango.files import parse_json, read_yaml

Distance: TypeAlias = Literal["absolute", "squared"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)


@dataclass(frozen=True)
class StatedCosts:
    """Costs as a person states them: `abstain`, `distance`, or `classes`, `decisions` and `costs` as in a costs file.

    >>> StatedCosts(abstain=0.3).fitting(2).as_dict()["costs"]
    [[0.0, 1.0, 0.3], [1.0, 0.0, 0.3]]
    """

    abstain: float | None = None
    """A wrong choice costs 1, a right one nothing, no choice this: for tasks of any number of choices."""
    classes: tuple[str, ...] | None = None
    """The choices, as the rows of `costs`."""
    decisions: tuple[str, ...] | None = None
    """The decisions, as the columns of `costs`."""
    costs: tuple[tuple[float, ...], ...] | None = None
    """(K, D): row = right choice, column = decision; for tasks of K choices."""
    distance: Distance | None = None
    """A wrong level costs its distance from the right one, or the square of it: for ordered levels of any number."""

    @classmethod
    def build(cls, stated: Any, *, where: str = "costs") -> Self:
        """The statement in a mapping, as a costs file, a study file or a record holds it.

        Raises:
            InputError: as `Costs.from_mapping`; `abstain` beside other keys, or not between 0 and 1.
        """
        if not isinstance(stated, Mapping):
            raise InputError(f"{where} is {stated!r}; expected keys and values, such as {{abstain: 0.3}}")
        if "distance" in stated:
            if beside := sorted(map(str, stated.keys() - {"distance"})):
                raise InputError(f"{where}: distance and {beside[0]} are both given; a matrix may hold both, keep one")
            if stated["distance"] not in DISTANCES:
                raise unknown_name(f"distance in {where}", str(stated["distance"]), DISTANCES)
            return cls(distance=stated["distance"])
        if "abstain" not in stated:
            costs = Costs.from_mapping(stated, where=where)
            rows = tuple(tuple(row) for row in costs.matrix.tolist())
            return cls(None, costs.classes if costs.named else None, costs.decisions, rows)
        for key in stated:
            if key in ("classes", "decisions", "costs"):
                raise InputError(
                    f"{where}: abstain and {key} are both given; a matrix has a column for abstaining, keep one"
                )
            if key != "abstain":
                raise unknown_name(f"key in {where}", str(key), ("abstain",))
        cost = stated["abstain"]
        if type(cost) not in (int, float) or not 0 < cost < 1:
            raise InputError(
                f"{where}: abstain is {cost!r}; expected a cost between 0 and 1, which is what an error costs"
            )
        return cls(abstain=float(cost))

    @classmethod
    def read(cls, stated: str) -> Self:
        """What `--costs` says: `abstain=COST`, `distance=absolute`, `distance=squared`, or the path of a costs file.

        The file is read now and not needed again.

        A mapping in a file for `--config` comes as JSON.

        Raises:
            InputError: the file cannot be read or holds no costs; a cost of abstaining that is not between 0 and 1.

        >>> StatedCosts.read("abstain=0.3").abstain
        0.3
        """
        levels = re.fullmatch(r"distance\s*=\s*(.*)", stated.strip())
        if levels is not None:
            return cls.build({"distance": levels[1]})
        rule = re.fullmatch(r"abstain\s*=\s*(.*)", stated.strip())
        if rule is None and stated.startswith("{"):
            return cls.build(parse_json(stated, "costs"))
        if rule is None and "=" in stated and not Path(stated).exists():
            raise InputError(f"costs {stated!r} are no file; expected the path of one, or a rule such as abstain=0.3")
        if rule is None:
            return cls.build(read_yaml(Path(stated)), where=stated)
        # Python alone would take 1_0 for 10.
        is_number = re.fullmatch(r"[-+]?\d*\.?\d+([eE][-+]?\d+)?", rule[1])
        return cls.build({"abstain": float(rule[1]) if is_number else rule[1]})

    @classmethod
    def of(cls, costs: Any) -> StatedCosts:
        """The statement of a matrix, of a file's content, or of a text as `read` takes it; a statement as it is."""
        if isinstance(costs, StatedCosts):
            return costs
        if isinstance(costs, str):
            return cls.read(costs)
        return cls.build(costs.as_dict() if isinstance(costs, Costs) else costs)

    def as_dict(self) -> dict[str, Any]:
        """What run.yaml, evaluation.yaml and a study's plan keep, and `build` reads."""
        if self.abstain is not None:
            return {"abstain": self.abstain}
        if self.distance is not None:
            return {"distance": self.distance}
        return self.matrix.as_dict()

    @property
    def is_rule(self) -> bool:
        """Whether these costs fit any number of choices."""
        return self.costs is None

    @property
    def matrix(self) -> Costs:
        """The matrix as it was stated, where there is no rule."""
        assert self.costs is not None
        return Costs(self.costs, classes=self.classes, decisions=self.decisions)

    def fitting(self, choices: int) -> Costs | None:
        """The costs of a task with so many choices, by place; None where these are of another number."""
        if self.abstain is not None:
            return Costs.zero_one(choices).with_abstention(self.abstain)
        if self.distance is not None:
            return Costs.distance(choices, squared=self.distance == "squared")
        return self.matrix if len(self.matrix.classes) == choices else None

    def for_choices(self, choices: Collection[Sequence[str]]) -> Costs:
        """The costs of instances with these choices, matched by name where all have the same.

        Raises:
            InputError: as `Costs.for_choices`, or another number of choices.

        >>> StatedCosts(abstain=0.3).for_choices([("no", "yes")]).decisions
        ('no', 'yes', 'abstain')
        """
        longest = max(choices, key=len)
        # As `Posteriors.column_names`: an instance may have fewer choices, but in the same places.
        same = all(tuple(longest[: len(row)]) == tuple(row) for row in choices) and len(set(longest)) == len(longest)
        return self._named(longest if same else None, len(longest))

    def applies_to(self, posteriors: Posteriors) -> bool:
        """Whether the choices are of the kind that these costs are of: distances need ordered levels."""
        return self.distance is None or posteriors.is_ordered

    def for_posteriors(self, posteriors: Posteriors) -> Costs:
        """The costs with a row for each column of posteriors, matched by name.

        Raises:
            InputError: as `Posteriors.match_costs`; costs of distances for choices that are not ordered levels.
        """
        if not self.applies_to(posteriors):
            raise InputError(
                f"costs are distance={self.distance}, but the choices have no order; give every instance the type "
                "score (column type)"
            )
        return posteriors.match_costs(self._named(posteriors.column_names, posteriors.n_choices))

    def _named(self, names: Sequence[str] | None, count: int) -> Costs:
        if self.abstain is not None:
            return Costs.zero_one(count if names is None else tuple(names)).with_abstention(self.abstain)
        if self.distance is not None:
            return Costs.distance(count if names is None else tuple(names), squared=self.distance == "squared")
        self.matrix.check_classes(count)
        return self.matrix.for_choices(names)

    @property
    def words(self) -> str:
        """What costs what, in a few words."""
        if self.abstain is not None:
            return f"costs: a wrong choice 1, abstaining {self.abstain:g}"
        if self.distance is not None:
            return "costs: the levels between decision and right level" + (", squared" * (self.distance == "squared"))
        return "costs: a matrix of {} choices and {} decisions".format(*self.matrix.matrix.shape)

    def check_fits(self, choices: Collection[int]) -> None:
        """Raise InputError where the costs fit none of several tasks, of which `choices` are the numbers of choices."""
        if not choices or any(self.fitting(number) is not None for number in choices):
            return
        numbers = ", ".join(map(str, sorted(choices)))
        raise InputError(
            f"costs have {len(self.matrix.classes)} classes but the tasks have {numbers} choices; "
            "give one row for each choice, or abstain: COST for tasks of any size"
        )
