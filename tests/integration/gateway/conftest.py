"""A gateway in the test's own loop, on the run's broker and a database of its own, and a client with a key."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from perdure.bus.audit import Record
from perdure.bus.connection import Bus
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.bus.fanout import Fanout
from perdure.bus.stream import direct_batch
from perdure.bus.subject import event_stream, event_subject, shard_of
from perdure.client.sse import SseFrame, SseParser
from perdure.clock import SystemClock
from perdure.core.machine import EMPTY, apply
from perdure.db import jobs, requestrows
from perdure.db.engine import Database
from perdure.db.principals import create_key, ensure_tenant
from perdure.ids import JobRef, Principal, Tenant
from perdure.jobs.desk import Desk
from perdure.local.server import NatsServer
from perdure.service import Service
from perdure.testing.hand import Hand
from perdure.testing.servers import connect
from perdure_gateway.app import make
from perdure_gateway.front import Front, Gate
from perdure_gateway.keys import REVOCATIONS

FLOW: dict[str, Any] = {
    "format": "perdure.graph/1",
    "name": "echo",
    "nodes": [{"id": "brief", "component": "chat_input"}, {"id": "out", "component": "text_output"}],
    "edges": [{"from": "brief.text", "to": "out.text"}],
}


class Answer(msgspec.Struct):
    """An HTTP answer, read to its end."""

    status: int
    headers: Any
    raw: bytes

    @property
    def body(self) -> Any:
        """The JSON in it."""
        return msgspec.json.decode(self.raw)


class Client:
    """Calls one gateway with one key."""

    def __init__(self, url: str, key: str, session: aiohttp.ClientSession) -> None:
        self.url, self.key, self._session = url, key, session

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """One call; `body` is sent as JSON, `raw` as it is."""
        sent = {"Authorization": f"Bearer {self.key}" if self.key else ""} | (headers or {})
        data = raw
        if body is not None:
            data = msgspec.json.encode(body)
            sent.setdefault("Content-Type", "application/json")
        sent = {name: value for name, value in sent.items() if value}  # "" leaves a header out
        skip = ["Content-Type"] if "Content-Type" not in sent else []
        async with self._session.request(
            method, self.url + path, data=data, headers=sent, skip_auto_headers=skip
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    def using(self, key: str) -> "Client":
        """The same gateway by another key; "" for none."""
        return Client(self.url, key, self._session)

    async def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return await self.call("GET", path, headers=headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        """POST; `idempotency_key` and so on are headers."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.call("POST", path, body, headers=named)

    async def stream(self, path: str, body: Any = None, **headers: str) -> AsyncIterator[SseFrame]:
        """The frames of a stream until it ends, of a POST where there is a `body`; comments are not frames."""
        sent = {"Authorization": f"Bearer {self.key}", "Accept": "text/event-stream"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        parser = SseParser()
        method = "GET" if body is None else "POST"
        async with self._session.request(method, self.url + path, json=body, headers=sent) as response:
            assert response.status == 200, await response.text()
            async for chunk in response.content.iter_any():
                for frame in parser.feed(chunk):
                    yield frame


class Gateway:
    """What a test may use of a gateway: its application, its desk, a client, runners by hand."""

    def __init__(self, app: web.Application, desk: Desk, client: Client, service: Service, tenant: Tenant) -> None:
        self.app, self.desk, self.client, self.service, self.tenant = app, desk, client, service, tenant

    async def submit(self, text: str = "hello", **members: Any) -> Hand:
        """Submit a job of the flow `echo` and return its runner by hand."""
        answer = await self.client.post("/api/jobs", {"flow": "echo", "input": text} | members)
        assert answer.status == 202, answer.raw
        return self.hand(answer.body["id"])

    def hand(self, job: Any) -> Hand:
        """The runner by hand of a job."""
        return Hand(self.desk, JobRef(self.tenant, job))


@pytest.fixture
async def key(database: Database, tenant: Tenant) -> str:
    """A key of user:ann in the test's tenant."""
    now = SystemClock().broker_now()
    async with database.transaction() as conn:
        await ensure_tenant(conn, tenant, now=now)
        return await create_key(conn, tenant, Principal("user:ann"), now=now)


StartGateway = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def start_gateway(
    nats_server: NatsServer, database: Database, tenant: Tenant, key: str
) -> AsyncIterator[StartGateway]:
    """`await start_gateway()`: another gateway on the same broker and database, with the rights of a real one.

    `server` and `on` take another broker and another database.
    """
    async with AsyncExitStack() as stack:

        async def start(
            server: NatsServer = nats_server,
            on: Database = database,
            outage_seconds: float = 900.0,
            gate: Gate | None = None,
            **more: Any,
        ) -> Gateway:
            bus = await stack.enter_async_context(connect(server, "gateway"))
            service = Service("gateway")
            service.clock = bus.clock
            fanout = await stack.enter_async_context(Fanout.open(bus))
            desk = Desk(EventLog(bus, 8), Doorbells(bus), bus.clock)
            app = make(service, bus, desk, fanout, on, outage_seconds, **more)
            await stack.enter_async_context(app[REVOCATIONS].hearing())
            runner = Front(app, 5.0, gate)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            stack.callback(service.stop)  # streams that are still open end
            session = await stack.enter_async_context(aiohttp.ClientSession())
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            service.ready = True
            return Gateway(app, desk, Client(url, key, session), service, tenant)

        yield start


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Gateway:
    """A gateway with the flow `echo`."""
    gateway = await start_gateway()
    answer = await gateway.client.post("/api/flows", {"name": "echo", "definition": FLOW})
    assert answer.status == 201, answer.raw
    return gateway


@pytest.fixture
def person(gateway: Gateway, database: Database, tenant: Tenant) -> Callable[..., Awaitable[Client]]:
    """`await person("bob", "answer")`: a client with a key of user:bob in the test's tenant, narrowed to the scopes."""

    async def person(name: str, *scopes: str, at: Gateway | None = None) -> Client:
        now = SystemClock().broker_now()
        async with database.transaction() as conn:
            key = await create_key(conn, tenant, Principal(f"user:{name}"), now=now, scopes=scopes)
        return (at or gateway).client.using(key)

    return person


@pytest.fixture
async def hand(gateway: Gateway) -> Hand:
    """A job that runs."""
    hand = await gateway.submit()
    await hand.start()
    return hand


@pytest.fixture
def project(database: Database) -> Callable[[Hand], Awaitable[None]]:
    """Makes the rows of a job, as the sweeper does."""

    async def rows(hand: Hand) -> None:
        await hand.log.refresh()
        state, changed = EMPTY, []
        for stored in hand.log.entries:
            after = apply(state, stored.event)
            changed += requestrows.changes(state, stored.event, after)
            state = after
        async with database.transaction() as conn:
            await jobs.upsert(conn, hand.ref, state, hand.log.tail)
            assert state.submitted is not None
            asking = requestrows.Asking(hand.ref, state.submitted.flow, state.submitted.tags, changed)
            await requestrows.write(conn, [asking])

    return rows


@pytest.fixture
def log_bytes(bus: Bus) -> Callable[[Hand], Awaitable[list[bytes]]]:
    """`await log_bytes(hand)`: the log of a job, byte for byte as the broker has it."""

    async def log_bytes(hand: Hand) -> list[bytes]:
        stream, subject = event_stream(shard_of(hand.ref.job, 8)), event_subject(8, hand.ref)
        return [read.body for read in await direct_batch(bus, stream, subject, 0)]

    return log_bytes


@pytest.fixture
def audited(bus: Bus, tenant: Tenant, eventually: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[Any]]:
    """`await audited(n)`: the tenant's records in AUDIT, once there are `n` of them."""

    async def audited(count: int) -> list[Record]:
        found: list[Record] = []

        async def there() -> bool:
            kept = await direct_batch(bus, "AUDIT", f"audit.{tenant}", 0)
            found[:] = [msgspec.json.decode(read.body, type=Record) for read in kept]
            return len(found) >= count

        await eventually(there)
        assert len(found) == count, found
        return found

    return audited
