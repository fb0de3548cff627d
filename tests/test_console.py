"""The line of progress: one line at every width, and what gives way first."""

from __future__ import annotations

import io

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


class Clock:
    """A clock that moves only when it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class TestLog:
    """What stands in a file that stderr goes to: whole lines, once a minute and where something happened."""

    def test_a_line_a_minute_says_how_far_it_is_and_how_long_the_rest_takes(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        clock = Clock()
        with Screen(clock=clock).bar("training", 1200, done=200, unit="steps") as bar:
            for step in range(1, 101):
                clock.seconds += 1.5
                bar.advance(1, f"loss {1 / step:.2f}")
        lines = capsys.readouterr().err.splitlines()
        # 150 s: two whole minutes. The 200 steps of an earlier command took none of this one's time.
        assert lines == [
            "training: 240 of 1,200 steps, loss 0.03, 1.5 s a step, 24 min left",
            "training: 280 of 1,200 steps, loss 0.01, 1.5 s a step, 23 min left",
        ]

    def test_what_is_worth_a_line_gets_one_at_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        clock = Clock()
        with Screen(clock=clock).bar("training", 4, unit="steps") as bar:
            bar.advance(0, "val NCE 1.0", log=True)
            clock.seconds += 50
            bar.advance(1, "loss 2", log=True)
            clock.seconds += 50  # no minute after the last line
            bar.advance(1)
            clock.seconds += 100
            bar.advance(2, log=True)
        assert capsys.readouterr().err.splitlines() == [
            "training: 0 of 4 steps, val NCE 1.0",
            "training: 1 of 4 steps, loss 2, 50 s a step, 2 min left",
            "training: 4 of 4 steps, loss 2, 50 s a step",
        ]

    def test_words_may_have_the_count(self, capsys: pytest.CaptureFixture[str]) -> None:
        clock = Clock()
        with Screen(clock=clock).bar("scoring", 1000, passing=True) as bar:
            clock.seconds += 61
            bar.advance(250, "20 of 200 instances")
        assert capsys.readouterr().err == "scoring: 20 of 200 instances, 3 min left\n"

    def test_quiet_is_silent(self, capsys: pytest.CaptureFixture[str]) -> None:
        clock = Clock()
        screen = Screen(quiet=True, clock=clock)
        loaded = screen.loading("m")
        with screen.bar("training", 4, unit="steps") as bar:
            clock.seconds += 1000
            bar.advance(1, "loss 2", log=True)
        loaded()
        assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("seconds", "note"), [(1.9, ""), (7.25, "· loaded in 7.2 s\n")])
def test_loading_is_said_at_once_and_its_length_where_it_was_long(
    capsys: pytest.CaptureFixture[str], seconds: float, note: str
) -> None:
    clock = Clock()
    loaded = Screen(clock=clock).loading("some/model")
    assert capsys.readouterr().err == "Loading some/model ...\n"
    clock.seconds += seconds
    loaded()
    assert capsys.readouterr().err == note


def test_a_passing_bar_is_taken_off_the_terminal() -> None:
    def shown(*, passing: bool) -> str:
        screen = Screen()
        file = io.StringIO()
        screen.console = Console(file=file, width=100, force_terminal=True, color_system=None)
        with screen.bar("scoring", 10, passing=passing) as bar:
            bar.advance(10, "5 of 5 instances")
        return file.getvalue()

    erased = "\x1b[1A\x1b[2K"  # up one line, which is emptied
    assert shown(passing=True).endswith(erased)
    assert not shown(passing=False).endswith(erased)
    assert "5 of 5 instances" in shown(passing=False)
