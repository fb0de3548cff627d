"""The commands. This file is what `rango` starts: it loads nothing heavy; a command's file is imported when it runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, MissingArgumentError, Parameter, UnusedCliTokensError

from rango import __version__
from rango.cli.config_file import ConfigFile, check_arguments
from rango.cli.streams import use_encodable_signs
from rango.errors import FileMistakes, InputError, Interrupted, RunError

app = App(
    name="rango",
    version=f"rango {__version__}",
    help="Adapt causal language models with LoRA to tasks of choosing among answers, "
    "and see what their probabilities are worth.",
    group_commands="Options",  # what has no group of its own: --help and --version
    help_format="plaintext",  # a renderer of Markdown takes longer to load than the rest of `rango --help`
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,  # `main` says that the command was stopped
    default_parameter=Parameter(negative_iterable=()),  # no --lora.empty-targets: a list is given or left out
)

_NO_FILE = "--config has no file; give the path of a YAML file"

_COMMANDS = {
    "Adapt": {
        "init": ("init:init", "Guess what the columns of a table are: a first task.yaml and costs.yaml."),
        "finetune": ("finetune:finetune", "Adapt a model to a task with LoRA, and measure base and adapted on test."),
        "predict": ("predict:predict", "Answer new rows with a run: probabilities, decision, expected cost."),
        "serve": ("serve:serve", "Answer questions over HTTP with runs: choice, yes or no, score."),
        "study": ("study:study", "Run every configuration of a study file, and show them in one table."),
        "export": ("export:export", "Write a run for other programs: an adapter or a whole model, with a model card."),
        "demo": ("demo:demo", "Run the whole job on the simulated task and a tiny model, in minutes."),
    },
    "Judge": {
        "evaluate": ("evaluate:evaluate", "Write the posteriors and metrics of a model, with or without an adapter."),
        "metrics": ("posteriors:metrics", "Every metric of a run, or of posteriors from anywhere, with intervals."),
        "compare": ("posteriors:compare", "Compare two systems on the same instances."),
        "calibrate": ("posteriors:calibrate", "Fit a calibrator on one posteriors file and apply it to another."),
        "decide": ("posteriors:decide", "The Bayes decision of each instance under given costs."),
        "gate": ("gate:gate", "When to act and when to pass on: a threshold for costs, an error or a precision."),
        "monitor": ("monitor:monitor", "What a log of decisions shows over time, with alarms, and limits for CI."),
        "probe": (
            "probe:probe",
            "Ask the same questions in another way: how often does the decision change?",
        ),
        "plan": ("plan:plan", "How many instances show a difference, and how many a temperature needs."),
        "report": ("show:report", "Write the page of a run or study again, from its stored files."),
        "verify": ("show:verify", "Check that a run or study is as it was written, and compute its metrics again."),
    },
    "Data and models": {
        "tasks": ("show:tasks", "List the tasks, or show one: its splits and its prompts."),
        "models": ("models:models", "Show a model: its sizes, where it can be adapted, and the memory that takes."),
    },
    "Language models": {
        "pretrain": ("pretrain:pretrain", "Train a small causal language model and its tokenizer from text files."),
        "generate": ("language:generate", "Continue a text with a model, token by token."),
        "score-text": (
            "language:score_text",
            "Log-probability and perplexity of each line, its improbable tokens marked.",
        ),
        "spell": ("language:spell", "Flag words in improbable places, and offer more probable ones."),
    },
}

for _title, _members in _COMMANDS.items():
    _group = Group.create_ordered(_title)
    for _number, (_name, (_place, _help)) in enumerate(_members.items()):
        app.command(
            f"rango.cli.{_place}", name=_name, help=_help, help_format="markdown", group=_group, sort_key=_number
        )


app.meta.suppress_keyboard_interrupt = False
app.meta.config = ()  # not that of the command, which stays after it has run


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(group="Options", help="YAML file with the same keys; flags win.")] = None,
) -> None:
    if config is not None and not config.name:
        raise InputError(_NO_FILE)
    # cyclopts reads the flags first. The file then fills the arguments that no flag has filled.
    app.config = (check_arguments,) if config is None else (ConfigFile(config), check_arguments)
    app(tokens, result_action="return_value")


def check_shard(
    shard: bool, offload: bool, *, device: str = "auto", full: bool = False, quantise: str = "none", dora: bool = False
) -> None:
    """Raise InputError for `--shard` without other processes, `--offload` without a GPU, and layers that neither takes.

    These are layers that are trained or packed.
    """
    if offload and device == "cpu":
        raise InputError("--offload keeps layers in main memory for a GPU, and the device is cpu; leave --offload out")
    if shard and int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise InputError(
            "--shard cuts a model over several processes, and this one is alone; start it with "
            "torchrun --nproc-per-node 2 -m rango …, or leave --shard out"
        )
    if not shard and not offload:
        return
    option = "--offload" if offload else "--shard"
    if full:
        raise InputError(f"{option} cuts a frozen base, and full fine-tuning has none; use LoRA, or leave {option} out")
    if quantise != "none":
        raise InputError(f"{option} cannot cut matrices in {quantise}; leave --quantise or {option} out")
    if dora:
        raise InputError(
            f"{option} leaves no process a whole layer, whose norms DoRA saves; leave lora.dora or {option} out"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done; 2 bad input or configuration (one line on stderr, or one for each mistake of a study file); 1 a fault
        while running; 128 + the signal's number after SIGINT or SIGTERM.
    """
    use_encodable_signs()
    ordinary = sys.unraisablehook
    sys.unraisablehook = partial(_stop_after_all, ordinary)
    try:
        app.meta(sys.argv[1:] if arguments is None else arguments, result_action="return_value")
    except FileMistakes as error:
        for mistake in error.mistakes:
            _fail(mistake, 2)
        return _fail(f"{len(error.mistakes)} mistakes in {error.file}; nothing was started", 2)
    except InputError as error:
        return _fail(str(error), 2)
    except CycloptsError as error:
        return _fail(_in_one_line(error), 2)
    except RunError as error:
        return _fail(str(error), 1)
    except Interrupted as error:
        return _fail(str(error), 128 + error.signal_number)
    except KeyboardInterrupt:
        return _fail("stopped by SIGINT", 130)
    except BrokenPipeError:  # `rango tasks | head`: the reader has gone, which is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RecursionError:  # values within values, in a file that was not written by Rango
        return _fail("a value is nested too deep; expected the files that Rango describes", 2)
    except OSError as error:  # the disk is full, a folder has gone: nothing that the input decides
        # Of a copy both ends are named: the system does not say which of them failed.
        name = " to ".join(str(file) for file in (error.filename, error.filename2) if file)
        return _fail(f"{name}: {error.strerror or error}" if name else str(error.strerror or error), 1)
    finally:
        sys.unraisablehook = ordinary
    return 0


