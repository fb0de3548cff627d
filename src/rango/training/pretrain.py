"""Pre-training of a small causal language model and its tokenizer, from text files to a folder transformers loads."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from rango import __version__
from rango.errors import InputError
from rango.files import fingerprint, read_yaml, write_yaml
from rango.scoring import count_words, write_words
from rango.scoring.word_list import WORDS_FILE
from rango.training.corpus import Source, documents, read_sources, tokenise, train_tokenizer
from rango.training.networks import architecture_text
from rango.training.pretrain_loop import Trainer
from rango.training.pretrain_options import PretrainConfig
from rango.training.progress import Screen

__all__ = ["PretrainConfig", "pretrain"]

_STATE = "state.safetensors"
_RECORD = "pretrain.yaml"


def pretrain(
    texts: Sequence[Path] | Iterable[str], *, out: Path, config: PretrainConfig, screen: Screen | None = None
) -> Path:
    """Train a small causal language model and its tokenizer; `AutoModelForCausalLM` and `AutoTokenizer` load `out`.

    Minimises the mean of -log P(token | tokens before it in its window), in nats, with AdamW.

    Args:
        texts: text files (.txt, .jsonl with a `text` field, also .gz), or documents as strings.
        out: the folder to make: config.json, model.safetensors, tokenizer files, `words.txt` (the words of the
            training text and their counts) and `pretrain.yaml`. It appears when all is complete; until then the work
            stands in a hidden folder beside it, from which the same call goes on after an interruption. A complete
            folder of the same configuration and text is left as it is.
        config: size, budget, schedule. With a `tokens` budget and the same seed, machine and number of threads the
            result is the same to the last bit, also across an interruption.
        screen: where progress is shown; silent when absent.

    Returns:
        `out`.

    Raises:
        InputError: bad text, a vocabulary that does not fit it, a folder that holds something else, a loss that is
            no longer finite (nothing is left behind).
        Interrupted: a signal came; the state is saved.
    """
    screen = screen or Screen(quiet=True)
    sources = read_sources(texts)
    identity = fingerprint(
        config.model_dump_json(), architecture_text(config), *(source.fingerprint for source in sources)
    )
    if _is_complete(out, identity):
        screen.say(f"{out} is complete already, with this configuration and text")
        return out
    work = _work_folder(out, identity)
    try:
        tokenizer = train_tokenizer(sources, config.vocabulary)
        corpus = tokenise(sources, tokenizer, context=config.context)
        trainer = Trainer(config, corpus, end_of_text=_end_of_text(tokenizer), state_file=work / _STATE)
        screen.say(_opening(config, trainer, sources))
        trainer.run(screen)
        write_words(work / WORDS_FILE, count_words(documents(corpus.train, tokenizer)))
        _write_folder(work, trainer, tokenizer, _record(trainer, sources, identity))
    except InputError:
        shutil.rmtree(work)
        raise
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir():  # empty, as checked; a rename needs it gone on some systems
        out.rmdir()
    work.rename(out)
    return out


def _is_complete(out: Path, identity: str) -> bool:
    """Whether `out` holds this very pre-training, complete."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder that does not exist yet")
    if not out.exists() or not any(out.iterdir()):
        return False
    if (out / _RECORD).is_file() and read_yaml(out / _RECORD).get("identity") == identity:
        return True
    raise InputError(f"{out} already holds something else; give another folder, or delete this one")


def _work_folder(out: Path, identity: str) -> Path:
    """The hidden folder beside `out` in which an unfinished pre-training stands."""
    work = out.parent / f".{out.name}.unfinished"
    record = work / _RECORD
    if record.exists() and read_yaml(record).get("identity") != identity:
        raise InputError(
            f"{work} holds an unfinished pre-training with another configuration or text; "
            "give another folder, or delete this one"
        )
    if not record.exists():
        work.mkdir(parents=True, exist_ok=True)
        # A state without its record is of unknown origin: never go on from it.
        (work / _STATE).unlink(missing_ok=True)
        write_yaml(record, {"status": "running", "identity": identity})
    return work


def _end_of_text(tokenizer: PreTrainedTokenizerFast) -> int:
    token = tokenizer.eos_token_id
    assert isinstance(token, int)
    return token


def _opening(config: PretrainConfig, trainer: Trainer, sources: Sequence[Source]) -> str:
    corpus, position = trainer.corpus, trainer.position
    budget = f"{trainer.token_budget:,} tokens" if trainer.token_budget else f"{config.minutes:g} minutes of wall clock"
    resumed = f"; goes on from step {position.step:,}" if position.step else ""
    return (
        f"{trainer.parameters:,} parameters ({trainer.network.config.model_type}), {len(corpus.train):,} tokens of "
        f"text from {len(sources)} sources, {len(corpus.held_out):,} held out, budget {budget}, on {trainer.device} "
        f"in {str(trainer.dtype).removeprefix('torch.')}{resumed}"
    )


def _record(trainer: Trainer, sources: Sequence[Source], identity: str) -> dict[str, Any]:
    position, last = trainer.position, trainer.position.history[-1]
    return {
        "status": "complete",
        "identity": identity,
        "config": trainer.config.model_dump(mode="json"),
        "parameters": trainer.parameters,
        "device": str(trainer.device),
        "dtype": str(trainer.dtype).removeprefix("torch."),
        "tokens": position.tokens,
        "steps": position.step,
        "seconds": round(position.seconds, 1),
        "held_out": {key: value for key, value in last.items() if key.startswith("held_out")},
        "texts": [
            {"name": source.name, "documents": len(source.documents), "fingerprint": source.fingerprint}
            for source in sources
        ],
        "text_tokens": {"train": len(trainer.corpus.train), "held_out": len(trainer.corpus.held_out)},
        "versions": {"rango": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "tokenizers")},
        "history": position.history,
    }


def _write_folder(work: Path, trainer: Trainer, tokenizer: PreTrainedTokenizerFast, record: Mapping[str, Any]) -> None:
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        trainer.network.save_pretrained(work)
        tokenizer.save_pretrained(work)
    finally:
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    write_yaml(work / _RECORD, record)
    (work / _STATE).unlink(missing_ok=True)
