"""What the documentation tells people to type works: each command parses, each page is carried out as it stands."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
from helpers.doc_pages import (
    DOCS,
    ROOT,
    RUN,
    Block,
    Reader,
    blocks,
    check_output,
    copy_examples,
    marks,
    pages,
    spanish_pages,
)

from rango.cli import app

CARRIED_OUT = [path for folder in ("tutorial", "how-to", "concepts") for path in sorted((DOCS / folder).glob("*.md"))]
CARRIED_OUT.append(DOCS / "decisions-in-use.md")
BLOCKS = [block for path in pages() for block in blocks(path) if block.language in RUN]
MOST_NOT_RUN = 20
"""Blocks that no test runs. Each needs what is not here (a GPU, the Hub, another program) and says so."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_what_is_shown_is_a_command_or_a_program(block: Block) -> None:
    """Also where it is not run: options that do not exist are noticed."""
    if block.language == "python":
        compile(block.text, block.place, "exec")
        return
    for command in block.commands():
        program, *arguments = shlex.split(command, comments=True)
        if program == "rango" and "--help" not in arguments:
            function, bound, _ = app.parse_args(arguments, print_error=False, exit_on_error=False)
            assert function.__name__ == arguments[0].replace("-", "_"), block.place
            assert bound.arguments


def test_what_is_not_run_is_little_and_says_why() -> None:
    left_out = [block for block in BLOCKS if block.not_run]
    assert len(left_out) <= MOST_NOT_RUN, [block.place for block in left_out]
    assert all(len(block.mark) > len("not run: ") + 10 for block in left_out)
    # Beside the pages that are carried out, and the README, whose own test does, a block has to say that it is not.
    followed = {name(path) for path in CARRIED_OUT} | {"README.md"}
    assert [block.place for block in BLOCKS if block.page not in followed and not block.not_run] == []


@pytest.mark.parametrize(
    "page", [path for path in CARRIED_OUT if not marks(path) and any(b.language in RUN for b in blocks(path))], ids=name
)
def test_a_page_works(page: Path, tmp_path: Path) -> None:
    copy_examples(tmp_path)
    Reader(tmp_path).follow(page)


@pytest.mark.slow
@pytest.mark.parametrize("page", [path for path in CARRIED_OUT if "slow" in marks(path)], ids=name)
def test_a_long_page_works(page: Path, tmp_path: Path) -> None:
    """With the pages that go on in its folder."""
    copy_examples(tmp_path)
    reader = Reader(tmp_path)
    reader.follow(page)
    for further in CARRIED_OUT:
        if marks(further).get("after") == name(page):
            reader.follow(further)


@pytest.mark.parametrize("page", spanish_pages(), ids=name)
def test_a_spanish_page_shows_what_its_original_shows(page: Path) -> None:
    """Its commands and programs are run there; here they are the same but for comments, and links lead somewhere."""

    def shown(path: Path) -> list[str]:
        code = [block for block in blocks(path) if block.language != "{toctree}"]
        return [re.sub(r"[ \t]*#.*|(?<=about: ).*", "", block.text) for block in code]

    original, spanish = shown(spanish_pages()[page]), shown(page)
    own = [text for text in spanish if text not in original]
    assert all(re.fullmatch(r"rango report \S+ --language es\n", text) for text in own), own
    for command in own:
        app.parse_args(shlex.split(command)[1:], print_error=False, exit_on_error=False)
    # The start page translates the first screen of the README only.
    kept = [text for text in spanish if text in original]
    assert kept == (original[: len(kept)] if page.name == "index.md" else original)
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_the_pictures_of_the_concepts_are_those_that_the_script_draws(tmp_path: Path) -> None:
    runpy.run_path(str(DOCS / "concepts" / "draw.py"))["draw"](tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (DOCS / "concepts" / "figures").iterdir()}
    texts = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "concepts").glob("*.md"))
    assert [picture for picture in drawn if f"figures/{picture}" not in texts] == []


def test_output_is_compared_word_by_word() -> None:
    block = Block("page.md", 1, "text", "error 0.123\n...\nthe\nend\n", "prints about")
    check_output(block, "error  0.4567\nmore\nthe end\n", about=True)
    with pytest.raises(AssertionError, match=r"shows 'error 0\.123'"):
        check_output(block, "error  0.456\nmore\nthe end\n", about=False)
    with pytest.raises(AssertionError, match="shows 'the end'"):
        check_output(block, "error 0.123\nmore\n", about=True)
    with pytest.raises(AssertionError, match="ends before"):
        check_output(block, "error 0.123\nthe end\nand more\n", about=True)
