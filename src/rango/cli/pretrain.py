"""`rango pretrain`: the command that trains a small language model from text files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli.groups import Quiet
from rango.console import Screen
from rango.errors import InputError
from rango.files import check_file, check_writable
from rango.language.corpus import Source, arpa_file, check_ending, count_sources, read_sources
from rango.language.model_folder import check_place
from rango.language.options import PretrainConfig


def pretrain(
    texts: Annotated[list[Path], Parameter(negative=())],
    *,
    settings: Annotated[PretrainConfig, Parameter(name="*")] = PretrainConfig(),
    out: Path,
    quiet: Quiet = False,
) -> None:
    """Train a small causal language model and its tokenizer from text files; writes a folder that transformers loads.

    Parameters
    ----------
    texts
        Text files: .txt, or .jsonl with a field `text`; also with .gz. Or one .arpa file, with --model ngram and the
        --tokenizer whose tokens are its words.
    out
        The folder to write.
    """
    for text in texts:
        check_file(text)
    if settings.tokenizer is not None and not settings.tokenizer.is_dir():
        raise InputError(f"tokenizer {settings.tokenizer} is not a folder; give the folder of an existing model")
    if settings.architecture_file:
        check_file(Path(settings.architecture))
    check_writable(out.parent)
    check_place(out.resolve())
    screen = Screen(quiet=quiet)
    sources: list[Path] | list[Source] = texts
    if arpa_file(texts, settings) is None:
        for text in texts:
            check_ending(text)
        sources = read_sources(texts)
        documents = sum(len(source.documents) for source in sources)
        screen.say(f"{documents:,} documents are read from {count_sources(sources)} ...")
    from rango.language.pretrain import pretrain as train

    print(train(sources, out=out, config=settings, screen=screen))
