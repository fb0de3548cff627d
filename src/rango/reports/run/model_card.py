"""The model card of an exported run: README.md, with its results in the fields that the Hub reads (model-index).

Nothing is stated that the run does not know: a licence that is not given is said to be unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined

from rango import __version__
from rango.decisions import Calibrator
from rango.errors import InputError
from rango.files import model_file
from rango.options import Form
from rango.reports.run.findings import verdict
from rango.reports.tables import Metrics, Table, estimate, estimate_notes, heading, interval, number, result_rows
from rango.tasks import Templates, hellaswag, simulated, socialiqa, table
from rango.tasks.table_config import TableConfig
from rango.training.measurement import balance_of_run
from rango.training.run_folder import Run

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from rango.models.merging import WrittenModel


@dataclass(frozen=True)
class Exported:
    """What was exported of a run, as the card describes it."""

    kind: str
    """`adapter` or `model`."""
    full: bool
    """Whether every parameter was trained."""
    base: str
    """Hub id of the base, or the last part of its path."""
    base_on_hub: bool
    source: str
    """The base as the run names it: where its own card may be."""
    license: str | None
    base_is_gguf: bool
    """Whether only Rango and llama.cpp read the base as it was."""
    measured: bool
    """Whether this is the checkpoint that the run's metrics are of."""
    written: WrittenModel | None = None
    adapter_config: Mapping[str, Any] | None = None


class _Data(NamedTuple):
    """A task that has a name: what its data are called, where they are, and its prompts."""

    title: str
    hub: str | None
    templates: Templates
    test_of: str = "test"
    """The split of the data set that the run's test instances come from."""


_DATA = {
    "socialiqa": _Data("SocialIQA", socialiqa.HUB[0].name, socialiqa.TEMPLATES, "validation"),
    "hellaswag": _Data("HellaSwag", hellaswag.HUB[0].name, hellaswag.TEMPLATES, "validation"),
    "simulated": _Data("Rango's simulated task", None, simulated.QUESTION_TEMPLATES),
    "simulated-continuations": _Data("Rango's simulated continuations", None, simulated.CONTINUATION_TEMPLATES),
    "simulated-yes-no": _Data("Rango's simulated yes/no questions", None, simulated.QUESTION_TEMPLATES),
    "simulated-levels": _Data("Rango's simulated questions of levels", None, simulated.QUESTION_TEMPLATES),
}

# What a calibrator computes of log-posteriors s (a tensor, (K,)), as Python that needs its file alone.
_CALIBRATED = {
    "temperature": 'c["scale"] * s',
    "bias": 's + torch.tensor(c["bias"])',
    "affine": 'c["scale"] * s + torch.tensor(c["bias"])',
    "vector": 'torch.tensor(c["scales"]) * s + torch.tensor(c["bias"])',
    "matrix": 'torch.tensor(c["weights"]) @ s + torch.tensor(c["bias"])',
}

# Ranks and scalings of single modules; PEFT reads both, other programs often neither.
_PATTERNS = ("rank_pattern", "alpha_pattern")

