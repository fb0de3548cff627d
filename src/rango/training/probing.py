"""`rango probe`: what a model answers when the same questions are asked in another way.

    instances ── original, and each `Variant` ── scored ──> OUT/posteriors/SPLIT-NAME.parquet ── measured ──> probe.json

A file that a stopped command has written is not computed again. Nothing here needs a model before scoring begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from rango.config import Seed
from rango.console import Screen
from rango.decisions import Calibrator, Estimate, Gate, Posteriors, read_posteriors, write_posteriors
from rango.decisions.calibrators import Temperature
from rango.decisions.pairing import average_passes
from rango.decisions.robustness import changes, flip_rate, flipped, mean_share
from rango.errors import InputError, unknown_name
from rango.files import holds_files, read_json, write_json
from rango.options import EvaluateConfig, Form, ModelAndTask, ModelOptions, ScoringOptions, Split, TaskOptions
from rango.output_folder import check_links, only_writer
from rango.showing import Grid, Shown, count
from rango.tasks import Instance, Task, few_shot, load_task
from rango.tasks.perturbations import Change, Variant, variants_of
from rango.tasks.task import unlabelled
from rango.training.evaluation_of_run import as_the_run, calibrator_for, check_data
from rango.training.run_folder import Run, parse_state, posteriors_file

if TYPE_CHECKING:
    from rango.models.loading import Model

RESULT = "probe.json"

Asked = Callable[[Sequence[Instance], Task, Form, str], Posteriors]
"""Posteriors of instances, which a task puts into words in a form; the last is a name for a log of answers."""


def _names(value: Any) -> Any:
    """`"permute,remove"` as a tuple of names."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return value
    return tuple(name.strip() for part in parts for name in part.split(",") if name.strip()) or None


class ProbeConfig(ScoringOptions, TaskOptions, ModelOptions, ModelAndTask):
    """Everything that decides what `rango probe` asks, as in its probe.json."""

    model: str = Field(default="", kw_only=False)
    """A run directory, or a model as rango evaluate takes it: a Hub id, a folder, or an endpoint systemone:URL#NAME or
    openai:URL#NAME."""
    task: str = Field(default="", kw_only=False)
    """A task's name or the path of a table; that of the run when absent."""
    split: Split = "test"
    """The split whose instances are changed."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first instances of the split."""
    changes: Annotated[tuple[Change, ...] | None, BeforeValidator(_names)] = None
    """What is changed: a comma-separated list among permute, rename, distract, remove, reword; all that are possible
    when absent."""
    orders: Annotated[int, Field(ge=1, le=1000)] = 5
    """How many other orders of the options permute asks for; all K! - 1 where there are no more."""
    seed: Seed = 0
    """Seed of the orders, of the irrelevant options and of the bootstrap."""
    other_data: bool = False
    """Probe even where the run may have seen the instances: its task has changed, or is cut anew."""


