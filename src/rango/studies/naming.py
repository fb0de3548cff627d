"""What a configuration is called beside others: the values of the axes that tell it apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def configuration_name(
    axes: Mapping[str, object], among: Sequence[Mapping[str, object]], *, without: Sequence[str] = ()
) -> str:
    """What a configuration is called in a sentence or legend: the values of the axes that vary, without the task.

    A value that its axis does not explain has the axis's name before it. What follows from the adaptation is left out:
    full fine-tuning's own learning rate, and that what has no calibrator has none.

    Args:
        axes: of the configuration.
        among: the axes of every configuration.
        without: axes to leave out.
    """
    bases = varied_axes([each for each in among if is_base(each)])
    # Where all that is adapted is adapted alike, saying so each time says nothing.
    adapted = varied_axes([each for each in among if not is_base(each)])
    told = set(bases if is_base(axes) else adapted)
    if not is_base(axes) and (of_base := set(bases) - set(adapted) - {TASK}):
        told |= {*of_base, ADAPTATION}  # of several bases only one was adapted
    told -= {TASK, *without, *follows_from_adaptation(among)}
    if ADAPTATION in told:
        alike = [each for each in among if each.get(ADAPTATION) == axes.get(ADAPTATION)]
        told -= {name for name in told if all(each.get(name) is None for each in alike)}
    names = tuple(name for name in axis_names(among) if name in told)
    parts = ["base model"] if is_base(axes) else []
    for name in names:
        value = axes.get(name)
        explained = isinstance(value, str | list | tuple)
        parts.append(axis_text(value) if explained else f"{short_name(name, names)} {axis_text(value)}")
    return ", ".join(parts) if parts else axis_text(axes.get(ADAPTATION, THE_ONE))


def follows_from_adaptation(among: Sequence[Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """The varied axes of which each adaptation has one value: axis → adaptation → value."""
    found: dict[str, dict[str, object]] = {}
    for name in varied_axes(among):
        values = {axis_text(axes.get(ADAPTATION)): axes.get(name) for axes in among}
        pairs = {(axis_text(axes.get(ADAPTATION)), axis_text(axes.get(name))) for axes in among}
        if name not in (ADAPTATION, TASK) and len(pairs) == len(values):
            found[name] = values
    return found
