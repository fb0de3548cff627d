"""`rango generate`: the command that continues a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli.resolve import resolve
from rango.scoring.options import GenerateConfig, GenerateOptions


def generate(
    model: str | None = None,
    prompt: str | None = None,
    /,
    *,
    options: Annotated[GenerateOptions | None, Parameter(name="*")] = None,
    config: Path | None = None,
    quiet: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Continue a text with a model: the continuation goes to the standard output as it is written.

    Parameters
    ----------
    model
        Hub id, or folder with a transformers checkpoint, an LSTM or another model of rango pretrain.
    prompt
        The text to continue; "" begins a new text.
    config
        YAML file with the same keys; flags win.
    quiet
        Only the continuation.
    """
    settings, _ = resolve(GenerateConfig, config, options, model=model, prompt=prompt)
    from rango.models import ModelOptions, load_adapter, load_model
    from rango.scoring import generate as continue_text
    from rango.training import Screen

    screen = Screen(quiet=quiet)
    loaded = load_model(settings.model, **dict(settings.pick(ModelOptions)))
    if settings.adapter is not None:
        load_adapter(loaded, settings.adapter)
    written = continue_text(loaded, settings.prompt, options=settings)
    screen.say(f"{settings.model}: {'; '.join(loaded.notes)}")
    # On a terminal the prompt stands before its continuation; the standard output has the continuation alone.
    screen.console.print(settings.prompt, end="", style="bold", markup=False, soft_wrap=True)
    try:
        for piece in written:
            print(piece, end="", flush=True)
    finally:  # also when it is stopped by a signal
        print(flush=True)
    count = len(written.tokens)
    screen.say(f"{count} tokens, {count / written.seconds:,.0f} tokens/s, ended by {_REASONS[written.stopped or '']}")


_REASONS = {
    "": "",
    "end of text": "the end of the text",
    "max_tokens": "--max-tokens",
    "context": "the length of the model's context",
}