_OWN = ("LSTMForCausalLM", "NGramForCausalLM")

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for --max-lora-rank."""


def render_card(run: Run, made: Exported) -> str:
    """README.md of an export: metadata in YAML, then the text. The same run gives the same bytes.

    Raises:
        InputError: a file of the run that the card needs cannot be read.
    """
    from huggingface_hub import ModelCardData

    config, record = run.config, run.record
    model = record.get("model") or {}
    data = _DATA.get(config.task, _Data(Path(config.task).stem, None, table.TEMPLATES))
    states: Metrics = {}
    if made.measured:
        states = {
            state: {name: value.as_dict() for name, value in estimates.items()}
            for state, estimates in run.metrics["test"].items()
        }
    calibrator = None
    if made.measured and (run.path / "calibrator.json").is_file():
        calibrator = Calibrator.read(run.path / "calibrator.json")
    form: Form = record.get("form") or config.form or "cloze"
    shown = result_rows({"test": states}, with_costs=run.stated_costs is not None) if states else None
    # Notes on single numbers: of those of the exported model that the table shows.
    names = [column.name for column in shown.columns] if shown else []
    own = {
        state: {name: states[state][name] for name in names} for state in ("adapted", "calibrated") if state in states
    }
    title = f"{Path(made.base).name} adapted to {data.title}"
    results = list(_results(states, data, config.data_seed))
    metadata = ModelCardData(
        license=made.license,
        base_model=made.base if made.base_on_hub else None,
        base_model_relation=("adapter" if made.kind == "adapter" else "finetune") if made.base_on_hub else None,
        library_name="peft" if made.kind == "adapter" else "transformers",
        pipeline_tag="text-generation",
        datasets=[data.hub] if data.hub and config.data is None else None,
        tags=["rango", *(["lora"] if made.kind == "adapter" else [])],
        eval_results=results or None,
        model_name=title if results else None,
    )
    base_license, named_license = _license_of(made.source)
    content = {
        "title": title,
        "made": made,
        "data": data,
        "config": config,
        "record": record,
        "form": form,
        "trained": _trained(made, record),
        "findings": verdict(states, balance_of_run(run)) if states else [],
        "table": shown,
        "notes": [*map(str, record.get("notes") or ()), *estimate_notes(own)],
        "prompt": prompt_template(config.task, form),
        "loading": _loading(made, own="architecture" in model and model["architecture"] in _OWN),
        "flags": _flags(run, form),
        "rank": _served_rank(made),
        "convertible": _is_convertible(made),
        "calibrator": calibrator,
        "calibrated": _CALIBRATED.get(calibrator.method) if calibrator else None,
        "base_license": base_license,
        "named_license": named_license,
        "version": __version__,
    }
    # A name that the template lacks is an error here, not a gap in a published card.
    environment = Environment(  # noqa: S701 - a card is Markdown, no page
        loader=FunctionLoader(lambda name: (resources.files("rango.reports.run") / name).read_text(encoding="utf-8")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, interval=interval, heading=heading, plain=_plain, cells=_cells)
    text = environment.get_template("model_card.md").render(content)
    return f"---\n{metadata.to_yaml()}\n---\n\n{text.strip()}\n"


def _plain(value: object) -> str:
    """A text of the run inside Markdown: one line, in which nothing is markup, a cell of a table or HTML."""
    text = " ".join(str(value).split())
    for character in "\\`*_[]<>|#":
        text = text.replace(character, "\\" + character)
    return text


def _cells(table: Table) -> Iterator[list[str]]:
    """The rows of the table as cells of Markdown: state, values with intervals, number of instances."""
    for row in table.rows:
        cells = [row.state.title]
        for cell in row.cells:
            bounds = interval(cell)
            cells.append(number(cell.value if cell else None) + (f" ({bounds})" if bounds else ""))
        yield [*cells, f"{row.n:,}" if row.n is not None else "–"]


def _results(states: Metrics, data: _Data, data_seed: int) -> Iterator[EvalResult]:
    """The results as the Hub's fields have them. Infinite and undefined values have no field."""
    from huggingface_hub import EvalResult

    # What the posteriors of the model itself are worth comes first, then what its calibrator makes of them.
    for state, words in (("adapted", ""), ("calibrated", ", calibrated")):
        if state not in states:
            continue
        for column in result_rows({"test": {state: states[state]}}).columns:
            value = estimate(states, state, column.name)
            if value is None or not math.isfinite(value.value):
                continue
            bounds = interval(value)
            bounded = {"interval_95": [value.low, value.high]} if bounds else {}
            yield EvalResult(
                task_type="multiple-choice",
                task_name="Choosing among given answers",
                dataset_type=data.hub or "rango",
                dataset_name=data.title,
                dataset_split=data.test_of,
                dataset_args={"instances": value.n, "data_seed": data_seed},
                metric_type=column.name,
                metric_name=f"{column.title}{words}" + (f" (95% interval {bounds})" if bounds else ""),
                metric_value=round(value.value, 6),
                metric_args=bounded or None,
            )


def _trained(made: Exported, record: Mapping[str, Any]) -> str:
    """What was trained, in words."""
    count = record.get("trainable_parameters")
    numbers = f"{count:,} numbers trained" if isinstance(count, int) else "trained"
    if made.full:
        return f"every parameter ({numbers})"
    lora = record["config"].get("lora", {})
    targets = ", ".join(map(str, lora.get("targets") or ())) or "linear layers"
    kind = "DoRA" if lora.get("dora") else "LoRA"
    return f"{kind} of rank {lora.get('rank')} on {targets} ({numbers})"


def prompt_template(task: str, form: Form) -> str | None:
    """How a task puts its questions, with {names} where an instance's texts stand; None where the table is gone."""
    if task in _DATA:
        return str(getattr(_DATA[task].templates, form))
    # A table is asked as its task.yaml says; by now it may have been moved or deleted.
    path = Path(task)
    folder = path.parent if path.is_file() else path
    with suppress(InputError):
        prompt = TableConfig.from_yaml(path if path.suffix in (".yaml", ".yml") else folder / "task.yaml").prompt
        return str(getattr(table.TEMPLATES, form)).replace("{context}", prompt)
    return None


def _loading(made: Exported, *, own: bool) -> str:
    """Python that loads the model with transformers, and with PEFT for an adapter; `own` architectures are Rango's."""
    if made.kind == "adapter" and made.base_is_gguf:
        return (
            "from peft import PeftModel\nfrom rango import load_model\n\n"
            f"base = load_model({made.source!r})  # a GGUF file: Rango reads it\n"
            'tokenizer, model = base.tokenizer, PeftModel.from_pretrained(base.network, "THIS").eval()'
        )
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    if own:
        lines.insert(0, "import rango.models.loading  # makes the architecture known to transformers")
    if made.kind == "adapter":
        name = made.base if made.base_on_hub else made.source
        lines += [
            "from peft import PeftModel",
            "",
            f"tokenizer = AutoTokenizer.from_pretrained({name!r})",
            f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({name!r}), "THIS").eval()',
        ]
    else:
        lines += [
            "",
            'tokenizer = AutoTokenizer.from_pretrained("THIS")',
            'model = AutoModelForCausalLM.from_pretrained("THIS").eval()',
        ]
    return "\n".join(lines)


def _flags(run: Run, form: Form) -> str:
    """The options with which `rango evaluate` asks a whole model as the run did."""
    config = run.config
    given = {"form": form, "normalise": config.normalise, "shots": config.shots, "shots-seed": config.shots_seed}
    given |= {
        "test": config.test,
        "train": config.train,
        "validation": config.validation,
        "data-seed": config.data_seed,
    }
    # Without shots their seed chooses nothing.
    if not config.shots:
        del given["shots"], given["shots-seed"]
    return " ".join(f"--{name} {value}" for name, value in given.items() if (name, value) != ("normalise", "none"))


def _served_rank(made: Exported) -> int | None:
    """vLLM's --max-lora-rank for this adapter; None where vLLM does not take it, or it is no adapter."""
    config = made.adapter_config
    # vLLM refuses DoRA, and passes over patterns: it would scale those layers wrongly without a word.
    if config is None or made.base_is_gguf or any(config.get(key) for key in ("use_dora", *_PATTERNS)):
        return None
    return next((rank for rank in _RANKS if rank >= config["r"]), None)


def _is_convertible(made: Exported) -> bool:
    """Whether llama.cpp's converter of adapters reads this one rightly: it knows alpha / r and nothing else."""
    keys = ("use_dora", "use_rslora", "alpha_pattern")
    return made.adapter_config is not None and not any(made.adapter_config.get(key) for key in keys)


def _license_of(source: str) -> tuple[str | None, str | None]:
    """The licence in the metadata of the base's own card, and the name that "other" stands for; None where unknown."""
    from huggingface_hub import ModelCard

    file = model_file(source, "README.md")
    if file is None:
        return None, None
    with suppress(Exception):  # a card of whatever kind: what cannot be read is not known
        metadata = ModelCard.load(file).data.to_dict()
        stated, name = metadata.get("license"), metadata.get("license_name")
        return str(stated) if stated else None, str(name) if name else None
    return None, None
