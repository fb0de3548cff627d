"""The folder of a pre-trained model: built beside its place, put there when complete, with its record pretrain.yaml."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from rango import __version__
from rango.errors import InputError
from rango.files import read_yaml, write_yaml
from rango.language.corpus import Corpus, Source
from rango.language.options import PretrainConfig

STATE = "state.safetensors"
RECORD = "pretrain.yaml"
MOST_NATS = math.log(sys.float_info.max)
"""Nats per token, 709.8: beyond it the perplexity is no number."""


@dataclass(frozen=True, eq=False)
class Pretrained:
    """What a pre-training gives, whatever the kind of model."""

    network: PreTrainedModel
    corpus: Corpus | None
    """None where nothing was learned from text: the model was read."""
    facts: Mapping[str, Any]
    """For the record: how it was made and, if there is text, the held-out loss."""


def held_out_measures(nats_per_token: float, tokens: int, corpus: Corpus) -> dict[str, float]:
    """The held-out loss in nats per token, its exponential, and, comparable between tokenizers, in bits per byte.

    A perplexity beyond float64 is infinite, as is that of a text that an unsmoothed model rules out.
    """
    perplexity = math.exp(nats_per_token) if nats_per_token < MOST_NATS else math.inf
    bits = nats_per_token * tokens / corpus.held_out_bytes / math.log(2)
    return {
        "held_out_nats_per_token": round(nats_per_token, 6),
        "held_out_perplexity": round(perplexity, 4),
        "held_out_bits_per_byte": round(bits, 6),
    }


def check_place(out: Path) -> None:
    """Refuse a place to which no folder can be renamed when it is complete.

    Args:
        out: resolved: absolute, without links.

    Raises:
        InputError: the current folder, a mount point (such as /), a file, or a place inside a file.
    """
    if out == Path.cwd():
        raise InputError(f"{out} is the current folder, which cannot be replaced; give a folder in it or elsewhere")
    if os.path.ismount(out):
        raise InputError(f"{out} is a mount point, which cannot be replaced; give a folder in it or elsewhere")
    there = next(place for place in (out, *out.parents) if place.exists())
    if not there.is_dir():
        inside = "" if there == out else f", so {out} cannot be in it"
        raise InputError(f"{there} is a file{inside}; give a folder that does not exist yet")


def is_complete(out: Path, identity: str) -> bool:
    """Whether `out` holds this very pre-training, complete.

    Raises:
        InputError: `out` holds something else, be it hidden.
    """
    found = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    if not found:
        return False
    if (out / RECORD).is_file() and read_yaml(out / RECORD).get("identity") == identity:
        return True
    raise InputError(f"{out} already holds something else ({found[0]}); give another folder, or empty this one")


@contextlib.contextmanager
def work_folder(out: Path, identity: str) -> Iterator[Path]:
    """A hidden folder beside `out` that gets its name when the block ends without an error.

    It stays when the block is interrupted, and the same pre-training goes on in it. After an `InputError` it goes, with
    the folders that were made for it.

    Raises:
        InputError: another unfinished pre-training stands there.
    """
    work = out.parent / f".{out.name}.unfinished"
    record = work / RECORD
    if record.exists() and read_yaml(record).get("identity") != identity:
        raise InputError(
            f"{work} holds an unfinished pre-training with another configuration or text; "
            "give another folder, or delete this one"
        )
    made = [folder for folder in work.parents if not folder.exists()]
    if not record.exists():
        work.mkdir(parents=True, exist_ok=True)
        # A state without its record is of unknown origin: never go on from it.
        (work / STATE).unlink(missing_ok=True)
        write_yaml(record, {"status": "running", "identity": identity})
    try:
        yield work
    except InputError:
        shutil.rmtree(work)
        with contextlib.suppress(OSError):  # somebody else uses one of them now
            for folder in made:
                folder.rmdir()
        raise
    if out.is_dir():
        out.rmdir()  # it was empty, as checked; what has come since is not ours to delete
    work.rename(out)


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
        **_text_tokens(made.corpus),
        "versions": {"rango": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    }
    write_yaml(work / RECORD, record)
    (work / STATE).unlink(missing_ok=True)


def _text_tokens(corpus: Corpus | None) -> dict[str, Any]:
    return {} if corpus is None else {"text_tokens": {"train": len(corpus.train), "held_out": len(corpus.held_out)}}