def _stop_after_all(ordinary: Callable[[sys.UnraisableHookArgs], Any], swallowed: sys.UnraisableHookArgs) -> None:
    """Send a signal again whose exception was raised inside a destructor, where Python goes on after it."""
    error = swallowed.exc_value
    if isinstance(error, KeyboardInterrupt | Interrupted):
        number = error.signal_number if isinstance(error, Interrupted) else signal.SIGINT
        # Raised here it would be swallowed too; a moment later the destructor has ended, on a busy machine as well.
        threading.Timer(0.25, os.kill, (os.getpid(), number)).start()
    else:
        ordinary(swallowed)


def _fail(message: str, code: int) -> int:
    from rango.console import visible

    # A full disk, or no stderr at all, leaves the exit code to say it; without a file `print` would take stdout.
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"rango: {visible(' '.join(message.split()))}", file=sys.stderr)
    return code


def _in_one_line(error: CycloptsError) -> str:
    """What is wrong with the arguments, in the words of the checks of files and configurations."""
    if isinstance(error, MissingArgumentError) and error.keyword is not None:
        return _NO_FILE if error.keyword == "--config" else f"{error.keyword} has no value; give one behind it"
    # pydantic takes as long to load as all else here, and `rango --help` needs none of it.
    from pydantic import ValidationError

    from rango.config import mistakes

    if isinstance(error.__cause__, ValidationError):
        file = app.config[0]
        where = str(file.path) if isinstance(file, ConfigFile) else "command line"
        return "; ".join(mistakes(error.__cause__, where=where))
    if isinstance(error, UnusedCliTokensError):
        first = (error.unused_tokens or [""])[0]
        return f"unexpected argument {first!r} (rango COMMAND --help lists what it takes)"
    return f"{error} (rango --help lists the options)" if "option" in str(error).lower() else str(error)
