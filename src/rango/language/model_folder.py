"""The folder of a pre-trained model, with its record pretrain.yaml.

    out.parent/.NAME.unfinished    pretrain.yaml (status: running), state.safetensors         while it is made
    out.parent/NAME                model, tokenizer, words.txt, pretrain.yaml (complete)      renamed when complete

So `out` is either whole or not there, and an interrupted command finds its state beside it, or the complete model that
only lacks its name. The state goes after the model is on the disk, and never for an error that is not the input's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rango.errors import DivergenceError, InputError, RunError
from rango.files import naming_file, read_yaml, write_yaml
from rango.language.corpus import Corpus, Source
from rango.language.options import PretrainConfig
from rango.output_folder import LOCK, check_links, only_writer
from rango.training.run_writer import versions

if TYPE_CHECKING:
    from rango.models.loading import Model

STATE = "state.safetensors"
RECORD = "pretrain.yaml"


@dataclass(frozen=True, eq=False)
class Pretrained:
    """The result of a pre-training, whatever the kind of model."""

    model: Model
    corpus: Corpus | None
    """None where nothing was learned from text: the n-grams were read from an ARPA file."""
    facts: Mapping[str, Any]
    """For the record: how the model was made and, if there is text, its held-out loss."""


def held_out_measures(nats_per_token: float, tokens: int, corpus: Corpus) -> dict[str, float]:
    """The held-out loss in nats per token, as a perplexity, and in bits per byte, which compares tokenizers.

    The perplexity is infinite beyond float64, and where an unsmoothed model gives the text probability 0.
    """
    from rango.language.text_scores import bits_per_byte, perplexity

    return {
        "held_out_nats_per_token": round(nats_per_token, 6),
        "held_out_perplexity": round(perplexity(-nats_per_token, 1), 4),
        "held_out_bits_per_byte": round(bits_per_byte(-nats_per_token * tokens, corpus.held_out_bytes), 6),
    }


def check_place(out: Path) -> None:
    """Check that the complete folder can be renamed to `out`.

    Args:
        out: resolved: absolute, without links.

    Raises:
        InputError: the current folder, a mount point (such as /), a file, a place inside a file, or a folder of other
            files than a model's.
    """
    if out == Path.cwd():
        raise InputError(f"{out} is the current folder, which cannot be replaced; give a folder in it or elsewhere")
    if os.path.ismount(out):
        raise InputError(f"{out} is a mount point, which cannot be replaced; give a folder in it or elsewhere")
    nearest = next(place for place in (out, *out.parents) if place.exists())
    if not nearest.is_dir():
        inside = "" if nearest == out else f", so {out} cannot be in it"
        raise InputError(f"{nearest} is a file{inside}; give a folder that does not exist yet")
    names = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    if names and not (out / RECORD).is_file():
        raise _holds_something_else(out, names)


def is_complete(out: Path, identity: str) -> bool:
    """Whether `out` holds this very pre-training, complete; False where it holds nothing.

    Raises:
        InputError: `out` holds anything else; a hidden file counts too, because the folder is replaced.
    """
    names = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    if not names:
        return False
    if (out / RECORD).is_file() and read_yaml(out / RECORD).get("identity") == identity:
        return True
    raise _holds_something_else(out, names)


def _holds_something_else(out: Path, names: Sequence[str]) -> InputError:
    return InputError(f"{out} already holds something else ({names[0]}); give another folder, or empty this one")


@contextlib.contextmanager
def work_folder(out: Path, identity: str) -> Iterator[Path]:
    """A hidden folder beside `out` that is renamed to `out` when the block ends without an error; for one process.

    After an interruption or a crash it stays, and the same pre-training goes on in it. After an `InputError`, which a
    repeated command would only meet again, it is deleted with the parent folders that were made for it; unless there is
    a state in it, which only a divergence makes worthless.

    Raises:
        InputError: another unfinished pre-training stands there, another process is at work, a link leads elsewhere.
    """
    work = out.parent / f".{out.name}.unfinished"
    record = work / RECORD
    with only_writer(out, lock=out.parent / f".{out.name}{LOCK}"):
        check_links(out.parent, work.name)
        check_links(work)
        if record.exists() and read_yaml(record).get("identity") != identity:
            raise InputError(
                f"{work} holds an unfinished pre-training with another configuration or text; "
                "give another folder, or delete this one"
            )
        if not record.exists():
            work.mkdir(exist_ok=True)
            # A state without its record is of unknown origin: never go on from it.
            (work / STATE).unlink(missing_ok=True)
            write_yaml(record, {"status": "running", "identity": identity})
        try:
            yield work
        except InputError as error:
            if isinstance(error, DivergenceError) or not (work / STATE).exists():
                shutil.rmtree(work)
            raise
        (work / STATE).unlink(missing_ok=True)
        if out.is_dir():
            out.rmdir()  # it was empty, as checked; what has come since is not ours to delete
        work.rename(out)


def is_written(work: Path) -> bool:
    """Whether a work folder holds the complete model: the command was killed before it could rename the folder."""
    return read_yaml(work / RECORD).get("status") == "complete"


@contextlib.contextmanager
def writing(work: Path) -> Iterator[None]:
    """Within the block files of the work folder are written: where that fails, the input is not at fault.

    Raises:
        RunError: no space, no permission (any more), a read-only file system.
    """
    try:
        with naming_file(work):
            yield
    except (InputError, OSError) as error:
        cause = error.__context__ if isinstance(error, InputError) else error  # why the place was refused
        place, reason = getattr(cause, "filename", None) or work, getattr(cause, "strerror", None) or error
        raise RunError(
            f"{place} cannot be written ({reason}); what was saved before stays: repeat the command to go on"
        ) from None


def write_folder(
    work: Path, made: Pretrained, *, config: PretrainConfig, sources: Sequence[Source], identity: str
) -> None:
    """Write network, tokenizer and record into the work folder, on the disk when this returns."""
    from rango.models.loading import quiet_transformers

    with quiet_transformers():
        made.model.network.save_pretrained(work)
        made.model.tokenizer.save_pretrained(work)
    corpus = made.corpus
    record = {
        "status": "complete",
        "identity": identity,
        "config": config.model_dump(mode="json"),
        "vocabulary": len(made.model.tokenizer),
        **made.facts,
        "texts": [
            {"name": source.name, "documents": len(source.documents), "fingerprint": source.fingerprint}
            for source in sources
        ],
        **({"text_tokens": {"train": len(corpus.train), "held_out": len(corpus.held_out)}} if corpus else {}),
        "versions": versions(),
    }
    for half in work.glob(".*"):  # of a file that was being written when an earlier command was killed
        if half.is_dir():
            shutil.rmtree(half)
        else:
            half.unlink()
    # The record comes after the files it vouches for, which are on the disk and not only in the system's memory.
    for path in (*work.iterdir(), work):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    write_yaml(work / RECORD, record)
