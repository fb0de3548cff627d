"""The pages of the documentation as tests see them: fenced blocks with their marks, and a page that is carried out.

A mark is a comment of Markdown on the line above a block:

    <!-- not run: REASON -->   nobody runs this block here; the site shows the reason
    <!-- prints -->            the output of the block before ("..." stands for any lines)
    <!-- prints about -->      the same, but any number may stand for another one

A block of YAML whose first line is "# PATH.yaml" is that file. On the first lines of a page, `<!-- slow -->` says that
it takes minutes, and `<!-- after: PAGE -->` that it goes on in the folder that another page leaves.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rango.cli import main

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
RUN = ("bash", "python")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    mark: str
    """What the comment above it says; "" where there is none."""

    @property
    def not_run(self) -> bool:
        return self.mark.startswith("not run:")

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[str]:
        """The commands of a block of the shell; a line that ends with a backslash goes on in the next."""
        lines = re.sub(r"\s*\\\n\s*", " ", self.text).splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page, in its order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    name = str(path.relative_to(ROOT))
    result: list[Block] = []
    start: int | None = None
    for number, line in enumerate(lines):
        if start is None and re.match(r"```\S", line):
            start = number
        elif start is not None and line == "```":
            above = re.fullmatch(r"<!-- (.*) -->", lines[start - 1]) if start else None
            text = "\n".join(lines[start + 1 : number]) + "\n"
            result.append(Block(name, start + 1, lines[start][3:].strip(), text, above[1] if above else ""))
            start = None
    return result


def marks(path: Path) -> dict[str, str]:
    """What a page says of itself on its first lines: {"slow": ""}, {"after": "docs/tutorial/engineer.md"}."""
    head = path.read_text(encoding="utf-8")[:400]
    return dict(re.findall(r"^<!-- (slow|after)(?:: (.*?))? -->", head, flags=re.MULTILINE))


def pages() -> list[Path]:
    """README and every page of the documentation; pages in other languages have the same blocks."""
    return [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if path not in spanish_pages())]


def spanish_pages() -> dict[Path, Path]:
    """Each page in Spanish, and the page whose translation it is."""
    originals = {path: DOCS / path.relative_to(DOCS / "es") for path in sorted((DOCS / "es").rglob("*.md"))}
    return {**originals, DOCS / "es" / "index.md": ROOT / "README.md"}


@dataclass
class Reader:
    """Somebody who does in one folder what pages say."""

    folder: Path
    smaller: Mapping[str, str] = field(default_factory=dict)
    """Words of commands to replace, such as a number of steps, where a whole page would take minutes."""

    def follow(self, path: Path) -> None:
        """Carry out a page from its first block to its last, and compare what is printed."""
        names: dict[str, Any] = {"__name__": "__main__"}
        output, before = "", None
        with contextlib.chdir(self.folder):
            for block in blocks(path):
                if block.not_run:
                    continue
                if block.mark.startswith("prints"):
                    assert before is not None, f"{block.place}: no block before this one prints anything"
                    about = block.mark.endswith("about")
                    # With fewer steps the numbers, and sentences about them, are others.
                    if not (about and self.smaller):
                        check_output(block, output, about=about)
                elif block.language == "bash":
                    output = "".join(self.run(command, block) for command in block.commands())
                    before = block
                elif block.language == "python":
                    printed = io.StringIO()
                    with contextlib.redirect_stdout(printed):
                        exec(compile("\n" * block.line + block.text, path, "exec"), names)
                    output, before = printed.getvalue(), block
                elif block.language == "yaml" and (name := re.match(r"# (\S+\.yaml)\n", block.text)):
                    Path(name[1]).parent.mkdir(exist_ok=True)
                    Path(name[1]).write_text(block.text, encoding="utf-8")

    def run(self, command: str, block: Block) -> str:
        """What a command prints. `rango` runs in this process: loading torch again would take most of the time."""
        for words, others in self.smaller.items():
            command = command.replace(words, others)
        program, *arguments = shlex.split(command, comments=True)
        if program != "rango":
            environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
            result = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment)
            assert result.returncode == 0, f"{block.place}: {command}\n{result.stderr}"
            return result.stdout
        printed, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            code = main(arguments)
        assert code == 0, f"{block.place}: {command}\n{errors.getvalue()[-2000:]}"
        return printed.getvalue()


def check_output(block: Block, output: str, *, about: bool) -> None:
    """The words of the block stand in the output, in order; "..." stands for any words. Where lines break is free."""

    def plain(text: str) -> str:
        # Columns, rules and the ends of lines move with the width of numbers.
        text = re.sub("─+", "─", " ".join(text.split()))
        return re.sub(r"[-−+]?\d[\d,.]*\d|\d", "#", text) if about else text

    parts = [plain(part) for part in f"\n{block.text}".split("\n...\n")]
    printed, place = plain(output), 0
    for number, part in enumerate(parts):
        start = printed.find(part, place)
        shown = f"{block.place} shows {part!r}, and what is printed is\n{output}"
        assert start >= 0, shown
        assert number > 0 or start == 0, shown
        place = start + len(part)
    assert parts[-1] == "" or place == len(printed), f"{block.place} ends before what is printed does:\n{output}"


def copy_examples(folder: Path) -> None:
    """The files that the pages offer for download."""
    shutil.copy(ROOT / "examples" / "tickets.py", folder)
