"""The small language models that a study pre-trains for itself, some with the tokenizer of another."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from rango.config import Config
from rango.errors import InputError, unknown_name
from rango.files import fingerprint
from rango.language.corpus import read_sources, train_bpe
from rango.language.options import PretrainConfig
from rango.models.sources import check_quantise, check_source
from rango.options import Quantisation

_SMALL_TEXT = 1_000_000  # bytes; its tokenizer is trained in about a second
_LINES = 70_000


class ModelSpec(Config):
    """A small language model that the study pre-trains for itself."""

    texts: str | tuple[str, ...] | None = None
    """`simulated` (narratives of the simulated world, drawn by the model's seed), or text files; when absent, those of
    the model whose tokenizer is taken."""
    lines: Annotated[int, Field(ge=1)] | None = None
    """Lines of simulated narratives; 70,000, or those of the model whose texts are read, when absent."""
    options: PretrainConfig
    """The options of `rango pretrain`. `tokenizer` may name another model of the study: it comes first then."""
    tokenizer_of: str | None = None
    """The folder of that other model, under models/ of the study. A plan has it, a study file has the name."""

    @classmethod
    def flat(cls, values: Any) -> Any:
        """`{texts, lines, …}` as it stands in a file, with the keys of `rango pretrain` beside its own."""
        if not isinstance(values, Mapping) or "options" in values:
            return values
        own = {key: value for key, value in values.items() if key in ("texts", "lines")}
        return {**own, "options": {key: value for key, value in values.items() if key not in own}}

    @property
    def simulated(self) -> bool:
        """Whether it is trained on narratives of the simulated world."""
        return self.texts == "simulated"

    @property
    def files(self) -> tuple[Path, ...]:
        """The text files it is trained on; none where `simulated`, or before a plan has said whose are read."""
        texts = () if self.texts is None or self.simulated else self.texts
        return tuple(Path(text) for text in ((texts,) if isinstance(texts, str) else texts))

    @property
    def identity(self) -> str:
        """A short hash of everything that decides the model, text files by name."""
        return fingerprint(self.model_dump_json())[:8]


def plan_models(models: Mapping[str, ModelSpec]) -> dict[str, tuple[str, ModelSpec]]:
    """Name -> (folder under models/, complete specification), a model whose tokenizer others take before them.

    The folder's name ends in the identity of all that decides the model, the other's tokenizer included.

    Raises:
        InputError: models that take each other's tokenizer in a circle; no texts to read.
    """
    planned: dict[str, tuple[str, ModelSpec]] = {}

    # Depth first, so that a tokenizer's folder, whose name has its identity, is known before it is taken.
    def visit(name: str, before: tuple[str, ...]) -> None:
        if name in before:
            circle = " -> ".join([*before[before.index(name) :], name])
            raise InputError(f"models: {circle}: each takes the tokenizer of the next; let one of them train its own")
        if name in planned:
            return
        spec = models[name]
        source = str(spec.options.tokenizer)
        if source in models:
            visit(source, (*before, name))
            folder, other = planned[source]
            options = spec.options.model_copy(update={"tokenizer": None})
            changes: dict[str, Any] = {"options": options, "tokenizer_of": folder}
            # Models on one scale should differ in nothing but what they are, so they read the same text by default.
            if spec.texts is None:
                changes |= {"texts": other.texts, "lines": spec.lines or other.lines}
            spec = spec.model_copy(update=changes)
        if spec.texts is None:
            raise InputError(
                f"models.{name}: texts is missing; give `simulated`, text files, or as tokenizer another model of the "
                "study, whose texts are then read"
            )
        spec = spec.model_copy(update={"lines": spec.lines or _LINES})
        planned[name] = (f"{name}-{spec.identity}", spec)

    for name in models:
        # It becomes a folder below models/: a path could lead anywhere.
        if not re.fullmatch(r"\w[\w .+-]*", name):
            raise InputError(f"models: {name!r} cannot name a folder; give a word, such as small")
        visit(name, ())
    return planned


def check_model(model: str, *, own: Collection[str], quantise: Quantisation = "none") -> None:
    """Raise InputError where a name can be no model's: a path where there is none; nearly the name of an own model.

    Whether the Hub has it is not asked.
    """
    if model:
        check_source(model, quantise)
    # Any other word may be a Hub id; one that is nearly an own model's name is more likely a slip.
    near = difflib.get_close_matches(model, own, n=1, cutoff=0.7)
    if near and "/" not in model and not (Path(model) / "config.json").is_file():
        raise unknown_name("model of the study", model, own)


def check_own_model(name: str, spec: ModelSpec, *, quantise: Quantisation) -> None:
    """Raise InputError, before it is pre-trained, where an own model could not be loaded as the runs want it."""
    check_quantise(quantise)
    if quantise != "none" and spec.options.model != "transformer":
        raise InputError(
            f"quantise is {quantise!r}, but {name}, a model of the study, is an {spec.options.model}, in which nothing "
            "can be quantised; leave it out"
        )


def needed_models(models: Mapping[str, ModelSpec], used: Collection[str]) -> dict[str, ModelSpec]:
    """Of planned models (folder -> specification) those that are used, and those whose tokenizer they take."""
    needed = set(used)
    for folder in reversed(list(models)):  # who takes a tokenizer comes after who gives it
        if folder in needed and (source := models[folder].tokenizer_of):
            needed.add(source)
    return {folder: spec for folder, spec in models.items() if folder in needed}


def check_texts(models: Mapping[str, ModelSpec], folder: Path) -> None:
    """Raise InputError with all that is wrong with the texts of the models that `folder` does not hold yet.

    A file may be missing, or a text too small for the vocabulary, which would be found out only by pre-training.
    """
    waiting = {name: spec for name, spec in models.items() if not (folder / name / "config.json").is_file()}
    files = dict.fromkeys(file for spec in waiting.values() for file in spec.files)
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise InputError(*(f"models: {file} does not exist; give the path of an existing text" for file in missing))
    mistakes = []
    for name, spec in waiting.items():
        options = spec.options
        borrowed = spec.tokenizer_of is not None or options.tokenizer is not None
        of_words = options.model == "ngram" and options.ngram.unit == "words"
        if borrowed or of_words or spec.simulated:
            continue
        # A larger text has pairs enough for any vocabulary that its model could learn.
        if sum(file.stat().st_size for file in spec.files) <= _SMALL_TEXT:
            try:
                train_bpe(read_sources(spec.files), options.vocabulary)
            except InputError as error:
                mistakes.append(f"models.{name.rpartition('-')[0]}: {error}")
    if mistakes:
        raise InputError(*mistakes)
