"""Reference pages as Markdown, made of the program itself: its commands, its options and its public names.

FILLS      name in a page ──> text; conf.py puts it where the page says `<!-- fill: NAME -->`
"""

from __future__ import annotations

import ast
import inspect
import io
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from rich.console import Console

import rango
from rango import decisions, figures, options
from rango.cli import app
from rango.config import Config

DOCS = Path(__file__).parent
WIDTH = 86
"""Columns of a command's help on the page."""


def commands() -> str:
    """A section for each command with its `--help`, in the order of `rango --help`."""
    sections = []
    for name in sorted(name for name in app if not name.startswith("-")):
        text = io.StringIO()
        console = Console(file=text, width=WIDTH, color_system=None, force_terminal=False)
        app.meta.help_print([name], console=console)
        lines = "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines())
        # The launcher around the commands, which reads --config first, puts its own name into the usage.
        lines = lines.replace("Usage: launch ", "Usage: rango ", 1)
        sections.append(f"## rango {name}\n\n```text\n{lines}\n```\n")
    return "\n".join(sections)


def option_tables() -> str:
    """A table of the fields of each group of options: key, default, what it means."""
    groups = [
        group
        for group in vars(options).values()
        if inspect.isclass(group) and issubclass(group, Config) and group.__module__ == options.__name__
    ]
    sections = []
    for group in groups:
        # A group that is composed of others repeats none of their fields.
        own = [name for name in group.model_fields if name in inspect.get_annotations(group)]
        if not own:
            continue
        rows = [f"| `{name.replace('_', '-')}` | {default(group, name)} | {help_text(group, name)} |" for name in own]
        first = inspect.getdoc(group) or ""
        title = f"## {group.__name__}\n\n{first.splitlines()[0]}\n\n| Key | Default | |\n|---|---|---|\n"
        sections.append(title + "\n".join(rows) + "\n")
    return "\n".join(sections)


def default(group: type[Config], name: str) -> str:
    """The default of a field as a cell, or that it must be given."""
    field = group.model_fields[name]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Config):
        return f"see {type(value).__name__}"
    return f"`{','.join(value) if isinstance(value, tuple) else value}`" if value not in (None, ()) else "absent"


def help_text(group: type[Config], name: str) -> str:
    """The text under a field as a cell, with the values that it may have where they are fixed."""
    field = group.model_fields[name]
    text = " ".join((field.description or "").split()).replace("|", "\\|")
    choices = literals(field.annotation)
    # Many a text already says what each value means.
    if all(choice in text for choice in choices):
        return text
    return f"{text} One of: {', '.join(f'`{choice}`' for choice in choices)}."


def literals(annotation: Any) -> list[str]:
    """The texts of a `Literal`, also inside a union."""
    arguments = get_args(annotation)
    if arguments and all(isinstance(argument, str) for argument in arguments):
        return list(arguments)
    return [text for argument in arguments for text in literals(argument)]


def public_names(module: ModuleType) -> str:
    """The documentation of every public name of a module, as Sphinx takes it from the docstrings."""
    blocks = []
    for name in sorted(module.__all__, key=str.casefold):
        if name == "__version__":
            continue
        value = getattr(module, name)
        if inspect.ismodule(value):
            blocks.append(f"## {name}\n\nSee [`rango.{name}`]({name}.md).\n")
            continue
        if module is rango and getattr(decisions, name, None) is value:
            blocks.append(f"## {name}\n\nSee [{name}](decisions.md#{name.lower()}).\n")
            continue
        place, kind, further = module.__name__, "autofunction", ""
        if inspect.isclass(value):
            kind, further = "autoclass", "\n   :members:\n   :exclude-members: model_config"
        elif not inspect.isfunction(value):
            # The text under a constant stands only in the file that defines it.
            place, kind, further = defined_in(module, name), "autodata", "\n   :no-value:"
        blocks.append(f"## {name}\n\n```{{eval-rst}}\n.. {kind}:: {place}.{name}{further}\n```\n")
    return "\n".join(blocks)


def defined_in(module: ModuleType, name: str) -> str:
    """The file that a module imports a name from."""
    imports = [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ImportFrom)]
    return next(node.module or "" for node in imports if name in {alias.name for alias in node.names})


def further_pages() -> str:
    """A contents list of the pages that the first page does not name yet, so that each can be reached."""
    listed = (DOCS / "index.md").read_text(encoding="utf-8").split()
    pages = sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md"))
    further = [page for page in pages if page not in ("index", *listed)]
    entries = "\n".join(further)
    return f"```{{toctree}}\n:caption: Further pages\n:maxdepth: 1\n\n{entries}\n```\n" if further else ""


FILLS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "options": option_tables,
    "further-pages": further_pages,
    "rango": lambda: public_names(rango),
    "rango-decisions": lambda: public_names(decisions),
    "rango-figures": lambda: public_names(figures),
}
