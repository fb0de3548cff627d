"""Whether a run, an evaluation or a study is still what Rango wrote, and its metrics those of its posteriors.

file ── carries its own digest ────────────────── Parquet, safetensors, YAML, calibrator.json
     ── is listed with its digest in the record ── everything that a finished run holds
metrics.json ── each value against the one that the posteriors give
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rango.checksums import check_digest, check_seal
from rango.errors import InputError
from rango.files import read_yaml
from rango.showing import Grid, Shown, count
from rango.training.run_folder import RECORD, Run, compared_metrics, posteriors_file

_RECORDS = ("run.yaml", RECORD)
# What carries a digest of its own; a mark in a table or a page of the user's would mean nothing.
_SEALED = (".yaml", ".parquet", ".safetensors")


@dataclass(frozen=True, repr=False)
class Verification(Shown):
    """What was looked at, and what is wrong with it."""

    whole: int
    """Files that are as they were written."""
    unknown: int
    """Files without a digest, of which nothing can be said: pages, figures, runs that are not complete, older files."""
    values: int
    """Metrics that are those of the stored posteriors."""
    faults: tuple[str, ...]
    """One line for each file that is damaged or missing, and for each metric that is another."""

    def _facts(self) -> Iterator[str]:
        yield f"{count(self.whole, 'file')} as written"
        yield f"{count(self.unknown, 'file')} without a digest"
        yield f"{count(self.values, 'metric')} as the posteriors give them"
        yield count(len(self.faults), "fault") if self.faults else "no fault"

    def _grid(self) -> Grid | None:
        return Grid(["fault"], [[fault] for fault in self.faults]) if self.faults else None


def verify(folder: Path) -> Verification:
    """Look at every file of a run, an evaluation, or a study with all its runs.

    Raises:
        InputError: the folder is none of them.
    """
    if not (folder / "plan.json").is_file():
        Run(folder)  # or it says what the folder is instead
    records = [record for name in _RECORDS for record in sorted(folder.rglob(name))]
    listed: dict[Path, Mapping[str, str]] = {}
    faults: list[str] = []
    whole, unknown, values = 0, 0, 0
    for record in records:
        try:
            digests = read_yaml(record).get("digests")
        except InputError:
            continue  # its own line comes below, with those of the other files
        listed[record.parent] = digests if isinstance(digests, Mapping) else {}
        # The texts of instances may be deleted.
        names = [name for name in listed[record.parent] if not name.startswith("instances/")]
        missing = [name for name in names if not (record.parent / name).is_file()]
        faults.extend(f"{record.parent / name} is missing; {record} lists it" for name in missing)
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        place = next((parent for parent in file.parents if parent in listed), folder)
        name = file.relative_to(place).as_posix()
        try:
            sealed = (file.suffix in _SEALED or file.name == "calibrator.json") and check_seal(file)
            check_digest(file, listed.get(place, {}), name=name, record=place / "run.yaml")
        except (InputError, OSError) as error:
            faults.append(str(error))
        else:
            is_whole = sealed or name in listed.get(place, {})
            whole, unknown = whole + is_whole, unknown + (not is_whole)
    for place in listed:
        if (place / "metrics.json").is_file():
            try:
                checked = list(_metrics(Run(place)))
            except InputError as error:
                checked = [str(error)]
            values += sum(not fault for fault in checked)
            faults.extend(fault for fault in checked if fault)
    # What is damaged is met again by whoever reads it.
    return Verification(whole, unknown, values, tuple(dict.fromkeys(faults)))


def _metrics(run: Run) -> Iterator[str]:
    """For each metric of a state with posteriors "" where it is theirs, and otherwise what is wrong."""
    for split, states in run.metrics.items():
        for state, estimates in states.items():
            if not posteriors_file(run.path, state, split).is_file():
                continue  # the priors, and differences of two states
            values = {name: estimate.value for name, estimate in estimates.items()}
            for fault in compared_metrics(values, run.posteriors(state, split), run.costs):
                yield f"{run.path / 'metrics.json'}: {split}.{state}.{fault}" if fault else ""
