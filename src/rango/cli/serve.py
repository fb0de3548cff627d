"""`rango serve`: the command that answers questions over HTTP with runs."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rango.cli.groups import Quiet
from rango.console import Screen, SignalGuard, visible
from rango.decisions import Gate
from rango.errors import InputError, Interrupted
from rango.models.sources import check_at_hand, check_source

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PATIENCE = 30  # seconds for what waits to be answered, and for clients that are slow to take it


def serve(
    *runs: Annotated[str, Parameter(help="Run directories: RUN, RUN:STATE or NAME=RUN. All of one base.")],
    host: str = "127.0.0.1",
    port: int = 8000,
    key_env: str | None = None,
    device: str = "auto",
    gate: Path | None = None,
    log: Path | None = None,
    log_state: Annotated[bool, Parameter(negative=())] = False,
    waiting: int = 1024,
    body: int = 1_000_000,
    quiet: Quiet = False,
) -> None:
    """Answer questions over HTTP with runs: POST /v1/systemone, GET /v1/models, and a page to try it on.

    A request names a run, a state, and questions of three kinds: choice, noul (yes or no) and score. The run's
    calibrator and costs are used for its own question, and the answer says so.

    Parameters
    ----------
    host
        Address to listen at. Another than this machine's own needs --key-env.
    port
        Port to listen at.
    key_env
        Name of the environment variable with the key that requests must send.
    device
        Where to compute: auto, cpu, cuda or cuda:N.
    gate
        File that rango gate wrote: answers to the run's own question then say whether to act.
    log
        JSONL file to which every decision of the run's own question is added. It is never cut; rename it to rotate it.
    log_state
        Write the state of each request into the log too.
    waiting
        Questions that may wait. Requests beyond are refused with 429 and the time after which to ask again.
    body
        Largest request in bytes.
    """
    check_installed()
    if not 0 < port < 65536:
        raise InputError(f"port is {port}; expected 1 to 65535")
    for name, value in (("waiting", waiting), ("body", body)):
        if value < 1:
            raise InputError(f"{name} is {value}; expected at least 1")
    key = None if key_env is None else os.environ.get(key_env, "").strip()
    if key_env is not None and not key:
        raise InputError(f"the environment variable {key_env} is not set; put the key into it, or leave --key-env out")
    if key is None and host not in _LOOPBACK:
        raise InputError(f"host is {host}, where others reach this server; name a key with --key-env")
    if log_state and log is None:
        raise InputError("--log-state is given without --log; name the file of the log, or leave it out")
    if len(runs) > 1 and (gate is not None or log is not None):
        option = "--gate" if gate is not None else "--log"
        raise InputError(f"{option} is of one run, and {len(runs)} are to be served; serve that run alone")
    from rango.serving.answer_log import AnswerLog
    from rango.serving.served_run import read_served

    served = read_served(runs, None if gate is None else Gate.load(gate))
    answer_log = None if log is None else AnswerLog(log, with_state=log_state)
    config = next(iter(served.values())).predictor.config
    check_source(config.model, config.quantise)
    check_at_hand(config.model, device)
    screen = Screen(quiet=quiet)
    loaded = screen.loading(config.model)
    import uvicorn

    from rango.models.loading import load_model
    from rango.serving.app import LOOPBACK, Limits, make_app
    from rango.serving.engine import Engine
    from rango.serving.queue import QueueLimits

    engine = Engine(load_model(config.model, dtype=config.dtype, device=device, quantise=config.quantise), served)
    loaded()
    for note in engine.notes:
        screen.say(f"· {visible(note)}")
    for run in served.values():
        screen.say(f"· {visible(run.name)}: {visible(run.entry['description'])}")
    limits = Limits(body=body, queue=QueueLimits(waiting=waiting))
    hosts = LOOPBACK if host in _LOOPBACK else None
    app = make_app(engine, key=key, limits=limits, hosts=hosts, log=answer_log)
    if answer_log is not None:
        screen.say(f"· decisions are added to {answer_log.path}{' with their states' if log_state else ''}")
        if answer_log.note:
            screen.say(f"· {answer_log.note}")
    shown = f"[{host}]" if ":" in host else host
    screen.say(f"Serving at http://{shown}:{port} (Ctrl-C ends it, and answers first what waits)")
    server = uvicorn.Server(
        uvicorn.Config(
            app, host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=_PATIENCE
        )
    )
    # uvicorn catches the signal, answers what waits, and gives it on at the end: to be stopped is how a server ends.
    try:
        with SignalGuard("not all that waited was answered"):
            server.run()
    except Interrupted:
        if server.force_exit:
            raise
        screen.say("Stopped: what waited is answered")


def check_installed() -> None:
    """Raise InputError where the extra `serve` is not installed."""
    missing = [name for name in ("starlette", "uvicorn", "prometheus_client") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} is not installed; pip install 'rango-lm[serve]'")
