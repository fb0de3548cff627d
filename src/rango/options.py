"""Every option of `finetune`, `evaluate` and `study`, on one page and free of torch.

ModelAndTask, TaskOptions, ModelOptions, ScoringOptions, TrainingOptions, LoRA   the groups
FinetuneConfig      all groups: `rango finetune`, its run.yaml, and one run of a study
EvaluateConfig      all but training and LoRA, with an adapter and a split: `rango evaluate`, its evaluation.yaml
AdaptationOptions   what a study varies beside them
ExportOptions       `rango export`: what is written of a run, and where it goes
MemoryOptions       what `rango models --memory` estimates
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from rango.config import Config, Seed
from rango.errors import unknown_name

Form = Literal["letter", "cloze"]
"""letter: the choices are listed and the answer is a letter; cloze: the answer's text continues the prompt."""

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Words = Literal["right", "all"]
"""What HellaSwag's limit of 100 words counts: context and right ending, or context and all four endings."""

Prompts = Literal["own", "lm-eval"]

PLACEMENTS = ("q", "k", "v", "o", "mlp", "head")
ALL_LINEAR = "all-linear"
"""The target that is every linear map of the decoder layers."""
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantisation = Literal["none", "int8", "nf4"]
Normalisation = Literal["none", "tokens", "characters"]
Objective = Literal["tokens", "answer", "choice"]
Rule = Literal["logarithmic", "brier", "ranked"]
Decay = Literal["cosine", "constant"]
Selection = Literal[
    "nce",
    "calibrated_nce",
    "cross_entropy",
    "error_rate",
    "accuracy",
    "brier",
    "ranked_probability_score",
    "mean_absolute_error",
]

Baseline = Literal["tfidf", "probe", "encoder"]
"""What is fitted beside the model, see `rango.baselines`."""
BASELINES: tuple[Baseline, ...] = get_args(Baseline)

Way = Literal["none", "few-shot", "lora", "ensemble", "mc-dropout", "full", Baseline]
"""Where posteriors come from, before calibration."""

Adaptation = Literal[
    "none",
    "calibration",
    "few-shot",
    "few-shot+calibration",
    "lora",
    "lora+calibration",
    "ensemble",
    "ensemble+calibration",
    "mc-dropout",
    "mc-dropout+calibration",
    "full",
    "full+calibration",
    "tfidf",
    "tfidf+calibration",
    "probe",
    "probe+calibration",
    "encoder",
    "encoder+calibration",
]


def _check_device(device: str) -> str:
    # Whether the machine has it, only torch can say; a misspelt name is refused before torch is loaded.
    if not re.fullmatch(r"auto|(cpu|cuda)(:\d+)?", device):
        raise ValueError(f"device {device!r} is not known; expected auto, cpu, cuda or cuda:N")
    return device


