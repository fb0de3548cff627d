"""The folder of a pre-trained model: built beside its place, put there when complete, with its record pretrain.yaml."""

from __future__ import annotations

import math
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from rango import __version__
from rango.errors import InputError
from rango.files import holds_files, read_yaml, write_yaml
from rango.training.corpus import Corpus, Source
from rango.training.pretrain_options import PretrainConfig

STATE = "state.safetensors"
RECORD = "pretrain.yaml"


@dataclass(frozen=True, eq=False)
class Pretrained:
    """What a pre-training gives, whatever the kind of model."""

    network: PreTrainedModel
    corpus: Corpus
    facts: Mapping[str, Any]
    """For the record: how it was made and the held-out loss."""


def held_out_measures(nats_per_token: float, tokens: int, corpus: Corpus) -> dict[str, float]:
    """The held-out loss in nats per token, its exponential, and, comparable between tokenizers, in bits per byte."""
    bits = nats_per_token * tokens / corpus.held_out_bytes / math.log(2)
    return {
        "held_out_nats_per_token": round(nats_per_token, 6),
        "held_out_perplexity": round(math.exp(nats_per_token), 4),
        "held_out_bits_per_byte": round(bits, 6),
    }


def is_complete(out: Path, identity: str) -> bool:
    """Whether `out` holds this very pre-training, complete.

    Raises:
        InputError: `out` is a file or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder that does not exist yet")
    if not holds_files(out):
        return False
    if (out / RECORD).is_file() and read_yaml(out / RECORD).get("identity") == identity:
        return True
    raise InputError(f"{out} already holds something else; give another folder, or delete this one")


def work_folder(out: Path, identity: str) -> Path:
    """The hidden folder beside `out` in which an unfinished pre-training stands.

    Raises:
        InputError: another one stands there.
    """
    work = out.parent / f".{out.name}.unfinished"
    record = work / RECORD
    if record.exists() and read_yaml(record).get("identity") != identity:
        raise InputError(
            f"{work} holds an unfinished pre-training with another configuration or text; "
            "give another folder, or delete this one"
        )
    if not record.exists():
        work.mkdir(parents=True, exist_ok=True)
        # A state without its record is of unknown origin: never go on from it.
        (work / STATE).unlink(missing_ok=True)
        write_yaml(record, {"status": "running", "identity": identity})
    return work


def write_folder(
    work: Path,
    made: Pretrained,
    tokenizer: PreTrainedTokenizerFast,
    *,
    config: PretrainConfig,
    sources: Sequence[Source],
    identity: str,
) -> None:
    """Write network, tokenizer and record into the work folder; the state of the training goes."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        made.network.save_pretrained(work)
        tokenizer.save_pretrained(work)
    finally:
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    record = {
        "status": "complete",
        "identity": identity,
        "config": config.model_dump(mode="json"),
        "vocabulary": len(tokenizer),
        **made.facts,
        "texts": [
            {"name": source.name, "documents": len(source.documents), "fingerprint": source.fingerprint}
            for source in sources
        ],
        "text_tokens": {"train": len(made.corpus.train), "held_out": len(made.corpus.held_out)},
        "versions": {"rango": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    }
    write_yaml(work / RECORD, record)
    (work / STATE).unlink(missing_ok=True)


def put_in_place(work: Path, out: Path) -> None:
    """Give the complete folder its name."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir():  # holds nothing but hidden files, as checked; a rename needs it gone
        shutil.rmtree(out)
    work.rename(out)
