"""`rango pretrain`: the command that trains a small language model from text files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli import Quiet
from rango.cli.resolve import resolve
from rango.files import check_writable
from rango.language.options import PretrainConfig


def pretrain(
    texts: list[Path] | None = None,
    /,
    *,
    out: Path | None = None,
    options: Annotated[PretrainConfig | None, Parameter(name="*")] = None,
    config: Path | None = None,
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
    config
        YAML file with the same keys; flags win.
    quiet
        No progress.
    """
    settings, apart = resolve(PretrainConfig, config, options, texts=texts or None, out=out)
    from rango.console import Screen
    from rango.language.pretrain import pretrain as train

    check_writable(apart["out"].parent)
    folder = train(apart["texts"], out=apart["out"], config=settings, screen=Screen(quiet=quiet))
    print(folder)