def _split_names(value: Any) -> Any:
    """Make a tuple of names of `"q,v"` or `("q,v", "o")`: a flag, a list and a YAML string mean the same."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
        return value
    return tuple(name.strip() for part in parts for name in part.split(",") if name.strip())


def _pattern_entries(value: Any) -> Any:
    """Make `("mlp=16", "k=4")` of `"mlp=16,k=4"` or `{"mlp": 16, "k": 4}`; nothing of None, as an axis may have it."""
    if value is None:
        return ()
    # The names of a mapping, as PEFT has it, may hold commas.
    return (
        tuple(f"{name}={number}" for name, number in value.items()) if isinstance(value, dict) else _split_names(value)
    )


def _check_pattern_entry(entry: str) -> str:
    name, _, number = entry.rpartition("=")
    # Of all numbers `1e-400` is 0 and `1e999` infinite, so the value is looked at, not only its text.
    value = float(number) if re.fullmatch(r"\d+(\.\d+)?([eE][+-]?\d+)?", number) else 0.0
    if not name or not 0 < value < math.inf:
        raise ValueError(f"{entry!r}: expected NAME=NUMBER above 0, such as mlp=16")
    try:
        re.compile(name)
    except re.error as error:
        raise ValueError(f"{entry!r}: {name} is no regular expression ({error})") from None
    return f"{name}={int(value) if value.is_integer() else value}"


def _check_whole(entry: str) -> str:
    if not entry.rpartition("=")[2].isdecimal():
        raise ValueError(f"{entry!r}: a rank is a whole number")
    return entry


PatternEntry = Annotated[str, AfterValidator(_check_pattern_entry)]
RankEntry = Annotated[PatternEntry, AfterValidator(_check_whole)]
"""NAME=NUMBER of a pattern."""


def _check_targets(targets: tuple[str, ...]) -> tuple[str, ...]:
    # Which modules a network has, only the network can say; a mistyped placement is refused before torch is loaded.
    for target in targets:
        if target not in (*PLACEMENTS, ALL_LINEAR) and not re.search(r"[._\d]", target):
            error = unknown_name("placement", target, [*PLACEMENTS, ALL_LINEAR])
            raise ValueError(f"{error}; or name linear maps by the end of their names, such as self_attn.q_proj")
    return targets


def _check_layers(text: str | None) -> str | None:
    # Up to which number, only the network can say.
    for part in (text or "0").replace(" ", "").split(","):
        if not re.fullmatch(r"\d+(-\d+)?", part):
            raise ValueError(f"{text!r}: {part!r} is not a layer or a range; write for example 0-7 or 0,3")
    return text


def _check_size(text: str | None) -> str | None:
    if text is not None and parse_size(text) is None:
        raise ValueError(f"{text!r} is no size; write a number and its unit, such as 8GiB or 500MB")
    return text


def parse_size(text: str) -> int | None:
    """Bytes of a size with its unit; None where it is none.

    >>> parse_size("1.5 GiB"), parse_size("500MB"), parse_size("8")
    (1610612736, 500000000, None)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT])(i?)B", text)
    if not match or not float(match[1]):
        return None
    return int(float(match[1]) * (1024 if match[3] else 1000) ** (1 + "KMGT".index(match[2])))


class ModelAndTask(Config):
    """The two things that finetune and evaluate cannot do without; on the command line they need no flag."""

    model: str
    """Hub id, folder with a transformers checkpoint, or GGUF file."""
    task: str
    """socialiqa, hellaswag, simulated, simulated-continuations, simulated-yes-no, simulated-levels, or the path of a
    table."""


class TaskOptions(Config):
    """Which data, and how much of it."""

    data: Path | None = None
    """Folder with the task's files; the Hub when absent."""
    train: Annotated[int, Field(ge=1)] = 5000
    """Training instances at most: a random subset of those that are neither validation nor test."""
    validation: Annotated[int, Field(ge=1)] = 300
    """Validation instances at most: a random subset, cut from the training data where the task has no such split."""
    test: Annotated[int, Field(ge=1)] = 2000
    """Test instances at most: a random subset; of socialiqa and hellaswag, of the official validation split."""
    data_seed: Seed = 0
    """Seed of the random subsets."""
    prompt: Prompts = "own"
    """Words around context and choices: own, or those of lm-evaluation-harness (lm-eval) for socialiqa and hellaswag,
    which give its acc and, with normalise characters, its acc_norm."""
    words: Words = "right"
    """HellaSwag keeps instances under 100 words, counting the context and the right ending (right) or all four
    endings (all)."""


class ModelOptions(Config):
    """Where and in which type the model computes."""

    dtype: Dtype = "auto"
    """Type of the frozen weights."""
    quantise: Quantisation = "none"
    """Hold the frozen matrices in fewer bits: int8 (a scale for each row), or nf4 (4 bits, a scale for each 64
    weights); the rest keeps its dtype."""
    device: Annotated[str, AfterValidator(_check_device)] = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""


