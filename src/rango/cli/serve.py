"""`rango serve`: the command that answers questions over HTTP with runs."""

from __future__ import annotations

import importlib.util
import os
from typing import Annotated

from cyclopts import Parameter

from rango.cli.groups import Quiet
from rango.console import Screen, SignalGuard, visible
from rango.errors import InputError
from rango.models.sources import check_at_hand, check_source

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    *runs: Annotated[str, Parameter(help="Run directories: RUN, RUN:STATE or NAME=RUN. All of one base.")],
    host: str = "127.0.0.1",
    port: int = 8000,
    key_env: str | None = None,
    device: str = "auto",
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
    from rango.serving.served_run import read_served

    served = read_served(runs)
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
    app = make_app(engine, key=key, limits=limits, hosts=LOOPBACK if host in _LOOPBACK else None)
    shown = f"[{host}]" if ":" in host else host
    screen.say(f"Serving at http://{shown}:{port} (Ctrl-C ends it, and answers first what waits)")
    server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False))
    # uvicorn catches the signal, answers what waits, and gives it on at the end.
    with SignalGuard("what waited was answered"):
        server.run()


def check_installed() -> None:
    """Raise InputError where the extra `serve` is not installed."""
    missing = [name for name in ("starlette", "uvicorn", "prometheus_client") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} is not installed; pip install 'rango-lm[serve]'")
