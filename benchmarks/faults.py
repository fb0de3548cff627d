"""Every call by which a command changes a file fails once: is anything lost, half, or other when it is repeated?

    python benchmarks/faults.py [--commands metrics predict] [--first 1] [--limit 50] [--step 3] [--all-errors]

A small library in C (faults.c) stands before the C library and counts the calls below one folder that open for writing,
write, truncate, map to be written, sync, rename, link, remove, make a folder or change a mode. The n-th of them fails,
for n = 1, 2, … until the command passes undisturbed:

    ENOSPC    at every call; a write takes half of its bytes first, and the disk stays full for what needs room
    EIO, EACCES, EROFS    at every third call each; a disk that became read-only stays so for everything
    SIGKILL   before every call, and after the last: after the n-th is before the next

(--all-errors: all of these, and SIGKILL after, at every call.) Each trial begins in the same folder, with whole results
of an earlier command where the command may replace them:

    intact    what has a final name is what stood there before, what the undisturbed command writes, or a whole file on
              the way there (a state, a record): its digest holds, or it can be read to its end
    one line  no traceback; one line on stderr that names a file of the folder, exit code 1, or 2 where another place
              would do; where the command passes all the same, its files are those of the undisturbed command
    repeat    the same command again ends with 0 and with the same files, hidden ones too. Bytes are compared, but for
              clock times and durations (`TIMES`). Where two faults leave the same files, they are repeated once

Where many writes into one file follow each other, as the pages of a Parquet file do, the first two and the last fail
(--all-errors: all of them). Files elsewhere (caches, temporary folders) are not counted. One process imports what a
command needs and is forked for each trial; a study's workers are forked too instead of spawned, and pages are written
without their figures. Two things escape: a raw system call that does not pass through the C library (safetensors
renames so, in a folder of Rango's own), and what only a lost power shows.

`rango demo` is not here: it is pretrain, finetune and evaluate with their own writers, in minutes a trial. tasks,
models and generate write nothing; verify is run to show that it does not.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import csv
import ctypes
import errno
import gzip
import hashlib
import http.client
import importlib
import json
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rango.checksums import check_seal
from rango.cli import main as rango
from rango.files import write_text

ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EACCES", "EROFS")}
ERRORS |= {"SIGKILL": -1, "SIGKILL after": -2}
ROTATED = ("EIO", "EACCES", "EROFS")
PORT = 20_000 + os.getpid() % 10_000  # of the server
LONGEST = 100  # seconds of one run of a command, after which it hangs

# What differs between two undisturbed runs: when they began and how long they took, and digests of what says so.
TIMES = tuple(
    re.compile(pattern)
    for pattern in (
        rb"[0-9a-f]{64}",
        rb"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?",
        rb"seconds\w*(\"?: |</th><td>)[0-9.e-]+",
        rb"[0-9.]+ (s|min)\b",
    )
)
HALF = re.compile(r"\.\w{8}(\.tmp|\.parts)(?=/|$)|(?<=\.tmp)\w{6}$")  # of Rango and of safetensors
ENDS = {".html": b"</html>", ".svg": b"</svg>", ".pdf": b"%%EOF", ".png": b"IEND\xaeB`\x82", ".tex": b"\\end{tabular}"}
GROWING = ("log.jsonl", "answers.jsonl")  # a kill may cut their last line, which readers drop
UNCOMPARED = re.compile(r"(^|/)(logs|locks|failures)(/|$)|\.lock$")  # who works, and what workers print


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


@dataclass(frozen=True)
class Command:
    """A command of the enumeration. In its words {out} is the folder of the trial, other names are made by `Inputs`."""

    words: str
    before: tuple[str, ...] = ()
    """Commands that make what stands in the folder beforehand."""
    copied: tuple[str, ...] = ()
    """Inputs that are copied into the folder beforehand, because the command writes into them."""
    again: str = ""
    """What a user adds when the command is repeated."""
    patch: Callable[[Callable[[], None], Path], None] | None = None
    """Called in the process of the trial, with what arms the fault, in place of arming it at once."""


def in_a_worker(arm: Callable[[], None], _folder: Path, *, armed: bool = True) -> None:
    """Have a study fork its workers, and arm the fault in the first life of the first one, or in the main process."""
    import multiprocessing
    from multiprocessing import resource_tracker

    from rango.studies import execution

    run_worker, fork = execution.run_worker, multiprocessing.get_context("fork")

    def run(path: str, number: int, count: int, parent: int) -> None:
        library().faults_disarm()
        if armed and number == 0 and not _calls.count:
            arm()
        run_worker(path, number, count, parent)

    execution.run_worker = run
    multiprocessing.get_context = lambda _method=None: fork  # type: ignore[assignment, misc]
    resource_tracker.ensure_running = lambda: None  # type: ignore[method-assign]
    execution._WATCH_SECONDS = 0.02
    if not armed:
        arm()
        return
    # The figures are made by the main process, at the end, and take longer than all the rest.
    from rango.reports.study import report

    report.save_figure = lambda _figure, path: write_text(path, "a figure")


def in_the_main_process(arm: Callable[[], None], folder: Path) -> None:
    """As `in_a_worker`, with the fault in the process that starts the workers."""
    in_a_worker(arm, folder, armed=False)


def with_a_client(arm: Callable[[], None], folder: Path) -> None:
    """Go on as a server in a forked process, and ask it three times, then end it; this process ends as the server does.

    What is answered stands in the log, and what cannot be logged is refused in words.
    """
    log = folder / "served" / "log.jsonl"
    earlier = log.read_bytes() if log.exists() else b""
    whole = earlier[: earlier.rfind(b"\n") + 1]
    server = os.fork()
    if not server:
        arm()
        return
    statuses: list[int] = []
    ended = None
    while len(statuses) < 3 and ended is None:
        with contextlib.suppress(OSError):  # it does not listen yet, or was killed in the middle
            statuses.append(_ask())
        process, status = os.waitpid(server, os.WNOHANG)
        ended = status if process else None
        time.sleep(0.01)
    if ended is None:
        os.kill(server, signal.SIGTERM)
        ended = os.waitpid(server, 0)[1]
    code = os.waitstatus_to_exitcode(ended)
    now = log.read_bytes() if log.exists() else b""
    added, answered = now[len(whole) :].count(b"\n"), statuses.count(200)
    if not now.startswith(whole) or added < answered or (added > answered and code >= 0) or {*statuses} - {200, 503}:
        print(f"Traceback: {added} lines in the log for {statuses}", file=sys.stderr)
    sys.stderr.flush()
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


def _ask() -> int:
    """The status with which the server answers a question of its run."""
    question = {"type": "choice", "criteria": dict.fromkeys(("happy", "sad", "angry"))}
    body = json.dumps({"model": "run", "state": "0 Ann smiles and sings", "questions": {"mood": question}})
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=20)
    try:
        connection.request("POST", "/v1/systemone", body, {"content-type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


TINY = "--train 12 --validation 8 --test 10 --device cpu --dtype float32 --quiet"
TRAINED = f"{TINY} --steps 4 --batch 4 --validate-every 2 --learning-rate 0.01 --lora.rank 2"
SMALL_LM = (
    "--hidden 16 --layers 1 --heads 2 --vocabulary 300 --context 64 --tokens 4000 --batch-tokens 256 --device cpu"
)
RESUMABLE = SMALL_LM.replace("--tokens 4000", "--tokens 1024 --save-minutes 0")
STUDY = "study {study} --out {out}/study --quiet --bank off"

COMMANDS = {
    "metrics": Command("metrics {one} --replicates 9 --out {out}/m.json", before=("metrics {two} --out {out}/m.json",)),
    "calibrate": Command(
        "calibrate --fit {held_out} --apply {one} --out {out}/c.parquet --calibrator {out}/c.json",
        before=(
            "calibrate --fit {held_out} --apply {two} --method bias --out {out}/c.parquet --calibrator {out}/c.json",
        ),
    ),
    "decide": Command(
        "decide {one} --costs abstain=0.3 --replicates 9 --out {out}/d.csv",
        before=("decide {two} --costs abstain=0.1 --replicates 9 --out {out}/d.csv",),
    ),
    "decide, Parquet": Command(
        "decide {one} --costs abstain=0.3 --replicates 9 --out {out}/d.parquet",
        before=("decide {two} --costs abstain=0.1 --replicates 9 --out {out}/d.parquet",),
    ),
    "compare": Command(
        "compare {one} {two} --replicates 9 --out {out}/c.json --page {out}/c.html",
        before=("compare {two} {one} --replicates 9 --out {out}/c.json --page {out}/c.html",),
    ),
    "gate": Command(
        "gate {one} --costs abstain=0.3 --replicates 9 --out {out}/g.json --figure {out}/g.svg",
        before=("gate {two} --costs abstain=0.2 --replicates 9 --out {out}/g.json --figure {out}/g.svg",),
    ),
    "monitor": Command(
        "monitor {one} --replicates 9 --save-baseline {out}/b.json --out {out}/r.json",
        before=("monitor {two} --replicates 9 --save-baseline {out}/b.json --out {out}/r.json",),
    ),
    "plan": Command("plan {one} {two} --out {out}/p.json", before=("plan {one} --out {out}/p.json",)),
    "init": Command(
        "init {out}/table/rows.csv --force",
        copied=("table",),
        before=("init {out}/table/rows.csv --label day --force",),
    ),
    "init, without --force": Command("init {out}/rows/rows.csv", copied=("rows",)),
    "finetune": Command("finetune {model} {table} --form cloze --out {out}/run " + TRAINED),
    "finetune, full": Command(
        "finetune {model} {table} --form cloze --adaptation full --out {out}/run "
        + TRAINED.replace("--lora.rank 2", "")
    ),
    "finetune, new costs": Command(
        "finetune {model} {table} --form cloze --costs abstain=0.3 --out {out}/run " + TRAINED, copied=("run",)
    ),
    "evaluate": Command("evaluate {model} {table} --form cloze --out {out}/evaluation " + TINY),
    "evaluate, a run": Command("evaluate --adapter {run} --out {out}/evaluation --device cpu --quiet"),
    "evaluate, an endpoint": Command(
        "evaluate {endpoint} {table} --out {out}/evaluation --concurrency 1 --train 12 --validation 8 --test 10 --quiet"
    ),
    "probe": Command("probe {out}/run --changes remove --device cpu --quiet", copied=("run",)),
    "report": Command("report {out}/run --costs abstain=0.3", copied=("run",)),
    "predict, CSV": Command(
        "predict {run} {table}/rows.csv --out {out}/p.csv --device cpu --quiet",
        before=("predict {run}:base {table}/rows.csv --out {out}/p.csv --device cpu --quiet",),
    ),
    "predict, Parquet": Command(
        "predict {run} {table}/rows.csv --out {out}/p.parquet --device cpu --quiet",
        before=("predict {run}:base {table}/rows.csv --out {out}/p.parquet --device cpu --quiet",),
    ),
    "export": Command("export {run} --out {out}/export --quiet"),
    "export, merged": Command("export {run} --merge --out {out}/export --quiet"),
    "pretrain": Command(f"pretrain {{text}} --out {{out}}/lm --quiet {RESUMABLE}"),
    "pretrain, LSTM": Command(
        f"pretrain {{text}} --model lstm --out {{out}}/lm --quiet {RESUMABLE.replace('--heads 2 ', '')}"
    ),
    "pretrain, n-gram": Command(
        "pretrain {text} --model ngram --ngram.order 2 --ngram.arpa --vocabulary 300 --out {out}/lm --quiet"
    ),
    "score-text": Command(
        "score-text {model} {text} --out {out}/s.jsonl --device cpu",
        before=("score-text {model} {model}/words.txt --out {out}/s.jsonl --device cpu",),
    ),
    "spell": Command(
        "spell {model} --file {misspelt} --out {out}/s.jsonl --device cpu",
        before=("spell {model} teh --out {out}/s.jsonl --device cpu",),
    ),
    "study": Command(STUDY, again="--retry", patch=in_the_main_process),
    "study, in one of two workers": Command(f"{STUDY} --workers 2", again="--retry", patch=in_a_worker),
    "serve": Command(
        f"serve {{run}} --port {PORT} --log {{out}}/served/log.jsonl --device cpu --quiet",
        copied=("served",),
        patch=with_a_client,
    ),
    "verify": Command("verify {out}/run", copied=("run",)),
}


class Inputs(dict[str, str]):
    """What the commands read, each made when it is first needed; a folder that is kept has what was made before."""

    def __init__(self, folder: Path, out: Path) -> None:
        self._list = folder / "inputs.json"
        super().__init__(json.loads(self._list.read_text()) if self._list.exists() else {}, out=str(out))
        self.folder = folder
        self.server: subprocess.Popen[bytes] | None = None

    def __missing__(self, name: str) -> str:
        self[name] = made = str(getattr(self, f"_make_{name}")(self.folder / name))
        self._list.write_text(json.dumps({key: value for key, value in self.items() if key != "endpoint"}))
        return made

    def close(self) -> None:
        """End the server that was started for `endpoint`."""
        if self.server is not None:
            self.server.terminate()
            self.server.wait()

    def _make_one(self, path: Path, *, seed: int = 1, prefix: str = "i") -> Path:
        import numpy as np

        rows = np.random.default_rng(seed).dirichlet((2.0, 1.0, 1.0), size=30)  # (30, 3)
        labels = np.random.default_rng(0).integers(3, size=30)
        lines = [
            f"{prefix}{n},{'abc'[label]},{','.join(f'{p:.6f}' for p in row)}"
            for n, (label, row) in enumerate(zip(labels, rows, strict=True))
        ]
        file = path.with_suffix(".csv")
        file.write_text("\n".join(["id,label,posterior_a,posterior_b,posterior_c", *lines]) + "\n")
        return file

    def _make_two(self, path: Path) -> Path:
        return self._make_one(path, seed=2)

    def _make_held_out(self, path: Path) -> Path:
        return self._make_one(path, seed=3, prefix="v")

    def _make_table(self, path: Path) -> Path:
        path.mkdir()
        moods = {"happy": "smiles and sings", "sad": "cries at home", "angry": "shouts at the door"}
        rows = [
            f"{n} {who} {deed},{mood},{n}" for n in range(12) for who in ("Ann", "Bo") for mood, deed in moods.items()
        ]
        (path / "rows.csv").write_text("\n".join(["text,mood,day", *rows]) + "\n")
        choices = "".join(f"  - {mood}\n" for mood in moods)
        (path / "task.yaml").write_text(f"prompt: '{{text}}. Mood:'\nchoices:\n{choices}label: mood\n")
        return path

    def _make_rows(self, path: Path) -> Path:
        shutil.copytree(self["table"], path, ignore=lambda *_: ["task.yaml"])
        return path

    def _make_text(self, path: Path) -> Path:
        file = path.with_suffix(".txt")
        file.write_text(
            "".join(f"{who} smiles and sings on day {n}.\n" for n in range(60) for who in ("Ann", "Bo", "Cy"))
        )
        return file

    def _make_misspelt(self, path: Path) -> Path:
        path.write_text("Ann smils and sings on day 3.\nBo smiles adn sings.\n")
        return path

    def _make_model(self, path: Path) -> Path:
        return self._command("pretrain {text} --quiet " + SMALL_LM, path)

    def _make_run(self, path: Path) -> Path:
        return self._command("finetune {model} {table} --form cloze " + TRAINED, path)

    def _make_study(self, path: Path) -> Path:
        base = {
            "model": self["model"],
            "task": self["table"],
            "form": "cloze",
            "train": 12,
            "validation": 8,
            "test": 10,
        }
        base |= {"steps": 2, "batch": 4, "validate_every": 2, "device": "cpu", "dtype": "float32"}
        file = path.with_suffix(".yaml")
        file.write_text(json.dumps({"name": "faults", "base": base, "vary": {"lora.rank": [1, 2]}, "seeds": [0]}))
        return file

    def _make_served(self, path: Path) -> Path:
        path.mkdir()
        words = COMMANDS["serve"].words.format_map({"out": self.folder, "run": self["run"]})
        if (ending := run(words, folder=self.folder, patch=with_a_client)).code:
            raise SystemExit(ending.err)
        return path

    def _make_endpoint(self, _path: Path) -> str:
        words = f"-m rango serve {self['run']} --port {PORT + 1} --device cpu --quiet"
        self.server = subprocess.Popen([sys.executable, *words.split()])
        while True:  # until it listens
            with contextlib.suppress(OSError):
                http.client.HTTPConnection("127.0.0.1", PORT + 1).connect()
                return f"systemone:http://127.0.0.1:{PORT + 1}#run"
            time.sleep(0.1)

    def _command(self, words: str, path: Path) -> Path:
        ending = run(f"{words.format_map(self)} --out {path}", folder=path)
        if ending.code:
            raise SystemExit(ending.err)
        return path


_calls = Calls()


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


def contents(folder: Path) -> dict[str, bytes]:
    """What stands in a folder: the bytes of each file, and of each folder none."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not UNCOMPARED.search(name):
            files[name] = b"" if path.is_dir() else path.read_bytes()
    return files


def comparable(files: dict[str, bytes]) -> dict[str, str]:
    """Contents without times, under names without what is drawn at random."""
    kept = {}
    for name, data in files.items():
        if name.endswith((".yaml", ".json", ".jsonl", ".html", ".md")):
            for pattern in TIMES:
                data = pattern.sub(b"", data)
        if name == "served/log.jsonl":  # it grows by the same questions each time
            data = b"\n".join(sorted({re.sub(rb'"id": "\w+/', b"", line) for line in data.split(b"\n")}))
        # A hidden file that nobody wrote to its end counts by its name: whatever it holds, it goes or is written anew.
        if HALF.search(name):
            name, data = HALF.sub(r".RANDOM\1", name), b""
        kept[name] = hashlib.sha256(data).hexdigest()
    return kept


def is_final(name: str) -> bool:
    """Whether a file has its name for good: neither hidden nor in the folder of an unfinished `predict`."""
    return not any(part.startswith(".") or part.endswith(".partial") for part in Path(name).parts)


def is_whole(path: Path) -> bool:
    """Whether a file can be read to its end, and is what its digest says where it has one."""
    import numpy as np
    import pyarrow.parquet as pq
    import yaml
    from safetensors import safe_open

    try:
        check_seal(path)
        if path.suffix == ".jsonl":
            lines = path.read_text().split("\n")
            return all(json.loads(line) is not None for line in lines[:-1]) and (not lines[-1] or path.name in GROWING)
        if path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                return all(file.get_slice(name) is not None for name in file.keys())  # noqa: SIM118 - not a mapping
        readers: dict[str, Callable[[], object]] = {
            ".json": lambda: json.loads(path.read_text()),
            ".yaml": lambda: yaml.safe_load(path.read_text()),
            ".parquet": lambda: pq.read_table(path),
            ".npz": lambda: np.load(path, allow_pickle=False),
            ".gz": lambda: gzip.decompress(path.read_bytes()),
            ".csv": lambda: len({len(row) for row in csv.reader(path.open(newline=""))}) == 1 or None,
        }
        if path.suffix in ENDS:
            return path.read_bytes().rstrip().endswith(ENDS[path.suffix])
        return path.suffix in readers and readers[path.suffix]() is not None
    except Exception:
        return False