@dataclass(frozen=True, eq=False, repr=False)
class Probe(Shown):
    """What a probe has found out: `probe["permute"]["flips"]` is an estimate with its interval."""

    folder: Path
    """Where its files are."""
    result: Mapping[str, Any]
    """The content of probe.json."""

    @property
    def changes(self) -> tuple[str, ...]:
        """What was changed, and with several orders the mean over them, as `averaged`."""
        return tuple(self.result["changes"])

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, and what must be known of the numbers, in words."""
        return tuple(self.result["notes"])

    def __getitem__(self, change: str) -> dict[str, Estimate]:
        """The estimates of a change: flips, the differences nce and error_rate, and what else is measured of it."""
        if change not in self.changes:
            raise unknown_name("change", change, self.changes)
        numbers = self.result["changes"][change].items()
        return {name: Estimate.from_dict(one) for name, one in numbers if isinstance(one, Mapping) and "low" in one}

    def posteriors(self, name: str = "original") -> Posteriors:
        """The posteriors of the instances as they are, or of one variant, such as permute-1, in the same columns.

        Raises:
            InputError: there is no such variant.
        """
        file = posteriors_file(self.folder, name, self.result["split"])
        if not file.is_file():
            names = [path.stem.partition("-")[2] for path in sorted(file.parent.glob(f"{self.result['split']}-*"))]
            raise unknown_name("variant", name, names)
        return read_posteriors(file, need_labels=False)

    def _facts(self) -> Iterator[str]:
        yield count(self.result["n"], f"{self.result['split']} instance")
        yield ", ".join(self.changes)

    def _grid(self) -> Grid:
        names = ("flips", "nce", "error_rate")
        rows = [[change, *(str(self[change].get(name, "–")) for name in names)] for change in self.changes]
        return Grid(["", "flips", "NCE, changed − original", "error rate, changed − original"], rows)


@dataclass(frozen=True, eq=False)
class ProbePlan:
    """What is to be asked, checked before any model is loaded."""

    config: EvaluateConfig
    """The evaluation of the same model on the same instances."""
    run: Run | None
    """Whose adapter is probed."""
    uses_adapter: bool
    task: Task
    """With the shots in its prompts, if any."""
    fingerprint: str
    """Of the task."""
    form: Form
    instances: tuple[Instance, ...]
    variants: tuple[Variant, ...]
    calibrator: Calibrator | None
    notes: tuple[str, ...]
    wordings: tuple[str, ...] | None

    def record(self, settings: ProbeConfig, model: str) -> dict[str, Any]:
        """What decides the result, as probe.json keeps it."""
        return {
            "config": settings.model_dump(mode="json"),
            "wordings": None if self.wordings is None else list(self.wordings),
            "fingerprints": {"model": model, "task": self.fingerprint},
        }


def run_of(model: str) -> tuple[Run | None, str | None]:
    """The run that MODEL names, with its state where it names one; None where it is a model or an endpoint."""
    place = Path(model if Path(model).exists() else model.rpartition(":")[0])
    if not model or (Path(model) / "config.json").is_file() or not (place / "run.yaml").is_file():
        return None, None
    return parse_state(model)


def plan_probe(
    settings: ProbeConfig,
    *,
    wordings: Sequence[str] | None = None,
    endpoint_form: Callable[[Task, EvaluateConfig], Form] | None = None,
) -> ProbePlan:
    """Load the task and change its instances.

    Args:
        settings: whose `model` may be RUN or RUN:STATE (calibrated, adapted, base).
        wordings: of the change `reword`; the built-in ones when absent.
        endpoint_form: the form in which an endpoint is asked; None for a model.

    Raises:
        InputError: no model or task, a state that the run lacks, data that the run has seen, instances without labels,
            prompts that are another program's, a change that is named and not possible.
    """
    run, state = run_of(settings.model)
    if run is not None:
        run.predictor(state)  # refuses a run that is not complete, and a state that it lacks
    shared = settings.model_dump(exclude={"limit", "changes", "orders"}, exclude_unset=True)
    if run is not None:
        shared = {**shared, "model": "", "adapter": run.path}
    config, notes = as_the_run(EvaluateConfig.build(shared))
    if config.prompt != "own":
        raise InputError(f"prompt is {config.prompt}, whose words are fixed; changed instances need the own prompts")
    task = load_task(config.task, config)
    fingerprint, calibrator = task.fingerprint, None
    if run is not None:
        notes = (*notes, *check_data(task, config))
        if state in (None, "calibrated"):
            calibrator, about_calibration = calibrator_for(task, config)
            notes = (*notes, *about_calibration)
    form = (config.form or task.default_form) if endpoint_form is None else endpoint_form(task, config)
    task = few_shot(task, shots=config.shots, seed=config.shots_seed)
    split = task.split(config.split)
    instances = split[: settings.limit]
    if not instances:
        raise InputError(f"the split {config.split} holds no instances; give a table that has rows of it")
    if unlabelled(instances):
        raise InputError(f"the {config.split} instances have no labels; probe needs the right choice of each")
    for instance in instances:
        instance.answer  # noqa: B018 - soft labels name no right choice that could be removed
    variants, reasons = variants_of(
        task, instances, changes=settings.changes, lists_options=form == "letter" or endpoint_form is not None,
        names_options=form == "letter" and endpoint_form is None, orders=settings.orders, wordings=wordings,
        pool=split, seed=settings.seed,
    )  # fmt: skip
    return ProbePlan(
        config, run, run is not None and state != "base", task, fingerprint, form, instances, tuple(variants),
        calibrator, (*notes, *reasons), None if wordings is None else tuple(wordings),
    )  # fmt: skip


def probe(
    plan: ProbePlan,
    *,
    ask: Asked,
    out: Path,
    record: Mapping[str, Any],
    gate: Gate | None = None,
    screen: Screen | None = None,
) -> dict[str, Any]:
    """Ask for the instances and for every variant of them, and write posteriors and probe.json.

    A calibrator is applied as the run would apply it: in the letter form by place, before an order is undone. Where a
    variant has more options than it was fitted for, its posteriors and the original's beside them are uncalibrated.

    Args:
        plan: instances and variants, from `plan_probe`.
        ask: scores instances.
        out: the folder; files of the same `record` in it are not computed again.
        record: what decides the result.
        gate: says which decisions would be acted on where the right option is missing.
        screen: where progress is shown; nowhere by default.

    Returns:
        The content of probe.json.

    Raises:
        InputError: `out` holds other files; as `ask`.
    """
    screen = screen or Screen(quiet=True)
    task, form, instances, calibrator = plan.task, plan.form, plan.instances, plan.calibrator
    split, variants, by_place = plan.config.split, plan.variants, plan.form == "letter"
    check_probe_folder(out, record)
    with only_writer(out):
        check_probe_folder(out, record)
        write_json(out / RESULT, {"status": "running", "record": dict(record)}, sealed=True)

        def posteriors(name: str, compute: Callable[[], Posteriors]) -> Posteriors:
            file = posteriors_file(out, name, split)
            if not file.is_file():
                write_posteriors(file, compute())
            # Read again, so that a command that goes on has the numbers of one that was never stopped.
            return read_posteriors(file, need_labels=False)

        def original() -> Posteriors:
            screen.say(f"Asking {len(instances):,} instances as they are ...")
            return ask(instances, task, form, "original")

        def changed(variant: Variant) -> Posteriors:
            screen.say(f"Asking {variant.name} ({len(variant.instances):,} instances) ...")
            # A name of several tokens is scored as a text.
            own_form: Form = "cloze" if variant.words is not None else form
            scored = ask(variant.instances, variant.task(task), own_form, variant.name)
            if calibrator is None or not _applies(calibrator, variant):
                return variant.put_back(scored)
            if by_place:
                return variant.put_back(_by_place(calibrator, scored))
            return calibrator.apply(variant.put_back(scored))

        raw = posteriors("original", original)
        deployed = raw
        if calibrator is not None:
            calibrate = partial(_by_place, calibrator) if by_place else calibrator.apply
            deployed = posteriors("original-calibrated", partial(calibrate, raw))
        scored = {each.name: posteriors(each.name, partial(changed, each)) for each in variants}
        result = {
            "status": "complete",
            "split": split,
            "n": len(instances),
            "form": form,
            "calibrated": calibrator is not None,
            "changes": _measured(variants, scored, raw, deployed, calibrator, gate, plan.config.seed),
            "notes": list(plan.notes),
            "record": dict(record),
        }
        write_json(out / RESULT, result, sealed=True)
    return result


def check_probe_folder(out: Path, record: Mapping[str, Any]) -> None:
    """Raise InputError where `out` holds anything but a probe with this record."""
    if out.is_file():
        raise InputError(f"--out {out} is a file; give a folder that does not exist yet")
    check_links(out)
    if not holds_files(out):
        return
    stored = read_json(out / RESULT) if (out / RESULT).is_file() else None
    if not isinstance(stored, Mapping) or stored.get("record") != dict(record):
        raise InputError(f"--out {out} already holds other files; give a folder that does not exist yet")


def _applies(calibrator: Calibrator, variant: Variant) -> bool:
    """Whether a calibrator of a run says something of a variant: one option more has no parameter of its own."""
    return variant.change != "distract" or isinstance(calibrator, Temperature)


def _by_place(calibrator: Calibrator, posteriors: Posteriors) -> Posteriors:
    """Calibrated letters: a letter's bias belongs to its place, whatever stands there."""
    places = len(getattr(calibrator, "bias", ())) or posteriors.n_choices
    logs = np.full((len(posteriors), max(places, posteriors.n_choices)), -np.inf)  # (N, places fitted on)
    logs[:, : posteriors.n_choices] = posteriors.log_posteriors
    return posteriors.replaced(calibrator.transform(logs)[:, : posteriors.n_choices])