class LoRA(Config):
    """Which low-rank update is learnt, and where (Hu et al. 2021, arXiv:2106.09685)."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Rank r of the update."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which an input of the update is dropped while training."""
    targets: Annotated[
        tuple[str, ...], BeforeValidator(_split_names), AfterValidator(_check_targets), Field(min_length=1)
    ] = ("q", "v")
    """Which projections are adapted: a comma-separated list among q, k, v, o, mlp, head. Also all-linear (every linear
    map of the decoder layers) and, for any architecture, ends of module names, such as self_attn.q_proj."""
    layers: Annotated[str | None, AfterValidator(_check_layers)] = None
    """Which decoder layers are adapted, for example 0-7 or 0,3; all when absent."""
    rank_pattern: Annotated[tuple[RankEntry, ...], BeforeValidator(_pattern_entries)] = ()
    """Other ranks in some modules: a comma-separated list such as mlp=16,k=4. A name is a placement, or a regular
    expression that the end of a module's name fits; the first that fits counts."""
    alpha_pattern: Annotated[tuple[PatternEntry, ...], BeforeValidator(_pattern_entries)] = ()
    """Other alphas in some modules, as rank-pattern."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead: rank-stabilised LoRA (arXiv:2312.03732)."""
    plus: Annotated[float, Field(ge=1)] = 1.0
    """Learning rate of B over that of A: LoRA+ (arXiv:2402.12354). The magnitudes of dora have that of B."""
    dora: bool = False
    """Also learn the norm of each row of the adapted weights: DoRA (arXiv:2402.09353)."""
    init: Literal["normal", "pissa"] = "normal"
    """How A and B start: normal (A random and B zero) or pissa (the principal singular vectors of the weights, which
    keep the rest: arXiv:2404.02948)."""

    def rank_of(self, module: str, placement: str | None = None) -> int:
        """The rank in a module, by its name and its placement."""
        return int(_first_fit(self.rank_pattern, module, placement) or self.rank)

    def scaling_of(self, module: str, placement: str | None = None) -> float:
        """What multiplies B A in a module: alpha / r, with rslora alpha / sqrt(r)."""
        alpha = _first_fit(self.alpha_pattern, module, placement) or self.alpha
        return alpha / scaling_divisor(self.rank_of(module, placement), rslora=self.rslora)


def _first_fit(entries: Iterable[str], module: str, placement: str | None) -> float | None:
    """The number of the first entry of a pattern whose name fits a module."""
    for name, number in (entry.rsplit("=", 1) for entry in entries):
        if pattern_fits(name, module, placement):
            return float(number)
    return None


def pattern_fits(name: str, module: str, placement: str | None = None) -> bool:
    """Whether a name in a pattern means a module, by its placement or as PEFT reads such a name.

    >>> pattern_fits("q_proj", "model.layers.0.q_proj"), pattern_fits("proj", "q_proj"), pattern_fits("q", "a.b", "q")
    (True, False, True)
    """
    return name == placement or re.match(rf"(.*\.)?({name})$", module) is not None


def scaling_divisor(rank: int, *, rslora: bool) -> float:
    """What alpha is divided by: r, or sqrt(r) for rsLoRA."""
    return math.sqrt(rank) if rslora else rank


class ScoringOptions(Config):
    """How instances are put into words and scored."""

    form: Form | None = None
    """Prompt form: letter (choices listed, the answer is a letter) or cloze (the answer's text continues the prompt);
    the task's own default when absent."""
    normalise: Normalisation = "none"
    """Divide each choice's score by its number of tokens or of characters; a letter has one of either."""
    shots: Annotated[int, Field(ge=0)] = 0
    """Training instances that stand answered before every question, balanced over the labels (the places of the right
    answer); they leave the training split."""
    shots_seed: Seed = 0
    """Seed of the choice of shots."""
    batch_tokens: Annotated[int, Field(ge=1)] = 4096
    """Tokens of one forward pass while scoring, padding included; on a CPU fewer where its caches hold fewer. The
    result does not depend on it."""


