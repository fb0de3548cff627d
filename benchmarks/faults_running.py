"""A command in a forked process, one of whose calls below a folder fails: what faults.c does is armed here."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rango.cli import main as rango

LONGEST = 100  # seconds of one run of a command, after which it hangs


class Calls(ctypes.Structure):
    """What faults.c shares with this process: how many calls there were, which one failed, and all of them."""

    _fields_ = (
        ("count", ctypes.c_long),
        ("struck", ctypes.c_long),
        ("call", ctypes.c_char * 32),
        ("path", ctypes.c_char * 512),
        ("used", ctypes.c_long),
        ("log", ctypes.c_char * (1 << 18)),
    )


_calls = Calls()


def calls() -> Calls:
    """The calls of the last run."""
    return _calls


def library() -> Any:
    """faults.c, which was loaded before everything else."""
    return ctypes.CDLL(None)


@dataclass(frozen=True)
class Ending:
    """How one run of a command ended."""

    code: int
    """Its exit code, or minus the number of the signal."""
    err: str
    struck: str = ""
    """The call that failed, with its file."""
    log: tuple[str, ...] = ()
    """All its calls."""


def run(words: str, *, folder: Path, site: int = 0, error: int = 0, patch: Any = None) -> Ending:
    """Run a command in a forked process, whose `site`-th call below `folder` fails; 0 only counts."""
    global _calls
    # Shared with the process: it says what happened there when that was killed.
    _calls = Calls.from_buffer(mmap.mmap(-1, ctypes.sizeof(Calls)))
    with tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as modules:
        sys.stdout.flush()
        process = os.fork()
        if not process:
            _run_here(words, err.fileno(), modules.fileno(), folder, site, error, patch)
        _, status = os.waitpid(process, 0)
        with contextlib.suppress(ProcessLookupError):  # workers that have outlived it
            os.killpg(process, signal.SIGKILL)
        err.seek(0)
        modules.seek(0)
        # What this command has imported, the next need not import again.
        for name in modules.read().decode().split():
            if name not in sys.modules:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
        struck = f"{_calls.call.decode()} {_calls.path.decode(errors='replace')}" if _calls.struck else ""
        code, text = os.waitstatus_to_exitcode(status), err.read().decode(errors="replace")
    return Ending(code, text, struck, tuple(_calls.log.decode(errors="replace").splitlines()))


def _run_here(words: str, err: int, modules: int, folder: Path, site: int, error: int, patch: Any) -> None:
    """The forked process: what `python -m rango` does, with its standard streams in files."""
    code = 1
    try:
        os.setsid()
        signal.alarm(LONGEST)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number, target in enumerate((nothing, nothing, err)):
            os.dup2(target, number)

        def arm() -> None:
            library().faults_arm(ctypes.byref(_calls), os.fsencode(folder), ctypes.c_long(site), error)

        if patch is None:
            arm()
        else:
            patch(arm, folder)
        code = rango(words.split())
        atexit._run_exitfuncs()
        library().faults_disarm()
        os.write(modules, " ".join(sys.modules).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def without_figures() -> None:
    """Have pages written without their figures, which take most of the time and no call: a page is one file."""
    svg = sys.modules.get("rango.reports.svg")
    if svg is None:
        return

    def undrawn(title: str, _draw: object, *, prefix: str) -> Any:  # noqa: ARG001
        return svg.Drawing(title, None, "not drawn")

    for module in [module for name, module in sys.modules.items() if name.startswith("rango.")]:
        if hasattr(module, "drawing"):
            module.drawing = undrawn


def environment(folder: Path) -> dict[str, str]:
    """The variables with which a process has faults.c, built in `folder`, before the C library, and one thread."""
    built, source = folder / "faults.so", Path(__file__).with_name("faults.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", built, source, "-ldl"], check=True)
    one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    return {**os.environ, "LD_PRELOAD": str(built), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", **one}
