"""The line of progress: one line at every width, and what gives way first."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from rango.console import Screen, Terminal, progress_columns, short, visible

WORDS = "loss 3.123, 12,345 tokens/s"


def line(width: int, *, total: float, done: float, words: str = WORDS) -> str:
    """The line of progress as it stands on a terminal."""
    console = Console(width=width, force_terminal=True, color_system=None)
    progress = Progress(*progress_columns(width), console=console)
    progress.update(progress.add_task("pre-training", total=total, words=words), completed=done)
    with console.capture() as capture:
        console.print(progress.make_tasks_table(progress.tasks))
    return capture.get().rstrip("\n")


@pytest.mark.parametrize("width", [40, 60, 79, 80, 100, 140])
def test_it_is_one_line_whose_count_is_whole(width: int) -> None:
    shown = line(width, total=120_000, done=14_336)
    assert "\n" not in shown
    assert len(shown) <= width
    assert "14.3k/120k" in shown


@pytest.mark.parametrize(("width", "bar", "words"), [(44, False, False), (60, False, True), (80, True, True)])
def test_the_bar_goes_first_and_then_the_words(width: int, bar: bool, words: bool) -> None:
    shown = line(width, total=120_000, done=60_000)
    assert ("━" in shown) is bar
    assert (WORDS in shown) is words


def test_small_counts_are_exact_and_stand_still() -> None:
    assert "   9/1000" in line(80, total=1000, done=9)
    assert "1000/1000" in line(80, total=1000, done=1000)


@pytest.mark.parametrize("number", [1, 999, 9_999, 10_000, 12_345, 99_949, 99_950, 999_499, 999_500, 1_234_567, 5e11])
def test_a_short_number_is_near_the_number(number: float) -> None:
    shown = short(number)
    value = float(shown.rstrip("kMG")) * {"k": 1e3, "M": 1e6, "G": 1e9}.get(shown[-1], 1)
    assert value == pytest.approx(number, rel=5e-3)
    assert len(shown) <= 5


def test_text_from_data_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert visible("a\x1b[2Jb\rc\x9bd\te\n") == "a\u241b[2Jb\u240dc\ufffdd\te\n"
    table = Table("\x1b]0;x", "[bold]b")
    table.add_row("\x1b[31m[red]", "y")
    Terminal(width=40).print(table)
    Screen().say("note \x1b[5m")
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "\u241b[31m[red" in captured.out
    assert "note \u241b[5m" in captured.err
    # Colours of our own stay.
    coloured = Terminal(force_terminal=True, color_system="standard")
    with coloured.capture() as capture:
        coloured.print(Text("\x1bx", "red"))
    assert capture.get().startswith("\x1b[31m\u241bx")