def _measured(
    variants: Sequence[Variant],
    scored: Mapping[str, Posteriors],
    raw: Posteriors,
    deployed: Posteriors,
    calibrator: Calibrator | None,
    gate: Gate | None,
    seed: int,
) -> dict[str, Any]:
    """What probe.json says of each change."""
    groups: dict[str, list[Variant]] = {}
    for variant in variants:
        groups.setdefault(variant.change, []).append(variant)
    results: dict[str, Any] = {}
    for change, members in groups.items():
        before = deployed if calibrator is None or _applies(calibrator, members[0]) else raw
        after = [scored[variant.name] for variant in members]
        results[change] = {
            "variants": [variant.name for variant in members],
            "n": len(members[0].instances),
            "calibrated": calibrator is not None and before is deployed,
            **_numbers(change, members, before, after, gate, seed),
        }
        # The orders are there already: their mean with the original shows what averaging is worth.
        if change == "permute":
            row_of = {name: row for row, name in enumerate(before.ids)}
            passes = [(list(range(len(before))), before)]
            passes += [([row_of[name] for name in each.ids], each) for each in after]
            mean = average_passes(passes)
            results["averaged"] = {
                "variants": [],
                "n": len(before),
                "calibrated": results[change]["calibrated"],
                "passes": len(passes),
                "flips": flip_rate(before, [mean], seed=seed).as_dict(),
                **_as_dicts(changes(before, [mean], seed=seed)),
            }
    return results