@dataclass
class Enumeration:
    """The trials of one command, and what came of them."""

    name: str
    command: Command
    inputs: Inputs
    folder: Path
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    next: int | None = 1
    """The call to go on with; None where there are no more."""
    _repeated: dict[str, str] = field(default_factory=dict)
    """State of the folder after a fault -> what is wrong when the command is repeated on it; "" where nothing is."""

    def prepare(self) -> None:
        """Make the folder as it is before the command, and run the command undisturbed, twice."""
        self._clear()
        for name in self.command.copied:
            shutil.copytree(self.inputs[name], self.folder / name)
        for words in self.command.before:
            ending = run(words.format_map(self.inputs), folder=self.folder)
            if ending.code:
                raise SystemExit(f"{self.name}: {words}: {ending.err}")
        self.before_folder = self.folder.with_name("before")
        shutil.rmtree(self.before_folder, ignore_errors=True)
        shutil.copytree(self.folder, self.before_folder)
        self.before = comparable(contents(self.folder))
        # The first run is for what it imports.
        self._run()
        without_figures()
        endings, trees = [], []
        for _ in range(2):
            self._restore()
            began = time.perf_counter()
            endings.append(self._run())
            self.seconds = time.perf_counter() - began
            trees.append(contents(self.folder))
        self.undisturbed, self.after = endings[0], comparable(trees[0])
        if self.undisturbed.code:
            raise SystemExit(f"{self.name}: {self.undisturbed.err}")
        # Of the undisturbed command, which calls only write on in a file.
        log = [HALF.sub("", line) for line in endings[0].log]
        self.writing_on = {
            n + 1
            for n, line in enumerate(log)
            if line.startswith("write ") and log[max(0, n - 2) : n + 2] == [line] * 4
        }
        if differing := _difference(self.after, comparable(trees[1])):
            raise SystemExit(f"{self.name}: two undisturbed runs differ in {differing}")

    def trials(self, args: argparse.Namespace) -> None:
        """Fail one call after the other until there are no more, or until a limit; the options are those of `main`."""
        begun, site = time.monotonic(), args.first
        while (args.limit is None or site < args.first + args.limit) and time.monotonic() - begun < args.seconds:
            if (site not in self.writing_on or args.all_errors) and (site - 1) % args.step == 0:
                rotated = ROTATED[site // args.step % len(ROTATED)]
                names = args.errors or (list(ERRORS) if args.all_errors else ["ENOSPC", rotated, "SIGKILL"])
                struck = [self._trial(site, name) for name in names]
                if not any(struck):
                    if site > 1 and args.step == 1 and "SIGKILL" in names:
                        self._trial(site - 1, "SIGKILL after")
                    self.next = None
                    return
                self.counts["failed"] += 1
            site += 1
        self.next = site

    def _trial(self, site: int, error: str) -> bool:
        """One fault and what follows; whether the command still had such a call."""
        self._restore()
        ending = self._run(site, ERRORS[error])
        if not ending.struck:
            return False
        self.counts["trials"] += 1
        state = contents(self.folder)
        wrong = {
            "intact": self._lost(state),
            "one line": self._unsaid(ending, error, state),
            "repeat": self._repeat(state),
        }
        for column, words in wrong.items():
            self.counts[column] += not words
            if words:
                self.faults.append(f"{self.name} {site}, {error} at {ending.struck}: {column}: {words}")
                print(self.faults[-1], flush=True)
        return True

    def _lost(self, state: dict[str, bytes]) -> str:
        """What has a final name and is not whole, or has gone; "" where nothing is."""
        now = comparable(state)
        for name, digest in now.items():
            if is_final(name) and digest not in (self.before.get(name), self.after.get(name)):
                path = self.folder / name
                if not path.is_dir() and not is_whole(path):
                    return f"{name} is half"
        gone = [name for name in self.before if is_final(name) and name in self.after and name not in now]
        return f"{', '.join(gone)} lost" if gone else ""

    def _unsaid(self, ending: Ending, error: str, state: dict[str, bytes]) -> str:
        """What is wrong with what the command said and its exit code."""
        known = set(self.undisturbed.err.splitlines())
        lines = [line for line in ending.err.splitlines() if line not in known]
        if "Traceback" in ending.err:
            return f"traceback: {lines[-1]}"
        if error.startswith("SIGKILL"):
            return "" if ending.code == -signal.SIGKILL or self.command.patch else f"exit code {ending.code}"
        if ending.code == 0 and self.command.patch is with_a_client:
            return ""  # a server goes on, and the client has looked at what was answered
        if ending.code == 0:
            return _difference(self.after, comparable(state)) and "passes with other files"
        if ending.code not in (1, 2) or (ending.code == 2 and error in ("ENOSPC", "EIO")):
            return f"exit code {ending.code}: {lines}"
        if self.command.patch is not None:  # a study says what failed, a line each
            return "" if lines and all(line.strip() for line in lines) else "nothing said"
        named = len(lines) == 1 and lines[0].startswith("rango: ") and str(self.folder) in lines[0]
        return "" if named else f"said {lines}"

    def _repeat(self, state: dict[str, bytes]) -> str:
        """What is wrong when the command is repeated on what the fault has left."""
        key = repr(sorted(comparable(state).items()))
        if key not in self._repeated:
            ending = self._run(again=True)
            differing = _difference(self.after, comparable(contents(self.folder)))
            said = ending.err.strip().splitlines()[-1:] if ending.code else []
            self._repeated[key] = f"exit code {ending.code} {said}" if ending.code else differing
        return self._repeated[key]

    def _run(self, site: int = 0, error: int = 0, *, again: bool = False) -> Ending:
        words = self.command.words.format_map(self.inputs)
        words = f"{words} {self.command.again}" if again else words
        return run(words, folder=self.folder, site=site, error=error, patch=self.command.patch)

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def _restore(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.before_folder, self.folder)


def _difference(wanted: dict[str, str], now: dict[str, str]) -> str:
    """The names in which two folders differ."""
    return ", ".join(sorted(name for name in {*wanted, *now} if wanted.get(name) != now.get(name)))


def environment(folder: Path) -> dict[str, str]:
    """The variables with which a process has faults.c, built in `folder`, before the C library, and one thread."""
    built, source = folder / "faults.so", Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", built, source, "-ldl"], check=True)
    one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    return {**os.environ, "LD_PRELOAD": str(built), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", **one}


def enumerate_commands(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each command: sites, trials, and of how many trials each promise holds."""
    # No TemporaryDirectory: the forked processes end as Python does, and would remove it.
    work = Path(args.keep or tempfile.mkdtemp(prefix="rango-faults-")).resolve()
    (work / "inputs").mkdir(parents=True, exist_ok=True)
    inputs = Inputs(work / "inputs", work / "trial")
    try:
        for name in args.commands or COMMANDS:
            enumeration = Enumeration(name, COMMANDS[name], inputs, work / "trial")
            enumeration.prepare()
            print(f"{name}: {len(enumeration.undisturbed.log)} calls, {enumeration.seconds:.1f} s", file=sys.stderr)
            enumeration.trials(args)
            columns = ("failed", "trials", "intact", "one line", "repeat")
            row: dict[str, Any] = {"command": name, "calls": len(enumeration.undisturbed.log)}
            row |= {column: enumeration.counts[column] for column in columns}
            yield row | {"faults": enumeration.faults, "next": enumeration.next}
    finally:
        inputs.close()
        if not args.keep:
            shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="*", choices=list(COMMANDS), metavar="NAME", default=[])
    parser.add_argument("--first", type=int, default=1, help="the call to begin at")
    parser.add_argument("--limit", type=int, help="how many calls of each command")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of each command, after which to stop")
    parser.add_argument("--step", type=int, default=1, help="only each so many-th call")
    parser.add_argument("--all-errors", action="store_true", help="every error at every call")
    parser.add_argument("--errors", nargs="*", choices=list(ERRORS), default=[], help="these at every call")
    parser.add_argument("--keep", help="a folder to work in, which is kept")
    parser.add_argument("--rows", help="a file to which the rows are added, in place of the record with its conditions")
    args = parser.parse_args()
    if not hasattr(library(), "faults_arm"):
        variables = environment(Path(tempfile.mkdtemp(prefix="faults-")))
        os.execve(sys.executable, [sys.executable, *sys.argv], variables)
    assert threading.active_count() == 1  # a fork takes along no other
    rows = []
    for row in enumerate_commands(args):
        rows.append(row)
        if args.rows:
            with Path(args.rows).open("a") as file:
                file.write(json.dumps(row) + "\n")
        trials = row["trials"]
        print(f"| {row['command']} | {row['calls']} | {row['failed']} | {trials} | ", end="")
        print(" | ".join(f"{row[name]} of {trials}" for name in ("intact", "one line", "repeat")), "|", flush=True)
    if not args.rows:
        from measuring import conditions, record

        record(
            "faults",
            {"first": args.first, "limit": args.limit, "step": args.step, "seconds": args.seconds, "rows": rows},
            conditions(dtype="float32", device="cpu"),
        )
    sys.exit(any(row["faults"] for row in rows))


if __name__ == "__main__":
    main()
