"""The commands of the enumeration, what they read, and where a fault is armed in those that start other processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults_running import calls, library, run

from rango.files import write_text

PORT = 20_000 + os.getpid() % 10_000  # of the server


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
        if armed and number == 0 and not calls().count:
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
