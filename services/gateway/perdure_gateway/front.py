"""The listener: how many connections there may be, and what whoever does not speak HTTP is told."""

import asyncio
import ipaddress
from collections import Counter
from typing import Any, Final

import structlog
import uuid_utils
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from perdure_gateway.problems import Problem, respond

CONNECTIONS: Final = 20_000
CONNECTIONS_PER_ADDRESS: Final = 200  # behind a proxy all come from one: it counts for them, on loopback or as told
IDLE_SECONDS: Final = 75.0  # without a request, or without its whole header
LINGER_SECONDS: Final = 2.0  # how long the rest of a refused body is read, so that its sender sees the answer

log = structlog.get_logger(__name__)


class Gate:
    """Counts open connections. Loopback is not counted by address: a proxy, or the operator's own programs."""

    def __init__(self, per_address: int = CONNECTIONS_PER_ADDRESS, in_all: int = CONNECTIONS) -> None:
        self._per_address, self._in_all = per_address, in_all
        self._by_address: Counter[str] = Counter()
        self.open = 0

    def enter(self, address: str | None) -> bool:
        """Whether one more may come from there; then it counts until `leave`."""
        if self.open >= self._in_all:
            return False
        if address is not None and not _loopback(address):
            if self._by_address[address] >= self._per_address:
                return False
            self._by_address[address] += 1
        self.open += 1
        return True

    def leave(self, address: str | None) -> None:
        """It has ended."""
        self.open -= 1
        if address is not None and self._by_address[address]:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]


class _Connection(RequestHandler):
    """One connection: it passes the gate, and its broken requests are answered as problems."""

    __slots__ = ("_address", "_gate", "_inside")

    def __init__(self, gate: Gate, manager: web.Server, **kwargs: Any) -> None:  # Any: aiohttp's own arguments
        super().__init__(manager, **kwargs)
        self._gate = gate
        self._inside = False
        self._address: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self._address = peer[0] if isinstance(peer, tuple) else None
        self._inside = self._gate.enter(self._address)
        if self._inside:
            super().connection_made(transport)
        elif isinstance(transport, asyncio.Transport):
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._inside:
            self._inside = False
            self._gate.leave(self._address)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A problem, where aiohttp would show a page that repeats the request's bytes."""
        if request.writer.output_size > 0:
            raise ConnectionError("part of an answer is sent already")
        request_id = str(uuid_utils.uuid7())
        if status < 500:
            problem = Problem("invalid-request", "this is not HTTP that is taken here")
        else:
            log.error("request failed below its handler", http_request_id=request_id, exc_info=exc)
            problem = Problem("internal", "the fault is ours; it is in the log under http_request_id")
        response = respond(problem, request_id)
        response.headers["X-Request-Id"] = request_id
        response.headers["Server"] = "perdure"  # else aiohttp says its own name and version
        response.force_close()
        return response


class _Server(web.Server):
    def __init__(self, gate: Gate, inner: web.Server) -> None:
        super().__init__(
            inner.request_handler, request_factory=inner.request_factory, loop=inner._loop, **inner._kwargs
        )
        self._gate = gate

    def __call__(self) -> RequestHandler:
        return _Connection(self._gate, self, loop=self._loop, **self._kwargs)


class Front(web.AppRunner):
    """What serves an application on a connection. `grace_seconds`: how long calls may take once it is told to stop."""

    def __init__(self, app: web.Application, grace_seconds: float, gate: Gate | None = None) -> None:
        super().__init__(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=grace_seconds,
            lingering_time=LINGER_SECONDS,
            keepalive_timeout=IDLE_SECONDS,
        )
        self._gate = gate or Gate()

    async def _make_server(self) -> web.Server:
        return _Server(self._gate, await super()._make_server())


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