class TrainingOptions(Config):
    """How the adapter is trained."""

    adaptation: Literal["lora", "full"] = "lora"
    """What is trained: lora (a low-rank update of some matrices), or full (every parameter, in float32; the options of
    lora mean nothing then)."""
    regime: Literal["validation", "retrain", "all"] = "validation"
    """What validation instances are for: validation (they choose the checkpoint), retrain (they choose the number of
    steps, and are then trained on for that many, with the rest and from the start), all (they are trained on at once,
    for all the steps; nothing is chosen)."""
    objective: Objective = "choice"
    """What is minimised: tokens (every token of prompt and right answer), answer (the right answer's tokens), choice
    (a proper scoring rule of the posterior over the choices)."""
    rule: Rule = "logarithmic"
    """The proper scoring rule of the objective `choice`; `ranked` is for ordered levels (type score)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of every training label that is spread over all choices alike (arXiv:1512.00567); objective choice only."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of AdamW."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps over which the learning rate rises."""
    decay: Decay = "cosine"
    """What the learning rate does after the warm-up: cosine (to zero) or constant."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    """Passes over the training instances; 3 when neither epochs nor steps is given."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps, instead of epochs."""
    batch: Annotated[int, Field(ge=1)] = 16
    """Training instances per optimizer step."""
    train_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens per optimizer step with padding, instead of a number of instances."""
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Instances per forward pass, to save memory; the loss does not depend on it."""
    gradient_checkpointing: bool = False
    """Keep only the input of each layer and compute the layer again in the backward pass, to save memory; a step takes
    about a third longer and the result does not depend on it."""
    validate_every: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps between validations; a twentieth of the run when absent."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many validations without a better one; never when absent."""
    select: Selection = "nce"
    """Validation metric that chooses the best checkpoint; calibrated_nce is the NCE after the temperature that is best
    on validation (refine, then calibrate). The last two are for ordered levels (type score)."""
    seed: Seed = 0
    """Seed of the adapter's start, the order of the instances and dropout. The choice of instances has its own,
    data-seed."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"epochs is {self.epochs} and steps is {self.steps}: give one of them")
        if self.patience is not None and self.regime == "all":
            raise ValueError(f"patience is {self.patience} but regime all validates nothing: leave one of them out")
        return self


class FinetuneConfig(TrainingOptions, ScoringOptions, TaskOptions, ModelOptions, ModelAndTask):
    """Everything that decides a run of `rango finetune`, as in its run.yaml."""

    lora: LoRA = LoRA()
    """The low-rank update."""

    @model_validator(mode="after")
    def _quantised_weights_are_frozen(self) -> Self:
        if self.adaptation == "full" and self.quantise != "none":
            raise ValueError(
                f"adaptation is full and quantise is {self.quantise}: weights in so few bits cannot be trained; "
                "use adaptation lora, or quantise none"
            )
        return self

    @model_validator(mode="after")
    def _shots_are_not_learned(self) -> Self:
        if self.shots and self.objective == "tokens":
            raise ValueError(
                f"objective is tokens and shots is {self.shots}: the words of the shots would be learned again with "
                "every instance; use answer or choice"
            )
        return self

    @model_serializer(mode="wrap")
    def _in_recorded_order(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A study names a run by a hash of this text, in which model and task have always stood last.
        values: dict[str, Any] = write(self)
        return {key: values[key] for key in sorted(values, key=ModelAndTask.model_fields.__contains__)}


class EvaluateConfig(ScoringOptions, TaskOptions, ModelOptions, ModelAndTask):
    """Everything that decides an evaluation by `rango evaluate`, as in its evaluation.yaml."""

    model: str = Field(default="", kw_only=False)
    """Hub id, folder with a checkpoint, or GGUF file; or an endpoint: systemone:URL#NAME or openai:URL#NAME."""
    task: str = Field(default="", kw_only=False)
    """socialiqa, hellaswag, simulated, simulated-continuations, simulated-yes-no, simulated-levels, or the path of a
    table."""
    adapter: Path | None = None
    """A run directory (its best checkpoint is taken) or an adapter folder in PEFT's format. Of a run, form, normalise,
    shots and dtype are taken too where they are not given, and on its own task also data, sizes and data-seed."""
    split: Split = "test"
    """The split to evaluate on."""
    mc_dropout: Annotated[int, Field(ge=1)] | None = None
    """Average the posteriors of this many passes with the adapter's dropout on (MC dropout); one pass without dropout
    when absent."""
    orders: Annotated[int, Field(ge=1, le=1000)] = 1
    """Average the posteriors over this many orders of the options, at as many times the cost; all K! where there are no
    more. In the letter form only."""
    seed: Seed = 0
    """Seed of the bootstrap, of MC dropout's masks and of orders."""
    other_data: bool = False
    """Evaluate even where the adapter's run may have seen the instances: its task has changed, or is cut anew."""

    @model_validator(mode="after")
    def _dropout_of_an_adapter(self) -> Self:
        if self.mc_dropout is not None and self.orders > 1:
            raise ValueError(f"mc_dropout is {self.mc_dropout} and orders is {self.orders}: give one of them")
        if self.other_data and self.adapter is None:
            raise ValueError("other_data is given but there is no adapter whose run could have seen data: leave it out")
        if self.mc_dropout is not None and self.adapter is None:
            raise ValueError(
                f"mc_dropout is {self.mc_dropout} but there is no adapter whose dropout could be on: give adapter"
            )
        return self