def _numbers(
    change: str,
    members: Sequence[Variant],
    before: Posteriors,
    after: Sequence[Posteriors],
    gate: Gate | None,
    seed: int,
) -> dict[str, Any]:
    """The numbers of one change."""
    only = after[0]
    units = only.groups or only.ids
    highest = np.exp(only.log_posteriors.max(axis=1))
    surest: dict[str, Any] = {"max_posterior": mean_share(highest, units, seed=seed, direction="none").as_dict()}
    if change == "remove":
        # Every answer is wrong: what counts is how sure the model is of one, and whether a gate lets it act.
        rows = {name: row for row, name in enumerate(before.ids)}
        usual = np.exp(before.log_posteriors[[rows[name] for name in only.ids]].max(axis=1))
        surest["max_posterior_before"] = mean_share(usual, units, seed=seed, direction="none").as_dict()
        if gate is not None:
            acts = np.asarray(gate.decide(only).acts, dtype=np.float64)
            surest["passed_on"] = mean_share(1 - acts, units, seed=seed, direction="higher").as_dict()
        return surest
    if change == "remove-none":
        right = np.asarray(only.log_posteriors.argmax(axis=1) == only.labels, dtype=np.float64)
        rejected = mean_share(right, units, seed=seed, direction="higher").as_dict()
        return {"rejected": rejected, **surest, **_as_dicts(changes(before, after, seed=seed))}
    numbers: dict[str, Any] = {"flips": flip_rate(before, after, seed=seed).as_dict()}
    numbers |= _as_dicts(changes(before, after, seed=seed))
    if change == "distract":
        columns = [len(one.choices) for one in members[0].originals]
        mass = np.exp(only.log_posteriors[np.arange(len(only)), columns])
        numbers["mass"] = mean_share(mass, units, seed=seed).as_dict()
    if len(after) > 1:
        numbers["by_variant"] = {
            variant.name: float(flipped(before, each).mean()) for variant, each in zip(members, after, strict=True)
        }
    return numbers


def _as_dicts(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.as_dict() for name, estimate in estimates.items()}


def model_scores(model: Model, config: EvaluateConfig, screen: Screen) -> Asked:
    """How a loaded model, with the adapter that is at work on it, is asked."""
    from rango.scoring.probe import probe_reader
    from rango.scoring.scorer import score_split

    reader = probe_reader(model)
    for note in (*model.notes, *reader.notes):
        screen.say(f"· {note}")

    def ask(instances: Sequence[Instance], task: Task, form: Form, name: str) -> Posteriors:
        # Renamed options have no lengths to divide by.
        normalise = "none" if name.startswith("rename") else config.normalise
        options = config.model_copy(update={"form": form, "normalise": normalise})
        return score_split(reader, instances, task=task, options=options, screen=screen).posteriors

    return ask
