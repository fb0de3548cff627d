"""`rango serve` under load: decisions a second, latency and memory with many clients at once and with one.

    python benchmarks/serving.py [--run RUN] [--clients 200] [--seconds 60] [--waiting 1024]
    python benchmarks/serving.py --drain [--run RUN] [--clients 200] [--ends 10]

Without --run, a small Phi model with random weights is adapted to the simulated task for a few steps first. The server
is a process of its own, as `rango serve` starts it; clients are coroutines of this one, each of which asks again as
soon as it is answered, and waits as long as a 429 says. The server's memory and the counts of answers, of 429s and of
everything else are printed at intervals. Ends with one line of JSON.

With --drain the server is ended in the middle of that load at random moments, in turn by SIGTERM and by SIGKILL, and
started again on the same log. Ended by SIGTERM its log must hold one line for each answer that a client has, and no
other, and its exit code must be 0; killed, it must hold those and at most what was on its way to a client. Every line
must be whole, no id may stand twice, and `rango monitor`'s reader must read the log. Exit code 1 where one of these
does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from bank import write_model

from rango.decisions.decision_log import DecisionLog
from rango.models.loading import load_model
from rango.serving.app import REQUEST_ID
from rango.tasks import Instance, load_task
from rango.training.finetune import finetune


@dataclass
class Load:
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)

    def summary(self, questions: int = 1) -> dict[str, Any]:
        p50, p99 = np.quantile(self.latencies, [0.5, 0.99]).tolist()
        return {
            "decisions_per_second": round(questions * len(self.latencies) / self.seconds, 1),
            "p50_ms": round(1000 * p50, 1),
            "p99_ms": round(1000 * p99, 1),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "MiB": [round(size) for size in (self.memory[0], self.memory[-1], max(self.memory))]
            if self.memory
            else None,
        }


def make_run(folder: Path) -> Path:
    arguments = argparse.Namespace(hidden=256, layers=4, vocabulary=1000)
    task = load_task("simulated", train=400, validation=100, test=100)
    model = load_model(write_model(folder / "model", task, arguments))
    finetune(model, task, out=folder / "run", steps=20, validate_every=10)
    return folder / "run"


def request(instance: Instance, questions: int) -> dict[str, Any]:
    question = {"type": "choice", "instructions": instance.question, "criteria": dict.fromkeys(instance.choices)}
    return {"model": "run", "state": instance.context, "questions": {str(n): question for n in range(questions)}}


def resident(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def run_load(
    url: str, instances: list[Instance], *, clients: int, seconds: float, process: int, questions: int = 1
) -> Load:
    load, turn = Load(), 0
    begun = time.perf_counter()
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=60) as http:

        async def client() -> None:
            nonlocal turn
            while time.perf_counter() - begun < seconds:
                turn += 1
                asks = time.perf_counter()
                try:
                    body = request(instances[turn % len(instances)], questions)
                    response = await http.post("/v1/systemone", json=body)
                except httpx2.TransportError:  # a connection that ends without an answer counts, as status 0
                    load.statuses[0] += 1
                    continue
                load.statuses[response.status_code] += 1
                if response.status_code == 200:
                    load.latencies.append(time.perf_counter() - asks)
                elif response.status_code == 429:
                    await asyncio.sleep(float(response.headers["retry-after-ms"]) / 1000)

        async def watch() -> None:
            printed = 0
            while time.perf_counter() - begun < seconds:
                load.memory.append(resident(process))
                now = time.perf_counter() - begun
                # Twelve lines, however long it runs: a leak shows as a slope, not as a difference of two values.
                if now >= printed * seconds / 12:
                    printed += 1
                    counts = {"200": load.statuses[200], "429": load.statuses[429]}
                    counts["other"] = load.statuses.total() - sum(counts.values())
                    print(f"{now:6.1f} s  {clients} clients  {load.memory[-1]:8.1f} MiB  {counts}", flush=True)
                await asyncio.sleep(min(1.0, seconds / 12))

        await asyncio.gather(watch(), *(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - begun
    return load


async def measure(url: str, process: int, arguments: argparse.Namespace, instances: list[Instance]) -> dict[str, Any]:
    async def loaded(clients: int, seconds: float, questions: int = 1) -> dict[str, Any]:
        load = await run_load(url, instances, clients=clients, seconds=seconds, process=process, questions=questions)
        return load.summary(questions)

    await loaded(4, 2)  # warm
    short = max(arguments.seconds / 6, 1)
    results = {"one at a time": await loaded(1, short)}
    results[f"{arguments.clients} clients"] = await loaded(arguments.clients, arguments.seconds)
    results["one, 100 questions about one state"] = await loaded(1, short, 100)
    return results


@contextmanager
def serving(run: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server of a run that answers already, as its address and its process; what still runs at the end is ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "rango", "serve", f"run={run}", "--port", str(port), *options]
    server = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx2.get(f"{url}/health")
                break
            except httpx2.TransportError:
                time.sleep(0.2)
        yield url, server
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


@dataclass
class Ending:
    """What clients saw of a server that was ended in the middle of their requests."""

    answered: list[str] = field(default_factory=list)
    """The ids of the questions with an answer, as the log has them."""
    refused: int = 0
    """Connections that were not accepted, and answers 503."""
    cut: int = 0
    """Connections that ended without an answer: a server that is asked to end closes those that are idle."""


async def end_under_load(
    url: str,
    process: subprocess.Popen[bytes],
    how: signal.Signals,
    instances: list[Instance],
    clients: int,
    after: float,
) -> Ending:
    """Every client asks again and again until it is not answered any more; the signal comes `after` seconds."""
    ending = Ending()
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=60) as http:

        async def client(turn: int) -> None:
            while True:
                turn += 1
                try:
                    response = await http.post("/v1/systemone", json=request(instances[turn % len(instances)], 1))
                except httpx2.ConnectError:
                    ending.refused += 1
                    return
                except httpx2.TransportError:
                    ending.cut += 1
                    return
                if response.status_code == 200:
                    ending.answered.append(f"{response.headers[REQUEST_ID]}/0")
                elif response.status_code == 503:
                    ending.refused += 1
                    return

        async def signal_it() -> None:
            await asyncio.sleep(after)
            process.send_signal(how)

        await asyncio.gather(signal_it(), *(client(turn) for turn in range(clients)))
    return ending


def drain(run: Path, instances: list[Instance], arguments: argparse.Namespace) -> bool:
    """Whether every end kept the promises; prints a line for each, and one of JSON."""
    totals = Counter[str]()
    moments = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        log, before = Path(folder) / "log.jsonl", 0
        for number in range(arguments.ends):
            how = (signal.SIGTERM, signal.SIGKILL)[number % 2]
            with serving(run, "--log", str(log), "--quiet") as (url, process):
                after = moments.uniform(1, 3)
                ending = asyncio.run(end_under_load(url, process, how, instances, arguments.clients, after))
                code = process.wait()
            data = log.read_bytes()
            ids = [json.loads(line)["id"] for line in data.splitlines()]
            logged, given = set(ids[before:]), set(ending.answered)
            before = len(ids)
            kept = {
                "answered without a line": not given - logged,
                "lines without an answer": len(logged - given) <= (arguments.clients if how == signal.SIGKILL else 0),
                "ids that stand twice": len(set(ids)) == len(ids),
                "half lines": data.endswith(b"\n"),
                "exit code": code == (0 if how == signal.SIGTERM else -how),
                "read by monitor": len(DecisionLog.read(log, time="time").posteriors) == len(ids),
            }
            broken = [name for name, holds in kept.items() if not holds]
            print(
                f"{how.name} after {after:.1f} s: {len(given)} answered, {ending.refused} refused, {ending.cut} cut, "
                f"{len(logged - given)} logged without an answer, exit {code}{f'  BROKEN: {broken}' if broken else ''}",
                flush=True,
            )
            totals.update({f"{how.name}": 1, "answered": len(given), "refused": ending.refused, "cut": ending.cut})
            totals.update({f"{how.name} logged without an answer": len(logged - given), "broken": len(broken)})
    print(json.dumps({"benchmark": "drain", "clients": arguments.clients, **totals}))
    return totals["broken"] == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--waiting", type=int, default=1024)
    parser.add_argument("--drain", action="store_true")
    parser.add_argument("--ends", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or make_run(Path(folder))
        instances = list(load_task("simulated", train=10, validation=10, test=500).test)
        if arguments.drain:
            sys.exit(not drain(run, instances, arguments))
        with serving(run, "--waiting", str(arguments.waiting)) as (url, server):
            results = asyncio.run(measure(url, server.pid, arguments, instances))
        code = server.returncode
    for name, result in results.items():
        print(f"{name:40s} {result}")
    speeds = [result["decisions_per_second"] for result in results.values()]
    print(f"ratio to one at a time: {[round(speed / speeds[0], 1) for speed in speeds]}, exit {code}")
    print(json.dumps({"load": statistics.fmean(os.getloadavg()), **results}))


if __name__ == "__main__":
    main()
