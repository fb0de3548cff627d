"""What a configuration is called beside others: the values of the axes that tell it apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rango.studies.outcomes import ADAPTATION, TASK, axis_names, axis_text, is_base, varied_axes

THE_ONE = "the configuration"
"""What a configuration is called where there is no other."""


def short_name(axis: str, axes: Sequence[str]) -> str:
    """An axis as a heading: the last part of its dotted key, unless another axis ends alike.

    >>> short_name("lora.rank", ["lora.rank", "seed"]), short_name("a.rank", ["a.rank", "b.rank"])
    ('rank', 'a.rank')
    """
    last = axis.rpartition(".")[2]
    alike = [name for name in axes if name.rpartition(".")[2] == last]
    return last.replace("_", " ") if len(alike) <= 1 else axis


@dataclass(frozen=True, eq=False)
class Names:
    """What the configurations of a study are called in a sentence or legend.

    The values of the axes that vary, without the task, each with its axis's name before it where it does not explain
    itself. What follows from the adaptation is left out: full fine-tuning's own learning rate, and that what has no
    calibrator has none.
    """

    among: Sequence[Mapping[str, object]]
    """The axes of every configuration."""

    def of(self, axes: Mapping[str, object], *, without: Sequence[str] = ()) -> str:
        """The name of one of them; `without` names axes to leave out."""
        base = is_base(axes)
        told = set(self._of_bases if base else self._of_adapted)
        if not base and (of_base := set(self._of_bases) - set(self._of_adapted) - {TASK}):
            told |= {*of_base, ADAPTATION}  # of several bases only one was adapted
        told -= {TASK, *without, *self.follows}
        if ADAPTATION in told:
            told -= self._absent[axis_text(axes.get(ADAPTATION))]
        names = tuple(name for name in self._axes if name in told)
        parts = ["base model"] if base else []
        for name in names:
            value = axes.get(name)
            explained = isinstance(value, str | list | tuple)
            parts.append(axis_text(value) if explained else f"{short_name(name, names)} {axis_text(value)}")
        return ", ".join(parts) if parts else axis_text(axes.get(ADAPTATION, THE_ONE))

    @cached_property
    def follows(self) -> dict[str, dict[str, object]]:
        """The varied axes of which each adaptation has one value: axis → adaptation → value."""
        found: dict[str, dict[str, object]] = {}
        for name in varied_axes(self.among):
            values = {axis_text(axes.get(ADAPTATION)): axes.get(name) for axes in self.among}
            pairs = {(axis_text(axes.get(ADAPTATION)), axis_text(axes.get(name))) for axes in self.among}
            if name not in (ADAPTATION, TASK) and len(pairs) == len(values):
                found[name] = values
        return found

    @cached_property
    def _axes(self) -> tuple[str, ...]:
        return axis_names(self.among)

    @cached_property
    def _of_bases(self) -> tuple[str, ...]:
        return varied_axes([axes for axes in self.among if is_base(axes)])

    @cached_property
    def _of_adapted(self) -> tuple[str, ...]:
        # Where all that is adapted is adapted alike, saying so each time says nothing.
        return varied_axes([axes for axes in self.among if not is_base(axes)])

    @cached_property
    def _absent(self) -> dict[str, set[str]]:
        """For each adaptation the axes that mean nothing to it."""
        found: dict[str, set[str]] = {}
        for axes in self.among:
            absent = {name for name in self._axes if axes.get(name) is None}
            adaptation = axis_text(axes.get(ADAPTATION))
            found[adaptation] = found.get(adaptation, absent) & absent
        return found
