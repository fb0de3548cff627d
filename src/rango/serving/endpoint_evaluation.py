"""`rango evaluate` of an endpoint: the same files as of a model, from the answers of a server.

OUT/answers.jsonl grows while the server answers; posteriors, metrics.json and evaluation.yaml are written at the end.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rango.console import Screen
from rango.decisions import Estimate, Posteriors, StatedCosts
from rango.decisions.pairing import average_passes
from rango.errors import InputError
from rango.files import fingerprint, write_yaml
from rango.options import EvaluateConfig, Form
from rango.output_folder import only_writer
from rango.serving.asking import LoggedAnswer, Patience, Tally, ask_all
from rango.serving.endpoint import Endpoint
from rango.tasks import Instance, Task, few_shot, true_log_posteriors
from rango.tasks.perturbations import Order, orders_of, permuted, put_back
from rango.tasks.task import posteriors_of, unlabelled
from rango.training.evaluation_of_run import check_evaluation_output
from rango.training.measurement import measure
from rango.training.probing import Asked
from rango.training.run_folder import RECORD
from rango.training.run_writer import versions, write_evaluated

ANSWERS = "answers.jsonl"


def evaluate_endpoint(
    endpoint: Endpoint,
    task: Task,
    *,
    out: Path,
    config: EvaluateConfig,
    screen: Screen,
    costs: StatedCosts | None = None,
    patience: Patience | None = None,
    ask: Callable[..., tuple[dict[str, LoggedAnswer], Tally]] = ask_all,
) -> dict[str, dict[str, Estimate]]:
    """Ask an endpoint for every instance of a split, and write what `rango evaluate` writes of a model.

    Its answers are the posteriors of the state `base`. Repeating the command goes on where it stopped.

    Raises:
        InputError: options that mean nothing here, a split without instances, or `out` holds other files; as `ask_all`.
        RunError: as `ask_all`.
    """
    check_evaluation_output(out, config)
    form = endpoint.form(task, config)
    fingerprints = {"model": fingerprint(endpoint.address, endpoint.name), "task": task.fingerprint}
    task = few_shot(task, shots=config.shots, seed=config.shots_seed)
    instances = task.split(config.split)
    if not instances:
        raise InputError(f"the split {config.split} holds no instances; give a table that has rows of it")
    with only_writer(out):
        check_evaluation_output(out, config)
        record: dict[str, Any] = {
            "status": "running",
            "config": config.model_dump(mode="json"),
            "form": form,
            "fingerprints": fingerprints,
            "versions": versions(),
            **({} if costs is None else {"costs": costs.as_dict()}),
        }
        # By the record, a repeated command knows that the answers are its own.
        write_yaml(out / RECORD, record)
        every = [orders_of(instance, config.orders, seed=config.seed) for instance in instances]
        shown = [_in_order(one, own, n) for one, own in zip(instances, every, strict=True) for n in range(len(own))]
        times = f", up to {config.orders} orders of each" if config.orders > 1 else ""
        count = f"{len(instances):,} instances{times}"
        screen.say(f"Asking {endpoint.address} for {endpoint.name}: {config.split} ({count}) ...")
        with screen.bar("asking", len(shown), unit="instances", passing=True) as bar:
            logged, tally = ask(endpoint, shown, task=task, log=out / ANSWERS, patience=patience, bar=bar)
        answers = [logged[instance.id] for instance in shown]
        states = {"base": _mean_of_answers(logged, instances, every)}
        if all(instance.log_posterior is not None for instance in instances):
            states["floor"] = _posteriors(list(true_log_posteriors(instances)), instances)
        metrics = {} if unlabelled(instances) else measure(states, seed=config.seed, costs=costs)
        for note in notes_of(answers):
            screen.say(f"· {note}")
        masses = [each.answer.mass for each in answers if each.answer.mass is not None]
        record |= _account(answers, tally) | ({"letter_mass": round(float(np.mean(masses)), 6)} if masses else {})
        write_evaluated(out, record, states, metrics, task=task, split=config.split)
    return metrics


def endpoint_scores(
    endpoint: Endpoint,
    *,
    out: Path,
    screen: Screen,
    patience: Patience | None = None,
    ask: Callable[..., tuple[dict[str, LoggedAnswer], Tally]] = ask_all,
) -> Asked:
    """How an endpoint is asked by `rango probe`: its answers grow in OUT/answers-NAME.jsonl, as in an evaluation."""

    def scores(instances: Sequence[Instance], task: Task, _form: Form, name: str) -> Posteriors:
        log = out / f"answers-{name}.jsonl"
        with screen.bar("asking", len(instances), unit="instances", passing=True) as bar:
            logged, _ = ask(endpoint, instances, task=task, log=log, patience=patience, bar=bar)
        return _posteriors([logged[instance.id].answer.scores for instance in instances], instances)

    return scores


def check_client() -> None:
    """Raise InputError where the package that sends requests is not installed."""
    if importlib.util.find_spec("httpx2") is None:
        raise InputError("an endpoint needs httpx2, which is not installed; pip install 'rango-lm[serve]'")


def check_patience(endpoint: Endpoint | None, concurrency: int | None) -> Patience:
    """How an endpoint is asked, with `concurrency` requests at a time.

    Raises:
        InputError: a number below 1, or one for a model that is no endpoint.
    """
    if concurrency is None:
        return Patience()
    if endpoint is None:
        raise InputError(f"--concurrency is {concurrency} but MODEL is no endpoint; leave it out")
    if concurrency < 1:
        raise InputError(f"concurrency is {concurrency}; expected at least 1")
    return Patience(concurrency=concurrency)


def notes_of(answers: Sequence[LoggedAnswer]) -> list[str]:
    """What one must know of the answers, in words."""
    count, notes = len(answers), []
    models = Counter(each.answer.model for each in answers if each.answer.model)
    if len(models) > 1:
        shown = ", ".join(f"{name} ({number:,})" for name, number in models.most_common())
        notes.append(f"more than one model answered: {shown}; pin a version, or these posteriors are of none")
    if bounded := sum(each.answer.bounded > 0 for each in answers):
        notes.append(
            f"{bounded:,} of {count:,} answers do not list every letter: of those that are missing, the largest "
            "possible probability is taken"
        )
    if zeros := sum(any(np.isneginf(each.answer.scores)) for each in answers):
        notes.append(
            f"{zeros:,} of {count:,} answers give a choice the probability 0, perhaps rounded; where it is the right "
            "one, cross-entropy is infinite"
        )
    flags = [each.answer.calibrated for each in answers if each.answer.calibrated is not None]
    if flags:
        notes.append(f"{sum(flags):,} of {count:,} answers are calibrated, as the server says")
    return notes


def _account(answers: Sequence[LoggedAnswer], tally: Tally) -> dict[str, Any]:
    """Tokens, costs and times, as evaluation.yaml keeps them."""
    seconds = [each.seconds for each in answers]
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    cost = sum(each.answer.cost for each in answers)
    return {
        "seconds": round(float(sum(seconds)), 2),
        "tokens": sum(each.answer.input_tokens for each in answers),
        "endpoint": {
            "models": dict(Counter(each.answer.model for each in answers)),
            "input_tokens": sum(each.answer.input_tokens for each in answers),
            "output_tokens": sum(each.answer.output_tokens for each in answers),
            **({"cost": round(cost, 6)} if cost else {}),
            "seconds_p50": round(float(p50), 4),
            "seconds_p99": round(float(p99), 4),
            "retries": tally.retries,
        },
    }


def _in_order(instance: Instance, orders: Sequence[Order], number: int) -> Instance:
    """The instance in one of its orders; a name of its own keeps its answer apart from those of the other orders."""
    return replace(permuted(instance, orders[number]), id=f"{instance.id} (order {number})") if number else instance


def _mean_of_answers(
    logged: Mapping[str, LoggedAnswer], instances: Sequence[Instance], every: Sequence[Sequence[Order]]
) -> Posteriors:
    """The mean over the orders of each instance of what was answered."""
    passes = []
    for number in range(max(map(len, every))):
        rows = [row for row, own in enumerate(every) if number < len(own)]
        originals, orders = [instances[row] for row in rows], [every[row][number] for row in rows]
        shown = [_in_order(instances[row], every[row], number) for row in rows]
        posteriors = _posteriors([logged[one.id].answer.scores for one in shown], shown)
        passes.append((rows, put_back(posteriors, orders, originals) if number else posteriors))
    return average_passes(passes)


def _posteriors(scores: Sequence[Sequence[float]], instances: Sequence[Instance]) -> Posteriors:
    matrix = np.full((len(instances), max(len(instance.choices) for instance in instances)), -np.inf)
    for row, values in enumerate(scores):
        matrix[row, : len(instances[row].choices)] = values[: len(instances[row].choices)]
    return posteriors_of(instances, matrix)