class MemoryOptions(ModelOptions):
    """What the estimate of `rango models --memory` is for."""

    adaptation: Literal["lora", "full"] = "lora"
    """What is trained: lora, or full (every parameter, in float32)."""
    objective: Objective = "choice"
    """What is minimised; it decides at how many tokens the head is applied."""
    gradient_checkpointing: bool = False
    """Compute each layer again in the backward pass instead of keeping what it computed."""
    tokens: Annotated[int, Field(ge=1)] = 2048
    """Tokens of one forward pass while training: of a micro-batch, padding included."""
    length: Annotated[int, Field(ge=8)] = 128
    """Tokens of a row: of an instance with its choices."""
    limit: Annotated[str | None, AfterValidator(_check_size)] = None
    """Memory that has to do, such as 8GiB or 500MB; where it does not, the nearest setting that fits is named."""
    lora: LoRA = LoRA()
    """The low-rank update."""


class AdaptationOptions(Config):
    """How a configuration of a study is adapted."""

    adaptation: Adaptation = "lora"
    """none (the base, zero-shot), few-shot (`shots` training instances in the prompt), lora, ensemble (mean posterior
    of `members` adapters that differ by their seed), mc-dropout (mean posterior of `samples` passes with dropout on),
    full (every weight trained), tfidf (logistic regression on words, without the model), probe (logistic regression on
    the base's last states), encoder (another model, `encoder`, fine-tuned as a classifier of texts); `calibration`
    alone or behind a plus: with a calibrator fitted on validation."""
    encoder: str | None = None
    """Hub id or folder of the encoder, such as BERT, for the adaptation encoder."""
    members: Annotated[int, Field(ge=2)] = 3
    """Adapters of an ensemble."""
    samples: Annotated[int, Field(ge=2)] = 10
    """Passes of MC dropout."""
    calibrator: Literal["auto", "temperature", "bias", "affine", "vector", "matrix"] | None = None
    """Calibrator of `+calibration`; affine in letter form and auto in cloze form when absent: affine for fixed classes
    where validation shows that it helps, else temperature."""

    @property
    def way(self) -> Way:
        """Where the posteriors come from."""
        source = self.adaptation.removesuffix("+calibration")
        return "none" if source == "calibration" else source  # type: ignore[return-value]

    @property
    def calibrated(self) -> bool:
        """Whether a calibrator fitted on validation is applied."""
        return self.adaptation.endswith("calibration")


class ExportOptions(Config):
    """What `rango export` writes of a run, and where it goes."""

    merge: bool = False
    """Write a whole model, the adapter merged into its base, instead of the adapter alone."""
    state: Literal["adapted", "last"] = "adapted"
    """adapted (the checkpoint that was measured), or last (that of the last validation, which was not tested)."""
    dtype: Dtype = "auto"
    """Type of the weights of a whole model; auto is the base's own, and float32 after full fine-tuning."""
    base_model: str | None = None
    """Hub id of the base model (ORG/NAME), where the run names a folder."""
    license: str | None = None
    """Licence to state for what is exported, as the Hub writes it (apache-2.0); none is stated when absent."""
    push_to_hub: str | None = None
    """Hub repository to push to (ORG/NAME), private unless --public; the token is that of HF_TOKEN or of `hf auth
    login`."""
    public: bool = False
    """Let everybody see the repository that is pushed to."""

    @model_validator(mode="after")
    def _public_is_of_a_push(self) -> Self:
        if self.public and self.push_to_hub is None:
            raise ValueError("public is given but nothing is pushed: give push_to_hub too, or leave public out")
        return self
