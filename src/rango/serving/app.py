"""The server: requests over HTTP to an engine, with a key, limits, metrics, and a page to try it on.

POST /v1/systemone   GET /v1/models   GET /metrics   GET /health   GET /

Starlette alone, without FastAPI: what a request may hold is checked in `wire`, which sees a key that stands twice.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import io
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rango.serving.answer_log import AnswerLog
from rango.serving.queue import BatchQueue, QueueLimits
from rango.serving.wire import Request, RequestError, read_request

if TYPE_CHECKING:
    from rango.serving.engine import Engine

REQUEST_ID = "x-typesafe-request-id"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
_LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What is answered at most."""

    body: int = 1_000_000
    """Bytes of a request, decompressed."""
    questions: int = 1000
    """Of one request."""
    queue: QueueLimits = field(default_factory=QueueLimits)


class Metrics:
    """What `/metrics` shows: counts and times without any text of a request."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("rango_requests", "Requests by status.", ["status"], **make)
        self.questions = Counter("rango_questions", "Questions answered.", ["model", "type", "calibrated"], **make)
        self.tokens = Counter("rango_input_tokens", "Tokens read.", ["model"], **make)
        self.seconds = Histogram("rango_request_seconds", "From a request to its response.", buckets=_LATENCIES, **make)
        self.batches = Histogram(
            "rango_batch_questions", "Questions of one batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1024), **make
        )
        self.confidence = Histogram(
            "rango_confidence",
            "Winning probability.",
            ["model"],
            buckets=[n / 10 for n in range(1, 11)],
            **make,
        )
        Gauge("rango_waiting_questions", "Questions that wait.", **make).set_function(waiting)

    def count(self, reply: dict[str, Any]) -> None:
        """Count one response."""
        model = reply["model"]
        self.tokens.labels(model).inc(reply["usage"]["input_tokens"])
        for answer in reply["answers"].values():
            self.questions.labels(model, answer["type"], str(answer["calibrated"]).lower()).inc()
            self.confidence.labels(model).observe(answer["confidence"])


def make_app(
    engine: Engine,
    *,
    key: str | None = None,
    limits: Limits | None = None,
    hosts: Sequence[str] | None = None,
    log: AnswerLog | None = None,
) -> Starlette:
    """The application of an engine.

    Args:
        engine: answers.
        key: what `Authorization: Bearer KEY` must hold; None for a server that answers anyone who reaches it.
        limits: of requests and of the queue.
        hosts: names under which the server may be called. On a loopback address these are `LOOPBACK`: a page of another
            site cannot reach it by a name of its own that leads there.
        log: where decisions are written, each before its answer is sent. What cannot be written is not answered.
    """
    limits = limits or Limits()

    def answer(requests: Sequence[Request]) -> list[dict[str, Any] | Exception]:
        """Prepare and answer in the model's thread; a request that cannot be prepared stands in nobody's way."""
        jobs, replies = [], list[dict[str, Any] | Exception | None]()
        for request in requests:
            try:
                jobs.append(engine.prepare(request))
                replies.append(None)
            except Exception as error:
                replies.append(error)
        answered = iter(engine.answer(jobs) if jobs else [])
        return [next(answered) if reply is None else reply for reply in replies]

    queue = BatchQueue(answer, limits=limits.queue, on_batch=lambda questions, _: metrics.batches.observe(questions))
    metrics = Metrics(lambda: queue.size)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        worker = asyncio.create_task(queue.run())
        yield
        # The server has stopped accepting; what waits is answered first.
        queue.close()
        await worker

    async def system_one(http: HttpRequest) -> Response:
        request = read_request(await _body(http, limits.body))
        if len(request.questions) > limits.questions:
            message = f"{len(request.questions)} questions; at most {limits.questions} are answered at once"
            raise RequestError(422, message, loc=("questions",), kind="too_long")
        engine.run(request.model)  # refuses an unknown one before it waits
        reply = await queue.ask(request, size=len(request.questions), gone=http.is_disconnected)
        logged = reply.pop("logged", {})
        if log is not None and logged:
            identity = http.state.identity
            try:
                log.write(logged, model=request.model, request=identity, state=request.state)
            except OSError as error:
                _log.error("request %s cannot be logged: %s", identity, error)
                message = f"the decision cannot be logged ({error.strerror}), so it is not given; request {identity}"
                raise RequestError(503, message, headers={"retry-after": "60"}) from None
        metrics.count(reply)
        return JSONResponse(reply)

    async def models(_: HttpRequest) -> Response:
        return JSONResponse({"models": [run.entry for run in engine.runs.values()]})

    async def show_metrics(_: HttpRequest) -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def health(_: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    page, policy = _page()

    async def show_page(_: HttpRequest) -> Response:
        return HTMLResponse(page, headers={"content-security-policy": policy, "referrer-policy": "no-referrer"})

    routes = [
        Route("/v1/systemone", system_one, methods=["POST"]),
        Route("/v1/models", models),
        Route("/metrics", show_metrics),
        Route("/health", health),
        Route("/", show_page),
    ]
    middleware = [Middleware(_Around, metrics=metrics, key=key)]
    if hosts is not None:
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False))
    handlers: dict[Any, Any] = {RequestError: _refuse, ClientDisconnect: _refuse, 404: _refuse, 405: _refuse}
    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan, exception_handlers=handlers)


class _Around:
    """What holds for every request: an id, the key, the count, and a response also where something breaks."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, key: str | None) -> None:
        self._app, self._metrics, self._key = app, metrics, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity, begun, status = uuid.uuid4().hex, time.perf_counter(), 0
        scope.setdefault("state", {})["identity"] = identity

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = [(REQUEST_ID.encode(), identity.encode()), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        try:
            if self._is_allowed(scope):
                await self._app(scope, receive, send_with_id)
            else:
                response = JSONResponse({"detail": "the key is missing or wrong; send Authorization: Bearer KEY"}, 401)
                await response(scope, receive, send_with_id)
        except Exception:
            # The log has what happened; whoever asked gets its name there.
            _log.exception("request %s failed", identity)
            if status == 0:
                response = JSONResponse({"detail": f"the server failed; request {identity}"}, 500)
                await response(scope, receive, send_with_id)
        self._metrics.requests.labels(str(status)).inc()
        if scope["path"] == "/v1/systemone" and status == 200:
            self._metrics.seconds.observe(time.perf_counter() - begun)

    def _is_allowed(self, scope: Scope) -> bool:
        # The page holds nothing of the runs: what it shows it asks for, with the key that is typed into it.
        if self._key is None or scope["path"] in ("/", "/health"):
            return True
        sent = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(sent, b"Bearer " + self._key.encode())


async def _refuse(_: HttpRequest, error: Exception) -> Response:
    if isinstance(error, RequestError):
        return JSONResponse(error.body, error.status, headers=error.headers)
    status = getattr(error, "status_code", 400)
    return JSONResponse({"detail": getattr(error, "detail", "the client went away")}, status)


async def _body(http: HttpRequest, most: int) -> bytes:
    """The bytes of a request, decompressed, as long as they are within the limit.

    Raises:
        RequestError: 413, too many; 422, a form with images; 415, an encoding that is not known; 400, broken zstd.
    """
    if http.headers.get("content-type", "").startswith("multipart/"):
        message = "images are not answered here; send JSON without assets"
        raise RequestError(422, message, loc=("assets",), kind="images")
    too_long = RequestError(413, f"the body has more than {most:,} bytes; send less state, or fewer questions")
    received = bytearray()
    async for chunk in http.stream():
        received += chunk
        if len(received) > most:
            raise too_long
    encoding = http.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        return bytes(received)
    if encoding != "zstd":
        raise RequestError(415, f"content-encoding {encoding[:40]!r} is not known; send zstd or none")
    import pyarrow as pa

    try:
        # Read as a stream: a small body may hold gigabytes of zeros.
        with pa.input_stream(io.BytesIO(bytes(received)), compression="zstd") as stream:
            body: bytes = stream.read(most + 1)
    except (OSError, pa.ArrowException):
        raise RequestError(400, "the body is no zstd, as its content-encoding says") from None
    if len(body) > most:
        raise too_long
    return body


def _page() -> tuple[str, str]:
    """The page and its policy: its own script and style by their hashes, and requests to this server alone."""
    page = files("rango.serving").joinpath("page.html").read_text(encoding="utf-8")
    hashes = {}
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes[tag] = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy
