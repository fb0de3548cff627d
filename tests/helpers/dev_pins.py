"""The pins of constraints.txt that `.[dev]` needs, torch left out: what requirements-dev.txt lists with hashes.

    python tests/helpers/dev_pins.py > pins.txt
    uv pip compile --no-deps --generate-hashes --no-annotate --no-header pins.txt

torch stands in no list of hashes: its builds for the CPU and for each CUDA are different files of one version.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def normal(name: str) -> str:
    """The name of a distribution as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    """The version of each distribution in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {normal(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def needed() -> set[str]:
    """The distributions that `.[dev]` brings, as the installed ones say what they need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text) for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (normal(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        for further in map(Requirement, requires(requirement.name) or ()):
            extras = ["", *requirement.extras]
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(further)
    return {name for name, _ in seen}


if __name__ == "__main__":
    versions = pins()
    print("\n".join(f"{name}=={versions[name]}" for name in sorted(needed() - {"torch"})))
