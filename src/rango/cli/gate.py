"""`rango gate`: when to act and when to pass on; chosen on validation, judged on test or out of bag."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli.groups import CostsText
from rango.cli.posteriors import Replicates, Seed, Source, check_outputs, read_source, show
from rango.console import visible
from rango.decisions import Estimate, Gate, Judgement, Posteriors, StatedCosts, judge, judge_out_of_bag
from rango.decisions import gate as choose_gate
from rango.decisions.pairing import check_held_out
from rango.errors import InputError
from rango.reports.tables import interval, number
from rango.training.run_folder import Run, parse_state

_FIGURES = (".svg", ".png", ".pdf")


def gate(
    source: Source,
    *,
    costs: CostsText = None,
    max_error: float | None = None,
    precision: Annotated[
        str | None, Parameter(help="Least precision of classes, for example refund=0.9 or refund=0.9,spam=0.99.")
    ] = None,
    fit: Annotated[str | None, Parameter(help="Posteriors to choose on; of RUN, its validation split.")] = None,
    pass_on: str | None = None,
    level: float = 0.95,
    out: Path | None = None,
    figure: Path | None = None,
    replicates: Replicates = 1000,
    seed: Seed = 0,
) -> None:
    """Choose when to act on posteriors and when to pass an instance on, and say what that does.

    The threshold is chosen on --fit (of RUN, its validation split) and judged on the source. A file without --fit is
    chosen on as a whole and judged out of bag. `rango predict --gate` takes the file of --out.

    Parameters
    ----------
    source
        Posteriors with labels, or RUN, or RUN:STATE.
    max_error
        Largest error among the instances that are acted on, for example 0.05. The bound holds with the probability
        --level.
    pass_on
        The decision of the costs that passes on. Needed where several decisions name no class, or none does.
    level
        With what probability the bound holds, and the nominal coverage of intervals.
    out
        JSON file to write the gate to.
    figure
        Picture of error against coverage to write: .svg, .png or .pdf.
    """
    check_outputs({"--out": out, "--figure": figure}, source, fit, costs)
    if figure is not None and figure.suffix.lower() not in _FIGURES:
        raise InputError(f"{figure}: ending {figure.suffix!r} is not a figure's; expected .svg, .png or .pdf")
    named, stated = _precision(precision), costs
    is_run = (":" in source and Path(source.rpartition(":")[0]).is_dir()) or Path(source).is_dir()
    if costs is None and max_error is None and not named:
        run_costs = Run(parse_state(source)[0].path).stated_costs if is_run else None
        if run_costs is None:
            raise InputError("a gate needs an aim; give --costs, --max-error 0.05 or --precision CLASS=0.9")
        show(f"note: {run_costs.words}, as {source} states")
    else:
        run_costs = None if stated is None else StatedCosts.read(stated)
    judged_on = read_source(source)
    chosen_on = read_source(source, split="validation") if is_run and fit is None else judged_on
    if fit is not None:
        chosen_on = read_source(fit, split="validation")
    held_out = chosen_on is not judged_on
    if held_out:
        check_held_out(chosen_on, judged_on, applied="SOURCE")
    chosen = choose_gate(
        chosen_on, costs=run_costs, max_error=max_error, precision=named, pass_on=pass_on, level=level, seed=seed
    )
    if held_out:
        judgement = judge(chosen, judged_on, replicates=replicates, seed=seed)
    else:
        judgement = judge_out_of_bag(chosen, judged_on, seed=seed)
    for line in (*_choice_lines(chosen), *_judgement_lines(chosen, judgement, len(judged_on))):
        show(visible(line))
    if figure is not None:
        _draw(chosen, judgement, judged_on, figure)
    if out is not None:
        chosen.write(out, judged=judgement.as_dict())
        show(str(out))


def _draw(chosen: Gate, judgement: Judgement, posteriors: Posteriors, path: Path) -> None:
    from rango.reports.run.figures import gate_curve
    from rango.reports.style import save_figure

    save_figure(gate_curve(chosen, judgement, posteriors), path)


def _precision(text: str | None) -> dict[str, float]:
    """CLASS=NUMBER pairs with commas between."""
    wanted: dict[str, float] = {}
    for part in text.split(",") if text is not None else ():
        name, sign, value = part.rpartition("=")
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if not (sign and name.strip()) or "_" in value or not 0 < share < 1:
            raise InputError(
                f"--precision is {text!r}; expected CLASS=SHARE with a share between 0 and 1, as refund=0.9"
            )
        if name.strip() in wanted:
            raise InputError(f"--precision names {name.strip()!r} twice; give each class once")
        wanted[name.strip()] = share
    return wanted


def _choice_lines(chosen: Gate) -> list[str]:
    """What was chosen, on how much, and how sure that is."""
    choice, measure = chosen.choice, "confidence" if chosen.by_confidence else "expected saving"
    promise = f"with probability {chosen.level:.0%}"
    rules: dict[str | None, float] = {None: chosen.limit}
    if chosen.class_limits:
        rules = dict(chosen.class_limits.items())
    lines = []
    for name, limit in rules.items():
        who = "act" if name is None else f"act on {name!r}"
        threshold = (1.0 if chosen.by_confidence else 0.0) - limit
        if limit == float("-inf"):
            lines.append(f"never {who}: on {choice.n:,} instances no threshold reaches the aim {promise}")
            if chosen.aim == "costs":
                lines[-1] = f"never {who}: on {choice.n:,} instances passing on costs less at every threshold"
            continue
        line = f"{who} where the {measure} is at least {_digits(threshold)}, chosen on {choice.n:,} instances"
        if choice.low is not None and choice.high is not None and name is None:
            line += f" (with others drawn, {chosen.level:.0%} of the choices lie from {_digits(choice.low)} to "
            line += f"{_digits(choice.high)})"
        lines.append(line)
    if chosen.aim == "costs" and chosen.bayes_threshold is not None:
        lines.append(
            f"by the costs alone it would be {_digits(chosen.bayes_threshold)}, right for calibrated posteriors"
        )
    if chosen.aim == "max_error" and chosen.limit > float("-inf"):
        lines.append(f"the error of what is acted on is at most {chosen.max_error:g} {promise}")
    if chosen.aim == "precision":
        parts = (f"{name} {share:g}" for name, share in chosen.precision.items())
        lines.append(f"the precision is at least {', '.join(parts)} {promise}; every other class is acted on")
    if choice.unreached and chosen.aim != "costs" and chosen.limit > float("-inf"):
        lines.append(f"note: in {choice.unreached:.0%} of the bootstrap samples no threshold reaches the aim")
    if chosen.aim != "costs" and choice.groups is not None and choice.groups < choice.n:
        lines.append(
            f"note: the bound takes instances for independent, but the {choice.n:,} share {choice.groups:,} groups; "
            "where those of a group err together, it is too narrow"
        )
    return lines


def _judgement_lines(chosen: Gate, judgement: Judgement, n: int) -> list[str]:
    where = f"judged on {n:,} other instances" if judgement.held_out else f"judged out of bag ({n:,} instances)"
    lines = [f"{where}: {_shares(judgement)}"]
    lines += [f"precision of {name!r}: {_value(one)}" for name, one in judgement.precision.items()]
    lines += [f"mean cost, {name}: {_value(one)}" for name, one in judgement.costs.items()]
    simple = {name: judgement.costs[name] for name in ("act on all", "pass on all") if name in judgement.costs}
    if simple:
        best = min(simple, key=lambda name: simple[name].value)
        if simple[best].value < judgement.costs["gate"].value:
            lines.append(
                f"warning: here the gate costs more than to {best} ({number(simple[best].value)}); it was chosen on "
                "too few instances, or on others than these"
            )
    for name, part in judgement.groups.items():
        cost = f", cost {_value(part.costs['gate'])}" if part.costs else ""
        lines.append(f"group {name}: {_shares(part)}{cost}")
    low = judgement.error.low
    if chosen.max_error is not None and judgement.held_out and low is not None and low > chosen.max_error:
        lines.append(
            f"warning: the error is significantly above {chosen.max_error:g} here; these instances are not like those "
            "that the gate was chosen on"
        )
    return lines


def _shares(judgement: Judgement) -> str:
    return f"acts on {_value(judgement.coverage)}, error {_value(judgement.error)}"


def _value(estimate: Estimate) -> str:
    ends = interval(estimate)
    return f"{number(estimate.value)} ({ends})" if ends else number(estimate.value)


def _digits(threshold: float) -> str:
    """A threshold near one keeps the digits by which it differs from it."""
    return f"1 - {1 - threshold:.2g}" if 0.9995 < threshold < 1 else number(threshold)
